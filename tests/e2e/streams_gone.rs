//! A stream, or its group, that goes away under a blocked XREADGROUP: whoever waits is told what the server tells them.

use crate::harness::{AT_HAND, Client, Redis, Respool, encode, eventually, leave_out, show};

const WAYS: [&[&str]; 10] = [
    &["DEL s"],
    &["SET s x"],
    &["XGROUP DESTROY s g"],
    &["FLUSHALL"],
    &["RENAME s t"],
    &["SET o 1", "RENAME o s"],
    &["SWAPDB 0 1"],
    &["MULTI", "DEL s", "XADD s 1-1 a 1", "EXEC"],
    &["XADD o 1-1 a 1", "RENAME o s"],
    &["PEXPIRE s 1"],
];

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// How many transactions the server has run.
fn transactions(redis: &Redis) -> u64 {
    let text = redis.cmd(&["INFO", "commandstats"]).text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_exec:calls="));
    let count = line.and_then(|line| line.split(',').next());
    count.map_or(0, |count| count.parse().expect("a number"))
}

/// What each of `waiting`, which block on a stream, gets when it goes away by `way`. They wait when the server has run so many
/// transactions, so many are blocked there, and `settle` has returned.
fn told(
    redis: &Redis,
    mut waiting: Vec<Client>,
    way: &[&str],
    (tried, blocked): (u64, u64),
    settle: &mut dyn FnMut(),
) -> Vec<Vec<u8>> {
    redis.flush();
    redis.cmd(&["CONFIG", "RESETSTAT"]);
    for key in ["s", "other"] {
        redis.cmd(&["XGROUP", "CREATE", key, "g", "$", "MKSTREAM"]);
    }
    for (number, client) in waiting.iter_mut().enumerate() {
        // Equal calls and such as are not.
        let line = match number {
            0 | 1 => "XREADGROUP GROUP g c BLOCK 60000 STREAMS s >",
            2 => "XREADGROUP GROUP g d BLOCK 60000 COUNT 1 STREAMS s >",
            _ => "XREADGROUP GROUP g c BLOCK 60000 STREAMS other s > >",
        };
        client.send(encode(&words(line)));
    }
    eventually(
        || transactions(redis) >= tried && redis.info_number("blocked_clients") == blocked,
        "they are blocked",
    );
    settle();
    let mut killer = redis.client();
    for line in way {
        killer.cmd(&words(line));
    }
    // Where the server looks for keys that have expired only now and then.
    killer.cmd(&["EXISTS", "s"]);
    waiting.iter_mut().map(Client::reply_bytes).collect()
}

#[test]
fn who_waits_for_a_stream_that_goes_is_told_as_by_the_server() {
    if !AT_HAND.is_7_or_later() {
        let reason =
            "Redis 6.2 has who waits for a stream that has gone wait until the time is over";
        leave_out(
            "e2e::streams_gone::who_waits_for_a_stream_that_goes_is_told_as_by_the_server",
            reason,
        );
        return;
    }
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 12\nshared_connections = 1")
        .start();
    for hello in ["HELLO 2", "HELLO 3"] {
        for way in WAYS {
            let clients = |connect: &dyn Fn() -> Client| -> Vec<Client> {
                let named = (0..4).map(|_| {
                    let mut client = connect();
                    client.cmd(&words(hello));
                    client
                });
                named.collect()
            };
            let direct = told(&redis, clients(&|| redis.client()), way, (0, 4), &mut || {});
            // Each tries without waiting first; equal ones stand in line behind one call. What the tries are answered
            // comes before the answer to PING.
            let mut other = respool.client();
            let settle = &mut || other.ping();
            let clients = clients(&|| respool.client());
            let through = told(&redis, clients, way, (4, 3), settle);
            for (number, (direct, through)) in direct.iter().zip(&through).enumerate() {
                assert!(
                    direct == through,
                    "{hello}, {way:?}, client {number}\n  directly {}\n  through  {}",
                    show(direct),
                    show(through)
                );
            }
        }
    }
}
