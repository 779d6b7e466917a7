//! Lines of the log about connections to the server that were lost. A client can cause them without end: by replies or
//! messages that are more than the server holds for one connection, by scripts whose errors break the protocol.

use crate::telemetry::Throttle;

/// What one worker writes of each kind in ten seconds: as many as shared connections that are lost with their server.
const SHARED: u32 = 10;

/// As [`SHARED`]: both connections of its subscriptions.
const SUBSCRIPTIONS: u32 = 2;

/// When the last lines of a worker were written.
pub(super) struct LossLines {
    /// A shared connection is lost.
    pub(super) shared: Throttle,
    /// A connection of subscriptions is.
    pub(super) subscriptions: Throttle,
    /// Subscribers are kept apart.
    pub(super) apart: Throttle,
}

impl Default for LossLines {
    fn default() -> Self {
        Self {
            shared: Throttle::of(SHARED),
            subscriptions: Throttle::of(SUBSCRIPTIONS),
            apart: Throttle::default(),
        }
    }
}
