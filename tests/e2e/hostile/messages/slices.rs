//! Requests that name many topics at once, which are done a part at a time: the others have their turns between them.

use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

const TOPICS: usize = 20_000;

/// The most topics that may be dealt with in one turn.
const A_TURN: usize = 1000;

fn topics() -> Vec<String> {
    (0..TOPICS).map(|number| format!("{number:x}")).collect()
}

/// Makes a command with all the topics.
fn of_all(verb: &str) -> Vec<u8> {
    let topics = topics();
    let words: Vec<&str> = [verb]
        .into_iter()
        .chain(topics.iter().map(String::as_str))
        .collect();
    encode(&words)
}

/// Checks the confirmations, in the order of the words, with the counts from `first` on.
#[track_caller]
fn assert_confirmed(client: &mut Client, verb: &str) {
    for (number, topic) in topics().iter().enumerate() {
        let expected = vec![
            Value::bulk(verb),
            Value::bulk(topic),
            Value::Int(number as i64 + 1),
        ];
        assert_eq!(client.reply(), Value::Array(expected));
    }
}

#[test]
fn a_command_of_many_topics_leaves_the_others_their_turns() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    let (mut one, mut two) = (respool.client(), respool.client());
    one.send(of_all("SUBSCRIBE"));
    assert_confirmed(&mut one, "subscribe");
    assert!(
        redis.calls("subscribe") >= (TOPICS / A_TURN) as u64,
        "asked for altogether"
    );
    // Subscribed to already: the server is not asked.
    two.send(of_all("SUBSCRIBE"));
    assert_confirmed(&mut two, "subscribe");
    assert_eq!(redis.cmd(&["PUBLISH", "4e1f", "m"]).int(), 1);
    assert_eq!(one.reply().items()[2], Value::bulk("m"));
    assert_eq!(two.reply().items()[2], Value::bulk("m"));
    let counted = respool.client().cmd(&["PUBSUB", "NUMSUB", "4e1f"]);
    assert_eq!(counted.items()[1], Value::Int(2));
    // Each way of leaving.
    two.send(encode(&["UNSUBSCRIBE"]));
    for left in (0..TOPICS).rev() {
        assert_eq!(two.reply().items()[2], Value::Int(left as i64));
    }
    assert_eq!(two.cmd(&["PING"]), Value::simple("PONG"));
    assert_eq!(redis.calls("unsubscribe"), 0, "one needs them still");
    one.send(encode(&["RESET"]));
    assert_eq!(one.reply(), Value::simple("RESET"));
    let subscribed = || respool.metric("respool_subscribed_topics");
    eventually(|| subscribed() == 0.0, "nobody is subscribed to anything");
    // The server may not have been told yet.
    eventually(
        || redis.calls("unsubscribe") >= (TOPICS / A_TURN) as u64,
        "they are left a part at a time",
    );
    let reset = redis.calls("unsubscribe");
    one.send(of_all("SUBSCRIBE"));
    assert_confirmed(&mut one, "subscribe");
    drop(one);
    eventually(
        || redis.cmd(&["PUBSUB", "CHANNELS"]).items().is_empty(),
        "who has left is subscribed to nothing",
    );
    assert!(redis.calls("unsubscribe") >= reset + (TOPICS / A_TURN) as u64);
}

#[test]
fn many_topics_are_asked_for_again_a_part_at_a_time() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    let (mut client, mut other) = (respool.client(), respool.client());
    client.send(of_all("SUBSCRIBE"));
    assert_confirmed(&mut client, "subscribe");
    redis.cmd(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    // Who subscribes meanwhile is told in its turn.
    other.send(encode(&["SUBSCRIBE", "4e1f", "other"]));
    assert_eq!(other.reply().items()[2], Value::Int(1));
    assert_eq!(other.reply().items()[2], Value::Int(2));
    for topic in topics().iter().step_by(997) {
        eventually(
            || redis.cmd(&["PUBLISH", topic, "m"]).int() == 1,
            "it is subscribed to again",
        );
        assert_eq!(client.reply().items()[1], Value::bulk(topic));
    }
    assert!(redis.calls("subscribe") >= (2 * TOPICS / A_TURN) as u64);
}
