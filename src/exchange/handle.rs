//! What an exchange asks of those around it: of a client, and of the connection on which it takes place.

use super::request_kind::Unsent;
use super::violation::Violation;
use crate::schedule::AnsweredRequests;
use crate::session::{PinnedCommand, StreamKind};

/// Says how a connection has ended, to those who are due something on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was lost: what was sent may have run.
    Lost,
    /// The server was told that nothing more comes, and has closed it: what is not answered has not run.
    Finished,
}

/// A client, in the hands of whoever owes it replies. It stays when the client has gone, so that what is still due to it reaches
/// nobody else.
pub trait ClientHandle: Clone {
    /// Tells whether both are of the same client.
    fn is_same(&self, other: &Self) -> bool;

    /// Hears that `count` of its requests were appended; the client gets the replies if they are `visible`.
    fn sent(&self, count: u32, visible: bool);

    /// Tells whether whole replies may be passed to it in one piece.
    fn is_plain(&self) -> bool;

    /// Tells whether what its replies take is to be measured.
    fn is_measured(&self) -> bool;

    /// Tells whether the client has gone.
    fn is_gone(&self) -> bool;

    /// Takes bytes in which `complete` visible replies end; `open`: another has begun.
    fn deliver(&self, bytes: &[u8], complete: u32, open: bool);

    /// Hears that `complete` of its requests were answered.
    fn answered(&self, complete: u32);

    /// Hears that the server has answered a command of its transaction with a reply that begins with `head`.
    fn transaction_answered(&self, verb: PinnedCommand, head: &[u8]);

    /// Returns what follows on its connection beside replies, by what was answered up to now.
    fn stream(&self) -> Option<StreamKind>;

    /// Hears what its replies have cost.
    fn charge(&self, answered: &AnsweredRequests);

    /// Gets requests back of which no byte was sent.
    fn take_back(&self, unsent: Unsent);

    /// Takes in that the client is to be closed: requests of it may have run, or its connection was its own. Returns false where
    /// it was to be closed already.
    fn disconnect(&self, ending: Ending) -> bool;
}

/// An exchange tells the connection on which it takes place what it reads, and asks of it what only the connection knows.
pub trait ConnectionEvents {
    /// Tells whether something that pushes may have been asked for here.
    fn takes_pushes(&self) -> bool;

    /// Takes bytes of a frame that answers no request; `complete`: it ends with them. Returns whether the frame behind it may be looked
    /// at in this turn.
    ///
    /// # Errors
    /// The connection ends for them.
    fn pushed(&self, bytes: &[u8], complete: bool) -> Result<bool, Violation>;

    /// Takes the last bytes of what seemed to be frames and was text.
    ///
    /// # Errors
    /// The connection ends for them.
    fn broke_off(&self, bytes: &[u8]) -> Result<(), Violation>;

    /// Tells whether frames that answer no request are for all subscribers of the worker, and no text of a script is among them.
    fn is_fanned_out(&self) -> bool;

    /// Hears bytes of a reply to EXEC behind which messages follow.
    fn confirmed(&self, bytes: &[u8], complete: bool);

    /// Hears an error that is a whole reply.
    fn refused(&self, error: &[u8]);

    /// Hears an error that is a whole reply to a script.
    fn script_refused(&self, error: &[u8]);

    /// Hears the first bytes of a reply that does not pass in a run of others.
    fn reply_begins(&self, head: &[u8]);

    /// Hears that `count` replies have come to a client's requests, which were sent so long ago.
    fn replied(&self, waited_micros: u64, count: u32);

    /// Hears that the server has got round to what was sent at that time.
    fn reached(&self, sent_micros: u64);

    /// Hears that text of a script was dropped.
    fn text_dropped(&self);

    /// Tells whether what has begun then has taken longer than a reply may.
    fn is_overdue(&self, since_micros: u64) -> bool;
}
