//! WAIT and WAITAOF inside MULTI: answered as directly, and never with a number that is not true.

use crate::harness::{Redis, Respool, Value, encode, eventually, show};

/// What comes for the lines, sent as one or one after the other.
fn run(client: &mut crate::harness::Client, lines: &[&str], as_one: bool) -> Vec<String> {
    let words = |line: &str| encode(&line.split(' ').collect::<Vec<_>>());
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
    assert_eq!(client.cmd(&["SET", "k", "w"]), Value::ok());
    run(&mut client, &["MULTI", "WAIT 1 0"], false);
    // None where the server counts it so, or an error.
    let answer = client.cmd(&["EXEC"]);
    assert_ne!(
        answer.items(),
        [Value::Int(1)],
        "nobody has acknowledged it"
    );
    replica.resume();
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("w"));
}
