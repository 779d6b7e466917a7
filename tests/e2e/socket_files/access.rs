//! Access by the file of a unix socket: who may connect while a reload changes it, and after one that could not.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::geteuid;

use super::{NOBODY, SocketFolder, about};
use crate::harness::{Respool, RespoolSettings, leave_out};

/// A group that respool's user is not in.
pub(super) const OTHERS: u32 = 1;

/// Puts `settings` in force, which has to be refused.
#[track_caller]
pub(super) fn refuse(respool: &Respool, settings: &RespoolSettings) -> String {
    respool.rewrite(settings);
    let (code, text) = respool.post_reload();
    assert_eq!(code, 409, "{text}");
    text
}

/// Makes a folder whose files are of [`OTHERS`], whoever makes them.
pub(super) fn place_of_others(here: &str) -> Option<SocketFolder> {
    let place = SocketFolder::new(here)?;
    if !geteuid().is_root() && leave_out(here, "only root makes a folder of another group") {
        return None;
    }
    let dir = place.dir.path();
    chown(dir, Some(0), Some(OTHERS)).expect("root's");
    fs::set_permissions(dir, Permissions::from_mode(0o2777)).expect("root's");
    Some(place)
}

#[test]
fn a_reload_that_is_refused_opens_a_file_at_no_moment() {
    let here = "e2e::socket_files::access::a_reload_that_is_refused_opens_a_file_at_no_moment";
    let Some(place) = SocketFolder::new(here) else {
        return;
    };
    let with =
        |first: &str, second: &str| place.listening(&[("x.sock", first), ("y.sock", second)]);
    let respool = with("mode = \"0600\"", "").start();
    let path = place.path("x.sock");
    // Of its own, and of a listener behind it.
    let in_vain = [
        with("mode = \"0666\"\nowner = \"0\"", ""),
        with("mode = \"0666\"", "owner = \"0\""),
    ];
    for settings in in_vain {
        let is_over = AtomicBool::new(false);
        let seen = thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut seen = 0;
                while !is_over.load(Ordering::Relaxed) {
                    seen |= about(&path).0;
                }
                seen
            });
            for _ in 0..60 {
                let text = refuse(&respool, &settings);
                assert!(text.contains("listener.owner: its file cannot"), "{text}");
            }
            is_over.store(true, Ordering::Relaxed);
            watcher.join().expect("it watches")
        });
        assert_eq!(seen, 0o600, "of all modes that it had: {seen:o}");
    }
}

#[test]
fn a_key_that_was_removed_in_vain_is_not_told_to_be_removed() {
    let here =
        "e2e::socket_files::access::a_key_that_was_removed_in_vain_is_not_told_to_be_removed";
    let Some(place) = place_of_others(here) else {
        return;
    };
    let with = |lines: &str| place.listening(&[("x.sock", lines)]);
    let path = place.path("x.sock");
    let grouped = format!("mode = \"0660\"\ngroup = \"{NOBODY}\"");
    let respool = with(&grouped).start();
    let before = about(&path);
    assert_eq!(before, (0o660, NOBODY, NOBODY));
    let text = refuse(&respool, &with("mode = \"0660\""));
    assert!(!text.contains("remove the key"), "{text}");
    let told = "listener.group: the key is not written, and its file cannot be given back to the group 1 that it was bound with";
    assert!(text.contains(told), "{text}");
    assert!(
        text.contains("; write group = \"65534\", which it has, or"),
        "{text}"
    );
    assert_eq!(about(&path), before);
    // As is told.
    respool.reload(&with(&grouped));
    respool.reload(&place.listening(&[]));
    respool.reload(&with("mode = \"0660\""));
    assert_eq!(about(&path), (0o660, NOBODY, OTHERS));
}
