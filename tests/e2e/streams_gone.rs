//! A stream, or its group, that goes away under a blocked XREADGROUP: whoever waits is told what the server tells them.

use crate::harness::{
    Client, Redis, Respool, TESTED_SERVER, encode_line, eventually, leave_out, show, words,
};

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

/// Tells what each of `waiting`, which block on a stream, gets when it goes away by `way`. They wait when the server has run so many
/// transactions, so many are blocked there, and `settle` has returned; `gone` is called when the stream is.
fn told(
    redis: &Redis,
    mut waiting: Vec<Client>,
    way: &[&str],
    (tried, blocked): (u64, u64),
    settle: &mut dyn FnMut(),
    gone: &dyn Fn(),
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
        client.send(encode_line(line));
    }
    eventually(
        || redis.calls("exec") >= tried && redis.info_number("blocked_clients") == blocked,
        "they are blocked",
    );
    settle();
    let mut killer = redis.client();
    for line in way {
        killer.cmd(&words(line));
    }
    if way[0].starts_with("PEXPIRE") {
        // The server looks for keys that have expired only now and then.
        eventually(|| killer.cmd(&["TYPE", "s"]).text() == "none", "it expires");
    }
    gone();
    waiting.iter_mut().map(Client::reply_bytes).collect()
}

/// Stops respool when every call that is blocked for it at the server has been answered null: what goes next goes between two calls.
fn stop_between_calls(redis: &Redis, respool: &Respool) {
    respool.pause();
    let are_over = || {
        let list = redis.cmd(&["CLIENT", "LIST"]).text();
        for line in list.lines().filter(|line| line.contains(" flags=b ")) {
            let id = line
                .strip_prefix("id=")
                .and_then(|rest| rest.split(' ').next());
            redis.cmd(&["CLIENT", "UNBLOCK", id.expect("an id")]);
        }
        // One that respool has sent and the server has not read when it is asked for the list has been read by now.
        redis.info_number("blocked_clients") == 0
    };
    eventually(are_over, "no call is blocked");
}

/// Compares for all ways in which a stream goes; `between`: it goes while respool has the answer to one call and has not made the next.
fn compare(between: bool) {
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
            let direct = clients(&|| redis.client());
            let direct = told(&redis, direct, way, (0, 4), &mut || {}, &|| {});
            // Each tries without waiting first; equal ones stand in line behind one call. What the tries are answered
            // comes before the answer to PING.
            let mut other = respool.client();
            let settle = &mut || {
                other.ping();
                if between {
                    stop_between_calls(&redis, &respool);
                }
            };
            let gone = || {
                if between {
                    respool.resume();
                }
            };
            let clients = clients(&|| respool.client());
            let through = told(&redis, clients, way, (4, 3), settle, &gone);
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

const LEFT_OUT: &str =
    "Redis 6.2 has who waits for a stream that has gone wait until the time is over";

#[test]
fn who_waits_for_a_stream_that_goes_is_told_as_by_the_server() {
    if !TESTED_SERVER.is_7_or_later() {
        leave_out(
            "e2e::streams_gone::who_waits_for_a_stream_that_goes_is_told_as_by_the_server",
            LEFT_OUT,
        );
        return;
    }
    compare(false);
}

#[test]
fn who_waits_for_a_stream_that_goes_between_two_calls_is_told_as_by_the_server() {
    if !TESTED_SERVER.is_7_or_later() {
        leave_out(
            "e2e::streams_gone::who_waits_for_a_stream_that_goes_between_two_calls_is_told_as_by_the_server",
            LEFT_OUT,
        );
        return;
    }
    compare(true);
}

/// Tells what a client gets that waits in `call` while its key is changed by `before`, and later by `after`.
fn got(
    redis: &Redis,
    mut client: Client,
    call: &str,
    (before, after): (&str, &[&str]),
    respool: Option<&Respool>,
) -> Vec<u8> {
    redis.flush();
    redis.cmd(&["CONFIG", "RESETSTAT"]);
    for key in ["s", "other"] {
        redis.cmd(&["XGROUP", "CREATE", key, "g", "$", "MKSTREAM"]);
    }
    client.send(encode_line(call));
    eventually(
        || redis.info_number("blocked_clients") == 1,
        "it is blocked",
    );
    let name = call.split(' ').next().expect("a name").to_lowercase();
    if let Some(respool) = respool {
        stop_between_calls(redis, respool);
    }
    redis.cmd(&words(before));
    if let Some(respool) = respool {
        let ran = redis.calls(&name);
        respool.resume();
        // The call that is issued again is refused, and so are others: unless the client has been told by then.
        eventually(
            || client.has_reply() || redis.calls(&name) >= ran + 4,
            "it is asked for again and again",
        );
        if name != "xreadgroup" {
            assert!(!client.has_reply(), "{call}: told before anything came");
        }
    }
    for line in after {
        redis.cmd(&words(line));
    }
    client.reply_bytes()
}

#[test]
fn who_waits_gets_what_comes_when_a_key_was_in_the_way_between_two_calls() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 1")
        .start();
    let stream: &[&str] = &["DEL s", "XGROUP CREATE s g 0 MKSTREAM", "XADD s 9-9 a 1"];
    let list: &[&str] = &["DEL k", "RPUSH k v"];
    let mut cases = vec![
        ("XREADGROUP GROUP g c BLOCK 0 STREAMS s >", "DEL s", stream),
        (
            "XREADGROUP GROUP g c BLOCK 0 STREAMS s >",
            "SET s x",
            stream,
        ),
        ("XREAD BLOCK 0 STREAMS s 0", "SET s x", stream),
        ("BLMOVE k d LEFT LEFT 0", "SET k x", list),
        ("BRPOPLPUSH k d 0", "SADD k x", list),
        // Another of its keys is none.
        (
            "XREAD BLOCK 0 STREAMS s k $ $",
            "SET k x",
            &["XADD s 9-9 a 1"],
        ),
        (
            "XREAD BLOCK 0 STREAMS k s 0 $",
            "SADD k x",
            &["XADD s 9-9 a 1"],
        ),
        // What it takes has nowhere to go.
        ("BRPOPLPUSH k s 0", "SET k x", list),
    ];
    // One of several streams goes, or all do.
    let several = [
        "XREADGROUP GROUP g c BLOCK 0 STREAMS s other > >",
        "XREADGROUP GROUP g c BLOCK 0 STREAMS other s > >",
    ];
    let other: &[&str] = &["XADD other 9-9 a 1"];
    for call in several {
        for way in ["DEL s", "SET s x", "RENAME s t"] {
            cases.push((call, way, other));
            cases.push((call, way, stream));
            cases.push((call, way, &["XGROUP DESTROY other g"]));
        }
        cases.push((call, "XGROUP DESTROY s g", other));
        cases.push((call, "DEL s other", stream));
        cases.push((call, "FLUSHALL", other));
    }
    if TESTED_SERVER.is_7_or_later() {
        cases.push(("BLMPOP 0 1 k LEFT", "SET k x", list));
        cases.push(("BZMPOP 0 1 k MIN", "SET k x", &["DEL k", "ZADD k 1 m"]));
        cases.push(("BLMPOP 0 2 k j LEFT", "SET k x", &["RPUSH j v"]));
        cases.push(("BLMPOP 0 2 j k LEFT", "SET k x", &["RPUSH j v"]));
        cases.push(("BZMPOP 0 2 k j MIN", "SET k x", &["ZADD j 1 m"]));
    }
    for (call, before, after) in cases {
        let direct = got(&redis, redis.client(), call, (before, after), None);
        let client = respool.client();
        let through = got(&redis, client, call, (before, after), Some(&respool));
        assert!(
            direct == through,
            "{call}, {before}\n  directly {}\n  through  {}",
            show(&direct),
            show(&through)
        );
    }
}
