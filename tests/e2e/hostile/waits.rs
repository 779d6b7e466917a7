//! What the blocking calls of one client cost the others and the server, beside what they cost them at Redis itself.

mod crowds;
mod idle;
mod refused;

use crate::harness::{Client, Respool, encode, eventually};

/// How many clients of respool are blocked.
fn blocked(respool: &Respool) -> usize {
    let list = respool.client().cmd(&["CLIENT", "LIST"]).text();
    let is_blocked = |line: &&str| line.contains(" flags=b");
    list.lines().filter(is_blocked).count()
}

/// Clients that are blocked in these calls, one each.
fn waiting(
    respool: &Respool,
    connect: impl Fn() -> Client,
    calls: impl Iterator<Item = Vec<String>>,
) -> Vec<Client> {
    let before = blocked(respool);
    let clients: Vec<Client> = calls
        .map(|call| {
            let mut client = connect();
            client.send(encode(&call));
            client
        })
        .collect();
    let all = before + clients.len();
    eventually(|| blocked(respool) == all, "all are blocked");
    clients
}
