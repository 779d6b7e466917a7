//! The shared connection that a client is on: one that does not answer, one in another state.

use std::time::Duration;

use super::{assert_within_twice, rounds, spin, worst_wait};
use crate::harness::{Client, Redis, Respool, Value, encode, eventually_some};

#[test]
fn who_has_nothing_due_leaves_a_connection_that_does_not_answer() {
    let redis = Redis::start(&[]);
    assert_eq!(redis.cmd(&["SET", "k", "v"]), Value::ok());
    let respool = Respool::with(&redis).top("workers = 1").start();
    let mut writer = respool.client();
    writer.ping();
    assert_eq!(
        redis.cmd(&["CLIENT", "PAUSE", "600000", "WRITE"]),
        Value::ok()
    );
    writer.send(encode(&["SET", "other", "v"]));
    // Whoever asks before it shows may stand behind it; soon nobody does.
    let mut stuck = Vec::new();
    let mut reader = eventually_some(
        || {
            let mut reader = respool.client();
            reader.send(encode(&["GET", "k"]));
            match reader.reply_within(Duration::from_millis(500)) {
                Some(reply) => {
                    assert_eq!(reply, Value::bulk("v"));
                    Some(reader)
                }
                None => {
                    stuck.push(reader);
                    None
                }
            }
        },
        "a client reads beside the connection that is paused",
    );
    for _ in 0..100 {
        assert_eq!(reader.cmd(&["GET", "k"]), Value::bulk("v"));
    }
    assert_eq!(redis.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    assert_eq!(writer.reply(), Value::ok());
    for mut reader in stuck {
        assert_eq!(reader.reply(), Value::bulk("v"));
    }
}

/// There is one connection for each worker: clients of other databases take turns on it.
#[test]
fn another_database_has_its_turn_in_time_however_long_the_pipelines_in_the_first() {
    const PIPELINES: usize = 4;
    let redis = Redis::start(&[]);
    let mut other = in_database_1(redis.client());
    assert_eq!(other.cmd(&["SET", "k", "v"]), Value::ok());
    let rounds = rounds(&redis, Duration::from_micros(330));
    let neighbours = |connect: &dyn Fn() -> Client| {
        let mut clients: Vec<Client> = (0..PIPELINES).map(|_| connect()).collect();
        clients
            .iter_mut()
            .for_each(|client| client.send(spin(&rounds).repeat(4_000)));
    };
    let directly = worst_wait(
        (&redis, None),
        || in_database_1(redis.client()),
        || neighbours(&|| redis.client()),
    );
    let respool = Respool::with(&redis)
        .upstream("shared_connections = 2\nqueue = { timeout = \"1s\", max_commands = 10000 }")
        .top("workers = 2")
        .start();
    let through = worst_wait(
        (&redis, Some(&respool)),
        || in_database_1(respool.client()),
        || neighbours(&|| respool.client()),
    );
    assert_within_twice(through, directly);
}

/// Slow requests of many clients, one at a time each, are no reason to let another database wait for 256 of them.
#[test]
fn another_database_has_its_turn_among_slow_requests() {
    const CLIENTS: usize = 16;
    let redis = Redis::start(&[]);
    let mut other = in_database_1(redis.client());
    assert_eq!(other.cmd(&["SET", "k", "v"]), Value::ok());
    let rounds = rounds(&redis, Duration::from_millis(4));
    // In pairs, so that the connection always owes a reply.
    let neighbours = |connect: &(dyn Fn() -> Client + Sync)| {
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut client = connect();
                    client.send(spin(&rounds));
                    for _ in 0..30 {
                        client.send(spin(&rounds));
                        client.reply_bytes();
                    }
                    client.reply_bytes();
                });
            }
        });
    };
    let directly = worst_wait(
        (&redis, None),
        || in_database_1(redis.client()),
        || neighbours(&|| redis.client()),
    );
    let respool = Respool::with(&redis)
        .upstream("shared_connections = 1")
        .top("workers = 1")
        .start();
    let through = worst_wait(
        (&redis, Some(&respool)),
        || in_database_1(respool.client()),
        || neighbours(&|| respool.client()),
    );
    assert_within_twice(through, directly);
}

/// A command that takes longer than `queue.timeout` is no reason to tell those who wait for their database that the server
/// is away: directly they would just wait.
#[test]
fn who_waits_for_a_database_is_not_told_that_a_busy_server_is_away() {
    let redis = Redis::start(&["--lua-time-limit", "60000"]);
    let respool = Respool::with(&redis)
        .upstream("shared_connections = 1\nqueue = { timeout = \"200ms\", max_commands = 10000 }")
        .top("workers = 1")
        .start();
    let mut other = respool.client();
    assert_eq!(other.cmd(&["SELECT", "1"]), Value::ok());
    assert_eq!(other.cmd(&["SET", "k", "v"]), Value::ok());
    let mut slow = respool.client();
    slow.ping();
    slow.send(spin(&rounds(&redis, Duration::from_secs(1))));
    for _ in 0..3 {
        assert_eq!(other.cmd(&["GET", "k"]), Value::bulk("v"));
    }
    assert!(slow.reply().int() > 0);
    assert!(slow.cmd(&["GET", "k"]).is_null());
}

fn in_database_1(mut client: Client) -> Client {
    assert_eq!(client.cmd(&["SELECT", "1"]), Value::ok());
    client
}
