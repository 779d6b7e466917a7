//! Free TCP ports, outside the range from which the kernel takes the ports of outgoing connections.
//!
//! A port found by binding to port 0 lies in that range, and any of the thousands of sockets that the tests open may
//! take it before the server that it was meant for.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex};

static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port on which nothing listens and that no other test of this process was given.
pub(crate) fn free_port() -> u16 {
    let mut given = GIVEN.lock().expect("no test panics while it takes a port");
    loop {
        let port = rand::random_range(10_000..32_000);
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
}
