//! How a connection ends, and what becomes of what was under way on it.

use std::io;
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::Duration;

use super::Link;
use super::socket::ServerSocket;
use crate::exchange::{Ending, Offence};
use crate::server::LinkOrigin;
use crate::telemetry::{Disconnect, LossCause};
use crate::texts::{is_busy, is_loading};
use crate::thread::LINGER;

/// Says why it is being closed by respool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    why: &'static str,
    /// `None`: it is of no more use.
    cause: Option<LossCause>,
}

/// Says that a connection is to be left for another server.
#[derive(Debug, Clone, Copy)]
pub struct Leaving {
    /// It is left for this.
    pub cause: LossCause,
    /// It takes no new work from then on.
    pub from_micros: u64,
    /// What it is lent for may go on until then.
    pub until_micros: u64,
}

impl Leaving {
    /// Tells whether what is under way on it has all the time it needs: the server is there, and serves.
    pub fn is_patient(&self) -> bool {
        matches!(self.cause, LossCause::TlsKeys | LossCause::Renewed)
    }

    /// Says why, for people.
    pub fn why(&self) -> &'static str {
        match self.cause {
            LossCause::TlsKeys => "its TLS keys are used up",
            LossCause::Renewed => "how connections are opened was changed by a reload",
            _ => "the server has moved or was demoted",
        }
    }
}

/// Says how a connection has ended.
#[derive(Debug, Default)]
pub struct LinkEnd {
    /// The text is for people.
    pub why: String,
    /// It is counted so; `None`: it was of no more use.
    pub cause: Option<LossCause>,
    /// A command of its user has done this to it.
    pub offence: Option<Offence>,
}

/// Tells whether a connection's socket has ended.
#[derive(Debug, Default)]
pub struct SocketEnd(Weak<ServerSocket>);

impl SocketEnd {
    /// Tells whether the server has closed it too, or takes longer for that than servers do.
    pub fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl From<Closing> for LinkEnd {
    fn from(closing: Closing) -> Self {
        Self {
            why: closing.why.to_owned(),
            cause: closing.cause,
            offence: None,
        }
    }
}

impl Link {
    /// Returns how it has ended, when reading did. What was answered before that still counts.
    pub(super) fn ended_amid_replies(
        self: &Rc<Self>,
        error: &io::Error,
        idle: &mut impl FnMut(&Rc<Self>),
    ) -> LinkEnd {
        // Who was due a reply tells a replica's close from others.
        let ended = self.ended_by(error);
        self.react();
        if self.has_returns() {
            idle(self);
        }
        ended
    }

    /// Returns where it goes to, and since when.
    pub fn origin(&self) -> &LinkOrigin {
        &self.origin
    }

    /// Ends the connection, which is of no more use.
    pub fn close(&self, why: &'static str) {
        self.close_as(Closing { why, cause: None });
    }

    /// Ends the connection, which the server does not serve as it should.
    pub fn lose(&self, cause: LossCause, why: &'static str) {
        let cause = Some(cause);
        self.close_as(Closing { why, cause });
    }

    fn close_as(&self, closing: Closing) {
        if self.closing.get().is_none() {
            self.closing.set(Some(closing));
            if let Some(waker) = &*self.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }

    /// Ends it on this thread, so that it goes on with another worker.
    pub fn pass_to(&self, worker: usize) {
        self.passes_to.set(Some(worker));
        self.close("another worker goes on with it");
    }

    /// Tells whether nothing is under way on it in either direction, nobody uses it, and it is to stay.
    pub fn is_between_frames(&self) -> bool {
        let is_quiet = self.exchange.borrow().is_between_frames();
        let is_free = !self.is_raw() && !self.is_partial() && !self.is_held();
        is_quiet && is_free && self.is_alive() && self.leaving().is_none()
    }

    /// Has it left; the first time stands.
    pub fn set_leaving(&self, leaving: Leaving) {
        if self.leaving.get().is_none() {
            self.leaving.set(Some(leaving));
        }
    }

    /// Has it left from `now` on already.
    pub fn leave_at(&self, now: u64) {
        let leaving = self.leaving.get();
        self.leaving.set(leaving.map(|leaving| Leaving {
            from_micros: now,
            ..leaving
        }));
    }

    /// Tells whether it is to be left for another.
    #[inline]
    pub fn leaving(&self) -> Option<Leaving> {
        self.leaving.get()
    }

    /// Tells whether replies are due and the server has sent nothing for `limit`.
    pub fn is_stuck(&self, limit: Duration) -> bool {
        let since = self.exchange.borrow().silent_since();
        since.is_some_and(|since| self.thread.clock.is_past(since, limit))
    }

    /// Hears an error that the server has answered with, which may tell that it cannot serve. Only whole first words count, and
    /// only replies of their own: an error in a transaction's or a script's array is the client's.
    #[cold]
    pub(super) fn hear_error(&self, error: &[u8]) {
        let cause = if error.starts_with(b"-READONLY ") {
            self.has_refused_write.set(true);
            LossCause::Readonly
        } else if error.starts_with(b"-MASTERDOWN ") {
            LossCause::MasterDown
        } else if is_loading(error) {
            LossCause::Loading
        } else if is_busy(error) {
            return self.thread.pulse.heard_busy(self.thread.clock.now_micros());
        } else {
            return;
        };
        if cause != LossCause::Readonly {
            self.thread.counters.losses(cause).add(1);
        }
        if cause != LossCause::Loading {
            self.alarm.set(Some(cause));
        }
    }

    /// Returns once that the server has said that it is no primary.
    #[inline]
    pub fn take_alarm(&self) -> Option<LossCause> {
        self.alarm.take()
    }

    /// Tells what `error` of its socket means.
    pub(super) fn ended_by(&self, error: &io::Error) -> LinkEnd {
        if self.is_debugging() {
            return LinkEnd {
                why: "the session of a debugger is over".to_owned(),
                ..LinkEnd::default()
            };
        }
        if self.is_finishing() {
            self.note_finished(error);
            return LinkEnd {
                why: "its client has finished sending".to_owned(),
                ..LinkEnd::default()
            };
        }
        let is_replica_close = || {
            let is_due = !self.exchange.borrow().is_empty();
            self.has_refused_write.get() || (self.origin.is_replica && is_due)
        };
        let cause = match error.kind() {
            io::ErrorKind::UnexpectedEof if is_replica_close() => LossCause::ReplicaWriteClose,
            // It has closed while respool asked it for its role.
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                if self.has_refused_write.get() =>
            {
                LossCause::ReplicaWriteClose
            }
            io::ErrorKind::UnexpectedEof => LossCause::Closed,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => LossCause::Reset,
            // Keepalive, or the kernel's patience with bytes that nobody acknowledges.
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable => {
                let now = self.thread.clock.refresh();
                self.thread.process.pulse.host_is_gone(now);
                LossCause::HalfOpen
            }
            io::ErrorKind::InvalidData => LossCause::Protocol,
            _ => LossCause::Error,
        };
        LinkEnd {
            why: error.to_string(),
            cause: Some(cause),
            offence: self.exchange.borrow().offence(),
        }
    }

    /// Counts its end: it is not used any more.
    pub(super) fn end(&self, ended: &LinkEnd) {
        let cause = ended.cause;
        self.closing.set(Some(Closing { why: "lost", cause }));
        if let Some(cause) = cause {
            self.thread.counters.losses(cause).add(1);
        }
        if let Some(offence) = ended.offence {
            self.distrust_user(offence);
        }
        let process = &self.thread.process;
        let now = process.now_micros();
        // Keys that are used up, or a reload, say nothing of the server.
        let is_own = |cause| matches!(cause, LossCause::TlsKeys | LossCause::Renewed);
        let cause = cause.filter(|cause| !is_own(*cause));
        let node = &self.origin.node;
        process.failovers.closed(self.socket_kind, node, cause, now);
    }

    /// Tells everybody that it is lost, see [`crate::exchange::Exchange::end`].
    pub(super) fn collapse(&self) {
        let exchange = self.exchange.borrow_mut().take();
        // Not borrowed any more: whoever is told may give it back.
        let pinned = self.sink.take().lost();
        if self.is_debugging()
            && let Some(client) = &pinned
        {
            // The server ends the session so.
            client.close(Disconnect::Quit);
        }
        if self.is_finishing()
            && let Some(client) = &pinned
        {
            // As the server closes whoever has finished sending.
            client.close(Disconnect::Closed);
        }
        self.vouching.take();
        let ending = match self.has_finished() {
            true => Ending::Finished,
            false => Ending::Lost,
        };
        let ended = exchange.end(pinned, ending);
        let disconnected = ended.disconnected;
        self.room.take().into_all().for_each(Waker::wake);
        ended.tell();
        self.thread.process.failovers.disconnected(disconnected);
    }

    /// Returns its socket, for whoever is to see that end.
    pub fn socket_end(&self) -> SocketEnd {
        let socket = self.socket.borrow();
        SocketEnd(socket.as_ref().map(Rc::downgrade).unwrap_or_default())
    }

    /// Closes, and waits for the server to do so too as long as servers usually take. One that takes longer has the socket,
    /// and the permit with it, until it does.
    pub(super) async fn linger(&self, socket: Rc<ServerSocket>) {
        self.socket.borrow_mut().take();
        socket.finish_writing();
        let ended = std::future::poll_fn(|cx| socket.poll_end(cx));
        let _ = tokio::time::timeout(LINGER, ended).await;
    }
}
