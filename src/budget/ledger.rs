//! What is lent and who waits for it, as plain data: the decisions of the budget without locks and without calling
//! anybody.
//!
//! Whoever is served leaves the line and is remembered as granted until it claims or gives up. Wakers are handed to the
//! caller as [`LedgerEffects`], for the time when it no longer holds the lock.

use std::collections::{BTreeMap, HashSet};
use std::task::Waker;

use super::{IdleDemand, SocketKind};

/// Whoever waits longest is passed over for so long at least for waiters of the worker that has the connection, and so much time is between
/// two that are not. A turn is a hundred transactions; a connection that goes to another worker is out of use for some tenths of a
/// millisecond.
pub(super) const TURN_MICROS: u64 = 10_000;

/// Lists who waits, by ticket: tickets grow, so the first is who has waited longest.
type WaitingLine = BTreeMap<u64, BudgetWaiter>;

/// Stands for a socket or a lease that somebody waits for.
#[derive(Debug)]
struct BudgetWaiter {
    worker: usize,
    since_micros: u64,
    /// Wakes it; `None`: it was never polled.
    waker: Option<Waker>,
}

/// Holds what a change of the ledger leaves to do: both can run anybody's code.
#[derive(Debug, Default)]
pub(super) struct LedgerEffects {
    /// These are to be woken: they have been served.
    pub(super) wake: Vec<Waker>,
    /// These are to be dropped: they were replaced, or gave up.
    pub(super) discard: Vec<Waker>,
}

#[derive(Debug)]
pub(super) struct BudgetLedger {
    max: usize,
    shared_max: usize,
    next_ticket: u64,
    /// Lists the tickets that are served and not yet claimed.
    granted: HashSet<u64>,
    /// Counts the sockets taken, granted ones included, by kind.
    sockets: [usize; 3],
    socket_lines: [WaitingLine; 3],
    /// Counts the leases held, granted ones included.
    leases: usize,
    /// Counts the same by worker.
    leases_of: Vec<usize>,
    groups: Vec<GroupLeases>,
    /// Tells when a lease last went to another worker than the one that gave it back, because somebody there had waited for long.
    turned_micros: Option<u64>,
}

#[derive(Debug, Default)]
struct GroupLeases {
    max: Option<usize>,
    held: usize,
    /// Holds a line for each worker.
    lines: Vec<WaitingLine>,
}

impl GroupLeases {
    fn is_full(&self) -> bool {
        self.max.is_some_and(|max| self.held >= max)
    }

    fn waiting(&self) -> usize {
        self.lines.iter().map(BTreeMap::len).sum()
    }

    fn line(&mut self, worker: usize) -> &mut WaitingLine {
        if self.lines.len() <= worker {
            self.lines.resize_with(worker + 1, WaitingLine::default);
        }
        &mut self.lines[worker]
    }
}

impl BudgetLedger {
    pub(super) fn new(
        max: usize,
        shared_max: usize,
        groups_max_pinned: Vec<Option<usize>>,
    ) -> Self {
        let group = |max| GroupLeases {
            max,
            ..GroupLeases::default()
        };
        Self {
            max,
            shared_max: shared_max.min(max),
            next_ticket: 0,
            granted: HashSet::new(),
            sockets: [0; 3],
            socket_lines: Default::default(),
            leases: 0,
            leases_of: Vec::new(),
            groups: groups_max_pinned.into_iter().map(group).collect(),
            turned_micros: None,
        }
    }

    /// Lends by these numbers from now on. What is lent beyond them stays lent until it is given back.
    pub(super) fn resize(
        &mut self,
        max: usize,
        shared_max: usize,
        groups_max_pinned: &[Option<usize>],
        effects: &mut LedgerEffects,
    ) {
        self.max = max;
        self.shared_max = shared_max.min(max);
        for (index, max) in groups_max_pinned.iter().enumerate() {
            self.group(index).max = *max;
        }
        self.serve(None, effects);
    }

    pub(super) fn limit(&self) -> usize {
        self.max
    }

    pub(super) fn sockets(&self) -> [usize; 3] {
        self.sockets
    }

    #[cfg(test)]
    pub(super) fn leases(&self) -> usize {
        self.leases
    }

    /// Tells whether more sockets are lent than there are to be, of all or of those that are not for multiplexed traffic.
    pub(super) fn is_exceeded(&self) -> bool {
        let [shared, pinned, subscription] = self.sockets;
        pinned + subscription > self.pinned_max() || shared + pinned + subscription > self.max
    }

    /// Tells whether there are more sockets than there are to be in all.
    pub(super) fn is_over_total(&self) -> bool {
        self.sockets.iter().sum::<usize>() > self.max
    }

    /// Counts those who wait for a pinned or a subscription socket, and sockets that are lent beyond what a reload has left.
    pub(super) fn sockets_wanted(&self) -> usize {
        let [shared, pinned, subscription] = self.sockets;
        let beyond = (pinned + subscription).saturating_sub(self.pinned_max());
        let beyond_all = (shared + pinned + subscription).saturating_sub(self.max);
        let waiting =
            self.line(SocketKind::Pinned).len() + self.line(SocketKind::Subscription).len();
        waiting + beyond.max(beyond_all)
    }

    /// Counts those who wait for a lease or a subscription socket, and would get it if one were given back: nobody whose group is full.
    /// Leases beyond what a reload has left count as wanted.
    pub(super) fn leases_wanted(&self) -> usize {
        self.own_leases_wanted() + self.line(SocketKind::Subscription).len()
    }

    /// Counts the same without those who wait for a subscription socket.
    fn own_leases_wanted(&self) -> usize {
        let groups = self.groups.iter().filter(|group| !group.is_full());
        let leases = groups.map(GroupLeases::waiting);
        let [_, _, subscription] = self.sockets;
        let beyond = (self.leases + subscription).saturating_sub(self.pinned_max());
        leases.sum::<usize>() + beyond
    }

    /// Tells whether somebody waits who could have a lease that `group` gives back. Whoever waits for a subscription socket is to have one
    /// of the `closing` sockets first that the server has not closed yet: others get a lease as soon as it is given back.
    pub(super) fn is_lease_wanted(&self, group: usize, closing: usize) -> bool {
        let waits = |group: &GroupLeases| group.waiting() > 0;
        self.own_leases_wanted() > 0
            || self.line(SocketKind::Subscription).len() > closing
            || self.groups.get(group).is_some_and(waits)
    }

    /// Counts all who wait.
    pub(super) fn waiting(&self) -> usize {
        let for_sockets = self.socket_lines.iter().map(BTreeMap::len).sum::<usize>();
        for_sockets + self.groups.iter().map(GroupLeases::waiting).sum::<usize>()
    }

    /// Says what worker `worker` should do with a connection that it does not use.
    pub(super) fn wanted_of(&self, worker: usize) -> IdleDemand {
        if self.is_exceeded() || !self.line(SocketKind::Subscription).is_empty() {
            return IdleDemand::Place;
        }
        let line = self.line(SocketKind::Pinned);
        let elsewhere = |waiter: &&BudgetWaiter| waiter.worker != worker;
        let Some(first) = line.values().find(elsewhere) else {
            return IdleDemand::Nothing;
        };
        let beside = |waiter: &&BudgetWaiter| waiter.worker == first.worker;
        IdleDemand::Connection {
            worker: first.worker,
            waiters: line.values().filter(beside).count(),
        }
    }

    // Sockets.

    /// Takes a socket if there is one. Nobody who waits could have it: they would have been served.
    pub(super) fn try_socket(&mut self, kind: SocketKind) -> bool {
        let free = self.has_socket(kind);
        if free {
            self.sockets[kind as usize] += 1;
        }
        free
    }

    /// Counts a socket that is there, whether or not there is room for it.
    pub(super) fn count_socket(&mut self, kind: SocketKind) {
        self.sockets[kind as usize] += 1;
    }

    /// Turns a lent socket into one that carries multiplexed traffic from now on, beyond what is reserved for that: its place is lent again
    /// when one of the others is given back.
    pub(super) fn share_lent(&mut self, kind: SocketKind) {
        self.sockets[kind as usize] -= 1;
        self.sockets[SocketKind::Shared as usize] += 1;
    }

    /// Counts how many more sockets carry multiplexed traffic than are reserved for it.
    pub(super) fn shared_beyond(&self) -> usize {
        self.sockets[SocketKind::Shared as usize].saturating_sub(self.shared_max)
    }

    pub(super) fn return_socket(&mut self, kind: SocketKind, effects: &mut LedgerEffects) {
        self.sockets[kind as usize] -= 1;
        self.serve(None, effects);
    }

    /// Joins the line; the ticket may have been served at once.
    pub(super) fn join_sockets(
        &mut self,
        kind: SocketKind,
        (worker, now): (usize, u64),
        effects: &mut LedgerEffects,
    ) -> u64 {
        let ticket = self.ticket();
        self.socket_lines[kind as usize].insert(ticket, BudgetWaiter::new(worker, now));
        self.serve(None, effects);
        ticket
    }

    pub(super) fn is_socket_waiting(&self, kind: SocketKind, ticket: u64) -> bool {
        self.line(kind).contains_key(&ticket)
    }

    /// Tells whether the ticket has been served; if not, `waker` is called when it is.
    pub(super) fn claim_socket(
        &mut self,
        kind: SocketKind,
        ticket: u64,
        waker: &Waker,
        effects: &mut LedgerEffects,
    ) -> bool {
        let line = &mut self.socket_lines[kind as usize];
        self.granted.remove(&ticket) || keep_waker(line, ticket, waker, effects)
    }

    /// Gives up a ticket, served or not.
    pub(super) fn leave_sockets(
        &mut self,
        kind: SocketKind,
        ticket: u64,
        effects: &mut LedgerEffects,
    ) {
        if self.granted.remove(&ticket) {
            self.sockets[kind as usize] -= 1;
        } else {
            effects
                .discard
                .extend(gone(self.socket_lines[kind as usize].remove(&ticket)));
        }
        // A subscription that no longer waits leaves its lease to others.
        self.serve(None, effects);
    }

    // Leases.

    /// Takes a lease if there is one. Nobody who waits could have it: they would have been served.
    pub(super) fn try_lease(&mut self, group: usize, worker: usize) -> bool {
        let free = self.has_lease() && !self.group(group).is_full();
        if free {
            self.group(group).held += 1;
            self.leases += 1;
            *self.leases_of(worker) += 1;
        }
        free
    }

    /// Takes back a lease from a worker, which most likely has the connection that it was for.
    pub(super) fn return_lease(
        &mut self,
        group: usize,
        (worker, now): (usize, u64),
        effects: &mut LedgerEffects,
    ) {
        self.group(group).held -= 1;
        self.leases -= 1;
        *self.leases_of(worker) -= 1;
        self.serve(Some((worker, now)), effects);
    }

    /// Joins the line; the ticket may have been served at once.
    pub(super) fn join_leases(
        &mut self,
        group: usize,
        (worker, now): (usize, u64),
        effects: &mut LedgerEffects,
    ) -> u64 {
        let ticket = self.ticket();
        let waiter = BudgetWaiter::new(worker, now);
        self.group(group).line(worker).insert(ticket, waiter);
        self.serve(None, effects);
        ticket
    }

    /// Tells whether the ticket has been served; if not, `waker` is called when it is.
    pub(super) fn claim_lease(
        &mut self,
        group: usize,
        (worker, ticket): (usize, u64),
        waker: &Waker,
        effects: &mut LedgerEffects,
    ) -> bool {
        let line = self.groups[group].line(worker);
        self.granted.remove(&ticket) || keep_waker(line, ticket, waker, effects)
    }

    /// Gives up a ticket, served or not.
    pub(super) fn leave_leases(
        &mut self,
        group: usize,
        ticket: u64,
        (worker, now): (usize, u64),
        effects: &mut LedgerEffects,
    ) {
        if self.granted.remove(&ticket) {
            self.return_lease(group, (worker, now), effects);
        } else {
            let line = self.group(group).line(worker);
            effects.discard.extend(gone(line.remove(&ticket)));
        }
    }

    // Who is next.

    /// Serves everybody who can be served, in order of arrival; of those who wait for a lease first those of the worker that
    /// has just given one back.
    fn serve(&mut self, returned: Option<(usize, u64)>, effects: &mut LedgerEffects) {
        while let Some(kind) = self.next_socket() {
            self.sockets[kind as usize] += 1;
            grant(
                &mut self.granted,
                &mut self.socket_lines[kind as usize],
                effects,
            );
        }
        // Leases last: subscriptions that wait come before them.
        while let Some((group, worker)) = self.next_lease(returned) {
            self.leases += 1;
            *self.leases_of(worker) += 1;
            let group = &mut self.groups[group];
            group.held += 1;
            grant(&mut self.granted, group.line(worker), effects);
        }
    }

    /// Returns the line whose first is to be served next.
    fn next_socket(&self) -> Option<SocketKind> {
        let first = |kind: SocketKind| self.line(kind).keys().next().map(|&ticket| (ticket, kind));
        let lines = [
            SocketKind::Shared,
            SocketKind::Pinned,
            SocketKind::Subscription,
        ];
        let next = lines
            .into_iter()
            .filter(|&kind| self.has_socket(kind))
            .filter_map(first);
        next.min_by_key(|&(ticket, _)| ticket).map(|(_, kind)| kind)
    }

    /// Returns the group and the worker whose first is to be served next. A worker that gives a lease back has the connection: its own
    /// waiters come first. Once a turn it is whoever has waited longest, where that is twice as long, or where that worker has nothing that
    /// could be given back: so all wait about as long, and what is even stays as it is.
    fn next_lease(&mut self, returned: Option<(usize, u64)>) -> Option<(usize, usize)> {
        if !self.has_lease() {
            return None;
        }
        let oldest = self.first_for_lease(|_| true)?;
        let Some((worker, now)) = returned.filter(|(worker, _)| *worker != oldest.worker) else {
            return Some(oldest.place());
        };
        let Some(own) = self.first_for_lease(|other| other == worker) else {
            return Some(oldest.place());
        };
        let passed = |since: u64| now.saturating_sub(since);
        let turn_is_over = |since: u64| passed(since) >= TURN_MICROS;
        let is_uneven = passed(oldest.since_micros) >= 2 * passed(own.since_micros)
            || *self.leases_of(oldest.worker) == 0;
        let is_due =
            turn_is_over(oldest.since_micros) && self.turned_micros.is_none_or(turn_is_over);
        if is_due && is_uneven {
            self.turned_micros = Some(now);
            return Some(oldest.place());
        }
        Some(own.place())
    }

    fn leases_of(&mut self, worker: usize) -> &mut usize {
        if self.leases_of.len() <= worker {
            self.leases_of.resize(worker + 1, 0);
        }
        &mut self.leases_of[worker]
    }

    /// Returns who has waited longest for a lease that it could have, of the workers that are `meant`.
    fn first_for_lease(&self, meant: impl Fn(usize) -> bool) -> Option<FirstInLine> {
        let groups = self.groups.iter().enumerate();
        let lines = groups
            .filter(|(_, group)| !group.is_full())
            .flat_map(|(at, group)| group.lines.iter().map(move |line| (at, line)));
        let firsts = lines.filter_map(|(group, line)| {
            let (&ticket, waiter) = line.first_key_value()?;
            Some(FirstInLine {
                ticket,
                group,
                worker: waiter.worker,
                since_micros: waiter.since_micros,
            })
        });
        firsts
            .filter(|first| meant(first.worker))
            .min_by_key(|first| first.ticket)
    }

    fn has_socket(&self, kind: SocketKind) -> bool {
        let [shared, pinned, subscription] = self.sockets;
        // Implied by the rest, but while a reload moves the border between the kinds.
        if shared + pinned + subscription >= self.max {
            return false;
        }
        let free = pinned + subscription < self.pinned_max();
        match kind {
            SocketKind::Shared => shared < self.shared_max,
            SocketKind::Pinned => free,
            // What the holders of leases have not yet claimed is theirs.
            SocketKind::Subscription => free && self.leases + subscription < self.pinned_max(),
        }
    }

    /// Tells whether a lease is to be had. A subscription that waits has one set aside: otherwise leases changing hands would keep it out
    /// for ever.
    fn has_lease(&self) -> bool {
        let [_, _, subscription] = self.sockets;
        self.leases + subscription + self.line(SocketKind::Subscription).len() < self.pinned_max()
    }

    /// Returns how many may be lent: whatever is not for multiplexed traffic, or taken by it beyond that.
    fn pinned_max(&self) -> usize {
        let shared = self
            .shared_max
            .max(self.sockets[SocketKind::Shared as usize]);
        self.max.saturating_sub(shared)
    }

    fn line(&self, kind: SocketKind) -> &WaitingLine {
        &self.socket_lines[kind as usize]
    }

    /// Returns the group; one that was not configured has no `max_pinned` of its own.
    fn group(&mut self, group: usize) -> &mut GroupLeases {
        if self.groups.len() <= group {
            self.groups.resize_with(group + 1, GroupLeases::default);
        }
        &mut self.groups[group]
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }
}

/// The first of a line for leases.
struct FirstInLine {
    ticket: u64,
    group: usize,
    worker: usize,
    since_micros: u64,
}

impl FirstInLine {
    fn place(&self) -> (usize, usize) {
        (self.group, self.worker)
    }
}

impl BudgetWaiter {
    fn new(worker: usize, since_micros: u64) -> Self {
        Self {
            worker,
            since_micros,
            waker: None,
        }
    }
}

/// Returns the waker of one who has left a line.
fn gone(waiter: Option<BudgetWaiter>) -> Option<Waker> {
    waiter?.waker
}

/// Serves the first of a line.
fn grant(granted: &mut HashSet<u64>, line: &mut WaitingLine, effects: &mut LedgerEffects) {
    if let Some((ticket, waiter)) = line.pop_first() {
        granted.insert(ticket);
        effects.wake.extend(waiter.waker);
    }
}

/// Has `waker` called when the ticket is served. Returns always `false`: the ticket still waits.
fn keep_waker(
    line: &mut WaitingLine,
    ticket: u64,
    waker: &Waker,
    effects: &mut LedgerEffects,
) -> bool {
    match line.get_mut(&ticket).map(|waiter| &mut waiter.waker) {
        Some(Some(kept)) if kept.will_wake(waker) => {}
        Some(kept) => effects.discard.extend(kept.replace(waker.clone())),
        None => debug_assert!(false, "a ticket is in the line or granted"),
    }
    false
}
