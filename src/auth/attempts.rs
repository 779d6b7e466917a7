//! How fast an address may try to authenticate: passwords that nobody has shown yet are looked at one after another once some
//! of them were wrong, and the more slowly the more there were.
//!
//! Addresses that have not failed wait for nothing, and what a client of theirs shows that another is served by waits for
//! nothing anywhere: whoever waits already is asked about again when others are served by something new. Told the time; whoever
//! waits is a number.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The first delay, which doubles from failure to failure.
const FIRST_DELAY_MICROS: u64 = 25_000;

/// Failures past those that cost nothing that are remembered of an address: how long it takes to be as any other.
const MOST_PAST: u32 = 12;

/// Looks a second at what others are served by, of an address that has failed too often, and of all that wait: else whoever guesses
/// would be told at once what is right.
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

/// An attempt that waits for its turn.
#[derive(Debug)]
struct WaitingTurn {
    ticket: Ticket,
    /// What [`Attempts::note_served`] had last been told when it was looked at; 0: it was not.
    seen: u64,
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
    fresh: VecDeque<WaitingTurn>,
    again: VecDeque<WaitingTurn>,
    /// None of them was looked at longer ago than this.
    seen: u64,
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
    /// Grows when clients are served by something new; never 0.
    news: u64,
}

impl Attempts {
    /// Nobody has tried yet.
    pub fn new(bounds: AttemptBounds) -> Self {
        Self {
            bounds,
            records: HashMap::new(),
            tickets: 0,
            news: 1,
        }
    }

    /// Goes by other bounds from now on.
    pub fn set_bounds(&mut self, bounds: AttemptBounds) {
        self.bounds = bounds;
    }

    /// Clients are served by so many things that nobody was served by before: those who wait are looked at again.
    pub fn note_served(&mut self, count: u64) {
        self.news = count.saturating_add(1);
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
        let (bounds, news) = (self.bounds, self.news);
        let record = self.record(source, now);
        let may_look = record.may_look(&bounds, now);
        if may_look && is_served() {
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
        let seen = if may_look { news } else { 0 };
        record.seen = match record.waiting() {
            0 => seen,
            _ => record.seen.min(seen),
        };
        let queue = match has_failed {
            true => &mut record.again,
            false => &mut record.fresh,
        };
        queue.push_back(WaitingTurn { ticket, seen });
        Turn::Wait(ticket, is_first)
    }

    /// Those whose turn has come, who are looked at from here on. `is_served` tells whether another client is served by the same as
    /// one that waits.
    pub fn release(
        &mut self,
        is_served: impl Fn(Ticket) -> bool,
        now: u64,
    ) -> Vec<(Source, Ticket)> {
        let (bounds, news) = (self.bounds, self.news);
        let mut released = Vec::new();
        self.records.retain(|source, record| {
            record.forgive(forgiven_every(&bounds), now);
            let served = record.take_served(news, &is_served, now);
            released.extend(served.into_iter().map(|ticket| (*source, ticket)));
            while record.waiting() > 0 && record.may_begin(&bounds, now) {
                let next = record
                    .fresh
                    .pop_front()
                    .or_else(|| record.again.pop_front());
                if let Some(next) = next {
                    record.begin(&bounds, now);
                    released.push((*source, next.ticket));
                }
            }
            !record.is_forgotten()
        });
        released
    }

    /// Whoever waited has left.
    pub fn leave(&mut self, source: Source, ticket: Ticket) {
        if let Some(record) = self.records.get_mut(&source) {
            record.fresh.retain(|other| other.ticket != ticket);
            record.again.retain(|other| other.ticket != ticket);
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
        let has_left = self.looks_left(now) > 0;
        self.looks.1 += 1;
        has_left
    }

    fn looks_left(&mut self, now: u64) -> u64 {
        let second = now / 1_000_000;
        if self.looks.0 != second {
            self.looks = (second, 0);
        }
        LOOKS_A_SECOND.saturating_sub(self.looks.1)
    }

    /// Takes out those who wait and show what others are served by. As many are looked at as may be, those first that were looked at
    /// longest ago, so that none is passed over for ever.
    fn take_served(
        &mut self,
        news: u64,
        is_served: &impl Fn(Ticket) -> bool,
        now: u64,
    ) -> Vec<Ticket> {
        if self.waiting() == 0 || self.seen >= news {
            return Vec::new();
        }
        let left = usize::try_from(self.looks_left(now)).unwrap_or(usize::MAX);
        if left == 0 {
            return Vec::new();
        }
        let waiting = self.fresh.iter_mut().chain(&mut self.again);
        let mut due: Vec<&mut WaitingTurn> = waiting.filter(|one| one.seen < news).collect();
        due.sort_unstable_by_key(|one| (one.seen, one.ticket));
        if due.len() <= left {
            self.seen = news;
        }
        due.truncate(left);
        self.looks.1 += due.len() as u64;
        let mut served = Vec::new();
        for one in due {
            one.seen = news;
            if is_served(one.ticket) {
                served.push(one.ticket);
            }
        }
        if !served.is_empty() {
            served.sort_unstable();
            let is_left = |one: &WaitingTurn| served.binary_search(&one.ticket).is_err();
            self.fresh.retain(is_left);
            self.again.retain(is_left);
            self.in_flight += served.len();
        }
        served
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
    use std::cell::Cell;

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

    fn release(attempts: &mut Attempts, now: u64) -> Vec<(Source, Ticket)> {
        attempts.release(|_| false, now)
    }

    /// Fails so often, one after another, each as soon as it may.
    fn fail(attempts: &mut Attempts, source: Source, times: usize, mut now: u64) -> u64 {
        for _ in 0..times {
            match begin(attempts, source, now) {
                Turn::Now => {}
                Turn::Wait(ticket, _) => loop {
                    if release(attempts, now).contains(&(source, ticket)) {
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
            in_flight = release(&mut attempts, 0).len();
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
            for (source, _) in release(&mut attempts, now) {
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
        assert_eq!(release(&mut attempts, now + 1_000_000), [(1, fresh)]);
        attempts.ended(1, Outcome::Taken, now + 1_000_000);
        assert_eq!(release(&mut attempts, now + 2_100_000), [(1, failed)]);
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

    fn many_wait(attempts: &mut Attempts, many: u64, now: u64) -> Vec<Ticket> {
        let begun = (0..many).filter_map(|_| match begin(attempts, 1, now) {
            Turn::Wait(ticket, _) => Some(ticket),
            _ => None,
        });
        begun.collect()
    }

    #[test]
    fn who_waits_is_looked_at_again_when_another_is_served() {
        let mut attempts = Attempts::new(AttemptBounds {
            max_waiting: 10_000,
            ..BOUNDS
        });
        let now = fail(&mut attempts, 1, 14, 0);
        let now = (now / 1_000_000 + 2) * 1_000_000;
        let is_right = |ticket: Ticket| ticket.is_multiple_of(2);
        let waiting = many_wait(&mut attempts, 1000, now);
        assert_eq!(waiting.len(), 999, "the first is looked at, and on its way");
        assert!(release(&mut attempts, now).is_empty());
        // Some were looked at when they came, the others are now that there are looks again.
        let mut later = now;
        for _ in 0..5 {
            later += 1_000_000;
            assert!(release(&mut attempts, later).is_empty());
        }
        // Something is right that was not: within a few seconds all who show it are served, and no faster than others may look.
        attempts.note_served(1);
        let mut served: Vec<Ticket> = Vec::new();
        for second in 1..=5 {
            later += 1_000_000;
            let looks = Cell::new(0);
            let is_served = |ticket| {
                looks.set(looks.get() + 1);
                is_right(ticket)
            };
            // However often it is asked within a second.
            for step in 0..20 {
                // What becomes right for others meanwhile holds up nobody.
                attempts.note_served(second * 20 + step);
                let released = attempts.release(is_served, later + step * 1000);
                served.extend(released.iter().map(|(_, ticket)| ticket));
            }
            assert!(looks.get() <= LOOKS_A_SECOND, "{}", looks.get());
        }
        served.sort_unstable();
        let expected: Vec<Ticket> = waiting.into_iter().filter(|one| is_right(*one)).collect();
        assert_eq!(served, expected);
    }

    #[test]
    fn who_found_no_look_left_is_looked_at_in_the_next_second() {
        let mut attempts = Attempts::new(AttemptBounds {
            max_waiting: 10_000,
            ..BOUNDS
        });
        let now = fail(&mut attempts, 1, 14, 0);
        let now = (now / 1_000_000 + 1) * 1_000_000;
        let mut waiting = Vec::new();
        for _ in 0..LOOKS_A_SECOND + 50 {
            match attempts.begin(1, || true, false, now) {
                Turn::Wait(ticket, _) => waiting.push(ticket),
                turn => assert_eq!(turn, Turn::Now),
            }
        }
        assert_eq!(waiting.len(), 50);
        assert!(attempts.release(|_| true, now).is_empty());
        let released = attempts.release(|_| true, now + 1_000_000);
        let released: Vec<Ticket> = released.iter().map(|(_, ticket)| *ticket).collect();
        assert_eq!(released, waiting);
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
        assert!(release(&mut attempts, 0).is_empty());
        attempts.ended(1, Outcome::Taken, 0);
        assert_eq!(release(&mut attempts, 0), [(1, ticket)]);
    }

    #[test]
    fn time_forgives_and_whoever_leaves_is_not_waited_for() {
        let mut attempts = attempts();
        let now = fail(&mut attempts, 1, 10, 0);
        let Turn::Wait(ticket, _) = begin(&mut attempts, 1, now) else {
            panic!("it waits");
        };
        attempts.leave(1, ticket);
        assert!(release(&mut attempts, now + 5_000_000).is_empty());
        let later = now + 60_000_000;
        assert!(release(&mut attempts, later).is_empty());
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
