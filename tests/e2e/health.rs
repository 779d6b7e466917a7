//! The server's health, as far as it is known: INFO asked once for all workers, PING on idle connections, and what is said of
//! either.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::harness::{
    Client, Redis, Respool, Value, encode, encode_line, eventually, eventually_some,
};

/// Tells the last command of each of respool's connections, by the connection's name at the server.
fn last_commands(redis: &Redis) -> BTreeMap<String, String> {
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    let field = |line: &str, name: &str| {
        line.split(' ')
            .find_map(|field| Some(field.strip_prefix(name)?.to_owned()))
    };
    let entry = |line: &str| Some((field(line, "name=")?, field(line, "cmd=")?));
    let entries = list.lines().filter_map(entry);
    entries
        .filter(|(name, _)| name.starts_with("respool:"))
        .collect()
}

/// Tells whether every connection of this kind was sent a PING last, and there is one.
fn are_pinged(redis: &Redis, kind: &str) -> bool {
    let commands = last_commands(redis);
    let mut of_kind = commands
        .iter()
        .filter(|(name, _)| name.contains(kind))
        .peekable();
    of_kind.peek().is_some() && of_kind.all(|(_, command)| command == "ping")
}

#[test]
fn what_the_server_says_of_itself_is_told() {
    let redis = Redis::start(&["--maxclients", "321"]);
    let respool = Respool::with(&redis)
        .upstream("health_interval = \"100ms\"")
        .start();
    let mut waiting = redis.client();
    waiting.send(encode(&["BLPOP", "nothing", "0"]));
    eventually(
        || respool.metric_or_zero("respool_server_blocked_clients") == 1.0,
        "the server's blocked client",
    );
    assert_eq!(respool.metric("respool_server_up"), 1.0);
    assert_eq!(respool.metric("respool_server_maxclients"), 321.0);
    assert!(respool.metric("respool_server_connected_clients") >= 3.0);
    let (server, version) = name_and_version(&redis);
    let labels =
        format!("respool_server_info{{role=\"master\",server=\"{server}\",version=\"{version}\"}}");
    assert_eq!(respool.metric(&labels), 1.0);
    let status = respool.status_json();
    assert_eq!(status["server"]["blocked_clients"], 1);
    assert_eq!(status["server"]["version"], version.as_str());
    assert!(
        status["server"]["latency_ms"]
            .as_f64()
            .is_some_and(|ms| ms > 0.0)
    );
    assert_eq!(status["warnings"], serde_json::json!([]));
    drop(waiting);
    eventually(
        || respool.metric("respool_server_blocked_clients") == 0.0,
        "its end",
    );
}

#[test]
fn one_worker_asks_for_all_on_a_connection_that_is_there_anyway() {
    let redis = Redis::start(&[]);
    let mut monitor = redis.client();
    assert_eq!(monitor.cmd(&["MONITOR"]), Value::ok());
    let respool = Respool::with(&redis)
        .top("workers = 2")
        .upstream("health_interval = \"100ms\"\nping_interval = \"0s\"")
        .start();
    let mut askers = BTreeSet::new();
    let mut asked = 0;
    while asked < 9 {
        let line = monitor.reply().text();
        // Each connection asks once which server it is to, with INFO server.
        if line.contains("\"INFO\" \"clients\"") {
            asked += 1;
            askers.insert(line.split(['[', ']']).nth(1).map(str::to_owned));
        }
    }
    assert_eq!(askers.len(), 1, "{askers:?}");
    let kinds: BTreeSet<_> = last_commands(&redis).into_keys().collect();
    assert!(
        kinds.iter().all(|name| name.contains(":shared:")),
        "{kinds:?}"
    );
    assert_eq!(respool.metric("respool_server_ping_seconds_count"), 0.0);
}

#[test]
fn a_server_that_is_nearly_full_is_warned_of_until_it_is_not() {
    let redis = Redis::start(&["--maxclients", "30"]);
    let respool = Respool::with(&redis)
        .upstream("health_interval = \"100ms\"")
        .start();
    eventually(
        || respool.metric_or_zero("respool_server_maxclients") == 30.0,
        "the first answer",
    );
    assert!(respool.warnings("nearly full").is_empty());
    let connected = redis.info_number("connected_clients") as usize;
    let held: Vec<Client> = (connected..28).map(|_| redis.client()).collect();
    let lines = eventually_some(
        || Some(respool.warnings("nearly full")).filter(|lines| !lines.is_empty()),
        "a warning",
    );
    assert!(
        lines[0].contains("of 30 clients (its maxclients)"),
        "{lines:?}"
    );
    // The server is asked over and over meanwhile.
    let logged = || respool.log_text().matches("is nearly full:").count();
    let calls = || redis.info_number("total_commands_processed");
    let before = calls();
    eventually(|| calls() > before + 20, "more answers");
    respool.eventually_logs("is nearly full:");
    assert_eq!(logged(), 1, "logged when it begins");
    drop(held);
    eventually(
        || respool.warnings("nearly full").is_empty(),
        "the end of the warning",
    );
    let is_over = || {
        let log = respool.log_text();
        log.contains("no longer: the server is nearly full")
    };
    eventually(is_over, "its end is logged");
    assert_eq!(logged(), 1);
}

#[test]
fn a_server_that_refuses_info_is_up_and_what_is_missing_is_said() {
    let redis = Redis::start(&[]);
    let user = [
        "ACL", "SETUSER", "ops", "on", "nopass", "~*", "&*", "+@all", "-info",
    ];
    assert_eq!(redis.cmd(&user), Value::ok());
    let respool = Respool::with(&redis)
        .upstream("health_interval = \"100ms\"\nusername = \"ops\"\npassword = \"any\"")
        .start();
    let lines = eventually_some(
        || Some(respool.warnings("NOPERM")).filter(|lines| !lines.is_empty()),
        "a warning",
    );
    assert!(
        lines[0].contains("respool_server_maxclients") && lines[0].contains("+info"),
        "{lines:?}"
    );
    let metrics = respool.metrics();
    for name in ["connected_clients", "maxclients", "blocked_clients"] {
        assert!(
            !metrics.contains(&format!("respool_server_{name} ")),
            "{name}"
        );
    }
    assert_eq!(respool.metric("respool_server_up"), 1.0);
    // Who it is the server has told when it was connected to.
    assert_eq!(respool.metric("respool_server_info{role=\"master\"}"), 1.0);
    let denied = || {
        let stats = redis.cmd(&["INFO", "errorstats"]).text();
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix("errorstat_NOPERM:count="));
        line.map_or(0, |count| count.parse::<u64>().expect("a number"))
    };
    let before = denied();
    eventually(|| denied() > before + 20, "more refusals");
    respool.eventually_logs("does not answer INFO");
    assert_eq!(
        respool.log_text().matches("does not answer INFO").count(),
        1
    );
    assert_eq!(redis.cmd(&["ACL", "SETUSER", "ops", "+info"]), Value::ok());
    eventually(
        || respool.metric_or_zero("respool_server_maxclients") > 0.0,
        "what was missing",
    );
    assert!(respool.warnings("NOPERM").is_empty());
}

#[test]
fn nobody_asks_when_the_interval_is_zero() {
    let redis = Redis::start(&[]);
    redis.cmd(&["CONFIG", "RESETSTAT"]);
    let respool = Respool::with(&redis)
        .upstream("health_interval = \"0s\"\nping_interval = \"100ms\"")
        .start();
    eventually(
        || respool.metric("respool_server_ping_seconds_count") >= 20.0,
        "two seconds' worth of PINGs",
    );
    let stats = redis.cmd(&["INFO", "commandstats"]).text();
    assert!(!stats.contains("cmdstat_info"), "{stats}");
    assert_eq!(respool.metric("respool_server_up"), 1.0);
    assert_eq!(respool.metric_or_zero("respool_server_maxclients"), 0.0);
}

#[test]
fn every_idle_connection_is_asked_whether_it_is_there() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("health_interval = \"0s\"\nping_interval = \"200ms\"")
        .start();
    let mut client = respool.client();
    // Leaves an idle pin, in another database than the rest.
    client.cmd(&["SELECT", "3"]);
    client.cmd(&["WATCH", "k"]);
    client.cmd(&["UNWATCH"]);
    let mut subscriber = respool.client();
    subscriber.cmd(&["SUBSCRIBE", "c"]);
    for kind in [":shared:", ":pinned:", ":subscription:"] {
        eventually(|| are_pinged(&redis, kind), kind);
    }
    let status = respool.status_json();
    assert!(status["server"]["pings"]["answered"].as_u64() > Some(0));
    assert_eq!(status["server"]["pings"]["unanswered"], 0);
    let count = respool.metric("respool_server_ping_seconds_count");
    let within = respool.metric("respool_server_ping_seconds_bucket{le=\"10\"}");
    assert!(count > 0.0 && within > 0.0);
    // The clients see nothing of it.
    client.ping();
    redis.cmd(&["PUBLISH", "c", "m"]);
    assert!(format!("{:?}", subscriber.reply()).contains("message"));
}

#[test]
fn no_ping_goes_into_a_connection_that_is_lent() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("health_interval = \"0s\"\nping_interval = \"100ms\"\nmax_connections = 12")
        .start();
    let (mut watching, mut open) = (respool.client(), respool.client());
    assert_eq!(watching.cmd(&["WATCH", "k"]), Value::ok());
    assert_eq!(open.cmd(&["MULTI"]), Value::ok());
    assert_eq!(open.cmd(&["INCR", "k"]), Value::simple("QUEUED"));
    let mut monitor = respool.client();
    assert_eq!(monitor.cmd(&["MONITOR"]), Value::ok());
    let mut blocked = respool.client();
    blocked.send(encode(&["BLMOVE", "a", "b", "LEFT", "LEFT", "0"]));
    let lent = |redis: &Redis| -> BTreeSet<String> {
        let commands = last_commands(redis);
        // Some servers are asked whether they hold writes back, on one that nobody has then, and that may be sent a PING. One of those that
        // are lent would be missed.
        let is_lent = |command: &str| command != "pfcount" && command != "ping";
        let pins = commands
            .into_iter()
            .filter(|(name, command)| name.contains(":pinned:") && is_lent(command));
        pins.map(|(_, command)| command).collect()
    };
    let wanted: BTreeSet<String> = ["watch", "incr", "monitor", "blmove"]
        .map(str::to_owned)
        .into();
    eventually(|| lent(&redis) == wanted, "what each of them did last");
    let count = || respool.metric("respool_server_ping_seconds_count");
    let before = count();
    eventually(|| count() > before + 10.0, "PINGs on the shared connection");
    assert_eq!(lent(&redis), wanted, "nothing else since");
    assert_eq!(open.cmd(&["EXEC"]), Value::Array(vec![Value::Int(1)]));
    redis.cmd(&["RPUSH", "a", "x"]);
    assert_eq!(blocked.reply(), Value::bulk("x"));
}

#[test]
fn a_connection_that_does_not_answer_is_replaced_and_idle_clients_notice_nothing() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("reply_timeout = \"500ms\"\nping_interval = \"200ms\"\nhealth_interval = \"0s\"")
        .start();
    let mut client = respool.client();
    client.ping();
    // Leaves an idle pin.
    client.cmd(&["WATCH", "k"]);
    client.cmd(&["UNWATCH"]);
    let mut subscriber = respool.client();
    subscriber.cmd(&["SUBSCRIBE", "c"]);
    let unanswered = "respool_server_pings_unanswered_total";
    assert_eq!(respool.metric(unanswered), 0.0);
    redis.pause();
    eventually(
        || respool.metric(unanswered) >= 3.0,
        "the shared connection, the pin and the subscription are found dead",
    );
    eventually(
        || respool.metric("respool_server_up") == 0.0,
        "the server counts as down",
    );
    redis.resume();
    eventually(
        || respool.metric("respool_server_up") == 1.0,
        "the server is seen again",
    );
    client.ping();
    eventually(
        || redis.cmd(&["PUBLISH", "c", "m"]) == Value::Int(1),
        "the subscription is renewed",
    );
    assert!(format!("{:?}", subscriber.reply()).contains("message"));
}

#[test]
fn clients_that_wait_are_counted() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    assert_eq!(respool.metric("respool_blocked_clients"), 0.0);
    let mut clients: Vec<Client> = (0..5).map(|_| respool.client()).collect();
    for (client, call) in clients.iter_mut().zip([
        "BLPOP l 0",
        "BLPOP l 0",
        "BZPOPMIN z 0",
        "BLMOVE a b LEFT LEFT 0",
        "XREAD BLOCK 0 STREAMS s $",
    ]) {
        client.send(encode_line(call));
    }
    eventually(
        || respool.metric("respool_blocked_clients") == 5.0,
        "all five",
    );
    assert_eq!(respool.status_json()["clients"]["blocked"], 5);
    drop(clients.pop());
    redis.cmd(&["RPUSH", "l", "x", "y"]);
    for client in &mut clients[..2] {
        assert!(client.reply_within(Duration::from_secs(20)).is_some());
    }
    eventually(
        || respool.metric("respool_blocked_clients") == 2.0,
        "those that still wait",
    );
}

/// Tells what the server is called, and its own version: of Valkey not the one of the Redis it is compatible with.
fn name_and_version(redis: &Redis) -> (&'static str, String) {
    let info = redis.cmd(&["INFO", "server"]).text();
    let field = |name| info.lines().find_map(|line| line.strip_prefix(name));
    match field("valkey_version:") {
        Some(version) => ("valkey", version.to_owned()),
        None => ("redis", redis.info("redis_version")),
    }
}
