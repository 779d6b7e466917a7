//! How long to wait before the next attempt: exponential, with full jitter.

use std::time::Duration;

use crate::config::ReconnectDelays;

/// Returns the pause after so many `failures`, `chance` being random in `[0, 1)`. It is never so short that it makes a
/// loop without pause.
pub fn backoff(reconnect: ReconnectDelays, failures: u32, chance: f64) -> Duration {
    let edge = reconnect
        .initial
        .saturating_mul(1 << failures.min(16))
        .min(reconnect.max);
    edge.mul_f64(chance).max(reconnect.initial / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_doubles_and_never_passes_the_longest() {
        let reconnect = ReconnectDelays {
            initial: Duration::from_millis(50),
            max: Duration::from_secs(1),
        };
        let edges =
            [0, 1, 2, 4, 5, 100].map(|failures| backoff(reconnect, failures, 1.0).as_millis());
        assert_eq!(edges, [50, 100, 200, 800, 1000, 1000]);
        assert_eq!(backoff(reconnect, 3, 0.0), Duration::from_millis(5));
        assert_eq!(backoff(reconnect, 3, 0.5), Duration::from_millis(200));
    }
}
