//! How long canaries wait, through respool and directly, compared.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::stage::{Scene, Side, Turn};

/// By how much the slowest one in a hundred may be slower than twice the direct one on a machine with other work to do.
const FLOOR: Duration = Duration::from_millis(150);

/// The same of the very slowest one.
const FLOOR_OF_WORST: Duration = Duration::from_millis(500);

/// What a canary waits for: kinds that travel in different ways through respool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KindOfWait {
    /// The replies to short requests.
    Quick,
    /// The same with a value of 100 KiB among the requests.
    Large,
    /// What a transaction typed by hand, or WATCH, needs.
    Transaction,
}

/// From here on a request may need a connection for itself.
const LARGE: usize = 64 * 1024;

impl KindOfWait {
    /// What the exchanges of an operation of this name are.
    pub(crate) fn of_operation(name: &str) -> Self {
        match name {
            "interactive transaction" | "watch" | "watch with conflict" => Self::Transaction,
            _ => Self::Quick,
        }
    }

    /// What an exchange of so many bytes is.
    pub(crate) fn of(self, bytes: usize) -> Self {
        if bytes >= LARGE { Self::Large } else { self }
    }
}

/// A wait that has begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    turn: Turn,
    kind: KindOfWait,
    start: Instant,
}

impl Wait {
    pub(super) fn begin(turn: Turn, kind: KindOfWait) -> Self {
        Self {
            turn,
            kind,
            start: Instant::now(),
        }
    }
}

/// What is compared: the waits of one kind in one scene.
type Cell = (Scene, KindOfWait);

/// The waits of one round, directly and through respool.
#[derive(Debug, Default, Clone)]
struct Round {
    direct: Vec<Duration>,
    through: Vec<Duration>,
}

/// Every wait of a run.
#[derive(Debug, Default)]
pub(crate) struct Measured(Mutex<BTreeMap<Cell, BTreeMap<usize, Round>>>);

impl Measured {
    pub(super) fn take(&self, wait: Wait) {
        let length = wait.start.elapsed();
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rounds = cells.entry((wait.turn.scene, wait.kind)).or_default();
        let round = rounds.entry(wait.turn.round).or_default();
        match wait.turn.side {
            Side::Direct => round.direct.push(length),
            Side::Through => round.through.push(length),
        }
    }

    /// What the waits say, cell by cell.
    pub(super) fn compare(&self) -> Vec<Comparison> {
        let cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let compared = cells.iter().map(|(cell, rounds)| Comparison {
            cell: *cell,
            rounds: rounds.values().map(Figures::of).collect(),
        });
        compared.collect()
    }
}

/// The waits of one kind in one scene, round by round.
pub(super) struct Comparison {
    cell: Cell,
    rounds: Vec<Figures>,
}

/// How many waits, half of them, 99 of a hundred, and all of them at most.
#[derive(Debug, Clone, Copy)]
struct Waits {
    count: usize,
    half: Duration,
    most: Duration,
    worst: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Figures {
    direct: Waits,
    through: Waits,
}

impl Waits {
    fn of(lengths: &[Duration]) -> Self {
        let mut sorted = lengths.to_vec();
        sorted.sort();
        let at = |share: f64| {
            let last = sorted.len().saturating_sub(1);
            let index = ((sorted.len() as f64) * share) as usize;
            sorted.get(index.min(last)).copied().unwrap_or_default()
        };
        Self {
            count: sorted.len(),
            half: at(0.5),
            most: at(0.99),
            worst: at(1.0),
        }
    }
}

impl Figures {
    fn of(round: &Round) -> Self {
        Self {
            direct: Waits::of(&round.direct),
            through: Waits::of(&round.through),
        }
    }

    /// How many times longer than allowed the waits through respool were; allowed is twice the direct wait.
    fn excess(&self) -> f64 {
        let share = |through: Duration, direct: Duration, floor: Duration| {
            through.as_secs_f64() / (2 * direct + floor).as_secs_f64()
        };
        let most = share(self.through.most, self.direct.most, FLOOR);
        let worst = share(self.through.worst, self.direct.worst, FLOOR_OF_WORST);
        most.max(worst)
    }
}

impl Comparison {
    /// Whether the flock through respool waited too long in most of the rounds: what befell the machine in one of them does not
    /// count, and what befalls a flock each time does.
    pub(super) fn is_too_long(&self) -> bool {
        let too_long = |figures: &&Figures| figures.excess() > 1.0;
        2 * self.rounds.iter().filter(too_long).count() > self.rounds.len()
    }

    /// Whether there is anything to compare.
    pub(super) fn is_empty(&self) -> bool {
        let both = |figures: &Figures| figures.direct.count > 0 && figures.through.count > 0;
        !self.rounds.iter().any(both)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scene, kind) = self.cell;
        let mut rounds = self.rounds.clone();
        rounds.sort_by(|a, b| a.excess().total_cmp(&b.excess()));
        let middle = rounds[(rounds.len() - 1) / 2];
        let too_long = rounds.iter().filter(|round| round.excess() > 1.0).count();
        let scene = format!("{scene:?}, {kind:?}");
        write!(
            f,
            "{scene:27} {} | {} | {too_long} of {} rounds too long, the middle one {:.2} of what is allowed",
            middle.direct,
            middle.through,
            rounds.len(),
            middle.excess()
        )
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |length: Duration| length.as_secs_f64() * 1000.0;
        write!(
            f,
            "{:5} waits {:7.2} {:7.1} {:7.1} ms",
            self.count,
            ms(self.half),
            ms(self.most),
            ms(self.worst)
        )
    }
}
