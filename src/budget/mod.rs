//! How many sockets respool may have to the server, and which clients may hold one of them for themselves.
//!
//! Two things are lent here. A [`SocketPermit`] is the right to one socket, held from before it is dialled until the
//! server has closed it too. A [`PinLease`] is the right of one client to one pinned connection, whichever socket that turns out to be:
//! idle pinned connections stay open between leases and keep their socket permits.
//!
//! Invariants:
//! - Sockets never exceed `max_connections`; shared ones never exceed `shared_connections`, pinned ones and those for
//!   subscriptions together never the rest. A worker whose shared ones are held up takes one of the rest for multiplexed traffic, as
//!   any holder of a lease would: the rest is smaller by it until one of the others is given back.
//! - Leases and subscription sockets together never exceed that rest. So once idle pins are given up, every holder of a
//!   lease finds a socket.
//! - A reload that lowers these numbers takes nothing away: nothing more is lent until enough was given back, and idle
//!   pins are asked for.
//! - Whoever could be served is not waiting: every change serves waiters in order of arrival before it returns. A group at
//!   its `max_pinned` waits without holding up others.
//! - A lease that is given back goes to a waiter of the same worker, which has the connection; at most once in 10 ms to whoever
//!   has waited longest, where that is elsewhere and much longer. So nobody starves, and connections seldom change hands.
//!
//! Wakers and reclaimers are called outside the lock.

mod ledger;
mod upload;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use ledger::{BudgetLedger, LedgerEffects};
use upload::UploadPlaces;
pub use upload::{UploadPace, UploadPlace};

/// Says what a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SocketKind {
    /// It carries multiplexed traffic; its share is reserved for it.
    Shared,
    /// It is for one client at a time, by a [`PinLease`].
    Pinned,
    /// It is for the subscriptions of one worker.
    Subscription,
}

/// Says what others want of a connection that is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleDemand {
    /// They want nothing, or only clients of its own worker wait.
    Nothing,
    /// They want its place in the budget: it is to be closed.
    Place,
    /// They want the connection itself.
    Connection {
        /// It is wanted there.
        worker: usize,
        /// This number of borrowers wait for one there.
        waiters: usize,
    },
}

/// Asks a worker to close pinned connections that are idle.
type AskForIdle = Arc<dyn Fn() + Send + Sync>;

/// Tells the microseconds since some moment.
type MicrosClock = Box<dyn Fn() -> u64 + Send + Sync>;

/// Counts the upstream sockets of the process. It is shared by all threads.
pub struct SocketBudget {
    time: MicrosClock,
    ledger: Mutex<BudgetLedger>,
    /// Counts those who wait for a pinned or a subscription socket, as of the last change of the ledger.
    sockets_wanted: AtomicUsize,
    /// Counts those who wait for a lease or a subscription socket, as of the same.
    leases_wanted: AtomicUsize,
    uploads: UploadPlaces,
    reclaimers: Mutex<Vec<Option<AskForIdle>>>,
}

impl SocketBudget {
    /// Makes a budget of `max_connections` sockets, of which `shared_connections` are for multiplexed traffic only. `groups_max_pinned` has
    /// the `max_pinned` of each group; `time` tells the microseconds since some moment.
    pub fn new(
        max_connections: usize,
        shared_connections: usize,
        groups_max_pinned: Vec<Option<usize>>,
        workers: usize,
        time: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            time: Box::new(time),
            ledger: Mutex::new(BudgetLedger::new(
                max_connections,
                shared_connections,
                groups_max_pinned,
            )),
            sockets_wanted: AtomicUsize::new(0),
            leases_wanted: AtomicUsize::new(0),
            uploads: UploadPlaces::new(max_connections.saturating_sub(shared_connections)),
            reclaimers: Mutex::new(vec![None; workers]),
        })
    }

    /// Lends by these numbers from now on (see [`SocketBudget::new`]), and asks every worker for its idle pins where more is
    /// lent than that.
    pub fn resize(
        &self,
        max_connections: usize,
        shared_connections: usize,
        groups_max_pinned: &[Option<usize>],
    ) {
        self.change(|ledger, effects| {
            ledger.resize(
                max_connections,
                shared_connections,
                groups_max_pinned,
                effects,
            );
        });
        let lendable = max_connections.saturating_sub(shared_connections);
        self.uploads.resize(lendable);
        if self.sockets_wanted() {
            self.reclaim_from_others(usize::MAX);
        }
    }

    /// Tells whether more is lent than a reload has left: what is given back is not to be taken for anything that can wait.
    pub fn is_exceeded(&self) -> bool {
        self.ledger().is_exceeded()
    }

    /// Tells whether more sockets are there than there may be in all: a permit that is not used yet is not to be used now.
    pub fn is_over_total(&self) -> bool {
        self.ledger().is_over_total()
    }

    /// Returns a socket if one is to be had now. The caller of [`SocketKind::Pinned`] holds a lease.
    pub fn try_socket(self: &Arc<Self>, kind: SocketKind) -> Option<SocketPermit> {
        let taken = self.change(|ledger, _| ledger.try_socket(kind));
        taken.then(|| SocketPermit {
            budget: Arc::clone(self),
            kind,
        })
    }

    /// Counts how many more sockets carry multiplexed traffic than are reserved for it.
    pub fn shared_beyond(&self) -> usize {
        self.ledger().shared_beyond()
    }

    /// Counts a socket that is there and had given its permit back, even beyond the total: its server is the server again.
    pub fn count_again(self: &Arc<Self>, kind: SocketKind) -> SocketPermit {
        self.change(|ledger, _| ledger.count_socket(kind));
        SocketPermit {
            budget: Arc::clone(self),
            kind,
        }
    }

    /// Waits for a socket, in order of arrival. When none is free the other workers are asked for their idle pins;
    /// those of worker `worker` are the caller's own to use or close. The caller of [`SocketKind::Pinned`] holds a lease.
    pub fn wait_socket(self: &Arc<Self>, kind: SocketKind, worker: usize) -> SocketWait {
        let now = (self.time)();
        let (ticket, waiting) = self.change(|ledger, effects| {
            let ticket = ledger.join_sockets(kind, (worker, now), effects);
            (ticket, ledger.is_socket_waiting(kind, ticket))
        });
        // Built before strangers' code runs, so that the place in the line is given up whatever happens.
        let wait = SocketWait {
            budget: Arc::clone(self),
            kind,
            ticket: Some(ticket),
        };
        if waiting && kind != SocketKind::Shared {
            self.reclaim_from_others(worker);
        }
        wait
    }

    /// Sets what asks `worker` to close its idle pins. It may be called on any thread and must not block.
    pub fn set_reclaimer(&self, worker: usize, reclaimer: Box<dyn Fn() + Send + Sync>) {
        let mut reclaimers = self.reclaimers();
        if reclaimers.len() <= worker {
            reclaimers.resize(worker + 1, None);
        }
        reclaimers[worker] = Some(Arc::from(reclaimer));
    }

    /// Tells whether somebody waits for a pinned or a subscription socket: then a pin that falls idle is closed, not kept. A worker whose
    /// pin falls idle first keeps it where its reclaimer looks, then asks this: so no waiter is overlooked.
    pub fn sockets_wanted(&self) -> bool {
        self.sockets_wanted.load(Ordering::Acquire) > 0
    }

    /// Says what worker `worker` should do with a pinned connection that it does not use.
    pub fn wanted_of(&self, worker: usize) -> IdleDemand {
        self.ledger().wanted_of(worker)
    }

    /// Counts how many wait for a lease, or for a subscription socket: for what whoever holds a lease could give back.
    pub fn leases_wanted(&self) -> usize {
        self.leases_wanted.load(Ordering::Acquire)
    }

    /// Tells whether somebody waits who could have a lease that `group` gives back, be it one of a group that is full, while so many
    /// sockets are `closing`.
    pub fn is_lease_wanted(&self, group: usize, closing: usize) -> bool {
        self.ledger().is_lease_wanted(group, closing)
    }

    /// Returns a lease if one is to be had now: some are left, the group is below its `max_pinned`, and nobody else is waiting who could be
    /// served. It is for a client of worker `worker`.
    pub fn try_lease(self: &Arc<Self>, group: usize, worker: usize) -> Option<PinLease> {
        let taken = self.change(|ledger, _| ledger.try_lease(group, worker));
        taken.then(|| PinLease {
            budget: Arc::clone(self),
            group,
            worker,
        })
    }

    /// Waits for a lease for a client of worker `worker`, in order of arrival among those whose group is below its
    /// `max_pinned`; where one is given back, those of the same worker come first for a turn.
    pub fn wait_lease(self: &Arc<Self>, group: usize, worker: usize) -> LeaseWait {
        let now = (self.time)();
        let ticket =
            self.change(|ledger, effects| ledger.join_leases(group, (worker, now), effects));
        LeaseWait {
            budget: Arc::clone(self),
            group,
            worker,
            ticket: Some(ticket),
        }
    }

    /// Returns the right to one upload on a lent connection, if one is to be had now.
    pub fn try_upload(&self) -> Option<UploadPlace> {
        self.uploads.try_take()
    }

    /// Waits for the right to one upload on a lent connection, in order of arrival.
    pub async fn upload(self: Arc<Self>) -> Option<UploadPlace> {
        self.uploads.take().await
    }

    /// Counts how many wait for what an upload holds: its lease or its place.
    pub fn uploads_in_the_way(&self) -> usize {
        self.leases_wanted() + self.uploads.waiting()
    }

    /// Counts the sockets taken: shared, pinned, for subscriptions.
    pub fn counts(&self) -> (usize, usize, usize) {
        let [shared, pinned, subscription] = self.ledger().sockets();
        (shared, pinned, subscription)
    }

    /// Counts the leases held, in all groups.
    #[cfg(test)]
    pub fn leases(&self) -> usize {
        self.ledger().leases()
    }

    /// Counts those who wait for a lease or a socket.
    pub fn waiting(&self) -> usize {
        self.ledger().waiting()
    }

    /// Returns how many sockets there may be.
    pub fn limit(&self) -> usize {
        self.ledger().limit()
    }

    /// Changes the ledger and then, outside the lock, wakes whom the change has served.
    fn change<T>(&self, change: impl FnOnce(&mut BudgetLedger, &mut LedgerEffects) -> T) -> T {
        let mut effects = LedgerEffects::default();
        let mut ledger = self.ledger();
        let result = change(&mut ledger, &mut effects);
        self.sockets_wanted
            .store(ledger.sockets_wanted(), Ordering::Release);
        self.leases_wanted
            .store(ledger.leases_wanted(), Ordering::Release);
        drop(ledger);
        drop(effects.discard);
        effects.wake.into_iter().for_each(Waker::wake);
        result
    }

    fn reclaim_from_others(&self, worker: usize) {
        let others: Vec<AskForIdle> = {
            let reclaimers = self.reclaimers();
            let others = reclaimers
                .iter()
                .enumerate()
                .filter(|&(index, _)| index != worker);
            others
                .filter_map(|(_, reclaimer)| reclaimer.clone())
                .collect()
        };
        others.iter().for_each(|reclaim| reclaim());
    }

    fn ledger(&self) -> MutexGuard<'_, BudgetLedger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reclaimers(&self) -> MutexGuard<'_, Vec<Option<AskForIdle>>> {
        self.reclaimers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SocketBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("ledger", &self.ledger())
            .finish_non_exhaustive()
    }
}

/// Is the right to one socket. Its drop gives it back: drop it after the socket is closed.
#[derive(Debug)]
#[must_use = "the socket is given back on drop"]
pub struct SocketPermit {
    budget: Arc<SocketBudget>,
    kind: SocketKind,
}

impl SocketPermit {
    /// Says what the socket is for.
    pub fn kind(&self) -> SocketKind {
        self.kind
    }

    /// Turns the right to a lent socket into that to one for multiplexed traffic, in place of one that is held up. `lease` is the right to
    /// it, and is given back.
    pub fn share(mut self, lease: PinLease) -> Self {
        self.budget.change(|ledger, _| ledger.share_lent(self.kind));
        self.kind = SocketKind::Shared;
        drop(lease);
        self
    }
}

impl Drop for SocketPermit {
    fn drop(&mut self) {
        self.budget
            .change(|ledger, effects| ledger.return_socket(self.kind, effects));
    }
}

/// Is the right of one client to one pinned connection. Its drop gives it back.
#[derive(Debug)]
#[must_use = "the lease is given back on drop"]
pub struct PinLease {
    budget: Arc<SocketBudget>,
    group: usize,
    worker: usize,
}

impl PinLease {
    /// Returns the index of the group it counts for.
    pub fn group(&self) -> usize {
        self.group
    }
}

impl Drop for PinLease {
    fn drop(&mut self) {
        let by = (self.worker, (self.budget.time)());
        self.budget
            .change(|ledger, effects| ledger.return_lease(self.group, by, effects));
    }
}

/// Is a place in the line for a socket. Its drop leaves the line; what was granted meanwhile goes to the next.
#[derive(Debug)]
#[must_use = "the place in the line is given up on drop"]
pub struct SocketWait {
    budget: Arc<SocketBudget>,
    kind: SocketKind,
    /// Is `None` once the socket has been handed over.
    ticket: Option<u64>,
}

impl Future for SocketWait {
    type Output = SocketPermit;

    /// Hands over the socket once it is granted.
    ///
    /// # Panics
    /// It panics when polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SocketPermit> {
        let ticket = self
            .ticket
            .expect("a wait is not polled after it was ready");
        let kind = self.kind;
        if !self
            .budget
            .change(|ledger, effects| ledger.claim_socket(kind, ticket, cx.waker(), effects))
        {
            return Poll::Pending;
        }
        self.ticket = None;
        Poll::Ready(SocketPermit {
            budget: Arc::clone(&self.budget),
            kind,
        })
    }
}

impl Drop for SocketWait {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.budget
                .change(|ledger, effects| ledger.leave_sockets(self.kind, ticket, effects));
        }
    }
}

/// Is a place in the line for a lease. Its drop leaves the line; what was granted meanwhile goes to the next.
#[derive(Debug)]
#[must_use = "the place in the line is given up on drop"]
pub struct LeaseWait {
    budget: Arc<SocketBudget>,
    group: usize,
    worker: usize,
    /// Is `None` once the lease has been handed over.
    ticket: Option<u64>,
}

impl Future for LeaseWait {
    type Output = PinLease;

    /// Hands over the lease once it is granted.
    ///
    /// # Panics
    /// It panics when polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<PinLease> {
        let ticket = self
            .ticket
            .expect("a wait is not polled after it was ready");
        let (group, worker) = (self.group, self.worker);
        if !self.budget.change(|ledger, effects| {
            ledger.claim_lease(group, (worker, ticket), cx.waker(), effects)
        }) {
            return Poll::Pending;
        }
        self.ticket = None;
        Poll::Ready(PinLease {
            budget: Arc::clone(&self.budget),
            group,
            worker,
        })
    }
}

impl Drop for LeaseWait {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let by = (self.worker, (self.budget.time)());
            self.budget
                .change(|ledger, effects| ledger.leave_leases(self.group, ticket, by, effects));
        }
    }
}

#[cfg(test)]
mod tests;
