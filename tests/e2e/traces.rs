//! Traces: whatever a client sends, and wherever it leaves, nothing of it is left on a connection to the server that anybody
//! else gets.
//!
//! The sequences of the corpus are run through respool up to each of their steps, by a client that leaves then. The server is asked
//! what its `CLIENT LIST` shows of respool's connections, and what it does not show is tried: another client's requests on the
//! shared connection and on the one that is lent.

use std::collections::{BTreeMap, BTreeSet};

use crate::differential::{Action, Sequence, corpus};
use crate::harness::{
    Client, Redis, Respool, TESTED_SERVER, Value, encode, encode_line, eventually, leave_out,
};

/// Is what `CLIENT LIST` shows of a connection that holds nothing of anybody's. Databases, users and protocols are respool's to keep.
const CLEAN: [(&str, &[&str]); 11] = [
    ("flags", &["N"]),
    ("sub", &["0"]),
    ("psub", &["0"]),
    ("ssub", &["0"]),
    // Valkey says 0 once there was a transaction.
    ("multi", &["-1", "0"]),
    ("watch", &["0"]),
    ("redir", &["-1"]),
    ("lib-name", &[""]),
    ("lib-ver", &[""]),
    ("capa", &[""]),
    ("tracking", &["off"]),
];

/// Starts a respool with a connection to lend beside the shared one, and that of a worker's subscribers.
fn respool(redis: &Redis, connections: usize) -> Respool {
    Respool::with(redis)
        .top("workers = 1")
        .upstream(&format!(
            "max_connections = {connections}\nshared_connections = 1\nborrow_timeout = \"50ms\"\nhealth_interval = \"0s\""
        ))
        .start()
}

/// Tells what is wrong with respool's connections by what the server shows.
fn shown(redis: &Redis) -> Vec<String> {
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    let mut wrong = Vec::new();
    for line in list.lines() {
        let fields: BTreeMap<_, _> =
            (line.split(' ').filter_map(|field| field.split_once('='))).collect();
        // The test's own has no name.
        let Some(name) = fields.get("name").filter(|name| !name.is_empty()) else {
            continue;
        };
        if !name.starts_with("respool:") {
            wrong.push(format!("a connection is called {name}"));
        }
        for (field, allowed) in CLEAN {
            if let Some(value) = fields.get(field)
                && !allowed.contains(value)
            {
                wrong.push(format!("{name}: {field}={value}"));
            }
        }
    }
    wrong
}

/// Tells what is wrong with the connections that another client gets: it is in database 0, speaks RESP2, and is the default user.
fn tried(redis: &Redis, client: &mut Client) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expect = |client: &mut Client, line: &[&str], expected: &[u8]| {
        client.send(encode(line));
        let got = client.reply_bytes();
        if got != expected {
            wrong.push(format!(
                "{line:?} is answered {:?}",
                String::from_utf8_lossy(&got)
            ));
        }
    };
    for is_lent in [false, true] {
        if is_lent {
            expect(client, &["WATCH", "traces"], b"+OK\r\n");
        }
        expect(client, &["ECHO", "traces"], b"$6\r\ntraces\r\n");
        expect(client, &["HGETALL", "traces:none"], b"*0\r\n");
        expect(client, &["ACL", "WHOAMI"], b"$7\r\ndefault\r\n");
        expect(
            client,
            &["EVAL", "return redis.call('PING')", "0"],
            b"+PONG\r\n",
        );
        expect(client, &["SET", "traces:here", "x"], b"+OK\r\n");
        let is_here = redis.cmd(&["DEL", "traces:here"]) == Value::Int(1);
        expect(
            client,
            &["EXISTS", "traces:here"],
            if is_here { b":0\r\n" } else { b"in database 0" },
        );
        if is_lent {
            expect(client, &["UNWATCH"], b"+OK\r\n");
        }
    }
    wrong
}

/// Runs the first `steps` of a sequence, and leaves.
fn run(redis: &Redis, respool: &Respool, sequence: &Sequence, steps: usize) {
    let mut client = respool.client();
    let mut other: Option<Client> = None;
    for step in &sequence.steps[..steps] {
        let alive = match &step.action {
            Action::Tell(bytes) => client.try_send(bytes).is_ok(),
            Action::Ask(bytes) => {
                client.try_send(bytes).is_ok() && client.try_reply_bytes().is_some()
            }
            Action::AskOther(bytes) => {
                let other = other.get_or_insert_with(|| respool.client());
                other.send(bytes);
                other.try_reply_bytes().is_some()
            }
            Action::Block(bytes) => {
                client.send(bytes);
                eventually(
                    || redis.info("blocked_clients") != "0" || client.has_reply(),
                    &step.line,
                );
                true
            }
            Action::Read => client.try_reply_bytes().is_some(),
        };
        if !alive {
            return;
        }
    }
}

/// Restores what the server is left like that other sequences go by.
fn tidy(redis: &Redis) {
    redis.cmd(&["CLIENT", "UNPAUSE"]);
    redis.flush();
}

/// Runs every sequence that `takes` up to each step, in a respool of so many connections.
fn nothing_is_left(connections: usize, takes: impl Fn(&Sequence) -> bool) {
    let redis = Redis::start(&[]);
    let respool = respool(&redis, connections);
    let mut probe = respool.client();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for sequence in corpus().iter().filter(|s| takes(s) && !s.is_left_out()) {
        tidy(&redis);
        for steps in 1..=sequence.steps.len() {
            // Where the same command has been the last before, in or out of a transaction, it leaves what it left then.
            if !seen.insert(ends_with(sequence, steps)) {
                continue;
            }
            assert_eq!(redis.cmd(&["FLUSHALL"]), Value::ok());
            run(&redis, &respool, sequence, steps);
            let last = &sequence.steps[steps - 1].line;
            eventually(
                || shown(&redis).is_empty(),
                &format!("== {}: {last}: {:?}", sequence.name, shown(&redis)),
            );
            // What holds everybody up is no trace of a connection.
            redis.cmd(&["CLIENT", "UNPAUSE"]);
            for what in tried(&redis, &mut probe) {
                wrong.push(format!("== {}: {last}: {what}", sequence.name));
            }
        }
    }
    assert!(seen.len() > 50, "{} commands", seen.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    respool.assert_alive();
}

/// Tells the command that the first `steps` of a sequence end with, its first argument, and whether a transaction was begun before.
fn ends_with(sequence: &Sequence, steps: usize) -> (String, bool) {
    let is_multi = |line: &str| line.to_uppercase().ends_with("MULTI");
    let words = sequence.steps[steps - 1].line.to_uppercase();
    // A mark may stand before the command.
    let words: Vec<_> = words.split(' ').take(3).collect();
    let before = &sequence.steps[..steps - 1];
    (
        words.join(" "),
        before.iter().any(|step| is_multi(&step.line)),
    )
}

/// Tells what needs more than one connection beside the shared one: redirections, and who is subscribed and blocked.
fn needs_more(sequence: &Sequence) -> bool {
    let needs = |word: &str| {
        sequence
            .steps
            .iter()
            .any(|step| step.line.to_uppercase().contains(word))
    };
    needs("REDIRECT") || needs("SUBSCRIBE")
}

#[test]
fn no_command_leaves_anything_on_the_connections_of_others() {
    nothing_is_left(2, |sequence| !needs_more(sequence));
}

#[test]
fn neither_subscriptions_nor_redirections_leave_anything_on_the_connections_of_others() {
    nothing_is_left(4, needs_more);
}

#[test]
fn commands_by_other_names_leave_nothing_on_the_connections_of_others() {
    let redis = Redis::start(&[
        "--rename-command",
        "SCRIPT",
        "S2",
        "--rename-command",
        "CLIENT",
        "C2",
        "--rename-command",
        "SELECT",
        "SEL2",
        "--rename-command",
        "MULTI",
        "M2",
        "--rename-command",
        "READONLY",
        "R2",
    ]);
    let respool = respool(&redis, 2);
    for line in [
        "S2 DEBUG YES",
        "S2 debug sync",
        "C2 NO-EVICT ON",
        "C2 NO-TOUCH ON",
        "C2 SETINFO LIB-NAME x",
        "C2 CAPA redirect",
        "C2 SETNAME x",
        "C2 REPLY OFF",
        "C2 TRACKING ON",
        "C2 IMPORT-SOURCE ON",
        "SEL2 3",
        "M2",
        "R2",
    ] {
        let is_debug = line.to_uppercase().starts_with("S2 DEBUG");
        if is_debug && TESTED_SERVER.name() == "Valkey 9.1" {
            let reason = "a client that leaves after SCRIPT DEBUG has the server itself debug the next one's script, or end";
            leave_out(&format!("e2e::traces == {line}"), reason);
            continue;
        }
        let mut client = respool.client();
        client.send(encode_line(line));
        if !line.contains("REPLY") {
            client.reply();
        }
        drop(client);
        let list = || redis.cmd(&["C2", "LIST"]).text();
        eventually(
            || {
                !list()
                    .lines()
                    .any(|connection| connection.contains("respool:") && is_marked(connection))
            },
            &format!("{line}: {}", list()),
        );
        let mut probe = respool.client();
        eventually(
            || probe.cmd(&["WATCH", "k"]) == Value::ok(),
            "a connection is lent",
        );
        assert_eq!(
            probe.cmd(&["EVAL", "return 7", "0"]),
            Value::Int(7),
            "{line}"
        );
        assert_eq!(probe.cmd(&["SET", "here", "x"]), Value::ok(), "{line}");
        assert_eq!(redis.cmd(&["DEL", "here"]), Value::Int(1), "{line}");
    }
}

/// Tells whether a line of `CLIENT LIST` shows a trace.
fn is_marked(line: &str) -> bool {
    let fields: BTreeMap<_, _> =
        (line.split(' ').filter_map(|field| field.split_once('='))).collect();
    let shows = |(field, allowed): &(&str, &[&str])| {
        fields
            .get(field)
            .is_some_and(|value| !allowed.contains(value))
    };
    CLEAN.iter().any(shows)
}
