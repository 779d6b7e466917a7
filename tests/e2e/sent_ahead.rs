//! Clients that send much behind a call that waits: their end stands behind it, and is seen all the same; what they have sent is kept
//! within a bound, and runs in its order when the call has been answered.

use crate::harness::{Client, Redis, Respool, Value, encode, encode_lines, eventually, show};

const MIB: usize = 1024 * 1024;

/// Encodes `lines` and more of the same call behind them than the kernel keeps on its own, then a write.
fn much_behind(lines: &[&str]) -> Vec<u8> {
    let mut sent = encode_lines(lines);
    let filling = encode(&["BLPOP", &"k".repeat(2000), "0"]);
    sent.extend(filling.repeat(12 * MIB / filling.len()));
    sent.extend(encode(&["SET", "after", "1"]));
    sent
}

/// Lets a client leave that has sent all of it. Returns what it has read, and what others find then of what they bring.
fn left(redis: &Redis, mut client: Client, sent: &[u8], end: &str) -> (String, Vec<Value>) {
    let mut other = redis.client();
    other.cmd(&["FLUSHALL"]);
    client.send(sent);
    eventually(
        || redis.info_number("blocked_clients") == 1,
        "the call waits",
    );
    let read = match end {
        "half closed" => {
            client.finish_sending();
            show(&client.read_to_end())
        }
        "reset" => {
            client.abort();
            String::new()
        }
        _ => {
            drop(client);
            String::new()
        }
    };
    eventually(
        || redis.info_number("blocked_clients") == 0,
        "nobody waits any more",
    );
    other.cmd(&["RPUSH", "l", "a"]);
    other.cmd(&["ZADD", "z", "1", "a"]);
    let found = ["l", "z", "after"].map(|key| other.cmd(&["EXISTS", key]));
    (read, found.to_vec())
}

const ENDS: [&str; 3] = ["closed", "half closed", "reset"];

#[test]
fn a_call_ends_with_its_client_however_much_was_sent_behind_it() {
    let redis = Redis::start(&[]);
    // So long that no test waits for it.
    let respool = Respool::with(&redis)
        .limits("half_closed_grace = \"60s\"")
        .start();
    let calls: [&[&str]; 5] = [
        &["BLPOP l 0"],
        &["BLMOVE l l LEFT RIGHT 0"],
        &["BZPOPMIN z 0"],
        &["MULTI", "SUBSCRIBE c", "EXEC", "UNSUBSCRIBE c", "BLPOP l 0"],
        &["HELLO 3", "MULTI", "SUBSCRIBE c", "EXEC", "BLPOP l 0"],
    ];
    for call in calls {
        for end in ENDS {
            let sent = much_behind(call);
            let (mut direct, found) = left(&redis, redis.client(), &sent, end);
            let (mut through, found_through) = left(&redis, respool.client(), &sent, end);
            // The ids of two clients differ.
            for read in [&mut direct, &mut through] {
                if call.len() > 1 {
                    *read = read.split("subscribe").skip(1).collect();
                }
            }
            assert_eq!(through, direct, "{call:?}, {end}");
            assert_eq!(found_through, found, "{call:?}, {end}");
            assert_eq!(found, [1, 1, 0].map(Value::Int), "{call:?}, {end}");
        }
    }
    eventually(|| respool.clients_of("default") == 0, "all places are back");
    let mut next = respool.client();
    for line in ["WATCH k", "MULTI", "GET k", "EXEC"] {
        next.send(encode_lines(&[line]));
        next.reply_bytes();
    }
}

/// Encodes what a busy client may send, of every size; `pop` stands among it.
fn all_kinds(pop: &str) -> Vec<u8> {
    let large = "x".repeat(300_000);
    let mut sent = Vec::new();
    for number in 0..6000 {
        let text = format!("{number}-{}", "e".repeat(number % 1500));
        sent.extend(encode(&["ECHO", &text]));
        if number % 10 == 0 {
            sent.extend(encode_lines(&[
                "MULTI", "INCR n", "GET n", "EXEC", "INCR n",
            ]));
        }
        if number % 500 == 0 {
            sent.extend(encode(&["SET", "large", &large]));
            sent.extend(encode_lines(&["STRLEN large", pop, "NOSUCH", "SELECT 3"]));
            sent.extend(encode_lines(&["SET n 0", "SELECT 0"]));
        }
    }
    sent
}

#[test]
fn what_was_sent_behind_a_call_runs_in_its_order_when_the_call_is_answered() {
    let redis = Redis::start(&[]);
    // On a busy machine a connection to lend may take its time.
    let respool = Respool::with(&redis)
        .limits("half_closed_grace = \"60s\"")
        .start();
    let prepare = || {
        let mut other = redis.client();
        other.cmd(&["FLUSHALL"]);
        let elements: Vec<String> = (0..12).map(|number| number.to_string()).collect();
        let words = ["RPUSH", "l"].into_iter().map(str::to_owned);
        other.cmd(&words.chain(elements).collect::<Vec<_>>());
        other
    };
    let sent = [encode_lines(&["BLPOP q 0"]), all_kinds("BLPOP l 0")].concat();
    let answers = |mut client: Client, sent: &[u8]| {
        let mut other = prepare();
        client.send(sent);
        eventually(
            || redis.info_number("blocked_clients") == 1,
            "the call waits",
        );
        other.cmd(&["RPUSH", "q", "a"]);
        client.send(encode_lines(&["QUIT"]));
        client.read_to_end()
    };
    let direct = answers(redis.client(), &sent);
    assert!(direct.len() > 4 * MIB, "{}", direct.len());
    assert!(answers(respool.client(), &sent) == direct);
    // The server itself drops answers of who has finished sending and does not read as fast.
    let sent = [encode_lines(&["BRPOP q 0"]), all_kinds("LPOP l")].concat();
    let direct = answers(redis.client(), &sent);
    let mut other = prepare();
    let mut client = respool.client();
    client.send(&sent);
    eventually(
        || redis.info_number("blocked_clients") == 1,
        "the call waits",
    );
    other.cmd(&["RPUSH", "q", "a"]);
    let mut through = client.reply_bytes();
    client.finish_sending();
    through.extend(client.read_to_end());
    assert!(through == direct[..direct.len() - "+OK\r\n".len()]);
}

#[test]
fn who_finishes_sending_behind_many_calls_amid_messages_gets_all_answers() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let begin = ["MULTI", "SUBSCRIBE c", "EXEC"];
    for protocol in ["2", "3"] {
        // More than are sent before the first is known to be answered, and more than is read at once.
        for count in [1024, 1025, 3000, 20_000] {
            let hello = format!("HELLO {protocol}");
            let calls = [
                encode_lines(&["BLPOP l 0"]).repeat(count),
                encode_lines(&["ECHO last"]),
            ]
            .concat();
            let mut other = redis.client();
            other.cmd(&["FLUSHALL"]);
            let elements: Vec<String> = (0..count).map(|number| number.to_string()).collect();
            let words = ["RPUSH", "l"].into_iter().map(str::to_owned);
            other.cmd(&words.chain(elements).collect::<Vec<_>>());
            let mut client = respool.client();
            let unsubscribed: &[&str] = if protocol == "2" {
                &["UNSUBSCRIBE c"]
            } else {
                &[]
            };
            for line in [&[hello.as_str()], begin.as_slice(), unsubscribed].concat() {
                client.send(encode_lines(&[line]));
                client.reply_bytes();
            }
            let mut writer = client.writer();
            let writing = std::thread::spawn(move || {
                writer.send(calls);
                writer.finish_sending();
            });
            for number in 0..count {
                let popped = client.reply();
                assert_eq!(popped.items()[1].text(), number.to_string(), "of {count}");
            }
            assert_eq!(client.reply().text(), "last");
            assert!(client.read_to_end().is_empty());
            writing.join().expect("it has sent everything");
            assert_eq!(other.cmd(&["LLEN", "l"]), Value::Int(0));
        }
    }
    eventually(|| respool.clients_of("default") == 0, "all places are back");
}

#[test]
fn who_sends_more_than_it_may_behind_a_call_is_disconnected() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("max_client_query_buffer = \"1MiB\"")
        .start();
    let mut client = respool.client();
    let piece = encode(&["ECHO", &"x".repeat(1000)]);
    client.send(encode_lines(&["BLPOP l 0"]));
    client.send(piece.repeat(900));
    eventually(
        || {
            let kept = "respool_bounds_reached_total{bound=\"read_ahead\"}";
            respool.metric_or_zero(kept) == 1.0
        },
        "more than is looked at waits",
    );
    // Within the bound everything is answered.
    redis.cmd(&["RPUSH", "l", "a"]);
    assert_eq!(client.reply().items()[1].text(), "a");
    assert!(client.drop_bytes(900 * "$1000\r\n\r\n".len() + 900_000));
    client.send(encode_lines(&["BLPOP l 0"]));
    let is_cut_off = (0..64).any(|_| client.try_send(piece.repeat(1000)).is_err());
    assert!(is_cut_off || client.read_to_end().is_empty());
    eventually(
        || redis.info_number("blocked_clients") == 0,
        "its call has ended",
    );
    for counted in [
        "respool_client_disconnects_total{reason=\"query_buffer\"}",
        "respool_bounds_reached_total{bound=\"query_buffer\"}",
    ] {
        eventually(|| respool.metric_or_zero(counted) == 1.0, counted);
    }
    respool.eventually_logs("limits.max_client_query_buffer");
    let mut other = respool.client();
    assert_eq!(other.cmd(&["RPUSH", "l", "a"]), Value::Int(1));
    assert_eq!(other.cmd(&["LLEN", "l"]), Value::Int(1));
}

/// Each of its calls ends by itself, and none of them waits for long.
#[test]
fn who_has_left_behind_many_short_calls_takes_nothing() {
    const CALLS: usize = 60_000;
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut client = respool.client();
    let call = encode(&["BLPOP", "l", "0.05"]);
    client.send(call.repeat(CALLS));
    assert_eq!(client.reply(), Value::NullArray);
    client.finish_sending();
    // Long before all of them could have ended by themselves.
    let told = client.read_to_end().len() / "*-1\r\n".len();
    assert!(told < CALLS / 2, "{told} calls have ended by themselves");
    eventually(
        || redis.info_number("blocked_clients") == 0,
        "nobody waits any more",
    );
    redis.cmd(&["RPUSH", "l", "a"]);
    assert_eq!(redis.cmd(&["LLEN", "l"]), Value::Int(1));
}
