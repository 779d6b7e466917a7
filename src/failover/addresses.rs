//! Where the server is: the addresses that its name stands for, as told by one answer after another.
//!
//! Invariant: an answer in another order, or none at all, changes nothing.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Bounds the time within which the addresses of a name come and go that stands for all of them in turn (a reader
/// endpoint, a round robin of single answers): an address of it is gone only when it has not been told for as long.
const ROTATION_MICROS: u64 = 60_000_000;

/// Bounds the addresses remembered that are not told any more.
const MAX_REMEMBERED: usize = 64;

/// One address of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerNode {
    /// It is an IP address and a port.
    Tcp(SocketAddr),
    /// It is the path of a unix socket.
    Unix(Arc<Path>),
}

impl fmt::Display for ServerNode {
    /// Writes it as `upstream.address` would be written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Holds an address that was told once.
#[derive(Debug)]
struct ToldAddress {
    node: ServerNode,
    last: u64,
}

/// Holds the addresses that a name stands for.
#[derive(Debug, Default)]
pub struct AddressSet {
    current: Vec<ServerNode>,
    /// Holds those of earlier answers.
    earlier: Vec<ToldAddress>,
    /// Says since when the name is known to stand for its addresses in turn.
    rotates: Option<u64>,
}

impl AddressSet {
    /// Notes that the name was resolved to `answers` at `now`. Returns true where an address that was told before is
    /// not any more.
    pub fn answered(&mut self, answers: &[ServerNode], now: u64) -> bool {
        if answers.is_empty() {
            return false;
        }
        let held_before: Vec<ServerNode> = self.current.drain(..).collect();
        for node in &held_before {
            self.earlier.push(ToldAddress {
                node: node.clone(),
                last: now,
            });
        }
        let is_back =
            |told: &ToldAddress| answers.contains(&told.node) && !held_before.contains(&told.node);
        if self.earlier.iter().any(is_back) {
            self.rotates = Some(now);
        }
        self.earlier.retain(|told| {
            !answers.contains(&told.node) && now < told.last.saturating_add(ROTATION_MICROS)
        });
        let most = self.earlier.len().saturating_sub(MAX_REMEMBERED);
        self.earlier.drain(..most);
        self.current = answers.to_vec();
        held_before.iter().any(|node| !answers.contains(node)) || self.is_rotating(now)
    }

    /// Notes that the name stands for its addresses in turn, as a reader endpoint does.
    pub fn expect_rotation(&mut self, now: u64) {
        self.rotates = Some(now);
    }

    /// Lists those of the last answer, in its order.
    pub fn current(&self) -> &[ServerNode] {
        &self.current
    }

    /// Tells whether a connection to `node` is one to the server.
    pub fn holds(&self, node: &ServerNode, now: u64) -> bool {
        if self.current.is_empty() || self.current.contains(node) {
            return true;
        }
        let is_recent = |told: &ToldAddress| {
            told.node == *node && now < told.last.saturating_add(ROTATION_MICROS)
        };
        self.is_rotating(now) && self.earlier.iter().any(is_recent)
    }

    /// Tells whether the name has been seen lately to stand for its addresses in turn.
    fn is_rotating(&self, now: u64) -> bool {
        self.rotates
            .is_some_and(|since| now < since.saturating_add(10 * ROTATION_MICROS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn node(last: u8) -> ServerNode {
        ServerNode::Tcp(SocketAddr::from(([10, 0, 0, last], 6379)))
    }

    fn told(answers: &[&[u8]]) -> AddressSet {
        let mut addresses = AddressSet::default();
        for (at, answer) in answers.iter().enumerate() {
            let nodes: Vec<ServerNode> = answer.iter().map(|last| node(*last)).collect();
            addresses.answered(&nodes, at as u64 * SECOND);
        }
        addresses
    }

    #[test]
    fn an_address_that_is_told_no_more_is_gone_at_once() {
        let mut addresses = told(&[&[1]]);
        assert!(addresses.answered(&[node(2)], SECOND));
        assert!(!addresses.holds(&node(1), SECOND) && addresses.holds(&node(2), SECOND));
        assert_eq!(addresses.current(), [node(2)]);
    }

    #[test]
    fn another_order_more_addresses_or_no_answer_change_nothing() {
        let mut addresses = told(&[&[1, 2]]);
        assert!(!addresses.answered(&[node(2), node(1)], SECOND));
        assert!(!addresses.answered(&[], SECOND));
        assert!(!addresses.answered(&[node(3), node(1), node(2)], SECOND));
        assert!(addresses.holds(&node(1), SECOND) && addresses.holds(&node(2), SECOND));
        assert_eq!(addresses.current(), [node(3), node(1), node(2)]);
    }

    #[test]
    fn before_the_first_answer_nothing_is_wrong() {
        assert!(AddressSet::default().holds(&node(1), 0));
    }

    #[test]
    fn a_name_that_stands_for_its_addresses_in_turn_loses_none_of_them() {
        let addresses = told(&[&[1], &[2], &[1], &[2], &[1]]);
        assert!(addresses.holds(&node(1), 5 * SECOND) && addresses.holds(&node(2), 5 * SECOND));
        assert!(!addresses.holds(&node(3), 5 * SECOND));
        // One that is not told for a minute is gone all the same.
        let mut addresses = addresses;
        for second in 5..70 {
            addresses.answered(&[node(1)], second * SECOND);
        }
        assert!(!addresses.holds(&node(2), 70 * SECOND));
    }

    #[test]
    fn of_a_reader_endpoint_that_is_known_from_the_start() {
        let mut addresses = AddressSet::default();
        addresses.expect_rotation(0);
        addresses.answered(&[node(1)], 0);
        addresses.answered(&[node(2)], SECOND);
        assert!(addresses.holds(&node(1), SECOND) && addresses.holds(&node(2), SECOND));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut addresses = AddressSet::default();
        for last in 0..=255 {
            addresses.answered(&[node(last)], 0);
        }
        assert!(addresses.earlier.len() <= MAX_REMEMBERED);
    }
}
