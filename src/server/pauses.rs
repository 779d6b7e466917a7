//! What is believed of `CLIENT PAUSE`: that a pause is in force which the server has taken from a client of respool's.
//!
//! It may be over before its time: by a CLIENT UNPAUSE sent past respool or inside MULTI, or because another run of the server has taken
//! the place of the one that had it. A belief ends by its time, by what respool is told, and by what proves that nothing is held back:
//! something that a pause would have held back was sent later, and was done. An error proves nothing, for the server refuses some commands before
//! it looks for a pause.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A request sent this long before another, on another connection, comes to the server before it.
pub const COMES_FIRST: Duration = Duration::from_millis(10);

/// Returns from when on something has to be sent to come surely behind what was sent then on another connection.
pub const fn comes_first(sent_micros: u64) -> u64 {
    sent_micros.saturating_add(COMES_FIRST.as_micros() as u64)
}

/// A pause may be in force for this long after its time: the server looks ten times a second by default.
const LINGERS: Duration = Duration::from_millis(200);

/// Holds what is believed of the pauses of one server.
#[derive(Debug, Default)]
pub struct ServerPauses {
    all: PauseBelief,
    writes: PauseBelief,
}

/// Describes a `CLIENT PAUSE` that the server has taken. Times are of the process's clock, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenPause {
    /// It was sent then.
    pub asked_micros: u64,
    /// The server had answered it then.
    pub taken_micros: u64,
    /// It is over by itself then.
    pub until_micros: u64,
}

/// Believes that one kind of pause is in force.
#[derive(Debug, Default)]
struct PauseBelief {
    /// The first of those that have been in force without a gap was asked for then.
    asked_micros: AtomicU64,
    /// The server had taken the latest of them then.
    taken_micros: AtomicU64,
    /// It is over by itself then; 0: there is none.
    until_micros: AtomicU64,
}

impl PauseBelief {
    fn until(&self) -> u64 {
        self.until_micros.load(Ordering::Acquire)
    }

    /// Takes in another pause. The longest holds, as at the server.
    fn take(&self, taken: &TakenPause) {
        if self.until() <= taken.asked_micros {
            self.asked_micros
                .store(taken.asked_micros, Ordering::Relaxed);
        }
        self.taken_micros
            .fetch_max(taken.taken_micros, Ordering::Relaxed);
        self.until_micros
            .fetch_max(taken.until_micros, Ordering::Release);
    }

    fn end(&self) {
        self.until_micros.store(0, Ordering::Release);
    }

    /// Tells whether it is over since what was sent then has been done.
    fn is_refuted(&self, sent_micros: u64, now_micros: u64) -> bool {
        self.until() > now_micros && sent_micros > self.taken_micros.load(Ordering::Relaxed)
    }

    /// Tells whether a call that was sent then may be held back by it, rather than be blocked since before.
    fn may_hold(&self, sent_micros: u64, now_micros: u64) -> bool {
        let until = self.until();
        let asked = self.asked_micros.load(Ordering::Relaxed);
        until.saturating_add(LINGERS.as_micros() as u64) > now_micros
            && until > 0
            && comes_first(sent_micros) > asked
    }
}

impl ServerPauses {
    /// Believes that the server holds back every command: for as long as it would hold back writes, if that is longer.
    pub fn all(&self, taken: &TakenPause) {
        self.all.take(&TakenPause {
            until_micros: taken.until_micros.max(self.writes.until()),
            ..*taken
        });
    }

    /// Believes that it holds back writes; or everything for so long, if it does that already.
    pub fn writes(&self, taken: &TakenPause) {
        self.writes.take(taken);
        if self.all.until() > taken.taken_micros {
            self.all.take(taken);
        }
    }

    /// Believes that it holds back nothing: CLIENT UNPAUSE was taken.
    pub fn over(&self) {
        self.all.end();
        self.writes.end();
    }

    /// Notes that it is another run of the server than before, to which the oldest connection was begun then: what was taken earlier is over.
    pub fn another_run(&self, oldest_micros: u64) {
        for belief in [&self.all, &self.writes] {
            if belief.taken_micros.load(Ordering::Relaxed) < oldest_micros {
                belief.end();
            }
        }
    }

    /// Returns until when every command is held back, as far as is known; 0: none is.
    pub(super) fn all_until(&self) -> u64 {
        self.all.until()
    }

    /// Returns until when writes are held back, as far as is known; 0: they are not.
    pub(super) fn writes_until(&self) -> u64 {
        self.writes.until()
    }

    /// Returns when the server had taken the latest, if one is believed to be in force.
    pub fn taken_micros(&self, now_micros: u64) -> Option<u64> {
        let beliefs = [&self.all, &self.writes].into_iter();
        let in_force = beliefs.filter(|belief| belief.until() > now_micros);
        in_force
            .map(|belief| belief.taken_micros.load(Ordering::Relaxed))
            .max()
    }

    /// Notes that the server has done what was sent then, and is no write: it does not hold back every command.
    pub fn answered(&self, sent_micros: u64, now_micros: u64) {
        if self.all.is_refuted(sent_micros, now_micros) {
            self.all.end();
        }
    }

    /// Notes that the server has done a write that was sent then: it holds nothing back.
    pub fn written(&self, sent_micros: u64, now_micros: u64) {
        self.answered(sent_micros, now_micros);
        if self.writes.is_refuted(sent_micros, now_micros) {
            self.writes.end();
        }
    }

    /// Tells whether the server may have put off a call that was sent then, instead of having it wait; `writes`: it is a write.
    pub fn may_put_off(&self, sent_micros: u64, writes: bool, now_micros: u64) -> bool {
        self.all.may_hold(sent_micros, now_micros)
            || writes && self.writes.may_hold(sent_micros, now_micros)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn taken(asked: u64, taken: u64, until: u64) -> TakenPause {
        TakenPause {
            asked_micros: asked,
            taken_micros: taken,
            until_micros: until,
        }
    }

    #[test]
    fn a_belief_ends_by_its_time_by_word_and_by_proof() {
        let pauses = ServerPauses::default();
        pauses.writes(&taken(100, 110, 1000));
        assert_eq!((pauses.writes_until(), pauses.all_until()), (1000, 0));
        assert_eq!(pauses.taken_micros(999), Some(110));
        assert_eq!(pauses.taken_micros(1000), None);
        // What was sent before the pause was taken proves nothing, nor does what a pause of writes does not hold back.
        pauses.written(110, 500);
        pauses.answered(400, 500);
        assert_eq!(pauses.writes_until(), 1000);
        pauses.written(111, 500);
        assert_eq!(pauses.writes_until(), 0);
        pauses.all(&taken(600, 610, 2000));
        pauses.writes(&taken(620, 630, 2000));
        pauses.answered(630, 700);
        assert_eq!(
            pauses.all_until(),
            2000,
            "the second may have made it longer"
        );
        pauses.answered(631, 700);
        assert_eq!((pauses.writes_until(), pauses.all_until()), (2000, 0));
        pauses.over();
        assert_eq!(pauses.taken_micros(700), None);
        // What another run has taken is its own.
        pauses.writes(&taken(800, 810, 2000));
        pauses.another_run(805);
        assert_eq!(pauses.writes_until(), 2000);
        pauses.another_run(811);
        assert_eq!(pauses.writes_until(), 0);
    }

    #[test]
    fn two_kinds_of_pause_are_one_at_the_server() {
        let pauses = ServerPauses::default();
        pauses.writes(&taken(100, 110, 5000));
        pauses.all(&taken(200, 210, 300));
        assert_eq!(pauses.all_until(), 5000);
        pauses.writes(&taken(300, 310, 9000));
        assert_eq!((pauses.all_until(), pauses.writes_until()), (9000, 9000));
        pauses.over();
        pauses.writes(&taken(400, 410, 5000));
        assert_eq!(pauses.all_until(), 0);
    }

    #[test]
    fn a_call_that_waited_before_the_pause_is_not_put_off() {
        let pauses = ServerPauses::default();
        let before = COMES_FIRST.as_micros() as u64;
        let lingers = LINGERS.as_micros() as u64;
        pauses.writes(&taken(50_000, 51_000, 100_000));
        for (sent, may) in [
            (50_000 - before, false),
            (50_001 - before, true),
            (50_500, true),
            (60_000, true),
        ] {
            assert_eq!(pauses.may_put_off(sent, true, 70_000), may, "{sent}");
            assert!(!pauses.may_put_off(sent, false, 70_000), "{sent}");
        }
        assert!(pauses.may_put_off(60_000, true, 99_999 + lingers));
        assert!(
            !pauses.may_put_off(60_000, true, 100_000 + lingers),
            "it is over"
        );
        // The second begins while the first is in force: calls of the first's time are put off by either.
        pauses.writes(&taken(80_000, 81_000, 200_000));
        assert!(pauses.may_put_off(60_000, true, 150_000));
        pauses.all(&taken(90_000, 91_000, 200_000));
        assert!(pauses.may_put_off(95_000, false, 150_000));
    }

    #[derive(Debug, Clone)]
    enum Event {
        Pause { millis: u64 },
        Unpause,
        Write,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (1_u64..40).prop_map(|millis| Event::Pause { millis }),
            Just(Event::Unpause),
            Just(Event::Write),
        ]
    }

    proptest! {
        /// Whoever else pauses, ends pauses and writes at the server, which answers each write that it does: no pause that is in force is
        /// disbelieved, and none that was over when a write was sent is believed once that is answered.
        #[test]
        fn what_is_believed_is_so(
            events in prop::collection::vec((event(), any::<bool>(), 1_u64..20), 1..60),
        ) {
            let pauses = ServerPauses::default();
            // The same for all there are, and for those that have come through respool.
            let (mut now, mut truly_until, mut known_until) = (1_u64, 0, 0);
            for (event, is_through, later) in events {
                now += later * 1000;
                match event {
                    Event::Pause { millis } => {
                        let (asked, until) = (now, now + 100 + millis * 1000);
                        truly_until = truly_until.max(until);
                        // It begins at the server before respool is told.
                        now += 200;
                        if is_through {
                            known_until = known_until.max(until);
                            pauses.writes(&taken(asked, now, now + millis * 1000));
                        }
                    }
                    Event::Unpause => {
                        (truly_until, known_until) = (0, 0);
                        if is_through {
                            pauses.over();
                        }
                    }
                    Event::Write => {
                        let sent = now;
                        now = now.max(truly_until) + 100;
                        pauses.written(sent, now);
                        prop_assert!(sent < truly_until || pauses.writes_until() <= now);
                    }
                }
                prop_assert!(known_until <= now || pauses.writes_until() > now);
            }
        }
    }
}
