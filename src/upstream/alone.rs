//! Logins stand alone: an AUTH leaves when all before it on its connection is answered, and what is behind it leaves when it is
//! answered itself.
//!
//! Redis 8.2.3 never answers an AUTH that fails behind another request of the same read (`PING`, `AUTH nobody wrong`, `PING`:
//! two replies, of 112,305 tries each time): whoever counts replies would take the next one for it. Alone it is answered always.
//! Invariant: no login is sent while a reply is due, and nothing is sent while that to a login is.

use std::collections::VecDeque;
use std::ops::Range;

use super::traffic::{Due, Inner};

/// The logins on a connection that have not been answered, by where they lie among all bytes ever appended.
#[derive(Debug, Default)]
pub(super) struct Logins(VecDeque<Range<u64>>);

impl Logins {
    /// A login lies there.
    pub(super) fn add(&mut self, bytes: Range<u64>) {
        self.0.push_back(bytes);
    }

    /// Whether nothing has to wait.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// They stand beside others from now on: nobody reads their answers any more.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Up to where may be sent when the reply due next is to the request that lies at `due`. `None`: everything.
    pub(super) fn limit(&mut self, due: Option<u64>) -> Option<u64> {
        while let Some(login) = self.0.front() {
            match due {
                Some(due) if due < login.start => return Some(login.start),
                Some(due) if due == login.start => return Some(login.end),
                _ => self.0.pop_front(),
            };
        }
        None
    }

    /// So many bytes have come to stand before what lies at `at` and behind it.
    fn shift(&mut self, at: u64, bytes: u64) {
        for login in &mut self.0 {
            if login.start >= at {
                *login = login.start + bytes..login.end + bytes;
            }
        }
    }
}

/// Whether a request of respool's own shows the server a secret. HELLO never does: AUTH stands before it.
pub(super) fn is_login(request: &[u8]) -> bool {
    let Some(at) = request.windows(2).position(|end| end == b"\r\n") else {
        return false;
    };
    request[at + 2..].starts_with(b"$4\r\nAUTH\r\n")
}

impl Inner {
    /// How much of what is to be sent may be, as a place in it.
    #[inline]
    pub(super) fn sendable(&mut self) -> usize {
        if self.logins.is_empty() {
            return self.out.len();
        }
        match self.logins.limit(self.due.front().map(Due::start)) {
            None => self.out.len(),
            Some(limit) => self.place(limit),
        }
    }

    /// Where a byte that has not been forgotten lies in what is to be sent.
    fn place(&self, total: u64) -> usize {
        let first = self.sent_total - self.written as u64;
        total.saturating_sub(first) as usize
    }

    /// The request appended last goes before the logins that wait for its answer.
    pub(super) fn put_before_logins(&mut self) {
        let next = self.due.front().map(Due::start);
        let Some(at) = self
            .logins
            .limit(next)
            .filter(|limit| next.is_some_and(|next| next < *limit))
        else {
            return;
        };
        let Some(mut last) = self.due.pop_back().filter(|last| last.start() >= at) else {
            return;
        };
        let bytes = self.appended_total - last.start();
        let place = self.place(at);
        self.out[place..].rotate_right(bytes as usize);
        self.logins.shift(at, bytes);
        let index = self.due.partition_point(|due| due.start() < at);
        for due in self.due.iter_mut().skip(index) {
            let start = due.start_mut();
            *start += bytes;
        }
        *last.start_mut() = at;
        self.due.insert(index, last);
    }
}

impl Due {
    fn start_mut(&mut self) -> &mut u64 {
        match self {
            Self::Client { start, .. } | Self::Own { start, .. } => start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::speak::encode_request;
    use crate::upstream::traffic::OwnReply;

    fn asked(inner: &mut Inner, request: &[u8]) {
        let start = inner.append(request);
        if is_login(request) {
            inner.logins.add(start..inner.appended_total);
        }
        inner.due.push_back(Due::Own {
            reply: OwnReply::Ignore,
            sent_micros: 0,
            start,
        });
    }

    /// What leaves now.
    fn sent(inner: &mut Inner) -> String {
        let end = inner.sendable();
        let bytes = inner.out[inner.written..end].to_vec();
        inner.written = end;
        inner.sent_total += bytes.len() as u64;
        inner.forget_written();
        let text = String::from_utf8(bytes).expect("text");
        let words = text.split("\r\n").filter(|word| !word.is_empty());
        let words = words.filter(|word| !word.starts_with(['*', '$']));
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_login_is_told_by_its_command() {
        for login in [&["AUTH", "secret"][..], &["AUTH", "ann", "pw"]] {
            assert!(is_login(&encode_request(login)));
        }
        for other in [
            &["PING"][..],
            &["ECHO", "AUTH"],
            &["AUTHX"],
            &["HELLO", "3"],
        ] {
            assert!(!is_login(&encode_request(other)));
        }
        assert!(!is_login(b""));
    }

    #[test]
    fn nothing_stands_before_a_login_or_behind_it() {
        let mut inner = Inner::default();
        for request in [
            &["RESET"][..],
            &["AUTH", "own"],
            &["NAME"],
            &["SELECT"],
            &["AUTH", "ann"],
            &["AUTH", "bob"],
            &["GET"],
        ] {
            asked(&mut inner, &encode_request(request));
        }
        let leaves = |inner: &mut Inner, answered: usize| {
            drop(inner.due.drain(..answered));
            sent(inner)
        };
        assert_eq!(leaves(&mut inner, 0), "RESET");
        assert_eq!(leaves(&mut inner, 0), "");
        assert_eq!(leaves(&mut inner, 1), "AUTH own");
        assert_eq!(leaves(&mut inner, 0), "");
        assert_eq!(leaves(&mut inner, 1), "NAME SELECT");
        assert_eq!(leaves(&mut inner, 1), "");
        assert_eq!(leaves(&mut inner, 1), "AUTH ann");
        assert_eq!(leaves(&mut inner, 1), "AUTH bob");
        assert_eq!(leaves(&mut inner, 1), "GET");
        assert!(inner.logins.is_empty());
    }

    #[test]
    fn what_a_login_waits_for_goes_before_it() {
        let mut inner = Inner::default();
        for request in [&["FENCE"][..], &["GET"], &["AUTH", "own"], &["SET"]] {
            asked(&mut inner, &encode_request(request));
        }
        assert_eq!(sent(&mut inner), "FENCE GET");
        asked(&mut inner, &encode_request(&["LAST"]));
        inner.put_before_logins();
        assert_eq!(sent(&mut inner), "LAST");
        let starts: Vec<u64> = inner.due.iter().map(Due::start).collect();
        assert!(starts.is_sorted() && starts.len() == 5, "{starts:?}");
        drop(inner.due.drain(..3));
        assert_eq!(sent(&mut inner), "AUTH own");
        drop(inner.due.drain(..1));
        assert_eq!(sent(&mut inner), "SET");
        // With no login it stays where it is.
        asked(&mut inner, &encode_request(&["LAST"]));
        inner.put_before_logins();
        assert_eq!(sent(&mut inner), "LAST");
    }
}
