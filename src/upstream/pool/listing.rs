//! Which commands the server has that the static table does not know: read at the first connect, and again when the list may be old.

use std::rc::Rc;
use std::sync::Arc;

use super::Upstream;
use crate::command::Learned;
use crate::resp::speak::encode_request;
use crate::server::ListHint;
use crate::texts::is_unknown_command;
use crate::upstream::link::Link;

/// Tells whether an answer says that the server does not know the command.
pub(super) fn is_unknown(answer: &[u8]) -> bool {
    is_unknown_command(answer)
}

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

impl Link {
    /// The answer to the request sent last tells something of the list; no other is due.
    pub fn set_tells(&self, tells: ListHint) {
        self.tells.set(Some(tells));
    }

    /// An answer begins that tells something of the list, if `head` is of one.
    pub(in crate::upstream) fn hear_of_list(&self, head: &[u8]) {
        let process = &self.thread.process;
        let is_error = head.first() == Some(&b'-');
        match self.tells.take() {
            Some(ListHint::Unlisted { lasts }) if !is_unknown(head) => {
                process.listing.suspect();
                if lasts && !is_error {
                    self.keeps_traces.set(true);
                }
            }
            Some(ListHint::Modules) if !is_error => process.listing.outdate(process.now_micros()),
            Some(ListHint::Subcommand) if !is_error => self.keeps_traces.set(true),
            _ => {}
        }
    }

    /// Tells whether its client may have left something on it that nothing undoes.
    pub(super) fn keeps_traces(&self) -> bool {
        let is_open = matches!(
            self.tells.get(),
            Some(ListHint::Unlisted { lasts: true } | ListHint::Subcommand)
        );
        self.keeps_traces.get() || is_open
    }

    /// The server was sent a command of its list, and does not know it if `head` says so.
    #[cold]
    pub(in crate::upstream) fn hear_of_listed(&self, head: &[u8]) {
        if is_unknown(head) {
            self.thread.process.listing.suspect();
        }
    }
}
