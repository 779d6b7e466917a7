//! Respool's own words to clients whose commands it refuses, but for those that one file alone says.

use crate::upstream::{PinError, WaitError};

/// Answers a command that was never sent because the server is away. Client libraries take LOADING for a reason to try again.
pub(super) const UNREACHABLE: &[u8] = b"-LOADING respool: server unreachable, command not sent\r\n";

/// The same where the server is there, and does not take respool: its login, or one connection more.
pub(super) const REFUSED: &[u8] =
    b"-LOADING respool: the server refuses respool, command not sent\r\n";

/// Answers a command for which no connection became free in time. It was not sent; clients may try again.
pub(super) const NONE_FREE: &[u8] =
    b"-LOADING respool: no server connection free, command not sent\r\n";

/// Answers a command of respool's own inside MULTI, where its answer would have to stand among the server's.
pub(super) const NOT_IN_MULTI: &[u8] =
    b"-ERR respool: this command is not possible inside MULTI\r\n";

/// Answers a change of state while messages come in.
pub(super) const NOT_AMID_MESSAGES: &[u8] =
    b"-ERR respool: this command is not possible while messages are received\r\n";

/// Answers a command that would be one too many of respool's own in one transaction.
pub(super) const TOO_MANY_OWN: &[u8] =
    b"-ERR respool: too many commands of the proxy's own in one transaction\r\n";

/// Answers a client whose address has more attempts waiting than may wait.
pub(super) const TOO_MANY_ATTEMPTS: &[u8] =
    b"-ERR respool: too many failed attempts to authenticate from this address, try again later\r\n";

/// Answers RESET while SCRIPT DEBUG is on, which it would leave on.
pub(super) const NOT_WHILE_DEBUGGING: &[u8] =
    b"-ERR respool: RESET does not end SCRIPT DEBUG, send SCRIPT DEBUG NO before it\r\n";

/// Returns what is answered where no shared connection was to be had.
pub(super) fn unserved(error: WaitError) -> Vec<u8> {
    match error {
        WaitError::Unreachable => UNREACHABLE.to_vec(),
        WaitError::Refused(reply) => reply,
    }
}

/// Returns what the client gets that could not be lent a connection.
pub(super) fn refusal(error: PinError) -> Vec<u8> {
    match error {
        PinError::Refused(reply) => reply,
        PinError::Timeout => NONE_FREE.to_vec(),
        PinError::Unreachable => UNREACHABLE.to_vec(),
    }
}
