//! Replies larger than any buffer, read slowly.

use std::time::{Duration, Instant};

use super::{MIB, is_served, put, until_sent};
use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

/// Reads one reply that is due and says how long it is.
#[track_caller]
fn bulk_length(client: &mut Client) -> usize {
    match client.reply() {
        Value::Bulk(bytes) => bytes.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reply_of_60_mb_comes_whole_to_a_client_that_pauses_first() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    put(&redis, "big", 60 * MIB);
    let mut other = respool.client();
    for _ in 0..3 {
        let mut slow = respool.client();
        let before = redis.info_number("total_net_output_bytes");
        slow.send(encode(&["GET", "big"]));
        until_sent(&redis, before, 60 * MIB);
        is_served(&mut other);
        assert_eq!(bulk_length(&mut slow), 60 * MIB);
        is_served(&mut slow);
    }
    assert_eq!(respool.disconnects("output_buffer"), 0.0);
    drop(other);
    eventually(
        || respool.metric("respool_memory_bytes") < 2e6,
        "nothing is held any more",
    );
    eventually(
        || respool.resident_bytes() < 32 << 20,
        "the memory has gone back",
    );
}

#[test]
fn a_reply_of_200_mb_comes_whole_at_full_speed() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    put(&redis, "big", 200 * MIB);
    let mut client = respool.client();
    for _ in 0..3 {
        client.send(encode(&["GET", "big"]));
        assert_eq!(bulk_length(&mut client), 200 * MIB);
    }
}

#[test]
fn replies_to_200_000_requests_written_before_the_first_is_read_all_come() {
    const COUNT: usize = 200_000;
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    put(&redis, "k", 1000);
    let mut client = respool.client();
    let mut other = respool.client();
    client.send(encode(&["GET", "k"]).repeat(COUNT));
    is_served(&mut other);
    for _ in 0..COUNT {
        assert_eq!(client.reply_bytes().len(), 1009);
    }
    is_served(&mut client);
}

#[test]
fn a_client_takes_no_new_requests_while_it_leaves_too_much_unread() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("max_client_buffer = \"1MiB\"")
        .start();
    put(&redis, "big", 20 * MIB);
    let mut slow = respool.client();
    slow.send(encode(&["GET", "big"]));
    eventually(
        || respool.metric("respool_memory_bytes") > 5e6,
        "the reply is held",
    );
    slow.send(encode(&["INCR", "n"]));
    eventually(
        || respool.metric_or_zero("respool_bounds_reached_total{bound=\"output_buffer\"}") == 1.0,
        "its request waits",
    );
    // The line stands in the log a moment after it is counted.
    eventually(
        || respool.log_text().contains("limits.max_client_buffer"),
        "the log says which setting",
    );
    assert!(redis.cmd(&["GET", "n"]).is_null());
    assert_eq!(bulk_length(&mut slow), 20 * MIB);
    assert_eq!(slow.reply(), Value::Int(1));
}

#[test]
fn a_client_that_takes_a_little_now_and_then_is_served_to_the_end() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("max_client_buffer = \"1MiB\"\nreply_stall_timeout = \"1s\"")
        .start();
    put(&redis, "big", 30 * MIB);
    let mut slow = respool.client();
    slow.send(encode(&["GET", "big"]));
    let (begun, mut taken) = (Instant::now(), 0);
    // Half a megabyte each 50 ms, three times as long as it may stall.
    while begun.elapsed() < Duration::from_secs(3) {
        taken += slow.take(MIB / 2).len();
        let paused = Instant::now();
        eventually(|| paused.elapsed() > Duration::from_millis(50), "a pause");
    }
    slow.take(30 * MIB + "$31457280\r\n\r\n".len() - taken);
    is_served(&mut slow);
    assert_eq!(respool.disconnects("output_buffer"), 0.0);
}

#[test]
fn a_client_that_takes_nothing_is_closed_in_time_and_named() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("max_client_buffer = \"1MiB\"\nreply_stall_timeout = \"1s\"")
        .start();
    put(&redis, "big", 20 * MIB);
    let mut other = respool.client();
    let mut stalled = respool.client();
    stalled.send(encode(&["GET", "big"]));
    eventually(
        || {
            is_served(&mut other);
            respool.disconnects("output_buffer") == 1.0
        },
        "who takes nothing is closed",
    );
    assert_eq!(
        respool.metric("respool_bounds_reached_total{bound=\"reply_stall\"}"),
        1.0
    );
    respool.eventually_logs("limits.reply_stall_timeout");
    eventually(
        || respool.metric("respool_memory_bytes") < 2e6,
        "what was held for it is given back",
    );
}
