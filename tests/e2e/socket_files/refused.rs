//! The files of unix sockets after reloads that were refused, with groups that cannot be given back, and after an end amid the
//! start.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;
use std::thread;

use rustix::process::{Signal, geteuid};

use super::access::{OTHERS, place_of_others, refuse};
use super::{NOBODY, about};
use crate::harness::{ChildProcess, PATIENCE, leave_out, respool_program};

#[test]
fn an_owner_that_is_refused_leaves_the_file_as_it_was_whatever_its_group_is() {
    let here = "e2e::socket_files::refused::an_owner_that_is_refused_leaves_the_file_as_it_was_whatever_its_group_is";
    let Some(place) = place_of_others(here) else {
        return;
    };
    let with = |lines: &str| place.listening(&[("x.sock", lines)]);
    let path = place.path("x.sock");
    for lines in ["", "mode = \"0660\""] {
        let respool = with(lines).start();
        let before = about(&path);
        assert_eq!((before.1, before.2), (NOBODY, OTHERS));
        // The group could be given, and not be given back.
        for wanted in [lines, "mode = \"0666\""] {
            let given = format!("{wanted}\nowner = \"777\"\ngroup = \"{NOBODY}\"");
            let text = refuse(&respool, &with(&given));
            assert!(text.contains("listener.owner: its file cannot"), "{text}");
            assert_eq!(about(&path), before, "{given}");
            respool.reload(&with(lines));
            assert_eq!(about(&path), before, "{given}");
        }
        let log = respool.log_text();
        assert!(!log.contains("but fewer"), "{log}");
        // What it may do is had.
        respool.reload(&with(&format!("mode = \"0606\"\ngroup = \"{NOBODY}\"")));
        assert_eq!(about(&path), (0o606, NOBODY, NOBODY));
    }
}

#[test]
fn what_is_refused_of_one_listener_leaves_the_files_of_others_their_groups() {
    let here = "e2e::socket_files::refused::what_is_refused_of_one_listener_leaves_the_files_of_others_their_groups";
    let Some(place) = place_of_others(here) else {
        return;
    };
    let with =
        |first: &str, second: &str| place.listening(&[("x.sock", first), ("y.sock", second)]);
    let respool = with("mode = \"0660\"", "mode = \"0660\"").start();
    let both = || (about(&place.path("x.sock")), about(&place.path("y.sock")));
    let before = both();
    let own = format!("mode = \"0660\"\ngroup = \"{NOBODY}\"");
    for (key, refused) in [
        ("owner", "owner = \"777\"".to_owned()),
        ("group", "group = \"777\"".to_owned()),
        ("owner", format!("owner = \"777\"\ngroup = \"{NOBODY}\"")),
    ] {
        // Whichever comes first.
        for settings in [with(&own, &refused), with(&refused, &own)] {
            let text = refuse(&respool, &settings);
            assert!(text.contains(&format!("listener.{key}: ")), "{text}");
            assert_eq!(both(), before, "{refused}");
        }
    }
    respool.reload(&with(&own, &own));
    let done = (0o660, NOBODY, NOBODY);
    assert_eq!(both(), (done, done));
}

#[test]
fn what_cannot_be_given_back_by_a_group_still_lets_its_owner_connect() {
    let here = "e2e::socket_files::refused::what_cannot_be_given_back_by_a_group_still_lets_its_owner_connect";
    let Some(place) = place_of_others(here) else {
        return;
    };
    if !geteuid().is_root() && leave_out(here, "only root is somebody else") {
        return;
    }
    let with = |lines: &str| place.listening(&[("x.sock", lines)]);
    let path = place.path("x.sock");
    let lines = format!("mode = \"0660\"\ngroup = \"{OTHERS}\"");
    let respool = with(&lines).start();
    assert_eq!(about(&path), (0o660, NOBODY, OTHERS));
    // The group is not respool's to give back; the mode is.
    chown(&path, None, Some(NOBODY)).expect("root's");
    fs::set_permissions(&path, Permissions::from_mode(0o000)).expect("root's");
    respool.reload(&with(&lines).upstream("max_connections = 20\n"));
    assert_eq!(about(&path), (0o600, NOBODY, NOBODY));
    respool.eventually_logs("it has mode 0600, owner 65534, group 65534 from now on");
    let told = "a reload could not change its socket file, which has mode 0600";
    assert!(respool.status().contains(told), "{}", respool.status());
    // Nobody of a group that the settings do not say.
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("root's");
    respool.reload(&with(&lines).upstream("max_connections = 21\n"));
    assert_eq!(about(&path), (0o600, NOBODY, NOBODY));
    respool.eventually_logs("an earlier reload could not change its socket file; it stays");
    assert!(respool.status().contains(told), "{}", respool.status());
    chown(&path, None, Some(OTHERS)).expect("root's");
    respool.reload(&with(&lines));
    assert_eq!(about(&path), (0o660, NOBODY, OTHERS));
    assert!(!respool.status().contains(told), "{}", respool.status());
}

#[test]
fn an_end_that_is_asked_for_amid_the_start_leaves_no_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("respool.toml");
    let path = dir.path().join("x.sock");
    let toml = format!(
        "[[listener]]\naddress = \"unix:{}\"\n[upstream]\naddress = \"127.0.0.1:1\"\n",
        path.display()
    );
    fs::write(&config, toml).expect("written");
    for signal in [Signal::TERM, Signal::INT].repeat(10) {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let process = ChildProcess::default();
        process.start(
            Command::new(respool_program())
                .args(["run", "--config"])
                .arg(&config)
                .stdout(log.reopen().expect("it opens"))
                .stderr(log.reopen().expect("it opens")),
        );
        // As soon as there is a file: `eventually` looks too seldom.
        let since = std::time::Instant::now();
        while fs::symlink_metadata(&path).is_err() {
            assert!(since.elapsed() < PATIENCE, "there is no socket");
            thread::yield_now();
        }
        process.signal(signal);
        let status = process.wait("it ends");
        let told = fs::read_to_string(log.path()).expect("text");
        assert_eq!(status.code(), Some(0), "{signal:?}: {status}: {told}");
        assert!(!path.exists(), "{signal:?}: {told}");
    }
}
