//! The parts of a story: the request it is about, what it waits for, and what it comes to.

use std::pin::Pin as Pinned;
use std::rc::Rc;

use super::Client;
use crate::command::CommandId;
use crate::resp::Request;
use crate::session::Routed;
use crate::telemetry::Disconnect;
use crate::upstream::Blocked;

/// Names what a client waits for in a story, as far as that decides how long it is worth waiting for.
pub(super) enum Awaited {
    /// It waits for something that happens seldom, nearly always the server's answer.
    Server,
    /// It waits for a connection, or leave to use one, for which others may have to give one back first.
    Loan,
    /// It waits for its turn behind others: until then nobody does anything for it.
    Turn,
    /// It waits for the end of its call, with which it stands in a line of blocked clients.
    Line(Rc<Blocked>),
    /// It waits for the rest of a request of the client's own.
    Rest,
}

/// Says why a story ends before its time.
pub(super) enum Interrupted {
    /// The client is to be closed.
    Ended(Disconnect),
    /// It waited for what is not to be had, or not wanted any more.
    InVain,
}

/// Is what a story comes to.
pub(super) type Told<T = ()> = Result<T, Interrupted>;

/// Is awaited before its client goes on with its requests.
pub(super) type Story<'a> = Pinned<Box<dyn Future<Output = Told> + 'a>>;

/// Begins a story about what has been looked at already, and is not looked at again.
pub(super) type NextStory = Box<dyn for<'a> FnOnce(&'a mut Client) -> Story<'a>>;

/// Holds a request whose story is to be told: it has been cut and routed once.
pub(super) struct SlowRequest {
    pub(super) bytes: Vec<u8>,
    pub(super) routed: Routed,
}

impl SlowRequest {
    pub(super) fn request(&self) -> Request<'_> {
        Request::new(&self.bytes)
    }

    pub(super) fn command(&self) -> Option<CommandId> {
        self.routed.command
    }

    /// Returns how many bytes it measures.
    pub(super) fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Returns how many bytes of memory hold it.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}
