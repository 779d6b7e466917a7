//! How fast an address may try to authenticate: passwords that nobody has shown yet are looked at one after another once some
//! of them were wrong, and the more slowly the more there were.
//!
//! Addresses that have not failed wait for nothing, and what a client of theirs shows that another is served by waits for
//! nothing anywhere: whoever waits already is let in when others are served by the same, and by nothing else. Each attempt costs
//! the same however many wait and however many addresses have failed. Told the time; whoever waits is a number.

mod record;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use self::record::{SourceRecord, SourceStanding};
use super::SecretHash;

/// Bounds how many of those who wait are looked at again at once after a reload: each is a digest of what it shows.
const AGAIN_AT_ONCE: usize = 64;

/// Holds the bounds that an operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptBounds {
    /// An address may fail this often at no cost.
    pub free_failures: u32,
    /// Bounds the time between two attempts of an address; zero: none is held back.
    pub max_delay: Duration,
    /// Bounds the attempts of an address that are looked at at once.
    pub max_in_flight: usize,
    /// Bounds the attempts that wait of an address that has failed too often.
    pub max_waiting: usize,
    /// Bounds the addresses that are remembered.
    pub max_addresses: usize,
}

impl AttemptBounds {
    /// Returns the time in which an address is forgiven one failure.
    fn forgiven_every_micros(&self) -> u64 {
        u64::try_from(self.max_delay.as_micros())
            .unwrap_or(u64::MAX)
            .saturating_mul(2)
            .max(1)
    }
}

/// Says where attempts come from: an address, or the network that it stands for.
pub type AttemptSource = u64;

/// Stands for one who waits for its turn.
pub type AttemptTicket = u64;

/// Says what becomes of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum AttemptTurn {
    /// It is looked at now.
    Now,
    /// It waits until [`LoginAttempts::release`] or [`LoginAttempts::served`] names it; true where it is the first of its address that is held back.
    Wait(AttemptTicket, bool),
    /// Too many wait of an address that has failed too often.
    Refused,
}

/// Says how an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The password was right.
    Taken,
    /// The password was wrong.
    Wrong,
    /// Nobody has said whether it was.
    Untold,
}

/// Spaces the attempts to authenticate that a worker's clients make.
#[derive(Debug)]
pub struct LoginAttempts {
    bounds: AttemptBounds,
    records: HashMap<AttemptSource, SourceRecord>,
    tickets: AttemptTicket,
    /// Lists the addresses of which somebody waits, by when one of them may have its turn.
    due: BTreeSet<(u64, AttemptSource)>,
    /// Lists those of which nobody is here, by when they will have been forgotten.
    idle: BTreeSet<(u64, AttemptSource)>,
    /// Lists who waits and has been looked at, by what they show.
    waiting: HashMap<SecretHash, BTreeSet<(AttemptSource, AttemptTicket)>>,
    /// Lists who is to be looked at again.
    again: VecDeque<(AttemptSource, AttemptTicket)>,
}

impl LoginAttempts {
    /// Begins where nobody has tried yet.
    pub fn new(bounds: AttemptBounds) -> Self {
        Self {
            bounds,
            records: HashMap::new(),
            tickets: 0,
            due: BTreeSet::new(),
            idle: BTreeSet::new(),
            waiting: HashMap::new(),
            again: VecDeque::new(),
        }
    }

    /// Goes by other bounds from now on, after a reload, and looks again at all who wait, since the users may be others.
    pub fn reload(&mut self, bounds: AttemptBounds) {
        self.bounds = bounds;
        let sources: Vec<AttemptSource> = self.records.keys().copied().collect();
        for source in sources {
            self.list(source);
        }
        self.again.clear();
        for (source, record) in &self.records {
            self.again
                .extend(record.looked().map(|ticket| (*source, ticket)));
        }
    }

    /// Begins an attempt of a client of `source` that shows what is known by `hash`. `is_served` tells whether another client is served by
    /// the same; `has_failed`, whether this connection has shown a wrong one before.
    pub fn begin(
        &mut self,
        source: AttemptSource,
        hash: SecretHash,
        is_served: impl FnOnce() -> bool,
        has_failed: bool,
        now: u64,
    ) -> AttemptTurn {
        let bounds = self.bounds;
        let record = self.record(source, now);
        let turn = 'turn: {
            if bounds.max_delay.is_zero() {
                record.in_flight += 1;
                break 'turn AttemptTurn::Now;
            }
            let may_look = record.may_look(hash, &bounds, now);
            if may_look {
                if is_served() {
                    record.in_flight += 1;
                    break 'turn AttemptTurn::Now;
                }
                record.learns_wrong(hash, &bounds);
            }
            if record.waiting() == 0 && record.may_begin(&bounds, now) {
                record.begin(&bounds, now);
                break 'turn AttemptTurn::Now;
            }
            let is_slowed = record.is_slowed(&bounds);
            // Of an address that has not failed everybody waits: after a failover all clients of a machine may come at once.
            if is_slowed && record.waiting() >= bounds.max_waiting {
                break 'turn AttemptTurn::Refused;
            }
            let is_first = record.waiting() == 0 && is_slowed;
            self.tickets += 1;
            let ticket = self.tickets;
            if let Some(record) = self.records.get_mut(&source) {
                record.wait(ticket, hash, has_failed, may_look);
            }
            if may_look {
                self.waiting
                    .entry(hash)
                    .or_default()
                    .insert((source, ticket));
            }
            AttemptTurn::Wait(ticket, is_first)
        };
        self.list(source);
        turn
    }

    /// Notes that somebody is served by what is known by `hash`. Returns those who wait and show the same, who are looked at from here on.
    pub fn served(&mut self, hash: SecretHash) -> Vec<(AttemptSource, AttemptTicket)> {
        let waiting = self.waiting.remove(&hash).unwrap_or_default();
        for &(source, ticket) in &waiting {
            if let Some(record) = self.records.get_mut(&source) {
                record.take_out(ticket);
                record.in_flight += 1;
            }
            self.list(source);
        }
        waiting.into_iter().collect()
    }

    /// Returns those whose turn has come, who are looked at from here on. `is_served` tells whether another client is served by the same as
    /// one that waits.
    pub fn release(
        &mut self,
        mut is_served: impl FnMut(AttemptTicket) -> bool,
        now: u64,
    ) -> Vec<(AttemptSource, AttemptTicket)> {
        let mut released = Vec::new();
        self.look_again(&mut is_served, &mut released);
        while let Some(&(at, source)) = self.due.first()
            && at <= now
        {
            self.release_of(source, &mut is_served, now, &mut released);
            self.list(source);
        }
        while let Some(&(at, source)) = self.idle.first()
            && at <= now
        {
            self.idle.pop_first();
            self.records.remove(&source);
        }
        released
    }

    /// Looks again at some of those who are to be: that costs their addresses nothing.
    fn look_again(
        &mut self,
        is_served: &mut impl FnMut(AttemptTicket) -> bool,
        released: &mut Vec<(AttemptSource, AttemptTicket)>,
    ) {
        for _ in 0..AGAIN_AT_ONCE {
            let Some((source, ticket)) = self.again.pop_front() else {
                return;
            };
            let record = self.records.get(&source);
            let waits = record.is_some_and(|record| record.shown_by(ticket).is_some());
            if waits && is_served(ticket) {
                self.take_out(source, ticket);
                if let Some(record) = self.records.get_mut(&source) {
                    record.in_flight += 1;
                }
                self.list(source);
                released.push((source, ticket));
            }
        }
    }

    /// Returns those of one address for whom there are looks again and who show what others are served by, and those whose turn it is.
    fn release_of(
        &mut self,
        source: AttemptSource,
        is_served: &mut impl FnMut(AttemptTicket) -> bool,
        now: u64,
        released: &mut Vec<(AttemptSource, AttemptTicket)>,
    ) {
        let bounds = self.bounds;
        let Some(record) = self.records.get_mut(&source) else {
            return;
        };
        record.forgive(&bounds, now);
        while let Some((ticket, hash)) = record.first_unlooked()
            && record.may_look(hash, &bounds, now)
        {
            record.looked_at(ticket);
            if is_served(ticket) {
                record.take_out(ticket);
                record.in_flight += 1;
                released.push((source, ticket));
            } else {
                record.learns_wrong(hash, &bounds);
                self.waiting
                    .entry(hash)
                    .or_default()
                    .insert((source, ticket));
            }
        }
        while let Some(record) = self.records.get_mut(&source)
            && record.may_begin(&bounds, now)
            && let Some(ticket) = record.first_waiting()
        {
            record.begin(&bounds, now);
            self.take_out(source, ticket);
            released.push((source, ticket));
        }
    }

    /// Notes that whoever waited has left.
    pub fn leave(&mut self, source: AttemptSource, ticket: AttemptTicket) {
        self.take_out(source, ticket);
        self.list(source);
    }

    fn take_out(&mut self, source: AttemptSource, ticket: AttemptTicket) {
        let record = self.records.get_mut(&source);
        let Some(hash) = record.and_then(|record| record.take_out(ticket)) else {
            return;
        };
        if let Some(waiting) = self.waiting.get_mut(&hash) {
            waiting.remove(&(source, ticket));
            if waiting.is_empty() {
                self.waiting.remove(&hash);
            }
        }
    }

    /// Notes that an attempt has come to its end.
    pub fn ended(&mut self, source: AttemptSource, outcome: AttemptOutcome, now: u64) {
        let Some(record) = self.records.get_mut(&source) else {
            return;
        };
        record.in_flight = record.in_flight.saturating_sub(1);
        if outcome == AttemptOutcome::Wrong {
            record.fail(&self.bounds, now);
        }
        self.list(source);
    }

    /// Counts how many of the address are being looked at or have failed, but for the one that has begun last.
    pub fn before_last(&self, source: AttemptSource) -> u64 {
        let record = self.records.get(&source);
        record.map_or(0, |record| {
            record.in_flight.saturating_sub(1) as u64 + u64::from(record.failures)
        })
    }

    /// Returns the address' record; where there is no room for another the one goes that would have been forgotten first.
    fn record(&mut self, source: AttemptSource, now: u64) -> &mut SourceRecord {
        if !self.records.contains_key(&source)
            && self.records.len() >= self.bounds.max_addresses
            && let Some((_, least)) = self.idle.pop_first()
        {
            self.records.remove(&least);
        }
        let record = self.records.entry(source).or_default();
        record.forgive(&self.bounds, now);
        record
    }

    /// Lists an address where it stands now.
    fn list(&mut self, source: AttemptSource) {
        let Some(record) = self.records.get_mut(&source) else {
            return;
        };
        let stands = record.stands(&self.bounds);
        let stood = std::mem::replace(&mut record.standing, stands);
        if stood == stands {
            return;
        }
        match stood {
            SourceStanding::Due(at) => drop(self.due.remove(&(at, source))),
            SourceStanding::Idle(at) => drop(self.idle.remove(&(at, source))),
            SourceStanding::Busy | SourceStanding::Unknown => {}
        }
        match stands {
            SourceStanding::Due(at) => drop(self.due.insert((at, source))),
            SourceStanding::Idle(at) => drop(self.idle.insert((at, source))),
            SourceStanding::Busy => {}
            SourceStanding::Unknown => drop(self.records.remove(&source)),
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.records.len()
    }
}
