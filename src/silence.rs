//! Decides what the silence of a connection to the server means: purely, told the time, what is due and who was heard.
//!
//! Only what the server sends is a sign of it. Its silence on one connection is explained by the command that is due there,
//! by a command that is due elsewhere and may keep it busy, or by a pause that somebody asked for. What nothing explains is
//! first suspected, so that a new question can be answered, and then given up.
//! Invariant: while the server is silent everywhere and only quick commands are due, a connection is given up within
//! `reply_timeout` and the part of it that [`SilenceLimits::confirm`] adds.

use std::time::Duration;

use crate::command::Delays;

/// Says what the reply is to that a connection owes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwaitedReply {
    /// It is to a call that waits for as long as its client likes: it says nothing of the server.
    Wait,
    /// It is to a command, which may be delayed so.
    Command(Delays),
    /// It is the rest of a reply, of which a part has come: the server is done with the command.
    Rest,
}

/// Describes the silence of one connection that owes a reply.
#[derive(Debug, Clone, Copy)]
pub struct LinkSilence {
    /// Its oldest unanswered request was sent then, or the last byte came: whichever was later.
    pub since_micros: u64,
    /// Says what its oldest unanswered request, or the rest of a reply, may wait for.
    pub awaited: AwaitedReply,
    /// It was seen first then that the server had answered elsewhere what was sent later.
    pub overtaken_micros: Option<u64>,
}

/// Remembers when it was seen first that the server had answered elsewhere, and of which silence.
#[derive(Debug, Clone, Copy, Default)]
pub struct OvertakenSilence(Option<(u64, u64)>);

impl OvertakenSilence {
    /// Looks again at the silence that has lasted since then. While the server works on something long it is to answer nobody: what
    /// is due here has its turn anew after that.
    pub fn look(
        &mut self,
        since_micros: u64,
        around: &ServerSigns,
        now_micros: u64,
    ) -> Option<u64> {
        let is_at_work = around.is_at_work(now_micros);
        if is_at_work || self.0.is_none_or(|(since, _)| since != since_micros) {
            let is_overtaken = around.heard_micros > since_micros && !is_at_work;
            self.0 = is_overtaken.then_some((since_micros, now_micros));
        }
        self.0.map(|(_, at)| at)
    }
}

/// So many of the last stops are remembered: in more of them than this no silence lasts unnoticed.
const STOPS: usize = 8;

/// Remembers the last times in which the worker that judges did not run: it heard nothing in them, and nobody's silence is counted by them.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecentStops {
    /// When each ended, the youngest first, and how long it was; both in microseconds.
    ends: [(u64, u64); STOPS],
}

impl RecentStops {
    /// Returns the same with one more, the youngest.
    #[must_use]
    pub fn and(mut self, ended_micros: u64, length_micros: u64) -> Self {
        self.ends.rotate_right(1);
        self.ends[0] = (ended_micros, length_micros);
        self
    }

    /// Returns from when on the time since then is counted: later by what was not run of it.
    pub fn counted_from(&self, then_micros: u64) -> u64 {
        let lost = self
            .ends
            .iter()
            .map(|&(ended, length)| ended.saturating_sub(then_micros).min(length));
        then_micros + lost.sum::<u64>()
    }
}

/// Says what is known of the server beside one connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerSigns {
    /// It was last heard then on any connection of the process.
    pub heard_micros: u64,
    /// A command that it may work on for long is due from it on some connection of the process.
    pub may_work: bool,
    /// It holds back every command until then, as far as is known.
    pub all_paused_until: u64,
    /// It holds back writes until then, as far as is known.
    pub writes_paused_until: u64,
    /// The worker that judges did not run then.
    pub stops: RecentStops,
}

/// A server that works on nothing is heard within this long by whoever asks it each second.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

impl ServerSigns {
    /// Tells whether it answers nobody, and may be working on something long.
    fn is_at_work(&self, now_micros: u64) -> bool {
        let heard = self.stops.counted_from(self.heard_micros);
        let unheard = Duration::from_micros(now_micros.saturating_sub(heard));
        self.may_work && unheard > HEARD_WITHIN
    }
}

/// Says how long a silence is borne.
#[derive(Debug, Clone, Copy)]
pub struct SilenceLimits {
    /// It is borne this long when nothing explains it (`upstream.reply_timeout`).
    pub reply: Duration,
    /// It is borne this long when something does (`upstream.busy_timeout`).
    pub busy: Duration,
}

impl SilenceLimits {
    /// Returns how long after it was suspected a silent server has to answer a new question: a third of `reply`. A command of
    /// twelve seconds that somebody sent past respool is borne by the defaults so.
    pub fn confirm(&self) -> Duration {
        self.reply / 3
    }
}

/// Says what is to be done about a silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SilenceVerdict {
    /// Nothing is to be done.
    Borne,
    /// The server has sent nothing on any connection for `reply_timeout`, and nothing explains it: it is asked anew, and the
    /// operator told.
    Suspected,
    /// The connection is of no more use: nothing has come within `reply_timeout`, nor to the new question.
    Lost,
    /// It is of no more use: whatever explains it has taken longer than `busy_timeout`.
    Overdue,
}

/// Judges the silence of a connection.
pub fn judge(
    silence: &LinkSilence,
    around: &ServerSigns,
    limits: &SilenceLimits,
    now_micros: u64,
) -> SilenceVerdict {
    let delays = match silence.awaited {
        AwaitedReply::Wait => return SilenceVerdict::Borne,
        AwaitedReply::Command(delays) => delays,
        AwaitedReply::Rest => Delays::NONE,
    };
    let counted_from = |then| around.stops.counted_from(then);
    let mut since = silence.since_micros.max(around.all_paused_until);
    if delays.may_pause() {
        since = since.max(around.writes_paused_until);
    }
    let since = counted_from(since);
    let elapsed = |since: u64| Duration::from_micros(now_micros.saturating_sub(since));
    if elapsed(since) <= limits.reply {
        return SilenceVerdict::Borne;
    }
    if elapsed(since) > limits.busy.max(limits.reply) {
        return SilenceVerdict::Overdue;
    }
    // A server that has answered elsewhere since would have sent the rest, whatever it works on now.
    let may_send = silence.awaited == AwaitedReply::Rest && silence.overtaken_micros.is_some();
    if around.may_work && !may_send {
        return SilenceVerdict::Borne;
    }
    let silent_since = since.max(counted_from(around.heard_micros));
    let unexplained_since = match silence.overtaken_micros {
        // A quick command is answered in its turn, and its turn has passed.
        Some(overtaken) if delays == Delays::NONE => since.max(counted_from(overtaken)),
        // The server lives: the command is long, blocked or held back.
        _ => silent_since,
    };
    // That one connection is silent says nothing of a server that answers on others.
    let is_silent = !around.may_work && elapsed(silent_since) > limits.reply;
    if elapsed(unexplained_since) > limits.reply + limits.confirm() {
        SilenceVerdict::Lost
    } else if elapsed(unexplained_since) > limits.reply && is_silent {
        SilenceVerdict::Suspected
    } else {
        SilenceVerdict::Borne
    }
}

#[cfg(test)]
mod tests;
