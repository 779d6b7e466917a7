//! A server that answers READONLY is no primary any more: how often its connections are replaced for that.
//!
//! Whoever points respool at a replica by mistake gets no storm of connects: each step is twice as long as the one before.

use std::time::Duration;

/// Bounds how long a step may be.
const LONGEST: Duration = Duration::from_secs(10);

/// Says how long without a READONLY the steps begin anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Decides the steps in which connections are replaced.
#[derive(Debug, Default)]
pub struct DemotionSteps {
    steps: u32,
    next: u64,
    last: u64,
}

impl DemotionSteps {
    /// Notes that a server has answered as a replica does. Returns true where a step is due, and whether it is one is
    /// worth asking.
    pub fn is_due(&mut self, now: u64) -> bool {
        if now.saturating_sub(self.last) > FORGOTTEN_AFTER.as_micros() as u64 {
            *self = Self::default();
        }
        self.last = now;
        now >= self.next
    }

    /// Notes that a server is a replica. Returns true where its connections are to be replaced now. `initial` is the
    /// first step.
    pub fn seen(&mut self, now: u64, initial: Duration) -> bool {
        if !self.is_due(now) {
            return false;
        }
        let step = initial.saturating_mul(1 << self.steps.min(16)).min(LONGEST);
        self.steps += 1;
        self.next = now + step.as_micros() as u64;
        true
    }

    /// Tells whether it was seen lately: the name is worth a look more often.
    pub fn is_recent(&self, now: u64) -> bool {
        self.steps > 0 && now.saturating_sub(self.last) <= FORGOTTEN_AFTER.as_micros() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: Duration = Duration::from_millis(50);

    #[test]
    fn the_first_is_acted_on_at_once_and_the_next_in_ever_longer_steps() {
        let mut demotion = DemotionSteps::default();
        let acted: Vec<u64> = (0..60_000)
            .map(|ms| ms * 1000)
            .filter(|now| demotion.seen(*now, INITIAL))
            .map(|now| now / 1000)
            .collect();
        assert_eq!(acted[..5], [0, 50, 150, 350, 750]);
        assert!(acted.len() < 16, "{} in a minute", acted.len());
        assert!(acted.windows(2).all(|pair| pair[1] - pair[0] <= 10_000));
    }

    #[test]
    fn it_is_forgotten() {
        let mut demotion = DemotionSteps::default();
        assert!(!demotion.is_recent(0));
        assert!((0..10).any(|second| demotion.seen(second * 1_000_000, INITIAL)));
        assert!(demotion.is_recent(20_000_000) && !demotion.is_recent(100_000_000));
        assert!(demotion.seen(100_000_000, INITIAL));
        assert!(demotion.seen(100_050_000, INITIAL), "the first step again");
    }
}
