//! `at_limit = "evict-idle"`, with clients that come back: no war, and every eviction is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Redis, Respool, Value, eventually, eventually_some};

/// Starts a respool with all of 127.0.0.0/8 in one group of `cap`.
fn evicting(redis: &Redis, cap: usize, lines: &str) -> Respool {
    Respool::with(redis)
        .section(&format!(
            "[[group]]\nname = \"local\"\nmatch = {{ address = [\"127.0.0.0/8\"] }}\nmax_connections = {cap}\n\
             at_limit = \"evict-idle\"\n{lines}"
        ))
        .start()
}

fn evictions(respool: &Respool, result: &str) -> usize {
    let metric = "respool_client_evictions_total";
    respool.metric(&format!("{metric}{{group=\"local\",result=\"{result}\"}}")) as usize
}

#[test]
fn one_that_was_evicted_and_comes_back_at_once_is_held_and_evicts_nobody() {
    let redis = Redis::start(&[]);
    let respool = evicting(&redis, 2, "evict_pause = \"60s\"");
    let mut first = respool.client_from("127.0.0.2");
    first.ping();
    let mut second = respool.client_from("127.0.0.3");
    second.ping();
    let mut third = respool.client_from("127.0.0.4");
    third.ping();
    let victim = first.local_addr().to_string();
    first.expect_end();
    for _ in 0..3 {
        respool.client_from("127.0.0.2").assert_rejected();
    }
    second.ping();
    third.ping();
    assert_eq!(
        (
            evictions(&respool, "evicted"),
            evictions(&respool, "returned")
        ),
        (1, 3)
    );
    let rejected =
        "respool_client_connections_rejected_total{group=\"local\",reason=\"group_cap\"}";
    assert_eq!(respool.metric(rejected), 3.0);
    // Another that has not been evicted may, and a place that is free is had by everybody.
    let mut fourth = respool.client_from("127.0.0.5");
    fourth.ping();
    second.expect_end();
    drop(third);
    eventually(|| respool.clients_of("local") == 1, "one has left");
    respool.client_from("127.0.0.2").ping();
    // Told: who went, for whom, and why another did not.
    let line = |part: &str| {
        let log = respool.log_text();
        let mut lines = log.lines();
        lines.find(|line| line.contains(part)).map(str::to_owned)
    };
    let evicted = eventually_some(|| line("evicted for a newcomer"), "the eviction is logged");
    assert!(
        evicted.contains(&victim) && evicted.contains("127.0.0.4:"),
        "{evicted}"
    );
    let held = eventually_some(|| line("rejected: "), "the rejection is logged");
    assert!(
        held.contains("127.0.0.2:") && held.contains("group.evict_pause"),
        "{held}"
    );
}

#[test]
fn who_has_not_authenticated_evicts_nobody() {
    let redis = Redis::start(&[]);
    for named in [
        "",
        "[[group]]\nname = \"named\"\nmatch = { client_name = \"zz*\" }",
    ] {
        let respool = Respool::with(&redis)
            .limits("arriving_timeout = \"300ms\"")
            .section("[auth]\nmode = \"proxy\"\n[[auth.user]]\nname = \"ann\"\npassword = \"pw\"")
            .section(named)
            .section(
                "[[group]]\nname = \"default\"\nmax_connections = 2\nat_limit = \"evict-idle\"",
            )
            .start();
        let known = || {
            let mut client = respool.client();
            assert_eq!(client.cmd(&["AUTH", "ann", "pw"]), Value::ok());
            assert!(client.cmd(&["GET", "k"]).is_null());
            client
        };
        let (first, mut second) = (known(), known());
        for _ in 0..3 {
            let mut stranger = respool.client();
            let told = stranger.cmd(&["GET", "k"]);
            assert!(told.text().starts_with("NOAUTH "), "{told:?}");
            // Its time is over, and there is no place for it.
            eventually(
                || {
                    let told = stranger.try_cmd(&["PING"]);
                    told.is_none_or(|told| told.text().starts_with("ERR max number"))
                },
                "it is rejected",
            );
        }
        second.ping();
        assert_eq!(respool.clients_of("default"), 2);
        // Who has authenticated does.
        let mut third = known();
        third.ping();
        drop(first);
    }
}

#[test]
fn an_eviction_is_for_another_name_where_names_are_known() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .section(
            "[[group]]\nname = \"local\"\nmatch = { client_name = \"job-*\" }\nmax_connections = 2\n\
             at_limit = \"evict-idle\"\nevict_pause = \"60s\"",
        )
        .start();
    let placed = |name: &str| {
        let mut client = respool.client_named(name);
        let reply = client.cmd(&["GET", "k"]);
        (client, reply)
    };
    let (mut one, _) = placed("job-1");
    let (mut two, _) = placed("job-2");
    let (_three, reply) = placed("job-3");
    assert!(reply.is_null(), "{reply:?}");
    one.expect_end();
    let (_, reply) = placed("job-1");
    assert_eq!(reply, Value::error("ERR max number of clients reached"));
    assert!(two.cmd(&["GET", "k"]).is_null());
    let (_four, reply) = placed("job-4");
    assert!(
        reply.is_null(),
        "of the same address, and another: {reply:?}"
    );
    assert_eq!(
        (
            evictions(&respool, "evicted"),
            evictions(&respool, "returned")
        ),
        (2, 1)
    );
}

/// Runs clients each of which opens a connection whenever the one it had has ended, as libraries do.
fn war(respool: &Respool, lasts: Duration) -> Duration {
    let is_over = AtomicBool::new(false);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..6 {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let mut client = respool.client_from(&format!("127.0.0.{}", 2 + number));
                    while !is_over.load(Ordering::Relaxed)
                        && client.try_cmd(&["PING"]) == Some(Value::simple("PONG"))
                        && client.is_open_after(Duration::from_millis(20))
                    {}
                    std::thread::park_timeout(Duration::from_millis(2));
                }
            });
        }
        while began.elapsed() < lasts {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    began.elapsed()
}

#[test]
fn evictions_are_as_many_a_second_as_may_be() {
    let redis = Redis::start(&[]);
    let respool = evicting(
        &redis,
        3,
        "evict_pause = \"0s\"\nmax_evictions_per_second = 2",
    );
    let took = war(&respool, Duration::from_secs(2));
    let most = 2 * (took.as_secs() as usize + 2);
    let evicted = evictions(&respool, "evicted");
    assert!((1..=most).contains(&evicted), "{evicted} in {took:?}");
    assert!(evictions(&respool, "too_fast") > 0);
    assert_eq!(evictions(&respool, "returned"), 0);
    let lines = respool.log_text().matches("evicted for a newcomer").count();
    assert!(lines <= 1 + took.as_secs() as usize / 10, "{lines} lines");
}

#[test]
fn clients_that_come_back_make_no_war() {
    let redis = Redis::start(&[]);
    let respool = evicting(&redis, 3, "evict_pause = \"60s\"");
    war(&respool, Duration::from_secs(2));
    // Each of the six is evicted once at most, and then waits.
    let evicted = evictions(&respool, "evicted");
    assert!((1..=6).contains(&evicted), "{evicted}");
    assert!(evictions(&respool, "returned") > 0);
}
