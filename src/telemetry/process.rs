//! What the process counts of itself: lines of its log that were lost, panics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that there is one of in the process: logging and panics concern every thread.
#[derive(Debug, Default)]
pub struct ProcessCounters {
    /// Lines of the log dropped because `log.buffer` was full.
    dropped: AtomicU64,
    /// Lines of the log that could not be written.
    failed: AtomicU64,
    /// Panics of any thread.
    panics: AtomicU64,
}

/// The counters of this process.
pub static PROCESS: ProcessCounters = ProcessCounters {
    dropped: AtomicU64::new(0),
    failed: AtomicU64::new(0),
    panics: AtomicU64::new(0),
};

impl ProcessCounters {
    /// A line of the log found no room.
    pub fn line_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// A line of the log could not be written.
    pub fn line_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// A thread panicked.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// What they count now.
    pub fn row(&self) -> ProcessRow {
        ProcessRow {
            lines_dropped: self.dropped.load(Ordering::Relaxed),
            lines_failed: self.failed.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
        }
    }
}

/// The process at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessRow {
    /// Lines of the log dropped because `log.buffer` was full.
    pub lines_dropped: u64,
    /// Lines of the log that could not be written.
    pub lines_failed: u64,
    /// Panics of any thread.
    pub panics: u64,
}
