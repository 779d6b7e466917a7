//! A subscriber's knowledge: its subscriptions as they were confirmed, and how far it has heard whom.
//!
//! A message says of itself on which channel, by whom and as which of the publisher's it was sent, over and over to its end, so that
//! a piece of another one shows.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::ears::Sound;
use super::expect::{Mismatch, is_bulk};
use crate::harness::{TESTED_SERVER, Value, words};

/// Several canaries publish on and subscribe to this number of channels.
pub(super) const COMMON_CHANNELS: usize = 6;

/// Each canary has this number of channels of its own.
pub(super) const OWN_CHANNELS: usize = 4;

/// Lists patterns on the common channels.
const COMMON_PATTERNS: [&str; 3] = ["common.*", "common.[0-2]", "comm?n.5"];

/// Says what a topic is: the same names are used for all, so that one taken for another shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Channel,
    Pattern,
    Shard,
}

const KINDS: [Kind; 3] = [Kind::Channel, Kind::Pattern, Kind::Shard];

/// Lists those that the tested server knows.
pub(super) fn kinds() -> &'static [Kind] {
    if TESTED_SERVER.is_7_or_later() {
        &KINDS
    } else {
        &KINDS[..2]
    }
}

impl Kind {
    pub(super) fn subscribe(self) -> &'static str {
        ["subscribe", "psubscribe", "ssubscribe"][self as usize]
    }

    pub(super) fn unsubscribe(self) -> &'static str {
        ["unsubscribe", "punsubscribe", "sunsubscribe"][self as usize]
    }

    /// Tells the command whose messages reach its subscribers.
    pub(super) fn publish(self) -> &'static str {
        match self {
            Self::Channel | Self::Pattern => "PUBLISH",
            Self::Shard => "SPUBLISH",
        }
    }

    fn of_message(word: &Value) -> Option<Self> {
        let words = ["message", "pmessage", "smessage"];
        let at = words.iter().position(|known| is_bulk(word, known))?;
        Some(KINDS[at])
    }
}

/// One connection as a publisher: its messages are numbered, and run in the order of their numbers.
#[derive(Debug)]
pub(super) struct Voice {
    /// The client's number and which of its connections it is.
    pub(super) name: String,
    said: u64,
}

impl Voice {
    pub(super) fn new(number: usize, connection: usize) -> Self {
        Self {
            name: format!("{number}.{connection}"),
            said: 0,
        }
    }

    /// Writes the next message, repeated to about this length, and tells its number.
    pub(super) fn say(&mut self, kind: Kind, channel: &str, length: usize) -> (String, u64) {
        self.said += 1;
        let said = format!("{} {channel} {} {};", kind.publish(), self.name, self.said);
        (said.repeat(length / said.len() + 1), self.said)
    }
}

/// One delivery that is owed: kind and topic of the subscription, publisher, number.
pub(super) type Delivery = (Kind, String, String, u64);

#[derive(Debug)]
pub(super) struct Subscriptions {
    number: usize,
    topics: [BTreeSet<String>; 3],
    /// The last number heard through each topic of each publisher.
    by_topic: HashMap<(Kind, String, String), u64>,
    /// The last number heard of each publisher.
    by_publisher: HashMap<String, u64>,
    pub(super) owed: HashSet<Delivery>,
    pub(super) heard: usize,
}

impl Subscriptions {
    pub(super) fn new(number: usize) -> Self {
        Self {
            number,
            topics: Default::default(),
            by_topic: HashMap::new(),
            by_publisher: HashMap::new(),
            owed: HashSet::new(),
            heard: 0,
        }
    }

    pub(super) fn topics(&self, kind: Kind) -> &BTreeSet<String> {
        &self.topics[kind as usize]
    }

    /// Tells whether it is subscribed to anything.
    pub(super) fn any(&self) -> bool {
        self.topics.iter().any(|topics| !topics.is_empty())
    }

    /// Tells how many subscriptions a confirmation of this kind tells.
    fn count(&self, kind: Kind) -> i64 {
        let [channels, patterns, shards] = self.topics.each_ref().map(BTreeSet::len);
        let count = match kind {
            Kind::Channel | Kind::Pattern => channels + patterns,
            Kind::Shard => shards,
        };
        count as i64
    }

    /// Takes in a confirmation that this topic is subscribed to.
    pub(super) fn subscribed(
        &mut self,
        kind: Kind,
        topic: &str,
        reply: &Value,
    ) -> Result<(), Mismatch> {
        self.topics[kind as usize].insert(topic.to_owned());
        self.is_confirmation(reply, kind.subscribe(), Some(topic), kind)
    }

    /// Takes in a confirmation that this topic is not subscribed to any more.
    pub(super) fn unsubscribed(
        &mut self,
        kind: Kind,
        topic: &str,
        reply: &Value,
    ) -> Result<(), Mismatch> {
        self.topics[kind as usize].remove(topic);
        self.is_confirmation(reply, kind.unsubscribe(), Some(topic), kind)
    }

    /// Takes in one of the confirmations of unsubscribing from everything of a kind, which come in any order.
    pub(super) fn unsubscribed_any(&mut self, kind: Kind, reply: &Value) -> Result<(), Mismatch> {
        let items = parts(reply)?;
        let topic = items.get(1).map(Value::text).unwrap_or_default();
        if self.topics[kind as usize].is_empty() {
            return self.is_confirmation(reply, kind.unsubscribe(), None, kind);
        }
        if !self.topics[kind as usize].contains(&topic) {
            return Err(Mismatch(format!("it was not subscribed to {topic}")));
        }
        self.unsubscribed(kind, &topic, reply)
    }

    fn is_confirmation(
        &self,
        reply: &Value,
        verb: &str,
        topic: Option<&str>,
        kind: Kind,
    ) -> Result<(), Mismatch> {
        let [found_verb, found_topic, count] = parts(reply)? else {
            return Err(Mismatch(format!("no confirmation of {verb} {topic:?}")));
        };
        let fits = match topic {
            Some(topic) => is_bulk(found_topic, topic),
            None => found_topic.is_null(),
        };
        if is_bulk(found_verb, verb) && fits && *count == Value::Int(self.count(kind)) {
            return Ok(());
        }
        let count = self.count(kind);
        Err(Mismatch(format!(
            "not {verb} {topic:?} with the count {count}"
        )))
    }

    /// Takes in a frame: a message must be of what it is subscribed to, new, and next in its publisher's order.
    pub(super) fn hear(&mut self, frame: &Value, resp3: bool) -> Result<Sound, Mismatch> {
        let items = match frame {
            Value::Push(items) if resp3 => items,
            Value::Push(_) => return Err(Mismatch("a push of RESP3 for a client of RESP2".into())),
            // In RESP3 every array is a reply, and no reply to a canary starts as a message does.
            Value::Array(items) => items,
            _ => return Ok(Sound::Reply),
        };
        let Some(kind) = items.first().and_then(Kind::of_message) else {
            return Ok(Sound::Reply);
        };
        if matches!(frame, Value::Array(_)) == resp3 {
            return Err(Mismatch("a message of the other protocol".into()));
        }
        let (topic, channel, said) = match (kind, &items[1..]) {
            (Kind::Pattern, [pattern, channel, said]) => (pattern, channel, said),
            (Kind::Channel | Kind::Shard, [channel, said]) => (channel, channel, said),
            _ => return Err(Mismatch("a message of the wrong length".into())),
        };
        self.take(kind, &topic.text(), &channel.text(), &said.text())?;
        Ok(Sound::Unasked)
    }

    fn take(&mut self, kind: Kind, topic: &str, channel: &str, said: &str) -> Result<(), Mismatch> {
        if !self.topics[kind as usize].contains(topic) {
            return Err(Mismatch(format!(
                "a message of {topic}, not subscribed to as a {kind:?}"
            )));
        }
        if kind == Kind::Pattern && !is_matched(topic, channel) {
            return Err(Mismatch(format!("{topic} does not match {channel}")));
        }
        let (publisher, sequence) = spoken(kind, channel, said)?;
        let is_own = publisher.split('.').next() == Some(self.number.to_string().as_str());
        if channel.starts_with(&format!("c{}.", self.number)) && !is_own {
            return Err(Mismatch("another's message on an own channel".into()));
        }
        let last = self.by_publisher.entry(publisher.to_owned()).or_default();
        if sequence < *last {
            return Err(Mismatch(format!("{sequence} of {publisher} after {last}")));
        }
        *last = sequence;
        let through = (kind, topic.to_owned(), publisher.to_owned());
        let last = self.by_topic.entry(through).or_default();
        if sequence <= *last {
            return Err(Mismatch(format!(
                "{sequence} of {publisher} once more, after {last}"
            )));
        }
        *last = sequence;
        self.heard += 1;
        if !self.owed.is_empty() {
            self.owed
                .remove(&(kind, topic.to_owned(), publisher.to_owned(), sequence));
        }
        Ok(())
    }

    /// Tells whether a later message came the same way as one that is owed: it was left out, or went down with a connection.
    pub(super) fn has_left_out(&self) -> bool {
        self.owed.iter().any(|(kind, topic, publisher, sequence)| {
            let way = (*kind, topic.clone(), publisher.clone());
            self.by_topic.get(&way).is_some_and(|last| last > sequence)
        })
    }

    /// Tells the subscriptions through which a message published on this channel comes.
    pub(super) fn ways(&self, kind: Kind, channel: &str) -> Vec<(Kind, String)> {
        let named = |kind: Kind| {
            self.topics(kind)
                .contains(channel)
                .then(|| (kind, channel.to_owned()))
        };
        match kind {
            Kind::Shard => named(kind).into_iter().collect(),
            Kind::Channel | Kind::Pattern => {
                let patterns = self.topics(Kind::Pattern).iter();
                let matching = patterns.filter(|pattern| is_matched(pattern, channel));
                named(Kind::Channel)
                    .into_iter()
                    .chain(matching.map(|pattern| (Kind::Pattern, pattern.clone())))
                    .collect()
            }
        }
    }
}

/// Lists the names that a canary may subscribe to: its own before those it has in common with others.
pub(super) fn names(kind: Kind, number: usize) -> Vec<String> {
    let channels = (0..OWN_CHANNELS)
        .map(|own| format!("c{number}.{own}"))
        .chain((0..COMMON_CHANNELS).map(|common| format!("common.{common}")));
    match kind {
        Kind::Channel | Kind::Shard => channels.collect(),
        Kind::Pattern => [format!("c{number}.*"), format!("c{number}.[13]")]
            .into_iter()
            .chain(COMMON_PATTERNS.map(str::to_owned))
            .collect(),
    }
}

/// Tells whether one of the patterns of [`names`] matches a channel.
fn is_matched(pattern: &str, channel: &str) -> bool {
    let common = |digits: &[&str]| {
        channel
            .strip_prefix("common.")
            .is_some_and(|digit| digits.contains(&digit))
    };
    if let Some(prefix) = pattern.strip_suffix('*') {
        return channel.starts_with(prefix);
    }
    if let Some(prefix) = pattern.strip_suffix("[13]") {
        return channel
            .strip_prefix(prefix)
            .is_some_and(|digit| ["1", "3"].contains(&digit));
    }
    match pattern {
        "common.[0-2]" => common(&["0", "1", "2"]),
        "comm?n.5" => common(&["5"]),
        _ => false,
    }
}

/// Tells by whom and as which number this was said, if it is one whole message of this channel.
fn spoken<'a>(kind: Kind, channel: &str, said: &'a str) -> Result<(&'a str, u64), Mismatch> {
    let not = || Mismatch("not a message of this channel".into());
    let (first, _) = said.split_once(';').ok_or_else(not)?;
    let words = words(first);
    let [verb, on, publisher, sequence] = words[..] else {
        return Err(not());
    };
    let length = first.len() + 1;
    let is_whole = said.len().is_multiple_of(length)
        && said
            .as_bytes()
            .chunks(length)
            .all(|part| part == &said.as_bytes()[..length]);
    if verb != kind.publish() || on != channel || !is_whole {
        return Err(not());
    }
    Ok((publisher, sequence.parse().map_err(|_| not())?))
}

fn parts(reply: &Value) -> Result<&[Value], Mismatch> {
    match reply {
        Value::Array(items) | Value::Push(items) => Ok(items),
        _ => Err(Mismatch("no confirmation".into())),
    }
}
