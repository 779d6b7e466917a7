//! Whether the server is known to be down, so that nothing waits for it, and who tries it meanwhile.
//!
//! Invariant: while it is open there is at most one attempt to connect in the whole process.

use std::time::Duration;

/// Tells whether an attempt to connect may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectTurn {
    /// It may be made now.
    Now,
    /// It may be made, and is the one of its time: [`CircuitBreaker::probed`] ends it.
    Probe,
    /// It may not be made before then.
    At(u64),
    /// It may not be made before the attempt that is under way has ended.
    After,
}

/// Is closed while the server is there, or may be.
#[derive(Debug, Default)]
pub struct CircuitBreaker {
    /// Says since when no connection is up.
    away_since: Option<u64>,
    /// Counts the attempts that have failed since.
    failures: u32,
    open: Option<OpenCircuit>,
}

#[derive(Debug)]
struct OpenCircuit {
    next_probe: u64,
    is_probing: bool,
}

impl CircuitBreaker {
    /// Notes that the last connection was lost.
    pub fn lost(&mut self, now: u64) {
        self.away_since = Some(now);
    }

    /// Notes that an attempt failed while no connection was up; the next may be made after `pause`. Returns true where
    /// the circuit has opened. `after` is how long the server may be away until it counts as down; zero is as long as
    /// it likes.
    pub fn failed(&mut self, now: u64, after: Duration, pause: Duration) -> bool {
        let since = *self.away_since.get_or_insert(now);
        self.failures = self.failures.saturating_add(1);
        let next_probe = now + pause.as_micros() as u64;
        match &mut self.open {
            Some(open) => {
                open.next_probe = next_probe;
                false
            }
            None if !after.is_zero() && now.saturating_sub(since) >= after.as_micros() as u64 => {
                self.open = Some(OpenCircuit {
                    next_probe,
                    is_probing: false,
                });
                true
            }
            None => false,
        }
    }

    /// Tells how long the server has been away at `now`, if it was missed: attempts to connect have failed.
    pub fn missed_for(&self, now: u64) -> Option<Duration> {
        let since = self.away_since.filter(|_| self.failures > 0)?;
        Some(Duration::from_micros(now.saturating_sub(since)))
    }

    /// Notes that a connection came about. Returns true where the circuit was open.
    pub fn connected(&mut self) -> bool {
        self.away_since = None;
        self.failures = 0;
        self.open.take().is_some()
    }

    /// Notes that the server has done something, after it had done nothing for long: the next attempt is due.
    pub fn stirred(&mut self, now: u64) {
        if let Some(open) = &mut self.open {
            open.next_probe = open.next_probe.min(now);
        }
    }

    /// Tells whether it is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Tells whether who wants to connect may do so.
    pub fn turn(&mut self, now: u64) -> ConnectTurn {
        match &mut self.open {
            None => ConnectTurn::Now,
            Some(open) if open.is_probing => ConnectTurn::After,
            Some(open) if now < open.next_probe => ConnectTurn::At(open.next_probe),
            Some(open) => {
                open.is_probing = true;
                ConnectTurn::Probe
            }
        }
    }

    /// Notes that the one attempt has ended, however it did.
    pub fn probed(&mut self) {
        if let Some(open) = &mut self.open {
            open.is_probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AFTER: Duration = Duration::from_secs(10);
    const PAUSE: Duration = Duration::from_secs(1);
    const SECOND: u64 = 1_000_000;

    #[test]
    fn it_opens_when_no_attempt_has_succeeded_for_long() {
        let mut circuit = CircuitBreaker::default();
        circuit.lost(0);
        assert!(!circuit.failed(SECOND, AFTER, PAUSE));
        assert_eq!(circuit.turn(2 * SECOND), ConnectTurn::Now);
        assert!(circuit.failed(10 * SECOND, AFTER, PAUSE) && circuit.is_open());
        assert!(!circuit.failed(11 * SECOND, AFTER, PAUSE), "told once");
    }

    #[test]
    fn it_knows_for_how_long_the_server_was_missed() {
        let mut circuit = CircuitBreaker::default();
        circuit.lost(SECOND);
        assert_eq!(
            circuit.missed_for(2 * SECOND),
            None,
            "no attempt has failed"
        );
        circuit.failed(2 * SECOND, AFTER, PAUSE);
        circuit.failed(3 * SECOND, AFTER, PAUSE);
        let missed = Some(Duration::from_secs(4));
        assert_eq!(circuit.missed_for(5 * SECOND), missed);
        circuit.connected();
        assert_eq!(circuit.missed_for(6 * SECOND), None);
    }

    #[test]
    fn one_attempt_at_a_time_and_the_first_success_closes() {
        let mut circuit = CircuitBreaker::default();
        circuit.failed(0, AFTER, PAUSE);
        circuit.failed(10 * SECOND, AFTER, PAUSE);
        assert_eq!(circuit.turn(10 * SECOND), ConnectTurn::At(11 * SECOND));
        assert_eq!(circuit.turn(11 * SECOND), ConnectTurn::Probe);
        assert_eq!(circuit.turn(11 * SECOND), ConnectTurn::After);
        circuit.failed(12 * SECOND, AFTER, PAUSE);
        circuit.probed();
        assert_eq!(circuit.turn(12 * SECOND), ConnectTurn::At(13 * SECOND));
        assert_eq!(circuit.turn(13 * SECOND), ConnectTurn::Probe);
        assert!(circuit.connected());
        circuit.probed();
        assert_eq!(circuit.turn(13 * SECOND), ConnectTurn::Now);
        assert!(!circuit.failed(14 * SECOND, AFTER, PAUSE), "counted anew");
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed() {
        let mut circuit = CircuitBreaker::default();
        for second in 0..100 {
            assert!(!circuit.failed(second * SECOND, AFTER, PAUSE));
            if second % 9 == 8 {
                assert!(!circuit.connected());
            }
        }
    }

    #[test]
    fn the_time_is_counted_from_the_last_connection() {
        let mut circuit = CircuitBreaker::default();
        circuit.lost(0);
        circuit.lost(100 * SECOND);
        assert!(!circuit.failed(101 * SECOND, AFTER, PAUSE));
        assert!(circuit.failed(110 * SECOND, AFTER, PAUSE));
    }

    #[test]
    fn a_sign_of_the_server_makes_the_next_attempt_due() {
        let mut circuit = CircuitBreaker::default();
        circuit.stirred(0);
        circuit.failed(0, AFTER, PAUSE);
        circuit.failed(10 * SECOND, AFTER, PAUSE);
        circuit.stirred(10 * SECOND + 1);
        assert_eq!(circuit.turn(10 * SECOND + 1), ConnectTurn::Probe);
        assert!(circuit.is_open(), "it is no connection");
        circuit.stirred(10 * SECOND + 2);
        assert_eq!(
            circuit.turn(10 * SECOND + 2),
            ConnectTurn::After,
            "one at a time"
        );
    }

    #[test]
    fn without_a_time_it_never_opens() {
        let mut circuit = CircuitBreaker::default();
        assert!((0..100).all(|second| !circuit.failed(second * SECOND, Duration::ZERO, PAUSE)));
    }

    proptest! {
        /// Whatever happens: never two attempts at once while it is open, and never none for ever.
        #[test]
        fn at_most_one_probes(events in prop::collection::vec((0_u8..5, 0_u64..4_000_000), 1..200)) {
            let (mut circuit, mut now, mut probes) = (CircuitBreaker::default(), 0, 0_u32);
            for (event, step) in events {
                now += step;
                match event {
                    0 => circuit.lost(now),
                    1 => drop(circuit.failed(now, AFTER, PAUSE)),
                    2 if probes > 0 => {
                        circuit.probed();
                        probes -= 1;
                    }
                    3 if now % 7 == 0 => {
                        circuit.connected();
                        probes = 0;
                    }
                    _ => match circuit.turn(now) {
                        ConnectTurn::Probe => probes += 1,
                        ConnectTurn::After => prop_assert_eq!(probes, 1),
                        ConnectTurn::Now => prop_assert!(!circuit.is_open()),
                        ConnectTurn::At(at) => prop_assert!(at > now && at <= now + PAUSE.as_micros() as u64),
                    },
                }
                prop_assert!(probes <= 1);
            }
        }
    }
}
