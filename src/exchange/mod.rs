//! Who is due the next frame of one connection to the server, and what each is due: how many replies, which bytes, since when.
//!
//! It is told the time and the bytes. A client is a handle, the connection hears what matters to it, and everything else comes back
//! as a value, so that all of it is tested against a model that knows who asked for what (`tests`).
//!
//! Invariant: a frame goes to the client whose request it answers, decided by the order of the requests alone.
//! Invariant: what was not sent when the connection ends comes back to its client; what may have been sent never does.

mod distrust;
mod ending;
mod executing;
mod fencing;
mod handle;
mod load;
mod logins;
mod may_take;
mod place;
mod pulse;
mod replies;
mod request;
mod request_kind;
mod sending;
mod silence;
mod state_change;
#[cfg(any(test, fuzzing))]
pub mod tests;
mod violation;

pub use distrust::{DistrustedUsers, Offence};
pub use executing::Executing;
pub use handle::{ClientHandle, ConnectionEvents, Ending};
pub use may_take::MayTake;
pub use request::{Answer, AnswerPace, OwnCall, OwnReply, Show, TakeReply};
pub use request_kind::{RequestKind, Unsent};
pub use state_change::Changed;
pub use violation::Violation;

use std::collections::VecDeque;

use crate::fences::{Before, FenceSearch};
use crate::resp::ReplyScanner;
use crate::schedule::ReplyTimes;
use crate::session::StreamKind;
use crate::waits::PoppedElements;
use logins::UnansweredLogins;
use pulse::LinkPulse;
use request::DueEntry;
use state_change::StateChange;

/// Says what the frames of a connection are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum FrameFlow {
    /// They answer requests, but for those that say that they do not.
    #[default]
    Replies,
    /// Every frame is for whoever gets those that answer nothing, replies included.
    Messages,
    /// Every byte is its client's, who debugs a script.
    Debugger,
}

/// The requests and replies of one connection to the server.
pub struct Exchange<H> {
    /// Holds the requests for the socket; those before `written` are gone.
    out: Vec<u8>,
    written: usize,
    /// These count the bytes ever appended and ever taken by the kernel: what was sent is told apart from what was not by them.
    appended_total: u64,
    sent_total: u64,
    /// Nothing is sent beside them.
    logins: UnansweredLogins,
    due: VecDeque<DueEntry<H>>,
    /// Counts the replies that are due, without the answers to fences.
    due_count: usize,
    scanner: ReplyScanner,
    /// The incomplete first line of a frame is read again with what follows.
    carry: Vec<u8>,
    flow: FrameFlow,
    /// The commands of everybody come between replies (MONITOR).
    shows_commands: bool,
    /// Requests whose answers come amid a stream have been sent, and may take this long.
    unplaced: Option<MayTake>,
    /// The frame under way answers no request.
    is_push: bool,
    /// The reply under way is gathered here: respool's own, or one popped for a client that has left.
    gathered: Option<Vec<u8>>,
    answered: Vec<(OwnReply, Vec<u8>)>,
    orphans: Vec<(PoppedElements, Vec<u8>)>,
    /// The changes of state under way stand in the order in which they were sent.
    changes: VecDeque<StateChange>,
    /// The silence of the server is judged by what it has sent and was sent.
    pulse: LinkPulse,
    /// Measures how quickly the server answers here.
    times: ReplyTimes,
    /// The read under way has answered long pipelines of these clients, with this many replies each.
    charged: Vec<(H, u32)>,
    /// Somebody last sent requests behind those of somebody else at that time.
    mixed_micros: Option<u64>,
    /// Tells what the reply was that the fence at the front stands behind.
    before_fence: Before,
    /// A search for the answer to the fence at the front is under way in what comes.
    search: Option<Box<FenceSearch>>,
    /// Nobody else is to have the connection: bytes behind the replies that are due belong to nobody.
    is_distrusted: bool,
    /// The connection ends for it as soon as the frame under way has ended.
    offence: Option<Offence>,
    /// Draws the numbers of fences, which nobody is to guess.
    draw: fn() -> u64,
}

impl<H: ClientHandle> Exchange<H> {
    /// Begins the exchange of a connection that was opened now and has taken `connect_micros` for it; `draw` draws numbers that
    /// nobody can guess.
    pub fn begun(now_micros: u64, connect_micros: u64, draw: fn() -> u64) -> Self {
        Self {
            out: Vec::new(),
            written: 0,
            appended_total: 0,
            sent_total: 0,
            logins: UnansweredLogins::default(),
            due: VecDeque::new(),
            due_count: 0,
            scanner: ReplyScanner::default(),
            carry: Vec::new(),
            flow: FrameFlow::Replies,
            shows_commands: false,
            unplaced: None,
            is_push: false,
            gathered: None,
            answered: Vec::new(),
            orphans: Vec::new(),
            changes: VecDeque::new(),
            pulse: LinkPulse::begun(now_micros, connect_micros),
            times: ReplyTimes::default(),
            charged: Vec::new(),
            mixed_micros: None,
            before_fence: Before::default(),
            search: None,
            is_distrusted: false,
            offence: None,
            draw,
        }
    }

    /// Takes what is under way. What the frames of the connection were stays known.
    pub fn take(&mut self) -> Self {
        let left = Self {
            flow: self.flow,
            shows_commands: self.shows_commands,
            unplaced: self.unplaced,
            ..Self::begun(0, 0, self.draw)
        };
        std::mem::replace(self, left)
    }

    /// Returns how many replies are due.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.due_count
    }

    /// Tells whether nothing is due, fences included.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Tells whether nothing is under way in either direction.
    pub fn is_between_frames(&self) -> bool {
        self.due.is_empty()
            && self.is_all_sent()
            && self.carry.is_empty()
            && self.scanner.at_boundary()
    }

    /// Tells whether a part of a frame has come, and its rest has not.
    fn has_begun(&self) -> bool {
        !self.scanner.at_boundary() || !self.carry.is_empty()
    }

    /// Tells whether a frame is under way of which a first line has come.
    pub fn is_amid_frame(&self) -> bool {
        !self.scanner.at_boundary()
    }

    /// Tells whether a blocking call is due: it may stand behind a PING.
    pub fn is_blocked(&self) -> bool {
        self.due.iter().any(DueEntry::is_blocking)
    }

    /// Tells whether a blocking call is due that takes something away.
    pub fn takes(&self) -> bool {
        self.due.iter().any(DueEntry::takes)
    }

    /// Returns when the latest blocking call was sent that is due.
    pub fn blocked_micros(&self) -> Option<u64> {
        let blocking = self.due.iter().filter(|due| due.is_blocking());
        blocking.map(DueEntry::sent_micros).max()
    }

    /// Returns the memory that it takes.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        self.out.capacity()
            + self.carry.capacity()
            + self.gathered.as_ref().map_or(0, Vec::capacity)
            + self.search.as_ref().map_or(0, |search| search.held_bytes())
            + self.due.capacity() * size_of::<DueEntry<H>>()
    }

    /// Has what comes behind the replies that are due reach nobody.
    pub fn distrust(&mut self) {
        self.is_distrusted = true;
    }

    /// Tells whether nobody else is to have the connection.
    pub fn is_distrusted(&self) -> bool {
        self.is_distrusted
    }

    /// Returns what a client's command has done to the connection.
    pub fn offence(&self) -> Option<Offence> {
        self.offence
    }

    /// Tells whether every frame goes to whoever gets those that answer no request.
    #[inline]
    pub fn is_raw(&self) -> bool {
        self.flow != FrameFlow::Replies
    }

    /// Has every frame go there from here on.
    pub fn set_raw(&mut self) {
        self.flow = FrameFlow::Messages;
    }

    /// Tells whether it carries the session of a debugger: what its client sends is no request, and what comes is no reply.
    pub fn is_debugging(&self) -> bool {
        self.flow == FrameFlow::Debugger
    }

    /// Tells whether the commands of everybody come between replies.
    pub fn shows_commands(&self) -> bool {
        self.shows_commands
    }

    /// Takes up what follows beside replies, as the reply at the front has said.
    fn begin_stream(&mut self, bytes: &[u8], complete: bool, events: &impl ConnectionEvents) {
        match self.started_stream() {
            Some(StreamKind::Messages) => {
                self.flow = FrameFlow::Messages;
                // What is sent from here on has answers that nobody looks at, which may be several frames.
                self.unplaced = Some(MayTake::NO_TIME);
                events.confirmed(bytes, complete);
            }
            Some(StreamKind::Commands) => self.shows_commands = true,
            Some(StreamKind::Debugger) => self.flow = FrameFlow::Debugger,
            None => {}
        }
    }
}
