//! Describes tries: calls that never wait, on shared connections or in front of an issued call.

use super::LineKey;
use super::ids::{ClassId, WaiterId};

/// Holds requests that are sent in one go, and says how many replies they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestBatch {
    /// They are here one behind the other.
    pub bytes: Vec<u8>,
    /// They have this many replies.
    pub replies: usize,
    /// This number of them may take something away.
    pub takes: usize,
}

impl RequestBatch {
    /// Tells whether they are one transaction, from MULTI to EXEC.
    pub fn is_transaction(&self) -> bool {
        self.bytes.starts_with(b"*1\r\n$5\r\nMULTI\r\n")
    }
}

/// Says why a try has no replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TryFailure {
    /// Its connection was lost.
    Lost {
        /// It may have run.
        sent: bool,
    },
    /// It was answered with more than may be gathered.
    TooLarge,
    /// The server is away; it was not sent.
    Unreachable,
    /// The server refused its state with this reply; it was not sent.
    Refused(Vec<u8>),
}

/// Says what a try is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TryPurpose {
    /// It asks for the ids of last entries.
    Resolve(WaiterId),
    /// It is the waiter's own call.
    Newcomer(WaiterId),
    /// It is for a class without a connection, over its keys.
    Poll(ClassId),
    /// It is about one key that has just answered.
    FollowUp(ClassId),
    /// It asks for the kinds of keys of a class that are left out of its calls.
    Look(ClassId),
}

/// Keeps a try that is wanted, or under way.
#[derive(Debug)]
pub(super) struct PendingTry {
    pub(super) kind: TryPurpose,
    /// Its calls stand outside MULTI, inside which the server has refused them.
    pub(super) is_bare: bool,
    /// Once it is sent it is for this class, and may answer with these keys.
    pub(super) class: Option<ClassId>,
    pub(super) keys: Vec<LineKey>,
    pub(super) count: u32,
    /// This number of requests for the kinds of keys stand in front of the calls.
    pub(super) kinds: usize,
}

impl PendingTry {
    pub(super) fn new(kind: TryPurpose, is_bare: bool) -> Self {
        Self {
            kind,
            is_bare,
            class: None,
            keys: Vec::new(),
            count: 0,
            kinds: 0,
        }
    }
}
