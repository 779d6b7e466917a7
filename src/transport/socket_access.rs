//! Changing who may connect by the file of a socket: in which order, by which calls, and what to say when one is refused.
//!
//! Invariant: at no moment may anybody connect who may neither before nor after, but for the file's owners, who could let
//! themselves in anyway.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Uid};
use rustix::process::geteuid;

use crate::config::Access;

/// Where the kernel shows the files that a process has open.
const OPEN_FILES: &str = "/proc/self/fd";

/// Mode and owners of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileAccess {
    pub(super) mode: u32,
    pub(super) owner: u32,
    pub(super) group: u32,
}

impl FileAccess {
    pub(super) fn of(about: &Stat) -> Self {
        Self {
            mode: about.st_mode & 0o777,
            owner: about.st_uid,
            group: about.st_gid,
        }
    }

    /// What `wanted` says, and as it is here where that says nothing.
    pub(super) fn overlaid(self, wanted: &Access) -> Self {
        Self {
            mode: wanted.mode.unwrap_or(self.mode),
            owner: wanted.owner.unwrap_or(self.owner),
            group: wanted.group.unwrap_or(self.group),
        }
    }

    /// Where it is another than `other`; the rest is `None`.
    pub(super) fn unlike(self, other: Self) -> Access {
        let only = |mine: u32, other: u32| Some(mine).filter(|mine| *mine != other);
        Access {
            mode: only(self.mode, other.mode),
            owner: only(self.owner, other.owner),
            group: only(self.group, other.group),
        }
    }
}

impl fmt::Display for FileAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (owner, group) = (self.owner, self.group);
        write!(f, "mode {:04o}, owner {owner}, group {group}", self.mode)
    }
}

/// One call that changes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Mode(u32),
    Owner(u32),
    Group(u32),
}

/// The steps from `now` to `next`, when `me` takes them. As long as another group is to come the file allows no more than
/// both; it is given away last and taken first, since only its owner changes its mode.
pub(super) fn steps(now: FileAccess, next: FileAccess, me: u32) -> Vec<Step> {
    let mut steps = Vec::new();
    let owner = (next.owner != now.owner).then_some(Step::Owner(next.owner));
    let is_taken = next.owner == me;
    steps.extend(owner.filter(|_| is_taken));
    let mut mode = now.mode;
    if next.group != now.group {
        if now.mode & next.mode != mode {
            mode = now.mode & next.mode;
            steps.push(Step::Mode(mode));
        }
        steps.push(Step::Group(next.group));
    }
    if mode != next.mode {
        steps.push(Step::Mode(next.mode));
    }
    steps.extend(owner.filter(|_| !is_taken));
    steps
}

/// A file that is open, changed in steps.
pub(super) struct Changing<'a> {
    pub(super) file: BorrowedFd<'a>,
    pub(super) path: &'a Path,
}

impl Changing<'_> {
    /// Makes `next` of it.
    ///
    /// # Errors
    /// The first step that is refused, in words: those before it have been taken. `table` has the settings.
    pub(super) fn change(&self, next: FileAccess, table: &str) -> Result<(), String> {
        let now = self.now().map_err(|error| error.to_string())?;
        for step in steps(now, next, geteuid().as_raw()) {
            self.take(step)
                .map_err(|error| refused(step, &error, table))?;
        }
        Ok(())
    }

    /// Makes `before` of it again, as far as that goes: each step by itself.
    ///
    /// # Errors
    /// What is still another, in words.
    pub(super) fn put_back(&self, before: FileAccess, table: &str) -> Result<(), String> {
        let now = self.now().map_err(|error| error.to_string())?;
        let mut wrong = Vec::new();
        for step in steps(now, before, geteuid().as_raw()) {
            let step = match step {
                // A mode that was for others is not for those who are still there.
                Step::Mode(mode) if !wrong.is_empty() => Step::Mode(mode & now.mode),
                step => step,
            };
            if let Err(error) = self.take(step) {
                wrong.push(refused(step, &error, table));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let left = self.now().unwrap_or(now);
        let (path, wrong) = (self.path.display(), wrong.join("; "));
        Err(format!(
            "{path} has {left} now and had {before} before: {wrong}; set it by hand (chmod, chown), or close the listener and \
             open it again"
        ))
    }

    fn now(&self) -> io::Result<FileAccess> {
        Ok(FileAccess::of(&rustix::fs::fstat(self.file)?))
    }

    fn take(&self, step: Step) -> io::Result<()> {
        let (owner, group) = match step {
            Step::Mode(mode) => return set_mode(self.file, self.path, mode),
            Step::Owner(owner) => (Some(Uid::from_raw(owner)), None),
            Step::Group(group) => (None, Some(Gid::from_raw(group))),
        };
        rustix::fs::chownat(self.file, "", owner, group, AtFlags::EMPTY_PATH)?;
        Ok(())
    }
}

fn refused(step: Step, error: &io::Error, table: &str) -> String {
    match step {
        Step::Mode(mode) => format!(
            "{table}.mode: its file cannot be given the mode {mode:04o}: {error}; remove the key, or run respool as the owner of \
             the file or with CAP_FOWNER"
        ),
        Step::Owner(owner) => format!(
            "{table}.owner: its file cannot be given to the user {owner}: {error}; remove the key, or run respool as root or \
             with CAP_CHOWN"
        ),
        Step::Group(group) => format!(
            "{table}.group: its file cannot be given to the group {group}: {error}; remove the key, or take respool's user \
             into the group"
        ),
    }
}

/// Sets the mode of a file that is opened by its path only; there is no call for that before Linux 6.6. `path` is where
/// it was opened.
pub(super) fn set_mode(file: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<()> {
    set_mode_by(OPEN_FILES, file, path, mode)
}

fn set_mode_by(open_files: &str, file: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<()> {
    let itself = format!("{open_files}/{}", file.as_raw_fd());
    match fs::set_permissions(itself, Permissions::from_mode(mode)) {
        // As in a chroot.
        Err(error) if error.kind() == io::ErrorKind::NotFound => set_mode_by_name(file, path, mode),
        done => done,
    }
}

/// By its name in its folder, which nobody else may give to another file meanwhile.
fn set_mode_by_name(file: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder_of(path), flags, Mode::empty())?;
    let wanted = rustix::fs::fstat(file)?;
    if !is_ours_alone(&rustix::fs::fstat(&folder)?, wanted.st_uid) {
        let (what, remedy) = NO_PROC;
        return Err(io::Error::other(format!("{what}; {remedy}")));
    }
    let name = path.file_name().unwrap_or_default();
    let is_it = || -> io::Result<bool> {
        let found = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino))
    };
    let other = || io::Error::other("another file stands there by now");
    if !is_it()? {
        return Err(other());
    }
    let mode = Mode::from_raw_mode(mode);
    rustix::fs::chmodat(folder.as_fd(), name, mode, AtFlags::empty())?;
    if is_it()? { Ok(()) } else { Err(other()) }
}

/// Why a mode cannot be set, and what to do.
const NO_PROC: (&str, &str) = (
    "there is no /proc here, and without it a mode is set only in a folder where nobody but root and respool's user may put \
     another file in its place",
    "mount /proc, or take the right to write in the folder from all others",
);

/// Whether only root and respool's own user can give the name of this user's file in the folder to another file.
fn is_ours_alone(folder: &Stat, owner: u32) -> bool {
    let is_ours = |owner: u32| owner == 0 || owner == geteuid().as_raw();
    // In a sticky folder a file is its owner's.
    let is_owners = folder.st_mode & 0o1000 != 0;
    is_ours(folder.st_uid) && (folder.st_mode & 0o022 == 0 || is_owners && is_ours(owner))
}

/// Why the mode of a file in the folder of `path` could not be set here, if it could not, and what to do.
pub fn mode_trouble(path: &Path) -> Option<(&'static str, &'static str)> {
    if fs::metadata(OPEN_FILES).is_ok() {
        return None;
    }
    let folder = rustix::fs::stat(folder_of(path)).ok()?;
    // It is set before the file is given away.
    (!is_ours_alone(&folder, geteuid().as_raw())).then_some(NO_PROC)
}

/// The folder in which `path` stands.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Somebody who is none of the file's owners.
    struct Stranger {
        is_in_old: bool,
        is_in_new: bool,
    }

    impl Stranger {
        fn may_connect(&self, at: FileAccess, old: u32) -> bool {
            let is_in = if at.group == old {
                self.is_in_old
            } else {
                self.is_in_new
            };
            at.mode & if is_in { 0o020 } else { 0o002 } != 0
        }
    }

    /// What each of the steps leaves.
    fn stations(now: FileAccess, next: FileAccess, me: u32) -> Vec<FileAccess> {
        let mut at = now;
        let taken = steps(now, next, me).into_iter().map(|step| {
            match step {
                Step::Mode(mode) => at.mode = mode,
                Step::Owner(owner) => at.owner = owner,
                Step::Group(group) => at.group = group,
            }
            at
        });
        taken.collect()
    }

    #[test]
    fn nobody_may_connect_meanwhile_who_may_neither_before_nor_after() {
        let modes = [
            0o600, 0o660, 0o606, 0o666, 0o620, 0o602, 0o000, 0o060, 0o777,
        ];
        let file = |mode, owner, group| FileAccess { mode, owner, group };
        for (before, after) in modes
            .iter()
            .flat_map(|one| modes.map(|other| (*one, other)))
        {
            for (owner, group, me) in [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (2, 2, 2)] {
                let (now, next) = (file(before, 1, 1), file(after, owner, group));
                let stations = stations(now, next, me);
                assert_eq!(stations.last().copied().unwrap_or(now), next);
                for (is_in_old, is_in_new) in [(false, false), (true, false), (false, true)] {
                    let stranger = Stranger {
                        is_in_old,
                        is_in_new,
                    };
                    let may = |at| stranger.may_connect(at, 1);
                    let is_fine = |at: &FileAccess| !may(*at) || may(now) || may(next);
                    assert!(
                        stations.iter().all(is_fine),
                        "{now} to {next} by way of {stations:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_file_is_given_away_last_and_taken_first() {
        let mine = FileAccess {
            mode: 0o600,
            owner: 1,
            group: 1,
        };
        let given = FileAccess {
            mode: 0o660,
            owner: 2,
            group: 1,
        };
        let (mode, owner) = (Step::Mode, Step::Owner);
        assert_eq!(steps(mine, given, 1), [mode(0o660), owner(2)]);
        assert_eq!(steps(given, mine, 1), [owner(1), mode(0o600)]);
        assert_eq!(steps(mine, mine, 1), []);
    }

    #[test]
    fn without_proc_a_mode_is_set_by_name_where_nobody_else_may_write() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let _bound = UnixListener::bind(&path).expect("bound");
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&path, flags, Mode::empty()).expect("it opens");
        let set = |mode| set_mode_by("/nonexistent", file.as_fd(), &path, mode);
        let mode = |path: &Path| fs::metadata(path).expect("a file").mode() & 0o777;
        set(0o620).expect("set");
        assert_eq!(mode(&path), 0o620);
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("set");
        let why = set(0o666).expect_err("refused").to_string();
        assert!(why.contains("mount /proc"), "{why}");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).expect("set");
        set(0o600).expect("in a sticky folder it is one's own");
        let me = geteuid().as_raw();
        let sticky = rustix::fs::stat(folder.path()).expect("a folder");
        assert!(is_ours_alone(&sticky, me) && is_ours_alone(&sticky, 0));
        assert!(!is_ours_alone(&sticky, me + 1), "its owner may rename it");
        // A link to a file of somebody's in its place.
        let secret = folder.path().join("secret");
        fs::write(&secret, "x").expect("written");
        fs::set_permissions(&secret, Permissions::from_mode(0o640)).expect("set");
        fs::rename(&path, folder.path().join("aside")).expect("put aside");
        std::os::unix::fs::symlink(&secret, &path).expect("linked");
        set(0o666).expect_err("another file");
        assert_eq!(mode(&secret), 0o640);
    }

    #[test]
    fn what_cannot_be_put_back_hinders_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let _bound = UnixListener::bind(&path).expect("bound");
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&path, flags, Mode::empty()).expect("it opens");
        let changing = Changing {
            file: file.as_fd(),
            path: &path,
        };
        set_mode(file.as_fd(), &path, 0o600).expect("set");
        let before = changing.now().expect("it is there");
        let wider = FileAccess {
            mode: 0o666,
            ..before
        };
        changing.change(wider, "listener").expect("one's own");
        assert_eq!(changing.now().expect("it is there"), wider);
        changing.put_back(before, "listener").expect("one's own");
        assert_eq!(changing.now().expect("it is there"), before);
    }
}
