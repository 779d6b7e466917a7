//! A server that works on one long command: nobody is cut off, and everything is answered behind it.

use std::time::Duration;

use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

/// Comes soon enough to be passed by every long command here.
const SHORT: &str = "reply_timeout = \"500ms\"";

/// Works for as many milliseconds. To a script of Redis 7.2 and later TIME stands still, and earlier ones have no `os`.
const LOOP: &str = "local has_os, clock = pcall(function() return os.clock end) \
     if not has_os then clock = function() local t = redis.call('TIME') return t[1] + t[2] / 1000000 end end \
     local stop = clock() + ARGV[1] / 1000 repeat until clock() > stop return 'done'";

/// Tells whether the server answers nobody.
fn is_silent(redis: &Redis) -> bool {
    let mut probe = redis.client();
    probe.send(encode(&["PING"]));
    probe.reply_within(Duration::from_millis(200)).is_none()
}

fn disconnects(respool: &Respool) -> f64 {
    respool.metric_or_zero(
        "respool_client_disconnects_total{group=\"default\",reason=\"upstream_lost\"}",
    )
}

/// Lets clients of every kind stand beside a long command, which `begin` sends.
fn nobody_is_cut_off(
    redis: &Redis,
    respool: &Respool,
    begin: impl Fn(&mut Client),
) -> (Value, Client) {
    let mut early: Vec<Client> = (0..8).map(|_| respool.client()).collect();
    early.iter_mut().for_each(Client::ping);
    let mut subscriber = respool.client();
    subscriber.cmd(&["SUBSCRIBE", "c"]);
    let mut blocked = respool.client();
    blocked.send(encode(&["BLPOP", "list", "0"]));
    let mut lent = respool.client();
    assert_eq!(lent.cmd(&["WATCH", "k"]), Value::ok());
    let mut long = respool.client();
    long.ping();
    begin(&mut long);
    eventually(|| is_silent(redis), "the server is busy");
    early
        .iter_mut()
        .for_each(|client| client.send(encode(&["GET", "k"])));
    lent.send(encode(&["GET", "k"]));
    let mut late = respool.client();
    late.send(encode(&["SELECT", "3"]));
    late.send(encode(&["SET", "k", "v"]));
    let mut typed = respool.client();
    typed.send(encode(&["MULTI"]));
    let told = long.reply();
    for client in &mut early {
        assert_eq!(client.reply(), Value::NullBulk, "a bystander is answered");
    }
    assert!(lent.reply().is_null());
    assert_eq!((late.reply(), late.reply()), (Value::ok(), Value::ok()));
    assert_eq!(typed.reply(), Value::ok());
    respool.client().ping();
    redis.cmd(&["PUBLISH", "c", "m"]);
    assert_eq!(subscriber.reply().items()[2], Value::bulk("m"));
    redis.cmd(&["RPUSH", "list", "x"]);
    assert_eq!(blocked.reply().items()[1], Value::bulk("x"));
    assert_eq!(disconnects(respool), 0.0);
    assert_eq!(
        respool.metric_or_zero("respool_upstream_losses_total{cause=\"timeout\"}"),
        0.0
    );
    (told, long)
}

#[test]
fn a_command_of_many_reply_timeouts_cuts_nobody_off() {
    for workers in ["workers = 1", "workers = 2"] {
        let redis = Redis::start(&[]);
        let respool = Respool::with(&redis).top(workers).upstream(SHORT).start();
        let (told, _) = nobody_is_cut_off(&redis, &respool, |client| {
            client.send(encode(&["DEBUG", "SLEEP", "3"]));
        });
        assert_eq!(told, Value::ok());
    }
}

#[test]
fn a_script_that_is_allowed_its_time_cuts_nobody_off() {
    let redis = Redis::start(&["--lua-time-limit", "60000"]);
    let respool = Respool::with(&redis).upstream(SHORT).start();
    let (told, _) = nobody_is_cut_off(&redis, &respool, |client| {
        client.send(encode(&["EVAL", LOOP, "0", "3000"]));
    });
    assert_eq!(told, Value::bulk("done"));
}

#[test]
fn a_transaction_that_takes_its_time_cuts_nobody_off() {
    let redis = Redis::start(&["--lua-time-limit", "60000"]);
    let respool = Respool::with(&redis).upstream(SHORT).start();
    let (told, mut long) = nobody_is_cut_off(&redis, &respool, |client| {
        let words: [&[&str]; 3] = [&["MULTI"], &["EVAL", LOOP, "0", "3000"], &["EXEC"]];
        client.send(
            words
                .iter()
                .flat_map(|words| encode(words))
                .collect::<Vec<u8>>(),
        );
    });
    assert_eq!((told, long.reply()), (Value::ok(), Value::simple("QUEUED")));
    assert_eq!(long.reply().items(), [Value::bulk("done")]);
}

#[test]
fn who_waits_for_a_busy_server_is_not_told_that_it_is_away() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 2")
        .upstream("max_connections = 4\nshared_connections = 2\nborrow_timeout = \"300ms\"")
        .upstream("queue = { timeout = \"300ms\", max_commands = 100 }")
        .start();
    respool.client().ping();
    let mut long = respool.client();
    long.send(encode(&["DEBUG", "SLEEP", "2"]));
    eventually(|| is_silent(&redis), "the server is busy");
    let mut others: Vec<Client> = (1..9)
        .map(|database| {
            let mut client = respool.client();
            client.send(encode(&["SELECT", &database.to_string()]));
            client.send(encode(&["SET", "k", &database.to_string()]));
            client
        })
        .collect();
    let mut typed: Vec<Client> = (0..4)
        .map(|_| {
            let mut client = respool.client();
            client.send(encode(&["WATCH", "k"]));
            client.send(encode(&["UNWATCH"]));
            client
        })
        .collect();
    assert_eq!(long.reply(), Value::ok());
    for client in others.iter_mut().chain(&mut typed) {
        assert_eq!((client.reply(), client.reply()), (Value::ok(), Value::ok()));
    }
}
