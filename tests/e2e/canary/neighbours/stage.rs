//! Two flocks take turns, each with neighbours of its own: one goes directly to a server, the other through respool, and what the
//! machine does meanwhile befalls both.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::measured::{KindOfWait, Measured, Wait};

/// Says which way a flock goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Direct,
    Through,
}

/// Says who is busy beside the flock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scene {
    /// Those of every scene are busy: the stalled, the slow, the silent, those that reset and those that send nonsense.
    Everyday,
    /// There are pipelines too, of scripts and of large replies, of clients that leave before they are answered.
    Pipelines,
    /// There is a script without end too, which is killed after two seconds.
    EndlessScript,
}

/// One turn of one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) side: Side,
    pub(super) scene: Scene,
    pub(super) round: usize,
}

#[derive(Debug, Default)]
struct Now {
    turn: Option<Turn>,
    ended: bool,
    /// Counts the canaries of each side that await their turn.
    resting: [usize; 2],
}

/// Tells whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    now: Mutex<Now>,
    changed: Condvar,
}

impl Stage {
    pub(super) fn begin(&self, turn: Turn) {
        self.now().turn = Some(turn);
        self.changed.notify_all();
    }

    /// Lets it be nobody's turn, until the next one begins.
    pub(super) fn clear(&self) {
        self.now().turn = None;
        self.changed.notify_all();
    }

    pub(crate) fn end(&self) {
        self.now().ended = true;
        self.changed.notify_all();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.now().ended
    }

    /// Tells the turn of this side, if it is its turn.
    pub(super) fn turn_of(&self, side: Side) -> Option<Turn> {
        turn_of(&self.now(), side)
    }

    /// Waits for a turn of this side in one of these scenes (none given: in any); `None`: the run has ended.
    pub(super) fn await_turn(&self, side: Side, scenes: &[Scene]) -> Option<Turn> {
        let mut now = self.now();
        loop {
            if now.ended {
                return None;
            }
            let turn = turn_of(&now, side);
            if let Some(turn) = turn.filter(|t| scenes.is_empty() || scenes.contains(&t.scene)) {
                return Some(turn);
            }
            now = self
                .changed
                .wait(now)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does as [`Stage::await_turn`], of a canary: it is counted meanwhile.
    fn await_turn_resting(&self, side: Side) -> Option<Turn> {
        self.now().resting[side as usize] += 1;
        let turn = self.await_turn(side, &[]);
        self.now().resting[side as usize] -= 1;
        turn
    }

    /// Tells how many canaries of a side await their turn.
    pub(super) fn resting(&self, side: Side) -> usize {
        self.now().resting[side as usize]
    }

    /// Waits until it is not this side's turn any more.
    fn sit_out(&self, side: Side) {
        while self.rest(side, Duration::from_secs(1)) {}
    }

    /// Waits so long, or until it is not this side's turn any more: then false.
    pub(super) fn rest(&self, side: Side, length: Duration) -> bool {
        self.wait_while(length, |now| turn_of(now, side).is_some())
    }

    /// Waits so long, or until the run ends: then false.
    pub(super) fn rest_in_any_turn(&self, length: Duration) -> bool {
        self.wait_while(length, |now| !now.ended)
    }

    fn wait_while(&self, length: Duration, goes_on: impl Fn(&Now) -> bool) -> bool {
        let until = Instant::now() + length;
        let mut now = self.now();
        while goes_on(&now) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let waited = self.changed.wait_timeout(now, left);
            now = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn turn_of(now: &Now, side: Side) -> Option<Turn> {
    now.turn.filter(|turn| turn.side == side && !now.ended)
}

/// The part of one flock.
pub(crate) struct Part {
    pub(crate) stage: Arc<Stage>,
    pub(super) side: Side,
    pub(super) measured: Arc<Measured>,
}

impl Part {
    /// Waits for a turn of its side; `None`: the run has ended.
    pub(crate) fn await_turn(&self) -> Option<Scene> {
        let turn = self.stage.await_turn_resting(self.side)?;
        Some(turn.scene)
    }

    /// Waits for the end of the turn.
    pub(crate) fn sit_out(&self) {
        self.stage.sit_out(self.side);
    }

    /// Begins a canary's wait; what it does between two turns is not measured.
    pub(crate) fn begin_wait(&self, kind: KindOfWait) -> Option<Wait> {
        let turn = self.stage.turn_of(self.side)?;
        Some(Wait::begin(turn, kind))
    }

    pub(crate) fn end_wait(&self, wait: Wait) {
        self.measured.take(wait);
    }
}
