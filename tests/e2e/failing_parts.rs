//! Parts of the process that die or stand still are seen, and cost nobody more than they must; how the process ends.

use std::time::{Duration, Instant};

use crate::harness::{Client, Redis, Respool, RespoolSettings, Value, encode, eventually};

/// Faults are made by a hook that a release does not have.
#[cfg(debug_assertions)]
mod faults {
    use super::*;

    fn two_workers(redis: &Redis) -> RespoolSettings {
        Respool::with(redis)
            .top("workers = 2\nstall_timeout = \"1s\"")
            .upstream("reply_timeout = \"60s\"")
    }

    fn make(respool: &Respool, fault: &str) {
        assert_eq!(respool.post(&format!("/debug/{fault}")).0, 200, "{fault}");
    }

    #[test]
    fn a_worker_that_dies_is_told_of_and_ends_the_process() {
        let redis = Redis::start(&[]);
        let respool = two_workers(&redis).top("drain_timeout = \"60s\"").start();
        let mut other = respool.client();
        let mut hit = respool.client();
        other.ping();
        hit.ping();
        redis.pause();
        other.send(encode(&["SET", "k", "v"]));
        make(&respool, "worker-1/panic");
        hit.expect_end();
        eventually(
            || respool.http("/livez") == (503, "worker-1 has ended\n".to_owned()),
            "/livez says so",
        );
        assert_eq!(respool.metric("respool_part_up{part=\"worker-1\"}"), 0.0);
        assert_eq!(respool.metric("respool_part_up{part=\"worker-0\"}"), 1.0);
        assert_eq!(respool.metric("respool_panics_total"), 1.0);
        assert_eq!(respool.http("/readyz").0, 503);
        assert!(respool.status().contains("worker-1 has ended"));
        redis.resume();
        assert_eq!(other.reply(), Value::ok(), "what was begun is finished");
        other.expect_end();
        assert_eq!(respool.wait().code(), Some(70));
        let log = respool.log_text();
        assert!(log.contains("a test asked for this"), "{log}");
        assert!(
            log.contains("worker-1 has ended: respool cannot go on"),
            "{log}"
        );
    }

    #[test]
    fn newcomers_do_not_go_to_a_worker_that_stands_still() {
        let redis = Redis::start(&[]);
        let respool = two_workers(&redis).top("drain_timeout = \"1s\"").start();
        assert_eq!(respool.http("/livez").0, 200);
        make(&respool, "worker-1/hang/120000");
        eventually(|| respool.http("/livez").0 == 503, "/livez says so");
        assert!(
            respool
                .http("/livez")
                .1
                .contains("worker-1 has not moved for 1s")
        );
        let mut clients: Vec<Client> = (0..20).map(|_| respool.client()).collect();
        for client in &mut clients {
            client.set_patience(Duration::from_secs(30));
            client.ping();
        }
        // A reload waits for all workers; what it cannot reach holds up neither it nor the end.
        respool.terminate();
        assert_eq!(respool.wait().code(), Some(70));
        assert!(respool.log_text().contains("worker-1 does not end"));
    }

    #[test]
    fn a_worker_that_moves_again_is_well() {
        let redis = Redis::start(&[]);
        let respool = two_workers(&redis).start();
        make(&respool, "worker-1/hang/4000");
        eventually(
            || respool.log_text().contains("worker-1 moves again"),
            "it is over",
        );
        eventually(
            || respool.http("/livez") == (200, "ok\n".to_owned()),
            "all is well",
        );
        respool.assert_alive();
    }

    #[test]
    fn a_task_that_a_worker_needs_is_a_part_of_it() {
        let redis = Redis::start(&[]);
        let respool = two_workers(&redis).start();
        let mut there = respool.client();
        there.ping();
        make(&respool, "worker-1/task-panic");
        there.expect_end();
        assert_eq!(respool.wait().code(), Some(70));
        let lost = "worker-1, which does what a test asks, has ended by a panic";
        assert!(respool.log_text().contains(lost));
    }

    #[test]
    fn nobody_accepts_and_the_process_ends() {
        let redis = Redis::start(&[]);
        let respool = two_workers(&redis).start();
        let mut there = respool.client();
        there.ping();
        make(&respool, "accepting/panic");
        let _lost = Client::try_connect(&respool.addr());
        there.expect_end();
        assert_eq!(respool.wait().code(), Some(70));
        assert!(respool.log_text().contains("accepting on"));
    }
}

#[test]
fn a_process_that_was_stopped_for_a_while_is_well() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 2\nstall_timeout = \"1s\"")
        .start();
    let mut client = respool.client();
    client.ping();
    respool.pause();
    let begun = Instant::now();
    eventually(
        || begun.elapsed() > Duration::from_secs(4),
        "four times as long as a worker may stand still",
    );
    respool.resume();
    assert_eq!(respool.http("/livez"), (200, "ok\n".to_owned()));
    client.ping();
    assert!(!respool.log_text().contains("has not moved"));
}

/// Waits until the first signal is seen: probes are told then.
fn is_ending(respool: &Respool) {
    eventually(|| respool.http("/readyz").0 == 503, "the signal is seen");
    assert_eq!(respool.http("/livez").0, 200);
}

fn ends_well(respool: &Respool) {
    assert_eq!(respool.wait().code(), Some(0));
}

#[test]
fn it_serves_on_for_as_long_as_it_is_asked_to() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("drain_delay = \"120s\"").start();
    let mut there = respool.client();
    there.ping();
    respool.terminate();
    is_ending(&respool);
    let mut newcomer = respool.client();
    for _ in 0..10 {
        there.ping();
        newcomer.ping();
    }
    respool.assert_alive();
    respool.terminate();
    there.expect_end();
    newcomer.expect_end();
    ends_well(&respool);
}

#[test]
fn after_the_delay_it_drains() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("drain_delay = \"300ms\"").start();
    let mut there = respool.client();
    there.ping();
    let begun = Instant::now();
    respool.terminate();
    there.expect_end();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    ends_well(&respool);
}

#[test]
fn it_stays_as_long_as_clients_do() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("drain_until_empty = true\ndrain_deadline = \"120s\"")
        .start();
    let mut there = respool.client();
    there.ping();
    respool.terminate();
    is_ending(&respool);
    let mut newcomer = respool.client();
    there.ping();
    newcomer.ping();
    drop(there);
    newcomer.ping();
    drop(newcomer);
    ends_well(&respool);
    assert!(respool.log_text().contains("drained"));
}

#[test]
fn clients_that_stay_too_long_are_drained() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("drain_until_empty = true\ndrain_deadline = \"300ms\"")
        .start();
    let mut there = respool.client();
    there.ping();
    respool.terminate();
    there.expect_end();
    ends_well(&respool);
    assert!(respool.log_text().contains("drain_deadline is over"));
}
