//! A connection of a neighbour: it sends what it likes, reads when it likes, and ends when it likes.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::uninterrupted;

/// One attempt to send or to read may take so long.
const ATTEMPT: Duration = Duration::from_millis(20);

pub(super) struct Rough(TcpStream);

/// Says what became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The socket sent or read this number of bytes.
    Some(usize),
    /// No byte was sent or read in time.
    Nothing,
    /// The connection has ended.
    Ended,
}

impl Rough {
    /// Connects, if that is accepted.
    pub(super) fn connect(address: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(ATTEMPT)).ok()?;
        stream.set_write_timeout(Some(ATTEMPT)).ok()?;
        Some(Self(stream))
    }

    /// Lets the kernel hold few unread bytes for it.
    pub(super) fn read_little(&self) {
        let _ = socket2::SockRef::from(&self.0).set_recv_buffer_size(16 * 1024);
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Attempt {
        of(uninterrupted(|| self.0.write(bytes)))
    }

    /// Sends what is taken at once, or until nothing more is taken. False: the connection has ended.
    pub(super) fn send_all(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self.send(bytes) {
                Attempt::Some(length) => bytes = &bytes[length..],
                Attempt::Nothing => return true,
                Attempt::Ended => return false,
            }
        }
        true
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Attempt {
        match of(uninterrupted(|| self.0.read(buffer))) {
            Attempt::Some(0) => Attempt::Ended,
            other => other,
        }
    }

    /// Tells whether the other side has ended it, seen without waiting or taking anything.
    pub(super) fn has_ended(&self) -> bool {
        let mut byte = [0];
        if self.0.set_nonblocking(true).is_err() {
            return true;
        }
        let peeked = of(uninterrupted(|| self.0.peek(&mut byte)));
        let _ = self.0.set_nonblocking(false);
        matches!(peeked, Attempt::Some(0) | Attempt::Ended)
    }

    pub(super) fn reset(self) {
        let _ = socket2::SockRef::from(&self.0).set_linger(Some(Duration::ZERO));
    }
}

fn of(result: std::io::Result<usize>) -> Attempt {
    match result {
        Ok(length) => Attempt::Some(length),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Attempt::Nothing
        }
        Err(_) => Attempt::Ended,
    }
}
