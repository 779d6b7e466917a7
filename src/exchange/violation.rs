//! What a server must not send: the connection on which it does ends.

use std::fmt;

use super::Offence;

/// Says by what came on it why a connection is of no further use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// It is no RESP.
    Malformed,
    /// Nobody has asked for it; the text begins with it.
    Unasked(Box<str>),
    /// A command of a client may be to blame.
    Offence(Offence),
    /// The server refuses to tell where what a script has written ends.
    NotTold,
    /// A reply to respool itself has no end within what is kept.
    TooLarge,
    /// An element that was popped for a client that has gone is too large to be put back.
    TooLargeToReturn,
    /// The reply to EXEC is not of the commands that were queued.
    NotPlaced,
    /// It came on the connection of the subscribers, and they have not asked for it.
    NoSubscription,
    /// A message to be redirected has no end within what is kept.
    MessageTooLarge,
}

impl Violation {
    /// Reports a frame that nobody asked for: the server says so before it closes a connection it has no place for, or respool
    /// has a bug.
    pub(super) fn unasked(bytes: &[u8]) -> Self {
        let line = bytes
            .split(|&byte| byte == b'\r')
            .next()
            .unwrap_or_default();
        let shown = String::from_utf8_lossy(&line[..line.len().min(120)]);
        Self::Unasked(format!("the server sent what nobody asked for: {shown}").into())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the server sent something that is no RESP",
            Self::Unasked(text) => text,
            Self::Offence(offence) => offence.text(),
            Self::NotTold => {
                "the server refused to tell where the reply to a script ends, and others are due on its connection"
            }
            Self::TooLarge => "a reply to respool itself is too large",
            Self::TooLargeToReturn => "too large to give back",
            Self::NotPlaced => {
                "the reply to EXEC holds more than the replies to the commands that were queued, or others"
            }
            Self::NoSubscription => {
                "the server sent something on the subscription connection that was not asked for"
            }
            Self::MessageTooLarge => "a message to be redirected is too large",
        })
    }
}

impl std::error::Error for Violation {}
