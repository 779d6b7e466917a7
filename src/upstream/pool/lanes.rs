//! Where requests go while a connection is stalled, or the server holds writes back: what can pass them by does.
//!
//! That writes are held back is known from a `CLIENT PAUSE` that passed through, or seen: a write is not answered, and on
//! another connection the server has answered what was sent later. Writes then gather where writes stand already. A worker whose
//! shared connections are all held up so lends others for what the server does answer, one request of a client at a time.
//! Invariant: while writes are held back nothing but them, and what its own client sent behind them, is sent on a connection
//! where one is due.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::{SharedWaitOutcome, SharedWaiter, Upstream};
use crate::command::Delays;
use crate::failover::ServerNode;
use crate::link::Link;
use crate::schedule::ScheduleAction;
use crate::session::State;

/// The server is asked whether it holds a write back at most once in this time.
const ASKED_EVERY: Duration = Duration::from_millis(100);

/// Says where a request is to go that need not stay where its client is.
enum RequestLane {
    /// It goes where it would at any time.
    Any,
    /// It goes to this connection.
    Link(Rc<Link>),
    /// It goes to one that is not there yet.
    Another,
    /// It goes to one that is lent for it.
    Lent,
}

/// It is looked this often whether a shared connection takes what ends a script or a pause.
const LOOKED_EVERY: Duration = Duration::from_millis(10);

/// Says what a command ends that keeps the server from answering others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndsDelay {
    /// It ends a script without end.
    Script,
    /// It ends a pause.
    Pause,
}

impl Upstream {
    /// Tells whether the server holds writes back now.
    #[inline]
    pub fn are_writes_held(&self) -> bool {
        self.stalls.are_writes_held.get()
            || self
                .thread
                .process
                .pulse
                .are_writes_paused(self.thread.clock.now_micros())
    }

    /// Tells whether a pause keeps the server at `node` from answering anything of respool's own, on every shared connection to it, and on one lent
    /// for it.
    pub(super) fn holds_up_questions(&self, node: &ServerNode) -> bool {
        let is_free = |link: &Link| !self.is_held_up(link);
        let may_answer = || {
            self.shared_at(node, is_free).is_some() || !self.thread.is_nobody() && self.may_lend(0)
        };
        self.puts_off(false) || self.are_writes_held() && !may_answer()
    }

    /// Tells whether a connection can be lent to a group now.
    pub(super) fn may_lend(&self, group: usize) -> bool {
        let budget = &self.thread.process.budget;
        budget.try_lease(group, self.thread.index).is_some()
    }

    /// Returns, where none can be lent to a group, a shared connection for what ends a script or a pause, which does not wait for those who wait for
    /// its end: for the user of `state`, in any database, for it needs none, and a server that runs a script changes to none. It must
    /// not stand behind what it is to end.
    pub fn bypass(&self, group: usize, state: &State, ends: EndsDelay) -> Option<Rc<Link>> {
        if self.may_lend(group) {
            return None;
        }
        let is_alike = |one: &State| one.user == state.user && one.protocol == state.protocol;
        let schedule = self.schedule.borrow();
        let fits = |link: &&Rc<Link>| {
            let target = || schedule.target(link.slot()?);
            let stays = || target().is_none_or(is_alike);
            let is_free = link.is_alive() && link.leaving().is_none();
            let is_behind = match ends {
                EndsDelay::Script => link.may_owe_script(self.thread.busy_since()),
                EndsDelay::Pause => self.is_held_up(link),
            };
            is_free && is_alike(&link.state()) && stays() && !is_behind
        };
        let links = self.links.borrow();
        self.least_held_up(links.iter().flatten().filter(fits))
    }

    /// Waits until there is such a connection, for as long as who waits for a loan has not got its turn.
    pub async fn until_bypass(
        &self,
        (group, state): (usize, &State),
        ends: EndsDelay,
        has_turn: &Cell<bool>,
    ) {
        while has_turn.get() || self.bypass(group, state, ends).is_none() {
            tokio::time::sleep(LOOKED_EVERY).await;
        }
    }

    /// Tells whether a shared connection owes an answer for longer than servers take.
    pub fn is_stalled(&self) -> bool {
        self.stalls.is_any.get()
    }

    /// Tells whether something has been answered that was sent later than then.
    pub fn has_answered(&self, since_micros: u64) -> bool {
        self.thread.pulse.answered_micros() > since_micros
    }

    /// Tells whether a pause is seen to hold writes back: one is not answered, and what was sent later is.
    pub fn sees_writes_held(&self) -> bool {
        self.stalls.are_writes_held.get()
    }

    /// Tells whether the server puts off a call that is sent now, as far as is known; `writes`: it is a write.
    pub fn puts_off(&self, writes: bool) -> bool {
        let now = self.thread.clock.now_micros();
        writes && self.are_writes_held() || self.thread.process.pulse.is_all_paused(now)
    }

    /// Tells whether the server may have put off a call that was sent then, instead of having it wait. Redis 6.2 and 7.0 end with a
    /// fault when a client is unblocked whose call they have put off.
    pub(super) fn may_be_put_off(&self, sent_micros: u64, writes: bool) -> bool {
        let now = self.thread.clock.refresh();
        let is_done = self.thread.pulse.has_written_behind(sent_micros);
        let is_seen = writes && self.stalls.are_writes_held.get() && !is_done;
        let pauses = &self.thread.process.pulse.pauses;
        is_seen || pauses.may_put_off(sent_micros, writes, now)
    }

    /// Tells whether it matters on which connection a client goes on that has nothing due.
    #[inline]
    pub fn has_lanes(&self) -> bool {
        self.stalls.is_any.get() || self.are_writes_held()
    }

    /// Takes in that the server has done a write of respool's own that was sent then: it holds nothing back. `answered_micros`: the latest that had
    /// been sent and answered then.
    pub(super) fn note_written(&self, sent_micros: u64, answered_micros: u64) {
        let now = self.thread.clock.now_micros();
        self.thread.process.pulse.pauses.written(sent_micros, now);
        self.thread.pulse.written(answered_micros);
        self.stalls.written(sent_micros);
    }

    /// Looks whether the server holds writes back, and asks it where that cannot be told.
    pub(super) fn look_for_pause(self: &Rc<Self>) {
        let links: Vec<Rc<Link>> = self.links.borrow().iter().flatten().cloned().collect();
        let held = links.iter().filter_map(|link| link.held_since()).min();
        let answered = self.thread.pulse.answered_micros();
        let worked_on = links.iter().filter_map(|link| link.worked_on_since()).min();
        let busy = self.thread.pulse.busy_micros();
        if !self.stalls.look((held, worked_on), answered, busy) {
            return;
        }
        let idle_pins = self.idle.all().clone();
        if !self.ask_anew(links.iter().chain(&idle_pins), ASKED_EVERY)
            && let Some(stalled) = links.iter().find(|link| link.is_stalled())
        {
            let state = stalled.state().clone();
            self.grow(&state);
            if idle_pins.is_empty() && !self.schedule.borrow().may_grow() {
                self.open_to_ask();
            }
        }
    }

    /// Opens a connection on which the server can be asked where each shared one is stalled, if one may be lent.
    fn open_to_ask(self: &Rc<Self>) {
        let budget = &self.thread.process.budget;
        if self.stalls.is_opening_to_ask.get() {
            return;
        }
        // It counts for nobody's group for longer than the connect takes.
        let Some(lease) = budget.try_lease(0, self.thread.index) else {
            return;
        };
        self.stalls.is_opening_to_ask.set(true);
        let upstream = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let limit = upstream.thread.settings().upstream.connect_timeout;
            let opening = upstream.unused(&State::INITIAL);
            let opened = upstream.thread.while_running(limit, opening).await;
            if let Some(Ok(link)) = opened {
                upstream.keep_idle(link);
            }
            drop(lease);
            upstream.stalls.is_opening_to_ask.set(false);
        });
    }

    /// Tells whether the server is known to answer what `delays` may delay, though on none of the shared connections there are or may
    /// be: a worker that has one has nothing else to send it on.
    fn is_shut(&self, delays: Delays) -> bool {
        let is_held = self.are_writes_held();
        let is_answered = self.stalls.is_script_seen.get() || (is_held && !delays.may_pause());
        if !is_answered || self.is_away() || self.schedule.borrow().may_grow() {
            return false;
        }
        let links = self.links.borrow();
        let is_held_up = |link: &Rc<Link>| link.is_stalled() || (is_held && link.owes_write());
        links.iter().flatten().all(is_held_up)
    }

    /// Tells whether what is sent on `link` now may stand behind what the server does not answer though it answers elsewhere. A command
    /// that may work is due from the moment on that it is sent: it is not told yet whether it is the script that keeps a server
    /// busy.
    pub(super) fn is_held_up(&self, link: &Link) -> bool {
        link.is_stalled()
            || (self.are_writes_held() && link.owes_write())
            || (self.thread.says_busy() && link.may_work())
    }

    /// Tells whether that is so of every shared connection there is or may be, or is being opened.
    pub(super) fn are_all_held_up(&self) -> bool {
        let schedule = self.schedule.borrow();
        let links = self.links.borrow();
        let is_held_up = |(slot, link): (usize, &Option<Rc<Link>>)| match link {
            Some(link) => self.is_held_up(link),
            None => !schedule.is_offered(slot),
        };
        !schedule.may_grow() && links.iter().enumerate().all(is_held_up)
    }

    /// Tells whether the server is known to answer a question, though on none of the shared connections.
    pub(super) fn answers_elsewhere(&self) -> bool {
        self.are_all_held_up() && (self.thread.says_busy() || self.is_shut(Delays::NONE))
    }

    /// Returns that of `links` on which a request of respool's own waits for the least.
    pub(super) fn least_held_up<'a>(
        &self,
        links: impl Iterator<Item = &'a Rc<Link>>,
    ) -> Option<Rc<Link>> {
        links
            .min_by_key(|link| (self.is_held_up(link), link.may_work(), link.load()))
            .cloned()
    }

    /// Ends the waits for a shared connection of those whose requests are better sent on one that is lent for them.
    pub(super) fn send_elsewhere(&self) {
        if !self.has_lanes() || self.schedule.borrow().waiting() == 0 {
            return;
        }
        let (reads, writes) = (self.is_shut(Delays::NONE), self.is_shut(Delays::PAUSE));
        let goes = |waiter: &Rc<SharedWaiter>| match waiter.may_be_lent.get() {
            Some(delays) if delays.may_pause() => writes,
            Some(_) => reads,
            None => false,
        };
        let gone = self.schedule.borrow_mut().take_each(goes);
        for waiter in gone {
            waiter.settle(SharedWaitOutcome::Taken);
        }
    }

    /// Tells whether a request of `state` that `delays` may delay is better sent on a connection lent for it than waits for a shared one.
    pub fn lends_instead(&self, state: &State, delays: Delays) -> bool {
        matches!(self.lane(state, delays), RequestLane::Lent)
    }

    /// Opens another shared connection for `state`, if there may be one.
    #[cold]
    pub(super) fn grow(self: &Rc<Self>, state: &State) {
        let mut permit = None;
        let grown = self.schedule.borrow_mut().grow(state, || {
            permit = self.spare_permit();
            permit.is_some()
        });
        if let Some(ScheduleAction::Dial { link, state }) = grown {
            self.thread.keep(
                "keeps connections to the server",
                Rc::clone(self).open(link, state, permit),
            );
        }
    }

    /// Returns the shared connections that may take requests of `state` now.
    fn serving(&self, state: &State) -> Vec<Rc<Link>> {
        let links = self.links.borrow();
        let schedule = self.schedule.borrow();
        let now = self.thread.clock.now_micros();
        let serves = |link: &&Rc<Link>| {
            let serves = |slot| schedule.serves(slot, state, now);
            link.is_alive() && link.slot().is_some_and(serves)
        };
        links.iter().flatten().filter(serves).cloned().collect()
    }

    /// Decides where a request goes that may be delayed by `delays`.
    fn lane(&self, state: &State, delays: Delays) -> RequestLane {
        if !self.has_lanes() {
            return RequestLane::Any;
        }
        let serving = self.serving(state);
        let least = |fits: &dyn Fn(&Link) -> bool| {
            let fitting = serving.iter().filter(|link| fits(link));
            fitting.min_by_key(|link| link.in_flight()).cloned()
        };
        let is_held = self.are_writes_held();
        let found = match delays.may_pause() {
            // A pause that is not known yet takes no other connection so.
            true => Some(())
                .filter(|()| !self.stalls.is_script_seen.get())
                .and_then(|()| {
                    least(&|link| link.may_be_paused() || (is_held && link.owes_write()))
                })
                .or_else(|| least(&|link| !link.is_stalled())),
            false => least(&|link| !(link.is_stalled() || is_held && link.owes_write())),
        };
        match found {
            Some(link) => RequestLane::Link(link),
            None if self.is_shut(delays) => RequestLane::Lent,
            None if serving.is_empty() => RequestLane::Any,
            None => RequestLane::Another,
        }
    }

    /// Returns a shared connection that may take a request of `state` now which `delays` may delay.
    #[inline]
    pub fn shared_for(self: &Rc<Self>, state: &State, delays: Delays) -> Option<Rc<Link>> {
        match self.lane(state, delays) {
            RequestLane::Any => self.shared(state),
            RequestLane::Link(link) => Some(link),
            // Whoever waits for it has it opened, or another changed.
            RequestLane::Another | RequestLane::Lent => None,
        }
    }
}
