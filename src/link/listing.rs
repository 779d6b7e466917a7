//! What answers on a connection tell of the list of the commands that the server has.

use super::Link;
use super::traces::ListNews;
use crate::server::ListHint;
use crate::texts::is_unknown_command;

impl Link {
    /// Takes in that the answer to the request sent last tells something of the list; no other is due.
    pub fn set_tells(&self, tells: ListHint) {
        self.traces.expect(tells);
    }

    /// Hears the beginning of an answer, which may tell something of the list.
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

    /// Hears the answer to a command of the list: where the server does not know it, the list is not what it was.
    #[cold]
    pub(super) fn hear_of_listed(&self, head: &[u8]) {
        if is_unknown_command(head) {
            self.thread.process.listing.suspect();
        }
    }
}
