//! What answers on a connection tell of the list of the commands that the server has.

use super::Link;
use super::traces::ListNews;
use crate::server::ListHint;
use crate::texts::is_unknown_command;

impl Link {
    /// The answer to the request sent last tells something of the list; no other is due.
    pub fn set_tells(&self, tells: ListHint) {
        self.traces.expect(tells);
    }

    /// An answer begins that tells something of the list, if `head` is of one.
    pub(super) fn hear_of_list(&self, head: &[u8]) {
        let process = &self.thread.process;
        match self.traces.hear(head) {
            None => {}
            Some(ListNews::Suspect) => process.listing.suspect(),
            Some(ListNews::Outdated) => process.listing.outdate(process.now_micros()),
        }
    }

    /// Tells whether its client may have left something on it that nothing undoes.
    pub fn keeps_traces(&self) -> bool {
        self.traces.may_last()
    }

    /// The server was sent a command of its list, and does not know it if `head` says so.
    #[cold]
    pub(super) fn hear_of_listed(&self, head: &[u8]) {
        if is_unknown_command(head) {
            self.thread.process.listing.suspect();
        }
    }
}
