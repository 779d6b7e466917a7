//! What is known of one address that tries to authenticate.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{AttemptBounds, AttemptTicket, SecretHash};

/// The first delay is this, and doubles from failure to failure.
const FIRST_DELAY_MICROS: u64 = 25_000;

/// Bounds the failures that are remembered of an address, past those that cost nothing: the time until it is as any other follows
/// from it.
const MOST_PAST: u32 = 12;

/// An address that has failed too often learns in a second of so many different secrets that nobody is served by them: else whoever guesses
/// would be told at once what is right.
pub(super) const LOOKS_A_SECOND: u64 = 200;

/// Bounds the secrets that are remembered of which an address has learned that nobody is served by them: clients that go on
/// showing an old password cost it nothing more.
pub(super) const REMEMBERED: usize = 16;

const SECOND_MICROS: u64 = 1_000_000;

/// Says where an address stands among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceStanding {
    /// Nothing is to be done before an attempt ends.
    Busy,
    /// Some of those who wait may have their turn at that time.
    Due(u64),
    /// Nobody is there; its failures are forgotten at that time.
    Idle(u64),
    /// Nothing is known of it.
    Unknown,
}

/// Is what is known of one address.
#[derive(Debug)]
pub(super) struct SourceRecord {
    pub(super) failures: u32,
    /// Tells when one of them was forgotten last, or the first of them happened.
    forgiven_micros: u64,
    /// Nothing more is looked at before that time.
    next_micros: u64,
    pub(super) in_flight: usize,
    /// Lists those who wait, and what they show: connections that have not failed, and those that have.
    fresh: BTreeMap<AttemptTicket, SecretHash>,
    again: BTreeMap<AttemptTicket, SecretHash>,
    /// Lists those of them for which there was no look.
    unlooked: BTreeSet<AttemptTicket>,
    /// A second, and how many looks it has cost in it.
    looks: (u64, u64),
    /// Lists what it has learned last that nobody was served by.
    wrong: VecDeque<SecretHash>,
    /// Says where it is listed.
    pub(super) standing: SourceStanding,
}

impl Default for SourceRecord {
    fn default() -> Self {
        Self {
            failures: 0,
            forgiven_micros: 0,
            next_micros: 0,
            in_flight: 0,
            fresh: BTreeMap::new(),
            again: BTreeMap::new(),
            unlooked: BTreeSet::new(),
            looks: (0, 0),
            wrong: VecDeque::new(),
            standing: SourceStanding::Busy,
        }
    }
}

impl SourceRecord {
    pub(super) fn waiting(&self) -> usize {
        self.fresh.len() + self.again.len()
    }

    pub(super) fn is_slowed(&self, bounds: &AttemptBounds) -> bool {
        self.failures > bounds.free_failures
    }

    /// Returns where it stands by what is known now.
    pub(super) fn stands(&self, bounds: &AttemptBounds) -> SourceStanding {
        if self.waiting() == 0 {
            return match (self.in_flight, self.failures) {
                (0, 0) => SourceStanding::Unknown,
                (0, failures) => {
                    let every = bounds.forgiven_every_micros();
                    let passes = every.saturating_mul(u64::from(failures));
                    SourceStanding::Idle(self.forgiven_micros.saturating_add(passes))
                }
                _ => SourceStanding::Busy,
            };
        }
        let begins = (self.in_flight < self.most_in_flight(bounds)).then_some(self.next_micros);
        let looks = (!self.unlooked.is_empty()).then(|| (self.looks.0 + 1) * SECOND_MICROS);
        match begins.into_iter().chain(looks).min() {
            Some(at) => SourceStanding::Due(at),
            None => SourceStanding::Busy,
        }
    }

    /// Forgets the failures that time has made good.
    pub(super) fn forgive(&mut self, bounds: &AttemptBounds, now: u64) {
        let every = bounds.forgiven_every_micros();
        let passed = now.saturating_sub(self.forgiven_micros) / every;
        if passed > 0 {
            let passed_failures = u32::try_from(passed).unwrap_or(u32::MAX);
            self.failures = self.failures.saturating_sub(passed_failures);
            self.forgiven_micros += passed * every;
        }
    }

    /// Notes that a password was wrong.
    pub(super) fn fail(&mut self, bounds: &AttemptBounds, now: u64) {
        if self.failures == 0 {
            self.forgiven_micros = now;
        }
        let most = bounds.free_failures.saturating_add(MOST_PAST);
        self.failures = self.failures.saturating_add(1).min(most);
        let delay = self.delay_micros(bounds);
        self.next_micros = self.next_micros.max(now + delay);
    }

    /// Returns the time between two attempts, by what has failed.
    fn delay_micros(&self, bounds: &AttemptBounds) -> u64 {
        let past = self.failures.saturating_sub(bounds.free_failures);
        if past == 0 {
            return 0;
        }
        let most = u64::try_from(bounds.max_delay.as_micros()).unwrap_or(u64::MAX);
        let doubled = FIRST_DELAY_MICROS.checked_shl(past - 1);
        doubled.unwrap_or(u64::MAX).min(most)
    }

    fn most_in_flight(&self, bounds: &AttemptBounds) -> usize {
        // One at a time where each is to wait for what the one before has come to.
        match self.is_slowed(bounds) {
            true => 1,
            false => bounds.max_in_flight,
        }
    }

    pub(super) fn may_begin(&self, bounds: &AttemptBounds, now: u64) -> bool {
        self.in_flight < self.most_in_flight(bounds) && now >= self.next_micros
    }

    pub(super) fn begin(&mut self, bounds: &AttemptBounds, now: u64) {
        self.in_flight += 1;
        self.next_micros = self.next_micros.max(now + self.delay_micros(bounds));
    }

    /// Tells whether it may be looked whether others are served by this. What it has learned before it may learn again.
    pub(super) fn may_look(&mut self, hash: SecretHash, bounds: &AttemptBounds, now: u64) -> bool {
        let second = now / SECOND_MICROS;
        if self.looks.0 != second {
            self.looks = (second, 0);
        }
        !self.is_slowed(bounds) || self.looks.1 < LOOKS_A_SECOND || self.wrong.contains(&hash)
    }

    /// Notes that nobody is served by what was looked at. What somebody is served by costs nothing: whoever is told so need not guess any
    /// more.
    pub(super) fn learns_wrong(&mut self, hash: SecretHash, bounds: &AttemptBounds) {
        if !self.is_slowed(bounds) || self.wrong.contains(&hash) {
            return;
        }
        self.looks.1 += 1;
        if self.wrong.len() >= REMEMBERED {
            self.wrong.pop_front();
        }
        self.wrong.push_back(hash);
    }

    /// Notes that somebody waits from now on.
    pub(super) fn wait(
        &mut self,
        ticket: AttemptTicket,
        hash: SecretHash,
        failed: bool,
        looked: bool,
    ) {
        match failed {
            true => self.again.insert(ticket, hash),
            false => self.fresh.insert(ticket, hash),
        };
        if !looked {
            self.unlooked.insert(ticket);
        }
    }

    /// Notes that somebody waits no longer. Returns what it showed.
    pub(super) fn take_out(&mut self, ticket: AttemptTicket) -> Option<SecretHash> {
        self.unlooked.remove(&ticket);
        let fresh = self.fresh.remove(&ticket);
        fresh.or_else(|| self.again.remove(&ticket))
    }

    /// Returns the first of those who wait.
    pub(super) fn first_waiting(&self) -> Option<AttemptTicket> {
        let first = self
            .fresh
            .keys()
            .next()
            .or_else(|| self.again.keys().next());
        first.copied()
    }

    /// Returns the first for whom there was no look, and what it shows.
    pub(super) fn first_unlooked(&self) -> Option<(AttemptTicket, SecretHash)> {
        let ticket = *self.unlooked.first()?;
        Some((ticket, self.shown_by(ticket)?))
    }

    /// Notes that it has been looked at.
    pub(super) fn looked_at(&mut self, ticket: AttemptTicket) {
        self.unlooked.remove(&ticket);
    }

    /// Returns what one who waits shows.
    pub(super) fn shown_by(&self, ticket: AttemptTicket) -> Option<SecretHash> {
        let fresh = self.fresh.get(&ticket);
        fresh.or_else(|| self.again.get(&ticket)).copied()
    }

    /// Lists those who wait and have been looked at, those first who go first.
    pub(super) fn looked(&self) -> impl Iterator<Item = AttemptTicket> {
        let waiting = self.fresh.keys().chain(self.again.keys()).copied();
        waiting.filter(|ticket| !self.unlooked.contains(ticket))
    }
}
