//! What is held for one client, put on its worker's account as it changes.

use std::cell::Cell;
use std::rc::Rc;

use super::Outlet;
use crate::memory::{HeldBytes, MemoryAccount};
use crate::replies::Replies;
use crate::telemetry::Disconnect;
use crate::transport::Stream;

/// Counts what is held for one client.
#[derive(Debug)]
pub(super) struct HeldForClient {
    /// Its replies take so much memory, that which others share with it included.
    replies: Cell<usize>,
    /// Its task holds so much of what it has sent.
    input: Cell<usize>,
    /// TLS holds so much: what is not sent yet, and the start of a record that has not arrived whole.
    stream: Cell<u32>,
    /// It keeps so much else while it is there: names of what it is subscribed to, its blocked call.
    kept: Cell<u32>,
    /// It takes so much to wait for what it waits for.
    wait: Cell<u32>,
    /// It counts what of that is on the worker's account.
    total: HeldBytes,
}

impl HeldForClient {
    /// Holds nothing yet, on `account`.
    pub(super) fn new(account: &Rc<MemoryAccount>) -> Self {
        Self {
            replies: Cell::new(0),
            input: Cell::new(0),
            stream: Cell::new(0),
            kept: Cell::new(0),
            wait: Cell::new(0),
            total: HeldBytes::new(account),
        }
    }

    pub(super) fn account(&self) -> &Rc<MemoryAccount> {
        self.total.account()
    }

    /// Takes in that nothing is held any more.
    pub(super) fn nothing(&self) {
        self.replies.set(0);
        self.input.set(0);
        self.stream.set(0);
        self.kept.set(0);
        self.wait.set(0);
        self.total.set(0);
    }

    /// Counts all of it, that which others share with the client included.
    #[inline]
    fn bytes(&self) -> usize {
        let shared = self.replies.get() + self.beside_replies();
        shared.max(self.total.bytes())
    }

    #[inline]
    pub(super) fn replies_bytes(&self) -> usize {
        self.replies.get()
    }

    #[inline]
    fn beside_replies(&self) -> usize {
        let small = [&self.kept, &self.wait, &self.stream];
        let small: usize = small.iter().map(|bytes| bytes.get() as usize).sum();
        self.input.get() + small
    }

    /// Takes in what the replies take now. Returns whether that has changed.
    #[inline]
    fn set_replies(&self, bytes: usize) -> bool {
        self.replies.replace(bytes) != bytes
    }

    /// Puts on the account what is held for the client alone: so much for replies and requests that came back, and all the rest.
    fn set_own(&self, bytes: usize) {
        self.total.set(bytes + self.beside_replies());
    }

    #[inline]
    fn set_input(&self, bytes: usize) {
        let before = self.input.replace(bytes);
        self.changed(before, bytes);
    }

    #[inline]
    fn set_small(&self, part: &Cell<u32>, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let before = part.replace(bytes);
        self.changed(before as usize, bytes as usize);
    }

    #[inline]
    fn changed(&self, before: usize, bytes: usize) {
        if before != bytes {
            let held = (self.total.bytes() + bytes).saturating_sub(before);
            self.total.set(held);
        }
    }
}

impl Outlet {
    /// Closes the client for the room that it takes: what is held for it is given back, at once as far as that is here.
    pub fn shed(&self) {
        self.close(Disconnect::Memory);
        // Otherwise they are under way, and given back when they have been looked at.
        if let Ok(mut replies) = self.replies.try_borrow_mut() {
            self.drop_replies(&mut replies);
        }
        if let Ok(stream) = self.stream.try_borrow()
            && let Some(stream) = &*stream
        {
            stream.let_go();
            self.hold_stream(stream);
        }
        // Its requests, and what else is kept for it, its task lets go of when it has its turn.
        self.held.total.go();
    }

    fn drop_replies(&self, replies: &mut Replies) {
        *replies = Replies::default();
        self.held.set_replies(0);
        self.note_own(replies);
    }

    /// Returns the memory that is held for the client, that which others share with it included.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Returns the memory that is held for its replies.
    #[inline]
    pub fn held_replies_bytes(&self) -> usize {
        self.held.replies_bytes()
    }

    /// Takes in that the client's task holds so much of what the client has sent.
    #[inline]
    pub fn hold_input(&self, bytes: usize) {
        self.held.set_input(bytes);
    }

    /// Takes in that so much is kept for it elsewhere, as long as it is there.
    pub fn hold_kept(&self, bytes: usize) {
        self.held.set_small(&self.held.kept, bytes);
    }

    /// Takes in that it takes so much to wait for what the client waits for; 0: it does not wait.
    #[inline]
    pub fn hold_wait(&self, bytes: usize) {
        self.held.set_small(&self.held.wait, bytes);
    }

    /// Takes in that TLS holds something else now.
    pub fn hold_stream(&self, stream: &Stream) {
        self.held.set_small(&self.held.stream, stream.held_bytes());
    }

    /// Puts on the account what is held now.
    #[inline]
    pub(super) fn note(&self, replies: &mut Replies) {
        if self.held.set_replies(replies.held_bytes()) {
            self.note_own(replies);
            if self.end.reason() == Some(Disconnect::Memory) {
                // It was the one that had to go.
                self.drop_replies(replies);
            }
        }
    }

    /// Puts on the account what is held for this client alone.
    pub(super) fn note_own(&self, replies: &Replies) {
        let unsent = self.unsent.borrow();
        let unsent: usize = unsent.iter().map(|unsent| unsent.bytes.capacity()).sum();
        self.held.set_own(replies.own_bytes() + unsent);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::MemoryRoom;

    fn holding() -> (Rc<MemoryAccount>, HeldForClient) {
        let account = MemoryAccount::new(Arc::new(MemoryRoom::new(1 << 30, 1)), 0);
        let held = HeldForClient::new(&account);
        (account, held)
    }

    #[test]
    fn each_part_is_on_the_account_as_it_is_now() {
        let (account, held) = holding();
        held.set_input(100);
        held.set_small(&held.kept, 20);
        held.set_small(&held.wait, 7);
        held.set_small(&held.stream, 3);
        assert_eq!((held.bytes(), account.held()), (130, 130));
        held.set_input(40);
        held.set_small(&held.wait, 0);
        assert_eq!((held.bytes(), account.held()), (63, 63));
        held.nothing();
        assert_eq!((held.bytes(), account.held()), (0, 0));
    }

    #[test]
    fn what_others_share_is_the_clients_and_not_on_the_account_again() {
        let (account, held) = holding();
        held.set_input(10);
        assert!(held.set_replies(500) && !held.set_replies(500));
        held.set_own(120);
        assert_eq!(account.held(), 130, "its own alone");
        assert_eq!(held.bytes(), 510, "with what it shares");
        assert_eq!(held.replies_bytes(), 500);
        held.set_input(0);
        assert_eq!(account.held(), 120);
    }

    #[test]
    fn what_came_back_counts_though_it_is_no_reply() {
        let (account, held) = holding();
        held.set_own(80);
        assert_eq!((held.bytes(), account.held()), (80, 80));
        drop(held);
        assert_eq!(account.held(), 0, "a client that goes gives it back");
    }

    #[test]
    fn a_part_past_counting_is_as_much_as_can_be_counted() {
        let (account, held) = holding();
        held.set_small(&held.kept, u32::MAX as usize + 5);
        assert_eq!(account.held(), u64::from(u32::MAX));
        held.set_small(&held.kept, 0);
        assert_eq!(account.held(), 0);
    }
}
