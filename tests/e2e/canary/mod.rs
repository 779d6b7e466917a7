//! The canary test: hundreds of clients that would each notice a single byte that is not theirs, on a server that is
//! killed under them.
//!
//! The run takes some ten seconds, or `RESPOOL_SOAK_SECONDS`. It prints its seed; `RESPOOL_CANARY_SEED` repeats its choices.

mod aftermath;
mod bird;
mod ears;
mod expect;
mod flock;
mod ledger;
mod lodging;
mod neighbours;
mod operations;
mod species;
mod subscribing;
mod subscriptions;
mod wait;
mod waiting;
mod wire;

use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use self::expect::mark;
use self::flock::{EndOnPanic, Flock};
use self::species::SPECIES;
use crate::harness::{PATIENCE, Redis, Respool, Value, encode};

/// The server is disturbed for so long; what is under way then comes to its end after it.
const SECONDS: u64 = 8;

/// The run takes so many times as long at most, until everything has happened once: a busy machine has less time for it.
const MOST_ROUNDS: usize = 6;

/// At least this number of elements are handed out since the last restart.
const RECEIVED: usize = 50;

/// Respool's own user, where there are users.
const RESPOOL: &str = "respool";

const DATABASES: u32 = 16;

/// The pool through which they all go.
const MAX_CONNECTIONS: usize = 8;

/// Counts the direct connections of the test itself, beside the watch: the one that kills and marks.
const OWN_CONNECTIONS: usize = 1;

/// The server is killed once, or each half minute of a long run.
const SECONDS_FOR_EACH_RESTART: u64 = 30;

#[test]
fn canaries_never_see_what_is_not_theirs() {
    fly(0);
}

/// Each authenticates as one of them, and is the default user where it has not.
#[test]
fn canaries_of_twenty_users_are_never_another() {
    fly(20);
}

/// Tells the name of a user, which is its password too.
fn user(number: usize) -> String {
    format!("user{number}")
}

/// Writes the options of a server with these users, and one for respool.
fn options_with(users: usize) -> Vec<String> {
    let names = (0..users).map(user).chain([RESPOOL.to_owned()]);
    let rules = names.flat_map(|name| {
        let password = format!(">{name}");
        ["--user", &name, "on", &password, "~*", "&*", "+@all"].map(str::to_owned)
    });
    rules.collect()
}

fn fly(users: usize) {
    let seconds = number_from("RESPOOL_SOAK_SECONDS").unwrap_or(SECONDS);
    let seed = number_from("RESPOOL_CANARY_SEED").unwrap_or_else(rand::random);
    eprintln!("seed {seed}, {seconds} seconds");
    let options = options_with(users);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let redis = Redis::start(&options);
    mark_databases(&redis);
    let mut settings = Respool::with(&redis).plain_clients().upstream(&format!(
        "max_connections = {MAX_CONNECTIONS}\nshared_connections = 3"
    ));
    if users > 0 {
        settings = settings
            .upstream(&format!(
                "username = \"{RESPOOL}\"\npassword = \"{RESPOOL}\""
            ))
            .section("[auth]\nmode = \"passthrough\"");
    }
    let respool = settings.start();
    let flock = Flock::new(respool.addr(), seed, users);

    thread::scope(|scope| {
        let kinds = SPECIES
            .iter()
            .flat_map(|species| (0..species.birds).map(move |_| species));
        for (number, species) in kinds.enumerate() {
            species.spawn(scope, &flock, number);
        }
        let _end = EndOnPanic(&flock);
        for _ in 0..MOST_ROUNDS {
            disturb(&redis, &flock, Duration::from_secs(seconds));
            if never(&flock).is_none() {
                break;
            }
        }
        flock.end();
    });

    let counts = flock.counts();
    eprintln!("finished, cut, refused: {counts:#?}");
    eprintln!("{:#?}", flock.notes());
    if let Some(name) = never(&flock) {
        panic!("never: {name}");
    }
    for what in [subscribing::HEARD, subscribing::OWED, waiting::NOTHING] {
        assert!(flock.noted(what) > 0, "none: {what}");
    }
    aftermath::assert_all_left(&respool, &flock);
    operations::inspect(&mut respool.client());
    aftermath::assert_clean_connections(&redis, &respool);
    aftermath::assert_every_element_accounted_for(&redis, &flock);
}

/// Names something that no canary has done to its end yet.
fn never(flock: &Flock) -> Option<&'static str> {
    let counts = flock.counts();
    species::operations().find(|name| {
        counts
            .get(name)
            .is_none_or(|[finished, _, _]| *finished == 0)
    })
}

/// Kills connections of respool at the server all the time, and the server itself now and then.
fn disturb(redis: &Redis, flock: &Flock, length: Duration) {
    let mut rng = SmallRng::seed_from_u64(flock.seed);
    let restarts = (length.as_secs() / SECONDS_FOR_EACH_RESTART).max(1);
    let part = length / (restarts as u32 + 1);
    for round in 0..=restarts {
        let watch = redis.watch_connections();
        let start = Instant::now();
        let goes_on = || match start.elapsed() {
            elapsed if elapsed < part => true,
            // On a busy machine it takes longer until everything has been done.
            elapsed if round == restarts && elapsed < part + PATIENCE => {
                never(flock).is_some() || flock.ledger.received_in(flock.phase()) < RECEIVED
            }
            _ => false,
        };
        while goes_on() && !flock.has_ended() {
            kill_one(redis, flock, &mut rng);
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

fn kill_one(redis: &Redis, flock: &Flock, rng: &mut SmallRng) {
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    let lines: Vec<&str> = list
        .lines()
        .filter(|line| line.contains(" name=respool"))
        .collect();
    if lines.is_empty() {
        return;
    }
    let line = lines[rng.random_range(0..lines.len())];
    let id = field(line, "id").unwrap_or_default();
    if !line.contains(":subscription:") {
        let line = kill(redis, id);
        return flock
            .ledger
            .sunk(flock.phase(), elements_on_their_way(&line));
    }
    // Less often: what subscribers must hear is known only while these live.
    if rng.random_range(0..3) == 0 {
        flock.subscription_kill(|| drop(kill(redis, id)));
    }
}

/// Kills a connection. Returns its line of CLIENT LIST in that very moment.
fn kill(redis: &Redis, id: &str) -> String {
    redis.cmd(&["MULTI"]);
    redis.cmd(&["CLIENT", "LIST", "ID", id]);
    redis.cmd(&["CLIENT", "KILL", "ID", id]);
    redis.cmd(&["EXEC"]).items()[0].text()
}

/// Tells how many elements may have been taken for this connection and not have arrived: none while it is blocked.
fn elements_on_their_way(line: &str) -> usize {
    let is_blocked = field(line, "flags").is_some_and(|flags| flags.contains('b'));
    match field(line, "cmd").unwrap_or_default() {
        _ if is_blocked => 0,
        "blmpop" | "bzmpop" | "xreadgroup" => 3,
        "blpop" | "brpop" | "bzpopmin" | "bzpopmax" | "blmove" | "brpoplpush" => 1,
        _ => 0,
    }
}

/// Finds a field of a line of CLIENT LIST.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(' ')
        .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
}

/// Writes into every database which one it is, and makes the groups of streams, before any client can ask again.
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
    for database in 0..waiting::DATABASES {
        client.cmd(&["SELECT", &database.to_string()]);
        let stream = waiting::group_stream(database).key;
        let created = client.cmd(&["XGROUP", "CREATE", &stream, waiting::GROUP, "0", "MKSTREAM"]);
        assert_eq!(created, Value::ok());
    }
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")),
    )
}
