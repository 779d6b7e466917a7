//! Decides for blocked clients who waits for what, and which calls the server is asked on behalf of all of them.
//!
//! A pure state machine: the caller tells it the time and what happened, and carries out the actions it returns. A newcomer
//! tries first without waiting (its call inside MULTI and EXEC, on a shared connection); one who finds nothing stands in
//! line. Those in line whose calls can be one form a *class*: BLPOP, BRPOP, BZPOPMIN and BZPOPMAX over whatever keys, since
//! their answers name the key (unless the keys are very many); other calls when they are equal. A class has one call issued,
//! on a connection borrowed for it. Classes without one are tried from time to time on a shared connection, and borrow in turn.
//!
//! Invariant: an element goes to the first in line for its key who is still there, and to nobody else.
//! Invariant: no more pops that may answer with a key are sent than living waiters stand in line for it.
//! Invariant: nobody is told null while an element might still come that nobody else could take.
//! Invariant: nobody is told null because its time has passed before a try of its own was answered with nothing.
//! Invariant: who has tried and found nothing is told of a key that is gone or of another kind as whoever the server has blocked;
//! keys of another kind are left out of a call for many, and whoever may not ask for kinds is told as one that arrives.

mod arrivals;
mod blocked;
mod call;
mod class;
mod connections;
mod ids;
mod lines;
mod looks;
mod machine;
mod multi_permissions;
mod owners;
mod polls;
mod popped;
mod price;
mod reply;
mod tries;

#[cfg(any(test, fuzzing))]
pub mod tests;

pub use call::BlockingCall;
pub use ids::{CallConnectionId, TryId, WaiterId};
pub use machine::BlockingCalls;
pub use multi_permissions::{MultiPermission, MultiPermissions};
pub use popped::{PoppedElements, PoppedFate};
pub use reply::has_run;
pub use tries::{RequestBatch, TryFailure};

use std::rc::Rc;

use crate::command::{Delays, PinReason};

/// One issued call asks about this many keys at most; more are asked about in turn.
const MAX_KEYS: usize = 1024;

/// A call over more keys than this is not made one with others.
const MAX_MERGED: usize = 64;

/// A class without a connection is tried this often: soon after somebody has come, and the less often the longer nobody has.
/// Many of them, and those that ask about many keys, are tried as often as [`price::SHARE`] allows. One that takes several
/// calls is tried the more often, up to a limit.
const FIRST_POLL_MICROS: u64 = 5_000;
const POLL_MICROS: u64 = 100_000;
const MIN_POLL_MICROS: u64 = 10_000;

/// A class has its connection for a turn between the least and the longest of these while others have none; all of them
/// together have theirs within a round, and the calls that ask about all keys of a class take no longer than their windows
/// together.
const MIN_SLICE_MICROS: u64 = 10_000;
const MAX_SLICE_MICROS: u64 = 100_000;
const ROUND_MICROS: u64 = 1_000_000;
const WINDOWS_MICROS: u64 = 250_000;

/// One client group alone asks for a connection for a class this long; then the others ask, too.
const ASKING_MICROS: u64 = 250_000;

/// The server may take this much longer to end a call at the end of its turn before it is asked to.
const GRACE_MICROS: u64 = 5_000;

/// A call is left alone this long at least though keys are to be added or taken out, and as long as [`price::CHANGE_SHARE`]
/// demands.
const SETTLING_MICROS: u64 = 1_000;

/// Bounds the tries for one key that stand in front of an issued call, and the bytes of their answers together, as far as the
/// last one tells.
const MAX_AHEAD: u32 = 64;
const MAX_AHEAD_BYTES: usize = 1024 * 1024;

/// Names a line: it is a key, or (empty) stands for all equal calls.
type LineKey = Rc<[u8]>;

/// Tells for whom a wait is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitOrigin {
    /// A connection is borrowed for this group, the client's.
    pub group: usize,
    /// The client comes from here, and turns are dealt out by that.
    pub address: u64,
}

/// Says how CLIENT UNBLOCK ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnblockMode {
    /// It ends as if its time had passed.
    Timeout,
    /// It ends with an error.
    Error,
}

/// Says how a wait has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitOutcome {
    /// It was answered with an element, or with the server's error.
    Reply(Rc<[u8]>),
    /// Its time has passed, or CLIENT UNBLOCK made it so: the answer is null.
    Null,
    /// CLIENT UNBLOCK has ended it with an error.
    Unblocked,
    /// Its call may have run on a connection that was lost: the client is closed.
    Lost,
    /// The server is away and the call was never sent.
    Unreachable,
    /// Nothing here can serve it: it needs a connection of its own.
    OwnConnection,
}

impl WaitOutcome {
    fn reply(bytes: &[u8]) -> Self {
        Self::Reply(bytes.into())
    }
}

/// Says why no connection was borrowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotLent {
    /// None became free in time, or it was not wanted any more.
    Timeout,
    /// The server is away.
    Unreachable,
    /// The server refused the state with this reply.
    Refused(Vec<u8>),
}

/// Says what the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitAction<S> {
    /// It gets a shared connection in `state`, asks [`BlockingCalls::begin`] what to send on it, and tells [`BlockingCalls::tried`] the
    /// replies or [`BlockingCalls::failed`] why there are none.
    Try {
        /// The try has this number.
        attempt: TryId,
        /// It needs this state.
        state: S,
        /// One of those it is for is of this client group.
        group: usize,
        /// It waits at the server for a moment: it goes where nobody stands behind it.
        is_bare: bool,
        /// It may be delayed by this: by a pause of writes where it takes something away.
        delays: Delays,
    },
    /// It borrows a connection, and tells [`BlockingCalls::lent`] or [`BlockingCalls::not_lent`].
    Borrow {
        /// The connection has this number.
        connection: CallConnectionId,
        /// It is to be in this state.
        state: S,
        /// It counts for this client group.
        group: usize,
        /// It is borrowed for this reason.
        reason: PinReason,
    },
    /// It sends, in one go, what stands ahead and the call, and tells the replies to each.
    Issue {
        /// Both go on this connection.
        connection: CallConnectionId,
        /// These tries stand in front of the call.
        ahead: Option<(TryId, RequestBatch)>,
        /// The reply to this call is told to [`BlockingCalls::answered`], or [`BlockingCalls::too_large`] or [`BlockingCalls::lost`] why there is
        /// none.
        call: RequestBatch,
    },
    /// It ends the call that is under way, by CLIENT UNBLOCK, repeated until the call has answered.
    Unblock {
        /// The call is under way on this connection.
        connection: CallConnectionId,
    },
    /// It gives the connection back.
    Release {
        /// The connection has this number.
        connection: CallConnectionId,
    },
    /// It puts back what was popped for nobody.
    Return {
        /// The elements were popped in this state.
        state: S,
        /// This request puts them back.
        request: Vec<u8>,
        /// The request holds this many of them.
        elements: u64,
    },
    /// It counts so many elements that were taken for nobody and cannot be put back.
    Orphaned(u64),
    /// It tells one who waits that the wait has ended.
    Tell {
        /// The wait is this one's.
        waiter: WaiterId,
        /// It has ended so.
        outcome: WaitOutcome,
        /// It had once tried and found nothing: the server would have blocked it.
        has_waited: bool,
    },
}
