//! A client whose lent connection carries messages, since EXEC has run a SUBSCRIBE: what it sends there leaves nothing behind, and
//! inside MULTI nothing of respool's own runs before EXEC.

use crate::harness::{
    Client, Redis, Respool, TESTED_SERVER, Value, encode, encode_line, eventually, leave_out, show,
    words,
};

const SET: &str = "redis.call('SET', KEYS[1], 'changed') return 'done'";

/// Subscribes the client in a transaction, so that its connection carries messages.
fn subscribed(mut client: Client) -> Client {
    client.cmd(&["HELLO", "3"]);
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    let queued = client.cmd(&["SUBSCRIBE", "c"]);
    assert_eq!(queued, Value::simple("QUEUED"));
    client.send(encode(&["EXEC"]));
    let confirmed = client.reply_bytes();
    assert!(
        confirmed.starts_with(b"*1\r\n>3\r\n"),
        "{}",
        show(&confirmed)
    );
    client
}

/// Checks that a script in a typed transaction, which has the lent connection, is run as scripts are.
fn runs_scripts(respool: &Respool) {
    let mut client = respool.client();
    assert_eq!(client.cmd(&["WATCH", "other"]), Value::ok());
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    let queued = client.cmd(&["EVAL", SET, "1", "other"]);
    assert_eq!(queued, Value::simple("QUEUED"));
    let ran = client.cmd(&["EXEC"]);
    assert_eq!(ran.items(), [Value::bulk("done")]);
    assert_eq!(client.cmd(&["GET", "other"]), Value::bulk("changed"));
}

/// Tells the ids of the connections that are lent, at the server.
fn lent(redis: &Redis) -> Vec<String> {
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    list.lines()
        .filter(|line| line.contains(":pinned:"))
        .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn nobody_is_debugged_on_the_connection_of_one_who_received_messages() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "5s").start();
    for mode in ["yes", "SYNC"] {
        for leave in ["QUIT", "RESET", "close"] {
            let mut client = subscribed(respool.client());
            let refused = client.cmd(&["SCRIPT", "DEBUG", mode]);
            assert!(refused.is_error(), "{refused:?}");
            match leave {
                "QUIT" => assert_eq!(client.cmd(&["QUIT"]), Value::ok()),
                "RESET" => assert_eq!(client.cmd(&["RESET"]), Value::simple("RESET")),
                _ => drop(client),
            }
            runs_scripts(&respool);
        }
    }
}

#[test]
fn a_connection_that_has_carried_messages_is_nobodys_ever_after() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "5s").start();
    let mut client = subscribed(respool.client());
    let before = lent(&redis);
    assert_eq!(before.len(), 1);
    assert_eq!(client.cmd(&["RESET"]), Value::simple("RESET"));
    eventually(|| !lent(&redis).contains(&before[0]), "it is closed");
    // The same client gets another.
    runs_scripts(&respool);
    assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
    assert_ne!(lent(&redis), before);
    assert_eq!(client.cmd(&["GET", "other"]), Value::bulk("changed"));
}

#[test]
fn what_leaves_a_mark_that_nobody_would_see_is_refused_there() {
    let redis = Redis::start(&["--rename-command", "SCRIPT", "FOO"]);
    let respool = Respool::lending_one(&redis, "5s").start();
    let mut client = subscribed(respool.client());
    for line in [
        "FOO DEBUG yes",
        "CLIENT PAUSE 5000",
        "CLIENT TRACKING on",
        "CLIENT REPLY OFF",
        "CLIENT REPLY SKIP",
        "MODULE UNLOAD x",
        "SELECT 3",
        "HELLO 2",
    ] {
        let words = words(line);
        let refused = client.cmd(&words).text();
        assert!(
            refused.contains("while messages are received"),
            "{line}: {refused}"
        );
    }
    assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("v"));
    assert_eq!(client.cmd(&["QUIT"]), Value::ok());
    runs_scripts(&respool);
}

#[test]
fn nothing_of_respools_own_runs_there_before_exec() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut victim = respool.client();
    let id = victim.id();
    for end in ["DISCARD", "EXEC"] {
        let mut client = subscribed(respool.client());
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
        for words in [
            &["CLIENT", "SETNAME", "x"][..],
            &["CLIENT", "KILL", "ID", &id],
            &["SELECT", "3"],
            &["CLIENT", "TRACKING", "on"],
        ] {
            let refused = client.cmd(words).text();
            assert!(refused.contains("not possible inside MULTI"), "{refused}");
        }
        let queued = client.cmd(&["SET", "k", "v"]);
        assert_eq!(queued, Value::simple("QUEUED"));
        let ended = client.cmd(&[end]);
        match end {
            "EXEC" => assert!(ended.text().starts_with("EXECABORT"), "{ended:?}"),
            _ => assert_eq!(ended, Value::ok()),
        }
        victim.ping();
        assert_eq!(redis.cmd(&["EXISTS", "k"]), Value::Int(0));
        assert!(client.cmd(&["CLIENT", "GETNAME"]).is_null());
        // Outside of it they go on as before.
        assert_eq!(client.cmd(&["CLIENT", "SETNAME", "x"]), Value::ok());
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
        let queued = client.cmd(&["INCR", "n"]);
        assert_eq!(queued, Value::simple("QUEUED"));
        client.cmd(&["EXEC"]).items();
    }
    assert_eq!(redis.cmd(&["GET", "n"]), Value::bulk("2"));
}

#[test]
fn what_respool_answers_has_its_place_among_what_the_server_answers() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "5s").start();
    for protocol in ["2", "3"] {
        let mut answers = Vec::new();
        for mut client in [redis.client(), respool.client()] {
            client.cmd(&["HELLO", protocol]);
            let mut sent = Vec::new();
            for line in [
                "CLIENT SETNAME here",
                "MULTI",
                "SUBSCRIBE c",
                "EXEC",
                "CLIENT GETNAME",
                "SUBSCRIBE d",
                "CLIENT GETNAME",
                "ECHO a",
                "CLIENT GETNAME",
                "CLIENT GETNAME",
                "PING b",
                "UNSUBSCRIBE c d",
                "CLIENT GETNAME",
                "ECHO c",
                "MULTI",
                "SUBSCRIBE e",
                "EXEC",
                "CLIENT GETNAME",
                "QUIT",
            ] {
                sent.extend(encode_line(line));
            }
            client.send(&sent);
            let mut answered = Vec::new();
            while let Some(answer) = client.try_reply_bytes() {
                answered.push(show(&answer));
            }
            answers.push(answered);
        }
        assert_eq!(answers[1], answers[0], "RESP{protocol}");
    }
}

#[test]
fn what_is_denied_is_denied() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .section("[[group]]\nname = \"default\"\ndeny_commands = [\"flushall\", \"get\"]")
        .start();
    assert_eq!(redis.cmd(&["SET", "k", "v"]), Value::ok());
    let mut client = subscribed(respool.client());
    let reply = client.cmd(&["GET", "k"]).text();
    assert!(reply.starts_with("NOPERM"), "{reply}");
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    for denied in [&["FLUSHALL"][..], &["GET", "k"]] {
        assert!(client.cmd(denied).is_error());
    }
    let failed = client.cmd(&["EXEC"]).text();
    assert!(failed.starts_with("EXECABORT"), "{failed}");
    assert_eq!(redis.cmd(&["GET", "k"]), Value::bulk("v"));
    assert_eq!(client.cmd(&["ECHO", "a"]), Value::bulk("a"));
}

/// Lets the client's connection carry messages, of which it receives none any more.
pub(crate) fn amid_messages(mut client: Client, protocol: &str) -> Client {
    client.cmd(&["HELLO", protocol]);
    for line in [
        &["MULTI"][..],
        &["SUBSCRIBE", "c"],
        &["EXEC"],
        &["UNSUBSCRIBE", "c"],
    ] {
        client.send(encode(line));
        client.reply_bytes();
    }
    client
}

/// Tells what is answered amid messages to all of `bytes` in one write.
fn answered(client: Client, protocol: &str, bytes: &[u8]) -> String {
    let mut client = amid_messages(client, protocol);
    client.send(bytes);
    show(&client.read_to_end())
}

#[test]
fn what_ends_a_client_has_its_place_behind_what_was_asked_before() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("reply_timeout = \"500ms\"")
        .start();
    let popped = [encode(&["RPUSH", "l", "x"]), encode(&["LPOP", "l"])].concat();
    // Longer than a reply may take.
    let waits = encode(&["BLPOP", "none", "1"]);
    let mut cases = vec![
        [&popped[..], b"*1\r\n$abc\r\n"].concat(),
        [&popped[..], b"*1\r\nabc\r\n"].concat(),
        [&popped[..], b"ECHO \"a\r\n"].concat(),
        [&waits[..], &encode(&["QUIT"])].concat(),
        [&waits[..], &encode(&["RESET"]), &encode(&["QUIT"])].concat(),
        [
            &encode(&["MULTI"])[..],
            &popped,
            &encode(&["RESET"]),
            &encode(&["QUIT"]),
        ]
        .concat(),
    ];
    let here = "amid_messages == BLPOP and what is no request";
    let is_seen_late = TESTED_SERVER.name() == "Redis 8.2"
        && leave_out(
            here,
            "Redis 8.2 looks at what is behind a call that has blocked only when more comes",
        );
    if !is_seen_late {
        cases.push([&waits[..], b"*1\r\n$abc\r\n"].concat());
    }
    for protocol in ["2", "3"] {
        for bytes in &cases {
            let direct = answered(redis.client(), protocol, bytes);
            let through = answered(respool.client(), protocol, bytes);
            assert_eq!(through, direct, "RESP{protocol}: {}", show(bytes));
        }
        // Larger than what has to be seen whole may be: refused here alone.
        let large = encode(&["SET", "k", &"v".repeat(1_200_000)]);
        let through = answered(
            respool.client(),
            protocol,
            &[popped.clone(), large].concat(),
        );
        let expected = ":1\\r\\n$1\\r\\nx\\r\\n-ERR respool: a request of this command may measure";
        assert!(through.starts_with(expected), "{through}");
        assert_eq!(redis.cmd(&["EXISTS", "l", "k"]), Value::Int(0));
    }
}
