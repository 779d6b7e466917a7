//! The counts of one group: how many clients under which key, how fast they came, and what was refused.
//!
//! Invariants: `connections` is the sum over the keys. A key without clients stays only until its bucket is full again,
//! at most a second, and at most `max_vacant` such keys stay: the table is bounded whatever addresses or names come.

use std::collections::HashMap;
use std::time::Instant;

use super::GroupRule;
use super::bucket::{BUCKET_FULL_AFTER, RateBucket};
use super::damping::{GroupEvictions, KnownAgainBy};
use super::key::CountKey;
use super::log_line::{LineThrottle, LogLine};
use super::refusal::{AdmissionRefusal, PlaceShortfall, RefusalReason};
use crate::config::{AtLimit, CapMode};

/// Tells of a place taken, and what is worth a line in the log about it.
#[derive(Debug)]
pub(super) struct TakenPlace {
    pub(super) warning: Option<LogLine>,
    pub(super) observed: Option<(PlaceShortfall, LogLine)>,
}

/// Keeps the counts of one group.
#[derive(Debug)]
pub(super) struct GroupTally {
    pub(super) connections: usize,
    pub(super) accepted: u64,
    pub(super) rejected: [u64; 3],
    pub(super) observed: [u64; 3],
    pub(super) evictions: GroupEvictions,
    /// Counts the newcomers rejected because evictions are damped, by the reason.
    pub(super) damped: [u64; 2],
    by_key: HashMap<CountKey, KeyTally>,
    vacant: usize,
    max_vacant: usize,
    swept: Option<Instant>,
    warnings: LineThrottle,
    rejections: LineThrottle,
    observations: LineThrottle,
    eviction_lines: LineThrottle,
}

/// Keeps the count of one key.
#[derive(Debug, Default)]
struct KeyTally {
    connections: usize,
    bucket: Option<RateBucket>,
}

impl GroupTally {
    pub(super) fn new(max_vacant: usize) -> Self {
        Self {
            connections: 0,
            accepted: 0,
            rejected: [0; 3],
            observed: [0; 3],
            evictions: GroupEvictions::default(),
            damped: [0; 2],
            by_key: HashMap::new(),
            vacant: 0,
            max_vacant,
            swept: None,
            warnings: LineThrottle::default(),
            rejections: LineThrottle::default(),
            observations: LineThrottle::default(),
            eviction_lines: LineThrottle::default(),
        }
    }

    /// Takes a place under `key`, or says what is missing and changes nothing but that one may be evicted for it. `who` says by
    /// what the newcomer is known again.
    pub(super) fn enter(
        &mut self,
        rule: &GroupRule,
        key: &CountKey,
        now: Instant,
        who: impl FnOnce() -> KnownAgainBy,
    ) -> Result<TakenPlace, PlaceShortfall> {
        self.sweep(now);
        let tally = self.by_key.get(key);
        let count = tally.map_or(0, |tally| tally.connections);
        let mut bucket = rule.connects_per_second.map(|rate| {
            tally
                .and_then(|tally| tally.bucket)
                // A reload may have changed the rate.
                .filter(|bucket| bucket.is_of(rate))
                .unwrap_or_else(|| RateBucket::full(rate, now))
        });
        let in_time = bucket.as_mut().is_none_or(|bucket| bucket.take(now));

        let is_known = tally.is_some();
        let shortfall = self.shortfall(rule, (count, in_time), now, who);
        let observed = match (shortfall, rule.mode) {
            (Some(shortfall), CapMode::Enforce) => return Err(shortfall),
            (Some(shortfall), CapMode::Observe) => {
                self.observed[shortfall.reason as usize] += 1;
                self.observations.pass(now).map(|line| (shortfall, line))
            }
            (None, _) => None,
        };

        if is_known && count == 0 {
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
        Ok(TakenPlace { warning, observed })
    }

    /// Says what is missing for one more where there are `count` already, who comes in time for the rate or does not.
    fn shortfall(
        &mut self,
        rule: &GroupRule,
        (count, in_time): (usize, bool),
        now: Instant,
        who: impl FnOnce() -> KnownAgainBy,
    ) -> Option<PlaceShortfall> {
        match (rule.cap, rule.connects_per_second) {
            (Some(cap), _) if count >= cap => {
                // Nobody is closed for a newcomer that its rate would refuse all the same, or that is only observed.
                let evicts = rule.at_limit == AtLimit::EvictIdle && in_time && count > 0;
                let permitted = (evicts && rule.mode == CapMode::Enforce)
                    .then(|| self.evictions.permit(&who(), rule.damping, now));
                Some(PlaceShortfall {
                    reason: RefusalReason::GroupCap,
                    count,
                    cap,
                    evict: permitted == Some(Ok(())),
                    damped: permitted.and_then(Result::err),
                })
            }
            (_, Some(rate)) if !in_time => {
                let cap = rate as usize;
                Some(PlaceShortfall {
                    reason: RefusalReason::ConnectRate,
                    count: cap,
                    cap,
                    evict: false,
                    damped: None,
                })
            }
            _ => None,
        }
    }

    /// Bounds the keys without clients that are remembered for their connect rate; if there are more they are forgotten.
    pub(super) fn set_max_vacant(&mut self, max_vacant: usize) {
        self.max_vacant = max_vacant;
        if self.vacant > max_vacant {
            self.by_key.retain(|_, tally| tally.connections > 0);
            self.vacant = 0;
        }
    }

    /// Takes a place under `key`, whatever the caps say.
    pub(super) fn force(&mut self, key: &CountKey) {
        let tally = self.by_key.get(key);
        if tally.is_some_and(|tally| tally.connections == 0) {
            self.vacant -= 1;
        }
        self.by_key.entry(key.clone()).or_default().connections += 1;
        self.connections += 1;
    }

    /// Returns the keys that have more than `cap` clients, with their counts.
    pub(super) fn above(&self, cap: usize) -> Vec<(CountKey, usize)> {
        let counts = self
            .by_key
            .iter()
            .map(|(key, tally)| (key, tally.connections));
        let above = counts.filter(|(_, count)| *count > cap);
        above.map(|(key, count)| (key.clone(), count)).collect()
    }

    /// Gives back a place taken by [`GroupTally::enter`].
    pub(super) fn leave(&mut self, key: &CountKey) {
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

    /// Counts a refusal that is final.
    pub(super) fn reject(&mut self, refusal: &AdmissionRefusal, now: Instant) -> Option<LogLine> {
        self.rejected[refusal.reason as usize] += 1;
        if let Some(damped) = refusal.damped {
            self.damped[damped as usize] += 1;
        }
        self.rejections.pass(now)
    }

    /// Counts an eviction of one that is known again by `who`.
    pub(super) fn evicted(
        &mut self,
        who: KnownAgainBy,
        rule: &GroupRule,
        now: Instant,
    ) -> Option<LogLine> {
        self.evictions.note(who, rule.damping, now);
        self.eviction_lines.pass(now)
    }

    /// Returns the count of the key that has most.
    pub(super) fn fullest(&self) -> usize {
        self.by_key
            .values()
            .map(|tally| tally.connections)
            .max()
            .unwrap_or(0)
    }

    /// Returns the key that has most clients; of several the one whose words come first, so that it stays the same.
    pub(super) fn fullest_key(&self) -> Option<(&CountKey, usize)> {
        let most = self.fullest();
        let fullest = self
            .by_key
            .iter()
            .filter(|(_, tally)| most > 0 && tally.connections == most);
        let words = fullest.min_by_key(|(key, _)| key.to_string());
        words.map(|(key, _)| (key, most))
    }

    /// Counts the keys that have at least so many clients.
    pub(super) fn keys_from(&self, count: usize) -> usize {
        let counts = self.by_key.values().map(|tally| tally.connections);
        counts.filter(|connections| *connections >= count).count()
    }

    /// Returns how many clients this key has.
    pub(super) fn count(&self, key: &CountKey) -> usize {
        self.by_key.get(key).map_or(0, |tally| tally.connections)
    }

    /// Returns every key that has clients, in words, with its count.
    #[cfg(test)]
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
