//! Evictions, damped: `at_limit = "evict-idle"` must not become a war with libraries that reconnect.
//!
//! Whoever is evicted comes back at once where its library does that, and would be admitted by evicting one like it, which
//! comes back, too: 10,702 evictions were seen in 37 seconds. So an identity one of whose clients was evicted evicts nobody
//! itself for `group.evict_pause`, and a group evicts at most `group.max_evictions_per_second`. Who comes meanwhile is
//! rejected and held, as by any cap.
//!
//! Pure: told the time. Invariant: what is remembered is bounded by the evictions of one pause.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::AdmissionPlan;
use super::bucket::RateBucket;
use super::key::bounded;
use crate::identity::{Identity, PeerAddress};

/// Says by what one who comes back is known again: not by its port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct KnownAgainBy {
    host: ReturnerHost,
    name: Box<[u8]>,
    user: Box<[u8]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum ReturnerHost {
    Address(IpAddr),
    Socket(Arc<str>),
}

impl KnownAgainBy {
    fn of(identity: &Identity, has_spoken: bool) -> Self {
        let words = |words: &[u8]| match has_spoken {
            true => bounded(words).into(),
            false => Box::default(),
        };
        Self {
            host: match &identity.peer {
                PeerAddress::Tcp(address) => ReturnerHost::Address(address.ip().to_canonical()),
                PeerAddress::Unix(path) => ReturnerHost::Socket(Arc::clone(path)),
            },
            name: words(&identity.name),
            user: words(&identity.user),
        }
    }
}

impl AdmissionPlan {
    /// Returns by what this client would be known again. Where a client is asked for its place when it connects, that is all there is to
    /// know it by.
    pub(super) fn returner(&self, identity: &Identity) -> KnownAgainBy {
        KnownAgainBy::of(identity, self.depends_on_words(identity))
    }
}

/// Says why nobody is evicted for a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DampedReason {
    /// One like it was evicted a moment ago (`group.evict_pause`).
    Returned,
    /// The group has evicted as many as it may in a second (`group.max_evictions_per_second`).
    TooFast,
}

impl DampedReason {
    /// Lists both, in the order of their index.
    pub const ALL: [Self; 2] = [Self::Returned, Self::TooFast];

    /// Returns its value of the metric label `result`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Returned => "returned",
            Self::TooFast => "too_fast",
        }
    }

    /// Returns what is appended to the line about the rejection.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Returned => {
                "; nobody is evicted for it: one like it was evicted a moment ago (group.evict_pause)"
            }
            Self::TooFast => {
                "; nobody is evicted for it: enough were in this second (group.max_evictions_per_second)"
            }
        }
    }
}

/// Says what a group's settings have of evictions.
#[derive(Debug, Clone, Copy)]
pub(super) struct EvictionDamping {
    pub(super) pause: Duration,
    pub(super) per_second: u32,
}

/// Remembers the evictions of one group.
#[derive(Debug, Default)]
pub(super) struct GroupEvictions {
    /// Tells when one of each identity was evicted last.
    recent: HashMap<KnownAgainBy, Instant>,
    bucket: Option<RateBucket>,
    /// Counts all of them.
    pub(super) total: u64,
}

impl GroupEvictions {
    /// Permits to evict one for a newcomer that is known again by this, where that may be; then it counts as one of this second.
    pub(super) fn permit(
        &mut self,
        who: &KnownAgainBy,
        damping: EvictionDamping,
        now: Instant,
    ) -> Result<(), DampedReason> {
        let evicted = self.recent.get(who);
        if evicted.is_some_and(|at| now.saturating_duration_since(*at) < damping.pause) {
            return Err(DampedReason::Returned);
        }
        let bucket = self
            .bucket
            .filter(|bucket| bucket.is_of(damping.per_second));
        let mut bucket = bucket.unwrap_or_else(|| RateBucket::full(damping.per_second, now));
        let is_permitted = bucket.take(now);
        self.bucket = Some(bucket);
        match is_permitted {
            true => Ok(()),
            false => Err(DampedReason::TooFast),
        }
    }

    /// Notes that a client that is known again by this was evicted.
    pub(super) fn note(&mut self, who: KnownAgainBy, damping: EvictionDamping, now: Instant) {
        self.total += 1;
        self.recent
            .retain(|_, at| now.saturating_duration_since(*at) < damping.pause);
        if !damping.pause.is_zero() {
            self.recent.insert(who, now);
        }
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.recent.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn who(number: u8) -> KnownAgainBy {
        let address = format!("127.0.0.{number}:5000")
            .parse()
            .expect("an address");
        let identity = Identity::new(PeerAddress::Tcp(address), Arc::from("127.0.0.1:6380"));
        KnownAgainBy::of(&identity, true)
    }

    const DAMPING: EvictionDamping = EvictionDamping {
        pause: Duration::from_secs(2),
        per_second: 3,
    };

    #[test]
    fn a_returner_is_known_by_all_but_its_port() {
        let identity = |peer: &str, name: &str| Identity {
            name: name.as_bytes().into(),
            ..Identity::new(
                PeerAddress::Tcp(peer.parse().expect("an address")),
                Arc::from("127.0.0.1:6380"),
            )
        };
        let of = |peer, name| KnownAgainBy::of(&identity(peer, name), true);
        assert_eq!(of("10.0.0.1:1", "a"), of("10.0.0.1:2", "a"));
        assert_eq!(of("10.0.0.1:1", "a"), of("[::ffff:10.0.0.1]:2", "a"));
        assert_ne!(of("10.0.0.1:1", "a"), of("10.0.0.2:1", "a"));
        assert_ne!(of("10.0.0.1:1", "a"), of("10.0.0.1:1", "b"));
        let silent = KnownAgainBy::of(&identity("10.0.0.1:1", "a"), false);
        assert_eq!(
            silent,
            KnownAgainBy::of(&identity("10.0.0.1:1", "b"), false)
        );
    }

    #[test]
    fn one_that_comes_back_at_once_evicts_nobody() {
        let mut evictions = GroupEvictions::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(evictions.permit(&who(2), DAMPING, at(0)), Ok(()));
        evictions.note(who(1), DAMPING, at(0));
        assert_eq!(
            evictions.permit(&who(1), DAMPING, at(1)),
            Err(DampedReason::Returned)
        );
        assert_eq!(
            evictions.permit(&who(1), DAMPING, at(1999)),
            Err(DampedReason::Returned)
        );
        assert_eq!(
            evictions.permit(&who(2), DAMPING, at(1999)),
            Ok(()),
            "another may"
        );
        assert_eq!(evictions.permit(&who(1), DAMPING, at(2000)), Ok(()));
    }

    proptest! {
        /// However newcomers come, and whoever is evicted for them.
        #[test]
        fn evictions_are_bounded(steps in proptest::collection::vec((1_u8..9, 1_u8..9, 0_u64..700), 1..200)) {
            let start = Instant::now();
            let mut evictions = GroupEvictions::default();
            let mut now_ms = 0;
            let mut made: Vec<(u64, u8)> = Vec::new();
            for (newcomer, victim, pause) in steps {
                now_ms += pause;
                let now = start + Duration::from_millis(now_ms);
                let was_evicted = made.iter().any(|(at, who)| *who == newcomer && now_ms - at < 2000);
                let permitted = evictions.permit(&who(newcomer), DAMPING, now);
                prop_assert_eq!(permitted == Err(DampedReason::Returned), was_evicted);
                if permitted.is_ok() {
                    evictions.note(who(victim), DAMPING, now);
                    made.push((now_ms, victim));
                }
                // A second's worth may come at once, and refills within the next.
                let lately = made.iter().filter(|(at, _)| now_ms - at < 1000).count();
                prop_assert!(lately <= 6, "{} in a second", lately);
                prop_assert!(evictions.remembered() <= 8);
            }
            prop_assert_eq!(evictions.total, made.len() as u64);
        }
    }
}
