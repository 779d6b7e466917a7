//! The canaries among neighbours that stall, flood, reset, and never read: they lose nothing, and wait no longer than the same
//! flock with the same neighbours does directly.
//!
//! Two flocks take turns, see [`stage`]: one directly at a server of its own, the other at its twin through respool. Each scene
//! is played by both before the next, so that both meet the machine as it is in that minute. A run has one round of all scenes, some
//! twenty seconds; if what one waits is too long then, it is played twice more and two rounds of three decide. What is allowed beyond
//! twice the direct wait, and why, stands in [`measured`]. `RESPOOL_SOAK_SECONDS` plays rounds until that time is over.
//! To find who hurts: `RESPOOL_CANARY_WITHOUT` names kinds of neighbours that stay away, divided by commas.

mod gone;
mod heavy;
mod idle;
mod measured;
mod neighbour;
mod nonsense;
mod rough;
mod scripts;
mod slow;
mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use self::measured::{Comparison, Measured};
use self::neighbour::{KINDS, Life, Neighbour, SCRIPTS, Tally};
use self::stage::{Side, Turn};
use super::bird::CUT_BESIDE;
use super::flock::{EndOnPanic, Flock};
use super::species::{SPECIES, Species};
use super::{aftermath, mark_databases, number_from, operations, waiting};
use crate::harness::{
    Client, PATIENCE, PeakWatch, Redis, Respool, Value, eventually, watch_sockets_beyond,
};

pub(crate) use self::measured::{KindOfWait, Wait};
pub(crate) use self::stage::{Part, Scene};

/// The pool is the default one.
const MAX_CONNECTIONS: usize = 10;

/// Is what respool may use in all; the neighbours ask for some hundred times of it.
const MAX_MEMORY_MIB: u64 = 256;

/// Counts the connections of the test itself at the server behind respool: the one that looks and marks.
const OWN_CONNECTIONS: usize = 1;

/// Is what one round plays, and how long each side plays it.
const SCENES: [(Scene, Duration); 3] = [
    (Scene::Everyday, Duration::from_millis(2_000)),
    (Scene::Pipelines, Duration::from_millis(3_000)),
    (Scene::EndlessScript, Duration::from_millis(3_000)),
];

/// A run whose waits were too long in its first rounds plays this number of rounds more.
const MORE_ROUNDS: usize = 2;

/// A value that takes a slow reader several seconds.
const LARGE_KEY: &str = "large";
const LARGE_VALUE_BYTES: usize = 16 * 1024 * 1024;

/// A value of which a pipeline asks many.
const MIDDLING_KEY: &str = "middling";
const MIDDLING_VALUE_BYTES: usize = 200_000;

const NAME_BYTES: usize = 16 * 1024;

/// Tells the byte of the large value at this place.
fn large_value_byte(at: usize) -> u8 {
    b'a' + (at % 23) as u8
}

/// A flock has of each kind of canary one of so many that are in a flock that is alone.
const SHARE: usize = 5;

#[test]
fn canaries_among_hostile_neighbours_wait_no_longer_than_directly() {
    let length = number_from("RESPOOL_SOAK_SECONDS").map(Duration::from_secs);
    let seed = number_from("RESPOOL_CANARY_SEED").unwrap_or_else(rand::random);
    eprintln!("seed {seed}");
    let servers = [start_server(), start_server()];
    let respool = Respool::with(&servers[1])
        .plain_clients()
        .limits(&format!("max_memory = \"{MAX_MEMORY_MIB}MiB\""))
        .start();
    let addresses = [servers[0].addr(), respool.addr()];
    let run = Run::new(&servers, &respool, &addresses, seed);
    thread::scope(|scope| {
        for (flock, side) in run.flocks.iter().zip([Side::Direct, Side::Through]) {
            spawn_flock(scope, flock);
            spawn_neighbours(scope, &run, flock, side);
        }
        let _ends = run.flocks.each_ref().map(EndOnPanic);
        run.play(length);
        run.flocks.iter().for_each(Flock::end);
    });
    run.report();
    run.judge();
    run.look_around();
}

/// Starts a server with the values that neighbours read.
fn start_server() -> Redis {
    let redis = Redis::start(&["--lua-time-limit", scripts::BUSY_FROM_MS]);
    mark_databases(&redis);
    let value: Vec<u8> = (0..LARGE_VALUE_BYTES).map(large_value_byte).collect();
    assert_eq!(
        redis.cmd(&[b"SET", LARGE_KEY.as_bytes(), &value]),
        Value::ok()
    );
    let value = "m".repeat(MIDDLING_VALUE_BYTES);
    assert_eq!(redis.cmd(&["SET", MIDDLING_KEY, &value]), Value::ok());
    redis
}

fn canaries() -> impl Iterator<Item = &'static Species> {
    // What MONITOR brings of a flood would measure how fast the test reads.
    let species = SPECIES.iter().filter(|species| species.name != "monitor");
    species.flat_map(|species| (0..species.birds.div_ceil(SHARE)).map(move |_| species))
}

fn spawn_flock<'scope>(scope: &'scope thread::Scope<'scope, '_>, flock: &'scope Flock) {
    for (number, species) in canaries().enumerate() {
        species.spawn(scope, flock, number);
    }
}

fn spawn_neighbours<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    run: &'scope Run<'_>,
    flock: &'scope Flock,
    side: Side,
) {
    let kinds = KINDS
        .iter()
        .filter(|(name, _, _)| !stays_away(name))
        .flat_map(|(name, count, life)| (0..*count).map(move |number| (*name, number, *life)));
    for (name, number, life) in kinds.chain([(SCRIPTS.0, 0, SCRIPTS.1)]) {
        let life: Life = life;
        thread::Builder::new()
            .name(format!("{name} {number}"))
            .stack_size(512 * 1024)
            .spawn_scoped(scope, move || {
                let _end = EndOnPanic(flock);
                let who = (name, number);
                let stage = &run.stage;
                life(&mut Neighbour::new(
                    stage,
                    side,
                    &flock.address,
                    &run.tally,
                    who,
                    run.seed,
                ));
            })
            .expect("a thread can be started");
    }
}

fn stays_away(name: &str) -> bool {
    let without = std::env::var("RESPOOL_CANARY_WITHOUT").unwrap_or_default();
    without.split(',').any(|one| one == name)
}

/// Holds two servers, respool before one of them, and who lives there.
struct Run<'a> {
    servers: &'a [Redis; 2],
    respool: &'a Respool,
    flocks: [Flock; 2],
    stage: Arc<stage::Stage>,
    measured: Arc<Measured>,
    tally: Tally,
    seed: u64,
    most_resident: AtomicU64,
    /// Holds what stands at the server behind respool, in the kernel's table.
    sockets: PeakWatch,
}

impl<'a> Run<'a> {
    fn new(
        servers: &'a [Redis; 2],
        respool: &'a Respool,
        addresses: &[String; 2],
        seed: u64,
    ) -> Self {
        let stage = Arc::new(stage::Stage::default());
        let measured = Arc::new(Measured::default());
        let flock = |side: Side| {
            let part = Part {
                stage: Arc::clone(&stage),
                side,
                measured: Arc::clone(&measured),
            };
            Flock::with_part(addresses[side as usize].clone(), seed, part)
        };
        Self {
            servers,
            respool,
            flocks: [flock(Side::Direct), flock(Side::Through)],
            stage,
            measured,
            tally: Tally::default(),
            seed,
            most_resident: AtomicU64::new(0),
            sockets: watch_sockets_beyond(OWN_CONNECTIONS, servers[1].host_and_port().1),
        }
    }

    /// Plays rounds until the time is over; without one as many as it takes to be sure.
    fn play(&self, length: Option<Duration>) {
        let start = Instant::now();
        for round in 0.. {
            for (scene, length) in SCENES {
                for side in [Side::Direct, Side::Through] {
                    self.play_turn(Turn { side, scene, round }, length);
                }
            }
            let is_sure = || {
                let too_long = self.measured.compare().iter().any(Comparison::is_too_long);
                round == MORE_ROUNDS || !too_long
            };
            let is_over = length.map_or_else(is_sure, |length| start.elapsed() >= length);
            if is_over || self.stage.has_ended() {
                return;
            }
        }
    }

    fn play_turn(&self, turn: Turn, length: Duration) {
        let start = Instant::now();
        let killed = self.tally.count(SCRIPTS.0, turn.side);
        self.stage.begin(turn);
        let goes_on = || {
            let is_script_over = turn.scene != Scene::EndlessScript
                || self.tally.count(SCRIPTS.0, turn.side) > killed;
            start.elapsed() < length || (!is_script_over && start.elapsed() < PATIENCE)
        };
        while goes_on() && !self.stage.has_ended() {
            self.look();
            self.measured.rest(turn, Duration::from_millis(10));
        }
        self.stage.clear();
        self.settle(turn);
    }

    /// Waits until every canary of this side has what it waited for and both servers have done what they were asked, so that nothing
    /// of one turn falls into another.
    fn settle(&self, turn: Turn) {
        let all = canaries().count();
        let is_over = || {
            self.look();
            self.stage.has_ended() || self.stage.resting(turn.side) == all
        };
        eventually(is_over, "every canary has what it waited for");
        for redis in self.servers {
            let is_quiet = || {
                self.look();
                let start = Instant::now();
                let reply = redis.cmd(&["PING"]);
                if reply.is_error() {
                    redis.cmd(&["SCRIPT", "KILL"]);
                }
                reply == Value::simple("PONG") && start.elapsed() < Duration::from_millis(50)
            };
            eventually(is_quiet, "the server has done what it was asked");
        }
    }

    fn look(&self) {
        let resident = self.respool.resident_bytes();
        self.most_resident.fetch_max(resident, Ordering::Relaxed);
    }

    fn report(&self) {
        eprintln!("waits: count, half, most, worst; directly | through respool");
        for comparison in self.measured.compare() {
            eprintln!("{comparison}");
        }
        for (name, [direct, through]) in self.tally.by_name() {
            eprintln!("{name}: {direct} directly, {through} through respool");
        }
        for (flock, way) in self.flocks.iter().zip(["directly", "through respool"]) {
            let (cut, notes) = (cut(flock), flock.notes());
            eprintln!(
                "{way}: cut {cut:?}, refused {:?}, {notes:?}",
                refused(flock)
            );
        }
        eprintln!(
            "respool: at most {} MiB resident, {} sockets at the server",
            self.most_resident.load(Ordering::Relaxed) >> 20,
            self.sockets.most()
        );
    }

    fn judge(&self) {
        let mut wrong: Vec<String> = Vec::new();
        for comparison in self.measured.compare() {
            if comparison.is_too_long() || comparison.is_empty() {
                wrong.push(format!("waits: {comparison}"));
            }
        }
        for flock in &self.flocks {
            for (operation, count) in cut(flock) {
                wrong.push(format!("{count} canaries disconnected in: {operation}"));
            }
            let beside = flock.noted(CUT_BESIDE);
            if beside > 0 {
                wrong.push(format!("{beside} canaries disconnected, {CUT_BESIDE}"));
            }
            if flock.noted(NOT_SENT) > 0 {
                wrong.push(format!("{} {NOT_SENT}", flock.noted(NOT_SENT)));
            }
        }
        for what in [scripts::UNHEARD, slow::CUT] {
            let count = self.tally.count(what, Side::Through);
            if count > 0 {
                wrong.push(format!("{count} times: {what}"));
            }
        }
        let names = KINDS.iter().map(|(name, _, _)| *name).chain([SCRIPTS.0]);
        for name in names {
            for side in [Side::Direct, Side::Through] {
                // Whoever is served slowly by design may need more time than a short run has.
                let may_be_missing = name == "large reply read slowly" || stays_away(name);
                if self.tally.count(name, side) == 0 && !may_be_missing {
                    wrong.push(format!("{side:?}: nothing done by {name:?}"));
                }
            }
        }
        let resident = self.most_resident.load(Ordering::Relaxed) >> 20;
        if resident > MAX_MEMORY_MIB {
            wrong.push(format!(
                "{resident} MiB resident, more than {MAX_MEMORY_MIB}"
            ));
        }
        let sockets = self.sockets.most();
        if sockets > MAX_CONNECTIONS {
            wrong.push(format!("{sockets} sockets at the server"));
        }
        assert!(
            wrong.is_empty(),
            "seed {}:\n{}",
            self.seed,
            wrong.join("\n")
        );
    }

    /// Checks, when all have left, that nothing of them is left, and whoever comes is served at once, whatever they ask.
    fn look_around(&self) {
        aftermath::assert_counts_are_back(self.respool);
        operations::inspect(&mut self.respool.client());
        everything_at_once(self.respool);
        aftermath::assert_counts_are_back(self.respool);
        aftermath::assert_clean_connections(&self.servers[1], self.respool);
        for (redis, flock) in self.servers.iter().zip(&self.flocks) {
            aftermath::assert_every_element_accounted_for(redis, flock);
        }
        for what in [waiting::NOTHING, super::subscribing::HEARD] {
            assert!(self.flocks[1].noted(what) > 0, "none: {what}");
        }
        self.respool.assert_alive();
    }
}

/// Counts requests that respool says it did not send, in the notes of a flock.
pub(crate) const NOT_SENT: &str = "requests not sent";

/// Counts the operations that the end of a connection cut short.
fn cut(flock: &Flock) -> Vec<(&'static str, usize)> {
    which(flock, 1)
}

fn refused(flock: &Flock) -> Vec<(&'static str, usize)> {
    which(flock, 2)
}

fn which(flock: &Flock, end: usize) -> Vec<(&'static str, usize)> {
    let counts = flock.counts().into_iter();
    let counts = counts.map(|(name, counts)| (name, counts[end]));
    counts.filter(|(_, count)| *count > 0).collect()
}

/// Lets as many as the pool can lend hold a transaction open at the same time, while others use whatever there is.
fn everything_at_once(respool: &Respool) {
    let mut typed: Vec<Client> = (0..4).map(|_| respool.client()).collect();
    for client in &mut typed {
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
        assert_eq!(client.cmd(&["GET", "whoami"]), Value::simple("QUEUED"));
    }
    let mut other = respool.client();
    let large = "x".repeat(100_000);
    assert_eq!(other.cmd(&["SET", "x", &large, "EX", "100"]), Value::ok());
    assert_eq!(other.cmd(&["GET", "x"]), Value::bulk(&large));
    assert!(other.cmd(&["BLPOP", "nothing", "0.01"]).is_null());
    assert!(!other.cmd(&["SUBSCRIBE", "c"]).is_error());
    for client in &mut typed {
        let executed = client.cmd(&["EXEC"]);
        assert_eq!(
            executed,
            Value::Array(vec![Value::bulk(super::expect::mark(0))])
        );
    }
}
