//! What of a client's replies its socket takes at once, and what is kept until it takes more.
//!
//! It knows no socket: it is told by a function how many of the bytes that it is shown the socket takes.

use crate::replies::Replies;

/// A socket is handed so many bytes at most before others have their turn, as Redis hands over 64 KiB. Of 150 subscribers each took what
/// its socket had room for, and a request of another client waited for 150 ms.
const MOST_AT_ONCE: usize = 256 * 1024;

/// Fewer bytes than these are copied, for one write with others; so many or more leave as they come.
const GATHERED_BELOW: usize = 16 * 1024;

/// Passes on bytes of the server in which `complete` visible replies end; `open`: another has begun. Returns whether bytes are left for
/// the socket.
#[inline]
pub(super) fn pass(
    replies: &mut Replies,
    bytes: &[u8],
    (complete, open): (u32, bool),
    mut take: impl FnMut(&[u8]) -> usize,
) -> bool {
    // What is kept goes first.
    let taken = match replies.is_written() {
        true => take(bytes),
        false => 0,
    };
    if taken < bytes.len() {
        replies.keep(&bytes[taken..]);
    }
    replies.served(u64::from(complete), open);
    !replies.is_written() && flush(replies, take)
}

/// Passes on bytes as [`pass`] does, but keeps the small ones: [`flush`] hands them over with those that follow.
pub(super) fn gather(
    replies: &mut Replies,
    bytes: &[u8],
    counts: (u32, bool),
    take: impl FnMut(&[u8]) -> usize,
) -> bool {
    if bytes.len() >= GATHERED_BELOW {
        return pass(replies, bytes, counts, take);
    }
    if !bytes.is_empty() {
        replies.keep(bytes);
    }
    replies.served(u64::from(counts.0), counts.1);
    false
}

/// Hands over what is kept, as far as the socket takes it in this turn. Returns whether bytes are left for it.
pub(super) fn flush(replies: &mut Replies, mut take: impl FnMut(&[u8]) -> usize) -> bool {
    let mut left = MOST_AT_ONCE;
    while left > 0 && !replies.is_written() {
        let next = replies.unwritten();
        let next = &next[..next.len().min(left)];
        let taken = take(next);
        let is_full = taken < next.len();
        replies.wrote(taken);
        left -= taken;
        if is_full {
            break;
        }
    }
    !replies.is_written()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::{MemoryAccount, MemoryRoom};

    /// A socket that takes so many bytes, and shows what it has taken.
    struct Socket {
        room: usize,
        taken: Vec<u8>,
        calls: usize,
    }

    impl Socket {
        fn with(room: usize) -> Self {
            Self {
                room,
                taken: Vec::new(),
                calls: 0,
            }
        }

        fn take(&mut self, bytes: &[u8]) -> usize {
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            self.taken.extend_from_slice(&bytes[..taken]);
            self.calls += 1;
            taken
        }
    }

    fn expecting(count: u64) -> Replies {
        let mut replies = Replies::default();
        replies.expect(count);
        replies
    }

    #[test]
    fn what_the_socket_takes_is_never_held() {
        let mut replies = expecting(2);
        let mut socket = Socket::with(100);
        let is_left = pass(&mut replies, b"+a\r\n+b\r\n", (2, false), |b| {
            socket.take(b)
        });
        assert!(!is_left && replies.held_bytes() == 0);
        assert_eq!((&*socket.taken, socket.calls), (&b"+a\r\n+b\r\n"[..], 1));
    }

    #[test]
    fn what_it_does_not_take_is_kept_and_goes_first() {
        let mut replies = expecting(2);
        let mut socket = Socket::with(3);
        assert!(pass(&mut replies, b"+first\r\n", (1, false), |b| socket.take(b)));
        assert_eq!(replies.unread_bytes(), 5);
        socket.room = 100;
        assert!(!pass(&mut replies, b"+next\r\n", (1, false), |b| socket.take(b)));
        assert_eq!(socket.taken, b"+first\r\n+next\r\n");
        assert_eq!(replies.unread_bytes(), 0);
    }

    #[test]
    fn an_own_reply_leaves_with_the_last_byte_that_stands_before_it() {
        let mut replies = expecting(1);
        replies.own(b"+own\r\n");
        let mut socket = Socket::with(100);
        assert!(!pass(&mut replies, b"+ser", (0, true), |b| socket.take(b)));
        assert_eq!(socket.taken, b"+ser");
        assert!(!pass(&mut replies, b"ver\r\n", (1, false), |b| socket.take(b)));
        assert_eq!(socket.taken, b"+server\r\n+own\r\n");
    }

    #[test]
    fn a_full_socket_is_asked_once_a_turn() {
        let mut replies = Replies::default();
        replies.own(b"+OK\r\n");
        replies.push(b">1\r\n+p\r\n");
        let mut socket = Socket::with(2);
        assert!(flush(&mut replies, |bytes| socket.take(bytes)));
        assert_eq!((&*socket.taken, socket.calls), (&b"+O"[..], 1));
        assert!(flush(&mut replies, |bytes| socket.take(bytes)));
        assert_eq!(socket.calls, 2);
    }

    #[test]
    fn what_comes_amid_a_frame_waits_for_its_end() {
        let mut replies = Replies::default();
        let mut socket = Socket::with(100);
        assert!(!pass(&mut replies, b">1\r\n", (0, true), |b| socket.take(b)));
        replies.push(b">1\r\n+b\r\n");
        assert!(replies.is_written() && replies.unread_bytes() > 0);
        assert!(!pass(&mut replies, b"+a\r\n", (0, false), |b| socket.take(b)));
        assert_eq!(socket.taken, b">1\r\n+a\r\n>1\r\n+b\r\n");
    }

    #[test]
    fn one_turn_hands_over_so_much_and_no_more() {
        let account = MemoryAccount::new(Arc::new(MemoryRoom::new(1 << 30, 1)), 0);
        let mut replies = Replies::default();
        // In one piece, of which the mark comes first.
        let frame = vec![b'x'; MOST_AT_ONCE + 10];
        replies.message(b'*', &frame, &mut None, &account);
        let mut socket = Socket::with(usize::MAX);
        assert!(flush(&mut replies, |bytes| socket.take(bytes)));
        assert_eq!(
            (socket.taken.len(), replies.unread_bytes()),
            (MOST_AT_ONCE, 10)
        );
        assert!(!flush(&mut replies, |bytes| socket.take(bytes)));
        assert_eq!(socket.taken.len(), MOST_AT_ONCE + 10);
    }

    #[test]
    fn small_replies_that_are_gathered_are_one_write() {
        let mut replies = expecting(1_000);
        let mut socket = Socket::with(usize::MAX);
        for _ in 0..1_000 {
            assert!(!gather(&mut replies, b"+OK\r\n", (1, false), |b| socket.take(b)));
        }
        assert_eq!((socket.calls, replies.unread_bytes()), (0, 5_000));
        assert!(!flush(&mut replies, |bytes| socket.take(bytes)));
        assert_eq!((socket.calls, replies.held_bytes()), (1, 0));
        assert_eq!(socket.taken, b"+OK\r\n".repeat(1_000));
    }

    #[test]
    fn large_bytes_take_what_was_gathered_along_and_are_not_copied_alone() {
        let large = vec![b'x'; GATHERED_BELOW];
        let mut replies = expecting(2);
        let mut socket = Socket::with(usize::MAX);
        assert!(!gather(&mut replies, &large, (1, false), |b| socket.take(b)));
        assert_eq!((socket.calls, replies.held_bytes()), (1, 0));
        assert!(!gather(&mut replies, b"+a\r\n", (1, false), |b| socket.take(b)));
        assert!(!gather(&mut replies, &large, (0, true), |b| socket.take(b)));
        assert_eq!(replies.unread_bytes(), 0);
        assert_eq!(socket.taken, [&large, &b"+a\r\n"[..], &large].concat());
    }

    #[test]
    fn nothing_is_kept_of_bytes_that_are_none() {
        let mut replies = expecting(1);
        assert!(!gather(&mut replies, b"", (1, false), |_| 0));
        assert_eq!((replies.held_bytes(), replies.awaited()), (0, 0));
    }

    #[test]
    fn nothing_is_shown_to_the_socket_where_nothing_is_kept() {
        let mut socket = Socket::with(1);
        assert!(!flush(&mut Replies::default(), |bytes| socket.take(bytes)));
        assert_eq!(socket.calls, 0);
    }
}
