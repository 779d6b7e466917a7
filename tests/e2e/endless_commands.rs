//! Commands that concern the whole server or never end: MONITOR, scripts that do not stop, CLIENT PAUSE; and CLIENT REPLY.

use std::time::Duration;

use crate::harness::{Client, Redis, Respool, Value, encode, encode_line, eventually, needs, show};

fn line_with(client: &mut Client, text: &str) -> String {
    loop {
        let line = client.reply().text();
        if line.contains(text) {
            return line;
        }
    }
}

#[test]
fn several_monitors_each_see_everything() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut monitors: Vec<_> = (0..3).map(|_| respool.client()).collect();
    for monitor in &mut monitors {
        assert_eq!(monitor.cmd(&["MONITOR"]), Value::ok());
    }
    let mut other = respool.client();
    assert_eq!(other.cmd(&["SELECT", "3"]), Value::ok());
    for n in 0..50 {
        let value = format!("value-{n}");
        assert_eq!(other.cmd(&["SET", "k", &value]), Value::ok());
        for monitor in &mut monitors {
            let line = line_with(monitor, &value);
            assert!(
                line.contains("[3 ") && line.contains("\"SET\" \"k\""),
                "{line}"
            );
        }
    }
    let list = other.cmd(&["CLIENT", "LIST"]).text();
    assert_eq!(list.matches(" flags=O ").count(), 3, "{list}");
    assert_eq!(
        respool.metric("respool_pins_total{reason=\"monitor\"}"),
        3.0
    );
}

#[test]
fn a_monitor_goes_on_with_what_redis_allows_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut monitor = respool.client();
    monitor.send([encode(&["MONITOR"]), encode(&["PING"])].concat());
    assert_eq!(monitor.reply(), Value::ok());
    let reply = |monitor: &mut Client| loop {
        let reply = monitor.reply();
        if !reply.text().contains(" [") {
            return reply;
        }
    };
    assert_eq!(reply(&mut monitor), Value::simple("PONG"));
    let mut requests = Vec::new();
    for words in [
        &["CLIENT", "ID"][..],
        &["GET", "k"],
        &["SELECT", "3"],
        &["PING", "hello"],
        &["CLIENT", "GETNAME"],
    ] {
        requests.extend(encode(words));
    }
    monitor.send(requests);
    assert!(matches!(reply(&mut monitor), Value::Int(_)));
    let mut direct = redis.client();
    assert_eq!(direct.cmd(&["MONITOR"]), Value::ok());
    direct.send(encode(&["GET", "k"]));
    let refused = reply(&mut direct);
    assert!(refused.is_error(), "{refused:?}");
    assert_eq!(reply(&mut monitor), refused);
    assert_eq!(reply(&mut monitor), Value::ok());
    assert_eq!(reply(&mut monitor), Value::bulk("hello"));
    assert_eq!(reply(&mut monitor), Value::NullBulk);
    redis.cmd(&["SET", "k", "seen"]);
    line_with(&mut monitor, "seen");
}

#[test]
fn a_monitor_ends_in_every_way_and_leaves_a_clean_connection() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 2\nshared_connections = 1")
        .start();
    for ends in ["RESET", "QUIT", "left", "aborted"] {
        let mut monitor = respool.client();
        eventually(|| monitor.cmd(&["MONITOR"]) == Value::ok(), "lent");
        redis.cmd(&["SET", "k", ends]);
        line_with(&mut monitor, ends);
        match ends {
            "RESET" => {
                monitor.send(encode(&["RESET"]));
                line_until(&mut monitor, "RESET");
                assert_eq!(monitor.cmd(&["GET", "k"]), Value::bulk(ends));
            }
            "QUIT" => {
                monitor.send(encode(&["QUIT"]));
                line_until(&mut monitor, "OK");
                monitor.expect_end();
            }
            "left" => drop(monitor),
            _ => monitor.abort(),
        }
        let mut next = respool.client();
        eventually(
            || next.cmd(&["WATCH", "k"]) == Value::ok(),
            "the connection is lent on",
        );
        for _ in 0..20 {
            redis.cmd(&["SET", "other", "x"]);
            assert_eq!(next.cmd(&["GET", "k"]), Value::bulk(ends));
        }
    }
}

fn line_until(client: &mut Client, last: &str) {
    while client.reply() != Value::simple(last) {}
}

#[test]
fn who_may_not_monitor_keeps_no_connection() {
    let redis = Redis::start(&[]);
    redis.cmd(&[
        "ACL", "SETUSER", "some", "on", ">secret", "~*", "+@all", "-monitor",
    ]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 2\nshared_connections = 1\nborrow_timeout = \"100ms\"")
        .start();
    let mut client = respool.client();
    assert_eq!(client.cmd(&["AUTH", "some", "secret"]), Value::ok());
    assert!(client.cmd(&["MONITOR"]).text().starts_with("NOPERM"));
    let mut other = respool.client();
    eventually(|| other.cmd(&["WATCH", "k"]) == Value::ok(), "given back");
    let list = other.cmd(&["CLIENT", "LIST"]).text();
    assert!(!list.contains("flags=O"), "{list}");
    client.ping();
}

#[test]
fn a_script_that_never_ends_is_killed_through_respool() {
    let redis = Redis::start(&["--lua-time-limit", "50"]);
    for database in ["0", "7"] {
        ends_what_runs(&redis, database, "SCRIPT", |runner| {
            runner.send(encode(&["EVAL", "while true do end", "0"]));
        });
    }
}

#[test]
fn a_function_that_never_ends_is_killed_through_respool() {
    needs!("FUNCTION FLUSH");
    let redis = Redis::start(&["--lua-time-limit", "50"]);
    ends_what_runs(&redis, "7", "FUNCTION", |runner| {
        let library =
            "#!lua name=l\nredis.register_function('f', function() while true do end end)";
        assert!(!runner.cmd(&["FUNCTION", "LOAD", library]).is_error());
        runner.send(encode(&["FCALL", "f", "0"]));
    });
}

/// Checks that what `run` starts is killed by `kill KILL`, and leaves nothing behind.
#[track_caller]
fn ends_what_runs(redis: &Redis, database: &str, kill: &str, run: impl Fn(&mut Client)) {
    // Connections that are lent exist already, or are opened while the script runs.
    for prepared in [true, false] {
        redis.flush();
        let respool = Respool::start(redis);
        let mut killer = respool.client();
        assert_eq!(killer.cmd(&["SELECT", database]), Value::ok());
        if prepared {
            assert_eq!(killer.cmd(&["WATCH", "k"]), Value::ok());
            assert_eq!(killer.cmd(&["UNWATCH"]), Value::ok());
        }
        let mut runner = respool.client();
        run(&mut runner);
        let mut direct = redis.client();
        eventually(
            || direct.cmd(&["GET", "k"]).text().starts_with("BUSY"),
            "the script runs",
        );
        let mut bystander = respool.client();
        bystander.send(encode(&["GET", "k"]));
        assert_eq!(killer.cmd(&[kill, "KILL"]), Value::ok());
        let ended = runner.reply().text();
        assert!(ended.contains("killed by user"), "{ended}");
        // Behind the script, or refused as the server does.
        let answer = bystander.reply();
        assert!(
            answer.is_null() || answer.text().starts_with("BUSY"),
            "{answer:?}"
        );
        eventually(|| bystander.cmd(&["GET", "k"]).is_null(), "all goes on");
        assert_eq!(killer.cmd(&["SET", "k", "mine"]), Value::ok());
        let expected = if database == "0" {
            Value::bulk("mine")
        } else {
            Value::NullBulk
        };
        assert_eq!(redis.cmd(&["GET", "k"]), expected, "in its own database");
        let names = redis.cmd(&["CLIENT", "LIST"]).text();
        let unnamed = names
            .lines()
            .filter(|line| !line.contains(" name=respool:") && line.contains(" db=7 "));
        assert_eq!(unnamed.count(), 0, "{names}");
    }
}

#[test]
fn connections_opened_while_a_script_runs_are_known_by_name_and_id() {
    let redis = Redis::start(&["--lua-time-limit", "50"]);
    let respool = Respool::start(&redis);
    let mut runner = respool.client();
    runner.send(encode(&["EVAL", "while true do end", "0"]));
    let mut direct = redis.client();
    eventually(
        || direct.cmd(&["GET", "k"]).text().starts_with("BUSY"),
        "the script runs",
    );
    let mut client = respool.client();
    assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
    let mut killer = respool.client();
    assert_eq!(killer.cmd(&["SCRIPT", "KILL"]), Value::ok());
    assert!(runner.reply().is_error());
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    let pinned = list.matches(" name=respool:").count();
    assert_eq!(list.lines().count(), pinned + 2, "the test's own: {list}");
    // The id of the connection is what ends a call that blocks on it.
    assert_eq!(client.cmd(&["UNWATCH"]), Value::ok());
    client.send(encode(&["BLMOVE", "none", "d", "LEFT", "LEFT", "0"]));
    eventually(|| redis.info("blocked_clients") == "1", "blocked");
    drop(client);
    eventually(|| redis.info("blocked_clients") == "0", "unblocked");
}

#[test]
fn a_pause_holds_everybody_as_the_server_does() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let (mut one, mut two) = (respool.client(), respool.client());
    assert_eq!(one.cmd(&["CLIENT", "PAUSE", "60000", "WRITE"]), Value::ok());
    // Reads flow, writes wait.
    assert_eq!(two.cmd(&["GET", "k"]), Value::NullBulk);
    two.send(encode(&["SET", "k", "v"]));
    eventually(|| redis.info("blocked_clients") == "1", "a write waits");
    assert!(two.reply_within(Duration::from_millis(20)).is_none());
    assert_eq!(one.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    assert_eq!(two.reply(), Value::ok());
    assert_eq!(one.cmd(&["GET", "k"]), Value::bulk("v"));
    assert_eq!(respool.metric("respool_pins_total{reason=\"pause\"}"), 2.0);
    // Neither command left the client a connection.
    // Of writes only: Redis 6.2 remembers how long the pause would have been that was ended, and holds everybody so long.
    let again = ["CLIENT", "PAUSE", "0", "WRITE"];
    assert_eq!(one.cmd(&again), Value::ok());
    one.ping();
}

#[test]
fn silenced_clients_get_nothing_on_any_connection() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut client = respool.client();
    let mut requests = Vec::new();
    for line in [
        "CLIENT REPLY OFF",
        "SET a 1",
        "WATCH a",
        "MULTI",
        "INCR a",
        "EXEC",
        "BLPOP none 0.01",
        "MULTI",
        "INCR a",
        "DISCARD",
        "SCRIPT KILL",
        "CLIENT TRACKING ON",
        "GET a",
        "CLIENT TRACKING OFF",
        "WAIT 0 0",
        "DEBUG SLEEP 0",
        "CLIENT ID",
        "SELECT 3",
        "SET a three",
        "NOSUCH",
        "CLIENT REPLY SKIP",
        "CLIENT REPLY ON",
        "GET a",
        "CLIENT REPLY SKIP",
        "MULTI",
        "GET a",
        "EXEC",
    ] {
        requests.extend(encode_line(line));
    }
    client.send(requests);
    assert_eq!(client.reply(), Value::ok());
    assert_eq!(client.reply(), Value::bulk("three"));
    assert_eq!(client.reply(), Value::simple("QUEUED"));
    assert_eq!(client.reply(), Value::Array(vec![Value::bulk("three")]));
    client.ping();
    assert_eq!(redis.cmd(&["GET", "a"]), Value::bulk("2"));
}

#[test]
fn what_is_no_request_comes_behind_what_a_monitor_is_shown_of_its_own() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    for violation in [&b"*1\r\n$abc\r\n"[..], b"ECHO \"a\r\n"] {
        let [direct, through] = [redis.client(), respool.client()].map(|mut monitor| {
            monitor.send(
                [
                    &encode(&["MONITOR"])[..],
                    &encode(&["ECHO", "m"]),
                    violation,
                ]
                .concat(),
            );
            let told = show(&monitor.read_to_end());
            // When, and whose connection it was.
            let lines = told.split("\\r\\n").map(|line| match line.find("\"ECHO") {
                Some(at) => line[at..].to_owned(),
                None => line.to_owned(),
            });
            lines.collect::<Vec<_>>()
        });
        assert_eq!(through, direct);
    }
}
