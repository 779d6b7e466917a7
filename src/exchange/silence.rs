//! What a connection owes while the server is silent on it, and since when.

use super::request::DueEntry;
use super::{ClientHandle, Exchange, OwnReply};
use crate::command::Delays;
use crate::silence::{AwaitedReply, LinkSilence, ServerSigns};

/// A server that does not read may leave more bytes than this unacknowledged though its host lives: the kernel's patience must
/// not end before ours then.
const MANY_BYTES: u64 = 32 * 1024;

impl<H: ClientHandle> Exchange<H> {
    /// Returns since when the server is silent that owes something; `None`: nothing is due. It is when the oldest unanswered request was
    /// sent, or the last byte came: whichever was later.
    pub fn silent_since(&self) -> Option<u64> {
        let (at, front) = self.missed()?;
        let pulse = &self.pulse;
        let since = front.sent_micros().max(pulse.heard_micros);
        let since = since.max(pulse.whole_micros);
        let end = (self.due.get(at + 1)).map_or(self.appended_total, DueEntry::start);
        // What the server has not got whole it cannot answer; it is to take it, though.
        Some(match end <= self.sent_total {
            true => since,
            false => since.max(pulse.written_micros),
        })
    }

    /// Returns the first that is due and would be missed, and its place: a connection that was idle is no less than it was for
    /// what keeps it from the server's `timeout`.
    fn missed(&self) -> Option<(usize, &DueEntry<H>)> {
        let keeps_alive = |due: &DueEntry<H>| {
            matches!(
                due,
                DueEntry::Own {
                    reply: OwnReply::KeepAlive,
                    ..
                }
            )
        };
        let mut dues = self.due.iter().enumerate();
        dues.find(|(_, due)| !keeps_alive(due))
    }

    /// Returns the silence of a server that owes something.
    pub fn silence(&mut self, around: &ServerSigns, now_micros: u64) -> Option<LinkSilence> {
        let since_micros = self.silent_since()?;
        let (_, front) = self.missed()?;
        // Amid a stream it is not the reply that is awaited which has begun.
        let has_begun = self.has_begun() && front.place().is_none();
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

    /// Tells whether what is missed was asked by respool itself, and for nobody: of connections that are idle it asks so.
    pub fn misses_own(&self) -> bool {
        matches!(self.missed(), Some((_, due @ DueEntry::Own { .. })) if due.place().is_none())
    }

    /// Tells whether the answer to a PING is due next.
    pub fn awaits_pong(&self) -> bool {
        let front = self.due.front();
        matches!(
            front,
            Some(DueEntry::Own {
                reply: OwnReply::Pong(_),
                ..
            })
        )
    }

    /// Returns since when the server is silent that owes something it does not let wait.
    pub fn unheard_since(&self) -> Option<u64> {
        let waits = !self.has_begun() && self.missed().is_some_and(|(_, due)| due.is_blocking());
        self.silent_since().filter(|_| !waits)
    }

    /// Returns when the last byte came or went.
    pub fn last_micros(&self) -> u64 {
        self.pulse.heard_micros.max(self.pulse.written_micros)
    }

    /// Returns the shortest time in which the server has answered here.
    pub fn quickest_micros(&self) -> u64 {
        self.pulse.quickest_micros
    }

    /// A request that is passed on as it arrives has begun or ended.
    pub fn set_partial(&mut self, now_micros: u64) {
        self.pulse.whole_micros = now_micros;
    }

    /// Tells whether something is due that a pause of writes holds back.
    #[inline]
    pub fn owes_write(&self) -> bool {
        self.pulse.may_pause > 0
    }

    /// Tells whether a command is due that the server may work on for long.
    pub fn may_work(&self) -> bool {
        // It is done with a command whose reply has begun.
        let is_done = self.has_begun()
            && matches!(self.due.front(), Some(DueEntry::Client { count: 1, delays, .. }) if delays.may_work());
        self.pulse.may_work > u32::from(is_done)
    }

    /// Returns what may delay the reply that is due next.
    pub fn next_delays(&self) -> Delays {
        self.due.front().map_or(Delays::NONE, DueEntry::delays)
    }

    /// Tells whether something is due that the server may work on for long and that was sent by `until_micros`; `None`: at any time.
    pub fn owes_work(&self, until_micros: Option<u64>) -> bool {
        let mut works = self.due.iter().filter(|due| due.delays().may_work());
        works.any(|due| until_micros.is_none_or(|until| due.sent_micros() <= until))
    }

    /// Tells whether the kernel is to be as patient with unacknowledged bytes as with a busy server, if that has changed: so many are on
    /// their way that the server may just not read them.
    pub fn patience_changed(&mut self, is_busy: bool) -> Option<bool> {
        let unanswered = self.sent_total - self.pulse.heard_at_bytes;
        let is_patient = is_busy && unanswered > MANY_BYTES;
        let before = std::mem::replace(&mut self.pulse.is_patient, is_patient);
        (before != is_patient).then_some(is_patient)
    }
}
