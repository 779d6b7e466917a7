//! What a group counts by: the group as one, or each address, client name or user.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::Per;
use crate::identity::{Peer, shown_user};

/// Names that agree in their first 256 bytes count as one, so that nobody can fill the table with long names.
const MAX_NAME_BYTES: usize = 256;

/// What one count of a group is kept by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The group as one.
    Whole,
    /// Clients of this address.
    Address(IpAddr),
    /// Clients of a unix socket have no address: they count by the socket.
    Socket(Arc<str>),
    /// Clients of this name; those without a name count together.
    Name(Box<[u8]>),
    /// Clients of this user.
    User(Box<[u8]>),
}

impl Key {
    pub(super) fn of(per: Per, peer: &Peer, name: &[u8], user: &[u8]) -> Self {
        match per {
            Per::Group => Self::Whole,
            Per::Address => match peer {
                Peer::Tcp(address) => Self::Address(address.ip().to_canonical()),
                Peer::Unix(path) => Self::Socket(Arc::clone(path)),
            },
            Per::ClientName => Self::Name(Box::from(bounded(name))),
            Per::User => Self::User(Box::from(bounded(shown_user(user)))),
        }
    }

    /// In words for people; `None` for the group as one.
    pub(super) fn shown(&self) -> Option<String> {
        (*self != Self::Whole).then(|| self.to_string())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("all"),
            Self::Address(address) => write!(f, "address {address}"),
            Self::Socket(path) => write!(f, "socket {path}"),
            Self::Name(name) => write!(f, "client name {:?}", String::from_utf8_lossy(name)),
            Self::User(user) => write!(f, "user {:?}", String::from_utf8_lossy(user)),
        }
    }
}

pub(super) fn bounded(name: &[u8]) -> &[u8] {
    &name[..name.len().min(MAX_NAME_BYTES)]
}
