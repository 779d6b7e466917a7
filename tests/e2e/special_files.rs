//! What is no plain file holds nothing up, wherever its path is written.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use tempfile::TempDir;

use crate::harness::{Pki, Redis, Respool, Value, respool_program, run_respool, run_to_end};

fn pipe(dir: &TempDir, name: &str) -> PathBuf {
    let path = dir.path().join(name);
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("mkfifo runs").success());
    path
}

fn config(dir: &TempDir, name: &str, toml: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, toml).expect("written");
    path.display().to_string()
}

/// Lists the keys that name a file, each in a table of its own where there can be one, with the rest that it needs.
const KEYS: [(&str, &str); 11] = [
    (
        "upstream.hosts_file",
        "[upstream]\n%ADDRESS%\nhosts_file = \"%PATH%\"\n%LISTENER%",
    ),
    (
        "upstream.password_file",
        "[upstream]\n%ADDRESS%\npassword_file = \"%PATH%\"\n%LISTENER%",
    ),
    (
        "upstream.password_next_file",
        "[upstream]\n%ADDRESS%\npassword = \"a\"\npassword_next_file = \"%PATH%\"\n%LISTENER%",
    ),
    (
        "upstream.tls.ca_file",
        "[upstream]\n%ADDRESS%\ntls = { enabled = true, ca_file = \"%PATH%\" }\n%LISTENER%",
    ),
    (
        "upstream.tls.cert_file",
        "[upstream]\n%ADDRESS%\ntls = { enabled = true, cert_file = \"%PATH%\", key_file = \"%KEY%\" }\n%LISTENER%",
    ),
    (
        "upstream.tls.key_file",
        "[upstream]\n%ADDRESS%\ntls = { enabled = true, cert_file = \"%CERT%\", key_file = \"%PATH%\" }\n%LISTENER%",
    ),
    (
        "listener.tls.cert_file",
        "[upstream]\n%ADDRESS%\n%LISTENER%\ntls = { cert_file = \"%PATH%\", key_file = \"%KEY%\" }",
    ),
    (
        "listener.tls.key_file",
        "[upstream]\n%ADDRESS%\n%LISTENER%\ntls = { cert_file = \"%CERT%\", key_file = \"%PATH%\" }",
    ),
    (
        "listener.tls.client_ca_file",
        "[upstream]\n%ADDRESS%\n%LISTENER%\n\
         tls = { cert_file = \"%CERT%\", key_file = \"%KEY%\", client_ca_file = \"%PATH%\" }",
    ),
    (
        "admin.token_file",
        "[upstream]\n%ADDRESS%\n%LISTENER%\n[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"%PATH%\"",
    ),
    (
        "auth.user.password_file",
        "[upstream]\n%ADDRESS%\n%LISTENER%\n[auth]\nmode = \"proxy\"\n[[auth.user]]\nname = \"a\"\n\
         password_file = \"%PATH%\"",
    ),
];

#[test]
fn every_path_of_a_configuration_may_be_anything_and_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::new();
    let pair = pki.issue("redis", &["127.0.0.1"]);
    let fifo = pipe(&dir, "pipe");
    let folder = dir.path().to_owned();
    let endless = PathBuf::from("/dev/zero");
    let long = dir.path().join("long");
    let sparse = std::fs::File::create(&long).expect("a file");
    sparse.set_len(64 << 20).expect("sparse");
    let check = |key: &str, toml: &str, place: &Path, why: &str| {
        let text = toml
            .replace("%ADDRESS%", "address = \"127.0.0.1:1\"")
            .replace("%LISTENER%", "[[listener]]\naddress = \"127.0.0.1:0\"")
            .replace("%PATH%", &place.display().to_string())
            .replace("%CERT%", &pair.cert.display().to_string())
            .replace("%KEY%", &pair.key.display().to_string());
        let why = match (key, place == fifo) {
            ("upstream.hosts_file", true) => "it is a pipe",
            _ => why,
        };
        let kind = place.file_name().unwrap_or_default().display();
        let file = config(&dir, &format!("{key}-{kind}.toml"), &text);
        for mode in ["check", "run"] {
            let (code, told) = run_respool(&[mode, "--config", &file]);
            assert_eq!(code, Some(1), "{mode} {text}\n{told}");
            assert!(
                told.contains(key) && told.contains(why) && told.contains("; "),
                "{mode} {text}\n{told}"
            );
        }
    };
    // Each takes as long as respool waits for a writer.
    thread::scope(|scope| {
        let check = &check;
        for (place, why) in [
            (&fifo, "it is a pipe to which nobody writes"),
            (&folder, "it is a folder"),
            (&endless, "it is a device"),
            (&long, "longer than "),
        ] {
            scope.spawn(move || {
                for (key, toml) in KEYS {
                    check(key, toml, place, why);
                }
            });
        }
    });
    for (place, why) in [
        (&fifo, "nobody writes"),
        (&folder, "a folder"),
        (&endless, "a device"),
        (&long, "longer than 1 MiB"),
    ] {
        let path = place.display().to_string();
        for mode in ["check", "run", "healthcheck"] {
            let (code, told) = run_respool(&[mode, "--config", &path]);
            assert_eq!(code, Some(1), "{mode} {path}: {told}");
            assert!(
                told.contains(&path) && told.contains(why),
                "{mode} {path}: {told}"
            );
        }
    }
}

#[test]
fn authorities_that_the_environment_names_may_be_anything_and_are_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let fifo = pipe(&dir, "pipe");
    let file = config(
        &dir,
        "respool.toml",
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream]\naddress = \"127.0.0.1:1\"\ntls = { enabled = true }\n",
    );
    let long = dir.path().join("long");
    let sparse = std::fs::File::create(&long).expect("a file");
    sparse.set_len(3 << 30).expect("sparse");
    let folder = dir.path().to_owned();
    for (place, why) in [
        (fifo, "it is a pipe, not a file"),
        (folder, "it is a folder, not a file"),
        ("/dev/zero".into(), "it is a device, not a file"),
        (long, "longer than 16 MiB"),
    ] {
        for mode in ["check", "run"] {
            let mut command = Command::new(respool_program());
            let (code, told) = run_to_end(
                command
                    .args([mode, "--config", &file])
                    .env_remove("SSL_CERT_DIR")
                    .env("SSL_CERT_FILE", &place),
            );
            assert_eq!(code, Some(1), "{mode}: {told}");
            assert!(
                told.contains("SSL_CERT_FILE") && told.contains(why),
                "{mode}: {told}"
            );
            assert!(
                told.trim_end()
                    .ends_with("; correct it, or set upstream.tls.ca_file"),
                "one remedy: {mode}: {told}"
            );
        }
    }
}

#[test]
fn pipes_with_a_writer_are_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let (whole, password) = (pipe(&dir, "whole.toml"), pipe(&dir, "password"));
    let toml = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream]\naddress = \"127.0.0.1:1\"\npassword_file = \"{}\"\n",
        password.display()
    );
    thread::scope(|scope| {
        scope.spawn(|| std::fs::write(&whole, toml).expect("written"));
        scope.spawn(|| std::fs::write(&password, "secret\n").expect("written"));
        let (code, told) = run_respool(&["check", "--config", &whole.display().to_string()]);
        assert_eq!(code, Some(0), "{told}");
    });
    let plain = config(
        &dir,
        "plain.toml",
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream]\naddress = \"127.0.0.1:1\"\npassword_file = \"/dev/fd/8\"\n",
    );
    let (code, told) = run_to_end(
        Command::new("bash")
            .args([
                "-c",
                "\"$1\" check --config <(cat \"$2\") 8< <(sleep 0.3; echo secret)",
            ])
            .args(["bash", respool_program(), &plain]),
    );
    assert_eq!(code, Some(0), "{told}");
}

#[test]
fn a_password_from_a_pipe_is_read_once_and_a_reload_says_what_is_missing() {
    let redis = Redis::start(&[]);
    redis.cmd(&["CONFIG", "SET", "requirepass", "secret"]);
    let dir = tempfile::tempdir().expect("a folder");
    let fifo = pipe(&dir, "password");
    let watching = |password: &str| {
        Respool::with(&redis)
            .upstream(password)
            .section("[reload]\nwatch = true\ninterval = \"20ms\"\n")
    };
    let by_pipe = format!("password_file = \"{}\"", fifo.display());
    let respool = thread::scope(|scope| {
        scope.spawn(|| std::fs::write(&fifo, "secret\n").expect("written"));
        watching(&by_pipe).start()
    });
    assert_eq!(respool.client().cmd(&["SET", "k", "v"]), Value::ok());
    let (status, told) = respool.post_reload();
    assert_eq!(status, 409, "{told}");
    assert!(
        told.contains("upstream.password_file") && told.contains("nobody writes"),
        "{told}"
    );
    assert_eq!(respool.client().cmd(&["GET", "k"]), Value::bulk("v"));
    thread::scope(|scope| {
        scope.spawn(|| std::fs::write(&fifo, "secret\n").expect("written"));
        let (status, told) = respool.post_reload();
        assert_eq!(status, 200, "{told}");
    });
    respool.reload(&watching("password = \"secret\""));
    assert_eq!(respool.client().cmd(&["GET", "k"]), Value::bulk("v"));
}
