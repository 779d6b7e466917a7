//! What the connection of the model hears of its exchange.

use std::cell::{Cell, RefCell};

use crate::exchange::{ConnectionEvents, Violation};

/// What the connection has heard of its exchange.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) takes_pushes: bool,
    pub(super) is_overdue: bool,
    pub(super) pushed: RefCell<Vec<u8>>,
    pub(super) replied: Cell<u32>,
}

impl ConnectionEvents for Heard {
    fn takes_pushes(&self) -> bool {
        self.takes_pushes
    }

    fn pushed(&self, bytes: &[u8], _: bool) -> Result<bool, Violation> {
        self.pushed.borrow_mut().extend_from_slice(bytes);
        Ok(true)
    }

    fn broke_off(&self, bytes: &[u8]) -> Result<(), Violation> {
        self.pushed.borrow_mut().extend_from_slice(bytes);
        Ok(())
    }

    fn is_fanned_out(&self) -> bool {
        false
    }

    fn confirmed(&self, _: &[u8], _: bool) {}

    fn refused(&self, error: &[u8]) {
        assert!(error.starts_with(b"-") && error.ends_with(b"\r\n"));
    }

    fn script_refused(&self, error: &[u8]) {
        self.refused(error);
    }

    fn reply_begins(&self, _: &[u8]) {}

    fn replied(&self, _: u64, count: u32) {
        self.replied.set(self.replied.get() + count);
    }

    fn reached(&self, _: u64) {}

    fn text_dropped(&self) {}

    fn is_overdue(&self, _: u64) -> bool {
        self.is_overdue
    }
}
