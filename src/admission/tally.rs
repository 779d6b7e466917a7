//! The counts of one group: how many clients under which key, how fast they came, and what was refused.
//!
//! Invariants: `connections` is the sum over the keys. A key without clients stays only until its bucket is full again,
//! at most a second, and at most `max_vacant` such keys stay: the table is bounded whatever addresses or names come.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Rule;
use super::damping::{Damped, Evictions, Returner};
use super::key::Key;
use super::refusal::{LogLine, Reason, Refusal};
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
    /// Why nobody is evicted where the group does that.
    pub(super) damped: Option<Damped>,
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
    pub(super) evictions: Evictions,
    /// Newcomers rejected because evictions are damped, by [`Damped`].
    pub(super) damped: [u64; 2],
    by_key: HashMap<Key, Tally>,
    vacant: usize,
    max_vacant: usize,
    swept: Option<Instant>,
    warnings: Throttle,
    rejections: Throttle,
    observations: Throttle,
    eviction_lines: Throttle,
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
            evictions: Evictions::default(),
            damped: [0; 2],
            by_key: HashMap::new(),
            vacant: 0,
            max_vacant,
            swept: None,
            warnings: Throttle::default(),
            rejections: Throttle::default(),
            observations: Throttle::default(),
            eviction_lines: Throttle::default(),
        }
    }

    /// Takes a place under `key`, or says what is missing and changes nothing but that one may be evicted for it. `who` says by
    /// what the newcomer is known again.
    pub(super) fn enter(
        &mut self,
        rule: &Rule,
        key: &Key,
        now: Instant,
        who: impl FnOnce() -> Returner,
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
                // Nobody is closed for a newcomer that its rate would refuse all the same, or that is only observed.
                let evicts = rule.at_limit == AtLimit::EvictIdle && in_time && count > 0;
                let permitted = (evicts && rule.mode == Mode::Enforce)
                    .then(|| self.evictions.permit(&who(), rule.damping, now));
                Some(Shortfall {
                    reason: Reason::GroupCap,
                    count,
                    cap,
                    evict: permitted == Some(Ok(())),
                    damped: permitted.and_then(Result::err),
                })
            }
            (_, Some(rate)) if !in_time => {
                let cap = rate as usize;
                Some(Shortfall {
                    reason: Reason::ConnectRate,
                    count: cap,
                    cap,
                    evict: false,
                    damped: None,
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
    pub(super) fn reject(&mut self, refusal: &Refusal, now: Instant) -> Option<LogLine> {
        self.rejected[refusal.reason as usize] += 1;
        if let Some(damped) = refusal.damped {
            self.damped[damped as usize] += 1;
        }
        self.rejections.pass(now)
    }

    /// Counts an eviction of one that is known again by `who`.
    pub(super) fn evicted(&mut self, who: Returner, rule: &Rule, now: Instant) -> Option<LogLine> {
        self.evictions.note(who, rule.damping, now);
        self.eviction_lines.pass(now)
    }

    /// The count of the key that has most.
    pub(super) fn fullest(&self) -> usize {
        self.by_key
            .values()
            .map(|tally| tally.connections)
            .max()
            .unwrap_or(0)
    }

    /// The key that has most clients; of several the one whose words come first, so that it stays the same.
    pub(super) fn fullest_key(&self) -> Option<(&Key, usize)> {
        let most = self.fullest();
        let fullest = self
            .by_key
            .iter()
            .filter(|(_, tally)| most > 0 && tally.connections == most);
        let words = fullest.min_by_key(|(key, _)| key.to_string());
        words.map(|(key, _)| (key, most))
    }

    /// How many keys have at least so many clients.
    pub(super) fn keys_from(&self, count: usize) -> usize {
        let counts = self.by_key.values().map(|tally| tally.connections);
        counts.filter(|connections| *connections >= count).count()
    }

    /// How many clients this key has.
    pub(super) fn count(&self, key: &Key) -> usize {
        self.by_key.get(key).map_or(0, |tally| tally.connections)
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
pub(super) struct Bucket {
    rate: u32,
    units: u64,
    at: Instant,
}

const UNITS_A_TOKEN: u64 = 1_000_000_000;

impl Bucket {
    pub(super) fn full(rate: u32, at: Instant) -> Self {
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

    /// Whether it has this rate, which a reload may have changed.
    pub(super) fn is_of(&self, rate: u32) -> bool {
        self.rate == rate
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
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
