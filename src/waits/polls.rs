//! When classes without a seat are tried, and where each class is counted.

use super::attempts::Kind;
use super::class::{ClassId, Place};
use super::machine::Waits;
use super::owners::{Account, Address, Lane};
use super::{MIN_POLL_MICROS, POLL_MICROS};

/// Most addresses of a class that are looked at.
const MAX_PAYERS: usize = 16;

impl<S: Clone + PartialEq> Waits<S> {
    /// A class is served in another way: it is counted there. Of the addresses its waiters come from, it is counted for the
    /// one that has the fewest.
    pub(super) fn account(&mut self, id: ClassId) {
        let Some(class) = self.classes.get_mut(&id) else {
            return;
        };
        let lane = match class.place {
            Place::Nowhere => None,
            Place::Seated(_) => Some(Lane::Seated),
            _ if class.is_young(self.now) => Some(Lane::Young),
            _ => Some(Lane::Old),
        };
        if let Some(old) = class.account.take() {
            self.owners.leave(old);
        }
        let addresses = class.owners.keys().take(MAX_PAYERS);
        let owners = addresses.map(|address| (class.is_plain(), *address));
        let owner = owners.min_by_key(|owner| self.owners.classes(*owner));
        class.account = lane.map(|lane| Account {
            owner: owner.unwrap_or_default(),
            lane,
        });
        if let Some(new) = class.account {
            self.owners.enter(new);
        }
    }

    pub(super) fn set_place(&mut self, id: ClassId, place: Place) {
        if let Some(class) = self.classes.get_mut(&id) {
            class.place = place;
            self.account(id);
        }
    }

    /// A client from this address has joined a class.
    pub(super) fn enter_address(&mut self, id: ClassId, address: Address, waiter: super::WaiterId) {
        let now = self.now;
        if let Some(class) = self.classes.get_mut(&id) {
            class.fresh_at = now;
            class.owners.entry(address).or_default().insert(waiter);
        }
    }

    /// A client from this address has left a class.
    pub(super) fn leave_address(&mut self, id: ClassId, address: Address, waiter: super::WaiterId) {
        let Some(class) = self.classes.get_mut(&id) else {
            return;
        };
        if let Some(waiters) = class.owners.get_mut(&address) {
            waiters.remove(&waiter);
            if waiters.is_empty() {
                class.owners.remove(&address);
            }
        }
    }

    /// When a class that is counted among those that are tried is tried next.
    pub(super) fn next_poll(&mut self, id: ClassId) -> u64 {
        let now = self.now;
        let Some(class) = self.classes.get(&id) else {
            return now + POLL_MICROS;
        };
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

    /// A class is to be tried at `at`, and not when it was to be.
    fn poll_anew(&mut self, id: ClassId, at: u64) {
        let Some(poll_at) = self.classes.get_mut(&id).and_then(|class| class.poll_at()) else {
            return;
        };
        let old = std::mem::replace(poll_at, at);
        self.polls.remove(&(old, id));
        self.polls.insert((at, id));
    }

    /// Somebody who has just come is waiting now: a class that is seldom tried is tried more often.
    pub(super) fn hasten(&mut self, id: ClassId) {
        let Some(class) = self.classes.get_mut(&id) else {
            return;
        };
        let is_old = class
            .account
            .is_some_and(|account| account.lane == Lane::Old);
        let Some(poll_at) = class.poll_at().map(|at| *at) else {
            return;
        };
        if is_old && class.is_young(self.now) && !matches!(class.place, Place::Resting { .. }) {
            self.account(id);
            let at = self.next_poll(id);
            if at < poll_at {
                self.poll_anew(id, at);
            }
        }
    }

    /// Tries the classes whose time it is.
    pub(super) fn poll(&mut self) {
        let mut has_polled = false;
        while let Some(&(at, id)) = self.polls.first()
            && at <= self.now
        {
            self.polls.pop_first();
            self.account(id);
            let next = self.next_poll(id);
            let Some(class) = self.classes.get_mut(&id) else {
                continue;
            };
            let Some(poll_at) = class.poll_at() else {
                continue;
            };
            *poll_at = next;
            self.polls.insert((next, id));
            if class.attempts == 0 {
                let state = class.state.clone();
                self.attempt(Kind::Poll(id), state);
            }
            self.wake(id);
            has_polled = true;
        }
        if has_polled {
            self.borrow();
        }
    }

    /// A class that may have its call issued again stands in the queue for a seat.
    fn wake(&mut self, id: ClassId) {
        let Some(class) = self.classes.get(&id) else {
            return;
        };
        if matches!(class.place, Place::Asleep { .. }) && class.wakes_at <= self.now {
            self.dequeue(id);
            self.enqueue(id);
        }
    }
}
