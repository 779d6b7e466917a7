//! The files of unix sockets in the hands of a respool that may not do everything: what a reload that fails leaves, what is
//! left over from a process that was killed, and what is in the way.

mod access;
mod queued;
mod refused;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use crate::harness::{
    ChildProcess, Client, Respool, RespoolSettings, eventually, leave_out, respool_program,
};

/// A user and a group that nobody else is.
pub(crate) const NOBODY: u32 = 65534;

/// A folder for sockets, of the user that respool runs as.
pub(crate) struct SocketFolder {
    pub(crate) dir: TempDir,
    /// The command that becomes a respool of that user.
    pub(crate) through: Vec<String>,
}

impl SocketFolder {
    /// Makes one; none where nobody without rights can run respool.
    pub(crate) fn new(here: &str) -> Option<Self> {
        Self::with_rights(here, &[])
    }

    /// Does as [`SocketFolder::new`], with arguments of `setpriv` for rights of root's that it keeps.
    pub(crate) fn with_rights(here: &str, rights: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a folder");
        if !geteuid().is_root() {
            let is_out = !rights.is_empty() && leave_out(here, "only root can give rights");
            let through = Vec::new();
            return (!is_out).then_some(Self { dir, through });
        }
        let user = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ];
        let through: Vec<String> = user.iter().chain(rights).map(ToString::to_string).collect();
        let can_run = Command::new(&through[0])
            .args(&through[1..])
            .args([respool_program(), "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !can_run.is_ok_and(|status| status.success())
            && leave_out(here, "nobody else may run respool where it was built")
        {
            return None;
        }
        chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("root gives it away");
        Some(Self { dir, through })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Begins settings of a respool that listens there too.
    pub(crate) fn listening(&self, listeners: &[(&str, &str)]) -> RespoolSettings {
        let settings = Respool::before("127.0.0.1:1").through(&self.through);
        listeners.iter().fold(settings, |settings, (name, lines)| {
            let path = self.path(name);
            settings.top(&format!(
                "[[listener]]\naddress = \"unix:{}\"\n{lines}",
                path.display()
            ))
        })
    }
}

/// Tells the mode and the owner of a file.
#[track_caller]
pub(crate) fn about(path: &Path) -> (u32, u32, u32) {
    let about = fs::symlink_metadata(path).expect("a file");
    (about.mode() & 0o777, about.uid(), about.gid())
}

/// Kills it, so that its files stay.
fn kill(respool: &Respool) {
    let pid = Pid::from_raw(respool.pid().cast_signed()).expect("a process");
    kill_process(pid, Signal::KILL).expect("a child can be signalled");
    respool.wait();
}

#[test]
fn a_reload_that_may_not_give_the_file_away_opens_it_to_nobody() {
    let Some(place) = SocketFolder::new(
        "e2e::socket_files::a_reload_that_may_not_give_the_file_away_opens_it_to_nobody",
    ) else {
        return;
    };
    let with = |lines: &str| place.listening(&[("x.sock", lines)]);
    let respool = with("mode = \"0600\"").start();
    let path = place.path("x.sock");
    let before = about(&path);
    assert_eq!(before.0, 0o600);
    for (setting, lines) in [("group", "group = \"0\""), ("owner", "owner = \"0\"")] {
        respool.rewrite(&with(&format!("mode = \"0666\"\n{lines}")));
        let (code, text) = respool.post_reload();
        assert_eq!(code, 409, "{text}");
        let key = format!("listener.{setting}: its file cannot be given to");
        assert!(
            text.contains(&key) && text.contains("; remove the key"),
            "{text}"
        );
        assert_eq!(about(&path), before, "{setting}");
        respool.reload(&with("mode = \"0600\""));
        assert_eq!(about(&path), before, "{setting}");
    }
}

#[test]
fn after_a_reload_a_file_is_as_the_settings_say_whatever_it_was() {
    let Some(place) = SocketFolder::new(
        "e2e::socket_files::after_a_reload_a_file_is_as_the_settings_say_whatever_it_was",
    ) else {
        return;
    };
    let with = |lines: &str| place.listening(&[("x.sock", lines)]);
    let respool = with("mode = \"0600\"").start();
    let path = place.path("x.sock");
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("by hand");
    respool.reload(&with("mode = \"0600\""));
    assert_eq!(about(&path).0, 0o600);
    // Removed by somebody: other settings go on, and new ones of it are refused.
    fs::remove_file(&path).expect("by hand");
    let gone = "nobody can connect to it any more: the file of its socket has been removed";
    assert!(respool.status().contains(gone), "{}", respool.status());
    respool.reload(&with("mode = \"0600\""));
    respool.eventually_logs(gone);
    respool.rewrite(&with("mode = \"0660\""));
    let (code, text) = respool.post_reload();
    assert_eq!(code, 409, "{text}");
    assert!(
        text.contains("has been removed; remove the listener, reload, and add it again"),
        "{text}"
    );
    respool.reload(&place.listening(&[]));
    respool.reload(&with("mode = \"0660\""));
    assert_eq!(about(&path).0, 0o660);
    assert!(!respool.status().contains("nobody can connect"));
}

#[test]
fn who_may_give_files_away_and_not_change_them_takes_them_back() {
    let here = "e2e::socket_files::who_may_give_files_away_and_not_change_them_takes_them_back";
    let rights = ["--inh-caps=+chown", "--ambient-caps=+chown"];
    let Some(place) = SocketFolder::with_rights(here, &rights) else {
        return;
    };
    let with = |first: &str, second: &str| {
        let lines = |lines: &str| format!("mode = {lines}");
        let (first, second) = (lines(first), lines(second));
        place.listening(&[("x.sock", first.as_str()), ("y.sock", second.as_str())])
    };
    let respool = with("\"0600\"", "\"0600\"").start();
    let path = place.path("x.sock");
    let before = about(&path);
    // The first can be had, the second cannot.
    fs::remove_file(place.path("y.sock")).expect("by hand");
    respool.rewrite(&with("\"0660\"\nowner = \"1\"\ngroup = \"1\"", "\"0660\""));
    let (code, text) = respool.post_reload();
    assert_eq!(code, 409, "{text}");
    assert_eq!(about(&path), before);
    respool
        .reload(&place.listening(&[("x.sock", "mode = \"0660\"\nowner = \"1\"\ngroup = \"1\"")]));
    assert_eq!(about(&path), (0o660, 1, 1));
    // What is another's is taken meanwhile.
    respool
        .reload(&place.listening(&[("x.sock", "mode = \"0606\"\nowner = \"1\"\ngroup = \"2\"")]));
    assert_eq!(about(&path), (0o606, 1, 2));
    respool.reload(&place.listening(&[("x.sock", "mode = \"0600\"")]));
    assert_eq!(about(&path), before);
}

#[test]
fn a_socket_left_over_that_its_owner_may_not_connect_to_is_replaced() {
    let Some(place) = SocketFolder::new(
        "e2e::socket_files::a_socket_left_over_that_its_owner_may_not_connect_to_is_replaced",
    ) else {
        return;
    };
    let settings = || place.listening(&[("x.sock", "mode = \"0060\"")]);
    let path = place.path("x.sock");
    let respool = settings().start();
    // Somebody listens: it is not taken from it.
    let toml = respool.config();
    let second = place.path("second.toml");
    let text = fs::read_to_string(toml).expect("text");
    let free = text.replace(&respool.addr(), "127.0.0.1:0");
    let free = free.replace(&respool.admin_addr(), "127.0.0.1:0");
    fs::write(&second, free).expect("written");
    let (code, told) = ended(&place.through, "run", &second);
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("listener.address") && told.contains("; free the address"),
        "{told}"
    );
    assert_eq!(about(&path).0, 0o060, "as it was");
    kill(&respool);
    let _again = settings().start();
    assert_eq!(about(&path).0, 0o060);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("by hand");
    Client::connect_unix(&path);
}

#[test]
fn a_socket_of_somebody_else_that_respool_may_not_connect_to_stays() {
    let here = "e2e::socket_files::a_socket_of_somebody_else_that_respool_may_not_connect_to_stays";
    let Some(place) = SocketFolder::new(here) else {
        return;
    };
    if !geteuid().is_root() && leave_out(here, "only root is somebody else") {
        return;
    }
    // No other test binds this name.
    let path = place.path("of-somebody-else.sock");
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    let file = place.path("respool.toml");
    let toml = format!(
        "[[listener]]\naddress = \"unix:{}\"\n[upstream]\naddress = \"127.0.0.1:1\"\n",
        path.display()
    );
    fs::write(&file, toml).expect("written");
    // The kernel knows it by the name that it was bound under.
    let first = place.path(".x.tmp");
    let of_root = UnixListener::bind(&first).expect("bound");
    set(&first, 0o600).expect("one's own");
    fs::rename(&first, &path).expect("one's own");
    let is_refused = |mode: &str, is_error: bool| {
        let (code, told) = ended(&place.through, mode, &file);
        assert_eq!(code, Some(i32::from(is_error)), "{told}");
        let wanted = format!(
            "listener.address: cannot listen on unix:{}: there is a socket of user 0 that respool's user may not connect to",
            path.display()
        );
        let remedy = "remove it by hand if nobody listens on it, or take another path";
        assert!(told.contains(&wanted) && told.contains(remedy), "{told}");
        assert_eq!(about(&path), (0o600, 0, 0));
    };
    is_refused("run", true);
    // It may be this respool's, which runs.
    is_refused("check", false);
    UnixStream::connect(&path).expect("its owner reaches who listens");
    drop(of_root);
    is_refused("run", true);
    // Whoever may connect sees that nobody listens.
    set(&path, 0o666).expect("one's own");
    let _respool = place.listening(&[("of-somebody-else.sock", "")]).start();
    Client::connect_unix(&path);
    assert_eq!(about(&path).1, NOBODY);
}

#[test]
fn what_was_done_by_hand_outlives_reloads_that_fail() {
    let here = "e2e::socket_files::what_was_done_by_hand_outlives_reloads_that_fail";
    let Some(place) = SocketFolder::new(here) else {
        return;
    };
    let with =
        |first: &str, second: &str| place.listening(&[("x.sock", first), ("y.sock", second)]);
    let respool = with("", "").start();
    let path = place.path("x.sock");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("by hand");
    let before = about(&path);
    respool.reload(&with("", ""));
    assert_eq!(about(&path), before);
    let fails = |settings: &RespoolSettings, why: &str| {
        respool.rewrite(settings);
        let (code, text) = respool.post_reload();
        assert_eq!(code, 409, "{text}");
        assert!(text.contains(why), "{text}");
        assert_eq!(about(&path), before, "put back");
        respool.reload(&with("", ""));
        assert_eq!(about(&path), before, "and not respool's doing");
    };
    // Of its own, and of a listener behind it.
    fails(
        &with("mode = \"0660\"\ngroup = \"0\"", ""),
        "listener.group",
    );
    fs::remove_file(place.path("y.sock")).expect("by hand");
    fails(
        &with("mode = \"0660\"", "mode = \"0660\""),
        "has been removed",
    );
}

#[test]
fn a_file_that_somebody_else_has_changed_hinders_no_reload_of_something_else() {
    let here = "e2e::socket_files::a_file_that_somebody_else_has_changed_hinders_no_reload_of_something_else";
    let Some(place) = SocketFolder::new(here) else {
        return;
    };
    if !geteuid().is_root() && leave_out(here, "only root is somebody else") {
        return;
    }
    let with = |mode: &str| place.listening(&[("x.sock", &format!("mode = \"{mode}\""))]);
    let respool = with("0660").start();
    let path = place.path("x.sock");
    let own = about(&path);
    chown(&path, Some(0), Some(1)).expect("root takes it");
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("root's");
    respool.reload(&with("0660").upstream("max_connections = 20\n"));
    respool.eventually_logs(
        "somebody else has changed its socket file; it stays as it is with mode 0666",
    );
    assert_eq!(about(&path), (0o666, 0, 1));
    // Another mode is what this reload is about.
    respool.rewrite(&with("0600"));
    let (code, text) = respool.post_reload();
    assert_eq!(code, 409, "{text}");
    assert!(text.contains("listener.mode: its file cannot"), "{text}");
    assert_eq!(about(&path), (0o666, 0, 1));
    chown(&path, Some(own.1), Some(own.2)).expect("root gives it back");
    respool.reload(&with("0660"));
    assert_eq!(about(&path), own);
}

/// Tells the code and all that is told by respool of that user.
#[track_caller]
pub(crate) fn ended(through: &[String], mode: &str, config: &Path) -> (Option<i32>, String) {
    let mut line = through.to_vec();
    line.push(respool_program().to_owned());
    let log = tempfile::NamedTempFile::new().expect("a file");
    let process = ChildProcess::default();
    process.start(
        Command::new(&line[0])
            .args(&line[1..])
            .args([mode, "--config"])
            .arg(config)
            .stdout(log.reopen().expect("it opens"))
            .stderr(log.reopen().expect("it opens")),
    );
    let text = || fs::read_to_string(log.path()).expect("text");
    // It runs, and was not to.
    let runs = || text().contains(concat!("respool ", env!("CARGO_PKG_VERSION"), " starts"));
    eventually(|| process.status().is_some() || runs(), "it ends or starts");
    let code = process.status().and_then(|status| status.code());
    process.kill();
    (code, text())
}

#[test]
fn what_stands_in_the_way_of_a_socket_is_told_by_run_as_by_check() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("file"), "x").expect("written");
    fs::create_dir(at("folder")).expect("made");
    drop(UnixListener::bind(at("stale")).expect("bound"));
    symlink(at("stale"), at("link")).expect("linked");
    symlink(at("self"), at("self")).expect("linked");
    let config = at("respool.toml");
    for (name, what) in [
        ("file", "there is a file"),
        ("folder", "there is a folder"),
        ("link", "there is a link"),
        ("self", "there is a link"),
    ] {
        for (key, toml) in [
            ("listener.address", "[[listener]]\naddress = \"%\"\n"),
            (
                "admin.address",
                "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"%\"\n",
            ),
        ] {
            let address = format!("unix:{}", at(name).display());
            let toml = toml.replace('%', &address) + "[upstream]\naddress = \"127.0.0.1:1\"\n";
            fs::write(&config, toml).expect("written");
            let wanted = format!("{key}: cannot listen on {address}: {what}");
            for mode in ["check", "run"] {
                let (code, told) = ended(&[], mode, &config);
                assert_eq!(code, Some(1), "{mode}: {told}");
                assert!(
                    told.contains(&wanted) && told.contains("; remove it, or take another path"),
                    "{mode}: {told}"
                );
                assert!(fs::symlink_metadata(at(name)).is_ok(), "{name} stays");
            }
        }
    }
    let id = "[[listener]]\naddress = \"unix:%\"\n[upstream]\naddress = \"127.0.0.1:1\"\n";
    for key in ["owner", "group"] {
        let new = at("new.sock").display().to_string();
        let toml = id.replace("%\"\n", &format!("{new}\"\n{key} = \"4294967295\"\n"));
        fs::write(&config, toml).expect("written");
        for mode in ["check", "run"] {
            let (code, told) = ended(&[], mode, &config);
            assert_eq!(code, Some(1), "{mode}: {told}");
            assert!(told.contains(&format!("listener.{key}")), "{mode}: {told}");
        }
    }
}
