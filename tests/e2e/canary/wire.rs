//! A connection of a canary: it may end at any moment, even inside a reply; that is told and never a failure.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::bird::is_refusal;
use crate::harness::{PATIENCE, Unparsed, Value, encode, show, uninterrupted};

/// Says that the connection has ended.
#[derive(Debug)]
pub(super) struct Gone;

/// Says how a client leaves.
#[derive(Debug, Clone, Copy)]
pub(super) enum Leave {
    /// It closes its socket.
    Orderly,
    /// It resets the connection.
    Abrupt,
}

/// Bounds the bytes that were handed out and stand before others that are not.
const USED_AT_MOST: usize = 256 * 1024;

pub(super) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The bytes of `buffer` up to here have been handed out.
    used: usize,
    /// Says who it is at the server, once it has authenticated.
    pub(super) user: Option<String>,
}

impl Wire {
    /// Connects, as `user` (its name is its password) as far as the server can be asked.
    pub(super) fn connect(address: &str, user: Option<String>) -> Self {
        let stream =
            TcpStream::connect(address).unwrap_or_else(|e| panic!("connect to {address}: {e}"));
        let prepare = || {
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_read_timeout(Some(PATIENCE))
        };
        prepare().expect("options can be set on a socket");
        let mut wire = Self {
            stream,
            buffer: Vec::new(),
            used: 0,
            user: None,
        };
        if let Some(user) = user {
            wire.user = wire.authenticate(&user).unwrap_or(false).then_some(user);
        }
        wire
    }

    fn authenticate(&mut self, user: &str) -> Result<bool, Gone> {
        self.send(&encode(&["AUTH", user, user]))?;
        let reply = self.reply()?;
        assert!(reply == Value::ok() || is_refusal(&reply), "{reply:?}");
        Ok(reply == Value::ok())
    }

    /// Tells the client's own address, as respool knows it.
    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.stream.write_all(bytes).map_err(|e| {
            assert!(
                !is_timeout(&e),
                "{} bytes were not taken in time",
                bytes.len()
            );
            Gone
        })
    }

    /// Reads the next reply. Panics when none comes within [`PATIENCE`], and at bytes that are no RESP.
    pub(super) fn reply(&mut self) -> Result<Value, Gone> {
        loop {
            let wanted = match Value::parse(&self.buffer[self.used..]) {
                Ok((value, length)) => {
                    self.used += length;
                    return Ok(value);
                }
                Err(Unparsed::NeedAtLeast(length)) => length,
                Err(Unparsed::NotResp(text)) => panic!("not RESP: {text}"),
            };
            while self.buffer.len() - self.used < wanted {
                self.read()?;
            }
        }
    }

    /// Reads once, whatever comes.
    pub(super) fn read(&mut self) -> Result<(), Gone> {
        if self.used == self.buffer.len() {
            self.buffer.clear();
            self.used = 0;
        } else if self.used > USED_AT_MOST {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        let mut chunk = [0; 16 * 1024];
        match uninterrupted(|| self.stream.read(&mut chunk)) {
            Ok(0) => Err(Gone),
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(e) if is_timeout(&e) => {
                let rest = show(&self.buffer[self.used..]);
                panic!("nothing came within {PATIENCE:?}, so far {rest:?}")
            }
            Err(_) => Err(Gone),
        }
    }

    /// Reads the next frame that has come already.
    pub(super) fn buffered(&mut self) -> Option<Value> {
        match Value::parse(&self.buffer[self.used..]) {
            Ok((value, length)) => {
                self.used += length;
                Some(value)
            }
            Err(Unparsed::NeedAtLeast(_)) => None,
            Err(Unparsed::NotResp(text)) => panic!("not RESP: {text}"),
        }
    }

    /// Reads once; it is no failure if nothing comes within this time.
    pub(super) fn read_within(&mut self, limit: Duration) -> Result<(), Gone> {
        self.set_read_timeout(limit);
        let mut byte = [0];
        let peeked = uninterrupted(|| self.stream.peek(&mut byte));
        self.set_read_timeout(PATIENCE);
        match peeked {
            Err(e) if is_timeout(&e) => Ok(()),
            Err(_) => Err(Gone),
            Ok(_) => self.read(),
        }
    }

    fn set_read_timeout(&self, limit: Duration) {
        self.stream
            .set_read_timeout(Some(limit))
            .expect("a timeout can be set on a socket");
    }

    /// Panics if bytes have come for which nothing was asked.
    pub(super) fn assert_nothing_left(&self) {
        let rest = &self.buffer[self.used..];
        assert!(rest.is_empty(), "nobody asked for {}", show(rest));
    }

    pub(super) fn leave(self, how: Leave) {
        if let Leave::Abrupt = how {
            socket2::SockRef::from(&self.stream)
                .set_linger(Some(Duration::ZERO))
                .expect("SO_LINGER can be set");
        }
    }
}

fn is_timeout(e: &std::io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
