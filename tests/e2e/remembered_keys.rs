//! What the server remembers of a connection's reads under CLIENT TRACKING, which neither TRACKING OFF nor RESET undoes there: it
//! tells of those keys whoever tracks on the same connection later.

use crate::harness::{Client, Redis, Respool, Value, eventually, show, words};

#[track_caller]
fn ok(client: &mut Client, line: &str) {
    let words = words(line);
    assert_eq!(client.cmd(&words), Value::ok(), "{line}");
}

#[test]
fn what_one_client_has_read_is_told_no_later_client_that_tracks() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    for options in ["", " NOLOOP", " OPTOUT", " OPTIN"] {
        for ends in ["CLIENT TRACKING OFF", "RESET", "EXEC", ""] {
            let what = format!("CLIENT TRACKING ON{options}, then {ends:?}");
            let mut one = respool.resp3_client();
            let on = format!("CLIENT TRACKING ON{options}");
            if ends == "EXEC" {
                ok(&mut one, "MULTI");
                for line in [
                    &on[..],
                    "CLIENT CACHING YES",
                    "GET secret",
                    "CLIENT TRACKING OFF",
                ] {
                    if line != "CLIENT CACHING YES" || options == " OPTIN" {
                        assert_eq!(one.cmd(&words(line)), Value::simple("QUEUED"), "{what}");
                    }
                }
                one.cmd(&["EXEC"]);
            } else {
                ok(&mut one, &on);
                if options == " OPTIN" {
                    ok(&mut one, "CLIENT CACHING YES");
                }
                assert_eq!(one.cmd(&["GET", "secret"]), Value::Null, "{what}");
                if !ends.is_empty() {
                    one.cmd(&words(ends));
                }
            }
            drop(one);
            let mut two = respool.resp3_client();
            eventually(
                || two.cmd(&["CLIENT", "TRACKING", "ON"]) == Value::ok(),
                "lent again",
            );
            assert_eq!(two.cmd(&["GET", "own"]), Value::Null, "{what}");
            // The server tells of one change after the other.
            redis.cmd(&["SET", "secret", "x"]);
            redis.cmd(&["SET", "own", "x"]);
            assert_eq!(
                show(&two.reply_bytes()),
                show(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nown\r\n"),
                "{what}"
            );
            drop(two);
            redis.flush();
        }
    }
}

#[test]
fn a_connection_that_remembers_no_keys_is_lent_on() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    let opened = || redis.info("total_connections_received");
    let mut client = respool.resp3_client();
    ok(&mut client, "CLIENT TRACKING ON BCAST");
    ok(&mut client, "CLIENT TRACKING OFF");
    let before = opened();
    for line in [
        "CLIENT TRACKING ON BCAST",
        "CLIENT TRACKING OFF",
        "CLIENT TRACKING ON FOO",
        "CLIENT TRACKING ON PREFIX a",
        "CLIENT CACHING YES",
    ] {
        if line != "CLIENT TRACKING OFF" {
            eventually(|| respool.can_lend(), line);
        }
        client.cmd(&words(line));
    }
    eventually(|| respool.can_lend(), "given back");
    assert_eq!(opened(), before, "nothing was dialled");
}
