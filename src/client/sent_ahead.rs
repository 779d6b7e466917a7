//! What a client sends behind a call that waits at the server. It is read on, as the server reads on, so that the client's end is seen,
//! which stands behind it; and kept in the order in which it came, apart from the requests at hand, until the call has ended.
//!
//! Invariant: what is kept here is on the client's account, and comes before anything that is still in its socket.

use std::collections::VecDeque;

use super::story::Awaited;
use super::{Client, Wait};
use crate::telemetry::{Bound, Disconnect};
use crate::transport::READ_SIZE;

/// Bytes in the order in which they came, in pieces: however many there are, none is moved for another.
#[derive(Debug, Default)]
pub struct SentAhead {
    pieces: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl SentAhead {
    /// Keeps `read`, which is no more than a read brings.
    fn push(&mut self, mut read: &[u8]) {
        self.bytes += read.len();
        if let Some(last) = self.pieces.back_mut() {
            let (fits, rest) = read.split_at(read.len().min(READ_SIZE - last.len()));
            last.extend_from_slice(fits);
            read = rest;
        }
        if !read.is_empty() {
            let mut piece = Vec::with_capacity(READ_SIZE);
            piece.extend_from_slice(read);
            self.pieces.push_back(piece);
        }
    }

    /// The first bytes that are kept.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let piece = self.pieces.pop_front()?;
        self.bytes -= piece.len();
        Some(piece)
    }

    /// Memory that it takes.
    pub(super) fn held_bytes(&self) -> usize {
        let list = self.pieces.capacity() * size_of::<Vec<u8>>();
        self.pieces.len() * READ_SIZE + list + size_of::<Self>()
    }
}

impl Client {
    /// Bytes that are kept behind the requests at hand.
    #[inline]
    pub(super) fn ahead_bytes(&self) -> usize {
        self.sent_ahead.as_ref().map_or(0, |ahead| ahead.bytes)
    }

    /// Memory that they take.
    #[inline]
    pub(super) fn ahead_held_bytes(&self) -> usize {
        self.sent_ahead
            .as_ref()
            .map_or(0, |ahead| ahead.held_bytes())
    }

    /// Tells whether nothing of what the client has sent is still to be used, and no request is in the middle of being passed on.
    #[inline]
    pub(super) fn has_used_all(&self) -> bool {
        self.slow.is_none()
            && self.input.is_empty()
            && self.sent_ahead.is_none()
            && !self.is_amid_request()
    }

    /// Tells whether the client's story waits for the rest of a request.
    #[inline]
    pub(super) fn is_amid_request(&self) -> bool {
        matches!(self.wait, Wait::Story(Awaited::Rest))
    }

    /// Tells whether the client has finished sending, and all that it has sent is at hand.
    #[inline]
    pub(super) fn has_sent_all(&self) -> bool {
        self.is_at_end && self.sent_ahead.is_none()
    }

    /// Tells whether a request at hand is wanted now, or more of one.
    #[inline]
    pub(super) fn may_use(&self) -> bool {
        self.ending.is_none()
            && match &self.wait {
                Wait::Nothing | Wait::Story(Awaited::Rest) => true,
                // The kernel's buffer tells the client to slow down.
                Wait::InFlight | Wait::Room(_) | Wait::Turn(_) => false,
                // A client that writes all its requests before it reads the first reply is read on, as Redis does.
                Wait::Unread => self.may_send_ahead(),
                _ => self.input.len() < self.most_read_ahead(),
            }
    }

    fn most_read_ahead(&self) -> usize {
        self.clients.thread.settings().limits.max_client_read_ahead
    }

    /// Tells whether the client is read. It is asked several times in each turn, so what is nearly always so is seen where it is asked.
    #[inline]
    pub(super) fn may_read(&self) -> bool {
        let waits_for_nothing = matches!(self.wait, Wait::Nothing);
        let is_free = waits_for_nothing && self.ending.is_none() && self.sent_ahead.is_none();
        !self.is_at_end && (is_free || self.may_read_amid_a_wait())
    }

    /// Tells whether the client is read that waits for something, or has sent more than is looked at now.
    #[inline(never)]
    fn may_read_amid_a_wait(&self) -> bool {
        self.sent_ahead.is_none() && self.may_use() || self.is_read_on()
    }

    /// Tells whether the client is read though no request of it is wanted: it waits in a call that may wait for as long as it likes, which
    /// is to end with it.
    fn is_read_on(&self) -> bool {
        let is_amid_messages = || {
            let link = self.pin.as_ref().map(|pin| pin.link());
            link.is_some_and(|link| link.is_raw() && link.unanswered_amid().blocks)
        };
        let stands = matches!(
            self.wait,
            Wait::Answers | Wait::Story(Awaited::Server | Awaited::Line(_))
        );
        stands && self.ending.is_none() && (self.is_blocked() || is_amid_messages())
    }

    /// Tells whether what is read now stands behind more than is at hand.
    #[inline]
    pub(super) fn reads_ahead(&self) -> bool {
        self.sent_ahead.is_some() || !self.may_use()
    }

    /// Keeps what was read behind a call that waits. The client is closed past its bound, as the server closes it past its own.
    #[cold]
    pub(super) fn keep_ahead(&mut self, read: &[u8]) -> Option<usize> {
        let limits = &self.clients.thread.settings().limits;
        let is_first = self.sent_ahead.is_none();
        let ahead = self.sent_ahead.get_or_insert_default();
        ahead.push(read);
        let here = ahead.bytes + self.input.len();
        if is_first {
            self.clients.thread.counters.bound(Bound::ReadAhead).add(1);
        }
        if here > limits.max_client_query_buffer {
            self.outlet.close(Disconnect::QueryBuffer);
        }
        None
    }

    /// Goes on with the next bytes that were kept, if they are wanted now. Returns how many there were.
    #[inline]
    pub(super) fn use_ahead(&mut self) -> Option<usize> {
        if self.sent_ahead.is_none() || !self.may_use() {
            return None;
        }
        self.use_next_piece()
    }

    #[cold]
    fn use_next_piece(&mut self) -> Option<usize> {
        let ahead = self.sent_ahead.as_mut()?;
        let piece = ahead.pop();
        if ahead.pieces.is_empty() {
            self.sent_ahead = None;
        }
        let piece = piece?;
        // More may be behind it.
        self.is_drained = false;
        let used = self.use_read(&piece);
        self.settle_read(used);
        Some(piece.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_was_kept_comes_back_in_order_and_is_counted(
            steps in prop::collection::vec((0..=READ_SIZE, any::<bool>()), 1..40)
        ) {
            let (mut ahead, mut next, mut due) = (SentAhead::default(), 0_u32, 0_u32);
            let mut take = |ahead: &mut SentAhead| {
                let piece = ahead.pop();
                for byte in piece.iter().flatten() {
                    assert_eq!(*byte, (due % 251) as u8);
                    due += 1;
                }
                piece.is_some()
            };
            for (length, takes) in steps {
                let read: Vec<u8> = (next..next + length as u32).map(|at| (at % 251) as u8).collect();
                next += length as u32;
                ahead.push(&read);
                prop_assert!(ahead.held_bytes() >= ahead.bytes);
                prop_assert!(ahead.held_bytes() < ahead.bytes + 2 * READ_SIZE + 4096);
                if takes {
                    take(&mut ahead);
                }
            }
            while take(&mut ahead) {}
            prop_assert_eq!(due, next);
            prop_assert_eq!(ahead.bytes, 0);
        }
    }
}
