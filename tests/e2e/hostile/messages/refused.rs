//! A large message that is never sent costs nobody anything: who may not send it, sends half of it or thinks better of it ends
//! no subscriber's connection, as at the server.

use super::large::assert_closed;
use crate::harness::{Client, Redis, Respool, Value, encode};

/// A subscriber must not be sent so much here, and the server itself would send it.
const LARGE: usize = 1_500_000;

fn with_users() -> Redis {
    let limit = ["--client-output-buffer-limit", "pubsub", "0", "0", "0"];
    let redis = Redis::start(&limit);
    for (name, rules) in [
        ("all", &["&*", "+@all"][..]),
        ("elsewhere", &["resetchannels", "&own", "+@all"]),
        ("without", &["&*", "+@all", "-publish"]),
        ("outside", &["&*", "+@all", "-multi"]),
    ] {
        let words = [&["ACL", "SETUSER", name, "on", ">pw", "~*"][..], rules].concat();
        assert_eq!(redis.cmd(&words), Value::ok());
    }
    redis
}

fn respool(redis: &Redis) -> Respool {
    Respool::with(redis)
        .top("workers = 2")
        .limits("pubsub_buffer = \"1MiB\"")
        .start()
}

fn user(respool: &Respool, name: &str) -> Client {
    let mut client = respool.client();
    assert_eq!(client.cmd(&["AUTH", name, "pw"]), Value::ok());
    client
}

fn subscriber(respool: &Respool) -> Client {
    let mut client = respool.client();
    client.cmd(&["SUBSCRIBE", "news"]);
    client
}

/// Checks that every subscriber gets the next message, and nothing before it.
#[track_caller]
fn assert_are_served(redis: &Redis, subscribers: &mut [Client], what: &str) {
    redis.cmd(&["PUBLISH", "news", "small"]);
    for subscriber in subscribers {
        let got = subscriber.try_reply();
        let got = got.unwrap_or_else(|| panic!("a subscriber was closed: {what}"));
        assert_eq!(got.items()[2], Value::bulk("small"), "{what}");
    }
}

#[test]
fn a_message_that_is_refused_or_taken_back_ends_no_subscriber() {
    let redis = with_users();
    let respool = respool(&redis);
    let mut subscribers: Vec<Client> = (0..4).map(|_| subscriber(&respool)).collect();
    let large = "x".repeat(LARGE);
    let publish: &[&str] = &["PUBLISH", "news", &large];
    for name in ["elsewhere", "without"] {
        let mut client = user(&respool, name);
        let told = client.cmd(publish);
        assert!(told.text().starts_with("NOPERM "), "{told:?}");
        assert_are_served(&redis, &mut subscribers, name);
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
        assert!(client.cmd(publish).is_error());
        assert!(client.cmd(&["EXEC"]).text().starts_with("EXECABORT"));
        assert_are_served(&redis, &mut subscribers, name);
    }
    let mut client = user(&respool, "all");
    let told = client.cmd(&["PUBLISH", "news", &large, "word"]);
    assert!(told.text().contains("wrong number"), "{told:?}");
    assert_are_served(&redis, &mut subscribers, "a word too many");
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    assert_eq!(client.cmd(publish), Value::simple("QUEUED"));
    assert_are_served(&redis, &mut subscribers, "it is queued");
    assert_eq!(client.cmd(&["DISCARD"]), Value::ok());
    assert_are_served(&redis, &mut subscribers, "it is discarded");
    // Refused behind it: nothing of the transaction runs.
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    assert_eq!(client.cmd(publish), Value::simple("QUEUED"));
    assert!(client.cmd(&["GET"]).is_error());
    assert!(client.cmd(&["EXEC"]).text().starts_with("EXECABORT"));
    assert_are_served(&redis, &mut subscribers, "another command is wrong");
    // A key has been changed.
    assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
    redis.cmd(&["SET", "k", "v"]);
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    assert_eq!(client.cmd(publish), Value::simple("QUEUED"));
    assert!(client.cmd(&["EXEC"]).is_null());
    assert_are_served(&redis, &mut subscribers, "a key has been changed");
}

#[test]
fn a_message_that_never_comes_whole_ends_no_subscriber_and_one_that_does_is_told() {
    let redis = with_users();
    let respool = respool(&redis);
    let mut subscribers: Vec<Client> = (0..4).map(|_| subscriber(&respool)).collect();
    let mut half = user(&respool, "all");
    let announced = "*3\r\n$7\r\nPUBLISH\r\n$4\r\nnews\r\n$3000000\r\n";
    half.send([announced.as_bytes(), &vec![b'x'; 2_900_000]].concat());
    for _ in 0..3 {
        respool.client().ping();
        assert_are_served(&redis, &mut subscribers, "it is half here");
    }
    drop(half);
    assert_are_served(&redis, &mut subscribers, "it will never be here");
    // Who may not is refused when it is whole, and nobody pays for it.
    let mut without = user(&respool, "without");
    let large = "x".repeat(3_000_000);
    let told = without.cmd(&["PUBLISH", "news", &large]);
    assert!(told.text().starts_with("NOPERM "), "{told:?}");
    assert_are_served(&redis, &mut subscribers, "it is refused");
    // One that is really sent.
    let mut whole = user(&respool, "all");
    whole.send(announced);
    whole.send(vec![b'x'; 1_500_000]);
    assert_are_served(&redis, &mut subscribers, "half of another is here");
    whole.send(vec![b'x'; 1_500_000]);
    assert_are_served(&redis, &mut subscribers, "its end is missing");
    whole.send("\r\n");
    whole.reply().int();
    subscribers.into_iter().for_each(assert_closed);
}

#[test]
fn what_a_transaction_really_sends_is_told_when_it_runs() {
    let redis = with_users();
    let respool = respool(&redis);
    for size in [LARGE, 3_000_000] {
        let mut subscribers: Vec<Client> = (0..4).map(|_| subscriber(&respool)).collect();
        let mut client = user(&respool, "all");
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
        let queued = client.cmd(&["PUBLISH", "news", &"x".repeat(size)]);
        assert_eq!(queued, Value::simple("QUEUED"));
        assert_are_served(&redis, &mut subscribers, "it is queued");
        assert_eq!(client.cmd(&["EXEC"]).items(), [Value::Int(0)]);
        subscribers.into_iter().for_each(assert_closed);
    }
}

#[test]
fn by_a_user_who_may_not_ask_beforehand_nobody_is_closed_beforehand() {
    let redis = with_users();
    let respool = respool(&redis);
    let mut listener = subscriber(&respool);
    let mut client = user(&respool, "outside");
    client.send(encode(&["PUBLISH", "news", &"x".repeat(1_100_000)]));
    // It gets through: what the server holds for a subscriber is not bounded here.
    assert_eq!(client.reply().int(), 1);
    let _ = listener.try_reply();
}

/// What is asked of all workers has been done when they say so, not when the time for it has passed.
#[test]
fn a_message_that_may_be_too_much_waits_for_no_limit() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 2")
        .limits("pubsub_buffer = \"1MiB\"")
        .upstream("queue.timeout = \"300s\"")
        .start();
    let mut client = respool.client();
    let large = "x".repeat(LARGE);
    assert_eq!(client.cmd(&["PUBLISH", "news", &large]), Value::Int(0));
    for lines in [&["MULTI"][..], &["PUBLISH", "other", &large], &["EXEC"]] {
        client.send(encode(lines));
    }
    client.reply();
    client.reply();
    assert_eq!(client.reply().items(), [Value::Int(0)]);
}
