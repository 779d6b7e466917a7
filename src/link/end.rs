//! Why a connection ends, and what those who are due something get then: decided without its socket.

use std::cell::Cell;
use std::io;

use crate::exchange::{Ending, Offence};
use crate::telemetry::{Disconnect, LossCause};

/// Says why respool ends a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Closing {
    /// It is of no more use, for this reason.
    Useless(&'static str),
    /// The server does not serve it as it should.
    Lost(LossCause, &'static str),
    /// The worker of this number goes on with it.
    Passed(usize),
    /// The connection has ended already.
    Over,
}

/// Says how far a connection is with sending nothing more, as its client does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Finishing {
    /// It goes on sending as before.
    #[default]
    No,
    /// Nothing more is sent since that time; the server is told so when it has been sent everything.
    Asked(u64),
    /// It was asked for then, and the server has been told.
    Told(u64),
    /// The server has closed in answer.
    Done,
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

impl From<Closing> for LinkEnd {
    fn from(closing: Closing) -> Self {
        let (cause, why) = match closing {
            Closing::Useless(why) => (None, why),
            Closing::Lost(cause, why) => (Some(cause), why),
            Closing::Passed(_) => (None, "another worker goes on with it"),
            Closing::Over => (None, "it has ended"),
        };
        Self {
            why: why.to_owned(),
            cause,
            offence: None,
        }
    }
}

/// Says what the server may have closed a connection for, being a replica.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ReplicaDues {
    /// The server has refused a write on it.
    pub(super) has_refused_write: bool,
    /// The server called itself a replica, and owes replies.
    pub(super) owes_as_replica: bool,
}

impl ReplicaDues {
    /// Tells what an error of this kind of a connection's socket means.
    pub(super) fn cause_of(self, kind: io::ErrorKind) -> LossCause {
        match kind {
            io::ErrorKind::UnexpectedEof if self.has_refused_write || self.owes_as_replica => {
                LossCause::ReplicaWriteClose
            }
            // It has closed while respool asked it for its role.
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                if self.has_refused_write =>
            {
                LossCause::ReplicaWriteClose
            }
            io::ErrorKind::UnexpectedEof => LossCause::Closed,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => LossCause::Reset,
            // Keepalive, or the kernel's patience with bytes that nobody acknowledges.
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable => LossCause::HalfOpen,
            io::ErrorKind::InvalidData => LossCause::Protocol,
            _ => LossCause::Error,
        }
    }
}

/// Remembers why a connection is to end, and how far it is with that.
#[derive(Default)]
pub(super) struct LinkEnding {
    closing: Cell<Option<Closing>>,
    finishing: Cell<Finishing>,
}

impl LinkEnding {
    #[inline]
    pub(super) fn closing(&self) -> Option<Closing> {
        self.closing.get()
    }

    /// Has it end; the first reason stands. Returns whether this is the first.
    pub(super) fn close(&self, closing: Closing) -> bool {
        let is_first = self.closing.get().is_none();
        if is_first {
            self.closing.set(Some(closing));
        }
        is_first
    }

    /// Returns the worker that goes on with it.
    pub(super) fn passes_to(&self) -> Option<usize> {
        match self.closing.get()? {
            Closing::Passed(worker) => Some(worker),
            Closing::Useless(_) | Closing::Lost(..) | Closing::Over => None,
        }
    }

    /// Has nothing more sent from `now` on. Returns whether it was not so already.
    pub(super) fn finish(&self, now: u64) -> bool {
        let is_first = !self.is_finishing();
        if is_first {
            self.finishing.set(Finishing::Asked(now));
        }
        is_first
    }

    /// Tells whether nothing more is sent on it.
    pub(super) fn is_finishing(&self) -> bool {
        self.finishing.get() != Finishing::No
    }

    /// Returns since when nothing more is sent on it, while the server has not closed in answer.
    pub(super) fn finishing_since(&self) -> Option<u64> {
        match self.finishing.get() {
            Finishing::Asked(micros) | Finishing::Told(micros) => Some(micros),
            Finishing::No | Finishing::Done => None,
        }
    }

    /// Tells whether the server is to be told so, as soon as it has been sent everything.
    #[inline]
    pub(super) fn is_server_to_be_told(&self) -> bool {
        matches!(self.finishing.get(), Finishing::Asked(_))
    }

    /// Takes in that the server has been told so.
    pub(super) fn told(&self) {
        if let Finishing::Asked(micros) = self.finishing.get() {
            self.finishing.set(Finishing::Told(micros));
        }
    }

    /// Takes in that the socket has ended with an error of this kind. Returns why the connection has ended, where that was asked for, and
    /// `None` where it is a loss.
    pub(super) fn expected(&self, kind: io::ErrorKind, is_debugging: bool) -> Option<&'static str> {
        if is_debugging {
            return Some("the session of a debugger is over");
        }
        match self.finishing.get() {
            Finishing::No => return None,
            Finishing::Told(_) if kind == io::ErrorKind::UnexpectedEof => {
                self.finishing.set(Finishing::Done);
            }
            Finishing::Asked(_) | Finishing::Told(_) | Finishing::Done => {}
        }
        Some("its client has finished sending")
    }

    /// Tells why the client that it is lent to is closed with it, where the server would have closed the client so; `None`: as others are.
    pub(super) fn disconnect(&self, is_debugging: bool) -> Option<Disconnect> {
        match self.finishing.get() {
            // The server ends the session so.
            _ if is_debugging => Some(Disconnect::Quit),
            Finishing::No => None,
            // As the server closes whoever has finished sending.
            Finishing::Asked(_) | Finishing::Told(_) | Finishing::Done => Some(Disconnect::Closed),
        }
    }

    /// Tells what the end means to those who are due something: where the server has closed in answer, what it has not answered it has not
    /// done.
    pub(super) fn means(&self) -> Ending {
        match self.finishing.get() {
            Finishing::Done => Ending::Finished,
            Finishing::No | Finishing::Asked(_) | Finishing::Told(_) => Ending::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use io::ErrorKind;

    use super::*;

    #[test]
    fn the_first_reason_to_close_stands() {
        let ending = LinkEnding::default();
        assert!(ending.closing().is_none() && ending.passes_to().is_none());
        assert!(ending.close(Closing::Lost(LossCause::Timeout, "late")));
        assert!(!ending.close(Closing::Passed(1)));
        assert_eq!(ending.passes_to(), None);
        let end = LinkEnd::from(ending.closing().unwrap());
        assert_eq!((end.cause, &*end.why), (Some(LossCause::Timeout), "late"));
    }

    #[test]
    fn what_is_of_no_use_or_passed_on_is_no_loss() {
        for closing in [
            Closing::Useless("surplus"),
            Closing::Passed(2),
            Closing::Over,
        ] {
            assert_eq!(LinkEnd::from(closing).cause, None, "{closing:?}");
        }
        let ending = LinkEnding::default();
        ending.close(Closing::Passed(2));
        assert_eq!(ending.passes_to(), Some(2));
    }

    #[test]
    fn an_error_of_the_socket_says_why_it_was_lost() {
        let refused = ReplicaDues {
            has_refused_write: true,
            owes_as_replica: false,
        };
        let owing = ReplicaDues {
            has_refused_write: false,
            owes_as_replica: true,
        };
        let write = LossCause::ReplicaWriteClose;
        // The kind, and what it means of a server that owes nothing as a replica, has refused a write, owes replies as a replica.
        for (kind, plainly, when_refused, when_owing) in [
            (ErrorKind::UnexpectedEof, LossCause::Closed, write, write),
            (
                ErrorKind::ConnectionReset,
                LossCause::Reset,
                write,
                LossCause::Reset,
            ),
            (
                ErrorKind::BrokenPipe,
                LossCause::Reset,
                write,
                LossCause::Reset,
            ),
            (
                ErrorKind::ConnectionAborted,
                LossCause::Reset,
                LossCause::Reset,
                LossCause::Reset,
            ),
            (
                ErrorKind::TimedOut,
                LossCause::HalfOpen,
                LossCause::HalfOpen,
                LossCause::HalfOpen,
            ),
            (
                ErrorKind::HostUnreachable,
                LossCause::HalfOpen,
                LossCause::HalfOpen,
                LossCause::HalfOpen,
            ),
            (
                ErrorKind::InvalidData,
                LossCause::Protocol,
                LossCause::Protocol,
                LossCause::Protocol,
            ),
            (
                ErrorKind::Other,
                LossCause::Error,
                LossCause::Error,
                LossCause::Error,
            ),
        ] {
            assert_eq!(ReplicaDues::default().cause_of(kind), plainly, "{kind:?}");
            assert_eq!(refused.cause_of(kind), when_refused, "{kind:?}");
            assert_eq!(owing.cause_of(kind), when_owing, "{kind:?}");
        }
    }

    #[test]
    fn a_loss_is_told_as_one() {
        let ending = LinkEnding::default();
        assert_eq!(ending.expected(ErrorKind::UnexpectedEof, false), None);
        assert_eq!(ending.disconnect(false), None);
        assert_eq!(ending.means(), Ending::Lost);
    }

    #[test]
    fn a_debuggers_session_ends_as_if_its_client_had_quit() {
        let ending = LinkEnding::default();
        assert!(ending.expected(ErrorKind::UnexpectedEof, true).is_some());
        assert_eq!(ending.disconnect(true), Some(Disconnect::Quit));
        ending.finish(7);
        assert_eq!(ending.disconnect(true), Some(Disconnect::Quit));
        assert_eq!(
            ending.means(),
            Ending::Lost,
            "what it was sent may have run"
        );
    }

    #[test]
    fn only_a_server_that_was_told_and_closes_has_done_nothing_that_it_has_not_answered() {
        let ending = LinkEnding::default();
        ending.told();
        assert!(!ending.is_finishing(), "nobody has asked for it");
        assert!(ending.finish(7) && !ending.finish(9));
        assert!(ending.is_server_to_be_told());
        assert_eq!(ending.finishing_since(), Some(7));
        // It has closed by itself.
        assert!(ending.expected(ErrorKind::UnexpectedEof, false).is_some());
        assert_eq!(ending.means(), Ending::Lost);
        ending.told();
        assert!(ending.is_finishing() && !ending.is_server_to_be_told());
        assert_eq!(ending.finishing_since(), Some(7));
        assert!(ending.expected(ErrorKind::ConnectionReset, false).is_some());
        assert_eq!(ending.means(), Ending::Lost);
        assert!(ending.expected(ErrorKind::UnexpectedEof, false).is_some());
        assert_eq!(ending.means(), Ending::Finished);
        assert_eq!(ending.disconnect(false), Some(Disconnect::Closed));
    }
}
