//! How fast an address may try to authenticate: passwords that nobody has shown yet are looked at one after another once some
//! of them were wrong, and the more slowly the more there were.
//!
//! Addresses that have not failed wait for nothing, and what a client of theirs shows that another is served by waits for
//! nothing anywhere. Told the time; whoever waits is a number.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The first delay, which doubles from failure to failure.
const FIRST_DELAY_MICROS: u64 = 25_000;

/// Failures past those that cost nothing that are remembered of an address: how long it takes to be as any other.
const MOST_PAST: u32 = 12;

/// Looks a second at what others are served by, of an address that has failed too often: else whoever guesses would be told at
/// once what is right.
const LOOKS_A_SECOND: u64 = 200;

/// The bounds that an operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptBounds {
    /// Failures of an address that cost it nothing.
    pub free_failures: u32,
    /// The longest time between two attempts of an address; zero: none is held back.
    pub max_delay: Duration,
    /// Attempts of an address that are being looked at.
    pub max_in_flight: usize,
    /// Attempts that wait of an address that has failed too often.
    pub max_waiting: usize,
    /// Addresses that are remembered.
    pub max_addresses: usize,
}

/// Where attempts come from: an address, or the network that it stands for.
pub type Source = u64;

/// Whoever waits for its turn.
pub type Ticket = u64;

/// What becomes of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is looked at now.
    Now,
    /// It waits until [`Attempts::release`] names it. True: it is the first of its address that is held back.
    Wait(Ticket, bool),
    /// Too many wait of an address that has failed too often.
    Refused,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The password was right.
    Taken,
    /// It was wrong.
    Wrong,
    /// Nobody has said.
    Untold,
}

/// What is known of one address.
#[derive(Debug, Default)]
struct Record {
    failures: u32,
    /// When one of them was forgotten last, or the first of them happened.
    forgiven_micros: u64,
    /// Before then nothing more is looked at.
    next_micros: u64,
    in_flight: usize,
    /// Those who wait: connections that have not failed, and those that have.
    fresh: VecDeque<Ticket>,
    again: VecDeque<Ticket>,
    /// The second in which it has looked at what others are served by, and how often.
    looks: (u64, u64),
}

impl Record {
    fn waiting(&self) -> usize {
        self.fresh.len() + self.again.len()
    }

    fn is_forgotten(&self) -> bool {
        self.failures == 0 && self.in_flight == 0 && self.waiting() == 0
    }

    /// A failure is forgotten for each `every` microseconds.
    fn forgive(&mut self, every: u64, now: u64) {
        let passed = now.saturating_sub(self.forgiven_micros) / every.max(1);
        if passed > 0 {
            let passed_failures = u32::try_from(passed).unwrap_or(u32::MAX);
            self.failures = self.failures.saturating_sub(passed_failures);
            self.forgiven_micros = now;
        }
    }
}

/// The attempts to authenticate that a worker's clients make.
#[derive(Debug)]
pub struct Attempts {
    bounds: AttemptBounds,
    records: HashMap<Source, Record>,
    tickets: Ticket,
}

impl Attempts {
    /// Nobody has tried yet.
    pub fn new(bounds: AttemptBounds) -> Self {
        Self {
            bounds,
            records: HashMap::new(),
            tickets: 0,
        }
    }

    /// Goes by other bounds from now on.
    pub fn set_bounds(&mut self, bounds: AttemptBounds) {
        self.bounds = bounds;
    }

    /// A client of `source` shows a password. `is_served` tells whether another client is served by the same;
    /// `has_failed`, whether this connection has shown a wrong one before.
    pub fn begin(
        &mut self,
        source: Source,
        is_served: impl FnOnce() -> bool,
        has_failed: bool,
        now: u64,
    ) -> Turn {
        if self.bounds.max_delay.is_zero() {
            self.record(source, now).in_flight += 1;
            return Turn::Now;
        }
        let bounds = self.bounds;
        let record = self.record(source, now);
        if record.may_look(&bounds, now) && is_served() {
            record.in_flight += 1;
            return Turn::Now;
        }
        if record.waiting() == 0 && record.may_begin(&bounds, now) {
            record.begin(&bounds, now);
            return Turn::Now;
        }
        let is_slowed = record.failures > bounds.free_failures;
        // Of an address that has not failed everybody waits: after a failover all clients of a machine may come at once.
        if is_slowed && record.waiting() >= bounds.max_waiting {
            return Turn::Refused;
        }
        let is_first = record.waiting() == 0 && is_slowed;
        self.tickets += 1;
        let ticket = self.tickets;
        let record = self.record(source, now);
        let queue = match has_failed {
            true => &mut record.again,
            false => &mut record.fresh,
        };
        queue.push_back(ticket);
        Turn::Wait(ticket, is_first)
    }

    /// Those whose turn has come, who are looked at from here on.
    pub fn release(&mut self, now: u64) -> Vec<(Source, Ticket)> {
        let bounds = self.bounds;
        let mut released = Vec::new();
        self.records.retain(|source, record| {
            record.forgive(forgiven_every(&bounds), now);
            while record.waiting() > 0 && record.may_begin(&bounds, now) {
                let next = record
                    .fresh
                    .pop_front()
                    .or_else(|| record.again.pop_front());
                if let Some(ticket) = next {
                    record.begin(&bounds, now);
                    released.push((*source, ticket));
                }
            }
            !record.is_forgotten()
        });
        released
    }

    /// Whoever waited has left.
    pub fn leave(&mut self, source: Source, ticket: Ticket) {
        if let Some(record) = self.records.get_mut(&source) {
            record.fresh.retain(|other| *other != ticket);
            record.again.retain(|other| *other != ticket);
        }
    }

    /// An attempt has come to its end.
    pub fn ended(&mut self, source: Source, outcome: Outcome, now: u64) {
        let bounds = self.bounds;
        let Some(record) = self.records.get_mut(&source) else {
            return;
        };
        record.in_flight = record.in_flight.saturating_sub(1);
        if outcome == Outcome::Wrong {
            if record.failures == 0 {
                record.forgiven_micros = now;
            }
            let most = bounds.free_failures.saturating_add(MOST_PAST);
            record.failures = record.failures.saturating_add(1).min(most);
            let delay = record.delay_micros(&bounds);
            record.next_micros = record.next_micros.max(now + delay);
        }
        if record.is_forgotten() {
            self.records.remove(&source);
        }
    }

    /// The address' record; where there is no room for another the one goes that has failed least.
    fn record(&mut self, source: Source, now: u64) -> &mut Record {
        let every = forgiven_every(&self.bounds);
        if !self.records.contains_key(&source) && self.records.len() >= self.bounds.max_addresses {
            let idle = self
                .records
                .iter()
                .filter(|(_, record)| record.in_flight == 0 && record.waiting() == 0);
            let least = idle.min_by_key(|(_, record)| record.failures);
            if let Some(least) = least.map(|(source, _)| *source) {
                self.records.remove(&least);
            }
        }
        let record = self.records.entry(source).or_default();
        record.forgive(every, now);
        record
    }

    /// Addresses that are remembered.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.records.len()
    }
}

impl Record {
    /// The time between two attempts, by what has failed.
    fn delay_micros(&self, bounds: &AttemptBounds) -> u64 {
        let past = self.failures.saturating_sub(bounds.free_failures);
        if past == 0 {
            return 0;
        }
        let most = u64::try_from(bounds.max_delay.as_micros()).unwrap_or(u64::MAX);
        let doubled = FIRST_DELAY_MICROS.checked_shl(past - 1);
        doubled.unwrap_or(u64::MAX).min(most)
    }

    fn may_begin(&self, bounds: &AttemptBounds, now: u64) -> bool {
        // One at a time where each is to wait for what the one before has come to.
        let most = match self.failures > bounds.free_failures {
            true => 1,
            false => bounds.max_in_flight,
        };
        self.in_flight < most && now >= self.next_micros
    }

    fn begin(&mut self, bounds: &AttemptBounds, now: u64) {
        self.in_flight += 1;
        self.next_micros = self.next_micros.max(now + self.delay_micros(bounds));
    }

    fn may_look(&mut self, bounds: &AttemptBounds, now: u64) -> bool {
        if self.failures <= bounds.free_failures {
            return true;
        }
        let second = now / 1_000_000;
        if self.looks.0 != second {
            self.looks = (second, 0);
        }
        self.looks.1 += 1;
        self.looks.1 <= LOOKS_A_SECOND
    }
}

/// In which time an address is forgiven one failure.
fn forgiven_every(bounds: &AttemptBounds) -> u64 {
    u64::try_from(bounds.max_delay.as_micros())
        .unwrap_or(u64::MAX)
        .saturating_mul(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: AttemptBounds = AttemptBounds {
        free_failures: 3,
        max_delay: Duration::from_secs(1),
        max_in_flight: 4,
        max_waiting: 5,
        max_addresses: 8,
    };

    fn attempts() -> Attempts {
        Attempts::new(BOUNDS)
    }

    fn begin(attempts: &mut Attempts, source: Source, now: u64) -> Turn {
        attempts.begin(source, || false, false, now)
    }

    /// Fails so often, one after another, each as soon as it may.
    fn fail(attempts: &mut Attempts, source: Source, times: usize, mut now: u64) -> u64 {
        for _ in 0..times {
            match begin(attempts, source, now) {
                Turn::Now => {}
                Turn::Wait(ticket, _) => loop {
                    if attempts.release(now).contains(&(source, ticket)) {
                        break;
                    }
                    now += 1000;
                },
                Turn::Refused => panic!("nobody else waits"),
            }
            attempts.ended(source, Outcome::Wrong, now);
        }
        now
    }

    #[test]
    fn who_fails_is_slowed_and_others_are_not() {
        let mut attempts = attempts();
        assert_eq!(fail(&mut attempts, 1, 4, 0), 0, "these cost nothing");
        assert!(matches!(begin(&mut attempts, 1, 0), Turn::Wait(_, true)));
        assert_eq!(begin(&mut attempts, 2, 0), Turn::Now);
        let mut attempts = super::tests::attempts();
        let after = fail(&mut attempts, 1, 12, 0);
        // 25 + 50 + ... + 800 ms, and then a second each.
        assert!((3_500_000..6_000_000).contains(&after), "{after}");
    }

    #[test]
    fn of_an_address_that_has_not_failed_everybody_waits() {
        let mut attempts = attempts();
        for number in 0..500 {
            let turn = begin(&mut attempts, 1, 0);
            assert_eq!(turn == Turn::Now, number < BOUNDS.max_in_flight);
            assert_ne!(turn, Turn::Refused, "attempt {number}");
        }
        let (mut taken, mut in_flight) = (0, BOUNDS.max_in_flight);
        while in_flight > 0 {
            taken += in_flight;
            for _ in 0..in_flight {
                attempts.ended(1, Outcome::Taken, 0);
            }
            in_flight = attempts.release(0).len();
        }
        assert_eq!((taken, attempts.len()), (500, 0));
    }

    #[test]
    fn a_second_later_there_is_one_more_attempt_however_many_wait() {
        let mut attempts = attempts();
        let now = fail(&mut attempts, 1, 14, 0);
        for _ in 0..5 {
            assert!(matches!(begin(&mut attempts, 1, now), Turn::Wait(..)));
        }
        assert_eq!(begin(&mut attempts, 1, now), Turn::Refused);
        let mut begun = 0;
        for step in 0..3000 {
            let now = now + step * 1000;
            for (source, _) in attempts.release(now) {
                begun += 1;
                attempts.ended(source, Outcome::Wrong, now);
            }
        }
        assert!((2..=4).contains(&begun), "{begun} in three seconds");
    }

    #[test]
    fn who_has_not_failed_goes_before_those_who_have() {
        let mut attempts = attempts();
        let now = fail(&mut attempts, 1, 10, 0);
        let Turn::Wait(failed, _) = attempts.begin(1, || false, true, now) else {
            panic!("it waits");
        };
        let Turn::Wait(fresh, _) = begin(&mut attempts, 1, now) else {
            panic!("it waits");
        };
        assert_eq!(attempts.release(now + 1_000_000), [(1, fresh)]);
        attempts.ended(1, Outcome::Taken, now + 1_000_000);
        assert_eq!(attempts.release(now + 2_100_000), [(1, failed)]);
    }

    #[test]
    fn what_another_is_served_by_waits_for_nothing() {
        let mut attempts = attempts();
        let now = fail(&mut attempts, 1, 10, 0);
        for _ in 0..LOOKS_A_SECOND {
            assert_eq!(attempts.begin(1, || true, true, now), Turn::Now);
        }
        // But whoever guesses is told so no more often.
        assert!(matches!(
            attempts.begin(1, || true, true, now),
            Turn::Wait(..)
        ));
    }

    #[test]
    fn of_an_address_that_has_not_failed_a_few_at_a_time_are_looked_at() {
        let mut attempts = attempts();
        for _ in 0..BOUNDS.max_in_flight {
            assert_eq!(begin(&mut attempts, 1, 0), Turn::Now);
        }
        let Turn::Wait(ticket, false) = begin(&mut attempts, 1, 0) else {
            panic!("it waits");
        };
        assert!(attempts.release(0).is_empty());
        attempts.ended(1, Outcome::Taken, 0);
        assert_eq!(attempts.release(0), [(1, ticket)]);
    }

    #[test]
    fn time_forgives_and_whoever_leaves_is_not_waited_for() {
        let mut attempts = attempts();
        let now = fail(&mut attempts, 1, 10, 0);
        let Turn::Wait(ticket, _) = begin(&mut attempts, 1, now) else {
            panic!("it waits");
        };
        attempts.leave(1, ticket);
        assert!(attempts.release(now + 5_000_000).is_empty());
        let later = now + 60_000_000;
        assert!(attempts.release(later).is_empty());
        assert_eq!(attempts.len(), 0, "nothing is known of it any more");
        for _ in 0..BOUNDS.max_in_flight {
            assert_eq!(begin(&mut attempts, 1, later), Turn::Now);
        }
    }

    #[test]
    fn addresses_without_end_are_not_remembered_without_end() {
        let mut attempts = attempts();
        let now = fail(&mut attempts, 0, 8, 0);
        for source in 1..100 {
            fail(&mut attempts, source, 1, now);
            assert!(attempts.len() <= BOUNDS.max_addresses);
        }
        // Who has failed most is not among those that had to go.
        assert!(matches!(begin(&mut attempts, 0, now), Turn::Wait(..)));
    }

    #[test]
    fn nobody_is_held_back_where_that_is_off() {
        let off = AttemptBounds {
            max_delay: Duration::ZERO,
            ..BOUNDS
        };
        let mut attempts = Attempts::new(off);
        for _ in 0..100 {
            assert_eq!(begin(&mut attempts, 1, 0), Turn::Now);
            attempts.ended(1, Outcome::Wrong, 0);
        }
        assert_eq!(fail(&mut attempts, 1, 100, 0), 0);
    }
}
