//! A neighbour: what it knows, and the list of all kinds of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

use super::rough::Rough;
use super::stage::{Scene, Side, Stage};
use super::{gone, heavy, idle, nonsense, scripts, slow};

/// Is what one kind of neighbour does until the run ends.
pub(super) type Life = fn(&mut Neighbour<'_>);

/// Lists each kind's name, how many there are on each side, what they do.
pub(super) const KINDS: [(&str, usize, Life); 19] = [
    ("stalled upload", 8, idle::stall_in_an_upload),
    ("dribbled upload", 2, slow::dribble),
    ("half a handshake", 4, idle::stall_in_a_handshake),
    ("silent", 8, idle::say_nothing),
    ("password that is wrong", 1, nonsense::guess_passwords),
    ("idle MULTI", 1, idle::stay_in_a_transaction),
    ("idle WATCH", 1, idle::stay_watching),
    ("large name", 8, idle::bear_a_large_name),
    ("unread messages", 3, idle::leave_messages_unread),
    ("messages for those", 1, heavy::publish),
    ("unread large reply", 4, idle::leave_a_large_reply_unread),
    ("large reply read slowly", 2, slow::read_slowly),
    ("reset while dialling", 3, gone::reset_while_dialling),
    ("reset in a wait", 2, gone::reset_in_every_wait),
    ("flood of local commands", 2, heavy::flood),
    ("bytes that are no request", 1, nonsense::send_nonsense),
    ("error texts with line ends", 1, nonsense::load_functions),
    ("pipeline of scripts", 2, heavy::pipe_scripts),
    ("pipeline of large replies", 2, heavy::pipe_large_replies),
];

/// The one that begins scripts without end, and kills them as an operator would.
pub(super) const SCRIPTS: (&str, Life) = ("script without end", scripts::begin_and_kill);

/// Counts what neighbours did how often, by side.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<BTreeMap<(&'static str, Side), usize>>);

impl Tally {
    pub(super) fn add(&self, what: &'static str, side: Side) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((what, side)).or_default() += 1;
    }

    pub(super) fn count(&self, what: &'static str, side: Side) -> usize {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&(what, side)).copied().unwrap_or(0)
    }

    /// Tells how often things were done, directly and through respool, by name.
    pub(super) fn by_name(&self) -> BTreeMap<&'static str, [usize; 2]> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table: BTreeMap<&'static str, [usize; 2]> = BTreeMap::new();
        for ((what, side), count) in counts.iter() {
            table.entry(what).or_default()[*side as usize] += count;
        }
        table
    }
}

pub(super) struct Neighbour<'a> {
    pub(super) stage: &'a Stage,
    pub(super) side: Side,
    pub(super) address: &'a str,
    pub(super) tally: &'a Tally,
    pub(super) name: &'static str,
    pub(super) number: usize,
    pub(super) rng: SmallRng,
}

impl<'a> Neighbour<'a> {
    pub(super) fn new(
        stage: &'a Stage,
        side: Side,
        address: &'a str,
        tally: &'a Tally,
        (name, number): (&'static str, usize),
        seed: u64,
    ) -> Self {
        Self {
            stage,
            side,
            address,
            tally,
            name,
            number,
            rng: SmallRng::seed_from_u64(seed.wrapping_add(number as u64)),
        }
    }

    /// Waits for its turn; false: the run has ended.
    pub(super) fn await_turn(&self) -> bool {
        self.stage.await_turn(self.side, &[]).is_some()
    }

    /// Waits for its turn in a scene; false: the run has ended.
    pub(super) fn await_turn_in(&self, scene: Scene) -> bool {
        self.stage.await_turn(self.side, &[scene]).is_some()
    }

    pub(super) fn is_its_turn(&self) -> bool {
        self.stage.turn_of(self.side).is_some()
    }

    /// Waits; false when its turn is over.
    pub(super) fn rest(&self, milliseconds: u64) -> bool {
        self.stage
            .rest(self.side, Duration::from_millis(milliseconds))
    }

    /// Waits whoever's turn it is; false: the run has ended.
    pub(super) fn rest_in_any_turn(&self, milliseconds: u64) -> bool {
        self.stage
            .rest_in_any_turn(Duration::from_millis(milliseconds))
    }

    /// Connects; after a while again if that was not accepted.
    pub(super) fn connect(&self) -> Option<Rough> {
        let found = Rough::connect(self.address);
        if found.is_none() {
            self.rest(50);
        }
        found
    }

    pub(super) fn note(&self, what: &'static str) {
        self.tally.add(what, self.side);
    }

    /// Notes that it has done what it is there for.
    pub(super) fn done(&self) {
        self.note(self.name);
    }

    pub(super) fn draw(&mut self, below: u64) -> u64 {
        self.rng.random_range(0..below)
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        self.rng.fill_bytes(bytes);
    }
}
