//! When a client is closed for what it leaves unread, and why it is closed.

use std::cell::Cell;

use crate::replies::Replies;
use crate::telemetry::Disconnect;

/// Says how much a client may leave unread of replies before its requests wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnreadLimit {
    pub(super) bytes: usize,
}

impl UnreadLimit {
    /// Tells whether its requests wait, with so much held for it.
    #[inline]
    pub(super) fn is_passed(self, held_bytes: usize) -> bool {
        held_bytes > self.bytes
    }

    /// Tells whether they go on, with so much held for it: half, so that they go on by the thousand.
    pub(super) fn is_half_free(self, held_bytes: usize) -> bool {
        held_bytes <= self.bytes / 2
    }

    /// Tells whether it leaves too much unread of what nobody asks for: no request can hold that back.
    pub(super) fn is_passed_unasked(self, replies: &Replies) -> bool {
        replies.unasked_bytes() > self.bytes && replies.unread_bytes() > self.bytes
    }
}

/// Remembers why a client is to be closed.
#[derive(Debug, Default)]
pub(super) struct ClientEnd(Cell<Option<Disconnect>>);

impl ClientEnd {
    #[inline]
    pub(super) fn reason(&self) -> Option<Disconnect> {
        self.0.get()
    }

    /// Has it closed; the first reason stands. Returns whether this is the first.
    pub(super) fn close(&self, reason: Disconnect) -> bool {
        let is_first = self.0.get().is_none();
        if is_first {
            self.0.set(Some(reason));
        }
        is_first
    }

    /// Tells whether nothing more is written to it: its socket has failed, or it is closed for what it does not read.
    #[inline]
    pub(super) fn is_silent(&self) -> bool {
        matches!(
            self.0.get(),
            Some(
                Disconnect::SocketError
                    | Disconnect::OutputBuffer
                    | Disconnect::PubsubBuffer
                    | Disconnect::Memory
            )
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_wait_past_the_limit_and_go_on_at_half_of_it() {
        let limit = UnreadLimit { bytes: 100 };
        assert!(!limit.is_passed(100) && limit.is_passed(101));
        assert!(!limit.is_half_free(51) && limit.is_half_free(50));
    }

    #[test]
    fn what_nobody_asks_for_closes_a_client_that_does_not_read_it() {
        let limit = UnreadLimit { bytes: 10 };
        let mut replies = Replies::default();
        replies.push(b">1\r\n+1234\r\n");
        assert!(limit.is_passed_unasked(&replies), "11 bytes");
        replies.wrote(1);
        assert!(!limit.is_passed_unasked(&replies), "it has read some");
        replies.wrote(10);
        replies.own(b"+a long reply\r\n");
        assert!(!limit.is_passed_unasked(&replies), "it was asked for");
        replies.push(b">1\r\n+123\r\n");
        assert!(!limit.is_passed_unasked(&replies), "ten of them were not");
        replies.push(b"+\r\n");
        assert!(limit.is_passed_unasked(&replies));
    }

    #[test]
    fn the_first_reason_stands() {
        let end = ClientEnd::default();
        assert_eq!(end.reason(), None);
        assert!(end.close(Disconnect::Quit) && !end.close(Disconnect::Memory));
        assert_eq!(end.reason(), Some(Disconnect::Quit));
    }

    #[test]
    fn who_reads_may_get_the_rest_and_who_does_not_gets_nothing_more() {
        for (reason, is_silent) in [
            (Disconnect::SocketError, true),
            (Disconnect::OutputBuffer, true),
            (Disconnect::PubsubBuffer, true),
            (Disconnect::Memory, true),
            (Disconnect::Quit, false),
            (Disconnect::Closed, false),
            (Disconnect::UpstreamLost, false),
            (Disconnect::ProtocolError, false),
            (Disconnect::Killed, false),
            (Disconnect::IdleTimeout, false),
        ] {
            let end = ClientEnd::default();
            assert!(!end.is_silent());
            end.close(reason);
            assert_eq!(end.is_silent(), is_silent, "{reason:?}");
        }
    }
}
