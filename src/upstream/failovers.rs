//! What the workers know together of a server that is lost: the record of the failover, the circuit, the rate of connects.
//!
//! Nothing of it is touched while all is well but when a connection is opened or ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::thread::Process;
use crate::budget::Kind;
use crate::failover::{Bucket, Circuit, Node, Record, Standing, Turn};
use crate::telemetry::LossCause;

/// What those who wait to connect are told.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct News {
    /// Connections that came about.
    pub(super) connects: u64,
    /// Changes of the circuit, attempts that ended.
    turns: u64,
}

/// Shared by all workers.
#[derive(Debug, Default)]
pub struct Failovers {
    record: Mutex<Record>,
    gate: Mutex<Gate>,
    is_open: AtomicBool,
    news: watch::Sender<News>,
}

#[derive(Debug, Default)]
struct Gate {
    circuit: Circuit,
    connects: Bucket,
}

/// The one attempt to connect while the circuit is open; ends with its drop.
pub(super) struct Probe(Arc<Process>);

impl Drop for Probe {
    fn drop(&mut self) {
        let failovers = &self.0.failovers;
        failovers.gate().circuit.probed();
        failovers.news.send_modify(|news| news.turns += 1);
    }
}

impl Failovers {
    /// Whether the server is known to be down: nothing is to wait for it.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Shared connections that are up, in all workers.
    pub(super) fn live(&self) -> usize {
        self.record().live()
    }

    /// What is to be told at `now`.
    pub fn standing(&self, now: u64) -> Standing {
        self.record().standing(now)
    }

    /// Tells of connects and of turns from here on.
    pub(super) fn news(&self) -> watch::Receiver<News> {
        self.news.subscribe()
    }

    /// A connection for `kind` came about, to the server at `node`; `can_serve`: and it takes writes.
    pub(super) fn opened(&self, kind: Kind, node: &Node, can_serve: bool, now: u64) {
        let mut gate = self.gate();
        let mut record = self.record();
        if kind == Kind::Shared {
            record.opened();
        }
        record.reached(node, can_serve, now);
        drop(record);
        let was_open = gate.circuit.connected();
        self.show(gate);
        if was_open {
            tracing::info!(server = %node, "the server is back: commands are sent again");
        }
        self.news.send_modify(|news| news.connects += 1);
    }

    /// A connection for `kind` to `node` has ended; without a `cause` it was of no more use.
    pub(super) fn closed(&self, kind: Kind, node: &Node, cause: Option<LossCause>, now: u64) {
        let mut gate = self.gate();
        let mut record = self.record();
        if let Some(cause) = cause {
            record.lost(node, cause, now);
        }
        if kind == Kind::Shared && record.closed() {
            gate.circuit.lost(now);
        }
    }

    /// A connection to `node` that was opened at `opened` is being left, and all others to it.
    pub(super) fn left(&self, node: &Node, cause: LossCause, opened: u64, now: u64) {
        self.record().left(node, cause, opened, now);
    }

    /// An attempt to connect failed; the next may be made after `pause`. True: the circuit has opened.
    pub(super) fn attempt_failed(&self, now: u64, after: Duration, pause: Duration) -> bool {
        let mut gate = self.gate();
        let opened = self.live() == 0 && gate.circuit.failed(now, after, pause);
        self.show(gate);
        if opened {
            self.news.send_modify(|news| news.turns += 1);
        }
        opened
    }

    /// Commands wait for the server.
    pub(super) fn held(&self, commands: usize) {
        self.record().held(commands as u64);
    }

    /// Commands were answered as not sent.
    pub(super) fn failed(&self, commands: usize) {
        self.record().failed(commands as u64);
    }

    /// Clients were closed because a command of theirs may have run.
    pub(super) fn disconnected(&self, clients: u64) {
        if clients > 0 {
            self.record().disconnected(clients);
        }
    }

    /// How long whoever is about to connect must wait for its turn at this rate.
    pub(super) fn take_turn(&self, now: u64, per_second: u32) -> Duration {
        Duration::from_micros(self.gate().connects.take(now, per_second))
    }

    /// Tells everybody what the circuit has become, in the order in which it did.
    fn show(&self, gate: MutexGuard<'_, Gate>) {
        let is_open = gate.circuit.is_open();
        self.is_open.store(is_open, Ordering::Relaxed);
    }

    // Both are changed by one call each, whole: what a thread that panicked left is as good as any. Whoever needs both locks
    // the gate first.

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    /// Whether an attempt may be made now, and the mark of the one that is made while the circuit is open.
    pub(super) fn turn(self: &Arc<Self>) -> (Turn, Option<Probe>) {
        let turn = self.failovers.gate().circuit.turn(self.now_micros());
        let probe = (turn == Turn::Probe).then(|| Probe(Arc::clone(self)));
        (turn, probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever sees the circuit under its lock sees what everybody is told.
    #[test]
    fn what_is_told_of_the_circuit_is_what_it_is() {
        let failovers = Failovers::default();
        let node = Node::Tcp(std::net::SocketAddr::from(([127, 0, 0, 1], 6379)));
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    failovers.opened(Kind::Pinned, &node, true, 0);
                }
            });
            scope.spawn(|| {
                let after = Duration::from_micros(1);
                while !is_over.load(Ordering::Relaxed) {
                    failovers.attempt_failed(0, after, Duration::ZERO);
                    failovers.attempt_failed(10, after, Duration::ZERO);
                }
            });
            let mut differs = 0;
            for _ in 0..2_000 {
                let gate = failovers.gate();
                differs += u32::from(gate.circuit.is_open() != failovers.is_open());
                drop(gate);
                std::thread::yield_now();
            }
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(differs, 0);
        });
    }
}
