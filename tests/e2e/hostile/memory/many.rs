//! Many clients, each of which holds so little that it counts only beside the others, and what is there for each whatever it does.

use super::{MIB, most_resident};
use crate::harness::{Client, Redis, Respool, encode, eventually};

const COUNT: usize = 4000;

/// A client that does nothing is taken for so many bytes.
const CLIENT_BYTES: usize = 3 * 1024;

/// Tells the least `limits.max_memory` for [`COUNT`] clients: with them respool takes three quarters of it. How much it takes without
/// them depends on how it was built.
fn least(redis: &Redis) -> usize {
    let respool = Respool::start(redis);
    respool.client().ping();
    let own = respool.most_resident_bytes() as usize;
    ((own + COUNT * CLIENT_BYTES) / 3 * 4).next_multiple_of(MIB)
}

/// Checks the same where each sends `half`, the start of a request.
#[track_caller]
fn the_process_stays_within_its_memory(half: &[u8]) {
    the_process_stays_within_its_memory_where(|_| half.to_vec());
}

/// Lets [`COUNT`] clients in who call themselves something, and then has nearly all send what `sent` makes of their number.
#[track_caller]
fn the_process_stays_within_its_memory_where(sent: impl Fn(usize) -> Vec<u8>) {
    let redis = Redis::start(&[]);
    let limit = least(&redis);
    let limits = format!(
        "max_memory = \"{}MiB\"\nmax_clients = {}",
        limit / MIB,
        COUNT + 10
    );
    let respool = Respool::with(&redis).limits(&limits).start();
    let mut clients: Vec<Client> = (0..COUNT)
        .map(|number| respool.client_named(&format!("client-{number}")))
        .collect();
    assert_eq!(respool.disconnects("memory"), 0.0, "for a name");
    let mut named = clients.split_off(COUNT - 10);
    let mut silent = clients.iter_mut().enumerate();
    let most = most_resident(
        &respool,
        || {
            for (number, client) in silent.by_ref().take(100) {
                // It may be the one that goes.
                let _ = client.try_send(sent(number));
            }
            silent.len() == 0
        },
        "all have sent",
    );
    eventually(
        || respool.disconnects("memory") > 0.0,
        "those who hold most are closed",
    );
    let most = most.max(respool.most_resident_bytes() as usize);
    assert!(most < limit, "{} of {} KiB", most / 1024, limit / 1024);
    respool.eventually_logs("limits.max_memory left no room");
    assert!(respool.metric("respool_bounds_reached_total{bound=\"memory\"}") > 0.0);
    // Who holds nothing but a name goes for nobody.
    named.iter_mut().for_each(Client::ping);
}

#[test]
fn the_process_stays_within_its_memory_when_each_holds_next_to_nothing() {
    let begun = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$900000\r\n";
    the_process_stays_within_its_memory(&[begun.as_slice(), &[b'x'; 3900]].concat());
}

#[test]
fn the_process_stays_within_its_memory_when_each_holds_a_little() {
    let begun = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$900000\r\n";
    the_process_stays_within_its_memory(&[begun.as_slice(), &[b'x'; 6000]].concat());
}

#[test]
fn the_process_stays_within_its_memory_when_no_line_ends() {
    the_process_stays_within_its_memory(&[b'x'; 3900]);
}

#[test]
fn the_process_stays_within_its_memory_when_no_array_ends() {
    let whole = encode(&vec!["x"; 550]);
    let head = b"*1000\r\n".as_slice();
    let elements = &whole[b"*550\r\n".len()..];
    the_process_stays_within_its_memory(&[head, elements].concat());
}

#[test]
fn the_process_stays_within_its_memory_when_each_waits_for_something_else() {
    the_process_stays_within_its_memory_where(|number| {
        let (source, target) = (format!("from-{number}"), format!("to-{number}"));
        encode(&["BLMOVE", &source, &target, "LEFT", "LEFT", "0"])
    });
}

/// It takes most of what such a client takes.
#[test]
fn what_it_takes_to_wait_is_on_the_account() {
    const WAITING: usize = 500;
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 4\nborrow_timeout = \"60s\"")
        .start();
    let held = || respool.metric("respool_memory_bytes") as usize;
    let mut clients: Vec<Client> = (0..WAITING).map(|_| respool.client()).collect();
    clients.iter_mut().for_each(Client::ping);
    let before = held();
    for client in &mut clients {
        client.send(encode(&["WATCH", "key"]));
    }
    let waiting = (WAITING - 4) * 1024;
    eventually(|| held() > before + waiting, "what they wait with counts");
    drop(clients);
    eventually(|| held() < before + waiting / 8, "nobody waits any more");
}
