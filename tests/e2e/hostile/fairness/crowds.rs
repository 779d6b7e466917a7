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

/// Each of those who send too much sends so many requests.
const REQUESTS: usize = 100_000;

/// Others get so many replies meanwhile.
const OTHERS: usize = 20;

/// Tells how many requests have been answered with `reply` when another client has had its replies, of which the first was asked for when
/// the first of them had been answered.
fn answered_before_another(
    other: &mut Client,
    many: &mut [Client],
    request: &[u8],
    reply: &[u8],
) -> usize {
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in many {
            let mut writer = client.writer();
            scope.spawn(move || writer.send(request.repeat(REQUESTS)));
            let (answered, length) = (&answered, reply.len());
            scope.spawn(move || {
                for _ in 0..REQUESTS / 100 {
                    client.take(100 * length);
                    answered.fetch_add(100, Ordering::SeqCst);
                }
            });
        }
        eventually(|| answered.load(Ordering::SeqCst) > 0, "they have begun");
        for _ in 0..OTHERS {
            other.ping();
        }
        answered.load(Ordering::SeqCst)
    })
}

/// Returns the reply to a request that is always answered the same.
fn reply_to(mut client: Client, request: &[u8]) -> Vec<u8> {
    client.send(request);
    client.reply_bytes()
}

#[test]
fn those_without_a_password_leave_the_others_their_turns_however_much_they_send() {
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
    let refusal = reply_to(respool.client(), b"PING\r\n");
    let mut strangers: Vec<Client> = (0..8).map(|_| respool.client()).collect();
    let before = answered_before_another(&mut known, &mut strangers, b"PING\r\n", &refusal);
    assert!(
        before < strangers.len() * REQUESTS,
        "all were refused before {OTHERS} replies of another client"
    );
}

#[test]
fn whom_respool_answers_itself_leaves_the_others_their_turns_however_much_it_sends() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    let mut other = respool.client();
    other.ping();
    for request in ["RESET\r\n", "CLIENT GETNAME\r\n", "SELECT 0\r\n"] {
        let reply = reply_to(respool.client(), request.as_bytes());
        let mut many: Vec<Client> = (0..8).map(|_| respool.client()).collect();
        let before = answered_before_another(&mut other, &mut many, request.as_bytes(), &reply);
        assert!(
            before < many.len() * REQUESTS,
            "{request:?}: all were answered before {OTHERS} replies of another client"
        );
    }
}
