//! Small things that a client sees, or an operator reads, as they are directly at the server.

use crate::harness::{
    Client, Redis, Respool, Value, encode, encode_line, encode_lines, eventually, show, words,
};

#[track_caller]
fn same(direct: &[u8], through: &[u8], what: &str) {
    assert!(
        direct == through,
        "{what}\n  directly {}\n  through  {}",
        show(direct),
        show(through)
    );
}

fn field(line: &str, name: &str) -> String {
    let found = line
        .trim_end()
        .split(' ')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    found
        .unwrap_or_else(|| panic!("no {name} in {line}"))
        .to_owned()
}

#[test]
fn the_line_of_who_asks_shows_the_command_that_asks() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let (mut direct, mut client) = (redis.client(), respool.client());
    for asks in ["INFO", "LIST"] {
        direct.ping();
        client.ping();
        let expected = direct.cmd(&["CLIENT", asks]).text();
        let expected = expected.lines().last().expect("its own line");
        let line = client.cmd(&["CLIENT", asks]).text();
        assert_eq!(field(&line, "cmd"), field(expected, "cmd"), "{asks}");
    }
}

#[test]
fn a_large_request_of_a_subscriber_is_refused_as_a_small_one() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let long = "v".repeat(3_000_000);
    let run = |mut client: Client| {
        assert!(!client.cmd(&["SUBSCRIBE", "c"]).is_error());
        let mut bytes = Vec::new();
        for line in [
            &["SET", "k", &long][..],
            &["SET", &long],
            &["GET", &long],
            &["EVAL", &long, "0"],
            &["PUBLISH", "c", &long],
            &["PING", "x"],
            &["NOSUCH", "x"],
        ] {
            client.send(encode(line));
            bytes.extend(client.reply_bytes());
        }
        bytes
    };
    let direct = run(redis.client());
    let through = run(respool.client());
    same(&direct, &through, "a subscriber's");
    assert_eq!(redis.cmd(&["EXISTS", "k"]), Value::Int(0));
}

#[test]
fn a_large_request_is_held_against_the_same_rules() {
    let redis = Redis::start(&[]);
    redis.cmd(&[
        "ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all", "-set",
    ]);
    let respool = Respool::with(&redis)
        .section("[[group]]\nname = \"some\"\nmatch = { client_name = \"some\" }\ndeny_commands = [\"append\"]")
        .start();
    let long = "v".repeat(3_000_000);
    // What the server refuses it refuses through respool too, in MULTI and out of it, wanted or not.
    let run = |mut client: Client| {
        let mut bytes = Vec::new();
        for line in ["AUTH u p", "MULTI", "GET k"] {
            client.send(encode_line(line));
            bytes.extend(client.reply_bytes());
        }
        for line in [
            &["SET", "k", &long][..],
            &["EXEC"],
            &["SET", "k", &long],
            &["GET", "k", &long],
        ] {
            client.send(encode(line));
            bytes.extend(client.reply_bytes());
        }
        client.send(encode_lines(&["CLIENT REPLY OFF"]));
        client.send(encode(&["SET", "k", &long]));
        client.send(encode(&["SETEX", "k", "100", &long]));
        client.send(encode_lines(&["CLIENT REPLY ON", "STRLEN k", "MULTI"]));
        client.send(encode(&["APPEND", "k", &long]));
        client.send(encode_lines(&["CLIENT GETNAME", "EXEC", "QUIT"]));
        bytes.extend(client.read_to_end());
        bytes
    };
    let direct = run(redis.client());
    let through = run(respool.client());
    same(&direct, &through, "a user's");
    // What its group may not use, too, and it stays connected.
    let mut client = respool.client_named("some");
    for _ in 0..2 {
        let refused = client.cmd(&["APPEND", "k", &long]).text();
        assert!(refused.starts_with("NOPERM"), "{refused}");
    }
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    assert!(client.cmd(&["APPEND", "k", &long]).is_error());
    assert!(client.cmd(&["EXEC"]).text().starts_with("EXECABORT"));
    client.ping();
}

#[test]
fn what_has_been_written_to_a_client_is_counted_when_it_is() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    redis.cmd(&["SET", "k", &"v".repeat(100_000)]);
    let mut client = respool.client();
    let mut read = client.cmd(&["CLIENT", "SETNAME", "x"]).text().len() + 3;
    for line in ["GET k", "PING", "GET k"] {
        client.send(encode_line(line));
        read += client.reply_bytes().len();
    }
    // It has sent nothing since, and never does.
    let name = r#"respool_client_bytes_total{group="default",direction="out"}"#;
    eventually(
        || respool.metric_or_zero(name) >= read as f64,
        "all is counted",
    );
    assert_eq!(respool.metric_or_zero(name), read as f64);
}

#[test]
fn a_blocking_call_is_counted_once_wherever_it_waits() {
    let redis = Redis::start(&[]);
    // Without EXEC it cannot be tried without waiting, and gets a connection of its own.
    redis.cmd(&[
        "ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all", "-exec",
    ]);
    let respool = Respool::start(&redis);
    let name = r#"respool_client_commands_total{group="default"}"#;
    let mut client = respool.client();
    assert_eq!(client.cmd(&["AUTH", "u", "p"]), Value::ok());
    eventually(|| respool.metric_or_zero(name) == 1.0, "AUTH is counted");
    client.send(encode(&["BLPOP", "l", "0"]));
    eventually(|| redis.info("blocked_clients") == "1", "it waits");
    eventually(
        || respool.metric("respool_blocked_clients") == 1.0,
        "one client waits",
    );
    redis.cmd(&["RPUSH", "l", "a"]);
    assert_eq!(client.reply().items().len(), 2);
    client.ping();
    eventually(|| respool.metric_or_zero(name) >= 3.0, "PING is counted");
    assert_eq!(respool.metric_or_zero(name), 3.0);
}

/// While the server answers nobody is told that it cannot be reached.
#[test]
fn who_waits_for_the_turn_to_connect_is_not_told_that_the_server_is_away() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream(
            "max_connections = 60\nshared_connections = 1\nmax_connects_per_second = 1\n\
             borrow_timeout = \"300ms\"\nqueue = { timeout = \"300ms\" }",
        )
        .start();
    let mut client = respool.client();
    client.ping();
    let mut told = Vec::new();
    let mut watching = Vec::new();
    for _ in 0..6 {
        let mut other = respool.client();
        let reply = other.cmd(&["WATCH", "k"]);
        told.extend(reply.is_error().then(|| reply.text()));
        watching.push(other);
    }
    let reply = respool.client().cmd(&["SUBSCRIBE", "c"]);
    told.extend(reply.is_error().then(|| reply.text()));
    assert!(!told.is_empty(), "the turns to connect were never used up");
    let none_free = "LOADING respool: no server connection free, command not sent";
    assert!(told.iter().all(|text| text == none_free), "{told:?}");
    client.ping();
}

#[test]
fn a_redirection_that_leads_nowhere_is_told_as_broken() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    for hello in ["HELLO 2", "HELLO 3"] {
        // What TRACKINGINFO says when something was to go to a client that has gone, without the numbers of clients.
        let run = |connect: &dyn Fn() -> Client, is_gone: &dyn Fn(&str) -> bool| {
            let (mut target, mut client) = (connect(), connect());
            client.cmd(&words(hello));
            let id = target.id();
            client.cmd(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id, "NOLOOP"]);
            client.cmd(&["GET", "k"]);
            drop(target);
            eventually(|| is_gone(&id), "the target is gone");
            redis.cmd(&["SET", "k", "v"]);
            let mut told = String::new();
            eventually(
                || {
                    client.send(encode(&["CLIENT", "TRACKINGINFO"]));
                    let mut bytes = client.reply_bytes();
                    if bytes.starts_with(b">") {
                        bytes = client.reply_bytes();
                    }
                    told =
                        String::from_utf8_lossy(&bytes).replace(&format!(":{id}\r\n"), ":id\r\n");
                    told.contains("broken_redirect")
                },
                "it is told",
            );
            told
        };
        let direct = run(&|| redis.client(), &|id| {
            redis.cmd(&["CLIENT", "LIST", "ID", id]).text().is_empty()
        });
        let through = run(&|| respool.client(), &|id| {
            respool
                .client()
                .cmd(&["CLIENT", "LIST", "ID", id])
                .text()
                .is_empty()
        });
        assert_eq!(through, direct, "{hello}");
    }
}

/// A subscriber's PING, UNSUBSCRIBE or the like is answered behind what was published before it.
#[test]
fn what_a_subscriber_asks_is_answered_behind_what_came_before() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut publisher = redis.client();
    let mut other = respool.client();
    assert!(!other.cmd(&["SUBSCRIBE", "c"]).is_error());
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut client = respool.client();
        client.cmd(&words(hello));
        for round in 0..100 {
            assert!(!client.cmd(&["SUBSCRIBE", "c"]).is_error());
            let text = format!("{hello} {round}");
            publisher.cmd(&["PUBLISH", "c", &text]);
            client.send(encode(&["PING"]));
            let message = client.reply();
            assert_eq!(message.items()[2], Value::bulk(&text), "PING");
            let pong = client.reply();
            assert!(show_of(&pong).to_lowercase().contains("pong"), "{pong:?}");
            publisher.cmd(&["PUBLISH", "c", &text]);
            client.send(encode(&["UNSUBSCRIBE", "c"]));
            let message = client.reply();
            assert_eq!(message.items()[2], Value::bulk(&text), "UNSUBSCRIBE");
            assert_eq!(client.reply().items()[0], Value::bulk("unsubscribe"));
        }
    }
}

fn show_of(value: &Value) -> String {
    format!("{value:?}")
}

/// An OK behind which keys are touched would be worse than none.
#[test]
fn no_touch_is_refused_where_the_server_has_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let (mut direct, mut client) = (redis.client(), respool.client());
    client.ping();
    for line in ["CLIENT NO-TOUCH OFF", "CLIENT NO-TOUCH MAYBE"] {
        assert_eq!(client.cmd(&words(line)), direct.cmd(&words(line)), "{line}");
    }
    for lines in [
        &["CLIENT NO-TOUCH ON"][..],
        &["MULTI", "CLIENT NO-TOUCH ON", "EXEC"],
    ] {
        client.send(encode_lines(lines));
        let last = lines.iter().map(|_| client.reply()).last();
        let told = show_of(&last.expect("a reply"));
        let is_known = direct.cmd(&["CLIENT", "NO-TOUCH", "OFF"]) == Value::ok();
        let is_refused = told.contains("CLIENT NO-TOUCH is not possible");
        assert_eq!(is_refused, is_known, "{lines:?}: {told}");
    }
}

#[test]
fn a_replica_is_told_that_replication_does_not_go_through() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    for line in ["SYNC", "PSYNC ? -1", "REPLCONF listening-port 1"] {
        let mut client = respool.client();
        let told = client.cmd(&words(line)).text();
        assert!(told.contains("replication does not go through"), "{told}");
        client.ping();
    }
}

#[test]
fn a_subscribers_ping_is_marked_once_whatever_else_it_waits_for() {
    const ROUNDS: i64 = 20;
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("shared_connections = 1\nping_interval = \"1h\"")
        .start();
    let mut subscriber = respool.client();
    subscriber.cmd(&["HELLO", "3"]);
    assert_eq!(subscriber.cmd(&["SELECT", "5"]), Value::ok());
    subscriber.send(encode(&["SUBSCRIBE", "news"]));
    subscriber.reply();
    let mut other = respool.client();
    let pings = || -> i64 {
        let stats = redis.cmd(&["INFO", "commandstats"]).text();
        let line = stats.lines().find(|line| line.starts_with("cmdstat_ping:"));
        let calls = line.and_then(|line| line.split("calls=").nth(1)?.split(',').next());
        calls.map_or(0, |calls| calls.parse().expect("a number"))
    };
    let before = pings();
    for round in 0..ROUNDS {
        // The one shared connection is in another database when it is asked.
        other.cmd(&["GET", "key"]);
        let text = round.to_string();
        assert_eq!(subscriber.cmd(&["PING", &text]), Value::bulk(&text));
    }
    // One is the mark, one its own.
    assert_eq!(pings() - before, 2 * ROUNDS);
}

/// Lets one client say this directly and one through respool, each up to its last ECHO, and compares what they get.
#[track_caller]
fn same_said(redis: &Redis, respool: &Respool, what: &str, bytes: &[u8]) {
    let say = |mut client: Client| {
        client.send([bytes, &encode(&["ECHO", "the end"])].concat());
        let mut got = Vec::new();
        while !got.ends_with(b"the end\r\n") {
            match client.try_reply_bytes() {
                Some(reply) => got.extend(reply),
                None => break,
            }
        }
        got
    };
    same(&say(redis.client()), &say(respool.client()), what);
}

#[test]
fn a_skip_is_used_up_by_a_request_without_a_word_where_the_server_counts_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    for empty in ["*0\r\n", "*-1\r\n", "\r\n", "\n", " \r\n", "\t\n"] {
        for (before, behind) in [
            ("CLIENT REPLY SKIP\r\n", "ECHO a\r\n"),
            ("CLIENT REPLY SKIP\r\n", "RESET\r\nECHO a\r\n"),
            (
                "CLIENT REPLY SKIP\r\n",
                "MULTI\r\nECHO a\r\nEXEC\r\nECHO b\r\n",
            ),
            ("WATCH k\r\nCLIENT REPLY SKIP\r\n", "GET k\r\nECHO a\r\n"),
            (
                "MULTI\r\nCLIENT REPLY SKIP\r\nPING\r\nEXEC\r\n",
                "ECHO a\r\n",
            ),
            ("CLIENT REPLY OFF\r\n", "ECHO a\r\nCLIENT REPLY ON\r\n"),
        ] {
            let text = [before, empty, behind].concat();
            same_said(&redis, &respool, &format!("{text:?}"), text.as_bytes());
        }
    }
}

#[test]
fn client_caching_is_used_up_by_a_request_without_a_word_where_the_server_counts_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let is_told = |mut client: Client, empty: &str| {
        for line in ["HELLO 3", "CLIENT TRACKING ON OPTIN", "CLIENT CACHING YES"] {
            client.cmd(&words(line));
        }
        // A line, since Valkey 8.1 takes what follows one of white space for lines as well.
        client.send([empty, "GET k\r\n"].concat());
        client.reply();
        redis.cmd(&["SET", "k", "v"]);
        // An invalidation comes in front of the answer.
        client.send(encode(&["PING"]));
        client.reply_bytes().starts_with(b">")
    };
    for empty in ["", "*0\r\n", "*-1\r\n", "\r\n", "\t\n"] {
        let direct = is_told(redis.client(), empty);
        assert_eq!(is_told(respool.client(), empty), direct, "{empty:?}");
    }
}

#[test]
fn a_user_without_a_password_takes_one_of_any_length() {
    let redis = Redis::start(&[]);
    let rules = ["ACL", "SETUSER", "ann", "on", ">pw", "~*", "&*", "+@all"];
    assert_eq!(redis.cmd(&rules), Value::ok());
    let respool = Respool::with(&redis)
        .section("[auth]\nmax_failure_delay = \"0s\"")
        .start();
    for length in [16_384, 16_385, 300_000] {
        let long = "x".repeat(length);
        for shown in [
            &["AUTH", "default", &long][..],
            &["AUTH", &long],
            &["AUTH", "ann", &long],
            &["AUTH", &long, "pw"],
            &["HELLO", "2", "AUTH", "ann", &long],
        ] {
            let bytes = [encode(shown), encode_lines(&["ACL WHOAMI", "GET k"])].concat();
            let what = format!("{length} bytes: {}", shown[..shown.len() - 1].join(" "));
            same_said(&redis, &respool, &what, &bytes);
        }
        let mut client = respool.client();
        let hello = client.cmd(&["HELLO", "3", "AUTH", "default", &long]);
        assert!(!hello.is_error(), "{hello:?}");
    }
}

#[test]
fn a_line_of_words_is_quoted_as_the_server_takes_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    for line in [
        "PING \"a\"b",
        "PING 'a'b",
        "PING a\"b\"c",
        "SET k \"a\"\"b\"",
        "PING 'a'\"b\"c'd e'",
        "PING \"a\"'b'c\\x41",
        "\"PI\"NG ''\"\"",
        "PING \"a",
        "PING \"a\"b\"",
        "PING \"b\\\"",
        "PING 'b\\'",
        "PING \"b\\\"c\"",
        "PING \"b\\\" c",
        "PING 'b\\'' ",
        "PING 'b\\'c",
        "PING b\\\"c",
        "PING 'b\\'c'd",
    ] {
        let text = [line, "\r\n"].concat();
        same_said(&redis, &respool, line, text.as_bytes());
    }
}

#[test]
fn a_user_is_named_by_the_bytes_of_its_name() {
    let redis = Redis::start(&[]);
    let user = &b"u\xc3\xff"[..];
    let rules: [&[u8]; 8] = [
        b"ACL", b"SETUSER", user, b"on", b"nopass", b"~*", b"&*", b"+@all",
    ];
    assert_eq!(redis.cmd(&rules), Value::ok());
    let respool = Respool::start(&redis);
    for mut client in [redis.client(), respool.client()] {
        let shown: [&[u8]; 3] = [b"AUTH", user, b"any"];
        assert_eq!(client.cmd(&shown), Value::ok());
        client.send(encode(&["CLIENT", "LIST"]));
        let lines = client.reply_bytes();
        let field = [b" user=", user, b" "].concat();
        let is_there = lines.windows(field.len()).any(|bytes| bytes == field);
        assert!(is_there, "{}", show(&lines));
    }
}
