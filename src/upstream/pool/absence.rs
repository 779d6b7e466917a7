//! Since when a worker is without the server, for those who wait for it.

use std::cell::Cell;

/// Remembers since when the server is away, and when it last refused somebody.
#[derive(Default)]
pub(super) struct ServerAbsence {
    /// No shared connection is up since then.
    since_micros: Cell<Option<u64>>,
    /// The server has last refused then whom a connection was opened for; 0: never.
    refused_micros: Cell<u64>,
}

impl ServerAbsence {
    /// Takes in whether the server is away at `now`.
    pub(super) fn note(&self, is_away: bool, now: u64) {
        let since = self.since_micros.get().unwrap_or(now);
        self.since_micros.set(is_away.then_some(since));
    }

    /// Takes in that the server has refused somebody: it is there.
    pub(super) fn refused(&self, now: u64) {
        self.refused_micros.set(now);
    }

    /// Returns since when somebody who has come then waits in vain.
    pub(super) fn waited_for_since(&self, come_micros: u64) -> u64 {
        let away = self.since_micros.get().unwrap_or_default();
        // A server that refuses others is there.
        come_micros.max(away).max(self.refused_micros.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_while_the_server_is_there_does_not_wait_in_vain() {
        let absence = ServerAbsence::default();
        absence.note(false, 3);
        assert_eq!(absence.waited_for_since(2), 2);
        absence.note(true, 5);
        absence.note(true, 9);
        assert_eq!([2, 7].map(|come| absence.waited_for_since(come)), [5, 7]);
        // It was there in between.
        absence.note(false, 10);
        absence.note(true, 11);
        assert_eq!([2, 7].map(|come| absence.waited_for_since(come)), [11, 11]);
    }

    #[test]
    fn a_server_that_refuses_others_is_there() {
        let absence = ServerAbsence::default();
        absence.note(true, 5);
        absence.refused(8);
        assert_eq!([2, 9].map(|come| absence.waited_for_since(come)), [8, 9]);
    }
}
