//! Sending a large request without a copy of it.

use std::rc::Rc;

use super::Link;
use super::begun::BegunRequest;
use crate::command::Delays;
use crate::exchange::{RequestKind, Show};
use crate::outlet::Outlet;

impl Link {
    /// Sends as [`Link::send`] does with one request, for a large one on a connection that is lent: what the socket takes at once is
    /// not copied.
    pub fn send_through(
        &self,
        outlet: &Rc<Outlet>,
        bytes: &[u8],
        kind: (RequestKind, Delays),
        show: Show,
    ) {
        let mut exchange = self.exchange.borrow_mut();
        let now = self.thread.clock.now_micros();
        let taken = match exchange.is_clear() {
            true => self.write_now(bytes),
            false => 0,
        };
        self.begun.set(BegunRequest::None);
        exchange.request_through(outlet, (bytes, taken), kind, show, now);
        self.wake();
    }

    /// Returns how many of `bytes` the socket takes now. Whatever ended it is found where the connection is driven.
    fn write_now(&self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        let Some(stream) = &*self.socket.borrow() else {
            return 0;
        };
        while taken < bytes.len() {
            match stream.try_write(&bytes[taken..]) {
                Ok(more) => taken += more,
                Err(_) => break,
            }
        }
        taken
    }
}
