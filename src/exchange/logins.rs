//! Logins stand alone: an AUTH leaves when all before it on its connection is answered, and what is behind it leaves when it is
//! answered itself.
//!
//! Redis 8.2.3 never answers an AUTH that fails behind another request of the same read (`PING`, `AUTH nobody wrong`, `PING`:
//! two replies, of 112,305 tries each time): whoever counts replies would take the next one for it. Alone it is answered always.
//! Invariant: no login is sent while a reply is due, and nothing is sent while that to a login is.

use std::collections::VecDeque;
use std::ops::Range;

use super::Exchange;
use super::request::DueEntry;

/// The logins on a connection that have not been answered, by where they lie among all bytes ever appended.
#[derive(Debug, Default)]
pub(super) struct UnansweredLogins(VecDeque<Range<u64>>);

impl UnansweredLogins {
    /// Adds one that lies there.
    pub(super) fn add(&mut self, bytes: Range<u64>) {
        self.0.push_back(bytes);
    }

    /// Tells whether nothing has to wait.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns up to where may be sent when the reply due next is to the request that lies at `due`. `None`: everything.
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

    /// Moves the logins that lie at `at` or behind it by `bytes`, which were put in before them.
    fn shift(&mut self, at: u64, bytes: u64) {
        for login in &mut self.0 {
            if login.start >= at {
                *login = login.start + bytes..login.end + bytes;
            }
        }
    }
}

/// Tells whether a request of respool's own shows the server a secret. HELLO never does: AUTH stands before it.
pub(super) fn is_login(request: &[u8]) -> bool {
    let Some(at) = request.windows(2).position(|end| end == b"\r\n") else {
        return false;
    };
    request[at + 2..].starts_with(b"$4\r\nAUTH\r\n")
}

impl<H> Exchange<H> {
    /// Logins stand beside others from now on: nobody reads their answers any more.
    pub fn let_logins_go(&mut self) {
        self.logins.0.clear();
    }

    /// Returns how much of what is to be sent may be, as a place in it.
    #[inline]
    pub(super) fn sendable_end(&mut self) -> usize {
        if self.logins.is_empty() {
            return self.out.len();
        }
        match self.logins.limit(self.due.front().map(DueEntry::start)) {
            None => self.out.len(),
            Some(limit) => self.place(limit),
        }
    }

    /// Returns where a byte that has not been forgotten lies in what is to be sent.
    fn place(&self, total: u64) -> usize {
        let first = self.sent_total - self.written as u64;
        total.saturating_sub(first) as usize
    }

    /// The request appended last goes before the logins that wait for its answer.
    pub(super) fn put_before_logins(&mut self) {
        let next = self.due.front().map(DueEntry::start);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::OwnReply;
    use crate::exchange::tests::client::ModelClient;
    use crate::resp::speak::encode_request;

    fn asked(exchange: &mut Exchange<ModelClient>, request: &[u8]) {
        exchange.own_request(request, OwnReply::Ignore, 0);
    }

    /// Returns what leaves now.
    fn sent(exchange: &mut Exchange<ModelClient>) -> String {
        let bytes = exchange.sendable().to_vec();
        exchange.wrote(bytes.len(), 0);
        exchange.forget_written();
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
        let mut exchange = Exchange::begun(0, 0, rand::random);
        for request in [
            &["RESET"][..],
            &["AUTH", "own"],
            &["NAME"],
            &["SELECT"],
            &["AUTH", "ann"],
            &["AUTH", "bob"],
            &["GET"],
        ] {
            asked(&mut exchange, &encode_request(request));
        }
        let leaves = |exchange: &mut Exchange<ModelClient>, answered: usize| {
            drop(exchange.due.drain(..answered));
            sent(exchange)
        };
        assert_eq!(leaves(&mut exchange, 0), "RESET");
        assert_eq!(leaves(&mut exchange, 0), "");
        assert_eq!(leaves(&mut exchange, 1), "AUTH own");
        assert_eq!(leaves(&mut exchange, 0), "");
        assert_eq!(leaves(&mut exchange, 1), "NAME SELECT");
        assert_eq!(leaves(&mut exchange, 1), "");
        assert_eq!(leaves(&mut exchange, 1), "AUTH ann");
        assert_eq!(leaves(&mut exchange, 1), "AUTH bob");
        assert_eq!(leaves(&mut exchange, 1), "GET");
        assert!(exchange.logins.is_empty());
    }

    #[test]
    fn what_a_login_waits_for_goes_before_it() {
        let mut exchange = Exchange::begun(0, 0, rand::random);
        for request in [&["FENCE"][..], &["GET"], &["AUTH", "own"], &["SET"]] {
            asked(&mut exchange, &encode_request(request));
        }
        assert_eq!(sent(&mut exchange), "FENCE GET");
        asked(&mut exchange, &encode_request(&["LAST"]));
        exchange.put_before_logins();
        assert_eq!(sent(&mut exchange), "LAST");
        let starts: Vec<u64> = exchange.due.iter().map(DueEntry::start).collect();
        assert!(starts.is_sorted() && starts.len() == 5, "{starts:?}");
        drop(exchange.due.drain(..3));
        assert_eq!(sent(&mut exchange), "AUTH own");
        drop(exchange.due.drain(..1));
        assert_eq!(sent(&mut exchange), "SET");
        // With no login it stays where it is.
        asked(&mut exchange, &encode_request(&["LAST"]));
        exchange.put_before_logins();
        assert_eq!(sent(&mut exchange), "LAST");
    }
}
