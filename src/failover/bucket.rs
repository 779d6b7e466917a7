//! How many connects a second there may be: a bucket that holds a second's worth of them.

const SECOND: u64 = 1_000_000;

/// Returns how long a token takes to come, in microseconds.
fn each(per_second: u32) -> u64 {
    SECOND / u64::from(per_second.max(1))
}

/// Bounds a rate: a token bucket, kept as the time at which it would be full.
#[derive(Debug, Default)]
pub struct TokenBucket {
    full_at: u64,
}

impl TokenBucket {
    /// Takes a token; how long its taker must wait, in microseconds. Those who take one after the other are served so.
    pub fn take(&mut self, now: u64, per_second: u32) -> u64 {
        self.full_at = self.full_at.max(now) + each(per_second);
        (self.full_at - now).saturating_sub(SECOND)
    }

    /// Gives back a token that was taken and has not been used.
    pub fn give_back(&mut self, per_second: u32) {
        self.full_at = self.full_at.saturating_sub(each(per_second));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_seconds_worth_goes_at_once_and_the_rest_in_turn() {
        let mut bucket = TokenBucket::default();
        let waits: Vec<u64> = (0..7).map(|_| bucket.take(0, 5)).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 200_000, 400_000]);
        assert_eq!(bucket.take(10_000_000, 5), 0, "full again");
    }

    #[test]
    fn what_is_given_back_is_there_for_the_next() {
        let mut bucket = TokenBucket::default();
        for _ in 0..100 {
            assert_eq!(bucket.take(0, 1), 0);
            bucket.give_back(1);
        }
    }

    proptest! {
        /// In any window of a second no more than two seconds' worth connect: those saved up, and those of that second.
        #[test]
        fn the_rate_holds(steps in prop::collection::vec(0_u64..300_000, 1..200), rate in 1_u32..50) {
            let (mut bucket, mut now, mut connects) = (TokenBucket::default(), 0, Vec::new());
            for step in steps {
                now += step;
                connects.push(now + bucket.take(now, rate));
            }
            for &start in &connects {
                let within = connects.iter().filter(|at| (start..start + 1_000_000).contains(*at)).count();
                prop_assert!(within <= 2 * rate as usize + 1, "{within} in a second at {rate}");
            }
        }
    }
}
