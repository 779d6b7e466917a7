//! The counts of one group: how many clients under which key, how fast they came, and what was refused.
//!
//! Invariants: `connections` is the sum over the keys. A key without clients stays only until its bucket is full again,
//! at most a second, and at most `max_vacant` such keys stay: the table is bounded whatever addresses or names come.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Rule;
use super::key::Key;
use super::refusal::{LogLine, Reason};
use crate::config::{AtLimit, Mode};

/// Between two lines of a kind about one group.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The longest a bucket needs to be full again.
const BUCKET_FULL_AFTER: Duration = Duration::from_secs(1);

/// What was missing for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shortfall {
    pub(super) reason: Reason,
    pub(super) count: usize,
    pub(super) cap: usize,
    pub(super) evict: bool,
}

/// A place taken, and what is worth a line in the log about it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) warning: Option<LogLine>,
    pub(super) observed: Option<(Shortfall, LogLine)>,
}

/// The counts of one group.
#[derive(Debug)]
pub(super) struct Tallies {
    pub(super) connections: usize,
    pub(super) accepted: u64,
    pub(super) rejected: [u64; 3],
    pub(super) observed: [u64; 3],
    by_key: HashMap<Key, Tally>,
    vacant: usize,
    max_vacant: usize,
    swept: Option<Instant>,
    warnings: Throttle,
    rejections: Throttle,
    observations: Throttle,
}

/// The count of one key.
#[derive(Debug, Default)]
struct Tally {
    connections: usize,
    bucket: Option<Bucket>,
}

impl Tallies {
    pub(super) fn new(max_vacant: usize) -> Self {
        Self {
            connections: 0,
            accepted: 0,
            rejected: [0; 3],
            observed: [0; 3],
            by_key: HashMap::new(),
            vacant: 0,
            max_vacant,
            swept: None,
            warnings: Throttle::default(),
            rejections: Throttle::default(),
            observations: Throttle::default(),
        }
    }

    /// Takes a place under `key`, or says what is missing and changes nothing.
    pub(super) fn enter(
        &mut self,
        rule: &Rule,
        key: &Key,
        now: Instant,
    ) -> Result<Entry, Shortfall> {
        self.sweep(now);
        let tally = self.by_key.get(key);
        let count = tally.map_or(0, |tally| tally.connections);
        let mut bucket = rule.connects_per_second.map(|rate| {
            tally
                .and_then(|tally| tally.bucket)
                // A reload may have changed the rate.
                .filter(|bucket| bucket.rate == rate)
                .unwrap_or_else(|| Bucket::full(rate, now))
        });
        let in_time = bucket.as_mut().is_none_or(|bucket| bucket.take(now));

        let shortfall = match (rule.cap, rule.connects_per_second) {
            (Some(cap), _) if count >= cap => {
                // Nobody is closed for a newcomer that its rate would refuse all the same.
                let evict = rule.at_limit == AtLimit::EvictIdle && in_time && count > 0;
                Some(Shortfall {
                    reason: Reason::GroupCap,
                    count,
                    cap,
                    evict,
                })
            }
            (_, Some(rate)) if !in_time => {
                let cap = rate as usize;
                Some(Shortfall {
                    reason: Reason::ConnectRate,
                    count: cap,
                    cap,
                    evict: false,
                })
            }
            _ => None,
        };
        let observed = match (shortfall, rule.mode) {
            (Some(shortfall), Mode::Enforce) => return Err(shortfall),
            (Some(shortfall), Mode::Observe) => {
                self.observed[shortfall.reason as usize] += 1;
                self.observations.pass(now).map(|line| (shortfall, line))
            }
            (None, _) => None,
        };

        if tally.is_some() && count == 0 {
            self.vacant -= 1;
        }
        let tally = self.by_key.entry(key.clone()).or_default();
        tally.connections += 1;
        tally.bucket = bucket;
        self.connections += 1;
        let warning = if rule.warn == Some(count + 1) {
            self.warnings.pass(now)
        } else {
            None
        };
        Ok(Entry { warning, observed })
    }

    /// Keys without clients that are remembered for their connect rate; if there are more they are forgotten.
    pub(super) fn set_max_vacant(&mut self, max_vacant: usize) {
        self.max_vacant = max_vacant;
        if self.vacant > max_vacant {
            self.by_key.retain(|_, tally| tally.connections > 0);
            self.vacant = 0;
        }
    }

    /// Takes a place under `key`, whatever the caps say.
    pub(super) fn force(&mut self, key: &Key) {
        let tally = self.by_key.get(key);
        if tally.is_some_and(|tally| tally.connections == 0) {
            self.vacant -= 1;
        }
        self.by_key.entry(key.clone()).or_default().connections += 1;
        self.connections += 1;
    }

    /// The keys that have more than `cap` clients, with their counts.
    pub(super) fn above(&self, cap: usize) -> Vec<(Key, usize)> {
        let counts = self
            .by_key
            .iter()
            .map(|(key, tally)| (key, tally.connections));
        let above = counts.filter(|(_, count)| *count > cap);
        above.map(|(key, count)| (key.clone(), count)).collect()
    }

    /// Gives back a place taken by [`Tallies::enter`].
    pub(super) fn leave(&mut self, key: &Key) {
        let Some(tally) = self.by_key.get_mut(key) else {
            debug_assert!(false, "a place is given back where it was taken");
            return;
        };
        tally.connections -= 1;
        self.connections -= 1;
        if tally.connections > 0 {
            return;
        }
        if tally.bucket.is_some() && self.vacant < self.max_vacant {
            self.vacant += 1;
        } else {
            self.by_key.remove(key);
        }
    }

    /// Counts a refusal.
    pub(super) fn reject(&mut self, reason: Reason, now: Instant) -> Option<LogLine> {
        self.rejected[reason as usize] += 1;
        self.rejections.pass(now)
    }

    /// The count of the key that has most.
    pub(super) fn fullest(&self) -> usize {
        self.by_key
            .values()
            .map(|tally| tally.connections)
            .max()
            .unwrap_or(0)
    }

    /// Every key that has clients, in words, with its count.
    pub(super) fn keys(&self) -> Vec<(String, usize)> {
        let with_clients = self
            .by_key
            .iter()
            .filter(|(_, tally)| tally.connections > 0);
        with_clients
            .map(|(key, tally)| (key.to_string(), tally.connections))
            .collect()
    }

    /// Forgets keys without clients whose buckets are full, at most once a second.
    fn sweep(&mut self, now: Instant) {
        let due = self
            .swept
            .is_none_or(|swept| now.saturating_duration_since(swept) >= BUCKET_FULL_AFTER);
        if self.vacant == 0 || !due {
            return;
        }
        self.swept = Some(now);
        let before = self.by_key.len();
        self.by_key.retain(|_, tally| {
            tally.connections > 0 || tally.bucket.is_some_and(|bucket| !bucket.is_full(now))
        });
        self.vacant -= before - self.by_key.len();
    }

    #[cfg(test)]
    pub(super) fn table_len(&self) -> usize {
        let vacant = self
            .by_key
            .values()
            .filter(|tally| tally.connections == 0)
            .count();
        assert_eq!((self.vacant, vacant <= self.max_vacant), (vacant, true));
        self.by_key.len()
    }
}

/// A token bucket as large as its rate, refilled continuously. Exact: one token is a thousand million units.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: u32,
    units: u64,
    at: Instant,
}

const UNITS_A_TOKEN: u64 = 1_000_000_000;

impl Bucket {
    fn full(rate: u32, at: Instant) -> Self {
        Self {
            rate,
            units: u64::from(rate) * UNITS_A_TOKEN,
            at,
        }
    }

    /// Its content at `now`; a `now` read earlier on another thread adds nothing.
    fn units_at(&self, now: Instant) -> u64 {
        let gained = now
            .saturating_duration_since(self.at)
            .as_nanos()
            .saturating_mul(u128::from(self.rate));
        let gained = u64::try_from(gained).unwrap_or(u64::MAX);
        self.units
            .saturating_add(gained)
            .min(u64::from(self.rate) * UNITS_A_TOKEN)
    }

    fn is_full(&self, now: Instant) -> bool {
        self.units_at(now) == u64::from(self.rate) * UNITS_A_TOKEN
    }

    /// Takes a token if there is one.
    fn take(&mut self, now: Instant) -> bool {
        self.units = self.units_at(now);
        self.at = self.at.max(now);
        let taken = self.units >= UNITS_A_TOKEN;
        if taken {
            self.units -= UNITS_A_TOKEN;
        }
        taken
    }
}

/// Lets a line pass once in [`LOG_INTERVAL`] and counts the others.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    last: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    pub(super) fn pass(&mut self, now: Instant) -> Option<LogLine> {
        if self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < LOG_INTERVAL)
        {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(LogLine {
            suppressed: std::mem::take(&mut self.suppressed),
        })
    }
}
