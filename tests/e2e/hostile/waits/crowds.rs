//! Many waits of one client, none of which can be made one with another.

use std::time::{Duration, Instant};

use super::waiting;
use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

/// These are far more than can be lent a connection.
const CROWD: usize = 1_000;

/// The machine may be busy with something else for so long.
const MOMENT: Duration = Duration::from_millis(100);

fn blmove(number: usize) -> Vec<String> {
    let words = [
        "BLMOVE",
        &format!("crowd:{number}"),
        "to",
        "LEFT",
        "RIGHT",
        "0",
    ];
    words.map(str::to_owned).to_vec()
}

/// Tells how long elements take, in the median, to a client that waits in `call` for each of them.
fn lateness(redis: &Redis, respool: &Respool, mut client: Client, call: &[&str]) -> Duration {
    let mut producer = redis.client();
    let mut taken: Vec<Duration> = (0..15)
        .map(|_| {
            client.send(encode(call));
            eventually(|| has_tried(&client, respool), "it waits");
            let start = Instant::now();
            producer.cmd(&["RPUSH", "q", "x"]);
            assert_ne!(client.reply(), Value::Null);
            start.elapsed()
        })
        .collect();
    taken.sort_unstable();
    taken[taken.len() / 2]
}

/// Tells whether this client is blocked.
fn has_tried(client: &Client, respool: &Respool) -> bool {
    let address = format!(" addr={} ", client.local_addr());
    let list = respool.client().cmd(&["CLIENT", "LIST"]).text();
    let mut lines = list.lines();
    lines.any(|line| line.contains(&address) && line.contains(" flags=b"))
}

/// Tells how late elements come beside one other wait, and beside a crowd of them that comes from `source`.
fn beside(source: &str, call: &[&str]) -> (Duration, Duration) {
    let late = [1, CROWD].map(|crowd| {
        let redis = Redis::start(&[]);
        let respool = Respool::with(&redis).top("workers = 1").start();
        let connect = || respool.client_from(source);
        let _crowd = waiting(&respool, connect, (0..crowd).map(blmove));
        lateness(&redis, &respool, respool.client(), call)
    });
    (late[0], late[1])
}

#[track_caller]
fn assert_as_soon((beside_one, beside_many): (Duration, Duration)) {
    eprintln!("{beside_many:?} beside {CROWD} waits, {beside_one:?} beside one");
    assert!(
        beside_many <= 2 * beside_one + MOMENT,
        "{beside_many:?} beside {CROWD} waits, {beside_one:?} beside one"
    );
}

#[test]
fn who_has_just_come_is_served_about_as_soon_as_beside_one_wait() {
    let call = ["BLMOVE", "q", "q2", "LEFT", "RIGHT", "0"];
    assert_as_soon(beside("127.0.0.1", &call));
}

#[test]
fn another_host_is_served_about_as_soon_as_beside_one_wait() {
    let call = ["BLMOVE", "q", "q2", "LEFT", "RIGHT", "0"];
    assert_as_soon(beside("127.0.0.7", &call));
}

#[test]
fn a_wait_that_is_one_with_others_is_not_behind_those_that_are_not() {
    assert_as_soon(beside("127.0.0.1", &["BLPOP", "q", "0"]));
}
