//! Reader endpoints: `upstream.role = "replica"` refuses writes as a replica does, and none of them reaches it.

use crate::harness::{Client, Redis, Respool, Value, encode, encode_line, eventually, needs, show};

/// Is what a replica answers to a write, byte for byte.
const READ_ONLY: &[u8] = b"-READONLY You can't write against a read only replica.\r\n";

const EXEC_ABORT: &[u8] = b"-EXECABORT Transaction discarded because of previous errors.\r\n";

fn before(redis: &Redis) -> Respool {
    Respool::with(redis).upstream("role = \"replica\"").start()
}

/// Tells whether `/status` warns with a line that holds `part`.
fn warns(respool: &Respool, part: &str) -> bool {
    let status = respool.status_json();
    let warnings = status["warnings"].as_array().expect("a list").iter();
    warnings
        .filter_map(|line| line.as_str())
        .any(|line| line.contains(part))
}

/// Tells how many commands the server itself has refused as writes.
fn refused_by(redis: &Redis) -> u64 {
    let text = redis.cmd(&["INFO", "errorstats"]).text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("errorstat_READONLY:count="));
    line.map_or(0, |count| count.parse().expect("a number"))
}

/// Encodes requests, one a line, and tells how many replies they have together.
fn pipeline(lines: &[&str]) -> (Vec<u8>, usize) {
    let encoded = lines.iter().flat_map(|line| encode_line(line));
    (encoded.collect(), lines.len())
}

#[track_caller]
fn replies(client: &mut Client, bytes: &[u8], count: usize) -> Vec<Vec<u8>> {
    client.send(bytes);
    (0..count).map(|_| client.reply_bytes()).collect()
}

/// Lists every write of the server, by its own flags, as a request with as many words as it takes.
fn writes_of(redis: &Redis) -> Vec<Vec<String>> {
    let entry_of = |entry: &Value| {
        let Value::Array(fields) = entry else {
            panic!("{entry:?}")
        };
        fields.clone()
    };
    let Value::Array(entries) = redis.cmd(&["COMMAND"]) else {
        panic!("COMMAND answers a list")
    };
    let mut writes = Vec::new();
    for entry in entries.iter().map(entry_of) {
        // Redis 6.2 tells no subcommands.
        let subcommands_are_untold = entry.len() <= 9;
        let subs = entry.get(9).map(|subcommands| {
            let Value::Array(subcommands) = subcommands else {
                panic!("{subcommands:?}")
            };
            subcommands.iter().map(entry_of)
        });
        let subs = subs.into_iter().flatten();
        for command in std::iter::once(entry.clone()).chain(subs) {
            let Value::Array(flags) = &command[2] else {
                panic!("{:?}", command[2])
            };
            if flags.contains(&Value::simple("write")) {
                let name = command[0].text();
                let mut words: Vec<String> = name.split('|').map(str::to_owned).collect();
                if subcommands_are_untold && name == "xgroup" {
                    words = ["xgroup", "create", "k", "g", "$"]
                        .map(str::to_owned)
                        .to_vec();
                }
                let arity = usize::try_from(command[1].int().abs()).expect("a count");
                words.resize(arity.max(words.len()), "1".to_owned());
                writes.push(words);
            }
        }
    }
    assert!(writes.len() > 90, "only {} writes", writes.len());
    writes
}

#[test]
fn every_write_of_a_real_server_is_refused_here_as_it_is_there() {
    let primary = Redis::start(&[]);
    let (replica, direct) = (
        Redis::start_replica(&primary, &[]),
        Redis::start_replica(&primary, &[]),
    );
    let respool = before(&replica);
    let (mut through, mut beside) = (respool.client(), direct.client());
    for protocol in ["2", "3"] {
        through.cmd(&["HELLO", protocol]);
        beside.cmd(&["HELLO", protocol]);
        for words in writes_of(&direct) {
            beside.send(encode(&words));
            through.send(encode(&words));
            let (wanted, got) = (beside.reply_bytes(), through.reply_bytes());
            assert_eq!(show(&got), show(&wanted), "{words:?}");
            assert_eq!(got, READ_ONLY, "{words:?}");
        }
    }
    assert_eq!(refused_by(&replica), 0, "none of them reached the server");
    assert!(refused_by(&direct) > 0);
}

#[test]
fn refusals_stand_among_the_replies_as_a_replica_has_them() {
    let cases: &[&[&str]] = &[
        &[
            "GET k",
            "SET k w",
            "GET k",
            "INCR n",
            "INCR n",
            "LRANGE l 0 -1",
        ],
        // Too few words are told first.
        &["SET k", "GET k", "DEL", "BLPOP l"],
        &[
            "SORT l",
            "SORT_RO l",
            "GEORADIUS g 1 1 1 km",
            "PFCOUNT p",
            "PUBLISH c m",
        ],
        &[
            "BLPOP l 0",
            "GET k",
            "BLMOVE l m LEFT LEFT 0",
            "XREADGROUP GROUP g c STREAMS s >",
            "BZPOPMIN z 0",
        ],
        &["XREAD BLOCK 10 STREAMS s 0", "GET k"],
        &["MULTI", "GET k", "SET k w", "EXEC", "GET k"],
        &["MULTI", "GET k", "EXEC"],
        &["MULTI", "SET k", "EXEC"],
        &["MULTI", "INCR k", "DISCARD", "GET k"],
        &["WATCH k", "SET k w", "MULTI", "GET k", "EXEC"],
        &["SELECT 3", "FLUSHDB", "DBSIZE"],
        &["CLIENT REPLY SKIP", "SET k w", "GET k"],
    ];
    are_answered_as_by_a_replica(cases);
}

#[test]
fn functions_are_refused_as_a_replica_does() {
    needs!("FUNCTION FLUSH");
    are_answered_as_by_a_replica(&[&[
        "EVAL_RO return{redis.call('get','k')} 0",
        "FUNCTION LIST",
        "FUNCTION FLUSH",
    ]]);
}

/// Compares pipelines with what a replica itself answers, whole and one command at a time.
#[track_caller]
fn are_answered_as_by_a_replica(cases: &[&[&str]]) {
    let primary = Redis::start(&[]);
    primary.cmd(&["SET", "k", "v"]);
    primary.cmd(&["RPUSH", "l", "3", "1"]);
    let (replica, direct) = (
        Redis::start_replica(&primary, &[]),
        Redis::start_replica(&primary, &[]),
    );
    let respool = before(&replica);
    for lines in cases {
        let (bytes, mut count) = pipeline(lines);
        count -= 2 * usize::from(lines[0].ends_with("SKIP"));
        let got = replies(&mut respool.client(), &bytes, count);
        let wanted = replies(&mut direct.client(), &bytes, count);
        for ((got, wanted), line) in got.iter().zip(&wanted).zip(*lines) {
            assert_eq!(show(got), show(wanted), "{line} of {lines:?}");
        }
        // The same, one at a time.
        let (mut through, mut beside) = (respool.client(), direct.client());
        for line in lines.iter().filter(|_| count == lines.len()) {
            let (bytes, _) = pipeline(&[line]);
            let got = replies(&mut through, &bytes, 1);
            let wanted = replies(&mut beside, &bytes, 1);
            assert_eq!(show(&got[0]), show(&wanted[0]), "{line} alone of {lines:?}");
        }
    }
    assert_eq!(refused_by(&replica), 0, "none of them reached the server");
}

#[test]
fn a_write_inside_a_transaction_fails_it_whole() {
    let primary = Redis::start(&[]);
    let replica = Redis::start_replica(&primary, &[]);
    let respool = before(&replica);
    let mut client = respool.client();
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    assert_eq!(client.cmd(&["GET", "k"]), Value::simple("QUEUED"));
    client.send(encode(&["SET", "k", "v"]));
    assert_eq!(client.reply_bytes(), READ_ONLY);
    // One too long to be looked at whole.
    let long = vec![b'x'; 3 << 20];
    client.send(encode(&[&b"SET"[..], b"k", &long[..]]));
    assert_eq!(client.reply_bytes(), READ_ONLY);
    client.send(encode(&["EXEC"]));
    assert_eq!(client.reply_bytes(), EXEC_ABORT);
    assert!(client.cmd(&["GET", "k"]).is_null());
    assert_eq!(refused_by(&replica), 0);
}

#[test]
fn long_writes_are_refused_as_they_arrive() {
    let primary = Redis::start(&[]);
    let replica = Redis::start_replica(&primary, &[]);
    let respool = before(&replica);
    let mut client = respool.client();
    for length in [100 << 10, 3 << 20] {
        let value = vec![b'x'; length];
        let mut bytes = encode(&["GET", "k"]);
        bytes.extend(encode(&[&b"SET"[..], b"k", &value[..]]));
        bytes.extend(encode(&["PING"]));
        client.send(bytes);
        assert!(client.reply().is_null());
        assert_eq!(client.reply_bytes(), READ_ONLY, "{length} bytes");
        assert_eq!(client.reply(), Value::simple("PONG"));
    }
    assert_eq!(refused_by(&replica), 0);
}

#[test]
fn a_script_that_may_write_has_a_connection_of_its_own() {
    let primary = Redis::start(&[]);
    let replica = Redis::start_replica(&primary, &[]);
    let respool = before(&replica);
    let pins = "respool_pins_total{reason=\"replica_script\"}";
    let mut client = respool.client();
    let script = "return redis.call('SET', KEYS[1], 'v')";
    let mut direct = replica.client();
    let told = client.cmd(&["EVAL", script, "1", "k"]);
    assert!(told.text().contains("READONLY"), "{told:?}");
    assert_eq!(told, direct.cmd(&["EVAL", script, "1", "k"]));
    assert_eq!(client.cmd(&["EVAL", "return 7", "0"]), Value::Int(7));
    assert_eq!(respool.metric(pins), 2.0);
    let reads = ["EVAL_RO", "return 7", "0"];
    assert_eq!(client.cmd(&reads), direct.cmd(&reads));
    let (bytes, count) = pipeline(&["MULTI", "EVAL return{1} 0", "EXEC", "PING"]);
    let got = replies(&mut client, &bytes, count);
    assert_eq!(show(&got[2]), show(b"*1\r\n*1\r\n:1\r\n"));
    assert_eq!(respool.metric(pins), 2.0, "the transaction's own serves it");
}

#[test]
fn a_subscriber_that_writes_is_refused_and_stays_subscribed() {
    let primary = Redis::start(&[]);
    let replica = Redis::start_replica(&primary, &[]);
    let respool = before(&replica);
    let mut client = respool.client();
    client.cmd(&["HELLO", "3"]);
    client.cmd(&["SUBSCRIBE", "news"]);
    client.send(encode(&["SET", "k", "v"]));
    assert_eq!(client.reply_bytes(), READ_ONLY);
    // What is published at the primary reaches subscribers of its replicas.
    eventually(
        || respool.metric("respool_subscribed_topics") == 1.0,
        "the server has subscribed",
    );
    primary.cmd(&["PUBLISH", "news", "hello"]);
    let message = format!("{:?}", client.reply());
    assert!(message.contains("message"), "{message}");
    assert_eq!(refused_by(&replica), 0);
}

#[test]
fn what_a_group_may_not_do_is_told_before_what_the_server_does_not() {
    let primary = Redis::start(&[]);
    let (replica, direct) = (
        Redis::start_replica(&primary, &[]),
        Redis::start_replica(&primary, &[]),
    );
    let respool = Respool::with(&replica)
        .upstream("role = \"replica\"")
        .section("[[group]]\nname = \"default\"\ndeny_commands = [\"set\"]")
        .start();
    direct.cmd(&["ACL", "SETUSER", "default", "-set"]);
    let (mut through, mut beside) = (respool.client(), direct.client());
    for line in ["SET k v", "SET k", "DEL k"] {
        let (bytes, _) = pipeline(&[line]);
        let (got, wanted) = (
            replies(&mut through, &bytes, 1),
            replies(&mut beside, &bytes, 1),
        );
        if line == "SET k" {
            // Its words are counted before anything else there, and after what the group may do here.
            assert!(wanted[0].starts_with(b"-ERR wrong number"), "{wanted:?}");
            assert!(got[0].starts_with(b"-NOPERM"), "{got:?}");
        } else {
            assert_eq!(show(&got[0]), show(&wanted[0]), "{line}");
        }
    }
}

#[test]
fn a_server_in_another_role_is_warned_of_and_writes_go_by_the_setting() {
    let primary = Redis::start(&[]);
    let replica = Redis::start_replica(&primary, &[]);
    let reader = before(&primary);
    let mut client = reader.client();
    client.send(encode(&["SET", "k", "v"]));
    assert_eq!(client.reply_bytes(), READ_ONLY);
    assert_eq!(primary.cmd(&["DBSIZE"]), Value::Int(0));
    eventually(
        || warns(&reader, "says that it is a primary"),
        "a warning of the primary",
    );
    eventually(
        || reader.log_text().contains("says that it is a primary"),
        "a line in the log",
    );
    let writer = Respool::with(&replica)
        .upstream("health_interval = \"100ms\"")
        .start();
    let mut client = writer.client();
    client.send(encode(&["SET", "k", "v"]));
    assert_eq!(client.reply_bytes(), READ_ONLY, "the server's own");
    eventually(
        || warns(&writer, "says that it is a replica"),
        "a warning of the replica",
    );
    // Its role is known since the connection's HELLO, and logged when INFO has been answered.
    let logged = || {
        writer
            .log_text()
            .matches("says that it is a replica")
            .count()
    };
    eventually(|| logged() == 1, "a line in the log");
    // Promoted: it says so itself, and the warning ends.
    replica.cmd(&["REPLICAOF", "NO", "ONE"]);
    eventually(
        || !warns(&writer, "says that it is a replica"),
        "the end of the warning",
    );
    assert_eq!(logged(), 1);
}
