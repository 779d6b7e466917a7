//! Limits the lines of the log about connections to the server that were lost. A client can cause them without end: by replies or
//! messages that are more than the server holds for one connection, by scripts whose errors break the protocol.

use crate::telemetry::Throttle;

/// One worker writes this many in ten seconds: as many as shared connections that are lost with their server.
const SHARED: u32 = 10;

/// It writes this many of subscriptions: both of their connections may be lost.
const SUBSCRIPTIONS: u32 = 2;

/// Remembers when the last lines of a worker were written.
pub struct LossLines {
    /// The line says that a shared connection is lost.
    pub shared: Throttle,
    /// The line says that a connection of subscriptions is lost.
    pub subscriptions: Throttle,
    /// The line says that subscribers are kept apart.
    pub apart: Throttle,
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
