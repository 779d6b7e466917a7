//! Room for many clients: what they hold together, and who goes when there is none.

use std::thread;

use super::{MIB, is_served, most_resident, put};
use crate::harness::{Client, Redis, Respool, Value, encode, eventually, keep_busy};

/// Is `limits.max_memory` of these tests; the process is to stay below it whatever happens.
const LIMIT: usize = 64 * MIB;

fn small(redis: &Redis) -> Respool {
    Respool::with(redis)
        .limits("max_memory = \"64MiB\"\nmax_clients = 1000")
        .start()
}

fn clients(respool: &Respool, count: usize) -> Vec<Client> {
    let client = |_| {
        let mut client = respool.client();
        client.shrink_receive_buffer(4096);
        client
    };
    (0..count).map(client).collect()
}

#[test]
fn the_process_stays_within_its_memory_when_large_replies_are_not_read() {
    let redis = Redis::start(&[]);
    let respool = small(&redis);
    // No more than the server can write in a moment.
    for (count, size, gone) in [(12, 20 * MIB, 8), (60, 8 * MIB, 40)] {
        put(&redis, "big", size);
        let mut greedy = clients(&respool, count);
        let before = respool.disconnects("memory");
        for client in &mut greedy {
            client.send(encode(&["GET", "big"]));
        }
        let most = most_resident(
            &respool,
            || respool.disconnects("memory") - before >= f64::from(gone),
            "those who hold most are closed",
        );
        assert!(most < LIMIT, "{count}: {} MiB", most / MIB);
    }
    respool.eventually_logs("limits.max_memory left no room");
    assert!(respool.metric("respool_bounds_reached_total{bound=\"memory\"}") >= 48.0);
}

#[test]
fn who_holds_the_most_goes_first() {
    let redis = Redis::start(&[]);
    let respool = small(&redis);
    put(&redis, "small", 8 * MIB);
    put(&redis, "large", 40 * MIB);
    let mut modest = respool.client();
    modest.send(encode(&["GET", "small"]));
    eventually(
        || respool.metric("respool_memory_bytes") > 3e6,
        "the modest one's reply is held",
    );
    let mut large = clients(&respool, 3);
    for client in &mut large {
        client.send(encode(&["GET", "large"]));
    }
    eventually(
        || respool.disconnects("memory") >= 2.0,
        "the largest are closed",
    );
    match modest.reply() {
        Value::Bulk(bytes) => assert_eq!(bytes.len(), 8 * MIB),
        other => panic!("{other:?}"),
    }
}

#[test]
fn own_replies_behind_a_slow_one_cost_what_they_hold() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("max_client_buffer = \"8MiB\"")
        .start();
    let mut eager = respool.client();
    eager.ping();
    let before = respool.resident_bytes();
    let mut busy = keep_busy(&redis, &respool, "4");
    let mut writer = eager.writer();
    let writing = thread::spawn(move || {
        let _ = writer.try_send(encode(&["GET", "k"]));
        let names = encode(&["CLIENT", "GETNAME"]).repeat(10_000);
        (0..400).all(|_| writer.try_send(&names).is_ok())
    });
    let mut most = 0;
    eventually(
        || {
            most = most.max(respool.resident_bytes());
            busy.reply_within(std::time::Duration::from_millis(20))
                .is_some()
        },
        "the server is free again",
    );
    let grown = (most - before) as usize;
    // Replies up to the bound, and as much of requests that wait.
    assert!(grown < 24 * MIB, "{} MiB", grown / MIB);
    for _ in 0..4_000_001 {
        assert_eq!(eager.reply_bytes(), b"$-1\r\n");
    }
    assert!(writing.join().expect("the writer ends"));
}

#[test]
fn the_process_stays_within_its_memory_when_requests_are_half_sent() {
    let redis = Redis::start(&[]);
    let respool = small(&redis);
    // It is gathered whole, since respool answers it itself. Each begins once: with more it would be a broken request.
    let begun = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$900000\r\n";
    let half_sent = [begun.as_slice(), &vec![b'x'; 800_000]].concat();
    let mut half = clients(&respool, 150);
    let mut silent = half.iter_mut();
    let most = most_resident(
        &respool,
        || {
            if let Some(client) = silent.next() {
                let _ = client.try_send(&half_sent);
            }
            respool.disconnects("memory") >= 50.0
        },
        "those who hold most are closed",
    );
    assert!(most < LIMIT, "{} MiB", most / MIB);
}

#[test]
fn the_process_stays_within_its_memory_when_messages_are_not_read() {
    let redis = Redis::start(&[]);
    let respool = small(&redis);
    let mut deaf = clients(&respool, 30);
    for client in &mut deaf {
        client.cmd(&["SUBSCRIBE", "news"]);
    }
    let mut publisher = redis.client();
    let message = encode(&["PUBLISH", "news", &"m".repeat(1000)]).repeat(100);
    let most = most_resident(
        &respool,
        || {
            publisher.send(&message);
            for _ in 0..100 {
                publisher.reply();
            }
            respool.disconnects("memory") >= 10.0
        },
        "those who hold most are closed",
    );
    assert!(most < LIMIT, "{} MiB", most / MIB);
}

#[test]
fn the_process_stays_within_its_memory_when_own_replies_are_not_read() {
    let redis = Redis::start(&[]);
    let respool = small(&redis);
    let name = "n".repeat(1000);
    let mut greedy = clients(&respool, 100);
    for client in &mut greedy {
        assert_eq!(client.cmd(&["CLIENT", "SETNAME", &name]), Value::ok());
    }
    let most = most_resident(
        &respool,
        || {
            for client in &mut greedy {
                let _ = client.try_send(encode(&["CLIENT", "LIST"]).repeat(10));
            }
            respool.disconnects("memory") >= 20.0
        },
        "those who hold most are closed",
    );
    assert!(most < LIMIT, "{} MiB", most / MIB);
}

#[test]
fn a_name_is_kept_as_it_was_given_or_refused() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut client = respool.client();
    let longest = "n".repeat(1024);
    assert_eq!(client.cmd(&["CLIENT", "SETNAME", &longest]), Value::ok());
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), Value::bulk(&longest));
    let longer = "n".repeat(1025);
    let refused = client.cmd(&["CLIENT", "SETNAME", &longer]);
    assert!(refused.text().contains("1 KiB"), "{refused:?}");
    let refused = client.cmd(&["CLIENT", "SETINFO", "LIB-NAME", &longer]);
    let direct = redis.cmd(&["CLIENT", "SETINFO", "LIB-NAME", "x"]);
    if direct.is_error() {
        assert_eq!(refused, direct, "the server does not know it");
    } else {
        assert!(refused.text().contains("1 KiB"), "{refused:?}");
    }
    assert!(!respool.status().contains(&longer));
    assert!(client.cmd(&["HELLO", "3", "SETNAME", &longer]).is_error());
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), Value::bulk(&longest));
    is_served(&mut client);
}

#[test]
fn the_list_of_clients_tells_what_is_held() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    put(&redis, "big", 20 * MIB);
    let mut slow = respool.client_named("slow");
    slow.send(encode(&["GET", "big"]));
    let mut looking = respool.client();
    eventually(
        || {
            let list = looking.cmd(&["CLIENT", "LIST"]).text();
            let line = list.lines().find(|line| line.contains("name=slow"));
            let omem = line.and_then(|line| line.split("omem=").nth(1)?.split(' ').next());
            omem.is_some_and(|omem| omem.parse::<usize>().expect("a number") > 10 * MIB)
        },
        "omem is what is held",
    );
    assert!(respool.status().contains("\"memory\""));
}
