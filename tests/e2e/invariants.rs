//! The eight invariants of docs/architecture.md: what must always hold, each by a test named after it.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use crate::harness::{Client, Redis, Respool, Value, encode, eventually, hold_up, show};

/// Checks the most connections seen at the server, the test's own not among them.
#[track_caller]
fn assert_never_above(most: usize, limit: usize) {
    assert!(
        most <= limit,
        "{most} connections at the server, {limit} allowed"
    );
}

#[test]
fn invariant_1_sockets_to_the_server_never_exceed_max_connections() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 2")
        .upstream("max_connections = 5\nshared_connections = 2")
        .start();
    let watch = redis.watch_connections();
    let mut kept = Vec::new();
    for number in 0..60 {
        let database = (number % 16).to_string();
        let mut client = respool.client();
        assert_eq!(client.cmd(&["SELECT", &database]), Value::ok());
        let key = format!("k{number}");
        // Stateful use of every kind, more of it than there are connections to lend.
        client.send(match number % 5 {
            0 => encode(&["BLPOP", &key, "0"]),
            1 => encode(&["MULTI"]),
            2 => encode(&["WATCH", &key]),
            3 => encode(&["SUBSCRIBE", &key]),
            _ => encode(&["GET", &key]),
        });
        kept.push(client);
        if number % 7 == 0 {
            kept.swap_remove(number % kept.len()).abort();
        }
        if number % 10 == 0 {
            // Connections that are lost are replaced, never added to.
            redis.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        }
    }
    let mut plain = respool.client();
    eventually(
        || {
            matches!(plain.try_cmd(&["PING"]), Some(Value::Simple(_))) || {
                plain = respool.client();
                false
            }
        },
        "plain traffic flows beside them",
    );
    // The watch may have been killed with the rest, so its successor looks at the full house.
    drop(watch);
    let watch = redis.watch_connections();
    let more: Vec<_> = (0..20)
        .map(|number| {
            let mut client = respool.client();
            client.send(encode(&["BLPOP", &format!("more{number}"), "0"]));
            client
        })
        .collect();
    eventually(
        || respool.metric_or_zero("respool_upstream_waiting_pins") > 0.0,
        "every connection to lend is lent",
    );
    // The control connection of the test is one.
    assert_never_above(watch.most(), 5 + 1);
    assert!(respool.metric("respool_upstream_connections") <= 5.0);
    drop((kept, more));
}

#[test]
fn invariant_2_no_client_gets_what_is_anothers() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 3\nshared_connections = 1")
        .start();
    // One shared connection: every state there is passes over it in turn.
    thread::scope(|scope| {
        for number in 0..32_u32 {
            let respool = &respool;
            scope.spawn(move || {
                let mut client = respool.client();
                let (protocol, database) = ([2, 3][number as usize % 2], number / 2);
                client.cmd(&["HELLO", &protocol.to_string()]);
                assert_eq!(client.cmd(&["SELECT", &database.to_string()]), Value::ok());
                let own = format!("client {number}");
                let hash = format!("hash {number}");
                for round in 0..20 {
                    let value = format!("{own} round {round}");
                    assert_eq!(client.cmd(&["SET", &own, &value]), Value::ok());
                    assert_eq!(client.cmd(&["GET", &own]), Value::bulk(&value));
                    client.cmd(&["HSET", &hash, "f", &own]);
                    let found = client.cmd(&["HGETALL", &hash]);
                    let pair = (Value::bulk("f"), Value::bulk(&own));
                    let expected = match protocol {
                        3 => Value::Map(vec![pair]),
                        _ => Value::Array(vec![pair.0, pair.1]),
                    };
                    assert_eq!(found, expected, "client {number}");
                    // Two clients for each database, two keys of each.
                    assert!(client.cmd(&["DBSIZE"]).int() <= 4, "in another database");
                }
            });
        }
    });
    assert_eq!(redis.cmd(&["DBSIZE"]), Value::Int(4));
}

#[test]
fn invariant_2_no_command_runs_in_anothers_transaction() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 3\nshared_connections = 1")
        .start();
    let mut open = respool.client();
    assert_eq!(open.cmd(&["MULTI"]), Value::ok());
    let mut others: Vec<_> = (0..10).map(|_| respool.client()).collect();
    for (number, other) in others.iter_mut().enumerate() {
        let key = format!("k{number}");
        assert_eq!(open.cmd(&["INCR", &key]), Value::simple("QUEUED"));
        assert!(other.cmd(&["GET", &key]).is_null());
        let whole = [
            encode(&["MULTI"]),
            encode(&["GET", &key]),
            encode(&["EXEC"]),
        ]
        .concat();
        other.send(whole);
        let replies = [other.reply(), other.reply(), other.reply()];
        assert_eq!(replies[0], Value::ok());
        assert_eq!(replies[2], Value::Array(vec![Value::NullBulk]));
    }
    assert_eq!(open.cmd(&["EXEC"]), Value::Array(vec![Value::Int(1); 10]));
}

#[test]
fn invariant_3_replies_come_in_the_order_of_requests() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).plain_clients().start();
    let mut client = respool.client();
    // Local, shared and pinned ways in turn, all in one write.
    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    let unknown = redis.cmd(&["NOSUCH"]);
    for round in 0..50 {
        let token = round.to_string();
        let mut add = |args: &[&str], reply: Value| {
            bytes.extend(encode(args));
            expected.push(reply);
        };
        add(&["RPUSH", "order", &token], Value::Int(1));
        add(&["CLIENT", "SETNAME", &token], Value::ok());
        add(
            &["BLPOP", "order", "0"],
            Value::Array(vec![Value::bulk("order"), Value::bulk(&token)]),
        );
        add(&["ECHO", &token], Value::bulk(&token));
        add(&["CLIENT", "GETNAME"], Value::bulk(&token));
        add(&["WATCH", "w"], Value::ok());
        add(&["MULTI"], Value::ok());
        add(&["INCR", "n"], Value::simple("QUEUED"));
        add(&["EXEC"], Value::Array(vec![Value::Int(round + 1)]));
        add(&["SELECT", "0"], Value::ok());
        add(&["GET", "n"], Value::bulk((round + 1).to_string()));
        add(&["NOSUCH"], unknown.clone());
    }
    let mut writer = client.writer();
    let sending = thread::spawn(move || writer.send(&bytes));
    for (place, expected) in expected.into_iter().enumerate() {
        assert_eq!(client.reply(), expected, "reply {place}");
    }
    sending.join().expect("everything is sent");
}

/// Counts with `INCR` on a key of its own, reconnecting whenever it is cut off. Returns increments acknowledged and those of
/// which nothing was heard.
fn count_on(respool: &Respool, key: &str, rounds: usize) -> (i64, i64) {
    const PIPELINED: usize = 5;
    let (mut acknowledged, mut unheard) = (0, 0);
    let mut client = respool.client();
    for _ in 0..rounds {
        if client
            .try_send(encode(&["INCR", key]).repeat(PIPELINED))
            .is_err()
        {
            // A part of it may have been read before.
            unheard += PIPELINED as i64;
            client = respool.client();
            continue;
        }
        for place in 0..PIPELINED {
            match client.try_reply() {
                Some(Value::Int(count)) => {
                    acknowledged += 1;
                    assert!(
                        (acknowledged..=acknowledged + unheard).contains(&count),
                        "{key}: {count} after {acknowledged} acknowledged and {unheard} unheard"
                    );
                }
                // Told to be unsent: it must not have run.
                Some(reply) if reply.text().starts_with("LOADING respool:") => {}
                Some(reply) => panic!("{key}: {reply:?}"),
                None => {
                    unheard += (PIPELINED - place) as i64;
                    client = respool.client();
                    break;
                }
            }
        }
    }
    (acknowledged, unheard)
}

#[test]
fn invariant_4_a_command_is_sent_at_most_once() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 4\nshared_connections = 2")
        .start();
    let counts: HashMap<String, (i64, i64)> = thread::scope(|scope| {
        let counting: Vec<_> = (0..24)
            .map(|number| {
                let respool = &respool;
                scope.spawn(move || {
                    let key = format!("counter {number}");
                    let counted = count_on(respool, &key, 150);
                    (key, counted)
                })
            })
            .collect();
        while counting.iter().any(|thread| !thread.is_finished()) {
            redis.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            thread::park_timeout(Duration::from_millis(20));
        }
        counting
            .into_iter()
            .map(|thread| thread.join().expect("it counts to the end"))
            .collect()
    });
    let mut cut = 0;
    for (key, (acknowledged, unheard)) in &counts {
        let found: i64 = redis.cmd(&["GET", key]).text().parse().expect("a number");
        assert!(
            (*acknowledged..=acknowledged + unheard).contains(&found),
            "{key}: {found} increments, {acknowledged} acknowledged, {unheard} unheard"
        );
        cut += unheard;
    }
    assert!(cut > 0, "no client was ever cut off, so nothing was shown");
}

/// Waits until the counters of live sockets are 0.
#[track_caller]
fn eventually_nobody(respool: &Respool) {
    for name in [
        "respool_client_connections",
        "respool_client_idle_connections",
        "respool_client_handshakes",
        "respool_client_rejections_held",
        "respool_upstream_waiting_requests",
        "respool_upstream_waiting_pins",
    ] {
        eventually(
            || respool.metric_or_zero(name) == 0.0,
            &format!("{name} is 0"),
        );
    }
}

#[test]
fn invariant_5_counters_equal_live_sockets() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 4\nshared_connections = 1\nborrow_timeout = \"200ms\"")
        .limits("reject_hold = \"200ms\"")
        .section("[[group]]\nname = \"few\"\nmatch = { address = [\"127.0.0.2/32\"] }\nmax_connections = 10")
        .start();
    for round in 0..3 {
        let mut clients = Vec::new();
        for number in 0..30 {
            let from = if number % 2 == 0 {
                "127.0.0.1"
            } else {
                "127.0.0.2"
            };
            let mut client = respool.client_from(from);
            client.send(match number % 6 {
                0 | 1 => encode(&["PING"]),
                2 => encode(&["BLPOP", "nothing", "0"]),
                3 => b"*1\r\n$4\r\nPI".to_vec(),
                4 => encode(&["MULTI"]),
                _ => b"*1\r\n$-4\r\n".to_vec(),
            });
            clients.push(client);
        }
        eventually(
            || respool.clients_of("few") <= 10 && respool.clients_of("default") == 15,
            "those who are here are counted",
        );
        for (number, client) in clients.into_iter().enumerate() {
            if (number + round) % 3 == 0 {
                client.abort()
            } else {
                drop(client)
            }
        }
        eventually_nobody(&respool);
    }
    eventually(
        || redis.info_number("blocked_clients") == 0,
        "no call is left at the server",
    );
    respool.client().ping();
}

#[test]
fn invariant_5_who_leaves_while_waiting_for_a_connection_never_takes_one() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 2\nshared_connections = 1\nborrow_timeout = \"60s\"")
        .start();
    let mut first = respool.client();
    assert_eq!(first.cmd(&["MULTI"]), Value::ok());
    let mut waiting = respool.client();
    waiting.send(encode(&["WATCH", "second"]));
    eventually(
        || respool.metric_or_zero("respool_upstream_waiting_pins") == 1.0,
        "another waits for the connection",
    );
    drop(waiting);
    let mut plain = respool.client();
    plain.ping();
    assert_eq!(first.cmd(&["EXEC"]), Value::Array(Vec::new()));
    eventually(|| respool.clients_of("default") == 2, "the other has left");
    assert_eq!(plain.cmd(&["MULTI"]), Value::ok());
    assert_eq!(plain.cmd(&["EXEC"]), Value::Array(Vec::new()));
}

#[test]
fn invariant_6_bad_input_costs_its_sender_only() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut healthy = respool.client();
    assert_eq!(healthy.cmd(&["SET", "k", "v"]), Value::ok());
    // Slow and endless ones stay connected for the whole time.
    let mut slow = respool.client();
    slow.send(b"*2\r\n$3\r\nGET\r\n$1");
    let mut endless = respool.client();
    endless.send(encode(&["GET", "k"]).repeat(1000));
    let mut inputs: Vec<Vec<u8>> = [
        "*x\r\n",
        "*1\r\n$x\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n:5\r\n",
        "*2147483648\r\n",
        "*1\r\n$9223372036854775807\r\n",
        "*+1\r\n",
        "*01\r\n",
        "PING \"unbalanced\r\n",
        "POST / HTTP/1.1\r\n",
        "\0\0\0\0\r\n",
    ]
    .iter()
    .map(|input| input.as_bytes().to_vec())
    .collect();
    inputs.push(b"*1\r\n".repeat(10_000));
    inputs.push(vec![b'a'; 70 * 1024]);
    for input in inputs {
        let mut bad = respool.client();
        // The connection may end before everything is written.
        let _ = bad.try_send(&input);
        bad.finish_sending();
        let answer = bad.read_to_end();
        assert!(
            answer.is_empty() || answer.starts_with(b"-ERR "),
            "{} answered {}",
            show(&input),
            show(&answer)
        );
        assert_eq!(
            healthy.cmd(&["GET", "k"]),
            Value::bulk("v"),
            "after {}",
            show(&input)
        );
    }
    for _ in 0..1000 {
        assert_eq!(endless.reply(), Value::bulk("v"));
    }
    slow.send(b"\r\nk\r\n");
    assert_eq!(slow.reply(), Value::bulk("v"));
    assert_eq!(
        respool.metric_or_zero("respool_client_disconnects_total{reason=\"panic\"}"),
        0.0
    );
    respool.assert_alive();
}

#[test]
fn invariant_7_every_bound_reached_is_counted_and_logged() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .plain_clients()
        .upstream("max_connections = 2\nshared_connections = 1\nborrow_timeout = \"100ms\"")
        .limits("max_client_in_flight = 10\nmax_client_buffer = \"256KiB\"")
        .start();
    let bound = |name: &str| {
        respool.metric_or_zero(&format!("respool_bounds_reached_total{{bound=\"{name}\"}}"))
    };
    // The one connection to lend is taken.
    let mut lent = respool.client();
    assert_eq!(lent.cmd(&["MULTI"]), Value::ok());
    let mut refused = respool.client();
    let reply = refused.cmd(&["WATCH", "k"]);
    assert!(reply.text().starts_with("LOADING respool:"), "{reply:?}");
    assert!(bound("borrow_timeout") >= 1.0);

    // More unread replies than a client may leave.
    assert_eq!(
        redis.cmd(&["SET", "big", &"x".repeat(200_000)]),
        Value::ok()
    );
    let mut glutton = respool.client();
    glutton.shrink_receive_buffer(4096);
    let mut writer = glutton.writer();
    let asking = thread::spawn(move || {
        for _ in 0..200 {
            if writer.try_send(encode(&["GET", "big"])).is_err() {
                return;
            }
        }
    });
    eventually(
        || bound("output_buffer") >= 1.0,
        "the bound of unread replies is reached",
    );
    asking.join().expect("the writer ends");
    eventually(
        || respool.log_text().contains("max_client_buffer"),
        "the log names the bound",
    );

    // More requests than may be under way for one client.
    assert_eq!(lent.cmd(&["EXEC"]), Value::Array(Vec::new()));
    let mut busy = hold_up(&redis, &respool);
    let mut eager = respool.client();
    eager.send(encode(&["PING"]).repeat(100));
    eventually(
        || bound("in_flight") >= 1.0,
        "the bound of requests under way is reached",
    );
    redis.resume();
    assert_eq!(busy.reply(), Value::ok());
    for _ in 0..100 {
        assert_eq!(eager.reply(), Value::simple("PONG"));
    }
}

#[test]
fn invariant_8_secrets_never_appear() {
    const OWN: &str = "own-secret-4711";
    const NEXT: &str = "next-secret-1234";
    const THEIRS: &str = "their-secret-0815";
    const WRONG: &str = "wrong-secret-2342";
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("password");
    std::fs::write(&file, OWN).expect("written");
    let file = file.display();
    let redis = Redis::start(&[]);
    let rule = format!(">{THEIRS}");
    for command in [
        &["ACL", "SETUSER", "ann", "on", &rule, "~*", "+@all"][..],
        // The test's own connection stays authenticated.
        &["CONFIG", "SET", "requirepass", OWN],
    ] {
        assert_eq!(redis.cmd(command), Value::ok());
    }
    let command = format!(
        "password_command = [\"/bin/cat\", \"{file}\", \"--{WRONG}\"]\npassword_next_file = \"{file}\""
    );
    for (upstream, section) in [
        (format!("password = \"{OWN}\""), String::new()),
        (
            format!("password = \"{NEXT}\"\npassword_next_file = \"{file}\""),
            "[auth]\nmode = \"passthrough\"".to_owned(),
        ),
        (
            command,
            format!(
                "[auth]\nmode = \"proxy\"\n[[auth.user]]\nname = \"ann\"\npassword = \"{THEIRS}\""
            ),
        ),
        (
            format!("password_file = \"{file}\"\npassword_next = \"{NEXT}\""),
            "[auth]\nmode = \"none\"".to_owned(),
        ),
    ] {
        let respool = Respool::with(&redis)
            .upstream(&upstream)
            .section(&section)
            .section("[log]\nlevel = \"debug\"")
            .start();
        let mut replies = Vec::new();
        let mut ask = |client: &mut Client, args: &[&str]| {
            if let Some(reply) = client.try_cmd(args) {
                replies.push(format!("{reply:?}"));
            }
        };
        let mut client = respool.client();
        ask(&mut client, &["AUTH", "ann", WRONG]);
        ask(&mut client, &["AUTH", WRONG]);
        ask(&mut client, &["AUTH", WRONG, "ann"]);
        ask(&mut client, &["HELLO", "3", "AUTH", "ann", WRONG]);
        ask(&mut client, &["AUTH", "ann", THEIRS]);
        ask(&mut client, &["HELLO", "3", "AUTH", "ann", THEIRS]);
        ask(&mut client, &["GET", "k"]);
        ask(&mut client, &["CLIENT", "LIST"]);
        ask(&mut client, &["CLIENT", "INFO"]);
        // A connection that is lost is opened and authenticated again.
        redis.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        let mut again = respool.client();
        ask(&mut again, &["AUTH", "ann", THEIRS]);
        ask(&mut again, &["PING"]);
        let mut cut = respool.client();
        cut.send(format!(
            "*3\r\n$4\r\nAUTH\r\n$3\r\nann\r\n$-7\r\n{THEIRS}\r\n"
        ));
        replies.push(show(&cut.read_to_end()));

        assert_hidden(&respool, &replies.join("\n"), &[OWN, NEXT, THEIRS, WRONG]);
    }
}

/// Asserts that the secrets are nowhere where somebody could read them.
#[track_caller]
fn assert_hidden(respool: &Respool, replies: &str, secrets: &[&str]) {
    let arguments = std::fs::read(format!("/proc/{}/cmdline", respool.pid()));
    let arguments = String::from_utf8_lossy(&arguments.expect("it runs")).into_owned();
    let places = [
        ("replies", replies.to_owned()),
        ("the log", respool.log_text()),
        ("/metrics", respool.metrics()),
        ("/status", respool.status()),
        ("/", respool.http("/").1),
        ("argv", arguments),
    ];
    for (place, text) in places {
        for secret in secrets {
            assert!(!text.contains(secret), "{secret} in {place}:\n{text}");
        }
    }
}
