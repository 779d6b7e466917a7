//! A request of megabytes that is refused is refused as a small one is: its rest is passed over as it comes, and its client stays.

use crate::harness::{Client, Redis, Respool, TESTED_SERVER, Value, encode};

/// A megabyte is gathered of a request that has to be seen whole; none of these has to be.
const LARGE: usize = 8 * 1024 * 1024;

/// Lists what is denied here and there.
const DENIED: [&str; 4] = ["set", "append", "config", "getset"];

fn with_value<'a>(line: &'a str, value: &'a str) -> Vec<&'a str> {
    let mut words: Vec<&str> = line.split(' ').collect();
    words.push(value);
    words
}

/// Starts two servers: of one the rules deny commands to everybody, the other is behind a respool that does.
fn denying() -> (Redis, Redis, Respool) {
    let (direct, behind) = (Redis::start(&[]), Redis::start(&[]));
    let rules: Vec<String> = DENIED.iter().map(|name| format!("-{name}")).collect();
    let mut rule = vec!["ACL", "SETUSER", "default"];
    rule.extend(rules.iter().map(String::as_str));
    assert_eq!(direct.cmd(&rule), Value::ok());
    let respool = Respool::with(&behind)
        .section(&format!(
            "[[group]]\nname = \"default\"\ndeny_commands = {DENIED:?}"
        ))
        .start();
    (direct, behind, respool)
}

#[test]
fn what_is_denied_is_denied_at_any_size() {
    let (direct, behind, respool) = denying();
    let (small, large) = ("v".repeat(100), "v".repeat(LARGE));
    let (mut direct, mut client) = (direct.client(), respool.client());
    for line in [
        "SET k",
        "set k v EX",
        "APPEND k",
        "GETSET k",
        "CONFIG SET requirepass",
    ] {
        let expected = direct.cmd(&with_value(line, &small));
        assert!(expected.text().starts_with("NOPERM"), "{expected:?}");
        for value in [&small, &large] {
            let told = client.cmd(&with_value(line, value));
            assert_eq!(told, expected, "{line} of {} bytes", value.len());
            client.ping();
        }
    }
    assert_eq!(behind.cmd(&["EXISTS", "k"]).int(), 0);
}

#[test]
fn what_is_refused_is_passed_over_as_it_comes() {
    let (_direct, _behind, respool) = denying();
    let mut client = respool.client();
    client.ping();
    let before = respool.resident_bytes();
    // Far more than may be held of it.
    let announced = 128 * 1024 * 1024;
    client.send(format!(
        "*4\r\n$6\r\nCONFIG\r\n$3\r\nSET\r\n$1\r\nk\r\n${announced}\r\n"
    ));
    let piece = vec![b'v'; 1024 * 1024];
    for _ in 0..announced / piece.len() {
        client.send(&piece);
    }
    client.send(b"\r\n");
    assert!(client.reply().text().starts_with("NOPERM"));
    client.ping();
    let more = respool.resident_bytes().saturating_sub(before);
    assert!(more < 64 * 1024 * 1024, "{more} bytes more");
}

#[test]
fn a_refusal_spoils_the_transaction_and_only_that() {
    let (direct, behind, respool) = denying();
    let large = "v".repeat(LARGE);
    let run = |mut client: Client| {
        let request = with_value("CONFIG SET k", &large);
        let mut told = vec![client.cmd(&["MULTI"]), client.cmd(&["INCR", "n"])];
        told.extend([client.cmd(&request), client.cmd(&["EXEC"])]);
        told.push(client.cmd(&["INCR", "m"]));
        told
    };
    assert_eq!(run(respool.client()), run(direct.client()));
    assert_eq!(behind.cmd(&["EXISTS", "n"]).int(), 0);
}

#[test]
fn too_many_words_are_too_many_however_large() {
    let (redis, large) = (Redis::start(&[]), "v".repeat(LARGE));
    let respool = Respool::start(&redis);
    let (mut direct, mut client) = (redis.client(), respool.client());
    let mut lines = vec!["SELECT 1", "MULTI", "RESET", "PUBLISH c x", "SETT k"];
    if TESTED_SERVER.is_valkey || TESTED_SERVER.version >= (7, 0) {
        // Before that the subcommand itself says so.
        lines.extend(["CLIENT SETNAME x", "CLIENT ID", "CLIENT NOSUCH"]);
    }
    for line in lines {
        let expected = direct.cmd(&with_value(line, &large));
        assert!(expected.is_error(), "{line}");
        client.send(encode(&with_value(line, &large)));
        assert_eq!(client.try_reply(), Some(expected), "{line}");
        client.ping();
    }
}

#[test]
fn what_must_be_seen_whole_says_how_large_it_may_be() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let list_of = |count: usize| {
        let ids = (0..count).map(|at| (1_000_000 + at).to_string());
        let words = ["CLIENT", "LIST", "ID"].map(str::to_owned);
        encode(&words.into_iter().chain(ids).collect::<Vec<_>>())
    };
    let (mut direct, mut client) = (redis.client(), respool.client());
    // 0.9 and 1.3 MB.
    for (count, fits) in [(70_000, true), (100_000, false)] {
        for one in [&mut direct, &mut client] {
            one.send(list_of(count));
        }
        let expected = direct.reply();
        assert_eq!(expected.text(), "");
        let told = client.reply();
        if fits {
            assert_eq!(told, expected);
        } else {
            assert_eq!(
                told.text(),
                "ERR respool: a request of this command may measure 1048576 bytes, 16 times upstream.max_shared_request"
            );
        }
    }
    assert!(client.read_to_end().is_empty());
}

#[test]
fn a_ping_of_a_subscriber_is_never_answered_in_another_shape() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).start();
    for (length, is_answered) in [(500_000, true), (1_200_000, false)] {
        let mut client = respool.client();
        client.cmd(&["SUBSCRIBE", "news"]);
        let word = "v".repeat(length);
        let _ = client.try_send(encode(&["PING", &word]));
        let reply = client.reply();
        if is_answered {
            assert_eq!(reply.items(), [Value::bulk("pong"), Value::bulk(&word)]);
        } else {
            let text = reply.text();
            assert!(
                text.contains("a request of this command may measure"),
                "{text}"
            );
            assert!(client.try_reply().is_none());
        }
    }
}
