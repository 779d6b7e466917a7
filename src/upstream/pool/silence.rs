//! The silence of all connections of a worker is judged with each tick, and the server is asked where nothing is due.

use std::rc::Rc;
use std::time::Duration;

use super::Upstream;
use crate::link::Link;
use crate::silence::{SilenceLimits, SilenceVerdict};

/// A server that owes a reply and answers nobody for this long is asked anew, where nothing stands before the question.
const ASKED_AFTER: Duration = Duration::from_millis(500);

/// A server that owes a reply and answers nobody for this long does not get round to it.
const QUIET_AFTER: Duration = Duration::from_millis(100);

/// It is asked so at most once in this time, in each worker.
const ASKED_EVERY: Duration = Duration::from_secs(1);

impl Upstream {
    /// Judges the silence of every connection of this worker, asks where nothing is due, and says what has come of it.
    pub(super) fn watch_silence(self: &Rc<Self>) {
        let settings = self.thread.settings();
        let upstream = &settings.upstream;
        let limits = SilenceLimits {
            reply: upstream.reply_timeout,
            busy: upstream.busy_timeout,
        };
        let shared: Vec<Rc<Link>> = self.links.borrow().iter().flatten().cloned().collect();
        let mut pins: Vec<Rc<Link>> = Vec::new();
        self.pins.borrow_mut().retain(|pin| {
            let link = pin.upgrade();
            pins.extend(link.clone());
            link.is_some()
        });
        let now = self.thread.clock.now_micros();
        let pulse = &self.thread.process.pulse;
        pulse.tell(&self.thread.pulse);
        let all = || shared.iter().chain(&pins);
        if all().any(|link| link.may_work()) {
            pulse.is_working(now);
        }
        let around = self.thread.signs_around(now);
        let is_unheard = |limit| self.thread.clock.is_past(around.heard_micros, limit);
        if is_unheard(QUIET_AFTER) && all().any(|link| link.is_silent_for(QUIET_AFTER)) {
            pulse.is_quiet(now);
        }
        let is_gone = pulse.is_host_gone();
        let is_any_stalled = shared.iter().any(|link| link.is_stalled());
        self.stalls.is_any.set(is_any_stalled);
        let mut is_suspected = false;
        for link in all() {
            let is_busy = !is_gone && link.is_unheard_for(ASKED_AFTER);
            link.bear_unread(is_busy, limits.busy);
            is_suspected |= link.check_silence(&around, &limits) == SilenceVerdict::Suspected;
        }
        shared
            .iter()
            .for_each(|link| link.ping_if_idle(upstream.ping_interval));
        // Only those that nobody has borrowed.
        let idle_pins = self.idle.all();
        idle_pins
            .iter()
            .for_each(|link| link.ping_if_idle(upstream.ping_interval));
        pins.iter().for_each(|link| link.keep_from_timeout());
        // Often enough to be answered before anything is suspected, however short that is.
        let after = ASKED_AFTER.min(limits.reply / 4);
        if is_unheard(after) && all().any(|link| link.is_unheard_for(after)) {
            let every = ASKED_EVERY.min(limits.reply / 4);
            self.ask_anew(shared.iter().chain(idle_pins.iter()), every);
        }
        drop(idle_pins);
        self.look_for_pause();
        self.send_elsewhere();
        self.send_undecided_reads();
        self.say_of_silence(is_suspected, &limits, now);
    }

    /// Sends a PING on a connection where nothing stands before it, at most once in `every`: its answer shows that the
    /// server lives. False: there is no such connection.
    pub(super) fn ask_anew<'a>(
        &self,
        mut links: impl Iterator<Item = &'a Rc<Link>>,
        every: Duration,
    ) -> bool {
        let asked = &self.stalls.asked_micros;
        if !self.thread.clock.is_past(asked.get(), every) {
            return true;
        }
        let Some(link) = links.find(|link| link.takes_question()) else {
            return false;
        };
        asked.set(self.thread.clock.now_micros());
        link.ping();
        true
    }

    fn say_of_silence(&self, is_suspected: bool, limits: &SilenceLimits, now: u64) {
        let process = &self.thread.process;
        if process.pulse.is_cleared() {
            process.health.heard_again();
            if process.pulse.is_suspicion_told() {
                tracing::info!("the server answers again");
            }
        }
        if is_suspected && process.pulse.suspect(now) {
            let text = format!(
                "the server has answered nobody for {:?} (upstream.reply_timeout), and nothing that is due explains it: its \
                 connections are replaced unless it does within {:?}",
                limits.reply,
                limits.confirm()
            );
            process.health.failed(&text);
            if process.pulse.tells_suspicion(now) {
                tracing::warn!("{text}");
            }
        }
    }
}
