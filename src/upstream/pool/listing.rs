//! Which commands the server has that the static table does not know: read at the first connect, and again when the list may be old.

use std::rc::Rc;
use std::sync::Arc;

use super::Upstream;
use crate::command::Learned;
use crate::link::Link;
use crate::resp::speak::encode_request;

impl Upstream {
    /// Asks the server for its list on a connection that was opened, while nobody has it.
    pub(super) fn learn(self: &Rc<Self>, link: &Rc<Link>) {
        if !self.thread.process.server.has_list() {
            self.read_list(link);
        }
    }

    /// Reads the list again, when it may be old and it is time to.
    pub(super) fn learn_again(self: &Rc<Self>) {
        let process = &self.thread.process;
        if self.is_away() || !process.listing.take_turn(process.now_micros()) {
            return;
        }
        let upstream = Rc::clone(self);
        tokio::task::spawn_local(async move {
            // Clients' users may not have the permission that respool's own has.
            match upstream.own_link().await {
                Some(link) => upstream.read_list(&link),
                None => upstream.thread.process.listing.suspect(),
            }
        });
    }

    fn read_list(self: &Rc<Self>, link: &Rc<Link>) {
        let told = link.ask(&encode_request(&["COMMAND"]));
        let (upstream, begun) = (Rc::downgrade(self), link.origin().begun_micros);
        let process = Arc::clone(&self.thread.process);
        tokio::task::spawn_local(async move {
            let Ok(reply) = told.await else {
                // Lost with its connection: the next one tells.
                return process.listing.suspect();
            };
            let is_another = |upstream: Rc<Self>| upstream.databases.is_before(begun);
            if upstream.upgrade().is_none_or(is_another) {
                return;
            }
            let learned = Learned::from_command_reply(&reply);
            let has_changed = learned.is_ok_and(|learned| process.server.listed(learned));
            process.listing.has_read(has_changed, process.now_micros());
        });
    }
}
