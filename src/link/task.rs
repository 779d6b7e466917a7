//! The task of a connection: it is woken once for whatever comes up before its next turn.

use std::cell::{Cell, RefCell};
use std::task::Waker;

/// Wakes the task of one connection.
#[derive(Default)]
pub(super) struct LinkTask {
    waker: RefCell<Option<Waker>>,
    /// Is true from when it was woken until its next turn.
    is_woken: Cell<bool>,
}

impl LinkTask {
    /// Begins a turn of the task that `waker` wakes.
    #[inline]
    pub(super) fn begin_turn(&self, waker: &Waker) {
        self.is_woken.set(false);
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// Wakes it, unless that was done since its last turn began.
    #[inline]
    pub(super) fn wake(&self) {
        if !self.is_woken.replace(true) {
            self.wake_anew();
        }
    }

    /// Wakes it, though it may have been woken already.
    #[inline]
    pub(super) fn wake_anew(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_is_woken_once_a_turn_but_for_its_end() {
        let woken = Arc::<Woken>::default();
        let times = || woken.0.load(Ordering::Relaxed);
        let task = LinkTask::default();
        task.wake();
        task.begin_turn(&Waker::from(Arc::clone(&woken)));
        assert_eq!(times(), 0, "it has not begun yet");
        task.wake();
        task.wake();
        assert_eq!(times(), 1);
        task.wake_anew();
        assert_eq!(times(), 2);
        task.begin_turn(&Waker::from(Arc::clone(&woken)));
        task.wake();
        assert_eq!(times(), 3);
    }
}
