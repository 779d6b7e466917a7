//! Tries: calls that never wait, on shared connections or in front of an issued call.

use super::Key;
use super::ids::{ClassId, WaiterId};

/// Requests that are sent in one go, and how many replies they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sending {
    /// They are here one behind the other.
    pub bytes: Vec<u8>,
    /// They have so many replies.
    pub replies: usize,
    /// So many of them may take something away.
    pub takes: usize,
}

impl Sending {
    /// Tells whether they are one transaction, from MULTI to EXEC.
    pub fn is_transaction(&self) -> bool {
        self.bytes.starts_with(b"*1\r\n$5\r\nMULTI\r\n")
    }
}

/// Says why a try has no replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
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
pub(super) enum Kind {
    /// It asks for the ids of last entries.
    Resolve(WaiterId),
    /// It is the waiter's own call.
    Newcomer(WaiterId),
    /// It is for a class without a connection, over its keys.
    Poll(ClassId),
    /// It is about one key that has just answered.
    Chase(ClassId),
    /// It asks for the kinds of keys of a class that are left out of its calls.
    Look(ClassId),
}

/// Keeps a try that is wanted, or under way.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) kind: Kind,
    /// Its calls stand outside MULTI, inside which the server has refused them.
    pub(super) is_bare: bool,
    /// Once it is sent it is for this class, and may answer with these keys.
    pub(super) class: Option<ClassId>,
    pub(super) keys: Vec<Key>,
    pub(super) count: u32,
    /// So many requests for the kinds of keys stand in front of the calls.
    pub(super) kinds: usize,
}

impl Attempt {
    pub(super) fn new(kind: Kind, is_bare: bool) -> Self {
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
