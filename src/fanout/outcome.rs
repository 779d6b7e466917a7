//! What subscribing and unsubscribing comes to.

use std::rc::Rc;

use super::{Kind, SubscriberId};

/// One confirmation names the topic, and says how many of its client's subscriptions the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// There is none where the client was subscribed to nothing and unsubscribed from everything.
    pub topic: Option<Rc<[u8]>>,
    /// It counts channels and patterns, or shard channels.
    pub count: usize,
}

/// Counts the topics of each kind that a client is subscribed to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// It is subscribed to so many channels.
    pub channels: usize,
    /// It is subscribed to so many patterns.
    pub patterns: usize,
    /// It is subscribed to so many shard channels.
    pub shard_channels: usize,
}

impl Counts {
    /// Returns how many they are of all kinds.
    pub fn total(&self) -> usize {
        self.channels + self.patterns + self.shard_channels
    }
}

/// Says how a subscription began.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun {
    /// The server had been asked for all of it: it is confirmed.
    Confirmed(Vec<Confirmation>),
    /// The server has to confirm it first; [`Fanout::settled`] tells.
    Asked,
    /// The client would have more subscriptions than it may.
    TooMany,
}

/// Keeps a command that the server has confirmed, or refused.
#[derive(Debug)]
pub struct Settled<T> {
    /// It was this client's.
    pub subscriber: SubscriberId,
    /// The client is reached by this.
    pub handle: T,
    /// It was about this kind of topics.
    pub kind: Kind,
    /// It subscribes, or (false) unsubscribes.
    pub subscribes: bool,
    /// The confirmations stand in the order of the client's words; otherwise this is the server's error.
    pub result: Result<Vec<Confirmation>, Vec<u8>>,
}
