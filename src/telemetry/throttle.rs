//! Lines of the log that anybody can cause, written now and then.

use std::cell::Cell;

/// How often a line of one kind is written, in microseconds.
const EVERY_MICROS: u64 = 10_000_000;

/// Lines of one kind: the first is written, and from then on one each ten seconds that says how many it stands for.
#[derive(Debug, Default)]
pub struct Throttle {
    last_micros: Cell<Option<u64>>,
    unwritten: Cell<u64>,
}

impl Throttle {
    /// Something happened that is worth a line. `Some`: it is to be written, and so many before it were not.
    pub fn write(&self, now_micros: u64) -> Option<u64> {
        let is_due = |last| now_micros.saturating_sub(last) >= EVERY_MICROS;
        if self.last_micros.get().is_none_or(is_due) {
            self.last_micros.set(Some(now_micros));
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
}
