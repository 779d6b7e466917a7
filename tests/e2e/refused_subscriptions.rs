//! Subscriptions that the server refuses for everybody, as with `rename-command SUBSCRIBE ""`: its words come at once, also for those
//! who have the connection of the subscriptions opened.

use crate::harness::{Client, Redis, Respool, TESTED_SERVER, Value, encode, eventually};

/// Starts a server that knows no command to subscribe, whatever its version.
fn without_subscriptions() -> Redis {
    let mut options = vec!["--rename-command", "SUBSCRIBE", ""];
    options.extend(["--rename-command", "PSUBSCRIBE", ""]);
    if TESTED_SERVER.is_valkey || TESTED_SERVER.version >= (7, 0) {
        options.extend(["--rename-command", "SSUBSCRIBE", ""]);
    }
    Redis::start(&options)
}

/// Starts a respool that knows whose words to use.
fn before(redis: &Redis) -> Respool {
    let respool = Respool::with(redis).top("workers = 1").start();
    eventually(
        || respool.metric_or_zero("respool_server_info") == 1.0,
        "the server's version is known",
    );
    respool
}

#[test]
fn who_opens_the_connection_is_told_what_the_server_says() {
    let redis = without_subscriptions();
    let mut direct = redis.client();
    let many: Vec<String> = (0..3000).map(|number| format!("c{number}")).collect();
    let many: Vec<&str> = ["subscribe"]
        .into_iter()
        .chain(many.iter().map(String::as_str))
        .collect();
    let commands: [&[&str]; 5] = [
        &["SUBSCRIBE", "one"],
        &["Psubscribe", "one*", "two*"],
        &["SSUBSCRIBE", "one"],
        &["subscribe", "one", "two", "one"],
        &many,
    ];
    for words in commands {
        let expected = direct.cmd(words);
        assert!(expected.is_error(), "{expected:?}");
        // Each is the first of its process; the next finds the connection open.
        let respool = before(&redis);
        for _ in 0..2 {
            let mut client = respool.client();
            assert_eq!(client.cmd(words), expected, "{words:?}");
            client.ping();
        }
        let timeouts = "respool_bounds_reached_total{bound=\"borrow_timeout\"}";
        assert_eq!(respool.metric_or_zero(timeouts), 0.0);
    }
}

#[test]
fn many_who_wait_for_the_connection_are_told_each_for_itself() {
    let redis = without_subscriptions();
    let respool = before(&redis);
    let mut clients: Vec<Client> = (0..60).map(|_| respool.client()).collect();
    let words = |number: usize| {
        let verb = ["SUBSCRIBE", "PSUBSCRIBE"][number % 2];
        // Some wait for the same as others.
        [
            verb.to_owned(),
            "shared".to_owned(),
            format!("c{}", number / 3),
        ]
    };
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(encode(&words(number)));
    }
    let mut direct = redis.client();
    for (number, client) in clients.iter_mut().enumerate() {
        let expected: Value = direct.cmd(&words(number));
        assert_eq!(client.reply(), expected);
        client.ping();
    }
}
