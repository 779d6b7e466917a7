//! EXEC's reply where commands in the transaction are respool's own: each runs when the elements before its own have come.

use std::cell::RefCell;
use std::fmt;

use super::handle::ClientHandle;
use super::violation::Violation;
use crate::fences::{ExecPart, Executed};

/// Runs what has the place of this number, in which the server has this element. Returns what is put in for it, or the element
/// itself; `None`: it is not what the server says in such a place.
type RunOwn = Box<dyn FnMut(usize, Vec<u8>) -> Option<Vec<u8>>>;

/// Tells whether what comes next is shown: it is asked behind each own element.
type IsShown = Box<dyn Fn() -> bool>;

/// Reads the reply to one EXEC that holds elements of respool's own.
pub struct Executing {
    reply: RefCell<Executed>,
    run: RefCell<RunOwn>,
    is_shown: IsShown,
}

impl Executing {
    /// Has `run` called for each own element of `reply`, in their order.
    pub fn new(reply: Executed, run: RunOwn, is_shown: IsShown) -> Self {
        Self {
            reply: reply.into(),
            run: run.into(),
            is_shown,
        }
    }

    /// Passes on bytes of the reply; `complete`: it ends with them.
    pub(super) fn pass(
        &self,
        client: &impl ClientHandle,
        bytes: &[u8],
        complete: bool,
    ) -> Result<(), Violation> {
        let mut run = self.run.borrow_mut();
        let mut is_strange = false;
        let mut reply = self.reply.borrow_mut();
        let parts = reply.take(bytes, |part| match part {
            _ if is_strange => {}
            ExecPart::Pass(bytes) => {
                if (self.is_shown)() {
                    client.deliver(bytes, 0, true);
                }
            }
            ExecPart::Own(number, element) => {
                // It may be the one that ends what is shown, and is the last then.
                let was_shown = (self.is_shown)();
                match run(number, element) {
                    None => is_strange = true,
                    Some(reply) if was_shown || (self.is_shown)() => {
                        client.deliver(&reply, 0, true);
                    }
                    Some(_) => {}
                }
            }
        });
        if parts.is_err() || is_strange || (complete && !reply.is_whole()) {
            return Err(Violation::NotPlaced);
        }
        client.deliver(&[], u32::from(complete), !complete);
        Ok(())
    }
}

impl PartialEq for Executing {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Executing {}

impl fmt::Debug for Executing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Executing({:?})", self.reply.borrow())
    }
}
