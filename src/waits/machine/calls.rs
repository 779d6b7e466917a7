//! Issues calls: what each asks about, and what its answer means for whoever waits.

use super::BlockingCalls;
use crate::texts::UNBLOCKED;
use crate::waits::call::{CallShape, CallTimeout};
use crate::waits::class::{ClassStage, WaitClass};
use crate::waits::connections::CallPhase;
use crate::waits::ids::{CallConnectionId, ClassId};
use crate::waits::price::CHANGE_SHARE;
use crate::waits::reply::{CallAnswer, is_passing};
use crate::waits::tries::RequestBatch;
use crate::waits::{LineKey, MAX_SLICE_MICROS, SETTLING_MICROS, WaitAction, WaitOutcome};

impl<S: Clone + PartialEq> BlockingCalls<S> {
    /// Reads the reply to an issued call.
    pub fn answered(&mut self, id: CallConnectionId, reply: &[u8], now: u64) {
        self.now = now;
        let Some((class_id, keys)) = self.stop_calling(id) else {
            return;
        };
        let mut refused = false;
        match CallAnswer::by(reply) {
            CallAnswer::Null => {}
            CallAnswer::Error(UNBLOCKED) => {}
            CallAnswer::Error(error) if is_passing(error) => {
                refused = true;
                if let Some(class) = self.blocked.class_mut(class_id) {
                    class.rests = true;
                }
            }
            CallAnswer::Error(error) if self.is_of_arrival(class_id, error) => {
                refused = true;
                self.doubt(class_id);
            }
            CallAnswer::Error(error) => {
                refused = true;
                self.refused(class_id, &keys, error);
            }
            CallAnswer::Element(element) => {
                let key = self.deliver(class_id, element, None);
                if let Some(class) = self.blocked.class_mut(class_id)
                    && let Some(key) = key
                {
                    class.follow_up(&key, element.len());
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
    pub fn too_large(&mut self, id: CallConnectionId, now: u64) {
        self.now = now;
        if let Some((class, keys)) = self.stop_calling(id) {
            self.let_go(class, &keys, None);
            self.tend(class, &keys);
        }
    }

    /// Takes back a call that was not sent, since a pause would put it off: its class is only tried until one of the tries is
    /// answered.
    pub fn put_off(&mut self, id: CallConnectionId, now: u64) {
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
    pub fn is_left(&self, id: CallConnectionId) -> bool {
        let turn = self
            .connections
            .all
            .get(&id)
            .and_then(|connection| connection.turn);
        let class = turn.and_then(|(class, _)| self.blocked.class(class));
        class.is_none_or(|class| class.members.is_empty())
    }

    /// Gives up a connection that was lost; where it was `sent`, the call issued on it, if any, may have run.
    pub fn lost(&mut self, id: CallConnectionId, sent: bool, now: u64) {
        self.now = now;
        let calling = self.stop_calling(id);
        let turn = self
            .connections
            .all
            .remove(&id)
            .and_then(|connection| connection.turn);
        let Some((class_id, _)) = turn else {
            return;
        };
        let keys = calling.map(|(_, keys)| keys).unwrap_or_default();
        self.set_stage(class_id, ClassStage::Nowhere);
        if sent && self.blocked.class(class_id).is_some_and(WaitClass::takes) {
            self.lose(class_id, &keys, 1);
        }
        self.tend(class_id, &keys);
        self.borrow();
    }

    /// Goes on after something about the class that has this connection has changed.
    pub(super) fn tend_call(&mut self, id: CallConnectionId) {
        let Some(connection) = self.connections.all.get(&id) else {
            return;
        };
        let Some((class_id, _)) = connection.turn else {
            return;
        };
        let Some(class) = self.blocked.class(class_id) else {
            return;
        };
        let is_urgent = !class.wants_call();
        let is_settled = connection.settled_at().is_some_and(|at| at <= self.now);
        match connection.phase {
            CallPhase::Borrowing { .. } => {}
            CallPhase::Idle => self.assign(id),
            CallPhase::Calling { .. } if is_urgent => self.end_call_on(id),
            CallPhase::Calling { .. } => {
                if is_settled && class.is_amiss() {
                    self.end_call_on(id);
                }
            }
        }
    }

    pub(super) fn issue(&mut self, id: CallConnectionId, class_id: ClassId) {
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
        let patience = millis.map_or(CallTimeout::Endless, CallTimeout::Millis);
        let mut bytes = Vec::new();
        class.call.push_over(&mut bytes, &keys, patience);
        let price = class.sends(&keys).issued();
        if let Some(account) = class.account {
            let pause = self.polls.owners.repeated(account, price);
            // Turns themselves see to it that calls over few keys are not issued too often.
            class.wakes_at = self.now + if pause > MAX_SLICE_MICROS { pause } else { 0 };
        }
        let ahead = self.ahead(class_id);
        if let Some(connection) = self.connections.all.get_mut(&id) {
            connection.phase = CallPhase::Calling {
                keys,
                since: self.now,
                settled_at: self.now + SETTLING_MICROS.max(price * CHANGE_SHARE),
                until: millis.map(|millis| self.now + millis * 1000),
                is_unblocking: false,
            };
        }
        self.actions.push_back(WaitAction::Issue {
            connection: id,
            ahead,
            call: RequestBatch {
                bytes,
                replies: 1,
                takes,
            },
        });
    }

    /// Goes on after the server has refused an issued call. Over several keys it may mean one of them, and each waiter asks
    /// for itself; what is refused again and again, though nobody alone is, is asked for over fewer keys.
    fn refused(&mut self, class_id: ClassId, keys: &[LineKey], error: &[u8]) {
        let Some(class) = self.blocked.class(class_id) else {
            return;
        };
        if class.call.shape != CallShape::Pops {
            return self.tell_who_waited(class_id, keys, error);
        }
        if class.bars(error) {
            return self.bar(class_id, keys);
        }
        if let Some(class) = self.blocked.class_mut(class_id) {
            class.refused(keys.len());
        }
        self.retry_all(class_id, keys);
    }

    pub(super) fn tell_who_waited(&mut self, class: ClassId, keys: &[LineKey], error: &[u8]) {
        let all = self.blocked.who_waited(class, keys);
        self.tell_all(all, &WaitOutcome::reply(error));
    }

    /// Asks the server to end the call on a connection, unless it is asked already.
    pub(super) fn end_call_on(&mut self, id: CallConnectionId) {
        if self.connections.end_call(id) {
            self.actions
                .push_back(WaitAction::Unblock { connection: id });
        }
    }

    /// Notes that the call on a connection is over. Returns whose it was, and its keys.
    fn stop_calling(&mut self, id: CallConnectionId) -> Option<(ClassId, Vec<LineKey>)> {
        let (class_id, keys) = self.connections.ended_call(id)?;
        let class = self.blocked.class_mut(class_id)?;
        let takes = usize::from(class.takes());
        class.lines.change_each(&keys, |line| {
            line.is_issued = false;
            line.pops -= takes;
        });
        Some((class_id, keys))
    }
}
