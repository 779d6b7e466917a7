//! What is lent and who waits for it, as plain data: the decisions of the budget without locks and without calling
//! anybody.
//!
//! Whoever is served leaves the line and is remembered as granted until it claims or gives up. Wakers are handed to the
//! caller as [`Effects`], for the time when it no longer holds the lock.

use std::collections::{BTreeMap, HashSet};
use std::task::Waker;

use super::Kind;

/// Who waits, by ticket: tickets grow, so the first is who has waited longest. A waiter that was never polled has no
/// waker.
type Line = BTreeMap<u64, Option<Waker>>;

/// What a change of the ledger leaves to do: both can run anybody's code.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// To be woken: they have been served.
    pub(super) wake: Vec<Waker>,
    /// To be dropped: they were replaced, or gave up.
    pub(super) discard: Vec<Waker>,
}

#[derive(Debug)]
pub(super) struct Ledger {
    max: usize,
    shared_max: usize,
    next_ticket: u64,
    /// Served and not yet claimed.
    granted: HashSet<u64>,
    /// Sockets taken, granted ones included, by kind.
    sockets: [usize; 3],
    socket_lines: [Line; 3],
    /// Leases held, granted ones included.
    leases: usize,
    groups: Vec<GroupLeases>,
}

#[derive(Debug, Default)]
struct GroupLeases {
    max: Option<usize>,
    held: usize,
    line: Line,
}

impl GroupLeases {
    fn is_full(&self) -> bool {
        self.max.is_some_and(|max| self.held >= max)
    }
}

impl Ledger {
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
            groups: groups_max_pinned.into_iter().map(group).collect(),
        }
    }

    /// Lends by these numbers from now on. What is lent beyond them stays lent until it is given back.
    pub(super) fn resize(
        &mut self,
        max: usize,
        shared_max: usize,
        groups_max_pinned: &[Option<usize>],
        effects: &mut Effects,
    ) {
        self.max = max;
        self.shared_max = shared_max.min(max);
        for (index, max) in groups_max_pinned.iter().enumerate() {
            self.group(index).max = *max;
        }
        self.serve(effects);
    }

    pub(super) fn limit(&self) -> usize {
        self.max
    }

    pub(super) fn sockets(&self) -> [usize; 3] {
        self.sockets
    }

    pub(super) fn leases(&self) -> usize {
        self.leases
    }

    /// Whether more sockets are lent than there are to be, of all or of those that are not for multiplexed traffic.
    pub(super) fn is_exceeded(&self) -> bool {
        let [shared, pinned, subscription] = self.sockets;
        pinned + subscription > self.pinned_max() || shared + pinned + subscription > self.max
    }

    /// Those who wait for a pinned or a subscription socket, and sockets that are lent beyond what a reload has left.
    pub(super) fn sockets_wanted(&self) -> usize {
        let [shared, pinned, subscription] = self.sockets;
        let beyond = (pinned + subscription).saturating_sub(self.pinned_max());
        let beyond_all = (shared + pinned + subscription).saturating_sub(self.max);
        let waiting = self.line(Kind::Pinned).len() + self.line(Kind::Subscription).len();
        waiting + beyond.max(beyond_all)
    }

    /// Those who wait for a lease or a subscription socket, and would get it if one were given back: nobody whose group is
    /// full. Leases beyond what a reload has left count as wanted.
    pub(super) fn leases_wanted(&self) -> usize {
        let groups = self.groups.iter().filter(|group| !group.is_full());
        let leases = groups.map(|group| group.line.len());
        let [_, _, subscription] = self.sockets;
        let beyond = (self.leases + subscription).saturating_sub(self.pinned_max());
        leases.sum::<usize>() + self.line(Kind::Subscription).len() + beyond
    }

    /// All who wait.
    pub(super) fn waiting(&self) -> usize {
        let for_sockets = self.socket_lines.iter().map(BTreeMap::len).sum::<usize>();
        for_sockets
            + self
                .groups
                .iter()
                .map(|group| group.line.len())
                .sum::<usize>()
    }

    // Sockets.

    /// Takes a socket if there is one. Nobody who waits could have it: they would have been served.
    pub(super) fn try_socket(&mut self, kind: Kind) -> bool {
        let free = self.has_socket(kind);
        if free {
            self.sockets[kind as usize] += 1;
        }
        free
    }

    /// Counts a socket that is there, whether or not there is room for it.
    pub(super) fn count_socket(&mut self, kind: Kind) {
        self.sockets[kind as usize] += 1;
    }

    pub(super) fn return_socket(&mut self, kind: Kind, effects: &mut Effects) {
        self.sockets[kind as usize] -= 1;
        self.serve(effects);
    }

    /// Joins the line; the ticket may have been served at once.
    pub(super) fn join_sockets(&mut self, kind: Kind, effects: &mut Effects) -> u64 {
        let ticket = self.ticket();
        self.socket_lines[kind as usize].insert(ticket, None);
        self.serve(effects);
        ticket
    }

    pub(super) fn is_socket_waiting(&self, kind: Kind, ticket: u64) -> bool {
        self.line(kind).contains_key(&ticket)
    }

    /// Whether the ticket has been served; if not, `waker` is called when it is.
    pub(super) fn claim_socket(
        &mut self,
        kind: Kind,
        ticket: u64,
        waker: &Waker,
        effects: &mut Effects,
    ) -> bool {
        let line = &mut self.socket_lines[kind as usize];
        self.granted.remove(&ticket) || keep_waker(line, ticket, waker, effects)
    }

    /// Gives up a ticket, served or not.
    pub(super) fn leave_sockets(&mut self, kind: Kind, ticket: u64, effects: &mut Effects) {
        if self.granted.remove(&ticket) {
            self.sockets[kind as usize] -= 1;
        } else {
            effects
                .discard
                .extend(self.socket_lines[kind as usize].remove(&ticket).flatten());
        }
        // A subscription that no longer waits leaves its lease to others.
        self.serve(effects);
    }

    // Leases.

    /// Takes a lease if there is one. Nobody who waits could have it: they would have been served.
    pub(super) fn try_lease(&mut self, group: usize) -> bool {
        let free = self.has_lease() && !self.group(group).is_full();
        if free {
            self.group(group).held += 1;
            self.leases += 1;
        }
        free
    }

    pub(super) fn return_lease(&mut self, group: usize, effects: &mut Effects) {
        self.group(group).held -= 1;
        self.leases -= 1;
        self.serve(effects);
    }

    /// Joins the line; the ticket may have been served at once.
    pub(super) fn join_leases(&mut self, group: usize, effects: &mut Effects) -> u64 {
        let ticket = self.ticket();
        self.group(group).line.insert(ticket, None);
        self.serve(effects);
        ticket
    }

    /// Whether the ticket has been served; if not, `waker` is called when it is.
    pub(super) fn claim_lease(
        &mut self,
        group: usize,
        ticket: u64,
        waker: &Waker,
        effects: &mut Effects,
    ) -> bool {
        let line = &mut self.groups[group].line;
        self.granted.remove(&ticket) || keep_waker(line, ticket, waker, effects)
    }

    /// Gives up a ticket, served or not.
    pub(super) fn leave_leases(&mut self, group: usize, ticket: u64, effects: &mut Effects) {
        if self.granted.remove(&ticket) {
            self.return_lease(group, effects);
        } else {
            effects
                .discard
                .extend(self.group(group).line.remove(&ticket).flatten());
        }
    }

    // Who is next.

    /// Serves everybody who can be served, in order of arrival.
    fn serve(&mut self, effects: &mut Effects) {
        while let Some(kind) = self.next_socket() {
            self.sockets[kind as usize] += 1;
            grant(
                &mut self.granted,
                &mut self.socket_lines[kind as usize],
                effects,
            );
        }
        // Leases last: subscriptions that wait come before them.
        while let Some(group) = self.next_lease() {
            self.leases += 1;
            self.groups[group].held += 1;
            grant(&mut self.granted, &mut self.groups[group].line, effects);
        }
    }

    /// The line whose first is to be served next.
    fn next_socket(&self) -> Option<Kind> {
        let first = |kind: Kind| self.line(kind).keys().next().map(|&ticket| (ticket, kind));
        let lines = [Kind::Shared, Kind::Pinned, Kind::Subscription];
        let next = lines
            .into_iter()
            .filter(|&kind| self.has_socket(kind))
            .filter_map(first);
        next.min_by_key(|&(ticket, _)| ticket).map(|(_, kind)| kind)
    }

    /// The group whose first is to be served next.
    fn next_lease(&self) -> Option<usize> {
        if !self.has_lease() {
            return None;
        }
        let groups = self
            .groups
            .iter()
            .enumerate()
            .filter(|(_, group)| !group.is_full());
        let first = groups
            .filter_map(|(index, group)| group.line.keys().next().map(|&ticket| (ticket, index)));
        first.min().map(|(_, index)| index)
    }

    fn has_socket(&self, kind: Kind) -> bool {
        let [shared, pinned, subscription] = self.sockets;
        // Implied by the rest, but while a reload moves the border between the kinds.
        if shared + pinned + subscription >= self.max {
            return false;
        }
        let free = pinned + subscription < self.pinned_max();
        match kind {
            Kind::Shared => shared < self.shared_max,
            Kind::Pinned => free,
            // What the holders of leases have not yet claimed is theirs.
            Kind::Subscription => free && self.leases + subscription < self.pinned_max(),
        }
    }

    /// A subscription that waits has a lease set aside: otherwise leases changing hands would keep it out for ever.
    fn has_lease(&self) -> bool {
        let [_, _, subscription] = self.sockets;
        self.leases + subscription + self.line(Kind::Subscription).len() < self.pinned_max()
    }

    fn pinned_max(&self) -> usize {
        self.max - self.shared_max
    }

    fn line(&self, kind: Kind) -> &Line {
        &self.socket_lines[kind as usize]
    }

    /// The group; one that was not configured has no `max_pinned` of its own.
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

/// Serves the first of a line.
fn grant(granted: &mut HashSet<u64>, line: &mut Line, effects: &mut Effects) {
    if let Some((ticket, waker)) = line.pop_first() {
        granted.insert(ticket);
        effects.wake.extend(waker);
    }
}

/// Has `waker` called when the ticket is served. Always `false`: the ticket still waits.
fn keep_waker(line: &mut Line, ticket: u64, waker: &Waker, effects: &mut Effects) -> bool {
    match line.get_mut(&ticket) {
        Some(Some(kept)) if kept.will_wake(waker) => {}
        Some(kept) => effects.discard.extend(kept.replace(waker.clone())),
        None => debug_assert!(false, "a ticket is in the line or granted"),
    }
    false
}
