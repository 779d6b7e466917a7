//! Commands that very many clients send: each costs respool the same as when few do.

use std::sync::atomic::{AtomicUsize, Ordering};

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

#[test]
fn those_without_a_password_leave_the_others_their_turns_however_much_they_send() {
    const STRANGERS: usize = 8;
    const REQUESTS: usize = 100_000;
    const OTHERS: usize = 20;
    let redis = Redis::start(&[]);
    let demand = ["CONFIG", "SET", "requirepass", "secret"];
    assert_eq!(redis.cmd(&demand), Value::ok());
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("password = \"secret\"")
        .section("[auth]\nmode = \"passthrough\"")
        .start();
    let mut known = respool.client();
    assert_eq!(known.cmd(&["AUTH", "secret"]), Value::ok());
    let refusal = refusal_of_strangers(&respool);
    let mut strangers: Vec<Client> = (0..STRANGERS).map(|_| respool.client()).collect();
    let refused = AtomicUsize::new(0);
    let before = std::thread::scope(|scope| {
        for stranger in &mut strangers {
            let mut writer = stranger.writer();
            scope.spawn(move || writer.send(b"PING\r\n".repeat(REQUESTS)));
            let (refused, length) = (&refused, refusal.len());
            scope.spawn(move || {
                for _ in 0..REQUESTS / 100 {
                    stranger.take(100 * length);
                    refused.fetch_add(100, Ordering::SeqCst);
                }
            });
        }
        eventually(|| refused.load(Ordering::SeqCst) > 0, "they have begun");
        for _ in 0..OTHERS {
            known.ping();
        }
        refused.load(Ordering::SeqCst)
    });
    assert!(
        before < STRANGERS * REQUESTS,
        "all were refused before {OTHERS} replies of another client"
    );
}

/// Returns what a client hears that has to authenticate.
fn refusal_of_strangers(respool: &Respool) -> Vec<u8> {
    let mut stranger = respool.client();
    stranger.send(b"PING\r\n");
    stranger.reply_bytes()
}
