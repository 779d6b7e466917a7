//! One channel, pattern or shard channel and who is subscribed to it.

use indexmap::IndexMap;

use super::SubscriberId;

/// What is subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// SUBSCRIBE.
    Channel,
    /// PSUBSCRIBE.
    Pattern,
    /// SSUBSCRIBE (Redis 7.0).
    Shard,
}

/// Every kind.
pub const PUBSUB_KINDS: [Kind; 3] = [Kind::Channel, Kind::Pattern, Kind::Shard];

impl Kind {
    /// The command, which is also the first word of its confirmations.
    pub fn verb(self, subscribes: bool) -> &'static str {
        match (self, subscribes) {
            (Self::Channel, true) => "subscribe",
            (Self::Channel, false) => "unsubscribe",
            (Self::Pattern, true) => "psubscribe",
            (Self::Pattern, false) => "punsubscribe",
            (Self::Shard, true) => "ssubscribe",
            (Self::Shard, false) => "sunsubscribe",
        }
    }

    /// What the command of this name, in lower case, subscribes to (true) or unsubscribes from.
    pub fn of_verb(verb: &[u8]) -> Option<(Self, bool)> {
        PUBSUB_KINDS
            .into_iter()
            .flat_map(|kind| [(kind, true), (kind, false)])
            .find(|(kind, subscribes)| kind.verb(*subscribes).as_bytes() == verb)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The server has been asked for it, by the request of this number.
    Asked(u64),
    /// The server has confirmed it.
    Active,
}

#[derive(Debug)]
pub(super) struct Topic<T> {
    pub(super) phase: Phase,
    /// Commands that wait for this or another of their topics.
    pub(super) awaited: usize,
    pub(super) subscribers: IndexMap<SubscriberId, T>,
}

impl<T> Topic<T> {
    pub(super) fn new(phase: Phase) -> Self {
        Self {
            phase,
            awaited: 0,
            subscribers: IndexMap::new(),
        }
    }
}
