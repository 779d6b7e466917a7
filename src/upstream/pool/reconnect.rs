//! When a worker connects again: the pause grows with each attempt that fails, and what the server has said decides who goes by it.
//!
//! Pure: the time and the chance are told.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::ReconnectDelays;
use crate::failover::backoff;

/// At least this long lies between two log lines about a server that stays away.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A connection that is lost sooner than this counts as an attempt that failed: a server may take every connection and
/// close it at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// A server that cannot serve yet is asked again within this long by who needs a connection while others are up.
const ASK_UNREADY_AFTER: Duration = Duration::from_millis(100);

/// Says why an attempt to connect has failed, as far as that decides when the next one is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FailedAttempt {
    /// The server has no place left.
    Full,
    /// The server is there, and does not take respool.
    Refused,
    /// The server is there, and has said this: it cannot serve now.
    Unready(Box<[u8]>),
    /// The server is not there.
    Away,
}

/// Holds what a server that is there has said instead of serving, and when.
#[derive(Debug)]
struct SaidUnready {
    said: Box<[u8]>,
    at: Instant,
}

/// Holds the pause between the attempts of one worker to connect.
#[derive(Debug, Default)]
pub(super) struct ReconnectPause {
    failures: u32,
    /// This number of connections were lost soon after they were opened, one after the other.
    short_lives: u32,
    next_attempt: Option<Instant>,
    /// The server has no place left: that another was given one says nothing.
    is_full: bool,
    /// The server is there, and did not take respool at the last attempt.
    is_refused: bool,
    /// The server is there, and has said with this at the last attempt that it cannot serve now.
    unready: Option<SaidUnready>,
    last_logged: Option<Instant>,
}

impl ReconnectPause {
    /// Takes in an attempt that failed; `serves_others`: shared connections are up. Returns how long the pause is, and counts for the
    /// log if that is to be told.
    pub(super) fn failed(
        &mut self,
        failed: FailedAttempt,
        (reconnect, chance): (ReconnectDelays, f64),
        serves_others: bool,
        now: Instant,
    ) -> (Duration, Option<u32>) {
        self.is_full = failed == FailedAttempt::Full;
        self.is_refused = matches!(failed, FailedAttempt::Full | FailedAttempt::Refused);
        self.unready = match failed {
            FailedAttempt::Unready(said) => Some(SaidUnready { said, at: now }),
            _ => None,
        };
        // A server that is full is not helped by being asked often.
        let failures = match self.is_full {
            true => u32::MAX,
            false => self.failures,
        };
        let mut pause = backoff(reconnect, failures, chance);
        if self.unready.is_some() && serves_others {
            pause = pause.min(ASK_UNREADY_AFTER);
        }
        self.failures = self.failures.saturating_add(1);
        self.next_attempt = Some(now + pause);
        let tells = self.last_logged.is_none_or(|last| now - last >= LOG_EVERY);
        if tells {
            self.last_logged = Some(now);
        }
        (pause, tells.then_some(self.failures))
    }

    /// Takes in that a connection came about. Returns how many attempts had failed before it.
    pub(super) fn connected(&mut self) -> u32 {
        let short_lives = self.short_lives;
        let before = std::mem::take(self);
        self.short_lives = short_lives;
        before.failures
    }

    /// Takes in that a connection has ended by the server's will after it had lived for so long.
    pub(super) fn lived(
        &mut self,
        life: Duration,
        (reconnect, chance): (ReconnectDelays, f64),
        now: Instant,
    ) {
        if life >= SHORT_LIFE {
            self.short_lives = 0;
            return;
        }
        self.next_attempt = Some(now + backoff(reconnect, self.short_lives, chance));
        self.short_lives = self.short_lives.saturating_add(1);
    }

    /// Takes in that a server that hung is back: the next attempt is due at once.
    pub(super) fn stirred(&mut self) {
        if self.follows() {
            self.next_attempt = None;
        }
    }

    /// Returns when the next attempt is due; `None`: at once.
    pub(super) fn next_attempt(&self) -> Option<Instant> {
        self.next_attempt
    }

    /// Tells whether what another worker has achieved says anything of the next attempt: not where the server is full, nor where it
    /// takes connections and closes them.
    pub(super) fn follows(&self) -> bool {
        !self.is_full && self.short_lives == 0
    }

    /// Tells whether attempts have failed since the last that succeeded.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Tells whether the server is there, and did not take respool at the last attempt.
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Returns what the server has said at the last attempt, where it is there and cannot serve now.
    pub(super) fn says_unready(&self) -> Option<Box<[u8]>> {
        let unready = self.unready.as_ref();
        unready.map(|unready| unready.said.clone())
    }

    /// Returns the same, where it was said after `needed`: of who began to need a connection then it is true.
    pub(super) fn says_unready_since(&self, needed: Instant) -> Option<Box<[u8]>> {
        let unready = self.unready.as_ref().filter(|said| said.at >= needed);
        unready.map(|unready| unready.said.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: (ReconnectDelays, f64) = (
        ReconnectDelays {
            initial: Duration::from_millis(50),
            max: Duration::from_secs(1),
        },
        1.0,
    );

    const fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn the_pause_grows_until_a_connection_comes_about() {
        let (mut pause, now) = (ReconnectPause::default(), Instant::now());
        assert_eq!((pause.next_attempt(), pause.is_failing()), (None, false));
        let mut failed = |at| {
            pause
                .failed(FailedAttempt::Away, BACKOFF, false, now + millis(at))
                .0
        };
        assert_eq!(
            [failed(0), failed(100), failed(300)],
            [50, 100, 200].map(millis)
        );
        assert_eq!(pause.next_attempt(), Some(now + millis(500)));
        assert!(pause.is_failing() && !pause.is_refused() && pause.follows());
        assert_eq!(pause.connected(), 3);
        assert_eq!((pause.next_attempt(), pause.is_failing()), (None, false));
        let (first, _) = pause.failed(FailedAttempt::Away, BACKOFF, false, now);
        assert_eq!(first, millis(50));
    }

    #[test]
    fn a_server_that_is_full_is_asked_seldom_and_by_nobody_else_sooner() {
        let (mut pause, now) = (ReconnectPause::default(), Instant::now());
        let (first, _) = pause.failed(FailedAttempt::Full, BACKOFF, false, now);
        assert_eq!(first, millis(1000));
        assert!(pause.is_refused() && !pause.follows());
        pause.stirred();
        assert_eq!(pause.next_attempt(), Some(now + millis(1000)));
        pause.failed(FailedAttempt::Refused, BACKOFF, false, now);
        assert!(pause.is_refused() && pause.follows());
        pause.stirred();
        assert_eq!(pause.next_attempt(), None);
    }

    #[test]
    fn what_an_unready_server_has_said_is_true_of_who_needed_it_before() {
        let (mut pause, now) = (ReconnectPause::default(), Instant::now());
        let said = || FailedAttempt::Unready((*b"-LOADING\r\n").into());
        for _ in 0..5 {
            pause.failed(said(), BACKOFF, false, now);
        }
        let (long, _) = pause.failed(said(), BACKOFF, false, now);
        let (short, _) = pause.failed(said(), BACKOFF, true, now + millis(7));
        assert_eq!((long, short), (millis(1000), millis(100)));
        assert!(!pause.is_refused());
        assert!(pause.says_unready_since(now + millis(7)).is_some());
        assert!(pause.says_unready_since(now + millis(8)).is_none());
        assert!(pause.says_unready().is_some());
        pause.failed(FailedAttempt::Away, BACKOFF, true, now);
        assert!(pause.says_unready().is_none());
    }

    #[test]
    fn a_connection_that_is_closed_at_once_is_an_attempt_that_failed() {
        let (mut pause, now) = (ReconnectPause::default(), Instant::now());
        pause.lived(millis(999), BACKOFF, now);
        assert_eq!(pause.next_attempt(), Some(now + millis(50)));
        assert!(!pause.follows() && !pause.is_failing());
        // It is opened again, and lost again.
        pause.connected();
        assert!(pause.next_attempt().is_none() && !pause.follows());
        pause.lived(millis(0), BACKOFF, now);
        assert_eq!(pause.next_attempt(), Some(now + millis(100)));
        pause.connected();
        pause.lived(millis(1000), BACKOFF, now);
        assert!(pause.next_attempt().is_none() && pause.follows());
    }

    #[test]
    fn the_log_is_told_at_once_and_then_now_and_then() {
        let (mut pause, now) = (ReconnectPause::default(), Instant::now());
        let mut told = |seconds| {
            let at = now + Duration::from_secs(seconds);
            pause.failed(FailedAttempt::Away, BACKOFF, false, at).1
        };
        let counts = [told(0), told(9), told(10), told(11)];
        assert_eq!(counts, [Some(1), None, Some(3), None]);
    }
}
