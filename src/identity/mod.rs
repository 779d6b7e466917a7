//! Who a client is, and the read-only view the others have of it.
//!
//! Leaves to others: who may come (`admission`), and every socket and clock. Times are milliseconds of one clock that
//! the caller chooses, the same for all clients of the process.

mod filter;
mod line;
mod record;
mod registry;

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub use filter::{KillFilter, ListFilter};
pub use line::client_line;
use record::ClientNames;
pub use record::{ClientArrival, ClientFlag, ClientRecord, NO_COMMAND};
pub use registry::{ClientRegistry, RegisteredClient};

/// Redis assumes this user for a client that has not authenticated.
pub const DEFAULT_USER: &[u8] = b"default";

/// Is one end of a client's connection. It is shown as Redis shows it: `127.0.0.1:5000`, `[::1]:5000`, `/path/to.sock:0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerAddress {
    /// It is a TCP address.
    Tcp(SocketAddr),
    /// It is a unix socket, by the path of the listener: its clients have no address of their own.
    Unix(Arc<str>),
}

impl PeerAddress {
    /// Returns a number that is the same for all clients of one host, as far as the address tells: of an IPv6 address only the network
    /// counts, since a host has as many of them as it likes. Clients of a unix socket are told apart by nothing but its path.
    pub fn number(&self) -> u64 {
        match self {
            Self::Tcp(address) => match address.ip().to_canonical() {
                IpAddr::V4(ip) => u64::from(ip.to_bits()),
                IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 | 1 << 63,
            },
            Self::Unix(path) => {
                // Those of one listener are one source, and those of another are not.
                let mut hasher = DefaultHasher::new();
                path.hash(&mut hasher);
                hasher.finish() | 3 << 62
            }
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{path}:0"),
        }
    }
}

/// Says what admission knows of a client when it decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Says from where the client comes.
    pub peer: PeerAddress,
    /// Holds the configured address of the listener it came by.
    pub listener: Arc<str>,
    /// Holds the name given by CLIENT SETNAME or HELLO SETNAME; it is empty where none was given.
    pub name: Box<[u8]>,
    /// Holds the user of AUTH or HELLO AUTH; it is empty for the user `default`.
    pub user: Box<[u8]>,
    /// Holds the common name of its verified certificate; it is empty where there is none.
    pub certificate: Box<str>,
}

impl Identity {
    /// Identifies a client that has just connected: no name, the default user.
    pub fn new(peer: PeerAddress, listener: Arc<str>) -> Self {
        Self {
            peer,
            listener,
            name: Box::default(),
            user: Box::default(),
            certificate: Box::default(),
        }
    }

    /// Returns its name as text; empty: it has none.
    pub fn shown_name(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.name)
    }

    /// Returns the user as Redis would name it.
    pub fn shown_user(&self) -> &[u8] {
        shown_user(&self.user)
    }
}

/// Returns `user`, or `default` when it is empty.
pub fn shown_user(user: &[u8]) -> &[u8] {
    if user.is_empty() { DEFAULT_USER } else { user }
}

#[cfg(test)]
mod tests;
