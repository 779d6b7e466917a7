//! Clients that say that they send nothing more: they are due every answer to what they have asked, whatever state they are in.

use crate::harness::{Client, Redis, Respool, Value, encode, encode_line, eventually, show};

/// Takes longer than the shortest grace here, and less than any reply may.
const SLOW: &str = "local t = 0 for i = 1, 3e7 do t = t + i end return 'slow'";

fn requests(lines: &[&str]) -> Vec<u8> {
    let words = |line: &&str| match line.strip_prefix("SLOW") {
        Some(_) => encode(&["EVAL", SLOW, "0"]),
        None => encode_line(line),
    };
    lines.iter().flat_map(words).collect()
}

/// Lets the client be answered `lines`, one after the other.
fn prepared(mut client: Client, lines: &[&str]) -> Client {
    for line in lines {
        client.send(requests(&[line]));
        client.reply_bytes();
    }
    client
}

/// Sends `lines` in one write, says that nothing more will come, and reads everything.
fn half_closed(mut client: Client, lines: &[&str]) -> String {
    client.send(requests(lines));
    client.finish_sending();
    show(&client.read_to_end())
}

/// Lists what makes a client's connection carry messages. In RESP2 it is not subscribed any more, and may send anything; its
/// connection carries messages all the same.
fn amid_messages(protocol: &str) -> Vec<String> {
    let mut lines = vec![format!("HELLO {protocol}")];
    lines.extend(["MULTI", "SUBSCRIBE c", "EXEC"].map(str::to_owned));
    if protocol == "2" {
        lines.push("UNSUBSCRIBE c".to_owned());
    }
    lines
}

/// Checks that all of `cases` are answered as directly, behind each of `states`.
fn are_answered_as_directly(
    redis: &Redis,
    respool: &Respool,
    states: &[Vec<String>],
    cases: &[&[&str]],
) {
    for state in states {
        let state: Vec<&str> = state.iter().map(String::as_str).collect();
        for lines in cases {
            redis.flush();
            let direct = half_closed(prepared(redis.client(), &state), lines);
            redis.flush();
            let through = half_closed(prepared(respool.client(), &state), lines);
            assert_eq!(through, direct, "{state:?}: {lines:?}");
        }
    }
}

#[test]
fn what_was_sent_amid_messages_is_answered() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("half_closed_grace = \"2s\"")
        .start();
    let popped: &[&str] = &["RPUSH l x", "LPOP l"];
    let states = ["2", "3"].map(amid_messages);
    are_answered_as_directly(
        &redis,
        &respool,
        &states,
        &[
            popped,
            popped,
            popped,
            popped,
            &["SLOW", "RPUSH l x", "LPOP l"],
            &["MULTI", "SLOW", "RPUSH l x", "LPOP l", "EXEC", "ECHO a"],
            &["MULTI", "RPUSH l x", "LPOP l"],
            &["SUBSCRIBE d", "UNSUBSCRIBE d", "RPUSH l x", "LPOP l"],
            &["RPUSH l x", "BLPOP l 0", "ECHO a"],
            &["RPUSH l x", "LPOP l", "BLPOP none 0"],
        ],
    );
    // In the same write as what makes it so.
    let begun = &["MULTI", "SUBSCRIBE c", "EXEC", "UNSUBSCRIBE c"];
    let lines: Vec<&str> = [begun, &["SLOW", "RPUSH l x", "LPOP l"][..]].concat();
    are_answered_as_directly(
        &redis,
        &respool,
        &[vec!["HELLO 3".to_owned()]],
        &[&lines, &lines],
    );
    // More than a socket takes at once.
    redis.cmd(&["SETRANGE", "large", "3000000", "x"]);
    for state in &states {
        let state: Vec<&str> = state.iter().map(String::as_str).collect();
        let mut client = prepared(respool.client(), &state);
        client.send(requests(&["GET large"]));
        client.finish_sending();
        assert_eq!(
            client.read_to_end().len(),
            3_000_001 + "$3000001\r\n\r\n".len()
        );
    }
}

#[test]
fn a_call_that_multi_has_queued_does_not_end_with_its_client() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let states = [
        vec![],
        vec!["WATCH k".to_owned()],
        vec!["HELLO 3".to_owned(), "CLIENT TRACKING ON".to_owned()],
    ];
    are_answered_as_directly(
        &redis,
        &respool,
        &states,
        &[
            &["MULTI", "INCR n", "BLPOP none 0", "EXEC"],
            &["MULTI", "BRPOPLPUSH a b 0", "EXEC", "ECHO a"],
            &["MULTI", "XREAD BLOCK 0 STREAMS s 0", "EXEC", "ECHO a"],
            &["MULTI", "FOO.BAR x", "ECHO a", "DISCARD", "ECHO b"],
            &["MULTI", "BLPOP none 0", "DISCARD", "ECHO a"],
            &[
                "CLIENT REPLY SKIP",
                "RPUSH l x",
                "MULTI",
                "BLPOP l 0",
                "EXEC",
            ],
        ],
    );
    // It is none of those that are shown as blocked, nor can it be unblocked.
    let mut client = prepared(respool.client(), &["MULTI"]);
    assert_eq!(client.cmd(&["BLPOP", "none", "0"]), Value::simple("QUEUED"));
    let list = respool.client().cmd(&["CLIENT", "LIST"]).text();
    assert!(list.contains(" multi=1 "), "{list}");
    assert!(!list.contains("flags=b"), "{list}");
    assert_eq!(client.cmd(&["EXEC"]).items().len(), 1);
}

#[test]
fn a_call_that_takes_nothing_and_need_not_wait_is_answered() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("half_closed_grace = \"20s\"")
        .start();
    let states = [vec![], vec!["WATCH k".to_owned()]];
    are_answered_as_directly(
        &redis,
        &respool,
        &states,
        &[
            &["SET k v", "WAIT 0 0", "ECHO a"],
            &["WAIT a 0", "ECHO a"],
            &["XADD s 1-1 a b", "XREAD BLOCK 0 STREAMS s 0", "ECHO a"],
        ],
    );
}

#[test]
fn who_waits_for_the_server_is_not_taken_for_one_who_waits_for_others() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 4\nshared_connections = 1\nborrow_timeout = \"60s\"")
        .limits("half_closed_grace = \"50ms\"")
        .start();
    // The connection of subscribers is there, and there are two to lend.
    let _subscriber = prepared(respool.client(), &["SUBSCRIBE c"]);
    let state = amid_messages("2");
    let state: Vec<&str> = state.iter().map(String::as_str).collect();
    for end in ["QUIT", "RESET", "CLIENT GETNAME", "ECHO b"] {
        let lines = ["RPUSH l x", "LPOP l", "SLOW", "ECHO a", end];
        let direct = half_closed(prepared(redis.client(), &state), &lines);
        let client = prepared(respool.client(), &state);
        let _holder = prepared(respool.client(), &["WATCH k"]);
        let mut other = respool.client();
        other.send(encode(&["WATCH", "k"]));
        let waits = other.reply_within(std::time::Duration::from_millis(100));
        assert_eq!(waits, None, "none is left to be lent");
        assert_eq!(half_closed(client, &lines), direct, "{end}");
        assert_eq!(other.reply(), Value::ok());
    }
}

#[test]
fn what_is_not_to_be_had_amid_messages_is_not_waited_for_without_end() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("reply_timeout = \"500ms\"\nbusy_timeout = \"500ms\"")
        .limits("half_closed_grace = \"50ms\"")
        .start();
    let state = amid_messages("2");
    let state: Vec<&str> = state.iter().map(String::as_str).collect();
    let leaves = |line: &str| {
        let mut client = prepared(respool.client(), &state);
        client.send(requests(&[line]));
        client.finish_sending();
        client
    };
    // A call that waits ends with its client.
    let mut client = leaves("BLPOP list 0");
    assert_eq!(show(&client.read_to_end()), "");
    eventually(|| respool.clients_of("default") == 0, "its place is back");
    eventually(
        || redis.info_number("blocked_clients") == 0,
        "the server waits for nobody",
    );
    assert_eq!(redis.cmd(&["RPUSH", "list", "x"]), Value::Int(1));
    assert_eq!(redis.cmd(&["LPOP", "list"]), Value::bulk("x"));
    // A server that says nothing.
    let prepared = prepared(respool.client(), &state);
    redis.pause();
    let mut client = prepared;
    client.send(requests(&["ECHO a"]));
    client.finish_sending();
    eventually(|| respool.clients_of("default") == 0, "its place is back");
    redis.resume();
    assert_eq!(show(&client.read_to_end()), "");
}

#[test]
fn what_is_shown_of_its_own_commands_is_due_to_a_monitor() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    for mut client in [redis.client(), respool.client(), respool.client()] {
        client.send(requests(&["MONITOR", "ECHO m"]));
        client.finish_sending();
        let all = String::from_utf8(client.read_to_end()).expect("text");
        assert!(all.contains("\"ECHO\" \"m\"\r\n"), "{all}");
        assert!(all.contains("$1\r\nm\r\n"), "{all}");
    }
}

#[test]
fn a_call_that_takes_an_element_which_is_there_is_answered() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let cases: &[&[&str]] = &[
        &["RPUSH l x", "BLPOP l 0", "ECHO a"],
        &["RPUSH l x", "BRPOP l 0"],
        &[
            "RPUSH l x y",
            "BLPOP l 0",
            "BLPOP l 0",
            "INCR n",
            "BLPOP none 0",
            "INCR n",
        ],
        &["RPUSH l x", "BLMOVE l m LEFT RIGHT 0", "LRANGE m 0 -1"],
        &["RPUSH l x", "BRPOPLPUSH l m 0", "BRPOP m 0"],
        &["ZADD z 1 x", "BZPOPMIN z 0", "EXISTS z"],
        &["ZADD z 1 x", "BZPOPMAX none z 0", "EXISTS z"],
        &[
            "XGROUP CREATE s g $ MKSTREAM",
            "XADD s 1-1 a b",
            "XREADGROUP GROUP g c BLOCK 0 STREAMS s >",
            "ECHO a",
        ],
        &["SELECT 3", "RPUSH l x", "BLPOP l 0", "SELECT 0", "EXISTS l"],
        &["SET l x", "BLPOP l 0", "ECHO a"],
        &["RPUSH 0 x", "BLPOP l 0 1", "ECHO a"],
    ];
    are_answered_as_directly(
        &redis,
        &respool,
        &[vec![], vec!["HELLO 3".to_owned()]],
        cases,
    );
    // Who has waited leaves what comes later to others.
    let mut client = respool.client();
    client.send(requests(&["BLPOP q 0", "INCR after"]));
    eventually(|| redis.info_number("blocked_clients") == 1, "it waits");
    client.finish_sending();
    assert!(client.read_to_end().is_empty());
    eventually(|| redis.info_number("blocked_clients") == 0, "nobody waits");
    assert_eq!(redis.cmd(&["RPUSH", "q", "x"]), Value::Int(1));
    assert_eq!(redis.cmd(&["LLEN", "q"]), Value::Int(1));
    assert_eq!(redis.cmd(&["EXISTS", "after"]), Value::Int(0));
}

#[test]
fn a_call_that_is_put_off_for_a_pause_ends_with_its_client() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("half_closed_grace = \"2s\"")
        .start();
    let mut other = respool.client();
    other.cmd(&["RPUSH", "q", "a"]);
    assert_eq!(
        other.cmd(&["CLIENT", "PAUSE", "60000", "WRITE"]),
        Value::ok()
    );
    let mut client = respool.client();
    client.send(requests(&["BLPOP q 0"]));
    eventually(
        || respool.metric("respool_blocked_clients") == 1.0,
        "the call is under way",
    );
    drop(client);
    eventually(
        || respool.clients_of("default") == 1,
        "nobody is left but the other",
    );
    assert_eq!(other.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    // What was popped by then goes back.
    eventually(
        || other.cmd(&["LLEN", "q"]) == Value::Int(1),
        "the element is there",
    );
}

#[test]
fn a_call_is_answered_where_a_pause_is_over_without_respools_knowing() {
    let redis = Redis::start(&[]);
    // So long that no test waits for it.
    let respool = Respool::with(&redis)
        .limits("half_closed_grace = \"60s\"")
        .start();
    let mut other = respool.client();
    other.cmd(&["RPUSH", "q", "a", "b"]);
    assert_eq!(
        other.cmd(&["CLIENT", "PAUSE", "60000", "WRITE"]),
        Value::ok()
    );
    assert_eq!(redis.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    for element in ["a", "b"] {
        let read = half_closed(respool.client(), &["BLPOP q 0"]);
        assert!(read.ends_with(&format!("{element}\\r\\n")), "{read}");
    }
}

#[test]
fn a_server_that_says_nothing_keeps_nobody_who_has_finished_sending() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("reply_timeout = \"500ms\"\nbusy_timeout = \"500ms\"")
        .start();
    for call in [&["BLPOP", "none", "0"][..], &["NO.SUCH", "x"]] {
        let mut client = prepared(respool.client(), &["WATCH k"]);
        redis.pause();
        client.send(encode(call));
        client.finish_sending();
        assert!(client.read_to_end().is_empty(), "{call:?}");
        eventually(|| respool.clients_of("default") == 0, "its place is back");
        redis.resume();
        eventually(
            || respool.metric("respool_server_up") == 1.0,
            "the server is seen again",
        );
    }
}

#[test]
fn an_element_is_not_lost_for_who_has_finished_sending() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).start();
    for state in ["WATCH w", "CLIENT TRACKING ON"] {
        let mut client = prepared(respool.client(), &[state]);
        let lines = ["RPUSH q a b", "BLPOP q 0", "LRANGE q 0 -1"];
        let words = |line: &&str| encode_line(line);
        client.send(lines.iter().flat_map(words).collect::<Vec<u8>>());
        client.finish_sending();
        let read = client.read_to_end();
        let is_told = read.windows(3).any(|bytes| bytes == b"\r\na");
        eventually(
            || redis.cmd(&["LLEN", "q"]) == Value::Int(2 - i64::from(is_told)),
            "it is told, or back",
        );
        redis.flush();
    }
}

/// Has one client after the other leave behind a call that takes an element, as `pops` whose password is the number of it;
/// `meanwhile` is done when it has logged in. As often as 20 of the elements have come for one who had left: each is back, and
/// counted so.
#[track_caller]
fn elements_of_those_who_have_left_go_back(
    (redis, respool): (&Redis, &Respool),
    user: &[&str],
    mut meanwhile: impl FnMut(),
) {
    let mut told = Vec::new();
    let count = |what| respool.metric_or_zero(&format!("respool_{what}_elements_total"));
    while count("returned") + count("orphaned") < 20.0 {
        let number = told.len();
        let key = format!("q{number}");
        let login = format!("AUTH pops {number}");
        let secret = format!(">{number}");
        let user = [
            &["ACL", "SETUSER", "pops", "on", "resetpass", &secret],
            user,
        ]
        .concat();
        assert_eq!(redis.cmd(&user), Value::ok());
        redis.cmd(&["RPUSH", &key, "a"]);
        let mut client = prepared(respool.client(), &[&login, "WATCH w"]);
        meanwhile();
        let call = [format!("BLPOP {key} 0"), format!("LLEN {key}")];
        client.send(requests(&call.each_ref().map(String::as_str)));
        client.finish_sending();
        let read = client.read_to_end();
        told.push(read.windows(3).any(|bytes| bytes == b"\r\na"));
        assert!(told.len() < 20_000, "it never comes for one who has left");
    }
    for (number, is_told) in told.into_iter().enumerate() {
        let there = Value::Int(i64::from(!is_told));
        eventually(
            || redis.cmd(&["LLEN", &format!("q{number}")]) == there,
            "it is told, or back",
        );
    }
    assert_eq!(count("orphaned"), 0.0);
}

#[test]
fn an_element_goes_back_that_its_client_may_not_put_back() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).start();
    let user = ["~*", "&*", "+@all", "-lpush", "-rpush"];
    elements_of_those_who_have_left_go_back((&redis, &respool), &user, || ());
}

#[test]
fn an_element_goes_back_whose_user_may_not_log_in_any_more() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 4\nshared_connections = 1")
        .start();
    let mut others = respool.client();
    elements_of_those_who_have_left_go_back((&redis, &respool), &["~*", "&*", "+@all"], || {
        // The shared connection is not its user's.
        let off = ["ACL", "SETUSER", "pops", "resetpass", ">other"];
        assert_eq!(redis.cmd(&off), Value::ok());
        assert!(!others.cmd(&["GET", "none"]).is_error());
    });
}

/// The last of it has come, and the end of what its client sends, while it waits for what a message of this size may do to subscribers.
#[test]
fn a_large_message_of_who_has_finished_sending_is_published() {
    let redis = Redis::start(&[]);
    let limits = [
        "CONFIG",
        "SET",
        "client-output-buffer-limit",
        "pubsub 2mb 1mb 60",
    ];
    assert_eq!(redis.cmd(&limits), Value::ok());
    let respool = Respool::with(&redis).top("workers = 1").start();
    let message = "x".repeat(30_000_000);
    let requests = [
        encode(&["GET", "a"]),
        encode(&["PUBLISH", "c", message.as_str()]),
    ]
    .concat();
    for round in 0..8 {
        let mut client = respool.client();
        client.send(&requests);
        client.finish_sending();
        assert!(client.reply().is_null());
        let published = client.try_reply();
        assert_eq!(published, Some(Value::Int(0)), "{round}");
    }
}
