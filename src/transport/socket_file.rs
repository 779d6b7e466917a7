//! The files of unix sockets: whether somebody listens there, and removing one's own.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a unix socket, removed when nobody listens on it any more; not one that another process has put in its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: Option<(u64, u64)>,
}

impl SocketFile {
    /// That of a socket which was bound at `path` just now.
    pub(super) fn new(path: PathBuf) -> Self {
        let id = id(&path);
        Self { path, id }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.id.is_some() && id(&self.path) == self.id {
            // Gone already, or not ours to remove: nothing is lost.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn id(path: &Path) -> Option<(u64, u64)> {
    let about = std::fs::symlink_metadata(path).ok()?;
    Some((about.dev(), about.ino()))
}

/// Whether there is the file of a socket on which nobody listens any more: left over from a process that was killed. Whoever
/// listens and does not accept, its backlog full, is not waited for.
pub fn is_left_over(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket())
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
        let file = SocketFile::new(path.clone());
        std::fs::remove_file(&path).expect("removed by hand");
        let _other = UnixListener::bind(&path).expect("bound by another");
        drop((file, bound));
        assert!(path.exists());
        drop(SocketFile::new(path.clone()));
        assert!(!path.exists(), "one's own goes");
    }
}
