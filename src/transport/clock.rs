//! The time of a worker: read from the system once a turn, not once a command.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Counts microseconds since the process' clock started; it is cheap to ask, and as fresh as the last
/// [`Clock::refresh`].
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    now_micros: Cell<u64>,
}

impl Clock {
    /// Makes a clock that counts from `start`.
    pub fn new(start: Instant) -> Self {
        let clock = Self {
            start,
            now_micros: Cell::new(0),
        };
        clock.refresh();
        clock
    }

    /// Reads the system's clock.
    pub fn refresh(&self) -> u64 {
        let now = self.start.elapsed().as_micros() as u64;
        self.now_micros.set(now);
        now
    }

    /// Counts microseconds since the start, as of the last refresh.
    pub fn now_micros(&self) -> u64 {
        self.now_micros.get()
    }

    /// Counts milliseconds since the start, as of the last refresh.
    pub fn now_ms(&self) -> u64 {
        self.now_micros.get() / 1000
    }

    /// Tells whether `limit` has passed since `then_micros`; a zero limit never passes.
    pub fn is_past(&self, then_micros: u64, limit: Duration) -> bool {
        !limit.is_zero() && self.now_micros().saturating_sub(then_micros) > limit.as_micros() as u64
    }
}
