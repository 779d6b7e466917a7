//! Everybody who waits on one worker: arrivals, departures, deadlines, and who gets what the server answers.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::attempts::{Attempt, Kind, TryId};
use super::call::{Call, Shape};
use super::class::{Class, ClassId, Place};
use super::looks::Looks;
use super::owners::Owners;
use super::popped::Fate;
use super::seats::Seating;
use super::{Action, Key, Outcome, Unblock, WaiterId, Whose, reply};
use crate::texts::ServerVersion;

/// How far a wait is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// The ids its call speaks of are being asked for.
    Resolving,
    /// Its own call is being tried.
    Trying,
    /// It has tried and found nothing.
    Waiting,
    /// It is over, and told as soon as no element can come any more that nobody else could take.
    Ending(Ending),
}

/// Why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Null,
    Error,
}

impl Ending {
    fn outcome(self) -> Outcome {
        match self {
            Self::Null => Outcome::Null,
            Self::Error => Outcome::Unblocked,
        }
    }
}

type ByIdentity = HashMap<Box<[u8]>, ClassId>;

#[derive(Debug)]
pub(super) struct Waiter<S> {
    pub(super) state: S,
    pub(super) whose: Whose,
    pub(super) call: Call,
    /// `None` until the ids it speaks of are known.
    pub(super) class: Option<ClassId>,
    /// The lines it stands in.
    pub(super) keys: Vec<Key>,
    deadline: Option<u64>,
    pub(super) status: Status,
    /// It has once tried and found nothing: the server would have blocked it.
    pub(super) has_waited: bool,
}

impl<S> Waiter<S> {
    /// Whether its time has passed.
    pub(super) fn is_late(&self, now: u64) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// Everybody who waits on one worker. `S` is the state of a connection; times are microseconds.
#[derive(Debug)]
pub struct Waits<S> {
    pub(super) now: u64,
    next_id: u64,
    pub(super) waiters: HashMap<WaiterId, Waiter<S>>,
    pub(super) classes: HashMap<ClassId, Class<S>>,
    /// Classes by what their calls have in common, for each state.
    index: Vec<(S, ByIdentity)>,
    deadlines: BTreeSet<(u64, WaiterId)>,
    pub(super) polls: BTreeSet<(u64, ClassId)>,
    /// When keys that are left out are looked at again.
    pub(super) looks: Looks,
    pub(super) owners: Owners,
    pub(super) attempts: HashMap<TryId, Attempt>,
    pub(super) seating: Seating<S>,
    /// Calls may be issued without an end, since they can be ended. Otherwise each ends by itself, soon.
    pub(super) has_endless_calls: bool,
    /// Which server it is.
    pub(super) server: ServerVersion,
    pub(super) actions: VecDeque<Action<S>>,
}

impl<S> Default for Waits<S> {
    fn default() -> Self {
        Self {
            now: 0,
            next_id: 0,
            waiters: HashMap::new(),
            classes: HashMap::new(),
            index: Vec::new(),
            deadlines: BTreeSet::new(),
            polls: BTreeSet::new(),
            looks: Looks::default(),
            owners: Owners::default(),
            attempts: HashMap::new(),
            seating: Seating::default(),
            has_endless_calls: true,
            server: ServerVersion::UNKNOWN,
            actions: VecDeque::new(),
        }
    }
}

impl<S: Clone + PartialEq> Waits<S> {
    /// The next thing to do; ask until there is nothing.
    pub fn next_action(&mut self) -> Option<Action<S>> {
        self.actions.pop_front()
    }

    /// Whether the server lets respool end calls that are issued (`CLIENT UNBLOCK`). Returns whether it was thought so before.
    pub fn can_end_calls(&mut self, can: bool) -> bool {
        std::mem::replace(&mut self.has_endless_calls, can)
    }

    /// The calls are made to this server.
    pub fn served_by(&mut self, server: ServerVersion) {
        self.server = server;
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// A client makes a blocking call in `state`.
    pub fn arrive(&mut self, state: S, whose: Whose, call: Call, now: u64) -> WaiterId {
        self.now = now;
        let id = WaiterId(self.fresh());
        let deadline = call.timeout_micros().map(|timeout| now + timeout);
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
        let is_relative = call.is_relative();
        let waiter = Waiter {
            state: state.clone(),
            whose,
            call,
            class: None,
            keys: Vec::new(),
            deadline,
            status: Status::Resolving,
            has_waited: false,
        };
        self.waiters.insert(id, waiter);
        if is_relative {
            self.attempt(Kind::Resolve(id), state);
        } else {
            self.join(id);
        }
        id
    }

    /// A client is gone.
    pub fn leave(&mut self, waiter: WaiterId, now: u64) {
        self.now = now;
        self.remove_and_tend(waiter);
    }

    /// Whether one whose wait is not over has once tried and found nothing: the server would have blocked it.
    pub fn has_waited(&self, waiter: WaiterId) -> bool {
        self.waiters
            .get(&waiter)
            .is_some_and(|waiter| waiter.has_waited)
    }

    /// CLIENT UNBLOCK of one who waits. False: its wait is over already.
    pub fn unblock(&mut self, waiter: WaiterId, mode: Unblock, now: u64) -> bool {
        self.now = now;
        let ending = match mode {
            Unblock::Timeout => Ending::Null,
            Unblock::Error => Ending::Error,
        };
        self.end(waiter, ending)
    }

    /// When [`Self::tick`] is to be called next.
    pub fn next_due(&self) -> Option<u64> {
        let deadline = self.deadlines.first().map(|&(at, _)| at);
        let poll = self.polls.first().map(|&(at, _)| at);
        [deadline, poll, self.looks.next_at(), self.next_turn()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what time has made due.
    pub fn tick(&mut self, now: u64) {
        self.now = now;
        while let Some(&(at, waiter)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            self.time_out(waiter);
        }
        self.look_again();
        self.poll();
        self.turn();
    }

    pub(super) fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Takes a waiter into its class, at the end of its lines, and lets it try.
    pub(super) fn join(&mut self, id: WaiterId) {
        let Some(waiter) = self.waiters.get(&id) else {
            return;
        };
        let (state, call) = (waiter.state.clone(), waiter.call.clone());
        let whose = waiter.whose;
        let keys = call.keys();
        let class_id = self.class_of(&state, call);
        if let Some(class) = self.classes.get_mut(&class_id) {
            class.members.insert(id);
            class.lines.change_each(&keys, |line| {
                line.living.insert(id);
            });
        }
        if let Some(waiter) = self.waiters.get_mut(&id) {
            waiter.class = Some(class_id);
            waiter.keys = keys;
            waiter.status = Status::Trying;
        }
        self.enter_group(class_id, whose.group);
        self.enter_address(class_id, whose.address, id);
        self.attempt(Kind::Newcomer(id), state);
    }

    fn class_of(&mut self, state: &S, call: Call) -> ClassId {
        let identity = call.identity();
        let at = match self.index.iter().position(|(known, _)| known == state) {
            Some(at) => at,
            None => {
                self.index.push((state.clone(), HashMap::new()));
                self.index.len() - 1
            }
        };
        if let Some(&known) = self.index[at].1.get(&identity) {
            return known;
        }
        let id = ClassId(self.fresh());
        self.index[at].1.insert(identity, id);
        self.classes.insert(id, Class::new(state.clone(), call));
        id
    }

    /// Nothing is left of a class.
    fn forget(&mut self, id: ClassId) {
        let Some(class) = self.classes.remove(&id) else {
            return;
        };
        let at = self
            .index
            .iter()
            .position(|(known, _)| *known == class.state);
        if let Some(at) = at {
            self.index[at].1.remove(&class.identity);
            if self.index[at].1.is_empty() {
                self.index.swap_remove(at);
            }
        }
    }

    /// The time of a wait has passed. The server itself looks before it waits: who is not yet told by an answer that there is
    /// nothing ends with the first one that says so, however late a slow server gives it.
    fn time_out(&mut self, id: WaiterId) {
        if self.waiters.get(&id).is_some_and(|w| w.has_waited) {
            self.end(id, Ending::Null);
        }
    }

    /// A wait is over, unless an element might come that only this one could take: then it is as soon as none can.
    fn end(&mut self, id: WaiterId, ending: Ending) -> bool {
        let Some(waiter) = self.waiters.get(&id) else {
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
        self.set_status(id, Status::Ending(ending));
        self.tend(class, &keys);
        true
    }

    /// Changes how far a wait is, with all that is counted of it.
    pub(super) fn set_status(&mut self, id: WaiterId, status: Status) {
        let Some(waiter) = self.waiters.get_mut(&id) else {
            return;
        };
        let old = std::mem::replace(&mut waiter.status, status);
        waiter.has_waited |= status == Status::Waiting;
        let Some(class) = waiter.class.and_then(|class| self.classes.get_mut(&class)) else {
            return;
        };
        let is = |status: Status| usize::from(status == Status::Waiting);
        class.waiting = class.waiting + is(status) - is(old);
        class.lines.change_each(&waiter.keys, |line| {
            line.waiting = line.waiting + is(status) - is(old);
            if matches!(status, Status::Ending(_)) {
                line.ending.insert(id);
            }
        });
    }

    /// The keys the next call of a class asks about, as whoever is first in line would ask.
    pub(super) fn next_keys(&mut self, id: ClassId) -> Vec<Key> {
        let favoured = self.favoured(id);
        let Some(class) = self.classes.get_mut(&id) else {
            return Vec::new();
        };
        let keys = class.next_keys(favoured);
        let firsts = keys.iter().filter_map(|key| class.lines.first(key));
        let firsts: BTreeSet<WaiterId> = firsts.collect();
        let mut ordered = Vec::with_capacity(keys.len());
        let mut left = keys;
        for waiter in firsts.iter().filter_map(|first| self.waiters.get(first)) {
            let own = waiter.keys.iter().filter(|key| left.remove(*key));
            ordered.extend(own.cloned());
        }
        ordered.extend(left);
        ordered
    }

    /// Forgets a waiter. Returns its class and its lines.
    fn remove(&mut self, id: WaiterId) -> Option<(ClassId, Vec<Key>)> {
        let left = self.unclass(id);
        let waiter = self.waiters.remove(&id)?;
        if let Some(deadline) = waiter.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        left
    }

    /// Takes a waiter out of its class.
    pub(super) fn unclass(&mut self, id: WaiterId) -> Option<(ClassId, Vec<Key>)> {
        let waiter = self.waiters.get_mut(&id)?;
        let class_id = waiter.class.take()?;
        let keys = std::mem::take(&mut waiter.keys);
        let old = std::mem::replace(&mut waiter.status, Status::Resolving);
        let whose = waiter.whose;
        let class = self.classes.get_mut(&class_id)?;
        let waited = usize::from(old == Status::Waiting);
        class.members.remove(&id);
        class.waiting -= waited;
        class.lines.change_each(&keys, |line| {
            line.living.remove(&id);
            line.ending.remove(&id);
            line.waiting -= waited;
        });
        class.lines.review(&keys);
        self.leave_group(class_id, whose.group);
        self.leave_address(class_id, whose.address, id);
        Some((class_id, keys))
    }

    fn remove_and_tend(&mut self, id: WaiterId) {
        if let Some((class, keys)) = self.remove(id) {
            self.tend(class, &keys);
        }
    }

    /// Tells one who waits how the wait has ended. Its class is to be tended afterwards.
    pub(super) fn tell(&mut self, id: WaiterId, outcome: Outcome) {
        if let Some(waiter) = self.waiters.get(&id) {
            let has_waited = waiter.has_waited;
            self.remove(id);
            self.actions.push_back(Action::Tell {
                waiter: id,
                outcome,
                has_waited,
            });
        }
    }

    /// Tells everybody of `waiters` the same.
    pub(super) fn tell_all(
        &mut self,
        waiters: impl IntoIterator<Item = WaiterId>,
        outcome: &Outcome,
    ) {
        for waiter in waiters {
            self.tell(waiter, outcome.clone());
        }
    }

    /// Those of a class who have tried and found nothing, and those whose wait is over, in order of arrival.
    pub(super) fn seated_out(&self, class: ClassId, keys: &[Key]) -> Vec<WaiterId> {
        let Some(class) = self.classes.get(&class) else {
            return Vec::new();
        };
        let all = class.lines.all_for(keys).into_iter();
        all.filter(|id| {
            let status = self.waiters.get(id).map(|waiter| waiter.status);
            matches!(status, Some(Status::Waiting | Status::Ending(_)))
        })
        .collect()
    }

    /// Hands what the server answered to whom it belongs: the first in line for its key. What a reading call answers
    /// belongs to everybody in line, and to `newcomer`, who asked. Returns the line.
    pub(super) fn deliver(
        &mut self,
        class_id: ClassId,
        element: &[u8],
        newcomer: Option<WaiterId>,
    ) -> Option<Key> {
        let class = self.classes.get(&class_id)?;
        let key = match class.call.shape {
            Shape::Pops => reply::key(element).map(Key::from)?,
            Shape::Takes | Shape::Reads => Key::from(&[][..]),
        };
        let outcome = || Outcome::reply(element);
        if !class.takes() {
            let all = self.seated_out(class_id, std::slice::from_ref(&key));
            self.tell_all(all.into_iter().chain(newcomer), &outcome());
        } else if let Some(first) = class.lines.first(&key) {
            self.tell(first, outcome());
        } else if let Some(class) = self.classes.get_mut(&class_id) {
            let adrift = class.adrift.entry(Key::clone(&key)).or_default();
            adrift.push(element.into());
        }
        Some(key)
    }

    /// Hands what was popped for nobody to whoever stands in line by now, and puts it back if nobody does: all of a key at
    /// once, so that it keeps its order.
    fn put_back(&mut self, id: ClassId) {
        let Some(class) = self
            .classes
            .get_mut(&id)
            .filter(|class| !class.adrift.is_empty())
        else {
            return;
        };
        for (key, elements) in std::mem::take(&mut class.adrift) {
            let mut elements: VecDeque<Box<[u8]>> = elements.into();
            while let Some(class) = self.classes.get(&id)
                && let Some(first) = class.lines.first(&key)
                && let Some(element) = elements.pop_front()
            {
                self.tell(first, Outcome::reply(&element));
            }
            let Some(class) = self.classes.get_mut(&id) else {
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

    /// An answer was an error that may concern only one of those for whom the server was asked: each asks for itself.
    pub(super) fn retry_all(&mut self, class: ClassId, keys: &[Key]) {
        for id in self.seated_out(class, keys) {
            if let Some(waiter) = self.waiters.get(&id)
                && waiter.status == Status::Waiting
            {
                let state = waiter.state.clone();
                self.set_status(id, Status::Trying);
                self.attempt(Kind::Newcomer(id), state);
            }
        }
    }

    /// Sees to a class after something about `keys` has changed: tells whose wait is over, ends a call that asks for too
    /// much or too little, joins or leaves the queue for a seat.
    pub(super) fn tend(&mut self, id: ClassId, keys: &[Key]) {
        self.put_back(id);
        self.settle(id, keys);
        self.let_try(id);
        self.share_looks(id);
        let Some(class) = self.classes.get(&id) else {
            return;
        };
        let wants = class.wants_call();
        match class.place {
            Place::Nowhere if wants => self.enqueue(id),
            Place::Queued { .. } | Place::Asleep { .. } | Place::Resting { .. } => {
                if wants {
                    self.hasten(id);
                } else {
                    self.dequeue(id);
                }
            }
            Place::Seated(seat) => self.tend_seat(seat),
            _ => {}
        }
        if self.classes.get(&id).is_some_and(Class::is_over) {
            self.forget(id);
        }
    }

    /// Lets those try who had to wait until fewer pops were under way.
    fn let_try(&mut self, id: ClassId) {
        let Some(class) = self
            .classes
            .get_mut(&id)
            .filter(|class| !class.held.is_empty())
        else {
            return;
        };
        for held in std::mem::take(&mut class.held) {
            let Some(waiter) = self.waiters.get(&held) else {
                continue;
            };
            let Some(class) = self.classes.get_mut(&id) else {
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
            while let Some(class) = self.classes.get(&id)
                && let Some(line) = class.lines.get(key)
                && (!class.takes() || !line.is_needed())
                && let Some(&next) = line.ending.range(WaiterId(after.0 + 1)..).next()
            {
                after = next;
                let Some(waiter) = self.waiters.get(&next) else {
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
