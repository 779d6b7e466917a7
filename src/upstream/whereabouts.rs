//! Where the server is: its name resolved on one thread of the process, and which of its connections are to be left.
//!
//! Invariant: lookups never pile up. One is under way at a time, and serves all who asked before it began.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::thread::Process;
use crate::config::{Address, Role, Settings, Upstream};
use crate::failover::{Addresses, Demotion, Node, SilentNodes};
use crate::telemetry::{LossCause, Throttle};
use crate::transport::{DialError, literal, look_up};

/// How often the name is resolved after a server was seen to be demoted: the name may move any moment.
const SUSPECT_EVERY: Duration = Duration::from_millis(500);

/// Where addresses are known a connect does not wait longer for a resolver that hangs: most of the time they hold.
const KNOWN_WITHIN: Duration = Duration::from_millis(500);

/// How often the thread looks whether it is still needed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Servers remembered as left.
const MAX_LEFT: usize = 16;

/// Where the server is, as far as is known. Shared by all workers.
#[derive(Debug)]
pub struct Whereabouts {
    known: Mutex<Known>,
    asked: Condvar,
    answered: watch::Sender<u64>,
    /// Counts what may make a connection one to be left.
    changes: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    asked: u64,
    answered: u64,
    has_thread: bool,
    /// What the addresses are of.
    address: Option<Address>,
    addresses: Addresses,
    silent: SilentNodes,
    error: Option<String>,
    /// The log has the error.
    is_error_logged: bool,
    error_line: ErrorLine,
    left: Vec<Left>,
    demotion: Demotion,
}

/// A file that is written all the time fails in one way and in another: a few lines say it.
#[derive(Debug)]
struct ErrorLine(Throttle);

impl Default for ErrorLine {
    fn default() -> Self {
        Self(Throttle::of(4))
    }
}

/// Connections opened before a moment are to be left.
#[derive(Debug)]
struct Left {
    /// Those to this address; `None`: all.
    node: Option<Node>,
    before: u64,
    cause: LossCause,
}

impl Default for Whereabouts {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            asked: Condvar::new(),
            answered: watch::Sender::new(0),
            // No connection has seen the first state.
            changes: AtomicU64::new(1),
        }
    }
}

impl Whereabouts {
    /// Changes when a connection may have become one to be left.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Why a connection to `node` whose connect began at `opened` is to be left, if it is.
    pub(super) fn is_to_be_left(&self, node: &Node, opened: u64, now: u64) -> Option<LossCause> {
        let known = self.known();
        let is_meant = |left: &&Left| {
            opened <= left.before && left.node.as_ref().is_none_or(|other| other == node)
        };
        let cause = known.left.iter().find(is_meant).map(|left| left.cause);
        match cause {
            Some(cause) if cause != LossCause::Renewed => Some(cause),
            // A server that is not there any more is left in another way.
            _ if !known.addresses.holds(node, now) => Some(LossCause::Moved),
            cause => cause,
        }
    }

    /// `address` stands for `nodes`. An answer that comes when `address` is not that of the
    /// configuration in force any more tells nothing.
    fn told(
        &self,
        (address, role): (&Address, Role),
        is_in_force: impl FnOnce() -> bool,
        nodes: &[Node],
        now: u64,
    ) {
        let mut known = self.known();
        // Under the lock: what is told of the new one, before or after, stands.
        if !is_in_force() {
            return;
        }
        let is_other = known.address.as_ref() != Some(address);
        if is_other {
            known.address = Some(address.clone());
            known.addresses = Addresses::default();
        }
        if role == Role::Replica && literal(address).is_none() {
            known.addresses.expect_rotation(now);
        }
        let has_lost = known.addresses.answered(nodes, now);
        known.error = None;
        if std::mem::take(&mut known.is_error_logged) {
            tracing::info!("{address} is resolved again");
        }
        drop(known);
        if has_lost || is_other {
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The addresses of `address` could not be told. Where they are known the connections go on, so that nothing else would
    /// say so; where they are not, every connect fails with it.
    fn not_told(&self, address: &Address, error: String, now: u64) {
        let mut known = self.known();
        let is_other = known.error.as_ref() != Some(&error);
        known.error = Some(error);
        known.is_error_logged &= !is_other;
        let Some(text) = known.unresolved(address).filter(|_| !known.is_error_logged) else {
            return;
        };
        if let Some(more) = known.error_line.0.write(now) {
            known.is_error_logged = true;
            tracing::warn!(more, "{text}");
        }
    }

    /// Connections to `node` (`None`: to any) that were opened before `now` are to be left.
    fn leave(&self, node: Option<Node>, cause: LossCause, now: u64) {
        let mut known = self.known();
        known.left.retain(|left| left.node != node);
        if known.left.len() >= MAX_LEFT {
            known.left.remove(0);
        }
        known.left.push(Left {
            node,
            before: now,
            cause,
        });
        drop(known);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// The addresses of `address` as last told, or why there are none.
    fn of(&self, address: &Address) -> Result<Vec<Node>, String> {
        let known = self.known();
        let current = known.addresses.current();
        if known.address.as_ref() == Some(address) && !current.is_empty() {
            return Ok(current.to_vec());
        }
        let error = known.error.clone();
        Err(error.unwrap_or_else(|| format!("{address} could not be resolved in time")))
    }

    /// The addresses in the order in which a connect tries them.
    pub(super) fn order(&self, nodes: &[Node], now: u64) -> Vec<Node> {
        match nodes {
            [_, _, ..] => self.known().silent.order(nodes, now),
            _ => nodes.to_vec(),
        }
    }

    /// `node` let a connect wait in vain, while there are others.
    pub(super) fn was_silent(&self, node: &Node, now: u64) {
        if self.known().silent.was_silent(node, now) {
            tracing::warn!(
                server = %node,
                "an address of the server swallows connects: others of its name are tried before it"
            );
        }
    }

    /// `node` took a connection.
    pub(super) fn has_answered(&self, node: &Node) {
        self.known().silent.answered(node);
    }

    /// Waits until somebody asks, or until `pause` is over. The ticket that an answer now is good for; `None`: nobody asked.
    fn wait(&self, pause: Duration) -> Option<u64> {
        let is_answered = |known: &mut Known| known.asked == known.answered;
        let waited = self
            .asked
            .wait_timeout_while(self.known(), pause, is_answered);
        let (known, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (known.asked != known.answered).then_some(known.asked)
    }

    fn answer(&self, ticket: u64) {
        self.known().answered = ticket;
        self.answered.send_replace(ticket);
    }

    /// What is known is replaced piece by piece, each whole: what a thread that panicked left is as good as any.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Why the addresses of `address`, which are known from before, are not known anew, and what that means.
    fn unresolved(&self, address: &Address) -> Option<String> {
        let is_known =
            self.address.as_ref() == Some(address) && !self.addresses.current().is_empty();
        let error = self.error.as_ref().filter(|_| is_known)?;
        Some(format!(
            "{error}; the addresses that are known stay in use, and that the server has moved is not seen: put it right"
        ))
    }
}

impl Process {
    /// Why the server's name cannot be resolved any more, while its addresses from before are in use.
    pub fn unresolved(&self) -> Option<String> {
        let settings = self.settings();
        self.whereabouts
            .known()
            .unresolved(&settings.upstream.address)
    }

    /// Microseconds since the process' clock started.
    pub fn now_micros(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// The addresses of `upstream`, resolved now; when that fails or takes longer than [`KNOWN_WITHIN`], as last known.
    ///
    /// # Errors
    /// [`DialError::Unresolved`]: nothing is known either.
    pub(super) async fn locate(
        self: &Arc<Self>,
        upstream: &Upstream,
    ) -> Result<Vec<Node>, DialError> {
        let address = &upstream.address;
        if let Some(node) = literal(address) {
            let nodes = vec![node];
            let is_in_force = || self.configured.load().upstream.address == *address;
            self.whereabouts.told(
                (address, upstream.role),
                is_in_force,
                &nodes,
                self.now_micros(),
            );
            return Ok(nodes);
        }
        let limit = match self.whereabouts.of(address) {
            Ok(_) => upstream.connect_timeout.min(KNOWN_WITHIN),
            Err(_) => upstream.connect_timeout,
        };
        let ticket = self.look_again();
        let mut answered = self.whereabouts.answered.subscribe();
        // What is known is used all the same.
        let _ = tokio::time::timeout(limit, answered.wait_for(|done| *done >= ticket)).await;
        self.whereabouts.of(address).map_err(DialError::Unresolved)
    }

    /// What the configuration calls the server may stand for other addresses than before, `upstream.address` or
    /// `upstream.hosts_file` having changed: connections to any other are left, each when it has answered.
    pub fn server_moved(self: &Arc<Self>) {
        let settings = self.settings();
        let address = &settings.upstream.address;
        match literal(address) {
            Some(node) => {
                let is_in_force = || self.configured.load().upstream.address == *address;
                self.whereabouts.told(
                    (address, settings.upstream.role),
                    is_in_force,
                    &[node],
                    self.now_micros(),
                );
            }
            None => drop(self.look_again()),
        }
    }

    /// All connections to the server are replaced, each when it has answered: how they are opened has changed, or whereto.
    pub fn renew_connections(&self, cause: LossCause) {
        let now = self.now_micros();
        self.whereabouts.leave(None, cause, now);
    }

    /// Whether a server that answers as a replica does is worth asking whether it is one.
    pub(super) fn is_demotion_due(&self) -> bool {
        self.whereabouts.known().demotion.is_due(self.now_micros())
    }

    /// The server at `node` is no primary. Its connections are left, at most once in each step of a back-off, and the name
    /// is looked at.
    pub(super) fn demoted(self: &Arc<Self>, node: &Node, cause: LossCause) {
        let now = self.now_micros();
        let initial = self.configured.load().upstream.reconnect.initial;
        if !self.whereabouts.known().demotion.seen(now, initial) {
            return;
        }
        self.failovers.left(node, cause, now, now);
        self.whereabouts.leave(Some(node.clone()), cause, now);
        tracing::warn!(
            server = %node,
            "the server is a replica and refuses writes: its connections are replaced and its name is resolved again; if \
             this goes on, upstream.address names a replica"
        );
        if literal(&self.configured.load().upstream.address).is_none() {
            self.look_again();
        }
    }

    /// Has the name resolved; the ticket that [`Whereabouts::answered`] reaches when it is.
    fn look_again(self: &Arc<Self>) -> u64 {
        let mut known = self.whereabouts.known();
        known.asked += 1;
        let ticket = known.asked;
        let needs_thread = !std::mem::replace(&mut known.has_thread, true);
        drop(known);
        self.whereabouts.asked.notify_one();
        if needs_thread {
            let (process, whereabouts) = (Arc::downgrade(self), Arc::clone(&self.whereabouts));
            let started = std::thread::Builder::new()
                .name("resolver".to_owned())
                .spawn(move || resolve(&process, &whereabouts));
            if let Err(error) = started {
                let mut known = self.whereabouts.known();
                known.has_thread = false;
                known.error = Some(format!("no thread to resolve names on: {error}"));
            }
        }
        ticket
    }

    /// How long until the name is to be resolved though nobody asks, and whether it is to be at all.
    fn resolve_pause(&self, settings: &Settings) -> Option<Duration> {
        let every = settings.upstream.resolve_interval;
        let known = self.whereabouts.known();
        if known.demotion.is_recent(self.now_micros()) {
            return Some(if every.is_zero() {
                SUSPECT_EVERY
            } else {
                every.min(SUSPECT_EVERY)
            });
        }
        Some(every).filter(|every| !every.is_zero() && self.failovers.live() > 0)
    }
}

/// Resolves the server's name whenever somebody asks and every so often, for as long as the process lives.
fn resolve(process: &Weak<Process>, whereabouts: &Whereabouts) {
    loop {
        let Some(alive) = process.upgrade() else {
            return;
        };
        let pause = alive.resolve_pause(&alive.settings());
        drop(alive);
        let asked = whereabouts.wait(pause.unwrap_or(LOOK_EVERY));
        let Some(alive) = process.upgrade() else {
            return;
        };
        if asked.is_none() && pause.is_none() {
            continue;
        }
        let settings = alive.settings();
        let upstream = &settings.upstream;
        if let (Address::Tcp { host, port }, None) = (&upstream.address, literal(&upstream.address))
        {
            match look_up(host, *port, upstream.hosts_file.as_deref()) {
                Ok(nodes) => {
                    let is_in_force =
                        || alive.configured.load().upstream.address == upstream.address;
                    whereabouts.told(
                        (&upstream.address, upstream.role),
                        is_in_force,
                        &nodes,
                        alive.now_micros(),
                    );
                }
                Err(error) => {
                    let text = format!("{host} could not be resolved: {error}");
                    tracing::debug!("{text}");
                    whereabouts.not_told(&upstream.address, text, alive.now_micros());
                }
            }
        }
        if let Some(ticket) = asked {
            whereabouts.answer(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(last: u8) -> Node {
        Node::Tcp(std::net::SocketAddr::from(([10, 0, 0, last], 6379)))
    }

    fn name(host: &str) -> Address {
        Address::Tcp {
            host: host.to_owned(),
            port: 6379,
        }
    }

    #[test]
    fn a_late_answer_about_another_name_undoes_nothing() {
        let whereabouts = Whereabouts::default();
        let (old, new) = (name("old.example.com"), name("new.example.com"));
        let role = Role::Primary;
        whereabouts.told((&old, role), || true, &[node(1)], 0);
        whereabouts.told((&new, role), || true, &[node(2)], 1);
        let changes = whereabouts.changes();
        // Looked up before the reload, answered after it.
        whereabouts.told((&old, role), || false, &[node(1)], 2);
        assert_eq!(whereabouts.of(&new), Ok(vec![node(2)]));
        assert_eq!(whereabouts.changes(), changes);
        assert_eq!(whereabouts.is_to_be_left(&node(2), 1, 2), None);
        let left = whereabouts.is_to_be_left(&node(1), 0, 2);
        assert_eq!(left, Some(LossCause::Moved));
    }

    #[test]
    fn what_is_renewed_is_left_as_such_unless_it_has_moved() {
        let whereabouts = Whereabouts::default();
        let name = name("redis.example.com");
        whereabouts.told((&name, Role::Primary), || true, &[node(1)], 0);
        whereabouts.leave(None, LossCause::Renewed, 5);
        let cause = |begun| whereabouts.is_to_be_left(&node(1), begun, 9);
        assert_eq!((cause(5), cause(6)), (Some(LossCause::Renewed), None));
        whereabouts.told((&name, Role::Primary), || true, &[node(2)], 7);
        assert_eq!(
            whereabouts.is_to_be_left(&node(1), 5, 9),
            Some(LossCause::Moved)
        );
    }
    #[test]
    fn a_name_that_is_not_resolved_any_more_is_told_as_long_as_that_lasts() {
        let whereabouts = Whereabouts::default();
        let (old, new) = (name("old.example.com"), name("new.example.com"));
        let role = Role::Primary;
        let told = |address: &Address| whereabouts.known().unresolved(address);
        whereabouts.not_told(&old, "no answer".to_owned(), 0);
        assert_eq!(told(&old), None, "every connect says so");
        assert!(!whereabouts.known().is_error_logged);
        whereabouts.told((&old, role), || true, &[node(1)], 1);
        assert_eq!(told(&old), None);
        whereabouts.not_told(&old, "the file is gone".to_owned(), 2);
        let text = told(&old).expect("told");
        assert!(
            text.starts_with("the file is gone; the addresses"),
            "{text}"
        );
        assert!(whereabouts.known().is_error_logged);
        assert_eq!(whereabouts.of(&old), Ok(vec![node(1)]), "they stay in use");
        assert_eq!(told(&new), None, "of another nothing is known");
        // Each way of failing is logged, but not any number of them.
        for at in 3..6 {
            whereabouts.not_told(&old, format!("{at}"), at);
            assert!(whereabouts.known().is_error_logged);
        }
        whereabouts.not_told(&old, "6".to_owned(), 6);
        assert!(!whereabouts.known().is_error_logged, "later");
        whereabouts.not_told(&old, "6".to_owned(), 20_000_000);
        assert!(whereabouts.known().is_error_logged, "now");
        whereabouts.told((&old, role), || true, &[node(1)], 20_000_001);
        assert_eq!(told(&old), None, "it is over");
        assert!(!whereabouts.known().is_error_logged);
    }
}
