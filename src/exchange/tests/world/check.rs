//! What must hold of the world, at every step, when all has been answered, and at the end.

use super::{Asked, Ending, Exchange, OwnReply, Shown, Told, Who, World, is_login};
use crate::exchange::request::DueEntry;
use crate::exchange::{Offence, Violation};

impl World {
    /// What holds at every step.
    pub(super) fn check(&self) {
        for (client, side) in &self.clients {
            let got = client.0.bytes.borrow();
            assert!(
                side.expected.starts_with(&got),
                "a client got {} of {}",
                got.escape_ascii(),
                side.expected.escape_ascii()
            );
        }
        assert!(self.pushed.starts_with(&self.heard.pushed.borrow()));
        for own in &self.own {
            let told = own.told.borrow();
            assert!(told.len() <= 1, "it is told once");
            let Some(told) = told.first() else { continue };
            assert_eq!(own.frames_left, 0, "it is told when all has come");
            match told {
                Told::Replies(replies) => {
                    assert_eq!(*replies, own.replies);
                    assert!(!own.is_call || replies.len() <= own.limit_bytes);
                }
                Told::TooLarge => assert!(own.is_call && own.replies.len() > own.limit_bytes),
                Told::Lost { .. } => panic!("nothing is lost yet"),
            }
        }
        if self.broken.is_none() && self.server.wire.is_empty() && !self.is_searching() {
            self.check_counts();
        }
    }

    /// Whether the answer to a fence is searched for, so that nobody is given what comes.
    fn is_searching(&self) -> bool {
        self.exchange.search.is_some()
    }

    /// What is due is exactly what was asked and not answered, when all has been read that was written.
    fn check_counts(&self) {
        let due = || self.ledger.unanswered(self.read_total);
        let is_counted = |who: Who| who != Who::Fence;
        let count = due().filter(|entry| is_counted(entry.who)).count();
        assert_eq!(self.exchange.in_flight(), count);
        assert_eq!(
            self.exchange.is_blocked(),
            due().any(|entry| entry.blocks),
            "a call that waits is due"
        );
        // What was sent together owes together.
        let owes_write = due().any(|entry| entry.delays.may_pause());
        assert!(!owes_write || self.exchange.owes_write());
        let owes_work = due().any(|entry| entry.delays.may_work());
        assert!(!owes_work || self.exchange.owes_work(None));
        assert_eq!(self.exchange.may_work(), self.exchange.owes_work(None));
        if count == 0 {
            assert!(!self.exchange.owes_write() && !self.exchange.may_work());
        }
        self.check_age();
        for (index, (client, _)) in self.clients.iter().enumerate() {
            let of_it = || due().filter(|entry| entry.who == Who::Client(index));
            assert_eq!(client.0.outstanding.get() as usize, of_it().count());
            let visible = of_it().filter(|entry| entry.shown != Shown::Nothing);
            let awaited = client.0.expected.get() - client.0.complete.get();
            assert!(client.0.is_gone.get() || awaited == visible.count() as u64);
        }
        let answered = |who: Who| {
            let is_answered = |end: u64| end <= self.read_total;
            let of_it = self.ledger.0.iter().filter(move |entry| entry.who == who);
            of_it.filter(move |entry| entry.answered_at.is_some_and(is_answered))
        };
        let mut replied = 0;
        for (index, (client, side)) in self.clients.iter().enumerate() {
            let count = answered(Who::Client(index)).count() as u32;
            replied += count;
            let measured = if client.0.is_measured.get() { count } else { 0 };
            assert_eq!(client.0.charged.get(), measured);
            if !side.has_left {
                assert_eq!(
                    client.0.bytes.borrow().len(),
                    side.expected.len(),
                    "it has all that was written for it"
                );
                assert!(!client.0.is_open.get());
            }
        }
        assert_eq!(self.heard.replied.get(), replied);
        assert_eq!(*self.heard.pushed.borrow(), self.pushed);
        assert_eq!(self.orphans, self.expected_orphans);
        for own in &self.own {
            let is_told = own.told.borrow().len() == 1;
            assert!(is_told || own.frames_left > 0 || !own.told_counts());
        }
    }

    /// How long the server has been silent, and whether anything is due at all.
    fn check_age(&self) {
        let is_last = |due: &DueEntry<_>| {
            matches!(
                due,
                DueEntry::Own {
                    reply: OwnReply::Last(_),
                    ..
                }
            )
        };
        if self.exchange.due.iter().any(is_last) {
            // Asked by the exchange itself, at a time that the ledger does not know.
            return;
        }
        let front = self.ledger.unanswered(self.read_total).next();
        assert_eq!(self.exchange.is_empty(), front.is_none());
        assert_eq!(self.exchange.silent_since().is_some(), front.is_some());
        if let Some(front) = front
            && self.exchange.is_all_sent()
        {
            let since = front.at_micros.max(self.heard_micros);
            assert_eq!(self.exchange.silent_since(), Some(since));
        }
    }

    /// Whether the server has done what a connection may end for.
    fn may_break(&self, violation: &Violation) -> bool {
        match violation {
            Violation::Offence(Offence::OpenTransaction) => self.server.has_left_open,
            Violation::Offence(Offence::Surplus) | Violation::NotTold => {
                self.server.manners.refuses_fences
            }
            _ => false,
        }
    }

    /// All is sent, answered and read, unless the connection ends for it.
    pub(in super::super) fn calm(&mut self) {
        for _ in 0..10_000 {
            let is_quiet = self.exchange.is_all_sent() && self.server.asked.is_empty();
            if self.broken.is_some() || (is_quiet && self.server.wire.is_empty()) {
                break;
            }
            self.send();
            self.answer();
            self.read();
            self.check();
        }
        if let Some(violation) = &self.broken {
            assert!(self.may_break(violation), "{violation:?}");
            return;
        }
        assert!(!self.server.is_offending, "nobody can tell what is whose");
        assert!(!self.server.has_left_open, "a transaction was left open");
        assert!(self.exchange.is_between_frames() || self.exchange.is_distrusted());
        assert_eq!(self.exchange.in_flight(), 0);
        assert!(!self.exchange.is_changing());
        assert!(self.changes.iter().all(|change| change.get().is_some()));
        self.check();
    }

    /// What comes where nothing is due reaches nobody, and ends the connection.
    pub(in super::super) fn check_surplus(&mut self) {
        if self.broken.is_some() || !self.exchange.is_between_frames() {
            return;
        }
        let frames = [
            "+OK\r\n",
            "*1\r\n:1\r\n",
            "-ERR max number of clients reached\r\n",
            ">2\r\n:1\r\n:1\r\n",
        ];
        let which = self.dice.roll(4) as usize;
        self.has_surplus = true;
        self.server.write(frames[which].as_bytes());
        let got: Vec<usize> = self
            .clients
            .iter()
            .map(|(client, _)| client.0.bytes.borrow().len())
            .collect();
        while self.broken.is_none() && !self.server.wire.is_empty() {
            self.read();
        }
        for ((client, _), before) in self.clients.iter().zip(got) {
            assert_eq!(client.0.bytes.borrow().len(), before);
        }
        let is_taken = which == 3 && self.heard.takes_pushes;
        match &self.broken {
            None => assert!(
                is_taken || self.exchange.is_distrusted(),
                "{}",
                frames[which]
            ),
            Some(violation) => assert!(
                !is_taken && matches!(violation, Violation::Unasked(_) | Violation::Offence(_)),
                "{violation:?}"
            ),
        }
    }

    /// The connection ends: every request was answered, comes back, or its client is closed; never two of these.
    pub(in super::super) fn end(mut self) {
        if let Some(violation) = &self.broken {
            assert!(
                self.has_surplus || self.may_break(violation),
                "{violation:?}"
            );
        }
        // Of the question that was asked last a part may be at the server, though its search is over.
        self.searched |= self.is_searching() || self.exchange.due.iter().any(is_asked_last);
        let ending = [Ending::Lost, Ending::Finished][self.dice.roll(2) as usize];
        let lent_to = self.is_lent.then(|| self.clients[0].0.clone());
        let is_again_on = lent_to.is_none();
        let exchange = std::mem::replace(&mut self.exchange, Exchange::begun(0, 0, rand::random));
        let mut sent = exchange.due.iter().rev();
        let last_sent = sent.find(|due| due.start() < exchange.sent_total);
        let begun = self
            .begun_entry()
            .filter(|_| !last_sent.is_some_and(is_asked_last));
        // What the exchange took for unanswered, frames dropped with the connection included.
        let count: Vec<u32> = (self.clients.iter())
            .map(|(client, _)| client.0.outstanding.get())
            .collect();
        let ended = exchange.end(lent_to, ending);
        let closed = |client: &super::ModelClient| client.0.ended.get().is_some();
        let closes = self
            .clients
            .iter()
            .filter(|(client, _)| closed(client))
            .count() as u64;
        let expected = if ending == Ending::Lost { closes } else { 0 };
        assert_eq!(ended.disconnected, expected);
        ended.tell();
        for (index, outstanding) in count.into_iter().enumerate() {
            self.check_end_of(index, outstanding as usize, begun, is_again_on, ending);
        }
        self.check_own_at_end(ending, begun);
    }

    /// The entry of which the server has got a part.
    pub(super) fn begun_entry(&self) -> Option<usize> {
        let is_begun = !self.server.begun.is_empty();
        let next = self.ledger.0.iter().position(|entry| !entry.is_received)?;
        is_begun.then_some(next)
    }

    fn check_end_of(
        &self,
        index: usize,
        outstanding: usize,
        begun: Option<usize>,
        is_again_on: bool,
        ending: Ending,
    ) {
        let client = &self.clients[index].0.0;
        let of_it =
            (self.ledger.0.iter().enumerate()).filter(|(_, entry)| entry.who == Who::Client(index));
        let of_it: Vec<_> = of_it.collect();
        let due = &of_it[of_it.len() - outstanding..];
        let was_sent = |at: usize| {
            let group = self.ledger.0[at].group;
            self.ledger.0[group].is_received || begun == Some(group)
        };
        let is_closed = client.ended.get().is_some();
        let unsent = client.unsent.borrow();
        let back = unsent
            .iter()
            .map(|unsent| unsent.count as usize)
            .sum::<usize>();
        let bytes: Vec<u8> = unsent
            .iter()
            .flat_map(|unsent| unsent.bytes.clone())
            .collect();
        // What comes back is what was asked last, byte for byte.
        let (kept, returned) = due.split_at(due.len() - back);
        let expected = returned.iter().flat_map(|(_, entry)| entry.bytes.clone());
        assert_eq!(strip_fences(&bytes), expected.collect::<Vec<u8>>());
        // The question that was asked last in a search may stand before what was not sent.
        if !self.searched {
            assert!(
                returned.iter().all(|(at, _)| !was_sent(*at)),
                "it may have been sent"
            );
        } else {
            assert!(
                returned
                    .iter()
                    .all(|(at, _)| !self.ledger.0[*at].is_received)
            );
        }
        assert!(
            returned
                .iter()
                .all(|(_, entry)| entry.is_again && is_again_on)
        );
        assert!(
            kept.is_empty() || is_closed,
            "it waits for what does not come"
        );
        let must_close = due
            .iter()
            .any(|(at, entry)| was_sent(*at) || !entry.is_again);
        if !self.searched || !is_closed {
            assert_eq!(is_closed, must_close || !is_again_on);
        }
        assert!(client.ended.get().is_none_or(|end| end == ending));
    }

    fn check_own_at_end(&self, ending: Ending, begun: Option<usize>) {
        for (number, own) in self.own.iter().enumerate() {
            let told = own.told.borrow();
            assert!(told.len() <= 1);
            if !own.is_call {
                continue;
            }
            let first = (self.ledger.0.iter()).position(|entry| entry.who == Who::Own(number));
            let first = first.expect("it was asked");
            let was_sent = self.ledger.0[first].is_received || begun == Some(first);
            let told = told.first().expect("whoever calls is told");
            if let Told::Lost { sent } = told
                && !self.searched
            {
                assert_eq!(*sent, was_sent && ending == Ending::Lost);
            }
        }
    }
}

impl super::Own {
    /// Whether what it is told is kept.
    fn told_counts(&self) -> bool {
        self.is_call || self.limit_bytes != usize::MAX
    }
}

/// Requests without the fences behind them.
fn strip_fences(bytes: &[u8]) -> Vec<u8> {
    let mut server = super::Server::default();
    let mut kept = Vec::new();
    let mut begin = 0;
    for end in 1..=bytes.len() {
        for asked in server.receive(&bytes[end - 1..end]) {
            assert!(!is_login(&asked));
            if !matches!(asked, Asked::Fence(_)) {
                kept.extend_from_slice(&bytes[begin..end]);
            }
            begin = end;
        }
    }
    assert!(server.begun.is_empty(), "whole requests come back");
    kept
}

fn is_asked_last(due: &DueEntry<super::ModelClient>) -> bool {
    matches!(
        due,
        DueEntry::Own {
            reply: OwnReply::Last(_),
            ..
        }
    )
}
