//! What the workers of the process share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::passing::LinkPassing;
use crate::auth::ServedSecrets;
use crate::budget::SocketBudget;
use crate::config::Settings;
use crate::failover::ServerNode;
use crate::fanout::{ChannelAudiences, MessageWeights};
use crate::login::OwnLogin;
use crate::memory::MemoryRoom;
use crate::server::{
    CommandListing, CurrentServer, CurrentTerms, Failovers, LookUpTerms, ServerAddress,
    ServerHello, ServerInfo, ServerPulse, UncountedEnds, UnseenEnds,
};
use crate::telemetry::{LossCause, ProcessParts, ServerHealth};
use crate::transport::{TlsConnector, literal};

/// Holds what the workers of the process share.
pub struct Process {
    /// The settings are replaced whole by a reload.
    pub configured: ArcSwap<Settings>,
    /// The budget counts the sockets to the server.
    pub budget: Arc<SocketBudget>,
    /// It says what is held for clients, and how much that may be.
    pub memory: Arc<MemoryRoom>,
    /// The login says who respool is to the server.
    pub login: ArcSwap<OwnLogin>,
    /// It says what is known of the server's health.
    pub health: Arc<ServerHealth>,
    /// It says what the server said of itself.
    pub server: CurrentServer,
    /// It makes TLS of connections to the server; `None`: they are plain.
    pub tls: ArcSwapOption<TlsConnector>,
    /// This number of commands wait for the server to come back.
    pub queued: AtomicUsize,
    /// This number of clients authenticate meanwhile. They are counted apart: strangers' guesses take no command's place.
    pub queued_logins: AtomicUsize,
    /// This number of calls wait for a lease on behalf of blocked clients, in all workers.
    pub call_connections_wanted: AtomicUsize,
    /// It says who is subscribed to what, in all workers.
    pub audiences: ChannelAudiences,
    /// It says by which secrets clients are served, in all workers.
    pub served: Arc<ServedSecrets>,
    /// It says what a message may bring one subscriber.
    pub weights: MessageWeights,
    /// These sockets stand at servers that are not the server any more.
    pub uncounted: UncountedEnds,
    /// The end of these sockets at the server is not seen.
    pub unseen_ends: UnseenEnds,
    /// Idle connections get from one worker to another by this.
    pub passing: LinkPassing,
    /// It says where the server is.
    pub address: Arc<ServerAddress>,
    /// It says how the server was lost.
    pub failovers: Arc<Failovers>,
    /// It says when the list of the server's commands is read again.
    pub listing: CommandListing,
    /// It says when the server was heard last, and what keeps it from answering.
    pub pulse: ServerPulse,
    /// They say what the process is made of, and what is wrong with it.
    pub parts: Arc<ProcessParts>,
    /// It is held while a reload replaces what connections are opened by.
    pub in_force: Mutex<()>,
    /// The clock of the process started then.
    pub start: Instant,
}

/// Says who waits for the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueuedKind {
    /// A client waits with this number of commands.
    Commands(usize),
    /// A client waits that authenticates.
    Login,
}

impl QueuedKind {
    /// Counts the commands that are held back.
    pub fn commands(self) -> usize {
        match self {
            Self::Commands(commands) => commands,
            Self::Login => 1,
        }
    }

    fn count(self, process: &Process) -> &AtomicUsize {
        match self {
            Self::Commands(_) => &process.queued,
            Self::Login => &process.queued_logins,
        }
    }
}

/// Holds places among those that wait for the server. Its drop gives them back.
pub struct QueuePlaces {
    process: Arc<Process>,
    queueing: QueuedKind,
}

impl Process {
    /// Returns what the operator configured, as of the last reload.
    pub fn settings(&self) -> Arc<Settings> {
        self.configured.load_full()
    }

    /// Locks what is in force: whoever holds this sees the settings, the login and what makes TLS of one configuration.
    pub fn in_force(&self) -> MutexGuard<'_, ()> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns who respool is to the server, as of the last reload.
    pub fn login(&self) -> Arc<OwnLogin> {
        self.login.load_full()
    }

    /// Returns the microseconds since the clock of the process started.
    pub fn now_micros(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// Returns what a lookup of the server's name goes by, for as long as the process lives.
    pub fn look_up_terms(self: &Arc<Self>) -> CurrentTerms {
        let process = Arc::downgrade(self);
        Arc::new(move || {
            let process = process.upgrade()?;
            Some(LookUpTerms {
                settings: process.settings(),
                micros: process.now_micros(),
                has_connections: process.failovers.live() > 0,
            })
        })
    }

    /// Says why the server's name cannot be resolved any more, while its addresses from before are in use.
    pub fn unresolved(&self) -> Option<String> {
        self.address.unresolved(&self.settings().upstream.address)
    }

    /// Looks again where the server is: `upstream.address` or `upstream.hosts_file` may have changed.
    pub fn server_may_have_moved(self: &Arc<Self>) {
        let settings = self.settings();
        let terms = self.look_up_terms();
        self.address.may_have_moved(&settings.upstream, &terms);
    }

    /// Has all connections to the server replaced, each when it has answered: how they are opened has changed, or whereto.
    pub fn renew_connections(&self, cause: LossCause) {
        self.address.leave(None, cause, self.now_micros());
    }

    /// Has the connections to the server at `node`, which is no primary, left, and its name looked at.
    pub fn demoted(self: &Arc<Self>, node: &ServerNode, cause: LossCause) {
        let (settings, now) = (self.settings(), self.now_micros());
        let upstream = &settings.upstream;
        if !self.address.is_demoted(now, upstream.reconnect.initial) {
            return;
        }
        self.failovers.left(node, cause, now, now);
        self.address.leave(Some(node.clone()), cause, now);
        tracing::warn!(
            server = %node,
            "the server is a replica and refuses writes: its connections are replaced and its name is resolved again; if \
             this goes on, upstream.address names a replica"
        );
        if literal(&upstream.address).is_none() {
            self.address.look_again(&self.look_up_terms());
        }
    }

    /// Takes in a server that has introduced itself on a new connection.
    pub fn greeted(&self, server: &ServerHello) {
        if self.server.greeted(server, &self.health) {
            self.listing.outdate(self.now_micros());
        }
    }

    /// Takes in what the server has said in INFO. Returns whether it is another run than the one that had said so before.
    pub fn informed(&self, info: &ServerInfo) -> bool {
        let change = self.server.informed(info, &self.health);
        if change.has_other_modules {
            self.listing.outdate(self.now_micros());
        }
        change.is_another_run
    }

    /// Takes places among those that wait for the server; `None`: `upstream.queue.max_commands` is reached.
    pub fn queue(self: &Arc<Self>, queueing: QueuedKind) -> Option<QueuePlaces> {
        let most = self.configured.load().upstream.queue.max_commands;
        let commands = queueing.commands();
        let fits = |held: usize| held.checked_add(commands).filter(|&held| held <= most);
        let count = queueing.count(self);
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .ok()?;
        Some(QueuePlaces {
            process: Arc::clone(self),
            queueing,
        })
    }
}

impl Drop for QueuePlaces {
    fn drop(&mut self) {
        let count = self.queueing.count(&self.process);
        count.fetch_sub(self.queueing.commands(), Ordering::Relaxed);
    }
}
