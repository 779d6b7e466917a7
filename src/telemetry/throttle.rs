//! Lines of the log that anybody can cause, written now and then.

use std::cell::Cell;

/// Says how often a line of one kind is written, in microseconds.
const EVERY_MICROS: u64 = 10_000_000;

/// Thins out lines of one kind: the first is written, and from then on one each ten seconds that says how many it
/// stands for.
#[derive(Debug)]
pub struct Throttle {
    /// Says when the ten seconds began.
    since_micros: Cell<Option<u64>>,
    /// Counts those written since then.
    written: Cell<u32>,
    most: u32,
    unwritten: Cell<u64>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::of(1)
    }
}

impl Throttle {
    /// Thins out lines of which `most` are written in ten seconds: a few say more than one.
    pub fn of(most: u32) -> Self {
        Self {
            since_micros: Cell::default(),
            written: Cell::default(),
            most,
            unwritten: Cell::default(),
        }
    }

    /// Takes something that is worth a line. `Some` says that it is to be written, and how many before it were not.
    pub fn write(&self, now_micros: u64) -> Option<u64> {
        let is_due = |since| now_micros.saturating_sub(since) >= EVERY_MICROS;
        if self.since_micros.get().is_none_or(is_due) {
            self.since_micros.set(Some(now_micros));
            self.written.set(0);
        }
        if self.written.get() < self.most {
            self.written.set(self.written.get() + 1);
            return Some(self.unwritten.take());
        }
        self.unwritten.set(self.unwritten.get() + 1);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stands_for_those_that_were_not_written() {
        let throttle = Throttle::default();
        assert_eq!(throttle.write(5), Some(0));
        assert_eq!(throttle.write(6), None);
        assert_eq!(throttle.write(7), None);
        assert_eq!(throttle.write(5 + EVERY_MICROS), Some(2));
    }

    #[test]
    fn a_few_may_be_written_at_once() {
        let throttle = Throttle::of(2);
        assert_eq!(throttle.write(5), Some(0));
        assert_eq!(throttle.write(6), Some(0));
        assert_eq!(throttle.write(7), None);
        assert_eq!(throttle.write(4 + EVERY_MICROS), None);
        assert_eq!(throttle.write(5 + EVERY_MICROS), Some(2));
        assert_eq!(throttle.write(6 + EVERY_MICROS), Some(0));
        assert_eq!(throttle.write(7 + EVERY_MICROS), None);
    }
}
