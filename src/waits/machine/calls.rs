//! What the machine does with the calls that are issued: what each asks about, and what its answer means for whoever waits.

use super::Waits;
use crate::texts::UNBLOCKED;
use crate::waits::call::{Patience, Shape};
use crate::waits::class::{Class, Place};
use crate::waits::ids::{ClassId, SeatId};
use crate::waits::price::CHANGE_SHARE;
use crate::waits::reply::{Said, is_passing};
use crate::waits::seats::Phase;
use crate::waits::tries::Sending;
use crate::waits::{Action, Key, MAX_SLICE_MICROS, Outcome, SETTLING_MICROS};

impl<S: Clone + PartialEq> Waits<S> {
    /// Reads the reply to an issued call.
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
                if let Some(class) = self.blocked.class_mut(class_id) {
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
                if let Some(class) = self.blocked.class_mut(class_id)
                    && let Some(key) = key
                {
                    class.chase(&key, element.len());
                }
            }
        }
        if let Some(class) = self.blocked.class_mut(class_id)
            && !refused
        {
            class.accepted();
        }
        self.tend(class_id, &keys);
    }

    /// Gives up an issued call that was answered with more than may be gathered.
    pub fn too_large(&mut self, id: SeatId, now: u64) {
        self.now = now;
        if let Some((class, keys)) = self.stop_calling(id) {
            self.let_go(class, &keys, None);
            self.tend(class, &keys);
        }
    }

    /// Takes back a call that was not sent, since a pause would put it off: its class is only tried until one of the tries is
    /// answered.
    pub fn put_off(&mut self, id: SeatId, now: u64) {
        self.now = now;
        let Some((class_id, keys)) = self.stop_calling(id) else {
            return;
        };
        if let Some(class) = self.blocked.class_mut(class_id) {
            class.rests = true;
        }
        self.tend(class_id, &keys);
    }

    /// Tells whether nobody is there any more for whom the call on a connection is under way.
    pub fn is_left(&self, id: SeatId) -> bool {
        let turn = self.seating.seats.get(&id).and_then(|seat| seat.turn);
        let class = turn.and_then(|(class, _)| self.blocked.class(class));
        class.is_none_or(|class| class.members.is_empty())
    }

    /// Gives up a connection that was lost; where it was `sent`, the call issued on it, if any, may have run.
    pub fn lost(&mut self, id: SeatId, sent: bool, now: u64) {
        self.now = now;
        let calling = self.stop_calling(id);
        let turn = self.seating.seats.remove(&id).and_then(|seat| seat.turn);
        let Some((class_id, _)) = turn else {
            return;
        };
        let keys = calling.map(|(_, keys)| keys).unwrap_or_default();
        self.set_place(class_id, Place::Nowhere);
        if sent && self.blocked.class(class_id).is_some_and(Class::takes) {
            self.lose(class_id, &keys, 1);
        }
        self.tend(class_id, &keys);
        self.borrow();
    }

    /// Goes on after something about the class that has this connection has changed.
    pub(super) fn tend_seat(&mut self, id: SeatId) {
        let Some(seat) = self.seating.seats.get(&id) else {
            return;
        };
        let Some((class_id, _)) = seat.turn else {
            return;
        };
        let Some(class) = self.blocked.class(class_id) else {
            return;
        };
        let is_urgent = !class.wants_call();
        let is_settled = seat.settled_at().is_some_and(|at| at <= self.now);
        match seat.phase {
            Phase::Borrowing { .. } => {}
            Phase::Idle => self.place(id),
            Phase::Calling { .. } if is_urgent => self.unblock_seat(id),
            Phase::Calling { .. } => {
                if is_settled && class.is_amiss() {
                    self.unblock_seat(id);
                }
            }
        }
    }

    pub(super) fn issue(&mut self, id: SeatId, class_id: ClassId) {
        let slice = self.slice(class_id);
        let slice = match self.has_endless_calls {
            true => slice,
            // Nobody could end it for a newcomer, or for one whose time is over.
            false => Some(slice.unwrap_or(MAX_SLICE_MICROS).min(MAX_SLICE_MICROS)),
        };
        let keys = self.blocked.next_keys(class_id);
        let Some(class) = self.blocked.class_mut(class_id) else {
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
            let pause = self.polls.owners.repeated(account, price);
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

    /// Goes on after the server has refused an issued call. Over several keys it may mean one of them, and each waiter asks
    /// for itself; what is refused again and again, though nobody alone is, is asked for over fewer keys.
    fn refused(&mut self, class_id: ClassId, keys: &[Key], error: &[u8]) {
        let Some(class) = self.blocked.class(class_id) else {
            return;
        };
        if class.call.shape != Shape::Pops {
            return self.tell_seated_out(class_id, keys, error);
        }
        if class.bars(error) {
            return self.bar(class_id, keys);
        }
        if let Some(class) = self.blocked.class_mut(class_id) {
            class.refused(keys.len());
        }
        self.retry_all(class_id, keys);
    }

    pub(super) fn tell_seated_out(&mut self, class: ClassId, keys: &[Key], error: &[u8]) {
        let all = self.blocked.seated_out(class, keys);
        self.tell_all(all, &Outcome::reply(error));
    }

    /// Asks the server to end the call on a connection, unless it is asked already.
    pub(super) fn unblock_seat(&mut self, id: SeatId) {
        if self.seating.end_call(id) {
            self.actions.push_back(Action::Unblock { seat: id });
        }
    }

    /// Notes that the call on a connection is over. Returns whose it was, and its keys.
    fn stop_calling(&mut self, id: SeatId) -> Option<(ClassId, Vec<Key>)> {
        let (class_id, keys) = self.seating.ended_call(id)?;
        let class = self.blocked.class_mut(class_id)?;
        let takes = usize::from(class.takes());
        class.lines.change_each(&keys, |line| {
            line.is_issued = false;
            line.pops -= takes;
        });
        Some((class_id, keys))
    }
}
