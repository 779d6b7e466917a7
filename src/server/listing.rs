//! When the server's list of commands is read again: it may be old.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::command::CommandRereading;

/// Tells what an answer says of the list beside what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListHint {
    /// The list does not name the command. If the server knows it the list is old, or the command was given another name.
    Unlisted {
        /// Is true where what it may leave on its connection may be of the kind that RESET does not undo.
        lasts: bool,
    },
    /// The table does not know the subcommand: nobody knows what it leaves on its connection.
    Subcommand,
    /// Unless it is an error, the server has loaded a module, or let go of one.
    Modules,
}

/// Tells all workers when the list is read again.
#[derive(Debug, Default)]
pub struct CommandListing {
    /// It is looked at by each tick, so that the lock is taken only when there is something to do.
    is_wanted: AtomicBool,
    rereading: Mutex<CommandRereading>,
}

impl CommandListing {
    /// Notes that an answer to a client says that the list may be old.
    pub fn suspect(&self) {
        self.with(CommandRereading::suspect);
    }

    /// Notes that the server says that the list is old.
    pub fn outdate(&self, now_micros: u64) {
        self.with(|rereading| rereading.outdate(now_micros));
    }

    fn with(&self, tell: impl FnOnce(&mut CommandRereading)) {
        tell(
            &mut self
                .rereading
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.is_wanted.store(true, Ordering::Relaxed);
    }

    /// Takes the turn to read it again, when it may be old and it is time to.
    pub fn take_turn(&self, now_micros: u64) -> bool {
        if !self.is_wanted.load(Ordering::Relaxed) {
            return false;
        }
        let mut rereading = self
            .rereading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let takes = rereading.take_turn(now_micros);
        if takes {
            self.is_wanted.store(false, Ordering::Relaxed);
        }
        takes
    }

    /// Notes that it was read.
    pub fn has_read(&self, has_changed: bool, now_micros: u64) {
        let rereading = self.rereading.lock();
        let mut rereading = rereading.unwrap_or_else(PoisonError::into_inner);
        rereading.has_read(has_changed, now_micros);
    }
}
