//! A transaction that begins while a script does not end: answered as directly, whatever it holds and however it arrives.

use super::script::{script, until_busy};
use crate::harness::{Client, Redis, Respool, Value, encode, encode_lines};

/// Is what a client sends in one go, and how many replies it awaits before it goes on.
type Step = (Vec<u8>, usize);

/// Says what it is, what is sent before the script runs, while it runs, and after it.
struct Form {
    name: &'static str,
    before: Vec<Step>,
    meanwhile: Vec<Step>,
    after: Vec<Step>,
}

/// Sends all lines at once.
fn pipelined(lines: &[&str]) -> Vec<Step> {
    vec![(encode_lines(lines), lines.len())]
}

/// Sends each line when the one before it was answered.
fn typed(lines: &[&str]) -> Vec<Step> {
    lines
        .iter()
        .map(|line| (encode_lines(&[line]), 1))
        .collect()
}

fn form(name: &'static str, meanwhile: Vec<Step>) -> Form {
    let (before, after) = (Vec::new(), typed(&["GET k", "MULTI", "EXEC"]));
    Form {
        name,
        before,
        meanwhile,
        after,
    }
}

/// Lists what transactions hold, each of them typed by hand and in a pipeline.
const HELD: [(&str, &[&str]); 15] = [
    ("whole", &["MULTI", "SET k v", "EXEC"]),
    ("discarded", &["MULTI", "SET k v", "DISCARD"]),
    ("empty", &["MULTI", "EXEC"]),
    ("nested", &["MULTI", "MULTI", "SET k v", "EXEC"]),
    ("watched inside", &["MULTI", "WATCH k", "GET k", "EXEC"]),
    ("unwatched inside", &["MULTI", "UNWATCH", "EXEC"]),
    ("selects", &["MULTI", "SELECT 3", "SET k v", "EXEC"]),
    ("subscribes", &["MULTI", "SUBSCRIBE c", "EXEC"]),
    ("too few words", &["MULTI", "SET k", "MULTI x", "EXEC"]),
    ("too many words for EXEC", &["MULTI", "SET k v", "EXEC x"]),
    ("reset", &["MULTI", "SET k v", "RESET", "EXEC"]),
    ("without MULTI", &["EXEC", "DISCARD", "UNWATCH", "MULTI x"]),
    (
        "watch",
        &["WATCH k", "GET k", "MULTI", "SET k v", "EXEC", "EXEC"],
    ),
    (
        "unwatched",
        &["WATCH k", "UNWATCH", "MULTI", "GET k", "EXEC"],
    ),
    (
        "twice",
        &["MULTI", "GET k", "EXEC", "MULTI", "GET k", "DISCARD"],
    ),
];

fn held() -> Vec<Form> {
    HELD.iter()
        .flat_map(|(name, lines)| [form(name, typed(lines)), form(name, pipelined(lines))])
        .collect()
}

/// Lists transactions that arrive in parts, and clients that want fewer replies.
fn others() -> Vec<Form> {
    let set = encode_lines(&["SET k v"]);
    let (first, rest) = set.split_at(set.len() / 2);
    let multi = encode_lines(&["MULTI"]);
    let exec = encode_lines(&["EXEC"]);
    let large = encode(&["SET", "k", &"v".repeat(200_000)]);
    let larger = encode(&["SET", "k", &"v".repeat(3_000_000)]);
    let silent = |mode: &'static str, replies: usize| Form {
        // Its answer tells that what stands behind it in the same write has been looked at, too.
        before: vec![(encode_lines(&["CLIENT REPLY ON", mode]), 1)],
        meanwhile: vec![(encode_lines(&["MULTI", "SET silent v", "EXEC"]), replies)],
        ..form(mode, Vec::new())
    };
    vec![
        form(
            "in two pieces",
            vec![
                ([&multi, first].concat(), 1),
                ([rest, &exec[..]].concat(), 2),
            ],
        ),
        form("large", vec![([&multi[..], &large, &exec].concat(), 3)]),
        form("larger", vec![([&multi[..], &larger, &exec].concat(), 3)]),
        form(
            "inline",
            vec![
                (b"MULTI\r\nSET k v\r\n".to_vec(), 2),
                (b"EXEC\r\n".to_vec(), 1),
            ],
        ),
        silent("CLIENT REPLY SKIP", 2),
        Form {
            after: vec![(encode_lines(&["CLIENT REPLY ON"]), 1)],
            ..silent("CLIENT REPLY OFF", 0)
        },
    ]
}

/// Lists transactions that end, or begin to be meant, when the script has been killed.
fn half_arrived() -> Vec<Form> {
    let set = encode_lines(&["SET k v"]);
    let (first, rest) = set.split_at(set.len() / 2);
    let multi = encode_lines(&["MULTI"]);
    let halves = |name, meanwhile: &[&str], after: &[&str]| {
        let after_all = [after, &["GET k", "DEL k", "EXEC"]].concat();
        [typed(&after_all), pipelined(&after_all)].map(|after| Form {
            after,
            ..form(name, typed(meanwhile))
        })
    };
    let mut forms: Vec<Form> = [
        halves("nothing refused", &["MULTI"], &["SET k v", "GET k", "EXEC"]),
        halves("one refused", &["MULTI", "SET k v"], &["SET k v", "EXEC"]),
        halves("nested before", &["MULTI", "MULTI"], &["SET k v", "EXEC"]),
        halves("discarded after", &["MULTI"], &["SET k v", "DISCARD"]),
        halves("refused, discarded", &["MULTI", "GET k"], &["DISCARD"]),
        halves("reset after", &["MULTI"], &["SET k v", "RESET", "EXEC"]),
        halves(
            "selects after",
            &["MULTI"],
            &["SELECT 3", "EXEC", "SELECT 7"],
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    forms.push(Form {
        after: vec![
            ([rest, &encode_lines(&["EXEC"])[..]].concat(), 2),
            (encode_lines(&["DEL k"]), 1),
        ],
        ..form("cut in the middle", vec![([&multi, first].concat(), 1)])
    });
    forms
}

fn play(client: &mut Client, steps: &[Step]) -> Vec<Value> {
    let mut replies = Vec::new();
    for (bytes, count) in steps {
        client.send(bytes);
        replies.extend((0..*count).map(|_| client.reply()));
    }
    replies
}

/// Compares what clients of one database and protocol are told, directly and through respool.
fn compare(forms: &[Form], database: &str, protocol: &str) {
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    // Each of them may hold a connection open in MULTI.
    let respool = Respool::with(&redis)
        .upstream("max_connections = 40")
        .start();
    let greeted = |mut client: Client| {
        assert!(!client.cmd(&["HELLO", protocol]).is_error());
        assert_eq!(client.cmd(&["SELECT", database]), Value::ok());
        client
    };
    let mut pairs: Vec<[Client; 2]> = forms
        .iter()
        .map(|form| {
            let mut pair = [redis.client(), respool.client()].map(greeted);
            for client in &mut pair {
                play(client, &form.before);
            }
            pair
        })
        .collect();
    let mut caller = script(&respool);
    until_busy(&redis);
    for (form, [direct, through]) in forms.iter().zip(&mut pairs) {
        let expected = play(direct, &form.meanwhile);
        let told = play(through, &form.meanwhile);
        assert_eq!(told, expected, "{}, database {database}", form.name);
    }
    assert_eq!(redis.cmd(&["SCRIPT", "KILL"]), Value::ok());
    assert!(caller.reply().is_error());
    for (form, [direct, through]) in forms.iter().zip(&mut pairs) {
        let expected = play(direct, &form.after);
        let told = play(through, &form.after);
        assert_eq!(told, expected, "{}, database {database}", form.name);
    }
    let lost = "respool_client_disconnects_total{group=\"default\",reason=\"upstream_lost\"}";
    assert_eq!(respool.metric_or_zero(lost), 0.0);
}

#[test]
fn whatever_a_transaction_holds_a_busy_server_refuses_it_as_directly() {
    for protocol in ["2", "3"] {
        for database in ["0", "7"] {
            compare(&held(), database, protocol);
        }
    }
}

#[test]
fn however_a_transaction_arrives_a_busy_server_refuses_it_as_directly() {
    for database in ["0", "7"] {
        compare(&others(), database, "2");
    }
}

#[test]
fn a_transaction_that_is_half_there_when_the_script_ends_goes_on_as_directly() {
    for database in ["0", "7"] {
        compare(&half_arrived(), database, "2");
    }
}

#[test]
fn a_client_that_quits_inside_such_a_transaction_is_told_so() {
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    let respool = Respool::start(&redis);
    let mut clients = [redis.client(), respool.client()];
    for client in &mut clients {
        client.cmd(&["SELECT", "7"]);
    }
    let _caller = script(&respool);
    until_busy(&redis);
    for mut client in clients {
        client.send(encode_lines(&["MULTI", "GET k", "QUIT"]));
        assert_eq!(client.reply(), Value::ok());
        assert!(client.reply().text().starts_with("BUSY "));
        assert_eq!(client.reply(), Value::ok());
        client.expect_end();
    }
    assert_eq!(redis.cmd(&["SCRIPT", "KILL"]), Value::ok());
}

#[test]
fn what_a_busy_server_did_not_watch_is_never_taken_for_watched() {
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    let respool = Respool::start(&redis);
    let mut clients = [redis.client(), respool.client()];
    for client in &mut clients {
        client.cmd(&["SELECT", "7"]);
    }
    let mut caller = script(&respool);
    until_busy(&redis);
    for client in &mut clients {
        assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
    }
    assert_eq!(redis.cmd(&["SCRIPT", "KILL"]), Value::ok());
    assert!(caller.reply().is_error());
    let mut writer = redis.client();
    writer.cmd(&["SELECT", "7"]);
    for client in &mut clients {
        writer.cmd(&["SET", "k", "another's"]);
        assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("another's"));
        client.send(encode_lines(&["MULTI", "SET k mine", "EXEC"]));
        assert_eq!(client.reply(), Value::ok());
        client.reply();
        let executed = client.reply();
        assert!(executed.is_null() || executed.is_error(), "{executed:?}");
        assert_eq!(writer.cmd(&["GET", "k"]), Value::bulk("another's"));
        // What comes next is a transaction like any other.
        client.cmd(&["WATCH", "k"]);
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
        assert_eq!(client.cmd(&["SET", "k", "mine"]), Value::simple("QUEUED"));
        assert_eq!(client.cmd(&["EXEC"]), Value::Array(vec![Value::ok()]));
    }
}
