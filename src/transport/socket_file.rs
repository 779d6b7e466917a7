//! The files of unix sockets: which one was bound, who may connect by it, and removing one's own.
//!
//! Invariant: of what stands at a listener's path only the file that was bound there is ever changed or removed. Whoever may
//! write in its folder can put another, or a link to another, in its place.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, Mode, OFlags};

use super::access_steps::FileAccess;
use super::foreseen::is_to_stay;
use super::rights::ProcessRights;
use super::socket_access::{AccessKeys, FileChange, access_of};
use crate::config::AccessSettings;

/// Is the file of a unix socket that was bound just now; it is removed when nobody listens on it any more.
#[derive(Debug)]
pub(super) struct SocketFile(BoundFile);

/// Knows which file was bound, and what it had then.
#[derive(Debug, Clone)]
pub(super) struct BoundFile {
    path: PathBuf,
    /// Holds its device and its inode.
    id: (u64, u64),
    unset: FileAccess,
    made: Arc<Mutex<MadeAccess>>,
}

/// Holds what respool itself has made of a file.
#[derive(Debug, Clone, Copy, Default)]
struct MadeAccess {
    /// Says what of it is not as it was bound.
    given: AccessSettings,
    /// Is what a reload has left it with that could do no more.
    left: Option<FileAccess>,
}

/// Is a change, which is begun, of who may connect by a file: it is to be finished, or undone.
#[derive(Debug)]
pub(super) struct BegunChange {
    file: BoundFile,
    changing: FileChange,
    /// Is what it was to have: no more than this can be made of it.
    wanted: FileAccess,
}

/// Tells why a change could not be begun.
#[derive(Debug)]
pub(super) struct RefusedChange {
    pub(super) why: String,
    /// Tells why it could not be undone either, if it could not.
    pub(super) not_undone: Option<String>,
}

impl SocketFile {
    /// Takes the file of a socket that was bound at `path` just now.
    ///
    /// # Errors
    /// It is not there any more.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let about = fs::symlink_metadata(path)?;
        if !about.file_type().is_socket() {
            return Err(not_ours());
        }
        Ok(Self(BoundFile {
            path: path.to_owned(),
            id: (about.dev(), about.ino()),
            unset: FileAccess {
                mode: about.mode() & 0o777,
                owner: about.uid(),
                group: about.gid(),
            },
            made: Arc::default(),
        }))
    }

    pub(super) fn bound(&self) -> &BoundFile {
        &self.0
    }

    /// Sets who may connect by it, as the settings in `table` say, before anybody can.
    ///
    /// # Errors
    /// It is not there any more, or not ours to change, in words.
    pub(super) fn permit(
        &self,
        wanted: &AccessSettings,
        table: &'static str,
    ) -> Result<(), String> {
        let now = self.0.access().map_err(|error| error.to_string())?;
        let next = now.overlaid(wanted);
        let keys = AccessKeys {
            table,
            written: *wanted,
        };
        self.0.changing(now, next, keys)?.outright()?;
        self.0.remember(now, next, next);
        self.0.tell_if_it_stays(now, next);
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let BoundFile { path, id, .. } = &self.0;
        let found = fs::symlink_metadata(path);
        let Some(about) = found.ok().filter(|about| (about.dev(), about.ino()) == *id) else {
            return;
        };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!(
                "the socket file unix:{} of user {} cannot be removed: {error}; remove it by hand, or respool cannot listen there at its next \
                 start",
                path.display(),
                about.uid()
            ),
            _ => {}
        }
    }
}

impl BoundFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Tells who may connect by it now.
    ///
    /// # Errors
    /// Another file stands there, or none.
    pub(super) fn access(&self) -> io::Result<FileAccess> {
        Ok(access_of(&rustix::fs::fstat(self.open()?)?))
    }

    /// Tells who may connect by it when the settings are `wanted` and it is as `now`. What they say no longer is as if
    /// they never had; what somebody else made of it, and they say nothing of, stays.
    pub(super) fn wanted(&self, wanted: &AccessSettings, now: FileAccess) -> FileAccess {
        let given = self.made().given;
        let unset = AccessSettings {
            mode: given.mode.and(Some(self.unset.mode)),
            owner: given.owner.and(Some(self.unset.owner)),
            group: given.group.and(Some(self.unset.group)),
        };
        now.overlaid(&unset).overlaid(wanted)
    }

    /// Begins to make `next` of it, which is as `now`.
    ///
    /// # Errors
    /// Another file stands there, or this one is not ours to change: it is as before, as far as that goes.
    pub(super) fn begin(
        &self,
        now: FileAccess,
        next: FileAccess,
        keys: AccessKeys,
    ) -> Result<BegunChange, RefusedChange> {
        let unbegun = |why| RefusedChange {
            why,
            not_undone: None,
        };
        let changing = self.changing(now, next, keys).map_err(unbegun)?;
        let done = changing.begin();
        let change = BegunChange {
            file: self.clone(),
            changing,
            wanted: next,
        };
        match done {
            Ok(()) => Ok(change),
            Err(why) => Err(change.refused(why)),
        }
    }

    /// Returns what a reload has left it with that could do no more, where it has that still.
    pub(super) fn left(&self, now: FileAccess) -> Option<FileAccess> {
        self.made().left.filter(|left| *left == now)
    }

    /// Notes that it is as it is to be, which is as `now`.
    pub(super) fn settle(&self, now: FileAccess) {
        self.made().left = None;
        self.remember(now, now, now);
    }

    fn changing(
        &self,
        now: FileAccess,
        next: FileAccess,
        keys: AccessKeys,
    ) -> Result<FileChange, String> {
        let file = self.open().map_err(|error| error.to_string())?;
        Ok(FileChange::new(file, &self.path, (now, next), keys))
    }

    fn tell_if_it_stays(&self, before: FileAccess, made: FileAccess) {
        let given = AccessSettings {
            owner: made.unlike(before).owner,
            group: Some(made.group),
            mode: None,
        };
        if let Some(why) = is_to_stay(&self.path, &given) {
            tracing::warn!("unix:{}: {why}", self.path.display());
        }
    }

    /// Notes that respool was to make `wanted` of what was `before`, and has made `made` of it.
    fn remember(&self, before: FileAccess, made: FileAccess, wanted: FileAccess) {
        let mut memory = self.made();
        let (new, other) = (made.unlike(before), made.unlike(self.unset));
        let given = memory.given;
        memory.given = AccessSettings {
            mode: other.mode.and(new.mode.or(given.mode)),
            owner: other.owner.and(new.owner.or(given.owner)),
            group: other.group.and(new.group.or(given.group)),
        };
        if made != wanted {
            memory.left = Some(made);
        }
    }

    fn made(&self) -> MutexGuard<'_, MadeAccess> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the file itself, whatever is put in its place meanwhile.
    ///
    /// # Errors
    /// Another file stands there, or none.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Err(gone()),
            opened => opened?,
        };
        let about = rustix::fs::fstat(&file)?;
        let is_socket = FileType::from_raw_mode(about.st_mode) == FileType::Socket;
        match is_socket && (about.st_dev, about.st_ino) == self.id {
            true => Ok(file),
            false => Err(not_ours()),
        }
    }
}

impl BegunChange {
    /// Takes that it is as much of `wanted` as can be had.
    pub(super) fn instead_of(self, wanted: FileAccess) -> Self {
        Self { wanted, ..self }
    }

    /// Tells what is at stake as it goes on: the more, the later.
    pub(super) fn stake(&self, rights: &ProcessRights) -> (bool, bool) {
        self.changing.stake(rights)
    }

    /// Gives it to the group that it is to have, which it may be that nobody can undo.
    ///
    /// # Errors
    /// It is not ours to give, in words: it is to be undone.
    pub(super) fn regroup(&self) -> Result<(), String> {
        self.changing.regroup()
    }

    /// Makes it what it was: it goes on no further, because of `why`.
    pub(super) fn refused(self, why: String) -> RefusedChange {
        let not_undone = self.undo().err();
        RefusedChange { why, not_undone }
    }

    /// Lets in who may connect from now on.
    ///
    /// # Errors
    /// What the file has, and is not to have, in words: it lets in fewer.
    pub(super) fn finish(self) -> Result<(), String> {
        let done = self.changing.finish();
        let plan = self.changing.plan();
        let made = self.changing.now().unwrap_or(plan.next);
        self.file.made().left = None;
        self.file.remember(plan.before, made, self.wanted);
        self.file.tell_if_it_stays(plan.before, made);
        done
    }

    /// Makes it what it was, as far as that goes.
    ///
    /// # Errors
    /// What is still another than before, in words: it lets in fewer.
    pub(super) fn undo(self) -> Result<(), String> {
        let done = self.changing.undo();
        let before = self.changing.plan().before;
        let made = self.changing.now().unwrap_or(before);
        self.file.remember(before, made, before);
        done
    }
}

/// Says what to tell of one that is not there any more.
pub(super) const GONE: &str = "the file of its socket has been removed";

/// Says what to tell where another is.
pub(super) const REPLACED: &str = "another file stands in the place of its socket by now";

fn not_ours() -> io::Error {
    io::Error::other(format!(
        "{REPLACED}; remove that file and the listener, reload, and add it again"
    ))
}

fn gone() -> io::Error {
    let text = format!("{GONE}; remove the listener, reload, and add it again");
    io::Error::new(io::ErrorKind::NotFound, text)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn begin(
        file: &BoundFile,
        now: FileAccess,
        next: FileAccess,
    ) -> Result<BegunChange, RefusedChange> {
        let keys = AccessKeys {
            table: "listener",
            written: AccessSettings::default(),
        };
        file.begin(now, next, keys)
    }

    /// Changes the access as a reload does that is not refused.
    fn set(file: &BoundFile, next: FileAccess) -> Result<(), String> {
        let now = file.access().expect("ours");
        let begun = begin(file, now, next).expect("one's own");
        begun.regroup()?;
        begun.finish()
    }

    #[test]
    fn the_file_of_another_process_stays() {
        let folder = folder();
        let path = folder.path().join("socket");
        let bound = UnixListener::bind(&path).expect("bound");
        let file = SocketFile::new(&path).expect("it is there");
        fs::remove_file(&path).expect("removed by hand");
        let _other = UnixListener::bind(&path).expect("bound by another");
        drop((file, bound));
        assert!(path.exists());
        drop(SocketFile::new(&path));
        assert!(!path.exists(), "one's own goes");
    }

    #[test]
    fn nothing_but_the_file_that_was_bound_is_changed() {
        let folder = folder();
        let path = folder.path().join("socket");
        let mode = |path: &Path| fs::metadata(path).expect("a file").mode() & 0o777;
        let _bound = UnixListener::bind(&path).expect("bound");
        let file = SocketFile::new(&path).expect("it is there");
        let now = file.bound().access().expect("ours");
        let (strict, open) = (
            FileAccess { mode: 0o600, ..now },
            FileAccess { mode: 0o666, ..now },
        );
        set(file.bound(), strict).expect("ours");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(file.bound().access().expect("ours").mode, 0o600, "as it is");
        // A link to a file of somebody's, and another's socket.
        let secret = folder.path().join("secret");
        fs::write(&secret, "x").expect("written");
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("set");
        fs::rename(&path, folder.path().join("aside")).expect("put aside");
        std::os::unix::fs::symlink(&secret, &path).expect("linked");
        begin(file.bound(), now, open).expect_err("not ours");
        file.bound().access().expect_err("not ours");
        assert_eq!(mode(&secret), 0o600);
        fs::remove_file(&path).expect("removed");
        let _other = UnixListener::bind(&path).expect("bound by another");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("set");
        begin(file.bound(), now, open).expect_err("not ours");
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn what_is_remembered_is_put_back_with_the_rest() {
        let folder = folder();
        let path = folder.path().join("socket");
        let _bound = UnixListener::bind(&path).expect("bound");
        let file = SocketFile::new(&path).expect("it is there");
        let file = file.bound();
        let of = |mode: u32| FileAccess { mode, ..file.unset };
        let nothing = AccessSettings::default();
        fs::set_permissions(&path, Permissions::from_mode(0o607)).expect("by hand");
        let begun = begin(file, of(0o607), of(0o660)).expect("ours");
        assert_eq!(file.access().expect("ours"), of(0o600), "meanwhile");
        begun.undo().expect("ours");
        assert_eq!(file.access().expect("ours"), of(0o607), "put back");
        assert_eq!(file.wanted(&nothing, of(0o607)), of(0o607), "by hand");
        // What respool had made of it before is so still.
        set(file, of(0o600)).expect("ours");
        let begun = begin(file, of(0o600), file.unset).expect("ours");
        begun.undo().expect("ours");
        assert_eq!(file.wanted(&nothing, of(0o600)), file.unset);
    }

    #[test]
    fn what_a_reload_leaves_is_known_for_its_doing_until_it_is_as_it_is_to_be() {
        let folder = folder();
        let path = folder.path().join("socket");
        let _bound = UnixListener::bind(&path).expect("bound");
        let file = SocketFile::new(&path).expect("it is there");
        let file = file.bound();
        let unset = file.unset;
        let of = |mode: u32, group| FileAccess {
            mode,
            group,
            ..unset
        };
        let (before, left) = (of(0o660, unset.group), of(0o600, unset.group + 1));
        let nothing = AccessSettings::default();
        file.remember(before, left, before);
        assert_eq!(file.left(left), Some(left));
        assert_eq!(file.left(before), None, "somebody else's doing");
        assert_eq!(
            file.wanted(&nothing, left),
            unset,
            "all of it is its own doing"
        );
        // Another reload in vain.
        file.remember(left, left, left);
        assert_eq!(file.left(left), Some(left));
        file.settle(unset);
        assert_eq!(file.left(left), None);
        assert_eq!(file.wanted(&nothing, left), left, "by hand");
    }

    #[test]
    fn what_is_set_no_longer_is_as_it_was_bound_and_what_somebody_else_set_stays() {
        let folder = folder();
        let path = folder.path().join("socket");
        let _bound = UnixListener::bind(&path).expect("bound");
        let file = SocketFile::new(&path).expect("it is there");
        let file = file.bound();
        let unset = file.unset;
        let of = |mode: u32| FileAccess { mode, ..unset };
        let nothing = AccessSettings::default();
        assert_eq!(file.wanted(&nothing, of(0o607)), of(0o607), "by hand");
        let strict = AccessSettings {
            mode: Some(0o600),
            ..nothing
        };
        assert_eq!(file.wanted(&strict, of(0o607)), of(0o600));
        set(file, of(0o600)).expect("ours");
        assert_eq!(file.wanted(&nothing, of(0o600)), unset);
        set(file, unset).expect("ours");
        assert_eq!(file.wanted(&nothing, of(0o607)), of(0o607), "by hand");
        // Another owner that was tried in vain is not wanted later on.
        let other = FileAccess {
            owner: unset.owner + 1,
            ..unset
        };
        file.remember(unset, other, other);
        assert_eq!(file.wanted(&nothing, other), unset);
        assert_eq!(
            file.wanted(
                &nothing,
                FileAccess {
                    mode: 0o607,
                    ..other
                }
            ),
            of(0o607),
            "only what respool changed"
        );
    }
}
