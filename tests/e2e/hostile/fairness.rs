//! Heavy work of one client: what it costs the others, beside what it costs them at Redis itself.

mod connections;
mod crowds;
mod heavy;
mod searches;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Client, Redis, Respool, Value, encode, eventually, processor_time};

/// A script that takes as long as it is told to.
const SPIN: &str = "local s = 0 for i = 1, tonumber(ARGV[1]) do s = s + i end return s";

/// Tells how many rounds of [`SPIN`] take the server about `wanted`, as quick as it is here.
fn rounds(redis: &Redis, wanted: Duration) -> String {
    const TRIED: u32 = 20_000;
    let mut client = redis.client();
    let quickest = (0..10)
        .map(|_| {
            let start = Instant::now();
            client.cmd(&["EVAL", SPIN, "0", &TRIED.to_string()]);
            start.elapsed()
        })
        .min()
        .expect("it was tried");
    let rounds = f64::from(TRIED) * wanted.as_secs_f64() / quickest.as_secs_f64();
    format!("{}", rounds.max(1.0) as u64)
}

/// Encodes one request of [`SPIN`].
fn spin(rounds: &str) -> Vec<u8> {
    encode(&["EVAL", SPIN, "0", rounds])
}

/// Tells the longest that a GET of others takes while `neighbour` is at work and right after, by how much the server, and respool before
/// it, have worked in the meantime: what else the machine does counts for nobody.
///
/// Each of the others asks again and again, one request at a time, and goes on for some requests after the neighbour has
/// ended, so that whatever it has left behind at the server is felt.
fn worst_wait(
    (redis, respool): (&Redis, Option<&Respool>),
    connect: impl Fn() -> Client + Sync,
    neighbour: impl FnOnce(),
) -> Duration {
    const OTHERS: usize = 4;
    const AFTERWARDS: usize = 200;
    let mut pids = vec![redis.pid()];
    pids.extend(respool.map(Respool::pid));
    let has_ended = AtomicBool::new(false);
    let begun = AtomicUsize::new(0);
    let watch = || {
        let mut client = connect();
        let (mut worst, mut left) = (Duration::ZERO, AFTERWARDS);
        client.cmd(&["GET", "k"]);
        begun.fetch_add(1, Ordering::SeqCst);
        while left > 0 {
            let (start, before) = (Instant::now(), processor_time(&pids));
            let reply = client.cmd(&["GET", "k"]);
            // Together they may work more than the time that passes.
            worst = worst.max((processor_time(&pids) - before).min(start.elapsed()));
            assert_eq!(reply, Value::bulk("v"));
            if has_ended.load(Ordering::SeqCst) {
                left -= 1;
            }
        }
        worst
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..OTHERS).map(|_| scope.spawn(watch)).collect();
        eventually(
            || begun.load(Ordering::SeqCst) == OTHERS,
            "the others are at work",
        );
        neighbour();
        has_ended.store(true, Ordering::SeqCst);
        let waits = others
            .into_iter()
            .map(|other| other.join().expect("no other panicked"));
        waits.max().expect("there are others")
    })
}

/// Panics unless what others waited is within twice what they waited directly, and a moment.
#[track_caller]
fn assert_within_twice(through: Duration, directly: Duration) {
    const MOMENT: Duration = Duration::from_millis(300);
    eprintln!("others waited {through:?} at the most, directly {directly:?}");
    assert!(
        through <= 2 * directly + MOMENT,
        "others waited {through:?}, directly {directly:?}"
    );
}
