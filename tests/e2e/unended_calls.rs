//! Where the server does not let respool end a blocking call (`CLIENT UNBLOCK`), blocked clients are served all the same.

use crate::harness::{Client, Redis, Respool, TESTED_SERVER, Value, encode, eventually, words};

/// Lists what a hardened server does not permit respool's own user.
fn denied() -> &'static [&'static str] {
    // Redis 6.2 permits a command or does not.
    if TESTED_SERVER.is_7_or_later() {
        &["-@dangerous", "-client|unblock"]
    } else {
        &["-@dangerous", "-client"]
    }
}

fn served(denied: &str) -> (Redis, Respool) {
    let redis = Redis::start(&[]);
    let user = format!("ACL SETUSER own on >pw ~* &* +@all {denied} +info");
    assert_eq!(redis.cmd(&words(&user)), Value::ok());
    let respool = Respool::with(&redis)
        .upstream("username = \"own\"\npassword = \"pw\"")
        .start();
    (redis, respool)
}

#[test]
fn whose_time_is_over_is_told_null_and_stays() {
    for &denied in denied() {
        let (redis, respool) = served(denied);
        let (mut client, mut direct) = (respool.client(), redis.client());
        for line in [
            "BLPOP q 0.1",
            "BRPOP q r 0.1",
            "BZPOPMIN z 0.1",
            "BLMOVE q r LEFT LEFT 0.1",
            "BRPOPLPUSH q r 0.1",
            "XREAD BLOCK 100 STREAMS s $",
        ] {
            for _ in 0..2 {
                let told = client.cmd(&words(line));
                assert_eq!(told, direct.cmd(&words(line)), "{denied}: {line}");
            }
        }
        client.ping();
    }
}

#[test]
fn who_waits_is_served_beside_those_who_come_and_go() {
    let (redis, respool) = served(denied()[1]);
    let mut waiting: Vec<Client> = (0..10).map(|_| respool.client()).collect();
    for (number, client) in waiting.iter_mut().enumerate() {
        client.send(encode(&["BLPOP", &format!("q{number}"), "0"]));
    }
    eventually(
        || respool.metric("respool_blocked_clients") == 10.0,
        "all of them wait",
    );
    for (number, client) in waiting.iter_mut().enumerate() {
        // Others wait for the same meanwhile, for a while or until they leave.
        let mut short = respool.client();
        assert!(short.cmd(&["BLPOP", "other", "0.05"]).is_null());
        let mut leaves = respool.client();
        leaves.send(encode(&["BLPOP", "another", "0"]));
        drop(leaves);
        redis.cmd(&["RPUSH", &format!("q{number}"), "element"]);
        assert_eq!(client.reply().items()[1].text(), "element");
    }
}

/// Tells for how many seconds the server has blocked the client that has been blocked for longest.
fn blocked_for(redis: &Redis) -> u64 {
    let text = redis.cmd(&["CLIENT", "LIST"]).text();
    let lines = text.lines().filter(|line| line.contains("cmd=blpop"));
    let idle = lines.filter_map(|line| {
        line.split(' ')
            .find_map(|field| field.strip_prefix("idle="))
    });
    idle.filter_map(|idle| idle.parse().ok()).max().unwrap_or(0)
}

#[test]
fn what_is_permitted_later_is_seen_while_clients_wait() {
    let (redis, respool) = served("-client");
    let mut waiting = respool.client();
    waiting.send(encode(&["BLPOP", "q", "0"]));
    eventually(
        || respool.log_text().contains("refuses CLIENT UNBLOCK"),
        "it is known that calls cannot be ended",
    );
    assert_eq!(redis.cmd(&words("ACL SETUSER own +client")), Value::ok());
    eventually(
        || blocked_for(&redis) >= 2,
        "the call is issued once, rather than ten times a second",
    );
    assert!(respool.log_text().contains("lets respool end calls"));
    // And can be ended: somebody else's wait for another key joins it.
    assert!(respool.client().cmd(&["BLPOP", "other", "0.05"]).is_null());
    redis.cmd(&["RPUSH", "q", "element"]);
    assert_eq!(waiting.reply().items()[1].text(), "element");
}
