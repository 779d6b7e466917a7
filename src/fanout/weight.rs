//! Foresees messages that the server would close a subscriber for, before they are sent.
//!
//! What one command places with a subscriber and is more than `client-output-buffer-limit pubsub` allows (32 MB) ends the
//! subscriber's connection, before it is sent a byte of it. Behind respool that is the connection of all of a worker's
//! subscribers. So those for whom a message is too much are let go of first, each for what it would be sent itself: one
//! copy for its channel, and one for each of its patterns that match.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pattern::may_match;
use super::{RequestPurpose, SubscriberId, TopicFanout, TopicKind};

/// A large message takes this much at least beside its bytes.
const OVERHEAD: usize = 64;

/// Returns what a message of `bytes` takes at the server, whose allocator knows four sizes up to each next power of two.
fn held_at_server(bytes: usize) -> usize {
    let wanted = bytes.saturating_add(OVERHEAD);
    let step = (wanted.next_power_of_two() / 8).max(1);
    wanted.next_multiple_of(step)
}

/// Shows the workers of the process what they have to know of each other's patterns.
#[derive(Debug, Default)]
pub struct MessageWeights {
    patterns: AtomicUsize,
    limit_bytes: AtomicUsize,
}

impl MessageWeights {
    /// Sets what a subscriber is sent by one command at most.
    pub fn set_limit(&self, limit_bytes: usize) {
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
    }

    /// Notes that a worker has so many patterns now, and had so many.
    pub fn change_patterns(&self, had: usize, has: usize) {
        self.patterns.fetch_add(has, Ordering::Relaxed);
        self.patterns.fetch_sub(had, Ordering::Relaxed);
    }

    /// Tells whether a message of `bytes` may be too much for anybody: all patterns of the process match, and are one
    /// client's.
    #[inline]
    pub fn may_overwhelm(&self, bytes: usize) -> bool {
        let copies = self.patterns.load(Ordering::Relaxed).saturating_add(1);
        // What the server's allocator adds is less than a quarter.
        let most = bytes.saturating_add(bytes / 4).saturating_add(OVERHEAD);
        most.saturating_mul(copies) > self.limit_bytes.load(Ordering::Relaxed)
    }
}

/// Names a client that a message is too much for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverwhelmedClient<T> {
    /// It is this client.
    pub subscriber: SubscriberId,
    /// The client is reached by this.
    pub handle: T,
    /// It would get the message by these.
    pub topics: Vec<(TopicKind, Rc<[u8]>)>,
}

impl<T: Clone> TopicFanout<T> {
    /// Returns the clients to whom a message of `bytes` to a channel would bring more than `limit_bytes` at once.
    pub fn overwhelmed(
        &self,
        kind: TopicKind,
        channel: &[u8],
        bytes: usize,
        limit_bytes: usize,
    ) -> Vec<OverwhelmedClient<T>> {
        let each = held_at_server(bytes);
        let patterns = match kind {
            TopicKind::Shard => None,
            TopicKind::Channel | TopicKind::Pattern => {
                Some(&self.topics[TopicKind::Pattern as usize])
            }
        };
        let most = 1 + patterns.map_or(0, HashMap::len);
        if each.saturating_mul(most) <= limit_bytes {
            return Vec::new();
        }
        let own = self.topics[kind as usize].get_key_value(channel);
        let own = own.map(|(name, topic)| (kind, name, topic));
        let matching = patterns.into_iter().flatten();
        let matching = matching.filter(|(pattern, _)| may_match(pattern, channel));
        let matching = matching.map(|(name, topic)| (TopicKind::Pattern, name, topic));
        let mut of_each: HashMap<SubscriberId, OverwhelmedClient<T>> = HashMap::new();
        let reached: Vec<_> = own.into_iter().chain(matching).collect();
        if each.saturating_mul(reached.len()) <= limit_bytes {
            return Vec::new();
        }
        for (kind, name, topic) in reached {
            for (&subscriber, handle) in &topic.subscribers {
                let found = of_each
                    .entry(subscriber)
                    .or_insert_with(|| OverwhelmedClient {
                        subscriber,
                        handle: handle.clone(),
                        topics: Vec::new(),
                    });
                found.topics.push((kind, Rc::clone(name)));
            }
        }
        let mut found: Vec<_> = of_each.into_values().collect();
        found.retain(|client| each.saturating_mul(client.topics.len()) > limit_bytes);
        found
    }

    /// Takes a client that is about to be closed out of `topics`. The server lets go of them, where nobody else needs them,
    /// before it answers the next [`TopicFanout::mark`].
    pub fn take_out(&mut self, subscriber: SubscriberId, topics: &[(TopicKind, Rc<[u8]>)]) {
        for kind in super::PUBSUB_KINDS {
            let of_kind = topics.iter().filter(|(of, _)| *of == kind);
            let names: Vec<Rc<[u8]>> = of_kind.map(|(_, name)| Rc::clone(name)).collect();
            let unused: Vec<Rc<[u8]>> = names
                .into_iter()
                .filter(|name| self.part(subscriber, kind, name))
                .collect();
            if !unused.is_empty() {
                self.ask(kind, RequestPurpose::Unsubscribe, unused, None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MB: usize = 1_000_000;
    const LIMIT: usize = 32 << 20;

    /// Makes clients with these patterns each, and one that has the channel itself.
    fn fanout(patterns: &[&[&str]]) -> TopicFanout<u64> {
        let mut fanout = TopicFanout::new(1000, 1 << 20);
        fanout.connected();
        let mut subscribe = |id: u64, kind: TopicKind, names: &[&str]| {
            let names = names.iter().map(|name| name.as_bytes());
            fanout.subscribe(id, &id, kind, names.clone());
            for name in names {
                if fanout.is_awaited() {
                    fanout.confirmed(kind, true, Some(name)).unwrap();
                }
            }
        };
        subscribe(0, TopicKind::Channel, &["channel"]);
        for (id, patterns) in patterns.iter().enumerate() {
            subscribe(id as u64 + 1, TopicKind::Pattern, patterns);
        }
        fanout
    }

    fn ids(fanout: &TopicFanout<u64>, kind: TopicKind, channel: &str, bytes: usize) -> Vec<u64> {
        let found = fanout.overwhelmed(kind, channel.as_bytes(), bytes, LIMIT);
        let mut ids: Vec<u64> = found.iter().map(|client| client.subscriber).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn who_has_many_patterns_is_told_from_who_has_few() {
        let many: Vec<String> = (0..40)
            .map(|count| format!("c{}", "*".repeat(count + 1)))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mut fanout = fanout(&[&many, &["c*"], &["d*"]]);
        assert_eq!(ids(&fanout, TopicKind::Channel, "channel", MB), [1]);
        assert_eq!(ids(&fanout, TopicKind::Channel, "channel", MB / 2), [0; 0]);
        assert_eq!(ids(&fanout, TopicKind::Channel, "other", MB), [0; 0]);
        assert_eq!(
            ids(&fanout, TopicKind::Channel, "channel", 34 * MB),
            [0, 1, 2]
        );
        assert_eq!(ids(&fanout, TopicKind::Shard, "channel", 34 * MB), [0; 0]);
        // What nobody else needs is let go of, and the next message is for the others.
        fanout.take_requests();
        let [client] = &fanout.overwhelmed(TopicKind::Channel, b"channel", MB, LIMIT)[..] else {
            panic!("there is one");
        };
        fanout.take_out(client.subscriber, &client.topics);
        assert_eq!(fanout.counts(1).total(), 0);
        let requests = super::super::model::words(&fanout.take_requests());
        assert_eq!((requests.len(), requests[0].len()), (1, 40));
        assert_eq!(ids(&fanout, TopicKind::Channel, "channel", MB), [0; 0]);
        assert_eq!(fanout.counts(2).patterns, 1);
    }

    #[test]
    fn what_the_allocator_adds_counts() {
        // 29 MB take 32 MiB and more than the limit, as the server counts.
        assert_eq!(held_at_server(29_500_000), 32 << 20);
        assert!(held_at_server((32 << 20) - 8) > LIMIT);
        assert_eq!(held_at_server(1_000_000), 1 << 20);
        let fanout = fanout(&[]);
        assert_eq!(
            ids(&fanout, TopicKind::Channel, "channel", (32 << 20) - 8),
            [0]
        );
    }

    proptest! {
        #[test]
        fn nobody_is_overwhelmed_whom_the_quick_look_passes(
            bytes in 1usize..(64 << 20),
            patterns in 0usize..60,
        ) {
            let weights = MessageWeights::default();
            weights.set_limit(LIMIT);
            weights.change_patterns(0, patterns);
            let exact = held_at_server(bytes) * (patterns + 1) > LIMIT;
            prop_assert!(weights.may_overwhelm(bytes) || !exact);
        }
    }
}
