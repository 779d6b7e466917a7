//! What a connection does with what its exchange finds in what was read.

use super::Link;
use crate::exchange::{ConnectionEvents, Violation};
use crate::session::Protocol;

impl ConnectionEvents for Link {
    /// Knows that nothing that pushes is ever asked for on a shared connection, and in RESP2 there are no pushes.
    fn takes_pushes(&self) -> bool {
        self.role.borrow().takes_pushes() && self.state().protocol != Protocol::Resp2
    }

    fn pushed(&self, bytes: &[u8], complete: bool) -> Result<bool, Violation> {
        self.role.borrow_mut().take(bytes, complete)
    }

    fn broke_off(&self, bytes: &[u8]) -> Result<(), Violation> {
        self.role.borrow_mut().break_off(bytes)
    }

    fn is_fanned_out(&self) -> bool {
        self.role.borrow().subscribers().is_some()
    }

    fn confirmed(&self, bytes: &[u8], complete: bool) {
        // What is sent on it from here on has answers that nobody looks at.
        self.traces.note_lasting();
        self.role.borrow_mut().heed(bytes, complete);
    }

    fn refused(&self, error: &[u8]) {
        self.hear_error(error);
    }

    fn script_refused(&self, error: &[u8]) {
        self.hear_of_listed(error);
    }

    fn reply_begins(&self, head: &[u8]) {
        if self.traces.is_hint_due() {
            self.hear_of_list(head);
        }
    }

    #[inline]
    fn replied(&self, waited_micros: u64, count: u32) {
        let duration = &self.thread.counters.request_duration;
        duration.record_micros(waited_micros, u64::from(count));
    }

    #[inline]
    fn reached(&self, sent_micros: u64) {
        self.thread.pulse.answered(sent_micros);
    }

    fn text_dropped(&self) {
        self.thread.dropped_text(self.name());
    }

    fn is_overdue(&self, since_micros: u64) -> bool {
        let patience = self.thread.settings().upstream.reply_timeout;
        self.thread.clock.is_past(since_micros, patience)
    }
}
