//! Everybody who waits on one worker: arrivals, departures, deadlines, and who gets what the server answers.
//!
//! The machine owns the parts that keep what is known and calls them: who waits and how the waits form classes (`blocked.rs`), when
//! classes are tried (`polls.rs`), who has a connection for its call (`seats.rs`), when keys that are left out are looked at (`looks.rs`).
//! Its children are what it does about each of them: tries, issued calls, turns, keys of another kind, calls refused on arrival.

mod arrivals;
mod barred;
mod calls;
mod lending;
mod tries;
mod turns;

use std::collections::{HashMap, VecDeque};

use super::blocked::{Blocked, Ending, Status};
use super::call::{Call, Shape};
use super::class::Place;
use super::ids::{ClassId, TryId, WaiterId};
use super::looks::Looks;
use super::polls::Polls;
use super::popped::Fate;
use super::seats::Seating;
use super::tries::{Attempt, Kind};
use super::{Action, Key, Outcome, Unblock, Whose, reply};
use crate::texts::ServerVersion;

/// The blocking calls of everybody who waits on one worker. `S` is the state of a connection; times are microseconds.
#[derive(Debug)]
pub struct Waits<S> {
    now: u64,
    pub(super) blocked: Blocked<S>,
    pub(super) polls: Polls,
    pub(super) looks: Looks,
    pub(super) seating: Seating<S>,
    pub(super) attempts: HashMap<TryId, Attempt>,
    /// Calls may be issued without an end, since they can be ended. Otherwise each ends by itself, soon.
    has_endless_calls: bool,
    /// Which server it is.
    server: ServerVersion,
    actions: VecDeque<Action<S>>,
}

impl<S> Default for Waits<S> {
    fn default() -> Self {
        Self {
            now: 0,
            blocked: Blocked::default(),
            polls: Polls::default(),
            looks: Looks::default(),
            seating: Seating::default(),
            attempts: HashMap::new(),
            has_endless_calls: true,
            server: ServerVersion::UNKNOWN,
            actions: VecDeque::new(),
        }
    }
}

impl<S: Clone + PartialEq> Waits<S> {
    /// Returns the next thing to do; the caller asks until there is nothing.
    pub fn next_action(&mut self) -> Option<Action<S>> {
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
    #[cfg(any(test, fuzzing))]
    pub fn waiting(&self) -> usize {
        self.blocked.waiters.len()
    }

    /// Takes in a client that makes a blocking call in `state`.
    pub fn arrive(&mut self, state: S, whose: Whose, call: Call, now: u64) -> WaiterId {
        self.now = now;
        let is_relative = call.is_relative();
        let id = self.blocked.add(state.clone(), whose, call, now);
        if is_relative {
            self.attempt(Kind::Resolve(id), state);
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
    pub fn unblock(&mut self, waiter: WaiterId, mode: Unblock, now: u64) -> bool {
        self.now = now;
        let ending = match mode {
            Unblock::Timeout => Ending::Null,
            Unblock::Error => Ending::Error,
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
        if let Place::Queued { turn, .. } = class.place {
            self.seating.enter_group(waiter.whose.group, turn);
        }
        let state = waiter.state.clone();
        self.attempt(Kind::Newcomer(id), state);
    }

    /// Takes a waiter out of its class. Returns the class and its lines.
    fn unclass(&mut self, id: WaiterId) -> Option<(ClassId, Vec<Key>)> {
        let left = self.blocked.unclass(id)?;
        let class = self.blocked.class(left.class)?;
        if let Place::Queued { turn, .. } = class.place
            && !class.groups.contains_key(&left.group)
        {
            self.seating.leave_group(left.group, turn);
        }
        Some((left.class, left.keys))
    }

    /// Ends a wait whose time has passed. The server itself looks before it waits: who is not yet told by an answer that
    /// there is nothing ends with the first one that says so, however late a slow server gives it.
    fn time_out(&mut self, id: WaiterId) {
        if self.blocked.waiter(id).is_some_and(|w| w.has_waited) {
            self.end(id, Ending::Null);
        }
    }

    /// Ends a wait, unless an element might come that only this one could take: then it ends as soon as none can.
    fn end(&mut self, id: WaiterId, ending: Ending) -> bool {
        let Some(waiter) = self.blocked.waiter(id) else {
            return false;
        };
        if matches!(waiter.status, Status::Ending(_)) {
            return false;
        }
        let Some(class) = waiter.class else {
            self.tell(id, ending.outcome());
            return true;
        };
        let keys = waiter.keys.clone();
        self.blocked.set_status(id, Status::Ending(ending));
        self.tend(class, &keys);
        true
    }

    /// Tells one who waits how the wait has ended. Its class is to be tended afterwards.
    fn tell(&mut self, id: WaiterId, outcome: Outcome) {
        if let Some(waiter) = self.blocked.waiter(id) {
            let has_waited = waiter.has_waited;
            self.unclass(id);
            self.blocked.remove(id);
            self.actions.push_back(Action::Tell {
                waiter: id,
                outcome,
                has_waited,
            });
        }
    }

    /// Tells everybody of `waiters` the same.
    fn tell_all(&mut self, waiters: impl IntoIterator<Item = WaiterId>, outcome: &Outcome) {
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
    ) -> Option<Key> {
        let class = self.blocked.class(class_id)?;
        let key = match class.call.shape {
            Shape::Pops => reply::key(element).map(Key::from)?,
            Shape::Takes | Shape::Reads => Key::from(&[][..]),
        };
        let outcome = || Outcome::reply(element);
        if !class.takes() {
            let all = self
                .blocked
                .seated_out(class_id, std::slice::from_ref(&key));
            self.tell_all(all.into_iter().chain(newcomer), &outcome());
        } else if let Some(first) = class.lines.first(&key) {
            self.tell(first, outcome());
        } else if let Some(class) = self.blocked.class_mut(class_id) {
            let adrift = class.adrift.entry(Key::clone(&key)).or_default();
            adrift.push(element.into());
        }
        Some(key)
    }

    /// Hands what was popped for nobody to whoever stands in line by now, and puts it back if nobody does: all of a key at
    /// once, so that it keeps its order.
    fn put_back(&mut self, id: ClassId) {
        let Some(class) = self
            .blocked
            .class_mut(id)
            .filter(|class| !class.adrift.is_empty())
        else {
            return;
        };
        for (key, elements) in std::mem::take(&mut class.adrift) {
            let mut elements: VecDeque<Box<[u8]>> = elements.into();
            while let Some(class) = self.blocked.class(id)
                && let Some(first) = class.lines.first(&key)
                && let Some(element) = elements.pop_front()
            {
                self.tell(first, Outcome::reply(&element));
            }
            let Some(class) = self.blocked.class_mut(id) else {
                return;
            };
            let elements = Vec::from(elements);
            if elements.is_empty() {
                continue;
            }
            if class.lines.get(&key).is_some_and(|line| line.pops > 0) {
                class.adrift.insert(key, elements);
                continue;
            }
            for fate in class.call.popped.give_back_all(&elements) {
                self.actions.push_back(match fate {
                    Fate::Nothing => continue,
                    Fate::Orphaned => Action::Orphaned(1),
                    Fate::Return(request, elements) => Action::Return {
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
    fn retry_all(&mut self, class: ClassId, keys: &[Key]) {
        for id in self.blocked.seated_out(class, keys) {
            if let Some(waiter) = self.blocked.waiter(id)
                && waiter.status == Status::Waiting
            {
                let state = waiter.state.clone();
                self.blocked.set_status(id, Status::Trying);
                self.attempt(Kind::Newcomer(id), state);
            }
        }
    }

    /// Sees to a class after something about `keys` has changed: tells whose wait is over, ends a call that asks for too
    /// much or too little, joins or leaves the queue for a seat.
    fn tend(&mut self, id: ClassId, keys: &[Key]) {
        self.put_back(id);
        self.settle(id, keys);
        self.let_try(id);
        self.share_looks(id);
        let Some(class) = self.blocked.class_mut(id) else {
            return;
        };
        let wants = class.wants_call();
        match class.place {
            Place::Nowhere if wants => self.enqueue(id),
            Place::Queued { .. } | Place::Asleep { .. } | Place::Resting { .. } if wants => {
                self.polls.hasten(id, class, self.now);
            }
            Place::Queued { .. } | Place::Asleep { .. } | Place::Resting { .. } => self.dequeue(id),
            Place::Seated(seat) => self.tend_seat(seat),
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
                self.attempt(Kind::Newcomer(held), state);
            } else {
                class.held.insert(held);
            }
        }
    }

    /// Tells those whose wait is over and whom no element needs any more.
    fn settle(&mut self, id: ClassId, keys: &[Key]) {
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
                if let Status::Ending(ending) = waiter.status
                    && (!class.takes() || !class.lines.needs(&waiter.keys))
                {
                    self.tell(next, ending.outcome());
                }
            }
        }
    }
}
