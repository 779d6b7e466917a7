//! A request too large to share: gathered where it arrives, so that no connection waits for its client, and sent on a
//! connection of its own once it is whole. Of a very large one there is a story (`slow/large.rs`).

use std::io;

use super::{Client, Next, Wait};
use crate::transport::READ_SIZE;

/// Says how often `max_shared_request` is gathered of any request: a megabyte. One that respool must see whole to answer or to route it may
/// measure as much.
pub(super) const GATHERED: usize = 16;

/// Fewer missing bytes than this are read with what comes behind them.
const SMALLEST_READ: usize = READ_SIZE / 4;

impl Client {
    /// Counts the bytes that are gathered of any request.
    pub(super) fn gathered_bytes(&self) -> usize {
        GATHERED * self.clients.thread.settings().upstream.max_shared_request
    }

    /// Tells whether a request that has not arrived whole is too large to share.
    #[inline]
    pub(super) fn is_large(&self, here: usize) -> bool {
        let most = self.clients.thread.settings().upstream.max_shared_request;
        self.scanner.is_inside() && (self.scanner.extent() > most || here > most)
    }

    /// Gathers the start of a request, of which `here` has come.
    #[inline]
    pub(super) fn gather(&mut self, here: &[u8]) -> Next {
        // One of a client that must authenticate is bounded, and refused when it is whole.
        match self.is_large(here.len()) && !self.restrictions.is_locked() {
            true => self.gather_large(here),
            false => Next::More,
        }
    }

    /// Gathers the start of one too large to share. Past what is gathered of any its story begins, when everything before it has been
    /// answered.
    fn gather_large(&mut self, here: &[u8]) -> Next {
        if self.restrictions.is_arriving() {
            return self.take_place();
        }
        self.entry.is_upload.set(true);
        let most = self.gathered_bytes();
        // What has to be seen whole goes by what it announces: it would go on where all of it comes with one read.
        let is_too_large = || self.scanner.extent() > most && self.has_to_be_seen_whole(here);
        if self.has_sent_all() || (here.len() < most && !is_too_large()) {
            return Next::More;
        }
        if self.outlet.outstanding() > 0 {
            self.wait = Wait::Answers;
            return Next::Wait;
        }
        let refusing = self.refusing.clone();
        self.then(async move |client: &mut Self| client.large(refusing).await);
        Next::Wait
    }

    /// Reads more of a large request to where it is gathered. `None`: it is read as everything else.
    pub(super) fn read_on(&mut self) -> Option<io::Result<usize>> {
        if self.input.len() < READ_SIZE / 2 || !self.scanner.is_inside() {
            return None;
        }
        let missing = self.scanner.extent().saturating_sub(self.input.len());
        if missing < SMALLEST_READ {
            return None;
        }
        if self.input.capacity() - self.input.len() < SMALLEST_READ {
            // No more than four times what has come, whatever was announced.
            let room = missing.min(3 * self.input.len().max(READ_SIZE));
            self.make_room(room);
        }
        let room = self.input.capacity() - self.input.len();
        let read = self.stream.try_read_to(&mut self.input)?;
        if let Ok(read) = read {
            self.is_drained = read < room;
        }
        Some(read)
    }

    fn make_room(&mut self, room: usize) {
        match self.clients.spares.take(self.input.len() + room) {
            Some(mut spare) => {
                spare.extend_from_slice(&self.input);
                self.clients
                    .spares
                    .keep(std::mem::replace(&mut self.input, spare));
            }
            None => {
                // On the account before it is had. Moved by hand: where an allocator makes the old one longer it takes new
                // pages from the kernel, while those of others that have gone lie about for a moment.
                let capacity = self.input.len() + room;
                let ahead = self.ahead_held_bytes();
                self.outlet
                    .hold_input(self.input.capacity() + capacity + ahead);
                if !self.outlet.is_closed() {
                    let mut larger = Vec::with_capacity(capacity);
                    larger.extend_from_slice(&self.input);
                    self.input = larger;
                    self.outlet.hold_input(self.input.capacity() + ahead);
                }
            }
        }
    }
}
