//! Addresses of the server that swallow connects: they are tried last for a while, so that not every connect waits for them.
//!
//! Pure: told the time and what happened.

use super::ServerNode;

/// Says how long an address is tried last.
const MICROS: u64 = 30_000_000;

/// Bounds the addresses that are remembered.
const MOST: usize = 64;

/// Holds an address that did not answer.
#[derive(Debug)]
struct SilentNode {
    node: ServerNode,
    until: u64,
}

/// Holds the addresses that did not answer lately.
#[derive(Debug, Default)]
pub struct SilentNodes(Vec<SilentNode>);

impl SilentNodes {
    /// Orders `nodes` as a connect at `now` tries them: those that were silent stand last. When its time is over such a
    /// one is tried in its place again, by this connect alone.
    pub fn order(&mut self, nodes: &[ServerNode], now: u64) -> Vec<ServerNode> {
        let mut last = Vec::new();
        let mut ordered: Vec<ServerNode> = nodes.to_vec();
        ordered.retain(
            |node| match self.0.iter_mut().find(|silent| silent.node == *node) {
                Some(silent) if now < silent.until => {
                    last.push(node.clone());
                    false
                }
                Some(silent) => {
                    silent.until = now.saturating_add(MICROS);
                    true
                }
                None => true,
            },
        );
        ordered.append(&mut last);
        ordered
    }

    /// Notes that `node` let a connect wait in vain. Returns true where that is news.
    pub fn was_silent(&mut self, node: &ServerNode, now: u64) -> bool {
        let until = now.saturating_add(MICROS);
        if let Some(silent) = self.0.iter_mut().find(|silent| silent.node == *node) {
            silent.until = until;
            return false;
        }
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        let node = node.clone();
        self.0.push(SilentNode { node, until });
        true
    }

    /// Notes that `node` took a connection, or refused it at once.
    pub fn answered(&mut self, node: &ServerNode) {
        self.0.retain(|silent| silent.node != *node);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn nodes(of: &[u8]) -> Vec<ServerNode> {
        let node = |last: &u8| ServerNode::Tcp(SocketAddr::from(([10, 0, 0, *last], 6379)));
        of.iter().map(node).collect()
    }

    #[test]
    fn a_silent_address_is_tried_last_for_a_while_and_then_by_one() {
        let mut silent = SilentNodes::default();
        let all = nodes(&[1, 2, 3]);
        assert_eq!(silent.order(&all, 0), all);
        assert!(silent.was_silent(&all[0], 0) && !silent.was_silent(&all[0], 0));
        assert_eq!(silent.order(&all, 1), nodes(&[2, 3, 1]));
        assert_eq!(silent.order(&all, MICROS), all, "its time is over");
        assert_eq!(silent.order(&all, MICROS + 1), nodes(&[2, 3, 1]), "for one");
        silent.answered(&all[0]);
        assert_eq!(silent.order(&all, MICROS + 2), all);
    }

    #[test]
    fn when_all_are_silent_their_order_is_as_told() {
        let mut silent = SilentNodes::default();
        let all = nodes(&[2, 1]);
        for node in &all {
            silent.was_silent(node, 0);
        }
        assert_eq!(silent.order(&all, 1), all);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut silent = SilentNodes::default();
        for last in 0..=255 {
            silent.was_silent(&nodes(&[last])[0], 0);
        }
        assert!(silent.0.len() <= MOST);
    }
}
