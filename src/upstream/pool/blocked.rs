//! Blocked clients of one worker: what [`BlockingCalls`] decides is carried out here, on shared connections and borrowed ones.
//!
//! Invariant: a connection is given back, and gets its next call, only when no CLIENT UNBLOCK for it is under way.

mod bare;
mod ending;
mod returning;
mod tries;
mod unread;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use unread::UnreadCall;

use super::Upstream;
use super::lent::{Pin, PinError};
use crate::budget::PinLease;
use crate::command::{Delays, PinReason};
use crate::exchange::{Answer, AnswerPace, OwnCall, OwnReply};
use crate::link::Link;
use crate::session::State;
use crate::waits::{
    BlockingCall, BlockingCalls, CallConnectionId, NotLent, PoppedElements, PoppedFate,
    RequestBatch, TryFailure, TryId, UnblockMode, WaitAction, WaitOrigin, WaitOutcome, WaiterId,
};
use bare::{BareTries, MultiQuestion, WantedTry};
use returning::{ReturningElements, UnderWay};

/// The replies to a try may have so many bytes that are not elements.
pub(super) const AROUND_ELEMENTS: usize = 64 * 1024;

/// A connection is given back for blocked clients of another worker at most once in this time.
const YIELD_EVERY: Duration = Duration::from_secs(1);

/// The pause before an unblocked call is asked about again grows up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Is a blocked client, as whoever unblocks it sees it.
pub struct BlockedClient {
    upstream: Weak<Upstream>,
    id: WaiterId,
    outcome: RefCell<Option<WaitOutcome>>,
    /// Is true of one whose wait is over where it had found nothing before.
    has_waited: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// `Some` where somebody has asked to unblock it.
    asked: RefCell<Option<oneshot::Sender<bool>>>,
}

impl BlockedClient {
    /// Ends its wait, as CLIENT UNBLOCK does. `tell` learns whether this has ended it, rather than an element.
    pub fn unblock(&self, mode: UnblockMode, tell: oneshot::Sender<bool>) {
        let Some(upstream) = self.upstream.upgrade() else {
            return;
        };
        if self.asked.borrow().is_some() {
            // Who asked may have gone.
            let _ = tell.send(false);
            return;
        }
        *self.asked.borrow_mut() = Some(tell);
        let now = upstream.thread.clock.now_micros();
        let waits = &upstream.blocked.waits;
        let is_accepted = waits.borrow_mut().unblock(self.id, mode, now);
        if !is_accepted && let Some(tell) = self.asked.borrow_mut().take() {
            let _ = tell.send(false);
        }
        upstream.carry_out();
    }

    fn settle(&self, outcome: WaitOutcome) {
        if let Some(tell) = self.asked.borrow_mut().take() {
            let unblocked = matches!(outcome, WaitOutcome::Null | WaitOutcome::Unblocked);
            let _ = tell.send(unblocked);
        }
        *self.outcome.borrow_mut() = Some(outcome);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Is a client's wait for an element. Its drop leaves the line, and gives back an element that came and was not taken.
pub struct Blocked {
    upstream: Rc<Upstream>,
    waiter: Rc<BlockedClient>,
    state: State,
    popped: PoppedElements,
    held_bytes: usize,
}

impl Blocked {
    /// Returns the memory that its call takes while it waits.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Tells whether its call takes something away.
    pub fn takes(&self) -> bool {
        self.popped != PoppedElements::Nothing
    }

    /// Tells whether it has found nothing at its first try, so that the server would have blocked it.
    pub fn has_waited(&self) -> bool {
        let waits = &self.upstream.blocked.waits;
        self.waiter.has_waited.get() || waits.borrow().has_waited(self.waiter.id)
    }

    /// Returns how the wait has ended.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<WaitOutcome> {
        match self.waiter.outcome.borrow_mut().take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                *self.waiter.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Returns it for whoever unblocks the client.
    pub fn waiter(&self) -> &Rc<BlockedClient> {
        &self.waiter
    }

    /// Gives back what came for the client, which cannot take it.
    pub fn refuse(&self, outcome: WaitOutcome) {
        if let WaitOutcome::Reply(reply) = outcome {
            match self.popped.give_back(&reply) {
                PoppedFate::Nothing => {}
                PoppedFate::Orphaned => self.upstream.thread.counters.orphaned_elements.add(1),
                PoppedFate::Return(request, elements) => {
                    self.upstream
                        .put_back(self.state.clone(), request, elements, None);
                }
            }
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        if let Some(outcome) = self.waiter.outcome.borrow_mut().take() {
            return self.refuse(outcome);
        }
        let waiting = &self.upstream.blocked;
        if waiting
            .waiters
            .borrow_mut()
            .remove(&self.waiter.id)
            .is_some()
        {
            let now = self.upstream.thread.clock.now_micros();
            waiting.waits.borrow_mut().leave(self.waiter.id, now);
            self.upstream.carry_out();
        }
    }
}

/// Says what is to be done on the connection of a call once nothing that would unblock it is under way.
enum NextCall {
    Issue(Option<(TryId, RequestBatch)>, RequestBatch),
    Release,
}

/// Is done on a shared connection for blocked clients.
enum SharedWork {
    /// Sends a try, which may be the first of its user.
    Try(WantedTry, Option<MultiQuestion>),
    /// Puts popped elements back where they were.
    PutBack(ReturningElements),
}

impl SharedWork {
    /// Returns what may delay it: what is put back is written.
    fn delays(&self) -> Delays {
        match self {
            Self::Try(wanted, _) => wanted.delays,
            Self::PutBack(_) => Delays::PAUSE,
        }
    }
}

/// Holds a connection that is borrowed for issued calls.
pub(super) struct CallLink {
    pub(super) link: Rc<Link>,
    pin: RefCell<Option<Pin>>,
    is_calling: Cell<bool>,
    /// Its latest call was sent then.
    called_micros: Cell<u64>,
    /// It says what is known of the server's reading it.
    unread: Cell<UnreadCall>,
    /// Is true where what it is called for takes elements away.
    takes: Cell<bool>,
    /// Is true while CLIENT UNBLOCK is under way, or about to be repeated.
    is_unblocking: Cell<bool>,
    next: RefCell<Option<NextCall>>,
    /// Is true where the next call is to be unblocked as soon as it is sent.
    unblock_next: Cell<bool>,
}

/// Holds the blocked clients of one worker.
#[derive(Default)]
pub(super) struct BlockedClients {
    pub(super) waits: RefCell<BlockingCalls<State>>,
    waiters: RefCell<HashMap<WaiterId, Rc<BlockedClient>>>,
    pub(super) connections: RefCell<HashMap<CallConnectionId, Rc<CallLink>>>,
    /// Is true while actions are being carried out: those of events meanwhile join them.
    is_acting: Cell<bool>,
    /// This number of calls wait for a lease.
    lease_waits: Cell<usize>,
    /// Connections were last given back for those of other workers then.
    yielded_micros: Cell<u64>,
    pub(super) apart: BareTries,
    /// This number of calls, tries and elements on their way back are under way.
    pub(super) under_way: Rc<Cell<usize>>,
    probe: ending::PauseProbe,
    /// Is true once it was logged that the server lets respool end no call.
    has_told_of_ends: Cell<bool>,
    /// The keeper of time wakes then, and is told of something earlier.
    wakes_at: Cell<Option<u64>>,
    earlier: Notify,
}

impl Upstream {
    /// Has a client wait in `state` for what `call` asks for.
    pub fn block(self: &Rc<Self>, state: &State, whose: WaitOrigin, call: BlockingCall) -> Blocked {
        let (popped, held_bytes) = (call.popped(), call.held_bytes());
        self.note_whether_calls_can_be_ended();
        let now = self.thread.clock.refresh();
        let id = self
            .blocked
            .waits
            .borrow_mut()
            .arrive(state.clone(), whose, call, now);
        let waiter = Rc::new(BlockedClient {
            upstream: Rc::downgrade(self),
            id,
            outcome: RefCell::default(),
            has_waited: Cell::default(),
            waker: RefCell::default(),
            asked: RefCell::default(),
        });
        self.blocked
            .waiters
            .borrow_mut()
            .insert(id, Rc::clone(&waiter));
        self.carry_out();
        Blocked {
            upstream: Rc::clone(self),
            waiter,
            state: state.clone(),
            popped,
            held_bytes,
        }
    }

    /// Gives connections of calls back when others wait for one.
    pub(super) fn yield_call_connections(self: &Rc<Self>) {
        let process = &self.thread.process;
        let wanted = process.budget.leases_wanted();
        let connections = process.call_connections_wanted.load(Ordering::Relaxed);
        let mut others = wanted.saturating_sub(connections);
        if connections > self.blocked.lease_waits.get() {
            // Blocked clients of other workers are served without one too, only slower: no need to hurry.
            let clock = &self.thread.clock;
            if clock.is_past(self.blocked.yielded_micros.get(), YIELD_EVERY) {
                self.blocked.yielded_micros.set(clock.now_micros());
                others += 1;
            }
        }
        if others > 0 {
            let now = self.thread.clock.now_micros();
            self.blocked.waits.borrow_mut().yield_to(others, now);
            self.carry_out();
        }
    }

    /// Tells the blocked clients what time it is, whenever that matters to one of them.
    pub(super) async fn keep_time(self: Rc<Self>) {
        let start = self.thread.process.start;
        while !self.is_stopping() {
            let due = self.blocked.waits.borrow().next_due();
            self.blocked.wakes_at.set(due);
            let earlier = self.blocked.earlier.notified();
            match due {
                None => earlier.await,
                Some(due) => {
                    let at = Instant::from_std(start + Duration::from_micros(due));
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = earlier => {}
                    }
                }
            }
            let now = self.thread.clock.refresh();
            if due.is_some_and(|due| due <= now) {
                self.blocked.waits.borrow_mut().tick(now);
                self.carry_out();
            }
        }
    }

    /// Carries out what is to be done until nothing is.
    pub(super) fn carry_out(self: &Rc<Self>) {
        let waiting = &self.blocked;
        if waiting.is_acting.replace(true) {
            return;
        }
        loop {
            let action = waiting.waits.borrow_mut().next_action();
            match action {
                Some(action) => self.do_one(action),
                None => break,
            }
        }
        waiting.is_acting.set(false);
        let due = waiting.waits.borrow().next_due();
        let is_earlier = match (due, waiting.wakes_at.get()) {
            (Some(due), Some(at)) => due < at,
            (due, None) => due.is_some(),
            (None, Some(_)) => false,
        };
        if is_earlier {
            waiting.wakes_at.set(due);
            waiting.earlier.notify_one();
        }
    }

    fn do_one(self: &Rc<Self>, action: WaitAction<State>) {
        match action {
            WaitAction::Try {
                attempt,
                state,
                group,
                is_bare,
                delays,
            } => {
                let wanted = WantedTry {
                    attempt,
                    state,
                    group,
                    delays,
                };
                if is_bare {
                    self.send_where_nobody_waits(wanted);
                } else {
                    self.send_somewhere(wanted);
                }
            }
            WaitAction::Borrow {
                connection,
                state,
                group,
                reason,
            } => {
                tokio::task::spawn_local(
                    Rc::clone(self).borrow_call_connection(connection, state, group, reason),
                );
            }
            WaitAction::Issue {
                connection,
                ahead,
                call,
            } => self.next_on(connection, NextCall::Issue(ahead, call)),
            WaitAction::Unblock { connection } => self.unblock_call(connection),
            WaitAction::Release { connection } => self.next_on(connection, NextCall::Release),
            WaitAction::Return {
                state,
                request,
                elements,
            } => self.put_back(state, request, elements, None),
            WaitAction::Orphaned(elements) => self.thread.counters.orphaned_elements.add(elements),
            WaitAction::Tell {
                waiter,
                outcome,
                has_waited,
            } => {
                let told = self.blocked.waiters.borrow_mut().remove(&waiter);
                if let Some(waiter) = told {
                    waiter.has_waited.set(has_waited);
                    waiter.settle(outcome);
                }
            }
        }
    }

    // Connections.

    async fn borrow_call_connection(
        self: Rc<Self>,
        connection: CallConnectionId,
        state: State,
        group: usize,
        reason: PinReason,
    ) {
        let borrowed = self.borrow_link(connection, &state, group).await;
        let now = self.thread.clock.refresh();
        let waits = &self.blocked.waits;
        match borrowed {
            Ok((link, lease)) => {
                self.thread
                    .counters
                    .group(group)
                    .pin(reason as usize)
                    .add(1);
                let pin = self.lend(Rc::clone(&link), lease, None);
                let lent = CallLink {
                    link,
                    pin: RefCell::new(Some(pin)),
                    is_calling: Cell::new(false),
                    called_micros: Cell::default(),
                    unread: Cell::default(),
                    takes: Cell::new(false),
                    is_unblocking: Cell::new(false),
                    next: RefCell::default(),
                    unblock_next: Cell::new(false),
                };
                self.blocked
                    .connections
                    .borrow_mut()
                    .insert(connection, Rc::new(lent));
                waits.borrow_mut().lent(connection, now);
            }
            Err(why) => waits.borrow_mut().not_lent(connection, why, now),
        }
        self.carry_out();
    }

    async fn borrow_link(
        self: &Rc<Self>,
        connection: CallConnectionId,
        state: &State,
        group: usize,
    ) -> Result<(Rc<Link>, PinLease), NotLent> {
        let upstream = &self.thread.settings().upstream;
        let lease = self.borrow_lease(connection, group).await?;
        let unused = self
            .thread
            .within(upstream.queue.timeout, self.unused(state))
            .await;
        match unused {
            Some(Ok(link)) => Ok((link, lease)),
            Some(Err(PinError::Refused(reply))) => Err(NotLent::Refused(reply)),
            // While shared connections are up the classes are tried there.
            _ if self.is_away() => Err(NotLent::Unreachable),
            _ => Err(NotLent::Timeout),
        }
    }

    /// BlockingCalls for a lease for as long as it is wanted.
    async fn borrow_lease(
        &self,
        connection: CallConnectionId,
        group: usize,
    ) -> Result<PinLease, NotLent> {
        let budget = &self.thread.process.budget;
        let is_wanted = || self.blocked.waits.borrow().wants(connection);
        let lease = match budget.try_lease(group, self.thread.index) {
            Some(lease) => lease,
            None => {
                let _counted = CountedLeaseWait::new(self);
                let mut turn = std::pin::pin!(budget.wait_lease(group, self.thread.index));
                loop {
                    let limit = self.thread.settings().upstream.borrow_timeout;
                    match tokio::time::timeout(limit, &mut turn).await {
                        Ok(lease) => break lease,
                        Err(_) if is_wanted() => {}
                        Err(_) => return Err(NotLent::Timeout),
                    }
                }
            }
        };
        is_wanted().then_some(lease).ok_or(NotLent::Timeout)
    }

    fn call_link(&self, id: CallConnectionId) -> Option<Rc<CallLink>> {
        self.blocked.connections.borrow().get(&id).cloned()
    }

    /// Has something done on the connection of a call as soon as no CLIENT UNBLOCK for it is under way.
    fn next_on(self: &Rc<Self>, id: CallConnectionId, next: NextCall) {
        let Some(connection) = self.call_link(id) else {
            return;
        };
        if connection.is_unblocking.get() {
            *connection.next.borrow_mut() = Some(next);
            return;
        }
        match next {
            NextCall::Release => {
                self.blocked.connections.borrow_mut().remove(&id);
                if let Some(pin) = connection.pin.borrow_mut().take() {
                    pin.give_back_clear();
                }
            }
            NextCall::Issue(ahead, call) => self.issue(id, &connection, ahead, &call),
        }
    }

    fn issue(
        self: &Rc<Self>,
        id: CallConnectionId,
        connection: &Rc<CallLink>,
        ahead: Option<(TryId, RequestBatch)>,
        issued: &RequestBatch,
    ) {
        if !connection.link.is_alive() {
            self.not_sent(ahead);
            return self.call_lost(id, false);
        }
        let now = self.thread.clock.now_micros();
        let writes = issued.takes > 0;
        if self.puts_off(writes) {
            self.not_sent(ahead);
            return self.blocked.waits.borrow_mut().put_off(id, now);
        }
        if connection.link.renewal.is_due(now) && connection.link.takes_login() {
            self.renew(&connection.link);
        }
        let ahead_bytes = ahead.as_ref().map_or(0, |(_, sending)| sending.bytes.len());
        let unread = UnreadCall::of(ahead_bytes + issued.bytes.len(), now);
        if let Some((attempt, sending)) = ahead {
            self.send_try(&connection.link, attempt, sending, || {});
        }
        let upstream = Rc::downgrade(self);
        let under_way = UnderWay::new(&self.blocked.under_way);
        let call = move |answer| {
            drop(under_way);
            let Some(upstream) = upstream.upgrade() else {
                return;
            };
            match answer {
                Answer::Lost { sent } => upstream.call_lost(id, sent),
                Answer::TooLarge => upstream.call_answered(id, None),
                Answer::Replies(reply) => upstream.call_answered(id, Some(&reply)),
            }
            upstream.carry_out();
        };
        connection.is_calling.set(true);
        connection.called_micros.set(now);
        connection.unread.set(unread);
        connection.takes.set(writes);
        let limit_bytes = self.limit_bytes(issued.takes);
        let call = OwnCall::new(issued.replies, limit_bytes, AnswerPace::Blocking, call);
        connection
            .link
            .send_own(&issued.bytes, OwnReply::Call(call));
        connection.link.note_held();
        if writes {
            self.plan_probe(&connection.link);
        }
    }

    /// Takes in that what was to stand ahead of a call is not sent.
    fn not_sent(&self, ahead: Option<(TryId, RequestBatch)>) {
        if let Some((attempt, _)) = ahead {
            let now = self.thread.clock.now_micros();
            let failure = TryFailure::Lost { sent: false };
            let mut waits = self.blocked.waits.borrow_mut();
            waits.failed(attempt, failure, now);
        }
    }

    /// Takes in that the call on a connection was answered; `None`: with more than may be gathered.
    fn call_answered(self: &Rc<Self>, id: CallConnectionId, reply: Option<&[u8]>) {
        if let Some(connection) = self.call_link(id) {
            connection.is_calling.set(false);
        }
        self.note_whether_calls_can_be_ended();
        let now = self.thread.clock.now_micros();
        let mut waits = self.blocked.waits.borrow_mut();
        match reply {
            Some(reply) => waits.answered(id, reply, now),
            None => waits.too_large(id, now),
        }
    }

    /// Returns the connections whose login is due, and on which a call is blocked.
    pub(super) fn overdue_calls(&self, now_micros: u64) -> Vec<CallConnectionId> {
        let is_overdue = |connection: &CallLink| {
            let is_own = connection.link.state().user.is_none();
            let is_blocked = connection.is_calling.get() && !connection.is_unblocking.get();
            is_own && is_blocked && connection.link.renewal.is_due(now_micros)
        };
        let connections = self.blocked.connections.borrow();
        let overdue = connections
            .iter()
            .filter(|(_, connection)| is_overdue(connection));
        overdue.map(|(id, _)| *id).collect()
    }

    fn call_lost(&self, id: CallConnectionId, sent: bool) {
        // Its connection goes with it.
        let connection = self.blocked.connections.borrow_mut().remove(&id);
        if let Some(connection) = connection {
            connection.is_calling.set(false);
        }
        let now = self.thread.clock.now_micros();
        self.blocked.waits.borrow_mut().lost(id, sent, now);
    }

    pub(super) fn unblock_call(self: &Rc<Self>, id: CallConnectionId) {
        let Some(connection) = self.call_link(id) else {
            return;
        };
        if connection.is_unblocking.replace(true) {
            return connection.unblock_next.set(true);
        }
        let upstream = Rc::clone(self);
        tokio::task::spawn_local(async move {
            upstream.end_call(id, &connection).await;
            connection.is_unblocking.set(false);
            let next = connection.next.borrow_mut().take();
            if let Some(next) = next {
                upstream.next_on(id, next);
            }
            if connection.unblock_next.take() {
                upstream.unblock_call(id);
            }
            upstream.carry_out();
        });
    }

    /// Tells whether anything is under way for blocked clients: a call, a try, an element on its way back.
    pub fn has_waits_under_way(&self) -> bool {
        self.blocked.under_way.get() > 0
    }
}

/// Counts who waits for a lease for a call, while it does.
struct CountedLeaseWait<'a>(&'a Upstream);

impl<'a> CountedLeaseWait<'a> {
    fn new(upstream: &'a Upstream) -> Self {
        let count = &upstream.blocked.lease_waits;
        count.set(count.get() + 1);
        upstream
            .thread
            .process
            .call_connections_wanted
            .fetch_add(1, Ordering::Relaxed);
        Self(upstream)
    }
}

impl Drop for CountedLeaseWait<'_> {
    fn drop(&mut self) {
        let count = &self.0.blocked.lease_waits;
        count.set(count.get() - 1);
        self.0
            .thread
            .process
            .call_connections_wanted
            .fetch_sub(1, Ordering::Relaxed);
    }
}
