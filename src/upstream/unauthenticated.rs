//! A server that wants a password, and a respool that has none: clients that bring their own are served on connections that are
//! theirs from the first command on; all others get what the server says to them.

use std::rc::Rc;
use std::sync::Arc;

use super::link::Link;
use super::pool::{Outcome, Upstream, WaitError};
use super::thread::Thread;
use crate::session::State;

const WANTED: &str = "the server wants a password and respool has none: set upstream.password_file; until then it serves \
    clients that authenticate themselves";

/// The server wants a password of whoever shows none.
pub(super) fn wants_password(thread: &Thread) {
    let is_known = thread.is_nobody();
    let process = &thread.process;
    process.server.rcu(|known| {
        let mut server = known.as_deref().cloned().unwrap_or_default();
        server.guests_are_refused = true;
        Some(Arc::new(server))
    });
    process.health.note_error(WANTED);
    // From here on whoever has not authenticated is told so.
    if !is_known && thread.is_nobody() {
        tracing::warn!("{WANTED}");
    }
}

impl Upstream {
    /// Connection `slot` could not be opened for whoever waits for it: the server answers `reply` to them.
    pub(super) fn refused_and_closed(self: &Rc<Self>, slot: usize, reply: &[u8]) {
        self.refused_micros.set(self.thread.clock.refresh());
        self.connected();
        self.thread.process.failovers.answered();
        let refused = self.schedule.borrow_mut().refused_and_closed(slot);
        for waiter in refused {
            waiter.settle(Outcome::Failed(WaitError::Refused(reply.to_vec())));
        }
        self.act();
    }

    /// A shared connection that wears respool's own user, changed for it if it must be. `None`: there is none. Where respool is
    /// nobody one of a client's is better than none.
    pub(super) async fn own_link(self: &Rc<Self>) -> Option<Rc<Link>> {
        loop {
            let is_nobody = self.thread.is_nobody();
            let own = {
                let links = self.links.borrow();
                let usable = links
                    .iter()
                    .flatten()
                    .filter(|link| link.is_alive() && !link.is_dressing());
                let own = usable.filter(|link| is_nobody || link.worn().user.is_none());
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
