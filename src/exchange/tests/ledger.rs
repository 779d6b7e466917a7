//! Who asked for what, in the order in which it was asked.

use super::server::Asked;
use crate::command::Delays;

/// Tells one request from all others.
pub(super) type Number = u32;

/// Whose request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Client(usize),
    /// Respool's own; the number tells one from the others.
    Own(usize),
    /// It is a fence, which the exchange itself has asked for.
    Fence,
}

/// What a client sees of the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Reply,
    Nothing,
    Text,
}

/// One request that was appended.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) who: Who,
    pub(super) asked: Asked,
    pub(super) bytes: Vec<u8>,
    pub(super) shown: Shown,
    /// It is sent again where nothing of it was sent.
    pub(super) is_again: bool,
    /// It may wait for as long as its client likes.
    pub(super) blocks: bool,
    pub(super) delays: Delays,
    pub(super) at_micros: u64,
    /// Nothing but its reply matters.
    pub(super) is_plain: bool,
    /// The first of those that are sent again together, or not at all.
    pub(super) group: usize,
    pub(super) is_received: bool,
    /// Where its answer ends among what the server has written.
    pub(super) answered_at: Option<u64>,
}

/// All requests, the oldest first.
#[derive(Default)]
pub(super) struct Ledger(pub(super) Vec<Entry>);

impl Ledger {
    /// The server has got a request: which one it is, but for those that stand where the exchange has put them.
    pub(super) fn received(&mut self, asked: &Asked) {
        if matches!(asked, Asked::Last(_)) {
            return;
        }
        let next = self.0.iter_mut().find(|entry| !entry.is_received);
        let next = next.unwrap_or_else(|| panic!("nobody asked for {asked:?}"));
        let is_it = match (&next.asked, asked) {
            (Asked::Fence(_), Asked::Fence(_)) | (Asked::Place(_), Asked::Place(_)) => true,
            (one, other) => one == other,
        };
        assert!(is_it, "{asked:?} is sent before {:?}", next.asked);
        next.is_received = true;
    }

    /// The server has answered a request, up to there.
    pub(super) fn answered(&mut self, asked: &Asked, end: u64) -> Option<&Entry> {
        if matches!(asked, Asked::Last(_)) {
            return None;
        }
        let next = self
            .0
            .iter_mut()
            .find(|entry| entry.answered_at.is_none())?;
        next.answered_at = Some(end);
        Some(next)
    }

    /// Those whose answers have not been read whole, when so many bytes have been read.
    pub(super) fn unanswered(&self, read_total: u64) -> impl Iterator<Item = &Entry> {
        let is_due = move |entry: &&Entry| entry.answered_at.is_none_or(|end| end > read_total);
        self.0.iter().filter(is_due)
    }
}
