//! The last failover: from where to where, why, how long it took, and what it cost.
//!
//! A failover begins when the last shared connection to the server is lost, or when its connections are left because it moved or
//! was demoted; it ends with the first connection that is up again. The loss of one connection among others is none.

use std::collections::BTreeMap;

use crate::telemetry::LossCause;

use super::ServerNode;

/// Says for how long, in microseconds, the loss of one connection may be the first sign of a failover.
const SIGN_LASTS: u64 = 5_000_000;

/// Tells of one failover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFailover {
    /// The address that was lost.
    pub from: ServerNode,
    /// The address of the first connection after; `None` while it is not over.
    pub to: Option<ServerNode>,
    /// Says what was noticed first.
    pub cause: LossCause,
    /// Says when it was noticed.
    pub began: u64,
    /// Says how long it took from then to the first connection, in microseconds; so far, when it is not over.
    pub took: u64,
    /// Counts the commands that waited for the server.
    pub held: u64,
    /// Counts the commands that were answered with LOADING, as not sent.
    pub failed: u64,
    /// Counts the clients closed because a command of theirs was sent and not answered.
    pub disconnected: u64,
}

/// Holds what is to be told.
#[derive(Debug, Clone, Default)]
pub struct FailoverStanding {
    /// Shows the one under way, else the last.
    pub last: Option<SeenFailover>,
    /// Counts those that are over, by their cause.
    pub totals: BTreeMap<&'static str, u64>,
}

/// Keeps the record of a process.
#[derive(Debug, Default)]
pub struct FailoverRecord {
    live: usize,
    /// Holds what may become a failover, or is one.
    current: Option<SeenFailover>,
    /// Is true where it is one.
    is_failover: bool,
    last: Option<SeenFailover>,
    totals: BTreeMap<&'static str, u64>,
}

impl FailoverRecord {
    /// Counts the shared connections that are up.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Notes that a shared connection is up.
    pub fn opened(&mut self) {
        self.live += 1;
    }

    /// Notes that a shared connection has ended. Returns true where it was the last, and a failover begins or goes on.
    pub fn closed(&mut self) -> bool {
        self.live = self.live.saturating_sub(1);
        self.is_failover |= self.live == 0 && self.current.is_some();
        self.live == 0 && self.is_failover
    }

    /// Notes that the server was reached at `node` by a connect that had begun at `begun` and is over `now`; where
    /// `can_serve` is true it is what was looked for.
    pub fn reached(&mut self, node: &ServerNode, can_serve: bool, (begun, now): (u64, u64)) {
        let is_old = self.current.as_ref().is_some_and(|current| {
            // One that begins later goes to where the server is by then, though it be back.
            current.cause == LossCause::Moved && current.from == *node && begun <= current.began
        });
        if !self.is_failover {
            // One was lost, and the server is there.
            self.current = None;
        } else if can_serve
            && !is_old
            && let Some(mut over) = self.current.take()
        {
            self.is_failover = false;
            over.to = Some(node.clone());
            over.took = now.saturating_sub(over.began);
            *self.totals.entry(over.cause.label()).or_default() += 1;
            self.last = Some(over);
        }
    }

    /// Notes that a connection to `node` was lost.
    pub fn lost(&mut self, node: &ServerNode, cause: LossCause, now: u64) {
        let is_left = matches!(
            cause,
            LossCause::Moved | LossCause::Readonly | LossCause::MasterDown
        );
        // The last of those that are left may go long after the failover they were left for.
        if self.is_failover || !is_left {
            self.begin(node, cause, now);
        }
    }

    /// Notes that a connection to `node` whose connect began at `begun` is being left, and all others to it.
    pub fn left(&mut self, node: &ServerNode, cause: LossCause, begun: u64, now: u64) {
        let is_over = |last: &SeenFailover| last.from == *node && begun <= last.began + last.took;
        if self.last.as_ref().is_some_and(is_over) {
            return;
        }
        self.begin(node, cause, now);
        if let Some(current) = self.current.as_mut().filter(|_| !self.is_failover) {
            // One connection that was lost just before was the first sign of it.
            current.cause = cause;
        }
        self.is_failover = true;
    }

    /// Counts commands that wait for the server.
    pub fn held(&mut self, commands: u64) {
        self.change(|current| current.held += commands);
    }

    /// Counts commands that were answered as not sent.
    pub fn failed(&mut self, commands: u64) {
        self.change(|current| current.failed += commands);
    }

    /// Counts clients that were closed.
    pub fn disconnected(&mut self, clients: u64) {
        self.change(|current| current.disconnected += clients);
    }

    /// Tells what there is to be told of it at `now`.
    pub fn standing(&self, now: u64) -> FailoverStanding {
        let under_way = self.current.as_ref().filter(|_| self.is_failover);
        let mut last = under_way.or(self.last.as_ref()).cloned();
        if let Some(last) = last.as_mut().filter(|last| last.to.is_none()) {
            last.took = now.saturating_sub(last.began);
        }
        FailoverStanding {
            last,
            totals: self.totals.clone(),
        }
    }

    fn begin(&mut self, node: &ServerNode, cause: LossCause, now: u64) {
        let is_stale = |sign: &SeenFailover| now.saturating_sub(sign.began) > SIGN_LASTS;
        if !self.is_failover && self.current.as_ref().is_some_and(is_stale) {
            self.current = None;
        }
        self.current.get_or_insert_with(|| SeenFailover {
            from: node.clone(),
            to: None,
            cause,
            began: now,
            took: 0,
            held: 0,
            failed: 0,
            disconnected: 0,
        });
    }

    fn change(&mut self, change: impl FnOnce(&mut SeenFailover)) {
        if let Some(current) = &mut self.current {
            change(current);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: u16) -> ServerNode {
        ServerNode::Tcp(std::net::SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn with(live: usize) -> FailoverRecord {
        let mut record = FailoverRecord::default();
        (0..live).for_each(|_| record.opened());
        record.reached(&node(1), true, (0, 0));
        record
    }

    fn lose(record: &mut FailoverRecord, cause: LossCause, now: u64) -> bool {
        record.lost(&node(1), cause, now);
        record.closed()
    }

    #[test]
    fn the_loss_of_all_is_one_and_ends_with_the_first_connection() {
        let mut record = with(3);
        assert!(!lose(&mut record, LossCause::Reset, 100));
        record.disconnected(2);
        lose(&mut record, LossCause::Closed, 110);
        assert!(lose(&mut record, LossCause::Reset, 120));
        record.held(5);
        record.failed(1);
        let under_way = record.standing(150).last.expect("one under way");
        assert_eq!((under_way.to, under_way.took), (None, 50));
        record.reached(&node(2), true, (1050, 1100));
        record.reached(&node(2), true, (1150, 1200));
        record.held(7);
        let standing = record.standing(9000);
        let last = standing.last.expect("one is over");
        let expected = SeenFailover {
            from: node(1),
            to: Some(node(2)),
            cause: LossCause::Reset,
            began: 100,
            took: 1000,
            held: 5,
            failed: 1,
            disconnected: 2,
        };
        assert_eq!(last, expected);
        assert_eq!(standing.totals, BTreeMap::from([("reset", 1)]));
    }

    #[test]
    fn one_connection_among_others_is_none() {
        let mut record = with(2);
        assert!(!lose(&mut record, LossCause::Reset, 100));
        record.disconnected(1);
        record.reached(&node(1), true, (150, 200));
        assert!(record.standing(300).last.is_none());
        // Nor is the end of those that are of no more use.
        assert!(!record.closed());
        assert!(record.standing(300).last.is_none());
    }

    #[test]
    fn what_is_left_is_one_though_others_are_up_and_lasts_until_one_can_serve() {
        let mut record = with(3);
        // A primary that becomes a replica closes its blocked clients first.
        lose(&mut record, LossCause::Closed, 100);
        record.left(&node(1), LossCause::Readonly, 0, 105);
        lose(&mut record, LossCause::Readonly, 110);
        record.reached(&node(1), false, (115, 120));
        assert_eq!(record.standing(130).totals.len(), 0);
        record.reached(&node(2), true, (550, 600));
        let standing = record.standing(700);
        assert_eq!(standing.totals, BTreeMap::from([("readonly", 1)]));
        assert_eq!(standing.last.map(|last| last.took), Some(500));
    }

    #[test]
    fn a_move_is_one_however_late_the_last_connection_leaves() {
        let mut record = with(3);
        record.left(&node(1), LossCause::Moved, 0, 100);
        record.reached(&node(1), true, (90, 150));
        assert_eq!(record.standing(160).totals.len(), 0, "still the old one");
        record.reached(&node(2), true, (190, 200));
        record.left(&node(1), LossCause::Moved, 150, 300);
        assert_eq!(record.standing(310).totals, BTreeMap::from([("moved", 1)]));
        assert!(
            record
                .standing(310)
                .last
                .is_some_and(|last| last.to.is_some())
        );
        // Back, and away again.
        record.left(&node(1), LossCause::Moved, 5000, 6000);
        assert!(
            record
                .standing(6010)
                .last
                .is_some_and(|last| last.to.is_none())
        );
    }

    #[test]
    fn a_move_back_to_where_it_was_ends_too() {
        let mut record = with(2);
        record.left(&node(1), LossCause::Moved, 0, 100);
        record.reached(&node(1), true, (101, 150));
        assert_eq!(record.standing(160).totals, BTreeMap::from([("moved", 1)]));
    }

    #[test]
    fn an_old_loss_is_no_sign_of_a_new_failover() {
        let mut record = with(2);
        lose(&mut record, LossCause::Reset, 100);
        let later = 100 + SIGN_LASTS + 1;
        assert!(lose(&mut record, LossCause::Closed, later));
        let told = record.standing(later + 10).last.expect("one is under way");
        assert_eq!((told.cause, told.began), (LossCause::Closed, later));
    }

    #[test]
    fn the_last_that_is_left_is_no_sign_of_another() {
        let mut record = with(2);
        record.left(&node(1), LossCause::Moved, 0, 100);
        record.reached(&node(2), true, (110, 200));
        record.opened();
        lose(&mut record, LossCause::Moved, 300);
        lose(&mut record, LossCause::Moved, 310);
        record.lost(&node(2), LossCause::Reset, 320);
        assert!(record.closed());
        let told = record.standing(330).last.expect("one is under way");
        assert_eq!((told.from, told.cause), (node(2), LossCause::Reset));
    }
}
