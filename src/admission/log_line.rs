//! What is worth a line in the log, and how often.
//!
//! Pure: told the time.

use std::fmt;
use std::time::{Duration, Instant};

/// Two lines of a kind about one group are at least this far apart.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Says that a line is worth logging, and for how many others it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLine {
    /// Counts those of the kind that were not logged since the last one that was.
    pub(super) suppressed: u64,
}

impl fmt::Display for LogLine {
    /// Writes nothing, or ` (7 more not logged)`, to be appended to a message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.suppressed == 0 {
            Ok(())
        } else {
            write!(f, " ({} more not logged)", self.suppressed)
        }
    }
}

/// Lets a line pass once in [`LOG_INTERVAL`] and counts the others.
#[derive(Debug, Default)]
pub(super) struct LineThrottle {
    last: Option<Instant>,
    suppressed: u64,
}

impl LineThrottle {
    pub(super) fn pass(&mut self, now: Instant) -> Option<LogLine> {
        if self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < LOG_INTERVAL)
        {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(LogLine {
            suppressed: std::mem::take(&mut self.suppressed),
        })
    }
}
