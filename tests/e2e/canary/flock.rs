//! What all canaries of a run share: where respool is, how the server fares, what was done how often.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub(super) struct Flock {
    pub(super) address: String,
    pub(super) seed: u64,
    /// Even: the server runs and every database has its mark. Odd: it is being killed, started and marked.
    phase: AtomicUsize,
    ended: AtomicBool,
    /// Operations finished, cut short by the end of the connection, and refused.
    done: Mutex<BTreeMap<&'static str, [usize; 3]>>,
}

/// How an operation ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Finished,
    Cut,
    Refused,
}

impl Flock {
    pub(super) fn new(address: String, seed: u64) -> Self {
        Self {
            address,
            seed,
            phase: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            done: Mutex::default(),
        }
    }

    pub(super) fn phase(&self) -> usize {
        self.phase.load(Ordering::SeqCst)
    }

    pub(super) fn next_phase(&self) {
        self.phase.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    pub(super) fn count(&self, operation: &'static str, end: End) {
        let mut done = self.done.lock().expect("counting does not panic");
        done.entry(operation).or_default()[end as usize] += 1;
    }

    /// Finished, cut and refused by operation.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, [usize; 3]> {
        self.done.lock().expect("counting does not panic").clone()
    }
}

/// Ends the run for all when the thread that holds it fails.
pub(super) struct EndOnPanic<'a>(pub(super) &'a Flock);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end();
        }
    }
}
