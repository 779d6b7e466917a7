//! How a connection ends, and what becomes of what was under way on it.

use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::Link;
use super::end::{Closing, LinkEnd, ReplicaDues};
use super::signs::ErrorSign;
use super::socket::ServerSocket;
use crate::server::LinkOrigin;
use crate::telemetry::LossCause;
use crate::thread::LINGER;

/// Tells whether a connection's socket has ended.
#[derive(Debug, Default)]
pub struct SocketEnd(Weak<ServerSocket>);

impl SocketEnd {
    /// Tells whether the server has closed it too, or takes longer for that than servers do.
    pub fn is_over(&self) -> bool {
        self.0.strong_count() == 0
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
        self.close_as(Closing::Useless(why));
    }

    /// Ends the connection, which the server does not serve as it should.
    pub fn lose(&self, cause: LossCause, why: &'static str) {
        self.close_as(Closing::Lost(cause, why));
    }

    /// Ends it on this thread, so that it goes on with another worker.
    pub fn pass_to(&self, worker: usize) {
        self.close_as(Closing::Passed(worker));
    }

    fn close_as(&self, closing: Closing) {
        if self.ending.close(closing) {
            self.task.wake_anew();
        }
    }

    /// Tells whether nothing is under way on it in either direction, nobody uses it, and it is to stay.
    pub fn is_between_frames(&self) -> bool {
        let is_quiet = self.exchange.borrow().is_between_frames();
        let is_free = !self.is_raw() && !self.is_partial() && !self.is_held();
        is_quiet && is_free && self.is_alive() && self.leaving().is_none()
    }

    /// Tells whether replies are due and the server has sent nothing for `limit`.
    pub fn is_stuck(&self, limit: Duration) -> bool {
        let since = self.exchange.borrow().silent_since();
        since.is_some_and(|since| self.thread.clock.is_past(since, limit))
    }

    /// Hears an error that the server has answered with, which may tell that it cannot serve.
    #[cold]
    pub(super) fn hear_error(&self, error: &[u8]) {
        let sign = ErrorSign::of(error);
        if sign == ErrorSign::Busy {
            self.thread.pulse.heard_busy(self.thread.clock.now_micros());
        }
        if let Some(cause) = self.signs.hear(sign) {
            self.thread.counters.losses(cause).add(1);
        }
    }

    /// Returns once that the server has said that it is no primary.
    #[inline]
    pub fn take_alarm(&self) -> Option<LossCause> {
        self.signs.take_alarm()
    }

    /// Tells what `error` of its socket means.
    pub(super) fn ended_by(&self, error: &io::Error) -> LinkEnd {
        if let Some(why) = self.ending.expected(error.kind(), self.is_debugging()) {
            return LinkEnd {
                why: why.to_owned(),
                ..LinkEnd::default()
            };
        }
        let exchange = self.exchange.borrow();
        let dues = ReplicaDues {
            has_refused_write: self.signs.has_refused_write(),
            owes_as_replica: self.origin.is_replica && !exchange.is_empty(),
        };
        let cause = dues.cause_of(error.kind());
        if cause == LossCause::HalfOpen {
            let now = self.thread.clock.refresh();
            self.thread.process.pulse.host_is_gone(now);
        }
        LinkEnd {
            why: error.to_string(),
            cause: Some(cause),
            offence: exchange.offence(),
        }
    }

    /// Counts its end: it is not used any more.
    pub(super) fn end(&self, socket: &ServerSocket, ended: &LinkEnd) {
        self.ending.close(Closing::Over);
        let cause = ended.cause;
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
        process.failovers.closed(socket.kind(), node, cause, now);
    }

    /// Tells everybody that it is lost, see [`crate::exchange::Exchange::end`].
    pub(super) fn collapse(&self) {
        let exchange = self.exchange.borrow_mut().take();
        // Not borrowed any more: whoever is told may give it back.
        let lent_to = self.role.take().lost();
        if let Some(client) = &lent_to
            && let Some(reason) = self.ending.disconnect(self.is_debugging())
        {
            client.close(reason);
        }
        self.traces.lost();
        let ended = exchange.end(lent_to, self.ending.means());
        let disconnected = ended.disconnected;
        self.room.end();
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
