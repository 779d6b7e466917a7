//! Attempts to authenticate that wait for their turn, because their address has shown wrong passwords.

use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

/// Clients of this address wait for most of a minute between two of their attempts.
const SLOWED: &str = "127.0.0.3";

/// The password that the server takes.
const RIGHT: &str = "right-314";

#[test]
fn who_waits_with_what_another_is_served_by_since_then_waits_no_longer() {
    let redis = Redis::start(&[]);
    let locked = ["CONFIG", "SET", "requirepass", RIGHT];
    assert_eq!(redis.cmd(&locked), Value::ok());
    for workers in [1, 2] {
        let respool = Respool::with(&redis)
            .top(&format!("workers = {workers}"))
            .upstream(&format!("password = \"{RIGHT}\""))
            .section(
                "[auth]\nmode = \"passthrough\"\nfree_failures = 0\nmax_failure_delay = \"1h\"\nmax_attempts_in_flight = 12",
            )
            .start();
        respool.client_from("127.0.0.2").cmd(&["PING"]);
        // Twelve of each worker are on their way before anything is known of any of them, and the rest wait.
        redis.pause();
        let mut wrong: Vec<Client> = (0..20 * workers)
            .map(|_| respool.client_from(SLOWED))
            .collect();
        for (number, client) in wrong.iter_mut().enumerate() {
            client.send(encode(&["AUTH", &format!("guess-{number}")]));
        }
        let delayed =
            || respool.metric_or_zero("respool_bounds_reached_total{bound=\"auth_delayed\"}");
        eventually(|| delayed() >= (8 * workers) as f64, "the rest wait");
        redis.resume();
        let mut told = || {
            wrong
                .iter_mut()
                .map(Client::has_reply)
                .filter(|told| *told)
                .count()
        };
        eventually(|| told() >= 12 * workers, "twelve of each worker are told");
        let mut right: Vec<Client> = (0..54).map(|_| respool.client_from(SLOWED)).collect();
        for client in &mut right {
            client.send(encode(&["AUTH", RIGHT]));
        }
        eventually(|| delayed() >= (8 * workers + 54) as f64, "they all wait");
        let mut other = respool.client_from("127.0.0.2");
        assert_eq!(other.cmd(&["AUTH", RIGHT]), Value::ok());
        // Nobody's turn comes for most of a minute, and only one's then.
        eventually(
            || right.iter_mut().all(Client::has_reply),
            "who shows the right one is answered",
        );
        for client in &mut right {
            assert_eq!(client.reply(), Value::ok());
            client.ping();
        }
        let log = respool.log_text();
        let is_told = [RIGHT, "guess-"].map(|word| log.contains(word));
        assert_eq!(is_told, [false; 2], "what is shown is told nowhere");
    }
}
