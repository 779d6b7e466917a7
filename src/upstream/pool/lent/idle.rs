//! The connections that nobody uses, kept for who wants one next.
//!
//! Invariant: who begins to wait for one when none is there is woken by the next that falls idle.

use std::cell::{Cell, Ref, RefCell};

use tokio::sync::Notify;

/// Keeps connections that nobody uses, and counts who waits for one.
pub(in crate::upstream::pool) struct IdleConnections<T> {
    idle: RefCell<Vec<T>>,
    /// This number of borrowers of the worker wait for a place in the budget: a connection that falls idle is theirs first.
    borrowers: Cell<usize>,
    fell_idle: Notify,
}

impl<T> Default for IdleConnections<T> {
    fn default() -> Self {
        Self {
            idle: RefCell::default(),
            borrowers: Cell::new(0),
            fell_idle: Notify::new(),
        }
    }
}

impl<T> IdleConnections<T> {
    /// Returns all of them, in the order in which they fell idle as far as none was taken.
    pub(in crate::upstream::pool) fn all(&self) -> Ref<'_, Vec<T>> {
        self.idle.borrow()
    }

    /// Keeps another one. Returns whether a borrower is woken for it.
    pub(super) fn put(&self, one: T) -> bool {
        self.idle.borrow_mut().push(one);
        // In this order: who begins to wait from here on finds it.
        let is_awaited = self.borrowers.get() > 0;
        if is_awaited {
            self.fell_idle.notify_one();
        }
        is_awaited
    }

    /// Takes the one at this place among [`Self::all`].
    pub(super) fn take_at(&self, at: usize) -> T {
        self.idle.borrow_mut().swap_remove(at)
    }

    /// Takes the first that fits, or else the one that fell idle last.
    pub(super) fn take_best(&self, fits: impl Fn(&T) -> bool) -> Option<T> {
        let mut idle = self.idle.borrow_mut();
        match idle.iter().position(fits) {
            Some(at) => Some(idle.swap_remove(at)),
            None => idle.pop(),
        }
    }

    /// Takes the one that fell idle last.
    pub(in crate::upstream::pool) fn pop(&self) -> Option<T> {
        self.idle.borrow_mut().pop()
    }

    /// Keeps those alone that are so.
    pub(super) fn retain(&self, is_so: impl Fn(&T) -> bool) {
        self.idle.borrow_mut().retain(is_so);
    }

    /// Tells whether one may go: as many as borrowers of this worker are about to take stay.
    pub(super) fn has_spare(&self) -> bool {
        self.idle.borrow().len() > self.borrowers.get()
    }

    /// Counts a borrower until what is returned is dropped.
    pub(super) fn await_one(&self) -> IdleBorrower<'_> {
        self.borrowers.set(self.borrowers.get() + 1);
        IdleBorrower {
            borrowers: &self.borrowers,
            fell_idle: &self.fell_idle,
        }
    }
}

/// Counts a borrower of this worker while it waits for a place.
pub(super) struct IdleBorrower<'a> {
    borrowers: &'a Cell<usize>,
    fell_idle: &'a Notify,
}

impl IdleBorrower<'_> {
    /// Waits until a connection falls idle.
    pub(super) async fn fell_idle(&self) {
        self.fell_idle.notified().await;
    }
}

impl Drop for IdleBorrower<'_> {
    fn drop(&mut self) {
        self.borrowers.set(self.borrowers.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(all: &[u32]) -> IdleConnections<u32> {
        let idle = IdleConnections::default();
        for one in all {
            idle.put(*one);
        }
        idle
    }

    #[test]
    fn what_fits_is_taken_and_else_what_fell_idle_last() {
        let idle = idle(&[1, 2, 3, 4]);
        assert_eq!(idle.take_best(|one| one % 2 == 0), Some(2));
        assert_eq!(idle.take_best(|one| *one > 10), Some(3));
        assert_eq!(*idle.all(), [1, 4]);
        assert_eq!(idle.take_at(0), 1);
        assert_eq!((idle.pop(), idle.pop()), (Some(4), None));
        assert_eq!(idle.take_best(|_| true), None);
    }

    #[test]
    fn as_many_stay_as_are_waited_for() {
        let idle = idle(&[1, 2]);
        assert!(idle.has_spare());
        let first = idle.await_one();
        assert!(idle.has_spare());
        let second = idle.await_one();
        assert!(!idle.has_spare());
        drop(first);
        assert!(idle.has_spare());
        drop(second);
        idle.retain(|_| false);
        assert!(!idle.has_spare());
    }

    #[test]
    fn a_borrower_is_woken_for_what_falls_idle_and_nobody_else_is() {
        use std::task::{Context, Waker};
        let idle = idle(&[]);
        assert!(!idle.put(1));
        let borrower = idle.await_one();
        let mut cx = Context::from_waker(Waker::noop());
        let mut fell_idle = std::pin::pin!(borrower.fell_idle());
        assert!(fell_idle.as_mut().poll(&mut cx).is_pending());
        assert!(idle.put(2));
        assert!(fell_idle.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn who_has_not_begun_to_wait_when_one_falls_idle_finds_out_all_the_same() {
        use std::task::{Context, Waker};
        let idle = idle(&[]);
        let borrower = idle.await_one();
        assert!(idle.put(1));
        let mut fell_idle = std::pin::pin!(borrower.fell_idle());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(fell_idle.as_mut().poll(&mut cx).is_ready());
    }
}
