//! What must hold inside the machine after every event.

use std::collections::{BTreeMap, BTreeSet};

use crate::waits::blocked::Status;
use crate::waits::class::Place;
use crate::waits::ids::ClassId;
use crate::waits::owners::Lane;
use crate::waits::seats::{Phase, Seat};
use crate::waits::tries::Kind;
use crate::waits::{Key, SeatId, TryId, WaiterId, Waits};

impl<S: Clone + PartialEq> Waits<S> {
    /// Everything that is counted is as many as there are.
    pub(super) fn check(&self) {
        for (id, class) in &self.blocked.classes {
            let members = self
                .blocked
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
            let from = class.owners.iter().flat_map(|(address, waiters)| {
                let is_from = |id: &_| self.blocked.waiters[id].whose.address == *address;
                assert!(waiters.iter().all(is_from), "counted for another address");
                waiters.iter().copied()
            });
            assert_eq!(class.members, from.collect());
        }
        self.check_accounts();
    }

    /// Each class that needs something is counted once, as it is served, and tried if it has no seat.
    fn check_accounts(&self) {
        let mut counts: BTreeMap<_, [u64; 3]> = BTreeMap::new();
        let mut polls = BTreeSet::new();
        for (id, class) in &self.blocked.classes {
            let lane = class.account.map(|account| account.lane);
            match class.place {
                Place::Nowhere => assert_eq!(lane, None),
                Place::Seated(_) => assert_eq!(lane, Some(Lane::Seated)),
                Place::Queued { poll_at, .. }
                | Place::Asleep { poll_at }
                | Place::Resting { poll_at } => {
                    assert!(matches!(lane, Some(Lane::Young | Lane::Old)));
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

    /// Every key that is left out is looked at for somebody who waits for it.
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

    /// No more pops of its keys are under way than waiters stand in line.
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

    /// The same of a call just issued, and of what goes ahead of it.
    pub(super) fn check_issued(&self, seat: SeatId) {
        let (class, keys) = self.issued(seat);
        let Some(class) = class.and_then(|class| self.blocked.classes.get(&class)) else {
            return;
        };
        for line in keys.iter().filter_map(|key| class.lines.get(key)) {
            assert!(line.pops <= line.living.len(), "one pop too many");
        }
    }

    /// Whose own call a try is.
    pub(super) fn newcomer(&self, attempt: TryId) -> Option<WaiterId> {
        match self.attempts.get(&attempt)?.kind {
            Kind::Newcomer(waiter) => Some(waiter),
            _ => None,
        }
    }

    /// The class and the keys of the call on a seat.
    pub(super) fn issued(&self, id: SeatId) -> (Option<ClassId>, &[Key]) {
        match self.seating.seats.get(&id) {
            Some(Seat {
                turn: Some((class, _)),
                phase: Phase::Calling { keys, .. },
                ..
            }) => (Some(*class), keys),
            _ => (None, &[]),
        }
    }

    /// Where a call is asked to end.
    pub(super) fn unblocking(&self) -> Vec<SeatId> {
        let seats = self.seating.seats.iter();
        let asked = seats.filter(|(_, seat)| {
            matches!(
                seat.phase,
                Phase::Calling {
                    is_unblocking: true,
                    ..
                }
            )
        });
        asked.map(|(id, _)| *id).collect()
    }

    /// The seats there are.
    pub(super) fn seats(&self) -> impl Iterator<Item = SeatId> {
        self.seating.seats.keys().copied()
    }

    /// How many pops of each key are under way.
    pub(super) fn pops(&self, id: ClassId) -> BTreeMap<Key, usize> {
        let mut pops: BTreeMap<Key, usize> = BTreeMap::new();
        let tries = self.attempts.values();
        for attempt in tries.filter(|attempt| attempt.class == Some(id)) {
            for key in &attempt.keys {
                *pops.entry(Key::clone(key)).or_default() += attempt.count as usize;
            }
        }
        for seat in self.seating.seats.keys() {
            if let (Some(class), keys) = self.issued(*seat)
                && class == id
            {
                for key in keys {
                    *pops.entry(Key::clone(key)).or_default() += 1;
                }
            }
        }
        pops
    }

    /// Whether the call issued for the class that has this seat is about a key, or is one of equal calls about it.
    #[cfg(test)]
    pub(super) fn asks_for(&self, seat: SeatId, key: &str) -> bool {
        let (class, keys) = self.issued(seat);
        let call = class.and_then(|class| self.blocked.classes.get(&class));
        let equal = call.is_some_and(|class| {
            let text = String::from_utf8_lossy(&class.identity).into_owned();
            text.contains(key)
        });
        equal || keys.iter().any(|asked| asked.as_ref() == key.as_bytes())
    }

    /// Nothing is kept.
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
