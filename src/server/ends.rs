//! Ends of connections that respool has closed, as the workers know them together: those that are not seen, and those that count
//! no more since their server is another one now.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::origin::LinkOrigin;
use crate::failover::ServerNode;

/// The worker whose connection it was is the first to ask about it; it may have none on which it can.
const OTHERS_AFTER: Duration = Duration::from_secs(2);

/// Tells which connection it is to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerId {
    /// It is one of this process of a server.
    run: u64,
    /// The server gave the connection this number.
    number: i64,
}

impl ServerId {
    /// Puts the two together; `None`: the server has not said one of them.
    pub fn of(number: i64, run: Option<u64>) -> Option<Self> {
        let run = run.filter(|_| number > 0)?;
        Some(Self { run, number })
    }
}

/// Is the end of a connection that is awaited for long.
#[derive(Debug)]
pub struct UnseenEnd {
    node: ServerNode,
    id: ServerId,
    worker: usize,
    since_micros: u64,
    /// The server says that it has closed it.
    is_gone: AtomicBool,
}

impl UnseenEnd {
    /// Begins with the end of a connection to `node` of worker `worker`, which is asked about from now on.
    pub fn new(node: &ServerNode, id: ServerId, worker: usize, now_micros: u64) -> Self {
        Self {
            node: node.clone(),
            id,
            worker,
            since_micros: now_micros,
            is_gone: AtomicBool::new(false),
        }
    }

    /// Tells whether the server says that it has closed it.
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }

    /// Notes that the server says that it has closed it.
    pub fn set_gone(&self) {
        self.is_gone.store(true, Ordering::Relaxed);
    }

    /// Returns the number that the server gave it.
    pub fn number(&self) -> i64 {
        self.id.number
    }

    /// Tells whether it is worker `worker` that asks about it now.
    fn is_asked_by(&self, worker: usize, now_micros: u64) -> bool {
        let passed = Duration::from_micros(now_micros.saturating_sub(self.since_micros));
        self.worker == worker || passed >= OTHERS_AFTER
    }

    /// Tells whether the server at `origin` is the one that knows.
    pub fn is_known_at(&self, origin: &LinkOrigin) -> bool {
        origin.node == self.node && origin.run == Some(self.id.run)
    }
}

/// Holds the ends that are not seen, of all workers.
#[derive(Debug, Default)]
pub struct UnseenEnds(Mutex<Vec<Weak<UnseenEnd>>>);

impl UnseenEnds {
    /// Has it asked about, for as long as somebody keeps it.
    pub fn add(&self, end: UnseenEnd) -> Arc<UnseenEnd> {
        let end = Arc::new(end);
        let mut ends = self.ends();
        ends.retain(|end| end.strong_count() > 0);
        ends.push(Arc::downgrade(&end));
        end
    }

    /// Returns those that worker `worker` asks about now.
    pub fn asked_by(&self, worker: usize, now_micros: u64) -> Vec<Arc<UnseenEnd>> {
        let ends = self.ends();
        let ends = ends.iter().filter_map(Weak::upgrade);
        ends.filter(|end| !end.is_gone() && end.is_asked_by(worker, now_micros))
            .collect()
    }

    /// Has those behind the first `count` come first next time.
    pub fn turn(&self, count: usize) {
        let mut ends = self.ends();
        let middle = count.min(ends.len());
        ends.rotate_left(middle);
    }

    fn ends(&self) -> MutexGuard<'_, Vec<Weak<UnseenEnd>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds where sockets stand that count no more, since their server is another one now: when it is the server again nothing is
/// dialled there before they have been counted again.
#[derive(Default)]
pub struct UncountedEnds(Mutex<Vec<ServerNode>>);

impl UncountedEnds {
    /// Tells whether any stands at `node`.
    pub fn holds(&self, node: &ServerNode) -> bool {
        self.nodes().contains(node)
    }

    /// Adds one that stands at `node`.
    pub fn add(&self, node: &ServerNode) {
        self.nodes().push(node.clone());
    }

    /// Takes out one that stood at `node`.
    pub fn remove(&self, node: &ServerNode) {
        let mut nodes = self.nodes();
        if let Some(at) = nodes.iter().position(|other| other == node) {
            nodes.swap_remove(at);
        }
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<ServerNode>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_ask_about_it_later_and_nobody_once_it_is_gone() {
        let ends = UnseenEnds::default();
        let end = |number: i64, worker: usize| {
            ends.add(UnseenEnd {
                node: ServerNode::Tcp(std::net::SocketAddr::from(([127, 0, 0, 1], 6379))),
                id: ServerId::of(number, Some(1)).expect("both are known"),
                worker,
                since_micros: 1_000_000,
                is_gone: AtomicBool::new(false),
            })
        };
        let (first, second) = (end(1, 0), end(2, 1));
        let asked = |worker: usize, now: u64| -> Vec<i64> {
            let asked = ends.asked_by(worker, now);
            asked.iter().map(|end| end.id.number).collect()
        };
        assert_eq!(
            (asked(0, 1_000_000), asked(1, 2_999_999)),
            (vec![1], vec![2])
        );
        assert_eq!(
            (asked(0, 3_000_000), asked(2, 3_000_000)),
            (vec![1, 2], vec![1, 2])
        );
        ends.turn(1);
        assert_eq!(asked(0, 3_000_000), [2, 1]);
        first.is_gone.store(true, Ordering::Relaxed);
        assert_eq!(asked(0, 3_000_000), [2]);
        drop(second);
        assert!(asked(0, 3_000_000).is_empty());
        assert_eq!(ServerId::of(0, Some(1)), None);
        assert_eq!(ServerId::of(1, None), None);
    }
}
