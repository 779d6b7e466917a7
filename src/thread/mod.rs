//! What everything on one worker's thread shares, and by [`Process`] with all other workers.

mod closing;
mod loss_lines;
mod passing;
mod process;
mod stopped;

use closing::ClosingSockets;
pub use closing::{LINGER, ServerEnd};
pub use passing::{LinkParcel, LinkPassing};
pub use process::{Process, QueuePlaces, QueuedKind};
pub use stopped::StoppedTime;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use loss_lines::LossLines;

use crate::auth::{KnownPermission, PermissionResult, UserPermissions};
use crate::command::ClientSub;
use crate::config::{ServerRole, Settings};
use crate::exchange::{DistrustedUsers, Offence};
use crate::login::LikelyLogin;
use crate::memory::{MemoryAccount, StrangerList};
use crate::server::{ServerHello, ThreadPulse};
use crate::session::{Credentials, Own, State};
use crate::silence::ServerSigns;
use crate::telemetry::{Throttle, WorkerCounters};
use crate::texts::{PackedVersion, ServerVersion};
use crate::transport::{Clock, READ_SIZE};

const PASSWORD_WANTED: &str = "the server wants a password and respool has none: set upstream.password_file; until then it serves \
    clients that authenticate themselves";

/// Holds what everything on one worker's thread shares.
pub struct Thread {
    /// The worker has this number.
    pub index: usize,
    /// The workers share this.
    pub process: Arc<Process>,
    /// The settings are a copy of this thread's own: their count is touched with every command.
    settings: RefCell<Rc<Settings>>,
    /// The counters are this worker's own.
    pub counters: Arc<WorkerCounters>,
    /// The account says what this worker holds for its clients.
    pub account: Rc<MemoryAccount>,
    /// These have come and were not admitted, or have not been yet.
    pub strangers: Rc<StrangerList>,
    /// The clock tells the time of this turn.
    pub clock: Clock,
    /// It counts the time in which this worker did not run.
    pub stopped: StoppedTime,
    /// It says when this worker has heard the server.
    pub pulse: ThreadPulse,
    /// All sockets are read into this one buffer.
    pub scratch: RefCell<Box<[u8]>>,
    /// These sockets to the server are being closed.
    pub closings: ClosingSockets,
    /// It names users whose commands have ended a connection that others shared.
    pub distrust: RefCell<DistrustedUsers>,
    /// The server has said what users may run of what respool answers itself.
    permissions: RefCell<UserPermissions>,
    was_nobody: Cell<bool>,
    /// The line says that text of scripts was dropped.
    dropped_line: Throttle,
    /// The lines say that connections were lost.
    pub loss_lines: LossLines,
    likely_login: LikelyLogin,
}

impl Thread {
    /// Makes what worker `index` shares.
    pub fn new(index: usize, process: Arc<Process>, counters: Arc<WorkerCounters>) -> Self {
        let account = MemoryAccount::new(Arc::clone(&process.memory), index);
        Self {
            index,
            settings: RefCell::new(Rc::new(Settings::clone(&process.configured.load()))),
            clock: Clock::new(process.start),
            stopped: StoppedTime::default(),
            strangers: StrangerList::new(&account),
            account,
            pulse: ThreadPulse::default(),
            closings: ClosingSockets::new(Arc::clone(&process), index),
            process,
            counters,
            // Room for a carried first line before each read.
            scratch: RefCell::new(vec![0; READ_SIZE + 1024].into_boxed_slice()),
            distrust: RefCell::default(),
            permissions: RefCell::default(),
            was_nobody: Cell::new(false),
            dropped_line: Throttle::default(),
            loss_lines: LossLines::default(),
            likely_login: LikelyLogin::default(),
        }
    }

    /// Returns respool's own credentials, as the server most likely takes them; `None`: no secret is known.
    pub fn own(&self) -> Option<Own> {
        if self.is_nobody() {
            return Some(Own::Nobody);
        }
        self.likely_login.of(&self.process.login())
    }

    /// Tells whether the server wants a password and respool has none: only clients that show one are served.
    pub fn is_nobody(&self) -> bool {
        let wants = |server: &Arc<ServerHello>| server.refuses_unauthenticated;
        let is_nobody = !self.process.login().is_configured()
            && self.process.server.load().as_ref().is_some_and(wants);
        self.was_nobody.set(is_nobody);
        is_nobody
    }

    /// Tells the same as it was when it was looked at last, at most a tick ago. It is asked with every batch of requests.
    #[inline]
    pub fn was_nobody(&self) -> bool {
        self.was_nobody.get()
    }

    /// Tells whether commands of the user of `state` that may do so are kept from connections that others share.
    #[inline]
    pub fn distrusts(&self, state: &State, offence: Offence) -> bool {
        let distrust = self.distrust.borrow();
        !distrust.is_empty() && {
            let user = state.user.as_ref().map(|user| user.user());
            distrust.covers(user, offence, self.clock.now_micros())
        }
    }

    /// Tells whether the server has said within a moment that a script keeps it busy. It may have ended since.
    pub fn says_busy(&self) -> bool {
        let now = self.clock.now_micros();
        self.process.pulse.says_busy(&self.pulse, now)
    }

    /// Returns since when the server says so to this worker.
    pub fn busy_since(&self) -> Option<u64> {
        self.pulse.busy_since(self.clock.now_micros())
    }

    /// Returns what is known of whether `user` (`None`: respool's own) may run a subcommand of CLIENT.
    pub fn permission(&self, user: Option<&Credentials>, sub: ClientSub) -> KnownPermission {
        let user = user.map(Credentials::user);
        let now = self.clock.now_micros();
        self.permissions.borrow().of(user, sub, now)
    }

    /// Notes that the server is being asked about it again.
    pub fn renews_permission(&self, user: Option<&Credentials>, sub: ClientSub) {
        let user = user.map(Credentials::user);
        let now = self.clock.now_micros();
        self.permissions.borrow_mut().renews(user, sub, now);
    }

    pub fn told_permission(
        &self,
        user: Option<&Credentials>,
        sub: ClientSub,
        permission: PermissionResult,
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

    /// Notes that the server has written text of a script behind its error on `connection`, which has reached nobody.
    pub fn dropped_text(&self, connection: &str) {
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

    /// Returns what the operator configured, as of the last reload this worker has heard of.
    #[inline]
    pub fn settings(&self) -> Rc<Settings> {
        Rc::clone(&self.settings.borrow())
    }

    /// Returns which server it is, and so whose words are spoken. It costs what reading a number costs.
    #[inline]
    pub fn server_version(&self) -> ServerVersion {
        self.packed_version().version()
    }

    /// Returns the same, for those who mostly do not look at it.
    #[inline]
    pub fn packed_version(&self) -> PackedVersion {
        self.process.server.packed_version()
    }

    /// Returns what the server is for. It is asked of every request, so without a count.
    #[inline]
    pub fn role(&self) -> ServerRole {
        self.settings.borrow().upstream.role
    }

    /// Takes in that the server answered a PING that was sent at this time of the worker's clock, which has been read since.
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

    /// Returns what is known of the server beside one connection, and when this worker, which judges by it, did not run.
    pub fn signs_around(&self, now_micros: u64) -> ServerSigns {
        let mut around = self.process.pulse.around(now_micros);
        around.stops = self.stopped.recent(now_micros);
        around
    }

    /// Returns what `work` comes to within `limit`, of which the time does not count in which the server is merely busy.
    pub async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            match self.while_running(limit, &mut work).await {
                Some(done) => return Some(done),
                // Who waits for it is not to be told that it is away.
                None if self.process.pulse.is_busy(self.clock.refresh()) => {}
                None => return None,
            }
        }
    }

    /// Returns what `work` comes to within `limit`, of which the time does not count in which this worker did not run: what it waits for may lie
    /// in a socket that is read after the timers.
    pub async fn while_running<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let stopped = || self.stopped.total(self.clock.refresh());
        let (mut left, mut counted) = (limit, stopped());
        loop {
            if let Ok(done) = tokio::time::timeout(left, &mut work).await {
                return Some(done);
            }
            let total = stopped();
            left = total.saturating_sub(counted).min(limit);
            if left.is_zero() {
                return None;
            }
            counted = total;
        }
    }

    /// Tells whether this worker has run for `limit` since `then_micros`; a zero limit never passes.
    pub fn has_run_for(&self, then_micros: u64, limit: Duration) -> bool {
        let stops = self.stopped.recent(self.clock.now_micros());
        self.clock.is_past(stops.counted_from(then_micros), limit)
    }

    /// Notes that the server wants a password of whoever shows none.
    pub fn server_wants_password(&self) {
        let is_known = self.is_nobody();
        self.process.server.refuses_unauthenticated();
        self.process.health.note_error(PASSWORD_WANTED);
        // From here on whoever has not authenticated is told so.
        if !is_known && self.is_nobody() {
            tracing::warn!("{PASSWORD_WANTED}");
        }
    }
}
