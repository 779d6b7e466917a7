//! How many clients of all workers are subscribed to a channel, for PUBSUB NUMSUB: the server counts connections only.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::Kind;

/// Says what one worker adds to a channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    /// Its connection is subscribed.
    pub is_connected: bool,
    /// So many of its clients are subscribed.
    pub clients: usize,
}

type Parts = HashMap<Box<[u8]>, HashMap<usize, Part>>;

/// Counts the subscribers of every channel and shard channel in all workers. It is touched when subscriptions change, by no
/// message.
#[derive(Debug, Default)]
pub struct Audiences {
    channels: Mutex<Parts>,
    shards: Mutex<Parts>,
}

impl Audiences {
    /// Says what `worker` adds to a channel from now on.
    pub fn set(&self, worker: usize, kind: Kind, channel: &[u8], part: Part) {
        let Some(parts) = self.of_kind(kind) else {
            return;
        };
        let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
        if part == Part::default() {
            if let Some(known) = parts.get_mut(channel) {
                known.remove(&worker);
                if known.is_empty() {
                    parts.remove(channel);
                }
            }
        } else {
            match parts.get_mut(channel) {
                Some(known) => drop(known.insert(worker, part)),
                None => drop(parts.insert(channel.into(), HashMap::from([(worker, part)]))),
            }
        }
    }

    /// Returns by what the server's count of a channel's subscribers is to be corrected.
    pub fn correction(&self, kind: Kind, channel: &[u8]) -> i64 {
        let Some(parts) = self.of_kind(kind) else {
            return 0;
        };
        let parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = parts.get(channel).into_iter().flat_map(HashMap::values);
        known
            .map(|part| part.clients as i64 - i64::from(part.is_connected))
            .sum()
    }

    fn of_kind(&self, kind: Kind) -> Option<&Mutex<Parts>> {
        match kind {
            Kind::Channel => Some(&self.channels),
            Kind::Shard => Some(&self.shards),
            Kind::Pattern => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_taken_off_and_clients_added() {
        let audiences = Audiences::default();
        let part = |is_connected, clients| Part {
            is_connected,
            clients,
        };
        audiences.set(0, Kind::Channel, b"c", part(true, 5));
        audiences.set(1, Kind::Channel, b"c", part(true, 2));
        audiences.set(1, Kind::Shard, b"c", part(true, 1));
        assert_eq!(audiences.correction(Kind::Channel, b"c"), 5);
        assert_eq!(audiences.correction(Kind::Shard, b"c"), 0);
        assert_eq!(audiences.correction(Kind::Channel, b"d"), 0);
        audiences.set(0, Kind::Channel, b"c", part(false, 0));
        audiences.set(1, Kind::Channel, b"c", part(false, 0));
        assert!(audiences.channels.lock().unwrap().is_empty());
    }
}
