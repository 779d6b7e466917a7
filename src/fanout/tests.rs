//! The machine against a model: a server that answers in order whenever it likes, and clients that come and go.

use super::*;
use proptest::prelude::*;

fn words(requests: &[u8]) -> Vec<Vec<String>> {
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

/// A server of its own kind: what it was told, in order, and what it is subscribed to.
#[derive(Default)]
struct Server {
    /// Confirmations (verb, topic) and refusals on their way.
    replies: VecDeque<Result<(String, String), &'static [u8]>>,
    /// It answers everything by an error that passes.
    is_busy: bool,
    was_busy: bool,
    subscribed: HashSet<(String, String)>,
    /// A topic it refuses.
    forbidden: Option<String>,
}

impl Server {
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

struct World {
    fanout: Fanout<u64>,
    server: Server,
    /// What each client has been told it is subscribed to.
    told: HashMap<u64, HashSet<(usize, String)>>,
    /// Who waits for a confirmation.
    waits: HashSet<u64>,
}

impl World {
    fn new() -> Self {
        let mut fanout = Fanout::new(1000, 1 << 20);
        fanout.connected();
        Self {
            fanout,
            server: Server::default(),
            told: HashMap::new(),
            waits: HashSet::new(),
        }
    }

    fn send(&mut self) {
        let requests = self.fanout.take_requests();
        self.server.take(&requests);
    }

    fn confirm(&mut self, client: u64, kind: Kind, confirmations: &[Confirmation]) {
        for confirmation in confirmations {
            let topic = confirmation.topic.as_ref().unwrap();
            let topic = String::from_utf8(topic.to_vec()).unwrap();
            let told = self.told.entry(client).or_default();
            told.insert((kind as usize, topic));
            let shard = |(k, _): &&(usize, String)| *k == Kind::Shard as usize;
            let shards = told.iter().filter(shard).count();
            let expected = if kind == Kind::Shard {
                shards
            } else {
                told.len() - shards
            };
            assert_eq!(confirmation.count, expected);
        }
    }

    fn subscribe(&mut self, client: u64, kind: Kind, topics: &[String]) {
        if self.waits.contains(&client) {
            return;
        }
        let names = topics.iter().map(String::as_bytes);
        match self.fanout.subscribe(client, &client, kind, names) {
            Begun::Confirmed(confirmations) => {
                assert_eq!(confirmations.len(), topics.len());
                self.confirm(client, kind, &confirmations);
            }
            Begun::Asked => drop(self.waits.insert(client)),
            Begun::TooMany => unreachable!("the bound is far"),
        }
    }

    fn unsubscribe(&mut self, client: u64, kind: Kind, topics: Option<&[String]>) {
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
            Begun::Confirmed(confirmations) => {
                assert!(topics.is_none_or(|topics| confirmations.len() == topics.len()));
            }
            Begun::Asked => drop(self.waits.insert(client)),
            Begun::TooMany => unreachable!("nothing is too much to leave"),
        }
    }

    fn leave(&mut self, client: u64) {
        self.fanout.leave(client);
        self.told.remove(&client);
        self.waits.remove(&client);
    }

    /// The server's next reply arrives.
    fn hear(&mut self) {
        match self.server.replies.pop_front() {
            None => return,
            Some(Err(error)) => self.fanout.refused(error).unwrap(),
            Some(Ok((verb, topic))) => {
                let (kind, subscribes) = Kind::of_verb(verb.as_bytes()).unwrap();
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

    fn lose(&mut self) {
        self.fanout.lost();
        for settled in self.fanout.settled() {
            assert!(!settled.subscribes && self.waits.remove(&settled.subscriber));
        }
        self.server.replies.clear();
        self.server.subscribed.clear();
        self.fanout.connected();
    }

    /// Who is named for messages is who was told so.
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

    /// When all is answered the server is subscribed to what somebody needs and nothing else.
    fn settle(&mut self) {
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
enum Step {
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

fn topic() -> impl Strategy<Value = String> {
    "[abcd]"
}

fn step() -> impl Strategy<Value = Step> {
    let topics = || prop::collection::vec(topic(), 1..4);
    prop_oneof![
        6 => (0..4u64, 0..3usize, topics()).prop_map(|(c, k, t)| Step::Subscribe(c, k, t)),
        3 => (0..4u64, 0..3usize, topics()).prop_map(|(c, k, t)| Step::Unsubscribe(c, k, Some(t))),
        1 => (0..4u64, 0..3usize).prop_map(|(c, k)| Step::Unsubscribe(c, k, None)),
        1 => (0..4u64).prop_map(Step::Leave),
        4 => Just(Step::Send),
        6 => (1..4usize).prop_map(Step::Hear),
        1 => Just(Step::Lose),
        1 => prop::option::of(topic()).prop_map(Step::Forbid),
        1 => any::<bool>().prop_map(Step::Busy),
        2 => Just(Step::AskAgain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn subscribers_are_who_was_told_so(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Subscribe(client, kind, topics) => {
                    world.subscribe(client, PUBSUB_KINDS[kind], &topics);
                }
                Step::Unsubscribe(client, kind, topics) => {
                    world.unsubscribe(client, PUBSUB_KINDS[kind], topics.as_deref());
                }
                Step::Leave(client) => world.leave(client),
                Step::Send => world.send(),
                Step::Hear(count) => (0..count).for_each(|_| world.hear()),
                // A refusal after a loss takes subscriptions away; that has a test of its own.
                Step::Lose => {
                    world.server.forbidden = None;
                    world.lose();
                }
                Step::Busy(is_busy) => {
                    world.server.is_busy = is_busy;
                    world.server.was_busy |= is_busy;
                }
                Step::AskAgain => world.fanout.ask_again(),
                Step::Forbid(topic) => {
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
}

fn one(name: &str) -> impl Iterator<Item = &[u8]> {
    std::iter::once(name.as_bytes())
}

#[test]
fn a_subscription_made_after_a_loss_waits_for_the_server() {
    let mut world = World::new();
    world.subscribe(1, Kind::Channel, &["a".into()]);
    world.settle();
    world.fanout.lost();
    assert_eq!(
        world.fanout.subscribe(2, &2, Kind::Channel, one("a")),
        Begun::Asked
    );
}

#[test]
fn a_name_is_no_longer_than_its_client_may_hold() {
    let mut fanout = Fanout::new(10, 5);
    fanout.connected();
    assert_eq!(
        fanout.subscribe(1, &1, Kind::Channel, one("abcdef")),
        Begun::TooMany
    );
    fanout.subscribe(1, &1, Kind::Channel, one("abc"));
    fanout.confirmed(Kind::Channel, true, Some(b"abc")).unwrap();
    assert_eq!(
        fanout.subscribe(1, &1, Kind::Channel, one("def")),
        Begun::TooMany
    );
}

#[test]
fn whatever_the_server_answers_to_a_ping_it_is_there() {
    let mut fanout: Fanout<u64> = Fanout::new(2, 100);
    fanout.connected();
    fanout.ping();
    fanout.refused(b"-BUSY\r\n").unwrap();
    fanout.ping();
    fanout.ponged().unwrap();
    assert!(fanout.ponged().is_err());
}

#[test]
fn a_second_subscriber_costs_the_server_nothing() {
    let mut world = World::new();
    world.subscribe(1, Kind::Channel, &["a".into()]);
    world.settle();
    world.subscribe(2, Kind::Channel, &["a".into()]);
    assert!(world.fanout.take_requests().is_empty());
    assert_eq!(world.fanout.subscribers(Kind::Channel, b"a").count(), 2);
    world.leave(1);
    assert!(world.fanout.take_requests().is_empty());
    world.leave(2);
    assert_eq!(words(&world.fanout.take_requests()), [["unsubscribe", "a"]]);
}

#[test]
fn everything_is_asked_for_again_after_a_loss() {
    let mut world = World::new();
    world.subscribe(1, Kind::Channel, &["a".into()]);
    world.settle();
    world.subscribe(2, Kind::Pattern, &["b*".into(), "c*".into()]);
    world.lose();
    let mut asked = words(&world.fanout.take_requests());
    asked.iter_mut().for_each(|request| request[1..].sort());
    assert_eq!(
        asked,
        [vec!["subscribe", "a"], vec!["psubscribe", "b*", "c*"]]
    );
}

#[test]
fn what_is_refused_after_a_loss_is_subscribed_to_no_more() {
    let mut fanout = Fanout::new(10, 100);
    fanout.connected();
    assert_eq!(
        fanout.subscribe(1, &1, Kind::Channel, one("a")),
        Begun::Asked
    );
    fanout.confirmed(Kind::Channel, true, Some(b"a")).unwrap();
    assert_eq!(fanout.counts(1).channels, 1);
    fanout.lost();
    fanout.connected();
    fanout.refused(b"-NOPERM\r\n").unwrap();
    assert_eq!(fanout.counts(1).total(), 0);
    assert_eq!(fanout.take_bereft(), [1]);
    assert!(fanout.is_empty());
}

#[test]
fn a_refusal_hits_only_the_client_that_named_what_is_forbidden() {
    let mut world = World::new();
    world.server.forbidden = Some("b".into());
    world.subscribe(1, Kind::Channel, &["a".into(), "b".into()]);
    world.subscribe(2, Kind::Channel, &["a".into()]);
    world.send();
    world.hear();
    assert_eq!(world.waits, HashSet::from([2]));
    world.settle();
    assert_eq!(world.told[&2].len(), 1);
}

#[test]
fn a_client_has_no_more_subscriptions_than_it_may() {
    let mut fanout = Fanout::new(2, 100);
    fanout.connected();
    let three = ["a", "b", "c"];
    let all = three.iter().map(|name| name.as_bytes());
    assert_eq!(fanout.subscribe(1, &1, Kind::Channel, all), Begun::TooMany);
    assert!(fanout.is_empty() && fanout.take_requests().is_empty());
    assert_eq!(
        fanout.subscribe(1, &1, Kind::Pattern, one("a")),
        Begun::Asked
    );
}

#[test]
fn a_confirmation_nobody_asked_for_ends_the_connection() {
    let mut fanout: Fanout<u64> = Fanout::new(2, 100);
    fanout.connected();
    assert!(fanout.confirmed(Kind::Channel, true, Some(b"a")).is_err());
    assert!(fanout.refused(b"-ERR\r\n").is_err());
}

#[test]
fn unsubscribing_from_nothing_is_confirmed_once() {
    let mut fanout: Fanout<u64> = Fanout::new(2, 100);
    let nothing = None::<std::iter::Empty<&[u8]>>;
    assert_eq!(
        fanout.unsubscribe(1, &1, Kind::Channel, nothing),
        Begun::Confirmed(vec![Confirmation {
            topic: None,
            count: 0
        }])
    );
}
