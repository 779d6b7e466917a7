//! What clients can cause at will is written now and then, and says how much it stands for.

use std::time::{Duration, Instant};

use crate::harness::{Client, Redis, Respool, encode, eventually};

/// This number of clients are closed for one reason.
const CLOSED: u64 = 30;

/// One line is written in so long.
const EVERY: Duration = Duration::from_secs(10);

/// Waits until the clients are closed for `reason`, and sees that the lines with `words` are few and stand for all.
#[track_caller]
fn few_lines(respool: &Respool, reason: &str, words: &str, begun: Instant) {
    let counted = format!("respool_client_disconnects_total{{reason=\"{reason}\"}}");
    eventually(
        || respool.metric_or_zero(&counted) >= CLOSED as f64,
        "all are closed",
    );
    let log = respool.log_text();
    let most = 1 + begun.elapsed().as_secs() / EVERY.as_secs();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(words)).collect();
    assert!(
        (1..=most).contains(&(lines.len() as u64)),
        "{} lines for {CLOSED} closings: {lines:?}",
        lines.len()
    );
    let stands_for = |line: &&str| -> u64 {
        let (_, rest) = line.split_once("others=").expect("how many others");
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        1 + digits
            .and_then(|digits| digits.parse::<u64>().ok())
            .expect("a number")
    };
    let told: u64 = lines.iter().map(stands_for).sum();
    assert!(told <= CLOSED, "{told} of {CLOSED}");
}

#[test]
fn subscribers_that_do_not_read_are_not_a_line_each() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .limits("pubsub_buffer = \"64KiB\"")
        .start();
    let subscribed = |_| {
        let mut client = respool.client();
        client.cmd(&["SUBSCRIBE", "c"]);
        client
    };
    let begun = Instant::now();
    let _clients: Vec<Client> = (0..CLOSED).map(subscribed).collect();
    // More than any of them may leave unread.
    redis.cmd(&["PUBLISH", "c", &"x".repeat(300_000)]);
    few_lines(
        &respool,
        "pubsub_buffer",
        "than limits.pubsub_buffer",
        begun,
    );
}

#[test]
fn clients_that_do_not_read_are_not_a_line_each() {
    let redis = Redis::start(&[]);
    redis.cmd(&["SET", "k", &"x".repeat(1 << 20)]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .limits("max_client_buffer = \"64KiB\"\nreply_stall_timeout = \"200ms\"")
        .start();
    let asking = |_| {
        let mut client = respool.client();
        client.shrink_receive_buffer(4096);
        // More than the kernel holds of it.
        client.send(encode(&["GET", "k"]).repeat(20));
        client
    };
    let begun = Instant::now();
    let _clients: Vec<Client> = (0..CLOSED).map(asking).collect();
    few_lines(&respool, "output_buffer", "and took none of it for", begun);
    let waits = respool.log_text();
    let waits = waits.matches("its requests wait until it reads").count();
    let most = 1 + begun.elapsed().as_secs() / EVERY.as_secs();
    assert!((waits as u64) <= most, "{waits} lines of clients that wait");
}
