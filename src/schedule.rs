//! Decides which state each shared connection of a worker serves next, and keeps who waits for a change of state.
//!
//! A pure state machine: the caller tells it what happened and carries out the actions it returns.
//! Invariant: a connection is offered only for the state the server has acknowledged on it.
//! Invariant: a connection past the number there are to be is offered to nobody, and not opened.
//! Invariant: while a state is waited for, another is served for at most a quantum, then the one that has waited longest; those
//! who log in and those whose commands wait have their turns by turns, so that neither hold up the others.
//! Invariant: those who log in have one turn for each address, and an address that has failed comes behind those that have not.

mod reply_times;
mod room;
mod share;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

pub use reply_times::{ConnectionLoad, ReplyTimes};
pub use room::{RoomQueue, RoomTicket};
pub use share::{AnsweredRequests, BusyCause, ClientShare, LinkCompany, goes_on_at};

/// A connection serves this many requests in one state while others wait. A change costs one round trip; 256 requests of 1 to 2
/// µs each keep that below a third of the time on loopback, and the wait of others below a millisecond.
const QUANTUM: u32 = 256;

/// A connection takes requests of one state for this long at most while others wait, from the first of them on; round trips
/// come on top. Requests that take the server 10 ms each would else keep others waiting for two and a half seconds.
const QUANTUM_MICROS: u64 = 5_000;

/// A client behind N others of its address logs in as if it had come N times this number of turns later: behind the first
/// attempts of many addresses, and before newcomers without end.
const TURNS_BEHIND: u64 = 64;

/// Says where one who logs in stands among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginPlace {
    /// Others are served by what it shows: it stands behind nobody's guesses.
    First,
    /// Its address has so many attempts before this one that are on their way or have failed.
    Behind(u64),
}

/// Says what the caller has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum ScheduleAction<S> {
    /// It opens a connection, and tells `changed`, `refused_and_closed` or `lost`.
    Dial {
        /// The connection has this number.
        link: usize,
        /// It is to be in this state.
        state: S,
    },
    /// It sends the commands that change a connection's state, behind everything the connection was sent before.
    ChangeState {
        /// The connection has this number.
        link: usize,
        /// It is to be in this state.
        state: S,
        /// Its user has to be acknowledged anew.
        reauthenticates: bool,
    },
}

/// Says what a connection owes; the least is first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwedReplies {
    /// It owes something that the server may work on for long: a change behind it may wait as long as that.
    pub may_work: bool,
    /// It owes this many replies.
    pub replies: usize,
}

/// Identifies one who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScheduleTicket(u64);

#[derive(Debug)]
enum LinkPhase<S> {
    Absent,
    /// It is lost, and not yet closed at the server: its place cannot be used.
    Closing,
    /// It is being opened or changed; a queue that waits for this is taken care of by it.
    Changing {
        target: S,
        reauthenticates: bool,
    },
    Serves(S),
}

#[derive(Debug)]
struct ScheduledLink<S> {
    phase: LinkPhase<S>,
    /// It has served this number of requests since the last change.
    served: u32,
    /// Others who wait let it go on until then; set by the first request since the last change.
    until_micros: Option<u64>,
    /// This number of waiters were promised the connection and have not used it yet.
    promised: u32,
}

impl<S> ScheduledLink<S> {
    fn absent() -> Self {
        Self {
            phase: LinkPhase::Absent,
            served: 0,
            until_micros: None,
            promised: 0,
        }
    }

    /// Tells whether it has served its state for as long as it may while others wait.
    fn is_done(&self, now_micros: u64) -> bool {
        self.served >= QUANTUM || self.until_micros.is_some_and(|until| now_micros >= until)
    }
}

#[derive(Debug)]
struct StateQueue<S, T> {
    state: S,
    /// The state has to be acknowledged anew, even by a connection that is in it (AUTH).
    reauthenticates: bool,
    /// It has its own turn before this turn of those who log in, by what is known of its address.
    turn: u64,
    waiters: BTreeMap<ScheduleTicket, T>,
}

/// The shared connections of one worker, and who waits for their states.
#[derive(Debug)]
pub struct StateSchedule<S, T> {
    links: Vec<ScheduledLink<S>>,
    /// The connections before this place are used; the others are to be closed.
    used: usize,
    /// They stand in order of waiting: the first has waited longest.
    queues: VecDeque<StateQueue<S, T>>,
    /// Those who log in stand in the order of their turns.
    logins: VecDeque<StateQueue<S, T>>,
    /// Those who log in have had this many turns so far.
    login_turns: u64,
    /// The last turn was that of one who logs in.
    was_login: bool,
    next_ticket: u64,
    waiting: usize,
}

impl<S: Clone + PartialEq, T> StateSchedule<S, T> {
    /// Makes a schedule of `links` connections, none of them open.
    pub fn new(links: usize) -> Self {
        Self {
            links: (0..links).map(|_| ScheduledLink::absent()).collect(),
            used: links,
            queues: VecDeque::new(),
            logins: VecDeque::new(),
            login_turns: 0,
            was_login: false,
            next_ticket: 0,
            waiting: 0,
        }
    }

    /// Says that there are to be `links` connections, at least one. Those past it are offered to nobody any more; the caller
    /// closes them when they owe nothing, and tells `closing` and `lost`.
    pub fn resize(&mut self, links: usize) {
        self.used = links.max(1);
        while self.links.len() < self.used {
            self.links.push(ScheduledLink::absent());
        }
    }

    /// Tells whether somebody was promised connection `link` and has not used it yet.
    pub fn is_promised(&self, link: usize) -> bool {
        self.links[link].promised > 0
    }

    /// Tells whether connection `link` is past the number there are to be.
    pub fn is_surplus(&self, link: usize) -> bool {
        link >= self.used
    }

    /// Returns how many wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Tells whether connection `link` may take requests of `state` now.
    #[inline]
    pub fn serves(&self, link: usize, state: &S, now_micros: u64) -> bool {
        if self.is_surplus(link) {
            return false;
        }
        let link = &self.links[link];
        matches!(&link.phase, LinkPhase::Serves(served) if served == state)
            && (self.waiting == 0 || !link.is_done(now_micros) || !self.others_wait(state))
    }

    /// Returns the connection that should take requests of `state`, and its load: the first whose load is 0, else that with
    /// the least. It is the first, since what goes to few connections is written and answered in larger batches.
    #[inline]
    pub fn pick(
        &self,
        state: &S,
        now_micros: u64,
        load: impl Fn(usize) -> u64,
    ) -> Option<(usize, u64)> {
        let mut best: Option<(usize, u64)> = None;
        for link in (0..self.used).filter(|&link| self.serves(link, state, now_micros)) {
            let load = load(link);
            if load == 0 {
                return Some((link, load));
            }
            if best.is_none_or(|(_, least)| load < least) {
                best = Some((link, load));
            }
        }
        best
    }

    /// Opens another connection for `state`, which those that are in it are too busy to serve well, if one is not open yet
    /// and `may_dial` says that one may be opened.
    pub fn grow(
        &mut self,
        state: &S,
        may_dial: impl FnOnce() -> bool,
    ) -> Option<ScheduleAction<S>> {
        let is_target = |link: &ScheduledLink<S>| matches!(&link.phase, LinkPhase::Changing { target, .. } if target == state);
        let mut used = self.links[..self.used].iter();
        if used.clone().any(is_target) {
            return None;
        }
        let link = used.position(|link| matches!(link.phase, LinkPhase::Absent))?;
        if !may_dial() {
            return None;
        }
        Some(self.dial(link, state.clone(), false))
    }

    /// Tells whether there may be another connection than there are.
    pub fn may_grow(&self) -> bool {
        let mut used = self.links[..self.used].iter();
        used.any(|link| matches!(link.phase, LinkPhase::Absent))
    }

    /// Returns what connection `link` is being changed to.
    pub fn target(&self, link: usize) -> Option<&S> {
        match &self.links.get(link)?.phase {
            LinkPhase::Changing { target, .. } => Some(target),
            _ => None,
        }
    }

    /// Tells whether connection `link` may be offered to anybody.
    pub fn is_offered(&self, link: usize) -> bool {
        matches!(
            self.links[link].phase,
            LinkPhase::Serves(_) | LinkPhase::Changing { .. }
        )
    }

    /// Has `waiter` wait for a connection in `state`.
    pub fn wait(&mut self, state: &S, waiter: T) -> ScheduleTicket {
        let ticket = self.ticket();
        match self.queues.iter_mut().find(|queue| queue.state == *state) {
            Some(queue) => drop(queue.waiters.insert(ticket, waiter)),
            None => self.queues.push_back(StateQueue {
                state: state.clone(),
                reauthenticates: false,
                turn: 0,
                waiters: BTreeMap::from([(ticket, waiter)]),
            }),
        }
        ticket
    }

    /// Has `waiter` wait for `state` to be acknowledged anew.
    pub fn log_in(&mut self, state: &S, place: LoginPlace, waiter: T) -> ScheduleTicket {
        let ticket = self.ticket();
        let turn = match place {
            LoginPlace::First => 0,
            LoginPlace::Behind(others) => self
                .login_turns
                .saturating_add(1)
                .saturating_add(others.saturating_mul(TURNS_BEHIND)),
        };
        let mut waiters = BTreeMap::from([(ticket, waiter)]);
        if let Some(at) = self.logins.iter().position(|queue| queue.state == *state) {
            let queue = &mut self.logins[at];
            if queue.turn <= turn {
                // It stays where it stands, before whoever has come behind it since.
                queue.waiters.append(&mut waiters);
                return ticket;
            }
            waiters.append(&mut queue.waiters);
            self.logins.remove(at);
        }
        let at = self.logins.partition_point(|queue| queue.turn <= turn);
        let queue = StateQueue {
            state: state.clone(),
            reauthenticates: true,
            turn,
            waiters,
        };
        self.logins.insert(at, queue);
        ticket
    }

    fn ticket(&mut self) -> ScheduleTicket {
        let ticket = ScheduleTicket(self.next_ticket);
        self.next_ticket += 1;
        self.waiting += 1;
        ticket
    }

    /// Forgets one who waited and has left. False: the ticket was not waiting any more.
    pub fn leave(&mut self, ticket: ScheduleTicket) -> bool {
        for queues in [&mut self.queues, &mut self.logins] {
            let waited = |queue: &mut StateQueue<S, T>| queue.waiters.remove(&ticket).is_some();
            if let Some(at) = queues.iter_mut().position(waited) {
                self.waiting -= 1;
                if queues[at].waiters.is_empty() {
                    queues.remove(at);
                }
                return true;
            }
        }
        false
    }

    /// Returns the next thing to do for those who wait, if anything can be done now. `owed` tells what a connection still
    /// owes, `None` where no reply comes, `may_dial` whether another may be opened; the caller calls again after every change
    /// until it returns nothing, and from time to time.
    pub fn next(
        &mut self,
        now_micros: u64,
        owed: impl Fn(usize) -> Option<OwedReplies>,
        may_dial: impl FnOnce() -> bool,
    ) -> Option<ScheduleAction<S>> {
        if self.waiting == 0 {
            return None;
        }
        let waited = self.next_queue()?;
        let (state, reauthenticates) = (waited.state.clone(), waited.reauthenticates);
        let mut used = self.links[..self.used].iter();
        let absent = |link: &ScheduledLink<S>| matches!(link.phase, LinkPhase::Absent);
        // Where none may be opened those that are open must do.
        if let Some(link) = used.clone().position(absent)
            && may_dial()
        {
            self.takes_turn(reauthenticates);
            return Some(self.dial(link, state, reauthenticates));
        }
        let free = |link: &ScheduledLink<S>| {
            matches!(link.phase, LinkPhase::Serves(_)) && link.promised == 0
        };
        let (_, link) = used
            .by_ref()
            .enumerate()
            .filter(|(_, link)| free(link))
            .filter_map(|(index, link)| Some((owed(index)?, link.is_done(now_micros), index)))
            .filter(|&(owed, is_done, _)| owed.replies == 0 || is_done)
            .map(|(owed, _, index)| (owed, index))
            .min()?;
        self.takes_turn(reauthenticates);
        self.links[link].phase = LinkPhase::Changing {
            target: state.clone(),
            reauthenticates,
        };
        Some(ScheduleAction::ChangeState {
            link,
            state,
            reauthenticates,
        })
    }

    /// Notes that connection `link` was acknowledged in `state`. Returns those who may use it now, each promised its turn:
    /// each is settled by [`Self::settled`].
    pub fn changed(&mut self, link: usize, state: &S) -> Vec<T> {
        let reauthenticates = matches!(
            self.links[link].phase,
            LinkPhase::Changing {
                reauthenticates: true,
                ..
            }
        );
        self.links[link] = ScheduledLink {
            phase: LinkPhase::Serves(state.clone()),
            ..ScheduledLink::absent()
        };
        if self.is_surplus(link) {
            return Vec::new();
        }
        let mut granted = self.take(state, false, QUANTUM as usize);
        if reauthenticates {
            granted.extend(self.take(state, true, usize::MAX));
        }
        self.links[link].promised = granted.len() as u32;
        granted
    }

    /// Notes that the server refused to change connection `link` to what it was meant to be in; it is in `state`. Returns
    /// those who waited for what was refused.
    pub fn refused(&mut self, link: usize, state: &S) -> Vec<T> {
        let unchanged = ScheduledLink {
            phase: LinkPhase::Serves(state.clone()),
            ..ScheduledLink::absent()
        };
        let old = std::mem::replace(&mut self.links[link], unchanged);
        match old.phase {
            LinkPhase::Changing {
                target,
                reauthenticates,
            } => self.take(&target, reauthenticates, usize::MAX),
            _ => Vec::new(),
        }
    }

    /// Notes that connection `link` is being opened in `state`, though nobody may wait for it.
    pub fn open(&mut self, link: usize, state: &S) {
        self.links[link].phase = LinkPhase::Changing {
            target: state.clone(),
            reauthenticates: false,
        };
    }

    /// Takes off who has waited too long: in each queue those at the front for whom `late` holds.
    pub fn take_while(&mut self, late: impl Fn(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for queue in self.queues.iter_mut().chain(&mut self.logins) {
            while let Some(entry) = queue
                .waiters
                .first_entry()
                .filter(|entry| late(entry.get()))
            {
                taken.push(entry.remove());
            }
        }
        self.forget_empty();
        self.waiting -= taken.len();
        taken
    }

    /// Takes off those for whom `fits` holds.
    pub fn take_each(&mut self, fits: impl Fn(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for queue in self.queues.iter_mut().chain(&mut self.logins) {
            let tickets = queue.waiters.iter().filter(|(_, waiter)| fits(waiter));
            let tickets: Vec<ScheduleTicket> = tickets.map(|(&ticket, _)| ticket).collect();
            taken.extend(
                tickets
                    .iter()
                    .filter_map(|ticket| queue.waiters.remove(ticket)),
            );
        }
        self.forget_empty();
        self.waiting -= taken.len();
        taken
    }

    /// Notes that connection `link` could not be opened in its state because the server refused that state. Returns those who
    /// waited for it.
    pub fn refused_and_closed(&mut self, link: usize) -> Vec<T> {
        match std::mem::replace(&mut self.links[link], ScheduledLink::absent()).phase {
            LinkPhase::Changing {
                target,
                reauthenticates,
            } => self.take(&target, reauthenticates, usize::MAX),
            _ => Vec::new(),
        }
    }

    /// Notes that connection `link` is lost; those who waited for it wait on. Its place is free after [`Self::lost`].
    pub fn closing(&mut self, link: usize) {
        self.links[link] = ScheduledLink {
            phase: LinkPhase::Closing,
            ..ScheduledLink::absent()
        };
    }

    /// Notes that connection `link` is gone.
    pub fn lost(&mut self, link: usize) {
        self.links[link] = ScheduledLink::absent();
    }

    /// Notes that `count` requests went to connection `link`, from where a reply is under way for `round_trip_micros`.
    #[inline]
    pub fn served(&mut self, link: usize, count: u32, now_micros: u64, round_trip_micros: u64) {
        let link = &mut self.links[link];
        link.served = link.served.saturating_add(count);
        if link.until_micros.is_none() {
            // What is sent within a round trip is answered with the first.
            link.until_micros = Some(now_micros + QUANTUM_MICROS + 3 * round_trip_micros);
        }
    }

    /// Notes that one who was promised connection `link` has used it or will not.
    pub fn settled(&mut self, link: usize) {
        let link = &mut self.links[link];
        link.promised = link.promised.saturating_sub(1);
    }

    fn others_wait(&self, state: &S) -> bool {
        !self.logins.is_empty() || self.queues.iter().any(|queue| queue.state != *state)
    }

    /// Returns those whose turn is next, of those for whom nothing is done yet.
    fn next_queue(&self) -> Option<&StateQueue<S, T>> {
        let is_left = |queue: &&StateQueue<S, T>| !self.is_cared_for(queue);
        let commands = || self.queues.iter().find(is_left);
        let logins = || self.logins.iter().find(is_left);
        match self.was_login {
            true => commands().or_else(logins),
            false => logins().or_else(commands),
        }
    }

    fn takes_turn(&mut self, is_login: bool) {
        self.was_login = is_login;
        self.login_turns += u64::from(is_login);
    }

    fn forget_empty(&mut self) {
        for queues in [&mut self.queues, &mut self.logins] {
            queues.retain(|queue| !queue.waiters.is_empty());
        }
    }

    /// Tells whether a connection is being opened or changed for `queue`, or already serves it.
    fn is_cared_for(&self, queue: &StateQueue<S, T>) -> bool {
        let mut used = self.links[..self.used].iter();
        used.any(|link| match &link.phase {
            LinkPhase::Changing {
                target,
                reauthenticates,
            } => *target == queue.state && *reauthenticates == queue.reauthenticates,
            _ => false,
        })
    }

    fn dial(&mut self, link: usize, state: S, reauthenticates: bool) -> ScheduleAction<S> {
        self.links[link].phase = LinkPhase::Changing {
            target: state.clone(),
            reauthenticates,
        };
        ScheduleAction::Dial { link, state }
    }

    /// Takes up to `most` waiters off the queue; those left queue up again at the end.
    fn take(&mut self, state: &S, reauthenticates: bool, most: usize) -> Vec<T> {
        let queues = match reauthenticates {
            true => &mut self.logins,
            false => &mut self.queues,
        };
        let found = queues.iter().position(|queue| queue.state == *state);
        let Some(mut queue) = found.and_then(|index| queues.remove(index)) else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some((_, waiter)) = queue.waiters.pop_first()
        {
            taken.push(waiter);
        }
        self.waiting -= taken.len();
        if !queue.waiters.is_empty() {
            queues.push_back(queue);
        }
        taken
    }
}
