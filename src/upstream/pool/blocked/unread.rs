//! It is told whether the server has read a call: of each connection it reads so much in one turn, and what else it has done meanwhile says nothing of the rest.

use crate::server::{ThreadPulse, comes_first};

/// A server reads at most this much of a connection in one turn (`PROTO_IOBUF_LEN`).
const READ_A_TURN: usize = 16 * 1024;

/// Tells how much of a call the server may not have read yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::upstream) struct UnreadCall {
    /// The part of the call that it reads in its next turn came to it no earlier than this.
    since_micros: u64,
    /// It has to take this number of turns behind that one.
    turns: usize,
}

impl UnreadCall {
    /// Begins with a call of `bytes`, with what is sent ahead of it.
    pub(in crate::upstream) fn of(bytes: usize, now_micros: u64) -> Self {
        Self {
            since_micros: now_micros,
            turns: bytes / READ_A_TURN,
        }
    }

    /// Returns the same as far as is known now.
    pub(in crate::upstream) fn by(mut self, pulse: &ThreadPulse, now_micros: u64) -> Self {
        if self.turns > 0 && pulse.has_written_behind(self.since_micros) {
            self.turns -= 1;
            self.since_micros = now_micros;
        }
        self
    }

    /// Tells whether something that is sent now may prove a turn: it comes to the server behind what that is about.
    pub(in crate::upstream) fn may_be_proven(self, now_micros: u64) -> bool {
        comes_first(self.since_micros) < now_micros
    }

    /// Tells whether the server has done a write since it has read all of the call: that waits, and was not put off for a pause.
    pub(in crate::upstream) fn is_over(self, pulse: &ThreadPulse) -> bool {
        self.turns == 0 && pulse.has_written_behind(self.since_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_call_takes_as_many_turns_more() {
        let pulse = ThreadPulse::default();
        let mut now = 1_000_000;
        for (bytes, turns) in [
            (100, 0),
            (READ_A_TURN - 1, 0),
            (READ_A_TURN, 1),
            (60_000, 3),
        ] {
            let mut unread = UnreadCall::of(bytes, now);
            let mut taken = 0;
            while !unread.is_over(&pulse) {
                assert!(!unread.may_be_proven(now));
                now += 20_000;
                assert!(unread.may_be_proven(now));
                pulse.answered(now);
                pulse.written(pulse.answered_micros());
                unread = unread.by(&pulse, now);
                taken += 1;
            }
            assert_eq!(taken, turns + 1, "{bytes}");
            assert_eq!(unread.by(&pulse, now), unread);
        }
    }
}
