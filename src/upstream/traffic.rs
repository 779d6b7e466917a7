//! What is under way on one connection: bytes to send, replies due and to whom, the frame that is arriving.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::Waker;

use tokio::sync::oneshot;

use super::alone::Logins;
use super::executing::Executing;
use super::link::Place;
use super::liveness::LinkPulse;
use super::outlet::{Outlet, Unsent};
use crate::command::Delays;
use crate::exchange::Offence;
use crate::fences::{Before, Fence, Search, ends_transaction};
use crate::resp::{Advance, ReplyScanner};
use crate::schedule::{ReplyTimes, RoomQueue};
use crate::session::{Effect, PinnedCommand, Stream};
use crate::telemetry::Disconnect;
use crate::transport::READ_SIZE;
use crate::waits::PoppedElements;

/// Longest reply gathered for respool itself; `COMMAND` of Redis 7 measures about 200 KiB.
const MAX_OWN_REPLY: usize = 4 * 1024 * 1024;

/// Places for replies that are due that a connection keeps when it has few: as many as a worker's clients have in a turn.
const MOST_DUE_KEPT: usize = 4096;

/// Room for requests that a connection keeps from one turn to the next, and from one tick to the next. Memory that is new to
/// the process costs a page fault for each 4 KiB: SET of 16 KiB by 50 clients 11.9 µs each instead of 9.
const MOST_OUT_KEPT: usize = 16 * READ_SIZE;
const MOST_OUT_KEPT_LONG: usize = 4 * READ_SIZE;

/// What a request is, as far as its reply matters to respool.
#[derive(Debug)]
pub enum Kind {
    /// Nothing but a reply to pass on.
    Plain,
    /// It changes the client's transaction, or what its connection carries.
    Pinned(PinnedCommand),
    /// It may wait at the server for as long as it likes, and take an element away.
    Blocking(PoppedElements),
    /// The requests of a transaction that has arrived whole: the last reply must tell that it is over.
    Block,
    /// Its reply may be more than one frame: a fence stands behind it.
    Fenced,
    /// Its error may be more than one frame: what comes on the connection after one is nobody's.
    RawError,
}

/// What the client sees of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Show {
    /// The reply.
    Pass,
    /// Nothing.
    Hide,
    /// This instead.
    Replace(Rc<[u8]>),
    /// The reply of an EXEC, in which some elements are respool's own.
    Executed(Rc<Executing>),
}

/// What came of requests of respool's own.
#[derive(Debug)]
pub enum Answer {
    /// Their replies, one behind the other.
    Replies(Vec<u8>),
    /// The replies have come, and were more than may be gathered.
    TooLarge,
    /// The connection was lost before the last of them.
    Lost {
        /// Whether they may have run.
        sent: bool,
    },
}

/// Whether the server answers at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// It does.
    Prompt,
    /// It does, but while writes are paused.
    Writing,
    /// It may take its time.
    Blocking,
    /// It does, and its last reply must tell that the transaction is over that the first began.
    Transaction {
        /// While writes are paused it does not.
        writes: bool,
    },
}

/// Requests of respool's own whose replies, or their loss, somebody is told of by a call.
pub struct Then {
    /// How many replies are left.
    replies: usize,
    limit_bytes: usize,
    is_too_large: bool,
    pace: Pace,
    pub(super) call: Box<dyn FnOnce(Answer)>,
}

impl Then {
    /// `call` is called once: with `replies` replies if they measure no more than `limit_bytes` together.
    pub fn new(
        replies: usize,
        limit_bytes: usize,
        pace: Pace,
        call: impl FnOnce(Answer) + 'static,
    ) -> Self {
        Self {
            replies,
            limit_bytes,
            is_too_large: false,
            pace,
            call: Box::new(call),
        }
    }

    /// Calls with what was gathered.
    pub(super) fn tell(self, gathered: Vec<u8>) {
        (self.call)(if self.is_too_large {
            Answer::TooLarge
        } else {
            Answer::Replies(gathered)
        });
    }

    fn gather(&mut self, gathered: &mut Vec<u8>, bytes: &[u8]) {
        self.is_too_large |= gathered.len() + bytes.len() > self.limit_bytes;
        if self.is_too_large {
            *gathered = Vec::new();
        } else {
            gathered.extend_from_slice(bytes);
        }
    }
}

impl std::fmt::Debug for Then {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Then({} replies, {:?})", self.replies, self.pace)
    }
}

/// What becomes of a reply to respool itself.
#[derive(Debug)]
pub enum OwnReply {
    /// It acknowledges a step of a change.
    Step(Effect),
    /// Somebody waits for it.
    Tell(oneshot::Sender<Vec<u8>>),
    /// It tells that all before it has come, amid frames that nobody counts.
    Place(Place, oneshot::Sender<Vec<u8>>),
    /// It tells that the connection is still there; it was asked at this time of the worker's clock.
    Pong(u64),
    /// It is asked for so that the server hears something: nobody misses it, however long it takes.
    KeepAlive,
    /// It tells where the reply before it ends.
    Fence(Fence),
    /// It tells whether all replies on a lent connection were one frame each.
    Vouch(Fence),
    /// Its number comes back even where a fence is refused.
    Last(Fence),
    /// A fence that was refused, as all else was that stood beside it.
    Refused,
    /// Nobody wants it.
    Ignore,
    /// Somebody is called with it.
    Then(Then),
}

impl OwnReply {
    /// How many replies it is about.
    pub(super) fn replies(&self) -> usize {
        match self {
            Self::Then(then) => then.replies,
            _ => 1,
        }
    }
}

#[derive(Debug)]
pub(super) enum Due {
    Client {
        outlet: Rc<Outlet>,
        count: u32,
        kind: Kind,
        show: Show,
        delays: Delays,
        sent_micros: u64,
        start: u64,
    },
    Own {
        reply: OwnReply,
        sent_micros: u64,
        start: u64,
    },
}

impl Due {
    /// Whether the server may take its time with it.
    pub(super) fn is_blocking(&self) -> bool {
        match self {
            Self::Client { kind, .. } => matches!(kind, Kind::Blocking(_)),
            Self::Own { reply, .. } => {
                matches!(reply, OwnReply::Then(then) if then.pace == Pace::Blocking)
            }
        }
    }

    /// Whether it is a call of a client's that takes something away.
    pub(super) fn takes(&self) -> bool {
        let Self::Client { kind, .. } = self else {
            return false;
        };
        matches!(kind, Kind::Blocking(popped) if *popped != PoppedElements::Nothing)
    }

    /// What may keep the server from answering it, though it does not wait for others.
    pub(super) fn delays(&self) -> Delays {
        match self {
            Self::Client { delays, .. } => *delays,
            Self::Own { reply, .. } => match reply {
                OwnReply::Then(then)
                    if matches!(
                        then.pace,
                        Pace::Writing | Pace::Transaction { writes: true }
                    ) =>
                {
                    Delays::PAUSE
                }
                OwnReply::Place(place, _) => place.before.delays,
                _ => Delays::NONE,
            },
        }
    }

    /// When it was handed to the connection.
    pub(super) fn sent_micros(&self) -> u64 {
        match self {
            Self::Client { sent_micros, .. } | Self::Own { sent_micros, .. } => *sent_micros,
        }
    }

    /// Whether it is respool's own question about the replies before it, which is not counted among what is due.
    pub(super) fn is_fence(&self) -> bool {
        let Self::Own { reply, .. } = self else {
            return false;
        };
        matches!(
            reply,
            OwnReply::Fence(_) | OwnReply::Vouch(_) | OwnReply::Last(_) | OwnReply::Refused
        )
    }

    /// Where it starts among all bytes ever appended.
    pub(super) fn start(&self) -> u64 {
        match self {
            Self::Client { start, .. } | Self::Own { start, .. } => *start,
        }
    }
}

/// Called when a change ends: acknowledged, or the server's first refusal.
pub(super) type Dressed = Box<dyn FnOnce(Result<(), Vec<u8>>)>;

pub(super) struct Dressing {
    pub(super) left: usize,
    pub(super) refusal: Option<Vec<u8>>,
    pub(super) done: Dressed,
}

#[derive(Default)]
pub(super) struct Inner {
    /// Requests for the socket; those before `written` are gone.
    pub(super) out: Vec<u8>,
    pub(super) written: usize,
    /// Bytes ever appended and ever taken by the kernel: what was sent is told apart from what was not by them.
    pub(super) appended_total: u64,
    pub(super) sent_total: u64,
    /// Nothing is sent beside them.
    pub(super) logins: Logins,
    pub(super) due: VecDeque<Due>,
    pub(super) due_count: usize,
    pub(super) scanner: ReplyScanner,
    /// The incomplete first line of a frame, read again with what follows.
    pub(super) carry: Vec<u8>,
    /// The frame under way answers no request.
    pub(super) is_push: bool,
    /// The reply under way is gathered here: respool's own, or one popped for a client that has left.
    pub(super) gathered: Option<Vec<u8>>,
    pub(super) answered: Vec<(OwnReply, Vec<u8>)>,
    pub(super) orphans: Vec<(PoppedElements, Vec<u8>)>,
    /// Changes under way, in the order in which they were sent.
    pub(super) dressings: VecDeque<Dressing>,
    /// What the server has sent, and what it was sent: its silence is judged by them.
    pub(super) pulse: LinkPulse,
    /// How quickly the server answers on it.
    pub(super) times: ReplyTimes,
    /// Who waits until it takes more bytes.
    pub(super) room: RoomQueue<Waker>,
    /// Whose long pipelines the read under way has answered, and with how many replies each.
    pub(super) charged: Vec<(Rc<Outlet>, u32)>,
    /// When somebody last sent requests behind those of somebody else.
    pub(super) mixed_micros: Option<u64>,
    /// What the reply was that the fence at the front stands behind.
    pub(super) before_fence: Before,
    /// What comes is searched for the answer to the fence at the front.
    pub(super) search: Option<Box<Search>>,
    /// What comes behind the replies that are due is nobody's, and nobody else is to have the connection.
    pub(super) is_distrusted: bool,
    /// What the connection ends for as soon as the frame under way has ended.
    pub(super) offence: Option<Offence>,
}

/// Bytes no server speaks.
pub(super) const NO_RESP: &str = "the server sent something that is no RESP";

/// Frames that nothing was subscribed to or asked for by.
pub(super) const NO_SUBSCRIPTION: &str =
    "the server sent something on the subscription connection that was not asked for";

pub(super) fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Inner {
    pub(super) fn advance(&mut self, buf: &[u8]) -> io::Result<Advance> {
        self.scanner
            .advance(buf)
            .map_err(|_| invalid(NO_RESP.to_owned()))
    }

    /// Memory that it takes.
    #[inline]
    pub(super) fn held_bytes(&self) -> usize {
        self.out.capacity()
            + self.carry.capacity()
            + self.gathered.as_ref().map_or(0, Vec::capacity)
            + self.search.as_ref().map_or(0, |search| search.held_bytes())
            + self.due.capacity() * size_of::<Due>()
    }

    /// Whether the frame that starts with `head` may be handed on: whether it ends a transaction is known, where that matters.
    #[inline]
    pub(super) fn judge_end(&mut self, head: &[u8]) -> bool {
        let is_shared = match self.due.front() {
            Some(Due::Client {
                kind: Kind::Block,
                count: 1,
                ..
            }) => true,
            Some(Due::Own {
                reply: OwnReply::Then(then),
                ..
            }) if matches!(then.pace, Pace::Transaction { .. }) && then.replies == 1 => true,
            // On a connection of its own it may be left open.
            Some(Due::Client {
                kind: Kind::Pinned(PinnedCommand::EXEC),
                ..
            }) => false,
            _ => return true,
        };
        match ends_transaction(head) {
            None => return false,
            Some(false) if is_shared => self.offence = Some(Offence::OpenTransaction),
            Some(_) => {}
        }
        true
    }

    /// Ends the connection once the frame has ended for which nobody else is to get any.
    #[inline]
    pub(super) fn check_offence(&self) -> io::Result<()> {
        match self.offence {
            Some(offence) if self.scanner.at_boundary() => Err(invalid(offence.text().to_owned())),
            _ => Ok(()),
        }
    }

    /// What came was not asked for: the connection ends, and its user is remembered.
    pub(super) fn surplus(&mut self) -> io::Error {
        self.offence = Some(Offence::Surplus);
        invalid(Offence::Surplus.text().to_owned())
    }

    /// Lets go of the memory of what was written.
    pub(super) fn forget_written(&mut self) {
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
            if self.out.capacity() > MOST_OUT_KEPT {
                self.out = Vec::new();
            }
        } else if self.written > READ_SIZE.max(self.out.len() / 2) {
            // No more is moved than has been written since it was moved last: a full buffer was moved at each write.
            self.out.drain(..self.written);
            self.written = 0;
        }
    }

    /// Gives back room that is kept for the next turn: called with each tick.
    pub(super) fn shrink(&mut self) {
        if self.out.is_empty() && self.out.capacity() > MOST_OUT_KEPT_LONG {
            self.out = Vec::new();
        }
    }

    /// Appends bytes; returns where they start among all bytes ever appended.
    #[inline]
    pub(super) fn append(&mut self, bytes: &[u8]) -> u64 {
        let start = self.appended_total;
        if bytes.len() > READ_SIZE.max(self.out.len()) {
            // Doubled, it would hold as much again for nothing. What is there already is moved no more often than if it were.
            self.out.reserve_exact(bytes.len());
        }
        self.out.extend_from_slice(bytes);
        self.appended_total += bytes.len() as u64;
        start
    }

    #[inline]
    pub(super) fn due_for(
        &mut self,
        outlet: &Rc<Outlet>,
        more: u32,
        (kind, more_delays): (Kind, Delays),
        show: Show,
        start: u64,
        now: u64,
    ) {
        self.due_count += more as usize;
        // One client's requests of one turn are one entry; not across what was sent already.
        if let Some(Due::Client {
            outlet: last,
            count,
            kind: Kind::Plain,
            show: last_show,
            delays,
            start,
            sent_micros,
        }) = self.due.back_mut()
            && matches!(kind, Kind::Plain)
            && *last_show == show
            && Rc::ptr_eq(last, outlet)
            && *start >= self.sent_total
            && *sent_micros == now
        {
            *count += more;
            let before = std::mem::replace(delays, delays.and(more_delays));
            self.pulse.joined(before, *delays);
            return;
        }
        // A fence is nobody's: who stands before it counts.
        let is_own = |due: &&Due| !due.is_fence();
        match self.due.iter().rev().find(is_own) {
            None => self.times.begin(now),
            Some(Due::Client { outlet: last, .. }) if !Rc::ptr_eq(last, outlet) => {
                self.mixed_micros = Some(now);
            }
            Some(_) => {}
        }
        let outlet = Rc::clone(outlet);
        self.pulse.joined(Delays::NONE, more_delays);
        let is_fenced = matches!(kind, Kind::Fenced);
        self.due.push_back(Due::Client {
            outlet,
            count: more,
            kind,
            show,
            delays: more_delays,
            sent_micros: now,
            start,
        });
        if is_fenced {
            self.ask(now, OwnReply::Fence);
        }
    }

    /// The connection is lost: requests never sent go back to their clients, who sent others are closed after the
    /// replies they got, and so is the client it is lent to: as told by `end`; but for a loss nothing was done that is not answered.
    /// Returns how many a loss closes.
    pub(super) fn collapse(self, pinned: Option<Rc<Outlet>>, end: Disconnect) -> u64 {
        let first = self.sent_total - self.written as u64;
        let mut dues = self.due.into_iter().peekable();
        let mut own = Vec::new();
        let mut disconnected = 0;
        let is_lost = end == Disconnect::UpstreamLost;
        let mut disconnect = |outlet: &Outlet| {
            disconnected += u64::from(is_lost && !outlet.is_closed());
            outlet.close(end);
        };
        while let Some(due) = dues.next() {
            let (outlet, count, kind, show, delays, start) = match due {
                Due::Client {
                    outlet,
                    count,
                    kind,
                    show,
                    delays,
                    start,
                    ..
                } => (outlet, count, kind, show, delays, start),
                Due::Own {
                    reply: OwnReply::Then(then),
                    start,
                    ..
                } => {
                    own.push((then.call, is_lost && start < self.sent_total));
                    continue;
                }
                Due::Own { .. } => continue,
            };
            let is_again = matches!(kind, Kind::Plain | Kind::Block | Kind::Fenced);
            let plain = is_again && !matches!(show, Show::Replace(_));
            if start >= self.sent_total && plain && pinned.is_none() {
                let next = dues.peek().map(|next| (next.start() - first) as usize);
                let from = (start - first) as usize;
                let bytes = self.out[from..next.unwrap_or(self.out.len())].to_vec();
                outlet.take_back(Unsent {
                    bytes,
                    count,
                    delays,
                    visible: show == Show::Pass,
                    kind,
                });
            } else {
                disconnect(&outlet);
            }
        }
        if let Some(outlet) = pinned {
            disconnect(&outlet);
        }
        self.room.into_all().for_each(Waker::wake);
        for (call, sent) in own {
            call(Answer::Lost { sent });
        }
        // Whoever waits for the change learns of the loss from the schedule or from the dropped callback.
        drop(self.dressings);
        disconnected
    }

    /// Bytes of the reply at the front that do not simply pass in a batch.
    pub(super) fn frame(&mut self, bytes: &[u8], starts: bool, complete: bool) -> io::Result<()> {
        match self.due.front_mut() {
            None => {}
            Some(Due::Own { reply, .. }) => {
                let gathered = self.gathered.get_or_insert_default();
                if let OwnReply::Then(then) = reply {
                    then.gather(gathered, bytes);
                    return Ok(());
                }
                gathered.extend_from_slice(bytes);
                if let OwnReply::Vouch(fence) = *reply {
                    return self.check_vouch(fence);
                }
                if gathered.len() > MAX_OWN_REPLY {
                    return Err(invalid("a reply to respool itself is too large".to_owned()));
                }
            }
            Some(Due::Client {
                outlet, kind, show, ..
            }) => {
                if starts {
                    let verb = match kind {
                        Kind::Pinned(verb) => *verb,
                        // Whatever it is, inside MULTI it is queued as everything is.
                        _ => PinnedCommand::Queue,
                    };
                    outlet.transaction_answered(verb, bytes);
                    match kind {
                        Kind::Blocking(_) if outlet.is_gone() => self.gathered = Some(Vec::new()),
                        Kind::Fenced => self.before_fence = Before::of(bytes),
                        Kind::RawError => self.is_distrusted |= !is_clean(bytes),
                        // A debugger speaks whatever CLIENT REPLY says.
                        Kind::Pinned(PinnedCommand::Debugged) if bytes.first() != Some(&b'-') => {
                            *show = Show::Pass;
                        }
                        _ => {}
                    }
                }
                match (&mut self.gathered, show) {
                    (Some(gathered), _) if gathered.len() + bytes.len() <= MAX_OWN_REPLY => {
                        gathered.extend_from_slice(bytes);
                    }
                    (Some(_), _) => {
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidData,
                            "too large to give back",
                        ));
                    }
                    (None, Show::Pass) => outlet.deliver(bytes, u32::from(complete), !complete),
                    (None, Show::Replace(text)) if complete => outlet.deliver(text, 1, false),
                    (None, Show::Executed(executing)) => executing.pass(outlet, bytes, complete)?,
                    (None, Show::Hide | Show::Replace(_)) => {}
                }
            }
        }
        Ok(())
    }

    /// Whether the reply at the front is of a command behind which a fence stands.
    pub(super) fn is_fenced(&self) -> bool {
        let front = self.due.front();
        matches!(
            front,
            Some(Due::Client {
                kind: Kind::Fenced,
                ..
            })
        )
    }

    /// What comes behind the reply at the front beside replies.
    pub(super) fn started_stream(&self) -> Option<Stream> {
        match self.due.front() {
            Some(Due::Client {
                outlet,
                kind:
                    Kind::Pinned(PinnedCommand::EXEC | PinnedCommand::Monitor | PinnedCommand::Debugged),
                ..
            }) => outlet.transaction().stream,
            _ => None,
        }
    }

    /// `complete` replies of the entry at the front have come.
    #[inline]
    pub(super) fn answered(&mut self, complete: u32) {
        if !self.due.front().is_some_and(Due::is_fence) {
            self.due_count -= complete as usize;
        }
        let ended = match self.due.front_mut() {
            Some(Due::Client { outlet, count, .. }) => {
                *count -= complete;
                if outlet.is_measured() {
                    match self.charged.last_mut() {
                        Some((last, count)) if Rc::ptr_eq(last, outlet) => *count += complete,
                        _ => self.charged.push((Rc::clone(outlet), complete)),
                    }
                }
                outlet.answered(complete);
                *count == 0
            }
            Some(Due::Own {
                reply: OwnReply::Then(then),
                ..
            }) => {
                then.replies -= complete as usize;
                then.replies == 0
            }
            _ => true,
        };
        if !ended {
            return;
        }
        if self.due.capacity() > MOST_DUE_KEPT && self.due.len() < self.due.capacity() / 8 {
            self.due.shrink_to(MOST_DUE_KEPT);
        }
        let gathered = self.gathered.take();
        if let Some(due) = self.due.front() {
            let delays = due.delays();
            self.pulse.left(delays);
        }
        match (self.due.pop_front(), gathered) {
            (Some(Due::Own { reply, .. }), gathered) => {
                self.answered.push((reply, gathered.unwrap_or_default()))
            }
            (
                Some(Due::Client {
                    kind: Kind::Blocking(popped),
                    ..
                }),
                Some(bytes),
            ) => {
                self.orphans.push((popped, bytes));
            }
            _ => {}
        }
    }
}

/// Whether a reply that starts with `head` is no error, and none that anything was written into.
fn is_clean(head: &[u8]) -> bool {
    head.starts_with(b"+OK") || matches!(head.first(), Some(b'$' | b'*' | b'~' | b'%'))
}

/// What the server says before it closes a connection it has no place for, or a bug of ours.
pub(super) fn unasked(bytes: &[u8]) -> String {
    let line = bytes
        .split(|&byte| byte == b'\r')
        .next()
        .unwrap_or_default();
    let shown = String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned();
    format!("the server sent what nobody asked for: {shown}")
}
