//! Subscribers of any protocol share one connection of their worker, and get what they would get from the server.

use std::collections::HashSet;
use std::time::Duration;

use crate::harness::{Client, PATIENCE, Redis, Respool, Value, encode, eventually, needs};

/// Makes a message as RESP2 subscribers get it.
fn message(channel: &str, payload: &str) -> Value {
    Value::Array(vec![
        Value::bulk("message"),
        Value::bulk(channel),
        Value::bulk(payload),
    ])
}

fn confirmation(verb: &str, topic: &str, count: i64) -> Vec<Value> {
    vec![Value::bulk(verb), Value::bulk(topic), Value::Int(count)]
}

/// Reads the lines of the server's CLIENT LIST that stand for subscription connections.
fn subscription_lines(redis: &Redis) -> Vec<String> {
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    let lines = list.lines().map(str::to_owned);
    lines
        .filter(|line| line.contains(":subscription:"))
        .collect()
}

#[test]
fn subscribers_of_both_protocols_share_a_connection_for_each_worker() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    let mut old: Vec<Client> = (0..30).map(|_| respool.client()).collect();
    let mut new: Vec<Client> = (0..30).map(|_| respool.resp3_client()).collect();
    for client in &mut old {
        let reply = client.cmd(&["SUBSCRIBE", "news"]);
        assert_eq!(reply, Value::Array(confirmation("subscribe", "news", 1)));
    }
    for client in &mut new {
        let reply = client.cmd(&["SUBSCRIBE", "news"]);
        assert_eq!(reply, Value::Push(confirmation("subscribe", "news", 1)));
    }
    for round in 0..50 {
        redis.cmd(&["PUBLISH", "news", &format!("m{round}")]);
    }
    for client in old.iter_mut().chain(&mut new) {
        for round in 0..50 {
            let got = client.reply();
            assert_eq!(got.items()[2], Value::bulk(format!("m{round}")));
        }
    }
    assert!(matches!(new[0].cmd(&["PING"]), Value::Simple(_)));
    assert_eq!(subscription_lines(&redis).len(), 2);
    assert!(respool.metric("respool_delivered_messages_total") >= 3060.0);
    drop((old, new));
    eventually(
        || {
            subscription_lines(&redis)
                .iter()
                .all(|line| line.contains(" sub=0 "))
        },
        "the server is subscribed to nothing",
    );
}

#[test]
fn a_resp3_subscriber_goes_on_with_ordinary_commands() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let (mut client, mut other) = (respool.resp3_client(), respool.client());
    client.cmd(&["SUBSCRIBE", "c"]);
    let large = "x".repeat(300_000);
    other.cmd(&["SET", "large", &large]);
    for round in 0..200 {
        other.cmd(&["PUBLISH", "c", &round.to_string()]);
        client.send(encode(&["GET", "large"]));
        other.cmd(&["PUBLISH", "c", "amid"]);
        let mut replies = 0;
        let mut messages = Vec::new();
        while replies < 1 || messages.len() < 2 {
            match client.reply() {
                Value::Push(items) => messages.push(items[2].clone()),
                reply => {
                    assert_eq!(reply, Value::bulk(&large));
                    replies += 1;
                }
            }
        }
        let expected = [Value::bulk(round.to_string()), Value::bulk("amid")];
        assert_eq!(messages, expected);
    }
    // Its transactions, and its switch of protocol, leave the subscription alone.
    client.cmd(&["WATCH", "k"]);
    client.cmd(&["MULTI"]);
    client.cmd(&["SET", "k", "v"]);
    assert_eq!(client.cmd(&["EXEC"]), Value::Array(vec![Value::ok()]));
    assert!(!client.cmd(&["HELLO", "2"]).is_error());
    other.cmd(&["PUBLISH", "c", "as an array"]);
    assert_eq!(client.reply(), message("c", "as an array"));
    let mut direct = redis.client();
    direct.cmd(&["SUBSCRIBE", "c"]);
    let refused = direct.cmd(&["GET", "k"]);
    assert!(refused.text().contains("SUBSCRIBE / "), "{refused:?}");
    assert_eq!(client.cmd(&["GET", "k"]), refused);
}

#[test]
fn messages_of_a_shard_channel_arrive_and_match_no_pattern() {
    needs!("SPUBLISH c m");
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let (mut subscriber, mut other) = (respool.client(), respool.client());
    subscriber.cmd(&["SSUBSCRIBE", "shard"]);
    subscriber.cmd(&["PSUBSCRIBE", "sh*"]);
    other.cmd(&["SPUBLISH", "shard", "s"]);
    other.cmd(&["PUBLISH", "shell", "p"]);
    for expected in [
        &["smessage", "shard", "s"][..],
        &["pmessage", "sh*", "shell", "p"],
    ] {
        let expected = expected.iter().map(Value::bulk).collect();
        assert_eq!(subscriber.reply(), Value::Array(expected));
    }
}

#[test]
fn pubsub_numsub_counts_clients() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    let mut clients: Vec<Client> = (0..5).map(|_| respool.client()).collect();
    clients
        .iter_mut()
        .for_each(|client| drop(client.cmd(&["SUBSCRIBE", "a"])));
    let mut direct = redis.client();
    direct.cmd(&["SUBSCRIBE", "a"]);
    for mut asking in [respool.client(), respool.resp3_client()] {
        let counts = asking.cmd(&["PUBSUB", "NUMSUB", "a", "b"]);
        let expected = vec![
            Value::bulk("a"),
            Value::Int(6),
            Value::bulk("b"),
            Value::Int(0),
        ];
        assert_eq!(counts, Value::Array(expected));
        assert_eq!(asking.cmd(&["PUBSUB", "NUMSUB"]), Value::Array(vec![]));
    }
    drop(clients);
    let mut asking = respool.client();
    eventually(
        || asking.cmd(&["PUBSUB", "NUMSUB", "a"]).items()[1] == Value::Int(1),
        "only the direct subscriber is left",
    );
}

#[test]
fn subscribers_of_a_shard_channel_are_counted() {
    needs!("SPUBLISH c m");
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    let mut clients = [respool.client(), respool.client()];
    for client in &mut clients {
        client.cmd(&["SSUBSCRIBE", "s"]);
    }
    for mut asking in [respool.client(), respool.resp3_client()] {
        let counts = asking.cmd(&["PUBSUB", "SHARDNUMSUB", "s"]);
        assert_eq!(counts, Value::Array(vec![Value::bulk("s"), Value::Int(2)]));
    }
}

#[test]
fn patterns_and_keyspace_notifications_arrive() {
    let redis = Redis::start(&["--notify-keyspace-events", "KEA"]);
    let respool = Respool::start(&redis);
    let (mut one, mut two, mut other) = (respool.client(), respool.client(), respool.client());
    one.cmd(&["PSUBSCRIBE", "__keyspace@0__:k*"]);
    two.cmd(&["PSUBSCRIBE", "sh*"]);
    two.cmd(&["SUBSCRIBE", "shell"]);
    other.cmd(&["SET", "key", "v"]);
    let got = one.reply();
    let expected = ["pmessage", "__keyspace@0__:k*", "__keyspace@0__:key", "set"];
    assert_eq!(got, Value::Array(expected.map(Value::bulk).to_vec()));
    other.cmd(&["PUBLISH", "shell", "both"]);
    assert_eq!(two.reply(), message("shell", "both"));
    let expected = ["pmessage", "sh*", "shell", "both"];
    assert_eq!(
        two.reply(),
        Value::Array(expected.map(Value::bulk).to_vec())
    );
}

#[test]
fn what_nobody_needs_any_more_is_unsubscribed_from_at_the_server() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    let (mut one, mut two) = (respool.client(), respool.client());
    one.cmd(&["SUBSCRIBE", "a"]);
    two.cmd(&["SUBSCRIBE", "a"]);
    let receivers = || redis.cmd(&["PUBLISH", "a", "x"]).int();
    assert_eq!(receivers(), 1);
    assert_eq!(
        two.reply(),
        message("a", "x"),
        "the message that counted the receivers"
    );
    two.abort();
    one.reply();
    let got = one.cmd(&["UNSUBSCRIBE"]);
    assert_eq!(got, Value::Array(confirmation("unsubscribe", "a", 0)));
    eventually(|| receivers() == 0, "nobody is subscribed at the server");
    // Back among ordinary clients.
    assert_eq!(one.cmd(&["SET", "k", "v"]), Value::ok());
    let mut third = respool.client();
    third.cmd(&["SUBSCRIBE", "a"]);
    assert_eq!(receivers(), 1);
    assert_eq!(third.reply(), message("a", "x"));
}

#[test]
fn a_slow_subscriber_is_closed_and_nobody_waits_for_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .limits("pubsub_buffer = \"256KiB\"")
        .start();
    let (mut slow, mut quick, mut other) = (respool.client(), respool.client(), respool.client());
    slow.shrink_receive_buffer(4096);
    slow.cmd(&["SUBSCRIBE", "c"]);
    quick.cmd(&["SUBSCRIBE", "c"]);
    let payload = "x".repeat(50_000);
    let mut sent = 0;
    while respool.metric_or_zero("respool_bounds_reached_total{bound=\"pubsub_buffer\"}") < 1.0 {
        for _ in 0..10 {
            other.cmd(&["PUBLISH", "c", &payload]);
            assert_eq!(quick.reply(), message("c", &payload));
        }
        sent += 10;
        assert!(sent < 5000, "the slow one takes everything");
    }
    assert_eq!(
        respool.metric("respool_client_disconnects_total{reason=\"pubsub_buffer\"}"),
        1.0
    );
    other.cmd(&["PUBLISH", "c", "still here"]);
    assert_eq!(quick.reply(), message("c", "still here"));
    // Longer than anybody's buffer may be.
    other.cmd(&["PUBLISH", "c", &"y".repeat(300_000)]);
    quick.expect_end();
    let mut third = respool.client();
    third.cmd(&["SUBSCRIBE", "c"]);
    other.cmd(&["PUBLISH", "c", &payload]);
    assert_eq!(third.reply(), message("c", &payload));
}

#[test]
fn subscribers_are_subscribed_again_when_the_server_is_back() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let (mut one, mut two) = (respool.client(), respool.resp3_client());
    one.cmd(&["SUBSCRIBE", "a", "b"]);
    assert_eq!(one.reply(), Value::Array(confirmation("subscribe", "b", 2)));
    two.cmd(&["PSUBSCRIBE", "a*"]);
    redis.kill_hard();
    redis.restart();
    eventually(
        || redis.cmd(&["PUBLISH", "a", "again"]).int() == 2,
        "both are subscribed again",
    );
    assert_eq!(one.reply(), message("a", "again"));
    assert_eq!(two.reply().items()[3], Value::bulk("again"));
    assert!(respool.metric("respool_subscription_losses_total") >= 1.0);
    respool.eventually_logs("may miss messages");
}

#[test]
fn a_subscriber_whose_group_may_not_ping_is_told_so_and_nobody_waits_for_it() {
    let redis = Redis::start(&[]);
    let group = "[[group]]\nname = \"default\"\ndeny_commands = [\"ping\"]";
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .section(group)
        .start();
    let mut subscriber = respool.client();
    let confirmed = subscriber.cmd(&["SUBSCRIBE", "news"]);
    assert_eq!(
        confirmed,
        Value::Array(confirmation("subscribe", "news", 1))
    );
    let denied = subscriber.cmd(&["PING"]).text();
    assert!(denied.starts_with("NOPERM "), "{denied}");
    assert_eq!(respool.client().cmd(&["SET", "k", "v"]), Value::ok());
}

#[test]
fn subscribers_are_closed_at_a_loss_when_the_operator_says_so() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("on_subscription_loss = \"close\"")
        .start();
    let (mut subscriber, mut other) = (respool.client(), respool.client());
    subscriber.cmd(&["SUBSCRIBE", "a"]);
    other.ping();
    redis.kill_hard();
    subscriber.expect_end();
    redis.restart();
    other.ping();
    assert_eq!(
        respool.metric("respool_client_disconnects_total{reason=\"subscription_lost\"}"),
        1.0
    );
}

#[test]
fn a_subscription_made_while_the_server_is_away_waits_for_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut client = respool.client();
    client.ping();
    redis.kill_hard();
    client.send(encode(&["SUBSCRIBE", "a"]));
    redis.restart();
    assert_eq!(
        client.reply(),
        Value::Array(confirmation("subscribe", "a", 1))
    );
    let respool = Respool::with(&redis)
        .upstream("borrow_timeout = \"100ms\"\nqueue = { timeout = \"100ms\" }")
        .start();
    let mut client = respool.client();
    client.ping();
    redis.kill_hard();
    let reply = client.cmd(&["SUBSCRIBE", "a"]);
    assert_eq!(
        reply,
        Value::error("LOADING respool: server unreachable, command not sent")
    );
    redis.restart();
    eventually(
        || client.cmd(&["PING"]) == Value::simple("PONG"),
        "an ordinary client still",
    );
}

#[test]
fn another_user_subscribes_to_what_it_may() {
    let redis = Redis::start(&[]);
    redis.cmd(&[
        "ACL",
        "SETUSER",
        "limited",
        "on",
        ">pw",
        "+@all",
        "~*",
        "resetchannels",
        "&open*",
    ]);
    let respool = Respool::start(&redis);
    let mut limited = respool.client();
    assert_eq!(limited.cmd(&["AUTH", "limited", "pw"]), Value::ok());
    let mut direct = redis.client();
    direct.cmd(&["AUTH", "limited", "pw"]);
    for words in [
        &["SUBSCRIBE", "secret"][..],
        &["SUBSCRIBE", "open1", "secret"],
        &["PSUBSCRIBE", "*"],
    ] {
        let reply = limited.cmd(words);
        assert!(reply.is_error(), "{reply:?}");
        assert_eq!(reply, direct.cmd(words), "{words:?}");
    }
    assert_eq!(
        limited.cmd(&["SUBSCRIBE", "open1"]),
        Value::Array(confirmation("subscribe", "open1", 1))
    );
    redis.cmd(&["PUBLISH", "secret", "x"]);
    redis.cmd(&["PUBLISH", "open1", "y"]);
    assert_eq!(limited.reply(), message("open1", "y"));
}

#[test]
fn a_client_has_no_more_subscriptions_than_it_may() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("max_client_subscriptions = 3")
        .start();
    let mut client = respool.client();
    let reply = client.cmd(&["SUBSCRIBE", "a", "b", "c", "d"]);
    assert!(reply.text().contains("limits.max_client_subscriptions"));
    client.send(encode(&["SUBSCRIBE", "a", "b", "c"]));
    for count in 1..=3 {
        assert_eq!(client.reply().items()[2], Value::Int(count));
    }
    let bound = "respool_bounds_reached_total{bound=\"subscriptions\"}";
    assert_eq!(respool.metric(bound), 1.0);
}

#[test]
fn subscriptions_churn_while_messages_flow() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    let watch = redis.watch_connections();
    let mut steady = respool.client();
    steady.cmd(&["PSUBSCRIBE", "ch*"]);
    const MESSAGES: usize = 2000;
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let respool = &respool;
            scope.spawn(move || {
                for round in 0..100 {
                    let mut client = if worker % 2 == 0 {
                        respool.client()
                    } else {
                        respool.resp3_client()
                    };
                    churn(&mut client, worker * 7 + round);
                    if round % 3 == 0 {
                        client.abort();
                    }
                }
            });
        }
        scope.spawn(|| {
            let mut publisher = respool.client();
            for number in 0..MESSAGES {
                let channel = format!("ch{}", number % 10);
                publisher.cmd(&["PUBLISH", &channel, &number.to_string()]);
            }
        });
        for number in 0..MESSAGES {
            assert_eq!(steady.reply().items()[3], Value::bulk(number.to_string()));
        }
    });
    drop(steady);
    eventually(
        || respool.metric("respool_subscribed_topics") == 0.0,
        "nothing is subscribed to",
    );
    assert!(watch.most() <= 10);
}

/// Subscribes and unsubscribes; whatever comes is a message of what it is subscribed to.
fn churn(client: &mut Client, seed: usize) {
    let mut held: HashSet<String> = HashSet::new();
    for step in 0..6 {
        let channel = format!("ch{}", (seed + step * 3) % 10);
        let verb = if held.contains(&channel) {
            "UNSUBSCRIBE"
        } else {
            "SUBSCRIBE"
        };
        client.send(encode(&[verb, &channel]));
        loop {
            let frame = client.reply();
            let items = frame.items();
            let word = items[0].text();
            if word == "message" {
                assert!(
                    held.contains(&items[1].text()),
                    "a message of {} came to one not subscribed to it",
                    items[1].text()
                );
                continue;
            }
            assert_eq!(word, verb.to_lowercase());
            assert_eq!(items[1], Value::bulk(&channel));
            if verb == "SUBSCRIBE" {
                held.insert(channel);
            } else {
                held.remove(&channel);
            }
            assert_eq!(items[2], Value::Int(held.len() as i64));
            break;
        }
    }
}

/// Tells how many subscribers the test of many has; `RESPOOL_SUBSCRIBERS` asks for more.
fn many() -> usize {
    std::env::var("RESPOOL_SUBSCRIBERS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1500)
}

#[test]
fn many_subscribers_of_overlapping_topics_each_get_their_own() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).limits("max_clients = 12000").start();
    let watch = redis.watch_connections();
    let mut clients: Vec<Client> = (0..many()).map(|_| respool.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.set_patience(PATIENCE * 4);
        client.send(encode(&["SUBSCRIBE", &format!("c{}", number % 100)]));
        client.send(encode(&["PSUBSCRIBE", &format!("c{}*", number % 10)]));
    }
    for client in &mut clients {
        assert_eq!(client.reply().items()[2], Value::Int(1));
        assert_eq!(client.reply().items()[2], Value::Int(2));
    }
    for channel in 0..100 {
        redis.cmd(&["PUBLISH", &format!("c{channel}"), "hello"]);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let channel = format!("c{}", number % 100);
        let matching = |channel: &String| channel.starts_with(&format!("c{}", number % 10));
        let patterns = (0..100).map(|c| format!("c{c}")).filter(matching).count();
        let mut seen = Vec::new();
        for _ in 0..patterns + 1 {
            seen.push(client.reply());
        }
        assert_eq!(
            seen.iter()
                .filter(|frame| **frame == message(&channel, "hello"))
                .count(),
            1
        );
        assert!(
            seen.iter()
                .filter(|frame| frame.items()[0] == Value::bulk("pmessage"))
                .all(|frame| matching(&frame.items()[2].text()))
        );
    }
    assert_eq!(clients[0].reply_within(Duration::from_millis(20)), None);
    assert!(watch.most() <= 10);
}
