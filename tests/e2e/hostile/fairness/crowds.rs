//! Commands that very many clients send: each costs respool the same as when few do.

use crate::harness::{Client, Redis, Respool, Value, encode, eventually, processor_time};

/// Tells the processor time of one request, in seconds, when all of `clients` send `request` at once, again and again.
fn cost(respool: &Respool, clients: &mut [Client], request: &[u8], operations: usize) -> f64 {
    let rounds = operations.div_ceil(clients.len());
    let before = processor_time(&[respool.pid()]);
    for _ in 0..rounds {
        clients.iter_mut().for_each(|client| client.send(request));
        for client in &mut *clients {
            assert_eq!(client.reply(), Value::ok());
        }
    }
    (processor_time(&[respool.pid()]) - before).as_secs_f64() / (rounds * clients.len()) as f64
}

#[test]
fn a_large_write_costs_no_more_with_thousands_of_clients() {
    const FEW: usize = 50;
    const MANY: usize = 4_000;
    const WRITES: usize = 3 * MANY;
    const ROUNDS: usize = 5;
    const MOST: f64 = 4.0;
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
    // Thirteen times as much when all who waited were woken at each write, nine times when all that had arrived was read
    // before there was room for it, in every round. Half as much again or three quarters is what the kernel takes to copy from
    // 4,000 sockets, and more in a round in which others use the same caches.
    let (mut rounds, mut least) = (0, f64::MAX);
    while rounds < ROUNDS && least > MOST {
        let few = cost(&respool, &mut clients[..FEW], &request, WRITES);
        let many = cost(&respool, &mut clients, &request, WRITES);
        eprintln!("seconds a write: {few:.7} with {FEW} clients, {many:.7} with {MANY}");
        least = least.min(many / few);
        rounds += 1;
    }
    assert!(least <= MOST, "{least} times as much a write");
    let waits = respool.metric_or_zero("respool_bounds_reached_total{bound=\"write_buffer\"}");
    let writes = (2 * rounds * WRITES) as f64;
    eprintln!("waits for room: {waits} for {writes} writes");
    assert!(
        waits > 0.0 && waits <= 2.0 * writes,
        "{waits} waits for room in {writes} writes"
    );
}
