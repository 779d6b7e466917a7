//! A server that wants a password, and a respool that has none: clients that bring their own are served on connections that are
//! theirs from the first command on; all others get what the server says to them.

use std::rc::Rc;

use super::{SharedWaitOutcome, Upstream, WaitError};
use crate::link::Link;
use crate::session::State;

impl Upstream {
    /// Takes in that connection `slot` could not be opened for whoever waits for it: the server answers `reply` to them.
    pub(super) fn refused_and_closed(self: &Rc<Self>, slot: usize, reply: &[u8]) {
        self.absence.refused(self.thread.clock.refresh());
        self.connected();
        self.thread.process.failovers.answered();
        let refused = self.schedule.borrow_mut().refused_and_closed(slot);
        for waiter in refused {
            waiter.settle(SharedWaitOutcome::Failed(WaitError::Refused(
                reply.to_vec(),
            )));
        }
        self.act();
    }

    /// Returns a shared connection that is respool's own user's, changed for it if it must be. `None`: there is none. Where respool is
    /// nobody one of a client's is better than none.
    pub(super) async fn own_link(self: &Rc<Self>) -> Option<Rc<Link>> {
        loop {
            let is_nobody = self.thread.is_nobody();
            let own = {
                let links = self.links.borrow();
                let usable = links
                    .iter()
                    .flatten()
                    .filter(|link| link.is_alive() && !link.is_changing_state());
                let own = usable.filter(|link| is_nobody || link.state().user.is_none());
                self.least_held_up(own)
            };
            if own.is_some() {
                return own;
            }
            let wait = self.wait_shared(&State::INITIAL, 1).ok()?;
            // Whatever it is given, there is one then.
            std::future::poll_fn(|cx| wait.poll(cx)).await.ok()?;
        }
    }
}
