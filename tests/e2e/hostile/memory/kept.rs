//! Things that are kept for clients as long as they are there: names of subscriptions, blocked calls, what they have shown and nobody has
//! looked at.

use super::{MIB, most_resident};
use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

/// Is `limits.max_memory` of these tests.
const LIMIT: usize = 64 * MIB;

fn small(redis: &Redis) -> Respool {
    Respool::with(redis)
        .limits("max_memory = \"64MiB\"\nmax_clients = 1000")
        .start()
}

fn log_names_the_largest(respool: &Respool) {
    respool.eventually_logs("it held the most");
}

#[test]
fn the_process_stays_within_its_memory_whatever_names_are_subscribed_to() {
    const COUNT: usize = 30;
    let redis = Redis::start(&[]);
    let respool = small(&redis);
    let mut modest = respool.client();
    modest.cmd(&["SUBSCRIBE", "news"]);
    let mut greedy: Vec<Client> = (0..COUNT).map(|_| respool.client()).collect();
    let mut round = 0;
    let most = most_resident(
        &respool,
        || {
            for (number, client) in greedy.iter_mut().enumerate() {
                let name = format!("{round}-{number}-{}", "n".repeat(1_000_000));
                // Those who were closed take nothing any more.
                let _ = client
                    .try_send(encode(&["SUBSCRIBE", &name]))
                    .is_ok_and(|()| client.drop_bytes(name.len()));
            }
            round += 1;
            round == 5
        },
        "all have subscribed",
    );
    assert!(most < LIMIT, "{} MiB", most / MIB);
    assert!(respool.disconnects("memory") >= 5.0);
    log_names_the_largest(&respool);
    redis.cmd(&["PUBLISH", "news", "hello"]);
    assert!(modest.reply().items()[2].text() == "hello");
}

#[test]
fn what_was_subscribed_to_gives_its_memory_back() {
    const COUNT: usize = 20_000;
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).start();
    let mut staying = respool.client();
    staying.cmd(&["SUBSCRIBE", "news"]);
    let before = respool.resident_bytes();
    let mut many: Vec<Client> = (0..5).map(|_| respool.client()).collect();
    for (number, client) in many.iter_mut().enumerate() {
        let names: Vec<String> = (0..COUNT)
            .map(|count| format!("{number}-{count}"))
            .collect();
        let mut words = vec!["SUBSCRIBE"];
        words.extend(names.iter().map(String::as_str));
        client.send(encode(&words));
        for _ in 0..COUNT {
            client.reply();
        }
    }
    let grown = respool.resident_bytes() - before;
    drop(many);
    eventually(
        || respool.resident_bytes() < before + grown / 4,
        "tables shrink, and the allocator gives back what they took",
    );
    redis.cmd(&["PUBLISH", "news", "hello"]);
    assert!(staying.reply().items()[2].text() == "hello");
}

/// What the server was asked for a client stays asked when the client has gone.
#[test]
fn what_clients_that_have_gone_wanted_to_subscribe_to_has_a_bound() {
    const COUNT: usize = 100;
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    let mut stays = respool.client();
    stays.cmd(&["SUBSCRIBE", "stays"]);
    redis.pause();
    let received = "respool_client_bytes_total{group=\"default\",direction=\"in\"}";
    let mut sent = respool.metric(received) as usize;
    for number in 0..COUNT {
        let mut client = respool.client();
        let names = (0..900).map(|topic| format!("channel-{number}-{topic}"));
        let words: Vec<String> = ["SUBSCRIBE".to_owned()].into_iter().chain(names).collect();
        let request = encode(&words);
        sent += request.len();
        client.send(request);
        let is_read = || respool.metric(received) as usize >= sent;
        eventually(is_read, "it has been read");
        client.abort();
        eventually(|| respool.clients_of("default") == 1, "it has gone");
    }
    let waits = respool.metric("respool_bounds_reached_total{bound=\"unwanted_topics\"}");
    assert!(waits >= 1.0, "it is counted");
    // It waits for nobody who has gone, and nothing is asked for it.
    let mut known = respool.client();
    known.cmd(&["SUBSCRIBE", "stays"]);
    redis.resume();
    let mut other = respool.client();
    other.cmd(&["SUBSCRIBE", "other"]);
    let asked = redis.calls("subscribe");
    assert!((2..30).contains(&asked), "{asked} requests of {COUNT}");
    redis.cmd(&["PUBLISH", "stays", "m"]);
    for client in [&mut stays, &mut known] {
        assert_eq!(client.reply().items()[2], Value::bulk("m"));
    }
}

#[test]
fn the_process_stays_within_its_memory_whatever_blocked_clients_wait_for() {
    let redis = Redis::start(&[]);
    let key = "k".repeat(1000);
    // Calls that are made one with others, and calls that are not.
    let merged = |number: usize| {
        let keys: Vec<String> = (0..64).map(|at| format!("{number}-{at}-{key}")).collect();
        let words = std::iter::once("BLPOP".to_owned()).chain(keys);
        encode(&words.chain(["0".to_owned()]).collect::<Vec<_>>())
    };
    let alone = |number: usize| {
        let from = format!("{number}-{}", key.repeat(30));
        encode(&["BLMOVE", &from, &format!("to-{from}"), "LEFT", "LEFT", "0"])
    };
    for call in [&merged as &dyn Fn(usize) -> Vec<u8>, &alone] {
        let respool = small(&redis);
        let mut modest = respool.client();
        modest.send(encode(&["BLPOP", "modest", "0"]));
        let mut greedy: Vec<Client> = (0..600).map(|_| respool.client()).collect();
        let mut sent = 0;
        let most = most_resident(
            &respool,
            || {
                for client in greedy.iter_mut().skip(sent).take(10) {
                    let _ = client.try_send(call(sent));
                    sent += 1;
                }
                sent == greedy.len()
            },
            "all have called",
        );
        let most = most.max(most_resident(&respool, || true, "they were looked at"));
        assert!(most < LIMIT, "{} MiB", most / MIB);
        assert!(respool.disconnects("memory") >= 20.0);
        log_names_the_largest(&respool);
        redis.cmd(&["RPUSH", "modest", "element"]);
        assert_eq!(modest.reply().items()[1].text(), "element");
    }
}

#[test]
fn what_is_shown_and_not_looked_at_yet_is_counted_until_it_is() {
    const COUNT: usize = 300;
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .section("[auth]\nfree_failures = 1000")
        .start();
    respool.client().cmd(&["PING"]);
    let held = || respool.metric("respool_memory_bytes");
    let before = held();
    let (name, called) = ("a".repeat(16_000), "n".repeat(1000));
    let mut strangers: Vec<Client> = (0..COUNT).map(|_| respool.client()).collect();
    redis.pause();
    for (number, client) in strangers.iter_mut().enumerate() {
        let password = format!("{number:0>16000}");
        client.send(encode(&[
            "HELLO", "3", "AUTH", &name, &password, "SETNAME", &called,
        ]));
    }
    let shown = (COUNT * 33_000) as f64;
    // Each worker says what it holds to within 64 KiB.
    eventually(
        || held() - before >= shown * 0.9,
        "what they show is counted",
    );
    redis.resume();
    eventually(
        || strangers.iter_mut().all(Client::has_reply),
        "they are answered",
    );
    eventually(|| held() - before < shown / 10.0, "and no longer");
}

#[test]
fn a_large_request_that_was_answered_is_not_counted_any_more() {
    const COUNT: usize = 30;
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let held = || respool.metric("respool_memory_bytes");
    let value = "v".repeat(300_000);
    let mut clients: Vec<Client> = (0..COUNT).map(|_| respool.client()).collect();
    clients.iter_mut().for_each(Client::ping);
    let before = held();
    // All at once, so that some wait for a connection.
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(encode(&["SET", &format!("key-{number}"), &value]));
    }
    for client in &mut clients {
        assert_eq!(client.reply(), Value::ok());
    }
    let large = |line: &&str| {
        let bytes = line
            .split(" qbuf=")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        bytes.is_some_and(|bytes| bytes.len() > 5)
    };
    let list = respool.client().cmd(&["CLIENT", "LIST"]).text();
    let shown: Vec<&str> = list.lines().filter(large).collect();
    assert!(shown.is_empty(), "{shown:?}");
    let all = (COUNT * value.len()) as f64;
    eventually(|| held() - before < all / 20.0, "nothing is held of them");
}

#[test]
fn what_the_server_is_asked_of_a_permission_it_is_asked_once() {
    const COUNT: usize = 50;
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    let mut clients: Vec<Client> = (0..COUNT).map(|_| respool.client()).collect();
    clients.iter_mut().for_each(Client::ping);
    redis.pause();
    // Each waits for the server a moment, and the next of each, too.
    for client in &mut clients {
        client.send(encode(&["CLIENT", "GETNAME"]).repeat(3));
    }
    for client in &mut clients {
        for _ in 0..3 {
            client.reply();
        }
    }
    redis.resume();
    let asked = || redis.calls("client|getname");
    respool.client().cmd(&["CLIENT", "GETNAME"]);
    eventually(|| asked() > 0, "the server was asked");
    assert!(asked() <= 3, "{} questions", asked());
}

#[test]
fn the_process_stays_within_its_memory_whatever_is_sent_behind_a_call_that_waits() {
    let redis = Redis::start(&[]);
    let respool = small(&redis);
    let mut modest = respool.client();
    modest.send(encode(&["BLPOP", "modest", "0"]));
    let mut greedy: Vec<Client> = (0..4).map(|_| respool.client()).collect();
    for client in &mut greedy {
        client.send(encode(&["BLPOP", "q", "0"]));
    }
    let piece = encode(&["ECHO", &"x".repeat(1000)]).repeat(1000);
    let mut sent = 0;
    let most = most_resident(
        &respool,
        || {
            for client in &mut greedy {
                // Those who were closed take nothing any more.
                let _ = client.try_send(&piece);
            }
            sent += 1;
            sent == 60
        },
        "all have sent",
    );
    assert!(most < LIMIT, "{} MiB", most / MIB);
    assert!(respool.disconnects("memory") >= 3.0);
    log_names_the_largest(&respool);
    redis.cmd(&["RPUSH", "modest", "hello"]);
    assert_eq!(modest.reply().items()[1].text(), "hello");
}

#[test]
fn the_process_stays_within_its_memory_whatever_a_client_had_sent_that_is_rejected() {
    let redis = Redis::start(&[]);
    let group =
        "[[group]]\nname = \"full\"\nmatch = { client_name = \"full-*\" }\nmax_connections = 1";
    let respool = Respool::with(&redis)
        .limits("max_memory = \"128MiB\"\nmax_clients = 1000")
        .section(group)
        .start();
    let mut first = respool.client_named("full-1");
    // Placed with what serves it.
    first.cmd(&["GET", "k"]);
    // Commands, and what is none: of those no number tells when it is enough.
    for filling in [encode(&["PING"]), b"*0\r\n".to_vec()] {
        let mut client = respool.client();
        client.send(encode(&["BLPOP", "q", "0"]));
        client.send(encode(&["CLIENT", "SETNAME", "full-2"]));
        for _ in 0..76 {
            client.send(filling.repeat(MIB / filling.len()));
        }
        eventually(
            || respool.metric("respool_memory_bytes") >= 75.0 * MIB as f64,
            "all of it is here",
        );
        redis.cmd(&["RPUSH", "q", "a"]);
        eventually(
            || respool.metric("respool_memory_bytes") < MIB as f64,
            "nothing of it is held any more",
        );
        let most = respool.most_resident_bytes() as usize;
        assert!(most < 2 * LIMIT, "{} MiB", most / MIB);
        assert_eq!(client.reply().items()[1].text(), "a");
        assert!(client.reply().is_error());
    }
    first.ping();
}
