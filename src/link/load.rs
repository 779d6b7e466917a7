//! What a request sent on a connection now would wait for there, and what is held for it.

use super::Link;

impl Link {
    /// Returns the microseconds that a request sent on it now would wait for what is due there, if another connection would spare it
    /// that; 0: it would not.
    #[inline]
    pub fn load(&self) -> u64 {
        let now = self.thread.clock.now_micros();
        self.exchange.borrow().load(now, || self.has_arrived())
    }

    /// Puts on the account what is held for it now, rather than when it is written: after large requests of respool's own.
    pub fn note_held(&self) {
        let held = self.exchange.borrow().held_bytes();
        self.holding.set(held);
    }

    /// Returns when the latest blocking call was sent that is due.
    pub fn blocked_micros(&self) -> Option<u64> {
        self.exchange.borrow().blocked_micros()
    }

    /// Gives back room that it keeps for large requests.
    pub fn shrink(&self) {
        self.exchange.borrow_mut().shrink();
        self.note_held();
    }

    /// Returns the shortest time that a request and its reply were under way on it.
    #[inline]
    pub fn round_trip_micros(&self) -> u64 {
        self.exchange.borrow().round_trip_micros()
    }

    /// Tells whether the socket is known to have bytes to read. It costs no system call.
    fn has_arrived(&self) -> bool {
        let socket = self.socket.borrow();
        socket.as_ref().is_some_and(|socket| socket.has_arrived())
    }
}
