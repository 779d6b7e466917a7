//! Clients that have connected to a unix socket and are not accepted yet, while a reload changes who may.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::about;
use crate::harness::{Client, Pki, Redis, Respool, RespoolSettings, eventually};

/// Begins settings with a listener at `path` that everybody may connect to, and who has no certificate gets nothing from.
fn open_with_certificates(redis: &Redis, pki: &Pki, path: &Path) -> RespoolSettings {
    let pair = pki.issue("respool", &["localhost"]);
    let ca = pki.ca_file();
    let lines = format!(
        "mode = \"0666\"\ntls = {{ {}, client_ca_file = \"{}\" }}",
        pair.toml(),
        ca.display()
    );
    listening(redis, path, &lines)
}

fn listening(redis: &Redis, path: &Path, lines: &str) -> RespoolSettings {
    Respool::before(&redis.addr()).top(&format!(
        "stall_timeout = \"1s\"\n[[listener]]\naddress = \"unix:{}\"\n{lines}",
        path.display()
    ))
}

/// Connects some who ask in plain text.
fn strangers(path: &Path) -> Vec<Client> {
    let connect = |_| {
        let mut stranger = Client::connect_unix(path);
        stranger.send(b"PING\r\n");
        stranger
    };
    (0..200).map(connect).collect()
}

/// Checks that nobody has been answered as if there were no TLS.
#[track_caller]
fn assert_unanswered(strangers: Vec<Client>) {
    for mut stranger in strangers {
        let told = stranger.read_to_end();
        let is_plain = told.first().is_some_and(|first| b"+-$*".contains(first));
        assert!(!is_plain, "{:?}", String::from_utf8_lossy(&told));
    }
}

#[test]
fn whoever_waits_to_be_accepted_goes_by_the_settings_it_came_under() {
    let (redis, pki) = (Redis::start(&[]), Pki::new());
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("x.sock");
    let strict = listening(&redis, &path, "mode = \"0600\"");
    for _ in 0..3 {
        let respool = open_with_certificates(&redis, &pki, &path).start();
        respool.rewrite(&strict);
        respool.pause();
        let strangers = strangers(&path);
        respool.hang_up();
        respool.resume();
        eventually(|| about(&path).0 == 0o600, "the mode is another");
        respool.eventually_logs("the configuration is reloaded");
        assert_unanswered(strangers);
        Client::connect_unix(&path).ping();
    }
}

#[cfg(debug_assertions)]
#[test]
fn a_reload_that_asks_the_same_of_clients_waits_for_nobody() {
    let (redis, pki) = (Redis::start(&[]), Pki::new());
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("x.sock");
    let closed = listening(&redis, &path, "mode = \"0600\"");
    let respool = closed.start();
    let (code, text) = respool.post("/debug/worker-0/hang/60000");
    assert_eq!(code, 200, "{text}");
    eventually(|| respool.http("/livez").0 == 503, "it stands still");
    respool.reload(&listening(&redis, &path, "mode = \"0666\""));
    assert_eq!(about(&path).0, 0o666);
    respool.reload(&open_with_certificates(&redis, &pki, &path));
}

#[cfg(debug_assertions)]
#[test]
fn a_reload_is_refused_while_those_who_came_under_other_settings_are_not_accepted() {
    is_refused_while_they_wait(|_| {});
}

#[cfg(debug_assertions)]
#[test]
fn so_it_is_where_the_file_was_narrowed_by_hand() {
    is_refused_while_they_wait(|path| {
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).expect("it is ours");
    });
}

#[cfg(debug_assertions)]
fn is_refused_while_they_wait(narrow: impl Fn(&Path)) {
    let (redis, pki) = (Redis::start(&[]), Pki::new());
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("x.sock");
    let respool = open_with_certificates(&redis, &pki, &path).start();
    // The worker that accepts stands still, for longer than it is waited for.
    let (code, text) = respool.post("/debug/worker-0/hang/15000");
    assert_eq!(code, 200, "{text}");
    eventually(|| respool.http("/livez").0 == 503, "it stands still");
    let strangers = strangers(&path);
    narrow(&path);
    let before = about(&path);
    respool.rewrite(&listening(&redis, &path, "mode = \"0600\""));
    let (code, text) = respool.post_reload();
    assert_eq!(code, 409, "{text}");
    let told = "those who have connected already and wait to be accepted are not accepted yet, and would go by the new settings";
    assert!(text.contains(told), "{text}");
    assert_eq!(about(&path), before);
    assert_unanswered(strangers);
    respool.reload(&listening(&redis, &path, "mode = \"0600\""));
    assert_eq!(about(&path).0, 0o600);
    Client::connect_unix(&path).ping();
}
