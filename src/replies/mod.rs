//! A client's replies leave in the order of its requests, whatever comes first.
//!
//! Invariant: what `unwritten` returns never holds a byte of a reply before the whole of every reply due earlier.

mod out;

use std::collections::VecDeque;
use std::rc::Rc;

use out::Out;

/// The replies one client is due, and those of its bytes the socket has not taken.
///
/// Replies awaited from the server all come from one connection at a time, in order; so a count stands for them, and only
/// replies of respool's own that must wait behind them are kept.
#[derive(Debug, Default)]
pub struct Replies {
    /// Replies awaited from the server before anything in `behind`.
    first: u64,
    /// Own replies, each with the number of replies awaited from the server right behind it.
    behind: VecDeque<(Box<[u8]>, u64)>,
    /// Bytes held in `behind`.
    behind_bytes: usize,
    /// A frame of the server has begun and not ended.
    open: bool,
    /// Messages that came while a frame of the server was open: they leave behind it.
    amid: Option<Box<Out>>,
    /// Bytes for the socket.
    out: Out,
}

impl Replies {
    /// The next `count` replies come from the server.
    #[inline]
    pub fn expect(&mut self, count: u64) {
        match self.behind.back_mut() {
            None => self.first += count,
            Some((_, behind)) => *behind += count,
        }
    }

    /// The next reply is respool's own.
    pub fn own(&mut self, reply: &[u8]) {
        if self.first == 0 && self.behind.is_empty() && !self.open {
            self.out.extend(reply);
        } else {
            self.behind_bytes += reply.len();
            self.behind.push_back((reply.into(), 0));
        }
    }

    /// Places whole frames that answer no request: before the next frame, whatever that is.
    pub fn push(&mut self, frames: &[u8]) {
        if self.open {
            self.amid.get_or_insert_default().extend(frames);
        } else {
            self.out.extend(frames);
        }
    }

    /// Whether frames of the server may be passed by in one piece: nothing must go between them.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.behind.is_empty() && self.amid.is_none()
    }

    /// `complete` frames of the server end in the bytes just passed on; `open`: another has begun.
    #[inline]
    pub fn served(&mut self, complete: u64, open: bool) {
        self.first = self.first.saturating_sub(complete);
        self.open = open;
        if !self.is_plain() {
            self.release();
        }
    }

    /// A message the client is subscribed to, with its own first byte: it stands between replies, wherever it comes.
    /// `shared` is the frame as other clients may hold it already.
    pub fn message(&mut self, first: u8, frame: &[u8], shared: &mut Option<Rc<[u8]>>) {
        if self.open {
            let amid = self.amid.get_or_insert_default();
            amid.message(first, frame, shared);
        } else {
            self.out.message(first, frame, shared);
        }
    }

    /// Whether bytes may go to the socket directly, past this buffer.
    #[inline]
    pub fn is_written(&self) -> bool {
        self.out.is_empty()
    }

    /// Keeps bytes the socket did not take.
    pub fn keep(&mut self, bytes: &[u8]) {
        self.out.extend(bytes);
    }

    /// The next bytes for the socket that lie in one piece; empty: there are none.
    pub fn unwritten(&self) -> &[u8] {
        self.out.front()
    }

    /// The socket took `length` of `unwritten`. What has become empty gives its memory back.
    pub fn wrote(&mut self, length: usize) {
        self.out.wrote(length);
    }

    /// Whether a frame of the server has begun and not ended.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Bytes held for this client.
    pub fn held_bytes(&self) -> usize {
        self.out.len() + self.behind_bytes + self.amid.as_ref().map_or(0, |amid| amid.len())
    }

    /// Replies awaited from the server.
    pub fn awaited(&self) -> u64 {
        self.first + self.behind.iter().map(|(_, count)| count).sum::<u64>()
    }

    /// Answers every awaited reply with `error` instead, in place.
    pub fn fail_awaited(&mut self, error: &[u8]) {
        for _ in 0..self.first {
            self.out.extend(error);
        }
        self.first = 0;
        self.open = false;
        if let Some(messages) = self.amid.take() {
            self.out.append(*messages);
        }
        for (own, count) in std::mem::take(&mut self.behind) {
            self.out.extend(&own);
            for _ in 0..count {
                self.out.extend(error);
            }
        }
        self.behind_bytes = 0;
    }

    /// Lets go what has waited for the end of a frame, and own replies whose turn has come.
    fn release(&mut self) {
        if !self.open
            && let Some(frames) = self.amid.take()
        {
            self.out.append(*frames);
        }
        while self.first == 0
            && !self.open
            && let Some((own, count)) = self.behind.pop_front()
        {
            self.behind_bytes -= own.len();
            self.out.extend(&own);
            self.first = count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The server's next frame, as the connection would hand it over.
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
            let mut due: VecDeque<Vec<u8>> = VecDeque::new();
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
        replies.message(b'>', b"*1\r\n+m\r\n", &mut None);
        assert_eq!(replies.unwritten(), b"$2\r\nh");
        assert_eq!(replies.held_bytes(), 13);
        replies.keep(b"i\r\n");
        replies.served(1, false);
        replies.message(b'>', b"*1\r\n+n\r\n", &mut None);
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
        assert_eq!((replies.awaited(), replies.held_bytes()), (0, 16));
    }
}
