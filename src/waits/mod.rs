//! Blocked clients: who waits for what, and which calls the server is asked on behalf of all of them.
//!
//! A pure state machine: the caller tells it the time and what happened, and carries out the actions it returns. A newcomer
//! tries first without waiting (its call inside MULTI and EXEC, on a shared connection); one who finds nothing stands in
//! line. Those in line whose calls can be one form a *class*: BLPOP, BRPOP, BZPOPMIN and BZPOPMAX over whatever keys, since
//! their answers name the key (unless the keys are very many); other calls when they are equal. A class has one call issued, on a *seat*: a connection
//! borrowed for it. Classes without a seat are tried from time to time on a shared connection, and get seats in turn.
//!
//! Invariant: an element goes to the first in line for its key who is still there, and to nobody else.
//! Invariant: no more pops that may answer with a key are sent than living waiters stand in line for it.
//! Invariant: nobody is told null while an element might still come that nobody else could take.
//! Invariant: nobody is told null because its time has passed before a try of its own was answered with nothing.
//! Invariant: who has tried and found nothing is told of a key that is gone or of another kind as whoever the server has blocked;
//! keys of another kind are left out of a call for many, and whoever may not ask for kinds is told as one that arrives.

mod arrivals;
mod attempts;
mod barred;
mod call;
mod class;
mod lines;
mod looks;
mod machine;
mod owners;
mod polls;
mod popped;
mod price;
mod reply;
mod seats;
mod turns;
mod verdicts;

#[cfg(any(test, fuzzing))]
pub mod tests;

pub use attempts::{Failure, Sending, TryId};
pub use call::Call;
pub use machine::Waits;
pub use popped::{Fate, Popped};
pub use reply::has_run;
pub use seats::SeatId;
pub use verdicts::{Verdict, Verdicts};

use std::rc::Rc;

use crate::command::{Delays, PinReason};

/// Most keys of one issued call; more are asked for in turn.
const MAX_KEYS: usize = 1024;

/// Most keys of a call that is made one with others.
const MAX_MERGED: usize = 64;

/// How often a class without a seat is tried: soon after somebody has come, and the less often the longer nobody has. Many of
/// them, and those that ask about many keys, are tried as often as [`price::SHARE`] allows. One that takes several calls is
/// tried the more often, up to a limit.
const FIRST_POLL_MICROS: u64 = 5_000;
const POLL_MICROS: u64 = 100_000;
const MIN_POLL_MICROS: u64 = 10_000;

/// The least and the longest turn of a class on a seat while others have none, and how long they all take together; and
/// how long the calls take together that ask about all keys of a class.
const MIN_SLICE_MICROS: u64 = 10_000;
const MAX_SLICE_MICROS: u64 = 100_000;
const ROUND_MICROS: u64 = 1_000_000;
const WINDOWS_MICROS: u64 = 250_000;

/// How long a seat for a class is asked for by one client group alone.
const ASKING_MICROS: u64 = 250_000;

/// How much longer the server may take to end a call at the end of its turn before it is asked to.
const GRACE_MICROS: u64 = 5_000;

/// How long a call is left alone though keys are to be added or taken out: at least so long, and as long as
/// [`price::CHANGE_SHARE`] demands.
const SETTLING_MICROS: u64 = 1_000;

/// Most tries for one key in front of an issued call, and how many bytes their answers may measure together, as far as
/// the last one tells.
const MAX_AHEAD: u32 = 64;
const MAX_AHEAD_BYTES: usize = 1024 * 1024;

/// One line: a key, or (empty) the line of equal calls.
type Key = Rc<[u8]>;

/// One who waits. Ids grow in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(u64);

/// Whose a wait is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whose {
    /// The client group, for which a connection is borrowed.
    pub group: usize,
    /// From where the client comes: turns are dealt out by it.
    pub address: u64,
}

/// How CLIENT UNBLOCK ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unblock {
    /// As if its time had passed.
    Timeout,
    /// With an error.
    Error,
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// This is the answer: an element, or the server's error.
    Reply(Rc<[u8]>),
    /// The time has passed, or CLIENT UNBLOCK made it so: null.
    Null,
    /// CLIENT UNBLOCK ended it with an error.
    Unblocked,
    /// Its call may have run on a connection that was lost: the client is closed.
    Lost,
    /// The server is away and the call was never sent.
    Unreachable,
    /// Nothing here can serve it: it needs a connection of its own.
    OwnConnection,
}

impl Outcome {
    /// The error of [`Outcome::Unblocked`], in Redis' words.
    pub const UNBLOCKED: &'static [u8] = reply::UNBLOCKED;

    fn reply(bytes: &[u8]) -> Self {
        Self::Reply(bytes.into())
    }
}

/// Why no connection was borrowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotSeated {
    /// None became free in time, or it was not wanted any more.
    Timeout,
    /// The server is away.
    Unreachable,
    /// The server refused the state with this reply.
    Refused(Vec<u8>),
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<S> {
    /// Get a shared connection in `state`, ask [`Waits::begin`] what to send on it, and tell [`Waits::tried`] the replies
    /// or [`Waits::failed`].
    Try {
        /// Which.
        attempt: TryId,
        /// The state it needs.
        state: S,
        /// A client group of those it is for.
        group: usize,
        /// It waits at the server for a moment: it goes where nobody stands behind it.
        is_bare: bool,
        /// What it may be delayed by: a pause of writes where it takes something away.
        delays: Delays,
    },
    /// Borrow a connection; tell [`Waits::seated`] or [`Waits::not_seated`].
    Borrow {
        /// Which.
        seat: SeatId,
        /// What it is to wear.
        state: S,
        /// The client group it counts for.
        group: usize,
        /// What it is borrowed for.
        reason: PinReason,
    },
    /// Send, in one go, what stands ahead and the call; tell the replies to each.
    Issue {
        /// On which.
        seat: SeatId,
        /// Tries in front of the call.
        ahead: Option<(TryId, Sending)>,
        /// The call, for whose reply [`Waits::answered`] is told, [`Waits::too_large`] or [`Waits::lost`].
        call: Sending,
    },
    /// End the call that is under way, by CLIENT UNBLOCK, repeated until it has answered.
    Unblock {
        /// Where it is under way.
        seat: SeatId,
    },
    /// Give the connection back.
    Release {
        /// Which.
        seat: SeatId,
    },
    /// Put back what was popped for nobody.
    Return {
        /// The state it was popped in.
        state: S,
        /// The request.
        request: Vec<u8>,
        /// How many elements it holds.
        elements: u64,
    },
    /// So many elements were taken for nobody and cannot be put back.
    Orphaned(u64),
    /// A wait has ended.
    Tell {
        /// Whose.
        waiter: WaiterId,
        /// How.
        outcome: Outcome,
        /// It had once tried and found nothing: the server would have blocked it.
        has_waited: bool,
    },
}
