//! Knows who of a worker's clients is subscribed to what, behind one connection to the server.
//!
//! A pure state machine: the caller sends the requests it makes, tells it what the server says, and carries messages to
//! those it names.
//! Invariant: the server is asked for a topic once, however many subscribe to it, and to let go of it when the last leaves.
//! Invariant: a subscriber is named for the messages of a topic from its confirmation on until it unsubscribes.

mod asking;
mod audience;
mod confirmed;
mod frame;
mod leaving;
mod login;
mod moving;
mod outcome;
mod pace;
mod pattern;
mod refusal;
mod renewal;
mod rights;
mod suspicion;
mod topic;
mod weight;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;

use audience::AudiencePart;
pub use audience::ChannelAudiences;
pub use confirmed::{ConfirmedSubscriptions, QueuedSubscription, SentNow};
pub use frame::{SubscriptionFrame, TopicMessage, UnexpectedFrame, least_bytes, read};
use outcome::SettledCommand;
pub use outcome::{SubscriptionStart, TopicConfirmation, TopicCounts};
pub use pace::FanoutPace;
pub use rights::{ChannelRights, UserTold};
pub use suspicion::{LossRemedy, LossSuspicion, SubscriptionSide, SuspectPresence};
pub use topic::{PUBSUB_KINDS, SubscriberId, TopicKind};
pub use weight::MessageWeights;

use login::PendingLogin;
use topic::{RecentBytes, SubscribedTopic, TopicPhase};

use crate::memory::ShrinkingTable;
use crate::resp::speak::{OK, encode_request};

/// A name is kept this many times at most.
const COPIES: usize = 4;

/// A subscription counts with this much memory beside its name. A channel of 24 bytes that nobody else has took 500 to 700 bytes in all, by how
/// full the tables were, and one that others have 70.
pub const TOPIC_BYTES: usize = 320;

/// Keeps a request that is at the server, or on its way there.
#[derive(Debug)]
struct PendingRequest<T> {
    number: u64,
    kind: TopicKind,
    what: RequestPurpose,
    topics: Vec<Rc<[u8]>>,
    /// It is for this client's command; `None` where it asks anew for what others are subscribed to or wait for.
    by: Option<SubscriberId>,
    /// Is true once that client has gone.
    is_abandoned: bool,
    /// It counts so much among what nobody wants.
    unwanted_bytes: usize,
    /// This client has unsubscribed and is told when the server has.
    parting: Option<SettledCommand<T>>,
    /// The server has confirmed this many of `topics`.
    confirmed: usize,
}

/// Says what a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestPurpose {
    Subscribe,
    Unsubscribe,
    /// It asks whether the server is there.
    Ping,
    /// It asks whether the server knows respool still.
    Login,
    /// It asks the server to tell when it has done all that it was asked before.
    Mark,
}

/// Keeps a request that is to be made again.
type PutOffRequest = (TopicKind, RequestPurpose, Vec<Rc<[u8]>>);

/// Keeps a client's command that waits for the server.
#[derive(Debug)]
struct PendingCommand<T> {
    handle: T,
    kind: TopicKind,
    topics: Vec<Rc<[u8]>>,
    /// The confirmation of this request makes it whole.
    until: u64,
}

/// Keeps what one client is subscribed to.
#[derive(Debug, Default)]
struct ClientSubscriptions {
    sets: [HashSet<Rc<[u8]>>; 3],
    /// All names in `sets` have this many bytes.
    name_bytes: usize,
}

type TopicMap<T> = HashMap<Rc<[u8]>, SubscribedTopic<T>>;

/// Keeps the subscriptions of one worker's clients; `T` is a client's way out.
#[derive(Debug)]
pub struct TopicFanout<T> {
    topics: [TopicMap<T>; 3],
    subscribers: HashMap<SubscriberId, ClientSubscriptions>,
    commands: HashMap<SubscriberId, PendingCommand<T>>,
    /// The commands of these clients wait for a request; they stand in the order in which they came.
    waiting: BTreeMap<u64, Vec<SubscriberId>>,
    asked: VecDeque<PendingRequest<T>>,
    /// Those that nobody wants take this much memory.
    unwanted_bytes: usize,
    next_number: u64,
    /// These requests are not yet handed over.
    requests: Vec<u8>,
    settled: Vec<SettledCommand<T>>,
    /// The server refused to renew the subscriptions of these.
    unrenewed: Vec<T>,
    /// The server was too busy to let go of something: it may be subscribed to what nobody needs.
    holds_on: bool,
    /// The server was too busy for these requests: they are made again by [`Self::ask_again`].
    put_off: Vec<PutOffRequest>,
    /// These are still to be asked for again on this connection, a request's worth at a time.
    renewals: VecDeque<(TopicKind, Vec<Rc<[u8]>>)>,
    /// The subscribers of these topics have changed, or whether the server has them.
    changed: HashSet<(TopicKind, Rc<[u8]>)>,
    /// One client has no more subscriptions than this.
    most: usize,
    /// The names that one client is subscribed to, and so any of them, have no more bytes than this.
    most_bytes: usize,
    login: PendingLogin,
    /// The server has answered this to [`Self::login`].
    login_answer: Option<Vec<u8>>,
    /// This is the second, and this much has come not long ago.
    second: u64,
    recent: Cell<RecentBytes>,
    /// The server has passed this many marks.
    passed_marks: usize,
    /// There is a connection to send requests on.
    is_connected: bool,
}

impl<T: Clone> TopicFanout<T> {
    /// Begins with nobody subscribed; no client may have more than `most` subscriptions, with names of `most_bytes` together.
    pub fn new(most: usize, most_bytes: usize) -> Self {
        Self {
            topics: Default::default(),
            subscribers: HashMap::new(),
            commands: HashMap::new(),
            waiting: BTreeMap::new(),
            asked: VecDeque::new(),
            unwanted_bytes: 0,
            next_number: 1,
            requests: Vec::new(),
            settled: Vec::new(),
            unrenewed: Vec::new(),
            holds_on: false,
            put_off: Vec::new(),
            renewals: VecDeque::new(),
            changed: HashSet::new(),
            most,
            most_bytes,
            login: PendingLogin::Nothing,
            login_answer: None,
            second: 0,
            recent: Cell::default(),
            passed_marks: 0,
            is_connected: false,
        }
    }

    /// Sets the bounds given to [`TopicFanout::new`]; who is past them stays subscribed.
    pub fn set_bounds(&mut self, most: usize, most_bytes: usize) {
        (self.most, self.most_bytes) = (most, most_bytes);
    }

    /// Tells whether a connection is of no use.
    pub fn is_empty(&self) -> bool {
        self.topics.iter().all(HashMap::is_empty)
    }

    /// Returns how many topics there are.
    pub fn topics(&self) -> usize {
        self.topics.iter().map(HashMap::len).sum()
    }

    /// Returns how many topics of each kind a client is subscribed to.
    pub fn counts(&self, subscriber: SubscriberId) -> TopicCounts {
        let Some(subscriptions) = self.subscribers.get(&subscriber) else {
            return TopicCounts::default();
        };
        let [channels, patterns, shard_channels] = &subscriptions.sets;
        TopicCounts {
            channels: channels.len(),
            patterns: patterns.len(),
            shard_channels: shard_channels.len(),
        }
    }

    /// Returns the bytes of the names that a client is subscribed to.
    fn name_bytes(&self, subscriber: SubscriberId) -> usize {
        self.subscribers
            .get(&subscriber)
            .map_or(0, |subscriptions| subscriptions.name_bytes)
    }

    /// Returns the memory that a client's subscriptions take, those included that the server has not confirmed. Each name is
    /// kept here and among the audiences of the process, and stands in what the server is asked.
    pub fn held_bytes(&self, subscriber: SubscriberId) -> usize {
        let asked = self
            .commands
            .get(&subscriber)
            .map_or(&[][..], |command| &command.topics);
        let asked_bytes: usize = asked.iter().map(|name| name.len()).sum();
        let count = self.counts(subscriber).total() + asked.len();
        COPIES * (self.name_bytes(subscriber) + asked_bytes) + count * TOPIC_BYTES
    }

    /// Returns the ways out of everybody who is subscribed to something.
    pub fn everybody(&self) -> Vec<T> {
        let mut found: HashMap<SubscriberId, &T> = HashMap::new();
        let topics = self.topics.iter().flat_map(HashMap::values);
        for (&id, handle) in topics.flat_map(|topic| topic.subscribers.iter()) {
            found.insert(id, handle);
        }
        found.into_values().cloned().collect()
    }

    /// Tells whether a client may have all of `names` besides what it has.
    pub fn has_room<'a>(
        &self,
        subscriber: SubscriberId,
        names: impl Iterator<Item = &'a [u8]>,
    ) -> bool {
        let (count, bytes) = names.fold((0_usize, 0_usize), |(count, bytes), name| {
            (count + 1, bytes.saturating_add(name.len()))
        });
        self.counts(subscriber).total().saturating_add(count) <= self.most
            && self.name_bytes(subscriber).saturating_add(bytes) <= self.most_bytes
    }

    /// Subscribes a client to `names`. It has no other command under way.
    pub fn subscribe<'a>(
        &mut self,
        subscriber: SubscriberId,
        handle: &T,
        kind: TopicKind,
        names: impl Iterator<Item = &'a [u8]>,
    ) -> SubscriptionStart {
        let names: Vec<&[u8]> = names.collect();
        if !self.has_room(subscriber, names.iter().copied()) {
            return SubscriptionStart::TooMany;
        }
        let (mut named, mut new, mut until) = (Vec::new(), Vec::new(), None);
        for name in names {
            let topic = match self.topics[kind as usize].get_key_value(name) {
                Some((known, topic)) => {
                    if let TopicPhase::Asked(number) = topic.phase {
                        until = until.max(Some(number));
                    }
                    Rc::clone(known)
                }
                None => {
                    let fresh: Rc<[u8]> = name.into();
                    // Named twice in one command, it is asked for once.
                    let asked = SubscribedTopic::new(TopicPhase::Asked(self.next_number));
                    self.topics[kind as usize].insert(Rc::clone(&fresh), asked);
                    until = Some(self.next_number);
                    new.push(Rc::clone(&fresh));
                    fresh
                }
            };
            named.push(topic);
        }
        if !new.is_empty() {
            self.ask(kind, RequestPurpose::Subscribe, new, Some(subscriber));
        }
        let Some(until) = until else {
            return SubscriptionStart::Confirmed(self.join(subscriber, handle, kind, named));
        };
        for name in &named {
            if let Some(topic) = self.topics[kind as usize].get_mut(name) {
                topic.awaited += 1;
            }
        }
        self.waiting.entry(until).or_default().push(subscriber);
        let command = PendingCommand {
            handle: handle.clone(),
            kind,
            topics: named,
            until,
        };
        self.commands.insert(subscriber, command);
        SubscriptionStart::Asked
    }

    /// Returns those whom a message of `topic` goes to.
    #[inline]
    pub fn subscribers(&self, kind: TopicKind, topic: &[u8]) -> impl Iterator<Item = &T> {
        let topic = self.topics[kind as usize].get(topic);
        topic
            .into_iter()
            .flat_map(|topic| topic.subscribers.values())
    }

    /// Notes that the server confirmed a request for `topic`.
    ///
    /// # Errors
    ///
    /// Returns [`UnexpectedFrame`] where it is not what the server was asked next. Nothing can be told on this connection any more.
    pub fn confirmed(
        &mut self,
        kind: TopicKind,
        subscribes: bool,
        topic: Option<&[u8]>,
    ) -> Result<(), UnexpectedFrame> {
        let asked = self.asked.front_mut().ok_or(UnexpectedFrame)?;
        let expected = asked.topics.get(asked.confirmed);
        let what = if subscribes {
            RequestPurpose::Subscribe
        } else {
            RequestPurpose::Unsubscribe
        };
        let fits =
            asked.kind == kind && asked.what == what && expected.map(|topic| &**topic) == topic;
        if !fits {
            return Err(UnexpectedFrame);
        }
        asked.confirmed += 1;
        if asked.confirmed == asked.topics.len() {
            self.done(Ok(()));
        }
        Ok(())
    }

    /// Asks the server whether it is there; whatever it answers, it is.
    pub fn ping(&mut self) {
        self.ask_aside(RequestPurpose::Ping, &encode_request(&["PING"]));
    }

    /// Asks the server to tell when it has done all that it was asked before; see [`Self::take_marks`]. False: there is no
    /// connection.
    pub fn mark(&mut self) -> bool {
        self.ask_aside(RequestPurpose::Mark, &encode_request(&["PING"]));
        self.is_connected
    }

    /// Returns how many marks the server has passed since this was called last.
    pub fn take_marks(&mut self) -> usize {
        std::mem::take(&mut self.passed_marks)
    }

    /// Returns how many patterns there are.
    pub fn patterns(&self) -> usize {
        self.topics[TopicKind::Pattern as usize].len()
    }

    fn ask_aside(&mut self, what: RequestPurpose, request: &[u8]) {
        if self.is_connected {
            self.requests.extend(request);
            self.note_asked(PendingRequest {
                number: self.next_number,
                kind: TopicKind::Channel,
                what,
                topics: Vec::new(),
                by: None,
                is_abandoned: false,
                unwanted_bytes: 0,
                parting: None,
                confirmed: 0,
            });
            self.next_number += 1;
        }
    }

    /// Notes that the server has answered a ping, or taken a login.
    ///
    /// # Errors
    ///
    /// Returns [`UnexpectedFrame`] where the server was asked something else before.
    pub fn ponged(&mut self) -> Result<(), UnexpectedFrame> {
        match self.asked.front() {
            Some(asked)
                if matches!(
                    asked.what,
                    RequestPurpose::Ping | RequestPurpose::Login | RequestPurpose::Mark
                ) =>
            {
                self.passed_marks += usize::from(asked.what == RequestPurpose::Mark);
                if asked.what == RequestPurpose::Login {
                    self.logged_in(OK);
                }
                self.take_answered();
                self.asked.give_back();
                Ok(())
            }
            _ => Err(UnexpectedFrame),
        }
    }

    /// Notes that the server refused a request.
    ///
    /// # Errors
    ///
    /// Returns [`UnexpectedFrame`] where the server was asked for nothing that it could refuse.
    pub fn refused(&mut self, error: &[u8]) -> Result<(), UnexpectedFrame> {
        match self.asked.front() {
            Some(asked) if asked.confirmed == 0 => {
                self.done(Err(error));
                Ok(())
            }
            _ => Err(UnexpectedFrame),
        }
    }

    /// Tells whether somebody waits for the server's confirmation.
    #[cfg(any(test, fuzzing))]
    pub fn is_awaited(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Takes the commands that the server has answered since this was called last.
    pub fn settled(&mut self) -> Vec<SettledCommand<T>> {
        std::mem::take(&mut self.settled)
    }

    /// Takes those whose subscription the server refused when it was asked for again, since this was called last.
    pub fn take_unrenewed(&mut self) -> Vec<T> {
        std::mem::take(&mut self.unrenewed)
    }

    /// Tells whether topics have changed that [`Self::take_changed`] has not told of.
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Takes what this worker adds to topics that have changed; to `most` of them, unless there are few more.
    pub fn take_changed(&mut self, most: usize) -> Vec<(TopicKind, Rc<[u8]>, AudiencePart)> {
        let changed: Vec<_> = if self.changed.len() <= 2 * most {
            std::mem::take(&mut self.changed).into_iter().collect()
        } else {
            let some: Vec<_> = self.changed.iter().take(most).cloned().collect();
            for topic in &some {
                self.changed.remove(topic);
            }
            self.changed.give_back();
            some
        };
        let part = |kind: TopicKind, name: &Rc<[u8]>| {
            let topic = self.topics[kind as usize].get(name);
            topic.map_or(AudiencePart::default(), |topic| AudiencePart {
                is_connected: self.is_connected && topic.phase == TopicPhase::Active,
                clients: topic.subscribers.len(),
            })
        };
        changed
            .into_iter()
            .map(|(kind, name)| {
                let part = part(kind, &name);
                (kind, name, part)
            })
            .collect()
    }

    /// Notes that the oldest request is answered.
    fn done(&mut self, result: Result<(), &[u8]>) {
        let Some(mut asked) = self.take_answered() else {
            return;
        };
        self.asked.give_back();
        self.settled.extend(asked.parting.take());
        self.renew_next();
        match asked.what {
            RequestPurpose::Ping => return,
            RequestPurpose::Mark => {
                self.passed_marks += 1;
                return;
            }
            RequestPurpose::Login => {
                self.logged_in(result.err().unwrap_or(OK));
                return;
            }
            RequestPurpose::Unsubscribe => {
                if result.is_err() {
                    self.holds_on = true;
                    self.put_off.push((asked.kind, asked.what, asked.topics));
                }
                return;
            }
            RequestPurpose::Subscribe => {}
        }
        match result {
            Ok(()) => {
                for name in &asked.topics {
                    if let Some(topic) = self.topics[asked.kind as usize].get_mut(name) {
                        topic.phase = TopicPhase::Active;
                    }
                    self.changed.insert((asked.kind, Rc::clone(name)));
                }
                self.settle(asked.number);
            }
            Err(error) => self.refused_for(&mut asked, error),
        }
        self.give_up_unused(asked.kind, &asked.topics);
    }

    fn is_incomplete(&self, subscriber: SubscriberId) -> bool {
        let Some(command) = self.commands.get(&subscriber) else {
            return false;
        };
        let topics = &self.topics[command.kind as usize];
        command.topics.iter().any(|name| {
            topics
                .get(name)
                .is_some_and(|topic| topic.phase != TopicPhase::Active)
        })
    }

    /// Settles the commands that waited for request `number` and are whole.
    fn settle(&mut self, number: u64) {
        for subscriber in self.waiting.remove(&number).unwrap_or_default() {
            if self.is_incomplete(subscriber) {
                // One of its topics was asked for again meanwhile, behind this request.
                self.wait_anew(subscriber);
                continue;
            }
            let Some(command) = self.commands.remove(&subscriber) else {
                continue;
            };
            self.commands.give_back();
            let PendingCommand {
                handle,
                kind,
                topics,
                ..
            } = command;
            for name in &topics {
                if let Some(topic) = self.topics[kind as usize].get_mut(name) {
                    topic.awaited -= 1;
                }
            }
            let confirmations = self.join(subscriber, &handle, kind, topics);
            self.settled.push(SettledCommand {
                subscriber,
                handle,
                kind,
                subscribes: true,
                result: Ok(confirmations),
            });
        }
    }

    /// Gives the server's error to the commands that `fails` selects.
    fn fail(&mut self, fails: impl Fn(&PendingCommand<T>) -> bool, error: &[u8]) {
        let mut failed: Vec<SubscriberId> = self
            .commands
            .iter()
            .filter(|(_, command)| fails(command))
            .map(|(&subscriber, _)| subscriber)
            .collect();
        failed.sort_unstable();
        for subscriber in failed {
            self.fail_one(subscriber, error);
        }
    }

    fn fail_one(&mut self, subscriber: SubscriberId, error: &[u8]) {
        let Some(command) = self.commands.get(&subscriber) else {
            return;
        };
        let (handle, kind) = (command.handle.clone(), command.kind);
        self.abandon(subscriber);
        self.settled.push(SettledCommand {
            subscriber,
            handle,
            kind,
            subscribes: true,
            result: Err(error.to_vec()),
        });
    }

    fn ask(
        &mut self,
        kind: TopicKind,
        what: RequestPurpose,
        topics: Vec<Rc<[u8]>>,
        by: Option<SubscriberId>,
    ) {
        let number = self.next_number;
        self.next_number += 1;
        if !self.is_connected {
            // The next connection begins with everything there is.
            return;
        }
        let mut words: Vec<&[u8]> = vec![kind.verb(what == RequestPurpose::Subscribe).as_bytes()];
        words.extend(topics.iter().map(|topic| &**topic));
        self.requests.extend(encode_request(&words));
        self.note_asked(PendingRequest {
            number,
            kind,
            what,
            topics,
            by,
            is_abandoned: false,
            unwanted_bytes: 0,
            parting: None,
            confirmed: 0,
        });
    }

    /// Takes a client into topics the server has confirmed.
    fn join(
        &mut self,
        subscriber: SubscriberId,
        handle: &T,
        kind: TopicKind,
        names: Vec<Rc<[u8]>>,
    ) -> Vec<TopicConfirmation> {
        let mut confirmations = Vec::with_capacity(names.len());
        for name in names {
            if let Some(topic) = self.topics[kind as usize].get_mut(&name) {
                topic.subscribers.insert(subscriber, handle.clone());
                self.changed.insert((kind, Rc::clone(&name)));
                let subscriptions = self.subscribers.entry(subscriber).or_default();
                if subscriptions.sets[kind as usize].insert(Rc::clone(&name)) {
                    subscriptions.name_bytes += name.len();
                }
            }
            confirmations.push(TopicConfirmation {
                count: self.count(subscriber, kind),
                topic: Some(name),
            });
        }
        confirmations
    }

    /// Returns what Redis counts in confirmations of `kind`: shard channels apart from the others.
    fn count(&self, subscriber: SubscriberId, kind: TopicKind) -> usize {
        let counts = self.counts(subscriber);
        match kind {
            TopicKind::Channel | TopicKind::Pattern => counts.channels + counts.patterns,
            TopicKind::Shard => counts.shard_channels,
        }
    }
}

#[cfg(any(test, fuzzing))]
pub mod model;
#[cfg(test)]
mod tests;
