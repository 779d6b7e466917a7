//! What the workers know together of a server that is lost: the record of the failover, the circuit, the rate of connects.
//!
//! Nothing of it is touched while all is well but when a connection is opened or ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::origin::LinkOrigin;
use crate::budget::SocketKind;
use crate::failover::{
    CircuitBreaker, ConnectTurn, FailoverRecord, FailoverStanding, ServerNode, TokenBucket,
};
use crate::telemetry::LossCause;

/// Tells those who wait to connect what has happened, by counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnectNews {
    /// This number of connections came about.
    pub connects: u64,
    /// The process has forgotten this often what was known of the server.
    pub starts: u64,
    /// The circuit changed, or the one attempt ended, this often.
    turns: u64,
}

/// Holds what the workers know together of a server that is lost.
#[derive(Debug, Default)]
pub struct Failovers {
    record: Mutex<FailoverRecord>,
    gate: Mutex<ConnectGate>,
    is_open: AtomicBool,
    news: watch::Sender<ConnectNews>,
}

#[derive(Debug, Default)]
struct ConnectGate {
    circuit: CircuitBreaker,
    /// The connections that everybody shares have a rate of their own, and those that are lent: the many do not keep the few waiting.
    shared: TokenBucket,
    pinned: TokenBucket,
}

impl ConnectGate {
    fn bucket(&mut self, kind: SocketKind) -> &mut TokenBucket {
        match kind {
            SocketKind::Pinned => &mut self.pinned,
            SocketKind::Shared | SocketKind::Subscription => &mut self.shared,
        }
    }
}

/// Marks the one attempt to connect while the circuit is open. Its drop ends that.
pub struct ConnectProbe(Arc<Failovers>);

impl Drop for ConnectProbe {
    fn drop(&mut self) {
        self.0.gate().circuit.probed();
        self.0.news.send_modify(|news| news.turns += 1);
    }
}

impl Failovers {
    /// Tells whether the server is known to be down: nothing is to wait for it.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Counts the shared connections that are up, in all workers.
    pub fn live(&self) -> usize {
        self.record().live()
    }

    /// Returns what the operator is told at `now`.
    pub fn standing(&self, now: u64) -> FailoverStanding {
        self.record().standing(now)
    }

    /// Tells of connects and of turns from here on.
    pub fn news(&self) -> watch::Receiver<ConnectNews> {
        self.news.subscribe()
    }

    /// Notes that a connection for `kind` came about; `can_serve`: and the server takes writes.
    pub fn opened(&self, kind: SocketKind, origin: &LinkOrigin, can_serve: bool) {
        let node = &origin.node;
        let mut gate = self.gate();
        let mut record = self.record();
        if kind == SocketKind::Shared {
            record.opened();
        }
        record.reached(node, can_serve, (origin.begun_micros, origin.opened_micros));
        drop(record);
        let missed = gate.circuit.missed_for(origin.opened_micros);
        let was_open = gate.circuit.connected();
        self.show(gate);
        if let Some(missed) = missed {
            let missed = Duration::from_millis(missed.as_millis() as u64);
            let circuit = match was_open {
                true => ": commands are sent again",
                false => "",
            };
            tracing::info!(server = %node, "the server is back after {missed:?}{circuit}");
        }
        self.news.send_modify(|news| news.connects += 1);
    }

    /// Notes that the server has answered, though no connection has come about.
    pub fn answered(&self) {
        let mut gate = self.gate();
        gate.circuit.connected();
        self.show(gate);
        self.news.send_modify(|news| news.connects += 1);
    }

    /// Notes that a connection for `kind` to `node` has ended; without a `cause` it was of no more use.
    pub fn closed(&self, kind: SocketKind, node: &ServerNode, cause: Option<LossCause>, now: u64) {
        let mut gate = self.gate();
        let mut record = self.record();
        if let Some(cause) = cause {
            record.lost(node, cause, now);
        }
        if kind == SocketKind::Shared && record.closed() {
            gate.circuit.lost(now);
        }
    }

    /// Notes that a connection to `node` whose connect began at `begun` is being left, and all others to it.
    pub fn left(&self, node: &ServerNode, cause: LossCause, begun: u64, now: u64) {
        self.record().left(node, cause, begun, now);
    }

    /// Notes that an attempt to connect failed; the next may be made after `pause`. Returns whether the circuit has opened.
    pub fn attempt_failed(&self, now: u64, after: Duration, pause: Duration) -> bool {
        let mut gate = self.gate();
        let opened = self.live() == 0 && gate.circuit.failed(now, after, pause);
        self.show(gate);
        if opened {
            self.news.send_modify(|news| news.turns += 1);
        }
        opened
    }

    /// Forgets what was seen of the server: it has another address.
    pub fn start_over(&self) {
        let mut gate = self.gate();
        gate.circuit.connected();
        self.show(gate);
        self.news.send_modify(|news| news.starts += 1);
    }

    /// Notes that the server has closed sockets that it had kept while it hung: whoever waits to connect may try.
    pub fn stirred(&self, now: u64) {
        self.gate().circuit.stirred(now);
        self.news.send_modify(|news| news.connects += 1);
    }

    /// Counts commands that wait for the server.
    pub fn held(&self, commands: usize) {
        self.record().held(commands as u64);
    }

    /// Counts commands that were answered as not sent.
    pub fn failed(&self, commands: usize) {
        self.record().failed(commands as u64);
    }

    /// Counts clients that were closed because a command of theirs may have run.
    pub fn disconnected(&self, clients: u64) {
        if clients > 0 {
            self.record().disconnected(clients);
        }
    }

    /// Takes a turn at this rate, and returns how long whoever is about to connect must wait for it.
    pub fn take_turn(&self, kind: SocketKind, now: u64, per_second: u32) -> Duration {
        Duration::from_micros(self.gate().bucket(kind).take(now, per_second))
    }

    /// Gives back the turn of one who has gone before it came.
    pub fn give_back_turn(&self, kind: SocketKind, per_second: u32) {
        self.gate().bucket(kind).give_back(per_second);
    }

    /// Returns whether an attempt may be made now, and the mark of the one that is made while the circuit is open.
    pub fn attempt(self: &Arc<Self>, now: u64) -> (ConnectTurn, Option<ConnectProbe>) {
        let turn = self.gate().circuit.turn(now);
        let probe = (turn == ConnectTurn::Probe).then(|| ConnectProbe(Arc::clone(self)));
        (turn, probe)
    }

    /// Tells everybody what the circuit has become, in the order in which it did.
    fn show(&self, gate: MutexGuard<'_, ConnectGate>) {
        let is_open = gate.circuit.is_open();
        self.is_open.store(is_open, Ordering::Relaxed);
    }

    // Both are changed by one call each, whole: what a thread that panicked left is as good as any. Whoever needs both locks
    // the gate first.

    fn record(&self) -> MutexGuard<'_, FailoverRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self) -> MutexGuard<'_, ConnectGate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts::ServerVersion;

    /// Whoever sees the circuit under its lock sees what everybody is told.
    #[test]
    fn what_is_told_of_the_circuit_is_what_it_is() {
        let failovers = Failovers::default();
        let origin = LinkOrigin {
            name: String::new(),
            server_id: 0,
            node: ServerNode::Tcp(std::net::SocketAddr::from(([127, 0, 0, 1], 6379))),
            run: None,
            is_replica: false,
            version: ServerVersion::UNKNOWN,
            begun_micros: 0,
            opened_micros: 0,
        };
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    failovers.opened(SocketKind::Pinned, &origin, true);
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
