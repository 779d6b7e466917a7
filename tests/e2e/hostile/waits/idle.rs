//! Clients that wait and to which nothing comes.

use std::time::{Duration, Instant};

use super::waiting;
use crate::harness::{Redis, Respool, Value, eventually};

/// Tells how many keys a second the server looks at for idle clients: those of calls that begin to wait count whole, those of
/// calls that do not wait an eighth, which is what they cost.
fn keys_a_second(redis: &Redis, keys_of_a_call: u64) -> f64 {
    const WATCHED: Duration = Duration::from_secs(5);
    let looked_at = || {
        let tries = redis.calls("exec");
        let issued = redis.calls("blpop").saturating_sub(tries);
        (issued + tries / 8) * keys_of_a_call
    };
    let (start, before) = (Instant::now(), looked_at());
    eventually(|| start.elapsed() > WATCHED, "time passes");
    (looked_at() - before) as f64 / start.elapsed().as_secs_f64()
}

#[test]
fn calls_over_very_many_keys_take_little_of_the_servers_time_while_nothing_comes() {
    const CLIENTS: usize = 12;
    const KEYS: usize = 20_000;
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    let call = |client: usize| {
        let keys = (0..KEYS).map(|key| format!("{client}:{key}"));
        let name = std::iter::once("BLPOP".to_owned());
        name.chain(keys).chain(["0".to_owned()]).collect()
    };
    let mut clients = waiting(&respool, || respool.client(), (0..CLIENTS).map(call));
    // Each has been tried, and has waited at the server once.
    eventually(
        || redis.calls("blpop") >= 2 * CLIENTS as u64,
        "each has had its turn",
    );
    let looked_at = keys_a_second(&redis, KEYS as u64);
    eprintln!("{looked_at} keys a second");
    // Some 15 % of the server's time; they had nine tenths of it.
    assert!(looked_at <= 150_000.0, "{looked_at} keys a second");
    for (number, client) in clients.iter_mut().enumerate() {
        let key = format!("{number}:{}", KEYS / 2);
        redis.cmd(&["RPUSH", &key, "x"]);
        assert_eq!(client.reply().items()[0], Value::bulk(key));
    }
}

#[test]
fn waits_that_end_at_different_times_have_the_others_asked_about_seldom() {
    const CLIENTS: usize = 980;
    const ENDING: usize = 16;
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    let idle = |client: usize| ["BLPOP".to_owned(), format!("idle:{client}"), "0".to_owned()];
    let idle = (0..CLIENTS).map(|client| idle(client).to_vec());
    let _clients = waiting(&respool, || respool.client(), idle);
    // Transactions are counted first: each of them holds a call that was counted before it.
    let issued = || {
        let tried = redis.calls("exec");
        redis.calls("blpop") - tried
    };
    let before = issued();
    let start = Instant::now();
    let end_again_and_again = |number: usize| {
        let mut client = respool.client();
        let mut ended = 0_u64;
        while start.elapsed() < Duration::from_secs(2) {
            ended += 1;
            let null = client.cmd(&["BLPOP", &format!("own:{number}:{ended}"), "0.01"]);
            assert!(null.is_null());
        }
        ended
    };
    let ended: u64 = std::thread::scope(|scope| {
        let all: Vec<_> = (0..ENDING)
            .map(|number| scope.spawn(move || end_again_and_again(number)))
            .collect();
        all.into_iter()
            .map(|one| one.join().expect("it ends"))
            .sum()
    });
    let issued = issued() - before;
    let looked_at = issued as f64 * CLIENTS as f64 / start.elapsed().as_secs_f64();
    eprintln!("{ended} ended, {issued} issued, {looked_at} keys a second");
    // Some 10 % of the server's time.
    assert!(looked_at <= 100_000.0, "{looked_at} keys a second");
}
