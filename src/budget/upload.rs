//! How an upload on a lent connection keeps up with the time that it has the connection.

/// What a second on a connection that others wait for must at least be used for: a megabyte, a byte in a microsecond.
const BYTES_A_MICROSECOND: u64 = 1;

/// A look that comes later than this comes late for respool's own reasons: its clients have not been read either.
const LONGEST_STEP_MICROS: u64 = 100_000;

/// How far one upload is behind.
#[derive(Debug, Clone, Copy)]
pub struct UploadPace {
    looked_micros: u64,
    /// Bytes since then.
    moved: u64,
    behind_micros: u64,
}

impl UploadPace {
    /// An upload that begins to be sent.
    pub fn new(now_micros: u64) -> Self {
        Self {
            looked_micros: now_micros,
            moved: 0,
            behind_micros: 0,
        }
    }

    /// More of it has come.
    pub fn moved(&mut self, bytes: usize) {
        self.moved += bytes as u64;
    }

    /// How many microseconds it is behind, as of now. Bytes that came faster before give no right to come slower later; an
    /// upload that `waits` for the server is not to blame for the time since the last look.
    pub fn look(&mut self, now_micros: u64, waits: bool) -> u64 {
        let step = now_micros.saturating_sub(self.looked_micros);
        let paid = std::mem::take(&mut self.moved) / BYTES_A_MICROSECOND;
        self.looked_micros = now_micros;
        if !waits {
            let due = self.behind_micros + step.min(LONGEST_STEP_MICROS);
            self.behind_micros = due.saturating_sub(paid);
        }
        self.behind_micros
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: u64 = 50_000;

    /// Looks each tick at an upload of which `bytes` came in between; how far it is behind at the end.
    fn after(ticks: u64, bytes: usize) -> u64 {
        let mut pace = UploadPace::new(0);
        let looks = (1..=ticks).map(|tick| {
            pace.moved(bytes);
            pace.look(tick * TICK, false)
        });
        looks.last().unwrap_or(0)
    }

    #[test]
    fn who_stalls_or_dribbles_falls_behind_and_who_goes_on_does_not() {
        assert_eq!(after(4, 0), 200_000);
        assert_eq!(after(4, 1), 199_996);
        assert_eq!(after(1000, 50_000), 0);
        assert_eq!(after(1000, 500_000), 0);
    }

    #[test]
    fn a_burst_pays_for_what_was_due_and_not_for_what_will_be() {
        let mut pace = UploadPace::new(0);
        assert_eq!(pace.look(TICK, false), TICK);
        pace.moved(10_000_000);
        assert_eq!(pace.look(2 * TICK, false), 0);
        assert_eq!(pace.look(3 * TICK, false), TICK);
    }

    #[test]
    fn time_in_which_it_could_not_be_read_is_not_its_own() {
        let mut pace = UploadPace::new(0);
        assert_eq!(pace.look(30_000_000, true), 0);
        assert_eq!(pace.look(60_000_000, false), LONGEST_STEP_MICROS);
    }

    proptest! {
        #[test]
        fn nobody_is_further_behind_than_the_time_it_had(
            looks in proptest::collection::vec((1u64..200_000, 0usize..300_000, any::<bool>()), 0..50)
        ) {
            let (mut pace, mut now) = (UploadPace::new(0), 0);
            for (step, bytes, waits) in looks {
                now += step;
                pace.moved(bytes);
                prop_assert!(pace.look(now, waits) <= now);
            }
        }
    }
}
