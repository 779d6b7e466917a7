//! `CLIENT PAUSE`: writes wait, reads flow, and nobody is cut off at its end.

use std::time::{Duration, Instant};

use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

/// A pause that nothing ends but its time takes so many milliseconds: six times as long as a silence is waited for.
const PAUSE: &str = "3000";

/// A pause that the test ends lasts for as long as the machine may take for what is seen meanwhile.
const UNENDED: &str = "600000";

/// Such a pause lasts so long at least.
const HELD: Duration = Duration::from_millis(3000);

fn respool(redis: &Redis, workers: &str) -> Respool {
    Respool::with(redis)
        .top(workers)
        .upstream("reply_timeout = \"500ms\"\nhealth_interval = \"200ms\"")
        .start()
}

/// Says who asks for the pause.
#[derive(Clone, Copy)]
enum Pauses {
    Through,
    Directly,
}

/// Waits until the server holds back a write, beside the calls that were `blocked` there before.
fn until_held(redis: &Redis, blocked: u64) {
    let is_held = || redis.info_number("blocked_clients") > blocked;
    eventually(is_held, "the server holds a write back");
}

/// Waits until it has been seen that writes are held back: whoever reads is answered. Who has asked before that, and may stand
/// behind a write, is replaced by another and returned.
fn until_reads_flow(respool: &Respool, readers: &mut [Client], value: &Value) -> Vec<Client> {
    let mut stuck = Vec::new();
    let all_are_answered = || {
        readers.iter_mut().all(|reader| {
            reader.send(encode(&["GET", "k"]));
            let reply = reader.reply_within(Duration::from_millis(500));
            if let Some(reply) = &reply {
                assert_eq!(reply, value);
            } else {
                stuck.push(std::mem::replace(reader, respool.client()));
            }
            reply.is_some()
        })
    };
    eventually(all_are_answered, "readers pass the writes by");
    stuck
}

/// Ends a pause that began then, by the one who asked for it, when it has lasted long enough.
fn end(began: Instant, unpause: impl FnOnce(&[&str]) -> Value) {
    eventually(|| began.elapsed() > HELD, "it has lasted long enough");
    assert_eq!(unpause(&["CLIENT", "UNPAUSE"]), Value::ok());
}

/// Checks that writers wait for the end of a pause while readers read on.
fn reads_flow_while_writes_wait(workers: &str, who: Pauses) {
    let redis = Redis::start(&[]);
    let respool = respool(&redis, workers);
    assert_eq!(redis.cmd(&["SET", "k", "v"]), Value::ok());
    let connect = || {
        let mut client = respool.client();
        client.ping();
        client
    };
    let mut writers: Vec<Client> = (0..12).map(|_| connect()).collect();
    let mut readers: Vec<Client> = (0..12).map(|_| connect()).collect();
    let mut subscriber = connect();
    subscriber.cmd(&["SUBSCRIBE", "c"]);
    let mut blocked = connect();
    blocked.send(encode(&["BLPOP", "list", "0"]));
    eventually(|| redis.info("blocked_clients") == "1", "it is blocked");
    let mut asks = match who {
        Pauses::Through => connect(),
        Pauses::Directly => redis.client(),
    };
    let pause = ["CLIENT", "PAUSE", UNENDED, "WRITE"];
    assert_eq!(asks.cmd(&pause), Value::ok());
    let began = Instant::now();
    let words: [&[&str]; 6] = [
        &["SET", "w", "1"],
        &["INCR", "n"],
        &["PUBLISH", "other", "m"],
        &["PFCOUNT", "p"],
        &["EVAL", "return 1", "0"],
        &["LPUSH", "l", "x"],
    ];
    for (writer, words) in writers.iter_mut().zip(words.iter().cycle()) {
        writer.send(encode(words));
    }
    until_held(&redis, 1);
    let value = Value::bulk("v");
    // A pause that went through respool is known before anybody reads.
    let stuck = match who {
        Pauses::Through => Vec::new(),
        Pauses::Directly => until_reads_flow(&respool, &mut readers, &value),
    };
    for _ in 0..20 {
        for reader in &mut readers {
            assert_eq!(reader.cmd(&["GET", "k"]), value, "{workers}");
        }
    }
    let answered = writers.iter_mut().filter_map(|writer| {
        let reply = writer.reply_within(Duration::from_millis(1));
        reply.map(|reply| reply.text())
    });
    assert_eq!(answered.collect::<Vec<_>>(), [""; 0], "writes wait");
    end(began, |words| asks.cmd(words));
    for writer in &mut writers {
        let reply = writer.reply();
        assert!(!reply.is_error(), "{reply:?}");
    }
    for mut reader in stuck {
        assert_eq!(reader.reply(), value);
    }
    writers
        .iter_mut()
        .chain(&mut readers)
        .for_each(Client::ping);
    redis.cmd(&["PUBLISH", "c", "m"]);
    assert_eq!(subscriber.reply().items()[2], Value::bulk("m"));
    redis.cmd(&["RPUSH", "list", "x"]);
    assert_eq!(blocked.reply().items()[1], Value::bulk("x"));
    let lost = "respool_client_disconnects_total{group=\"default\",reason=\"upstream_lost\"}";
    assert_eq!(respool.metric_or_zero(lost), 0.0);
}

/// Each of four workers has one shared connection.
const WORKERS: [&str; 3] = ["workers = 1", "workers = 2", "workers = 4"];

#[test]
fn reads_flow_while_writes_are_paused() {
    for workers in WORKERS {
        reads_flow_while_writes_wait(workers, Pauses::Through);
    }
}

#[test]
fn reads_flow_while_somebody_else_has_writes_paused() {
    for workers in WORKERS {
        reads_flow_while_writes_wait(workers, Pauses::Directly);
    }
}

#[test]
fn a_client_whose_write_is_paused_keeps_its_order() {
    let redis = Redis::start(&[]);
    let respool = respool(&redis, "workers = 1");
    let mut clients: Vec<Client> = (0..6).map(|_| respool.client()).collect();
    clients.iter_mut().for_each(Client::ping);
    let mut asks = respool.client();
    let pause = ["CLIENT", "PAUSE", UNENDED, "WRITE"];
    assert_eq!(asks.cmd(&pause), Value::ok());
    let began = Instant::now();
    for (number, client) in clients.iter_mut().enumerate() {
        let key = format!("k{number}");
        for words in [
            &["GET", &key][..],
            &["SET", &key, "1"],
            &["GET", &key],
            &["INCR", &key],
            &["GET", &key],
        ] {
            client.send(encode(words));
        }
    }
    for client in &mut clients {
        assert!(
            client.reply().is_null(),
            "what stands before the write is answered at once"
        );
    }
    for client in &mut clients {
        let next = client.reply_within(Duration::from_millis(1));
        assert_eq!(next, None, "the write waits");
    }
    end(began, |words| asks.cmd(words));
    for client in &mut clients {
        assert_eq!(client.reply(), Value::ok());
        assert_eq!(client.reply(), Value::bulk("1"));
        assert_eq!(client.reply(), Value::Int(2));
        assert_eq!(client.reply(), Value::bulk("2"));
    }
}

#[test]
fn a_pause_that_is_ended_is_over() {
    let redis = Redis::start(&[]);
    let respool = respool(&redis, "workers = 2");
    let mut writer = respool.client();
    writer.ping();
    let mut other = respool.client();
    assert_eq!(
        other.cmd(&["CLIENT", "PAUSE", "60000", "WRITE"]),
        Value::ok()
    );
    writer.send(encode(&["SET", "k", "v"]));
    assert_eq!(other.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    assert_eq!(writer.reply(), Value::ok());
    for _ in 0..100 {
        writer.cmd(&["SET", "k", "v"]);
    }
}

#[test]
fn a_pause_of_everything_cuts_nobody_off() {
    let redis = Redis::start(&[]);
    let respool = respool(&redis, "workers = 2");
    let mut clients: Vec<Client> = (0..12).map(|_| respool.client()).collect();
    clients.iter_mut().for_each(Client::ping);
    let mut other = respool.client();
    assert_eq!(other.cmd(&["CLIENT", "PAUSE", PAUSE]), Value::ok());
    for client in &mut clients {
        client.send(encode(&["GET", "k"]));
    }
    for client in &mut clients {
        assert!(client.reply().is_null());
    }
    eventually(
        || respool.metric("respool_server_up") == 1.0,
        "the server is up",
    );
}

#[test]
fn clients_that_read_and_write_keep_no_lent_connection_from_readers() {
    let redis = Redis::start(&[]);
    let respool = respool(&redis, "workers = 4");
    let mut both: Vec<Client> = (0..24).map(|_| respool.client()).collect();
    let mut readers: Vec<Client> = (0..12).map(|_| respool.client()).collect();
    both.iter_mut().chain(&mut readers).for_each(Client::ping);
    let pause = ["CLIENT", "PAUSE", UNENDED, "WRITE"];
    assert_eq!(redis.cmd(&pause), Value::ok());
    let began = Instant::now();
    for client in &mut both {
        client.send(encode(&["SET", "w", "1"]));
    }
    until_held(&redis, 0);
    // They are with all workers: each of these has seen it then.
    let stuck = until_reads_flow(&respool, &mut readers, &Value::NullBulk);
    // More of them than there are connections to lend go on with a read, and a write behind it.
    let mut more: Vec<Client> = (0..12).map(|_| respool.client()).collect();
    for client in &mut more {
        client.send([encode(&["GET", "k"]), encode(&["SET", "w", "2"])].concat());
    }
    for client in more.iter_mut().chain(&mut readers) {
        client.send(encode(&["GET", "k"]));
    }
    for client in more.iter_mut().chain(&mut readers) {
        assert!(client.reply().is_null());
    }
    end(began, |words| redis.cmd(words));
    for mut reader in stuck {
        assert!(reader.reply().is_null());
    }
    for client in both.iter_mut().chain(&mut more) {
        assert_eq!(client.reply(), Value::ok());
    }
    for client in &mut more {
        assert!(client.reply().is_null());
    }
}

#[test]
fn who_leaves_a_blocking_call_while_all_is_paused_does_not_end_the_server() {
    // Redis 6.2 and 7.0 end with a fault when a client is unblocked whose call they have put off for a pause.
    let redis = Redis::start(&[]);
    let respool = respool(&redis, "workers = 2");
    for pause in ["WRITE", "ALL"] {
        let mut in_line = respool.client();
        let mut on_its_own = respool.client();
        in_line.ping();
        assert_eq!(on_its_own.cmd(&["WATCH", "k"]), Value::ok());
        let mut asks = respool.client();
        let paused = asks.cmd(&["CLIENT", "PAUSE", "1500", pause]);
        assert_eq!(paused, Value::ok());
        in_line.send(encode(&["BLPOP", "l", "0"]));
        on_its_own.send(encode(&["BLPOP", "l", "0"]));
        assert!(
            on_its_own
                .reply_within(Duration::from_millis(200))
                .is_none()
        );
        on_its_own.abort();
        in_line.abort();
        eventually(|| respool.clients_of("default") == 1, "they have left");
        // Answered when the pause is over, if the server is there then.
        assert_eq!(asks.cmd(&["SET", "k", pause]), Value::ok());
        eventually(
            || redis.info_number("blocked_clients") == 0,
            "nobody waits there any more",
        );
        assert_eq!(redis.cmd(&["GET", "k"]), Value::bulk(pause));
        assert_eq!(redis.cmd(&["EXISTS", "l"]), Value::Int(0));
    }
}
