//! A subscription for which there is no connection is told what any other command is told then.

use crate::harness::{Redis, Respool, Value, encode, eventually};

const NONE_FREE: &str = "LOADING respool: no server connection free, command not sent";

#[test]
fn a_subscription_without_a_free_connection_is_told_so() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 2\nshared_connections = 1\nborrow_timeout = \"1s\"\nqueue = { timeout = \"1s\" }")
        .start();
    let mut holder = respool.client();
    assert_eq!(holder.cmd(&["MULTI"]), Value::ok());
    let (mut watcher, mut subscriber) = (respool.client(), respool.client());
    watcher.send(encode(&["WATCH", "k"]));
    subscriber.send(encode(&["SUBSCRIBE", "c"]));
    assert_eq!(watcher.reply(), Value::Error(NONE_FREE.into()));
    assert_eq!(subscriber.reply(), Value::Error(NONE_FREE.into()));
    assert!(respool.metric("respool_bounds_reached_total{bound=\"borrow_timeout\"}") >= 2.0);
    // Nothing is left behind: another command is possible, and what is subscribed to next is.
    assert_eq!(subscriber.cmd(&["PING"]), Value::simple("PONG"));
    subscriber.send(encode(&["SUBSCRIBE", "c", "d"]));
    assert_eq!(holder.cmd(&["DISCARD"]), Value::ok());
    for (topic, count) in [("c", 1), ("d", 2)] {
        let expected = [
            Value::bulk("subscribe"),
            Value::bulk(topic),
            Value::Int(count),
        ];
        assert_eq!(subscriber.reply(), Value::Array(expected.to_vec()));
    }
    eventually(
        || redis.cmd(&["PUBLISH", "c", "m"]).int() == 1,
        "the server knows of the subscription",
    );
}
