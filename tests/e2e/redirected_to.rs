//! A RESP2 client to which another one's invalidations are redirected gets them while it is subscribed, as the server's confirmations count
//! it, and at no other time: each would stand where it awaits a reply.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{Client, Redis, Respool, Value, encode, encode_line, eventually};

/// Is what a client sends, and how many frames come for it.
type Sent = (&'static str, usize);

/// Reads what the client is told for all of it.
fn transcript(client: &mut Client, sent: &[Sent]) -> Vec<Vec<u8>> {
    let mut told = Vec::new();
    for (line, frames) in sent {
        client.send(encode_line(line));
        told.extend((0..*frames).map(|_| client.reply_bytes()));
    }
    told
}

fn is_invalidation(told: &Value) -> bool {
    format!("{told:?}").contains("invalidate")
}

/// Redirects to a client that has sent all this. Returns what it was told, and whether it gets invalidations.
fn redirected(connect: &dyn Fn() -> Client, redis: &Redis, sent: &[Sent]) -> (Vec<Vec<u8>>, bool) {
    let (mut target, mut owner) = (connect(), connect());
    let id = target.id();
    redis.cmd(&["SET", "k", "first"]);
    let told = transcript(&mut target, sent);
    let on = owner.cmd(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id]);
    assert_eq!(on, Value::ok(), "{sent:?}");
    for round in 0..20 {
        assert!(!owner.cmd(&["GET", "k"]).is_error(), "{sent:?}");
        redis.cmd(&["SET", "k", &round.to_string()]);
        // Who is subscribed may send no GET.
        let mut answer = target.cmd(&["GET", "k"]);
        let has_come = is_invalidation(&answer);
        if has_come {
            answer = target.reply();
        }
        if answer.is_error() {
            assert!(has_come || is_invalidation(&target.reply()), "{sent:?}");
            return (told, true);
        }
        assert!(!has_come, "{sent:?}");
        assert_eq!(answer, Value::bulk(round.to_string()), "{sent:?}");
    }
    assert_eq!(target.id(), id, "{sent:?}");
    assert!(target.cmd(&["CLIENT", "GETNAME"]).is_null(), "{sent:?}");
    target.ping();
    (told, false)
}

#[test]
fn who_is_subscribed_the_servers_counts_say() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    let once = |line| (line, 1);
    let exec = |between: &[Sent], frames: usize, behind: &[Sent]| {
        let mut sent = vec![once("MULTI")];
        sent.extend(between);
        sent.push(("EXEC", frames));
        sent.extend(behind);
        sent
    };
    let (one, left) = (once("SUBSCRIBE c"), once("UNSUBSCRIBE c"));
    for sent in [
        vec![one, left],
        vec![one, once("PSUBSCRIBE p*"), left],
        vec![("SUBSCRIBE a b", 2), ("UNSUBSCRIBE b a", 2)],
        exec(&[one], 1, &[left]),
        exec(&[left], 1, &[]),
        exec(&[once("SSUBSCRIBE c")], 1, &[]),
        exec(&[one], 1, &[]),
        exec(&[one, left], 1, &[]),
        exec(&[left, one], 1, &[]),
        // As many frames more than EXEC's reply announces as a command confirms more than one topic.
        exec(&[once("SUBSCRIBE a b")], 2, &[once("UNSUBSCRIBE a")]),
        exec(&[once("SUBSCRIBE a b")], 2, &[("UNSUBSCRIBE a b", 2)]),
        exec(
            &[one, once("PSUBSCRIBE p*")],
            1,
            &[once("PUNSUBSCRIBE"), left, once("PING"), once("GET k")],
        ),
        exec(&[one], 1, &[left, one, once("PING")]),
        exec(&[one], 1, &[left, once("MULTI"), one, left, once("EXEC")]),
        exec(&[one], 1, &[left, once("MULTI"), one, once("EXEC")]),
        exec(&[one], 1, &[once("RESET")]),
    ] {
        let direct = redirected(&|| redis.client(), &redis, &sent);
        for _ in 0..2 {
            let through = redirected(&|| respool.client(), &redis, &sent);
            assert!(through == direct, "{sent:?}: {through:?}, not {direct:?}");
        }
    }
}

/// Writes keys until told to stop.
fn write_on(mut writer: Client, stops: &AtomicBool) {
    let some: Vec<u8> = (0..20)
        .flat_map(|n| encode_line(&format!("SET k{n} 1")))
        .collect();
    while !stops.load(Ordering::Relaxed) {
        writer.send(&some);
        (0..20).for_each(|_| assert_eq!(writer.reply(), Value::ok()));
    }
}

#[test]
fn nothing_comes_behind_the_confirmation_that_ends_the_last_subscription() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    let (mut owner, mut target) = (respool.client(), respool.client());
    let id = target.id();
    let on = owner.cmd(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id, "BCAST"]);
    assert_eq!(on, Value::ok());
    let stops = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = redis.client();
        scope.spawn(|| write_on(writer, &stops));
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..400).for_each(|round| come_and_go(&mut target, round));
        }));
        stops.store(true, Ordering::Relaxed);
        seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Subscribes and leaves; between the answer that ends the subscription and the next nothing comes.
fn come_and_go(target: &mut Client, round: usize) {
    let (comes, leaves) = match round % 3 {
        0 => ("SUBSCRIBE z", "UNSUBSCRIBE z"),
        1 => ("PSUBSCRIBE z", "PUNSUBSCRIBE z"),
        _ => ("SUBSCRIBE z", "RESET"),
    };
    target.send(encode_line(comes));
    if round.is_multiple_of(2) {
        // Amid invalidations.
        while !is_invalidation(&target.reply()) {}
    }
    target.send([encode_line(leaves), encode_line("ECHO marker")].concat());
    let ended = |told: &Value| match told {
        Value::Simple(text) => text == b"RESET",
        told => told.items()[0] == Value::bulk(leaves.split(' ').next().unwrap().to_lowercase()),
    };
    while !ended(&target.reply()) {}
    assert_eq!(target.reply(), Value::bulk("marker"), "{leaves}");
}

/// Holds those who directly are no idle clients, whatever the server's `timeout`.
struct SparedClients {
    target: Client,
    owner: Client,
    tracking: Client,
    asking: Client,
}

impl SparedClients {
    fn new(connect: &dyn Fn() -> Client) -> Self {
        let (mut target, mut owner) = (connect(), connect());
        let id = target.id();
        target.cmd(&["SUBSCRIBE", "z"]).items();
        let on = owner.cmd(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id]);
        assert_eq!(on, Value::ok());
        // One that tracks and is subscribed, one that asks only what respool knows.
        let [tracking, asking] = [true, false].map(|is_subscribed| {
            let mut client = connect();
            assert!(!client.cmd(&["HELLO", "3"]).is_error());
            assert_eq!(client.cmd(&["CLIENT", "TRACKING", "ON"]), Value::ok());
            assert!(client.cmd(&["GET", "k"]).is_null());
            if is_subscribed {
                client.cmd(&["SUBSCRIBE", "z"]);
            }
            client
        });
        Self {
            target,
            owner,
            tracking,
            asking,
        }
    }

    fn go_on(&mut self) {
        assert!(self.owner.cmd(&["GET", "k"]).is_null());
        assert_eq!(self.asking.cmd(&["SELECT", "0"]), Value::ok());
    }

    /// Reads all that was tracked, which has to be told.
    fn hear(&mut self) {
        for client in [&mut self.target, &mut self.tracking, &mut self.asking] {
            assert!(is_invalidation(&client.reply()));
        }
        assert_eq!(self.owner.cmd(&["GET", "k"]), Value::bulk("1"));
    }
}

#[test]
fn the_servers_timeout_ends_nobody_whom_it_would_spare_directly() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    let mut all = [
        SparedClients::new(&|| redis.client()),
        SparedClients::new(&|| respool.client()),
    ];
    let set = |timeout| redis.cmd(&["CONFIG", "SET", "timeout", timeout]);
    assert_eq!(set("3"), Value::ok());
    // By the time at which the server ends the second it would have ended the others: it looks at some at a time.
    for _ in 0..2 {
        let mut idle = redis.client();
        idle.ping();
        while idle.is_open_after(Duration::from_millis(100)) {
            all.iter_mut().for_each(SparedClients::go_on);
            redis.cmd(&["PING"]);
        }
    }
    assert_eq!(set("0"), Value::ok());
    all.iter_mut().for_each(SparedClients::go_on);
    redis.cmd(&["SET", "k", "1"]);
    all.iter_mut().for_each(SparedClients::hear);
}

#[test]
fn a_server_that_stands_still_loses_none_of_them() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 20\nreply_timeout = \"500ms\"")
        .start();
    let mut all = SparedClients::new(&|| respool.client());
    all.go_on();
    redis.pause();
    // Those on which something is due are given up, one after the other.
    for lost in 1..=3 {
        respool.client().send(encode(&["GET", "k"]));
        let bound = "respool_bounds_reached_total{bound=\"reply_timeout\"}";
        eventually(
            || respool.metric_or_zero(bound) >= f64::from(lost),
            "a connection is given up",
        );
    }
    redis.resume();
    eventually(
        || !respool.client().cmd(&["SET", "k", "1"]).is_error(),
        "the server is back",
    );
    all.hear();
}

/// Tells whether a client that tracks so is told that a key has changed which it has read behind these requests.
fn is_told(
    client: &mut Client,
    redis: &Redis,
    (mode, caching): (&str, &str),
    between: &str,
) -> bool {
    for line in ["CLIENT TRACKING OFF", &format!("CLIENT TRACKING ON {mode}")] {
        client.send(encode_line(line));
        assert_eq!(client.reply(), Value::ok(), "{line}");
    }
    let lines = between.split(';').filter(|line| !line.is_empty());
    let caching = format!("CLIENT CACHING {caching}");
    for line in [&*caching].into_iter().chain(lines).chain(["GET k"]) {
        client.send(encode_line(line));
        client.reply_bytes();
    }
    redis.cmd(&["INCR", "k"]);
    client.send(encode_line("ECHO told"));
    let first = client.reply();
    let is_told = is_invalidation(&first);
    let last = if is_told { client.reply() } else { first };
    assert_eq!(last, Value::bulk("told"), "{mode}, {between}");
    is_told
}

#[test]
fn caching_is_for_the_next_command_whoever_answers_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut clients = [redis.client(), respool.client()];
    for client in &mut clients {
        assert!(!client.cmd(&["HELLO", "3"]).is_error());
    }
    for mode in [("OPTOUT", "NO"), ("OPTIN", "YES")] {
        let mut told = Vec::new();
        for between in [
            "",
            "SELECT 0",
            "SELECT 1;SELECT 0",
            "HELLO",
            "READONLY",
            "READWRITE",
            "SUBSCRIBE",
            "SUBSCRIBE c",
            "UNSUBSCRIBE c",
            "PUBSUB NUMSUB",
            "PING",
            "NOSUCH",
            "GET",
            "AUTH a b",
            "CLIENT ID",
            "CLIENT GETREDIR",
            "CLIENT SETNAME x",
            "CLIENT ID;CLIENT GETREDIR;SELECT 0",
            "CLIENT GETREDIR;CLIENT ID",
            "SELECT 0;CLIENT ID",
            "MULTI;CLIENT ID;EXEC",
        ] {
            let [direct, through] = clients
                .each_mut()
                .map(|client| is_told(client, &redis, mode, between));
            assert_eq!(through, direct, "{mode:?}, {between}");
            told.push(direct);
        }
        assert!(told.contains(&true) && told.contains(&false), "{mode:?}");
    }
}
