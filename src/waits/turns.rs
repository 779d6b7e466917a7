//! Whose turn it is on a seat, when it is over, and who is next.
//!
//! The classes that are one for many waiters come first, and of the others those from an address that has few: whoever waits for
//! many things takes turns with itself. Of one address whoever has just come is first, since it can be served at once, and
//! the rest are tried.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::class::{Class, ClassId};
use super::machine::Waits;
use super::price::{SHARE, TURN_MICROS, WINDOW_SHARE};
use super::seats::{Phase, Seat, SeatId, settled_at};
use super::{GRACE_MICROS, Key, MAX_SLICE_MICROS, MIN_SLICE_MICROS, ROUND_MICROS, WINDOWS_MICROS};

/// The number of a turn begins with the rank of its class: of two, the lower one is first.
const RANK_SHIFT: u32 = 56;

/// One of so many keys of a call that cannot ask about all is one that each such call asks about.
const FAVOURED: usize = 4;

impl<S: Clone + PartialEq> Waits<S> {
    /// The rank of a class among those that want a seat.
    pub(super) fn rank(&self, class: &Class<S>) -> u64 {
        let owner = class.account.map(|account| account.owner);
        let classes = owner.map_or(1, |owner| self.owners.classes(owner));
        let crowd = u64::from(classes.max(1).ilog2().min(15));
        let is_old = !class.is_plain() && !class.is_young(self.now);
        u64::from(!class.is_plain()) << 5 | crowd << 1 | u64::from(is_old)
    }

    /// The number of a class's turn: behind all of its rank.
    pub(super) fn next_turn_of(&mut self, id: ClassId) -> u64 {
        let rank = self.classes.get(&id).map_or(0, |class| self.rank(class));
        rank << RANK_SHIFT | self.fresh()
    }

    /// Whether a class without a seat is to have one before this one has another turn.
    pub(super) fn is_contended(&self, class: ClassId) -> bool {
        let first = self.seating.queue.keys().next();
        let class = self.classes.get(&class);
        first.is_some_and(|first| class.is_none_or(|class| first >> RANK_SHIFT <= self.rank(class)))
    }

    /// Ends the calls of classes whose turn is over while others want a seat.
    pub(super) fn turn(&mut self) {
        for (id, at) in self.turns() {
            if at <= self.now {
                self.unblock_seat(id);
            }
        }
    }

    /// When the next turn is over.
    pub(super) fn next_turn(&self) -> Option<u64> {
        self.turns().into_iter().map(|(_, at)| at).min()
    }

    /// Calls that are to be ended, and when: of the classes whose turn is over as many as others want a seat, of the last
    /// rank first, and those that ask for too much or too little.
    fn turns(&self) -> Vec<(SeatId, u64)> {
        let (mut turns, mut others, mut unblocking) = (Vec::new(), Vec::new(), 0);
        for (&id, seat) in &self.seating.seats {
            let (Phase::Calling { is_unblocking, .. }, Some((class, _))) = (&seat.phase, seat.turn)
            else {
                continue;
            };
            if *is_unblocking {
                unblocking += 1;
                continue;
            }
            let settled = settled_at(&seat.phase).filter(|_| self.is_amiss(class));
            others.extend(settled.map(|at| (id, at)));
            let windows = self.classes.get(&class).map_or(1, Class::windows);
            let rank = self.classes.get(&class).map(|class| self.rank(class));
            match self.turn_over(seat, class) {
                Some(at) if windows > 1 => others.push((id, at)),
                Some(at) => turns.push((Reverse(rank), at, id)),
                None => {}
            }
        }
        turns.sort_unstable();
        turns.truncate(self.seating.queue.len().saturating_sub(unblocking));
        others.extend(turns.into_iter().map(|(_, at, id)| (id, at)));
        others
    }

    /// When the turn of the class that has the seat is over. The server may end its call by itself.
    fn turn_over(&self, seat: &Seat<S>, class: ClassId) -> Option<u64> {
        let (Phase::Calling { since, until, .. }, Some((_, turn))) = (&seat.phase, seat.turn)
        else {
            return None;
        };
        let is_contended = self.is_contended(class);
        let begun = if is_contended { turn } else { *since };
        let at = begun + self.slice(class)?;
        let by_itself = until.filter(|until| at + GRACE_MICROS > *until);
        Some(by_itself.map_or(at, |until| at.max(until + GRACE_MICROS)))
    }

    /// Whether the call issued for a class asks for keys nobody awaits, lacks one, or has to end before somebody is told.
    pub(super) fn is_amiss(&self, class: ClassId) -> bool {
        self.classes.get(&class).is_some_and(|class| {
            let lines = &class.lines;
            lines.has_stale()
                || lines.is_pressed()
                || (lines.has_uncovered() && class.windows() == 1)
        })
    }

    /// How long a turn is. `None`: nobody waits for its end.
    pub(super) fn slice(&self, id: ClassId) -> Option<u64> {
        let class = self.classes.get(&id)?;
        let windows = class.windows();
        if windows == 1 && !self.is_contended(id) {
            return None;
        }
        let held = self.seating.held().max(1) as u64;
        let classes = self.seating.queue.len() as u64 + held + windows - 1;
        // Keys about which the call does not ask wait no longer than those of a class without a seat.
        let slice = (ROUND_MICROS * held / classes).min(WINDOWS_MICROS / windows);
        let least = match windows {
            1 => (TURN_MICROS * SHARE * held).max(MIN_SLICE_MICROS),
            _ => (class.size().issued() * WINDOW_SHARE).max(MIN_SLICE_MICROS),
        };
        Some(slice.clamp(least, MAX_SLICE_MICROS.max(least)))
    }

    /// The keys about which a call over too many asks each time: of each address those of who came last.
    pub(super) fn favoured(&self, id: ClassId) -> BTreeSet<Key> {
        let mut found = BTreeSet::new();
        let Some(class) = self.classes.get(&id).filter(|class| class.windows() > 1) else {
            return found;
        };
        let most = class.window / FAVOURED;
        let share = (most / class.owners.len().max(1)).max(1);
        for waiters in class.owners.values().take(most) {
            let newest = waiters.iter().rev().filter_map(|id| self.waiters.get(id));
            let keys = newest
                .flat_map(|waiter| &waiter.keys)
                .take(FAVOURED * share);
            let awaited = keys.filter(|key| class.lines.is_awaited(key));
            let mut left = share;
            for key in awaited {
                left -= usize::from(found.insert(Key::clone(key)));
                if left == 0 {
                    break;
                }
            }
        }
        found
    }
}
