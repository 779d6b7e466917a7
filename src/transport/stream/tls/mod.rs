//! A TLS connection: a session over a socket, used through `&self` as the plain ones are.
//!
//! Invariant: a read that does not fill the buffer has emptied the socket and what was decrypted from it, as on a plain
//! socket. Invariant: bytes that [`TlsStream::try_write`] has taken are encrypted and may have been sent; what the socket has not
//! taken of them yet is [`TlsStream::has_unflushed`], at most what became of one call, and goes before anything else.

mod accept;
mod authorities;
mod connect;
mod explain;
mod session;
mod verify;

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Context, Poll};

use rustls::Error;

pub(in crate::transport) use accept::TlsAcceptor;
pub use accept::{AcceptError, ClientTls};
pub use connect::{HandshakeFailed, TlsConnector};
use session::{MOST_CIPHER, MOST_PLAIN, RECORD, SessionSide, TlsSession};

use super::Stream;
use crate::config::CertificateFacts;
use crate::transport::{READ_SIZE, let_others_go_first};

/// Reads of the socket for one of the connection, before other tasks get their turn.
const READS_A_TURN: usize = 4;

/// Bounds the bytes shown of what was no TLS.
const SHOWN: usize = 64;

thread_local! {
    /// Records as they were read, and as they are written. Of the thread: an idle connection has no buffers.
    static RECORDS: RefCell<Box<[u8]>> = RefCell::new(vec![0; 64 * 1024 + RECORD + READ_SIZE + RECORD].into());
    static CIPHER: RefCell<Box<[u8]>> = RefCell::new(vec![0; MOST_CIPHER].into());
}

/// Is a TLS connection whose handshake is over.
pub struct TlsStream {
    /// Carries the records: the plain socket below.
    socket: Stream,
    session: RefCell<TlsSession>,
    end: RefCell<Option<ReadEnd>>,
    role: TlsRole,
    /// Is true while more is to be read, and others come first.
    yields: Cell<bool>,
}

/// Tells towards whom respool speaks.
#[derive(Debug, Clone, Copy)]
enum TlsRole {
    /// It speaks towards the server, with a certificate of respool's own or without.
    TowardsServer {
        has_identity: bool,
    },
    TowardsClient,
}

/// Tells why nothing more can be read.
enum ReadEnd {
    /// The other side has closed its socket.
    Closed,
    /// It sent what is not TLS, or an alert.
    Failed(String),
}

/// Tells how a handshake ended that came to nothing.
enum BrokenHandshake {
    /// The socket broke it.
    Socket(io::Error),
    /// The other side closed it.
    Closed,
    /// The bytes that were sent broke it, as the error says.
    Tls(Error),
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tls").field(&self.socket).finish()
    }
}

impl Drop for TlsStream {
    /// Says goodbye, as far as the socket takes it: without, the other side must take the end for an attack.
    fn drop(&mut self) {
        self.say_goodbye();
    }
}

impl TlsStream {
    fn new(socket: Stream, side: SessionSide, role: TlsRole) -> Self {
        Self {
            socket,
            session: RefCell::new(TlsSession::new(side)),
            end: RefCell::new(None),
            role,
            yields: Cell::new(false),
        }
    }

    /// Tells whether its keys are nearly used up: it is time to finish what is under way and to use another connection.
    pub(super) fn is_worn_out(&self) -> bool {
        self.session.borrow().is_worn_out()
    }

    /// Moves to this runtime, as [`Stream::rehome`] says.
    pub(super) fn rehome(&mut self) -> io::Result<()> {
        // It says goodbye when it is dropped, so its socket cannot be taken out of it, only be replaced.
        let (other, _) = tokio::net::UnixStream::pair()?;
        let socket = std::mem::replace(&mut self.socket, Stream::Unix(other));
        self.socket = socket.rehome()?;
        Ok(())
    }

    /// Returns the socket below.
    pub(in crate::transport) fn socket(&self) -> &Stream {
        &self.socket
    }

    /// Returns what is known of the other side's certificate.
    pub fn peer(&self) -> Option<CertificateFacts> {
        CertificateFacts::read(self.session.borrow().peer_certificate()?)
    }

    /// Tells whether an earlier connection spared this one most of its handshake.
    pub fn is_resumed(&self) -> bool {
        self.session.borrow().is_resumed()
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let has_plain = {
            let mut session = self.session.borrow_mut();
            !session.plain().is_empty() || session.is_closed()
        };
        if has_plain || self.end.borrow().is_some() {
            return Poll::Ready(Ok(()));
        }
        if self.yields.take() {
            return let_others_go_first(cx);
        }
        self.socket.poll_read_ready(cx)
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_flush(cx) {
            Poll::Ready(Ok(())) => self.socket.poll_write_ready(cx),
            other => other,
        }
    }

    /// Sends what is encrypted and waits for the socket to take it.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.flush() {
                Ok(true) => return Poll::Ready(Ok(())),
                Ok(false) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            match self.socket.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        }
    }

    /// Counts the memory that is held for records and for what was in them.
    pub(super) fn held_bytes(&self) -> usize {
        self.session.borrow().held_bytes()
    }

    /// Counts the bytes of a record that has begun and not ended.
    pub fn unfinished_bytes(&self) -> usize {
        self.session.borrow().incoming().len()
    }

    /// Lets go of memory, as [`Stream::let_go`] says.
    pub(super) fn let_go(&self) {
        if let Ok(mut session) = self.session.try_borrow_mut() {
            session.let_go();
        }
    }

    pub(super) fn has_unflushed(&self) -> bool {
        !self.session.borrow_mut().out().is_empty()
    }

    /// Sends what is encrypted, as far as the socket takes it. True: all of it.
    fn flush(&self) -> io::Result<bool> {
        let mut session = self.session.borrow_mut();
        let out = session.out();
        while !out.is_empty() {
            match self.socket.try_write(out.front()) {
                Ok(taken) => out.advance(taken),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    pub(super) fn try_write(&self, plain: &[u8]) -> io::Result<usize> {
        if !self.flush()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = plain.len().min(MOST_PLAIN);
        CIPHER.with_borrow_mut(|cipher| {
            let mut session = self.session.borrow_mut();
            let length = session
                .encrypt(&plain[..taken], cipher)
                .map_err(|error| io::Error::other(explain::broken(&error, self.role)))?;
            let mut sent = 0;
            // What TLS itself had to say goes first.
            if session.out().is_empty() {
                sent = match self.socket.try_write(&cipher[..length]) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    sent => sent?,
                };
            }
            session.out().push(&cipher[sent..length]);
            Ok(taken)
        })
    }

    pub(super) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = self.take_plain(buf);
        let mut reads = 0;
        while filled < buf.len() && self.end.borrow().is_none() {
            if self.session.borrow().is_closed() {
                break;
            }
            if reads == READS_A_TURN {
                // Records with hardly anything in them must not hold up the others.
                self.yields.set(true);
                break;
            }
            reads += 1;
            match self.receive(buf, &mut filled, None) {
                Ok(true) => {}
                Ok(false) => break,
                Err(BrokenHandshake::Closed) => *self.end.borrow_mut() = Some(ReadEnd::Closed),
                Err(BrokenHandshake::Socket(error)) if filled == 0 => return Err(error),
                Err(BrokenHandshake::Socket(error)) => {
                    *self.end.borrow_mut() = Some(ReadEnd::Failed(error.to_string()));
                }
                Err(BrokenHandshake::Tls(error)) => {
                    *self.end.borrow_mut() =
                        Some(ReadEnd::Failed(explain::broken(&error, self.role)));
                }
            }
        }
        // Answers of TLS itself, an alert among them. What does not go now is flushed by whoever writes next.
        let flushed = self.flush();
        if filled > 0 || buf.is_empty() {
            return Ok(filled);
        }
        match &*self.end.borrow() {
            // An end without a goodbye is an end: requests and replies have lengths of their own.
            Some(ReadEnd::Closed) => Ok(0),
            Some(ReadEnd::Failed(text)) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, text.clone()))
            }
            None if self.session.borrow().is_closed() => Ok(0),
            None => flushed.and(Err(io::ErrorKind::WouldBlock.into())),
        }
    }

    fn take_plain(&self, buf: &mut [u8]) -> usize {
        let mut session = self.session.borrow_mut();
        let plain = session.plain();
        let taken = plain.front().len().min(buf.len());
        buf[..taken].copy_from_slice(&plain.front()[..taken]);
        plain.advance(taken);
        taken
    }

    /// Reads the socket once and decrypts what came. False: the socket is empty.
    fn receive(
        &self,
        buf: &mut [u8],
        filled: &mut usize,
        first: Option<&mut Vec<u8>>,
    ) -> Result<bool, BrokenHandshake> {
        RECORDS.with_borrow_mut(|records| {
            let mut session = self.session.borrow_mut();
            let carried = session.incoming().len();
            records[..carried].copy_from_slice(session.incoming());
            // A whole record at least, so that a small buffer does not cost a read for each of its pieces.
            let wanted = (buf.len() - *filled).clamp(RECORD, READ_SIZE);
            let into = &mut records[carried..carried + wanted];
            let read = match self.socket.try_read(into) {
                Ok(0) => return Err(BrokenHandshake::Closed),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(BrokenHandshake::Socket(error)),
            };
            if let Some(first) = first.filter(|first| first.len() < SHOWN) {
                // Before they are decrypted where they lie.
                let shown = read.min(SHOWN - first.len());
                first.extend_from_slice(&into[..shown]);
            }
            session
                .feed(&mut records[..carried + read], buf, filled)
                .map_err(BrokenHandshake::Tls)?;
            Ok(read == wanted)
        })
    }

    pub(super) fn say_goodbye(&self) {
        self.session.borrow_mut().close();
        // A socket that takes nothing any more, or is gone, needs no goodbye.
        let _ = self.flush();
    }

    /// Says goodbye, and that nothing more will be written. What the socket has not taken by now is given up: sent later,
    /// its error would be taken for the end of the other side.
    pub(super) fn finish_writing(&self) {
        self.say_goodbye();
        self.socket.finish_writing();
        self.session.borrow_mut().out().clear();
    }

    /// Shakes hands. `first` gets the first bytes of the other side; `hold` is told how much memory is held after each
    /// read, and says whether there is room for another: until there is, others have their turns.
    async fn shake_hands(
        &self,
        first: &mut Vec<u8>,
        hold: impl Fn(usize) -> bool,
    ) -> Result<(), BrokenHandshake> {
        self.session
            .borrow_mut()
            .start()
            .map_err(BrokenHandshake::Tls)?;
        loop {
            hold(self.held_bytes());
            std::future::poll_fn(|cx| self.poll_flush(cx))
                .await
                .map_err(BrokenHandshake::Socket)?;
            if !self.session.borrow().is_handshaking() {
                return Ok(());
            }
            std::future::poll_fn(|cx| self.socket.poll_read_ready(cx))
                .await
                .map_err(BrokenHandshake::Socket)?;
            while !hold(self.held_bytes()) {
                tokio::task::yield_now().await;
            }
            if let Err(broken) = self.receive(&mut [], &mut 0, Some(first)) {
                if explain::looks_like_tls(first) {
                    // The alert, as far as it goes.
                    let _ = self.flush();
                } else {
                    // Who speaks no TLS would take an alert for garbage.
                    self.session.borrow_mut().out().clear();
                }
                return Err(broken);
            }
        }
    }
}

#[cfg(test)]
mod tests;
