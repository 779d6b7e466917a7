//! SCRIPT DEBUG: a debugged script changes nothing where that is promised, its session is the one that the server holds
//! directly, and nobody else is ever debugged.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::{Client, Redis, Respool, Value, encode, encode_line, eventually, show};

const SET: &str = "redis.call('SET', KEYS[1], 'changed') return 'done'";

/// Checks that a script in a typed transaction, which has the lent connection, is run as scripts are.
fn runs_scripts(respool: &Respool) {
    let mut client = respool.client();
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    let queued = client.cmd(&["EVAL", SET, "1", "other"]);
    assert_eq!(queued, Value::simple("QUEUED"));
    let ran = client.cmd(&["EXEC"]);
    assert_eq!(ran.items(), [Value::bulk("done")]);
    assert_eq!(client.cmd(&["GET", "other"]), Value::bulk("changed"));
}

/// Tells what the client sees from SCRIPT DEBUG to the end of the connection.
fn session(mut client: Client, mode: &str, script: &str, commands: &[&str]) -> String {
    assert_eq!(client.cmd(&["SET", "k", "before"]), Value::ok());
    assert_eq!(client.cmd(&["SCRIPT", "DEBUG", mode]), Value::ok());
    // Others' commands are not debugged.
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("before"));
    client.send(encode(&["EVAL", script, "1", "k"]));
    let mut seen = Vec::new();
    for command in commands {
        seen.extend(client.reply_bytes());
        client.send(encode_line(command));
    }
    seen.extend(client.read_to_end());
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn a_debugged_script_changes_nothing_and_its_session_is_the_servers() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    for (script, commands) in [
        (SET, &["continue"][..]),
        (SET, &["step", "print"]),
        (
            "local x = 1\nx = x + 1\nredis.call('SET', KEYS[1], x)\nreturn x",
            &["list", "next", "p x", "redis get k", "quit", "abort"],
        ),
        ("return +", &[]),
        (
            "return redis.call('GET', KEYS[1])",
            &["whole", "reset", "multi", "c"],
        ),
    ] {
        for mode in ["YES", "yes"] {
            let direct = session(redis.client(), mode, script, commands);
            let through = session(respool.client(), mode, script, commands);
            assert_eq!(through, direct, "{script}");
            assert!(direct.contains("endsession"), "{direct}");
            assert_eq!(redis.cmd(&["GET", "k"]), Value::bulk("before"), "{script}");
        }
    }
    runs_scripts(&respool);
    assert_eq!(
        respool.metric_or_zero("respool_upstream_losses_total"),
        0.0,
        "the end of a session is no loss of the server"
    );
}

/// The server ends the connection with the session: its client has asked for that, and has lost nothing.
#[test]
fn the_end_of_a_session_is_counted_as_its_clients() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    let mut ended = 0.0;
    for commands in [&["continue"][..], &["next", "abort"], &["quit", "abort"]] {
        session(respool.client(), "YES", SET, commands);
        ended += 1.0;
        eventually(|| respool.disconnects("quit") == ended, "the end counted");
    }
    let mut client = respool.client();
    assert_eq!(client.cmd(&["SCRIPT", "DEBUG", "YES"]), Value::ok());
    client.send(encode(&["EVAL", SET, "1", "k"]));
    client.reply();
    drop(client);
    eventually(
        || respool.disconnects("closed") == 1.0,
        "who leaves counted",
    );
    assert_eq!(respool.disconnects("quit"), ended);
    assert_eq!(respool.disconnects("upstream_lost"), 0.0);
}

#[test]
fn a_script_that_is_debugged_in_step_changes_what_it_changes_directly() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    let direct = session(redis.client(), "sync", SET, &["continue"]);
    assert_eq!(redis.cmd(&["GET", "k"]), Value::bulk("changed"));
    let through = session(respool.client(), "SYNC", SET, &["continue"]);
    assert_eq!(through, direct);
    assert_eq!(redis.cmd(&["GET", "k"]), Value::bulk("changed"));
    runs_scripts(&respool);
}

#[test]
fn a_long_script_is_debugged_too() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    let script = format!("{}{SET}", "-- a line of some length\n".repeat(10_000));
    // The server itself debugs another script than one so long, and each time another: what it says of it cannot be compared.
    for mut client in [redis.client(), respool.client()] {
        assert_eq!(client.cmd(&["SET", "k", "before"]), Value::ok());
        assert_eq!(client.cmd(&["SCRIPT", "DEBUG", "YES"]), Value::ok());
        client.send(encode(&["EVAL", &script, "1", "k"]));
        let said = client.reply_bytes();
        assert!(said.starts_with(b"*"), "{}", show(&said));
    }
    assert_eq!(redis.cmd(&["GET", "k"]), Value::bulk("before"));
}

#[test]
fn whoever_gets_the_connection_next_is_not_debugged() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    for leave in ["QUIT", "close", "session"] {
        let mut client = respool.client();
        assert_eq!(client.cmd(&["SCRIPT", "DEBUG", "YES"]), Value::ok());
        match leave {
            "QUIT" => assert_eq!(client.cmd(&["QUIT"]), Value::ok()),
            "close" => {}
            _ => {
                client.send(encode(&["EVAL", SET, "1", "k"]));
                client.reply();
            }
        }
        drop(client);
        runs_scripts(&respool);
    }
    assert_eq!(redis.cmd(&["EXISTS", "k"]), Value::Int(0));
}

#[test]
fn the_connection_is_the_clients_until_it_switches_debugging_off() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    let mut client = respool.client();
    assert_eq!(client.cmd(&["SCRIPT", "DEBUG", "NO"]), Value::ok());
    assert!(respool.can_lend());
    assert_eq!(client.cmd(&["SCRIPT", "DEBUG", "YES"]), Value::ok());
    assert!(!respool.can_lend());
    // It cannot be lost without a word: the script would then change what it promised not to.
    assert!(client.cmd(&["RESET"]).is_error());
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    assert!(client.cmd(&["EVAL", SET, "1", "k"]).is_error());
    assert!(client.cmd(&["EXEC"]).text().contains("EXECABORT"));
    assert_eq!(client.cmd(&["SELECT", "1"]), Value::ok());
    assert!(client.cmd(&["EVALSHA", "0", "0"]).is_error());
    assert_eq!(client.cmd(&["SCRIPT", "debug", "no"]), Value::ok());
    assert_eq!(client.cmd(&["SELECT", "0"]), Value::ok());
    assert!(respool.can_lend());
    assert_eq!(client.cmd(&["EVAL", SET, "1", "k"]), Value::bulk("done"));
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("changed"));
    assert_eq!(client.cmd(&["RESET"]), Value::simple("RESET"));
}

#[test]
fn its_odd_forms_are_answered_as_directly() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    let forms: &[&[&[u8]]] = &[
        &[b"SCRIPT", b"DEBUG"],
        &[b"script", b"Debug", b"maybe"],
        &[b"SCRIPT", b"DEBUG", b""],
        &[b"SCRIPT", b"DEBUG", b"yes", b"nonsense"],
        &[b"SCRIPT", b"DEBUG", b"no\0yes"],
        &[b"SCRIPT", b"DEBUG", b"yes\0no"],
        &[b"SCRIPT", b"DEBUG", b"sYnC"],
        &[b"SCRIPT", b"DEBUG", b"No"],
        &[b"MULTI"],
        &[b"SCRIPT", b"DEBUG", b"YES"],
        &[b"SCRIPT", b"DEBUG", b"NO"],
        &[b"EXEC"],
        &[b"EVAL", SET.as_bytes(), b"1", b"k"],
        &[b"SCRIPT", b"DEBUG", b"YES"],
        &[b"EVAL", b"return 1"],
        &[b"EVALSHA", b"0", b"0"],
        &[b"SCRIPT", b"DEBUG", b"NO"],
    ];
    let (mut direct, mut through) = (redis.client(), respool.client());
    for form in forms {
        direct.send(encode(form));
        through.send(encode(form));
        let (expected, got) = (direct.reply_bytes(), through.reply_bytes());
        assert_eq!(show(&got), show(&expected), "{form:?}");
    }
    drop(through);
    runs_scripts(&respool);
}

/// The debugger writes past CLIENT REPLY. What the script returns in the end is hidden at the server only.
#[test]
fn a_client_without_replies_sees_the_debugger_as_directly() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    let run = |mut client: Client, mode: &str| {
        assert_eq!(client.cmd(&["SCRIPT", "DEBUG", "YES"]), Value::ok());
        client.send(encode(&["CLIENT", "REPLY", mode]));
        client.send(encode(&["EVAL", SET, "1", "k"]));
        let mut seen = client.reply_bytes();
        client.send(encode(&["continue"]));
        seen.extend(client.read_to_end());
        show(&seen)
    };
    for mode in ["OFF", "SKIP"] {
        let direct = run(redis.client(), mode);
        let through = run(respool.client(), mode);
        assert!(through.starts_with(&direct), "{mode}: {through}, {direct}");
    }
    runs_scripts(&respool);
}

#[test]
fn redis_cli_debugs_through_respool() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    let file = tempfile::NamedTempFile::new().expect("a file for the script");
    std::fs::write(file.path(), SET).expect("the script is written");
    let debug = |port: u16| {
        let mut cli = Command::new("redis-cli")
            .args(["-p", &port.to_string(), "--ldb", "--eval"])
            .arg(file.path())
            .arg("k")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("redis-cli starts");
        let mut keyboard = cli.stdin.take().expect("its input");
        keyboard
            .write_all(b"step\ncontinue\nGET k\n")
            .expect("typed");
        drop(keyboard);
        let output = cli.wait_with_output().expect("redis-cli ends");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let direct = debug(redis.host_and_port().1);
    assert_eq!(debug(respool.port()), direct);
    assert!(direct.contains("rolled back"), "{direct}");
    assert_eq!(redis.cmd(&["EXISTS", "k"]), Value::Int(0));
}
