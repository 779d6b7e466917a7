//! When the server's `COMMAND` is read again: a state machine that is told the time.
//!
//! What asks for it are signs that the list may be old. Some come of what clients send, so that a client could ask for one after the
//! other: a reading that brings nothing new makes the next one wait longer.

/// Bound the microseconds from one reading to the next. The list of 400 commands measures 200 KiB, and the server works
/// on it for about a millisecond.
const SHORTEST_PAUSE: u64 = 1_000_000;
const LONGEST_PAUSE: u64 = 600 * 1_000_000;

/// Decides when the server's `COMMAND` is read again.
#[derive(Debug)]
pub struct CommandRereading {
    is_wanted: bool,
    /// No reading begins before this.
    from_micros: u64,
    pause_micros: u64,
}

impl Default for CommandRereading {
    fn default() -> Self {
        Self {
            is_wanted: false,
            from_micros: 0,
            pause_micros: SHORTEST_PAUSE,
        }
    }
}

impl CommandRereading {
    /// Notes that the list may be old: an answer to a client says so.
    pub fn suspect(&mut self) {
        self.is_wanted = true;
    }

    /// Notes that the list is old: the server, or what modules it has loaded, is another one.
    pub fn outdate(&mut self, now_micros: u64) {
        self.is_wanted = true;
        self.pause_micros = SHORTEST_PAUSE;
        self.from_micros = self.from_micros.min(now_micros + SHORTEST_PAUSE);
    }

    /// Tells whether the caller is to read it now; nobody else is then.
    pub fn take_turn(&mut self, now_micros: u64) -> bool {
        let is_due = self.is_wanted && now_micros >= self.from_micros;
        if is_due {
            self.is_wanted = false;
            self.from_micros = now_micros + self.pause_micros;
        }
        is_due
    }

    /// Notes that it was read, or could not be.
    pub fn has_read(&mut self, has_changed: bool, now_micros: u64) {
        self.pause_micros = match has_changed {
            true => SHORTEST_PAUSE,
            false => (self.pause_micros * 2).min(LONGEST_PAUSE),
        };
        self.from_micros = now_micros + self.pause_micros;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn it_is_read_when_a_sign_asks_for_it_and_by_one_alone() {
        let mut rereading = CommandRereading::default();
        assert!(!rereading.take_turn(0), "nothing asks for it");
        rereading.suspect();
        assert!(rereading.take_turn(0) && !rereading.take_turn(0));
        rereading.has_read(true, 0);
        rereading.suspect();
        assert!(!rereading.take_turn(SECOND - 1) && rereading.take_turn(SECOND));
    }

    #[test]
    fn what_brings_nothing_new_waits_longer_each_time_and_a_new_server_does_not() {
        let mut rereading = CommandRereading::default();
        let (mut now, mut waited) = (0, Vec::new());
        for _ in 0..12 {
            rereading.suspect();
            let begun = now;
            while !rereading.take_turn(now) {
                now += SECOND;
            }
            waited.push((now - begun) / SECOND);
            rereading.has_read(false, now);
        }
        assert_eq!(waited, [0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        rereading.outdate(now);
        assert!(!rereading.take_turn(now) && rereading.take_turn(now + SECOND));
    }

    proptest! {
        #[test]
        fn no_client_makes_it_a_storm(signs in proptest::collection::vec((0..5u8, 0..3 * SECOND), 0..200)) {
            let mut rereading = CommandRereading::default();
            let (mut now, mut read, mut last) = (0, 0u64, None);
            for (sign, later) in signs {
                now += later;
                match sign {
                    0 => rereading.outdate(now),
                    1 => rereading.has_read(false, now),
                    2 => rereading.has_read(true, now),
                    _ => rereading.suspect(),
                }
                if rereading.take_turn(now) {
                    read += 1;
                    if let Some(last) = last {
                        prop_assert!(now - last >= SHORTEST_PAUSE);
                    }
                    last = Some(now);
                }
            }
            prop_assert!(read <= now / SHORTEST_PAUSE + 1);
        }
    }
}
