//! Blocking calls of one client: what they cost the others and the server, beside what they cost them at Redis itself.

mod crowds;
mod idle;
mod refused;

use crate::harness::{Client, Respool, encode, eventually};

/// Connects clients that are blocked in these calls, one each.
fn waiting(
    respool: &Respool,
    connect: impl Fn() -> Client,
    calls: impl Iterator<Item = Vec<String>>,
) -> Vec<Client> {
    let before = respool.blocked_clients();
    let clients: Vec<Client> = calls
        .map(|call| {
            let mut client = connect();
            client.send(encode(&call));
            client
        })
        .collect();
    let all = before + clients.len();
    eventually(|| respool.blocked_clients() == all, "all are blocked");
    clients
}
