//! Clients that leave a call that waits, on a connection that carries messages: the call ends with them, as it does at the server.

use crate::harness::{Client, Pki, Redis, Respool, Value, encode_lines, eventually, needs, show};

use super::tls::upstream_tls;

/// Lets the client's connection carry messages. In RESP2 it is not subscribed any more, and may send anything; its connection
/// carries messages all the same.
fn amid_messages(mut client: Client, protocol: &str) -> Client {
    client.cmd(&["HELLO", protocol]);
    let begun: &[&str] = match protocol {
        "2" => &["MULTI", "SUBSCRIBE c", "EXEC", "UNSUBSCRIBE c"],
        _ => &["MULTI", "SUBSCRIBE c", "EXEC"],
    };
    for line in begun {
        client.send(encode_lines(&[line]));
        client.reply_bytes();
    }
    client
}

/// Lists what calls take from, and what stands behind them.
const KEYS: [&str; 5] = ["l", "m", "z", "s", "after"];

/// Lets a client send `lines`, the first of which waits, and leaves; then others bring what it waited for. Returns what it has read, and
/// what is there in the end.
fn left(
    redis: &Redis,
    mut client: Client,
    lines: &[&str],
    is_half_closed: bool,
) -> (String, Vec<Value>) {
    let mut other = redis.client();
    other.cmd(&["FLUSHALL"]);
    other.cmd(&["XGROUP", "CREATE", "s", "g", "$", "MKSTREAM"]);
    client.send(encode_lines(lines));
    eventually(|| redis.info_number("blocked_clients") == 1, "it waits");
    let read = match is_half_closed {
        true => {
            client.finish_sending();
            show(&client.read_to_end())
        }
        false => {
            drop(client);
            String::new()
        }
    };
    eventually(|| redis.info_number("blocked_clients") == 0, "nobody waits");
    for line in ["RPUSH l a", "ZADD z 1 a", "XADD s 1-1 a a"] {
        other.send(encode_lines(&[line]));
        other.reply_bytes();
    }
    let mut there: Vec<Value> = KEYS.iter().map(|key| other.cmd(&["EXISTS", key])).collect();
    // Nothing of it is pending for a consumer.
    let pending = other.cmd(&["XPENDING", "s", "g"]);
    there.push(pending.items()[0].clone());
    (read, there)
}

const CALLS: [&str; 6] = [
    "BLPOP l 0",
    "BRPOPLPUSH l m 0",
    "BLMOVE l m LEFT RIGHT 0",
    "BZPOPMIN z 0",
    "XREADGROUP GROUP g c BLOCK 0 STREAMS s >",
    "XREAD BLOCK 0 STREAMS s $",
];

#[test]
fn a_call_ends_with_its_client_and_nothing_behind_it_runs() {
    let redis = Redis::start(&[]);
    // So long that no test waits for it.
    let respool = Respool::with(&redis)
        .limits("half_closed_grace = \"60s\"")
        .start();
    for protocol in ["2", "3"] {
        for call in CALLS {
            for is_half_closed in [true, false] {
                let lines = [call, "SET after 1"];
                let direct = amid_messages(redis.client(), protocol);
                let direct = left(&redis, direct, &lines, is_half_closed);
                let through = amid_messages(respool.client(), protocol);
                let through = left(&redis, through, &lines, is_half_closed);
                let case = format!("RESP{protocol}, {call}, half closed: {is_half_closed}");
                assert_eq!(through, direct, "{case}");
                let expected = [1, 0, 1, 1, 0, 0].map(Value::Int);
                assert_eq!(direct.1, expected, "{case}");
            }
        }
    }
    eventually(|| respool.clients_of("default") == 0, "all places are back");
}

#[test]
fn what_waits_behind_a_call_is_not_sent_when_its_client_leaves() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("half_closed_grace = \"60s\"")
        .start();
    // Each of them is sent when all before it has been answered.
    let tails: [&[&str]; 4] = [
        &["MULTI", "SET after 1", "EXEC"],
        &["SUBSCRIBE d", "UNSUBSCRIBE d", "SET after 1"],
        &["CLIENT GETNAME", "SET after 1"],
        &[
            "MULTI",
            "PING",
            "EXEC",
            "BLPOP l 0",
            "MULTI",
            "PING",
            "EXEC",
            "SET after 1",
        ],
    ];
    for protocol in ["2", "3"] {
        for tail in tails {
            for is_half_closed in [true, false] {
                let lines = [&["BLPOP l 0"], tail].concat();
                let direct = amid_messages(redis.client(), protocol);
                let direct = left(&redis, direct, &lines, is_half_closed);
                let through = amid_messages(respool.client(), protocol);
                let through = left(&redis, through, &lines, is_half_closed);
                assert_eq!(through, direct, "RESP{protocol}, {lines:?}");
            }
        }
    }
}

/// Checks that what is answered at once is answered though its client says in the same breath that it sends nothing more.
fn are_answered(redis: &Redis, respool: &Respool) {
    let cases: [&[&str]; 5] = [
        &["RPUSH l x", "BLPOP l 0", "ECHO a"],
        &["RPUSH l x", "BLPOP l 0"],
        &["XADD s 1-1 a b", "XREAD BLOCK 0 STREAMS s 0", "ECHO a"],
        &["WAIT 0 0", "MULTI", "ECHO a", "EXEC"],
        &["RPUSH l x", "LPOP l", "BLPOP none 0", "ECHO a"],
    ];
    for protocol in ["2", "3"] {
        for lines in cases {
            let [direct, through] = [redis.client(), respool.client()].map(|client| {
                redis.flush();
                let mut client = amid_messages(client, protocol);
                client.send(encode_lines(lines));
                client.finish_sending();
                show(&client.read_to_end())
            });
            assert_eq!(through, direct, "RESP{protocol}, {lines:?}");
        }
    }
    let metrics = respool.metrics();
    let losses = metrics
        .lines()
        .filter(|line| line.starts_with("respool_upstream_losses_total") && !line.ends_with(" 0"));
    assert_eq!(losses.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn a_call_that_need_not_wait_is_answered() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("half_closed_grace = \"60s\"")
        .start();
    are_answered(&redis, &respool);
}

#[test]
fn a_call_that_need_not_wait_is_answered_over_tls() {
    needs!(tls);
    let pki = Pki::new();
    let own = pki.issue("server", &["127.0.0.1", "localhost"]);
    let redis = Redis::start_tls(&pki, &own, &[]);
    let respool = Respool::before(&redis.tls_addr())
        .upstream(&upstream_tls(&pki, ""))
        .limits("half_closed_grace = \"60s\"")
        .start();
    are_answered(&redis, &respool);
    let client = amid_messages(respool.client(), "3");
    let (_, there) = left(&redis, client, &["BLPOP l 0", "SET after 1"], true);
    assert_eq!(there, [1, 0, 1, 1, 0, 0].map(Value::Int));
}

#[test]
fn a_call_that_has_been_answered_waits_no_more() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("half_closed_grace = \"60s\"")
        .start();
    let tails: [&[&str]; 3] = [
        &["SET a 1", "MULTI", "SET b 1", "EXEC", "SET after 1"],
        &["SET a 1", "CLIENT GETNAME", "SET after 1"],
        &["SET a 1", "SUBSCRIBE d", "UNSUBSCRIBE d", "SET after 1"],
    ];
    for protocol in ["2", "3"] {
        for tail in tails {
            let [direct, through] = [redis.client(), respool.client()].map(|client| {
                redis.flush();
                redis.cmd(&["RPUSH", "l", "x"]);
                let mut client = amid_messages(client, protocol);
                // Whoever has the second answer has had all that came before it.
                for line in ["BLPOP l 0", "ECHO a"] {
                    client.send(encode_lines(&[line]));
                    client.reply_bytes();
                }
                client.send(encode_lines(tail));
                client.finish_sending();
                let read = show(&client.read_to_end());
                (read, redis.cmd(&["EXISTS", "after"]))
            });
            assert_eq!(through, direct, "RESP{protocol}, {tail:?}");
            assert_eq!(direct.1, Value::Int(1), "RESP{protocol}, {tail:?}");
        }
    }
}

#[test]
fn what_respool_answers_comes_behind_a_call_that_has_been_sent() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    for protocol in ["2", "3"] {
        let [direct, through] = [redis.client(), respool.client()].map(|client| {
            redis.flush();
            let mut client = amid_messages(client, protocol);
            let calls = [
                "BLPOP l 0",
                "CLIENT GETNAME",
                "BLPOP l 0",
                "BLPOP l 0",
                "CLIENT GETNAME",
                "QUIT",
            ];
            client.send(encode_lines(&calls));
            for element in ["a", "b", "c"] {
                eventually(|| redis.info_number("blocked_clients") == 1, "it waits");
                redis.cmd(&["RPUSH", "l", element]);
                eventually(|| redis.cmd(&["LLEN", "l"]) == Value::Int(0), "it is taken");
            }
            show(&client.read_to_end())
        });
        assert_eq!(through, direct, "RESP{protocol}");
    }
}

#[test]
fn of_many_calls_some_are_sent_and_all_are_answered() {
    const CALLS: usize = 2000;
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    let mut client = amid_messages(respool.client(), "3");
    let read = || respool.metric("respool_client_bytes_total{direction=\"in\"}") as usize;
    let before = read();
    let calls = encode_lines(&["BLPOP l 0"]).repeat(CALLS);
    client.send(&calls);
    eventually(|| read() >= before + calls.len(), "all are read");
    // Asked of the same worker, behind them.
    respool.client().ping();
    eventually(|| redis.info_number("blocked_clients") == 1, "one waits");
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    let waits = list.lines().find(|line| line.contains("cmd=blpop"));
    let unread = waits.and_then(|line| line.split(" qbuf=").nth(1));
    let unread = unread.and_then(|rest| rest.split(' ').next());
    let unread: usize = unread.expect("it waits").parse().expect("a number");
    // A call has 64 bytes with the question behind it.
    assert!(unread < CALLS * 48, "{unread} of {}", CALLS * 64);
    for number in 0..CALLS {
        let number = number.to_string();
        redis.cmd(&["RPUSH", "l", &number]);
        let answer = Value::Array(vec![Value::bulk("l"), Value::bulk(&number)]);
        assert_eq!(client.reply(), answer);
    }
}

#[test]
fn nothing_is_asked_amid_a_part_of_a_request() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    for begun in ["MONITOR", "ECHO a"] {
        let mut client = amid_messages(respool.client(), "3");
        if begun == "MONITOR" {
            client = respool.client();
        }
        client.send(encode_lines(&[begun]));
        client.reply_bytes();
        // Fewer bytes are missing than a question has.
        let mut upload = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3000000\r\n".to_vec();
        upload.resize(upload.len() + 3_000_000 - 10, b'x');
        client.send(upload);
        client.finish_sending();
        client.read_to_end();
        eventually(|| respool.clients_of("default") == 0, "its place is back");
        assert_eq!(redis.cmd(&["EXISTS", "k"]), Value::Int(0), "{begun}");
    }
}
