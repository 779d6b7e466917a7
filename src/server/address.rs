//! Where the server is: its name is resolved on one thread of the process, which tells which of its connections are to be left.
//!
//! Invariant: lookups never pile up. One is under way at a time, and serves all who asked before it began.

use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::config::{Address, ServerRole, Settings, UpstreamSettings};
use crate::failover::{AddressSet, DemotionSteps, ServerNode, SilentNodes};
use crate::telemetry::{LossCause, Throttle};
use crate::transport::{DialError, literal, look_up};

/// The name is resolved this often after a server was seen to be demoted: the name may move any moment.
const SUSPECT_EVERY: Duration = Duration::from_millis(500);

/// A connect waits this long for a resolver that hangs where addresses are known: most of the time they hold.
const KNOWN_WITHIN: Duration = Duration::from_millis(500);

/// The thread looks this often whether it is still needed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// At most this many servers are remembered as left.
const MAX_LEFT: usize = 16;

/// Tells what a lookup goes by at the moment.
pub struct LookUpTerms {
    /// These settings are in force.
    pub settings: Arc<Settings>,
    /// It is this time by the clock of the process.
    pub micros: u64,
    /// Is true while a shared connection is up in some worker.
    pub has_connections: bool,
}

/// Returns the terms of the moment; `None`: the process ends.
pub type CurrentTerms = Arc<dyn Fn() -> Option<LookUpTerms> + Send + Sync>;

/// Holds where the server is, as far as all workers know.
#[derive(Debug)]
pub struct ServerAddress {
    known: Mutex<KnownAddresses>,
    asked: Condvar,
    answered: watch::Sender<u64>,
    /// Counts what may make a connection one to be left.
    changes: AtomicU64,
}

#[derive(Debug, Default)]
struct KnownAddresses {
    asked: u64,
    answered: u64,
    has_thread: bool,
    /// This is what the addresses are of.
    address: Option<Address>,
    addresses: AddressSet,
    silent: SilentNodes,
    error: Option<String>,
    /// The log has the error.
    is_error_logged: bool,
    error_line: ErrorLine,
    left: Vec<LeftServer>,
    demotion: DemotionSteps,
}

/// Limits the lines of the log: a file that is written all the time fails in one way and in another.
#[derive(Debug)]
struct ErrorLine(Throttle);

impl Default for ErrorLine {
    fn default() -> Self {
        Self(Throttle::of(4))
    }
}

/// Says which connections are to be left, of those that were opened before a moment.
#[derive(Debug)]
struct LeftServer {
    /// It concerns those to this address; `None`: all.
    node: Option<ServerNode>,
    before: u64,
    cause: LossCause,
}

impl Default for ServerAddress {
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

impl ServerAddress {
    /// Returns a number that changes when a connection may have become one to be left.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Returns why a connection to `node` whose connect began at `opened` is to be left, if it is.
    pub fn is_to_be_left(&self, node: &ServerNode, opened: u64, now: u64) -> Option<LossCause> {
        let known = self.known();
        let is_meant = |left: &&LeftServer| {
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

    /// Takes in that `address` stands for `nodes`. An answer that comes when `address` is not that of the
    /// configuration in force any more tells nothing.
    fn told(
        &self,
        (address, role): (&Address, ServerRole),
        is_in_force: impl FnOnce() -> bool,
        nodes: &[ServerNode],
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
            known.addresses = AddressSet::default();
        }
        if role == ServerRole::Replica && literal(address).is_none() {
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

    /// Takes in that the addresses of `address` could not be told. Where they are known the connections go on, so that nothing else would
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

    /// Has connections to `node` (`None`: to any) that were opened before `now` be left, each when it has answered.
    pub fn leave(&self, node: Option<ServerNode>, cause: LossCause, now: u64) {
        let mut known = self.known();
        known.left.retain(|left| left.node != node);
        if known.left.len() >= MAX_LEFT {
            known.left.remove(0);
        }
        known.left.push(LeftServer {
            node,
            before: now,
            cause,
        });
        drop(known);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns the addresses of `address` as last told, or why there are none.
    fn of(&self, address: &Address) -> Result<Vec<ServerNode>, String> {
        let known = self.known();
        let current = known.addresses.current();
        if known.address.as_ref() == Some(address) && !current.is_empty() {
            return Ok(current.to_vec());
        }
        let error = known.error.clone();
        Err(error.unwrap_or_else(|| format!("{address} could not be resolved in time")))
    }

    /// Returns the addresses in the order in which a connect tries them.
    pub fn order(&self, nodes: &[ServerNode], now: u64) -> Vec<ServerNode> {
        match nodes {
            [_, _, ..] => self.known().silent.order(nodes, now),
            _ => nodes.to_vec(),
        }
    }

    /// Notes that `node` let a connect wait in vain, while there are others.
    pub fn was_silent(&self, node: &ServerNode, now: u64) {
        if self.known().silent.was_silent(node, now) {
            tracing::warn!(
                server = %node,
                "an address of the server swallows connects: others of its name are tried before it"
            );
        }
    }

    /// Says why the name cannot be resolved any more, while its addresses from before are in use.
    pub fn unresolved(&self, address: &Address) -> Option<String> {
        self.known().unresolved(address)
    }

    /// Notes that `node` took a connection.
    pub fn has_answered(&self, node: &ServerNode) {
        self.known().silent.answered(node);
    }

    /// Waits until somebody asks, or until `pause` is over. Returns the ticket that an answer now is good for; `None`: nobody asked.
    fn wait(&self, pause: Duration) -> Option<u64> {
        let is_answered = |known: &mut KnownAddresses| known.asked == known.answered;
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

    /// Locks what is known. It is replaced piece by piece, each whole: what a thread that panicked left is as good as any.
    fn known(&self) -> MutexGuard<'_, KnownAddresses> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownAddresses {
    /// Says why the addresses of `address`, which are known from before, are not known anew, and what that means.
    fn unresolved(&self, address: &Address) -> Option<String> {
        let is_known =
            self.address.as_ref() == Some(address) && !self.addresses.current().is_empty();
        let error = self.error.as_ref().filter(|_| is_known)?;
        Some(format!(
            "{error}; the addresses that are known stay in use, and that the server has moved is not seen: put it right"
        ))
    }
}

impl ServerAddress {
    /// Resolves the addresses of `upstream` now; when that fails or takes longer than [`KNOWN_WITHIN`], they are as last known.
    ///
    /// # Errors
    /// [`DialError::Unresolved`]: nothing is known either.
    pub async fn locate(
        self: &Arc<Self>,
        upstream: &UpstreamSettings,
        terms: &CurrentTerms,
    ) -> Result<Vec<ServerNode>, DialError> {
        let address = &upstream.address;
        if let Some(node) = literal(address) {
            self.told_literal(upstream, &node, terms);
            return Ok(vec![node]);
        }
        let limit = match self.of(address) {
            Ok(_) => upstream.connect_timeout.min(KNOWN_WITHIN),
            Err(_) => upstream.connect_timeout,
        };
        let ticket = self.look_again(terms);
        let mut answered = self.answered.subscribe();
        // What is known is used all the same.
        let _ = tokio::time::timeout(limit, answered.wait_for(|done| *done >= ticket)).await;
        self.of(address).map_err(DialError::Unresolved)
    }

    /// Looks again where `upstream` is. What the configuration calls the server may stand for other addresses than before,
    /// `upstream.address` or `upstream.hosts_file` having changed: connections to any other are left, each when it has answered.
    pub fn may_have_moved(self: &Arc<Self>, upstream: &UpstreamSettings, terms: &CurrentTerms) {
        match literal(&upstream.address) {
            Some(node) => self.told_literal(upstream, &node, terms),
            None => drop(self.look_again(terms)),
        }
    }

    fn told_literal(&self, upstream: &UpstreamSettings, node: &ServerNode, terms: &CurrentTerms) {
        if let Some(now) = terms() {
            let is_in_force = || is_in_force(&upstream.address, terms);
            let told = (&upstream.address, upstream.role);
            self.told(told, is_in_force, slice::from_ref(node), now.micros);
        }
    }

    /// Tells whether a server that answers as a replica does is worth asking whether it is one.
    pub fn is_demotion_due(&self, now: u64) -> bool {
        self.known().demotion.is_due(now)
    }

    /// Notes that the server was seen to be no primary. Returns whether its connections are to be left for that: at most once in
    /// each step of a back-off, which begins with `initial`.
    pub fn is_demoted(&self, now: u64, initial: Duration) -> bool {
        self.known().demotion.seen(now, initial)
    }

    /// Has the name resolved, on a thread that goes by `terms` from then on. Returns the ticket that [`Self::answered`] reaches when
    /// it is.
    pub fn look_again(self: &Arc<Self>, terms: &CurrentTerms) -> u64 {
        let mut known = self.known();
        known.asked += 1;
        let ticket = known.asked;
        let needs_thread = !std::mem::replace(&mut known.has_thread, true);
        drop(known);
        self.asked.notify_one();
        if needs_thread {
            let (address, terms) = (Arc::clone(self), Arc::clone(terms));
            let started = std::thread::Builder::new()
                .name("resolver".to_owned())
                .spawn(move || address.keep_resolving(&terms));
            if let Err(error) = started {
                let mut known = self.known();
                known.has_thread = false;
                known.error = Some(format!("no thread to resolve names on: {error}"));
            }
        }
        ticket
    }

    /// Resolves the server's name whenever somebody asks and every so often, for as long as there are terms.
    fn keep_resolving(&self, terms: &CurrentTerms) {
        loop {
            let Some(pause) = terms().map(|now| self.pause(&now)) else {
                return;
            };
            let asked = self.wait(pause.unwrap_or(LOOK_EVERY));
            let Some(now) = terms() else {
                return;
            };
            if asked.is_none() && pause.is_none() {
                continue;
            }
            self.resolve(&now.settings.upstream, terms);
            if let Some(ticket) = asked {
                self.answer(ticket);
            }
        }
    }

    fn resolve(&self, upstream: &UpstreamSettings, terms: &CurrentTerms) {
        let address = &upstream.address;
        let (Address::Tcp { host, port }, None) = (address, literal(address)) else {
            return;
        };
        let found = look_up(host, *port, upstream.hosts_file.as_deref());
        let Some(now) = terms() else {
            return;
        };
        match found {
            Ok(nodes) => {
                let is_in_force = || is_in_force(address, terms);
                self.told((address, upstream.role), is_in_force, &nodes, now.micros);
            }
            Err(error) => {
                let text = format!("{host} could not be resolved: {error}");
                tracing::debug!("{text}");
                self.not_told(address, text, now.micros);
            }
        }
    }

    /// Returns how long until the name is to be resolved though nobody asks; `None`: it is not.
    fn pause(&self, now: &LookUpTerms) -> Option<Duration> {
        let every = now.settings.upstream.resolve_interval;
        if self.known().demotion.is_recent(now.micros) {
            return Some(match every.is_zero() {
                true => SUSPECT_EVERY,
                false => every.min(SUSPECT_EVERY),
            });
        }
        Some(every).filter(|every| !every.is_zero() && now.has_connections)
    }
}

/// Tells whether `address` is that of the configuration in force.
fn is_in_force(address: &Address, terms: &CurrentTerms) -> bool {
    terms().is_some_and(|now| now.settings.upstream.address == *address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(last: u8) -> ServerNode {
        ServerNode::Tcp(std::net::SocketAddr::from(([10, 0, 0, last], 6379)))
    }

    fn name(host: &str) -> Address {
        Address::Tcp {
            host: host.to_owned(),
            port: 6379,
        }
    }

    #[test]
    fn a_late_answer_about_another_name_undoes_nothing() {
        let server = ServerAddress::default();
        let (old, new) = (name("old.example.com"), name("new.example.com"));
        let role = ServerRole::Primary;
        server.told((&old, role), || true, &[node(1)], 0);
        server.told((&new, role), || true, &[node(2)], 1);
        let changes = server.changes();
        // Looked up before the reload, answered after it.
        server.told((&old, role), || false, &[node(1)], 2);
        assert_eq!(server.of(&new), Ok(vec![node(2)]));
        assert_eq!(server.changes(), changes);
        assert_eq!(server.is_to_be_left(&node(2), 1, 2), None);
        let left = server.is_to_be_left(&node(1), 0, 2);
        assert_eq!(left, Some(LossCause::Moved));
    }

    #[test]
    fn what_is_renewed_is_left_as_such_unless_it_has_moved() {
        let server = ServerAddress::default();
        let name = name("redis.example.com");
        server.told((&name, ServerRole::Primary), || true, &[node(1)], 0);
        server.leave(None, LossCause::Renewed, 5);
        let cause = |begun| server.is_to_be_left(&node(1), begun, 9);
        assert_eq!((cause(5), cause(6)), (Some(LossCause::Renewed), None));
        server.told((&name, ServerRole::Primary), || true, &[node(2)], 7);
        assert_eq!(server.is_to_be_left(&node(1), 5, 9), Some(LossCause::Moved));
    }
    #[test]
    fn a_name_that_is_not_resolved_any_more_is_told_as_long_as_that_lasts() {
        let server = ServerAddress::default();
        let (old, new) = (name("old.example.com"), name("new.example.com"));
        let role = ServerRole::Primary;
        let told = |address: &Address| server.known().unresolved(address);
        server.not_told(&old, "no answer".to_owned(), 0);
        assert_eq!(told(&old), None, "every connect says so");
        assert!(!server.known().is_error_logged);
        server.told((&old, role), || true, &[node(1)], 1);
        assert_eq!(told(&old), None);
        server.not_told(&old, "the file is gone".to_owned(), 2);
        let text = told(&old).expect("told");
        assert!(
            text.starts_with("the file is gone; the addresses"),
            "{text}"
        );
        assert!(server.known().is_error_logged);
        assert_eq!(server.of(&old), Ok(vec![node(1)]), "they stay in use");
        assert_eq!(told(&new), None, "of another nothing is known");
        // Each way of failing is logged, but not any number of them.
        for at in 3..6 {
            server.not_told(&old, format!("{at}"), at);
            assert!(server.known().is_error_logged);
        }
        server.not_told(&old, "6".to_owned(), 6);
        assert!(!server.known().is_error_logged, "later");
        server.not_told(&old, "6".to_owned(), 20_000_000);
        assert!(server.known().is_error_logged, "now");
        server.told((&old, role), || true, &[node(1)], 20_000_001);
        assert_eq!(told(&old), None, "it is over");
        assert!(!server.known().is_error_logged);
    }
}
