//! A request of respool's own behind one whose reply may be more than one frame: its answer holds a number that nobody else knows.
//!
//! Redis 8.2 writes the text of an error that a script raises as it is, line ends included (`error("a\r\n$1\r\nb\r\n+")`). All
//! but 6.2 (7.0, 8.2, Valkey 8.1 and 9.1) so write the options of a script's first line that they refuse (`#!lua "x\r\n+"`).
//! Behind such a reply nothing is taken for a frame until the number has come: what stands before it is nobody's (see
//! [`super::FenceSearch`]).

/// Is the number by which a fence's answer is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence(u64);

/// Says what the reply was behind which a fence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Before {
    /// It was a number, or a string by its length: nothing can have written more.
    Plain,
    /// It was text, or held some. That of an error may have written more; of what modules answer nothing is known.
    #[default]
    Text,
}

impl Before {
    /// Tells what the reply is that begins with `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        match bytes.first() {
            Some(b'$' | b':' | b'_' | b'#' | b'=') => Self::Plain,
            _ => Self::Text,
        }
    }
}

/// Says what the first bytes behind a reply are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceVerdict {
    /// The fence's answer takes this many of them.
    Answer(usize),
    /// A line takes this many of them in which the server refuses the fence: its user may not send it, or a script runs past its
    /// time.
    Refusal(usize),
    /// More of them must tell.
    Start,
    /// They may be anybody's text.
    Doubt,
}

/// Says where the answer to a fence stands in bytes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FencePosition {
    /// The answer stands behind all of them.
    All,
    /// It may begin at this place: more bytes must tell.
    MayBegin(usize),
    /// It begins at this place.
    Found(usize),
}

/// Bounds the line that a refusal is looked for in.
const MAX_REFUSAL: usize = 512;

/// A number has this many digits.
pub(super) const DIGITS: usize = 16;

/// An answer has this many bytes.
const ANSWER: usize = 5 + DIGITS + 2;

impl Fence {
    /// Makes a fence that answers `number`, which nobody can guess.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns its request. Nearly everybody may send PING, and it leaves no error in the server's statistics.
    pub fn request(self) -> Vec<u8> {
        let mut request = b"*2\r\n$4\r\nPING\r\n$16\r\n".to_vec();
        request.extend_from_slice(&self.digits());
        request.extend_from_slice(b"\r\n");
        request
    }

    /// Returns a request that the server refuses with the number in its words whatever becomes of other commands: while a script
    /// runs past its time, on a replica that may not serve stale data, to users who may send nothing else, and where the command
    /// is renamed (seen of Redis 6.2, 7.0 and 8.2, Valkey 8.1 and 9.1). It changes nothing.
    pub fn last_request(self) -> Vec<u8> {
        let mut request = b"*3\r\n$5\r\nHELLO\r\n$1\r\n2\r\n$16\r\n".to_vec();
        request.extend_from_slice(&self.digits());
        request.extend_from_slice(b"\r\n");
        request
    }

    /// Returns a request that every server refuses with the number in its words where nothing else has an answer of its own: to a
    /// RESP2 client that is subscribed. No server has such a command, and each says so before it looks at anything else (seen of
    /// Redis 6.2, 7.0 and 8.2, Valkey 8.1 and 9.1). Inside MULTI it has EXEC fail.
    pub fn unknown_request(self) -> Vec<u8> {
        let mut request = b"*1\r\n$24\r\nrespool:".to_vec();
        request.extend_from_slice(&self.digits());
        request.extend_from_slice(b"\r\n");
        request
    }

    /// Tells whether the frame that begins with `frame` is the answer to [`Self::unknown_request`]; `None`: more bytes must tell.
    pub fn is_unknown(self, frame: &[u8]) -> Option<bool> {
        if frame.first() != Some(&b'-') {
            return Some(false);
        }
        match memchr::memmem::find(frame, b"\r\n") {
            Some(end) => Some(memchr::memmem::find(&frame[..end], &self.digits()).is_some()),
            None if frame.len() <= MAX_REFUSAL => None,
            None => Some(false),
        }
    }

    /// Finds the answer to [`Self::unknown_request`] in `bytes`, which follow on one another amid a stream, wherever frames seem
    /// to begin and end: text that a script has written may announce any number of bytes, and swallow it.
    pub fn before_unknown(self, bytes: &[u8]) -> FencePosition {
        let line_from = |end: usize| match memchr::memmem::rfind(&bytes[..end], b"\r\n") {
            Some(at) => at + 2,
            // The line may have begun with the bytes, or behind what is left of the end of another.
            None => usize::from(bytes.first() == Some(&b'\n')),
        };
        if let Some(at) = memchr::memmem::find(bytes, &self.digits()) {
            let from = line_from(at);
            return match memchr::memmem::find(&bytes[at..], b"\r\n") {
                Some(_) => FencePosition::Found(from),
                None => FencePosition::MayBegin(from),
            };
        }
        let from = line_from(bytes.len());
        let may_begin = bytes.get(from) == Some(&b'-') && bytes.len() - from <= MAX_REFUSAL;
        if may_begin {
            FencePosition::MayBegin(from)
        } else {
            FencePosition::All
        }
    }

    /// Returns its number as it stands in requests and answers.
    pub(super) fn digits(self) -> [u8; DIGITS] {
        let mut digits = [0; DIGITS];
        for (place, digit) in digits.iter_mut().enumerate() {
            let value = self.0 >> (4 * (DIGITS - 1 - place)) & 0xf;
            *digit = b"0123456789abcdef"[value as usize];
        }
        digits
    }

    /// Returns what the server answers to [`Self::request`] where it does not refuse it.
    pub(super) fn answer(self) -> [u8; ANSWER] {
        let mut answer = [0; ANSWER];
        answer[..5].copy_from_slice(b"$16\r\n");
        answer[5..5 + DIGITS].copy_from_slice(&self.digits());
        answer[5 + DIGITS..].copy_from_slice(b"\r\n");
        answer
    }

    /// Tells what `bytes` are, which follow on the reply `before` them. Where that reply cannot have written them, a line that
    /// seems to be the server's is the server's.
    pub fn judge(self, bytes: &[u8], before: Before) -> FenceVerdict {
        let answer = self.answer();
        if bytes.starts_with(&answer) {
            return FenceVerdict::Answer(ANSWER);
        }
        if answer.starts_with(bytes) {
            return FenceVerdict::Start;
        }
        if before == Before::Text || bytes[0] != b'-' {
            return FenceVerdict::Doubt;
        }
        match memchr::memmem::find(bytes, b"\r\n") {
            Some(end) => FenceVerdict::Refusal(end + 2),
            None if bytes.len() <= MAX_REFUSAL => FenceVerdict::Start,
            None => FenceVerdict::Doubt,
        }
    }
}
