//! Which commands the server has that the static table does not know: read at the first connect, and again when the list may be old.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::link::Link;
use super::pool::Upstream;
use super::thread::Process;
use crate::command::{Learned, Rereading};
use crate::resp::speak::encode_request;

/// What an answer tells of the list beside what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tells {
    /// The list does not name the command. If the server knows it the list is old, or the command was given another name.
    Unlisted {
        /// What it may leave on its connection may be of the kind that RESET does not undo.
        lasts: bool,
    },
    /// The table does not know the subcommand: nobody knows what it leaves on its connection.
    Subcommand,
    /// Unless it is an error, the server has loaded a module, or let go of one.
    Modules,
}

/// When the list is read again; the workers share it.
#[derive(Debug, Default)]
pub struct Listing {
    /// Looked at by each tick, so that the lock is taken only when there is something to do.
    is_wanted: AtomicBool,
    rereading: Mutex<Rereading>,
}

impl Listing {
    /// An answer to a client says that the list may be old.
    pub(super) fn suspect(&self) {
        self.with(Rereading::suspect);
    }

    /// The server says that the list is old.
    pub(super) fn outdate(&self, now_micros: u64) {
        self.with(|rereading| rereading.outdate(now_micros));
    }

    fn with(&self, tell: impl FnOnce(&mut Rereading)) {
        tell(
            &mut self
                .rereading
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.is_wanted.store(true, Ordering::Relaxed);
    }

    fn take_turn(&self, now_micros: u64) -> bool {
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

    fn has_read(&self, has_changed: bool, now_micros: u64) {
        let rereading = self.rereading.lock();
        let mut rereading = rereading.unwrap_or_else(PoisonError::into_inner);
        rereading.has_read(has_changed, now_micros);
    }
}

/// Tells whether an answer says that the server does not know the command.
pub(super) fn is_unknown(answer: &[u8]) -> bool {
    answer.starts_with(b"-ERR unknown command")
}

impl Process {
    /// The list of the server that is there now. Whether it is another one than before.
    fn listed(&self, learned: Learned) -> bool {
        let learned = Arc::new(learned);
        let before = self.server.rcu(|server| {
            let mut server = server.as_deref().cloned().unwrap_or_default();
            server.learned = Some(Arc::clone(&learned));
            Some(Arc::new(server))
        });
        let before = before.as_ref().and_then(|server| server.learned.as_deref());
        before.is_none_or(|before| *before != *learned)
    }

    fn has_list(&self) -> bool {
        let server = self.server.load();
        server
            .as_ref()
            .is_some_and(|server| server.learned.is_some())
    }
}

impl Upstream {
    /// Asks the server for its list on a connection that was opened, while nobody has it.
    pub(super) fn learn(self: &Rc<Self>, link: &Rc<Link>) {
        if !self.thread.process.has_list() {
            self.read_list(link);
        }
    }

    /// Reads the list again, when it may be old and it is time to.
    pub(super) fn learn_again(self: &Rc<Self>) {
        let process = &self.thread.process;
        if self.is_away() || !process.listing.take_turn(process.now_micros()) {
            return;
        }
        let upstream = Rc::clone(self);
        tokio::task::spawn_local(async move {
            // Clients' users may not have the permission that respool's own has.
            match upstream.own_link().await {
                Some(link) => upstream.read_list(&link),
                None => upstream.thread.process.listing.suspect(),
            }
        });
    }

    fn read_list(self: &Rc<Self>, link: &Rc<Link>) {
        let told = link.ask(&encode_request(&["COMMAND"]));
        let (upstream, begun) = (Rc::downgrade(self), link.origin().begun_micros);
        let process = Arc::clone(&self.thread.process);
        tokio::task::spawn_local(async move {
            let Ok(reply) = told.await else {
                // Lost with its connection: the next one tells.
                return process.listing.suspect();
            };
            let is_another = |upstream: Rc<Self>| begun < upstream.known_since.get();
            if upstream.upgrade().is_none_or(is_another) {
                return;
            }
            let learned = Learned::from_command_reply(&reply);
            let has_changed = learned.is_ok_and(|learned| process.listed(learned));
            process.listing.has_read(has_changed, process.now_micros());
        });
    }
}

impl Link {
    /// The answer to the request sent last tells something of the list; no other is due.
    pub fn set_tells(&self, tells: Tells) {
        self.tells.set(Some(tells));
    }

    /// An answer begins that tells something of the list, if `head` is of one.
    pub(super) fn hear_of_list(&self, head: &[u8]) {
        let process = &self.thread.process;
        let is_error = head.first() == Some(&b'-');
        match self.tells.take() {
            Some(Tells::Unlisted { lasts }) if !is_unknown(head) => {
                process.listing.suspect();
                if lasts && !is_error {
                    self.keeps_traces.set(true);
                }
            }
            Some(Tells::Modules) if !is_error => process.listing.outdate(process.now_micros()),
            Some(Tells::Subcommand) if !is_error => self.keeps_traces.set(true),
            _ => {}
        }
    }

    /// Tells whether its client may have left something on it that nothing undoes.
    pub(super) fn keeps_traces(&self) -> bool {
        let is_open = matches!(
            self.tells.get(),
            Some(Tells::Unlisted { lasts: true } | Tells::Subcommand)
        );
        self.keeps_traces.get() || is_open
    }

    /// The server was sent a command of its list, and does not know it if `head` says so.
    #[cold]
    pub(super) fn hear_of_listed(&self, head: &[u8]) {
        if is_unknown(head) {
            self.thread.process.listing.suspect();
        }
    }
}
