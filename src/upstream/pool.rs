//! The connections of one worker to the server. The shared ones are opened and changed here as the schedule wants them; the files
//! below do each another thing with the pool.

mod absence;
mod acknowledged;
mod blocked;
mod databases;
mod default_user;
mod handing_over;
mod health;
mod lanes;
mod lent;
mod listing;
mod open;
mod permissions;
mod reauthenticate;
mod reconnect;
mod retire;
mod silence;
mod stalls;
mod subscription;
mod unauthenticated;
mod unseen_ends;

pub use blocked::{Blocked, BlockedClient};
pub use lanes::EndsDelay;
pub use lent::{Pin, PinError};
pub use subscription::{Announcement, SubscribeResult, Subscriptions, TOPICS_A_TURN};

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use absence::ServerAbsence;
use blocked::BlockedClients;
use databases::KnownDatabases;
use health::HealthWatch;
use lent::IdleConnections;
use reconnect::ReconnectPause;
use stalls::StallWatch;

use crate::budget::{SocketKind, SocketPermit};
use crate::command::Delays;
use crate::config::Address;
use crate::fanout::{LossSuspicion, SubscriptionSide};
use crate::link::Link;
use crate::outlet::Outlet;
use crate::schedule::{LoginPlace, ScheduleAction, ScheduleTicket, StateSchedule};
use crate::session::{Change, State, steps};
use crate::telemetry::Bound;
use crate::texts::is_busy;
use crate::thread::Thread;
use crate::thread::{QueuePlaces, QueuedKind};

/// Says why a connection cannot lead back to respool's own user; what is opened instead waits for a secret.
const NO_SECRET: &str = "no secret of respool's own is known to change it with";

/// Says why waiting for a shared connection was in vain.
#[derive(Debug)]
pub enum WaitError {
    /// The server refused the state with this reply.
    Refused(Vec<u8>),
    /// The server is away: `upstream.queue.timeout` passed or `upstream.queue.max_commands` is reached.
    Unreachable,
}

#[derive(Debug)]
enum SharedWaitOutcome {
    Waiting,
    Granted(usize),
    Failed(WaitError),
    Taken,
}

/// Waits for a shared connection in its state.
struct SharedWaiter {
    outcome: RefCell<SharedWaitOutcome>,
    waker: RefCell<Option<Waker>>,
    since_micros: u64,
    commands: usize,
    /// `Some` where its request can be sent on a connection lent for it as well: this may delay it.
    may_be_lent: Cell<Option<Delays>>,
    /// It holds these places among the commands that wait for the server.
    _queued: Option<QueuePlaces>,
}

impl SharedWaiter {
    fn settle(&self, outcome: SharedWaitOutcome) {
        *self.outcome.borrow_mut() = outcome;
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Is a client's wait for a shared connection. Its drop leaves the queue.
pub struct SharedWait {
    upstream: Rc<Upstream>,
    waiter: Rc<SharedWaiter>,
    ticket: ScheduleTicket,
}

impl SharedWait {
    /// Has it end, without a connection, as soon as one is better lent for a request that `delays` may delay.
    pub fn may_be_lent(&self, delays: Delays) {
        self.waiter.may_be_lent.set(Some(delays));
    }

    /// Returns the connection, or why there is none.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<Result<Option<Rc<Link>>, WaitError>> {
        let mut outcome = self.waiter.outcome.borrow_mut();
        match std::mem::replace(&mut *outcome, SharedWaitOutcome::Taken) {
            SharedWaitOutcome::Waiting => {
                *outcome = SharedWaitOutcome::Waiting;
                *self.waiter.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
            SharedWaitOutcome::Granted(slot) => {
                self.upstream.settled(slot);
                let link = self.upstream.links.borrow()[slot]
                    .clone()
                    .filter(|link| link.is_alive());
                Poll::Ready(Ok(link))
            }
            SharedWaitOutcome::Failed(error) => Poll::Ready(Err(error)),
            SharedWaitOutcome::Taken => Poll::Ready(Ok(None)),
        }
    }
}

impl Drop for SharedWait {
    fn drop(&mut self) {
        match &*self.waiter.outcome.borrow() {
            SharedWaitOutcome::Waiting => {
                self.upstream.schedule.borrow_mut().leave(self.ticket);
            }
            SharedWaitOutcome::Granted(slot) => self.upstream.settled(*slot),
            _ => {}
        }
    }
}

type WorkersSchedule = StateSchedule<State, Rc<SharedWaiter>>;

/// Holds the connections of one worker to the server, and those who wait for them.
pub struct Upstream {
    /// Everything on this thread shares this.
    pub thread: Rc<Thread>,
    /// This worker's clients are subscribed to this.
    pub subscriptions: Rc<Subscriptions>,
    /// Those who may cost the others their connection are subscribed here.
    apart: Rc<Subscriptions>,
    suspicion: RefCell<LossSuspicion>,
    schedule: RefCell<WorkersSchedule>,
    links: RefCell<Vec<Option<Rc<Link>>>>,
    /// These can be lent at once.
    idle: IdleConnections<Rc<Link>>,
    pins: RefCell<Vec<std::rc::Weak<Link>>>,
    blocked: BlockedClients,
    health: HealthWatch,
    reconnect: RefCell<ReconnectPause>,
    /// Is true while the server is being asked whether it is a replica.
    is_asking_role: Cell<bool>,
    absence: ServerAbsence,
    names: Cell<u64>,
    /// The configuration calls the server so.
    address: RefCell<Address>,
    databases: KnownDatabases,
    stopping: Cell<bool>,
    is_renewing: Cell<bool>,
    /// It was last asked then whether those who have not authenticated are served.
    default_user_asked_micros: Cell<u64>,
    stalls: StallWatch,
    /// Is true while a look at those who wait is on its way.
    will_act: Cell<bool>,
}

impl Upstream {
    /// Begins without a connection, for a worker with `shared` of the shared ones.
    pub fn new(thread: Rc<Thread>, shared: usize) -> Rc<Self> {
        Rc::new(Self {
            subscriptions: Subscriptions::new(Rc::clone(&thread), SubscriptionSide::Usual),
            apart: Subscriptions::new(Rc::clone(&thread), SubscriptionSide::Apart),
            suspicion: RefCell::default(),
            schedule: RefCell::new(StateSchedule::new(shared)),
            links: RefCell::new(vec![None; shared]),
            idle: IdleConnections::default(),
            pins: RefCell::default(),
            blocked: BlockedClients::default(),
            health: HealthWatch::default(),
            reconnect: RefCell::default(),
            is_asking_role: Cell::new(false),
            absence: ServerAbsence::default(),
            names: Cell::new(0),
            address: RefCell::new(thread.settings().upstream.address.clone()),
            databases: KnownDatabases::default(),
            stopping: Cell::new(false),
            is_renewing: Cell::new(false),
            default_user_asked_micros: Cell::new(0),
            stalls: StallWatch::default(),
            will_act: Cell::new(false),
            thread,
        })
    }

    /// Goes by the thread's settings, which a reload has changed.
    pub fn reload(self: &Rc<Self>) {
        self.both_subscriptions().for_each(|some| some.reload());
        let address = self.thread.settings().upstream.address.clone();
        if self.address.replace(address.clone()) != address {
            self.forget_server();
        }
        let shared = self.thread.settings().shared_of_worker(self.thread.index);
        self.schedule.borrow_mut().resize(shared);
        let mut links = self.links.borrow_mut();
        let slots = links.len().max(shared);
        links.resize(slots, None);
        drop(links);
        self.act();
    }

    /// Forgets what was learned of the server: it is another one.
    fn forget_server(&self) {
        self.start_over();
        let process = &self.thread.process;
        self.databases.forget(process.now_micros());
        process.server.forget_list();
    }

    /// Opens the first shared connection and keeps it open.
    pub fn start(self: &Rc<Self>) {
        self.schedule.borrow_mut().open(0, &State::INITIAL);
        self.thread.keep(
            "keeps connections to the server",
            Rc::clone(self).open(0, State::INITIAL, None),
        );
        self.thread.keep("keeps time", Rc::clone(self).keep_time());
        self.thread
            .keep("closes connections", Rc::clone(self).keep_closing());
        self.thread
            .keep("takes connections over", Rc::clone(self).keep_receiving());
        for some in self.both_subscriptions() {
            self.thread.keep(
                "hands out messages",
                Rc::clone(self).keep_handing_out(Rc::clone(some)),
            );
        }
    }

    /// Returns a shared connection that may take requests of `state` now: of those that serve it the one on which the least is to be
    /// waited for. Where that is much on each of them another is opened.
    #[inline]
    pub fn shared(self: &Rc<Self>, state: &State) -> Option<Rc<Link>> {
        let links = self.links.borrow();
        let load = |slot: usize| links[slot].as_ref().map_or(u64::MAX, |link| link.load());
        let now = self.thread.clock.now_micros();
        let (slot, load) = self.schedule.borrow().pick(state, now, load)?;
        let link = links[slot].clone().filter(|link| link.is_alive())?;
        if load > 0 {
            self.grow(state);
        }
        Some(link)
    }

    /// Tells whether `link` is what [`Self::shared`] would return for `state`, as far as that is told at a glance: the first of
    /// all, and nothing to be waited for there. Or the client has waited for room there, and has its turn.
    #[inline]
    pub fn is_best(&self, link: &Link, state: &State, outlet: &Rc<Outlet>) -> bool {
        let is_light = link.slot() == Some(0) && link.load() == 0;
        (is_light || link.expects(outlet)) && self.serves(link, state)
    }

    /// Tells whether the connection a session is on still serves `state`.
    #[inline]
    pub fn serves(&self, link: &Link, state: &State) -> bool {
        let serves = |slot| {
            let now = self.thread.clock.now_micros();
            self.schedule.borrow().serves(slot, state, now)
        };
        link.is_alive() && link.slot().is_some_and(serves)
    }

    /// Notes that `count` requests went to shared connection `link`.
    #[inline]
    pub fn served(self: &Rc<Self>, link: &Link, count: u32) {
        let waiting = {
            let mut schedule = self.schedule.borrow_mut();
            let now = self.thread.clock.now_micros();
            if let Some(slot) = link.slot() {
                schedule.served(slot, count, now, link.round_trip_micros());
            }
            schedule.waiting()
        };
        if waiting > 0 {
            self.act();
        }
    }

    /// Waits for a shared connection in `state`. `commands` are held back meanwhile.
    ///
    /// # Errors
    /// [`WaitError::Unreachable`] when the server is away and too many commands wait for it already.
    pub fn wait_shared(
        self: &Rc<Self>,
        state: &State,
        commands: usize,
    ) -> Result<SharedWait, WaitError> {
        let join = |schedule: &mut WorkersSchedule, waiter| schedule.wait(state, waiter);
        self.wait(QueuedKind::Commands(commands), join)
    }

    /// Waits for a shared connection on which the user of `state` has been authenticated anew.
    ///
    /// # Errors
    /// They are those of [`Self::wait_shared`].
    pub fn log_in(
        self: &Rc<Self>,
        state: &State,
        place: LoginPlace,
    ) -> Result<SharedWait, WaitError> {
        let join = |schedule: &mut WorkersSchedule, waiter| schedule.log_in(state, place, waiter);
        self.wait(QueuedKind::Login, join)
    }

    fn wait(
        self: &Rc<Self>,
        queueing: QueuedKind,
        join: impl FnOnce(&mut WorkersSchedule, Rc<SharedWaiter>) -> ScheduleTicket,
    ) -> Result<SharedWait, WaitError> {
        let commands = queueing.commands();
        let queued = if self.is_away() {
            let failovers = &self.thread.process.failovers;
            if failovers.is_open() {
                failovers.failed(commands);
                return Err(WaitError::Unreachable);
            }
            let Some(queued) = self.thread.process.queue(queueing) else {
                self.thread.counters.bound(Bound::QueueFull).add(1);
                failovers.failed(commands);
                return Err(WaitError::Unreachable);
            };
            failovers.held(commands);
            Some(queued)
        } else {
            None
        };
        let waiter = Rc::new(SharedWaiter {
            outcome: RefCell::new(SharedWaitOutcome::Waiting),
            waker: RefCell::default(),
            since_micros: self.thread.clock.now_micros(),
            commands,
            may_be_lent: Cell::new(None),
            _queued: queued,
        });
        let ticket = join(&mut self.schedule.borrow_mut(), Rc::clone(&waiter));
        self.act();
        self.count_waiting();
        Ok(SharedWait {
            upstream: Rc::clone(self),
            waiter,
            ticket,
        })
    }

    /// Notes that one who was promised connection `slot` has it, or has gone. The rest of those who wait are looked at after this
    /// turn's clients, of whom the one with the promise is first.
    fn settled(self: &Rc<Self>, slot: usize) {
        let waiting = {
            let mut schedule = self.schedule.borrow_mut();
            schedule.settled(slot);
            schedule.waiting()
        };
        if waiting > 0 && !self.is_stopping() && !self.will_act.replace(true) {
            let upstream = Rc::clone(self);
            tokio::task::spawn_local(async move {
                upstream.will_act.set(false);
                upstream.act();
            });
        }
    }

    /// Tells whether no shared connection is up.
    pub fn is_away(&self) -> bool {
        !self
            .links
            .borrow()
            .iter()
            .flatten()
            .any(|link| link.is_alive())
    }

    /// Tells whether the server is known to have this database, for respool's own user.
    pub fn knows_database(&self, state: &State) -> bool {
        state.user.is_none() && self.databases.has(state.database)
    }

    /// Does what time has made due.
    pub fn tick(self: &Rc<Self>) {
        self.expire();
        self.watch_silence();
        self.renew_logins();
        self.ask_for_default_user();
        // A borrower may have left with the pin that was kept for it.
        self.give_up_idle();
        self.all_links().iter().for_each(|link| link.shrink());
        self.both_subscriptions().for_each(|some| some.tick());
        self.move_on();
        self.yield_call_connections();
        self.act();
        self.watch_health();
        self.learn_again();
        self.watch_closings();
        self.count_waiting();
    }

    /// Closes every connection of the worker to the server, for good.
    pub fn stop(&self) {
        self.stopping.set(true);
        self.both_subscriptions().for_each(|some| some.stop());
        self.stop_receiving();
        self.links
            .borrow()
            .iter()
            .flatten()
            .for_each(|link| link.close("respool is ending"));
        self.pins
            .borrow()
            .iter()
            .filter_map(std::rc::Weak::upgrade)
            .for_each(|link| link.close("respool is ending"));
    }

    /// Tells whether any connection to the server is left.
    pub fn is_connected(&self) -> bool {
        self.links.borrow().iter().any(Option::is_some)
            || self.pins.borrow().iter().any(|pin| pin.upgrade().is_some())
            || self.both_subscriptions().any(|some| some.is_connected())
            || !self.thread.closings.is_empty()
    }

    /// Tells whether it has been told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Makes a name for the next connection of `kind`, as the server's CLIENT LIST shows it.
    fn name(&self, kind: &str) -> String {
        self.names.set(self.names.get() + 1);
        // Workers number their connections apart.
        let number =
            self.names.get() * self.thread.settings().workers as u64 + self.thread.index as u64;
        format!(
            "respool:{}:{kind}:{number}",
            self.thread.settings().instance
        )
    }

    /// Returns the right to another shared connection, where it can be had at once and is not needed for those that are kept open.
    fn spare_permit(&self) -> Option<SocketPermit> {
        let budget = &self.thread.process.budget;
        if budget.is_exceeded() || self.is_pausing() {
            return None;
        }
        budget.try_socket(SocketKind::Shared)
    }

    async fn permit(&self, kind: SocketKind) -> SocketPermit {
        match self.thread.process.budget.try_socket(kind) {
            Some(permit) => permit,
            None => {
                self.thread
                    .process
                    .budget
                    .wait_socket(kind, self.thread.index)
                    .await
            }
        }
    }

    /// Does what the schedule wants done now.
    fn act(self: &Rc<Self>) {
        loop {
            let mut permit = None;
            let action = {
                let links = self.links.borrow();
                let owed = |slot: usize| match &links[slot] {
                    // A change would stand behind what the server does not answer.
                    Some(link) if link.is_stalled() => None,
                    link => Some(link.as_ref().map(|link| link.owes()).unwrap_or_default()),
                };
                let now = self.thread.clock.now_micros();
                self.schedule.borrow_mut().next(now, owed, || {
                    permit = self.spare_permit();
                    permit.is_some()
                })
            };
            match action {
                None => return,
                Some(ScheduleAction::Dial { link, state }) => {
                    self.thread.keep(
                        "keeps connections to the server",
                        Rc::clone(self).open(link, state, permit),
                    );
                }
                Some(ScheduleAction::ChangeState {
                    link,
                    state,
                    reauthenticates,
                }) => self.change_shared(link, state, reauthenticates),
            }
        }
    }

    fn change_shared(self: &Rc<Self>, slot: usize, target: State, force: bool) {
        // One that is closing stays as it is until it is lost.
        let Some(link) = self.links.borrow()[slot]
            .clone()
            .filter(|link| link.is_alive())
        else {
            return;
        };
        let change = if force {
            Change::Authenticate
        } else {
            Change::Difference
        };
        let Some(own) = self.thread.own() else {
            return link.close(NO_SECRET);
        };
        let steps = steps(&link.state(), &target, change, &own, link.name());
        let (upstream, of) = (Rc::downgrade(self), Rc::downgrade(&link));
        link.change_state(
            steps,
            Box::new(move |result| {
                let (Some(upstream), Some(link)) = (upstream.upgrade(), of.upgrade()) else {
                    return;
                };
                match result {
                    Ok(()) => upstream.grant(slot, &target),
                    // Respool's own login was refused: whoever waits for the state gets it on the connection that
                    // takes this one's place.
                    Err(_) if !link.is_alive() => {}
                    Err(reply) if force && is_busy(&reply) && link.is_logged_in(&target) => {
                        upstream.settle_refused(slot, &link, || SharedWaitOutcome::Taken);
                    }
                    Err(reply) => upstream.refuse(slot, &link, &reply),
                }
            }),
        );
    }

    /// Tells whoever waits for a state that the server has refused it.
    fn refuse(&self, slot: usize, link: &Link, reply: &[u8]) {
        let refused = || SharedWaitOutcome::Failed(WaitError::Refused(reply.to_vec()));
        self.settle_refused(slot, link, refused);
    }

    fn settle_refused(&self, slot: usize, link: &Link, outcome: impl Fn() -> SharedWaitOutcome) {
        let refused = self.schedule.borrow_mut().refused(slot, &link.state());
        for waiter in refused {
            waiter.settle(outcome());
        }
    }

    fn grant(&self, slot: usize, state: &State) {
        let begun = self.links.borrow()[slot]
            .as_ref()
            .map_or(0, |link| link.origin().begun_micros);
        if state.user.is_none() {
            self.databases.seen(state.database, begun);
        }
        let granted = self.schedule.borrow_mut().changed(slot, state);
        for waiter in granted {
            waiter.settle(SharedWaitOutcome::Granted(slot));
        }
    }

    fn count_waiting(&self) {
        self.thread
            .counters
            .waiting_requests
            .set(self.schedule.borrow().waiting() as u64);
    }
}
