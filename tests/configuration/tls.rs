//! TLS settings: which files are read, what is wrong with them, what is only warned of.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use respool::config::{self, ConfigProblems, ServerVerification, Settings, TrustedAuthorities};

use crate::{machine, minimal_and, told};

/// Makes a folder with an authority (`ca.pem`), a certificate for `cache.example.com` with its key, and one that has expired.
pub(crate) fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: String| fs::write(dir.path().join(name), text).expect("written");
    let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    write(
        "ca.pem",
        parameters.self_signed(&key).expect("signed").pem(),
    );
    for (name, year) in [("own", 2030), ("old", 2025)] {
        let mut parameters =
            CertificateParams::new(vec!["cache.example.com".to_owned()]).expect("a name");
        parameters.not_after = date_time_ymd(year, 5, 6);
        let key = KeyPair::generate().expect("a key");
        let own = parameters.self_signed(&key).expect("signed");
        write(&format!("{name}.pem"), own.pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
    write("empty.pem", "nothing here\n".to_owned());
    write("cut.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n".to_owned());
    write(
        "garbage.pem",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".to_owned(),
    );
    dir
}

fn parse_in(dir: &Path, text: &str) -> Result<Settings, ConfigProblems> {
    config::parse(text, dir, &machine(), &|_| None)
}

#[track_caller]
fn valid_in(dir: &Path, more: &str) -> Settings {
    parse_in(dir, &minimal_and(more)).unwrap_or_else(|problems| panic!("{problems}"))
}

#[track_caller]
fn one_problem_in(dir: &Path, more: &str, start: &str) {
    let problems = parse_in(dir, &minimal_and(more))
        .expect_err(more)
        .to_string();
    assert!(
        problems.starts_with(&format!("line {start}")) && problems.lines().count() == 1,
        "{problems}"
    );
}

#[test]
fn tls_to_the_server_is_on_when_it_is_said() {
    let dir = folder();
    let valid = |more: &str| valid_in(dir.path(), more).upstream.tls;
    assert!(valid("").is_none());
    assert!(valid("tls = { enabled = false, ca_file = 'ca.pem' }\n").is_none());
    let plain = valid("tls = { enabled = true }\n").expect("TLS");
    assert_eq!(plain.server_name.to_str(), "127.0.0.1");
    assert_eq!(plain.verification, ServerVerification::Full);
    assert!(matches!(plain.authorities, TrustedAuthorities::System) && plain.identity.is_none());
    let full = valid(
        "[upstream.tls]\nenabled = true\nserver_name = 'cache.example.com.'\nca_file = 'ca.pem'\ncert_file = 'own.pem'\n\
         key_file = 'own.key'\nhandshake_timeout = '1s'\n",
    )
    .expect("TLS");
    assert_eq!(full.server_name.to_str(), "cache.example.com");
    assert!(matches!(full.authorities, TrustedAuthorities::Given(list) if list.len() == 1));
    let own = full.identity.expect("a certificate of its own");
    assert_eq!(
        own.certificate.not_after.to_string(),
        "2030-05-06T00:00:00Z"
    );
    assert_eq!(full.handshake_timeout.as_secs(), 1);
}

#[test]
fn tls_that_is_neither_on_nor_off_is_refused() {
    let dir = folder();
    let one = |more: &str, start: &str| one_problem_in(dir.path(), more, start);
    one(
        "tls = { ca_file = 'ca.pem' }\n",
        "5: upstream.tls: it is not said whether TLS is on; add enabled = true",
    );
    one(
        "tls = { enabled = 'yes' }\n",
        "5: upstream.tls.enabled: text where",
    );
    one(
        "tls = { enabled = true, server_name = '*.example.com' }\n",
        "5: upstream.tls.server_name: neither a host name nor an IP address; write one name",
    );
    one(
        "tls = { enabled = true, cert_file = 'own.pem' }\n",
        "5: upstream.tls.cert_file: a certificate without its key; add key_file",
    );
    one(
        "tls = { enabled = true, key_file = 'own.key' }\n",
        "5: upstream.tls.key_file: a key without its certificate; add cert_file",
    );
    one(
        "tls = { enabled = true, insecure_skip_verify = 1 }\n",
        "5: upstream.tls.insecure_skip_verify: ",
    );
    assert_eq!(
        told(
            "[[listener]]\naddress = '127.0.0.1:1'\n[upstream]\naddress = 'unix:/a'\ntls.enabled = true\n"
        ),
        [
            "5: upstream.tls.server_name: a unix socket has no name to verify; write the name that the certificate is good for"
        ]
    );
}

#[test]
fn every_file_is_read_and_said_to_be_wrong_by_its_key() {
    let dir = folder();
    for (file, what) in [
        ("none.pem", "the file cannot be read: No such file"),
        (
            "empty.pem",
            "there is no certificate in it; it must hold certificates in PEM",
        ),
        ("cut.pem", "it is no whole PEM file;"),
        ("garbage.pem", "what is in it is no certificate;"),
        ("own.key", "there is no certificate in it;"),
    ] {
        for key in ["ca_file", "cert_file"] {
            let rest = if key == "ca_file" {
                ""
            } else {
                ", key_file = 'own.key'"
            };
            one_problem_in(
                dir.path(),
                &format!("tls = {{ enabled = true, {key} = '{file}'{rest} }}\n"),
                &format!("5: upstream.tls.{key}: {what}"),
            );
        }
    }
    for (file, what) in [
        ("none.key", "the file cannot be read: No such file"),
        (
            "own.pem",
            "there is no private key in it that can be read; it must hold a key in PEM",
        ),
        (
            "old.key",
            "the key does not belong to the first certificate of cert_file;",
        ),
    ] {
        one_problem_in(
            dir.path(),
            &format!("tls = {{ enabled = true, cert_file = 'own.pem', key_file = '{file}' }}\n"),
            &format!("5: upstream.tls.key_file: {what}"),
        );
    }
}

#[test]
fn a_listener_with_tls_has_a_certificate_and_its_key() {
    let dir = folder();
    let listener =
        |tls: &str| format!("[[listener]]\naddress = '127.0.0.1:6390'\ntls = {{ {tls} }}\n");
    let settings = valid_in(
        dir.path(),
        &listener("cert_file = 'own.pem', key_file = 'own.key', client_ca_file = 'ca.pem'"),
    );
    let [plain, secured] = settings.listeners.as_slice() else {
        panic!("{:?}", settings.listeners)
    };
    assert!(plain.tls.is_none());
    let tls = secured.tls.as_ref().expect("TLS");
    assert_eq!(tls.client_authorities.as_ref().map(Vec::len), Some(1));
    let report = config::report(&settings);
    assert!(
        report.contains("127.0.0.1:6380, 127.0.0.1:6390 (TLS, with client certificates)"),
        "{report}"
    );
    one_problem_in(
        dir.path(),
        &listener("cert_file = 'own.pem'"),
        "7: listener.tls.key_file: missing; add key_file = \"...\" to this listener.tls",
    );
    one_problem_in(
        dir.path(),
        &listener("cert_file = 'own.pem', key_file = 'old.key'"),
        "7: listener.tls.key_file: the key does not belong",
    );
    one_problem_in(
        dir.path(),
        &listener("cert_file = 'own.pem', key_file = 'own.key', ca_file = 'ca.pem'"),
        "7: listener.tls.ca_file: unknown key; ",
    );
    one_problem_in(
        dir.path(),
        &listener("cert_file = 'own.pem', key_file = 'own.key', client_ca_file = 'empty.pem'"),
        "7: listener.tls.client_ca_file: there is no certificate in it",
    );
}

#[test]
fn a_group_by_certificate_needs_a_listener_that_asks_for_one() {
    let dir = folder();
    let group = "[[group]]\nname = 'a'\nmatch = { certificate_name = 'billing-*' }\n";
    one_problem_in(
        dir.path(),
        group,
        "7: group.match.certificate_name: group \"a\" can never match: no such listener asks clients for a certificate; \
         set tls.client_ca_file of a [[listener]]",
    );
    let listener = "[[listener]]\naddress = '127.0.0.1:6390'\n\
                    tls = { cert_file = 'own.pem', key_file = 'own.key', client_ca_file = 'ca.pem' }\n";
    let settings = valid_in(dir.path(), &format!("{listener}{group}"));
    let glob = settings.groups[0].matches.certificate_name.as_ref();
    assert!(glob.expect("a glob").matches(b"billing-1"));
}

#[test]
fn what_is_not_good_now_or_not_verified_is_warned_of() {
    let dir = folder();
    let warnings = |more: &str| -> Vec<String> {
        let settings = valid_in(dir.path(), more);
        let told = settings.warnings.iter();
        told.map(|warning| format!("{}: {warning}", warning.line.unwrap_or(0)))
            .collect()
    };
    assert_eq!(warnings("tls = { enabled = true }\n"), [""; 0]);
    assert_eq!(
        warnings("tls = { enabled = true, cert_file = 'old.pem', key_file = 'old.key' }\n"),
        [
            "5: upstream.tls.cert_file: the certificate expired at 2025-05-06T00:00:00Z; renew it, or set this machine's clock"
        ]
    );
    let skipped = warnings("tls = { enabled = true, insecure_skip_verify = true }\n");
    assert_eq!(skipped.len(), 1);
    assert!(
        skipped[0].starts_with(
            "5: upstream.tls.insecure_skip_verify: the server's certificate is not verified"
        ),
        "{skipped:?}"
    );
    assert_eq!(
        warnings("tls = { enabled = false, insecure_skip_verify = true }\n"),
        [""; 0]
    );
}

#[test]
fn neither_files_nor_what_was_pasted_in_their_place_is_shown() {
    let dir = folder();
    let key = fs::read_to_string(dir.path().join("own.key")).expect("a key");
    let secret = key.lines().nth(1).expect("a line of it");
    fs::write(dir.path().join("swapped.pem"), &key).expect("written");
    for more in [
        format!("tls = {{ enabled = true, cert_file = 'own.pem', key_file = '{secret}' }}\n"),
        format!("tls = {{ enabled = true, cert_file = 'own.pem', key_file = '''{key}''' }}\n"),
        "tls = { enabled = true, cert_file = 'swapped.pem', key_file = 'own.pem' }\n".to_owned(),
    ] {
        let problems = parse_in(dir.path(), &minimal_and(&more)).expect_err(&more);
        assert!(
            !format!("{problems} {problems:?}").contains(secret),
            "{problems}"
        );
    }
    let settings = valid_in(
        dir.path(),
        "tls = { enabled = true, cert_file = 'own.pem', key_file = 'own.key' }\n",
    );
    assert!(!format!("{settings:?}").contains(secret));
}

#[test]
fn a_unix_socket_has_a_mode_and_an_owner() {
    let unix = |more: &str| {
        format!(
            "[[listener]]\naddress = 'unix:/run/a.sock'\n{more}\n[upstream]\naddress = '127.0.0.1:1'\n"
        )
    };
    let dir = folder();
    let text = unix("mode = '0660'\nowner = '12'\ngroup = 'root'");
    let settings = parse_in(dir.path(), &text).unwrap_or_else(|problems| panic!("{problems}"));
    let access = settings.listeners[0].access;
    assert_eq!(
        (access.mode, access.owner, access.group),
        (Some(0o660), Some(12), Some(0))
    );
    for (line, start) in [
        (
            "mode = 660",
            "3: listener.mode: a whole number where another kind of value is expected; write a mode in quotes",
        ),
        ("mode = '0888'", "3: listener.mode: \"0888\" is not a mode;"),
        ("mode = '7777'", "3: listener.mode: \"7777\" is not a mode;"),
        (
            "owner = 'no such user'",
            "3: listener.owner: there is no such owner in /etc/passwd;",
        ),
    ] {
        let told = told(&unix(line));
        assert!(told.len() == 1 && told[0].starts_with(start), "{told:?}");
    }
    assert_eq!(
        told(
            "[[listener]]\naddress = '127.0.0.1:2'\nmode = '0600'\n[upstream]\naddress = '127.0.0.1:1'\n"
        ),
        [
            "3: listener.mode: a TCP listener has no mode; only the file of a unix socket has; \
             remove it, or write address = \"unix:/path\""
        ]
    );
}
