//! Says what subscribing and unsubscribing comes to.

use std::rc::Rc;

use super::{SubscriberId, TopicKind};

/// One confirmation names the topic, and says how many of its client's subscriptions the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfirmation {
    /// There is none where the client was subscribed to nothing and unsubscribed from everything.
    pub topic: Option<Rc<[u8]>>,
    /// It counts channels and patterns, or shard channels.
    pub count: usize,
}

/// Counts the topics of each kind that a client is subscribed to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TopicCounts {
    /// It is subscribed to this many channels.
    pub channels: usize,
    /// It is subscribed to this many patterns.
    pub patterns: usize,
    /// It is subscribed to this many shard channels.
    pub shard_channels: usize,
}

impl TopicCounts {
    /// Returns how many they are of all kinds.
    pub fn total(&self) -> usize {
        self.channels + self.patterns + self.shard_channels
    }
}

/// Says how a subscription began.
#[derive(Debug, PartialEq, Eq)]
pub enum SubscriptionStart {
    /// The server had been asked for all of it: it is confirmed.
    Confirmed(Vec<TopicConfirmation>),
    /// The server has to confirm it first; [`TopicFanout::settled`] tells.
    Asked,
    /// The client would have more subscriptions than it may.
    TooMany,
}

/// Keeps a command that the server has confirmed, or refused.
#[derive(Debug)]
pub struct SettledCommand<T> {
    /// It was this client's.
    pub subscriber: SubscriberId,
    /// The client is reached by this.
    pub handle: T,
    /// It was about this kind of topics.
    pub kind: TopicKind,
    /// It subscribes, or (false) unsubscribes.
    pub subscribes: bool,
    /// The confirmations stand in the order of the client's words; otherwise this is the server's error.
    pub result: Result<Vec<TopicConfirmation>, Vec<u8>>,
}
