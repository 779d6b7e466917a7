//! WAIT and WAITAOF inside MULTI: answered as directly, and never with a number that is not true. What the server refuses of what
//! stands before them is told as the server says it, inside MULTI and outside.

use crate::harness::{Redis, Respool, TESTED_SERVER, Value, encode, encode_line, eventually, show};

/// Tells what comes for the lines, sent as one or one after the other.
fn run(client: &mut crate::harness::Client, lines: &[&str], as_one: bool) -> Vec<String> {
    let words = |line: &str| encode_line(line);
    if as_one {
        client.send(
            lines
                .iter()
                .flat_map(|line| words(line))
                .collect::<Vec<_>>(),
        );
    }
    let mut answer = |line: &&str| {
        if !as_one {
            client.send(words(line));
        }
        show(&client.reply_bytes())
    };
    lines.iter().map(&mut answer).collect()
}

#[test]
fn it_is_answered_as_directly() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    for first in ["SET k v", "GET k", "LPUSH l a", "BLPOP l 0.01"] {
        for wait in [
            "WAIT 0 0",
            "WAIT 1 0",
            "WAIT 5 100000",
            "WAIT x 0",
            "WAITAOF 0 0 0",
            "WAITAOF 1 0 0",
            "WAIT 1",
        ] {
            for as_one in [true, false] {
                let lines = ["MULTI", "SET k w", wait, "GET k", "EXEC", "PING"];
                let both = [redis.client(), respool.client()].map(|mut client| {
                    run(&mut client, &[first], false);
                    run(&mut client, &lines, as_one)
                });
                assert_eq!(both[1], both[0], "{first}, {wait}, as one: {as_one}");
            }
        }
    }
}

#[test]
fn it_counts_replicas_that_have_what_was_written_before() {
    let redis = Redis::start(&[]);
    let replica = Redis::start_replica(&redis, &[]);
    let respool = Respool::start(&redis);
    let mut client = respool.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    eventually(
        || {
            run(&mut client, &["MULTI", "WAIT 1 0"], false);
            client.cmd(&["EXEC"]) == Value::Array(vec![Value::Int(1)])
        },
        "the replica has it",
    );
    replica.pause();
    // The server counts what has acknowledged the writes of this connection, whatever its transaction wrote.
    let [direct, through] = [redis.client(), client].map(|mut client| {
        assert_eq!(client.cmd(&["SET", "k", "w"]), Value::ok());
        let lines = run(&mut client, &["MULTI", "WAIT 1 0", "EXEC"], false);
        (client, lines)
    });
    let (mut client, through) = through;
    assert_eq!(direct.1[2], "*1\\r\\n:0\\r\\n");
    match TESTED_SERVER.is_valkey || TESTED_SERVER.version >= (7, 2) {
        false => assert_eq!(through, direct.1),
        // It would count for a connection that has written nothing, which everybody has acknowledged.
        true => {
            let refused = "-ERR respool: not all replicas have acknowledged";
            assert!(through[1].starts_with(refused), "{through:?}");
            assert!(through[2].starts_with("-EXECABORT "), "{through:?}");
        }
    }
    replica.resume();
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("w"));
}

#[test]
fn a_busy_server_says_so() {
    let redis = Redis::start(&["--lua-time-limit", "50"]);
    let respool = Respool::start(&redis);
    let both = || [redis.client(), respool.client()];
    let (mut fresh, mut written, mut queueing) = (both(), both(), both());
    for client in written.iter_mut().chain(&mut queueing) {
        assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    }
    for client in &mut queueing {
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    }
    let mut runner = redis.client();
    runner.send(encode(&["EVAL", "while true do end", "0"]));
    let mut direct = redis.client();
    eventually(
        || direct.cmd(&["GET", "k"]).text().starts_with("BUSY"),
        "the script runs",
    );
    for clients in [&mut fresh, &mut written, &mut queueing] {
        let answers = clients
            .each_mut()
            .map(|client| run(client, &["WAIT 1 10"], false));
        assert!(answers[0][0].starts_with("-BUSY"), "{answers:?}");
        assert_eq!(answers[1], answers[0]);
    }
    assert_eq!(direct.cmd(&["SCRIPT", "KILL"]), Value::ok());
    assert!(runner.reply().is_error());
    let answers = queueing.map(|mut client| run(&mut client, &["EXEC", "GET k"], false));
    assert_eq!(answers[1], answers[0]);
    eventually(
        || run(&mut written[1], &["WAIT 0 10"], false) == [":0\\r\\n"],
        "it is answered again",
    );
}

#[test]
fn who_may_not_do_what_it_needs_is_told_what_that_is() {
    let redis = Redis::start(&[]);
    let user = ["on", ">secret", "~*", "+@all", "-publish", "-ping"];
    redis.cmd(&[&["ACL", "SETUSER", "eve"][..], &user].concat());
    let respool = Respool::start(&redis);
    let mut client = respool.client();
    assert_eq!(client.cmd(&["AUTH", "eve", "secret"]), Value::ok());
    assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    let told = client.cmd(&["WAIT", "0", "10"]).text();
    let needs = "ERR respool: WAIT needs the permission to P";
    assert!(told.starts_with(needs), "{told}");
}

#[test]
fn what_is_refused_for_its_words_needs_nothing() {
    let redis = Redis::start(&[]);
    let user = ["on", ">secret", "~*", "+@all", "-publish", "-ping"];
    redis.cmd(&[&["ACL", "SETUSER", "eve"][..], &user].concat());
    let respool = Respool::start(&redis);
    let mut clients = [redis.client(), respool.client()];
    for client in &mut clients {
        assert_eq!(client.cmd(&["AUTH", "eve", "secret"]), Value::ok());
        assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    }
    let lines = [
        "WAIT",
        "WAIT 0",
        "WAIT 0 10 1",
        "WAIT a 10",
        "WAIT 0 b",
        "WAIT 0 01",
        "WAIT 0 -1",
        "WAIT 0 99999999999999999999",
        "WAITAOF 0 0",
        "WAITAOF 0 x 10",
        "WAITAOF 0 0 -1",
    ];
    for within in [false, true] {
        for line in lines {
            let asked: Vec<&str> = match within {
                false => vec![line],
                true => vec!["MULTI", line, "EXEC"],
            };
            let [direct, through] = clients.each_mut().map(|client| run(client, &asked, false));
            assert_eq!(through, direct, "{line}");
            assert!(
                direct.iter().any(|answer| answer.contains("-ERR ")),
                "{line}: {direct:?}"
            );
        }
    }
}
