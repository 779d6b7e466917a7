//! Clients that are slow, silent or gone, the sockets they come by, and the end of the process.

use crate::harness::{Client, Redis, Respool, Value, encode, eventually, hold_up, keep_busy};

#[test]
fn termination_finishes_replies_and_exits_with_0() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("drain_timeout = \"10m\"").start();
    let mut idle = respool.client();
    idle.ping();
    let mut busy = hold_up(&redis, &respool);
    respool.terminate();
    eventually(
        || Client::try_connect(&respool.addr()).is_err(),
        "nobody is accepted any more",
    );
    idle.expect_end();
    redis.resume();
    assert_eq!(busy.reply(), Value::ok(), "what was in flight is answered");
    busy.expect_end();
    let status = respool.wait();
    assert_eq!(status.code(), Some(0));
    eventually(|| redis.connected_clients() == 0, "the server is left");
}

#[test]
fn a_drain_has_a_deadline() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("drain_timeout = \"300ms\"")
        .start();
    let mut busy = keep_busy(&redis, &respool, "60");
    respool.terminate();
    respool.wait();
    busy.expect_end();
}

#[test]
fn a_second_signal_ends_at_once() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("drain_timeout = \"60s\"").start();
    let mut busy = keep_busy(&redis, &respool, "60");
    respool.terminate();
    eventually(
        || Client::try_connect(&respool.addr()).is_err(),
        "the first signal is seen",
    );
    respool.assert_alive();
    respool.terminate();
    respool.wait();
    busy.expect_end();
}

#[test]
fn a_unix_socket_is_as_good() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).unix_listener().start();
    let mut local = respool.unix_client();
    let mut remote = respool.client();
    assert_eq!(local.cmd(&["SET", "k", "v"]), Value::ok());
    assert_eq!(remote.cmd(&["GET", "k"]), Value::bulk("v"));
    assert!(!local.cmd(&["CLIENT", "INFO"]).is_error());
    assert_eq!(local.cmd(&["MULTI"]), Value::ok());
    assert_eq!(local.cmd(&["EXEC"]), Value::Array(vec![]));
    drop((local, remote));
    eventually(
        || respool.clients_of("default") == 0,
        "both are counted and gone",
    );
    respool.terminate();
    respool.wait();
    assert!(
        !respool.unix_path().exists(),
        "the socket's file is removed"
    );
}

#[test]
fn the_server_may_be_a_unix_socket() {
    let redis = Redis::start(&[]);
    let respool = Respool::before(&format!("unix:{}", redis.unix_path().display())).start();
    respool.client().ping();
}

#[test]
fn idle_clients_are_closed_and_blocked_ones_spared() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("idle_timeout = \"500ms\"")
        .start();
    let mut blocked = respool.client();
    blocked.send(encode(&["BLPOP", "list", "0"]));
    let mut idle = respool.client();
    idle.ping();
    idle.expect_end();
    eventually(
        || respool.clients_of("default") == 1,
        "the blocked client is left",
    );
    redis.cmd(&["RPUSH", "list", "x"]);
    assert_eq!(
        blocked.reply(),
        Value::Array(vec![Value::bulk("list"), Value::bulk("x")])
    );
    blocked.expect_end();
}

#[test]
fn a_group_has_an_idle_timeout_of_its_own() {
    let redis = Redis::start(&[]);
    let group = "[[group]]\nname = \"short\"\nmatch = { client_name = \"short\" }\nidle_timeout = \"300ms\"";
    let respool = Respool::with(&redis).section(group).start();
    let mut other = respool.client();
    other.ping();
    respool.client_named("short").expect_end();
    other.ping();
}

#[test]
fn a_client_that_does_not_end_what_it_asks_is_closed() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("handshake_timeout = \"300ms\"")
        .start();
    let mut speaking = respool.client();
    speaking.ping();
    let mut silent = respool.client();
    let mut slow = respool.client();
    slow.send("*1\r\n$4\r\nPI");
    slow.expect_end();
    speaking.ping();
    silent.ping();
}

#[test]
fn a_reader_that_stalls_is_disconnected_and_nobody_waits_for_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("max_client_buffer = \"1MiB\"\nreply_stall_timeout = \"500ms\"")
        .start();
    let mut other = respool.client();
    assert_eq!(
        other.cmd(&[b"SET", b"big".as_slice(), &[b'x'; 100_000]]),
        Value::ok()
    );
    let before = respool.resident_bytes();
    let mut slow = respool.client();
    slow.shrink_receive_buffer(4096);
    // A hundred megabytes of replies that nobody reads.
    slow.send(encode(&["GET", "big"]).repeat(1000));
    eventually(
        || {
            other.ping();
            respool.clients_of("default") == 1
        },
        "the slow reader is disconnected",
    );
    eventually(
        || respool.resident_bytes().saturating_sub(before) < 16 << 20,
        "what was held for it has gone back",
    );
    let disconnected = "respool_client_disconnects_total{reason=\"output_buffer\"}";
    assert_eq!(respool.metric(disconnected), 1.0);
    drop(slow);
    other.ping();
}

#[test]
fn a_client_that_reads_late_within_its_buffer_gets_everything() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut late = respool.client();
    assert_eq!(
        late.cmd(&[b"SET", b"big".as_slice(), &[b'x'; 10_000]]),
        Value::ok()
    );
    late.send(encode(&["GET", "big"]).repeat(2000));
    respool.client().ping();
    for _ in 0..2000 {
        assert_eq!(late.reply_bytes().len(), 10_000 + 10);
    }
}

#[test]
fn a_client_waits_its_turn_for_a_pin_and_not_for_ever() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 3\nshared_connections = 1\nborrow_timeout = \"500ms\"")
        .start();
    let mut holders = [respool.client(), respool.client()];
    for holder in &mut holders {
        assert_eq!(holder.cmd(&["WATCH", "k"]), Value::ok());
    }
    let mut waiting = respool.client();
    assert!(
        waiting.cmd(&["WATCH", "k"]).is_error(),
        "no connection to pin within borrow_timeout"
    );
    waiting.ping();
    respool.client().ping();
    // A holder that vanishes gives its pin back at once.
    let [first, mut second] = holders;
    first.abort();
    assert_eq!(waiting.cmd(&["WATCH", "k"]), Value::ok());
    assert_eq!(second.cmd(&["MULTI"]), Value::ok());
    assert_eq!(second.cmd(&["EXEC"]), Value::Array(vec![]));
}

#[test]
fn a_blocked_client_that_leaves_loses_no_element() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    for _ in 0..20 {
        let mut blocked = respool.client();
        blocked.send(encode(&["BLPOP", "list", "0"]));
        eventually(
            || redis.info("blocked_clients") == "1",
            "the client is blocked",
        );
        blocked.abort();
        eventually(|| redis.info("blocked_clients") == "0", "its pin is free");
        assert_eq!(redis.cmd(&["RPUSH", "list", "x"]), Value::Int(1));
        assert_eq!(
            redis.cmd(&["LPOP", "list"]),
            Value::bulk("x"),
            "nobody took it"
        );
    }
    eventually(|| respool.clients_of("default") == 0, "nobody is counted");
}

#[test]
fn a_unix_socket_gets_its_mode() {
    use std::os::unix::fs::PermissionsExt as _;
    let redis = Redis::start(&[]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("own.sock");
    let _respool = Respool::with(&redis)
        .section(&format!(
            "[[listener]]\naddress = \"unix:{}\"\nmode = \"0660\"",
            path.display()
        ))
        .start();
    let mode = std::fs::metadata(&path)
        .expect("the socket is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    Client::connect_unix(&path).ping();
}

#[test]
fn a_reload_amid_a_drain_opens_no_listener_and_says_so() {
    let redis = Redis::start(&[]);
    let settings = || Respool::with(&redis).top("drain_timeout = \"60s\"");
    let respool = settings().start();
    let mut busy = keep_busy(&redis, &respool, "60");
    respool.terminate();
    eventually(
        || Client::try_connect(&respool.addr()).is_err(),
        "nobody is accepted any more",
    );
    let other = format!("127.0.0.1:{}", crate::harness::free_port());
    respool.rewrite(&settings().section(&format!("[[listener]]\naddress = \"{other}\"")));
    respool.hang_up();
    respool.eventually_logs("SIGHUP: the configuration is reloaded");
    respool.eventually_logs("the listeners stay as they are: respool drains");
    assert!(Client::try_connect(&other).is_err());
    let log = respool.log_text();
    assert!(!log.contains(&format!("listens on {other}")), "{log}");
    respool.terminate();
    respool.wait();
    busy.expect_end();
}
