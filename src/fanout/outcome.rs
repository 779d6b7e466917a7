//! What subscribing and unsubscribing comes to.

use std::rc::Rc;

use super::Kind;

/// A subscriber's number among the clients of the process.
pub type SubscriberId = u64;

/// One confirmation: the topic, and how many of its client's subscriptions the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// `None`: it was subscribed to nothing and unsubscribed from everything.
    pub topic: Option<Rc<[u8]>>,
    /// Channels and patterns, or shard channels.
    pub count: usize,
}

/// How many topics of each kind a client is subscribed to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Channels.
    pub channels: usize,
    /// Patterns.
    pub patterns: usize,
    /// Shard channels.
    pub shard_channels: usize,
}

impl Counts {
    /// Of all kinds.
    pub fn total(&self) -> usize {
        self.channels + self.patterns + self.shard_channels
    }
}

/// How a subscription began.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun {
    /// The server had been asked for all of it: confirmed.
    Confirmed(Vec<Confirmation>),
    /// The server has to confirm it first; [`Fanout::settled`] tells.
    Asked,
    /// The client would have more subscriptions than it may.
    TooMany,
}

/// A command the server has confirmed, or refused with this error.
#[derive(Debug)]
pub struct Settled<T> {
    /// Whose.
    pub subscriber: SubscriberId,
    /// Its way out.
    pub handle: T,
    /// Of which kind.
    pub kind: Kind,
    /// It subscribes, or (false) unsubscribes.
    pub subscribes: bool,
    /// Confirmations in the order of the client's words.
    pub result: Result<Vec<Confirmation>, Vec<u8>>,
}
