//! Asks again: for everything on a new connection, and for what the server was too busy for.

use std::collections::VecDeque;
use std::rc::Rc;

use super::topic::TopicPhase;
use super::{PUBSUB_KINDS, PendingRequest, RequestPurpose, SubscriberId, TopicFanout, TopicKind};
use crate::memory::ShrinkingTable;

/// One request names so many topics at most when respool subscribes anew: replies to one begin to come before the next is
/// read.
const RESUBSCRIBED_AT_ONCE: usize = 1000;

/// The names in such a request have this many bytes at most, unless one name is longer: a server's query buffer has a limit of
/// its own.
const RESUBSCRIBED_BYTES: usize = 256 * 1024;

/// Bounds such requests at the server at once: the next is made when one is answered, so that a worker with many topics does
/// other things meanwhile.
const RENEWED_AT_ONCE: usize = 2;

/// Stands for the request that a command waits for which is still to be asked again.
const PUT_OFF: u64 = u64::MAX;

/// Stands for the request that a command waits for of whose topics none is asked for any more.
const ANSWERED: u64 = 0;

impl<T: Clone> TopicFanout<T> {
    /// Notes that the connection is lost, with what was sent on it. Returns how many were subscribed to something then.
    pub fn lost(&mut self) -> usize {
        self.is_connected = false;
        // The server has let go of everything.
        let is_mark = |asked: &&PendingRequest<T>| asked.what == RequestPurpose::Mark;
        self.passed_marks += self.asked.iter().filter(is_mark).count();
        let partings = self.take_asked().filter_map(|asked| asked.parting);
        self.settled.extend(partings);
        self.requests = Vec::new();
        self.put_off = Vec::new();
        self.renewals = VecDeque::new();
        self.holds_on = false;
        self.forget_login();
        // Whoever subscribes now waits until the server has confirmed it on the next connection.
        for kind in PUBSUB_KINDS {
            for (name, topic) in &mut self.topics[kind as usize] {
                topic.phase = TopicPhase::Asked(PUT_OFF);
                self.changed.insert((kind, Rc::clone(name)));
            }
        }
        self.subscribers.len()
    }

    /// Notes that there is a new connection: everything is asked for again, request by request.
    pub fn connected(&mut self) {
        self.is_connected = true;
        drop(self.take_asked());
        self.requests = Vec::new();
        self.forget_login();
        self.renewals = VecDeque::new();
        for kind in PUBSUB_KINDS {
            let topics = &mut self.topics[kind as usize];
            // Those that were first asked for while there was no connection are told by no number.
            topics
                .values_mut()
                .for_each(|topic| topic.phase = TopicPhase::Asked(PUT_OFF));
            let names: Vec<Rc<[u8]>> = topics.keys().cloned().collect();
            let pieces = pieces(names).into_iter().map(|piece| (kind, piece));
            self.renewals.extend(pieces);
        }
        let waiting = std::mem::take(&mut self.waiting);
        let waiting: Vec<SubscriberId> = waiting.into_values().flatten().collect();
        for subscriber in &waiting {
            if let Some(command) = self.commands.get_mut(subscriber) {
                command.until = PUT_OFF;
            }
        }
        if !waiting.is_empty() {
            self.waiting.insert(PUT_OFF, waiting);
        }
        (0..RENEWED_AT_ONCE).for_each(|_| self.renew_next());
    }

    /// Asks again for the next of what was subscribed to when the connection was lost.
    pub(super) fn renew_next(&mut self) {
        let Some((kind, names)) = self.renewals.pop_front() else {
            return;
        };
        self.renewals.give_back();
        for name in &names {
            if let Some(topic) = self.topics[kind as usize].get_mut(name) {
                topic.phase = TopicPhase::Asked(self.next_number);
            }
        }
        self.ask(kind, RequestPurpose::Subscribe, names, None);
        if self.renewals.is_empty() {
            // Each waits for the last of the requests that its topics are named in.
            self.wait_for_renewed();
        }
    }

    /// Has commands wait for what has just been asked for again. Those of which all has been answered are whole.
    fn wait_for_renewed(&mut self) {
        for subscriber in self.waiting.remove(&PUT_OFF).unwrap_or_default() {
            self.wait_anew(subscriber);
        }
        self.settle(ANSWERED);
    }

    /// Asks again for what the server was too busy for (a script runs, it is loading).
    pub fn ask_again(&mut self) {
        for (kind, what, topics) in std::mem::take(&mut self.put_off) {
            let wanted = |topic: &Rc<[u8]>| self.topics[kind as usize].contains_key(topic);
            let topics: Vec<Rc<[u8]>> = topics
                .into_iter()
                .filter(|topic| wanted(topic) == (what == RequestPurpose::Subscribe))
                .collect();
            if topics.is_empty() {
                continue;
            }
            let number = self.next_number;
            if what == RequestPurpose::Subscribe {
                for name in &topics {
                    if let Some(topic) = self.topics[kind as usize].get_mut(name) {
                        topic.phase = TopicPhase::Asked(number);
                    }
                }
            }
            self.ask(kind, what, topics, None);
        }
        self.wait_for_renewed();
    }

    /// Asks again later for subscriptions that the server cannot renew now, for a reason that passes.
    pub(super) fn put_off(&mut self, kind: TopicKind, names: Vec<Rc<[u8]>>) {
        for name in &names {
            if let Some(topic) = self.topics[kind as usize].get_mut(name) {
                topic.phase = TopicPhase::Asked(PUT_OFF);
            }
        }
        self.put_off.push((kind, RequestPurpose::Subscribe, names));
    }

    /// Has a client's command wait for the last of the requests that its topics wait for now.
    pub(super) fn wait_anew(&mut self, subscriber: SubscriberId) {
        let Some(command) = self.commands.get_mut(&subscriber) else {
            return;
        };
        let topics = &self.topics[command.kind as usize];
        let asked = command.topics.iter().filter_map(|name| topics.get(name));
        let number = asked.filter_map(|topic| match topic.phase {
            TopicPhase::Asked(number) => Some(number),
            TopicPhase::Active => None,
        });
        command.until = number.max().unwrap_or(ANSWERED);
        self.waiting
            .entry(command.until)
            .or_default()
            .push(subscriber);
    }
}

/// Cuts names into pieces that each fit a request.
fn pieces(names: Vec<Rc<[u8]>>) -> Vec<Vec<Rc<[u8]>>> {
    let mut pieces: Vec<Vec<Rc<[u8]>>> = Vec::new();
    let mut bytes = 0;
    for name in names {
        let fits = pieces.last().is_some_and(|last| {
            last.len() < RESUBSCRIBED_AT_ONCE && bytes + name.len() <= RESUBSCRIBED_BYTES
        });
        bytes = if fits { bytes + name.len() } else { name.len() };
        match pieces.last_mut() {
            Some(last) if fits => last.push(name),
            _ => pieces.push(vec![name]),
        }
    }
    pieces
}
