//! What the socket of a connection bears: how long its TLS 1.2 keys last, how long the kernel waits for acknowledgements.

use std::time::Duration;

use super::Link;
use crate::transport::DEAD_AFTER;

impl Link {
    /// Has the kernel bear bytes that nobody acknowledges for `limit`; `None`: no longer than a host that is gone.
    pub fn bear_unacknowledged(&self, limit: Option<Duration>) {
        if let Some(socket) = &*self.socket.borrow() {
            socket.bear_unacknowledged(limit.unwrap_or(DEAD_AFTER));
        }
    }

    /// Tells whether its TLS keys are nearly used up: it is to take no new work, finish what is under way, and be replaced. At the
    /// end of its keys it is lost, with whatever is due on it then.
    pub fn is_worn_out(&self) -> bool {
        let socket = self.socket.borrow();
        socket.as_ref().is_some_and(|socket| socket.is_worn_out())
    }
}
