//! Handshakes and records of TLS that clients begin and do not end: what is held of them.

use std::time::Duration;

use super::{MIB, is_served, put};
use crate::harness::{Client, Pki, Redis, Respool, Value, encode, eventually};
use crate::tls::listener_tls;

/// Is `limits.max_memory` of these tests.
const LIMIT: usize = 64 * MIB;

/// Starts a respool with a TLS listener, and what its clients trust.
fn behind_tls(pki: &Pki, redis: &Redis, limits: &str) -> Respool {
    let own = pki.issue("server", &["localhost"]);
    Respool::with(redis)
        .plain_clients()
        .listener(&listener_tls(&own, ""))
        .unix_listener()
        .limits(limits)
        .start()
}

/// Makes a client's first message of 65,000 bytes, in records, but for its last bytes.
fn half_a_handshake() -> Vec<u8> {
    let mut message = b"\x01\x00\xfd\xe8\x03\x03".to_vec();
    message.resize(64_000, b'r');
    let record = |part: &[u8]| {
        let length = (part.len() as u16).to_be_bytes();
        [b"\x16\x03\x01".as_slice(), &length, part].concat()
    };
    message.chunks(16_000).flat_map(record).collect()
}

/// Makes the head of a record of application data of 16,400 bytes, and nearly all of it.
fn half_a_record() -> Vec<u8> {
    let mut record = b"\x17\x03\x03\x40\x10".to_vec();
    record.resize(16_300, b'z');
    record
}

#[test]
fn the_process_stays_within_its_memory_when_handshakes_do_not_end() {
    const COUNT: usize = 1200;
    let (pki, redis) = (Pki::new(), Redis::start(&[]));
    let limits = "max_memory = \"64MiB\"\nmax_clients = 2000\nhandshake_timeout = \"60s\"";
    let respool = behind_tls(&pki, &redis, limits);
    put(&redis, "some", 8 * MIB);
    // It holds more than any stranger does, and has been admitted.
    let mut modest = respool.unix_client();
    modest.send(encode(&["GET", "some"]));
    eventually(
        || respool.metric("respool_memory_bytes") > 4e6,
        "its reply is held",
    );
    let half = half_a_handshake();
    let mut strangers: Vec<Client> = Vec::new();
    let most = most_resident(&respool, || {
        for _ in 0..50.min(COUNT - strangers.len()) {
            let mut stranger = Client::connect(respool.addr());
            let _ = stranger.try_send(&half);
            strangers.push(stranger);
        }
        strangers.len() == COUNT
    });
    assert!(most < LIMIT, "{} MiB", most / MIB);
    eventually(
        || respool.disconnects("memory") >= 300.0,
        "strangers have gone",
    );
    match modest.reply() {
        Value::Bulk(bytes) => assert_eq!(bytes.len(), 8 * MIB),
        other => panic!("{other:?}"),
    }
    assert!(respool.metric("respool_bounds_reached_total{bound=\"memory\"}") >= 300.0);
    respool.eventually_logs("limits.max_memory left no room");
}

/// All that it has yet to accept, read and let go of is there at once when it goes on.
#[test]
fn the_process_stays_within_its_memory_when_it_had_no_time_for_handshakes() {
    // As many as `listener.backlog` lets wait.
    const COUNT: usize = 1000;
    let (pki, redis) = (Pki::new(), Redis::start(&[]));
    let limits = "max_memory = \"64MiB\"\nmax_clients = 2000\nhandshake_timeout = \"60s\"";
    let respool = behind_tls(&pki, &redis, limits);
    let half = half_a_handshake();
    respool.pause();
    let _strangers: Vec<Client> = (0..COUNT)
        .map(|_| {
            let mut stranger = Client::connect(respool.addr());
            stranger.send(&half);
            stranger
        })
        .collect();
    respool.resume();
    eventually(
        || respool.disconnects("memory") >= 300.0,
        "strangers have gone",
    );
    respool.unix_client().ping();
    let most = respool.most_resident_bytes() as usize;
    assert!(most < LIMIT, "{} MiB", most / MIB);
}

#[test]
fn the_process_stays_within_its_memory_when_records_do_not_end() {
    const COUNT: usize = 1800;
    let (pki, redis) = (Pki::new(), Redis::start(&[]));
    let limits = "max_memory = \"48MiB\"\nmax_clients = 2000";
    let respool = behind_tls(&pki, &redis, limits);
    let config = pki.client(None);
    let half = half_a_record();
    let mut halves: Vec<Client> = Vec::new();
    let most = most_resident(&respool, || {
        for _ in 0..50.min(COUNT - halves.len()) {
            let mut client = respool.tls_client(&config);
            // It may be the one that goes.
            let _ = client.try_send_below_tls(&half);
            halves.push(client);
        }
        halves.len() == COUNT
    });
    assert!(most < 48 * MIB, "{} MiB", most / MIB);
    eventually(
        || respool.disconnects("memory") >= 1.0,
        "those who hold most are closed",
    );
}

/// Tells the most memory the process has while `work` goes on, with an honest client on the listener without TLS beside it.
#[track_caller]
fn most_resident(respool: &Respool, mut work: impl FnMut() -> bool) -> usize {
    let mut honest = respool.unix_client();
    let mut most = 0;
    eventually(
        || {
            is_served(&mut honest);
            most = most.max(respool.resident_bytes() as usize);
            work()
        },
        "all is done",
    );
    is_served(&mut honest);
    most.max(respool.resident_bytes() as usize)
}

#[test]
fn a_record_that_does_not_end_has_the_time_of_a_request() {
    let (pki, redis) = (Pki::new(), Redis::start(&[]));
    let limits = "request_stall_timeout = \"1s\"\nhandshake_timeout = \"1s\"";
    let respool = behind_tls(&pki, &redis, limits);
    let config = pki.client(None);
    let mut idle = respool.tls_client(&config);
    idle.ping();
    let mut stalled = respool.tls_client(&config);
    stalled.ping();
    stalled
        .try_send_below_tls(half_a_record())
        .expect("it is open");
    let mut first = respool.tls_client(&config);
    first
        .try_send_below_tls(half_a_record())
        .expect("it is open");
    eventually(
        || {
            respool.disconnects("request_stalled") == 1.0
                && respool.disconnects("handshake_timeout") == 1.0
        },
        "both are closed",
    );
    stalled.set_patience(Duration::from_secs(20));
    stalled.expect_end();
    first.expect_end();
    // One that has ended is a request like any other.
    idle.ping();
    assert_eq!(respool.disconnects("idle_timeout"), 0.0);
}
