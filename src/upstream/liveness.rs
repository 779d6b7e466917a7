//! Whether the server is still there: what each connection's silence means is judged by [`crate::silence`], and carried out
//! here; and it is asked where nothing is due.

use std::rc::Rc;
use std::time::Duration;

use super::link::Link;
use super::pool::Upstream;
use super::thread::Thread;
use super::traffic::{Due, Inner, OwnReply};
use crate::command::Delays;
use crate::resp::speak::encode_request;
use crate::schedule::OwedReplies;
use crate::silence::{
    AwaitedReply, LinkSilence, OvertakenSilence, ServerSigns, SilenceLimits, SilenceVerdict, judge,
};
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

/// Bytes past which a server that does not read leaves some unacknowledged though its host lives: the kernel's patience must
/// not end before ours then.
const MANY_BYTES: u64 = 32 * 1024;

/// What a connection has heard and sent, and what it owes.
#[derive(Debug, Default)]
pub(super) struct LinkPulse {
    /// When the server has sent the last byte.
    pub(super) heard_micros: u64,
    /// Bytes that had been sent by then.
    heard_at_bytes: u64,
    /// When the kernel has taken the last byte.
    pub(super) written_micros: u64,
    /// When a request that is passed on as it arrives began or ended.
    pub(super) whole_micros: u64,
    /// Entries due that the server may work on for long.
    may_work: u32,
    /// Entries due that a pause of writes holds back.
    may_pause: u32,
    /// Since when the server is known to have answered elsewhere.
    overtaken: OvertakenSilence,
    /// The shortest time in which it has answered here.
    quickest_micros: u64,
    /// The kernel has been told to be as patient with unacknowledged bytes as with a busy server.
    is_patient: bool,
}

impl LinkPulse {
    /// That of a connection that was opened now, which has taken so long.
    pub(super) fn begun(now_micros: u64, connect_micros: u64) -> Self {
        Self {
            quickest_micros: connect_micros,
            heard_micros: now_micros,
            written_micros: now_micros,
            ..Self::default()
        }
    }

    /// The server has sent something, when it had been sent so many bytes.
    #[inline]
    pub(super) fn heard(&mut self, now_micros: u64, sent_total: u64) {
        self.heard_micros = now_micros;
        self.heard_at_bytes = sent_total;
    }

    /// Something was answered after so long.
    #[inline]
    pub(super) fn answered(&mut self, waited_micros: u64) {
        self.quickest_micros = self.quickest_micros.min(waited_micros);
    }

    /// An entry that is due has come to be delayed by `after`.
    #[inline]
    pub(super) fn joined(&mut self, before: Delays, after: Delays) {
        self.may_work += u32::from(after.may_work()) - u32::from(before.may_work());
        self.may_pause += u32::from(after.may_pause()) - u32::from(before.may_pause());
    }

    /// Whether something is due that a pause of writes holds back.
    #[inline]
    pub(super) fn owes_write(&self) -> bool {
        self.may_pause > 0
    }

    /// An entry is due no more.
    #[inline]
    pub(super) fn left(&mut self, delays: Delays) {
        self.may_work -= u32::from(delays.may_work());
        self.may_pause -= u32::from(delays.may_pause());
    }
}

impl Inner {
    /// When the oldest unanswered request was sent, or the last byte came: whichever was later. `None`: nothing is due.
    pub(super) fn silent_since(&self) -> Option<u64> {
        let (at, front) = self.missed()?;
        let pulse = &self.pulse;
        let since = front.sent_micros().max(pulse.heard_micros);
        let since = since.max(pulse.whole_micros);
        let end = (self.due.get(at + 1)).map_or(self.appended_total, Due::start);
        // What the server has not got whole it cannot answer; it is to take it, though.
        Some(match end <= self.sent_total {
            true => since,
            false => since.max(pulse.written_micros),
        })
    }

    /// The first that is due and would be missed, and its place: a connection that was idle is no less than it was for what keeps it
    /// from the server's `timeout`.
    fn missed(&self) -> Option<(usize, &Due)> {
        let keeps_alive = |due: &Due| matches!(due, Due::Own { reply, .. } if matches!(reply, OwnReply::KeepAlive));
        let mut dues = self.due.iter().enumerate();
        dues.find(|(_, due)| !keeps_alive(due))
    }

    /// Whether a part of a frame has come, and its rest has not.
    fn has_begun(&self) -> bool {
        !self.scanner.at_boundary() || !self.carry.is_empty()
    }

    fn silence(&mut self, around: &ServerSigns, now_micros: u64) -> Option<LinkSilence> {
        let since_micros = self.silent_since()?;
        let (_, front) = self.missed()?;
        // Amid a stream it is not the reply that is awaited which has begun.
        let has_begun = self.has_begun() && !front.is_place();
        let awaited = match (has_begun, front.may_wait()) {
            (true, _) => AwaitedReply::Rest,
            (false, true) => AwaitedReply::Wait,
            (false, false) => AwaitedReply::Command(front.delays()),
        };
        let overtaken = &mut self.pulse.overtaken;
        Some(LinkSilence {
            since_micros,
            awaited,
            overtaken_micros: overtaken.look(since_micros, around, now_micros),
        })
    }
}

impl Link {
    /// Judges its silence, and closes it when nothing more is to be expected of it.
    fn check_silence(&self, around: &ServerSigns, limits: &SilenceLimits) -> SilenceVerdict {
        let is_stream = self.is_raw() && !self.is_awaited_amid_stream();
        if is_stream || self.is_partial() || !self.is_alive() {
            return SilenceVerdict::Borne;
        }
        let now = self.thread.clock.now_micros();
        let mut inner = self.inner.borrow_mut();
        let Some(mut silence) = inner.silence(around, now) else {
            return SilenceVerdict::Borne;
        };
        self.judged_as_finishing(&mut silence);
        let verdict = judge(&silence, around, limits, now);
        // What respool asks by itself it asks of connections that are idle.
        let cause = match inner.missed() {
            Some((_, due @ Due::Own { .. })) if !due.is_place() => LossCause::HalfOpen,
            _ => LossCause::Timeout,
        };
        let is_ping = matches!(
            inner.due.front(),
            Some(Due::Own {
                reply: OwnReply::Pong(_),
                ..
            })
        );
        drop(inner);
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

    /// Whether replies are due, and the server has sent nothing for `limit` that it could have.
    pub(super) fn is_silent_for(&self, limit: Duration) -> bool {
        !self.is_raw() && !self.is_partial() && self.is_unheard_for(limit)
    }

    /// The same, of a request too that is still being passed on.
    fn is_unheard_for(&self, limit: Duration) -> bool {
        let inner = self.inner.borrow();
        let waits = !inner.has_begun() && inner.missed().is_some_and(|(_, due)| due.is_blocking());
        let since = inner.silent_since().filter(|_| !waits);
        self.is_alive() && since.is_some_and(|since| self.thread.clock.is_past(since, limit))
    }

    /// Whether nothing has come or been sent on it for so long.
    pub fn is_quiet_for(&self, limit: Duration) -> bool {
        let inner = self.inner.borrow();
        let last = inner.pulse.heard_micros.max(inner.pulse.written_micros);
        self.thread.clock.is_past(last, limit)
    }

    /// Whether replies are due, and none has come for longer than usual.
    pub(super) fn is_stalled(&self) -> bool {
        let quickest = Duration::from_micros(self.inner.borrow().pulse.quickest_micros);
        self.is_silent_for(STALLED_AFTER.max(quickest * USUALLY))
    }

    /// Whether a command is due that the server may work on for long.
    pub(super) fn may_work(&self) -> bool {
        let inner = self.inner.borrow();
        // It is done with a command whose reply has begun.
        let is_done = inner.has_begun()
            && matches!(inner.due.front(), Some(Due::Client { count: 1, delays, .. }) if delays.may_work());
        self.is_alive() && inner.pulse.may_work > u32::from(is_done)
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
        let mut inner = self.inner.borrow_mut();
        let unanswered = inner.sent_total - inner.pulse.heard_at_bytes;
        let is_patient = is_busy && unanswered > MANY_BYTES;
        if is_patient != inner.pulse.is_patient {
            inner.pulse.is_patient = is_patient;
            drop(inner);
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

    /// Whether nothing has come or gone for so long, nothing is due, and a request of respool's own can be sent.
    pub(super) fn is_idle_for(&self, interval: Duration) -> bool {
        let is_idle = {
            let inner = self.inner.borrow();
            let last = inner.pulse.heard_micros.max(inner.pulse.written_micros);
            inner.due.is_empty()
                && inner.written == inner.out.len()
                && self.thread.clock.is_past(last, interval)
        };
        is_idle && self.takes_question()
    }

    /// Whether a PING can be sent on it, and nothing stands before it.
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
