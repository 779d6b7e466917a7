//! Sending a large request without a copy of it.

use std::rc::Rc;

use super::Link;
use crate::command::Delays;
use crate::upstream::outlet::Outlet;
use crate::upstream::traffic::{Kind, Show};

impl Link {
    /// As [`Link::send`] with one request, for a large one on a connection that is lent: what the socket takes at once is
    /// not copied.
    pub fn send_through(
        &self,
        outlet: &Rc<Outlet>,
        bytes: &[u8],
        kind: (Kind, Delays),
        show: Show,
    ) {
        let inner = &mut *self.inner.borrow_mut();
        let now = self.thread.clock.now_micros();
        let start = inner.appended_total;
        let taken = if inner.out.is_empty() && inner.logins.is_empty() {
            self.write_now(bytes)
        } else {
            0
        };
        inner.appended_total += taken as u64;
        inner.sent_total += taken as u64;
        inner.pulse.written_micros = now;
        inner.append(&bytes[taken..]);
        self.announces.set(false);
        outlet.sent(1, show != Show::Hide);
        inner.due_for(outlet, 1, kind, show, start, now);
        self.wake();
    }

    /// How many of `bytes` the socket takes now. Whatever ended it is found where the connection is driven.
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
