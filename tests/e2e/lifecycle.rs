//! Servers that go away, clients that are slow or silent, and the end of the process.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{Client, ConnectionWatch, Redis, Respool, Value, encode, eventually};

/// What a command gets that could not be sent for too long, byte for byte.
const NOT_SENT: &[u8] = b"-LOADING respool: server unreachable, command not sent\r\n";

/// Keeps the server from answering anybody; its reply is due and the client that asked is in flight.
#[track_caller]
fn keep_busy(redis: &Redis, respool: &Respool, seconds: &str) -> Client {
    let mut client = respool.client();
    client.send(encode(&["DEBUG", "SLEEP", seconds]));
    eventually(
        || {
            let mut probe = redis.client();
            probe.send(encode(&["PING"]));
            probe.reply_within(Duration::from_millis(300)).is_none()
        },
        "the server is busy",
    );
    client
}

#[track_caller]
fn wait_until_lost(respool: &Respool) {
    eventually(
        || respool.metric_or_zero("respool_upstream_connections") == 0.0,
        "the loss of the server is seen",
    );
}

#[track_caller]
fn assert_served(client: &mut Client) {
    assert_eq!(client.cmd(&["PING"]), Value::simple("PONG"));
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
    assert_served(&mut client);
    redis.kill_hard();
    wait_until_lost(&respool);
    client.send(
        [
            encode(&["GET", "a"]),
            encode(&["SELECT", "2"]),
            encode(&["GET", "b"]),
        ]
        .concat(),
    );
    assert_eq!(client.reply_bytes(), NOT_SENT);
    let _ = client.reply_bytes();
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

#[test]
fn the_queue_of_unsent_commands_is_bounded() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("queue = { timeout = \"60s\", max_commands = 10 }")
        .start();
    let mut clients: Vec<_> = (0..30).map(|_| respool.client()).collect();
    clients.iter_mut().for_each(assert_served);
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
    assert_served(&mut client);
    assert_served(&mut idle);
    redis.pause();
    client.send(encode(&["INCR", "n"]));
    client.expect_end();
    redis.resume();
    assert_served(&mut idle);
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
    assert_served(&mut blocked);
}

#[test]
fn a_full_server_is_not_hammered() {
    let redis = Redis::start(&["--maxclients", "10"]);
    let mut held: Vec<_> = (0..9).map(|_| redis.client()).collect();
    held.iter_mut().for_each(assert_served);
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

#[test]
fn termination_finishes_replies_and_exits_with_0() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("drain_timeout = \"15s\"").start();
    let mut idle = respool.client();
    assert_served(&mut idle);
    let mut busy = keep_busy(&redis, &respool, "1");
    respool.terminate();
    eventually(
        || Client::try_connect(&respool.addr()).is_err(),
        "nobody is accepted any more",
    );
    idle.expect_end();
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
    assert_served(&mut respool.client());
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
    assert_served(&mut idle);
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
    assert_served(&mut other);
    respool.client_named("short").expect_end();
    assert_served(&mut other);
}

#[test]
fn a_client_that_asks_nothing_is_closed() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("handshake_timeout = \"300ms\"")
        .start();
    let mut speaking = respool.client();
    assert_served(&mut speaking);
    let silent = respool.client();
    let mut slow = respool.client();
    slow.send("*1\r\n$4\r\nPI");
    for mut client in [silent, slow] {
        client.expect_end();
    }
    assert_served(&mut speaking);
}

#[test]
fn a_slow_reader_is_disconnected_and_nobody_waits_for_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("max_client_buffer = \"1MiB\"")
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
            assert_served(&mut other);
            respool.clients_of("default") == 1
        },
        "the slow reader is disconnected",
    );
    let grown = respool.resident_bytes().saturating_sub(before);
    assert!(
        grown < 32 << 20,
        "a slow reader grew the process by {grown} bytes"
    );
    assert!(slow.read_to_end().len() < 100_000_000);
    assert_served(&mut other);
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
    assert_served(&mut respool.client());
    for _ in 0..2000 {
        assert_eq!(late.reply_bytes().len(), 10_000 + 10);
    }
}

#[test]
fn metrics_pass_promtool_under_load() {
    const NAMES: [&str; 19] = [
        "respool_client_connections{group=\"default\"}",
        "respool_client_connections_limit{group=\"capped\"}",
        "respool_client_connections_accepted_total{group=\"default\"}",
        "respool_client_connections_rejected_total{group=\"capped\"}",
        "respool_client_idle_connections{group=\"default\"}",
        "respool_client_oldest_idle_seconds{group=\"default\"}",
        "respool_client_commands_total{group=\"default\"}",
        "respool_client_bytes_total{group=\"default\"}",
        "respool_upstream_connections{kind=\"shared\"}",
        "respool_upstream_connections{kind=\"pinned\"}",
        "respool_upstream_connections_limit",
        "respool_upstream_connects_total",
        "respool_upstream_waiting_requests",
        "respool_pins_total{group=\"default\"}",
        "respool_request_duration_seconds_count",
        "respool_server_connected_clients",
        "respool_server_up",
        "respool_config_last_reload_successful",
        "respool_build_info",
    ];
    let redis = Redis::start(&[]);
    let group = "[[group]]\nname = \"capped\"\nmatch = { address = [\"127.0.0.2/32\"] }\nmax_connections = 1";
    let respool = Respool::with(&redis).section(group).start();
    let mut capped = [
        respool.client_from("127.0.0.2"),
        respool.client_from("127.0.0.2"),
    ];
    capped.iter_mut().for_each(|c| drop(c.cmd(&["PING"])));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = respool.client();
                for _ in 0..200 {
                    client.send(encode(&["INCR", "n"]).repeat(50));
                    (0..50).for_each(|_| drop(client.reply()));
                    client.cmd(&["WATCH", "k"]);
                    client.cmd(&["UNWATCH"]);
                }
            });
        }
        for _ in 0..5 {
            promtool_accepts(&respool.metrics());
        }
    });
    // What is asked of the server regularly may be a moment late.
    eventually(
        || respool.metric_or_zero("respool_server_maxclients") > 0.0,
        "the server's maxclients is known",
    );
    for name in NAMES {
        respool.metric(name);
    }
    let counts = || {
        let commands = respool.metric("respool_client_commands_total{group=\"default\"}");
        (
            commands,
            respool.metric("respool_pins_total{group=\"default\"}"),
        )
    };
    let all = (f64::from(4 * 200 * 52), f64::from(4 * 200));
    eventually(
        || counts() == all,
        "every command and every pin is counted once",
    );
    assert_eq!(respool.metric("respool_upstream_connections_limit"), 10.0);
}

fn promtool_accepts(metrics: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool (Debian package prometheus) can be started");
    let mut input = promtool.stdin.take().expect("its input is a pipe");
    std::io::Write::write_all(&mut input, metrics.as_bytes()).expect("promtool reads its input");
    drop(input);
    let output = promtool.wait_with_output().expect("promtool ends");
    let told = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "promtool check metrics: {told}\n{metrics}"
    );
}

#[test]
fn the_status_is_json_and_the_doors_are_open() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    assert_served(&mut respool.client());
    let status: serde_json::Value =
        serde_json::from_str(&respool.status()).expect("/status is JSON");
    assert!(status.is_object());
    for (path, code) in [
        ("/livez", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/nosuch", 404),
    ] {
        assert_eq!(respool.http(path).0, code, "{path}");
    }
}

/// `RESPOOL_IDLE=10000` for the whole of it.
#[test]
fn thousands_of_idle_clients_are_still_answered() {
    let count: usize = std::env::var("RESPOOL_IDLE")
        .map_or(2000, |n| n.parse().expect("RESPOOL_IDLE is a number"));
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits(&format!("max_clients = {}", count + 10))
        .start();
    assert_served(&mut respool.client());
    let watch = redis.watch_connections();
    let before = respool.resident_bytes();
    let mut clients: Vec<_> = (0..count).map(|_| respool.client()).collect();
    clients.iter_mut().for_each(assert_served);
    eventually(|| respool.clients_of("default") == count, "all are counted");
    let each = respool.resident_bytes().saturating_sub(before) / count as u64;
    eprintln!("{count} idle clients: {each} bytes each");
    assert!(each < 16 * 1024, "an idle client costs {each} bytes");
    for (i, client) in clients.iter_mut().enumerate() {
        assert_eq!(
            client.cmd(&["ECHO", &i.to_string()]),
            Value::bulk(i.to_string())
        );
    }
    assert_within(watch, 10);
    drop(clients);
    eventually(|| respool.clients_of("default") == 0, "nobody is counted");
}

#[test]
fn upstream_connections_never_exceed_their_limit_with_stateful_clients() {
    const CLIENTS: usize = 100;
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 6\nshared_connections = 2\nborrow_timeout = \"60s\"")
        .start();
    let watch = redis.watch_connections();
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let respool = &respool;
            scope.spawn(move || be_stateful(&mut respool.client(), number));
        }
    });
    assert_within(watch, 6);
    assert_eq!(
        redis.cmd(&["GET", "total"]),
        Value::bulk((CLIENTS * 3).to_string())
    );
    eventually(|| respool.clients_of("default") == 0, "nobody is counted");
    assert!(respool.metric("respool_upstream_connections") <= 6.0);
}

/// Transactions, watches and blocking calls, each of which needs a connection of its own at the server.
fn be_stateful(client: &mut Client, number: usize) {
    let own = format!("own:{number}");
    let database = (number % 16).to_string();
    for round in 0..3 {
        assert_eq!(client.cmd(&["SELECT", &database]), Value::ok());
        assert_eq!(client.cmd(&["WATCH", &own]), Value::ok());
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
        assert_eq!(
            client.cmd(&["RPUSH", &own, &round.to_string()]),
            Value::simple("QUEUED")
        );
        assert_eq!(client.cmd(&["EXEC"]), Value::Array(vec![Value::Int(1)]));
        let popped = client.cmd(&["BLPOP", &own, "10"]);
        assert_eq!(
            popped,
            Value::Array(vec![Value::bulk(&own), Value::bulk(round.to_string())])
        );
        assert!(client.cmd(&["BLPOP", &own, "0.01"]).is_null());
        assert_eq!(client.cmd(&["SELECT", "0"]), Value::ok());
        assert!(client.cmd(&["INCR", "total"]).int() > 0);
    }
}

#[track_caller]
fn assert_within(watch: ConnectionWatch, limit: usize) {
    let most = watch.most();
    assert!(
        (1..=limit).contains(&most),
        "the server held {most} connections, {limit} are allowed"
    );
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
    assert_served(&mut waiting);
    assert_served(&mut respool.client());
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
