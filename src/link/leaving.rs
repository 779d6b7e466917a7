//! When a connection is left for another: the server has moved or was demoted, keys are used up, or a reload has changed how it is opened.

use std::cell::Cell;

use super::Link;
use crate::telemetry::LossCause;

/// Says that a connection is to be left for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaving {
    /// It is left for this.
    pub cause: LossCause,
    /// It takes no new work from then on.
    pub from_micros: u64,
    /// Whoever it is lent to may go on with it until then.
    pub until_micros: u64,
}

impl Leaving {
    /// Tells whether what is under way on it has all the time it needs: the server is there, and serves.
    pub fn is_patient(&self) -> bool {
        matches!(self.cause, LossCause::TlsKeys | LossCause::Renewed)
    }

    /// Says why, for people.
    pub fn why(&self) -> &'static str {
        match self.cause {
            LossCause::TlsKeys => "its TLS keys are used up",
            LossCause::Renewed => "how connections are opened was changed by a reload",
            _ => "the server has moved or was demoted",
        }
    }
}

/// Remembers whether a connection is to be left, and when that was last asked.
#[derive(Default)]
pub(super) struct LinkLeaving {
    decided: Cell<Option<Leaving>>,
    /// The question was asked last when what may decide it had changed so often.
    asked_at_changes: Cell<u64>,
}

impl LinkLeaving {
    #[inline]
    fn get(&self) -> Option<Leaving> {
        self.decided.get()
    }

    /// Decides it; the first time stands.
    fn decide(&self, leaving: Leaving) {
        if self.decided.get().is_none() {
            self.decided.set(Some(leaving));
        }
    }

    /// Has what is decided begin at `now`.
    fn hasten(&self, now: u64) {
        let leaving = self.decided.get();
        self.decided.set(leaving.map(|leaving| Leaving {
            from_micros: now,
            ..leaving
        }));
    }

    /// Tells whether it is to be asked now: what may decide it has changed so often by now, and it is not decided.
    fn is_question(&self, changes: u64) -> bool {
        self.asked_at_changes.replace(changes) != changes && self.decided.get().is_none()
    }
}

impl Link {
    /// Has it left; the first time stands.
    pub fn set_leaving(&self, leaving: Leaving) {
        self.leaving.decide(leaving);
    }

    /// Has it left from `now` on already.
    pub fn leave_at(&self, now: u64) {
        self.leaving.hasten(now);
    }

    /// Tells whether it is to be left for another.
    #[inline]
    pub fn leaving(&self) -> Option<Leaving> {
        self.leaving.get()
    }

    /// Tells whether it has to be asked now whether it is to be left: what may make it so has changed so often by now.
    pub fn may_have_to_leave(&self, changes: u64) -> bool {
        self.leaving.is_question(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOVED: Leaving = Leaving {
        cause: LossCause::Moved,
        from_micros: 500,
        until_micros: 900,
    };

    #[test]
    fn it_is_asked_once_for_each_change_until_it_is_decided() {
        let leaving = LinkLeaving::default();
        assert!(!leaving.is_question(0), "nothing has changed yet");
        assert!(leaving.is_question(1) && !leaving.is_question(1) && leaving.is_question(3));
        leaving.decide(MOVED);
        assert!(!leaving.is_question(4));
    }

    #[test]
    fn the_first_decision_stands_and_may_be_hastened() {
        let leaving = LinkLeaving::default();
        leaving.hasten(100);
        assert_eq!(leaving.get(), None, "nothing is decided");
        leaving.decide(MOVED);
        leaving.decide(Leaving {
            cause: LossCause::Renewed,
            ..MOVED
        });
        assert_eq!(leaving.get(), Some(MOVED));
        leaving.hasten(100);
        let hastened = Leaving {
            from_micros: 100,
            ..MOVED
        };
        assert_eq!(leaving.get(), Some(hastened));
    }

    #[test]
    fn only_a_server_that_is_there_and_serves_leaves_all_the_time_there_is() {
        for cause in [LossCause::TlsKeys, LossCause::Renewed] {
            assert!(Leaving { cause, ..MOVED }.is_patient());
        }
        for cause in [LossCause::Moved, LossCause::Readonly, LossCause::MasterDown] {
            assert!(!Leaving { cause, ..MOVED }.is_patient());
        }
    }
}
