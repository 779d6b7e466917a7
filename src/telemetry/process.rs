//! What the process counts of itself: lines of its log that were lost, panics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{AdminRefusal, PartRow};

/// Counters that there is one of in the process: logging and panics concern every thread.
#[derive(Debug, Default)]
pub struct ProcessCounters {
    /// Lines of the log dropped because `log.buffer` was full.
    dropped: AtomicU64,
    /// Lines of the log that could not be written.
    failed: AtomicU64,
    /// Panics of any thread.
    panics: AtomicU64,
    /// Clients turned away because there was no descriptor for them.
    without_descriptor: AtomicU64,
    /// Requests to the operator's endpoint that came to nothing.
    admin_refused: [AtomicU64; AdminRefusal::ALL.len()],
}

/// The counters of this process.
pub static PROCESS: ProcessCounters = ProcessCounters {
    dropped: AtomicU64::new(0),
    failed: AtomicU64::new(0),
    panics: AtomicU64::new(0),
    without_descriptor: AtomicU64::new(0),
    admin_refused: [const { AtomicU64::new(0) }; AdminRefusal::ALL.len()],
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

    /// There was no file descriptor for a client, and it was turned away.
    pub fn without_descriptor(&self) {
        self.without_descriptor.fetch_add(1, Ordering::Relaxed);
    }

    /// A request to the operator's endpoint came to nothing.
    pub fn admin_refused(&self, why: AdminRefusal) {
        self.admin_refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// What they count now.
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

/// The process at one moment.
#[derive(Debug, Clone, Default)]
pub struct ProcessRow {
    /// Lines of the log dropped because `log.buffer` was full.
    pub lines_dropped: u64,
    /// Lines of the log that could not be written.
    pub lines_failed: u64,
    /// Panics of any thread.
    pub panics: u64,
    /// Clients turned away because there was no descriptor for them.
    pub without_descriptor: u64,
    /// Requests to the operator's endpoint that came to nothing, by reason.
    pub admin_refused: [u64; AdminRefusal::ALL.len()],
    /// The parts, and what is wrong with them.
    pub parts: Vec<PartRow>,
}
