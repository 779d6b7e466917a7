//! What must hold inside the machine after every event.

use std::collections::{BTreeMap, BTreeSet};

use crate::waits::blocked::WaitStatus;
use crate::waits::class::ClassStage;
use crate::waits::connections::{CallConnection, CallPhase};
use crate::waits::ids::ClassId;
use crate::waits::owners::ServiceLane;
use crate::waits::tries::TryPurpose;
use crate::waits::{BlockingCalls, CallConnectionId, LineKey, TryId, WaiterId};

impl<S: Clone + PartialEq> BlockingCalls<S> {
    /// Checks that everything that is counted is as many as there are.
    pub(super) fn check(&self) {
        for (id, class) in &self.blocked.classes {
            let members = self
                .blocked
                .waiters
                .iter()
                .filter(|(_, waiter)| waiter.class == Some(*id));
            let mut living: BTreeMap<LineKey, BTreeSet<_>> = BTreeMap::new();
            let mut waiting: BTreeMap<LineKey, usize> = BTreeMap::new();
            let (mut all, mut all_waiting) = (BTreeSet::new(), 0);
            for (waiter_id, waiter) in members {
                all.insert(*waiter_id);
                all_waiting += usize::from(waiter.status == WaitStatus::Waiting);
                for key in &waiter.keys {
                    living.entry(key.clone()).or_default().insert(*waiter_id);
                    *waiting.entry(key.clone()).or_default() +=
                        usize::from(waiter.status == WaitStatus::Waiting);
                }
            }
            assert_eq!(class.members, all);
            assert_eq!(class.waiting, all_waiting);
            let pops = self.pops(*id);
            for (key, line) in class.lines.all() {
                assert_eq!(line.living, living.remove(key).unwrap_or_default());
                assert_eq!(line.waiting, waiting.get(key).copied().unwrap_or_default());
                let expected = pops.get(key).copied().unwrap_or_default();
                assert_eq!(line.pops, if class.takes() { expected } else { 0 });
            }
            assert!(living.is_empty(), "somebody stands in no line");
            let from = class.owners.iter().flat_map(|(address, waiters)| {
                let is_from = |id: &_| self.blocked.waiters[id].whose.address == *address;
                assert!(waiters.iter().all(is_from), "counted for another address");
                waiters.iter().copied()
            });
            assert_eq!(class.members, from.collect());
        }
        self.check_accounts();
    }

    /// Checks that each class that needs something is counted once, as it is served, and tried if it has no connection.
    fn check_accounts(&self) {
        let mut counts: BTreeMap<_, [u64; 3]> = BTreeMap::new();
        let mut polls = BTreeSet::new();
        for (id, class) in &self.blocked.classes {
            let lane = class.account.map(|account| account.lane);
            match class.stage {
                ClassStage::Nowhere => assert_eq!(lane, None),
                ClassStage::Calling(_) => assert_eq!(lane, Some(ServiceLane::Calling)),
                ClassStage::Queued { poll_at, .. }
                | ClassStage::Asleep { poll_at }
                | ClassStage::Resting { poll_at } => {
                    assert!(matches!(lane, Some(ServiceLane::Young | ServiceLane::Old)));
                    polls.insert((poll_at, *id));
                }
            }
            if let Some(account) = class.account {
                assert_eq!(account.owner.0, class.is_plain());
                counts.entry(account.owner).or_default()[account.lane as usize] += 1;
            }
        }
        assert_eq!(self.polls.owners.counts(), counts);
        assert_eq!(self.polls.times, polls);
        self.check_looks();
    }

    /// Checks that every key that is left out is looked at for somebody who waits for it.
    fn check_looks(&self) {
        let mut counts: BTreeMap<_, BTreeMap<_, u64>> = BTreeMap::new();
        for (id, class) in &self.blocked.classes {
            let left_out = class.lines.all();
            let left_out = left_out.filter(|(key, _)| class.lines.is_left_out(key));
            let mut count = 0;
            for (key, line) in left_out {
                let payer = self.looks.payer(*id, key).expect("it is looked at");
                assert!(line.living.contains(&payer), "for one who has left");
                let address = self.blocked.waiters[&payer].whose.address;
                *counts.entry(address).or_default().entry(payer).or_default() += 1;
                count += 1;
            }
            assert_eq!(class.lines.left_out(), count);
            assert_eq!(self.looks.count(*id), count);
        }
        assert_eq!(self.looks.counts(), counts);
    }

    /// Checks that no more pops of its keys are under way than waiters stand in line.
    pub(super) fn check_room(&self, attempt: TryId) {
        let attempt = &self.attempts[&attempt];
        if let Some(class) = attempt
            .class
            .and_then(|class| self.blocked.classes.get(&class))
        {
            for line in attempt.keys.iter().filter_map(|key| class.lines.get(key)) {
                assert!(line.pops <= line.living.len(), "one pop too many");
            }
        }
    }

    /// Checks the same of a call just issued, and of what goes ahead of it.
    pub(super) fn check_issued(&self, connection: CallConnectionId) {
        let (class, keys) = self.issued(connection);
        let Some(class) = class.and_then(|class| self.blocked.classes.get(&class)) else {
            return;
        };
        for line in keys.iter().filter_map(|key| class.lines.get(key)) {
            assert!(line.pops <= line.living.len(), "one pop too many");
        }
    }

    /// Returns whose own call a try is.
    pub(super) fn newcomer(&self, attempt: TryId) -> Option<WaiterId> {
        match self.attempts.get(&attempt)?.kind {
            TryPurpose::Newcomer(waiter) => Some(waiter),
            _ => None,
        }
    }

    /// Returns the class and the keys of the call on a connection.
    pub(super) fn issued(&self, id: CallConnectionId) -> (Option<ClassId>, &[LineKey]) {
        match self.connections.all.get(&id) {
            Some(CallConnection {
                turn: Some((class, _)),
                phase: CallPhase::Calling { keys, .. },
                ..
            }) => (Some(*class), keys),
            _ => (None, &[]),
        }
    }

    /// Returns where a call is asked to end.
    pub(super) fn unblocking(&self) -> Vec<CallConnectionId> {
        let connections = self.connections.all.iter();
        let asked = connections.filter(|(_, connection)| {
            matches!(
                connection.phase,
                CallPhase::Calling {
                    is_unblocking: true,
                    ..
                }
            )
        });
        asked.map(|(id, _)| *id).collect()
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = CallConnectionId> {
        self.connections.all.keys().copied()
    }

    /// Returns how many pops of each key are under way.
    pub(super) fn pops(&self, id: ClassId) -> BTreeMap<LineKey, usize> {
        let mut pops: BTreeMap<LineKey, usize> = BTreeMap::new();
        let tries = self.attempts.values();
        for attempt in tries.filter(|attempt| attempt.class == Some(id)) {
            for key in &attempt.keys {
                *pops.entry(LineKey::clone(key)).or_default() += attempt.count as usize;
            }
        }
        for connection in self.connections.all.keys() {
            if let (Some(class), keys) = self.issued(*connection)
                && class == id
            {
                for key in keys {
                    *pops.entry(LineKey::clone(key)).or_default() += 1;
                }
            }
        }
        pops
    }

    /// Tells whether the call issued for the class that has this connection is about a key, or is one of equal calls about
    /// it.
    #[cfg(test)]
    pub(super) fn asks_for(&self, connection: CallConnectionId, key: &str) -> bool {
        let (class, keys) = self.issued(connection);
        let call = class.and_then(|class| self.blocked.classes.get(&class));
        let equal = call.is_some_and(|class| {
            let text = String::from_utf8_lossy(&class.identity).into_owned();
            text.contains(key)
        });
        equal || keys.iter().any(|asked| asked.as_ref() == key.as_bytes())
    }

    /// Tells whether nothing is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.blocked.waiters.is_empty()
            && self.blocked.classes.is_empty()
            && self.attempts.is_empty()
            && self.polls.times.is_empty()
            && self.polls.owners.is_empty()
            && self.looks.is_empty()
            && self.next_due().is_none()
    }
}
