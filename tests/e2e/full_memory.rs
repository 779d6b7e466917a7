//! A server whose memory is full serves whoever takes something away, and lets them wait: so does respool. Up to Redis 7.0 such
//! a server refuses everything inside MULTI, where respool asks for a client that may have to wait.

use crate::harness::{Client, Redis, Respool, Value, encode_line, eventually, show};

const FULL: &[&str] = &["CONFIG", "SET", "maxmemory", "1"];

/// Starts a server with something in it, as which `full` makes it refuse whatever takes memory.
fn filled() -> Redis {
    let redis = Redis::start(&["--maxmemory-policy", "noeviction"]);
    let mut client = redis.client();
    for line in [
        "RPUSH list 1 2 3 4 5 6 7 8",
        "RPUSH stash 11 12 13",
        "ZADD sorted 1 a 2 b 3 c 4 d",
        "ZADD sorted:stash 1 z",
        "XADD stream 1-1 field value",
        "XADD stream:stash 2-1 field late",
        "XGROUP CREATE stream group 0",
        "SET text x",
    ] {
        client.send(encode_line(line));
        assert!(!client.reply().is_error(), "{line}");
    }
    redis
}

#[track_caller]
fn full(redis: &Redis) {
    assert_eq!(redis.cmd(FULL), Value::ok());
    let refused = redis.cmd(&["SET", "more", "x"]);
    assert!(refused.text().starts_with("OOM"), "{refused:?}");
}

#[test]
fn it_answers_as_directly() {
    let servers = [filled(), filled()];
    let respool = Respool::start(&servers[1]);
    for redis in &servers {
        full(redis);
    }
    for protocol in ["2", "3"] {
        let mut direct = servers[0].client();
        let mut ours = respool.client();
        for client in [&mut direct, &mut ours] {
            client.cmd(&["HELLO", protocol]);
        }
        for line in [
            "BLPOP list 0",
            "BRPOP none list 0",
            "BLPOP none 0.1",
            "BLPOP text list 0",
            "BLPOP list text 0",
            "BLPOP text 0",
            "BZPOPMIN sorted 0",
            "BZPOPMAX sorted 0",
            "BZPOPMIN none 0.1",
            "BLMPOP 0 1 list LEFT",
            "BLMPOP 0.1 1 none LEFT",
            "BZMPOP 0 1 none MIN COUNT x",
            "BZMPOP 0.1 1 none MIN",
            "XREAD BLOCK 0 STREAMS stream 0",
            "XREAD BLOCK 100 STREAMS stream $",
            "XREAD BLOCK 0 STREAMS text $",
            "XREAD BLOCK 0 STREAMS stream text 0 $",
            "XREADGROUP GROUP group one BLOCK 100 STREAMS stream >",
            "XREADGROUP GROUP none one BLOCK 100 STREAMS stream >",
            "BLMOVE list other LEFT LEFT 0",
            "BRPOPLPUSH list other 0",
            "LLEN list",
            "ZCARD sorted",
        ] {
            let answers = [&mut direct, &mut ours].map(|client| {
                client.send(encode_line(line));
                show(&client.reply_bytes())
            });
            assert_eq!(answers[1], answers[0], "RESP{protocol}: {line}");
        }
    }
}

/// Starts a client that waits, seen to do so at the server or at respool.
fn waiting(respool: &Respool, line: &str) -> Client {
    let before = respool.blocked_clients();
    let mut client = respool.client();
    client.send(encode_line(line));
    eventually(
        || respool.blocked_clients() > before,
        "the client is blocked",
    );
    client
}

/// Checks that clients who come and wait on a full server are served by what appears there, and that one whose key is of another kind
/// is told so.
#[track_caller]
fn who_waits_is_served(respool: &Respool, redis: &Redis) {
    full(redis);
    let mut poppers: Vec<Client> = (0..3)
        .map(|_| waiting(respool, "BLPOP later other 0"))
        .collect();
    let mut sorted = waiting(respool, "BZPOPMIN sorted:later 0");
    let mut reader = waiting(respool, "XREAD BLOCK 0 STREAMS stream:later $");
    let mut wrong = respool.client();
    wrong.send(encode_line("BLPOP text 0"));
    let told = wrong.reply();
    assert!(told.text().starts_with("WRONGTYPE"), "{told:?}");
    // RENAME takes no memory.
    for name in ["sorted", "stream"] {
        let (stash, later) = (format!("{name}:stash"), format!("{name}:later"));
        assert_eq!(redis.cmd(&["RENAME", &stash, &later]), Value::ok());
    }
    assert_eq!(redis.cmd(&["RENAME", "stash", "later"]), Value::ok());
    let mut popped: Vec<String> = poppers
        .iter_mut()
        .map(|client| client.reply().items()[1].text())
        .collect();
    popped.sort();
    assert_eq!(popped, ["11", "12", "13"]);
    assert_eq!(sorted.reply().items()[1], Value::bulk("z"));
    assert!(show(&reader.reply_bytes()).contains("late"));
    // What is there already.
    let mut client = respool.client();
    client.send(encode_line("BLPOP list 0"));
    assert_eq!(client.reply().items()[1], Value::bulk("1"));
}

#[test]
fn who_waits_there_is_served() {
    let redis = filled();
    let respool = Respool::start(&redis);
    who_waits_is_served(&respool, &redis);
}

#[test]
fn without_a_connection_to_lend_they_are_served_too() {
    let redis = filled();
    let respool = Respool::with(&redis)
        .upstream("max_connections = 2\nshared_connections = 1\nborrow_timeout = \"100ms\"")
        .start();
    let mut held = respool.client();
    assert_eq!(held.cmd(&["WATCH", "w"]), Value::ok());
    who_waits_is_served(&respool, &redis);
    assert_eq!(held.cmd(&["UNWATCH"]), Value::ok());
}
