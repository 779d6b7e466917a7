//! The most of something that stood at once, counted again and again by a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::eventually;

/// Counts until it is dropped.
pub(crate) struct PeakWatch {
    /// Is what the test has itself, which does not count.
    own: usize,
    most: Arc<AtomicUsize>,
    samples: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PeakWatch {
    /// Calls `count` until it tells nothing any more, and waits for the first sample.
    #[track_caller]
    pub(super) fn start(
        own: usize,
        mut count: impl FnMut() -> Option<usize> + Send + 'static,
    ) -> Self {
        let (most, samples): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let thread = std::thread::spawn({
            let (most, samples, stop) = (most.clone(), samples.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(found) = count() else { return };
                    most.fetch_max(found, Ordering::Relaxed);
                    samples.fetch_add(1, Ordering::Relaxed);
                    // A sample each few milliseconds leaves the processor to what is tested.
                    std::thread::park_timeout(Duration::from_millis(2));
                }
            }
        });
        let watch = Self {
            own,
            most,
            samples,
            stop,
            thread: Some(thread),
        };
        watch.look_again(1);
        watch
    }

    /// Tells the most so far, at least two samples from now on included: a short test has those of its busy time then.
    #[track_caller]
    pub(crate) fn most(&self) -> usize {
        self.look_again(3);
        self.most.load(Ordering::Relaxed).saturating_sub(self.own)
    }

    /// Waits for so many samples, the first of which may have begun already.
    #[track_caller]
    fn look_again(&self, times: usize) {
        let enough = self.samples.load(Ordering::Relaxed) + times;
        let is_over = || self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        eventually(
            || self.samples.load(Ordering::Relaxed) >= enough || is_over(),
            "another sample of what is watched",
        );
    }
}

impl Drop for PeakWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
