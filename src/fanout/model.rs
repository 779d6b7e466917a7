//! The machine against a model: a server that answers in order whenever it likes, and clients that come and go.

use std::collections::{HashMap, HashSet, VecDeque};

use super::*;

pub(super) fn words(requests: &[u8]) -> Vec<Vec<String>> {
    let text = String::from_utf8(requests.to_vec()).unwrap();
    let mut lines = text.split("\r\n");
    let mut found = Vec::new();
    while let Some(count) = lines.next().and_then(|line| line.strip_prefix('*')) {
        let count: usize = count.parse().unwrap();
        found.push(
            (0..count)
                .map(|_| lines.nth(1).unwrap().to_owned())
                .collect(),
        );
    }
    found
}

/// A server of its own kind knows what it was told, in order, and what it is subscribed to.
#[derive(Default)]
pub(super) struct SubscriptionServer {
    /// These confirmations (verb, topic) and refusals are on their way.
    replies: VecDeque<Result<(String, String), &'static [u8]>>,
    /// It answers everything by an error that passes.
    is_busy: bool,
    was_busy: bool,
    subscribed: HashSet<(String, String)>,
    /// It refuses this topic.
    pub(super) forbidden: Option<String>,
}

impl SubscriptionServer {
    fn take(&mut self, requests: &[u8]) {
        for request in words(requests) {
            let (verb, topics) = request.split_first().unwrap();
            if self.is_busy {
                self.replies.push_back(Err(b"-BUSY\r\n"));
                continue;
            }
            let kind = verb.replace("unsubscribe", "").replace("subscribe", "");
            if !verb.contains("unsub") && topics.iter().any(|t| Some(t) == self.forbidden.as_ref())
            {
                self.replies.push_back(Err(b"-NOPERM\r\n"));
                continue;
            }
            for topic in topics {
                let key = (kind.clone(), topic.clone());
                if verb.contains("unsub") {
                    let was_in = self.subscribed.remove(&key);
                    assert!(was_in || self.was_busy, "{key:?} was not subscribed to");
                } else {
                    // Twice only if letting go of it was put off.
                    let is_new = self.subscribed.insert(key.clone());
                    assert!(is_new || self.was_busy, "{key:?} asked for twice");
                }
                self.replies.push_back(Ok((verb.clone(), topic.clone())));
            }
        }
    }
}

pub(super) struct SubscriptionWorld {
    pub(super) fanout: TopicFanout<u64>,
    pub(super) server: SubscriptionServer,
    /// Each client has been told that it is subscribed to these.
    pub(super) told: HashMap<u64, HashSet<(usize, String)>>,
    /// These wait for a confirmation.
    pub(super) waits: HashSet<u64>,
}

impl SubscriptionWorld {
    pub(super) fn new() -> Self {
        let mut fanout = TopicFanout::new(10_000, 1 << 20);
        fanout.connected();
        Self {
            fanout,
            server: SubscriptionServer::default(),
            told: HashMap::new(),
            waits: HashSet::new(),
        }
    }

    pub(super) fn send(&mut self) {
        let requests = self.fanout.take_requests();
        self.server.take(&requests);
    }

    fn confirm(&mut self, client: u64, kind: TopicKind, confirmations: &[TopicConfirmation]) {
        for confirmation in confirmations {
            let topic = confirmation.topic.as_ref().unwrap();
            let topic = String::from_utf8(topic.to_vec()).unwrap();
            let told = self.told.entry(client).or_default();
            told.insert((kind as usize, topic));
            let shard = |(k, _): &&(usize, String)| *k == TopicKind::Shard as usize;
            let shards = told.iter().filter(shard).count();
            let expected = if kind == TopicKind::Shard {
                shards
            } else {
                told.len() - shards
            };
            assert_eq!(confirmation.count, expected);
        }
    }

    pub(super) fn subscribe(&mut self, client: u64, kind: TopicKind, topics: &[String]) {
        if self.waits.contains(&client) {
            return;
        }
        let names = topics.iter().map(String::as_bytes);
        match self.fanout.subscribe(client, &client, kind, names) {
            SubscriptionStart::Confirmed(confirmations) => {
                assert_eq!(confirmations.len(), topics.len());
                self.confirm(client, kind, &confirmations);
            }
            SubscriptionStart::Asked => drop(self.waits.insert(client)),
            SubscriptionStart::TooMany => unreachable!("the bound is far"),
        }
    }

    /// Has a client subscribe to channels; those that can be are confirmed.
    #[cfg(test)]
    pub(super) fn many(&mut self, client: u64, topics: &[String]) {
        self.subscribe(client, TopicKind::Channel, topics);
        self.send();
        while !self.server.replies.is_empty() {
            self.hear();
        }
    }

    /// Has the server let go of everything.
    #[cfg(test)]
    pub(super) fn forget_server(&mut self) {
        self.server = SubscriptionServer::default();
    }

    fn unsubscribe(&mut self, client: u64, kind: TopicKind, topics: Option<&[String]>) {
        if self.waits.contains(&client) {
            return;
        }
        let names = topics.map(|topics| topics.iter().map(String::as_bytes));
        let begun = self.fanout.unsubscribe(client, &client, kind, names);
        // It gets nothing from here on, told or not.
        let told = self.told.entry(client).or_default();
        match topics {
            Some(topics) => {
                for topic in topics {
                    told.remove(&(kind as usize, topic.clone()));
                }
            }
            None => told.retain(|(k, _)| *k != kind as usize),
        }
        match begun {
            SubscriptionStart::Confirmed(confirmations) => {
                assert!(topics.is_none_or(|topics| confirmations.len() == topics.len()));
            }
            SubscriptionStart::Asked => drop(self.waits.insert(client)),
            SubscriptionStart::TooMany => unreachable!("nothing is too much to leave"),
        }
    }

    pub(super) fn leave(&mut self, client: u64) {
        self.fanout.leave(client);
        self.told.remove(&client);
        self.waits.remove(&client);
    }

    /// Lets the server's next reply arrive.
    pub(super) fn hear(&mut self) {
        match self.server.replies.pop_front() {
            None => return,
            Some(Err(error)) => self.fanout.refused(error).unwrap(),
            Some(Ok((verb, topic))) => {
                let (kind, subscribes) = TopicKind::of_verb(verb.as_bytes()).unwrap();
                self.fanout
                    .confirmed(kind, subscribes, Some(topic.as_bytes()))
                    .unwrap();
            }
        }
        for settled in self.fanout.settled() {
            assert!(self.waits.remove(&settled.subscriber));
            match settled.result {
                Ok(_) if !settled.subscribes => {}
                Ok(confirmations) => self.confirm(settled.subscriber, settled.kind, &confirmations),
                Err(error) => assert!(error.starts_with(b"-")),
            }
        }
    }

    pub(super) fn lose(&mut self) {
        self.fanout.lost();
        for settled in self.fanout.settled() {
            assert!(!settled.subscribes && self.waits.remove(&settled.subscriber));
        }
        self.server.replies.clear();
        self.server.subscribed.clear();
        self.fanout.connected();
    }

    /// Checks that those named for messages are those who were told so.
    fn check(&self) {
        let mut named: HashMap<u64, HashSet<(usize, String)>> = HashMap::new();
        for kind in PUBSUB_KINDS {
            for name in self.fanout.topics[kind as usize].keys() {
                for &client in self.fanout.subscribers(kind, name) {
                    let topic = String::from_utf8(name.to_vec()).unwrap();
                    named
                        .entry(client)
                        .or_default()
                        .insert((kind as usize, topic));
                }
            }
        }
        let mut told = self.told.clone();
        told.retain(|_, topics| !topics.is_empty());
        assert_eq!(named, told);
    }

    /// Checks that the server, when all is answered, is subscribed to what somebody needs and nothing else.
    pub(super) fn settle(&mut self) {
        loop {
            self.fanout.ask_again();
            self.send();
            if self.server.replies.is_empty() {
                break;
            }
            self.hear();
        }
        assert!(self.waits.is_empty(), "somebody waits for ever");
        assert!(!self.fanout.is_awaited());
        let needed: HashSet<(String, String)> = self
            .told
            .values()
            .flatten()
            .map(|(kind, topic)| {
                let verb = PUBSUB_KINDS[*kind].verb(true);
                (verb.replace("subscribe", ""), topic.clone())
            })
            .collect();
        assert_eq!(self.server.subscribed, needed);
        assert_eq!(self.fanout.is_empty(), needed.is_empty());
    }
}

#[derive(Debug, Clone)]
pub(super) enum SubscriptionStep {
    Subscribe(u64, usize, Vec<String>),
    Unsubscribe(u64, usize, Option<Vec<String>>),
    Leave(u64),
    Send,
    Hear(usize),
    Lose,
    Forbid(Option<String>),
    Busy(bool),
    AskAgain,
}

/// Lets the clients and the server do what the bytes say. What must hold does, for any bytes.
pub fn check(data: &[u8]) {
    run(data.chunks(4).map(of_bytes));
}

fn of_bytes(bytes: &[u8]) -> SubscriptionStep {
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let (client, kind) = (u64::from(byte(1) % 4), usize::from(byte(2) % 3));
    let topic = |at: u8| char::from(b'a' + at % 4).to_string();
    let topics: Vec<String> = (0..=byte(3) % 3)
        .map(|index| topic((byte(3) >> 2).wrapping_add(index * (byte(3) >> 4))))
        .collect();
    match byte(0) % 26 {
        0..6 => SubscriptionStep::Subscribe(client, kind, topics),
        6..9 => SubscriptionStep::Unsubscribe(client, kind, Some(topics)),
        9 => SubscriptionStep::Unsubscribe(client, kind, None),
        10 => SubscriptionStep::Leave(client),
        11..15 => SubscriptionStep::Send,
        15..21 => SubscriptionStep::Hear(usize::from(byte(1) % 3) + 1),
        21 => SubscriptionStep::Lose,
        22 => SubscriptionStep::Forbid((byte(1) % 2 == 0).then(|| topic(byte(2)))),
        23 => SubscriptionStep::Busy(byte(1) % 2 == 0),
        _ => SubscriptionStep::AskAgain,
    }
}

pub(super) fn run(steps: impl IntoIterator<Item = SubscriptionStep>) {
    let mut world = SubscriptionWorld::new();
    for step in steps {
        match step {
            SubscriptionStep::Subscribe(client, kind, topics) => {
                world.subscribe(client, PUBSUB_KINDS[kind], &topics);
            }
            SubscriptionStep::Unsubscribe(client, kind, topics) => {
                world.unsubscribe(client, PUBSUB_KINDS[kind], topics.as_deref());
            }
            SubscriptionStep::Leave(client) => world.leave(client),
            SubscriptionStep::Send => world.send(),
            SubscriptionStep::Hear(count) => (0..count).for_each(|_| world.hear()),
            // A refusal after a loss takes subscriptions away; that has a test of its own.
            SubscriptionStep::Lose => {
                world.server.forbidden = None;
                world.lose();
            }
            SubscriptionStep::Busy(is_busy) => {
                world.server.is_busy = is_busy;
                world.server.was_busy |= is_busy;
            }
            SubscriptionStep::AskAgain => world.fanout.ask_again(),
            SubscriptionStep::Forbid(topic) => {
                // One that somebody is subscribed to was permitted.
                let is_held = topic.as_ref().is_some_and(|topic| {
                    world.told.values().flatten().any(|(_, held)| held == topic)
                });
                if !is_held && world.waits.is_empty() {
                    world.server.forbidden = topic;
                }
            }
        }
        world.check();
    }
    world.server.forbidden = None;
    world.server.is_busy = false;
    world.settle();
    world.check();
}
