//! Seats: connections borrowed for issued calls, which classes have one, and who gets the next.
//!
//! Invariant: a class has at most one call issued.

use std::collections::{BTreeMap, BTreeSet};

use super::attempts::Sending;
use super::call::Patience;
use super::class::{Class, ClassId, Place};
use super::machine::Waits;
use super::price::CHANGE_SHARE;
use super::reply::{Said, UNBLOCKED, is_passing};
use super::{ASKING_MICROS, Action, Key, MAX_SLICE_MICROS, NotSeated, Outcome, SETTLING_MICROS};
use crate::command::PinReason;

/// Identifies a seat; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeatId(u64);

#[derive(Debug)]
pub(super) enum Phase {
    /// For the class with this turn, or whoever is first in its state by then.
    Borrowing { turn: u64 },
    /// Its class waits for a try before its call is issued.
    Idle,
    Calling {
        keys: Vec<Key>,
        since: u64,
        /// When it may be ended only to ask for other keys: those who come and go cost no more than their share.
        settled_at: u64,
        /// When the server ends it by itself.
        until: Option<u64>,
        is_unblocking: bool,
    },
}

#[derive(Debug)]
pub(super) struct Seat<S> {
    state: S,
    group: usize,
    /// Since when it is lent, or asked for.
    borrowed_at: u64,
    pub(super) phase: Phase,
    /// The class that has it, and since when.
    pub(super) turn: Option<(ClassId, u64)>,
    /// It is given back after its call, because others want a connection.
    is_yielding: bool,
}

/// Who has a seat, and who wants one.
#[derive(Debug)]
pub(super) struct Seating<S> {
    pub(super) seats: BTreeMap<SeatId, Seat<S>>,
    /// Classes that want a seat, in the order in which they get one.
    pub(super) queue: BTreeMap<u64, ClassId>,
    /// The same for each state, and for each group that a client of the class belongs to.
    of_state: Vec<(S, BTreeSet<u64>)>,
    of_group: BTreeMap<usize, BTreeSet<u64>>,
    /// One seat is borrowed at a time for each group.
    borrowing: BTreeMap<usize, SeatId>,
}

impl<S> Default for Seating<S> {
    fn default() -> Self {
        Self {
            seats: BTreeMap::new(),
            queue: BTreeMap::new(),
            of_state: Vec::new(),
            of_group: BTreeMap::new(),
            borrowing: BTreeMap::new(),
        }
    }
}

impl<S: PartialEq> Seating<S> {
    fn first_of(&self, state: &S) -> Option<u64> {
        let (_, turns) = self.of_state.iter().find(|(known, _)| known == state)?;
        turns.first().copied()
    }

    /// A seat for a class is not borrowed in this group any more.
    fn leave_group(&mut self, group: usize, turn: u64) {
        if let Some(turns) = self.of_group.get_mut(&group) {
            turns.remove(&turn);
            if turns.is_empty() {
                self.of_group.remove(&group);
            }
        }
    }

    pub(super) fn held(&self) -> usize {
        self.seats.len() - self.borrowing.len()
    }
}

/// When a call may be ended only to ask for other keys.
pub(super) fn settled_at(phase: &Phase) -> Option<u64> {
    match phase {
        Phase::Calling { settled_at, .. } => Some(*settled_at),
        _ => None,
    }
}

impl<S: Clone + PartialEq> Waits<S> {
    /// Whether a seat that is being borrowed is still of use.
    pub fn wants(&self, seat: SeatId) -> bool {
        let seat = self.seating.seats.get(&seat);
        seat.is_some_and(|seat| self.seating.first_of(&seat.state).is_some())
    }

    /// A connection was borrowed.
    pub fn seated(&mut self, id: SeatId, now: u64) {
        self.now = now;
        let Some(seat) = self.seating.seats.get_mut(&id) else {
            return;
        };
        seat.borrowed_at = now;
        seat.phase = Phase::Idle;
        let state = seat.state.clone();
        self.seating.borrowing.remove(&seat.group);
        match self.seating.first_of(&state) {
            Some(turn) => self.take_turn(id, turn),
            None => self.release(id),
        }
        self.borrow();
    }

    /// No connection was borrowed.
    pub fn not_seated(&mut self, id: SeatId, why: NotSeated, now: u64) {
        self.now = now;
        let Some(seat) = self.seating.seats.remove(&id) else {
            return;
        };
        self.seating.borrowing.remove(&seat.group);
        let classes: Vec<ClassId> = self.seating.queue.values().copied().collect();
        match why {
            NotSeated::Timeout => {}
            NotSeated::Unreachable => {
                for class in classes {
                    self.fail_class(class, &Outcome::Unreachable);
                }
            }
            NotSeated::Refused(reply) => {
                for class in classes {
                    let is_meant = |id| self.classes.get(id).is_some_and(|c| c.state == seat.state);
                    if is_meant(&class) && is_passing(&reply) {
                        self.rest(class);
                    } else if is_meant(&class) {
                        self.fail_class(class, &Outcome::reply(&reply));
                    }
                }
            }
        }
        self.borrow();
    }

    /// An issued call was answered.
    pub fn answered(&mut self, id: SeatId, reply: &[u8], now: u64) {
        self.now = now;
        let Some((class_id, keys)) = self.stop_calling(id) else {
            return;
        };
        let mut refused = false;
        match Said::by(reply) {
            Said::Null => {}
            Said::Error(UNBLOCKED) => {}
            Said::Error(error) if is_passing(error) => {
                refused = true;
                if let Some(class) = self.classes.get_mut(&class_id) {
                    class.rests = true;
                }
            }
            Said::Error(error) if self.is_of_arrival(class_id, error) => {
                refused = true;
                self.doubt(class_id);
            }
            Said::Error(error) => {
                refused = true;
                self.refused(class_id, &keys, error);
            }
            Said::Element(element) => {
                let key = self.deliver(class_id, element, None);
                if let Some(class) = self.classes.get_mut(&class_id)
                    && let Some(key) = key
                {
                    class.chase(&key, element.len());
                }
            }
        }
        if let Some(class) = self.classes.get_mut(&class_id)
            && !refused
        {
            class.accepted();
        }
        self.tend(class_id, &keys);
    }

    /// An issued call was answered with more than may be gathered.
    pub fn too_large(&mut self, id: SeatId, now: u64) {
        self.now = now;
        if let Some((class, keys)) = self.stop_calling(id) {
            self.let_go(class, &keys, None);
            self.tend(class, &keys);
        }
    }

    /// A call was not sent, since a pause would put it off: its class is only tried until one of the tries is answered.
    pub fn put_off(&mut self, id: SeatId, now: u64) {
        self.now = now;
        let Some((class_id, keys)) = self.stop_calling(id) else {
            return;
        };
        if let Some(class) = self.classes.get_mut(&class_id) {
            class.rests = true;
        }
        self.tend(class_id, &keys);
    }

    /// Whether nobody is there any more for whom the call on a seat is under way.
    pub fn is_left(&self, id: SeatId) -> bool {
        let turn = self.seating.seats.get(&id).and_then(|seat| seat.turn);
        let class = turn.and_then(|(class, _)| self.classes.get(&class));
        class.is_none_or(|class| class.members.is_empty())
    }

    /// A connection was lost; `sent`: the call issued on it, if any, may have run.
    pub fn lost(&mut self, id: SeatId, sent: bool, now: u64) {
        self.now = now;
        let calling = self.stop_calling(id);
        let turn = self.seating.seats.remove(&id).and_then(|seat| seat.turn);
        let Some((class_id, _)) = turn else {
            return;
        };
        let keys = calling.map(|(_, keys)| keys).unwrap_or_default();
        self.set_place(class_id, Place::Nowhere);
        if sent && self.classes.get(&class_id).is_some_and(Class::takes) {
            self.lose(class_id, &keys, 1);
        }
        self.tend(class_id, &keys);
        self.borrow();
    }

    /// So many others want a connection: as many seats are given back as soon as they have been held for a slice, the
    /// one held longest first.
    pub fn yield_to(&mut self, others: usize, now: u64) {
        self.now = now;
        let is_yielding = |seat: &&Seat<S>| seat.is_yielding;
        if self.seating.seats.values().filter(is_yielding).count() >= others {
            return;
        }
        let may = |seat: &Seat<S>| {
            !matches!(seat.phase, Phase::Borrowing { .. })
                && !seat.is_yielding
                && now >= seat.borrowed_at + MAX_SLICE_MICROS
        };
        let seats = self.seating.seats.iter().filter(|(_, seat)| may(seat));
        let longest = seats.map(|(id, seat)| (seat.borrowed_at, *id)).min();
        if let Some((_, id)) = longest {
            self.vacate(id, now);
        }
    }

    /// The connection of a seat is to be given back as soon as its call can be ended.
    pub fn vacate(&mut self, id: SeatId, now: u64) {
        self.now = now;
        let seat = self.seating.seats.get_mut(&id);
        if let Some(seat) = seat.filter(|seat| !seat.is_yielding) {
            seat.is_yielding = true;
            match seat.phase {
                Phase::Idle => self.place(id),
                _ => self.unblock_seat(id),
            }
        }
    }

    /// How many connections are being borrowed.
    pub fn borrowing(&self) -> usize {
        self.seating.borrowing.len()
    }

    /// A class wants a seat. One whose call costs much has it issued again only after a while, and is tried until then.
    pub(super) fn enqueue(&mut self, id: ClassId) {
        let now = self.now;
        if self
            .classes
            .get(&id)
            .is_some_and(|class| class.wakes_at > now)
        {
            return self.only_try(id, |poll_at| Place::Asleep { poll_at });
        }
        self.only_try(id, |poll_at| Place::Queued { turn: 0, poll_at });
        let queued = self.next_turn_of(id);
        let Some(class) = self.classes.get_mut(&id) else {
            return;
        };
        if let Place::Queued { turn, .. } = &mut class.place {
            *turn = queued;
        }
        let turn = queued;
        let seating = &mut self.seating;
        seating.queue.insert(turn, id);
        for &group in class.groups.keys() {
            seating.of_group.entry(group).or_default().insert(turn);
        }
        let known = seating
            .of_state
            .iter_mut()
            .find(|(state, _)| *state == class.state);
        match known {
            Some((_, turns)) => drop(turns.insert(turn)),
            None => seating
                .of_state
                .push((class.state.clone(), BTreeSet::from([turn]))),
        }
        self.borrow();
    }

    /// A class is tried from time to time, at a place that tells when.
    fn only_try(&mut self, id: ClassId, place: impl Fn(u64) -> Place) {
        self.set_place(id, place(0));
        let poll_at = self.next_poll(id);
        if let Some(class) = self.classes.get_mut(&id) {
            class.place = place(poll_at);
            self.polls.insert((poll_at, id));
        }
    }

    /// A class wants no seat any more, or gets one.
    pub(super) fn dequeue(&mut self, id: ClassId) {
        let Some(class) = self.classes.get_mut(&id) else {
            return;
        };
        let (turn, poll_at) = match std::mem::replace(&mut class.place, Place::Nowhere) {
            Place::Queued { turn, poll_at } => (turn, poll_at),
            Place::Resting { poll_at } | Place::Asleep { poll_at } => {
                self.polls.remove(&(poll_at, id));
                return self.account(id);
            }
            place => return class.place = place,
        };
        let seating = &mut self.seating;
        seating.queue.remove(&turn);
        for &group in class.groups.keys() {
            seating.leave_group(group, turn);
        }
        for (_, turns) in &mut seating.of_state {
            turns.remove(&turn);
        }
        seating.of_state.retain(|(_, turns)| !turns.is_empty());
        self.polls.remove(&(poll_at, id));
        self.account(id);
    }

    /// A class without a seat is only tried from time to time, until the server does what it is asked.
    pub(super) fn rest(&mut self, id: ClassId) {
        self.dequeue(id);
        self.only_try(id, |poll_at| Place::Resting { poll_at });
    }

    /// A client of this group has joined a class.
    pub(super) fn enter_group(&mut self, id: ClassId, group: usize) {
        let Some(class) = self.classes.get_mut(&id) else {
            return;
        };
        *class.groups.entry(group).or_default() += 1;
        if let Place::Queued { turn, .. } = class.place {
            let turns = self.seating.of_group.entry(group).or_default();
            turns.insert(turn);
        }
    }

    /// A client of this group has left a class.
    pub(super) fn leave_group(&mut self, id: ClassId, group: usize) {
        let Some(class) = self.classes.get_mut(&id) else {
            return;
        };
        if let Some(members) = class.groups.get_mut(&group) {
            *members -= 1;
            if *members == 0 {
                class.groups.remove(&group);
                if let Place::Queued { turn, .. } = class.place {
                    self.seating.leave_group(group, turn);
                }
            }
        }
    }

    /// Borrows a seat for each group that has classes without one. A class for which one group has just asked is left to
    /// it, until it has waited for long: that group may be at its cap, and another not.
    pub(super) fn borrow(&mut self) {
        let seating = &self.seating;
        let asked = seating.borrowing.values();
        let asked = asked.filter_map(|id| seating.seats.get(id));
        let mut asked: BTreeSet<u64> = asked
            .filter(|seat| self.now < seat.borrowed_at + ASKING_MICROS)
            .filter_map(|seat| match seat.phase {
                Phase::Borrowing { turn } => Some(turn),
                _ => None,
            })
            .collect();
        let mut wanting: Vec<(usize, u64)> = Vec::new();
        for (&group, turns) in &seating.of_group {
            if !seating.borrowing.contains_key(&group)
                && let Some(&turn) = turns.iter().find(|turn| !asked.contains(turn))
            {
                asked.insert(turn);
                wanting.push((group, turn));
            }
        }
        for (group, turn) in wanting {
            let class = self.seating.queue.get(&turn);
            let Some(class) = class.and_then(|class| self.classes.get(class)) else {
                continue;
            };
            let (state, reason): (S, PinReason) = (class.state.clone(), class.call.reason());
            let id = SeatId(self.fresh());
            let seat = Seat {
                state: state.clone(),
                group,
                borrowed_at: self.now,
                phase: Phase::Borrowing { turn },
                turn: None,
                is_yielding: false,
            };
            self.seating.seats.insert(id, seat);
            self.seating.borrowing.insert(group, id);
            self.actions.push_back(Action::Borrow {
                seat: id,
                state,
                group,
                reason,
            });
        }
    }

    /// The class queued as `turn` gets the seat.
    fn take_turn(&mut self, id: SeatId, turn: u64) {
        let Some(&class_id) = self.seating.queue.get(&turn) else {
            return;
        };
        self.dequeue(class_id);
        self.set_place(class_id, Place::Seated(id));
        if let Some(seat) = self.seating.seats.get_mut(&id) {
            seat.turn = Some((class_id, self.now));
        }
        self.place(id);
    }

    fn release(&mut self, id: SeatId) {
        self.seating.seats.remove(&id);
        self.actions.push_back(Action::Release { seat: id });
    }

    /// Something about the class that has a seat has changed.
    pub(super) fn tend_seat(&mut self, id: SeatId) {
        let Some(seat) = self.seating.seats.get(&id) else {
            return;
        };
        let Some((class_id, _)) = seat.turn else {
            return;
        };
        let Some(class) = self.classes.get(&class_id) else {
            return;
        };
        let is_urgent = !class.wants_call();
        let is_settled = settled_at(&seat.phase).is_some_and(|at| at <= self.now);
        match seat.phase {
            Phase::Borrowing { .. } => {}
            Phase::Idle => self.place(id),
            Phase::Calling { .. } if is_urgent => self.unblock_seat(id),
            Phase::Calling { .. } => {
                if is_settled && self.is_amiss(class_id) {
                    self.unblock_seat(id);
                }
            }
        }
    }

    pub(super) fn unblock_seat(&mut self, id: SeatId) {
        let phase = self.seating.seats.get_mut(&id).map(|seat| &mut seat.phase);
        if let Some(Phase::Calling { is_unblocking, .. }) = phase
            && !std::mem::replace(is_unblocking, true)
        {
            self.actions.push_back(Action::Unblock { seat: id });
        }
    }

    /// What becomes of a seat without a call: its class goes on, or another has its turn, or it is given back.
    fn place(&mut self, id: SeatId) {
        let Some(seat) = self.seating.seats.get(&id) else {
            return;
        };
        let Some((class_id, since)) = seat.turn else {
            return;
        };
        let (state, is_yielding) = (seat.state.clone(), seat.is_yielding);
        let Some(class) = self.classes.get_mut(&class_id) else {
            return;
        };
        let wants = class.wants_call();
        // Which of the keys of its call are in the way is known soon.
        let is_looking = class.lines.has_doubted();
        let rests = wants && class.rests;
        class.rests &= !rests;
        let is_waiting_for_a_try = class.begun > 0 || class.lines.awaited() == 0;
        let turn = since + self.slice(class_id).unwrap_or(u64::MAX / 2);
        let is_over = self.is_contended(class_id) && self.now >= turn;
        if (wants || is_looking) && !rests && !is_over && !is_yielding {
            if wants && !is_waiting_for_a_try {
                self.issue(id, class_id);
            }
            return;
        }
        let is_next = |seating: &Seating<S>| {
            let next = seating.first_of(&state)?;
            // Another state has waited longer: its turn needs a place in the budget.
            (seating.queue.keys().next() == Some(&next)).then_some(next)
        };
        let next = is_next(&self.seating).filter(|_| !is_yielding);
        if let Some(seat) = self.seating.seats.get_mut(&id) {
            seat.turn = None;
        }
        self.set_place(class_id, Place::Nowhere);
        if next.is_none() {
            self.release(id);
        }
        match (wants, rests) {
            (true, true) => self.rest(class_id),
            (true, false) => self.enqueue(class_id),
            (false, _) => {}
        }
        if let Some(next) = next {
            self.take_turn(id, next);
        }
        if self.classes.get(&class_id).is_some_and(|c| c.is_over()) {
            self.tend(class_id, &[]);
        }
    }

    fn issue(&mut self, id: SeatId, class_id: ClassId) {
        let slice = self.slice(class_id);
        let slice = match self.has_endless_calls {
            true => slice,
            // Nobody could end it for a newcomer, or for one whose time is over.
            false => Some(slice.unwrap_or(MAX_SLICE_MICROS).min(MAX_SLICE_MICROS)),
        };
        let keys = self.next_keys(class_id);
        let Some(class) = self.classes.get_mut(&class_id) else {
            return;
        };
        let takes = usize::from(class.takes());
        class.lines.change_each(&keys, |line| {
            line.is_issued = true;
            line.pops += takes;
        });
        // Not shorter than the turn, or it would be issued once more.
        let millis = slice.map(|slice| slice.div_ceil(1000));
        let patience = millis.map_or(Patience::Endless, Patience::Millis);
        let mut bytes = Vec::new();
        class.call.push_over(&mut bytes, &keys, patience);
        let price = class.sends(&keys).issued();
        if let Some(account) = class.account {
            let pause = self.owners.repeated(account, price);
            // Turns themselves see to it that calls over few keys are not issued too often.
            class.wakes_at = self.now + if pause > MAX_SLICE_MICROS { pause } else { 0 };
        }
        let ahead = self.ahead(class_id);
        if let Some(seat) = self.seating.seats.get_mut(&id) {
            seat.phase = Phase::Calling {
                keys,
                since: self.now,
                settled_at: self.now + SETTLING_MICROS.max(price * CHANGE_SHARE),
                until: millis.map(|millis| self.now + millis * 1000),
                is_unblocking: false,
            };
        }
        self.actions.push_back(Action::Issue {
            seat: id,
            ahead,
            call: Sending {
                bytes,
                replies: 1,
                takes,
            },
        });
    }

    /// The call on a seat is over. Returns whose it was, and its keys.
    fn stop_calling(&mut self, id: SeatId) -> Option<(ClassId, Vec<Key>)> {
        let seat = self.seating.seats.get_mut(&id)?;
        let (class_id, _) = seat.turn?;
        let Phase::Calling { keys, .. } = std::mem::replace(&mut seat.phase, Phase::Idle) else {
            return None;
        };
        let class = self.classes.get_mut(&class_id)?;
        let takes = usize::from(class.takes());
        class.lines.change_each(&keys, |line| {
            line.is_issued = false;
            line.pops -= takes;
        });
        Some((class_id, keys))
    }

    /// The server refused an issued call. Over several keys it may mean one of them, and each waiter asks for itself; what
    /// is refused again and again, though nobody alone is, is asked for over fewer keys.
    fn refused(&mut self, class_id: ClassId, keys: &[Key], error: &[u8]) {
        let Some(class) = self.classes.get(&class_id) else {
            return;
        };
        if class.call.shape != super::call::Shape::Pops {
            return self.tell_seated_out(class_id, keys, error);
        }
        if self.bars(class_id, error) {
            return self.bar(class_id, keys);
        }
        if let Some(class) = self.classes.get_mut(&class_id) {
            class.refused(keys.len());
        }
        self.retry_all(class_id, keys);
    }

    pub(super) fn tell_seated_out(&mut self, class: ClassId, keys: &[Key], error: &[u8]) {
        let all = self.seated_out(class, keys);
        self.tell_all(all, &Outcome::reply(error));
    }
}
