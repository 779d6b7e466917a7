//! Authentication: who clients are, and who respool is to the server, as it is written and what it means.

use std::time::Duration;

use respool::config::{self, AuthMode, IamLogin, PasswordDigest, SecretSource};

use crate::{machine, minimal_and, one_problem, parse, valid};

/// The SHA-256 of `secret`, as `ACL GETUSER` shows it.
const DIGEST: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

#[test]
fn the_mode_is_optional_unless_it_is_written() {
    assert_eq!(valid(&minimal_and("")).auth.mode, AuthMode::Optional);
    for (word, mode) in [
        ("optional", AuthMode::Optional),
        ("none", AuthMode::None),
        ("passthrough", AuthMode::Passthrough),
    ] {
        let settings = valid(&minimal_and(&format!("[auth]\nmode = '{word}'\n")));
        assert_eq!(settings.auth.mode, mode);
        assert!(settings.auth.users.is_empty());
    }
}

#[test]
fn all_passwords_of_a_user_are_good() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("secret"), "in-file\n").expect("written");
    let environment = |name: &str| (name == "ANN").then(|| "in-env".to_owned());
    let text = minimal_and(&format!(
        "[auth]\nmode = 'proxy'\n[[auth.user]]\nname = 'ann'\npassword = 'inline'\npassword_file = 'secret'\n\
         password_env = 'ANN'\npassword_sha256 = ['{DIGEST}', '#{DIGEST}']\n[[auth.user]]\nname = 'default'\npassword = 'x'\n"
    ));
    let settings = config::parse(&text, dir.path(), &machine(), &environment);
    let auth = settings
        .unwrap_or_else(|problems| panic!("{problems}"))
        .auth;
    assert_eq!(auth.mode, AuthMode::Proxy);
    let names: Vec<&str> = auth.users.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(names, ["ann", "default"]);
    let expected = ["inline", "in-file", "in-env", "secret", "secret"];
    assert_eq!(auth.users[0].passwords.len(), expected.len());
    for (password, digest) in expected.iter().zip(&auth.users[0].passwords) {
        assert!(
            *digest == PasswordDigest::of(password.as_bytes()),
            "{password}"
        );
    }
}

#[test]
fn users_that_cannot_be_meant_are_refused() {
    let user = |more: &str| format!("[auth]\nmode = 'proxy'\n[[auth.user]]\n{more}");
    for (more, start) in [
        (
            "[auth]\nmode = 'proxy'\n".to_owned(),
            "6: auth.mode: nobody could authenticate",
        ),
        (
            user("name = 'ann'\n"),
            "7: auth.user: this user has no password;",
        ),
        (user("password = 'x'\n"), "7: auth.user.name: missing;"),
        (
            user("name = 'ann'\npassword = 'x'\n[[auth.user]]\nname = 'ann'\npassword = 'y'\n"),
            "11: auth.user.name: there is an earlier user of this name;",
        ),
        (
            user("name = 'ann'\npassword_sha256 = ['x']\n"),
            "9: auth.user.password_sha256: this is not the SHA-256 of a password;",
        ),
        (
            user("name = 'ann'\npassword_env = 'NO_SUCH'\n"),
            "9: auth.user.password_env: the environment variable is not set;",
        ),
        (
            user("name = 'ann'\npasword = 'x'\n"),
            "9: auth.user.pasword: unknown key; did you mean \"password\"?",
        ),
        (
            "[[auth.user]]\nname = 'ann'\npassword = 'x'\n".to_owned(),
            "5: auth.user: users of the configuration are asked only with mode = \"proxy\";",
        ),
        (
            "[auth]\nmode = 'passthru'\n".to_owned(),
            "6: auth.mode: \"passthru\" is none of the values this key takes;",
        ),
    ] {
        one_problem(&more, start);
    }
}

#[test]
fn the_servers_secret_has_one_source_and_one_to_come() {
    let settings = valid(&minimal_and(
        "username = 'respool'\npassword = 'now'\npassword_next_env = 'REDIS_PASSWORD'\nreauthenticate_after = '1h'\n",
    ));
    let login = settings.upstream.login.expect("a login");
    assert_eq!(login.username.as_deref(), Some("respool"));
    let [SecretSource::Given(now), SecretSource::Given(next)] = login.sources.as_slice() else {
        panic!("{login:?}")
    };
    assert_eq!((now.expose(), next.expose()), ("now", "hunter2-env"));
    assert!(!login.expires());
    assert_eq!(
        settings.upstream.reauthenticate_after,
        Duration::from_secs(3600)
    );

    let settings = valid(&minimal_and(
        "password_command = ['/bin/echo', 'x']\npassword_command_timeout = '2s'\n",
    ));
    let login = settings.upstream.login.expect("a login");
    let [SecretSource::Command(command)] = login.sources.as_slice() else {
        panic!("{login:?}")
    };
    assert_eq!(command.argv, ["/bin/echo", "x"]);
    assert_eq!(command.timeout, Duration::from_secs(2));
    assert!(login.expires());
    assert!(valid(&minimal_and("")).upstream.login.is_none());
}

#[test]
fn sources_that_contradict_each_other_are_refused() {
    for (more, start) in [
        (
            "password = 'x'\npassword_command = ['y']\n",
            "6: upstream.password_command: the password is given more than once; keep one of password to password_command",
        ),
        (
            "password_next = 'x'\npassword_next_env = 'REDIS_PASSWORD'\n",
            "6: upstream.password_next_env: the password is given more than once;",
        ),
        (
            "username = 'x'\n",
            "5: upstream.username: respool's user at the server is set, and no password of it;",
        ),
        (
            "password_command = []\n",
            "5: upstream.password_command: no program;",
        ),
        (
            "password_command = 'x'\n",
            "5: upstream.password_command: text where another kind",
        ),
        (
            "password = 'x'\niam = { region = 'eu-west-1', cluster = 'c', user = 'u' }\n",
            "5: upstream.password: the server is shown a token of upstream.iam already;",
        ),
        (
            "username = 'u'\niam = { region = 'eu-west-1', cluster = 'c', user = 'u' }\n",
            "5: upstream.username: the server is shown a token of upstream.iam already;",
        ),
        (
            "iam = { region = 'r', user = 'u' }\n",
            "5: upstream.iam: no cluster;",
        ),
        (
            "iam = { region = 'r', cluster = 'c' }\n",
            "5: upstream.iam: no user;",
        ),
        (
            "iam = { cluster = 'c', user = 'u' }\n",
            "5: upstream.iam: no region;",
        ),
        (
            "iam = { region = 'r', cluster = 'c', usr = 'u' }\n",
            "5: upstream.iam.usr: unknown key; did you mean \"user\"?",
        ),
    ] {
        one_problem(more, start);
    }
}

#[test]
fn a_cache_is_named_in_lower_case_in_the_region_of_the_environment() {
    let environment = |name: &str| (name == "AWS_REGION").then(|| "eu-central-1".to_owned());
    let iam = |more: &str| {
        let text = minimal_and(&format!(
            "iam = {{ cluster = 'My-Cache', user = 'ann'{more} }}\n"
        ));
        let settings = config::parse(&text, std::path::Path::new("."), &machine(), &environment);
        let login = settings
            .unwrap_or_else(|problems| panic!("{problems}"))
            .upstream
            .login
            .expect("a login");
        assert_eq!(login.username.as_deref(), Some("ann"));
        assert!(login.expires());
        match login.sources.as_slice() {
            [SecretSource::Iam(iam)] => iam.clone(),
            other => panic!("{other:?}"),
        }
    };
    let expected = IamLogin {
        region: "eu-central-1".to_owned(),
        cluster: "my-cache".to_owned(),
        user: "ann".to_owned(),
        serverless: false,
    };
    assert_eq!(iam(""), expected);
    let other = IamLogin {
        region: "us-east-1".to_owned(),
        serverless: true,
        ..expected
    };
    assert_eq!(iam(", region = 'us-east-1', serverless = true"), other);
}

#[test]
fn the_report_says_who_is_who_and_no_secret() {
    let report = |more: &str| {
        let settings = parse(&minimal_and(more)).unwrap_or_else(|problems| panic!("{problems}"));
        config::report(&settings)
    };
    for (more, line) in [
        (
            "username = 'ann'\npassword = 'x'",
            "127.0.0.1:6379, as user \"ann\" with a password: at most",
        ),
        (
            "password = 'x'\npassword_next = 'y'",
            "127.0.0.1:6379, with one of two passwords: at most",
        ),
        (
            "password_command = ['x']",
            "127.0.0.1:6379, with what password_command prints: at most",
        ),
        (
            "iam = { region = 'r', cluster = 'c', user = 'u' }",
            "127.0.0.1:6379, as user \"u\" with tokens of IAM: at most",
        ),
        (
            "[auth]\nmode = 'none'",
            "clients           not authenticated (auth.mode)\n",
        ),
        (
            "[auth]\nmode = 'passthrough'",
            "clients           authenticated by the server (auth.mode)\n",
        ),
        (
            "[auth]\nmode = 'proxy'\n[[auth.user]]\nname = 'ann'\npassword = 'x'",
            "clients           authenticated by 1 users of the configuration (auth.mode)\n",
        ),
    ] {
        let report = report(more);
        assert!(report.contains(line), "{more}: {report}");
    }
}
