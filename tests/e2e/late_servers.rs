//! Blocking calls at a server that answers later than they may wait: it looks before it waits, and what it holds comes.

use std::time::Duration;

use crate::harness::{Client, Redis, Respool, Value, encode_line, words};

/// Lasts far longer than each of the calls may wait.
const STILL_NOTHING: Duration = Duration::from_millis(200);

/// Lists what never waits, and at the end what does.
const CALLS: [&str; 12] = [
    "XREAD BLOCK 10 STREAMS x 0",
    "XREAD COUNT 1 BLOCK 10 STREAMS nothing x 0 0",
    "XREADGROUP GROUP g c BLOCK 1 STREAMS x 0",
    "XREADGROUP GROUP fresh c COUNT 1 BLOCK 10 STREAMS x >",
    "BLPOP l 0.01",
    "BRPOP nothing l 0.01",
    "BLMOVE l moved LEFT LEFT 0.01",
    "BRPOPLPUSH l moved 0.01",
    "BZPOPMIN z 0.01",
    "BZPOPMAX z 0.01",
    "XREAD BLOCK 10 STREAMS x $",
    "BLPOP nothing 0.01",
];

fn seed(redis: &Redis) {
    redis.flush();
    for line in [
        "XADD x 1-1 a 1",
        "XADD x 2-1 a 2",
        "XGROUP CREATE x g 0",
        "XGROUP CREATE x fresh 0",
        "XREADGROUP GROUP g c STREAMS x >",
        "RPUSH l a a a a",
        "ZADD z 1 low 2 high",
    ] {
        assert!(!redis.cmd(&words(line)).is_error(), "{line}");
    }
}

/// Tells what each of the calls is answered that arrives while the server is held, for longer than it may wait.
fn told(
    redis: &Redis,
    mut clients: Vec<Client>,
    hold: &dyn Fn(),
    release: &dyn Fn(),
) -> Vec<Value> {
    seed(redis);
    for client in &mut clients {
        client.ping();
    }
    hold();
    for (client, line) in clients.iter_mut().zip(CALLS) {
        client.send(encode_line(line));
    }
    let early = clients[0].reply_within(STILL_NOTHING);
    release();
    let mut early = early.into_iter();
    let answers = clients.iter_mut();
    answers
        .map(|client| early.next().unwrap_or_else(|| client.reply()))
        .collect()
}

fn compare(redis: &Redis, hold: &dyn Fn(), release: &dyn Fn()) {
    let respool = Respool::with(redis).top("workers = 1").start();
    let direct = CALLS.map(|_| redis.client()).into();
    let direct = told(redis, direct, hold, release);
    let (last, all) = direct.split_last().expect("some");
    assert!(last.is_null(), "{last:?}");
    assert!(all[..all.len() - 1].iter().all(|answer| !answer.is_null()));
    let through = CALLS.map(|_| respool.client()).into();
    let through = told(redis, through, hold, release);
    for ((line, direct), through) in CALLS.iter().zip(direct).zip(through) {
        assert_eq!(through, direct, "{line}");
    }
}

#[test]
fn a_server_that_stands_still_for_longer_than_a_call_may_wait_is_heard() {
    let redis = Redis::start(&[]);
    compare(&redis, &|| redis.pause(), &|| redis.resume());
}

#[test]
fn a_server_that_pauses_its_clients_for_longer_than_a_call_may_wait_is_heard() {
    let redis = Redis::start(&[]);
    let pause = || assert_eq!(redis.cmd(&["CLIENT", "PAUSE", "2000"]), Value::ok());
    compare(&redis, &pause, &|| {});
}
