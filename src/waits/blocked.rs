//! Keeps who waits on one worker, how far each wait is, and which waits are of one class.

use std::collections::{BTreeSet, HashMap};

use super::call::BlockingCall;
use super::class::WaitClass;
use super::ids::{ClassId, WaiterId};
use super::{LineKey, WaitOrigin, WaitOutcome};

/// One of this many keys of a call that cannot ask about all is one that each such call asks about.
const FAVOURED: usize = 4;

/// Says how far a wait is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitStatus {
    /// The ids its call speaks of are being asked for.
    Resolving,
    /// Its own call is being tried.
    Trying,
    /// It has tried and found nothing.
    Waiting,
    /// It is over, and told as soon as no element can come any more that nobody else could take.
    Ending(WaitEnding),
}

/// Says why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitEnding {
    Null,
    Error,
}

impl WaitEnding {
    pub(super) fn outcome(self) -> WaitOutcome {
        match self {
            Self::Null => WaitOutcome::Null,
            Self::Error => WaitOutcome::Unblocked,
        }
    }
}

/// Keeps what is known of one who waits.
#[derive(Debug)]
pub(super) struct WaitingClient<S> {
    pub(super) state: S,
    pub(super) whose: WaitOrigin,
    pub(super) call: BlockingCall,
    /// It is `None` until the ids that the call speaks of are known.
    pub(super) class: Option<ClassId>,
    /// The waiter stands in these lines.
    pub(super) keys: Vec<LineKey>,
    deadline: Option<u64>,
    pub(super) status: WaitStatus,
    /// It has once tried and found nothing: the server would have blocked it.
    pub(super) has_waited: bool,
}

impl<S> WaitingClient<S> {
    /// Tells whether its time has passed.
    pub(super) fn is_late(&self, now: u64) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// Names a class, and the lines in it, that a waiter has left.
#[derive(Debug)]
pub(super) struct LeftClass {
    pub(super) class: ClassId,
    pub(super) keys: Vec<LineKey>,
    /// The waiter is of this client group.
    pub(super) group: usize,
}

/// Finds a class by what its calls have in common.
type ByIdentity = HashMap<Box<[u8]>, ClassId>;

/// Keeps everybody who waits on one worker, and the classes they form.
#[derive(Debug)]
pub(super) struct WaitingClients<S> {
    next_id: u64,
    pub(super) waiters: HashMap<WaiterId, WaitingClient<S>>,
    pub(super) classes: HashMap<ClassId, WaitClass<S>>,
    index: Vec<(S, ByIdentity)>,
    deadlines: BTreeSet<(u64, WaiterId)>,
}

impl<S> Default for WaitingClients<S> {
    fn default() -> Self {
        Self {
            next_id: 0,
            waiters: HashMap::new(),
            classes: HashMap::new(),
            index: Vec::new(),
            deadlines: BTreeSet::new(),
        }
    }
}

impl<S: Clone + PartialEq> WaitingClients<S> {
    /// Returns a number that nothing else has.
    pub(super) fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn waiter(&self, id: WaiterId) -> Option<&WaitingClient<S>> {
        self.waiters.get(&id)
    }

    pub(super) fn class(&self, id: ClassId) -> Option<&WaitClass<S>> {
        self.classes.get(&id)
    }

    pub(super) fn class_mut(&mut self, id: ClassId) -> Option<&mut WaitClass<S>> {
        self.classes.get_mut(&id)
    }

    /// Takes in a client that makes a blocking call in `state`. It stands in no line yet.
    pub(super) fn add(
        &mut self,
        state: S,
        whose: WaitOrigin,
        call: BlockingCall,
        now: u64,
    ) -> WaiterId {
        let id = WaiterId(self.fresh());
        let deadline = call.timeout_micros().map(|timeout| now + timeout);
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
        let waiter = WaitingClient {
            state,
            whose,
            call,
            class: None,
            keys: Vec::new(),
            deadline,
            status: WaitStatus::Resolving,
            has_waited: false,
        };
        self.waiters.insert(id, waiter);
        id
    }

    /// Returns when the time of the next waiter passes.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Returns one whose time has passed, each once.
    pub(super) fn take_late(&mut self, now: u64) -> Option<WaiterId> {
        self.deadlines.first().filter(|(at, _)| *at <= now)?;
        self.deadlines.pop_first().map(|(_, id)| id)
    }

    /// Takes a waiter into its class, at the end of its lines. Returns the class.
    pub(super) fn join(&mut self, id: WaiterId, now: u64) -> Option<ClassId> {
        let waiter = self.waiters.get(&id)?;
        let (state, call, whose) = (waiter.state.clone(), waiter.call.clone(), waiter.whose);
        let keys = call.keys();
        let class_id = self.class_of(&state, call);
        let class = self.classes.get_mut(&class_id)?;
        class.members.insert(id);
        class.lines.change_each(&keys, |line| {
            line.living.insert(id);
        });
        *class.groups.entry(whose.group).or_default() += 1;
        class.fresh_at = now;
        class.owners.entry(whose.address).or_default().insert(id);
        let waiter = self.waiters.get_mut(&id)?;
        waiter.class = Some(class_id);
        waiter.keys = keys;
        waiter.status = WaitStatus::Trying;
        Some(class_id)
    }

    fn class_of(&mut self, state: &S, call: BlockingCall) -> ClassId {
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
        self.classes.insert(id, WaitClass::new(state.clone(), call));
        id
    }

    /// Forgets a class if nothing is left of it.
    pub(super) fn forget_if_over(&mut self, id: ClassId) {
        if !self.classes.get(&id).is_some_and(WaitClass::is_over) {
            return;
        }
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

    /// Changes how far a wait is, with all that is counted of it.
    pub(super) fn set_status(&mut self, id: WaiterId, status: WaitStatus) {
        let Some(waiter) = self.waiters.get_mut(&id) else {
            return;
        };
        let old = std::mem::replace(&mut waiter.status, status);
        waiter.has_waited |= status == WaitStatus::Waiting;
        let Some(class) = waiter.class.and_then(|class| self.classes.get_mut(&class)) else {
            return;
        };
        let is = |status: WaitStatus| usize::from(status == WaitStatus::Waiting);
        class.waiting = class.waiting + is(status) - is(old);
        class.lines.change_each(&waiter.keys, |line| {
            line.waiting = line.waiting + is(status) - is(old);
            if matches!(status, WaitStatus::Ending(_)) {
                line.ending.insert(id);
            }
        });
    }

    /// Takes a waiter out of its class.
    pub(super) fn unclass(&mut self, id: WaiterId) -> Option<LeftClass> {
        let waiter = self.waiters.get_mut(&id)?;
        let class_id = waiter.class.take()?;
        let keys = std::mem::take(&mut waiter.keys);
        let old = std::mem::replace(&mut waiter.status, WaitStatus::Resolving);
        let WaitOrigin { group, address } = waiter.whose;
        let class = self.classes.get_mut(&class_id)?;
        let waited = usize::from(old == WaitStatus::Waiting);
        class.members.remove(&id);
        class.waiting -= waited;
        class.lines.change_each(&keys, |line| {
            line.living.remove(&id);
            line.ending.remove(&id);
            line.waiting -= waited;
        });
        class.lines.review(&keys);
        if let Some(members) = class.groups.get_mut(&group) {
            *members -= 1;
            if *members == 0 {
                class.groups.remove(&group);
            }
        }
        if let Some(waiters) = class.owners.get_mut(&address) {
            waiters.remove(&id);
            if waiters.is_empty() {
                class.owners.remove(&address);
            }
        }
        Some(LeftClass {
            class: class_id,
            keys,
            group,
        })
    }

    /// Forgets a waiter that stands in no line.
    pub(super) fn remove(&mut self, id: WaiterId) {
        if let Some(waiter) = self.waiters.remove(&id)
            && let Some(deadline) = waiter.deadline
        {
            self.deadlines.remove(&(deadline, id));
        }
    }

    /// Returns those of a class who have tried and found nothing, and those whose wait is over, in order of arrival.
    pub(super) fn who_waited(&self, class: ClassId, keys: &[LineKey]) -> Vec<WaiterId> {
        let Some(class) = self.classes.get(&class) else {
            return Vec::new();
        };
        let all = class.lines.all_for(keys).into_iter();
        all.filter(|id| {
            let status = self.waiters.get(id).map(|waiter| waiter.status);
            matches!(status, Some(WaitStatus::Waiting | WaitStatus::Ending(_)))
        })
        .collect()
    }

    /// Returns the keys that the next call of a class asks about, in the order in which whoever is first in line would ask.
    pub(super) fn next_keys(&mut self, id: ClassId) -> Vec<LineKey> {
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

    /// Returns the keys about which a call over too many asks each time: of each address those of who came last.
    fn favoured(&self, id: ClassId) -> BTreeSet<LineKey> {
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
                left -= usize::from(found.insert(LineKey::clone(key)));
                if left == 0 {
                    break;
                }
            }
        }
        found
    }
}
