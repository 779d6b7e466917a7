//! Where the text ends that a script has written behind its error: at the answer to its fence, however many frames, or parts of
//! frames, stand before it.
//!
//! The server may refuse the fence instead, in a line that the script can have written as well. So a second question is asked behind
//! all that was sent, whose number comes back whatever happens ([`Fence::last_request`]). If it comes first, then what came before it
//! are a refusal and the replies that are due, and more than those if the script wrote any, unless a frame of its own swallows others.
//! One that does holds the end of the script's error and the refusal, which is an error on a line of its own. So where there are as many
//! frames as there must be, and none but lines holds the start of such a line, the script has written nothing.

use memchr::memmem;

use super::fence::{DIGITS, Fence};
use crate::resp::ReplyScanner;
use crate::texts::is_no_permission;

/// The most bytes that are kept, until it is known whether they are replies, beside [`LINE`] for each that is due.
const MAX_KEPT: usize = 64 * 1024;

/// The most bytes of one refusal. While a script or a function runs past its time each reply is a line of some 90
/// (`-BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.`).
const LINE: usize = 128;

/// Of more bytes only the last are kept, as many as a line with a number in it has at most.
const TAIL: usize = 512;

/// Searches the stream, from the first byte behind an error on, for the answer to a fence.
#[derive(Debug)]
pub struct FenceSearch {
    fence: Fence,
    last: Fence,
    since_micros: u64,
    kept: Vec<u8>,
    /// Something was dropped before what is kept.
    is_cut: bool,
}

/// Tells what has come of the search with some bytes more.
#[derive(Debug, PartialEq, Eq)]
pub enum SearchOutcome {
    /// The search goes on; all of them are used.
    Goes,
    /// The answer has come: what stood before it was nobody's. Behind it nothing of them is used.
    Answered {
        /// This many of the bytes stand up to the end of the answer.
        used: usize,
    },
    /// The fence was refused, and the script has written nothing.
    Refused {
        /// The server has refused the fence with this line.
        refusal: Vec<u8>,
        /// These replies are due behind it, the answer to the second question included.
        replies: Vec<u8>,
        /// This many of the bytes stand up to the end of that answer.
        used: usize,
    },
    /// The fence was refused, and what is whose is not to be told.
    Lost {
        /// Its user may not send it.
        may_not: bool,
    },
}

impl FenceSearch {
    /// Begins a search for the answer to `fence`, with `last` asked behind all that was sent by then.
    pub fn new(fence: Fence, last: Fence, since_micros: u64) -> Self {
        Self {
            fence,
            last,
            since_micros,
            kept: Vec::new(),
            is_cut: false,
        }
    }

    /// Returns the fence that was asked for last.
    pub fn last(&self) -> Fence {
        self.last
    }

    /// Returns when the search began.
    pub fn since_micros(&self) -> u64 {
        self.since_micros
    }

    /// Returns the memory that it takes.
    pub fn held_bytes(&self) -> usize {
        self.kept.capacity()
    }

    /// Looks at `bytes`; `due` replies are due between the two answers.
    pub fn take(&mut self, bytes: &[u8], due: usize) -> SearchOutcome {
        let before = self.kept.len();
        self.kept.extend_from_slice(bytes);
        // A line that holds a number may have begun, and it may not have ended.
        let from = before.saturating_sub(TAIL);
        let end_of = |number: Fence| -> Option<(usize, usize)> {
            let at = from + memmem::find(&self.kept[from..], &number.digits())?;
            let behind = at + DIGITS;
            let end = behind + memmem::find(&self.kept[behind..], b"\r\n")?;
            Some((at, end + 2))
        };
        let used = |end: usize| end.saturating_sub(before);
        let (answer, last) = (end_of(self.fence), end_of(self.last));
        if let Some((at, end)) = answer
            && last.is_none_or(|(other, _)| at < other)
        {
            return SearchOutcome::Answered { used: used(end) };
        }
        let Some((at, end)) = last else {
            self.cut(MAX_KEPT + due * LINE);
            return SearchOutcome::Goes;
        };
        self.refused((at, end), due, used(end))
    }

    /// The second question was answered first, in the line in which `at` stands and which ends at `end`.
    fn refused(&mut self, (at, end): (usize, usize), due: usize, used: usize) -> SearchOutcome {
        let may_not = is_no_permission(&self.kept);
        let line = memmem::rfind(&self.kept[..at], b"\r\n").map_or(0, |end| end + 2);
        let before = &self.kept[..line];
        let is_refusal = before.first() == Some(&b'-');
        if self.is_cut || !is_refusal || whole_replies(before) != Some(due + 1) {
            return SearchOutcome::Lost { may_not };
        }
        let first = memmem::find(before, b"\r\n").map_or(0, |end| end + 2);
        SearchOutcome::Refused {
            refusal: self.kept[..first].to_vec(),
            replies: self.kept[first..end].to_vec(),
            used,
        }
    }

    /// Drops what can be no replies any more, being more than `most` bytes.
    fn cut(&mut self, most: usize) {
        if self.kept.len() > most || self.is_cut && self.kept.len() > 2 * TAIL {
            self.kept.drain(..self.kept.len() - TAIL);
            self.kept.shrink_to(2 * TAIL);
            self.is_cut = true;
        }
    }
}

/// Counts the whole frames in `bytes`; `None`: they are none, or one of them may have swallowed another.
fn whole_replies(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut count) = (0, 0);
    while at < bytes.len() {
        let step = ReplyScanner::default().advance(&bytes[at..]).ok()?;
        let frame = &bytes[at..at + step.used];
        let is_line = matches!(frame.first(), Some(b'-' | b'+' | b':' | b'_'));
        if !step.complete || (!is_line && memmem::find(frame, b"\r\n-").is_some()) {
            return None;
        }
        at += step.used;
        count += 1;
    }
    Some(count)
}
