//! A client's replies leave in the order of its requests, whatever comes first.
//!
//! Invariant: what `unwritten` returns never holds a byte of a reply before the whole of every reply due earlier.

mod out;

use std::collections::VecDeque;
use std::rc::Rc;

use crate::memory::{MemoryAccount, SharedFrame};
use out::OutBuffer;

/// Holds the replies one client is due, and those of its bytes the socket has not taken.
///
/// Replies awaited from the server all come from one connection at a time, in order; so a count stands for them, and only
/// replies of respool's own that must wait behind them are kept.
#[derive(Debug, Default)]
pub struct Replies {
    /// Counts the replies awaited from the server before anything in `behind`.
    first: u64,
    /// Is true while a frame of the server has begun and not ended.
    open: bool,
    /// Keeps what is held; it is boxed, since a client that reads its replies as they come never has any.
    held: Option<Box<HeldReplies>>,
}

#[derive(Debug, Default)]
struct HeldReplies {
    /// Holds the bytes for the socket.
    out: OutBuffer,
    /// Holds messages that came while a frame of the server was open: they leave behind it.
    amid: OutBuffer,
    /// Holds own replies that wait for replies of the server, one behind the other.
    own: OutBuffer,
    /// Tells what `own` consists of.
    turns: VecDeque<OwnReplies>,
    /// Counts the bytes nobody asked for (messages, invalidations, MONITOR) since the socket had taken everything.
    unasked_bytes: usize,
}

/// Counts own replies in one piece, and the replies awaited from the server right behind them.
///
/// However many own replies there are, they cost their bytes: a turn for each of them measured 56 bytes beside 5 of its own.
#[derive(Debug)]
struct OwnReplies {
    own_bytes: usize,
    awaited: u64,
}

impl HeldReplies {
    fn own_bytes(&self) -> usize {
        self.out.own_bytes()
            + self.amid.own_bytes()
            + self.own.own_bytes()
            + self.turns.capacity() * size_of::<OwnReplies>()
    }

    fn shared_bytes(&self) -> usize {
        self.out.shared_bytes() + self.amid.shared_bytes()
    }

    fn is_empty(&self) -> bool {
        self.out.is_empty() && self.amid.is_empty() && self.turns.is_empty()
    }
}

impl Replies {
    /// Notes that the next `count` replies come from the server.
    #[inline]
    pub fn expect(&mut self, count: u64) {
        match self.held.as_mut().and_then(|held| held.turns.back_mut()) {
            None => self.first += count,
            Some(turn) => turn.awaited += count,
        }
    }

    /// Places a reply of respool's own as the next one.
    pub fn own(&mut self, reply: &[u8]) {
        let held = self.held.get_or_insert_default();
        if self.first == 0 && held.turns.is_empty() && !self.open {
            return held.out.extend(reply);
        }
        held.own.extend(reply);
        match held.turns.back_mut() {
            Some(turn) if turn.awaited == 0 => turn.own_bytes += reply.len(),
            _ => held.turns.push_back(OwnReplies {
                own_bytes: reply.len(),
                awaited: 0,
            }),
        }
    }

    /// Places whole frames that answer no request: before the next frame, whatever that is.
    pub fn push(&mut self, frames: &[u8]) {
        let held = self.held.get_or_insert_default();
        held.unasked_bytes += frames.len();
        if self.open {
            held.amid.extend(frames);
        } else {
            held.out.extend(frames);
        }
    }

    /// Forgets what waits for the end of the frame under way.
    pub fn drop_amid(&mut self) {
        if let Some(held) = &mut self.held {
            held.amid = OutBuffer::default();
        }
        self.let_go();
    }

    /// Notes that bytes have been passed on that nobody asked for.
    pub fn passed_unasked(&mut self, bytes: usize) {
        if let Some(held) = &mut self.held {
            held.unasked_bytes += bytes;
        }
    }

    /// Tells whether frames of the server may be passed by in one piece: nothing must go between them.
    #[inline]
    pub fn is_plain(&self) -> bool {
        match &self.held {
            None => true,
            Some(held) => held.turns.is_empty() && held.amid.is_empty(),
        }
    }

    /// Notes that `complete` frames of the server end in the bytes just passed on, and where `open` is true that
    /// another has begun.
    #[inline]
    pub fn served(&mut self, complete: u64, open: bool) {
        self.first = self.first.saturating_sub(complete);
        self.open = open;
        if !self.is_plain() {
            self.release();
        }
    }

    /// Places a message the client is subscribed to, with its own first byte: it stands between replies, wherever it
    /// comes. `shared` is the frame as other clients may hold it already.
    pub fn message(
        &mut self,
        first: u8,
        frame: &[u8],
        shared: &mut Option<Rc<SharedFrame>>,
        account: &Rc<MemoryAccount>,
    ) {
        let held = self.held.get_or_insert_default();
        let to = if self.open {
            &mut held.amid
        } else {
            &mut held.out
        };
        to.message(first, frame, shared, account);
    }

    /// Tells whether bytes may go to the socket directly, past this buffer.
    #[inline]
    pub fn is_written(&self) -> bool {
        self.held.as_ref().is_none_or(|held| held.out.is_empty())
    }

    /// Keeps bytes the socket did not take.
    pub fn keep(&mut self, bytes: &[u8]) {
        self.held.get_or_insert_default().out.extend(bytes);
    }

    /// Returns the next bytes for the socket that lie in one piece; where they are empty there are none.
    pub fn unwritten(&self) -> &[u8] {
        self.held.as_ref().map_or(&[], |held| held.out.front())
    }

    /// Notes that the socket took `length` of `unwritten`. What has become empty gives its memory back.
    pub fn wrote(&mut self, length: usize) {
        let Some(held) = &mut self.held else { return };
        held.out.wrote(length);
        if held.out.is_empty() {
            held.unasked_bytes = 0;
        }
        self.let_go();
    }

    /// Tells whether a frame of the server has begun and not ended.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Counts the bytes that the client has not taken yet.
    pub fn unread_bytes(&self) -> usize {
        self.held
            .as_ref()
            .map_or(0, |held| held.out.len() + held.amid.len() + held.own.len())
    }

    /// Counts those of them that nobody asked for, since the client had last taken everything.
    pub fn unasked_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.unasked_bytes)
    }

    /// Counts the bytes of memory that are held for this client, those it shares with others included.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        self.held
            .as_ref()
            .map_or(0, |held| held.own_bytes() + held.shared_bytes())
    }

    /// Counts the bytes of memory that are held for this client alone.
    pub fn own_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.own_bytes())
    }

    /// Counts the replies awaited from the server.
    #[cfg(test)]
    pub fn awaited(&self) -> u64 {
        let turns = self.held.iter().flat_map(|held| &held.turns);
        self.first + turns.map(|turn| turn.awaited).sum::<u64>()
    }

    /// Answers every awaited reply with `error` instead, in place.
    pub fn fail_awaited(&mut self, error: &[u8]) {
        let first = std::mem::take(&mut self.first);
        self.open = false;
        if first == 0 && self.held.is_none() {
            return;
        }
        let held = self.held.get_or_insert_default();
        let put = |out: &mut OutBuffer, count: u64| (0..count).for_each(|_| out.extend(error));
        put(&mut held.out, first);
        held.out.append(&mut held.amid);
        for turn in std::mem::take(&mut held.turns) {
            held.out.take_from(&mut held.own, turn.own_bytes);
            put(&mut held.out, turn.awaited);
        }
        self.let_go();
    }

    /// Lets go what has waited for the end of a frame, and own replies whose turn has come.
    fn release(&mut self) {
        let Some(held) = &mut self.held else { return };
        if self.open {
            return;
        }
        held.out.append(&mut held.amid);
        while self.first == 0
            && let Some(turn) = held.turns.pop_front()
        {
            held.out.take_from(&mut held.own, turn.own_bytes);
            self.first = turn.awaited;
        }
        if held.turns.is_empty() {
            held.turns = VecDeque::new();
        }
    }

    /// Gives back what has become empty.
    fn let_go(&mut self) {
        if self.held.as_ref().is_some_and(|held| held.is_empty()) {
            self.held = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Serves the server's next frame, as the connection would hand it over.
    fn serve(replies: &mut Replies, frame: &[u8], pieces: usize) {
        let cut = frame.len() / pieces.max(1);
        if pieces > 1 && cut > 0 {
            replies.keep(&frame[..cut]);
            replies.served(0, true);
            replies.keep(&frame[cut..]);
        } else {
            replies.keep(frame);
        }
        replies.served(1, false);
    }

    proptest! {
        #[test]
        fn replies_leave_in_request_order(
            kinds in prop::collection::vec((any::<bool>(), 1usize..3), 1..60),
            early in prop::collection::vec(0usize..4, 60),
            takes in prop::collection::vec(1usize..12, 60),
        ) {
            let mut replies = Replies::default();
            let mut due: std::collections::VecDeque<Vec<u8>> = Default::default();
            let mut expected = Vec::new();
            let mut seen = Vec::new();
            for (number, (own, pieces)) in kinds.into_iter().enumerate() {
                let frame = format!("+{}{number}\r\n", if own { "own" } else { "server" }).into_bytes();
                expected.extend_from_slice(&frame);
                if own {
                    replies.own(&frame);
                } else {
                    replies.expect(1);
                    due.push_back(frame);
                }
                for _ in 0..early[number] {
                    if let Some(frame) = due.pop_front() { serve(&mut replies, &frame, pieces); }
                }
                let take = takes[number].min(replies.unwritten().len());
                seen.extend_from_slice(&replies.unwritten()[..take]);
                if take > 0 { replies.wrote(take); }
                prop_assert!(expected.starts_with(&seen));
            }
            while let Some(frame) = due.pop_front() { serve(&mut replies, &frame, 1); }
            seen.extend_from_slice(replies.unwritten());
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(replies.awaited(), 0);
        }
    }

    #[test]
    fn an_own_reply_never_lands_inside_a_frame_of_the_server() {
        let mut replies = Replies::default();
        replies.keep(b">2\r\n+a");
        replies.served(0, true);
        replies.own(b"+OK\r\n");
        assert_eq!(replies.unwritten(), b">2\r\n+a");
        replies.keep(b"\r\n+b\r\n");
        replies.served(0, false);
        assert_eq!(replies.unwritten(), b">2\r\n+a\r\n+b\r\n+OK\r\n");
    }

    #[test]
    fn a_message_stands_between_replies() {
        let mut replies = Replies::default();
        replies.expect(2);
        replies.keep(b"$2\r\nh");
        replies.served(0, true);
        let account = MemoryAccount::new(
            std::sync::Arc::new(crate::memory::MemoryRoom::new(1 << 30, 1)),
            0,
        );
        replies.message(b'>', b"*1\r\n+m\r\n", &mut None, &account);
        assert_eq!(replies.unwritten(), b"$2\r\nh");
        assert_eq!(replies.unread_bytes(), 13);
        replies.keep(b"i\r\n");
        replies.served(1, false);
        replies.message(b'>', b"*1\r\n+n\r\n", &mut None, &account);
        replies.keep(b"+OK\r\n");
        replies.served(1, false);
        assert_eq!(
            replies.unwritten(),
            b"$2\r\nhi\r\n>1\r\n+m\r\n>1\r\n+n\r\n+OK\r\n"
        );
    }

    #[test]
    fn a_push_goes_between_two_frames() {
        let mut replies = Replies::default();
        replies.expect(2);
        replies.own(b"+OWN\r\n");
        replies.push(b">1\r\n+a\r\n");
        assert_eq!(
            replies.unwritten(),
            b">1\r\n+a\r\n",
            "before the replies awaited"
        );
        replies.keep(b"$4\r\nab");
        replies.served(0, true);
        replies.push(b">1\r\n+b\r\n");
        assert!(!replies.is_plain());
        replies.keep(b"cd\r\n");
        replies.served(1, false);
        replies.keep(b"+2\r\n");
        replies.served(1, false);
        assert_eq!(
            replies.unwritten(),
            b">1\r\n+a\r\n$4\r\nabcd\r\n>1\r\n+b\r\n+2\r\n+OWN\r\n"
        );
        assert!(replies.is_plain());
    }

    #[test]
    fn failing_what_is_awaited_keeps_the_order() {
        let mut replies = Replies::default();
        replies.expect(1);
        replies.own(b"+1\r\n");
        replies.expect(2);
        replies.fail_awaited(b"-E\r\n");
        assert_eq!(replies.unwritten(), b"-E\r\n+1\r\n-E\r\n-E\r\n");
        assert_eq!((replies.awaited(), replies.unread_bytes()), (0, 16));
    }

    #[test]
    fn own_replies_behind_a_slow_one_cost_their_bytes() {
        let mut replies = Replies::default();
        replies.expect(1);
        for _ in 0..1_000_000 {
            replies.own(b"+OK\r\n");
        }
        assert_eq!(replies.unread_bytes(), 5_000_000);
        assert!(replies.held_bytes() < 5_000_000 + 512 * 1024);
        replies.keep(b":1\r\n");
        replies.served(1, false);
        while !replies.is_written() {
            let length = replies.unwritten().len();
            replies.wrote(length);
        }
        assert_eq!((replies.held_bytes(), replies.unread_bytes()), (0, 0));
        assert!(replies.held.is_none());
    }
}
