//! A real server that judges requests: it permits nothing but PING, so that any request is answered by one frame and changes
//! nothing.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A server may take so long to judge.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks the server behind a unix socket.
pub(crate) struct Server {
    socket: PathBuf,
}

impl Server {
    /// Takes the server with this unix socket.
    pub(crate) fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Tells everything it answers to these bytes from a client that then sends nothing more.
    pub(crate) fn answer(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(&self.socket)
            .unwrap_or_else(|e| panic!("{}: {e}", self.socket.display()));
        for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            set(&stream, Some(PATIENCE)).expect("a timeout can be set");
        }
        // It may close before it has read everything.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match stream.read(&mut chunk) {
                Ok(0) => return answer,
                Ok(count) => answer.extend_from_slice(&chunk[..count]),
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return answer,
                Err(e) => panic!("no end of the answer to {bytes:?}: {e}"),
            }
        }
    }
}
