//! Many clients: the server's connections stay within their limit, the counters are right, an idle client costs little.

use std::process::{Command, Stdio};

use crate::harness::{Client, PeakWatch, Pki, Redis, Respool, Value, encode, eventually};

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
    respool.client().ping();
    let status = respool.status_json();
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

/// Runs as a whole with `RESPOOL_IDLE=10000`.
#[test]
fn thousands_of_idle_clients_are_still_answered() {
    let count: usize = std::env::var("RESPOOL_IDLE")
        .map_or(2000, |n| n.parse().expect("RESPOOL_IDLE is a number"));
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits(&format!("max_clients = {}", count + 10))
        .start();
    respool.client().ping();
    let watch = redis.watch_connections();
    let before = respool.resident_bytes();
    let mut clients: Vec<_> = (0..count).map(|_| respool.client()).collect();
    clients.iter_mut().for_each(Client::ping);
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
fn idle_clients_with_tls_cost_little() {
    let count: usize =
        std::env::var("RESPOOL_IDLE").map_or(300, |n| n.parse().expect("RESPOOL_IDLE is a number"));
    let pki = Pki::new();
    let own = pki.issue("server", &["localhost"]);
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .plain_clients()
        .limits(&format!("max_clients = {}", count + 10))
        .listener(&format!("tls = {{ {} }}", own.toml()))
        .start();
    let config = pki.client(None);
    let mut warm = respool.tls_client(&config);
    warm.ping();
    let before = respool.resident_bytes();
    let mut clients: Vec<_> = (0..count).map(|_| respool.tls_client(&config)).collect();
    clients.iter_mut().for_each(Client::ping);
    let each = respool.resident_bytes().saturating_sub(before) / count as u64;
    eprintln!("{count} idle clients with TLS: {each} bytes each");
    assert!(
        each < 24 * 1024,
        "an idle client with TLS costs {each} bytes"
    );
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

/// Does transactions, watches and blocking calls, each of which needs a connection of its own at the server.
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
fn assert_within(watch: PeakWatch, limit: usize) {
    let most = watch.most();
    assert!(
        (1..=limit).contains(&most),
        "the server held {most} connections, {limit} are allowed"
    );
}
