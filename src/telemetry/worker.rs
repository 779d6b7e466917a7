//! What one worker counts.
//!
//! Invariant: only the worker that owns the counters writes them; the `Arc` they live in is for readers.

use super::{Bound, ConnectResult, Counter, Disconnect, Gauge, Histogram, LossCause, TlsHandshake};

/// Holds the counters of one worker. They are aligned so that no two workers write the same cache line.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCounters {
    groups: Box<[GroupCounters]>,
    pin_reasons: &'static [&'static str],
    connects: [Counter; ConnectResult::ALL.len()],
    losses: [Counter; LossCause::ALL.len()],
    bounds: [Counter; Bound::ALL.len()],
    client_handshakes: [Counter; TlsHandshake::ALL.len()],
    server_handshakes: [Counter; TlsHandshake::ALL.len()],
    /// Counts the requests that wait for a connection to the server to be there or to have their state.
    pub waiting_requests: Gauge,
    /// Counts the changes of a shared connection's state.
    pub state_changes: Counter,
    /// Measures from a request's arrival to its reply.
    pub request_duration: Histogram,
    /// Measures from a PING of respool's own to its answer.
    pub ping_duration: Histogram,
    /// Counts the PINGs of respool's own that were not answered in time: half-open connections, or a server that hangs.
    pub unanswered_pings: Counter,
    /// Counts the elements popped for a client that had left, put back where they came from.
    pub returned_elements: Counter,
    /// Counts the elements popped for a client that had left, that could not be put back.
    pub orphaned_elements: Counter,
    /// Counts the errors behind which the server had written text of a script, which was dropped.
    pub dropped_texts: Counter,
    /// Counts the channels, patterns and shard channels the worker's clients are subscribed to.
    pub subscribed_topics: Gauge,
    /// Counts the messages and confirmations handed to subscribers.
    pub delivered_messages: Counter,
    /// Counts the logins of open connections that were renewed.
    pub renewals: Counter,
    /// Counts the logins of open connections that the server refused to renew.
    pub renewals_refused: Counter,
    /// Counts how often the subscription connection was lost while somebody was subscribed: messages may be missing.
    pub subscription_losses: Counter,
    /// Is advanced by the worker's own clock: it moves.
    pub beats: Counter,
}

/// Holds what one worker counts for one client group.
#[derive(Debug)]
pub struct GroupCounters {
    /// Counts the commands answered, by whomever.
    pub commands: Counter,
    /// Counts wrong passwords, and users there are not.
    pub auth_failures: Counter,
    /// Counts the bytes read from clients.
    pub bytes_in: Counter,
    /// Counts the bytes written to clients.
    pub bytes_out: Counter,
    pins: Box<[Counter]>,
    disconnects: [Counter; Disconnect::ALL.len()],
}

impl WorkerCounters {
    /// Makes counters for `groups` client groups (at least one) and connections pinned for `pin_reasons`.
    pub fn new(groups: usize, pin_reasons: &'static [&'static str]) -> Self {
        Self {
            groups: (0..groups.max(1))
                .map(|_| GroupCounters::new(pin_reasons.len()))
                .collect(),
            pin_reasons,
            connects: Default::default(),
            losses: Default::default(),
            bounds: std::array::from_fn(|_| Counter::default()),
            client_handshakes: Default::default(),
            server_handshakes: Default::default(),
            waiting_requests: Gauge::default(),
            state_changes: Counter::default(),
            request_duration: Histogram::default(),
            ping_duration: Histogram::default(),
            unanswered_pings: Counter::default(),
            returned_elements: Counter::default(),
            orphaned_elements: Counter::default(),
            dropped_texts: Counter::default(),
            subscribed_topics: Gauge::default(),
            delivered_messages: Counter::default(),
            renewals: Counter::default(),
            renewals_refused: Counter::default(),
            subscription_losses: Counter::default(),
            beats: Counter::default(),
        }
    }

    /// Returns the counters of the group with this index. A group that was not there when the worker started counts as
    /// the last one, which is always `default`: a number in the wrong row costs less than a client's connection.
    #[inline]
    pub fn group(&self, index: usize) -> &GroupCounters {
        &self.groups[index.min(self.groups.len() - 1)]
    }

    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Lists the labels of the pin reasons, in the order of their index.
    pub(super) fn pin_reasons(&self) -> &'static [&'static str] {
        self.pin_reasons
    }

    /// Counts the attempts to connect to the server that ended so.
    #[inline]
    pub fn connects(&self, result: ConnectResult) -> &Counter {
        &self.connects[result as usize]
    }

    /// Counts the connections to the server lost or left so.
    pub fn losses(&self, cause: LossCause) -> &Counter {
        &self.losses[cause as usize]
    }

    /// Counts the TLS handshakes with clients that ended so.
    pub fn client_handshakes(&self, result: TlsHandshake) -> &Counter {
        &self.client_handshakes[result as usize]
    }

    /// Counts the TLS handshakes with the server that ended so.
    pub fn server_handshakes(&self, result: TlsHandshake) -> &Counter {
        &self.server_handshakes[result as usize]
    }

    /// Counts how often a bound was reached.
    #[inline]
    pub fn bound(&self, bound: Bound) -> &Counter {
        &self.bounds[bound as usize]
    }
}

impl GroupCounters {
    fn new(pin_reasons: usize) -> Self {
        Self {
            commands: Counter::default(),
            auth_failures: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            pins: (0..pin_reasons).map(|_| Counter::default()).collect(),
            disconnects: Default::default(),
        }
    }

    /// Counts the connections pinned for the reason with this index.
    ///
    /// # Panics
    ///
    /// If the index is not one of the reasons given to [`WorkerCounters::new`]; callers index by an enum.
    #[inline]
    pub fn pin(&self, reason: usize) -> &Counter {
        &self.pins[reason]
    }

    /// Counts the clients disconnected for this reason.
    #[inline]
    pub fn disconnect(&self, reason: Disconnect) -> &Counter {
        &self.disconnects[reason as usize]
    }
}
