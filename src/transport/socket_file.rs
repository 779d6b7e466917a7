//! The files of unix sockets: who may connect by them, whether somebody listens there, and removing one's own.
//!
//! Invariant: of what stands at a listener's path only the file that was bound there is ever changed or removed. Whoever may
//! write in its folder can put another, or a link to another, in its place.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use socket2::{Domain, SockAddr, Socket, Type};

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
    unset: Access,
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
            unset: Access {
                mode: Some(about.mode() & 0o777),
                owner: Some(about.uid()),
                group: Some(about.gid()),
            },
        }))
    }

    pub(super) fn bound(&self) -> &BoundFile {
        &self.0
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |about: fs::Metadata| (about.dev(), about.ino()) == self.0.id;
        if fs::symlink_metadata(&self.0.path).is_ok_and(is_ours) {
            // Gone already, or not ours to remove: nothing is lost.
            let _ = fs::remove_file(&self.0.path);
        }
    }
}

impl BoundFile {
    /// What it had before anything was set.
    pub(super) fn unset(&self) -> Access {
        self.unset
    }

    /// Who may connect by it now.
    ///
    /// # Errors
    /// Another file stands there.
    pub(super) fn access(&self) -> io::Result<Access> {
        let about = rustix::fs::fstat(self.open()?)?;
        Ok(Access {
            mode: Some(about.st_mode & 0o777),
            owner: Some(about.st_uid),
            group: Some(about.st_gid),
        })
    }

    /// Sets who may connect by it.
    ///
    /// # Errors
    /// Another file stands there, or this one is not ours to change.
    pub(super) fn permit(&self, access: &Access) -> io::Result<()> {
        let file = self.open()?;
        if let Some(mode) = access.mode {
            // There is no call for the mode of a file that is opened by its path only.
            let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
            fs::set_permissions(itself, Permissions::from_mode(mode))?;
        }
        if access.owner.is_some() || access.group.is_some() {
            let (owner, group) = (
                access.owner.map(Uid::from_raw),
                access.group.map(Gid::from_raw),
            );
            rustix::fs::chownat(&file, "", owner, group, AtFlags::EMPTY_PATH)?;
        }
        Ok(())
    }

    /// The file itself, whatever is put in its place meanwhile.
    fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.path, flags, Mode::empty())?;
        let about = rustix::fs::fstat(&file)?;
        let is_socket = FileType::from_raw_mode(about.st_mode) == FileType::Socket;
        match is_socket && (about.st_dev, about.st_ino) == self.id {
            true => Ok(file),
            false => Err(not_ours()),
        }
    }
}

fn not_ours() -> io::Error {
    io::Error::other("another file stands there by now: remove it, and close and open the listener")
}

/// Whether there is the file of a socket on which nobody listens any more: left over from a process that was killed. Whoever
/// listens and does not accept, its backlog full, is not waited for.
pub fn is_left_over(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    #[test]
    fn nobody_waits_for_a_listener_that_does_not_accept() {
        let folder = folder();
        let path = folder.path().join("socket");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        let address = SockAddr::unix(&path).expect("an address");
        listener.bind(&address).expect("bound");
        listener.listen(0).expect("it listens");
        let mut held = Vec::new();
        // Until its backlog is full.
        loop {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("set");
            match socket.connect(&address) {
                Ok(()) => held.push(socket),
                Err(error) => break assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            assert!(held.len() < 100, "it takes everybody");
        }
        assert!(!is_left_over(&path), "somebody listens");
        drop((listener, held));
        assert!(is_left_over(&path), "nobody does");
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
        let strict = Access {
            mode: Some(0o600),
            ..Access::default()
        };
        let open = Access {
            mode: Some(0o666),
            ..Access::default()
        };
        let _bound = UnixListener::bind(&path).expect("bound");
        let file = SocketFile::new(&path).expect("it is there");
        file.bound().permit(&strict).expect("ours");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(
            file.bound().access().expect("ours").mode,
            Some(0o600),
            "as it is"
        );
        // A link to a file of somebody's, and another's socket.
        let secret = folder.path().join("secret");
        fs::write(&secret, "x").expect("written");
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("set");
        fs::rename(&path, folder.path().join("aside")).expect("put aside");
        std::os::unix::fs::symlink(&secret, &path).expect("linked");
        file.bound().permit(&open).expect_err("not ours");
        file.bound().access().expect_err("not ours");
        assert_eq!(mode(&secret), 0o600);
        fs::remove_file(&path).expect("removed");
        let _other = UnixListener::bind(&path).expect("bound by another");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("set");
        file.bound().permit(&open).expect_err("not ours");
        assert_eq!(mode(&path), 0o600);
    }
}
