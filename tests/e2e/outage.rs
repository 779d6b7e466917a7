//! Servers that go away and come back: what waits, what is told, who is disconnected, and that nothing runs twice.

use std::time::Duration;

use crate::harness::{Client, Redis, Respool, Value, encode, eventually, keep_busy};

/// Is what a command gets that could not be sent for too long, byte for byte.
const NOT_SENT: &[u8] = b"-LOADING respool: server unreachable, command not sent\r\n";

#[track_caller]
fn wait_until_lost(respool: &Respool) {
    eventually(
        || respool.metric_or_zero("respool_upstream_connections") == 0.0,
        "the loss of the server is seen",
    );
}

#[test]
fn commands_wait_for_a_server_that_comes_back() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("queue = { timeout = \"15s\", max_commands = 10000 }")
        .start();
    let mut clients: Vec<_> = (0..10).map(|_| respool.client()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["SELECT", "3"]), Value::ok());
    }
    redis.kill_hard();
    wait_until_lost(&respool);
    for (i, client) in clients.iter_mut().enumerate() {
        client.send(
            [
                encode(&["INCR", "n"]),
                encode(&["SET", &format!("k{i}"), "v"]),
            ]
            .concat(),
        );
    }
    redis.restart();
    let mut counted: Vec<_> = clients
        .iter_mut()
        .map(|c| (c.reply().int(), c.reply()).0)
        .collect();
    counted.sort_unstable();
    assert_eq!(counted, (1..=10).collect::<Vec<_>>(), "each ran once");
    assert_eq!(
        redis.cmd(&["DBSIZE"]),
        Value::Int(0),
        "nothing ran in another database"
    );
    assert_eq!(clients[0].cmd(&["DBSIZE"]), Value::Int(11));
}

#[test]
fn commands_that_wait_too_long_are_told_so_and_their_clients_stay() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("queue = { timeout = \"300ms\", max_commands = 100 }")
        .start();
    let mut client = respool.client();
    client.ping();
    redis.kill_hard();
    wait_until_lost(&respool);
    client.send([encode(&["GET", "a"]), encode(&["GET", "b"])].concat());
    assert_eq!(client.reply_bytes(), NOT_SENT);
    assert_eq!(client.reply_bytes(), NOT_SENT);
    assert_eq!(respool.metric("respool_server_up"), 0.0);
    assert_eq!(
        (respool.http("/livez").0, respool.http("/readyz").0),
        (200, 200),
        "not respool's own illness"
    );
    redis.restart();
    eventually(
        || client.cmd(&["PING"]) == Value::simple("PONG"),
        "the client works on",
    );
    eventually(
        || respool.metric("respool_server_up") == 1.0,
        "the server is seen again",
    );
}

/// Some libraries pass over the error to a SELECT, and go on in the database they are in.
#[test]
fn who_could_not_be_given_its_database_or_user_is_closed() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("queue = { timeout = \"300ms\", max_commands = 100 }")
        .start();
    let states: [&[&str]; 4] = [
        &["SELECT", "3"],
        &["AUTH", "default", "any"],
        &["HELLO", "3", "AUTH", "default", "any"],
        &["SELECT", "5"],
    ];
    let mut clients: Vec<Client> = states.iter().map(|_| respool.client()).collect();
    clients.iter_mut().for_each(Client::ping);
    redis.kill_hard();
    wait_until_lost(&respool);
    let set = encode(&["SET", "k", "v"]);
    for (client, state) in clients.iter_mut().zip(states) {
        client.send(encode(state));
    }
    // Of the last more is here already.
    if let Some(last) = clients.last_mut() {
        last.send(&set);
    }
    for client in &mut clients {
        assert_eq!(client.reply_bytes(), NOT_SENT);
    }
    redis.restart();
    eventually(
        || respool.metric("respool_server_up") == 1.0,
        "the server is seen again",
    );
    for client in &mut clients {
        // It may be closed before it is written to.
        let _ = client.try_send(&set);
        client.expect_end();
    }
    assert_eq!(redis.cmd(&["DBSIZE"]), Value::Int(0), "nothing has run");
}

#[test]
fn the_queue_of_unsent_commands_is_bounded() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("queue = { timeout = \"60s\", max_commands = 10 }")
        .start();
    let mut clients: Vec<_> = (0..30).map(|_| respool.client()).collect();
    clients.iter_mut().for_each(Client::ping);
    redis.kill_hard();
    wait_until_lost(&respool);
    for client in &mut clients {
        client.send(encode(&["GET", "a"]));
    }
    // Ten may wait a minute; the others learn at once.
    let mut told = 0;
    let mut waiting = Vec::new();
    eventually(
        || {
            for mut client in clients.drain(..) {
                match client.reply_within(Duration::from_millis(1)) {
                    Some(reply) => {
                        assert!(reply.text().starts_with("LOADING"), "{reply:?}");
                        told += 1;
                    }
                    None => waiting.push(client),
                }
            }
            clients.append(&mut waiting);
            told >= 20
        },
        "twenty of thirty are told",
    );
    redis.restart();
    for mut client in clients {
        assert!(client.reply().is_null());
    }
    assert_eq!(told, 20);
}

#[test]
fn a_start_before_the_server_is_no_error() {
    let redis = Redis::start(&[]);
    redis.kill_hard();
    let respool = Respool::with(&redis)
        .upstream("queue = { timeout = \"15s\", max_commands = 100 }")
        .start();
    let mut client = respool.client();
    client.send(encode(&["PING"]));
    redis.restart();
    assert_eq!(client.reply(), Value::simple("PONG"));
}

#[test]
fn a_lost_connection_costs_those_whose_commands_may_have_run() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("queue = { timeout = \"15s\", max_commands = 100 }")
        .start();
    let mut idle = respool.client();
    assert_eq!(idle.cmd(&["SELECT", "5"]), Value::ok());
    assert_eq!(idle.cmd(&["CLIENT", "SETNAME", "idle"]), Value::ok());
    let mut in_transaction = respool.client();
    assert_eq!(in_transaction.cmd(&["MULTI"]), Value::ok());
    assert_eq!(
        in_transaction.cmd(&["SET", "k", "v"]),
        Value::simple("QUEUED")
    );
    let mut watching = respool.client();
    assert_eq!(watching.cmd(&["WATCH", "k"]), Value::ok());
    let mut blocked = respool.client();
    blocked.send(encode(&["BLPOP", "list", "0"]));
    eventually(
        || redis.info("blocked_clients") == "1",
        "the client is blocked",
    );
    let mut in_flight = keep_busy(&redis, &respool, "60");

    redis.kill_hard();
    in_flight.expect_end();
    blocked.expect_end();
    redis.restart();

    assert_eq!(idle.cmd(&["CLIENT", "GETNAME"]), Value::bulk("idle"));
    assert_eq!(idle.cmd(&["SET", "k", "five"]), Value::ok());
    assert!(
        redis.cmd(&["GET", "k"]).is_null(),
        "still in its own database"
    );
    // A transaction that was lost must never look as if it had been carried out.
    let executed = in_transaction.try_cmd(&["EXEC"]);
    assert!(
        executed.as_ref().is_none_or(Value::is_error),
        "EXEC of a lost transaction: {executed:?}"
    );
    // Neither may a WATCH that was lost: another client could have written the key meanwhile.
    if watching
        .try_cmd(&["MULTI"])
        .is_some_and(|reply| !reply.is_error())
    {
        watching.try_cmd(&["SET", "k", "v"]);
        let executed = watching.try_cmd(&["EXEC"]);
        assert!(
            !matches!(executed, Some(Value::Array(_))),
            "EXEC after a lost WATCH: {executed:?}"
        );
    }
    assert!(redis.cmd(&["GET", "k"]).is_null());
}

#[test]
fn a_server_that_stops_answering_is_left() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("reply_timeout = \"500ms\"\nqueue = { timeout = \"15s\", max_commands = 100 }")
        .start();
    let mut client = respool.client();
    let mut idle = respool.client();
    client.ping();
    idle.ping();
    redis.pause();
    client.send(encode(&["INCR", "n"]));
    client.expect_end();
    redis.resume();
    idle.ping();
    assert!(
        idle.cmd(&["GET", "n"]).text().len() <= 1,
        "run once or not at all"
    );
}

#[test]
fn a_blocked_client_is_no_sign_of_a_silent_server() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("reply_timeout = \"300ms\"")
        .start();
    let mut blocked = respool.client();
    blocked.send(encode(&["BLPOP", "list", "1.5"]));
    assert!(
        blocked.reply().is_null(),
        "told by the server after its own time"
    );
    blocked.ping();
}

#[test]
fn a_full_server_is_not_hammered() {
    let redis = Redis::start(&["--maxclients", "10"]);
    let mut held: Vec<_> = (0..9).map(|_| redis.client()).collect();
    held.iter_mut().for_each(Client::ping);
    redis.cmd(&["PING"]);
    let respool = Respool::with(&redis)
        .upstream("queue = { timeout = \"1500ms\", max_commands = 100 }\nmax_connections = 3\nshared_connections = 1")
        .start();
    let mut client = respool.client();
    client.send(encode(&["GET", "a"]));
    assert!(client.reply().text().starts_with("LOADING"));
    // 50 ms doubled each time, with jitter, for each of at most three connections.
    let attempts = redis.info_number("rejected_connections");
    assert!(
        (1..100).contains(&attempts),
        "{attempts} attempts in a second and a half"
    );
    drop(held);
    eventually(
        || client.cmd(&["PING"]) == Value::simple("PONG"),
        "served when there is room",
    );
}
