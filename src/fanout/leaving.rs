//! Unsubscribes clients, and gives up topics that nobody needs any more.

use std::collections::HashSet;
use std::rc::Rc;

use super::topic::TopicPhase;
use super::{
    PUBSUB_KINDS, RequestPurpose, SettledCommand, SubscriberId, SubscriptionStart,
    TopicConfirmation, TopicFanout, TopicKind,
};
use crate::memory::ShrinkingTable;

impl<T: Clone> TopicFanout<T> {
    /// Unsubscribes a client from `names`, or (`None`) from everything of a kind: it gets no message of them from here on,
    /// and is told so when the server, too, has let go of what nobody else needs. It has no other command under way.
    pub fn unsubscribe<'a>(
        &mut self,
        subscriber: SubscriberId,
        handle: &T,
        kind: TopicKind,
        names: Option<impl Iterator<Item = &'a [u8]>>,
    ) -> SubscriptionStart {
        let names: Vec<Rc<[u8]>> = match names {
            Some(names) => names.map(Rc::from).collect(),
            None => self.some_topics(subscriber, kind, usize::MAX),
        };
        let mut given_up = Vec::new();
        let mut confirmations: Vec<TopicConfirmation> = Vec::with_capacity(names.len().max(1));
        for name in names {
            if self.part(subscriber, kind, &name) {
                given_up.push(Rc::clone(&name));
            }
            confirmations.push(TopicConfirmation {
                count: self.count(subscriber, kind),
                topic: Some(name),
            });
        }
        if confirmations.is_empty() {
            confirmations.push(TopicConfirmation {
                topic: None,
                count: self.count(subscriber, kind),
            });
        }
        if given_up.is_empty() || !self.is_connected {
            return SubscriptionStart::Confirmed(confirmations);
        }
        self.ask(kind, RequestPurpose::Unsubscribe, given_up, None);
        if let Some(asked) = self.asked.back_mut() {
            asked.parting = Some(SettledCommand {
                subscriber,
                handle: handle.clone(),
                kind,
                subscribes: false,
                result: Ok(confirmations),
            });
            asked.recount(&mut self.unwanted_bytes);
        }
        SubscriptionStart::Asked
    }

    /// Forgets a client that is gone, with its subscriptions and the command it may have under way.
    #[cfg(any(test, fuzzing))]
    pub fn leave(&mut self, subscriber: SubscriberId) {
        self.abandon(subscriber);
        self.leave_some(subscriber, usize::MAX);
    }

    /// Takes a client, whose command is not waited for any more, out of at most `most` of its topics. True: it is in others
    /// still.
    pub fn leave_some(&mut self, subscriber: SubscriberId, most: usize) -> bool {
        let mut left = most;
        for kind in PUBSUB_KINDS {
            let names = self.some_topics(subscriber, kind, left);
            left -= names.len();
            let given_up: Vec<Rc<[u8]>> = names
                .into_iter()
                .filter(|name| self.part(subscriber, kind, name))
                .collect();
            if !given_up.is_empty() {
                self.ask(kind, RequestPurpose::Unsubscribe, given_up, None);
            }
        }
        self.subscribers.contains_key(&subscriber)
    }

    /// Returns at most `most` of the topics of a kind that a client is subscribed to.
    pub fn some_topics(
        &self,
        subscriber: SubscriberId,
        kind: TopicKind,
        most: usize,
    ) -> Vec<Rc<[u8]>> {
        let subscriptions = self.subscribers.get(&subscriber).into_iter();
        subscriptions
            .flat_map(|subscriptions| &subscriptions.sets[kind as usize])
            .take(most)
            .cloned()
            .collect()
    }

    /// Tells whether a client is subscribed to this.
    pub fn is_subscribed(&self, subscriber: SubscriberId, kind: TopicKind, topic: &[u8]) -> bool {
        let subscriptions = self.subscribers.get(&subscriber);
        subscriptions.is_some_and(|those| those.sets[kind as usize].contains(topic))
    }

    /// Tells whether a client is subscribed to something that is so.
    pub fn has_topic(
        &self,
        subscriber: SubscriberId,
        is_so: impl Fn(TopicKind, &[u8]) -> bool,
    ) -> bool {
        let subscriptions = self.subscribers.get(&subscriber).into_iter();
        subscriptions
            .flat_map(|subscriptions| PUBSUB_KINDS.into_iter().zip(&subscriptions.sets))
            .any(|(kind, names)| names.iter().any(|name| is_so(kind, name)))
    }

    /// Waits for a client's command no longer. False: it had none.
    pub fn abandon(&mut self, subscriber: SubscriberId) -> bool {
        let is_its = |parting: &mut SettledCommand<T>| parting.subscriber == subscriber;
        for asked in &mut self.asked {
            if asked.parting.take_if(is_its).is_some() {
                asked.recount(&mut self.unwanted_bytes);
            }
        }
        let Some(command) = self.commands.remove(&subscriber) else {
            return false;
        };
        self.commands.give_back();
        if let Some(waiting) = self.waiting.get_mut(&command.until) {
            waiting.retain(|&other| other != subscriber);
            if waiting.is_empty() {
                self.waiting.remove(&command.until);
            }
        }
        // What it asked for may be refused later: nobody is left to be told.
        for asked in &mut self.asked {
            if asked.by == Some(subscriber) {
                asked.by = None;
                asked.is_abandoned = true;
                asked.recount(&mut self.unwanted_bytes);
            }
        }
        self.unawait(command.kind, &command.topics);
        true
    }

    /// Takes a client out of a topic. True: the topic is of no use to anybody any more, and has been dropped.
    pub(super) fn part(
        &mut self,
        subscriber: SubscriberId,
        kind: TopicKind,
        name: &Rc<[u8]>,
    ) -> bool {
        if !self.forget(subscriber, kind, name) {
            return false;
        }
        let Some(topic) = self.topics[kind as usize].get_mut(name) else {
            return false;
        };
        topic.subscribers.swap_remove(&subscriber);
        topic.subscribers.give_back();
        self.drop_unused(kind, name)
    }

    /// Takes a topic out of what a client is subscribed to. False: it was not.
    pub(super) fn forget(
        &mut self,
        subscriber: SubscriberId,
        kind: TopicKind,
        name: &Rc<[u8]>,
    ) -> bool {
        let Some(subscriptions) = self.subscribers.get_mut(&subscriber) else {
            return false;
        };
        let names = &mut subscriptions.sets[kind as usize];
        let was_in = names.remove(name);
        if was_in {
            names.give_back();
            subscriptions.name_bytes -= name.len();
        }
        self.changed.insert((kind, Rc::clone(name)));
        if subscriptions.sets.iter().all(HashSet::is_empty) {
            self.subscribers.remove(&subscriber);
            self.subscribers.give_back();
        }
        was_in
    }

    /// Drops a topic nobody needs. One that is still asked for is looked at again when the server has answered.
    pub(super) fn drop_unused(&mut self, kind: TopicKind, name: &Rc<[u8]>) -> bool {
        let topics = &mut self.topics[kind as usize];
        let unused = topics.get(name).is_some_and(|topic| {
            topic.subscribers.is_empty()
                && topic.awaited == 0
                && (topic.phase == TopicPhase::Active || !self.is_connected)
        });
        if unused {
            topics.remove(name);
            topics.give_back();
            self.changed.insert((kind, Rc::clone(name)));
        }
        unused
    }

    pub(super) fn give_up_unused(&mut self, kind: TopicKind, names: &[Rc<[u8]>]) {
        let unused: Vec<Rc<[u8]>> = names
            .iter()
            .filter(|name| self.drop_unused(kind, name))
            .cloned()
            .collect();
        if !unused.is_empty() {
            self.ask(kind, RequestPurpose::Unsubscribe, unused, None);
        }
    }

    pub(super) fn unawait(&mut self, kind: TopicKind, names: &[Rc<[u8]>]) {
        for name in names {
            if let Some(topic) = self.topics[kind as usize].get_mut(name) {
                topic.awaited -= 1;
            }
        }
        self.give_up_unused(kind, names);
    }
}
