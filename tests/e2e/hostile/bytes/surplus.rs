//! Errors with line ends in them: what comes behind is nobody's.

use super::{busy_script, look_on, on_one_connection, others};
use crate::harness::{Redis, Value, encode, eventually};

/// Lists libraries whose compile error repeats text of theirs as it is.
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
        assert!(respool.pins("raw_error") >= 1.0);
    }
}

/// Lists scripts whose first line has options that are refused, and repeated as they are.
const BROKEN_LINES: [&str; 2] = [
    "#!lua \"x\\r\\n$4\\r\\nEVIL\"\nreturn 1",
    "#!lua \"x\\r\\n+OK\\r\\n*2\\r\\n:1\"\nreturn 1",
];

#[test]
fn text_of_one_clients_script_never_answers_another() {
    let redis = Redis::start(&[]);
    let words: [&[&str]; 4] = [
        &["SCRIPT", "LOAD"],
        &["script", "Load"],
        &["EVAL"],
        &["EVAL_RO"],
    ];
    for (script, words) in BROKEN_LINES
        .iter()
        .flat_map(|s| words.map(|words| (*s, words)))
    {
        let mut request = words.to_vec();
        request.push(script);
        if words.len() == 1 {
            request.push("0");
        }
        let respool = on_one_connection(&redis);
        let mut others = others(&respool);
        let (mut slow, mut hostile) = (respool.client(), respool.client());
        let (wrong, lost) = look_on(&mut others, || {
            slow.send(busy_script());
            hostile.send(encode(&request));
        });
        assert_eq!((wrong, lost), (0, 0), "{request:?}");
        hostile.reply();
        assert_eq!(slow.reply(), Value::Int(1));
        assert_eq!(hostile.cmd(&["SET", "mine", "1"]), Value::ok());
        assert_eq!(hostile.cmd(&["GET", "mine"]), Value::bulk("1"));
        let (wrong, lost) = look_on(&mut others, || {
            slow.send(busy_script());
            let block = [encode(&["MULTI"]), encode(&request), encode(&["EXEC"])];
            hostile.send(block.concat());
        });
        assert_eq!((wrong, lost), (0, 0), "in a transaction: {request:?}");
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
    let lent = respool.pins("raw_error");
    assert_eq!(other.cmd(&["EVAL", "return 1", "0"]), Value::Int(1));
    assert_eq!(hostile.cmd(&["EVAL", "return 1", "0"]), Value::Int(1));
    // They share a connection as before: nobody has to wait for one of his own.
    assert_eq!(respool.pins("raw_error"), lent);
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
    assert_eq!(respool.pins("multi"), 1.0);
    let mut next = respool.client();
    assert_eq!(next.cmd(&["WATCH", "k"]), Value::ok());
    assert_eq!(next.cmd(&["GET", "own:1"]), Value::bulk("own:1"));
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
    assert_eq!(respool.pins("unlisted"), 1.0);
}
