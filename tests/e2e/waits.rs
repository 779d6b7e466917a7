//! Blocked clients: they own no connection, and see exactly what the server would have shown them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::harness::{Client, Redis, Respool, Value, encode, eventually, is_open_at, show};

/// Starts a client in a blocking call, seen to be blocked. Its try has been answered where there is one shared connection.
fn waiting(respool: &Respool, call: &[&str]) -> Client {
    let before = respool.blocked_clients();
    let mut client = respool.client();
    client.send(encode(call));
    eventually(
        || respool.blocked_clients() > before,
        "the client is blocked",
    );
    respool.client().ping();
    client
}

fn number(value: usize) -> String {
    value.to_string()
}

/// Starts a respool with so many connections, of which so many are shared.
fn sized(redis: &Redis, most: usize, shared: usize) -> Respool {
    Respool::with(redis)
        .upstream(&format!(
            "max_connections = {most}\nshared_connections = {shared}"
        ))
        .start()
}

/// Tells the elements that were answered to BLPOP and its like, none twice.
fn elements(clients: &mut [Client]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for client in clients {
        let reply = client.reply();
        let element = reply.items()[1].text();
        assert!(all.insert(element.clone()), "{element} came twice");
    }
    all
}

#[test]
fn thousands_of_blocked_clients_fit_six_connections() {
    let redis = Redis::start(&[]);
    let respool = sized(&redis, 6, 2);
    let watch = redis.watch_connections();
    let block = |words: &[&str]| {
        let mut client = respool.client();
        client.send(encode(words));
        client
    };
    let mut jobs: Vec<_> = (0..500).map(|_| block(&["BLPOP", "jobs", "0"])).collect();
    let mut lists: Vec<Vec<Client>> = (0..100)
        .map(|list| {
            let key = format!("list{list}");
            (0..20).map(|_| block(&["BLPOP", &key, "0"])).collect()
        })
        .collect();
    let mut moves: Vec<_> = (0..100)
        .map(|n| {
            let (from, to) = (format!("from{n}"), format!("to{n}"));
            block(&["BLMOVE", &from, &to, "LEFT", "RIGHT", "0"])
        })
        .collect();
    let mut reads: Vec<_> = (0..100)
        .map(|n| {
            let stream = format!("stream{n}");
            block(&["XREAD", "BLOCK", "0", "STREAMS", &stream, "$"])
        })
        .collect();
    eventually(|| respool.blocked_clients() == 2_700, "all are blocked");
    // Nobody has found anything, so the ids that `$` stands for are known once all calls have been tried.
    eventually(
        || redis.info_number("blocked_clients") > 0,
        "calls are issued",
    );
    let mut producer = redis.client();
    for n in 0..500 {
        producer.cmd(&["RPUSH", "jobs", &format!("job{n}")]);
    }
    for n in 0..100 {
        for element in 0..20 {
            let key = format!("list{n}");
            producer.cmd(&["LPUSH", &key, &format!("{n}-{element}")]);
        }
        producer.cmd(&["RPUSH", &format!("from{n}"), &number(n)]);
        let id = number(n + 1);
        producer.cmd(&["XADD", &format!("stream{n}"), &id, "n", &number(n)]);
    }
    assert_eq!(elements(&mut jobs).len(), 500);
    for (n, clients) in lists.iter_mut().enumerate() {
        let expected: BTreeSet<String> = (0..20).map(|element| format!("{n}-{element}")).collect();
        assert_eq!(elements(clients), expected);
    }
    for (n, client) in moves.iter_mut().enumerate() {
        assert_eq!(client.reply(), Value::bulk(number(n)));
    }
    for (n, client) in reads.iter_mut().enumerate() {
        let reply = client.reply();
        let stream = &reply.items()[0];
        assert_eq!(stream.items()[0], Value::bulk(format!("stream{n}")));
        let entry = &stream.items()[1].items()[0];
        assert_eq!(entry.items()[0], Value::bulk(format!("{}-0", n + 1)));
    }
    // The control connection of the test and the producer are two.
    let most = watch.most();
    assert!(most <= 6 + 2, "{most} connections");
    assert_eq!(respool.blocked_clients(), 0);
    assert_eq!(
        respool.metric_or_zero("respool_returned_elements_total"),
        0.0
    );
}

#[test]
fn the_first_to_wait_is_the_first_to_be_served() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 3\nshared_connections = 1")
        .start();
    let mut clients: Vec<_> = (0..30)
        .map(|_| waiting(&respool, &["BLPOP", "line", "other", "0"]))
        .collect();
    for n in 0..30 {
        redis.cmd(&["RPUSH", "line", &number(n)]);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.reply().items()[1], Value::bulk(number(n)));
    }
}

#[test]
fn a_timeout_is_the_null_of_the_command_in_both_protocols() {
    let redis = Redis::start(&[]);
    let respool = sized(&redis, 4, 1);
    redis.cmd(&["XGROUP", "CREATE", "grouped", "g", "$", "MKSTREAM"]);
    let calls: [&[&str]; 11] = [
        &["BLPOP", "k", "l", "0.05"],
        &["BRPOP", "k", "0.05"],
        &["BZPOPMIN", "z", "0.05"],
        &["BZPOPMAX", "z", "y", "0.05"],
        &["BLMOVE", "k", "l", "LEFT", "RIGHT", "0.05"],
        &["BRPOPLPUSH", "k", "l", "0.05"],
        &["BLMPOP", "0.05", "2", "k", "l", "LEFT"],
        &["BZMPOP", "0.05", "1", "z", "MIN", "COUNT", "2"],
        &["XREAD", "BLOCK", "50", "STREAMS", "s", "$"],
        &[
            "XREAD", "COUNT", "1", "BLOCK", "50", "STREAMS", "s", "t", "0", "$",
        ],
        &[
            "XREADGROUP",
            "GROUP",
            "g",
            "c",
            "BLOCK",
            "50",
            "STREAMS",
            "grouped",
            ">",
        ],
    ];
    for protocol in ["2", "3"] {
        let (mut direct, mut through) = (redis.client(), respool.client());
        direct.cmd(&["HELLO", protocol]);
        through.cmd(&["HELLO", protocol]);
        for call in calls {
            direct.send(encode(call));
            let expected = direct.reply_bytes();
            let begun = Instant::now();
            through.send(encode(call));
            let found = through.reply_bytes();
            assert_eq!(show(&found), show(&expected), "{call:?} in {protocol}");
            // Redis 6.2 does not know all of them.
            let waited = begun.elapsed() >= Duration::from_millis(50);
            assert!(
                waited || expected.starts_with(b"-ERR unknown command"),
                "{call:?} before its time"
            );
        }
    }
}

#[test]
fn a_timeout_of_less_than_a_millisecond_ends() {
    let redis = Redis::start(&[]);
    let respool = sized(&redis, 4, 1);
    redis.cmd(&[
        "ACL", "SETUSER", "eve", "on", ">secret", "~*", "+@all", "-multi",
    ]);
    for user in ["default", "eve"] {
        let mut client = respool.client();
        if user == "eve" {
            assert_eq!(client.cmd(&["AUTH", user, "secret"]), Value::ok());
        }
        // Redis 6.2 itself would wait for ever.
        for timeout in ["0.0001", "0.001", "0.0011"] {
            client.send(encode(&["BLPOP", "k", timeout]));
            assert_eq!(
                show(&client.reply_bytes()),
                show(b"*-1\r\n"),
                "{timeout} of {user}"
            );
        }
    }
}

#[test]
fn what_is_there_is_answered_as_the_server_does() {
    let redis = Redis::start(&[]);
    let respool = sized(&redis, 4, 1);
    let fill = || {
        redis.flush();
        redis.cmd(&["RPUSH", "k", "1", "2", "3"]);
        redis.cmd(&["ZADD", "z", "1.5", "a", "2", "b"]);
        redis.cmd(&["SET", "text", "x"]);
        redis.cmd(&["XADD", "s", "5-1", "f", "v"]);
        redis.cmd(&["XGROUP", "CREATE", "s", "g", "0"]);
    };
    let calls: [&[&str]; 22] = [
        &["BLPOP", "none", "k", "0"],
        &["BLPOP", "k", "k", "0"],
        &["BRPOP", "k", "1"],
        &["BZPOPMIN", "z", "0"],
        &["bzpopmax", "none", "z", "0.5"],
        &["BLMOVE", "k", "d", "right", "LEFT", "0"],
        &["BRPOPLPUSH", "k", "d", "0"],
        &["BLMPOP", "0", "2", "none", "k", "LEFT", "COUNT", "2"],
        &["BZMPOP", "0", "1", "z", "MAX", "COUNT", "5"],
        &["XREAD", "BLOCK", "0", "STREAMS", "s", "0"],
        &["XREAD", "BLOCK", "0", "STREAMS", "s", "none", "5-0", "$"],
        &[
            "XREADGROUP",
            "GROUP",
            "g",
            "c",
            "BLOCK",
            "0",
            "STREAMS",
            "s",
            ">",
        ],
        &[
            "XREADGROUP",
            "GROUP",
            "g",
            "c",
            "BLOCK",
            "0",
            "STREAMS",
            "s",
            "0",
        ],
        &["BLPOP", "text", "0"],
        &["BLPOP", "none", "text", "k", "0"],
        &["XREAD", "BLOCK", "0", "STREAMS", "text", "$"],
        &[
            "XREADGROUP",
            "GROUP",
            "nobody",
            "c",
            "BLOCK",
            "0",
            "STREAMS",
            "s",
            ">",
        ],
        &["BLMOVE", "k", "d", "up", "down", "0"],
        &["BLPOP", "k"],
        &["BLPOP", "k", "-1"],
        &["BLPOP", "k", "soon"],
        &["XREAD", "BLOCK", "-1", "STREAMS", "s", "0"],
    ];
    for protocol in ["2", "3"] {
        let (mut direct, mut through) = (redis.client(), respool.client());
        direct.cmd(&["HELLO", protocol]);
        through.cmd(&["HELLO", protocol]);
        for call in calls {
            fill();
            direct.send(encode(call));
            let expected = direct.reply_bytes();
            fill();
            through.send(encode(call));
            let found = through.reply_bytes();
            assert_eq!(show(&found), show(&expected), "{call:?} in {protocol}");
        }
    }
}

#[test]
fn an_element_for_who_has_left_goes_back() {
    let redis = Redis::start(&[]);
    let respool = sized(&redis, 3, 1);
    for round in 0..100 {
        let element = number(round);
        let mut client = respool.client();
        client.send(encode(&["BLPOP", "k", "0"]));
        eventually(
            || redis.info_number("blocked_clients") == 1,
            "the call is issued",
        );
        let port = client.local_addr().port();
        // The element and the end of the client stand before respool at once, or it knows of the end already.
        let is_at_once = round % 2 == 0;
        if is_at_once {
            respool.pause();
        }
        drop(client);
        // An element that overtakes the end on its way is the client's, here as at Redis.
        eventually(
            || !is_open_at(respool.port(), port),
            "the end of the client has arrived",
        );
        redis.cmd(&["RPUSH", "k", &element]);
        if is_at_once {
            respool.resume();
        }
        eventually(
            || redis.cmd(&["LRANGE", "k", "0", "-1"]) == Value::Array(vec![Value::bulk(&element)]),
            "the element is there",
        );
        eventually(
            || redis.info_number("blocked_clients") == 0,
            "nobody is asked for",
        );
        assert_eq!(redis.cmd(&["LPOP", "k"]), Value::bulk(&element));
    }
}

#[test]
fn who_leaves_changes_nothing_for_the_others() {
    let redis = Redis::start(&[]);
    let respool = sized(&redis, 3, 1);
    let mut clients: Vec<_> = (0..9)
        .map(|_| waiting(&respool, &["BLPOP", "k", "0"]))
        .collect();
    // The first, the last, one in the middle.
    clients.remove(0).abort();
    drop(clients.pop());
    drop(clients.remove(3));
    eventually(|| respool.blocked_clients() == 6, "three have left");
    for n in 0..6 {
        redis.cmd(&["RPUSH", "k", &number(n)]);
    }
    assert_eq!(elements(&mut clients).len(), 6);
}

#[test]
fn client_unblock_ends_a_wait() {
    let redis = Redis::start(&[]);
    let respool = sized(&redis, 3, 1);
    let mut other = respool.client();
    for call in [
        &["BLPOP", "k", "0"][..],
        &["XREAD", "BLOCK", "0", "STREAMS", "s", "$"],
        &["BLMOVE", "k", "l", "LEFT", "LEFT", "0"],
    ] {
        // With and without others who wait for the same.
        let beside = waiting(&respool, call);
        let mut client = respool.client();
        let id = client.id();
        let unblock = |other: &mut Client, mode: &[&str]| {
            let words = [&["CLIENT", "UNBLOCK", &id], mode].concat();
            other.cmd(&words)
        };
        assert_eq!(unblock(&mut other, &[]), Value::Int(0));
        let mut beside = Some(beside);
        for mode in [&["ERROR"][..], &["TIMEOUT"], &[], &["ERROR"], &[]] {
            let before = respool.blocked_clients();
            client.send(encode(call));
            eventually(
                || respool.blocked_clients() > before,
                "the client is blocked",
            );
            assert_eq!(unblock(&mut other, mode), Value::Int(1), "{call:?}");
            let expected = match mode {
                ["ERROR"] => "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n",
                _ => "*-1\r\n",
            };
            assert_eq!(show(&client.reply_bytes()), show(expected.as_bytes()));
            assert_eq!(unblock(&mut other, mode), Value::Int(0));
            if mode == ["TIMEOUT"] {
                drop(beside.take());
                eventually(|| respool.blocked_clients() == 0, "the other has left");
            }
        }
    }
    let mut client = waiting(&respool, &["BLPOP", "k", "0"]);
    redis.cmd(&["RPUSH", "k", "x"]);
    assert_eq!(client.reply().items()[1], Value::bulk("x"));
}

#[test]
fn when_the_server_is_lost_only_who_may_have_been_served_is_closed() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 3\nshared_connections = 1")
        .start();
    let mut monitor = redis.client();
    assert_eq!(monitor.cmd(&["MONITOR"]), Value::ok());
    let mut first = waiting(&respool, &["BLPOP", "a", "0"]);
    let mut second = waiting(&respool, &["BLPOP", "a", "0"]);
    let mut other = waiting(&respool, &["BLPOP", "b", "0"]);
    let mut reader = waiting(&respool, &["XREAD", "BLOCK", "0", "STREAMS", "s", "0"]);
    // A key joins the issued call a moment after its client has come.
    while !monitor.reply().text().contains("\"a\" \"b\"") {}
    eventually(
        || redis.info_number("blocked_clients") == 2,
        "both calls are issued",
    );
    redis.kill_hard();
    first.expect_end();
    other.expect_end();
    redis.restart();
    eventually(
        || redis.info_number("blocked_clients") == 2,
        "both calls are issued again",
    );
    redis.cmd(&["RPUSH", "a", "x"]);
    redis.cmd(&["XADD", "s", "1-1", "f", "v"]);
    assert_eq!(second.reply().items()[1], Value::bulk("x"));
    assert_eq!(
        reader.reply().items()[0].items()[0],
        Value::bulk("s"),
        "a reading call takes nothing, so it is asked again"
    );
}

#[test]
fn a_server_that_stays_away_is_told_to_who_waits() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream(
            "max_connections = 3\nshared_connections = 1\nqueue = { timeout = \"300ms\" }\nborrow_timeout = \"300ms\"",
        )
        .start();
    let mut first = waiting(&respool, &["BLPOP", "a", "0"]);
    let mut second = waiting(&respool, &["BLPOP", "a", "0"]);
    eventually(
        || redis.info_number("blocked_clients") == 1,
        "the call is issued",
    );
    // respool sees all connections end at once: on one that ends later the second call could be issued, and be lost with it.
    respool.pause();
    redis.kill_hard();
    respool.resume();
    first.expect_end();
    let told = second.reply();
    assert!(told.text().starts_with("LOADING respool:"), "{told:?}");
    let told = second.cmd(&["BLPOP", "a", "0"]);
    assert!(told.text().starts_with("LOADING respool:"), "{told:?}");
}

#[test]
fn an_error_is_told_to_whoever_comes_with_it() {
    let redis = Redis::start(&[]);
    // Both of them wait on one worker.
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 3\nshared_connections = 1")
        .start();
    let mut good = waiting(&respool, &["BLPOP", "good", "0"]);
    let mut later = waiting(&respool, &["BLPOP", "later", "0"]);
    redis.cmd(&["SET", "text", "x"]);
    let mut bad = respool.client();
    let reply = bad.cmd(&["BLPOP", "text", "good", "0"]);
    assert!(reply.text().starts_with("WRONGTYPE"), "{reply:?}");
    // Whoever the server would have blocked is not told what its key becomes: the call issued anew is made without it.
    redis.cmd(&["SET", "later", "x"]);
    let mut joins = respool.client();
    joins.send(encode(&["BLPOP", "joins", "0"]));
    redis.cmd(&["RPUSH", "good", "1"]);
    assert_eq!(good.reply().items()[1], Value::bulk("1"));
    redis.cmd(&["RPUSH", "joins", "2"]);
    assert_eq!(joins.reply().items()[1], Value::bulk("2"));
    redis.cmd(&["DEL", "later"]);
    redis.cmd(&["RPUSH", "later", "3"]);
    assert_eq!(later.reply().items()[1], Value::bulk("3"));
}

#[test]
fn inside_a_transaction_nothing_blocks() {
    let redis = Redis::start(&[]);
    let respool = sized(&redis, 3, 1);
    let mut client = respool.client();
    for _ in 0..2 {
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
        assert_eq!(client.cmd(&["BLPOP", "k", "0"]), Value::simple("QUEUED"));
        assert_eq!(
            client.cmd(&["BLMOVE", "k", "l", "LEFT", "LEFT", "0"]),
            Value::simple("QUEUED")
        );
        client.send(encode(&["EXEC"]));
        assert_eq!(show(&client.reply_bytes()), show(b"*2\r\n*-1\r\n$-1\r\n"));
    }
    let whole = [&["MULTI"][..], &["BLPOP", "k", "0"], &["EXEC"]];
    client.send(whole.map(encode).concat());
    assert_eq!(client.reply(), Value::ok());
    assert_eq!(client.reply(), Value::simple("QUEUED"));
    assert_eq!(show(&client.reply_bytes()), show(b"*1\r\n*-1\r\n"));
    // A client that watches keeps its connection, and blocks there.
    assert_eq!(client.cmd(&["WATCH", "w"]), Value::ok());
    client.send(encode(&["BLPOP", "k", "0"]));
    eventually(
        || redis.info_number("blocked_clients") == 1,
        "the call is at the server",
    );
    redis.cmd(&["RPUSH", "k", "x"]);
    assert_eq!(client.reply().items()[1], Value::bulk("x"));
}

#[test]
fn databases_and_users_wait_apart() {
    let redis = Redis::start(&[]);
    let respool = sized(&redis, 4, 1);
    redis.cmd(&["ACL", "SETUSER", "bob", "on", ">secret", "~bob:*", "+@all"]);
    redis.cmd(&[
        "ACL", "SETUSER", "eve", "on", ">secret", "~*", "+@all", "-multi",
    ]);
    let as_user = |user: &str| {
        let mut client = respool.client();
        assert_eq!(client.cmd(&["AUTH", user, "secret"]), Value::ok());
        client
    };
    let in_database = |n: usize| {
        let mut client = respool.client();
        assert_eq!(client.cmd(&["SELECT", &number(n)]), Value::ok());
        client
    };
    let mut clients: Vec<_> = (0..6).map(in_database).collect();
    for client in &mut clients {
        client.send(encode(&["BLPOP", "k", "0"]));
    }
    let mut bob = as_user("bob");
    let refused = bob.cmd(&["BLPOP", "k", "0"]);
    assert!(refused.text().starts_with("NOPERM"), "{refused:?}");
    bob.send(encode(&["BLPOP", "bob:k", "0"]));
    let mut eve = as_user("eve");
    eve.send(encode(&["BLPOP", "eve:k", "0"]));
    eventually(|| respool.blocked_clients() == 8, "all are blocked");
    let mut producer = redis.client();
    for n in (0..6).rev() {
        producer.cmd(&["SELECT", &number(n)]);
        producer.cmd(&["RPUSH", "k", &format!("in {n}")]);
        assert_eq!(
            clients[n].reply().items()[1],
            Value::bulk(format!("in {n}"))
        );
    }
    producer.cmd(&["RPUSH", "bob:k", "for bob"]);
    assert_eq!(bob.reply().items()[1], Value::bulk("for bob"));
    producer.cmd(&["RPUSH", "eve:k", "for eve"]);
    assert_eq!(eve.reply().items()[1], Value::bulk("for eve"));
}

#[test]
fn without_a_connection_to_lend_they_are_served_too() {
    let redis = Redis::start(&[]);
    let respool = sized(&redis, 2, 1);
    let mut held = respool.client();
    assert_eq!(held.cmd(&["MULTI"]), Value::ok());
    let mut clients: Vec<_> = (0..20)
        .map(|_| waiting(&respool, &["BLPOP", "k", "0"]))
        .collect();
    let mut moved = waiting(&respool, &["BLMOVE", "from", "to", "LEFT", "LEFT", "0"]);
    eventually(|| respool.blocked_clients() == 21, "all are blocked");
    for n in 0..20 {
        redis.cmd(&["RPUSH", "k", &number(n)]);
    }
    redis.cmd(&["RPUSH", "from", "x"]);
    assert_eq!(elements(&mut clients).len(), 20);
    assert_eq!(moved.reply(), Value::bulk("x"));
    assert_eq!(held.cmd(&["EXEC"]), Value::Array(Vec::new()));
}

#[test]
fn blocked_clients_give_way_to_transactions() {
    let redis = Redis::start(&[]);
    let respool = sized(&redis, 2, 1);
    let mut blocked = waiting(&respool, &["BLPOP", "k", "0"]);
    eventually(
        || redis.info_number("blocked_clients") == 1,
        "the one connection is borrowed",
    );
    let mut client = respool.client();
    for _ in 0..5 {
        assert_eq!(client.cmd(&["WATCH", "w"]), Value::ok());
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
        assert_eq!(client.cmd(&["EXEC"]), Value::Array(Vec::new()));
    }
    redis.cmd(&["RPUSH", "k", "x"]);
    assert_eq!(blocked.reply().items()[1], Value::bulk("x"));
}

#[test]
fn what_is_behind_a_blocking_call_waits_for_it() {
    let redis = Redis::start(&[]);
    let respool = sized(&redis, 3, 1);
    let mut client = respool.client();
    let pipeline = [
        &["SET", "before", "1"][..],
        &["BLPOP", "k", "0"],
        &["INCR", "behind"],
        &["BRPOP", "k", "0"],
        &["GET", "behind"],
    ];
    client.send(pipeline.map(encode).concat());
    assert_eq!(client.reply(), Value::ok());
    eventually(|| respool.blocked_clients() == 1, "the client is blocked");
    assert!(redis.cmd(&["GET", "behind"]).is_null());
    redis.cmd(&["RPUSH", "k", "1", "2"]);
    assert_eq!(client.reply().items()[1], Value::bulk("1"));
    assert_eq!(client.reply(), Value::Int(1));
    assert_eq!(client.reply().items()[1], Value::bulk("2"));
    assert_eq!(client.reply(), Value::bulk("1"));
    // One that wants no reply gets none.
    client.send(encode(&["CLIENT", "REPLY", "SKIP"]));
    client.send(encode(&["BLPOP", "k", "0"]));
    client.send(encode(&["ECHO", "here"]));
    eventually(|| respool.blocked_clients() == 1, "the client is blocked");
    redis.cmd(&["RPUSH", "k", "3"]);
    assert_eq!(client.reply(), Value::bulk("here"));
    assert_eq!(redis.cmd(&["LLEN", "k"]), Value::Int(0));
}

#[test]
fn an_element_larger_than_the_buffer_of_a_client_arrives() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("max_client_buffer = \"64KiB\"")
        .start();
    let large = "x".repeat(5 * 1024 * 1024);
    let mut client = waiting(&respool, &["BLPOP", "k", "0"]);
    redis.cmd(&["RPUSH", "k", &large, &large]);
    assert_eq!(client.reply().items()[1], Value::bulk(&large));
    assert_eq!(
        client.cmd(&["BRPOP", "k", "0"]).items()[1],
        Value::bulk(&large)
    );
    client.ping();
}

#[test]
fn a_busy_list_is_emptied_once() {
    let redis = Redis::start(&[]);
    let respool = sized(&redis, 4, 1);
    let mut producer = redis.client();
    let total = 3_000;
    let found: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..20)
            .map(|n| {
                let respool = &respool;
                scope.spawn(move || {
                    let mut client = respool.client();
                    let mut found = Vec::new();
                    let other = format!("own{}", n % 7);
                    loop {
                        let reply = client.cmd(&["BLPOP", "work", &other, "0"]);
                        let element = reply.items()[1].text();
                        if element == "end" {
                            return found;
                        }
                        found.push(element);
                    }
                })
            })
            .collect();
        for n in 0..total {
            producer.cmd(&["RPUSH", "work", &number(n)]);
        }
        for _ in 0..20 {
            producer.cmd(&["RPUSH", "work", "end"]);
        }
        let ended = workers.into_iter().map(|worker| worker.join());
        ended.flat_map(|found| found.expect("it ends")).collect()
    });
    assert_eq!(found.len(), total);
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>().len(), total);
    assert_eq!(redis.cmd(&["LLEN", "work"]), Value::Int(0));
}
