//! Transactions that do not end as they should.

use super::{busy_script, look_on, on_one_connection, others, until_busy};
use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

fn block(commands: &[&[&str]]) -> Vec<u8> {
    let inner = commands.iter().flat_map(|command| encode(command));
    encode(&["MULTI"])
        .into_iter()
        .chain(inner)
        .chain(encode(&["EXEC"]))
        .collect()
}

#[test]
fn nobody_is_answered_queued_in_anothers_transaction() {
    let redis = Redis::start(&["--rename-command", "EXEC", ""]);
    let respool = on_one_connection(&redis);
    let mut others = others(&respool);
    let (mut slow, mut hostile) = (respool.client(), respool.client());
    let (wrong, _) = look_on(&mut others, || {
        slow.send(busy_script());
        until_busy(&redis);
        hostile.send(block(&[&["SET", "a", "1"]]));
    });
    assert_eq!(wrong, 0);
    assert_eq!(slow.reply(), Value::Int(1));
    assert_eq!(hostile.reply(), Value::ok());
    assert_eq!(hostile.reply(), Value::simple("QUEUED"));
    assert!(hostile.reply().is_error());
    // It happens once: blocks of this user have connections of their own from now on.
    let mut others = super::others(&respool);
    for round in 0..5 {
        let mut hostile = respool.client();
        let ended = look_on(&mut others, || hostile.send(block(&[&["SET", "a", "1"]])));
        assert_eq!(ended, (0, 0), "round {round}");
        assert_eq!(hostile.reply(), Value::ok());
    }
    assert!(respool.pins("multi") >= 5.0);
}

#[test]
fn a_connection_in_a_transaction_is_not_lent_on() {
    let redis = Redis::start(&["--rename-command", "EXEC", ""]);
    let respool = on_one_connection(&redis);
    for _ in 0..3 {
        let mut hostile = respool.client();
        assert_eq!(hostile.cmd(&["MULTI"]), Value::ok());
        assert_eq!(hostile.cmd(&["SET", "a", "1"]), Value::simple("QUEUED"));
        assert!(hostile.cmd(&["EXEC"]).is_error());
        let mut next = respool.client();
        assert_eq!(next.cmd(&["WATCH", "a"]), Value::ok());
        assert_eq!(next.cmd(&["SET", "b", "1"]), Value::ok());
        assert_eq!(next.cmd(&["GET", "b"]), Value::bulk("1"));
        // Directly it would be in MULTI still.
        assert_eq!(hostile.cmd(&["GET", "b"]), Value::simple("QUEUED"));
        assert_eq!(hostile.cmd(&["DISCARD"]), Value::ok());
        assert_eq!(hostile.cmd(&["GET", "b"]), Value::bulk("1"));
    }
}

#[test]
fn a_block_ends_properly_however_it_is_refused() {
    let redis = Redis::start(&[]);
    for rules in ["-exec", "-multi", "-set", "-discard"] {
        let name = format!("without{rules}");
        let made = redis.cmd(&[
            "ACL", "SETUSER", &name, "on", ">p", "~*", "&*", "+@all", rules,
        ]);
        assert_eq!(made, Value::ok());
    }
    let respool = on_one_connection(&redis);
    let mut others = others(&respool);
    for rules in ["-exec", "-multi", "-set", "-discard"] {
        let login = |client: &mut Client| {
            let name = format!("without{rules}");
            assert_eq!(client.cmd(&["AUTH", &name, "p"]), Value::ok());
        };
        let (mut through, mut direct) = (respool.client(), redis.client());
        login(&mut through);
        login(&mut direct);
        let sent = block(&[&["SET", "a", "1"], &["GET", "a"]]);
        let ended = look_on(&mut others, || through.send(&sent));
        assert_eq!(ended, (0, 0), "{rules}");
        direct.send(&sent);
        for _ in 0..4 {
            assert_eq!(through.reply(), direct.reply(), "{rules}");
        }
    }
    assert_eq!(respool.pins("multi"), 0.0);
}

#[test]
fn who_waits_holds_up_nobody_where_multi_is_refused() {
    let redis = Redis::start(&["--rename-command", "MULTI", ""]);
    let respool = on_one_connection(&redis);
    let mut others = others(&respool);
    let mut waiters: Vec<_> = (0..3).map(|_| respool.client()).collect();
    for (number, client) in waiters.iter_mut().enumerate() {
        client.send(encode(&["BLPOP", &format!("q{number}"), "0"]));
    }
    assert_eq!(look_on(&mut others, || ()), (0, 0));
    eventually(
        || redis.info_number("blocked_clients") > 0,
        "they wait at the server",
    );
    for (number, client) in waiters.iter_mut().enumerate() {
        let key = format!("q{number}");
        assert_eq!(redis.cmd(&["LPUSH", &key, "v"]), Value::Int(1));
        assert_eq!(
            client.reply(),
            Value::Array(vec![Value::bulk(key), Value::bulk("v")])
        );
    }
    assert_eq!(look_on(&mut others, || ()), (0, 0));
}

#[test]
fn who_waits_leaves_no_transaction_open_where_exec_is_refused() {
    let redis = Redis::start(&["--rename-command", "EXEC", ""]);
    let respool = on_one_connection(&redis);
    let mut others = others(&respool);
    let mut waiter = respool.client();
    let (wrong, _) = look_on(&mut others, || waiter.send(encode(&["BLPOP", "q", "0"])));
    assert_eq!(wrong, 0);
    eventually(
        || respool.log_text().contains("left a transaction open"),
        "it is noticed",
    );
    // It happens once: who waits has a connection of its own from now on.
    let mut others = super::others(&respool);
    let mut waiters: Vec<_> = (0..3).map(|_| respool.client()).collect();
    for client in &mut waiters {
        let ended = look_on(&mut others, || client.send(encode(&["BLPOP", "q", "0"])));
        assert_eq!(ended, (0, 0));
    }
    eventually(
        || redis.info_number("blocked_clients") >= 3,
        "they wait at the server",
    );
    // One for whoever waited first, too, if it waits on.
    assert_eq!(
        redis.cmd(&["RPUSH", "q", "v", "v", "v", "v"]),
        Value::Int(4)
    );
    for client in &mut waiters {
        assert_eq!(
            client.reply(),
            Value::Array(vec![Value::bulk("q"), Value::bulk("v")])
        );
    }
}

#[test]
fn a_block_for_which_there_is_no_place_is_answered_whole() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("queue = { timeout = \"60s\", max_commands = 1 }")
        .start();
    let mut waits = respool.client();
    waits.ping();
    redis.kill_hard();
    eventually(
        || respool.metric("respool_server_up") == 0.0,
        "it is known to be away",
    );
    waits.send(encode(&["GET", "k"]));
    eventually(
        || respool.metric("respool_upstream_waiting_requests") >= 1.0,
        "one waits",
    );
    let mut client = respool.client();
    client.send(block(&[&["SET", "a", "1"]]));
    for _ in 0..3 {
        let reply = client.reply();
        assert!(reply.is_error(), "{reply:?}");
    }
}
