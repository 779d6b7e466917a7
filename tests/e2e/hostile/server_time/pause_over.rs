//! A pause that is over without respool's having been told, and what ends one: nobody waits longer than the server has him wait.

use std::time::Duration;

use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

/// Longer than any test waits.
const LONG: &str = "600000";

fn pause(through: &mut Client) {
    let pause = ["CLIENT", "PAUSE", LONG, "WRITE"];
    assert_eq!(through.cmd(&pause), Value::ok());
}

/// Clients whose calls wait at the server, or in line for it.
fn blocked(respool: &Respool, calls: &[&str]) -> Vec<Client> {
    let call = |line: &&str| {
        let mut client = respool.client();
        client.send(encode(&line.split(' ').collect::<Vec<_>>()));
        client
    };
    let clients = calls.iter().map(call).collect();
    eventually(
        || respool.metric("respool_blocked_clients") == calls.len() as f64,
        "they wait",
    );
    clients
}

fn wait_at_the_server(redis: &Redis, count: u64) {
    eventually(
        || redis.info_number("blocked_clients") == count,
        &format!("{count} calls wait at the server"),
    );
}

/// What somebody has pushed is there for whoever comes, and pends for nobody.
fn nothing_is_taken(redis: &Redis) {
    redis.cmd(&["RPUSH", "from", "x"]);
    redis.cmd(&["XADD", "s", "1-1", "f", "v"]);
    assert_eq!(redis.cmd(&["LLEN", "from"]), Value::Int(1));
    assert_eq!(redis.cmd(&["EXISTS", "to"]), Value::Int(0));
    let pending = redis.cmd(&["XPENDING", "s", "g"]);
    assert_eq!(pending.items()[0], Value::Int(0));
}

const TAKE: [&str; 2] = [
    "BLMOVE from to LEFT LEFT 0",
    "XREADGROUP GROUP g c BLOCK 0 STREAMS s >",
];

#[test]
fn calls_end_with_their_clients_where_a_pause_was_ended_at_the_server() {
    for comes_first in [true, false] {
        let redis = Redis::start(&[]);
        let respool = Respool::start(&redis);
        redis.cmd(&["XGROUP", "CREATE", "s", "g", "$", "MKSTREAM"]);
        let mut other = respool.client();
        let mut clients = Vec::new();
        if comes_first {
            clients = blocked(&respool, &TAKE);
            wait_at_the_server(&redis, 2);
        }
        pause(&mut other);
        assert_eq!(redis.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
        if !comes_first {
            clients = blocked(&respool, &TAKE);
            wait_at_the_server(&redis, 2);
        }
        drop(clients);
        wait_at_the_server(&redis, 0);
        nothing_is_taken(&redis);
    }
}

#[test]
fn calls_end_with_their_clients_where_the_server_was_started_anew() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("health_interval = \"100ms\"")
        .start();
    let mut other = respool.client();
    pause(&mut other);
    redis.kill_hard();
    redis.restart();
    redis.cmd(&["XGROUP", "CREATE", "s", "g", "$", "MKSTREAM"]);
    eventually(
        || respool.metric("respool_server_up") == 1.0,
        "the server is seen again",
    );
    drop(blocked(&respool, &TAKE));
    wait_at_the_server(&redis, 0);
    nothing_is_taken(&redis);
}

#[test]
fn calls_that_waited_before_a_pause_end_with_their_clients_amid_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    redis.cmd(&["XGROUP", "CREATE", "s", "g", "$", "MKSTREAM"]);
    let clients = blocked(&respool, &TAKE);
    wait_at_the_server(&redis, 2);
    let mut other = respool.client();
    pause(&mut other);
    drop(clients);
    wait_at_the_server(&redis, 0);
    assert_eq!(other.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    nothing_is_taken(&redis);
}

#[test]
fn what_ends_a_pause_is_not_held_up_by_blocked_clients() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 1")
        .start();
    let mut other = respool.client();
    let calls: Vec<String> = (0..6)
        .map(|number| format!("BLMOVE from{number} to LEFT LEFT 0"))
        .collect();
    let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
    let mut clients = blocked(&respool, &calls);
    eventually(
        || redis.info_number("blocked_clients") >= 3,
        "all that can be lent is lent to them",
    );
    pause(&mut other);
    // Who comes now stands on the shared connection, and holds up whatever is behind.
    let mut late = respool.client();
    late.send(encode(&["BLMOVE", "late", "to", "LEFT", "LEFT", "0"]));
    eventually(
        || respool.metric("respool_blocked_clients") == 7.0,
        "it is under way",
    );
    assert_eq!(other.cmd(&["WATCH", "k"]), Value::ok());
    assert_eq!(other.cmd(&["UNWATCH"]), Value::ok());
    assert_eq!(other.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    for (number, client) in clients.iter_mut().enumerate() {
        redis.cmd(&["RPUSH", &format!("from{number}"), "x"]);
        assert_eq!(client.reply(), Value::bulk("x"));
    }
}

#[test]
fn a_call_that_reads_is_answered_while_writes_are_paused() {
    let redis = Redis::start(&[]);
    redis.cmd(&["XADD", "s", "1-1", "f", "v"]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 1")
        .start();
    let mut other = respool.client();
    pause(&mut other);
    // Its try is put off, on the only shared connection.
    let taker = blocked(&respool, &["BLMOVE from to LEFT LEFT 0"]);
    let mut reader = respool.client();
    let entries = reader.cmd(&["XREAD", "BLOCK", "0", "STREAMS", "s", "0"]);
    assert!(!entries.is_error() && !entries.is_null(), "{entries:?}");
    assert_eq!(redis.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    drop(taker);
}

#[test]
fn who_has_finished_sending_is_answered_however_slow_the_server_is() {
    let redis = Redis::start(&[]);
    redis.cmd(&["RPUSH", "from", "x"]);
    let respool = Respool::with(&redis)
        .limits("half_closed_grace = \"50ms\"")
        .start();
    // Ends as soon as its grace is over, for it waits.
    let mut waits = blocked(&respool, &["XREAD BLOCK 0 STREAMS s $"]).remove(0);
    wait_at_the_server(&redis, 1);
    redis.pause();
    let mut client = respool.client();
    client.send(encode(&["BLMOVE", "from", "to", "LEFT", "LEFT", "0"]));
    client.finish_sending();
    eventually(
        || respool.metric("respool_blocked_clients") == 2.0,
        "it has been read",
    );
    waits.finish_sending();
    assert!(waits.read_to_end().is_empty());
    assert!(client.reply_within(Duration::from_millis(1)).is_none());
    redis.resume();
    assert_eq!(client.reply(), Value::bulk("x"));
    assert_eq!(client.try_reply(), None);
}
