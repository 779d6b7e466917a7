//! What everything on one worker's thread shares.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::closing::{Closings, Uncounted};
use super::failovers::Failovers;
use super::listing::Listing;
use super::loss_lines::LossLines;
use super::passing::Passing;
use super::pulse::{ServerPulse, ThreadPulse};
use super::server::Server;
use super::unseen_ends::UnseenEnds;
use super::whereabouts::Whereabouts;
use crate::auth::{Known, Permission, Permissions, ServedSecrets};
use crate::budget::Budget;
use crate::command::ClientSub;
use crate::config::{Role, Settings};
use crate::exchange::{Distrust, Offence};
use crate::fanout::{ChannelAudiences, MessageWeights};
use crate::login::{LikelyLogin, OwnLogin};
use crate::memory::{Account, Memory, Strangers};
use crate::session::{Credentials, Own, State};
use crate::telemetry::{Parts, ServerHealth, Throttle, WorkerCounters};
use crate::texts::{PackedVersion, ServerVersion};
use crate::transport::{Clock, Connector, READ_SIZE};

/// What the workers of the process share.
pub struct Process {
    /// What the operator configured; replaced whole by a reload.
    pub configured: ArcSwap<Settings>,
    /// Upstream sockets.
    pub budget: Arc<Budget>,
    /// What is held for clients, and how much that may be.
    pub memory: Arc<Memory>,
    /// Who respool is to the server.
    pub login: ArcSwap<OwnLogin>,
    /// What is known of the server's health.
    pub health: Arc<ServerHealth>,
    /// What the server said of itself; `None` until it was reached for the first time.
    pub server: ArcSwapOption<Server>,
    /// Which server it is, as [`ServerVersion::to_bits`], for those who have no time to look it up there.
    pub server_version: AtomicU32,
    /// Makes TLS of connections to the server; `None`: they are plain.
    pub tls: ArcSwapOption<Connector>,
    /// Commands that wait for the server to come back.
    pub queued: AtomicUsize,
    /// Those who authenticate meanwhile, counted apart: strangers' guesses take no command's place.
    pub queued_logins: AtomicUsize,
    /// Waits for a lease on behalf of blocked clients, in all workers.
    pub seats_wanted: AtomicUsize,
    /// Who is subscribed to what, in all workers.
    pub audiences: ChannelAudiences,
    /// What clients are served by, in all workers.
    pub served: Arc<ServedSecrets>,
    /// What a message may bring one subscriber.
    pub weights: MessageWeights,
    /// Sockets at servers that are not the server any more.
    pub uncounted: Uncounted,
    /// Sockets whose end at the server is not seen.
    pub unseen_ends: UnseenEnds,
    /// How idle connections get from one worker to another.
    pub passing: Passing,
    /// Where the server is.
    pub whereabouts: Arc<Whereabouts>,
    /// How the server was lost.
    pub failovers: Failovers,
    /// When the list of the server's commands is read again.
    pub listing: Listing,
    /// When the server was heard last, and what keeps it from answering.
    pub pulse: ServerPulse,
    /// What the process is made of, and what is wrong with it.
    pub parts: Arc<Parts>,
    /// Held while a reload replaces what connections are opened by.
    pub in_force: Mutex<()>,
    /// When the process' clock started.
    pub start: Instant,
}

/// Who waits for the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queueing {
    /// So many commands.
    Commands(usize),
    /// One who authenticates.
    Login,
}

impl Queueing {
    /// How many commands are held back.
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

/// A place among those that wait for the server; given back on drop.
pub struct Queued {
    process: Arc<Process>,
    queueing: Queueing,
}

impl Process {
    /// What the operator configured, as of the last reload.
    pub fn settings(&self) -> Arc<Settings> {
        self.configured.load_full()
    }

    /// Whoever holds this sees the settings, the login and what makes TLS of one configuration.
    pub fn in_force(&self) -> MutexGuard<'_, ()> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who respool is to the server, as of the last reload.
    pub fn login(&self) -> Arc<OwnLogin> {
        self.login.load_full()
    }

    /// Places among those that wait for the server; `None`: `upstream.queue.max_commands` is reached.
    pub fn queue(self: &Arc<Self>, queueing: Queueing) -> Option<Queued> {
        let most = self.configured.load().upstream.queue.max_commands;
        let commands = queueing.commands();
        let fits = |held: usize| held.checked_add(commands).filter(|&held| held <= most);
        let count = queueing.count(self);
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .ok()?;
        Some(Queued {
            process: Arc::clone(self),
            queueing,
        })
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let count = self.queueing.count(&self.process);
        count.fetch_sub(self.queueing.commands(), Ordering::Relaxed);
    }
}

/// What everything on one worker's thread shares.
pub struct Thread {
    /// The worker's number.
    pub index: usize,
    /// What the workers share.
    pub process: Arc<Process>,
    /// What the operator configured, in a copy of this thread's own: its count is touched with every command.
    settings: RefCell<Rc<Settings>>,
    /// This worker's counters.
    pub counters: Arc<WorkerCounters>,
    /// What this worker holds for its clients.
    pub account: Rc<Account>,
    /// Those who have come and were not admitted, or have not been yet.
    pub strangers: Rc<Strangers>,
    /// The time of this turn.
    pub clock: Clock,
    /// When this worker has heard the server.
    pub(super) pulse: ThreadPulse,
    /// The one buffer sockets are read into.
    pub scratch: RefCell<Box<[u8]>>,
    /// Sockets to the server that are being closed.
    pub(super) closings: Closings,
    /// Users whose commands have ended a connection that others shared.
    pub distrust: RefCell<Distrust>,
    /// What the server has said users may run of what respool answers itself.
    permissions: RefCell<Permissions>,
    was_nobody: Cell<bool>,
    /// The line that says that text of scripts was dropped.
    dropped_line: Throttle,
    /// The lines that say that connections were lost.
    pub(super) loss_lines: LossLines,
    likely_login: LikelyLogin,
}

impl Thread {
    /// The shared things of worker `index`.
    pub fn new(index: usize, process: Arc<Process>, counters: Arc<WorkerCounters>) -> Self {
        let account = Account::new(Arc::clone(&process.memory), index);
        Self {
            index,
            settings: RefCell::new(Rc::new(Settings::clone(&process.configured.load()))),
            clock: Clock::new(process.start),
            strangers: Strangers::new(&account),
            account,
            pulse: ThreadPulse::default(),
            process,
            counters,
            // Room for a carried first line before each read.
            scratch: RefCell::new(vec![0; READ_SIZE + 1024].into_boxed_slice()),
            closings: Closings::default(),
            distrust: RefCell::default(),
            permissions: RefCell::default(),
            was_nobody: Cell::new(false),
            dropped_line: Throttle::default(),
            loss_lines: LossLines::default(),
            likely_login: LikelyLogin::default(),
        }
    }

    /// Respool's own credentials, as the server most likely takes them; `None`: it does not authenticate.
    pub fn own(&self) -> Option<Own> {
        if self.is_nobody() {
            return Some(Own::Nobody);
        }
        self.likely_login.of(&self.process.login())
    }

    /// Whether the server wants a password and respool has none: only clients that show one are served.
    pub fn is_nobody(&self) -> bool {
        let wants = |server: &Arc<Server>| server.guests_are_refused;
        let is_nobody = !self.process.login().is_configured()
            && self.process.server.load().as_ref().is_some_and(wants);
        self.was_nobody.set(is_nobody);
        is_nobody
    }

    /// The same as it was when it was looked at last, at most a tick ago: asked with every batch of requests.
    #[inline]
    pub fn was_nobody(&self) -> bool {
        self.was_nobody.get()
    }

    /// Whether commands of the user of `state` that may do so are kept from connections that others share.
    #[inline]
    pub fn distrusts(&self, state: &State, offence: Offence) -> bool {
        let distrust = self.distrust.borrow();
        !distrust.is_empty() && {
            let user = state.user.as_ref().map(|user| user.user());
            distrust.covers(user, offence, self.clock.now_micros())
        }
    }

    /// Whether the server has said within a moment that a script keeps it busy. It may have ended since.
    pub fn says_busy(&self) -> bool {
        let now = self.clock.now_micros();
        self.process.pulse.says_busy(&self.pulse, now)
    }

    /// Since when the server says so to this worker.
    pub fn busy_since(&self) -> Option<u64> {
        self.pulse.busy_since(self.clock.now_micros())
    }

    /// What is known of whether `user` (`None`: respool's own) may run a subcommand of CLIENT.
    pub fn permission(&self, user: Option<&Credentials>, sub: ClientSub) -> Known {
        let user = user.map(Credentials::user);
        let now = self.clock.now_micros();
        self.permissions.borrow().of(user, sub, now)
    }

    /// The server is being asked about it again.
    pub fn renews_permission(&self, user: Option<&Credentials>, sub: ClientSub) {
        let user = user.map(Credentials::user);
        let now = self.clock.now_micros();
        self.permissions.borrow_mut().renews(user, sub, now);
    }

    pub(super) fn told_permission(
        &self,
        user: Option<&Credentials>,
        sub: ClientSub,
        permission: Permission,
    ) {
        let user = user.map(Credentials::user);
        let now = self.clock.refresh();
        let mut permissions = self.permissions.borrow_mut();
        permissions.told(user, sub, permission, now);
    }

    /// Runs a task that the worker cannot go on without: a panic of it is the loss of the worker, since nothing would do its
    /// work from then on. `what` it does, in words.
    pub fn keep(&self, what: &str, task: impl Future<Output = ()> + 'static) {
        let name = format!("worker-{}, which {what},", self.index);
        let guard = self.process.parts.guard_one_of(name);
        tokio::task::spawn_local(async move {
            let _guard = guard;
            task.await;
        });
    }

    /// The server has written text of a script behind its error on `connection`, which has reached nobody.
    pub(super) fn dropped_text(&self, connection: &str) {
        self.counters.dropped_texts.add(1);
        if let Some(unwritten) = self.dropped_line.write(self.clock.now_micros()) {
            tracing::warn!(
                connection,
                unwritten,
                "a script raised an error with line ends in it, and the server has written them as they are: what stood behind \
                 the first of them was dropped"
            );
        }
    }

    /// What the operator configured, as of the last reload this worker has heard of.
    #[inline]
    pub fn settings(&self) -> Rc<Settings> {
        Rc::clone(&self.settings.borrow())
    }

    /// Which server it is, and so whose words are spoken. It costs what reading a number costs.
    #[inline]
    pub fn server_version(&self) -> ServerVersion {
        self.packed_version().version()
    }

    /// The same, for those who mostly do not look at it.
    #[inline]
    pub fn packed_version(&self) -> PackedVersion {
        PackedVersion::of_bits(self.process.server_version.load(Ordering::Relaxed))
    }

    /// What the server is for. Asked of every request, so without a count.
    #[inline]
    pub fn role(&self) -> Role {
        self.settings.borrow().upstream.role
    }

    /// The server answered a PING that was sent at this time of the worker's clock, which has been read since.
    pub fn ponged(&self, asked_micros: u64, reply: &[u8]) {
        let now = self.clock.now_micros();
        if reply.starts_with(b"+PONG") {
            self.process.pulse.pauses.answered(asked_micros, now);
        }
        let took = now.saturating_sub(asked_micros);
        self.counters.ping_duration.record_micros(took, 1);
        self.process.health.answered(took);
    }

    /// Goes by what the process goes by from now on.
    pub fn reload(&self) {
        let settings = Settings::clone(&self.process.configured.load());
        *self.settings.borrow_mut() = Rc::new(settings);
    }
}
