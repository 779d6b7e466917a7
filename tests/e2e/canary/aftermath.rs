//! The end of a run: what must be true once all canaries have left.

use super::bird::KILLED;
use super::flock::Flock;
use super::ledger::{Balance, Holds, Leftovers, Place};
use super::{MAX_CONNECTIONS, field, waiting};
use crate::harness::{Client, Redis, Respool, TESTED_SERVER, Value, eventually};

/// Checks that every count is back to 0.
pub(super) fn assert_counts_are_back(respool: &Respool) {
    for name in [
        "respool_client_connections",
        "respool_client_idle_connections",
        "respool_upstream_waiting_requests",
        "respool_upstream_waiting_pins",
        "respool_client_handshakes",
        "respool_client_rejections_held",
        "respool_subscribed_topics",
    ] {
        let mut looks = 0;
        eventually(
            || {
                looks += 1;
                if looks % 400 == 0 {
                    // Whoever is left is named; the list itself is asked for by one more client.
                    eprintln!("{name} is not 0; left:\n{}", left(respool));
                }
                respool.metric(name) == 0.0
            },
            &format!("{name} is 0"),
        );
    }
}

/// Checks that every count is back to 0, and nobody was sent away for a reason that did not exist.
pub(super) fn assert_all_left(respool: &Respool, flock: &Flock) {
    assert_counts_are_back(respool);
    for reason in [
        "panic",
        "protocol_error",
        "output_buffer",
        "pubsub_buffer",
        "subscription_lost",
        "evicted",
        "idle_timeout",
    ] {
        let name = format!("respool_client_disconnects_total{{reason=\"{reason}\"}}");
        assert_eq!(respool.metric_or_zero(&name), 0.0, "{name}");
    }
    let killed = respool.metric_or_zero("respool_client_disconnects_total{reason=\"killed\"}");
    assert!(
        (1.0..=flock.noted(KILLED) as f64).contains(&killed),
        "{killed} clients killed, {} asked for it",
        flock.noted(KILLED)
    );
    let connections = respool.metric("respool_upstream_connections");
    assert!(
        connections <= MAX_CONNECTIONS as f64,
        "{connections} connections"
    );
    respool.assert_alive();
}

fn left(respool: &Respool) -> String {
    respool.client().cmd(&["CLIENT", "LIST"]).text()
}

/// Checks that at the server there are only connections of respool, as many as it says, named by it and without any state that a
/// client has left on them.
pub(super) fn assert_clean_connections(redis: &Redis, respool: &Respool) {
    let own = redis.cmd(&["CLIENT", "ID"]).int().to_string();
    let mut looks = 0;
    eventually(
        || {
            let list = redis.cmd(&["CLIENT", "LIST"]).text();
            let lines: Vec<&str> = list
                .lines()
                .filter(|line| field(line, "id") != Some(&own))
                .collect();
            let wrong: Vec<&&str> = lines.iter().filter(|line| !is_clean(line)).collect();
            let open = respool.metric("respool_upstream_connections");
            looks += 1;
            if looks % 400 == 0 {
                eprintln!(
                    "not clean: {wrong:#?}, {} at the server, {open} of respool",
                    lines.len()
                );
            }
            wrong.is_empty() && lines.len() as f64 == open
        },
        "the server has only connections of respool, without state",
    );
}

fn is_clean(line: &str) -> bool {
    let is = |name: &str, value: &str| field(line, name) == Some(value);
    let parts: Vec<&str> = field(line, "name").unwrap_or_default().split(':').collect();
    let [respool, instance, kind, number] = parts[..] else {
        return false;
    };
    let is_named = respool == "respool"
        && !instance.is_empty()
        && ["shared", "pinned", "subscription"].contains(&kind)
        && number.parse::<u64>().is_ok();
    let flags = field(line, "flags").unwrap_or_default();
    is_named
        && (flags == "N" || (flags == "P" && kind == "subscription"))
        && ["sub", "psub"].iter().all(|count| is(count, "0"))
        // Told from Redis 7.0 on.
        && field(line, "ssub").is_none_or(|count| count == "0")
        // Valkey says 0 once there has been a transaction; the flags say that there is none.
        && (is("multi", "-1") || (TESTED_SERVER.is_valkey && is("multi", "0")))
        && is("redir", "-1")
        // Told from Redis 7.4 on.
        && field(line, "watch").is_none_or(|watched| watched == "0")
}

/// Checks that every element pushed since the last restart was handed to one canary, is still at the server, or was taken by one
/// that ended while it waited or by a connection that was killed. That none was handed out twice was held against the ledger each
/// time.
pub(super) fn assert_every_element_accounted_for(redis: &Redis, flock: &Flock) {
    let phase = flock.phase();
    let mut looks = 0;
    // What was popped for somebody who had left is on its way back for a moment.
    eventually(
        || {
            let (overdue, balances) = overdue(redis, flock, phase);
            let is_balanced = overdue <= flock.ledger.sunk_in(phase);
            looks += 1;
            if is_balanced || looks % 400 == 0 {
                let total = balances
                    .iter()
                    .fold(Balance::default(), |sum, (_, b)| sum.and(b));
                let sunk = flock.ledger.sunk_in(phase);
                eprintln!("since the last restart {total:?}, {sunk} perhaps sunk with connections");
                eprintln!("in all {:?}", flock.ledger.totals());
                assert!(
                    total.received > 0,
                    "nothing was handed out since the last restart"
                );
            }
            if !is_balanced && looks % 400 == 0 {
                eprintln!("{overdue} too many lost: {balances:#?}");
            }
            is_balanced
        },
        "every element is accounted for",
    );
}

/// Tells how many more elements are lost than went with clients, and the balance of each place.
fn overdue(redis: &Redis, flock: &Flock, phase: usize) -> (usize, Vec<(Place, Balance)>) {
    let mut client = redis.client();
    let moved: Vec<_> = (0..waiting::DATABASES)
        .map(|database| {
            client.cmd(&["SELECT", &database.to_string()]);
            let moved = texts(&client.cmd(&["LRANGE", waiting::MOVED, "0", "-1"]));
            flock.ledger.moved(database, moved)
        })
        .collect();
    let balances: Vec<(Place, Balance)> = flock
        .ledger
        .places(phase)
        .into_iter()
        .map(|place| {
            let left = leftovers(&mut client, &place);
            let moved = &moved[place.database as usize];
            let balance = flock.ledger.balance(&place, phase, &left, moved);
            (place, balance)
        })
        .collect();
    let overdue = balances
        .iter()
        .map(|(_, b)| b.lost.saturating_sub(b.allowed))
        .sum();
    (overdue, balances)
}

fn leftovers(client: &mut Client, place: &Place) -> Leftovers {
    client.cmd(&["SELECT", &place.database.to_string()]);
    let key = &place.key;
    let stream = |reply: &Value| -> Vec<String> {
        let entries = reply.items().iter();
        entries
            .map(|entry| entry.items()[1].items()[1].text())
            .collect()
    };
    match place.holds {
        Holds::List => Leftovers {
            elements: texts(&client.cmd(&["LRANGE", key, "0", "-1"])),
            ..Leftovers::default()
        },
        Holds::Sorted => Leftovers {
            elements: texts(&client.cmd(&["ZRANGE", key, "0", "-1"])),
            ..Leftovers::default()
        },
        Holds::Stream => Leftovers {
            elements: stream(&client.cmd(&["XRANGE", key, "-", "+"])),
            ..Leftovers::default()
        },
        Holds::Group => {
            let elements = stream(&client.cmd(&["XRANGE", key, "-", "+"]));
            let waiting = client.cmd(&["XPENDING", key, waiting::GROUP, "-", "+", "1000000"]);
            let ids: Vec<String> = waiting
                .items()
                .iter()
                .map(|one| one.items()[0].text())
                .collect();
            let pending = ids
                .iter()
                .flat_map(|id| stream(&client.cmd(&["XRANGE", key, id, id])));
            Leftovers {
                pending: pending.collect(),
                elements,
            }
        }
    }
}

fn texts(reply: &Value) -> Vec<String> {
    reply.items().iter().map(Value::text).collect()
}
