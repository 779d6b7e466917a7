//! A client's requests that are at the server without an answer, how many that may be, and who is woken when they get fewer.

use std::cell::Cell;

use crate::schedule::{AnsweredRequests, ClientShare};

/// Counts one client's requests that are at the server, or on their way to it.
#[derive(Debug, Default)]
pub(super) struct OutstandingRequests {
    count: Cell<u32>,
    /// Says how many there may be on a shared connection.
    share: Cell<ClientShare>,
    /// The client's task is woken when no more than this many are left.
    wake_at: Cell<Option<u32>>,
    /// Counts bytes that were read of the client since one was sent, up to what fits.
    read_since_sent: Cell<u32>,
}

impl OutstandingRequests {
    #[inline]
    pub(super) fn count(&self) -> u32 {
        self.count.get()
    }

    /// Returns how many there may be on a shared connection.
    #[inline]
    pub(super) fn window(&self) -> u32 {
        self.share.get().window()
    }

    /// Tells whether so many replies are due that the share may matter.
    #[inline]
    pub(super) fn is_measured(&self) -> bool {
        self.share.get().matters(self.count.get())
    }

    /// Takes in what replies have cost.
    pub(super) fn charge(&self, answered: &AnsweredRequests) {
        let mut share = self.share.get();
        share.answered(answered);
        self.share.set(share);
    }

    #[inline]
    pub(super) fn sent(&self, count: u32) {
        self.count.set(self.count.get() + count);
        self.read_since_sent.set(0);
    }

    #[inline]
    pub(super) fn read_since_sent(&self) -> u32 {
        self.read_since_sent.get()
    }

    /// Takes in that so many bytes of the client were read, none of which has been sent yet.
    #[inline]
    pub(super) fn note_read(&self, bytes: u64) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let all = self.read_since_sent.get().saturating_add(bytes);
        self.read_since_sent.set(all);
    }

    /// Takes in that some were not sent after all.
    pub(super) fn came_back(&self, count: u32) {
        self.count.set(self.count.get() - count);
    }

    /// Takes in that some were answered. Returns whether the client's task is to be woken.
    #[inline]
    pub(super) fn answered(&self, count: u32) -> bool {
        let left = self.count.get() - count;
        self.count.set(left);
        let wakes = self.wake_at.get().is_some_and(|at| left <= at);
        if wakes {
            self.wake_at.set(None);
        }
        wakes
    }

    /// Has the task woken, once, when no more than `count` are left.
    pub(super) fn wake_at(&self, count: u32) {
        self.wake_at.set(Some(count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_counts_until_something_is_sent() {
        let requests = OutstandingRequests::default();
        requests.note_read(3);
        requests.note_read(4);
        assert_eq!(requests.read_since_sent(), 7);
        requests.sent(1);
        requests.answered(1);
        assert_eq!(requests.read_since_sent(), 0);
        requests.note_read(u64::MAX);
        requests.note_read(1);
        assert_eq!(requests.read_since_sent(), u32::MAX);
    }

    #[test]
    fn the_task_is_woken_once_when_few_enough_are_left() {
        let requests = OutstandingRequests::default();
        requests.sent(5);
        assert!(!requests.answered(1), "nobody waits");
        requests.wake_at(2);
        assert!(!requests.answered(1));
        assert!(requests.answered(1) && !requests.answered(1));
        assert_eq!(requests.count(), 1);
        requests.wake_at(0);
        assert!(requests.answered(1));
    }

    #[test]
    fn what_comes_back_is_not_outstanding() {
        let requests = OutstandingRequests::default();
        requests.sent(3);
        requests.sent(2);
        requests.came_back(4);
        assert_eq!(requests.count(), 1);
    }
}
