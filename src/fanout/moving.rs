//! Moves subscribers from one connection of a worker to another.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use super::suspicion::LossSuspect;
use super::topic::{SubscribedTopic, TopicPhase};
use super::{
    ClientSubscriptions, PUBSUB_KINDS, RequestPurpose, SubscriberId, TopicFanout, TopicKind,
};

/// A client with this many patterns may well be sent a message more than once.
const MANY_PATTERNS: usize = 8;

/// Keeps a subscriber that has been taken out, with all that it is subscribed to.
#[derive(Debug)]
pub struct MovedSubscriber<T> {
    /// It is reached by this.
    pub handle: T,
    topics: Vec<(TopicKind, Rc<[u8]>)>,
}

/// A topic may be what the server held too much of if this number of bytes came for it not long ago.
const HEAVY_BYTES: u64 = 1 << 20;

impl<T: Clone> TopicFanout<T> {
    /// Says what second it is.
    pub fn set_second(&mut self, second: u64) {
        self.second = second;
    }

    /// Notes that a message of so many bytes has come for a topic.
    pub fn heard(&self, kind: TopicKind, topic: &[u8], bytes: usize) {
        if let Some(topic) = self.topics[kind as usize].get(topic) {
            topic.is_heard.set(true);
            topic.recent.set(topic.recent.get().and(bytes, self.second));
            self.recent.set(self.recent.get().and(bytes, self.second));
        }
    }

    /// Tells whether much of what came not long ago was a topic's.
    fn is_heavy(&self, topic: &SubscribedTopic<T>) -> bool {
        let bytes = topic.recent.get().left(self.second);
        bytes >= HEAVY_BYTES && bytes >= self.recent.get().left(self.second) / 4
    }

    /// Returns everybody who is subscribed to something, as one of those who may have cost the others their connection.
    pub fn candidates(&self) -> Vec<LossSuspect> {
        let candidate = |(&subscriber, subscriptions): (&SubscriberId, &ClientSubscriptions)| {
            let (mut is_heard, mut is_heavy, mut kin) = (false, false, 0_u64);
            for kind in PUBSUB_KINDS {
                for name in &subscriptions.sets[kind as usize] {
                    let topic = self.topics[kind as usize].get(name);
                    is_heard |= topic.is_some_and(|topic| topic.is_heard.get());
                    is_heavy |= topic.is_some_and(|topic| self.is_heavy(topic));
                    let mut hasher = DefaultHasher::new();
                    (kind, name).hash(&mut hasher);
                    // Whatever their order.
                    kin = kin.wrapping_add(hasher.finish());
                }
            }
            let patterns = subscriptions.sets[TopicKind::Pattern as usize].len();
            LossSuspect {
                subscriber,
                is_likely: !is_heard || is_heavy || patterns >= MANY_PATTERNS,
                kin,
            }
        };
        self.subscribers.iter().map(candidate).collect()
    }

    /// Takes a subscriber out with all that it is subscribed to; `None` where there is none, or a command of its is under
    /// way.
    pub fn take(&mut self, subscriber: SubscriberId) -> Option<MovedSubscriber<T>> {
        let is_parting = |parting: &super::SettledCommand<T>| parting.subscriber == subscriber;
        let mut partings = self.asked.iter().filter_map(|asked| asked.parting.as_ref());
        if self.commands.contains_key(&subscriber) || partings.any(is_parting) {
            return None;
        }
        let topics: Vec<(TopicKind, Rc<[u8]>)> = PUBSUB_KINDS
            .into_iter()
            .flat_map(|kind| {
                let names = self.some_topics(subscriber, kind, usize::MAX);
                names.into_iter().map(move |name| (kind, name))
            })
            .collect();
        let handle = self.handle(subscriber)?;
        self.leave_some(subscriber, usize::MAX);
        Some(MovedSubscriber { handle, topics })
    }

    /// Returns the way out of a subscriber.
    pub fn handle(&self, subscriber: SubscriberId) -> Option<T> {
        let subscriptions = self.subscribers.get(&subscriber)?;
        PUBSUB_KINDS.into_iter().find_map(|kind| {
            let name = subscriptions.sets[kind as usize].iter().next()?;
            let topic = self.topics[kind as usize].get(name)?;
            topic.subscribers.get(&subscriber).cloned()
        })
    }

    /// Takes in a subscriber that was taken out elsewhere; it is told nothing.
    pub fn adopt(&mut self, subscriber: SubscriberId, taken: MovedSubscriber<T>) {
        for kind in PUBSUB_KINDS {
            let of_kind = taken.topics.iter().filter(|(of, _)| *of == kind);
            let mut new = Vec::new();
            for (_, name) in of_kind {
                let next = self.next_number;
                let topics = &mut self.topics[kind as usize];
                let topic = topics.entry(Rc::clone(name)).or_insert_with(|| {
                    new.push(Rc::clone(name));
                    SubscribedTopic::new(TopicPhase::Asked(next))
                });
                topic.subscribers.insert(subscriber, taken.handle.clone());
                let subscriptions = self.subscribers.entry(subscriber).or_default();
                if subscriptions.sets[kind as usize].insert(Rc::clone(name)) {
                    subscriptions.name_bytes += name.len();
                }
                self.changed.insert((kind, Rc::clone(name)));
            }
            if !new.is_empty() {
                self.ask(kind, RequestPurpose::Subscribe, new, None);
            }
        }
    }

    /// Returns everybody who is subscribed to something.
    pub fn ids(&self) -> Vec<SubscriberId> {
        self.subscribers.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_elsewhere_is_subscribed_there_and_no_longer_here() {
        let mut here: TopicFanout<u64> = TopicFanout::new(100, 1000);
        let mut there: TopicFanout<u64> = TopicFanout::new(100, 1000);
        here.connected();
        there.connected();
        let one = |name: &'static str| std::iter::once(name.as_bytes());
        for (id, name) in [(1, "a"), (2, "a"), (1, "b")] {
            here.subscribe(id, &id, TopicKind::Channel, one(name));
            if here.is_awaited() {
                here.confirmed(TopicKind::Channel, true, Some(name.as_bytes()))
                    .unwrap();
            }
        }
        here.heard(TopicKind::Channel, b"a", 10);
        let mut likely: Vec<(u64, bool)> = here
            .candidates()
            .iter()
            .map(|one| (one.subscriber, one.is_likely))
            .collect();
        likely.sort_unstable();
        assert_eq!(likely, [(1, false), (2, false)], "a message has come");
        let kin: Vec<u64> = here.candidates().iter().map(|one| one.kin).collect();
        assert_ne!(kin[0], kin[1]);
        here.lost();
        let taken = here.take(1).expect("it is there");
        there.adopt(1, taken);
        assert_eq!((here.counts(1).total(), there.counts(1).channels), (0, 2));
        assert!(there.candidates()[0].is_likely, "nothing has come here yet");
        assert_eq!(there.subscribers(TopicKind::Channel, b"b").count(), 1);
        // Much of what came lately is likely, what came long ago is not.
        there.heard(TopicKind::Channel, b"b", 2 << 20);
        assert!(there.candidates()[0].is_likely);
        there.set_second(3);
        assert!(!there.candidates()[0].is_likely);
        assert_eq!(here.ids(), [2]);
        let asked = super::super::model::words(&there.take_requests());
        assert_eq!((asked.len(), asked[0].len()), (1, 3));
        // A command that is under way is answered where it was sent.
        here.connected();
        here.subscribe(2, &2, TopicKind::Channel, one("c"));
        assert!(here.take(2).is_none());
    }
}
