//! What is held for one client, put on its worker's account as it changes.

use super::Outlet;
use crate::replies::Replies;
use crate::telemetry::Disconnect;
use crate::transport::Stream;

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
        self.holding.go();
    }

    fn drop_replies(&self, replies: &mut Replies) {
        *replies = Replies::default();
        self.replies_bytes.set(0);
        self.holding.set(self.own_bytes(replies));
    }

    /// Takes in that nothing is held for it any more.
    pub(super) fn hold_nothing(&self) {
        self.replies_bytes.set(0);
        self.input_bytes.set(0);
        self.stream_bytes.set(0);
        self.kept_bytes.set(0);
        self.wait_bytes.set(0);
        self.holding.set(0);
    }

    /// Returns the memory that is held for the client, that which others share with it included.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        let shared = self.replies_bytes.get() + self.beside_replies();
        shared.max(self.holding.bytes())
    }

    /// Returns the memory that is held for its replies.
    #[inline]
    pub fn held_replies_bytes(&self) -> usize {
        self.replies_bytes.get()
    }

    /// Returns the memory that is held for it beside its replies.
    #[inline]
    fn beside_replies(&self) -> usize {
        let small = [&self.kept_bytes, &self.wait_bytes, &self.stream_bytes];
        let small: usize = small.iter().map(|bytes| bytes.get() as usize).sum();
        self.input_bytes.get() + small
    }

    /// Takes in that the client's task holds so much of what the client has sent.
    #[inline]
    pub fn hold_input(&self, bytes: usize) {
        let before = self.input_bytes.replace(bytes);
        self.changed(before, bytes);
    }

    /// Takes in that so much is kept for it elsewhere, as long as it is there.
    pub fn hold_kept(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let before = self.kept_bytes.replace(bytes);
        self.changed(before as usize, bytes as usize);
    }

    /// Takes in that it takes so much to wait for what the client waits for; 0: it does not wait.
    #[inline]
    pub fn hold_wait(&self, bytes: usize) {
        let before = self.wait_bytes.replace(bytes as u32);
        self.changed(before as usize, bytes);
    }

    /// Takes in that TLS holds something else now.
    pub fn hold_stream(&self, stream: &Stream) {
        let bytes = u32::try_from(stream.held_bytes()).unwrap_or(u32::MAX);
        let before = self.stream_bytes.replace(bytes);
        self.changed(before as usize, bytes as usize);
    }

    #[inline]
    fn changed(&self, before: usize, bytes: usize) {
        if before != bytes {
            let held = (self.holding.bytes() + bytes).saturating_sub(before);
            self.holding.set(held);
        }
    }

    /// Puts on the account what is held now.
    #[inline]
    pub(super) fn note(&self, replies: &mut Replies) {
        let held = replies.held_bytes();
        if held != self.replies_bytes.replace(held) {
            self.holding.set(self.own_bytes(replies));
            if self.end.get() == Some(Disconnect::Memory) {
                // It was the one that had to go.
                self.drop_replies(replies);
            }
        }
    }

    /// Returns the memory that is held for this client alone.
    pub(super) fn own_bytes(&self, replies: &Replies) -> usize {
        let unsent = self.unsent.borrow();
        let unsent: usize = unsent.iter().map(|unsent| unsent.bytes.capacity()).sum();
        replies.own_bytes() + self.beside_replies() + unsent
    }
}
