//! A listening socket together with the file by which it is found.
//!
//! Invariant: the file is removed while the socket still listens. Whoever starts at the path finds somebody who listens or
//! nothing at all, never a file that looks left over and is removed a moment later; and as long as the socket is open no
//! other file has its inode.

use std::io;

use super::socket_file::SocketFile;

/// Holds a socket, and its file if it is a unix one. They end in the order of the fields.
#[derive(Debug)]
pub(super) struct NamedSocket<S> {
    pub(super) file: Option<SocketFile>,
    pub(super) socket: S,
}

impl<S: Clone> NamedSocket<S> {
    /// Returns what `change` makes of the socket, with the same file.
    ///
    /// # Errors
    /// Those of `change`: both have ended then.
    pub(super) fn try_map<T>(
        self,
        change: impl FnOnce(S) -> io::Result<T>,
    ) -> io::Result<NamedSocket<T>> {
        let socket = change(self.socket.clone())?;
        Ok(NamedSocket {
            file: self.file,
            socket,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::{Path, PathBuf};
    use std::rc::Rc;

    use super::*;

    /// Is a socket that listens until its drop, and says there whether it could be found until then.
    #[derive(Clone)]
    struct Socket {
        path: PathBuf,
        was_found: Rc<std::cell::Cell<Option<bool>>>,
        _listener: Rc<UnixListener>,
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            self.was_found.set(Some(self.path.exists()));
        }
    }

    fn listening(path: &Path) -> NamedSocket<Socket> {
        let listener = UnixListener::bind(path).expect("bound");
        NamedSocket {
            file: Some(SocketFile::new(path).expect("it is there")),
            socket: Socket {
                path: path.to_owned(),
                was_found: Rc::default(),
                _listener: Rc::new(listener),
            },
        }
    }

    #[test]
    fn the_file_goes_before_the_socket() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let named = listening(&path);
        let was_found = Rc::clone(&named.socket.was_found);
        // Whoever has connected before is with whoever accepts still.
        let client = UnixStream::connect(&path).expect("it listens");
        drop(named);
        assert_eq!(was_found.get(), Some(false));
        drop(client);
        let named = listening(&path);
        let was_found = Rc::clone(&named.socket.was_found);
        let refused = named.try_map(|_| Err::<(), _>(io::Error::other("no room")));
        refused.expect_err("no room");
        assert_eq!(was_found.get(), Some(false), "nor when it fails");
    }
}
