//! The waits of canaries, through respool and directly, compared.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::stage::{Scene, Side, Turn};

/// Is what a hard total of ten connections may add to twice the direct wait of most, whoever the neighbours are:
/// transactions and large values take turns on the few that can be lent, where directly each has a connection of its own.
/// Measured in seven runs: 67 to 91 ms for transactions, 97 to 120 for large values, and once some 190.
const TURN: Duration = Duration::from_millis(300);

/// The same of short requests, whose sixteen databases take turns on four connections. Measured: up to 3 ms.
const QUICK_TURN: Duration = Duration::from_millis(50);

/// The same of the very slowest one of any kind, which may have had several such turns one after the other, or stand behind the
/// script on its connection: for as long as that lasts, which is twice as long as the server lets wait others. Measured: 185 ms.
const WORST_TURN: Duration = Duration::from_millis(500);

/// This share of the waits is compared beside the worst.
const MOST: f64 = 0.9;

/// The same where a script keeps the server: everybody is caught by its beginning once, directly too, and what share of all waits
/// that is depends on how many follow.
const MOST_BESIDE_SCRIPTS: f64 = 0.75;

/// Says how often a wait through respool depends on somebody being given the processor: the worker, the server, the worker, the canary.
/// How late that is on the machine as it is, the run measures itself, by the rests of a thread that does nothing else.
const HANDOVERS: u32 = 4;

/// Says what a canary waits for: kinds that travel in different ways through respool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KindOfWait {
    /// It waits for the replies to short requests.
    Quick,
    /// It waits for replies with a value of 100 KiB among the requests.
    Large,
    /// It waits for what a transaction typed by hand, or WATCH, needs.
    Transaction,
}

/// A request of this size or more may need a connection for itself.
const LARGE: usize = 64 * 1024;

impl KindOfWait {
    /// Tells what the exchanges of an operation of this name are.
    pub(crate) fn of_operation(name: &str) -> Self {
        match name {
            "interactive transaction" | "watch" | "watch with conflict" => Self::Transaction,
            _ => Self::Quick,
        }
    }

    /// Tells what a turn among connections may add to most waits.
    fn turn(self) -> Duration {
        match self {
            Self::Quick => QUICK_TURN,
            Self::Large | Self::Transaction => TURN,
        }
    }

    /// Tells what an exchange of so many bytes is.
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

/// Is what is compared: the waits of one kind in one scene.
type Cell = (Scene, KindOfWait);

/// Holds the waits of one round, directly and through respool, and how late a thread was woken meanwhile.
#[derive(Debug, Default, Clone)]
struct Round {
    direct: Vec<Duration>,
    through: Vec<Duration>,
    late: Vec<Duration>,
}

/// Says how late a thread was woken while the flock through respool had its turn, by scene and round.
type Lateness = BTreeMap<(Scene, usize), Vec<Duration>>;

/// Holds every wait of a run.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    cells: Mutex<BTreeMap<Cell, BTreeMap<usize, Round>>>,
    late: Mutex<Lateness>,
}

impl Measured {
    /// Rests so long, and notes by how much longer it took until the thread ran again.
    pub(super) fn rest(&self, turn: Turn, length: Duration) {
        let start = Instant::now();
        std::thread::park_timeout(length);
        let late = start.elapsed().saturating_sub(length);
        if turn.side == Side::Through {
            let mut all = self.late.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry((turn.scene, turn.round)).or_default().push(late);
        }
    }

    pub(super) fn take(&self, wait: Wait) {
        let length = wait.start.elapsed();
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let rounds = cells.entry((wait.turn.scene, wait.kind)).or_default();
        let round = rounds.entry(wait.turn.round).or_default();
        match wait.turn.side {
            Side::Direct => round.direct.push(length),
            Side::Through => round.through.push(length),
        }
    }

    /// Tells what the waits say, cell by cell.
    pub(super) fn compare(&self) -> Vec<Comparison> {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = |cell: Cell, number: usize, round: &Round| {
            let late = late.get(&(cell.0, number)).cloned().unwrap_or_default();
            let round = Round {
                late,
                ..round.clone()
            };
            Figures::of(cell, &round)
        };
        let compared = cells.iter().map(|(cell, rounds)| Comparison {
            cell: *cell,
            rounds: rounds
                .iter()
                .map(|(number, round)| figures(*cell, *number, round))
                .collect(),
        });
        compared.collect()
    }
}

/// Holds the waits of one kind in one scene, round by round.
pub(super) struct Comparison {
    cell: Cell,
    rounds: Vec<Figures>,
}

/// Says how many waits, half of them, most of them, and all of them at most.
#[derive(Debug, Clone, Copy)]
struct Waits {
    count: usize,
    half: Duration,
    most: Duration,
    worst: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Figures {
    turn: Duration,
    direct: Waits,
    through: Waits,
    late: Waits,
}

impl Waits {
    fn of(lengths: &[Duration], most: f64) -> Self {
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
            most: at(most),
            worst: at(1.0),
        }
    }
}

impl Figures {
    fn of((scene, kind): Cell, round: &Round) -> Self {
        let most = match scene {
            Scene::Everyday | Scene::Pipelines => MOST,
            Scene::EndlessScript => MOST_BESIDE_SCRIPTS,
        };
        Self {
            turn: kind.turn(),
            direct: Waits::of(&round.direct, most),
            through: Waits::of(&round.through, most),
            late: Waits::of(&round.late, most),
        }
    }

    /// Tells how many times longer than allowed the waits through respool were; allowed is twice the direct wait, and what it takes to
    /// have a turn on a machine as busy as this one.
    fn excess(&self) -> f64 {
        let share = |through: Duration, direct: Duration, turn: Duration, late: Duration| {
            through.as_secs_f64() / (2 * direct + turn + HANDOVERS * late).as_secs_f64()
        };
        let (through, direct, late) = (self.through, self.direct, self.late);
        let most = share(through.most, direct.most, self.turn, late.most);
        let worst = share(through.worst, direct.worst, WORST_TURN, late.worst);
        most.max(worst)
    }
}

impl Comparison {
    /// Tells whether the flock through respool waited too long in most of the rounds: what befell the machine in one of them does not
    /// count, and what befalls a flock each time does.
    pub(super) fn is_too_long(&self) -> bool {
        let too_long = |figures: &&Figures| figures.excess() > 1.0;
        2 * self.rounds.iter().filter(too_long).count() > self.rounds.len()
    }

    /// Tells whether there is anything to compare.
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
            "{scene:27} {} | {} | {too_long} of {} rounds too long, the middle one {:.2} of what is allowed; woken late {:.1}, {:.1} ms",
            middle.direct,
            middle.through,
            rounds.len(),
            middle.excess(),
            middle.late.most.as_secs_f64() * 1000.0,
            middle.late.worst.as_secs_f64() * 1000.0
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
