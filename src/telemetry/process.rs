//! What the process counts of itself: lines of its log that were lost, panics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{AdminRefusal, PartRow};

/// Holds the version of respool.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Holds counters that there is one of in the process: logging and panics concern every thread.
#[derive(Debug, Default)]
pub struct ProcessCounters {
    /// Counts the lines of the log dropped because `log.buffer` was full.
    dropped: AtomicU64,
    /// Counts the lines of the log that could not be written.
    failed: AtomicU64,
    /// Counts the panics of any thread.
    panics: AtomicU64,
    /// Counts the clients turned away because there was no descriptor for them.
    without_descriptor: AtomicU64,
    /// Counts the requests to the operator's endpoint that came to nothing.
    admin_refused: [AtomicU64; AdminRefusal::ALL.len()],
}

/// Holds the counters of this process.
pub static PROCESS: ProcessCounters = ProcessCounters {
    dropped: AtomicU64::new(0),
    failed: AtomicU64::new(0),
    panics: AtomicU64::new(0),
    without_descriptor: AtomicU64::new(0),
    admin_refused: [const { AtomicU64::new(0) }; AdminRefusal::ALL.len()],
};

impl ProcessCounters {
    /// Counts a line of the log that found no room.
    pub fn line_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a line of the log that could not be written.
    pub fn line_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a panic of a thread.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a client that was turned away, since there was no file descriptor for it.
    pub fn without_descriptor(&self) {
        self.without_descriptor.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request to the operator's endpoint that came to nothing.
    pub fn admin_refused(&self, why: AdminRefusal) {
        self.admin_refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Tells what they count now.
    pub fn row(&self) -> ProcessRow {
        ProcessRow {
            lines_dropped: self.dropped.load(Ordering::Relaxed),
            lines_failed: self.failed.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
            without_descriptor: self.without_descriptor.load(Ordering::Relaxed),
            admin_refused: std::array::from_fn(|at| self.admin_refused[at].load(Ordering::Relaxed)),
            parts: Vec::new(),
        }
    }
}

/// Shows the process at one moment.
#[derive(Debug, Clone, Default)]
pub struct ProcessRow {
    /// Counts the lines of the log dropped because `log.buffer` was full.
    pub lines_dropped: u64,
    /// Counts the lines of the log that could not be written.
    pub lines_failed: u64,
    /// Counts the panics of any thread.
    pub panics: u64,
    /// Counts the clients turned away because there was no descriptor for them.
    pub without_descriptor: u64,
    /// Counts the requests to the operator's endpoint that came to nothing, by reason.
    pub admin_refused: [u64; AdminRefusal::ALL.len()],
    /// Lists the parts, and what is wrong with them.
    pub parts: Vec<PartRow>,
}
