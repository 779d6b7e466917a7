//! Bytes for one socket, in order. Large messages are held once for all the sockets they go to.

use std::collections::VecDeque;
use std::rc::Rc;

/// From this size on a message is held once for all its subscribers; below it, copying costs less than counting.
const SHARED_FROM: usize = 4 * 1024;

#[derive(Debug)]
enum Piece {
    Own(Vec<u8>),
    /// What is left of it starts here.
    Shared(Rc<[u8]>, usize),
}

/// What stands behind the head; boxed, since hardly any client ever has it.
#[derive(Debug, Default)]
struct Later {
    /// The first is shared unless the head has bytes.
    pieces: VecDeque<Piece>,
    bytes: usize,
}

/// Bytes for one socket that it has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Out {
    /// Those before `written` are gone.
    head: Vec<u8>,
    written: usize,
    /// `None`: nothing stands behind the head.
    later: Option<Box<Later>>,
}

impl Out {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.later.is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.head.len() - self.written + self.later.as_ref().map_or(0, |later| later.bytes)
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        let Some(later) = &mut self.later else {
            return self.head.extend_from_slice(bytes);
        };
        later.bytes += bytes.len();
        match later.pieces.back_mut() {
            Some(Piece::Own(last)) => last.extend_from_slice(bytes),
            _ => later.pieces.push_back(Piece::Own(bytes.to_vec())),
        }
    }

    /// Appends `frame` with another first byte. `shared` is the frame as other sockets may hold it already.
    pub(super) fn message(&mut self, first: u8, frame: &[u8], shared: &mut Option<Rc<[u8]>>) {
        self.extend(&[first]);
        if frame.len() < SHARED_FROM {
            self.extend(&frame[1..]);
        } else {
            self.share(Rc::clone(shared.get_or_insert_with(|| frame.into())), 1);
        }
    }

    /// Appends all of `other`.
    pub(super) fn append(&mut self, other: Self) {
        self.extend(&other.head[other.written..]);
        for piece in other.later.into_iter().flat_map(|later| later.pieces) {
            match piece {
                Piece::Own(bytes) => self.extend(&bytes),
                Piece::Shared(bytes, start) => self.share(bytes, start),
            }
        }
    }

    fn share(&mut self, bytes: Rc<[u8]>, start: usize) {
        let later = self.later.get_or_insert_default();
        later.bytes += bytes.len() - start;
        later.pieces.push_back(Piece::Shared(bytes, start));
    }

    /// The next bytes that lie in one piece; empty: there are none.
    #[inline]
    pub(super) fn front(&self) -> &[u8] {
        if !self.head.is_empty() {
            return &self.head[self.written..];
        }
        match self.later.as_ref().and_then(|later| later.pieces.front()) {
            Some(Piece::Shared(bytes, start)) => &bytes[*start..],
            Some(Piece::Own(bytes)) => bytes,
            None => &[],
        }
    }

    /// The socket took `length` bytes of `front`. What has become empty gives its memory back.
    pub(super) fn wrote(&mut self, length: usize) {
        if self.head.is_empty() {
            self.wrote_shared(length);
        } else {
            self.written += length;
            if self.written == self.head.len() {
                self.head = Vec::new();
                self.written = 0;
            } else if self.written > self.head.len() / 2 && self.written > 64 * 1024 {
                self.head.drain(..self.written);
                self.written = 0;
            }
        }
        if self.head.is_empty()
            && let Some(later) = &mut self.later
        {
            match later.pieces.pop_front() {
                Some(Piece::Own(bytes)) => {
                    later.bytes -= bytes.len();
                    self.head = bytes;
                }
                Some(shared) => later.pieces.push_front(shared),
                None => {}
            }
            if later.pieces.is_empty() {
                self.later = None;
            }
        }
    }

    fn wrote_shared(&mut self, length: usize) {
        let Some(later) = &mut self.later else {
            return;
        };
        later.bytes -= length;
        if let Some(Piece::Shared(bytes, start)) = later.pieces.front_mut() {
            *start += length;
            if *start == bytes.len() {
                later.pieces.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_leave_in_order_whatever_the_socket_takes(
            pieces in prop::collection::vec((0usize..3, 1usize..9000), 1..20),
            takes in prop::collection::vec(1usize..12_000, 1..40),
        ) {
            let (mut out, mut expected) = (Out::default(), Vec::new());
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
                        out.message(b'>', &bytes, &mut None);
                        expected.push(b'>');
                        expected.extend(&bytes[1..]);
                    }
                    _ => {
                        let mut other = Out::default();
                        other.message(b'*', &bytes, &mut None);
                        other.extend(b"end");
                        out.append(other);
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
            prop_assert_eq!(out.len(), 0);
        }
    }

    #[test]
    fn a_large_message_is_held_once() {
        let frame = vec![b'*'; SHARED_FROM];
        let mut shared = None;
        let (mut one, mut two) = (Out::default(), Out::default());
        one.message(b'*', &frame, &mut shared);
        two.message(b'>', &frame, &mut shared);
        assert_eq!(Rc::strong_count(shared.as_ref().unwrap()), 3);
    }
}
