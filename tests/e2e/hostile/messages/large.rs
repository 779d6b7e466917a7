//! A message that the server closes a subscriber for costs nobody else a message.

use crate::harness::{Client, Redis, Respool, Value, encode, eventually, needs};

/// Makes patterns that all match `attack`.
fn overlapping(count: usize) -> Vec<String> {
    (1..=count)
        .map(|number| format!("[a{number}]ttack"))
        .collect()
}

fn psubscribe(client: &mut Client, patterns: &[String]) {
    let words: Vec<&str> = ["PSUBSCRIBE"]
        .into_iter()
        .chain(patterns.iter().map(String::as_str))
        .collect();
    client.send(encode(&words));
    for pattern in patterns {
        assert_eq!(client.reply().items()[1], Value::bulk(pattern));
    }
}

/// Checks that the client's connection has ended, though messages may have come before its end.
#[track_caller]
pub(super) fn assert_closed(mut client: Client) {
    while client.try_reply().is_some() {}
}

/// Tells whether the server holds a large message once, however many subscribers get it, so that it is too much for none of them.
pub(super) fn bears_large_messages(redis: &Redis) -> bool {
    let server = redis.cmd(&["INFO", "server"]).text();
    server.contains("valkey_version:9")
}

/// Holds those who are subscribed to something else, and what they have been sent.
pub(super) struct Bystanders {
    clients: Vec<Client>,
    sent: usize,
}

impl Bystanders {
    pub(super) fn new(respool: &Respool, count: usize) -> Self {
        let mut clients: Vec<Client> = (0..count).map(|_| respool.client()).collect();
        for client in &mut clients {
            client.cmd(&["SUBSCRIBE", "own"]);
        }
        Self { clients, sent: 0 }
    }

    /// Publishes a message that all of them get.
    pub(super) fn publish(&mut self, redis: &Redis) {
        redis.cmd(&["PUBLISH", "own", &self.sent.to_string()]);
        self.sent += 1;
    }

    /// Checks that none of it is missing.
    #[track_caller]
    pub(super) fn assert_got_all(&mut self) {
        for client in &mut self.clients {
            for number in 0..self.sent {
                let got = client.reply().items()[2].clone();
                assert_eq!(got, Value::bulk(number.to_string()), "a message is missing");
            }
        }
        self.sent = 0;
    }
}

/// Has clients attacked while bystanders are sent messages; nothing of theirs is missing, and the attackers are closed.
#[track_caller]
fn assert_only_attackers_lose(
    (workers, bytes): (usize, usize),
    attackers: impl Fn(&mut Client),
    attack: impl Fn(&mut Client),
) {
    let redis = Redis::start(&[]);
    // What happens directly: the attacker's connection ends, and nobody else's; or, since Valkey 9 holds a large message
    // once for all of its subscribers, it gets everything.
    let (mut direct, mut watcher, mut publisher) = (redis.client(), redis.client(), redis.client());
    attackers(&mut direct);
    watcher.cmd(&["SUBSCRIBE", "own"]);
    attack(&mut publisher);
    let is_closed = direct.ends_before(bytes);
    assert!(is_closed || bears_large_messages(&redis));
    redis.cmd(&["PUBLISH", "own", "m"]);
    assert_eq!(watcher.reply().items()[2], Value::bulk("m"));

    let respool = Respool::with(&redis)
        .top(&format!("workers = {workers}"))
        .start();
    let mut bystanders = Bystanders::new(&respool, 6);
    let mut publisher = respool.client();
    for round in 0..3 {
        let mut clients: Vec<Client> = (0..2).map(|_| respool.client()).collect();
        clients.iter_mut().for_each(&attackers);
        bystanders.publish(&redis);
        attack(&mut publisher);
        bystanders.publish(&redis);
        bystanders.assert_got_all();
        clients.into_iter().for_each(assert_closed);
        let closed = || {
            let name =
                "respool_client_disconnects_total{group=\"default\",reason=\"pubsub_buffer\"}";
            respool.metric_or_zero(name)
        };
        let expected = 2.0 * f64::from(round + 1);
        eventually(|| closed() == expected, "the attackers are counted");
    }
    assert_eq!(respool.metric("respool_subscription_losses_total"), 0.0);
    respool.eventually_logs("pubsub_buffer");
}

#[test]
fn one_clients_overlapping_patterns_cost_its_own_connection() {
    for workers in [1, 2] {
        assert_only_attackers_lose(
            (workers, 40_000_000),
            |client| psubscribe(client, &overlapping(40)),
            |publisher| {
                publisher.send(encode(&["PUBLISH", "attack", &"x".repeat(1_000_000)]));
                publisher.reply().int();
            },
        );
    }
}

#[test]
fn a_message_that_is_too_long_costs_the_subscribers_of_its_channel() {
    assert_only_attackers_lose(
        (2, 34_000_000),
        |client| drop(client.cmd(&["SUBSCRIBE", "attack"])),
        |publisher| {
            publisher.send(encode(&["PUBLISH", "attack", &"x".repeat(34_000_000)]));
            publisher.reply().int();
        },
    );
}

#[test]
fn so_does_one_that_a_transaction_sends() {
    let large = "x".repeat(600_000);
    assert_only_attackers_lose(
        (1, 42_000_000),
        |client| psubscribe(client, &overlapping(70)),
        |publisher| {
            assert_eq!(publisher.cmd(&["MULTI"]), Value::ok());
            publisher.send(encode(&["PUBLISH", "attack", &large]));
            assert_eq!(publisher.reply(), Value::simple("QUEUED"));
            assert_eq!(publisher.cmd(&["EXEC"]).items().len(), 1);
        },
    );
}

#[test]
fn so_does_one_that_is_for_a_shard() {
    needs!("SPUBLISH c m");
    assert_only_attackers_lose(
        (1, 34_000_000),
        |client| drop(client.cmd(&["SSUBSCRIBE", "attack"])),
        |publisher| {
            publisher.send(encode(&["SPUBLISH", "attack", &"x".repeat(34_000_000)]));
            publisher.reply().int();
        },
    );
}

#[test]
fn many_patterns_make_small_messages_large() {
    let message = encode(&["PUBLISH", "attack", &"x".repeat(30_000)]);
    assert_only_attackers_lose(
        (1, 45_000_000),
        |client| psubscribe(client, &overlapping(1500)),
        |publisher| {
            publisher.send(&message);
            publisher.reply().int();
        },
    );
    assert_only_attackers_lose(
        (1, 45_000_000),
        |client| psubscribe(client, &overlapping(1500)),
        |publisher| {
            publisher.send([encode(&["MULTI"]), message.clone(), encode(&["EXEC"])].concat());
            assert_eq!(publisher.reply(), Value::ok());
            assert_eq!(publisher.reply(), Value::simple("QUEUED"));
            publisher.reply();
        },
    );
}

#[test]
fn who_is_sent_no_more_than_the_server_holds_gets_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    let (mut few, mut many) = (respool.client(), respool.client());
    psubscribe(&mut few, &overlapping(2));
    psubscribe(&mut many, &overlapping(40));
    let mut publisher = respool.client();
    let large = "x".repeat(1_000_000);
    publisher.send(encode(&["PUBLISH", "attack", &large]));
    assert_eq!(publisher.reply().int(), 2);
    for _ in 0..2 {
        assert_eq!(few.reply().items()[3], Value::bulk(&large));
    }
    assert_closed(many);
}
