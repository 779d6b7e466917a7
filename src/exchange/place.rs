//! A connection all of whose frames are its client's, so that nobody sees which of them answers what: where an answer of respool's own
//! has its place among them.
//!
//! Invariant: what answers the question for a place never reaches the client, and what stands before it does, byte for byte.

use super::may_take::{FencePlace, MayTake};
use super::request::DueEntry;
use super::{ClientHandle, ConnectionEvents, Exchange, FrameFlow, OwnReply, TakeReply, Violation};
use crate::fences::{Fence, FencePosition};
use crate::resp::ReplyScanner;

/// Most calls that may wait, sent amid a stream and not known to be answered.
const MOST_CALLS: usize = 1024;

impl<H: ClientHandle> Exchange<H> {
    /// Appends a request whose answer comes amid a stream.
    pub fn request_amid(&mut self, bytes: &[u8], takes: MayTake) {
        let before = self.unplaced.unwrap_or(MayTake::NO_TIME);
        self.unplaced = Some(before.and(takes));
        self.append(bytes);
    }

    /// Asks to be told when all has come that answers what was sent amid the stream. Returns false where nothing that was sent since the
    /// server last told so is unanswered, or the connection carries no stream any more. An open MULTI fails by it.
    pub fn ask_for_place(&mut self, told: TakeReply, now_micros: u64) -> bool {
        let behind_another = || self.place_asked().map(|_| MayTake::NO_TIME);
        let before = self.unplaced.or_else(behind_another);
        self.unplaced = None;
        let Some(before) = before.filter(|_| self.is_raw()) else {
            return false;
        };
        self.ask_place_behind(before, told, now_micros);
        true
    }

    /// Asks for the same where the commands of everybody come between replies: those of its client come behind its replies.
    pub fn ask_for_place_amid_commands(&mut self, told: TakeReply, now_micros: u64) -> bool {
        let asks = self.shows_commands && !self.is_raw();
        if asks {
            self.ask_place_behind(MayTake::NO_TIME, told, now_micros);
        }
        asks
    }

    fn ask_place_behind(&mut self, before: MayTake, told: TakeReply, now_micros: u64) {
        let fence = Fence::new((self.draw)());
        let reply = OwnReply::Place(FencePlace { fence, before }, told);
        self.own_request(&fence.unknown_request(), reply, now_micros);
    }

    /// Tells whether so many calls that may wait are sent that the next has to wait here: for each of them something is kept.
    pub fn has_many_calls_amid(&self) -> bool {
        self.places().count() >= MOST_CALLS
    }

    /// Returns how long what stands before the first place may take that is asked for and not told yet.
    pub fn place_asked(&self) -> Option<MayTake> {
        self.places().next().map(|place| place.before)
    }

    /// Returns how long that may take which was sent amid the stream and is not known to be answered.
    pub fn unanswered_amid(&self) -> MayTake {
        let before = self.places().map(|place| place.before);
        before
            .chain(self.unplaced)
            .fold(MayTake::NO_TIME, MayTake::and)
    }

    fn places(&self) -> impl Iterator<Item = FencePlace> {
        self.due.iter().filter_map(DueEntry::place)
    }

    /// Tells whether its silence is the server's, though its frames are its client's: a place was asked for, or the reply is under way
    /// behind which they are.
    pub fn is_awaited_amid_stream(&self) -> bool {
        let is_awaited =
            |due: &DueEntry<H>| due.place().is_some() || matches!(due, DueEntry::Client { .. });
        self.flow != FrameFlow::Debugger && self.due.front().is_some_and(is_awaited)
    }

    /// Returns the question whose answer is due next, if that tells a place.
    fn fence_of_place(&self) -> Option<Fence> {
        self.due
            .front()
            .and_then(DueEntry::place)
            .map(|place| place.fence)
    }

    /// Tells whether the frame that begins with `frame` is not the client's, though all are: it ends the stream, or tells how far it is.
    /// `None`: more bytes must tell.
    #[inline]
    pub(super) fn is_own_amid_stream(&mut self, frame: &[u8]) -> Option<bool> {
        if !self.is_raw() || !matches!(self.due.front(), Some(DueEntry::Own { .. })) {
            return Some(false);
        }
        if let Some(fence) = self.fence_of_place() {
            return fence.is_unknown(frame);
        }
        let ends = ends_stream(frame)?;
        if ends {
            self.flow = FrameFlow::Replies;
        }
        Some(ends)
    }

    /// Takes bytes that are the client's, up to the answer that tells a place: it stands between two replies, so whatever frame seemed to
    /// be under way was none. What is no RESP is text that a script has written. Returns how many, and whether more may follow now.
    pub(super) fn pass_amid(
        &mut self,
        buf: &[u8],
        events: &impl ConnectionEvents,
    ) -> Result<(usize, bool), Violation> {
        let Some(fence) = self.fence_of_place() else {
            return match self.push(buf, events) {
                Err(_) if !events.is_fanned_out() => self.break_off(buf, events),
                passed => passed,
            };
        };
        let before = self.scanner.clone();
        let step = self.scanner.advance(buf);
        let used = step.as_ref().map_or(buf.len(), |step| step.used);
        match (fence.before_unknown(&buf[..used]), step) {
            (FencePosition::Found(from), _) => self.break_off(&buf[..from], events),
            (FencePosition::MayBegin(from), Err(_)) => {
                let (used, _) = self.break_off(&buf[..from], events)?;
                Ok((used, false))
            }
            (FencePosition::MayBegin(from), Ok(_)) => {
                self.scanner = before;
                let (used, _) = self.push(&buf[..from], events)?;
                Ok((used, false))
            }
            (FencePosition::All, Err(_)) => self.break_off(buf, events),
            (FencePosition::All, Ok(step)) => {
                if step.used > 0 {
                    events.pushed(&buf[..step.used], step.complete)?;
                }
                Ok((step.used, step.complete))
            }
        }
    }

    /// Passes on `bytes`, behind which no frame is under way, whatever seemed to be.
    fn break_off(
        &mut self,
        bytes: &[u8],
        events: &impl ConnectionEvents,
    ) -> Result<(usize, bool), Violation> {
        self.scanner = ReplyScanner::default();
        events.broke_off(bytes)?;
        Ok((bytes.len(), true))
    }
}

/// Tells whether a frame of a stream is the answer to the RESET that ends it; `None`: more bytes must tell.
fn ends_stream(frame: &[u8]) -> Option<bool> {
    const RESET: &[u8] = b"+RESET\r\n";
    let compared = frame.len().min(RESET.len());
    (frame[..compared] != RESET[..compared])
        .then_some(false)
        .or((compared == RESET.len()).then_some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_reset_is_known_however_it_is_cut() {
        let reset = b"+RESET\r\n";
        assert_eq!(ends_stream(reset), Some(true));
        assert_eq!(ends_stream(b"+RESET\r\n*3\r\n"), Some(true));
        (0..reset.len()).for_each(|cut| assert_eq!(ends_stream(&reset[..cut]), None));
        for other in [
            &b"*3\r\n"[..],
            b"+OK\r\n",
            b"+RESETS\r\n",
            b"$6\r\nRESET\r\n",
        ] {
            assert_eq!(ends_stream(other), Some(false));
        }
    }
}
