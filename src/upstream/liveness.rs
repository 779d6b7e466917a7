//! Whether the server is still there: what each connection's silence means is judged by [`crate::silence`], and carried out
//! here; and it is asked where nothing is due.

use std::rc::Rc;
use std::time::Duration;

use super::link::Link;
use super::pool::Upstream;
use super::thread::Thread;
use crate::exchange::OwnReply;
use crate::resp::speak::encode_request;
use crate::schedule::OwedReplies;
use crate::silence::{ServerSigns, SilenceLimits, SilenceVerdict, judge};
use crate::telemetry::{Bound, LossCause};

/// A server that owes a reply and answers nobody for so long is asked anew, where nothing stands before the question.
const ASKED_AFTER: Duration = Duration::from_millis(500);

/// A server that owes a reply and answers nobody for so long does not get round to it.
const QUIET_AFTER: Duration = Duration::from_millis(100);

/// A connection with replies due on which nothing has come for so long, and for longer than the server usually takes, is
/// not used for what can go elsewhere.
const STALLED_AFTER: Duration = Duration::from_millis(50);

/// How often as long as it has taken at best an answer may take before its connection counts as stalled.
const USUALLY: u32 = 4;

/// How often at most it is asked so, in each worker.
const ASKED_EVERY: Duration = Duration::from_secs(1);

impl Link {
    /// Judges its silence, and closes it when nothing more is to be expected of it.
    fn check_silence(&self, around: &ServerSigns, limits: &SilenceLimits) -> SilenceVerdict {
        let is_stream = self.is_raw() && !self.exchange.borrow().is_awaited_amid_stream();
        if is_stream || self.is_partial() || !self.is_alive() {
            return SilenceVerdict::Borne;
        }
        let now = self.thread.clock.now_micros();
        let mut exchange = self.exchange.borrow_mut();
        let Some(mut silence) = exchange.silence(around, now) else {
            return SilenceVerdict::Borne;
        };
        self.judged_as_finishing(&mut silence);
        let verdict = judge(&silence, around, limits, now);
        // What respool asks by itself it asks of connections that are idle.
        let cause = match exchange.misses_own() {
            true => LossCause::HalfOpen,
            false => LossCause::Timeout,
        };
        let is_ping = exchange.awaits_pong();
        drop(exchange);
        let (bound, why) = match verdict {
            SilenceVerdict::Borne | SilenceVerdict::Suspected => return verdict,
            SilenceVerdict::Lost if is_ping => {
                self.thread.counters.unanswered_pings.add(1);
                let why = "no answer to PING within upstream.reply_timeout";
                (Bound::ReplyTimeout, why)
            }
            SilenceVerdict::Lost => (
                Bound::ReplyTimeout,
                "no reply within upstream.reply_timeout",
            ),
            SilenceVerdict::Overdue => {
                (Bound::BusyTimeout, "no reply within upstream.busy_timeout")
            }
        };
        self.thread.counters.bound(bound).add(1);
        self.lose(cause, why);
        verdict
    }

    /// Tells whether replies are due, and the server has sent nothing for `limit` that it could have.
    pub(super) fn is_silent_for(&self, limit: Duration) -> bool {
        !self.is_raw() && !self.is_partial() && self.is_unheard_for(limit)
    }

    /// The same, of a request too that is still being passed on.
    fn is_unheard_for(&self, limit: Duration) -> bool {
        let since = self.exchange.borrow().unheard_since();
        self.is_alive() && since.is_some_and(|since| self.thread.clock.is_past(since, limit))
    }

    /// Tells whether nothing has come or been sent on it for so long.
    pub fn is_quiet_for(&self, limit: Duration) -> bool {
        let last = self.exchange.borrow().last_micros();
        self.thread.clock.is_past(last, limit)
    }

    /// Tells whether replies are due, and none has come for longer than usual.
    pub(super) fn is_stalled(&self) -> bool {
        let quickest = Duration::from_micros(self.exchange.borrow().quickest_micros());
        self.is_silent_for(STALLED_AFTER.max(quickest * USUALLY))
    }

    /// Tells whether a command is due that the server may work on for long.
    pub(super) fn may_work(&self) -> bool {
        self.is_alive() && self.exchange.borrow().may_work()
    }

    /// What a change of its state would stand behind.
    pub(super) fn owes(&self) -> OwedReplies {
        OwedReplies {
            may_work: self.may_work(),
            replies: self.in_flight(),
        }
    }

    /// Has the kernel bear unacknowledged bytes for as long as a busy server is borne, while so many are on their way that
    /// it may just not read them; else no longer than a host that is gone.
    fn bear_unread(&self, is_busy: bool, busy: Duration) {
        let changed = self.exchange.borrow_mut().patience_changed(is_busy);
        if let Some(is_patient) = changed {
            self.bear_unacknowledged(is_patient.then_some(busy));
        }
    }

    /// Asks the server whether it is still there, when nothing has come or gone for `interval` and nothing is due. Its
    /// answer is awaited as any reply is.
    fn ping_if_idle(&self, interval: Duration) {
        if self.is_idle_for(interval) {
            self.ping();
        }
    }

    /// Tells whether nothing has come or gone for so long, nothing is due, and a request of respool's own can be sent.
    pub(super) fn is_idle_for(&self, interval: Duration) -> bool {
        let is_idle = {
            let exchange = self.exchange.borrow();
            let is_quiet = exchange.is_empty() && exchange.is_all_sent();
            is_quiet && self.thread.clock.is_past(exchange.last_micros(), interval)
        };
        is_idle && self.takes_question()
    }

    /// Tells whether a PING can be sent on it, and nothing stands before it.
    fn takes_question(&self) -> bool {
        self.is_alive() && !self.is_raw() && !self.is_partial() && self.in_flight() == 0
    }

    fn ping(&self) {
        let asked = self.thread.clock.refresh();
        self.send_own(&encode_request(&["PING"]), OwnReply::Pong(asked));
    }
}

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
        let around = pulse.around(now);
        let is_unheard = |limit| self.thread.clock.is_past(around.heard_micros, limit);
        if is_unheard(QUIET_AFTER) && all().any(|link| link.is_silent_for(QUIET_AFTER)) {
            pulse.is_quiet(now);
        }
        let is_gone = pulse.is_host_gone();
        self.is_any_stalled
            .set(shared.iter().any(|link| link.is_stalled()));
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
        let idle_pins = self.idle_pins.borrow();
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
        let asked = &self.asked_anew_micros;
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

impl Thread {
    /// What `work` comes to within `limit`, of which the time does not count in which the server is merely busy.
    pub async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(limit, &mut work).await {
                Ok(done) => return Some(done),
                // Who waits for it is not to be told that it is away.
                Err(_) if self.process.pulse.is_busy(self.clock.refresh()) => {}
                Err(_) => return None,
            }
        }
    }
}
