//! Lines in the log about clients that respool closed: who, why, and which setting decides.
//!
//! Anybody can cause closes without end, so each worker writes at most a line for each reason in ten seconds; the next
//! line says how many it stands for.

use std::cell::RefCell;

use super::Clients;
use crate::identity::ClientRecord;
use crate::telemetry::{Bound, Disconnect};

/// Least microseconds between two lines of a worker with the same reason.
const LOG_EVERY_MICROS: u64 = 10_000_000;

/// Says what was logged last for one reason.
#[derive(Debug, Default, Clone, Copy)]
struct Last {
    micros: Option<u64>,
    /// Counts the closes since then.
    others: u64,
}

/// Says when the closes of each reason were logged last.
#[derive(Debug)]
pub(super) struct CloseLog(RefCell<[Last; Disconnect::ALL.len()]>);

impl Default for CloseLog {
    fn default() -> Self {
        Self(RefCell::new([Last::default(); Disconnect::ALL.len()]))
    }
}

impl CloseLog {
    /// Counts a close at `now`. `Some`: it is to be logged, with this many others since the last line.
    fn count(&self, reason: Disconnect, now: u64) -> Option<u64> {
        let last = &mut self.0.borrow_mut()[reason as usize];
        let is_due = last
            .micros
            .is_none_or(|then| now.saturating_sub(then) >= LOG_EVERY_MICROS);
        if !is_due {
            last.others += 1;
            return None;
        }
        last.micros = Some(now);
        Some(std::mem::take(&mut last.others))
    }
}

impl Clients {
    /// Counts the bound that respool closed a client for, and logs the close, unless the client did so itself.
    pub(super) fn closed(&self, record: &ClientRecord, reason: Disconnect) {
        if let Some(bound) = bound(reason) {
            self.thread.counters.bound(bound).add(1);
        }
        let Some(why) = why(reason) else { return };
        let now = self.thread.clock.now_micros();
        let Some(others) = self.closes.count(reason, now) else {
            return;
        };
        let reason = reason.label();
        let identity = record.identity();
        tracing::warn!(
            client = %identity.peer,
            listener = %identity.listener,
            name = ?identity.shown_name(),
            user = ?String::from_utf8_lossy(identity.shown_user()),
            reason,
            others,
            "a client was closed: {why}"
        );
    }
}

/// The bound that a client reached that is closed for this reason.
fn bound(reason: Disconnect) -> Option<Bound> {
    Some(match reason {
        Disconnect::OutputBuffer => Bound::ReplyStall,
        Disconnect::QueryBuffer => Bound::QueryBuffer,
        Disconnect::Memory => Bound::Memory,
        Disconnect::PubsubBuffer => Bound::PubsubBuffer,
        Disconnect::HandshakeTimeout => Bound::HandshakeTimeout,
        Disconnect::IdleTimeout => Bound::IdleTimeout,
        Disconnect::HalfClosed => Bound::HalfClosed,
        Disconnect::RequestStalled => Bound::RequestStall,
        Disconnect::UploadStalled => Bound::UploadPatience,
        _ => return None,
    })
}

/// Returns why respool closes a client for this reason; `None`: the client ended its connection itself, or it is told elsewhere.
fn why(reason: Disconnect) -> Option<&'static str> {
    Some(match reason {
        Disconnect::Closed | Disconnect::Quit | Disconnect::SocketError => return None,
        // Each has a line of its own where it is decided.
        Disconnect::TlsHandshake
        | Disconnect::Rejected
        | Disconnect::Memory
        | Disconnect::PermissionLost
        | Disconnect::Panic => return None,
        Disconnect::OutputBuffer => {
            "it left more unread than limits.max_client_buffer, and took none of it for limits.reply_stall_timeout or had \
             not asked for it"
        }
        Disconnect::QueryBuffer => {
            "it sent more than limits.max_client_query_buffer behind a call that waits at the server"
        }
        Disconnect::PubsubBuffer => {
            "it left more messages unread than limits.pubsub_buffer, or one command would bring it more"
        }
        Disconnect::SubscriptionLost => {
            "messages were lost with the connection to the server, or a subscription was refused when it was renewed \
             (upstream.on_subscription_loss)"
        }
        Disconnect::ServerBuffer => {
            "the server ended the connection that brings its messages more than once, most likely since they were more than \
             the server holds for a subscriber (client-output-buffer-limit pubsub)"
        }
        Disconnect::ProtocolError => {
            "it sent what the protocol, or limits.max_request, does not allow"
        }
        Disconnect::IdleTimeout => {
            "it was silent for idle_timeout (limits.idle_timeout, or its group's)"
        }
        Disconnect::TlsKeys => "the keys of its TLS session are used up",
        Disconnect::HandshakeTimeout => {
            "its first request did not end, or it did not authenticate, within limits.handshake_timeout"
        }
        Disconnect::HalfClosed => {
            "it had sent its last byte, and what it waited for was not to be had, or its place was needed \
             (limits.half_closed_grace)"
        }
        Disconnect::RequestStalled => {
            "no byte of its large request came for limits.request_stall_timeout"
        }
        Disconnect::UploadStalled => {
            "its large request did not go on while others waited for the connection it was sent on \
             (limits.upload_patience)"
        }
        Disconnect::UpstreamLost => {
            "the server was lost while a command of it may have been running"
        }
        Disconnect::AuthenticationLost => {
            "the server no longer takes the password its user had shown"
        }
        Disconnect::Killed => "CLIENT KILL",
        Disconnect::Evicted => "a newcomer needed its place (at_limit = \"evict-idle\")",
        Disconnect::OverCap => "a reload lowered a cap that it was past (limits.enforce_on_reload)",
        Disconnect::Drained => "respool is ending",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_closes_is_a_line_in_ten_seconds_that_says_how_many() {
        let log = CloseLog::default();
        let count = |reason, now| log.count(reason, now);
        assert_eq!(count(Disconnect::IdleTimeout, 5), Some(0));
        for now in 6..106 {
            assert_eq!(count(Disconnect::IdleTimeout, now), None);
        }
        // Another reason has lines of its own.
        assert_eq!(count(Disconnect::HandshakeTimeout, 7), Some(0));
        assert_eq!(count(Disconnect::IdleTimeout, 10_000_005), Some(100));
        assert_eq!(count(Disconnect::IdleTimeout, 10_000_006), None);
    }
}
