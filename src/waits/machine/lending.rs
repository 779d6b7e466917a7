//! Decides who gets a connection for its call, and when: classes queue for one, are tried until they have it, and give it back.

use super::BlockingCalls;
use crate::command::PinReason;
use crate::waits::class::ClassStage;
use crate::waits::connections::CallPhase;
use crate::waits::ids::{CallConnectionId, ClassId};
use crate::waits::reply::is_passing;
use crate::waits::tries::TryPurpose;
use crate::waits::{NotLent, WaitAction, WaitOutcome};

impl<S: Clone + PartialEq> BlockingCalls<S> {
    /// Tells whether a connection that is being borrowed is still of use.
    pub fn wants(&self, connection: CallConnectionId) -> bool {
        let connection = self.connections.all.get(&connection);
        connection.is_some_and(|connection| self.connections.first_of(&connection.state).is_some())
    }

    /// Uses a connection that was borrowed.
    pub fn lent(&mut self, id: CallConnectionId, now: u64) {
        self.now = now;
        match self.connections.lent(id, now) {
            None => return,
            Some(Some(turn)) => self.take_turn(id, turn),
            Some(None) => self.release(id),
        }
        self.borrow();
    }

    /// Goes on without a connection that was not borrowed.
    pub fn not_lent(&mut self, id: CallConnectionId, why: NotLent, now: u64) {
        self.now = now;
        let Some(state) = self.connections.not_lent(id) else {
            return;
        };
        let classes: Vec<ClassId> = self.connections.all_queued().collect();
        match why {
            NotLent::Timeout => {}
            NotLent::Unreachable => {
                for class in classes {
                    self.fail_class(class, &WaitOutcome::Unreachable);
                }
            }
            NotLent::Refused(reply) => {
                for class in classes {
                    let is_meant = |id| self.blocked.class(id).is_some_and(|c| c.state == state);
                    if is_meant(class) && is_passing(&reply) {
                        self.rest(class);
                    } else if is_meant(class) {
                        self.fail_class(class, &WaitOutcome::reply(&reply));
                    }
                }
            }
        }
        self.borrow();
    }

    /// Gives connections back because so many others want one: as many, as soon as they have been held for a slice, the one
    /// held longest first.
    pub fn yield_to(&mut self, others: usize, now: u64) {
        self.now = now;
        if let Some(id) = self.connections.yields(others, now) {
            self.vacate(id, now);
        }
    }

    /// Gives a connection back as soon as its call can be ended.
    pub fn vacate(&mut self, id: CallConnectionId, now: u64) {
        self.now = now;
        let connection = self.connections.all.get_mut(&id);
        if let Some(connection) = connection.filter(|connection| !connection.is_yielding) {
            connection.is_yielding = true;
            match connection.phase {
                CallPhase::Idle => self.assign(id),
                _ => self.end_call_on(id),
            }
        }
    }

    /// Has a class want a connection. One whose call costs much has it issued again only after a while, and is tried until
    /// then.
    pub(super) fn enqueue(&mut self, id: ClassId) {
        let now = self.now;
        let Some(class) = self.blocked.class_mut(id) else {
            return;
        };
        if class.wakes_at > now {
            let stage = |poll_at| ClassStage::Asleep { poll_at };
            return self.polls.begin(id, class, now, stage);
        }
        let stage = |poll_at| ClassStage::Queued { turn: 0, poll_at };
        self.polls.begin(id, class, now, stage);
        let queued = self.next_turn_of(id);
        if let Some(class) = self.blocked.class_mut(id)
            && let ClassStage::Queued { turn, .. } = &mut class.stage
        {
            *turn = queued;
            self.connections.enqueue(id, class, queued);
        }
        self.borrow();
    }

    /// Has a class want no connection any more, or get one.
    pub(super) fn dequeue(&mut self, id: ClassId) {
        if let Some(class) = self.blocked.class_mut(id)
            && let Some(turn) = self.polls.end(id, class, self.now)
        {
            self.connections.dequeue(class, turn);
        }
    }

    /// Has a class without a connection only tried from time to time, until the server does what it is asked.
    pub(super) fn rest(&mut self, id: ClassId) {
        self.dequeue(id);
        if let Some(class) = self.blocked.class_mut(id) {
            let stage = |poll_at| ClassStage::Resting { poll_at };
            self.polls.begin(id, class, self.now, stage);
        }
    }

    pub(super) fn set_stage(&mut self, id: ClassId, stage: ClassStage) {
        if let Some(class) = self.blocked.class_mut(id) {
            self.polls.set_stage(class, stage, self.now);
        }
    }

    /// Tries the classes whose time it is.
    pub(super) fn poll(&mut self) {
        let mut has_polled = false;
        while let Some(id) = self.polls.take_due(self.now) {
            let Some(class) = self.blocked.class_mut(id) else {
                continue;
            };
            self.polls.repeat(id, class, self.now);
            if class.attempts == 0 {
                let state = class.state.clone();
                self.attempt(TryPurpose::Poll(id), state);
            }
            self.wake(id);
            has_polled = true;
        }
        if has_polled {
            self.borrow();
        }
    }

    /// Puts a class that may have its call issued again into the queue for a connection.
    fn wake(&mut self, id: ClassId) {
        let class = self.blocked.class(id);
        let is_rested = class.is_some_and(|class| {
            matches!(class.stage, ClassStage::Asleep { .. }) && class.wakes_at <= self.now
        });
        if is_rested {
            self.dequeue(id);
            self.enqueue(id);
        }
    }

    /// Borrows a connection for each group that has classes without one.
    pub(super) fn borrow(&mut self) {
        for (group, turn) in self.connections.wanting(self.now) {
            let class = self.connections.queued(turn);
            let Some(class) = class.and_then(|class| self.blocked.class(class)) else {
                continue;
            };
            let (state, reason): (S, PinReason) = (class.state.clone(), class.call.reason());
            let connection = CallConnectionId(self.blocked.fresh());
            self.connections
                .borrow(connection, state.clone(), (group, turn), self.now);
            self.actions.push_back(WaitAction::Borrow {
                connection,
                state,
                group,
                reason,
            });
        }
    }

    /// Gives the connection to the class queued as `turn`.
    fn take_turn(&mut self, id: CallConnectionId, turn: u64) {
        let Some(class_id) = self.connections.queued(turn) else {
            return;
        };
        self.dequeue(class_id);
        self.set_stage(class_id, ClassStage::Calling(id));
        if let Some(connection) = self.connections.all.get_mut(&id) {
            connection.turn = Some((class_id, self.now));
        }
        self.assign(id);
    }

    fn release(&mut self, id: CallConnectionId) {
        self.connections.all.remove(&id);
        self.actions
            .push_back(WaitAction::Release { connection: id });
    }

    /// Decides what becomes of a connection without a call: its class goes on, or another has its turn, or it is given back.
    pub(super) fn assign(&mut self, id: CallConnectionId) {
        let Some(connection) = self.connections.all.get(&id) else {
            return;
        };
        let Some((class_id, since)) = connection.turn else {
            return;
        };
        let (state, is_yielding) = (connection.state.clone(), connection.is_yielding);
        let Some(class) = self.blocked.class_mut(class_id) else {
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
        // Where another state has waited longer, its turn needs a place in the budget.
        let next = self.connections.first_of(&state);
        let next = next.filter(|_| next == self.connections.first() && !is_yielding);
        if let Some(connection) = self.connections.all.get_mut(&id) {
            connection.turn = None;
        }
        self.set_stage(class_id, ClassStage::Nowhere);
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
        if self.blocked.class(class_id).is_some_and(|c| c.is_over()) {
            self.tend(class_id, &[]);
        }
    }
}
