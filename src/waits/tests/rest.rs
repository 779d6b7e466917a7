//! What must hold of the model's world at rest and in the end.

use std::collections::{BTreeMap, BTreeSet};

use super::server::ModelValue;
use super::world::{ModelClient, WaitWorld};
use crate::waits::{CallConnectionId, TryFailure, TryId};

impl WaitWorld {
    /// Lets everything go on until nothing does, for so long.
    pub(super) fn calm(&mut self, micros: u64) {
        let until = self.now + micros;
        loop {
            let mut idle = 0;
            while idle < 50 && self.go_on() {
                // Borrows that wait on are under way for ever.
                let others = self.tries.len() + self.returns.len() + self.unblocking.len();
                let wires = self.wires.iter().any(|(id, wire)| {
                    !wire.to_server.is_empty() || !self.server.connections[id].replies.is_empty()
                });
                idle = if others > 0 || wires { 0 } else { idle + 1 };
            }
            match self.waits.next_due() {
                Some(due) if due <= until => self.pass(due.saturating_sub(self.now)),
                _ => return self.now = until,
            }
        }
    }

    /// Checks that nobody waits for what is there, and nothing is asked for that nobody awaits.
    pub(super) fn check_rest(&self) {
        for client in self.clients.values() {
            assert!(
                client.deadline.is_none_or(|deadline| deadline > self.now),
                "told too late"
            );
            for key in &client.keys {
                let there = self.server.keys.get(&(client.db, key.clone()));
                let is_there = match client.name.as_slice() {
                    b"BLPOP" | b"BRPOP" | b"BLMOVE" => matches!(there, Some(ModelValue::List(_))),
                    b"BZPOPMIN" | b"BZPOPMAX" => matches!(there, Some(ModelValue::Sorted(_))),
                    _ => false,
                };
                let name = String::from_utf8_lossy(&client.name);
                assert!(!is_there, "{name} waits for what is there");
            }
        }
        for (_, db, call) in self.server.blocked_calls() {
            let keys = match call[0].as_slice() {
                b"BLMOVE" => &call[1..2],
                b"XREAD" => &call[4..5],
                _ => &call[1..call.len() - 1],
            };
            for key in keys {
                let awaits = |client: &ModelClient| {
                    client.db == db && client.name == call[0] && client.keys.contains(key)
                };
                assert!(
                    self.clients.values().any(awaits),
                    "asked for nobody: {call:?}"
                );
            }
        }
    }

    /// Checks that every element is somewhere, once.
    pub(super) fn check_elements(&self) {
        let mut there: BTreeMap<&[u8], usize> = BTreeMap::new();
        let mut moved: BTreeSet<&[u8]> = BTreeSet::new();
        for ((_, key), value) in &self.server.keys {
            let all: Vec<&[u8]> = match value {
                ModelValue::List(list) => list.iter().map(Vec::as_slice).collect(),
                ModelValue::Sorted(members) => members.iter().map(Vec::as_slice).collect(),
                _ => Vec::new(),
            };
            if key == b"moved" {
                moved.extend(all);
            } else {
                all.into_iter()
                    .for_each(|element| *there.entry(element).or_default() += 1);
            }
        }
        let mut unclaimed = 0;
        for element in self.produced.keys() {
            let places = [&self.delivered, &self.deleted, &self.lost];
            let found = places
                .iter()
                .filter(|place| place.contains(element))
                .count()
                + there.get(element.as_slice()).copied().unwrap_or_default();
            match (moved.contains(element.as_slice()), found) {
                (_, 1) => {}
                (true, 0) => unclaimed += 1,
                _ => panic!("{} is in {found} places", String::from_utf8_lossy(element)),
            }
        }
        assert_eq!(unclaimed, self.orphaned, "moved for nobody");
    }

    /// Checks that nothing is left once everybody has left.
    pub(super) fn check_end(&mut self) {
        while let Some(&id) = self.clients.keys().next() {
            self.leave_as(id);
        }
        self.calm(1_000_000);
        assert!(self.server.blocked_calls().is_empty() && self.connections.is_empty());
        assert!(self.waits.is_empty(), "something is kept of nobody");
    }
}

impl WaitWorld {
    /// Holds a call back, and what stands ahead of it, since a pause is believed to be in force.
    pub(super) fn put_off(&mut self, connection: CallConnectionId, ahead: Option<TryId>) {
        if let Some(attempt) = ahead {
            let failure = TryFailure::Lost { sent: false };
            self.waits.failed(attempt, failure, self.now);
        }
        self.waits.put_off(connection, self.now);
    }

    /// Has the server unblock a call that nobody asked it to unblock.
    pub(super) fn stray_unblock(&mut self) {
        let blocked = self.server.blocked_calls();
        if !blocked.is_empty() {
            let at = self.roll(blocked.len() as u32) as usize;
            self.server.unblock(blocked[at].0);
        }
    }
}
