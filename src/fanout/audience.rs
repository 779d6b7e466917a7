//! Counts how many clients of all workers are subscribed to a channel, for PUBSUB NUMSUB: the server counts connections only.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::TopicKind;
use crate::memory::ShrinkingTable;

/// Says what one worker adds to a channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AudiencePart {
    /// Its connection is subscribed.
    pub is_connected: bool,
    /// This number of its clients are subscribed.
    pub clients: usize,
}

/// Says who adds what to each channel; mostly that is one worker, or a few.
type PartsByTopic = HashMap<Box<[u8]>, Vec<(usize, AudiencePart)>>;

/// Counts the subscribers of every channel and shard channel in all workers. It is touched when subscriptions change, by no
/// message.
#[derive(Debug, Default)]
pub struct ChannelAudiences {
    channels: Mutex<PartsByTopic>,
    shards: Mutex<PartsByTopic>,
}

impl ChannelAudiences {
    /// Says what `worker` adds to a channel from now on.
    pub fn set(&self, worker: usize, kind: TopicKind, channel: &[u8], part: AudiencePart) {
        let Some(parts) = self.of_kind(kind) else {
            return;
        };
        let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
        if part == AudiencePart::default() {
            if let Some(known) = parts.get_mut(channel) {
                known.retain(|(other, _)| *other != worker);
                if known.is_empty() {
                    parts.remove(channel);
                    parts.give_back();
                }
            }
        } else {
            match parts.get_mut(channel) {
                Some(known) => match known.iter_mut().find(|(other, _)| *other == worker) {
                    Some((_, old)) => *old = part,
                    None => known.push((worker, part)),
                },
                None => drop(parts.insert(channel.into(), vec![(worker, part)])),
            }
        }
    }

    /// Returns by what the server's count of a channel's subscribers is to be corrected.
    pub fn correction(&self, kind: TopicKind, channel: &[u8]) -> i64 {
        let Some(parts) = self.of_kind(kind) else {
            return 0;
        };
        let parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = parts.get(channel).into_iter().flatten();
        known
            .map(|(_, part)| part.clients as i64 - i64::from(part.is_connected))
            .sum()
    }

    fn of_kind(&self, kind: TopicKind) -> Option<&Mutex<PartsByTopic>> {
        match kind {
            TopicKind::Channel => Some(&self.channels),
            TopicKind::Shard => Some(&self.shards),
            TopicKind::Pattern => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_taken_off_and_clients_added() {
        let audiences = ChannelAudiences::default();
        let part = |is_connected, clients| AudiencePart {
            is_connected,
            clients,
        };
        audiences.set(0, TopicKind::Channel, b"c", part(true, 5));
        audiences.set(1, TopicKind::Channel, b"c", part(true, 2));
        audiences.set(1, TopicKind::Shard, b"c", part(true, 1));
        assert_eq!(audiences.correction(TopicKind::Channel, b"c"), 5);
        assert_eq!(audiences.correction(TopicKind::Shard, b"c"), 0);
        assert_eq!(audiences.correction(TopicKind::Channel, b"d"), 0);
        audiences.set(0, TopicKind::Channel, b"c", part(false, 0));
        audiences.set(1, TopicKind::Channel, b"c", part(false, 0));
        assert!(audiences.channels.lock().unwrap().is_empty());
    }

    #[test]
    fn the_table_shrinks_when_most_channels_have_nobody_left() {
        let audiences = ChannelAudiences::default();
        let name = |number: u32| number.to_be_bytes();
        let set = |number, clients| {
            let part = AudiencePart {
                is_connected: clients > 0,
                clients,
            };
            audiences.set(0, TopicKind::Channel, &name(number), part);
        };
        (0..10_000).for_each(|number| set(number, 1));
        (10..10_000).for_each(|number| set(number, 0));
        assert!(audiences.channels.lock().unwrap().capacity() < 1000);
        assert_eq!(audiences.correction(TopicKind::Channel, &name(3)), 0);
    }
}
