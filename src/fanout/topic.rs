//! Describes one channel, pattern or shard channel and who is subscribed to it.

use std::cell::Cell;

use indexmap::IndexMap;

/// Names a subscriber among the clients of the process.
pub type SubscriberId = u64;

/// Says what is subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TopicKind {
    /// It is a channel: SUBSCRIBE.
    Channel,
    /// It is a pattern: PSUBSCRIBE.
    Pattern,
    /// It is a shard channel: SSUBSCRIBE (Redis 7.0).
    Shard,
}

/// Every kind stands here once.
pub const PUBSUB_KINDS: [TopicKind; 3] = [TopicKind::Channel, TopicKind::Pattern, TopicKind::Shard];

impl TopicKind {
    /// Returns the command, which is also the first word of its confirmations.
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

    /// Returns what the command of this name, in lower case, subscribes to (true) or unsubscribes from.
    pub fn of_verb(verb: &[u8]) -> Option<(Self, bool)> {
        PUBSUB_KINDS
            .into_iter()
            .flat_map(|kind| [(kind, true), (kind, false)])
            .find(|(kind, subscribes)| kind.verb(*subscribes).as_bytes() == verb)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopicPhase {
    /// The server has been asked for it, by the request of this number.
    Asked(u64),
    /// The server has confirmed it.
    Active,
}

/// Counts bytes that came not long ago: half as many with each second.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RecentBytes {
    second: u64,
    bytes: u64,
}

impl RecentBytes {
    /// Returns how many are left in this second.
    pub(super) fn left(self, second: u64) -> u64 {
        let since = second.saturating_sub(self.second);
        self.bytes
            .checked_shr(u32::try_from(since).unwrap_or(u32::MAX))
            .unwrap_or(0)
    }

    /// Adds so many more that came in this second.
    pub(super) fn and(self, bytes: usize, second: u64) -> Self {
        Self {
            second,
            bytes: self.left(second).saturating_add(bytes as u64),
        }
    }
}

#[derive(Debug)]
pub(super) struct SubscribedTopic<T> {
    pub(super) phase: TopicPhase,
    /// This number of commands wait for this or another of their topics.
    pub(super) awaited: usize,
    /// A message of it has come.
    pub(super) is_heard: Cell<bool>,
    pub(super) recent: Cell<RecentBytes>,
    pub(super) subscribers: IndexMap<SubscriberId, T>,
}

impl<T> SubscribedTopic<T> {
    pub(super) fn new(phase: TopicPhase) -> Self {
        Self {
            phase,
            awaited: 0,
            is_heard: Cell::new(false),
            recent: Cell::default(),
            subscribers: IndexMap::new(),
        }
    }
}
