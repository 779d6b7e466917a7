//! The time in which a worker did not run: its process was stopped, or its machine slept.
//!
//! Invariant: nobody is judged by that time. What has come meanwhile lies in the sockets, and is read before anything is told by
//! the clock to be late.

use std::cell::Cell;
use std::time::Duration;

use crate::silence::RecentStops;

/// Microseconds from one look at the time to the next past which it is supposed that the worker did not run: it looks twenty times a second.
const STOPPED_MICROS: u64 = 1_000_000;

/// Counts the time in which a worker did not run. It looks at the time with each tick; all times are the worker's microseconds.
#[derive(Debug, Default)]
pub struct StoppedTime {
    looked_micros: Cell<Option<u64>>,
    /// The latest look that came late came then.
    ended_micros: Cell<u64>,
    total_micros: Cell<u64>,
    recent: Cell<RecentStops>,
}

impl StoppedTime {
    /// Looks at the time. Returns true where this look comes so late that nothing is to be judged by it; of two that follow each other
    /// the second is not, lest a worker that is always late judges nobody.
    pub fn look(&self, now: u64) -> bool {
        let gap = self.gap(now);
        let was_late = self.looked_micros.replace(Some(now)) == Some(self.ended_micros.get());
        if gap == 0 || was_late {
            return false;
        }
        self.ended_micros.set(now);
        self.total_micros.set(self.total_micros.get() + gap);
        self.recent.set(self.recent.get().and(now, gap));
        true
    }

    /// Returns the last of these times, the one under way included.
    pub fn recent(&self, now: u64) -> RecentStops {
        match self.gap(now) {
            0 => self.recent.get(),
            gap => self.recent.get().and(now, gap),
        }
    }

    /// Returns for how long the worker has not run, in all.
    pub fn total(&self, now: u64) -> Duration {
        Duration::from_micros(self.total_micros.get() + self.gap(now))
    }

    /// Returns the time since the last look, where that is so long that the worker did not run.
    fn gap(&self, now: u64) -> u64 {
        let looked = self.looked_micros.get().unwrap_or(now);
        let gap = now.saturating_sub(looked);
        if gap > STOPPED_MICROS { gap } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_look_that_comes_late_judges_nobody_and_the_next_does() {
        let stopped = StoppedTime::default();
        assert!(!stopped.look(5 * SECOND));
        assert!(!stopped.look(6 * SECOND));
        let counted = |then, now| stopped.recent(now * SECOND).counted_from(then * SECOND) / SECOND;
        assert_eq!(counted(5, 6), 5);
        // Before the look that finds it, too.
        assert_eq!(counted(5, 10), 9);
        assert_eq!(stopped.total(10 * SECOND), Duration::from_secs(4));
        assert!(stopped.look(10 * SECOND));
        assert_eq!((counted(5, 11), counted(7, 11)), (9, 10));
        assert_eq!(counted(10, 11), 10);
        assert_eq!(stopped.total(11 * SECOND), Duration::from_secs(4));
        assert!(!stopped.look(12 * SECOND));
        assert!(stopped.look(14 * SECOND));
    }
}
