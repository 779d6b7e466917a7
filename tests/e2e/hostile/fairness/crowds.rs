//! What a command costs respool when very many clients want the same: the same as when few do.

use std::fs;

use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

/// Processor time that respool has used, in clock ticks.
fn cpu_ticks(respool: &Respool) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", respool.pid())).expect("it runs");
    let fields = stat.rsplit(')').next().expect("its name ends");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let number = |at: usize| fields[at].parse::<u64>().expect("a number");
    number(11) + number(12)
}

/// Processor time of one request, in ticks, when all of `clients` send `request` at once, again and again.
fn cost(respool: &Respool, clients: &mut [Client], request: &[u8], operations: usize) -> f64 {
    let rounds = operations.div_ceil(clients.len());
    let before = cpu_ticks(respool);
    for _ in 0..rounds {
        clients.iter_mut().for_each(|client| client.send(request));
        for client in &mut *clients {
            assert_eq!(client.reply(), Value::ok());
        }
    }
    (cpu_ticks(respool) - before) as f64 / (rounds * clients.len()) as f64
}

#[test]
fn a_large_write_costs_no_more_with_thousands_of_clients() {
    const FEW: usize = 50;
    const MANY: usize = 4_000;
    const WRITES: usize = 3 * MANY;
    const ROUNDS: usize = 3;
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .limits(&format!("max_clients = {}", MANY + 10))
        .start();
    let mut clients: Vec<Client> = (0..MANY).map(|_| respool.client()).collect();
    eventually(
        || respool.clients_of("default") == MANY,
        "all clients are there",
    );
    let value = vec![b'v'; 50_000];
    let request = encode(&[&b"SET"[..], b"k", &value]);
    // In turn, and the least of each: whatever else the machine does only adds to them.
    let (mut few, mut many) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        few = few.min(cost(&respool, &mut clients[..FEW], &request, WRITES));
        many = many.min(cost(&respool, &mut clients, &request, WRITES));
    }
    eprintln!("ticks a write: {few:.5} with {FEW} clients, {many:.5} with {MANY}");
    // Thirteen times as much when all who waited were woken at each write, nine times when all that had arrived was read
    // before there was room for it. Half as much again or three quarters is what the kernel takes to copy from 4,000 sockets,
    // and up to two and a half times as much where others use the same caches.
    assert!(many <= 4.0 * few, "{many} ticks a write beside {few}");
    let waits = respool.metric_or_zero("respool_bounds_reached_total{bound=\"write_buffer\"}");
    let writes = (2 * ROUNDS * WRITES) as f64;
    eprintln!("waits for room: {waits} for {writes} writes");
    assert!(
        waits > 0.0 && waits <= 2.0 * writes,
        "{waits} waits for room in {writes} writes"
    );
}
