//! What must hold inside the machine after every event.

use std::collections::{BTreeMap, BTreeSet};

use crate::waits::machine::Status;
use crate::waits::{Key, SeatId, TryId, Waits};

impl<S: Clone + PartialEq> Waits<S> {
    /// Everything that is counted is as many as there are.
    pub(super) fn check(&self) {
        for (id, class) in &self.classes {
            let members = self
                .waiters
                .iter()
                .filter(|(_, waiter)| waiter.class == Some(*id));
            let mut living: BTreeMap<Key, BTreeSet<_>> = BTreeMap::new();
            let mut waiting: BTreeMap<Key, usize> = BTreeMap::new();
            let (mut all, mut all_waiting) = (BTreeSet::new(), 0);
            for (waiter_id, waiter) in members {
                all.insert(*waiter_id);
                all_waiting += usize::from(waiter.status == Status::Waiting);
                for key in &waiter.keys {
                    living.entry(key.clone()).or_default().insert(*waiter_id);
                    *waiting.entry(key.clone()).or_default() +=
                        usize::from(waiter.status == Status::Waiting);
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
        }
    }

    /// No more pops of its keys are under way than waiters stand in line.
    pub(super) fn check_room(&self, attempt: TryId) {
        let attempt = &self.attempts[&attempt];
        if let Some(class) = attempt.class.and_then(|class| self.classes.get(&class)) {
            for line in attempt.keys.iter().filter_map(|key| class.lines.get(key)) {
                assert!(line.pops <= line.living.len(), "one pop too many");
            }
        }
    }

    /// The same of a call just issued, and of what goes ahead of it.
    pub(super) fn check_issued(&self, seat: SeatId) {
        let (class, keys) = self.issued(seat);
        let Some(class) = class.and_then(|class| self.classes.get(&class)) else {
            return;
        };
        for line in keys.iter().filter_map(|key| class.lines.get(key)) {
            assert!(line.pops <= line.living.len(), "one pop too many");
        }
    }

    /// Nothing is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
            && self.classes.is_empty()
            && self.attempts.is_empty()
            && self.polls.is_empty()
            && self.next_due().is_none()
    }
}
