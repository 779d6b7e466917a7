//! Decides whose turn it is on a connection, when it is over, and who is next.
//!
//! The classes that are one for many waiters come first, and of the others those from an address that has few: whoever waits for
//! many things takes turns with itself. Of one address whoever has just come is first, since it can be served at once, and
//! the rest are tried.

use std::cmp::Reverse;

use super::BlockingCalls;
use crate::waits::class::WaitClass;
use crate::waits::connections::{CallConnection, CallPhase};
use crate::waits::ids::{CallConnectionId, ClassId};
use crate::waits::price::{SHARE, TURN_MICROS, WINDOW_SHARE};
use crate::waits::{
    GRACE_MICROS, MAX_SLICE_MICROS, MIN_SLICE_MICROS, ROUND_MICROS, WINDOWS_MICROS,
};

/// The number of a turn begins with the rank of its class: of two, the lower one is first.
const RANK_SHIFT: u32 = 56;

impl<S: Clone + PartialEq> BlockingCalls<S> {
    /// Returns the rank of a class among those that want a connection.
    fn rank(&self, class: &WaitClass<S>) -> u64 {
        let classes = self.polls.classes_of_owner(class);
        let crowd = u64::from(classes.max(1).ilog2().min(15));
        let is_old = !class.is_plain() && !class.is_young(self.now);
        u64::from(!class.is_plain()) << 5 | crowd << 1 | u64::from(is_old)
    }

    /// Returns the number of a class's turn: behind all of its rank.
    pub(super) fn next_turn_of(&mut self, id: ClassId) -> u64 {
        let rank = self.blocked.class(id).map_or(0, |class| self.rank(class));
        rank << RANK_SHIFT | self.blocked.fresh()
    }

    /// Tells whether a class without a connection is to have one before this one has another turn.
    pub(super) fn is_contended(&self, class: ClassId) -> bool {
        let first = self.connections.first();
        let class = self.blocked.class(class);
        first.is_some_and(|first| class.is_none_or(|class| first >> RANK_SHIFT <= self.rank(class)))
    }

    /// Ends the calls of classes whose turn is over while others want a connection.
    pub(super) fn turn(&mut self) {
        for (id, at) in self.turns() {
            if at <= self.now {
                self.end_call_on(id);
            }
        }
    }

    /// Returns when the next turn is over.
    pub(super) fn next_turn(&self) -> Option<u64> {
        self.turns().into_iter().map(|(_, at)| at).min()
    }

    /// Returns calls that are to be ended, and when: of the classes whose turn is over as many as others want a connection,
    /// of the last rank first, and those that ask for too much or too little.
    fn turns(&self) -> Vec<(CallConnectionId, u64)> {
        let (mut turns, mut others, mut unblocking) = (Vec::new(), Vec::new(), 0);
        for (&id, connection) in &self.connections.all {
            let (CallPhase::Calling { is_unblocking, .. }, Some((class, _))) =
                (&connection.phase, connection.turn)
            else {
                continue;
            };
            if *is_unblocking {
                unblocking += 1;
                continue;
            }
            let is_amiss = self.blocked.class(class).is_some_and(WaitClass::is_amiss);
            let settled = connection.settled_at().filter(|_| is_amiss);
            others.extend(settled.map(|at| (id, at)));
            let windows = self.blocked.class(class).map_or(1, WaitClass::windows);
            let rank = self.blocked.class(class).map(|class| self.rank(class));
            match self.turn_over(connection, class) {
                Some(at) if windows > 1 => others.push((id, at)),
                Some(at) => turns.push((Reverse(rank), at, id)),
                None => {}
            }
        }
        turns.sort_unstable();
        turns.truncate(
            self.connections
                .all_queued()
                .len()
                .saturating_sub(unblocking),
        );
        others.extend(turns.into_iter().map(|(_, at, id)| (id, at)));
        others
    }

    /// Returns when the turn of the class that has the connection is over. The server may end its call by itself.
    fn turn_over(&self, connection: &CallConnection<S>, class: ClassId) -> Option<u64> {
        let (CallPhase::Calling { since, until, .. }, Some((_, turn))) =
            (&connection.phase, connection.turn)
        else {
            return None;
        };
        let is_contended = self.is_contended(class);
        let begun = if is_contended { turn } else { *since };
        let at = begun + self.slice(class)?;
        let by_itself = until.filter(|until| at + GRACE_MICROS > *until);
        Some(by_itself.map_or(at, |until| at.max(until + GRACE_MICROS)))
    }

    /// Returns how long a turn is, or `None` where nobody waits for its end.
    pub(super) fn slice(&self, id: ClassId) -> Option<u64> {
        let class = self.blocked.class(id)?;
        let windows = class.windows();
        if windows == 1 && !self.is_contended(id) {
            return None;
        }
        let held = self.connections.held().max(1) as u64;
        let classes = self.connections.all_queued().len() as u64 + held + windows - 1;
        // Keys about which the call does not ask wait no longer than those of a class without a connection.
        let slice = (ROUND_MICROS * held / classes).min(WINDOWS_MICROS / windows);
        let least = match windows {
            1 => (TURN_MICROS * SHARE * held).max(MIN_SLICE_MICROS),
            _ => (class.size().issued() * WINDOW_SHARE).max(MIN_SLICE_MICROS),
        };
        Some(slice.clamp(least, MAX_SLICE_MICROS.max(least)))
    }
}
