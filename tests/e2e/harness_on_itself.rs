//! The harness tried on itself: what it says about servers and bytes is what the other tests believe.

use std::process::Command;
use std::time::Duration;

use crate::harness::{
    Client, Redis, TestedServer, Unparsed, Value, encode, eventually, find_metric, what_is_missing,
};

#[test]
fn a_server_starts_dies_and_comes_back_on_its_port() {
    let redis = Redis::start(&["--maxclients", "64"]);
    assert_eq!(redis.info("maxclients"), "64");
    assert_eq!(redis.cmd(&["SET", "k", "v"]), Value::ok());
    let mut client = redis.client();
    eventually(
        || redis.connected_clients() == 1,
        "the client is counted, the control connection is not",
    );
    redis.kill_hard();
    client.expect_end();
    redis.restart();
    assert!(redis.cmd(&["GET", "k"]).is_null(), "nothing is persisted");
    assert_eq!(
        Client::connect_unix(&redis.unix_path()).cmd(&["PING"]),
        Value::simple("PONG")
    );
}

#[test]
fn the_watch_sees_every_connection_but_its_own() {
    let redis = Redis::start(&[]);
    let watch = redis.watch_connections();
    let mut clients: Vec<_> = (0..5).map(|_| redis.client()).collect();
    for client in &mut clients {
        client.cmd(&["PING"]);
    }
    assert_eq!(watch.most(), 5);
}

#[test]
fn a_paused_server_is_silent_and_runs_on() {
    let redis = Redis::start(&[]);
    let mut client = redis.client();
    client.cmd(&["PING"]);
    redis.pause();
    client.send(encode(&["PING"]));
    assert_eq!(client.reply_within(Duration::from_millis(50)), None);
    redis.resume();
    assert_eq!(client.reply(), Value::simple("PONG"));
    redis.flush();
}

#[test]
fn a_client_speaks_both_protocols() {
    let redis = Redis::start(&[]);
    let mut client = redis.client();
    assert!(client.cmd(&["GET", "none"]).is_null());
    assert!(matches!(client.cmd(&["HELLO", "3"]), Value::Map(_)));
    assert_eq!(client.cmd(&["GET", "none"]), Value::Null);
    assert_eq!(client.cmd(&["SADD", "s", "a"]).int(), 1);
    assert_eq!(
        client.cmd(&["SMEMBERS", "s"]),
        Value::Set(vec![Value::bulk("a")])
    );
    assert!(client.cmd(&["NOSUCH"]).is_error());
    client.writer().send("PING\r\n");
    assert_eq!(client.reply_bytes(), b"+PONG\r\n");
    assert_eq!(client.try_cmd(&["QUIT"]), Some(Value::ok()));
    assert_eq!(client.try_reply(), None);

    let mut client = redis.client();
    let address = client.local_addr().to_string();
    assert!(client.cmd(&["CLIENT", "INFO"]).text().contains(&address));
    client.set_patience(Duration::from_secs(5));
    client.shrink_receive_buffer(4096);
    client.finish_sending();
    client.expect_end();
    redis.client().abort();
}

#[test]
fn values_are_cut_where_they_end() {
    let text = b"%1\r\n+k\r\n*3\r\n:-7\r\n$-1\r\n=5\r\ntxt:a\r\n";
    let (value, length) = Value::parse(text).expect("it is RESP3");
    assert_eq!(length, text.len());
    let items = vec![
        Value::Int(-7),
        Value::NullBulk,
        Value::Verbatim(b"txt:a".to_vec()),
    ];
    assert_eq!(
        value,
        Value::Map(vec![(Value::simple("k"), Value::Array(items))])
    );
    for end in 0..text.len() {
        assert!(
            matches!(Value::parse(&text[..end]), Err(Unparsed::NeedAtLeast(n)) if n > end),
            "cut at {end}"
        );
    }
    assert_eq!(Value::parse(b"$100\r\nab"), Err(Unparsed::NeedAtLeast(108)));
    assert!(matches!(
        Value::parse(b"nonsense\r\n"),
        Err(Unparsed::NotResp(_))
    ));
    assert_eq!(
        Value::parse(b"!5\r\nERR x\r\n").expect("a blob error").0,
        Value::error("ERR x")
    );
}

#[test]
fn metrics_are_summed_over_the_labels_not_given() {
    let text = "# HELP a_total a\na_total{x=\"1\",y=\"2\"} 7\na_total{x=\"1\"} 8\nb 0.5\n";
    assert_eq!(find_metric(text, "a_total{y=\"2\",x=\"1\"}"), Some(7.0));
    assert_eq!(find_metric(text, "a_total{x=\"1\"}"), Some(15.0));
    assert_eq!(find_metric(text, "a_total"), Some(15.0));
    assert_eq!(find_metric(text, "b"), Some(0.5));
    assert_eq!(find_metric(text, "c"), None);
}

#[test]
fn a_process_that_was_stopped_goes_on_waiting() {
    let redis = Redis::start(&[]);
    let mut client = redis.client();
    client.send(encode(&["BLPOP", "queue", "0"]));
    eventually(|| redis.info("blocked_clients") == "1", "it waits");
    // It is in the read nearly all of the time in which a shell stops it fifty times.
    let stops = "for _ in $(seq 50); do kill -STOP $1 && kill -CONT $1; sleep .002; done";
    let own = std::process::id().to_string();
    let mut shell = Command::new("sh")
        .args(["-c", stops, "sh", &own])
        .spawn()
        .expect("a shell starts");
    assert_eq!(client.reply_within(Duration::from_secs(1)), None);
    assert!(shell.wait().expect("it ends").success());
    assert_eq!(redis.cmd(&["RPUSH", "queue", "x"]), Value::Int(1));
    assert_eq!(
        client.reply(),
        Value::Array(vec![Value::bulk("queue"), Value::bulk("x")])
    );
}

#[test]
fn a_version_is_read_from_what_the_program_says() {
    let redis =
        TestedServer::parse("Redis server v=6.2.5 sha=00000000:0 malloc=jemalloc-5.1.0 bits=64");
    assert!(!redis.is_valkey && redis.version == (6, 2) && !redis.locks_debug());
    assert_eq!(redis.name(), "Redis 6.2");
    let valkey = TestedServer::parse("Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64");
    assert!(valkey.is_valkey && valkey.version == (9, 1) && valkey.locks_debug());
}

#[test]
fn what_is_missing_is_what_the_server_says() {
    assert_eq!(what_is_missing("CONFIG GET maxmemory"), None);
    assert_eq!(
        what_is_missing("CONFIG GET nosuch").as_deref(),
        Some("`CONFIG GET nosuch` is answered with an empty list")
    );
    assert_eq!(what_is_missing("not NOSUCH a"), None);
    assert_eq!(
        what_is_missing("not GET k").as_deref(),
        Some("`GET k` is answered `$-1`")
    );
    let reason = what_is_missing("NOSUCH a b").expect("no server has it");
    assert!(
        reason.starts_with("`NOSUCH a b` is answered `ERR unknown command"),
        "{reason}"
    );
}
