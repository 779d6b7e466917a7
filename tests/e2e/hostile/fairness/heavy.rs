//! One client with a long pipeline of slow requests, or of large replies.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{assert_within_twice, rounds, spin, worst_wait};
use crate::harness::{
    Client, PATIENCE, Redis, Respool, ScriptedAct, ScriptedServer, Value, encode, eventually,
};

/// Counts the bytes of `$200000`, of the value, and of two line ends.
const LARGE_REPLY: usize = 200_000 + 11;

const SCRIPT: Duration = Duration::from_micros(330);

/// Sends ten thousand slow scripts and leaves without a look at their replies.
fn send_scripts_and_leave(mut client: Client, rounds: &str) {
    client.send(spin(rounds).repeat(10_000));
}

/// Asks for a large value again and again and reads all of the replies, as quickly as it can.
fn read_large(address: &str, count: usize) {
    let mut reader = TcpStream::connect(address).expect("it connects");
    let mut writer = reader.try_clone().expect("a socket can be cloned");
    for socket in [&reader, &writer] {
        socket
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| socket.set_write_timeout(Some(PATIENCE)))
            .expect("a socket takes a timeout");
    }
    let replies = (count * LARGE_REPLY) as u64;
    std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(&encode(&["GET", "large"]).repeat(count)));
        let read = io::copy(
            &mut Read::by_ref(&mut reader).take(replies),
            &mut io::sink(),
        );
        assert_eq!(read.ok(), Some(replies), "all replies have come");
    });
}

fn redis() -> Redis {
    let redis = Redis::start(&[]);
    assert_eq!(redis.cmd(&["SET", "k", "v"]), Value::ok());
    redis
}

#[test]
fn scripts_of_one_client_that_leaves_hold_others_up_no_longer_than_directly() {
    let redis = redis();
    let rounds = rounds(&redis, SCRIPT);
    let directly = worst_wait(
        (&redis, None),
        || redis.client(),
        || send_scripts_and_leave(redis.client(), &rounds),
    );
    let respool = Respool::start(&redis);
    let through = worst_wait(
        (&redis, Some(&respool)),
        || respool.client(),
        || send_scripts_and_leave(respool.client(), &rounds),
    );
    assert_within_twice(through, directly);
}

#[test]
fn scripts_behind_quick_requests_hold_others_up_no_longer_than_directly() {
    let redis = redis();
    let rounds = rounds(&redis, SCRIPT);
    let trick = |mut client: Client| {
        for _ in 0..20 {
            client.send(encode(&["GET", "k"]).repeat(1_000));
            (0..1_000).for_each(|_| drop(client.reply_bytes()));
        }
        send_scripts_and_leave(client, &rounds);
    };
    let directly = worst_wait((&redis, None), || redis.client(), || trick(redis.client()));
    let respool = Respool::start(&redis);
    let through = worst_wait(
        (&redis, Some(&respool)),
        || respool.client(),
        || trick(respool.client()),
    );
    assert_within_twice(through, directly);
}

#[test]
fn large_replies_to_one_client_hold_others_up_no_longer_than_directly() {
    const COUNT: usize = 5_000;
    let redis = redis();
    redis.cmd(&["SETRANGE", "large", "199999", "x"]);
    let directly = worst_wait(
        (&redis, None),
        || redis.client(),
        || read_large(&redis.addr(), COUNT),
    );
    let respool = Respool::before(&redis.addr())
        .upstream("shared_connections = 1")
        .limits("max_client_buffer = \"1GiB\"")
        .top("workers = 1")
        .start();
    let through = worst_wait(
        (&redis, Some(&respool)),
        || respool.client(),
        || read_large(&respool.addr(), COUNT),
    );
    assert_within_twice(through, directly);
}

#[test]
fn a_pipeline_of_scripts_is_answered_whole_and_in_order() {
    const COUNT: usize = 3_000;
    let redis = redis();
    let respool = Respool::with(&redis).top("workers = 1").start();
    let mut client = respool.client();
    let mut writer = client.writer();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..COUNT {
                let number = number.to_string();
                writer.send(spin("2000"));
                writer.send(encode(&["ECHO", &number]));
            }
        });
        for number in 0..COUNT {
            assert_eq!(client.reply(), Value::Int(2_001_000));
            assert_eq!(client.reply(), Value::bulk(number.to_string()));
        }
    });
}

#[test]
fn another_connection_is_opened_beside_one_with_heavy_work() {
    let redis = redis();
    let rounds = rounds(&redis, SCRIPT);
    let respool = Respool::with(&redis)
        .upstream("shared_connections = 8\nmax_connections = 12")
        .top("workers = 1")
        .start();
    let mut heavy = respool.client();
    heavy.send(spin(&rounds).repeat(20_000));
    let mut quick = respool.client();
    eventually(
        || {
            assert_eq!(quick.cmd(&["GET", "k"]), Value::bulk("v"));
            respool.metric("respool_upstream_connections{kind=\"shared\"}") > 1.0
        },
        "another shared connection is open",
    );
}

#[test]
fn hardly_more_than_one_of_a_clients_very_slow_requests_stands_before_others() {
    const SLOW: Duration = Duration::from_millis(8);
    const ASKED: usize = 25;
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    let server = ScriptedServer::start(move |words| match words[0].as_str() {
        "get" => {
            // The server's own work on the request.
            std::thread::park_timeout(SLOW);
            counted.fetch_add(1, Ordering::SeqCst);
            ScriptedAct::Say("$1\r\nv\r\n")
        }
        _ => ScriptedAct::Usual,
    });
    let respool = Respool::before(server.addr())
        .upstream("shared_connections = 1")
        .top("workers = 1")
        .start();
    let mut slow = respool.client();
    slow.send(encode(&["GET", "k"]).repeat(1_000));
    // The first window is sent before anything is known of them.
    eventually(
        || served.load(Ordering::SeqCst) > 100,
        "they are known to be slow",
    );
    let mut quick = respool.client();
    let mut before: Vec<usize> = (0..ASKED)
        .map(|_| {
            let before = served.load(Ordering::SeqCst);
            assert_eq!(quick.cmd(&["ECHO", "e"]), Value::bulk("e"));
            served.load(Ordering::SeqCst) - before
        })
        .collect();
    before.sort_unstable();
    eprintln!("slow requests served before a quick one: {before:?}");
    // Half of them at least, for the machine may stand still between the count and the request.
    assert!(before[ASKED / 2] <= 3, "{before:?}");
}
