//! How long the keys of a connection last: those of TLS 1.2 cannot be changed.

use super::Link;

impl Link {
    /// Whether its TLS keys are nearly used up: it is to take no new work, finish what is under way, and be replaced. At the
    /// end of its keys it is lost, with whatever is due on it then.
    pub fn is_worn_out(&self) -> bool {
        let socket = self.socket.borrow();
        socket.as_ref().is_some_and(|socket| socket.is_worn_out())
    }
}
