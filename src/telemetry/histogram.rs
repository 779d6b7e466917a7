//! A histogram of durations with fixed buckets, written by one thread and read by any.

use super::Counter;

/// Lists the inclusive upper bounds of the buckets in microseconds; one more bucket takes what lies above the last.
const BOUNDS_MICROS: [u64; 17] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000, 10_000_000,
];

const BUCKETS: usize = BOUNDS_MICROS.len() + 1;

/// Counts of durations by bucket, and their sum. Single-writer, as [`Counter`] is.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_micros: Counter,
}

impl Histogram {
    /// Counts `count` events that took `micros` microseconds each.
    #[inline]
    pub fn record_micros(&self, micros: u64, count: u64) {
        let bucket = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].add(count);
        self.sum_micros.add(micros.saturating_mul(count));
    }

    /// Adds what was counted so far to `totals`.
    pub(super) fn add_to(&self, totals: &mut HistogramTotals) {
        for (total, bucket) in totals.buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.get();
        }
        totals.sum_micros = totals.sum_micros.wrapping_add(self.sum_micros.get());
    }
}

/// Holds the sums of several histograms at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistogramTotals {
    buckets: [u64; BUCKETS],
    sum_micros: u64,
}

impl HistogramTotals {
    /// Counts all events. It is the sum of the buckets, so that a scrape agrees with itself while the workers count on.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the sum of all durations in seconds.
    pub(super) fn sum_seconds(&self) -> f64 {
        self.sum_micros as f64 / 1e6
    }

    /// Counts for each bound, in seconds, the events that took that long or less.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        BOUNDS_MICROS
            .iter()
            .zip(&self.buckets)
            .scan(0, |below, (bound, count)| {
                *below += count;
                Some((*bound as f64 / 1e6, *below))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(records: &[(u64, u64)]) -> HistogramTotals {
        let histogram = Histogram::default();
        for (micros, count) in records {
            histogram.record_micros(*micros, *count);
        }
        let mut totals = HistogramTotals::default();
        histogram.add_to(&mut totals);
        totals
    }

    #[test]
    fn bounds_are_inclusive() {
        for bound in BOUNDS_MICROS {
            let at: Vec<_> = totals(&[(bound, 1)]).cumulative().collect();
            let above: Vec<_> = totals(&[(bound + 1, 1)]).cumulative().collect();
            let seconds = bound as f64 / 1e6;
            assert!(
                at.iter()
                    .all(|(le, count)| (*count == 1) == (*le >= seconds)),
                "{bound}: {at:?}"
            );
            assert!(
                above
                    .iter()
                    .all(|(le, count)| (*count == 1) == (*le > seconds)),
                "{bound}: {above:?}"
            );
        }
    }

    #[test]
    fn counts_and_sums() {
        let totals = totals(&[(0, 3), (40, 2), (1_500_000, 2), (60_000_000, 1)]);
        assert_eq!(totals.count(), 8);
        assert!((totals.sum_seconds() - 63.000_08).abs() < 1e-9);
        assert_eq!(totals.cumulative().next(), Some((0.000_05, 5)));
        assert_eq!(
            totals.cumulative().last(),
            Some((10.0, 7)),
            "what took longer is only in the count"
        );
    }

    #[test]
    fn adds_up_over_writers() {
        let (one, two) = (Histogram::default(), Histogram::default());
        one.record_micros(10, 5);
        two.record_micros(10, 7);
        let mut totals = HistogramTotals::default();
        one.add_to(&mut totals);
        two.add_to(&mut totals);
        assert_eq!(totals.count(), 12);
    }
}
