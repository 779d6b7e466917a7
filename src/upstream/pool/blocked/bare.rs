//! Tries are sent outside MULTI for users who may not use it and where the server's memory is full: each waits at the server for a moment,
//! so they are sent where nobody stands behind them, on a connection lent for them.
//!
//! Invariant: as long as nothing is known of a user, one of its tries at a time is on a shared connection.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

use super::SharedWork;
use crate::command::Delays;
use crate::session::State;
use crate::upstream::pool::Upstream;
use crate::upstream::pool::lent::PinError;
use crate::waits::{MultiPermission, MultiPermissions, TryFailure, TryId};

/// The connection is kept for this time while there are more tries.
const TURN: Duration = Duration::from_millis(100);

/// Bounds the tries that are sent without a lent connection each time that none was lent within `upstream.borrow_timeout`.
const WITHOUT_ONE: usize = 8;

/// Is a try that is to be sent.
pub(in crate::upstream) struct WantedTry {
    pub(in crate::upstream) attempt: TryId,
    pub(in crate::upstream) state: State,
    /// A connection would be lent for this client group.
    pub(in crate::upstream) group: usize,
    pub(in crate::upstream) delays: Delays,
}

/// Holds what is known of users, and whose tries wait because of it.
#[derive(Default)]
pub(in crate::upstream) struct BareTries {
    verdicts: RefCell<MultiPermissions>,
    /// Of these users another try is to tell.
    undecided: RefCell<Vec<WantedTry>>,
    /// These wait for a connection lent for them, of each client group for which one is being borrowed or is lent: a group that
    /// gets none holds up no other.
    queues: RefCell<BTreeMap<usize, VecDeque<WantedTry>>>,
}

impl BareTries {
    /// Adds a try. Returns whether nobody sends those of its group yet.
    fn enqueue(&self, wanted: WantedTry) -> bool {
        let mut queues = self.queues.borrow_mut();
        let is_first = !queues.contains_key(&wanted.group);
        queues.entry(wanted.group).or_default().push_back(wanted);
        is_first
    }

    /// Takes the next try of a group. `None`: there is none, and nobody sends them any more.
    fn next(&self, group: usize) -> Option<WantedTry> {
        let mut queues = self.queues.borrow_mut();
        let next = queues.get_mut(&group)?.pop_front();
        if next.is_none() {
            queues.remove(&group);
        }
        next
    }

    /// Takes the next try of a group, if it is of the same user.
    fn next_alike(&self, state: &State, group: usize) -> Option<WantedTry> {
        let mut queues = self.queues.borrow_mut();
        let queue = queues.get_mut(&group)?;
        queue.front().filter(|next| next.state == *state)?;
        queue.pop_front()
    }
}

/// Lives as long as the try that tells of a user. Its drop lets the others of that user go on.
pub(in crate::upstream) struct MultiQuestion {
    upstream: Weak<Upstream>,
    state: State,
}

impl Drop for MultiQuestion {
    fn drop(&mut self) {
        let Some(upstream) = self.upstream.upgrade() else {
            return;
        };
        let apart = &upstream.blocked.apart;
        let user = user(&self.state);
        apart.verdicts.borrow_mut().asked(user);
        let undecided = apart.undecided.take();
        if undecided.is_empty() {
            return;
        }
        // Not amid whatever has ended the try.
        let upstream = Rc::clone(&upstream);
        tokio::task::spawn_local(async move {
            for wanted in undecided {
                upstream.send_somewhere(wanted);
            }
            upstream.carry_out();
        });
    }
}

fn user(state: &State) -> Option<&[u8]> {
    state.user.as_ref().map(|user| user.user())
}

impl Upstream {
    /// Sends a try where it holds up nobody.
    pub(in crate::upstream) fn send_somewhere(self: &Rc<Self>, wanted: WantedTry) {
        let apart = &self.blocked.apart;
        let verdict = apart.verdicts.borrow().of(user(&wanted.state));
        match verdict {
            MultiPermission::Allowed => {
                self.find_for(wanted.state.clone(), SharedWork::Try(wanted, None))
            }
            MultiPermission::Unknown => {
                apart.verdicts.borrow_mut().ask(user(&wanted.state));
                let asking = MultiQuestion {
                    upstream: Rc::downgrade(self),
                    state: wanted.state.clone(),
                };
                self.find_for(wanted.state.clone(), SharedWork::Try(wanted, Some(asking)));
            }
            MultiPermission::Asked => {
                apart.undecided.borrow_mut().push(wanted);
                self.send_undecided_reads();
            }
            MultiPermission::Refused => self.send_where_nobody_waits(wanted),
        }
    }

    /// Sends tries that are no writes while writes are held back: the try that is to tell of their user may be one.
    pub(in crate::upstream) fn send_undecided_reads(self: &Rc<Self>) {
        if !self.are_writes_held() {
            return;
        }
        let mut undecided = self.blocked.apart.undecided.borrow_mut();
        let is_read = |wanted: &mut WantedTry| !wanted.delays.may_pause();
        let reads: Vec<WantedTry> = undecided.extract_if(.., is_read).collect();
        drop(undecided);
        for wanted in reads {
            self.find_for(wanted.state.clone(), SharedWork::Try(wanted, None));
        }
    }

    /// Sends a try that waits at the server for a moment on a connection lent for such.
    pub(in crate::upstream) fn send_where_nobody_waits(self: &Rc<Self>, wanted: WantedTry) {
        let group = wanted.group;
        if self.blocked.apart.enqueue(wanted) {
            tokio::task::spawn_local(Rc::clone(self).send_apart(group));
        }
    }

    /// Takes in what the server has answered to the MULTI of a try in `state`.
    pub(in crate::upstream) fn told_of_multi(&self, state: &State, answer: &[u8]) {
        let apart = &self.blocked.apart;
        apart.verdicts.borrow_mut().told(user(state), answer);
    }

    /// Sends tries of a group on a connection lent for them until none is left. It is given back now and then, so that
    /// others get it.
    async fn send_apart(self: Rc<Self>, group: usize) {
        while let Some(wanted) = self.blocked.apart.next(group) {
            self.send_some_apart(wanted).await;
            self.carry_out();
        }
    }

    /// Sends `first` and what stands behind it of the same user.
    async fn send_some_apart(self: &Rc<Self>, first: WantedTry) {
        let budget = &self.thread.process.budget;
        let (state, group) = (first.state.clone(), first.group);
        let limit = self.thread.settings().upstream.borrow_timeout;
        let turn = budget.wait_lease(group, self.thread.index);
        let Some(lease) = self.thread.within(limit, turn).await else {
            // Its group may never get one: a few of them go where they hold up others, for a moment each.
            let send = |wanted| self.find_for(state.clone(), SharedWork::Try(wanted, None));
            send(first);
            for _ in 1..WITHOUT_ONE {
                if let Some(next) = self.blocked.apart.next_alike(&state, group) {
                    send(next);
                }
            }
            return;
        };
        let limit = self.thread.settings().upstream.queue.timeout;
        let link = match self.thread.within(limit, self.unused(&state)).await {
            Some(Ok(link)) => link,
            found => {
                let failure = match found {
                    Some(Err(PinError::Refused(reply))) => TryFailure::Refused(reply),
                    _ => TryFailure::Unreachable,
                };
                let now = self.thread.clock.refresh();
                let mut waits = self.blocked.waits.borrow_mut();
                return waits.failed(first.attempt, failure, now);
            }
        };
        let pin = self.lend(Rc::clone(&link), lease, None);
        let lent = self.thread.clock.refresh();
        let mut next = Some(first.attempt);
        while let Some(attempt) = next {
            let now = self.thread.clock.refresh();
            let sending = self.blocked.waits.borrow_mut().begin(attempt, now);
            if let Some(sending) = sending {
                let (under_way, answered) = oneshot::channel::<()>();
                self.send_try(&link, attempt, sending, move || drop(under_way));
                // It ends with an error as soon as the other end is dropped.
                drop(answered.await);
            }
            self.carry_out();
            let may = link.is_alive() && !self.thread.clock.is_past(lent, TURN);
            next = may
                .then(|| self.blocked.apart.next_alike(&state, group))
                .flatten()
                .map(|wanted| wanted.attempt);
        }
        pin.give_back_clear();
    }
}
