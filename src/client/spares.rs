//! Buffers in which large requests were gathered, kept for the next ones for a moment: memory that is new to the process
//! costs a page fault for each 4 KiB, and requests of 256 KiB of eight clients 125 µs each instead of 73.

use std::cell::RefCell;
use std::rc::Rc;

use crate::memory::{HeldBytes, MemoryAccount};
use crate::transport::READ_SIZE;

/// Smaller ones are cheap to have anew. Where freed memory goes back at once those of 100 KB are not: without them SET of as
/// much by 50 clients was half as fast.
const SMALLEST: usize = READ_SIZE;

/// Larger ones are seldom wanted again.
const LARGEST: usize = 16 * READ_SIZE;

/// Most that are kept.
const MOST: usize = 64;

/// Most that they hold in all.
const MOST_BYTES: usize = 8 * LARGEST;

/// Of so many one is let go of with each tick.
const TICKS: usize = 8;

/// The spare buffers of one worker, on its account.
#[derive(Debug)]
pub(super) struct SpareBuffers {
    buffers: RefCell<Vec<Vec<u8>>>,
    holding: HeldBytes,
}

impl SpareBuffers {
    /// None are kept yet.
    pub(super) fn new(account: &Rc<MemoryAccount>) -> Self {
        Self {
            buffers: RefCell::default(),
            holding: HeldBytes::new(account),
        }
    }

    /// An empty buffer that has room for this many bytes.
    pub(super) fn take(&self, room: usize) -> Option<Vec<u8>> {
        let mut buffers = self.buffers.borrow_mut();
        let at = buffers.iter().position(|spare| spare.capacity() >= room)?;
        let spare = buffers.swap_remove(at);
        self.holding.set(self.holding.bytes() - spare.capacity());
        Some(spare)
    }

    /// Keeps a buffer that is done with, or lets go of it: so it does where there is hardly room.
    pub(super) fn keep(&self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if !(SMALLEST..=LARGEST).contains(&capacity) || self.holding.account().memory().is_full() {
            return;
        }
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() == MOST || self.holding.bytes() + capacity > MOST_BYTES {
            return;
        }
        buffer.clear();
        buffers.push(buffer);
        drop(buffers);
        // Who has to go for them are they themselves.
        self.holding.set(self.holding.bytes() + capacity);
    }

    /// Lets go of some: called with each tick, so that none is left soon after the last large request.
    pub(super) fn shrink(&self) {
        let mut buffers = self.buffers.borrow_mut();
        let left = buffers.len() - buffers.len().div_ceil(TICKS);
        for spare in buffers.drain(left..) {
            self.holding.set(self.holding.bytes() - spare.capacity());
        }
        if buffers.is_empty() {
            *buffers = Vec::new();
        }
    }

    /// Lets go of all of them.
    pub(super) fn clear(&self) {
        *self.buffers.borrow_mut() = Vec::new();
        self.holding.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::MemoryRoom;

    fn account(limit: u64) -> Rc<MemoryAccount> {
        MemoryAccount::new(Arc::new(MemoryRoom::new(limit, 1)), 0)
    }

    #[test]
    fn a_buffer_is_kept_if_it_is_worth_it_and_given_to_who_fits_in_it() {
        let account = account(1 << 30);
        let spares = SpareBuffers::new(&account);
        for capacity in [SMALLEST - 1, SMALLEST, LARGEST, LARGEST + 1] {
            spares.keep(Vec::with_capacity(capacity));
        }
        assert_eq!(account.held(), (SMALLEST + LARGEST) as u64);
        let large = spares.take(SMALLEST + 1).map(|spare| spare.capacity());
        assert!(large >= Some(LARGEST));
        assert!(spares.take(SMALLEST + 1).is_none());
        assert!(spares.take(SMALLEST).is_some_and(|spare| spare.is_empty()));
    }

    #[test]
    fn no_more_are_kept_than_there_may_be_and_none_for_ever() {
        let account = account(1 << 30);
        let spares = SpareBuffers::new(&account);
        for _ in 0..2 * MOST {
            spares.keep(vec![1; SMALLEST]);
        }
        assert_eq!(account.held(), (MOST * SMALLEST) as u64);
        spares.clear();
        for _ in 0..2 * MOST {
            spares.keep(vec![1; 3 * SMALLEST]);
        }
        let held = account.held() as usize;
        assert!(held <= MOST_BYTES && held > MOST_BYTES - 3 * SMALLEST);
        for _ in 0..MOST {
            spares.shrink();
        }
        assert!(spares.take(1).is_none());
        assert_eq!(account.held(), 0);
    }

    #[test]
    fn none_is_kept_where_there_is_no_room() {
        let account = account(16 << 20);
        let spares = SpareBuffers::new(&account);
        spares.keep(vec![1; LARGEST]);
        let client = HeldBytes::new(&account);
        client.set(14 << 20);
        spares.keep(vec![1; LARGEST]);
        assert_eq!(account.held(), (LARGEST + (14 << 20)) as u64);
        spares.clear();
        assert_eq!(account.held(), 14 << 20);
    }
}
