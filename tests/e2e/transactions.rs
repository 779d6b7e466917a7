//! Transactions: what becomes of them with the client, and the connection they need for exactly as long as they do.

use crate::harness::{Client, Redis, Respool, Value, encode, encode_lines, eventually};

fn run(client: &mut Client, lines: &[&str]) -> Vec<Value> {
    client.send(encode_lines(lines));
    lines.iter().map(|_| client.reply()).collect()
}

#[test]
fn a_whole_transaction_needs_no_connection_of_its_own() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    let mut client = respool.client();
    for _ in 0..3 {
        run(
            &mut client,
            &[
                "MULTI", "INCR a", "EXEC", "MULTI", "EXEC", "GET a", "MULTI", "GET", "EXEC",
            ],
        );
    }
    assert_eq!(client.cmd(&["GET", "a"]), Value::bulk("3"));
    assert_eq!(respool.pins("multi"), 0.0);
    // A user without DISCARD would leave a shared connection in MULTI.
    run(&mut client, &["MULTI", "INCR a", "DISCARD", "GET a"]);
    assert_eq!(respool.pins("multi"), 1.0);
    assert_eq!(respool.pins("watch"), 0.0);
}

#[test]
fn what_transactions_of_one_write_have_selected_is_where_their_client_and_nobody_else_is() {
    let redis = Redis::start(&[]);
    with_database_numbers(&redis);
    let respool = Respool::lending_one(&redis, "5s").start();
    for (lines, database) in [
        ("MULTI,SELECT 0,EXEC,MULTI,PING,EXEC", "0"),
        ("MULTI,SELECT 0,EXEC,WATCH k,MULTI,EXEC", "0"),
        ("MULTI,SELECT 0,EXEC,MULTI,SELECT 99,EXEC,MULTI,EXEC", "0"),
        ("MULTI,SELECT 0,EXEC,WATCH k,SELECT 5,UNWATCH", "5"),
        ("MULTI,SELECT 0,EXEC,WATCH k,SELECT 2,SELECT 5,UNWATCH", "5"),
        // Where the connection was before, and seems to be.
        ("MULTI,SELECT 0,EXEC,WATCH k,SELECT 2,UNWATCH", "2"),
        ("MULTI,SELECT 0,EXEC,WATCH k,SELECT 2,MULTI,EXEC", "2"),
        ("MULTI,SELECT 0,EXEC,WATCH k,HELLO 2,SELECT 2,UNWATCH", "2"),
        ("MULTI,SELECT 0,SELECT 2,EXEC,WATCH k,UNWATCH", "2"),
        ("MULTI,SELECT 0,SELECT 99,EXEC,WATCH k,UNWATCH", "0"),
    ] {
        for _ in 0..3 {
            let mut client = respool.client();
            let mut pipeline = vec!["SELECT 2"];
            pipeline.extend(lines.split(','));
            run(&mut client, &pipeline);
            assert_eq!(
                client.cmd(&["GET", "dbid"]),
                Value::bulk(database),
                "{lines}"
            );
            drop(client);
            let mut other = respool.client();
            let replies = run(&mut other, &["SELECT 2", "WATCH w", "GET dbid"]);
            assert_eq!(replies[2], Value::bulk("2"), "{lines}");
        }
    }
}

/// Fills databases 0, 2 and 5 with their own numbers.
fn with_database_numbers(redis: &Redis) {
    for database in ["0", "2", "5"] {
        let select = format!("SELECT {database}");
        run(
            &mut redis.client(),
            &[&select, &format!("SET dbid {database}")],
        );
    }
}

/// Checks that a client is in `database`, and that the next that is lent its connection is in its own.
#[track_caller]
fn assert_alone_in(respool: &Respool, mut client: Client, database: &str) {
    assert_eq!(client.cmd(&["GET", "dbid"]), Value::bulk(database));
    let own = client.cmd(&["EVAL", "return redis.call('get', 'dbid')", "0"]);
    assert_eq!(own, Value::bulk(database));
    drop(client);
    let mut other = respool.client();
    let replies = run(&mut other, &["SELECT 2", "WATCH w", "GET dbid"]);
    assert_eq!(replies[2], Value::bulk("2"));
}

#[test]
fn where_a_server_that_is_busy_does_not_say_which_database_it_is_the_connection_is_its_clients() {
    let redis = Redis::start(&["--lua-time-limit", "50"]);
    with_database_numbers(&redis);
    let respool = Respool::lending_one(&redis, "5s").start();
    let mut client = respool.client();
    run(
        &mut client,
        &["SELECT 2", "MULTI", "SELECT 0", "EXEC", "WATCH k"],
    );
    let mut script = redis.client();
    script.send(encode(&["EVAL", "while true do end", "0"]));
    let is_busy = || redis.cmd(&["GET", "k"]).text().starts_with("BUSY");
    eventually(is_busy, "the script runs");
    assert_eq!(client.cmd(&["UNWATCH"]), Value::ok());
    eventually(
        || redis.cmd(&["SCRIPT", "KILL"]) == Value::ok(),
        "the script ends",
    );
    eventually(|| !is_busy(), "the script has ended");
    assert_alone_in(&respool, client, "0");
}

#[test]
fn where_its_user_may_not_ask_which_database_it_is_the_connection_is_its_clients() {
    let redis = Redis::start(&[]);
    with_database_numbers(&redis);
    redis.set_user("ann", &["on", ">pw", "~*", "+@all"]);
    let respool = Respool::lending_one(&redis, "5s")
        .section("[auth]\nmode = \"passthrough\"")
        .start();
    for (queued, database) in [
        ("SELECT 0", "0"),
        ("SELECT 0,ACL SETUSER ann -select", "0"),
        // The second is refused when it runs.
        ("SELECT 0,ACL SETUSER ann -select,SELECT 2", "0"),
    ] {
        redis.set_user("ann", &["+select"]);
        let mut client = respool.client();
        let mut lines = vec!["AUTH ann pw", "SELECT 2", "MULTI"];
        lines.extend(queued.split(','));
        lines.extend(["EXEC", "WATCH k"]);
        run(&mut client, &lines);
        redis.set_user("ann", &["-select"]);
        assert_eq!(client.cmd(&["UNWATCH"]), Value::ok(), "{queued}");
        assert_alone_in(&respool, client, database);
    }
}

#[test]
fn after_more_selects_than_are_remembered_a_client_is_where_the_last_has_led() {
    let redis = Redis::start(&[]);
    with_database_numbers(&redis);
    let respool = Respool::lending_one(&redis, "5s").start();
    let one = [
        vec!["MULTI"],
        vec!["SELECT 5"; 64],
        vec!["SELECT 0", "EXEC"],
    ]
    .concat();
    let many = [
        ["MULTI", "SELECT 5", "EXEC"].repeat(64),
        vec!["MULTI", "SELECT 0", "EXEC"],
    ]
    .concat();
    let discarded = [vec!["MULTI"], vec!["SELECT 5"; 65], vec!["DISCARD"]].concat();
    for (lines, behind, database) in [
        (&one, &["PING"][..], "0"),
        (&many, &["PING"], "0"),
        (&one, &["WATCH k", "SELECT 2", "UNWATCH"], "2"),
        (&many, &["WATCH k", "SELECT 2", "UNWATCH"], "2"),
        (&discarded, &["PING"], "2"),
    ] {
        let mut client = respool.client();
        let pipeline = [&["SELECT 2"], &lines[..], behind].concat();
        run(&mut client, &pipeline);
        assert_alone_in(&respool, client, database);
    }
}

/// What is popped for a client that leaves goes back there.
#[test]
fn which_database_an_exec_has_selected_is_known_before_keys_are_unwatched() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "5s").start();
    let mut client = respool.client();
    run(
        &mut client,
        &["SELECT 2", "MULTI", "SELECT 0", "EXEC", "WATCH k"],
    );
    let line = client.cmd(&["CLIENT", "INFO"]).text();
    assert!(line.contains(" db=0 "), "{line}");
    // The keys are watched still.
    redis.cmd(&["SET", "k", "v"]);
    assert!(run(&mut client, &["MULTI", "PING", "EXEC"])[2].is_null());
}

#[test]
fn the_connection_is_lent_for_as_long_as_it_must_be() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    let mut client = respool.client();
    // What was sent, whether the connection is kept behind it, and what it was lent for.
    let (mut multi, mut watch) = (0.0, 0.0);
    for (lines, keeps, reason) in [
        (&["MULTI"][..], true, "multi"),
        (&["SET a 1"], true, ""),
        (&["EXEC"], false, ""),
        (&["MULTI"], true, "multi"),
        (&["DISCARD"], false, ""),
        (&["MULTI"], true, "multi"),
        (&["NOSUCH"], true, ""),
        (&["EXEC"], false, ""),
        (&["WATCH a"], true, "watch"),
        (&["GET a"], true, ""),
        (&["UNWATCH"], false, ""),
        (&["WATCH a"], true, "watch"),
        (&["MULTI", "UNWATCH"], true, ""),
        (&["EXEC"], false, ""),
        (&["WATCH a"], true, "watch"),
        (&["EXEC"], true, ""),
        (&["DISCARD"], true, ""),
        (&["MULTI", "GET a", "DISCARD"], false, ""),
        (&["WATCH a", "MULTI", "GET a", "EXEC"], false, "watch"),
        (&["MULTI", "SELECT 3", "EXEC"], false, "multi"),
        (&["MULTI", "SELECT 99", "SELECT 0", "EXEC"], false, "multi"),
        (&["EXEC"], false, ""),
        (&["UNWATCH"], false, ""),
        (&["WATCH"], false, "watch"),
        (&["MULTI x"], false, ""),
        (&["WATCH a"], true, "watch"),
        (&["RESET"], false, ""),
    ] {
        run(&mut client, lines);
        match reason {
            "multi" => multi += 1.0,
            "watch" => watch += 1.0,
            _ => {}
        }
        if keeps {
            assert!(!respool.can_lend(), "kept behind {lines:?}");
        } else {
            eventually(|| respool.can_lend(), &format!("free behind {lines:?}"));
        }
        assert_eq!(respool.pins("multi"), multi, "behind {lines:?}");
        // Those that looked whether it was free asked for it too.
        assert!(respool.pins("watch") >= watch, "behind {lines:?}");
    }
    client.ping();
}

#[test]
fn a_client_that_dies_in_the_middle_leaves_nothing() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    redis.cmd(&["SET", "k", "kept"]);
    let whole = encode_lines(&[
        "WATCH w",
        "MULTI",
        "SET k lost",
        "SELECT 5",
        "SET k lost",
        "EXEC",
    ]);
    let exec = encode_lines(&["EXEC"]).len();
    // Cut anywhere before the last byte of EXEC.
    for cut in (1..whole.len() - exec).step_by(7).chain([whole.len() - 1]) {
        let mut client = respool.client();
        client.send(&whole[..cut]);
        if cut % 2 == 0 {
            client.abort();
        } else {
            drop(client);
        }
        let mut next = respool.client();
        eventually(
            || run(&mut next, &["WATCH k"])[0] == Value::ok(),
            "the connection is lent on",
        );
        redis.cmd(&["SET", "w", "touched"]);
        let seen = run(&mut next, &["MULTI", "GET k"]);
        assert_eq!(seen, [Value::ok(), Value::simple("QUEUED")], "cut at {cut}");
        assert_eq!(
            run(&mut next, &["EXEC"]),
            [Value::Array(vec![Value::bulk("kept")])],
            "cut at {cut}"
        );
    }
    assert_eq!(redis.cmd(&["GET", "k"]), Value::bulk("kept"));
}

#[test]
fn transactions_of_many_clients_at_once_are_each_their_own() {
    const CLIENTS: usize = 12;
    const ROUNDS: usize = 30;
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 4\nshared_connections = 2\nborrow_timeout = \"15s\"")
        .start();
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let respool = &respool;
            scope.spawn(move || {
                let mut client = respool.client();
                let own = format!("own-{number}");
                for round in 0..ROUNDS {
                    let count = (round + 1).to_string();
                    match round % 3 {
                        // Optimistic: read, and write if nobody else did.
                        0 => loop {
                            run(&mut client, &["WATCH shared"]);
                            let seen = client.cmd(&["GET", "shared"]).text();
                            let next = seen.parse::<u64>().unwrap_or(0) + 1;
                            run(&mut client, &["MULTI", &format!("SET shared {next}")]);
                            let own = run(&mut client, &[&format!("INCR {own}"), "EXEC"]);
                            if !own[1].is_null() {
                                break;
                            }
                        },
                        1 => {
                            let incr = format!("INCR {own}");
                            let got = run(&mut client, &["MULTI", "INCR shared", &incr, "EXEC"]);
                            assert_eq!(got[3].items()[1].int().to_string(), count);
                        }
                        _ => {
                            run(&mut client, &["MULTI", "INCR shared"]);
                            run(&mut client, &["SELECT 0", &format!("INCR {own}")]);
                            let got = run(&mut client, &["EXEC"]);
                            assert_eq!(got[0].items()[2].int().to_string(), count);
                        }
                    }
                    assert_eq!(client.cmd(&["GET", &own]), Value::bulk(&count));
                }
            });
        }
    });
    let total = (CLIENTS * ROUNDS).to_string();
    assert_eq!(redis.cmd(&["GET", "shared"]), Value::bulk(total));
}

#[test]
fn a_subscription_made_by_a_transaction_is_the_clients_own() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    let mut client = respool.client();
    let queued = Value::simple("QUEUED");
    assert_eq!(
        run(&mut client, &["MULTI", "SUBSCRIBE a b", "SET k v"]),
        [Value::ok(), queued.clone(), queued.clone()]
    );
    client.send(encode_lines(&["EXEC", "PING"]));
    let confirmed = |channel: &str, count: i64| {
        Value::Array(vec![
            Value::bulk("subscribe"),
            Value::bulk(channel),
            Value::Int(count),
        ])
    };
    // Redis counts commands, and answers one of them by two frames.
    assert_eq!(
        client.reply(),
        Value::Array(vec![confirmed("a", 1), confirmed("b", 2)])
    );
    assert_eq!(client.reply(), Value::ok());
    assert_eq!(client.reply().items()[0], Value::bulk("pong"));
    assert!(!respool.can_lend(), "it keeps the connection");
    assert_eq!(redis.cmd(&["PUBLISH", "b", "m"]), Value::Int(1));
    assert_eq!(client.reply().items()[2], Value::bulk("m"));
    let mut other = respool.client();
    let list = other.cmd(&["CLIENT", "LIST", "TYPE", "pubsub"]).text();
    assert_eq!(list.lines().count(), 1, "{list}");
    // All that was asked before is answered before it.
    client.send(encode_lines(&["PING x", "UNSUBSCRIBE a", "RESET", "GET k"]));
    assert_eq!(client.reply().items()[1], Value::bulk("x"));
    assert_eq!(client.reply().items()[0], Value::bulk("unsubscribe"));
    assert_eq!(client.reply(), Value::simple("RESET"));
    assert_eq!(client.reply(), Value::bulk("v"));
    eventually(|| respool.can_lend(), "RESET gives it back");
    assert_eq!(redis.cmd(&["PUBLISH", "b", "m"]), Value::Int(0));

    for ends in ["QUIT", "left"] {
        let mut client = respool.client();
        run(&mut client, &["MULTI", "SUBSCRIBE a"]);
        client.send(encode_lines(&["EXEC"]));
        assert_eq!(client.reply(), Value::Array(vec![confirmed("a", 1)]));
        if ends == "QUIT" {
            client.send(encode_lines(&["PING x", "QUIT"]));
            assert_eq!(client.reply().items()[1], Value::bulk("x"));
            assert_eq!(client.reply(), Value::ok());
            client.expect_end();
        }
        drop(client);
        eventually(|| respool.can_lend(), ends);
        assert_eq!(redis.cmd(&["PUBLISH", "a", "m"]), Value::Int(0));
    }
}

#[test]
fn who_has_subscriptions_cannot_make_more_by_a_transaction() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut client = respool.client();
    assert!(!client.cmd(&["HELLO", "3"]).is_error());
    client.cmd(&["SUBSCRIBE", "a"]);
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    assert!(client.cmd(&["SUBSCRIBE", "b"]).is_error());
    assert!(client.cmd(&["EXEC"]).text().starts_with("EXECABORT"));
    redis.cmd(&["PUBLISH", "a", "still"]);
    let Value::Push(message) = client.reply() else {
        panic!("a message")
    };
    assert_eq!(message[2], Value::bulk("still"));
}

#[test]
fn client_list_shows_how_far_a_transaction_is() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut client = respool.client_named("tx");
    let mut other = respool.client();
    let mut shows = |what: &str| {
        // The reply may be out a moment before the list tells it.
        eventually(
            || {
                let list = other.cmd(&["CLIENT", "LIST"]).text();
                let line = list.lines().find(|line| line.contains(" name=tx "));
                line.expect("it is listed").contains(what)
            },
            what,
        );
    };
    shows(" multi=-1 ");
    run(&mut client, &["MULTI"]);
    shows(" flags=x ");
    shows(" multi=0 ");
    run(&mut client, &["GET a", "NOSUCH", "SELECT 3", "UNWATCH"]);
    shows(" multi=3 ");
    run(&mut client, &["DISCARD"]);
    shows(" flags=N ");
    shows(" multi=-1 ");
}
