//! CLIENT TRACKING on a connection lent to a client: the server remembers which keys were read on it, by its id, until it is closed.

use super::Link;

impl Link {
    /// Says whether tracking that remembers keys (all but BCAST) may have been switched on.
    pub fn set_may_remember_keys(&self, may_remember: bool) {
        self.traces.set_may_remember_keys(may_remember);
    }

    /// Tells whether the server may remember which keys were read on it.
    pub fn may_remember_keys(&self) -> bool {
        self.traces.may_remember_keys()
    }
}
