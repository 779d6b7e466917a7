//! Whether the server is still there: what each connection's silence means is judged by [`crate::silence`], and carried out
//! here; and it is asked where nothing is due.

use std::time::Duration;

use super::Link;
use crate::exchange::OwnReply;
use crate::resp::speak::encode_request;
use crate::schedule::OwedReplies;
use crate::silence::{ServerSigns, SilenceLimits, SilenceVerdict, judge};
use crate::telemetry::{Bound, LossCause};

/// A connection with replies due on which nothing has come for so long, and for longer than the server usually takes, is
/// not used for what can go elsewhere.
const STALLED_AFTER: Duration = Duration::from_millis(50);

/// A connection counts as stalled when an answer takes this many times as long as it has taken at best.
const USUALLY: u32 = 4;

impl Link {
    /// Judges its silence, and closes it when nothing more is to be expected of it.
    pub fn check_silence(&self, around: &ServerSigns, limits: &SilenceLimits) -> SilenceVerdict {
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
    pub fn is_silent_for(&self, limit: Duration) -> bool {
        !self.is_raw() && !self.is_partial() && self.is_unheard_for(limit)
    }

    /// Tells the same of a request, too, that is still being passed on.
    pub fn is_unheard_for(&self, limit: Duration) -> bool {
        let since = self.exchange.borrow().unheard_since();
        self.is_alive() && since.is_some_and(|since| self.thread.clock.is_past(since, limit))
    }

    /// Tells whether nothing has come or been sent on it for so long.
    pub fn is_quiet_for(&self, limit: Duration) -> bool {
        let last = self.exchange.borrow().last_micros();
        self.thread.clock.is_past(last, limit)
    }

    /// Tells whether replies are due, and none has come for longer than usual.
    pub fn is_stalled(&self) -> bool {
        let quickest = Duration::from_micros(self.exchange.borrow().quickest_micros());
        self.is_silent_for(STALLED_AFTER.max(quickest * USUALLY))
    }

    /// Tells whether a command is due that the server may work on for long.
    pub fn may_work(&self) -> bool {
        self.is_alive() && self.exchange.borrow().may_work()
    }

    /// Returns what a change of its state would stand behind.
    pub fn owes(&self) -> OwedReplies {
        OwedReplies {
            may_work: self.may_work(),
            replies: self.in_flight(),
        }
    }

    /// Has the kernel bear unacknowledged bytes for as long as a busy server is borne, while so many are on their way that
    /// it may just not read them; else no longer than a host that is gone.
    pub fn bear_unread(&self, is_busy: bool, busy: Duration) {
        let changed = self.exchange.borrow_mut().patience_changed(is_busy);
        if let Some(is_patient) = changed {
            self.bear_unacknowledged(is_patient.then_some(busy));
        }
    }

    /// Asks the server whether it is still there, when nothing has come or gone for `interval` and nothing is due. Its
    /// answer is awaited as any reply is.
    pub fn ping_if_idle(&self, interval: Duration) {
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
    pub fn takes_question(&self) -> bool {
        self.is_alive() && !self.is_raw() && !self.is_partial() && self.in_flight() == 0
    }

    pub fn ping(&self) {
        let asked = self.thread.clock.refresh();
        self.send_own(&encode_request(&["PING"]), OwnReply::Pong(asked));
    }
}
