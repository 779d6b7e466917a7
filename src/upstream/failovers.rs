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
        let mut record = self.record();
        if kind == Kind::Shared {
            record.opened();
        }
        record.reached(node, can_serve, now);
        drop(record);
        let was_open = self.gate().circuit.connected();
        self.is_open.store(false, Ordering::Relaxed);
        if was_open {
            tracing::info!(server = %node, "the server is back: commands are sent again");
        }
        self.news.send_modify(|news| news.connects += 1);
    }

    /// A connection for `kind` to `node` has ended; without a `cause` it was of no more use.
    pub(super) fn closed(&self, kind: Kind, node: &Node, cause: Option<LossCause>, now: u64) {
        let mut record = self.record();
        if let Some(cause) = cause {
            record.lost(node, cause, now);
        }
        let is_away = kind == Kind::Shared && record.closed();
        drop(record);
        if is_away {
            self.gate().circuit.lost(now);
        }
    }

    /// A connection to `node` that was opened at `opened` is being left, and all others to it.
    pub(super) fn left(&self, node: &Node, cause: LossCause, opened: u64, now: u64) {
        self.record().left(node, cause, opened, now);
    }

    /// An attempt to connect failed; the next may be made after `pause`. True: the circuit has opened.
    pub(super) fn attempt_failed(&self, now: u64, after: Duration, pause: Duration) -> bool {
        if self.live() > 0 {
            return false;
        }
        let opened = self.gate().circuit.failed(now, after, pause);
        if opened {
            self.is_open.store(true, Ordering::Relaxed);
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

    // Both are changed by one call each, whole: what a thread that panicked left is as good as any.

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
