//! What answers on a connection tell of the list of the commands that the server has.

use super::Link;
use crate::server::ListHint;
use crate::texts::is_unknown_command;

impl Link {
    /// The answer to the request sent last tells something of the list; no other is due.
    pub fn set_tells(&self, tells: ListHint) {
        self.tells.set(Some(tells));
    }

    /// An answer begins that tells something of the list, if `head` is of one.
    pub(super) fn hear_of_list(&self, head: &[u8]) {
        let process = &self.thread.process;
        let is_error = head.first() == Some(&b'-');
        match self.tells.take() {
            Some(ListHint::Unlisted { lasts }) if !is_unknown_command(head) => {
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
    pub fn keeps_traces(&self) -> bool {
        let is_open = matches!(
            self.tells.get(),
            Some(ListHint::Unlisted { lasts: true } | ListHint::Subcommand)
        );
        self.keeps_traces.get() || is_open
    }

    /// The server was sent a command of its list, and does not know it if `head` says so.
    #[cold]
    pub(super) fn hear_of_listed(&self, head: &[u8]) {
        if is_unknown_command(head) {
            self.thread.process.listing.suspect();
        }
    }
}
