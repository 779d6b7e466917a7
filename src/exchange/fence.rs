//! A request of respool's own behind one whose reply may be more than one frame: its answer is a number that nobody else knows.
//!
//! Redis 8.2 writes the text of an error that a script raises as it is, line ends included (`error("a\r\n$1\r\nb\r\n+")`);
//! 7.0 and Valkey 8.1 and 9.1 do not. Behind such a reply the next frame must be the answer to the fence, or what comes is not what
//! was asked for, and the connection ends before anybody is given any of it.

/// What a user is told that may not send it.
const NOPERM: &[u8] = b"-NOPERM ";

/// One fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence(u64);

/// What the first bytes behind a reply say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// They are the fence's answer, or its start.
    Answer,
    /// The user may not send it: nothing is known of what stands before it.
    Refusal,
    /// They are not.
    Surplus,
}

impl Fence {
    /// A fence that answers `number`, which nobody can guess.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its request.
    pub fn request(self) -> Vec<u8> {
        format!("*2\r\n$4\r\nECHO\r\n$16\r\n{:016x}\r\n", self.0).into_bytes()
    }

    /// What `bytes`, which follow on the reply before it, are. `has_failed`: that reply was an error, which alone can have
    /// written them.
    pub fn judge(self, bytes: &[u8], has_failed: bool) -> Found {
        let expected = format!("$16\r\n{:016x}\r\n", self.0);
        let compared = bytes.len().min(NOPERM.len());
        if expected.as_bytes().starts_with(bytes) {
            Found::Answer
        } else if !has_failed && bytes[..compared] == NOPERM[..compared] {
            Found::Refusal
        } else {
            Found::Surplus
        }
    }
}
