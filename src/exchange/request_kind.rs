//! What a client's requests are, as far as their replies matter to respool, and those that come back unsent.

use crate::command::Delays;
use crate::session::PinnedCommand;
use crate::waits::PoppedElements;

/// Says what a request is, as far as its reply matters to respool.
#[derive(Debug)]
pub enum RequestKind {
    /// Nothing but a reply to pass on.
    Plain,
    /// It changes the client's transaction, or what its connection carries.
    Pinned(PinnedCommand),
    /// It may wait at the server for as long as it likes, and take an element away.
    Blocking(PoppedElements),
    /// The requests of a transaction that has arrived whole: the last reply must tell that it is over.
    Block,
    /// Its reply may be more than one frame: a fence stands behind it.
    Fenced,
    /// Its error may be more than one frame: what comes on the connection after one is nobody's.
    RawError,
}

/// Holds requests that a connection lost before any byte of them was sent: they are sent again, on another.
#[derive(Debug)]
pub struct Unsent {
    /// Holds the requests as they were to be sent.
    pub bytes: Vec<u8>,
    /// There are this many requests in `bytes`.
    pub count: u32,
    /// The server may keep them waiting for these reasons.
    pub delays: Delays,
    /// Tells whether their replies are shown.
    pub visible: bool,
    /// All of them are of this kind.
    pub kind: RequestKind,
}
