//! The file of a unix socket that cannot be made, given away or removed: `respool check` and a start say the same of it, and
//! before anything is done.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::geteuid;

use crate::harness::{Client, Respool, leave_out, respool_program};
use crate::socket_files::{NOBODY, SocketFolder, about, ended};

/// A user that nobody else is, and who runs nothing here.
const STRANGER: u32 = 1234;

/// Gives the folder to root, and lets everybody write in it.
#[track_caller]
fn of_root(place: &SocketFolder, mode: u32) {
    chown(place.dir.path(), Some(0), None).expect("root gives it away");
    fs::set_permissions(place.dir.path(), Permissions::from_mode(mode)).expect("root's");
}

/// Checks `check` and `run` with these lines for the listener at `path`: each ends with 1 and tells of the setting in these words.
#[track_caller]
fn are_refused(through: &[String], path: &Path, lines: &str, wanted: &[&str]) {
    let toml = format!(
        "[[listener]]\naddress = \"unix:{}\"\n{lines}\n[upstream]\naddress = \"127.0.0.1:1\"\n",
        path.display()
    );
    let config = tempfile::NamedTempFile::new().expect("a file");
    fs::write(config.path(), toml).expect("written");
    fs::set_permissions(config.path(), Permissions::from_mode(0o644)).expect("one's own");
    for mode in ["check", "run"] {
        let (code, told) = ended(through, mode, config.path());
        assert_eq!(code, Some(1), "{mode}: {told}");
        for words in wanted {
            assert!(told.contains(words), "{mode}: {words}: {told}");
        }
    }
}

/// Tells whether respool can be run as root of namespaces of its own by these commands of a shell, and the words that do it.
fn in_namespaces(here: &str, options: &str, before: &str) -> Option<Vec<String>> {
    let script = format!("{before} && exec \"$0\" \"$@\"");
    can_run(here, ["unshare", options, "sh", "-c", &script])
}

/// Tells whether respool can be run as root of a user namespace that knows the users below 2000 and the groups below 100, and the
/// words that do it.
fn in_a_namespace_of_some(here: &str) -> Option<Vec<String>> {
    if !geteuid().is_root() && leave_out(here, "only root makes such namespaces") {
        return None;
    }
    // Its numbers are written from without.
    let script = r#"unshare -U sh -c 'until grep -q . /proc/self/gid_map; do :; done; exec "$0" "$@"' "$0" "$@" &
until echo 0 0 2000 2>&- >/proc/$!/uid_map; do kill -0 $! || exit; done
until echo 0 0 100 2>&- >/proc/$!/gid_map; do kill -0 $! || exit; done
wait $!"#;
    can_run(here, ["sh", "-c", script])
}

/// Tells the words, if respool can be run by them.
fn can_run<const N: usize>(here: &str, words: [&str; N]) -> Option<Vec<String>> {
    let words = words.map(str::to_owned);
    let can_run = Command::new(&words[0])
        .args(&words[1..])
        .args([respool_program(), "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let is_out = !can_run.is_ok_and(|status| status.success())
        && leave_out(here, "nobody makes such namespaces here");
    (!is_out).then(|| words.to_vec())
}

#[test]
fn a_socket_of_somebody_else_in_a_sticky_folder_is_to_be_removed_by_hand() {
    let here = "e2e::socket_foreseen::a_socket_of_somebody_else_in_a_sticky_folder_is_to_be_removed_by_hand";
    if !geteuid().is_root() && leave_out(here, "only root is somebody else") {
        return;
    }
    let Some(place) = SocketFolder::new(here) else {
        return;
    };
    of_root(&place, 0o1777);
    let path = place.path("x.sock");
    drop(UnixListener::bind(&path).expect("bound"));
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("one's own");
    chown(&path, Some(STRANGER), None).expect("root gives it away");
    let wanted = [
        "listener.address: cannot listen on unix:",
        "there is a socket of user 1234 and group 0 on which nobody listens, in a sticky folder of user 0",
        "; remove it by hand, or take another path",
    ];
    are_refused(&place.through, &path, "", &wanted);
    assert_eq!(about(&path).1, STRANGER, "it stays");
    // The folder's owner may remove it, and anybody from a folder that is not sticky.
    of_root(&place, 0o777);
    let _respool = place.listening(&[("x.sock", "")]).start();
    Client::connect_unix(&path);
    assert_eq!(about(&path).1, NOBODY);
}

#[test]
fn a_file_that_is_given_away_for_good_is_told_of_before_and_after() {
    let here =
        "e2e::socket_foreseen::a_file_that_is_given_away_for_good_is_told_of_before_and_after";
    let rights = ["--inh-caps=+chown", "--ambient-caps=+chown"];
    let Some(place) = SocketFolder::with_rights(here, &rights) else {
        return;
    };
    of_root(&place, 0o1777);
    let path = place.path("x.sock");
    let lines = "mode = \"0666\"\nowner = \"1234\"";
    let settings = place.listening(&[("x.sock", lines)]);
    let stays = "its file is given to the user 1234 in a sticky folder of user 0, from which respool may not remove it then";
    let respool = settings.start();
    respool.eventually_logs(stays);
    let (code, told) = ended(&place.through, "check", &respool.config());
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.contains("warning:") && told.contains("listener.owner") && told.contains(stays),
        "{told}"
    );
    respool.terminate();
    respool.wait();
    assert_eq!(about(&path), (0o666, STRANGER, NOBODY), "it stays");
    let told = format!(
        "the socket file unix:{} of user 1234 cannot be removed: ",
        path.display()
    );
    respool.eventually_logs(&told);
    let wanted = [
        "there is a socket of user 1234 and group 65534 on which nobody listens",
        "; remove it by hand",
    ];
    are_refused(&place.through, &path, lines, &wanted);
    // Where the folder is not sticky nobody is told anything, and nothing stays.
    fs::remove_file(&path).expect("by hand");
    of_root(&place, 0o777);
    let respool = place.listening(&[("x.sock", lines)]).start();
    respool.terminate();
    respool.wait();
    assert!(!path.exists());
    let log = respool.log_text();
    assert!(
        !log.contains("sticky") && !log.contains("cannot be removed"),
        "{log}"
    );
}

#[test]
fn a_folder_that_gives_its_group_may_be_named_by_it() {
    let here = "e2e::socket_foreseen::a_folder_that_gives_its_group_may_be_named_by_it";
    if !geteuid().is_root() && leave_out(here, "only root has a group that respool has not") {
        return;
    }
    let Some(place) = SocketFolder::new(here) else {
        return;
    };
    chown(place.dir.path(), None, Some(STRANGER)).expect("root gives it away");
    let path = place.path("x.sock");
    let lines = "mode = \"0660\"\ngroup = \"1234\"";
    fs::set_permissions(place.dir.path(), Permissions::from_mode(0o755)).expect("root's");
    let wanted = [
        "listener.group: ",
        "its file cannot be given to the group 1234: respool's user is not in it; ",
    ];
    are_refused(&place.through, &path, lines, &wanted);
    assert!(!path.exists(), "none was made");
    fs::set_permissions(place.dir.path(), Permissions::from_mode(0o2755)).expect("root's");
    let respool = place.listening(&[("x.sock", lines)]).start();
    assert_eq!(about(&path), (0o660, NOBODY, STRANGER));
    let (code, told) = ended(&place.through, "check", &respool.config());
    assert_eq!(code, Some(0), "{told}");
}

#[test]
fn who_has_no_number_in_the_user_namespace_is_given_nothing() {
    let here = "e2e::socket_foreseen::who_has_no_number_in_the_user_namespace_is_given_nothing";
    let Some(through) = in_namespaces(here, "-r", "true") else {
        return;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("x.sock");
    for (key, what, map) in [("owner", "user", "uid_map"), ("group", "group", "gid_map")] {
        let wanted = [
            &*format!("listener.{key}: "),
            &*format!(
                "its file cannot be given to the {what} 1234: in respool's user namespace (/proc/self/{map}) there is none of this \
                 number; write one that is there"
            ),
        ];
        are_refused(&through, &path, &format!("{key} = \"1234\""), &wanted);
    }
    assert!(!path.exists(), "none was made");
    // A reload says it in the same words.
    let with = |lines: &str| {
        Respool::before("127.0.0.1:1")
            .through(&through)
            .top(&format!(
                "[[listener]]\naddress = \"unix:{}\"\n{lines}",
                path.display()
            ))
    };
    let respool = with("").start();
    let before = about(&path);
    for (key, map) in [("owner", "uid_map"), ("group", "gid_map")] {
        respool.rewrite(&with(&format!("{key} = \"1234\"")));
        let (code, told) = respool.post_reload();
        assert_eq!(code, 409, "{told}");
        let wanted = format!("(/proc/self/{map}) there is none of this number; write one");
        assert!(
            told.contains(&format!("listener.{key}: ")) && told.contains(&wanted),
            "{told}"
        );
        assert_eq!(about(&path), before);
    }
}

#[test]
fn who_has_no_number_in_the_user_namespace_has_files_that_no_right_is_over() {
    let here = "e2e::socket_foreseen::who_has_no_number_in_the_user_namespace_has_files_that_no_right_is_over";
    let Some(through) = in_a_namespace_of_some(here) else {
        return;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("x.sock");
    let of = |owner, group, mode| {
        chown(dir.path(), Some(owner), Some(group)).expect("root gives it away");
        fs::set_permissions(dir.path(), Permissions::from_mode(mode)).expect("root's");
    };
    of(0, 5000, 0o2777);
    let unknown = "its folder gives it a group that has no number in respool's user namespace (/proc/self/gid_map)";
    for (lines, key, whom) in [
        ("owner = \"1000\"", "owner", "user 1000"),
        ("group = \"50\"", "group", "group 50"),
    ] {
        let told = format!("its file cannot be given to the {whom}: {unknown}");
        let wanted = [
            &*format!("listener.{key}: "),
            &told,
            "; remove the key, take a folder",
        ];
        are_refused(&through, &path, lines, &wanted);
        assert!(!path.exists(), "none was made");
    }
    // A socket that was left over there.
    of(1234, 0, 0o1777);
    drop(UnixListener::bind(&path).expect("bound"));
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("one's own");
    chown(&path, Some(1000), Some(5000)).expect("root gives it away");
    let wanted = [
        "listener.address: cannot listen on unix:",
        "there is a socket of user 1000 and group 65534 on which nobody listens, in a sticky folder of user 1234",
        "; remove it by hand, or take another path",
    ];
    are_refused(&through, &path, "", &wanted);
    assert_eq!(about(&path), (0o666, 1000, 5000), "it stays");
}

#[test]
fn a_file_system_without_room_or_that_is_only_read_has_its_own_remedy() {
    let here =
        "e2e::socket_foreseen::a_file_system_without_room_or_that_is_only_read_has_its_own_remedy";
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("x.sock");
    for (options, remedy) in [
        ("nr_inodes=1", "; remove files there (df -i counts them)"),
        (
            "ro",
            "; have the file system mounted so that it can be written",
        ),
    ] {
        let mount = format!("mount -t tmpfs -o {options} x {}", dir.path().display());
        let Some(through) = in_namespaces(here, "-rm", &mount) else {
            return;
        };
        are_refused(
            &through,
            &path,
            "",
            &["listener.address: cannot listen on", remedy],
        );
    }
}

#[test]
fn what_names_a_folder_is_no_socket() {
    let dir = tempfile::tempdir().expect("a folder");
    for end in ["x.sock/.", "x.sock/..", ".", ".."] {
        let wanted = [
            "listener.address: ",
            "is not the absolute path of a socket; ",
        ];
        // Put together as text: a path would lose its end.
        let path = format!("{}/{end}", dir.path().display());
        are_refused(&[], Path::new(&path), "", &wanted);
    }
}
