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
                "[auth]\nmode = \"passthrough\"\nfree_failures = 0\nmax_failure_delay = \"1h\"",
            )
            .start();
        respool.client_from("127.0.0.2").cmd(&["PING"]);
        // All at once, before anything is known of any of them.
        let mut wrong: Vec<Client> = (0..12 * workers)
            .map(|_| respool.client_from(SLOWED))
            .collect();
        for (number, client) in wrong.iter_mut().enumerate() {
            client.send(encode(&["AUTH", &format!("guess-{number}")]));
        }
        for client in &mut wrong {
            let reply = client.reply().text();
            assert!(reply.starts_with("WRONGPASS "), "{reply}");
        }
        let mut waiting: Vec<Client> = (0..60).map(|_| respool.client_from(SLOWED)).collect();
        for (number, client) in waiting.iter_mut().enumerate() {
            // Some show a wrong one still, and stand before others.
            let password = if number % 10 == 0 { "old-271" } else { RIGHT };
            client.send(encode(&["AUTH", password]));
        }
        let delayed = "respool_bounds_reached_total{bound=\"auth_delayed\"}";
        eventually(|| respool.metric_or_zero(delayed) >= 60.0, "they all wait");
        assert!(!waiting.iter_mut().any(Client::has_reply));
        let mut other = respool.client_from("127.0.0.2");
        assert_eq!(other.cmd(&["AUTH", RIGHT]), Value::ok());
        let mut right: Vec<&mut Client> = waiting
            .iter_mut()
            .enumerate()
            .filter_map(|(number, client)| (number % 10 != 0).then_some(client))
            .collect();
        let is_right_answered = || right.iter_mut().all(|client| client.has_reply());
        eventually(is_right_answered, "who shows the right one is answered");
        for client in right {
            assert_eq!(client.reply(), Value::ok());
            client.ping();
        }
        let is_answered = |client: &mut Client| client.has_reply();
        assert!(
            !waiting.iter_mut().step_by(10).any(is_answered),
            "who shows a wrong one waits for its turn"
        );
        let log = respool.log_text();
        let is_told = [RIGHT, "old-271", "guess-"].map(|word| log.contains(word));
        assert_eq!(is_told, [false; 3], "what is shown is told nowhere");
    }
}
