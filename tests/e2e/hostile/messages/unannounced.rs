//! A message that respool does not see before it is sent, since a script or somebody else sends it, costs the others one gap
//! at the most, however often it is sent.

use super::large::{Bystanders, assert_closed, bears_large_messages};
use crate::harness::{Client, Redis, Respool, Value, eventually};

/// Has something publish 34 MB to `attack` again and again.
#[track_caller]
fn assert_bystanders_lose_once(attack: impl Fn(&Redis, &mut Client)) {
    let redis = Redis::start(&[]);
    if bears_large_messages(&redis) {
        // There is no such message.
        return;
    }
    let respool = Respool::with(&redis).top("workers = 1").start();
    let mut bystanders = Bystanders::new(&respool, 6);
    bystanders.publish(&redis);
    bystanders.assert_got_all();
    let attackers = |count: usize| -> Vec<Client> {
        let mut clients: Vec<Client> = (0..count).map(|_| respool.client()).collect();
        for client in &mut clients {
            client.cmd(&["SUBSCRIBE", "attack"]);
        }
        clients
    };
    let subscribed = |channel: &str| {
        let counted = redis.cmd(&["PUBSUB", "NUMSUB", channel]);
        counted.items()[1] == Value::Int(1)
    };
    let losses = || respool.metric("respool_subscription_losses_total");
    let closed = || {
        let name = "respool_client_disconnects_total{group=\"default\",reason=\"server_buffer\"}";
        respool.metric_or_zero(name)
    };
    let first = attackers(2);
    let mut publisher = respool.client();
    attack(&redis, &mut publisher);
    eventually(|| losses() == 1.0, "the connection is lost");
    eventually(
        || subscribed("own") && subscribed("attack"),
        "everybody is subscribed again",
    );
    // From here on nobody else loses anything.
    bystanders.publish(&redis);
    attack(&redis, &mut publisher);
    bystanders.publish(&redis);
    eventually(|| closed() == 2.0, "the attackers are closed, and counted");
    first.into_iter().for_each(assert_closed);
    // Those who come next are known for what they are at once.
    for round in 2..5 {
        let next = attackers(2);
        bystanders.publish(&redis);
        attack(&redis, &mut publisher);
        bystanders.publish(&redis);
        eventually(|| closed() == 2.0 * f64::from(round), "so are the next");
        next.into_iter().for_each(assert_closed);
    }
    bystanders.assert_got_all();
    respool.eventually_logs("server_buffer");
}

#[test]
fn a_message_that_somebody_else_sends_costs_one_gap_at_the_most() {
    assert_bystanders_lose_once(|redis, _| {
        redis.cmd(&["PUBLISH", "attack", &"x".repeat(34_000_000)]);
    });
}

#[test]
fn so_does_one_that_a_script_sends() {
    assert_bystanders_lose_once(|_, publisher| {
        let script = "return redis.call('PUBLISH', 'attack', string.rep('x', 34000000))";
        publisher.cmd(&["EVAL", script, "0"]).int();
    });
}
