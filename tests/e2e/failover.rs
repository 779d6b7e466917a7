//! A server that fails, hangs, loads, is demoted or moves: noticed, counted by cause, and what it costs the clients.

mod moving;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    Client, NetworkPipe, Redis, Respool, ScriptedAct, ScriptedServer, TESTED_SERVER, Value, encode,
    eventually, leave_out,
};

/// Is what a command gets that could not be sent, byte for byte.
const NOT_SENT: &str = "LOADING respool: server unreachable, command not sent";

/// Is what a replica answers to a write, byte for byte.
const READONLY: &[u8] = b"-READONLY You can't write against a read only replica.\r\n";

fn losses(respool: &Respool, cause: &str) -> f64 {
    respool.metric(&format!(
        "respool_upstream_losses_total{{cause=\"{cause}\"}}"
    ))
}

#[track_caller]
fn wait_for_loss(respool: &Respool, cause: &str) {
    eventually(
        || losses(respool, cause) >= 1.0,
        &format!("a loss by {cause}"),
    );
}

fn last_failover(respool: &Respool) -> serde_json::Value {
    let status = respool.status_json();
    status["last_failover"].clone()
}

/// Holds what one client that counts has seen.
#[derive(Default)]
struct CountedReplies {
    acknowledged: Vec<i64>,
    /// They were sent, and the connection ended before the reply.
    unknown: usize,
    not_sent: usize,
    first_after: Option<Duration>,
}

/// Counts until told to stop, on a new connection whenever one has ended.
fn count(
    respool: &Respool,
    is_over: &AtomicBool,
    restarted: &std::sync::OnceLock<Instant>,
) -> CountedReplies {
    let mut counted = CountedReplies::default();
    let mut client = respool.client();
    while !is_over.load(Ordering::SeqCst) {
        match client.try_cmd(&["INCR", "n"]) {
            Some(Value::Int(number)) => {
                counted.acknowledged.push(number);
                if let Some(at) = restarted.get() {
                    counted.first_after.get_or_insert(at.elapsed());
                }
            }
            Some(refused) => {
                assert_eq!(refused, Value::error(NOT_SENT));
                counted.not_sent += 1;
            }
            None => {
                counted.unknown += 1;
                client = respool.client();
            }
        }
    }
    counted
}

/// Connects clients with names that do nothing.
fn idle_clients(respool: &Respool) -> Vec<Client> {
    (0..30)
        .map(|i| respool.client_named(&format!("idle-{i}")))
        .collect()
}

#[track_caller]
fn assert_undisturbed(idle: &mut [Client]) {
    for (i, client) in idle.iter_mut().enumerate() {
        let name = client.cmd(&["CLIENT", "GETNAME"]);
        assert_eq!(name, Value::bulk(format!("idle-{i}")));
        client.ping();
    }
}

/// Tells what clients see that count while the server is killed and started again.
fn count_through_a_restart(redis: &Redis, respool: &Respool) -> Vec<CountedReplies> {
    let (is_over, restarted) = (AtomicBool::new(false), std::sync::OnceLock::new());
    let counted_so_far = || redis.cmd(&["GET", "n"]).text().parse().unwrap_or(0);
    std::thread::scope(|scope| {
        let counters: Vec<_> = (0..12)
            .map(|_| scope.spawn(|| count(respool, &is_over, &restarted)))
            .collect();
        eventually(|| counted_so_far() > 1000, "a thousand are counted");
        redis.kill_hard();
        eventually(
            || respool.metric("respool_upstream_connects_total{result=\"refused\"}") >= 6.0,
            "respool has tried in vain for a while",
        );
        redis.restart();
        restarted.set(Instant::now()).expect("it is set once");
        let before = counted_so_far();
        eventually(|| counted_so_far() > before + 2000, "it goes on");
        is_over.store(true, Ordering::SeqCst);
        let ended = counters.into_iter().map(|c| c.join());
        ended.map(|c| c.expect("it ends well")).collect()
    })
}

#[test]
fn a_server_killed_and_restarted_under_load_costs_nobody_idle_anything() {
    // Where it syncs in the background the server keeps back what it has acknowledged while the disk is slow.
    let redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "no"]);
    let respool = Respool::with(&redis)
        .upstream("queue = { timeout = \"15s\", max_commands = 10000 }")
        .start();
    let mut idle = idle_clients(&respool);
    let ended_before = respool.metric("respool_client_disconnects_total");
    let counted = count_through_a_restart(&redis, &respool);
    let mut acknowledged: Vec<i64> = counted
        .iter()
        .flat_map(|c| c.acknowledged.clone())
        .collect();
    let unknown: usize = counted.iter().map(|c| c.unknown).sum();
    acknowledged.sort_unstable();
    let many = acknowledged.len();
    acknowledged.dedup();
    assert_eq!(acknowledged.len(), many, "no number was handed out twice");
    let last = redis
        .cmd(&["GET", "n"])
        .text()
        .parse::<usize>()
        .expect("a number");
    assert!(
        (many..=many + unknown).contains(&last),
        "{last}: {many} acknowledged, {unknown} unknown"
    );
    assert_undisturbed(&mut idle);
    let ended = respool.metric("respool_client_disconnects_total") - ended_before;
    assert!(
        ended as usize >= unknown,
        "{ended} ended, {unknown} of them in the middle"
    );
    let lost = losses(&respool, "reset") + losses(&respool, "closed");
    assert!(lost >= 1.0, "{}", respool.metrics());
    let told = last_failover(&respool);
    assert_eq!(
        (&told["from"], &told["to"]),
        (&redis.server_addr().into(), &redis.server_addr().into())
    );
    assert!(told["seconds"].as_f64().expect("a number") > 0.0, "{told}");
    assert_eq!(
        told["disconnected"].as_u64(),
        Some(unknown as u64),
        "{told}"
    );
    assert!(respool.metric("respool_last_failover_seconds") > 0.0);
    assert_eq!(respool.metric("respool_failovers_total"), 1.0);
    let slowest = counted
        .iter()
        .filter_map(|c| c.first_after)
        .max()
        .expect("they went on");
    eprintln!("served again {slowest:?} after the server; {unknown} of {many} unknown; {told}");
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
}

#[test]
fn a_hang_a_reset_and_a_close_are_told_apart() {
    let redis = Redis::start(&[]);
    let pipe = NetworkPipe::to(redis.addr());
    let respool = Respool::before(pipe.addr())
        // One connection, and nothing on it but what the clients send: the loss that is seen is that of theirs.
        .top("workers = 1")
        .upstream("reply_timeout = \"3s\"\nhealth_interval = \"0s\"\nping_interval = \"0s\"\nqueue = { timeout = \"60s\", max_commands = 100 }")
        .start();
    let mut idle = respool.client();
    idle.ping();
    let mut client = respool.client();
    redis.pause();
    client.send(encode(&["GET", "a"]));
    client.expect_end();
    wait_for_loss(&respool, "timeout");
    redis.resume();
    idle.ping();
    assert_eq!(losses(&respool, "reset"), 0.0);
    pipe.reset();
    wait_for_loss(&respool, "reset");
    idle.ping();
    let closed = losses(&respool, "closed");
    redis.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually(|| losses(&respool, "closed") > closed, "the close is seen");
    idle.ping();
}

#[test]
fn a_half_open_connection_is_noticed_though_nobody_uses_it() {
    let redis = Redis::start(&[]);
    let pipe = NetworkPipe::to(redis.addr());
    let respool = Respool::before(pipe.addr())
        // So that the client's connection is the one that is asked.
        .top("workers = 1")
        .upstream("ping_interval = \"100ms\"\nreply_timeout = \"500ms\"\nqueue = { timeout = \"15s\", max_commands = 100 }")
        .start();
    let mut client = respool.client();
    client.ping();
    pipe.freeze();
    wait_for_loss(&respool, "half_open");
    client.ping();
}

#[test]
fn a_server_that_loads_is_waited_for() {
    let is_loading = std::sync::Arc::new(AtomicBool::new(true));
    let says = std::sync::Arc::clone(&is_loading);
    let server = ScriptedServer::start(move |words| match words[0].as_str() {
        "hello" | "client" | "command" | "info" => ScriptedAct::Usual,
        _ if says.load(Ordering::SeqCst) => {
            ScriptedAct::Say("-LOADING Redis is loading the dataset in memory\r\n")
        }
        _ => ScriptedAct::Usual,
    });
    let respool = Respool::before(server.addr())
        // So that the client's connection is the only one.
        .top("workers = 1")
        .upstream("reply_timeout = \"60s\"\nqueue = { timeout = \"60s\", max_commands = 100 }")
        .start();
    let mut client = respool.client();
    client.send(encode(&["PING"]));
    wait_for_loss(&respool, "loading");
    eventually(
        || respool.metric("respool_upstream_connects_total{result=\"unready\"}") >= 1.0,
        "the attempt is counted",
    );
    eventually(
        || respool.metric("respool_server_up") == 0.0,
        "the server is known to be away",
    );
    is_loading.store(false, Ordering::SeqCst);
    assert_eq!(client.reply(), Value::simple("PONG"));

    // On a connection that is up it is an answer like another, and nobody else is disturbed.
    is_loading.store(true, Ordering::SeqCst);
    let (before, seen) = (server.connections(), losses(&respool, "loading"));
    client.send(encode(&["GET", "a"]));
    assert_eq!(
        client.reply_bytes(),
        b"-LOADING Redis is loading the dataset in memory\r\n"
    );
    // What respool asks by itself may be answered so too.
    eventually(|| losses(&respool, "loading") > seen, "it is counted");
    is_loading.store(false, Ordering::SeqCst);
    assert_eq!(client.cmd(&["GET", "a"]), Value::ok());
    assert_eq!(server.connections(), before);
}

#[test]
fn a_replica_that_has_lost_its_primary_is_waited_for() {
    if !TESTED_SERVER.is_7_or_later() {
        let reason = "Redis 6.2 answers PING without its primary: nothing is waited for, and who asks is told MASTERDOWN";
        leave_out(
            "e2e::failover::a_replica_that_has_lost_its_primary_is_waited_for",
            reason,
        );
        return;
    }
    // Nothing listens where its primary should be.
    let redis = Redis::start(&[]);
    assert_eq!(
        redis.cmd(&["CONFIG", "SET", "replica-serve-stale-data", "no"]),
        Value::ok()
    );
    assert_eq!(redis.cmd(&["REPLICAOF", "127.0.0.1", "1"]), Value::ok());
    let respool = Respool::with(&redis)
        .upstream("queue = { timeout = \"60s\", max_commands = 100 }")
        .start();
    let mut client = respool.client();
    client.send(encode(&["SET", "a", "1"]));
    wait_for_loss(&respool, "masterdown");
    redis.cmd(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(client.reply(), Value::ok());
}

#[test]
fn a_demoted_primary_is_left_without_a_storm() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).start();
    let (mut client, mut idle) = (respool.client(), respool.client());
    assert_eq!(client.cmd(&["SET", "a", "1"]), Value::ok());
    idle.ping();
    let before = redis.info_number("total_connections_received");
    redis.cmd(&["REPLICAOF", "127.0.0.1", "1"]);
    client.send(encode(&["SET", "a", "2"]));
    assert_eq!(
        client.reply_bytes(),
        READONLY,
        "the reply goes to whose write it was"
    );
    wait_for_loss(&respool, "readonly");
    assert_eq!(
        last_failover(&respool)["to"],
        serde_json::Value::Null,
        "not over: {}",
        last_failover(&respool)
    );
    // An operator's mistake: it stays a replica, and everybody writes on.
    for _ in 0..2000 {
        client.send(encode(&["SET", "a", "2"]));
        assert_eq!(client.reply_bytes(), READONLY);
    }
    let connects = redis.info_number("total_connections_received") - before;
    assert!(
        connects < 100,
        "{connects} connects for 2,000 refused writes"
    );
    redis.cmd(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(client.cmd(&["SET", "a", "3"]), Value::ok());
    assert_eq!(idle.cmd(&["GET", "a"]), Value::bulk("3"));
    respool.eventually_logs("upstream.address names a replica");
}

#[test]
fn a_script_that_says_what_a_replica_says_moves_nobody() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).start();
    let mut client = respool.client();
    client.ping();
    let asked = || {
        redis
            .info("cmdstat_hello")
            .split(',')
            .next()
            .map(str::to_owned)
    };
    let before = asked();
    client.send(encode(&[
        "EVAL",
        "return redis.error_reply('READONLY is what I say')",
        "0",
    ]));
    assert_eq!(client.reply_bytes(), b"-READONLY is what I say\r\n");
    eventually(|| asked() != before, "the server itself is asked");
    let mut transaction = respool.client();
    transaction.send(
        [
            encode(&["MULTI"]),
            encode(&[
                "EVAL",
                "return redis.error_reply('READONLY in an array')",
                "0",
            ]),
            encode(&["EXEC"]),
        ]
        .concat(),
    );
    let _ = (transaction.reply(), transaction.reply());
    assert_eq!(
        transaction.reply().items(),
        [Value::error("READONLY in an array")]
    );
    client.ping();
    assert_eq!(losses(&respool, "readonly"), 0.0);
    assert_eq!(respool.metric("respool_failovers_total"), 0.0);
}

#[test]
fn a_replica_that_closes_at_a_write_is_known_by_that() {
    let server = ScriptedServer::start(|words| match words[0].as_str() {
        "set" => {
            ScriptedAct::SayAndClose("-READONLY You can't write against a read only replica.\r\n")
        }
        _ => ScriptedAct::Usual,
    });
    server.call_itself_replica(true);
    let respool = Respool::before(server.addr()).start();
    let mut client = respool.client();
    client.send(encode(&["SET", "a", "1"]));
    assert_eq!(client.reply_bytes(), READONLY);
    wait_for_loss(&respool, "replica_write_close");
    client.ping();
}

#[test]
fn a_server_known_to_be_down_keeps_nobody_waiting() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream(
            "queue = { timeout = \"10m\", max_commands = 100 }\ncircuit = { after = \"300ms\" }",
        )
        .start();
    let mut clients: Vec<Client> = (0..5).map(|_| respool.client()).collect();
    clients.iter_mut().for_each(Client::ping);
    assert_eq!(respool.metric("respool_upstream_circuit_open"), 0.0);
    redis.kill_hard();
    eventually(
        || respool.metric("respool_upstream_circuit_open") == 1.0,
        "the circuit opens",
    );
    for client in &mut clients {
        assert_eq!(client.cmd(&["GET", "a"]), Value::error(NOT_SENT));
        assert_eq!(client.cmd(&["BLPOP", "a", "0"]), Value::error(NOT_SENT));
        assert_eq!(client.cmd(&["WATCH", "a"]), Value::error(NOT_SENT));
    }
    let tried = respool.metric("respool_upstream_connects_total{result=\"refused\"}");
    eventually(
        || respool.metric("respool_upstream_connects_total{result=\"refused\"}") > tried,
        "it is tried all the same",
    );
    assert!(
        respool.status().contains("\"circuit\": \"open\""),
        "{}",
        respool.status()
    );
    assert!(last_failover(&respool)["failed"].as_u64() >= Some(15));
    redis.restart();
    eventually(
        || respool.metric("respool_upstream_circuit_open") == 0.0,
        "it closes",
    );
    clients.iter_mut().for_each(Client::ping);
}

#[test]
fn connects_have_a_rate() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connects_per_second = 2\nborrow_timeout = \"60s\"\nqueue = { timeout = \"60s\", max_commands = 100 }")
        .start();
    let mut clients: Vec<Client> = (0..5).map(|_| respool.client()).collect();
    for client in &mut clients {
        client.send(encode(&["WATCH", "a"]));
    }
    for client in &mut clients {
        assert_eq!(client.reply(), Value::ok());
    }
    assert!(respool.metric("respool_bounds_reached_total{bound=\"connect_rate\"}") >= 1.0);
}
