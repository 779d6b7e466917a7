//! The canary test: hundreds of clients that would each notice a single byte that is not theirs, on a server that is
//! killed under them.
//!
//! The run takes ten seconds, or `RESPOOL_SOAK_SECONDS`. It prints its seed; `RESPOOL_CANARY_SEED` repeats its choices.

mod bird;
mod expect;
mod flock;
mod operations;
mod wire;

use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use self::bird::Bird;
use self::expect::mark;
use self::flock::{EndOnPanic, Flock};
use crate::harness::{Redis, Respool, Value, encode, eventually};

const CLIENTS: usize = 320;
const DATABASES: u32 = 16;

/// The pool through which they all go.
const MAX_CONNECTIONS: usize = 8;

/// Direct connections of the test itself, beside the watch: the one that kills and marks.
const OWN_CONNECTIONS: usize = 1;

/// A server killed once, or each half minute of a long run.
const SECONDS_FOR_EACH_RESTART: u64 = 30;

#[test]
fn canaries_never_see_what_is_not_theirs() {
    let seconds = number_from("RESPOOL_SOAK_SECONDS").unwrap_or(10);
    let seed = number_from("RESPOOL_CANARY_SEED").unwrap_or_else(rand::random);
    eprintln!("seed {seed}, {seconds} seconds");
    let redis = Redis::start(&[]);
    mark_databases(&redis);
    let respool = Respool::with(&redis)
        .upstream(&format!(
            "max_connections = {MAX_CONNECTIONS}\nshared_connections = 3"
        ))
        .start();
    let flock = Flock::new(respool.addr(), seed);

    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let flock = &flock;
            thread::Builder::new()
                .name(format!("canary {number}"))
                .stack_size(256 * 1024)
                .spawn_scoped(scope, move || {
                    let _end = EndOnPanic(flock);
                    Bird::new(flock, number).fly();
                })
                .expect("a thread can be started");
        }
        let _end = EndOnPanic(&flock);
        disturb(&redis, &flock, Duration::from_secs(seconds));
        flock.end();
    });

    let counts = flock.counts();
    eprintln!("finished, cut, refused: {counts:#?}");
    for name in operations::names() {
        assert!(
            counts
                .get(name)
                .is_some_and(|[finished, _, _]| *finished > 0),
            "never: {name}"
        );
    }
    assert_all_left(&respool);
    operations::inspect(&mut respool.client());
}

/// Kills connections of respool at the server all the time, and the server itself now and then.
fn disturb(redis: &Redis, flock: &Flock, length: Duration) {
    let mut rng = SmallRng::seed_from_u64(flock.seed);
    let restarts = (length.as_secs() / SECONDS_FOR_EACH_RESTART).max(1);
    let part = length / (restarts as u32 + 1);
    for round in 0..=restarts {
        let watch = redis.watch_connections();
        let start = Instant::now();
        while start.elapsed() < part && !flock.has_ended() {
            kill_one(redis, &mut rng);
            thread::park_timeout(Duration::from_millis(rng.random_range(5..80)));
        }
        let most = watch.most();
        assert!(
            most <= MAX_CONNECTIONS + OWN_CONNECTIONS,
            "{most} connections at the server, {OWN_CONNECTIONS} of them the test's"
        );
        if round < restarts {
            flock.next_phase();
            redis.kill_hard();
            thread::park_timeout(Duration::from_millis(rng.random_range(0..300)));
            redis.restart();
            mark_databases(redis);
            flock.next_phase();
        }
    }
}

fn kill_one(redis: &Redis, rng: &mut SmallRng) {
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    let ids: Vec<&str> = list
        .lines()
        .filter(|line| line.contains(" name=respool"))
        .filter_map(|line| line.split(' ').next()?.strip_prefix("id="))
        .collect();
    if !ids.is_empty() {
        redis.cmd(&["CLIENT", "KILL", "ID", ids[rng.random_range(0..ids.len())]]);
    }
}

/// Writes into every database which one it is, before any client can ask again.
fn mark_databases(redis: &Redis) {
    let commands: Vec<_> = (0..DATABASES)
        .flat_map(|database| {
            let select = encode(&["SELECT", &database.to_string()]);
            [select, encode(&["SET", "whoami", &mark(database)])]
        })
        .collect();
    let mut client = redis.client();
    client.send(commands.concat());
    for _ in &commands {
        assert_eq!(client.reply(), Value::ok());
    }
}

/// Every count is back to 0, and nobody was sent away for a reason that did not exist.
fn assert_all_left(respool: &Respool) {
    for name in [
        "respool_client_connections",
        "respool_client_idle_connections",
        "respool_upstream_waiting_requests",
        "respool_upstream_waiting_pins",
        "respool_client_rejections_held",
    ] {
        let mut looks = 0;
        eventually(
            || {
                looks += 1;
                if looks % 400 == 0 {
                    // Whoever is left is named; the list itself is asked for by one more client.
                    eprintln!("{name} is not 0; left:\n{}", left(respool));
                }
                respool.metric(name) == 0.0
            },
            &format!("{name} is 0"),
        );
    }
    for reason in [
        "panic",
        "protocol_error",
        "output_buffer",
        "killed",
        "evicted",
        "idle_timeout",
    ] {
        let name = format!("respool_client_disconnects_total{{reason=\"{reason}\"}}");
        assert_eq!(respool.metric_or_zero(&name), 0.0, "{name}");
    }
    let connections = respool.metric("respool_upstream_connections");
    assert!(
        connections <= MAX_CONNECTIONS as f64,
        "{connections} connections"
    );
    respool.assert_alive();
}

fn left(respool: &Respool) -> String {
    respool.client().cmd(&["CLIENT", "LIST"]).text()
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")),
    )
}
