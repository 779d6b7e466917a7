//! Numbers blocked clients, what they wait for, and what is under way for them.
//!
//! Invariant: no number is used twice while the process lives; a later one is the greater.

/// Identifies a blocked client. The numbers grow in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(pub(super) u64);

/// Identifies a class of equal or similar waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClassId(pub(super) u64);

/// Identifies a connection that is borrowed for issued calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallConnectionId(pub(super) u64);

/// Identifies a try, of a newcomer or of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TryId(pub(super) u64);
