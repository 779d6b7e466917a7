//! Says when classes without a connection are tried, and for whom each class is counted.

use std::collections::BTreeSet;

use super::MIN_POLL_MICROS;
use super::class::{ClassStage, WaitClass};
use super::ids::ClassId;
use super::owners::{ClassAccount, ClassOwners, ServiceLane};

/// Bounds the addresses of a class that are looked at.
const MAX_PAYERS: usize = 16;

/// Knows whose each class is, and when those that are tried from time to time are tried next.
#[derive(Debug, Default)]
pub(super) struct ClassPolls {
    pub(super) times: BTreeSet<(u64, ClassId)>,
    pub(super) owners: ClassOwners,
}

impl ClassPolls {
    /// Returns when the next class is tried.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.times.first().map(|(at, _)| *at)
    }

    /// Counts a class anew, as it is served now. Of the addresses its waiters come from, it is counted for the one that has
    /// the fewest.
    fn account<S>(&mut self, class: &mut WaitClass<S>, now: u64) {
        let lane = match class.stage {
            ClassStage::Nowhere => None,
            ClassStage::Calling(_) => Some(ServiceLane::Calling),
            _ if class.is_young(now) => Some(ServiceLane::Young),
            _ => Some(ServiceLane::Old),
        };
        if let Some(old) = class.account.take() {
            self.owners.leave(old);
        }
        let addresses = class.owners.keys().take(MAX_PAYERS);
        let owners = addresses.map(|address| (class.is_plain(), *address));
        let owner = owners.min_by_key(|owner| self.owners.classes(*owner));
        class.account = lane.map(|lane| ClassAccount {
            owner: owner.unwrap_or_default(),
            lane,
        });
        if let Some(new) = class.account {
            self.owners.enter(new);
        }
    }

    /// Puts a class elsewhere, where it is tried at no time of its own.
    pub(super) fn set_stage<S>(&mut self, class: &mut WaitClass<S>, stage: ClassStage, now: u64) {
        class.stage = stage;
        self.account(class, now);
    }

    /// Has a class tried from time to time, at a place that tells when.
    pub(super) fn begin<S>(
        &mut self,
        id: ClassId,
        class: &mut WaitClass<S>,
        now: u64,
        stage: impl Fn(u64) -> ClassStage,
    ) {
        self.set_stage(class, stage(0), now);
        let poll_at = self.next_poll(class, now);
        class.stage = stage(poll_at);
        self.times.insert((poll_at, id));
    }

    /// Has a class not tried any more. Returns the turn with which it stood in the queue for a connection, if it did.
    pub(super) fn end<S>(
        &mut self,
        id: ClassId,
        class: &mut WaitClass<S>,
        now: u64,
    ) -> Option<u64> {
        let (turn, poll_at) = match class.stage {
            ClassStage::Queued { turn, poll_at } => (Some(turn), poll_at),
            ClassStage::Resting { poll_at } | ClassStage::Asleep { poll_at } => (None, poll_at),
            ClassStage::Nowhere | ClassStage::Calling(_) => return None,
        };
        self.times.remove(&(poll_at, id));
        self.set_stage(class, ClassStage::Nowhere, now);
        turn
    }

    /// Returns when a class that is counted among those that are tried is tried next.
    fn next_poll<S>(&mut self, class: &WaitClass<S>, now: u64) -> u64 {
        let wanted = class.wanted_every(now);
        let wanted = match class.windows() {
            1 => wanted,
            windows => (wanted / windows).max(MIN_POLL_MICROS),
        };
        let price = class.size().tried() + class.kinds_price();
        match class.account {
            Some(account) => self.owners.next_try(account, price, wanted, now),
            None => now + wanted,
        }
    }

    /// Has a class that is seldom tried tried more often, where somebody who has just come is waiting now.
    pub(super) fn hasten<S>(&mut self, id: ClassId, class: &mut WaitClass<S>, now: u64) {
        let is_old = class
            .account
            .is_some_and(|account| account.lane == ServiceLane::Old);
        let Some(poll_at) = class.poll_at().map(|at| *at) else {
            return;
        };
        if is_old && class.is_young(now) && !matches!(class.stage, ClassStage::Resting { .. }) {
            self.account(class, now);
            let at = self.next_poll(class, now);
            if at < poll_at
                && let Some(poll_at) = class.poll_at()
            {
                let old = std::mem::replace(poll_at, at);
                self.times.remove(&(old, id));
                self.times.insert((at, id));
            }
        }
    }

    /// Returns the next class whose time it is; it is to be told to [`Self::repeat`].
    pub(super) fn take_due(&mut self, now: u64) -> Option<ClassId> {
        self.times.first().filter(|(at, _)| *at <= now)?;
        self.times.pop_first().map(|(_, id)| id)
    }

    /// Has a class that is being tried now tried again at its next time.
    pub(super) fn repeat<S>(&mut self, id: ClassId, class: &mut WaitClass<S>, now: u64) {
        self.account(class, now);
        let next = self.next_poll(class, now);
        if let Some(poll_at) = class.poll_at() {
            *poll_at = next;
            self.times.insert((next, id));
        }
    }

    /// Returns how many classes are counted for the owner of this one.
    pub(super) fn classes_of_owner<S>(&self, class: &WaitClass<S>) -> u64 {
        let owner = class.account.map(|account| account.owner);
        owner.map_or(1, |owner| self.owners.classes(owner))
    }
}
