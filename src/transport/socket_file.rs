//! The files of unix sockets: which one was bound, who may connect by it, and removing one's own.
//!
//! Invariant: of what stands at a listener's path only the file that was bound there is ever changed or removed. Whoever may
//! write in its folder can put another, or a link to another, in its place.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FileType, Mode, OFlags};

use super::foreseen::is_to_stay;
use super::socket_access::{Changing, FileAccess};
use crate::config::Access;

/// The file of a unix socket that was bound just now, removed when nobody listens on it any more.
#[derive(Debug)]
pub(super) struct SocketFile(BoundFile);

/// Which file was bound, and what it had then.
#[derive(Debug, Clone)]
pub(super) struct BoundFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
    unset: FileAccess,
    /// What respool itself made of it that is not as it was bound.
    given: Arc<Mutex<Access>>,
}

/// What a file was before it was changed, and what of that respool had made of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Earlier {
    pub(super) access: FileAccess,
    given: Access,
}

impl SocketFile {
    /// That of a socket which was bound at `path` just now.
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
            given: Arc::default(),
        }))
    }

    pub(super) fn bound(&self) -> &BoundFile {
        &self.0
    }

    /// Sets who may connect by it, as the settings in `table` say.
    ///
    /// # Errors
    /// It is not there any more, or not ours to change, in words.
    pub(super) fn permit(&self, wanted: &Access, table: &str) -> Result<(), String> {
        let now = self.0.access().map_err(|error| error.to_string())?;
        self.0.permit(now.overlaid(wanted), table)
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
                "the file of the socket unix:{} stays, and is of the user {}: it cannot be removed: {error}; remove it by hand, or \
                 no start can take its place",
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

    /// Who may connect by it now.
    ///
    /// # Errors
    /// Another file stands there, or none.
    pub(super) fn access(&self) -> io::Result<FileAccess> {
        Ok(FileAccess::of(&rustix::fs::fstat(self.open()?)?))
    }

    /// As [`BoundFile::access`], to be put back.
    ///
    /// # Errors
    /// Another file stands there, or none.
    pub(super) fn earlier(&self) -> io::Result<Earlier> {
        let access = self.access()?;
        let given = *self.given.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Earlier { access, given })
    }

    /// Who may connect by it when the settings are `wanted` and it is as `now`. What they say no longer is as if they never
    /// had; what somebody else made of it, and they say nothing of, stays.
    pub(super) fn wanted(&self, wanted: &Access, now: FileAccess) -> FileAccess {
        let given = *self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let unset = Access {
            mode: given.mode.and(Some(self.unset.mode)),
            owner: given.owner.and(Some(self.unset.owner)),
            group: given.group.and(Some(self.unset.group)),
        };
        now.overlaid(&unset).overlaid(wanted)
    }

    /// Sets who may connect by it.
    ///
    /// # Errors
    /// Another file stands there, or this one is not ours to change, in words: it may be changed in part. `table` has the
    /// settings.
    pub(super) fn permit(&self, next: FileAccess, table: &str) -> Result<(), String> {
        let before = self.access().map_err(|error| error.to_string())?;
        let done = self.changing(|changing| changing.change(next, table));
        self.remember(before, next);
        if done.is_ok() && next.owner != before.owner {
            self.tell_if_it_stays(next.owner);
        }
        done
    }

    /// Sets who may connect by it as it was before, as far as that goes.
    ///
    /// # Errors
    /// What could not be put back, in words.
    pub(super) fn put_back(&self, before: Earlier, table: &str) -> Result<(), String> {
        let done = self.changing(|changing| changing.put_back(before.access, table));
        // What could not be put back is respool's doing still; by a file that is gone nobody connects.
        let left = self.access().unwrap_or(before.access).unlike(before.access);
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let or_as_before =
            |left: Option<u32>, given, before| if left.is_some() { given } else { before };
        *given = Access {
            mode: or_as_before(left.mode, given.mode, before.given.mode),
            owner: or_as_before(left.owner, given.owner, before.given.owner),
            group: or_as_before(left.group, given.group, before.given.group),
        };
        done
    }

    fn changing(
        &self,
        change: impl FnOnce(&Changing<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let file = self.open().map_err(|error| error.to_string())?;
        change(&Changing {
            file: file.as_fd(),
            path: &self.path,
        })
    }

    fn tell_if_it_stays(&self, owner: u32) {
        let given = Access {
            owner: Some(owner),
            ..Access::default()
        };
        if let Some(why) = is_to_stay(&self.path, &given) {
            tracing::warn!("unix:{}: {why}", self.path.display());
        }
    }

    /// Respool has made `next` of what was `before`, or may have.
    fn remember(&self, before: FileAccess, next: FileAccess) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let (made, other) = (next.unlike(before), next.unlike(self.unset));
        given.mode = other.mode.and(made.mode.or(given.mode));
        given.owner = other.owner.and(made.owner.or(given.owner));
        given.group = other.group.and(made.group.or(given.group));
    }

    /// The file itself, whatever is put in its place meanwhile.
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

/// What to say of one that is not there any more.
pub(super) const GONE: &str = "the file of its socket has been removed";

/// What to say where another is.
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
        file.bound().permit(strict, "listener").expect("ours");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(file.bound().access().expect("ours").mode, 0o600, "as it is");
        // A link to a file of somebody's, and another's socket.
        let secret = folder.path().join("secret");
        fs::write(&secret, "x").expect("written");
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("set");
        fs::rename(&path, folder.path().join("aside")).expect("put aside");
        std::os::unix::fs::symlink(&secret, &path).expect("linked");
        file.bound().permit(open, "listener").expect_err("not ours");
        file.bound().access().expect_err("not ours");
        assert_eq!(mode(&secret), 0o600);
        fs::remove_file(&path).expect("removed");
        let _other = UnixListener::bind(&path).expect("bound by another");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("set");
        file.bound().permit(open, "listener").expect_err("not ours");
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
        let nothing = Access::default();
        fs::set_permissions(&path, Permissions::from_mode(0o607)).expect("by hand");
        let before = file.earlier().expect("ours");
        file.permit(of(0o660), "listener").expect("ours");
        file.put_back(before, "listener").expect("ours");
        assert_eq!(file.wanted(&nothing, of(0o607)), of(0o607), "by hand");
        // What respool had made of it before is so still.
        file.permit(of(0o600), "listener").expect("ours");
        let before = file.earlier().expect("ours");
        file.permit(file.unset, "listener").expect("ours");
        file.put_back(before, "listener").expect("ours");
        assert_eq!(file.wanted(&nothing, of(0o600)), file.unset);
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
        let nothing = Access::default();
        assert_eq!(file.wanted(&nothing, of(0o607)), of(0o607), "by hand");
        let strict = Access {
            mode: Some(0o600),
            ..nothing
        };
        assert_eq!(file.wanted(&strict, of(0o607)), of(0o600));
        file.permit(of(0o600), "listener").expect("ours");
        assert_eq!(file.wanted(&nothing, of(0o600)), unset);
        file.permit(unset, "listener").expect("ours");
        assert_eq!(file.wanted(&nothing, of(0o607)), of(0o607), "by hand");
        // Another owner that was tried in vain is not wanted later on.
        let other = FileAccess {
            owner: unset.owner + 1,
            ..unset
        };
        file.remember(unset, other);
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
