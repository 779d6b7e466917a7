//! What a request sent on a connection now would wait for there, and what replies have cost whose clients.

use super::{ClientHandle, Exchange};
use crate::schedule::{AnsweredRequests, BusyCause, ConnectionLoad, LinkCompany};

/// Bytes that the kernel has not taken weigh as a millisecond each time there are so many of them.
const BEHIND_BYTES: usize = 64 * 1024;

/// A client that has used a connection within this time still uses it.
const LATELY_MICROS: u64 = 100_000;

impl<H: ClientHandle> Exchange<H> {
    /// Returns the microseconds that a request sent now would wait for what is due, if another connection would spare it that; 0: it would
    /// not. In a long turn of the thread a reply may have arrived that was not read yet: `has_arrived` tells.
    #[inline]
    pub fn load(&self, now_micros: u64, has_arrived: impl FnOnce() -> bool) -> u64 {
        let behind = self.unsent_bytes() / BEHIND_BYTES;
        let load = self.times.load(now_micros, self.due_count as u64);
        behind as u64 * 1000
            + match load {
                ConnectionLoad::Light => 0,
                ConnectionLoad::Heavy(micros) => micros,
                ConnectionLoad::Silent(_) if has_arrived() => 0,
                ConnectionLoad::Silent(micros) => micros,
            }
    }

    /// Returns the shortest time that a request and its reply were under way.
    #[inline]
    pub fn round_trip_micros(&self) -> u64 {
        self.times.round_trip_micros()
    }

    /// A read has been handed out; before it `due` replies were due, the first of them asked for at `asked_micros`.
    #[inline]
    pub(super) fn measure(&mut self, now: u64, due: usize, asked_micros: Option<u64>) {
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
        for (client, replies) in self.charged.drain(..) {
            client.charge(&AnsweredRequests {
                replies,
                ..answered
            });
        }
    }
}
