//! What a request sent on a connection now would wait for there.

use super::super::traffic::{Due, Inner};
use super::Link;
use crate::schedule::{AnsweredRequests, BusyCause, ConnectionLoad, LinkCompany};

/// Bytes that the kernel has not taken weigh as a millisecond each time there are so many of them.
const BEHIND_BYTES: usize = 64 * 1024;

/// Who has used a connection within so long still uses it.
const LATELY_MICROS: u64 = 100_000;

impl Link {
    /// Microseconds that a request sent on it now would wait for what is due there, if another connection would spare it
    /// that; 0: it would not.
    #[inline]
    pub fn load(&self) -> u64 {
        let inner = self.inner.borrow();
        let behind = (inner.out.len() - inner.written) / BEHIND_BYTES;
        let now = self.thread.clock.now_micros();
        let load = inner.times.load(now, inner.due_count as u64);
        behind as u64 * 1000
            + match load {
                ConnectionLoad::Light => 0,
                ConnectionLoad::Heavy(micros) => micros,
                // In a long turn of this thread a reply may have arrived that was not read yet.
                ConnectionLoad::Silent(_) if self.has_arrived() => 0,
                ConnectionLoad::Silent(micros) => micros,
            }
    }

    /// Puts on the account what is held for it now, rather than when it is written: after large requests of respool's own.
    pub(in super::super) fn note_held(&self) {
        let held = self.inner.borrow().held_bytes();
        self.holding.set(held);
    }

    /// When the latest blocking call was sent that is due.
    pub fn blocked_micros(&self) -> Option<u64> {
        let inner = self.inner.borrow();
        let blocking = inner.due.iter().filter(|due| due.is_blocking());
        blocking.map(Due::sent_micros).max()
    }

    /// Gives back room that it keeps for large requests.
    pub(in super::super) fn shrink(&self) {
        self.inner.borrow_mut().shrink();
        self.note_held();
    }

    /// The shortest time that a request and its reply were under way on it.
    #[inline]
    pub fn round_trip_micros(&self) -> u64 {
        self.inner.borrow().times.round_trip_micros()
    }

    /// Whether the socket is known to have bytes to read. It costs no system call.
    fn has_arrived(&self) -> bool {
        let socket = self.socket.borrow();
        socket.as_ref().is_some_and(|socket| socket.has_arrived())
    }
}

impl Inner {
    /// When the reply due first was asked for, as far as that is known.
    #[inline]
    pub(in super::super) fn asked_micros(&self) -> Option<u64> {
        match self.due.front() {
            Some(Due::Client { sent_micros, .. } | Due::Own { sent_micros, .. }) => {
                Some(*sent_micros)
            }
            None => None,
        }
    }

    /// A read has been handed out; before it `due` replies were due, the first of them asked for at `asked_micros`.
    #[inline]
    pub(in super::super) fn measure(&mut self, now: u64, due: usize, asked_micros: Option<u64>) {
        let replies = due - self.due_count;
        if replies > 0 {
            let spent = self.times.answered(now, replies as u64, asked_micros);
            if !self.charged.is_empty() {
                self.charge(now, spent, replies as u32, due);
            }
        }
    }

    /// Charges those with long pipelines for the time that the server was busy with this read. What each of them has caused
    /// is not told apart: one read holds the replies of many. In equal parts, a client with few slow requests is not
    /// overlooked beside one with many quick ones.
    fn charge(&mut self, now: u64, spent: u64, replies: u32, due: usize) {
        let company = match self.mixed_micros {
            Some(mixed) if now.saturating_sub(mixed) < LATELY_MICROS => LinkCompany::Others,
            _ => LinkCompany::Alone,
        };
        let spent_micros = spent / self.charged.len() as u64;
        let cause = match &self.charged[..] {
            [(_, own)] if *own == replies => BusyCause::Own,
            _ => BusyCause::Mixed,
        };
        let answered = AnsweredRequests {
            replies,
            spent_micros,
            round_trip_micros: self.times.round_trip_micros(),
            due: u32::try_from(due).unwrap_or(u32::MAX),
            company,
            cause,
        };
        for (outlet, replies) in self.charged.drain(..) {
            outlet.charge(&AnsweredRequests {
                replies,
                ..answered
            });
        }
    }
}
