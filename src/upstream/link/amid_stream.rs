//! A connection all of whose frames are its client's, so that nobody sees which of them answers what: where an answer of respool's own
//! has its place among them.
//!
//! Invariant: what answers the question for a place never reaches the client, and what stands before it does, byte for byte.

use std::io;

use tokio::sync::oneshot;

use super::Link;
use crate::command::Delays;
use crate::fanout::{QueuedSubscription, SentNow};
use crate::fences::{Ahead, Fence};
use crate::resp::ReplyScanner;
use crate::upstream::pushes::ends_stream;
use crate::upstream::traffic::{Due, Inner, OwnReply};

/// Most calls that may wait, sent amid a stream and not known to be answered.
const MOST_CALLS: usize = 1024;

/// How long requests may take that are sent amid a stream.
#[derive(Debug, Clone, Copy)]
pub struct MayTake {
    /// What may delay them.
    pub delays: Delays,
    /// One of them may wait for as long as its client likes.
    pub blocks: bool,
    /// One of those takes something away.
    pub takes: bool,
}

impl MayTake {
    /// Nothing that the server does not answer at once.
    pub const NO_TIME: Self = Self {
        delays: Delays::NONE,
        blocks: false,
        takes: false,
    };

    fn and(self, other: Self) -> Self {
        Self {
            delays: self.delays.and(other.delays),
            blocks: self.blocks || other.blocks,
            takes: self.takes || other.takes,
        }
    }
}

/// A question whose answer tells that all before it has come.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    fence: Fence,
    /// What stands before it.
    pub(in super::super) before: MayTake,
}

impl Due {
    /// The place that is asked for here.
    fn place(&self) -> Option<Place> {
        match self {
            Self::Own {
                reply: OwnReply::Place(place, _),
                ..
            } => Some(*place),
            _ => None,
        }
    }

    /// Whether a place is asked for here.
    pub(in super::super) fn is_place(&self) -> bool {
        self.place().is_some()
    }

    /// Whether what it answers, or what stands before it, may wait for as long as a client likes.
    pub(in super::super) fn may_wait(&self) -> bool {
        self.is_blocking() || self.place().is_some_and(|place| place.before.blocks)
    }
}

impl Inner {
    /// The question whose answer is due next, if that tells a place.
    fn fence_of_place(&self) -> Option<Fence> {
        self.due
            .front()
            .and_then(Due::place)
            .map(|place| place.fence)
    }
}

impl Link {
    /// More bytes of a request that is already due, one that is streamed.
    pub fn send_more(&self, bytes: &[u8]) {
        self.inner.borrow_mut().append(bytes);
        self.wake();
    }

    /// Behind the reply under way all frames are the client's, in the order in which the server sends them.
    pub(super) fn begin_messages(&self) {
        self.raw.set(true);
        // What is sent on it from here on has answers that nobody looks at.
        self.keeps_traces.set(true);
        // Which may be several frames.
        self.unplaced.set(Some(MayTake::NO_TIME));
    }

    /// An EXEC is sent that may run these commands, and make all frames the client's.
    pub fn expect_confirmations(&self, queued: Vec<QueuedSubscription>) {
        self.pushes.borrow_mut().expect(queued);
    }

    /// What is sent amid the messages from now on, where all has come that was asked for before.
    pub fn sent_now(&self, sent: SentNow) {
        if let Some(confirmed) = self.pushes.borrow_mut().confirmed() {
            confirmed.sent_now(sent);
        }
    }

    /// The transaction that is sent amid the messages holds this command, too.
    pub fn queue_subscription(&self, queued: QueuedSubscription) {
        if let Some(confirmed) = self.pushes.borrow_mut().confirmed() {
            confirmed.queue(queued);
        }
    }

    /// A request whose answer comes amid a stream.
    pub fn send_amid(&self, bytes: &[u8], takes: MayTake) {
        let before = self.unplaced.get().unwrap_or(MayTake::NO_TIME);
        self.unplaced.set(Some(before.and(takes)));
        self.send_more(bytes);
    }

    /// Asks to be told when all has come that answers what was sent amid the stream. `None`: nothing that was sent since the server
    /// last told so is unanswered, or the connection carries no stream any more. An open MULTI fails by it.
    pub fn ask_for_place(&self) -> Option<oneshot::Receiver<Vec<u8>>> {
        let behind_another = || self.place_asked().map(|_| MayTake::NO_TIME);
        let before = self.unplaced.take().or_else(behind_another)?;
        (self.is_raw() && self.is_alive()).then(|| self.ask_place_behind(before))
    }

    /// Whether so many calls that may wait are sent that the next has to wait here: for each of them something is kept.
    pub fn has_many_calls_amid(&self) -> bool {
        let inner = self.inner.borrow();
        inner.due.iter().filter(|due| due.is_place()).count() >= MOST_CALLS
    }

    /// A request that may wait for as long as its client likes, and what tells that it has been answered: until then it counts as one
    /// that waits, and no longer.
    pub fn send_call_amid(&self, bytes: &[u8], takes: MayTake) {
        self.send_amid(bytes, takes);
        drop(self.ask_for_place());
    }

    /// The same of a connection on which the commands of everybody come between replies: those of its client come behind its replies.
    pub fn ask_for_place_amid_commands(&self) -> Option<oneshot::Receiver<Vec<u8>>> {
        let asks = self.monitors.get() && !self.is_raw() && self.is_alive();
        asks.then(|| self.ask_place_behind(MayTake::NO_TIME))
    }

    /// Where a place is asked for and not told yet: how long what stands before the first may take.
    pub fn place_asked(&self) -> Option<MayTake> {
        let inner = self.inner.borrow();
        let place = inner.due.iter().find_map(Due::place);
        place.map(|place| place.before)
    }

    /// How long that may take which was sent amid the stream and is not known to be answered.
    pub fn unanswered_amid(&self) -> MayTake {
        let inner = self.inner.borrow();
        let asked = inner.due.iter().filter_map(Due::place);
        let before = asked.map(|place| place.before).chain(self.unplaced.get());
        before.fold(MayTake::NO_TIME, MayTake::and)
    }

    fn ask_place_behind(&self, before: MayTake) -> oneshot::Receiver<Vec<u8>> {
        let (tell, told) = oneshot::channel();
        let fence = Fence::new(rand::random());
        let place = Place { fence, before };
        self.send_own(&fence.unknown_request(), OwnReply::Place(place, tell));
        told
    }

    /// Whether its silence is the server's, though its frames are its client's: a place was asked for, or the reply is under way behind
    /// which they are.
    pub(in super::super) fn is_awaited_amid_stream(&self) -> bool {
        let is_awaited = |due: &Due| due.is_place() || matches!(due, Due::Client { .. });
        !self.is_debugging() && self.inner.borrow().due.front().is_some_and(is_awaited)
    }

    /// Whether the frame that begins with `frame` is not the client's, though all are: it ends the stream, or tells how far it is. `None`:
    /// more bytes must tell.
    pub(super) fn is_own_amid_stream(&self, inner: &Inner, frame: &[u8]) -> Option<bool> {
        if !self.is_raw() || !matches!(inner.due.front(), Some(Due::Own { .. })) {
            return Some(false);
        }
        if let Some(fence) = inner.fence_of_place() {
            return fence.is_unknown(frame);
        }
        let ends = ends_stream(frame)?;
        if ends {
            self.raw.set(false);
        }
        Some(ends)
    }

    /// Bytes that are the client's, up to the answer that tells a place: it stands between two replies, so whatever frame seemed to be
    /// under way was none. What is no RESP is text that a script has written. Returns how many, and whether more may follow now.
    pub(super) fn pass_amid(&self, inner: &mut Inner, buf: &[u8]) -> io::Result<(usize, bool)> {
        let Some(fence) = inner.fence_of_place() else {
            return match self.push(inner, buf) {
                Err(_) if !self.pushes.borrow().are_fanned_out() => self.break_off(inner, buf),
                passed => passed,
            };
        };
        let before = inner.scanner.clone();
        let step = inner.scanner.advance(buf);
        let used = step.as_ref().map_or(buf.len(), |step| step.used);
        match (fence.before_unknown(&buf[..used]), step) {
            (Ahead::Found(from), _) => self.break_off(inner, &buf[..from]),
            (Ahead::MayBegin(from), Err(_)) => {
                let (used, _) = self.break_off(inner, &buf[..from])?;
                Ok((used, false))
            }
            (Ahead::MayBegin(from), Ok(_)) => {
                inner.scanner = before;
                let (used, _) = self.push(inner, &buf[..from])?;
                Ok((used, false))
            }
            (Ahead::All, Err(_)) => self.break_off(inner, buf),
            (Ahead::All, Ok(step)) => {
                if step.used > 0 {
                    let mut pushes = self.pushes.borrow_mut();
                    pushes.take(&buf[..step.used], step.complete)?;
                }
                Ok((step.used, step.complete))
            }
        }
    }

    /// Passes on `bytes`, behind which no frame is under way, whatever seemed to be.
    fn break_off(&self, inner: &mut Inner, bytes: &[u8]) -> io::Result<(usize, bool)> {
        inner.scanner = ReplyScanner::default();
        self.pushes.borrow_mut().break_off(bytes)?;
        Ok((bytes.len(), true))
    }
}
