//! Bytes for one socket, in order, in chunks. Large messages are held once for all the sockets they go to.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::memory::{MemoryAccount, SharedFrame};

/// A message of this size or more is held once for all its subscribers; below it, copying costs less than counting.
const SHARED_FROM: usize = 4 * 1024;

/// Counts the bytes of a full chunk. A chunk grows up to it and is never moved again; a reply of 60 MB is 240 of them,
/// of which those the socket has taken are given back one by one.
const CHUNK: usize = 256 * 1024;

/// Counts the bytes of the smallest chunk.
const SMALLEST: usize = 64;

/// Bounds the pieces that are copied behind the last one rather than kept as they are.
const COPIED_UP_TO: usize = 4 * 1024;

#[derive(Debug)]
enum OutPiece {
    /// The first is bytes of its own; what is left of them starts at the second.
    Own(Vec<u8>, usize),
    /// The first is held by others too; what is left of it starts at the second.
    Shared(Rc<SharedFrame>, usize),
}

impl OutPiece {
    fn left(&self) -> &[u8] {
        match self {
            Self::Own(bytes, start) => &bytes[*start..],
            Self::Shared(frame, start) => &frame.bytes()[*start..],
        }
    }

    fn take(&mut self, length: usize) {
        match self {
            Self::Own(_, start) | Self::Shared(_, start) => *start += length,
        }
    }
}

/// Holds bytes for one socket that it has not taken yet.
#[derive(Debug, Default)]
pub(super) struct OutBuffer {
    /// Holds the pieces in their order; none of them is used up.
    pieces: VecDeque<OutPiece>,
    bytes: usize,
    /// Counts what the pieces of its own take, used up or not.
    own_bytes: usize,
    /// Counts what it holds together with others.
    shared_bytes: usize,
}

impl OutBuffer {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Counts the bytes that the socket has not taken.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Counts the bytes of memory that are held for this socket alone.
    pub(super) fn own_bytes(&self) -> usize {
        self.own_bytes
    }

    /// Counts the bytes of messages that are held for others too.
    pub(super) fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    pub(super) fn extend(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len();
        while !bytes.is_empty() {
            let taken = match self.pieces.back_mut() {
                Some(OutPiece::Own(last, _)) if last.len() < CHUNK => {
                    let taken = bytes.len().min(CHUNK - last.len());
                    let before = last.capacity();
                    let wanted = last.len() + taken;
                    if wanted > before {
                        let capacity = wanted.max(2 * before).min(CHUNK);
                        last.reserve_exact(capacity - last.len());
                    }
                    last.extend_from_slice(&bytes[..taken]);
                    self.own_bytes += last.capacity() - before;
                    taken
                }
                last => {
                    let taken = bytes.len().min(CHUNK);
                    // Behind a full one comes another.
                    let is_next = matches!(last, Some(OutPiece::Own(..)));
                    let capacity = if is_next { CHUNK } else { taken.max(SMALLEST) };
                    let mut chunk = Vec::with_capacity(capacity);
                    chunk.extend_from_slice(&bytes[..taken]);
                    self.own_bytes += chunk.capacity();
                    self.pieces.push_back(OutPiece::Own(chunk, 0));
                    taken
                }
            };
            bytes = &bytes[taken..];
        }
    }

    /// Appends `frame` with another first byte. `shared` is the frame as other sockets may hold it already.
    pub(super) fn message(
        &mut self,
        first: u8,
        frame: &[u8],
        shared: &mut Option<Rc<SharedFrame>>,
        account: &Rc<MemoryAccount>,
    ) {
        self.extend(&[first]);
        if frame.len() < SHARED_FROM {
            self.extend(&frame[1..]);
        } else {
            let shared = shared.get_or_insert_with(|| SharedFrame::new(frame, account));
            self.push(OutPiece::Shared(Rc::clone(shared), 1));
        }
    }

    /// Appends all of `other`.
    pub(super) fn append(&mut self, other: &mut Self) {
        self.take_from(other, other.bytes);
    }

    /// Appends the first `length` bytes of `other`, which are taken from it: pieces of some size as they are.
    pub(super) fn take_from(&mut self, other: &mut Self, length: usize) {
        let mut left = length;
        while left > 0
            && let Some(piece) = other.pieces.front()
        {
            let here = piece.left().len();
            if here <= left && here > COPIED_UP_TO {
                let Some(piece) = other.pop() else { return };
                other.bytes -= here;
                self.push(piece);
            } else {
                self.extend(&piece.left()[..here.min(left)]);
                other.wrote(here.min(left));
            }
            left -= here.min(left);
        }
    }

    fn push(&mut self, piece: OutPiece) {
        self.bytes += piece.left().len();
        match &piece {
            OutPiece::Own(bytes, _) => self.own_bytes += bytes.capacity(),
            OutPiece::Shared(frame, _) => self.shared_bytes += frame.bytes().len(),
        }
        self.pieces.push_back(piece);
    }

    fn pop(&mut self) -> Option<OutPiece> {
        let piece = self.pieces.pop_front()?;
        match &piece {
            OutPiece::Own(bytes, _) => self.own_bytes -= bytes.capacity(),
            OutPiece::Shared(frame, _) => self.shared_bytes -= frame.bytes().len(),
        }
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
        Some(piece)
    }

    /// Returns the next bytes that lie in one piece; where they are empty there are none.
    #[inline]
    pub(super) fn front(&self) -> &[u8] {
        self.pieces.front().map_or(&[], OutPiece::left)
    }

    /// Notes that the socket took `length` bytes of `front`. What has become empty gives its memory back.
    pub(super) fn wrote(&mut self, length: usize) {
        self.bytes -= length;
        if let Some(piece) = self.pieces.front_mut() {
            piece.take(length);
            if piece.left().is_empty() {
                drop(self.pop());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryRoom;
    use proptest::prelude::*;
    use std::sync::Arc;

    proptest! {
        #[test]
        fn bytes_leave_in_order_whatever_the_socket_takes(
            pieces in prop::collection::vec((0usize..3, 1usize..9000), 1..20),
            takes in prop::collection::vec(1usize..12_000, 1..40),
        ) {
            let account = MemoryAccount::new(Arc::new(MemoryRoom::new(1 << 30, 1)), 0);
            let (mut out, mut expected) = (OutBuffer::default(), Vec::new());
            let mut seen: Vec<u8> = Vec::new();
            let mut takes = takes.into_iter().cycle();
            for (number, (kind, length)) in pieces.into_iter().enumerate() {
                let bytes = vec![number as u8; length];
                match kind {
                    0 => {
                        out.extend(&bytes);
                        expected.extend(&bytes);
                    }
                    1 => {
                        out.message(b'>', &bytes, &mut None, &account);
                        expected.push(b'>');
                        expected.extend(&bytes[1..]);
                    }
                    _ => {
                        let mut other = OutBuffer::default();
                        other.message(b'*', &bytes, &mut None, &account);
                        other.extend(b"end");
                        out.append(&mut other);
                        prop_assert_eq!((other.len(), other.own_bytes(), other.shared_bytes()), (0, 0, 0));
                        expected.push(b'*');
                        expected.extend(&bytes[1..]);
                        expected.extend(b"end");
                    }
                }
                prop_assert_eq!(out.len(), expected.len() - seen.len());
                let take = takes.next().unwrap().min(out.front().len());
                seen.extend(&out.front()[..take]);
                out.wrote(take);
            }
            while !out.is_empty() {
                let take = takes.next().unwrap().min(out.front().len());
                prop_assert!(take > 0);
                seen.extend(&out.front()[..take]);
                out.wrote(take);
            }
            prop_assert_eq!(seen, expected);
            prop_assert_eq!((out.len(), out.own_bytes(), out.shared_bytes()), (0, 0, 0));
            prop_assert_eq!(account.held(), 0);
        }
    }

    #[test]
    fn a_large_message_is_held_once() {
        let frame = vec![b'*'; SHARED_FROM];
        let account = MemoryAccount::new(Arc::new(MemoryRoom::new(1 << 30, 1)), 0);
        let mut shared = None;
        let (mut one, mut two) = (OutBuffer::default(), OutBuffer::default());
        one.message(b'*', &frame, &mut shared, &account);
        two.message(b'>', &frame, &mut shared, &account);
        assert_eq!(Rc::strong_count(shared.as_ref().unwrap()), 3);
        assert_eq!(account.held(), SHARED_FROM as u64);
        assert!(one.own_bytes() <= SMALLEST && one.shared_bytes() == SHARED_FROM);
    }

    #[test]
    fn what_is_held_is_what_is_unread_and_no_more_than_a_chunk() {
        let mut out = OutBuffer::default();
        let (mut unread, mut most) = (0, 0);
        for round in 0..3000_usize {
            out.extend(&[7; 1003]);
            unread += 1003;
            if round % 3 == 0 {
                let taken = out.front().len().min(1500);
                out.wrote(taken);
                unread -= taken;
            }
            assert_eq!(out.len(), unread);
            most = most.max(out.own_bytes() - unread);
        }
        assert!(most <= 2 * CHUNK, "{most}");
    }
}
