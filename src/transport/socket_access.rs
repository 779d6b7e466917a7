//! Changing who may connect by the file of a socket: by which calls, and what to say when one is refused.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Uid};
use rustix::process::geteuid;

use super::access_steps::{AccessPlan, AccessStep, FileAccess, outright};
use super::rights::ProcessRights;
use crate::config::AccessSettings;

/// Is where the kernel shows the files that a process has open.
const OPEN_FILES: &str = "/proc/self/fd";

/// Reads the mode and the owners that a file has.
pub(super) fn access_of(about: &Stat) -> FileAccess {
    FileAccess {
        mode: about.st_mode & 0o777,
        owner: about.st_uid,
        group: about.st_gid,
    }
}

/// Holds the settings of who may connect by a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct AccessKeys {
    /// Names the table in which they stand.
    pub(super) table: &'static str,
    /// Holds those that are written.
    pub(super) written: AccessSettings,
}

/// Holds a file that is open, and how it is changed who may connect by it.
#[derive(Debug)]
pub(super) struct FileChange {
    file: OwnedFd,
    /// Is where it was opened.
    path: PathBuf,
    plan: AccessPlan,
    keys: AccessKeys,
}

impl FileChange {
    /// Changes a `file` from `now` to `next`.
    pub(super) fn new(
        file: OwnedFd,
        path: &Path,
        (now, next): (FileAccess, FileAccess),
        keys: AccessKeys,
    ) -> Self {
        let me = geteuid().as_raw();
        // Who may set it as it is may set it otherwise.
        let may_set_mode = now.owner == me || set_mode(file.as_fd(), path, now.mode).is_ok();
        Self {
            file,
            path: path.to_owned(),
            plan: AccessPlan::new(now, next, me, may_set_mode),
            keys,
        }
    }

    pub(super) fn plan(&self) -> &AccessPlan {
        &self.plan
    }

    /// Changes all of it at once: nobody can connect by it yet.
    ///
    /// # Errors
    /// The first step that is refused, in words.
    pub(super) fn outright(&self) -> Result<(), String> {
        let mut steps = outright(self.plan.before, self.plan.next).into_iter();
        steps.try_for_each(|step| self.take(step).map_err(|error| self.refused(step, &error)))
    }

    /// Begins as [`AccessPlan::begin`] says.
    ///
    /// # Errors
    /// What is refused, in words, with its setting and what to do.
    pub(super) fn begin(&self) -> Result<(), String> {
        let begun = self.plan.begin(|step| self.take(step));
        begun.map_err(|(step, error)| self.refused(self.plan.wanted_by(step), &error))
    }

    /// Gives it to its group to be, as [`AccessPlan::regroup`] says.
    ///
    /// # Errors
    /// As those of [`Self::begin`].
    pub(super) fn regroup(&self) -> Result<(), String> {
        let done = self.plan.regroup(|step| self.take(step));
        done.map_err(|(step, error)| self.refused(self.plan.wanted_by(step), &error))
    }

    /// Tells what is at stake as it is given to its group to be, by what can be seen of the rights: the more, the
    /// later. First whether it is given, then whether it can not be given back.
    pub(super) fn stake(&self, rights: &ProcessRights) -> (bool, bool) {
        let Some((from, to, owner)) = self.plan.regrouped() else {
            return (false, false);
        };
        let is_given = rights.regroups(owner, from, to);
        (is_given, is_given && !rights.regroups(owner, to, from))
    }

    /// Finishes as [`AccessPlan::finish`] says.
    ///
    /// # Errors
    /// What the file has, and is not to have, in words.
    pub(super) fn finish(&self) -> Result<(), String> {
        let wrong = self.plan.finish(|step| self.take(step));
        let told = |left| {
            let (path, next) = (self.path.display(), self.plan.next);
            format!("{path} has {left} now and is to have {next}")
        };
        self.told(self.plan.next, &wrong, told)
    }

    /// Undoes as [`AccessPlan::undo`] says.
    ///
    /// # Errors
    /// What is still another than before, in words.
    pub(super) fn undo(&self) -> Result<(), String> {
        let now = self.now().map_err(|error| error.to_string())?;
        let wrong = self.plan.undo(now, |step| self.take(step));
        let told = |left| {
            let (path, before) = (self.path.display(), self.plan.before);
            format!("{path} has {left} now and had {before} before")
        };
        self.told(self.plan.before, &wrong, told)
    }

    fn told(
        &self,
        wanted: FileAccess,
        wrong: &[(AccessStep, io::Error)],
        told: impl FnOnce(FileAccess) -> String,
    ) -> Result<(), String> {
        let left = self.now().map_err(|error| error.to_string())?;
        if left == wanted {
            return Ok(());
        }
        let wrong = wrong.iter().map(|(step, error)| match step {
            AccessStep::Mode(mode) => format!("its mode cannot be set to {mode:04o}: {error}"),
            AccessStep::Owner(owner) => format!("it cannot be given to the user {owner}: {error}"),
            AccessStep::Group(group) => format!("it cannot be given to the group {group}: {error}"),
        });
        let wrong: Vec<String> = wrong.collect();
        let (told, wrong) = (told(left), wrong.join("; "));
        Err(format!("{told}: {wrong}; {BY_HAND}"))
    }

    /// Reads what it has now.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn now(&self) -> io::Result<FileAccess> {
        Ok(access_of(&rustix::fs::fstat(&self.file)?))
    }

    fn take(&self, step: AccessStep) -> io::Result<()> {
        let (owner, group) = match step {
            AccessStep::Mode(mode) => return set_mode(self.file.as_fd(), &self.path, mode),
            AccessStep::Owner(owner) => (Some(Uid::from_raw(owner)), None),
            AccessStep::Group(group) => (None, Some(Gid::from_raw(group))),
        };
        rustix::fs::chownat(&self.file, "", owner, group, AtFlags::EMPTY_PATH)?;
        Ok(())
    }

    /// Says what to tell when the step that sets a key is refused. A key that is not written is set to what the file
    /// was bound with: there is nothing to remove.
    fn refused(&self, step: AccessStep, error: &io::Error) -> String {
        let (before, written) = (self.plan.before, self.keys.written);
        let (key, is_written, what, has, remedy) = match step {
            AccessStep::Mode(mode) => (
                "mode",
                written.mode.is_some(),
                format!("the mode {mode:04o}"),
                format!("{:04o}", before.mode),
                "run respool as the owner of the file or with CAP_FOWNER",
            ),
            AccessStep::Owner(owner) => (
                "owner",
                written.owner.is_some(),
                format!("to the user {owner}"),
                before.owner.to_string(),
                "run respool as root or with CAP_CHOWN",
            ),
            AccessStep::Group(group) => (
                "group",
                written.group.is_some(),
                format!("to the group {group}"),
                before.group.to_string(),
                "take respool's user into the group",
            ),
        };
        let table = self.keys.table;
        if is_written {
            return format!(
                "{table}.{key}: its file cannot be given {what}: {error}; remove the key, or {remedy}"
            );
        }
        format!(
            "{table}.{key}: the key is not written, and its file cannot be given back {what} that it was bound with: {error}; \
             write {key} = \"{has}\", which it has, or {remedy}, or remove the listener, reload, and add it again"
        )
    }
}

/// Says what helps where respool can do no more.
pub(super) const BY_HAND: &str =
    "set it by hand (chmod, chown), or remove the listener, reload, and add it again";

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

/// Sets the mode by its name in its folder, which nobody else may give to another file meanwhile.
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

/// Says why a mode cannot be set, and what to do.
const NO_PROC: (&str, &str) = (
    "there is no /proc here, and without it a mode is set only in a folder where nobody but root and respool's user may put \
     another file in its place",
    "mount /proc, or take the right to write in the folder from all others",
);

/// Tells whether only root and respool's own user can give the name of this user's file in the folder to another file.
fn is_ours_alone(folder: &Stat, owner: u32) -> bool {
    let is_ours = |owner: u32| owner == 0 || owner == geteuid().as_raw();
    // In a sticky folder a file is its owner's.
    let is_owners = folder.st_mode & 0o1000 != 0;
    is_ours(folder.st_uid) && (folder.st_mode & 0o022 == 0 || is_owners && is_ours(owner))
}

/// Says why the mode of a file in the folder of `path` could not be set here, if it could not, and what to do.
pub fn mode_trouble(path: &Path) -> Option<(&'static str, &'static str)> {
    if fs::metadata(OPEN_FILES).is_ok() {
        return None;
    }
    let folder = rustix::fs::stat(folder_of(path)).ok()?;
    // It is set before the file is given away.
    (!is_ours_alone(&folder, geteuid().as_raw())).then_some(NO_PROC)
}

/// Returns the folder in which `path` stands.
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
    fn what_is_begun_is_narrow_until_it_is_finished_or_undone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let _bound = UnixListener::bind(&path).expect("bound");
        fs::set_permissions(&path, Permissions::from_mode(0o606)).expect("set");
        let changing = |mode| changing(&path, mode, AccessSettings::default());
        let file = changing(0o660);
        let before = file.now().expect("it is there");
        let is = |mode| {
            assert_eq!(
                file.now().expect("it is there"),
                FileAccess { mode, ..before }
            )
        };
        file.begin().expect("one's own");
        is(0o600);
        file.undo().expect("one's own");
        is(0o606);
        file.begin().expect("one's own");
        file.regroup().expect("one's own");
        file.finish().expect("one's own");
        is(0o660);
    }

    fn changing(path: &Path, mode: u32, written: AccessSettings) -> FileChange {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let file = rustix::fs::open(path, flags, Mode::empty()).expect("it opens");
        let now = access_of(&rustix::fs::fstat(&file).expect("a file"));
        let keys = AccessKeys {
            table: "listener",
            written,
        };
        FileChange::new(file, path, (now, FileAccess { mode, ..now }), keys)
    }

    #[test]
    fn a_key_that_is_not_written_is_not_told_to_be_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let _bound = UnixListener::bind(&path).expect("bound");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("set");
        let all = AccessSettings {
            mode: Some(0o600),
            owner: Some(7),
            group: Some(8),
        };
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        for step in [
            AccessStep::Mode(0o600),
            AccessStep::Owner(7),
            AccessStep::Group(8),
        ] {
            let told = |written| changing(&path, 0o600, written).refused(step, &error);
            let (written, removed) = (told(all), told(AccessSettings::default()));
            assert!(written.contains("; remove the key, or "), "{written}");
            assert!(!removed.contains("remove the key"), "{removed}");
            assert!(removed.contains("the key is not written, and"), "{removed}");
        }
        let told = changing(&path, 0o600, AccessSettings::default())
            .refused(AccessStep::Mode(0o600), &error);
        assert!(
            told.contains("; write mode = \"0640\", which it has"),
            "{told}"
        );
    }
}
