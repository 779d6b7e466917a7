//! Keeps the connections that are borrowed for issued calls, which classes have one, and who gets the next.
//!
//! Invariant: a class has at most one call issued.

use std::collections::{BTreeMap, BTreeSet};

use super::class::WaitClass;
use super::ids::{CallConnectionId, ClassId};
use super::{ASKING_MICROS, LineKey, MAX_SLICE_MICROS};

/// Says what a connection is used for.
#[derive(Debug)]
pub(super) enum CallPhase {
    /// It is asked for, for the class with this turn or whoever is first in its state by then.
    Borrowing { turn: u64 },
    /// Its class waits for a try before its call is issued.
    Idle,
    Calling {
        keys: Vec<LineKey>,
        since: u64,
        /// It may be ended only to ask for other keys from then on: those who come and go cost no more than their share.
        settled_at: u64,
        /// The server ends it by itself then.
        until: Option<u64>,
        is_unblocking: bool,
    },
}

/// Keeps what is known of one connection that is borrowed, or asked for.
#[derive(Debug)]
pub(super) struct CallConnection<S> {
    pub(super) state: S,
    pub(super) group: usize,
    /// It is lent, or asked for, since then.
    pub(super) borrowed_at: u64,
    pub(super) phase: CallPhase,
    /// This class has it, since then.
    pub(super) turn: Option<(ClassId, u64)>,
    /// It is given back after its call, because others want a connection.
    pub(super) is_yielding: bool,
}

impl<S> CallConnection<S> {
    /// Returns from when on its call may be ended only to ask for other keys.
    pub(super) fn settled_at(&self) -> Option<u64> {
        match self.phase {
            CallPhase::Calling { settled_at, .. } => Some(settled_at),
            _ => None,
        }
    }
}

/// Knows who has a connection for its call, and who wants one.
#[derive(Debug)]
pub(super) struct CallConnections<S> {
    pub(super) all: BTreeMap<CallConnectionId, CallConnection<S>>,
    /// These classes want a connection, in the order in which they get one.
    queue: BTreeMap<u64, ClassId>,
    /// The same turns stand here for each state, and for each group that a client of the class belongs to.
    of_state: Vec<(S, BTreeSet<u64>)>,
    of_group: BTreeMap<usize, BTreeSet<u64>>,
    /// One connection is borrowed at a time for each group.
    borrowing: BTreeMap<usize, CallConnectionId>,
}

impl<S> Default for CallConnections<S> {
    fn default() -> Self {
        Self {
            all: BTreeMap::new(),
            queue: BTreeMap::new(),
            of_state: Vec::new(),
            of_group: BTreeMap::new(),
            borrowing: BTreeMap::new(),
        }
    }
}

impl<S: Clone + PartialEq> CallConnections<S> {
    /// Puts a class into the queue with this turn.
    pub(super) fn enqueue(&mut self, id: ClassId, class: &WaitClass<S>, turn: u64) {
        self.queue.insert(turn, id);
        for &group in class.groups.keys() {
            self.enter_group(group, turn);
        }
        let known = self
            .of_state
            .iter_mut()
            .find(|(state, _)| *state == class.state);
        match known {
            Some((_, turns)) => drop(turns.insert(turn)),
            None => self
                .of_state
                .push((class.state.clone(), BTreeSet::from([turn]))),
        }
    }

    /// Takes out a class that stands there with this turn.
    pub(super) fn dequeue(&mut self, class: &WaitClass<S>, turn: u64) {
        self.queue.remove(&turn);
        for &group in class.groups.keys() {
            self.leave_group(group, turn);
        }
        for (_, turns) in &mut self.of_state {
            turns.remove(&turn);
        }
        self.of_state.retain(|(_, turns)| !turns.is_empty());
    }

    /// Lets this group borrow a connection for the class with this turn.
    pub(super) fn enter_group(&mut self, group: usize, turn: u64) {
        self.of_group.entry(group).or_default().insert(turn);
    }

    /// Lets it do so no longer.
    pub(super) fn leave_group(&mut self, group: usize, turn: u64) {
        if let Some(turns) = self.of_group.get_mut(&group) {
            turns.remove(&turn);
            if turns.is_empty() {
                self.of_group.remove(&group);
            }
        }
    }

    /// Returns the first turn of those who want a connection.
    pub(super) fn first(&self) -> Option<u64> {
        self.queue.keys().next().copied()
    }

    pub(super) fn first_of(&self, state: &S) -> Option<u64> {
        let (_, turns) = self.of_state.iter().find(|(known, _)| known == state)?;
        turns.first().copied()
    }

    /// Returns the class with this turn.
    pub(super) fn queued(&self, turn: u64) -> Option<ClassId> {
        self.queue.get(&turn).copied()
    }

    /// Returns every class that wants a connection, in the order in which they get one.
    pub(super) fn all_queued(&self) -> impl ExactSizeIterator<Item = ClassId> {
        self.queue.values().copied()
    }

    /// Returns how many connections are lent.
    pub(super) fn held(&self) -> usize {
        self.all.len() - self.borrowing.len()
    }

    /// Returns the groups for which a connection is to be borrowed, and the turn of the class it is for. A class for which
    /// one group has just asked is left to it, until it has waited for long: that group may be at its cap, and another not.
    pub(super) fn wanting(&self, now: u64) -> Vec<(usize, u64)> {
        let asked = self.borrowing.values();
        let asked = asked.filter_map(|id| self.all.get(id));
        let mut asked: BTreeSet<u64> = asked
            .filter(|connection| now < connection.borrowed_at + ASKING_MICROS)
            .filter_map(|connection| match connection.phase {
                CallPhase::Borrowing { turn } => Some(turn),
                _ => None,
            })
            .collect();
        let mut wanting: Vec<(usize, u64)> = Vec::new();
        for (&group, turns) in &self.of_group {
            if !self.borrowing.contains_key(&group)
                && let Some(&turn) = turns.iter().find(|turn| !asked.contains(turn))
            {
                asked.insert(turn);
                wanting.push((group, turn));
            }
        }
        wanting
    }

    /// Notes that a connection is being borrowed in this group, for the class with this turn.
    pub(super) fn borrow(
        &mut self,
        id: CallConnectionId,
        state: S,
        (group, turn): (usize, u64),
        now: u64,
    ) {
        let connection = CallConnection {
            state,
            group,
            borrowed_at: now,
            phase: CallPhase::Borrowing { turn },
            turn: None,
            is_yielding: false,
        };
        self.all.insert(id, connection);
        self.borrowing.insert(group, id);
    }

    /// Notes that a connection has been borrowed. Returns the first turn of those who can have it, if anybody wants one in
    /// its state.
    pub(super) fn lent(&mut self, id: CallConnectionId, now: u64) -> Option<Option<u64>> {
        let connection = self.all.get_mut(&id)?;
        connection.borrowed_at = now;
        connection.phase = CallPhase::Idle;
        let state = connection.state.clone();
        self.borrowing.remove(&connection.group);
        Some(self.first_of(&state))
    }

    /// Notes that a connection has not been borrowed. Returns the state it was to be in.
    pub(super) fn not_lent(&mut self, id: CallConnectionId) -> Option<S> {
        let connection = self.all.remove(&id)?;
        self.borrowing.remove(&connection.group);
        Some(connection.state)
    }

    /// Returns the connection that is to be given back first where so many others want one, if not as many are given back
    /// already: the one held longest, and for a slice at least.
    pub(super) fn yields(&self, others: usize, now: u64) -> Option<CallConnectionId> {
        let is_yielding = |connection: &&CallConnection<S>| connection.is_yielding;
        if self.all.values().filter(is_yielding).count() >= others {
            return None;
        }
        let may = |connection: &CallConnection<S>| {
            !matches!(connection.phase, CallPhase::Borrowing { .. })
                && !connection.is_yielding
                && now >= connection.borrowed_at + MAX_SLICE_MICROS
        };
        let connections = self.all.iter().filter(|(_, connection)| may(connection));
        let longest = connections
            .map(|(id, connection)| (connection.borrowed_at, *id))
            .min();
        longest.map(|(_, id)| id)
    }

    /// Notes that the call on a connection is to be ended. False: it is being ended, or there is none.
    pub(super) fn end_call(&mut self, id: CallConnectionId) -> bool {
        match self
            .all
            .get_mut(&id)
            .map(|connection| &mut connection.phase)
        {
            Some(CallPhase::Calling { is_unblocking, .. }) => {
                !std::mem::replace(is_unblocking, true)
            }
            _ => false,
        }
    }

    /// Notes that the call on a connection is over. Returns whose it was, and its keys.
    pub(super) fn ended_call(&mut self, id: CallConnectionId) -> Option<(ClassId, Vec<LineKey>)> {
        let connection = self.all.get_mut(&id)?;
        let (class, _) = connection.turn?;
        match std::mem::replace(&mut connection.phase, CallPhase::Idle) {
            CallPhase::Calling { keys, .. } => Some((class, keys)),
            CallPhase::Borrowing { .. } | CallPhase::Idle => None,
        }
    }
}
