//! Memory that is held for clients that read slowly or not at all, and what it costs the process.

mod kept;
mod large;
mod many;
mod records;
mod room;

use crate::harness::{Client, Redis, Respool, Value, eventually, eventually_some};

const MIB: usize = 1 << 20;

/// Puts a value of so many mebibytes at the server.
#[track_caller]
fn put(redis: &Redis, key: &str, bytes: usize) {
    let value = vec![b'v'; bytes];
    assert_eq!(
        redis.cmd(&[b"SET", key.as_bytes(), &value]),
        Value::ok(),
        "{key}"
    );
}

/// Waits until the server has written everything that it was asked for beside `before` bytes.
#[track_caller]
fn until_sent(redis: &Redis, before: u64, bytes: usize) {
    eventually(
        || redis.info_number("total_net_output_bytes") >= before + bytes as u64,
        "the server has written the replies",
    );
}

/// Checks what others see: answers, within a time that only a hang exceeds.
#[track_caller]
fn is_served(other: &mut Client) {
    other.ping();
}

/// Tells the most memory the process has while `work` goes on, with an honest client beside it.
#[track_caller]
fn most_resident(respool: &Respool, mut work: impl FnMut() -> bool, what: &str) -> usize {
    let mut honest = respool.client();
    let mut most = 0;
    eventually_some(
        || {
            is_served(&mut honest);
            most = most.max(respool.resident_bytes() as usize);
            work().then_some(())
        },
        what,
    );
    most
}
