//! A client of the model: it writes down what it gets.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::exchange::{ClientHandle, Ending, Unsent};
use crate::schedule::AnsweredRequests;
use crate::session::{PinnedCommand, StreamKind, Transaction};

/// What one client got.
#[derive(Default)]
pub(crate) struct Got {
    pub(crate) bytes: RefCell<Vec<u8>>,
    /// Visible replies that are due to it, and whole ones that it got.
    pub(crate) expected: Cell<u64>,
    pub(crate) complete: Cell<u64>,
    /// Requests without an answer.
    pub(crate) outstanding: Cell<u32>,
    pub(crate) is_open: Cell<bool>,
    pub(crate) is_gone: Cell<bool>,
    pub(crate) is_plain: Cell<bool>,
    pub(crate) is_measured: Cell<bool>,
    pub(crate) unsent: RefCell<Vec<Unsent>>,
    pub(crate) charged: Cell<u32>,
    pub(crate) ended: Cell<Option<Ending>>,
    pub(crate) transaction: RefCell<Transaction>,
}

/// A client of the model.
#[derive(Clone, Default)]
pub(crate) struct ModelClient(pub(crate) Rc<Got>);

impl ClientHandle for ModelClient {
    fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    fn sent(&self, count: u32, visible: bool) {
        self.0.outstanding.set(self.0.outstanding.get() + count);
        if visible {
            let expected = self.0.expected.get() + u64::from(count);
            self.0.expected.set(expected);
        }
    }

    fn is_plain(&self) -> bool {
        self.0.is_plain.get()
    }

    fn is_measured(&self) -> bool {
        self.0.is_measured.get()
    }

    fn is_gone(&self) -> bool {
        self.0.is_gone.get()
    }

    fn deliver(&self, bytes: &[u8], complete: u32, open: bool) {
        let complete = self.0.complete.get() + u64::from(complete);
        self.0.complete.set(complete);
        self.0.is_open.set(open);
        if !self.0.is_gone.get() {
            self.0.bytes.borrow_mut().extend_from_slice(bytes);
        }
    }

    fn answered(&self, complete: u32) {
        let left = self.0.outstanding.get().checked_sub(complete);
        let left = left.expect("no more is answered than was asked");
        self.0.outstanding.set(left);
    }

    fn transaction_answered(&self, verb: PinnedCommand, head: &[u8]) {
        self.0.transaction.borrow_mut().answered(verb, head);
    }

    fn stream(&self) -> Option<StreamKind> {
        self.0.transaction.borrow().stream
    }

    fn charge(&self, answered: &AnsweredRequests) {
        self.0.charged.set(self.0.charged.get() + answered.replies);
    }

    fn take_back(&self, unsent: Unsent) {
        let left = self.0.outstanding.get().checked_sub(unsent.count);
        let left = left.expect("no more comes back than was asked");
        self.0.outstanding.set(left);
        self.0.unsent.borrow_mut().push(unsent);
    }

    fn disconnect(&self, ending: Ending) -> bool {
        let was_open = self.0.ended.get().is_none();
        if was_open {
            self.0.ended.set(Some(ending));
        }
        was_open
    }
}
