//! A user who may not use MULTI: each of its tries waits at the server for a moment.

use super::waiting;
use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

/// These are more classes than can be lent a connection, so that those without one are tried again and again.
const CROWD: usize = 40;

/// Tells how many connections of the server had a BLPOP or BLMOVE as their last command, and do other things beside.
fn shared_that_try(redis: &Redis) -> Vec<String> {
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    let is_shared = |line: &&str| line.contains("name=respool") && line.contains("shared");
    let tries = |line: &&str| line.contains(" cmd=blmove ") || line.contains(" flags=b ");
    let found = list.lines().filter(is_shared).filter(tries);
    found.map(str::to_owned).collect()
}

#[test]
fn tries_of_who_may_not_use_multi_hold_up_nobody() {
    let redis = Redis::start(&[]);
    redis.cmd(&[
        "ACL", "SETUSER", "eve", "on", ">secret", "~*", "+@all", "-multi",
    ]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    let eve = || {
        let mut client = respool.client();
        assert_eq!(client.cmd(&["AUTH", "eve", "secret"]), Value::ok());
        client
    };
    let call = |number: usize| {
        let words = ["BLMOVE", &format!("k{number}"), "to", "LEFT", "RIGHT", "0"];
        words.map(str::to_owned).to_vec()
    };
    let mut clients: Vec<Client> = waiting(&respool, eve, (0..CROWD).map(call));
    // One try had to tell that she may not.
    eventually(
        || shared_that_try(&redis).is_empty(),
        "the try that has told is over",
    );
    let tried = redis.calls("blmove");
    let mut seen = 0;
    eventually(
        || {
            seen += shared_that_try(&redis).len();
            redis.calls("blmove") > tried + 4 * CROWD as u64
        },
        "they are tried again and again",
    );
    assert_eq!(seen, 0, "others would have waited behind them");
    for (number, client) in clients.iter_mut().enumerate() {
        redis.cmd(&["RPUSH", &format!("k{number}"), "x"]);
        assert_eq!(client.reply(), Value::bulk("x"));
    }
    assert_eq!(respool.blocked_clients(), 0);
}

/// A write tells that no pause is in force before the server is asked to end a call: it needs a connection of its own only where one is to
/// be had.
#[test]
fn a_call_ends_in_time_though_the_server_takes_no_more_connections() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    let mut direct = redis.client();
    respool.client().ping();
    let mut blocked = respool.client();
    blocked.send(encode(&["BLPOP", "q1", "0"]));
    eventually(|| respool.blocked_clients() == 1, "it is blocked");
    let version = redis.info("redis_version");
    if version.starts_with("6.2") || version.starts_with("7.0") {
        // Later ones bear that a call is ended which they have put off.
        eventually(|| redis.calls("pfcount") > 0, "a write has been asked for");
    }
    let mut caller = respool.client();
    caller.ping();
    // Those that can be lent and are open are lent.
    let mut holders = Vec::new();
    let is_idle = |line: &&str| {
        let is_used = line.contains("cmd=watch") || line.contains("flags=b");
        line.contains(":pinned:") && !is_used
    };
    while direct
        .cmd(&["CLIENT", "LIST"])
        .text()
        .lines()
        .any(|line| is_idle(&line))
    {
        let mut holder = respool.client();
        assert_eq!(holder.cmd(&["WATCH", "k"]), Value::ok());
        holders.push(holder);
        assert!(holders.len() < 6, "there is something to lend yet");
    }
    let connected = direct.cmd(&["CLIENT", "LIST"]).text().lines().count();
    let full = ["CONFIG", "SET", "maxclients", &connected.to_string()];
    assert_eq!(direct.cmd(&full), Value::ok());
    caller.send(encode(&["BLPOP", "q2", "0.5"]));
    assert!(caller.reply().is_null());
}
