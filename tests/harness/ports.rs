//! Free TCP ports, outside the range from which the kernel takes the ports of outgoing connections.
//!
//! A port found by binding to port 0 lies in that range, and any of the thousands of sockets that the tests open may
//! take it before the server that it was meant for.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

/// No port below this one is given.
const FIRST: u16 = 10_000;
/// A process takes a block of so many ports at once.
const AT_ONCE: u16 = 20;

/// There are so many blocks.
const BLOCKS: u16 = 1_100;

/// Holds the ports that this process has taken and not given yet, and what keeps them and those before.
///
/// Each block is kept by a socket with its number for a name: no file is left, the kernel gives it to one process alone, and takes it back
/// when that ends. Tests run in processes of their own, side by side: else the port that one has found is taken, or just tried, by
/// another before the server that it is meant for listens; or that of a server which has been killed is another's, while a respool
/// still connects to it.
static TAKEN: Mutex<(Range<u16>, Vec<UnixListener>)> = Mutex::new((0..0, Vec::new()));

/// Finds a port on which nothing listens and that no other test was given, of this process or of one beside it.
pub(crate) fn free_port() -> u16 {
    free_port_where(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}

/// Finds such a port among those of which `is_free` is true.
pub(crate) fn free_port_where(is_free: impl Fn(u16) -> bool) -> u16 {
    let (ports, kept) = &mut *TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(port) = ports.find(|port| is_free(*port)) {
            return port;
        }
        let block = rand::random_range(0..BLOCKS);
        let name = SocketAddr::from_abstract_name(format!("respool-test-ports-{block}"));
        // Another's, or one that this process has used up, is not to be had.
        if let Ok(keeper) = UnixListener::bind_addr(&name.expect("a short name")) {
            kept.push(keeper);
            let first = FIRST + block * AT_ONCE;
            *ports = first..first + AT_ONCE;
        }
    }
}
