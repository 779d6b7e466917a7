//! CLIENT and its kin speak of respool's own clients, in Redis' own format, and never touch the pool.

use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

/// Finds a field of the line that CLIENT LIST has for a client.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let found = line
        .split(' ')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {line}"))
}

fn line_of<'a>(list: &'a str, name: &str) -> &'a str {
    let found = list.lines().find(|line| field(line, "name") == name);
    found.unwrap_or_else(|| panic!("nobody is named {name} in\n{list}"))
}

#[test]
fn client_list_lists_respools_own_clients() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut first = respool.client_named("first");
    let mut second = respool.client_named("second");
    assert_eq!(second.cmd(&["SELECT", "7"]), Value::ok());
    assert!(!second.cmd(&["HELLO", "3"]).is_error());
    let list = first.cmd(&["CLIENT", "LIST"]).text();
    assert_eq!(list.lines().count(), 2, "{list}");
    let line = line_of(&list, "second");
    assert_eq!(field(line, "db"), "7");
    assert_eq!(field(line, "addr"), second.local_addr().to_string());
    assert_eq!(field(line, "laddr"), respool.addr());
    assert_eq!(field(line, "id"), second.id());
    assert_eq!(
        field(second.cmd(&["CLIENT", "INFO"]).text().trim_end(), "name"),
        "second"
    );
    let by_id = first
        .cmd(&["CLIENT", "LIST", "ID", field(line, "id")])
        .text();
    assert_eq!(by_id.lines().count(), 1, "{by_id}");

    // Ids are never given twice.
    let id: i64 = field(line, "id").parse().expect("an id is a number");
    drop(second);
    eventually(
        || first.cmd(&["CLIENT", "LIST"]).text().lines().count() == 1,
        "one is left",
    );
    assert!(respool.client().cmd(&["CLIENT", "ID"]).int() > id);
}

#[test]
fn client_list_has_the_form_of_the_servers() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let names = |client: &mut Client| -> Vec<String> {
        let text = client.cmd(&["CLIENT", "LIST"]).text();
        assert!(text.ends_with('\n'));
        let line = text.lines().next().expect("a client lists at least itself");
        line.split(' ')
            .map(|pair| pair.split_once('=').expect("name=value").0.to_owned())
            .collect()
    };
    let direct = names(&mut redis.client());
    let ours = names(&mut respool.client());
    assert_eq!(ours, direct, "the same fields in the same order");
}

#[test]
fn client_kill_ends_clients_and_never_the_pool() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut killer = respool.client();
    let mut other = respool.client();
    other.ping();

    let mut victim = respool.client();
    let id = victim.id();
    assert_eq!(killer.cmd(&["CLIENT", "KILL", "ID", &id]), Value::Int(1));
    victim.expect_end();
    assert_eq!(killer.cmd(&["CLIENT", "KILL", "ID", &id]), Value::Int(0));

    let mut victim = respool.client();
    victim.ping();
    let address = victim.local_addr().to_string();
    assert_eq!(killer.cmd(&["CLIENT", "KILL", &address]), Value::ok());
    victim.expect_end();
    let mut victim = respool.client();
    victim.ping();
    let address = victim.local_addr().to_string();
    assert_eq!(
        killer.cmd(&["CLIENT", "KILL", "ADDR", &address]),
        Value::Int(1)
    );
    victim.expect_end();

    // What ioredis' own tests send after each test.
    let accepted = redis.info_number("total_connections_received");
    let mut blocked = respool.client();
    blocked.send(encode(&["BLPOP", "list", "0"]));
    eventually(
        || redis.info("blocked_clients") == "1",
        "the client is blocked",
    );
    assert_eq!(
        killer.cmd(&["CLIENT", "KILL", "TYPE", "normal"]),
        Value::Int(2)
    );
    other.expect_end();
    blocked.expect_end();
    killer.ping();
    assert!(
        redis.info_number("total_connections_received") <= accepted + 3,
        "the pool was not rebuilt"
    );
    eventually(
        || redis.info("blocked_clients") == "0",
        "the pin of the killed client is free",
    );

    // SKIPME no: the reply still arrives, then the connection ends.
    assert_eq!(
        killer.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no"]),
        Value::Int(1)
    );
    killer.expect_end();
    eventually(|| respool.clients_of("default") == 0, "nobody is counted");
}

#[test]
fn client_unblock_reaches_clients_by_respools_ids() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut blocked = respool.client();
    let mut other = respool.client();
    let id = blocked.id();
    assert_eq!(
        other.cmd(&["CLIENT", "UNBLOCK", &id]),
        Value::Int(0),
        "it is not blocked"
    );
    for (how, reply) in [
        ("TIMEOUT", Value::NullArray),
        (
            "ERROR",
            Value::error("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
        ),
    ] {
        blocked.send(encode(&["BLPOP", "list", "0"]));
        eventually(
            || redis.info("blocked_clients") == "1",
            "the client is blocked",
        );
        assert_eq!(
            other.cmd(&["CLIENT", "UNBLOCK", &id, how]),
            Value::Int(1),
            "{how}"
        );
        assert_eq!(blocked.reply(), reply, "{how}");
        blocked.ping();
    }
}

#[test]
fn subcommands_newer_than_the_server_are_answered_in_order() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut client = respool.client();
    let requests = [
        &["CLIENT", "SETINFO", "LIB-NAME", "test"][..],
        &["CLIENT", "SETINFO", "LIB-VER", "1.0"],
        &["CLIENT", "NO-TOUCH", "ON"],
        &["CLIENT", "NO-TOUCH", "OFF"],
    ];
    for request in requests {
        client.send([encode(request), encode(&["ECHO", request[1]])].concat());
        let reply = client.reply();
        assert!(
            reply == Value::ok() || reply.is_error(),
            "{request:?}: {reply:?}"
        );
        assert_eq!(client.reply(), Value::bulk(request[1]));
    }
    assert!(
        client
            .cmd(&["CLIENT", "SETINFO", "LIB-NAME", "two words"])
            .is_error()
    );
    assert!(client.cmd(&["CLIENT", "SETINFO", "NOSUCH", "x"]).is_error());
    assert!(
        client
            .cmd(&["CLIENT", "MAINT_NOTIFICATIONS", "ON"])
            .is_error()
    );
    client.ping();
}

#[test]
fn replication_is_refused() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut client = respool.client();
    for command in [
        &["SYNC"][..],
        &["PSYNC", "?", "-1"],
        &["REPLCONF", "listening-port", "1"],
    ] {
        assert!(client.cmd(command).is_error(), "{command:?}");
        client.ping();
    }
    assert_eq!(redis.info("connected_slaves"), "0");
}

#[test]
fn monitor_output_goes_to_whoever_asked_for_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut monitor = respool.client();
    let mut other = respool.client();
    assert_eq!(monitor.cmd(&["MONITOR"]), Value::ok());
    assert_eq!(other.cmd(&["SET", "seen-by-monitor", "v"]), Value::ok());
    while !monitor.reply().text().contains("seen-by-monitor") {}
    drop(monitor);
    eventually(|| respool.clients_of("default") == 1, "the monitor is gone");
    // Whoever gets its connection next, or any other, sees none of it.
    let mut clients: Vec<_> = (0..20).map(|_| respool.client()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
        assert_eq!(client.cmd(&["UNWATCH"]), Value::ok());
        assert_eq!(client.cmd(&["GET", "seen-by-monitor"]), Value::bulk("v"));
    }
}

/// docs/decisions/0002: they would change whose replies EXEC's are, or what they are spoken in, amid them.
#[test]
fn who_the_client_is_does_not_change_inside_multi() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    redis.cmd(&["SET", "k", "kept"]);
    let mut bystander = respool.client();
    for inside in [&["HELLO", "3"][..], &["AUTH", "x"]] {
        let mut client = respool.client();
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
        assert_eq!(client.cmd(&["SET", "k", "spoilt"]), Value::simple("QUEUED"));
        assert!(client.cmd(inside).is_error(), "{inside:?}");
        assert!(
            client.cmd(&["EXEC"]).text().starts_with("EXECABORT"),
            "{inside:?}"
        );
        assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("kept"));
        bystander.ping();
    }
}

#[test]
fn state_left_behind_reaches_nobody() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 3\nshared_connections = 1")
        .start();
    redis.cmd(&["SET", "k", "zero"]);
    let leavings: [&[&[&str]]; 8] = [
        &[&["SELECT", "5"]],
        &[&["MULTI"], &["SET", "k", "leaked"]],
        &[&["WATCH", "k"]],
        &[&["SELECT", "5"], &["MULTI"]],
        &[&["HELLO", "3"]],
        &[&["CLIENT", "SETNAME", "leaked"]],
        &[&["CLIENT", "TRACKING", "ON", "BCAST"]],
        &[
            &["CLIENT", "NO-EVICT", "ON"],
            &["WATCH", "k"],
            &["SELECT", "9"],
            &["MULTI"],
        ],
    ];
    for round in 0..3 {
        for left in leavings {
            let mut client = respool.client();
            for command in left {
                let _ = client.try_cmd(command);
            }
            if round == 0 {
                client.abort()
            } else {
                drop(client)
            }
            let mut next = respool.client();
            assert_eq!(
                next.cmd(&["GET", "k"]),
                Value::bulk("zero"),
                "after {left:?}"
            );
            assert_eq!(
                next.cmd(&["GET", "none"]),
                Value::NullBulk,
                "after {left:?}"
            );
            assert_eq!(
                next.cmd(&["CLIENT", "GETNAME"]),
                Value::NullBulk,
                "after {left:?}"
            );
            assert_eq!(
                next.cmd(&["EXEC"]),
                Value::error("ERR EXEC without MULTI"),
                "after {left:?}"
            );
            assert_eq!(next.cmd(&["WATCH", "own"]), Value::ok(), "after {left:?}");
            assert_eq!(next.cmd(&["MULTI"]), Value::ok(), "after {left:?}");
            assert_eq!(
                next.cmd(&["GET", "k"]),
                Value::simple("QUEUED"),
                "after {left:?}"
            );
            assert_eq!(
                next.cmd(&["EXEC"]),
                Value::Array(vec![Value::bulk("zero")]),
                "after {left:?}"
            );
        }
    }
    eventually(|| respool.clients_of("default") == 0, "nobody is counted");
}

#[test]
fn replies_off_for_one_are_not_off_for_others() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 2\nshared_connections = 1")
        .start();
    let mut quiet = respool.client();
    let mut other = respool.client();
    quiet.send(
        [
            encode(&["CLIENT", "REPLY", "OFF"]),
            encode(&["INCR", "n"]).repeat(100),
        ]
        .concat(),
    );
    eventually(
        || other.cmd(&["GET", "n"]) == Value::bulk("100"),
        "the commands of the quiet client run",
    );
    quiet.send([encode(&["CLIENT", "REPLY", "ON"]), encode(&["GET", "n"])].concat());
    assert_eq!(
        [quiet.reply(), quiet.reply()],
        [Value::ok(), Value::bulk("100")]
    );
}

#[test]
fn databases_and_protocols_beyond_the_pool_are_kept_apart() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 3\nshared_connections = 2")
        .start();
    std::thread::scope(|scope| {
        for number in 0..32 {
            let respool = &respool;
            scope.spawn(move || {
                let mut client = respool.client();
                let (database, resp3) = ((number % 16).to_string(), number >= 16);
                if resp3 {
                    assert!(!client.cmd(&["HELLO", "3"]).is_error());
                }
                assert_eq!(client.cmd(&["SELECT", &database]), Value::ok());
                assert_eq!(client.cmd(&["SET", "database", &database]), Value::ok());
                let null = if resp3 { Value::Null } else { Value::NullBulk };
                for _ in 0..50 {
                    client.send([encode(&["GET", "database"]), encode(&["GET", "none"])].concat());
                    assert_eq!(
                        [client.reply(), client.reply()],
                        [Value::bulk(&database), null.clone()]
                    );
                }
            });
        }
    });
}

#[test]
fn a_client_that_asks_for_its_own_line_is_in_the_middle_of_its_request() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut client = respool.client();
    let request = encode(&["CLIENT", "INFO"]);
    // The first may wait for the server's leave, the second does not.
    for _ in 0..2 {
        client.send(&request);
        let line = client.reply().text();
        let unread = field(line.trim_end(), "qbuf");
        assert_eq!(unread, request.len().to_string(), "{line}");
    }
    let list = respool.client().cmd(&["CLIENT", "LIST"]).text();
    let line = list.lines().next().expect("it is the first");
    assert_eq!(field(line, "qbuf"), "0", "it is done with: {line}");
}
