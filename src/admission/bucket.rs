//! A token bucket: how many may come in a second.
//!
//! Pure: told the time.

use std::time::{Duration, Instant};

/// A bucket needs this time at most to be full again.
pub(super) const BUCKET_FULL_AFTER: Duration = Duration::from_secs(1);

/// Holds as many tokens as its rate, and is refilled continuously. It is exact: one token is a thousand million units.
#[derive(Debug, Clone, Copy)]
pub(super) struct RateBucket {
    rate: u32,
    units: u64,
    at: Instant,
}

const UNITS_A_TOKEN: u64 = 1_000_000_000;

impl RateBucket {
    pub(super) fn full(rate: u32, at: Instant) -> Self {
        Self {
            rate,
            units: u64::from(rate) * UNITS_A_TOKEN,
            at,
        }
    }

    /// Returns its content at `now`; a `now` read earlier on another thread adds nothing.
    fn units_at(&self, now: Instant) -> u64 {
        let gained = now
            .saturating_duration_since(self.at)
            .as_nanos()
            .saturating_mul(u128::from(self.rate));
        let gained = u64::try_from(gained).unwrap_or(u64::MAX);
        self.units
            .saturating_add(gained)
            .min(u64::from(self.rate) * UNITS_A_TOKEN)
    }

    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.units_at(now) == u64::from(self.rate) * UNITS_A_TOKEN
    }

    /// Tells whether it has this rate, which a reload may have changed.
    pub(super) fn is_of(&self, rate: u32) -> bool {
        self.rate == rate
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.units = self.units_at(now);
        self.at = self.at.max(now);
        let taken = self.units >= UNITS_A_TOKEN;
        if taken {
            self.units -= UNITS_A_TOKEN;
        }
        taken
    }
}
