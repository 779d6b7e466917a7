//! The replies that come with one read of a connection leave for the client's socket in one write.

use std::rc::Rc;

use super::Outlet;

/// Has what is delivered to a client kept while it lives, but for large pieces, and sent at its end.
///
/// Each reply on a connection that is lent is looked at by itself. With a write for each, one client that pipelined WATCH and UNWATCH
/// had the others of its worker wait for 60 to 170 ms.
pub struct GatheredReplies(Rc<Outlet>);

impl GatheredReplies {
    /// Begins to gather what is delivered to the client of `outlet`.
    pub fn of(outlet: &Rc<Outlet>) -> Self {
        outlet.is_gathering.set(true);
        Self(Rc::clone(outlet))
    }
}

impl Drop for GatheredReplies {
    fn drop(&mut self) {
        self.0.is_gathering.set(false);
        self.0.flush();
        self.0.check_unasked(&self.0.replies.borrow());
    }
}
