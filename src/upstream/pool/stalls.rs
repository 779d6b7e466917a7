//! What a worker has seen of what keeps its shared connections from being answered.

use std::cell::Cell;

/// Remembers what was seen when it was last looked.
#[derive(Default)]
pub(super) struct StallWatch {
    /// Is true while a shared connection is stalled.
    pub(super) is_any: Cell<bool>,
    /// Is true while writes are seen to be held back by the server.
    pub(super) are_writes_held: Cell<bool>,
    /// The write by which that was seen has not been answered since then.
    held_since_micros: Cell<u64>,
    /// Is true while a script runs past its time, and stands before what is due on a connection that is stalled.
    pub(super) is_script_seen: Cell<bool>,
    /// A silent server was last asked anew then.
    pub(super) asked_micros: Cell<u64>,
    /// Is true while a connection is being opened to ask the server on.
    pub(super) is_opening_to_ask: Cell<bool>,
}

impl StallWatch {
    /// Looks at since when a write, and what the server may work on, has not been answered on a stalled connection; what was sent at
    /// `answered` is answered elsewhere, and at `busy` the server has said so of itself. Returns whether it has to be asked what keeps it.
    pub(super) fn look(
        &self,
        (held, worked_on): (Option<u64>, Option<u64>),
        answered: u64,
        busy: u64,
    ) -> bool {
        let since = held.or(worked_on);
        // While a script runs past its time all that is answered elsewhere is BUSY: what is due is behind it, and not paused.
        let is_script = since.is_some_and(|since| busy > since);
        let is_seen = held.is_some_and(|since| answered > since) && !is_script;
        self.is_script_seen.set(is_script);
        self.are_writes_held.set(is_seen);
        self.held_since_micros.set(held.unwrap_or_default());
        since.is_some() && !is_seen
    }

    /// Takes in that the server has done a write that was sent then: it holds none back that was sent before.
    pub(super) fn written(&self, sent_micros: u64) {
        if sent_micros >= self.held_since_micros.get() {
            self.are_writes_held.set(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks, and tells what is seen: whether writes are held, whether a script runs, whether the server is to be asked.
    fn look(due: (Option<u64>, Option<u64>), answered: u64, busy: u64) -> (bool, bool, bool) {
        let watch = StallWatch::default();
        let asks = watch.look(due, answered, busy);
        (
            watch.are_writes_held.get(),
            watch.is_script_seen.get(),
            asks,
        )
    }

    #[test]
    fn writes_are_held_where_what_was_sent_later_is_answered() {
        assert_eq!(look((Some(5), None), 6, 0), (true, false, false));
        assert_eq!(look((Some(5), None), 5, 0), (false, false, true));
        assert_eq!(look((Some(5), None), 0, 0), (false, false, true));
        assert_eq!(look((None, None), 9, 9), (false, false, false));
    }

    #[test]
    fn behind_a_script_nothing_is_held() {
        assert_eq!(look((Some(5), None), 9, 6), (false, true, true));
        assert_eq!(look((None, Some(5)), 9, 6), (false, true, true));
        // It was busy before, and may have been done since.
        assert_eq!(look((Some(5), None), 9, 5), (true, false, false));
        assert_eq!(look((None, Some(5)), 9, 5), (false, false, true));
        // The write decides where both are due.
        assert_eq!(look((Some(5), Some(9)), 9, 6), (false, true, true));
    }

    #[test]
    fn a_write_that_is_done_tells_of_those_before_it() {
        let watch = StallWatch::default();
        watch.look((Some(5), None), 6, 0);
        watch.written(4);
        assert!(watch.are_writes_held.get());
        watch.written(5);
        assert!(!watch.are_writes_held.get());
    }
}
