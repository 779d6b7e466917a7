//! A request of respool's own behind one whose reply may be more than one frame: its answer is a number that nobody else knows.
//!
//! Redis 8.2 writes the text of an error that a script raises as it is, line ends included (`error("a\r\n$1\r\nb\r\n+")`);
//! 7.0 and Valkey 8.1 and 9.1 do not. Behind such a reply the next frame must be the answer to the fence, or what comes is not what
//! was asked for, and the connection ends before anybody is given any of it.

/// What a user is told that may not send it.
const NOPERM: &[u8] = b"-NOPERM ";

/// What everybody is told of every command while a script runs past its time.
const BUSY: &[u8] = b"-BUSY ";

/// One fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence(u64);

/// What a reply was that a fence stands behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Before {
    /// No error.
    #[default]
    Answer,
    /// An error, which may have written more.
    Error,
}

impl Before {
    /// What the reply is that begins with `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(b"-") {
            Self::Error
        } else {
            Self::Answer
        }
    }
}

/// What the first bytes behind a reply say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// They are the fence's answer, or its start.
    Answer,
    /// The user may not send it: nothing is known of what stands before it.
    Refusal,
    /// The server refuses everything while a script does not end. Behind an error that script may have written it: a
    /// [`super::Proof`] tells.
    Busy,
    /// They are not.
    Surplus,
}

impl Fence {
    /// A fence that answers `number`, which nobody can guess.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its request. Everybody needs PING, a server is asked for it while it may not serve stale data (6.2 refuses ECHO then), and
    /// who renames commands keeps it.
    pub fn request(self) -> Vec<u8> {
        format!("*2\r\n$4\r\nPING\r\n$16\r\n{:016x}\r\n", self.0).into_bytes()
    }

    /// What `bytes`, which follow on the reply before it, are. An error alone, `before` them, can have
    /// written them.
    pub fn judge(self, bytes: &[u8], before: Before) -> Found {
        let expected = format!("$16\r\n{:016x}\r\n", self.0);
        let begins = |text: &[u8]| {
            let compared = bytes.len().min(text.len());
            bytes[..compared] == text[..compared]
        };
        if expected.as_bytes().starts_with(bytes) {
            Found::Answer
        } else if before == Before::Answer && begins(NOPERM) {
            Found::Refusal
        } else if begins(BUSY) {
            Found::Busy
        } else {
            Found::Surplus
        }
    }
}
