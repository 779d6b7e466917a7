//! Decides what is done for everybody who waits on one worker: arrivals, departures, deadlines, and who gets what the server answers.
//!
//! The machine owns the parts that keep what is known and calls them: who waits and how the waits form classes (`blocked.rs`), when
//! classes are tried (`polls.rs`), who has a connection for its call (`connections.rs`), when keys that are left out are looked at (`looks.rs`).
//! Its children are what it does about each of them: tries, issued calls, turns, keys of another kind, calls refused on arrival.

mod arrivals;
mod barred;
mod calls;
mod lending;
mod tries;
mod turns;

use std::collections::{HashMap, VecDeque};

use super::blocked::{WaitEnding, WaitStatus, WaitingClients};
use super::call::{BlockingCall, CallShape};
use super::class::ClassStage;
use super::connections::CallConnections;
use super::ids::{ClassId, TryId, WaiterId};
use super::looks::KindLooks;
use super::polls::ClassPolls;
use super::popped::PoppedFate;
use super::tries::{PendingTry, TryPurpose};
use super::{LineKey, UnblockMode, WaitAction, WaitOrigin, WaitOutcome, reply};
use crate::texts::ServerVersion;

/// The blocking calls of everybody who waits on one worker. `S` is the state of a connection; times are microseconds.
#[derive(Debug)]
pub struct BlockingCalls<S> {
    now: u64,
    pub(super) blocked: WaitingClients<S>,
    pub(super) polls: ClassPolls,
    pub(super) looks: KindLooks,
    pub(super) connections: CallConnections<S>,
    pub(super) attempts: HashMap<TryId, PendingTry>,
    /// Calls may be issued without an end, since they can be ended. Otherwise each ends by itself, soon.
    has_endless_calls: bool,
    /// The server is of this product and version, as far as it is known.
    server: ServerVersion,
    actions: VecDeque<WaitAction<S>>,
}

impl<S> Default for BlockingCalls<S> {
    fn default() -> Self {
        Self {
            now: 0,
            blocked: WaitingClients::default(),
            polls: ClassPolls::default(),
            looks: KindLooks::default(),
            connections: CallConnections::default(),
            attempts: HashMap::new(),
            has_endless_calls: true,
            server: ServerVersion::UNKNOWN,
            actions: VecDeque::new(),
        }
    }
}

impl<S: Clone + PartialEq> BlockingCalls<S> {
    /// Returns the next thing to do; the caller asks until there is nothing.
    pub fn next_action(&mut self) -> Option<WaitAction<S>> {
        self.actions.pop_front()
    }

    /// Says whether the server lets respool end calls that are issued (`CLIENT UNBLOCK`). Returns whether it was thought so
    /// before.
    pub fn can_end_calls(&mut self, can: bool) -> bool {
        std::mem::replace(&mut self.has_endless_calls, can)
    }

    /// Says to which server the calls are made.
    pub fn served_by(&mut self, server: ServerVersion) {
        self.server = server;
    }

    /// Returns how many wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.blocked.waiters.len()
    }

    /// Takes in a client that makes a blocking call in `state`.
    pub fn arrive(
        &mut self,
        state: S,
        whose: WaitOrigin,
        call: BlockingCall,
        now: u64,
    ) -> WaiterId {
        self.now = now;
        let is_relative = call.is_relative();
        let id = self.blocked.add(state.clone(), whose, call, now);
        if is_relative {
            self.attempt(TryPurpose::Resolve(id), state);
        } else {
            self.join(id);
        }
        id
    }

    /// Forgets a client that is gone.
    pub fn leave(&mut self, waiter: WaiterId, now: u64) {
        self.now = now;
        let left = self.unclass(waiter);
        self.blocked.remove(waiter);
        if let Some((class, keys)) = left {
            self.tend(class, &keys);
        }
    }

    /// Tells whether one whose wait is not over has once tried and found nothing: the server would have blocked it.
    pub fn has_waited(&self, waiter: WaiterId) -> bool {
        self.blocked
            .waiter(waiter)
            .is_some_and(|waiter| waiter.has_waited)
    }

    /// Ends the wait of one whom CLIENT UNBLOCK names. False: it is over already.
    pub fn unblock(&mut self, waiter: WaiterId, mode: UnblockMode, now: u64) -> bool {
        self.now = now;
        let ending = match mode {
            UnblockMode::Timeout => WaitEnding::Null,
            UnblockMode::Error => WaitEnding::Error,
        };
        self.end(waiter, ending)
    }

    /// Returns when [`Self::tick`] is to be called next.
    pub fn next_due(&self) -> Option<u64> {
        let times = [
            self.blocked.next_deadline(),
            self.polls.next_at(),
            self.looks.next_at(),
            self.next_turn(),
        ];
        times.into_iter().flatten().min()
    }

    /// Does what time has made due.
    pub fn tick(&mut self, now: u64) {
        self.now = now;
        while let Some(waiter) = self.blocked.take_late(now) {
            self.time_out(waiter);
        }
        self.look_again();
        self.poll();
        self.turn();
    }

    /// Takes a waiter into its class, at the end of its lines, and lets it try.
    fn join(&mut self, id: WaiterId) {
        let Some(class_id) = self.blocked.join(id, self.now) else {
            return;
        };
        let Some((waiter, class)) = self.blocked.waiter(id).zip(self.blocked.class(class_id))
        else {
            return;
        };
        if let ClassStage::Queued { turn, .. } = class.stage {
            self.connections.enter_group(waiter.whose.group, turn);
        }
        let state = waiter.state.clone();
        self.attempt(TryPurpose::Newcomer(id), state);
    }

    /// Takes a waiter out of its class. Returns the class and its lines.
    fn unclass(&mut self, id: WaiterId) -> Option<(ClassId, Vec<LineKey>)> {
        let left = self.blocked.unclass(id)?;
        let class = self.blocked.class(left.class)?;
        if let ClassStage::Queued { turn, .. } = class.stage
            && !class.groups.contains_key(&left.group)
        {
            self.connections.leave_group(left.group, turn);
        }
        Some((left.class, left.keys))
    }

    /// Ends a wait whose time has passed. The server itself looks before it waits: who is not yet told by an answer that
    /// there is nothing ends with the first one that says so, however late a slow server gives it.
    fn time_out(&mut self, id: WaiterId) {
        if self.blocked.waiter(id).is_some_and(|w| w.has_waited) {
            self.end(id, WaitEnding::Null);
        }
    }

    /// Ends a wait, unless an element might come that only this one could take: then it ends as soon as none can.
    fn end(&mut self, id: WaiterId, ending: WaitEnding) -> bool {
        let Some(waiter) = self.blocked.waiter(id) else {
            return false;
        };
        if matches!(waiter.status, WaitStatus::Ending(_)) {
            return false;
        }
        let Some(class) = waiter.class else {
            self.tell(id, ending.outcome());
            return true;
        };
        let keys = waiter.keys.clone();
        self.blocked.set_status(id, WaitStatus::Ending(ending));
        self.tend(class, &keys);
        true
    }

    /// Tells one who waits how the wait has ended. Its class is to be tended afterwards.
    fn tell(&mut self, id: WaiterId, outcome: WaitOutcome) {
        if let Some(waiter) = self.blocked.waiter(id) {
            let has_waited = waiter.has_waited;
            self.unclass(id);
            self.blocked.remove(id);
            self.actions.push_back(WaitAction::Tell {
                waiter: id,
                outcome,
                has_waited,
            });
        }
    }

    /// Tells everybody of `waiters` the same.
    fn tell_all(&mut self, waiters: impl IntoIterator<Item = WaiterId>, outcome: &WaitOutcome) {
        for waiter in waiters {
            self.tell(waiter, outcome.clone());
        }
    }

    /// Hands what the server answered to whom it belongs: the first in line for its key. What a reading call answers
    /// belongs to everybody in line, and to `newcomer`, who asked. Returns the line.
    fn deliver(
        &mut self,
        class_id: ClassId,
        element: &[u8],
        newcomer: Option<WaiterId>,
    ) -> Option<LineKey> {
        let class = self.blocked.class(class_id)?;
        let key = match class.call.shape {
            CallShape::Pops => reply::key(element).map(LineKey::from)?,
            CallShape::Takes | CallShape::Reads => LineKey::from(&[][..]),
        };
        let outcome = || WaitOutcome::reply(element);
        if !class.takes() {
            let all = self
                .blocked
                .who_waited(class_id, std::slice::from_ref(&key));
            self.tell_all(all.into_iter().chain(newcomer), &outcome());
        } else if let Some(first) = class.lines.first(&key) {
            self.tell(first, outcome());
        } else if let Some(class) = self.blocked.class_mut(class_id) {
            let unclaimed = class.unclaimed.entry(LineKey::clone(&key)).or_default();
            unclaimed.push(element.into());
        }
        Some(key)
    }

    /// Hands what was popped for nobody to whoever stands in line by now, and puts it back if nobody does: all of a key at
    /// once, so that it keeps its order.
    fn put_back(&mut self, id: ClassId) {
        let Some(class) = self
            .blocked
            .class_mut(id)
            .filter(|class| !class.unclaimed.is_empty())
        else {
            return;
        };
        for (key, elements) in std::mem::take(&mut class.unclaimed) {
            let mut elements: VecDeque<Box<[u8]>> = elements.into();
            while let Some(class) = self.blocked.class(id)
                && let Some(first) = class.lines.first(&key)
                && let Some(element) = elements.pop_front()
            {
                self.tell(first, WaitOutcome::reply(&element));
            }
            let Some(class) = self.blocked.class_mut(id) else {
                return;
            };
            let elements = Vec::from(elements);
            if elements.is_empty() {
                continue;
            }
            if class.lines.get(&key).is_some_and(|line| line.pops > 0) {
                class.unclaimed.insert(key, elements);
                continue;
            }
            for fate in class.call.popped.give_back_all(&elements) {
                self.actions.push_back(match fate {
                    PoppedFate::Nothing => continue,
                    PoppedFate::Orphaned => WaitAction::Orphaned(1),
                    PoppedFate::Return(request, elements) => WaitAction::Return {
                        state: class.state.clone(),
                        request,
                        elements,
                    },
                });
            }
        }
    }

    /// Lets each ask for itself, since an answer was an error that may concern only one of those for whom the server was
    /// asked.
    fn retry_all(&mut self, class: ClassId, keys: &[LineKey]) {
        for id in self.blocked.who_waited(class, keys) {
            if let Some(waiter) = self.blocked.waiter(id)
                && waiter.status == WaitStatus::Waiting
            {
                let state = waiter.state.clone();
                self.blocked.set_status(id, WaitStatus::Trying);
                self.attempt(TryPurpose::Newcomer(id), state);
            }
        }
    }

    /// Sees to a class after something about `keys` has changed: tells whose wait is over, ends a call that asks for too
    /// much or too little, joins or leaves the queue for a connection.
    fn tend(&mut self, id: ClassId, keys: &[LineKey]) {
        self.put_back(id);
        self.settle(id, keys);
        self.let_try(id);
        self.share_looks(id);
        let Some(class) = self.blocked.class_mut(id) else {
            return;
        };
        let wants = class.wants_call();
        match class.stage {
            ClassStage::Nowhere if wants => self.enqueue(id),
            ClassStage::Queued { .. } | ClassStage::Asleep { .. } | ClassStage::Resting { .. }
                if wants =>
            {
                self.polls.hasten(id, class, self.now);
            }
            ClassStage::Queued { .. } | ClassStage::Asleep { .. } | ClassStage::Resting { .. } => {
                self.dequeue(id)
            }
            ClassStage::Calling(connection) => self.tend_call(connection),
            _ => {}
        }
        self.blocked.forget_if_over(id);
    }

    /// Lets those try who had to wait until fewer pops were under way.
    fn let_try(&mut self, id: ClassId) {
        let Some(class) = self
            .blocked
            .class_mut(id)
            .filter(|class| !class.held.is_empty())
        else {
            return;
        };
        for held in std::mem::take(&mut class.held) {
            let Some(waiter) = self.blocked.waiters.get(&held) else {
                continue;
            };
            let Some(class) = self.blocked.classes.get_mut(&id) else {
                return;
            };
            if class.lines.has_room(&waiter.keys) {
                let state = waiter.state.clone();
                self.attempt(TryPurpose::Newcomer(held), state);
            } else {
                class.held.insert(held);
            }
        }
    }

    /// Tells those whose wait is over and whom no element needs any more.
    fn settle(&mut self, id: ClassId, keys: &[LineKey]) {
        for key in keys {
            let mut after = WaiterId(0);
            while let Some(class) = self.blocked.class(id)
                && let Some(line) = class.lines.get(key)
                && (!class.takes() || !line.is_needed())
                && let Some(&next) = line.ending.range(WaiterId(after.0 + 1)..).next()
            {
                after = next;
                let Some(waiter) = self.blocked.waiter(next) else {
                    continue;
                };
                if let WaitStatus::Ending(ending) = waiter.status
                    && (!class.takes() || !class.lines.needs(&waiter.keys))
                {
                    self.tell(next, ending.outcome());
                }
            }
        }
    }
}
