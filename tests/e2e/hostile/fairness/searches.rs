//! Whoever looks for other clients, again and again, costs as much as there are of them: the others have their turns in between.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

/// This number of clients are looked at.
const CROWD: usize = 500;

/// One pipeline looks for so many.
const SEARCHES: usize = 8_000;

/// Others get so many replies meanwhile. Where a pipeline is answered as it is read, it has ended after some 7.
const OTHERS: usize = 20;

/// Tells what `search` is answered, each time the same, and how far it has come when another client has had its replies, of which
/// the first was asked for when `search` had begun.
fn beside(respool: &Respool, search: &[&str], expected: &Value) -> usize {
    let mut searcher = respool.client();
    let mut writer = searcher.writer();
    let mut other = respool.client();
    other.ping();
    let searches = encode(search).repeat(SEARCHES);
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(move || writer.send(searches));
        scope.spawn(|| {
            for _ in 0..SEARCHES {
                assert_eq!(searcher.reply(), *expected);
                answered.fetch_add(1, Ordering::SeqCst);
            }
            // In their order, and no more of them than there were requests.
            assert_eq!(searcher.cmd(&["ECHO", "behind"]), Value::bulk("behind"));
        });
        eventually(|| answered.load(Ordering::SeqCst) > 0, "it has begun");
        for _ in 0..OTHERS {
            other.ping();
        }
        answered.load(Ordering::SeqCst)
    })
}

#[test]
fn a_pipeline_of_searches_among_many_clients_leaves_the_others_their_turns() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    let _crowd: Vec<Client> = (0..CROWD)
        .map(|_| {
            let mut client = respool.client();
            client.ping();
            client
        })
        .collect();
    let nobody = "1.1.1.1:1";
    for (search, expected) in [
        (&["CLIENT", "KILL", "LADDR", nobody][..], Value::Int(0)),
        (&["CLIENT", "KILL", "ADDR", nobody], Value::Int(0)),
        (
            &["CLIENT", "KILL", nobody],
            Value::error("ERR No such client"),
        ),
        (&["CLIENT", "LIST", "TYPE", "pubsub"], Value::bulk("")),
    ] {
        let answered = beside(&respool, search, &expected);
        assert!(
            answered < SEARCHES,
            "{search:?}: all were answered before {OTHERS} replies of another client"
        );
    }
}

#[test]
fn searches_typed_by_hand_and_what_stands_behind_them_are_answered_in_their_order() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    let _crowd: Vec<Client> = (0..CROWD).map(|_| respool.client()).collect();
    let mut client = respool.client();
    let mut requests = String::new();
    for number in 0..200 {
        requests += &format!("CLIENT KILL LADDR 1:1\r\nECHO {number}\r\n");
    }
    client.send(requests + "CLIENT KILL LADDR 1:1\r\nQUIT\r\n");
    client.finish_sending();
    for number in 0..200 {
        assert_eq!(client.reply(), Value::Int(0));
        assert_eq!(client.reply(), Value::bulk(number.to_string()));
    }
    assert_eq!(client.reply(), Value::Int(0));
    assert_eq!(client.reply(), Value::simple("OK"));
    client.expect_end();
}
