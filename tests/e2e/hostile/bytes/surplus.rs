//! Errors with line ends in them: what comes behind is nobody's.

use std::sync::mpsc::{Sender, channel};

use super::{busy_script, look_on, on_one_connection, others, pins};
use crate::harness::{Act, Redis, Respool, Scripted, Value, encode, eventually};

/// Libraries whose compile error repeats text of theirs as it is.
const BROKEN: [&str; 3] = [
    "#!lua name=l\nlocal x = 'a' 'b\\r\\n$8\\r\\nINJECTED\\r\\n+'",
    "#!lua name=l\nlocal x = 'a' [[b\n+INJECTED\n+]]",
    "#!lua name=l\nlocal x = 'a' 'b\\r\\n$1000\\r\\n'",
];

fn has_functions(redis: &Redis) -> bool {
    !redis.cmd(&["FUNCTION", "LIST"]).is_error()
}

#[test]
fn text_of_one_clients_library_never_answers_another() {
    let redis = Redis::start(&[]);
    if !has_functions(&redis) {
        return;
    }
    for library in BROKEN {
        let respool = on_one_connection(&redis);
        let mut others = others(&respool);
        let (mut slow, mut hostile) = (respool.client(), respool.client());
        let (wrong, lost) = look_on(&mut others, || {
            slow.send(busy_script());
            hostile.send(encode(&["FUNCTION", "LOAD", library]));
        });
        assert_eq!((wrong, lost), (0, 0), "{library:?}");
        assert!(hostile.reply().is_error());
        assert_eq!(slow.reply(), Value::Int(1));
        // Its client goes on, and only with what is its own.
        assert_eq!(hostile.cmd(&["SET", "mine", "1"]), Value::ok());
        assert_eq!(hostile.cmd(&["GET", "mine"]), Value::bulk("1"));
        assert!(pins(&respool, "raw_error") >= 1.0);
    }
}

#[test]
fn a_connection_that_carried_such_an_error_is_never_lent_again() {
    let redis = Redis::start(&[]);
    if !has_functions(&redis) {
        return;
    }
    let respool = on_one_connection(&redis);
    let mut client = respool.client();
    let lent = || {
        let list = redis.cmd(&["CLIENT", "LIST"]).text();
        let pinned = list.lines().filter(|line| line.contains(":pinned:"));
        pinned
            .filter_map(|line| line.split(' ').next().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let good = "#!lua name=good\nredis.register_function('f', function() return 1 end)";
    assert_eq!(
        client.cmd(&["FUNCTION", "LOAD", "REPLACE", good]),
        Value::bulk("good")
    );
    let kept = lent();
    assert_eq!(kept.len(), 1, "after a success it is kept");
    assert_eq!(
        client.cmd(&["function", "load", "replace", good]),
        Value::bulk("good")
    );
    assert_eq!(lent(), kept);
    for request in [
        encode(&["FUNCTION", "LOAD", BROKEN[0]]),
        encode(&["function", "Load", "REPLACE", BROKEN[1]]),
        format!("FUNCTION LOAD \"{}\"\r\n", BROKEN[0].replace('\n', "\\n")).into_bytes(),
    ] {
        let before = lent();
        client.send(request);
        assert!(client.reply().is_error());
        eventually(
            || lent().iter().all(|id| !before.contains(id)),
            "the connection is closed",
        );
        assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
        assert_eq!(client.cmd(&["UNWATCH"]), Value::ok());
    }
}

#[test]
fn such_an_error_that_writes_a_push_is_no_offence_of_everybodys_scripts() {
    let redis = Redis::start(&[]);
    if !has_functions(&redis) {
        return;
    }
    let respool = on_one_connection(&redis);
    let (mut hostile, mut other) = (respool.client(), respool.client());
    for behind in ["+", ""] {
        let library =
            format!("#!lua name=l\nlocal x = 'a' 'b\\r\\n>2\\r\\n+message\\r\\n{behind}'");
        assert!(hostile.cmd(&["FUNCTION", "LOAD", &library]).is_error());
        hostile.ping();
    }
    let lent = pins(&respool, "raw_error");
    assert_eq!(other.cmd(&["EVAL", "return 1", "0"]), Value::Int(1));
    assert_eq!(hostile.cmd(&["EVAL", "return 1", "0"]), Value::Int(1));
    // They share a connection as before: nobody has to wait for one of his own.
    assert_eq!(pins(&respool, "raw_error"), lent);
}

#[test]
fn such_an_error_inside_a_transaction_reaches_its_own_client_alone() {
    let redis = Redis::start(&[]);
    if !has_functions(&redis) {
        return;
    }
    let respool = on_one_connection(&redis);
    let mut others = others(&respool);
    let (mut slow, mut hostile) = (respool.client(), respool.client());
    let (wrong, lost) = look_on(&mut others, || {
        slow.send(busy_script());
        let block = [
            encode(&["MULTI"]),
            encode(&["FUNCTION", "LOAD", BROKEN[0]]),
            encode(&["EXEC"]),
        ];
        hostile.send(block.concat());
    });
    assert_eq!((wrong, lost), (0, 0));
    assert_eq!(hostile.reply(), Value::ok());
    assert_eq!(hostile.reply(), Value::simple("QUEUED"));
    assert!(hostile.reply().items()[0].is_error());
    assert_eq!(pins(&respool, "multi"), 1.0);
    let mut next = respool.client();
    assert_eq!(next.cmd(&["WATCH", "k"]), Value::ok());
    assert_eq!(next.cmd(&["GET", "own:1"]), Value::bulk("own:1"));
}

/// Answers as Redis 8.2 does to a script that raises an error with line ends in it, once it is let.
fn server_that_repeats(error: &'static str) -> (Scripted, Sender<()>) {
    let (open, gate) = channel();
    let server = Scripted::start(move |words| match words[0].as_str() {
        "eval" => {
            // All who ask meanwhile stand behind it.
            let _ = gate.recv();
            Act::Say(error)
        }
        "get" => Act::Say("$3\r\nown\r\n"),
        _ => Act::Usual,
    });
    (server, open)
}

#[test]
fn a_script_that_raises_more_than_a_line_ends_its_connection_before_others_read_from_it() {
    for error in [
        "-ERR x\r\n$8\r\nINJECTED\r\n+ script: f, on @user_script:1.\r\n",
        "-ERR x\r\n$16\r\n0123456789abcdef\r\n+ script: f\r\n",
        "-ERR x\r\n$400\r\n",
        "-ERR x\r\n-NOPERM x\r\n",
        "-ERR x\r\n-BUSY x\r\n",
        "-BUSY x\r\n-BUSY x\r\n-BUSY x\r\n$8\r\nINJECTED\r\n",
        "-BUSY x\r\n-BUSY x\r\n$400\r\n",
        "-BUSY x\r\n-BUSY x\r\n-ERR unknown command 'respool-0123456789abcdef'\r\n",
    ] {
        let (server, open) = server_that_repeats(error);
        let respool = Respool::before(server.addr())
            .top("workers = 1")
            .upstream("max_connections = 6\nshared_connections = 1")
            .start();
        let commands = || respool.metric_or_zero("respool_client_commands_total");
        let mut others: Vec<_> = (0..10).map(|_| respool.client()).collect();
        let mut hostile = respool.client();
        let before = commands();
        hostile.send(encode(&["EVAL", "error('x')", "0"]));
        eventually(|| commands() >= before + 1.0, "the script is sent");
        others
            .iter_mut()
            .for_each(|client| client.send(encode(&["GET", "k"])));
        eventually(|| commands() >= before + 11.0, "the others' are sent");
        open.send(()).expect("the server is there");
        for client in &mut others {
            let reply = client.try_reply();
            assert!(
                reply.is_none() || reply == Some(Value::bulk("own")),
                "{error:?}: {reply:?}"
            );
        }
        assert!(hostile.try_reply().is_none_or(|reply| reply.is_error()));
        // Once is enough: scripts of this user have connections of their own from now on.
        let mut bystander = respool.client();
        for _ in 0..3 {
            let mut again = respool.client();
            open.send(()).expect("the server is there");
            again.send(encode(&["EVAL", "error('x')", "0"]));
            assert!(again.try_reply().is_none_or(|reply| reply.is_error()));
            assert_eq!(bystander.cmd(&["GET", "k"]), Value::bulk("own"));
        }
        assert_eq!(pins(&respool, "raw_error"), 3.0);
    }
}

#[test]
fn a_script_that_raises_what_it_likes_never_answers_another() {
    let redis = Redis::start(&[]);
    let respool = on_one_connection(&redis);
    let mut others = others(&respool);
    for script in [
        "error('x\\r\\n$8\\r\\nINJECTED\\r\\n+')",
        "return redis.error_reply('x\\r\\n$8\\r\\nINJECTED\\r\\n+')",
        "local t = {} t['x\\r\\n$100\\r\\n']()",
    ] {
        let (mut slow, mut hostile) = (respool.client(), respool.client());
        let (wrong, _) = look_on(&mut others, || {
            slow.send(busy_script());
            hostile.send(encode(&["EVAL", script, "0"]));
        });
        assert_eq!(wrong, 0, "{script}");
        others = super::others(&respool);
    }
}

#[test]
fn a_command_that_the_server_does_not_list_leaves_nothing_on_a_shared_connection() {
    let redis = Redis::start(&[
        "--rename-command",
        "MULTI",
        "TX",
        "--rename-command",
        "CLIENT",
        "CL",
    ]);
    if redis.cmd(&["CL", "ID"]).is_error() {
        panic!("it is renamed");
    }
    drop(redis);
    let redis = Redis::start(&["--rename-command", "MULTI", "TX"]);
    let respool = on_one_connection(&redis);
    let mut others = others(&respool);
    let mut hostile = respool.client();
    let (wrong, lost) = look_on(&mut others, || hostile.send(encode(&["TX"])));
    assert_eq!(hostile.reply(), Value::ok());
    assert_eq!((wrong, lost), (0, 0));
    assert_eq!(look_on(&mut others, || ()), (0, 0));
    assert_eq!(pins(&respool, "unlisted"), 1.0);
}
