//! What a group counts by: the group as one, or each address, client name or user.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::config::CapScope;
use crate::identity::{PeerAddress, shown_user};

/// Names that agree in their first 256 bytes count as one, so that nobody can fill the table with long names.
const MAX_NAME_BYTES: usize = 256;

/// Says what one count of a group is kept by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum CountKey {
    /// The group counts as one.
    Whole,
    /// Clients of this address count together.
    Address(IpAddr),
    /// Clients of this IPv6 network count together, by the first so many bits of their addresses: a host has as many addresses as it likes.
    Network(Ipv6Addr, u8),
    /// Clients of a unix socket have no address: they count by the socket.
    Socket(Arc<str>),
    /// Clients of this name count together, and so do those without a name.
    Name(Box<[u8]>),
    /// Clients of this user count together.
    User(Box<[u8]>),
}

impl CountKey {
    pub(super) fn of(per: CapScope, peer: &PeerAddress, name: &[u8], user: &[u8]) -> Self {
        match per {
            CapScope::Group => Self::Whole,
            CapScope::Address { ipv6_prefix } => match peer {
                PeerAddress::Tcp(address) => {
                    Self::of_address(address.ip().to_canonical(), ipv6_prefix)
                }
                PeerAddress::Unix(path) => Self::Socket(Arc::clone(path)),
            },
            CapScope::ClientName => Self::Name(Box::from(bounded(name))),
            CapScope::User => Self::User(Box::from(bounded(shown_user(user)))),
        }
    }

    /// Returns the key of an address; an IPv4 address counts by itself, be it written as an IPv6 address.
    fn of_address(address: IpAddr, ipv6_prefix: u8) -> Self {
        match address {
            IpAddr::V6(ip) if ipv6_prefix < 128 => {
                let kept = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix));
                Self::Network((ip.to_bits() & kept.unwrap_or(0)).into(), ipv6_prefix)
            }
            address => Self::Address(address),
        }
    }

    /// Returns it in words for people; `None` for the group as one.
    pub(super) fn shown(&self) -> Option<String> {
        (*self != Self::Whole).then(|| self.to_string())
    }
}

impl fmt::Display for CountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("all"),
            Self::Address(address) => write!(f, "address {address}"),
            Self::Network(network, prefix) => write!(f, "address {network}/{prefix}"),
            Self::Socket(path) => write!(f, "socket {path}"),
            Self::Name(name) => write!(f, "client name {:?}", String::from_utf8_lossy(name)),
            Self::User(user) => write!(f, "user {:?}", String::from_utf8_lossy(user)),
        }
    }
}

pub(super) fn bounded(name: &[u8]) -> &[u8] {
    &name[..name.len().min(MAX_NAME_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str, ipv6_prefix: u8) -> String {
        let peer = PeerAddress::Tcp(format!("{address}:1").parse().expect("an address"));
        CountKey::of(CapScope::Address { ipv6_prefix }, &peer, b"", b"").to_string()
    }

    #[test]
    fn an_ipv6_address_counts_by_its_network_and_an_ipv4_address_by_itself() {
        for (address, prefix, shown) in [
            ("10.0.0.1", 64, "address 10.0.0.1"),
            ("[::ffff:10.0.0.1]", 64, "address 10.0.0.1"),
            ("[2001:db8:1:2:3:4:5:6]", 64, "address 2001:db8:1:2::/64"),
            ("[2001:db8:1:2:ffff::1]", 64, "address 2001:db8:1:2::/64"),
            ("[2001:db8:1:3::1]", 64, "address 2001:db8:1:3::/64"),
            ("[2001:db8:1:2:3:4:5:6]", 48, "address 2001:db8:1::/48"),
            ("[2001:db8:1:2:3:4:5:6]", 1, "address ::/1"),
            ("[2001:db8::1]", 128, "address 2001:db8::1"),
        ] {
            assert_eq!(key(address, prefix), shown, "{address} {prefix}");
        }
    }
}
