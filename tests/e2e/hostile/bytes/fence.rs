//! Text that a script writes behind its error, as Redis 8.2 lets it: it reaches nobody, and costs nobody the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use super::{busy_script, look_on, on_one_connection, others};
use crate::harness::{
    Client, Redis, Respool, ScriptedAct, ScriptedServer, Value, encode, eventually,
};

const LOST: &str = "respool_client_disconnects_total{group=\"default\",reason=\"upstream_lost\"}";

const BUSY: &str = "-BUSY Redis is busy running a script. You can only call SCRIPT KILL.\r\n";

/// Starts a server whose scripts answer what `script` says, as soon as they are let; its GET answers `own`. It answers BUSY to whatever
/// comes behind a script while the flag is up.
fn server(script: &'static str) -> (ScriptedServer, Sender<()>, Arc<AtomicBool>) {
    let (open, gate) = channel();
    let is_busy = Arc::new(AtomicBool::new(false));
    let of_server = Arc::clone(&is_busy);
    let server = ScriptedServer::start(move |words| {
        let is_busy = of_server.load(Ordering::SeqCst);
        match words[0].as_str() {
            "eval" => {
                // All who ask meanwhile stand behind it.
                let _ = gate.recv();
                ScriptedAct::Say(script)
            }
            "hello" => ScriptedAct::Usual,
            _ if is_busy => ScriptedAct::Say(BUSY),
            "get" => ScriptedAct::Say("$3\r\nown\r\n"),
            // A stale replica of 6.2 says so.
            "echo" => ScriptedAct::Say("-MASTERDOWN Link with MASTER is down.\r\n"),
            _ => ScriptedAct::Usual,
        }
    });
    (server, open, is_busy)
}

fn before(server: &ScriptedServer) -> Respool {
    Respool::before(server.addr())
        .top("workers = 1")
        .upstream("max_connections = 6\nshared_connections = 1")
        .start()
}

/// Has a script sent, and behind it, on the same connection, what ten others ask for; then lets the script answer.
fn ask_behind_script(respool: &Respool, open: &Sender<()>, others: &mut Vec<Client>) -> Client {
    let commands = || respool.metric_or_zero("respool_client_commands_total");
    others.extend((others.len()..10).map(|_| respool.client()));
    let mut scripts = respool.client();
    let before = commands();
    scripts.send(encode(&["EVAL", "error('x')", "0"]));
    eventually(|| commands() >= before + 1.0, "the script is sent");
    for client in others.iter_mut() {
        client.send(encode(&["GET", "k"]));
    }
    eventually(|| commands() >= before + 11.0, "the others' are sent");
    open.send(()).expect("the server is there");
    scripts
}

#[test]
fn text_that_a_script_raises_reaches_nobody_and_cuts_off_nobody() {
    for error in [
        "-ERR x\r\n$8\r\nINJECTED\r\n+ script: f, on @user_script:1.\r\n",
        "-ERR x\r\n$16\r\n0123456789abcdef\r\n+ script: f\r\n",
        "-ERR x\r\n$3\r\nown\r\n",
        "-ERR x\r\n$400\r\n",
        "-ERR x\r\n*100000\r\n",
        "-ERR x\r\n>3\r\n$7\r\nmessage\r\n$400\r\n",
        "-ERR x\r\nthis is no RESP\r\n",
        "-ERR x\r\n-NOPERM x\r\n+INJECTED\r\n",
        "-BUSY x\r\n-BUSY x\r\n+INJECTED\r\n",
        "-ERR x\r\n-BUSY x\r\n",
        "-BUSY x\r\n-BUSY x\r\n-BUSY x\r\n$8\r\nINJECTED\r\n",
        "-BUSY x\r\n-BUSY x\r\n$400\r\n",
        "-BUSY x\r\n-BUSY x\r\n-ERR Syntax error in HELLO option '0123456789abcdef'\r\n",
    ] {
        let (server, open, _) = server(error);
        let respool = before(&server);
        let mut others = Vec::new();
        for round in 1..=3 {
            let mut scripts = ask_behind_script(&respool, &open, &mut others);
            for client in &mut others {
                assert_eq!(client.try_reply(), Some(Value::bulk("own")), "{error:?}");
            }
            assert!(scripts.reply().is_error());
            assert_eq!(scripts.cmd(&["GET", "k"]), Value::bulk("own"));
            let dropped = respool.metric("respool_dropped_texts_total");
            assert_eq!(dropped, f64::from(round), "{error:?}");
        }
        assert_eq!(respool.metric_or_zero(LOST), 0.0, "{error:?}");
        assert_eq!(respool.pins("raw_error"), 0.0, "scripts share on");
    }
}

#[test]
fn a_script_raises_what_it_likes_on_a_real_server_too() {
    let redis = Redis::start(&[]);
    let respool = on_one_connection(&redis);
    let mut others = others(&respool);
    for script in [
        "error('x\\r\\n$8\\r\\nINJECTED\\r\\n+')",
        "error('x\\r\\n>2\\r\\n+a\\r\\n$400\\r\\n')",
        "error({err='x\\r\\n-NOPERM no\\r\\n+'})",
        "return redis.error_reply('x\\r\\n$8\\r\\nINJECTED\\r\\n+')",
        "return {err='x\\r\\n+INJECTED'}",
        "return {ok='x\\r\\n+INJECTED'}",
        "return {1, {err='x\\r\\n+INJECTED'}, {ok='x\\r\\n+INJECTED'}}",
        "return redis.call('x\\r\\n+INJECTED')",
        "local t = {} t['x\\r\\n$100\\r\\n']()",
    ] {
        let (mut slow, mut hostile) = (respool.client(), respool.client());
        let ended = look_on(&mut others, || {
            slow.send(busy_script());
            hostile.send(encode(&["EVAL", script, "0"]));
            hostile.send(encode(&["EVAL_RO", script, "0"]));
        });
        assert_eq!(ended, (0, 0), "{script}");
        assert_eq!(slow.reply(), Value::Int(1));
        hostile.reply();
        hostile.reply();
        assert_eq!(hostile.cmd(&["GET", "own:1"]), Value::bulk("own:1"));
    }
    let library = "#!lua name=l\nredis.register_function('f', function() error('x\\r\\n+INJECTED\\r\\n') end)";
    if !redis.cmd(&["FUNCTION", "LOAD", library]).is_error() {
        let mut hostile = respool.client();
        let ended = look_on(&mut others, || hostile.send(encode(&["FCALL", "f", "0"])));
        assert_eq!(ended, (0, 0));
        assert!(hostile.reply().is_error());
    }
    assert_eq!(respool.metric_or_zero(LOST), 0.0);
    assert_eq!(respool.pins("raw_error"), 0.0);
}

#[test]
fn a_script_and_its_fence_that_are_answered_busy_cut_off_nobody() {
    let is_busy_reply = |reply: &Value| reply.is_error() && reply.text().starts_with("BUSY ");
    // Behind the script's own BUSY, and behind an answer that it had before another one began.
    for script in [BUSY, ":1\r\n"] {
        let (server, open, is_busy) = server(script);
        let respool = before(&server);
        let mut others = Vec::new();
        for _ in 0..3 {
            is_busy.store(true, Ordering::SeqCst);
            let mut scripts = ask_behind_script(&respool, &open, &mut others);
            for client in &mut others {
                let reply = client.reply();
                assert!(is_busy_reply(&reply), "{script:?}: {reply:?}");
            }
            let reply = scripts.reply();
            assert!(is_busy_reply(&reply) || reply == Value::Int(1), "{reply:?}");
            is_busy.store(false, Ordering::SeqCst);
            for client in others.iter_mut().chain([&mut scripts]) {
                assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("own"));
            }
        }
        assert_eq!(respool.metric_or_zero(LOST), 0.0);
        assert_eq!(respool.pins("raw_error"), 0.0, "nobody is to blame");
    }
}

#[test]
fn text_that_a_script_raises_reaches_nobody_while_the_server_is_busy_either() {
    for error in [
        "-BUSY x\r\n+INJECTED\r\n",
        "-BUSY x\r\n-BUSY x\r\n+INJECTED\r\n",
        "-BUSY x\r\n-BUSY x\r\n$90\r\n",
        // It would swallow the refusal of the fence, and one reply.
        "-BUSY x\r\n-BUSY x\r\n*3\r\n+INJECTED\r\n",
    ] {
        let (server, open, is_busy) = server(error);
        let respool = before(&server);
        let mut others = Vec::new();
        is_busy.store(true, Ordering::SeqCst);
        ask_behind_script(&respool, &open, &mut others);
        for client in &mut others {
            let reply = client.try_reply();
            let is_own = |reply: &Value| reply.is_error() && reply.text().starts_with("BUSY Redis");
            assert!(reply.as_ref().is_none_or(is_own), "{error:?}: {reply:?}");
        }
        let mut next = respool.client();
        is_busy.store(false, Ordering::SeqCst);
        assert_eq!(next.cmd(&["GET", "k"]), Value::bulk("own"));
    }
}

#[test]
fn scripts_that_stand_behind_an_endless_one_cut_off_nobody() {
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    let respool = on_one_connection(&redis);
    let mut others = others(&respool);
    let mut scripts: Vec<Client> = (0..6).map(|_| respool.client()).collect();
    scripts.iter_mut().for_each(Client::ping);
    let mut direct = redis.client();
    direct.send(encode(&["EVAL", "while true do end", "0"]));
    for (number, client) in others.iter_mut().enumerate() {
        client.send(encode(&["GET", &format!("own:{number}")]));
        if let Some(scripts) = scripts.get_mut(number) {
            scripts.send(encode(&["EVAL", "return 1", "0"]));
        }
    }
    for client in others.iter_mut().chain(&mut scripts) {
        let reply = client.reply();
        let is_early = !reply.is_error();
        assert!(is_early || reply.text().starts_with("BUSY"), "{reply:?}");
    }
    assert_eq!(redis.client().cmd(&["SCRIPT", "KILL"]), Value::ok());
    for client in others.iter_mut().chain(&mut scripts) {
        eventually(
            || client.cmd(&["EVAL", "return 7", "0"]) == Value::Int(7),
            "the server serves again",
        );
    }
    assert_eq!(respool.metric_or_zero(LOST), 0.0);
    assert_eq!(respool.pins("raw_error"), 0.0);
}

#[test]
fn scripts_share_connections_where_echo_is_refused() {
    // Behind an error the fence must be answered.
    for script in [":1\r\n", "-ERR x\r\n"] {
        let (server, open, _) = server(script);
        let respool = before(&server);
        let mut others = Vec::new();
        for _ in 0..2 {
            let mut scripts = ask_behind_script(&respool, &open, &mut others);
            for client in &mut others {
                assert_eq!(client.try_reply(), Some(Value::bulk("own")), "{script:?}");
            }
            assert_eq!(scripts.reply().is_error(), script.starts_with('-'));
        }
        assert_eq!(respool.pins("raw_error"), 0.0);
    }
    // By its name, too.
    let redis = Redis::start(&["--rename-command", "ECHO", ""]);
    let respool = on_one_connection(&redis);
    let mut others = super::others(&respool);
    let mut scripts = respool.client();
    for script in ["return 1", "return redis.error_reply('x')"] {
        let ended = look_on(&mut others, || {
            scripts.send(encode(&["EVAL", script, "0"]));
        });
        assert_eq!(ended, (0, 0), "{script}");
        scripts.reply();
    }
    assert_eq!(respool.pins("raw_error"), 0.0);
}

#[test]
fn scripts_of_a_user_who_may_not_ping_are_lent_connections() {
    let redis = Redis::start(&[]);
    let rules = ["on", ">p", "~*", "&*", "+@all", "-ping"];
    let made = redis.cmd(&[&["ACL", "SETUSER", "mute"][..], &rules].concat());
    assert_eq!(made, Value::ok());
    let respool = on_one_connection(&redis);
    let mut others = others(&respool);
    let mut scripts = respool.client();
    for client in others.iter_mut().chain([&mut scripts]) {
        assert_eq!(client.cmd(&["AUTH", "mute", "p"]), Value::ok());
    }
    for _ in 0..3 {
        let ended = look_on(&mut others, || {
            scripts.send(encode(&["EVAL", "return 1", "0"]));
        });
        assert_eq!(ended, (0, 0));
        assert_eq!(scripts.reply(), Value::Int(1));
    }
    // The first has told, and costs nobody anything.
    assert_eq!(respool.pins("raw_error"), 2.0);
    let error = "error('x\\r\\n-NOPERM no\\r\\n+')";
    let ended = look_on(&mut others, || {
        scripts.send(encode(&["EVAL", error, "0"]));
    });
    assert_eq!(ended, (0, 0));
    assert!(scripts.reply().is_error());
}

#[test]
fn a_push_that_nobody_asked_for_ends_its_connection_at_once() {
    // It would swallow what a thousand requests are answered.
    let server = ScriptedServer::start(|words| match words[0].as_str() {
        "get" if words[1] == "odd" => ScriptedAct::Say(">1000\r\n"),
        "get" => ScriptedAct::Say("$3\r\nown\r\n"),
        _ => ScriptedAct::Usual,
    });
    let respool = before(&server);
    let protocol = "respool_upstream_losses_total{cause=\"protocol\"}";
    let mut losses = 0.0;
    for is_lent in [false, true] {
        let mut odd = respool.client();
        if is_lent {
            assert_eq!(odd.cmd(&["WATCH", "k"]), Value::ok());
        }
        odd.send(encode(&["GET", "odd"]));
        odd.expect_end();
        losses += 1.0;
        eventually(
            || respool.metric_or_zero(protocol) == losses,
            "the connection has ended for what came on it",
        );
        assert_eq!(respool.client().cmd(&["GET", "k"]), Value::bulk("own"));
    }
}

#[test]
fn frames_that_never_end_do_not_keep_lent_connections() {
    let server = ScriptedServer::start(|words| match words[0].as_str() {
        "eval" => ScriptedAct::Say("-ERR x\r\n$400\r\n"),
        _ => ScriptedAct::Usual,
    });
    let respool = Respool::before(server.addr())
        .top("workers = 1")
        .upstream(
            "max_connections = 6\nshared_connections = 1\nconnect_timeout = \"60s\"\nborrow_timeout = \"60s\"",
        )
        .start();
    let mut hostile: Vec<Client> = (0..5).map(|_| respool.client()).collect();
    let script = ["EVAL", "error('x')", "0"];
    for client in &mut hostile {
        let words: [&[&str]; 3] = [&["WATCH", "k"], &script, &["GET", "k"]];
        client.send(words.map(encode).concat());
    }
    for client in &mut hostile {
        assert_eq!(client.reply(), Value::ok());
        assert!(client.reply().is_error());
    }
    // Not half-closed, as one that still reads.
    hostile.into_iter().for_each(Client::abort);
    let mut others: Vec<Client> = (0..5).map(|_| respool.client()).collect();
    for client in &mut others {
        client.send(encode(&["WATCH", "k"]));
    }
    for client in &mut others {
        let reply = client.reply_within(Duration::from_secs(15));
        assert_eq!(reply, Some(Value::ok()), "long before anything is given up");
    }
}

#[test]
fn what_a_script_has_written_answers_no_question_of_respools_own() {
    // What has arrived by the time of the next question is its answer, and not that of the SELECT behind it.
    let server = ScriptedServer::start(|words| match (words[0].as_str(), words.len()) {
        ("eval", _) => ScriptedAct::Say("-ERR x\r\n"),
        ("ping", 2) => ScriptedAct::Say("+OK\r\n"),
        _ => ScriptedAct::Usual,
    });
    let respool = before(&server);
    for request in [&["SELECT", "5"][..], &["HELLO", "3"], &["AUTH", "u", "p"]] {
        let mut client = respool.client();
        assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
        assert!(client.cmd(&["EVAL", "error('x')", "0"]).is_error());
        client.send(encode(request));
        assert_eq!(client.try_reply(), None, "{request:?}");
    }
    // Where nothing was written it is as ever.
    let redis = Redis::start(&[]);
    let respool = on_one_connection(&redis);
    let mut client = respool.client();
    assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
    assert!(client.cmd(&["EVAL", "error('x')", "0"]).is_error());
    assert_eq!(client.cmd(&["SELECT", "5"]), Value::ok());
    assert_eq!(client.cmd(&["EVAL", "return 1", "0"]), Value::Int(1));
    assert_eq!(client.cmd(&["SELECT", "6"]), Value::ok());
    assert_eq!(client.cmd(&["SET", "k", "six"]), Value::ok());
    let mut direct = redis.client();
    assert_eq!(direct.cmd(&["SELECT", "6"]), Value::ok());
    assert_eq!(direct.cmd(&["GET", "k"]), Value::bulk("six"));
}
