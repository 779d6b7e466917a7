//! What is asked for on a connection: by clients, and by respool itself.

use std::fmt;
use std::rc::Rc;

use super::executing::Executing;
use super::may_take::FencePlace;
use super::request_kind::RequestKind;
use crate::command::Delays;
use crate::fences::Fence;
use crate::session::Effect;
use crate::waits::PoppedElements;

/// Says what a client sees of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Show {
    /// It sees the reply.
    Pass,
    /// The client sees nothing of it.
    Hide,
    /// It sees this instead.
    Replace(Rc<[u8]>),
    /// It sees the reply of an EXEC, in which some elements are respool's own.
    Executed(Rc<Executing>),
}

/// Tells what came of requests of respool's own.
#[derive(Debug)]
pub enum Answer {
    /// Their replies have come, and stand one behind the other.
    Replies(Vec<u8>),
    /// Their replies have come, and were more than may be gathered.
    TooLarge,
    /// The connection was lost before the last of them.
    Lost {
        /// They may have run.
        sent: bool,
    },
}

/// Says how soon the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerPace {
    /// It answers at once.
    Prompt,
    /// It answers at once, but while writes are paused.
    Writing,
    /// It may take its time.
    Blocking,
    /// It answers at once, and its last reply must tell that the transaction is over that the first began.
    Transaction {
        /// While writes are paused it does not.
        writes: bool,
    },
}

/// Takes the one reply to a request of respool's own. It is dropped uncalled where the connection is lost.
pub type TakeReply = Box<dyn FnOnce(Vec<u8>)>;

/// Takes what came of several requests of respool's own.
pub(super) type TakeAnswer = Box<dyn FnOnce(Answer)>;

/// Stands for requests of respool's own whose replies, or their loss, somebody is told of by a call.
pub struct OwnCall {
    /// The server owes this many replies to it still.
    pub(super) replies: usize,
    limit_bytes: usize,
    is_too_large: bool,
    pub(super) pace: AnswerPace,
    pub(super) call: TakeAnswer,
}

impl OwnCall {
    /// `call` is called once: with `replies` replies if they measure no more than `limit_bytes` together.
    pub fn new(
        replies: usize,
        limit_bytes: usize,
        pace: AnswerPace,
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
    pub fn tell(self, gathered: Vec<u8>) {
        (self.call)(if self.is_too_large {
            Answer::TooLarge
        } else {
            Answer::Replies(gathered)
        });
    }

    pub(super) fn gather(&mut self, gathered: &mut Vec<u8>, bytes: &[u8]) {
        self.is_too_large |= gathered.len() + bytes.len() > self.limit_bytes;
        if self.is_too_large {
            *gathered = Vec::new();
        } else {
            gathered.extend_from_slice(bytes);
        }
    }

    pub(super) fn is_transaction(&self) -> bool {
        matches!(self.pace, AnswerPace::Transaction { .. })
    }
}

/// Says what becomes of a reply to respool itself.
pub enum OwnReply {
    /// It acknowledges a step of a change of state.
    Step(Effect),
    /// Somebody waits for it.
    Asked(TakeReply),
    /// It tells that all before it has come, amid frames that nobody counts.
    Place(FencePlace, TakeReply),
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
    /// It is a fence that was refused, as all else was that stood beside it.
    Refused,
    /// Nobody wants the reply.
    Ignore,
    /// Somebody is called with it.
    Call(OwnCall),
}

impl OwnReply {
    /// Returns how many replies it is about.
    pub(super) fn replies(&self) -> usize {
        match self {
            Self::Call(call) => call.replies,
            _ => 1,
        }
    }

    fn delays(&self) -> Delays {
        match self {
            Self::Call(call)
                if matches!(
                    call.pace,
                    AnswerPace::Writing | AnswerPace::Transaction { writes: true }
                ) =>
            {
                Delays::PAUSE
            }
            Self::Place(place, _) => place.before.delays,
            _ => Delays::NONE,
        }
    }

    fn is_fence(&self) -> bool {
        matches!(
            self,
            Self::Fence(_) | Self::Vouch(_) | Self::Last(_) | Self::Refused
        )
    }
}

impl fmt::Debug for OwnReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(effect) => write!(f, "Step({effect:?})"),
            Self::Asked(_) => f.write_str("Asked"),
            Self::Place(place, _) => write!(f, "{place:?}"),
            Self::Pong(asked) => write!(f, "Pong({asked})"),
            Self::KeepAlive => f.write_str("KeepAlive"),
            Self::Fence(fence) | Self::Vouch(fence) | Self::Last(fence) => write!(f, "{fence:?}"),
            Self::Refused => f.write_str("Refused"),
            Self::Ignore => f.write_str("Ignore"),
            Self::Call(call) => write!(f, "Call({} replies, {:?})", call.replies, call.pace),
        }
    }
}

/// Holds one entry of what is due on a connection; the entries stand in the order in which they were asked for.
#[derive(Debug)]
pub(super) enum DueEntry<H> {
    /// Replies are due to a client, as many as `count` says.
    Client {
        client: H,
        count: u32,
        kind: RequestKind,
        show: Show,
        delays: Delays,
        sent_micros: u64,
        /// Its requests start there among all bytes ever appended.
        start: u64,
    },
    /// Replies are due to respool itself.
    Own {
        reply: OwnReply,
        sent_micros: u64,
        start: u64,
    },
}

impl<H> DueEntry<H> {
    /// Tells whether the server may take its time with it.
    pub(super) fn is_blocking(&self) -> bool {
        match self {
            Self::Client { kind, .. } => matches!(kind, RequestKind::Blocking(_)),
            Self::Own { reply, .. } => {
                matches!(reply, OwnReply::Call(call) if call.pace == AnswerPace::Blocking)
            }
        }
    }

    /// Tells whether it is a call of a client's that takes something away.
    pub(super) fn takes(&self) -> bool {
        let Self::Client { kind, .. } = self else {
            return false;
        };
        matches!(kind, RequestKind::Blocking(popped) if *popped != PoppedElements::Nothing)
    }

    /// Returns what may keep the server from answering it, though it does not wait for others.
    pub(super) fn delays(&self) -> Delays {
        match self {
            Self::Client { delays, .. } => *delays,
            Self::Own { reply, .. } => reply.delays(),
        }
    }

    /// Returns when it was handed to the connection.
    pub(super) fn sent_micros(&self) -> u64 {
        match self {
            Self::Client { sent_micros, .. } | Self::Own { sent_micros, .. } => *sent_micros,
        }
    }

    /// Tells whether it is respool's own question about the replies before it, which is not counted among what is due.
    pub(super) fn is_fence(&self) -> bool {
        matches!(self, Self::Own { reply, .. } if reply.is_fence())
    }

    /// Returns how many replies are due.
    pub(super) fn replies(&self) -> usize {
        match self {
            Self::Client { count, .. } => *count as usize,
            Self::Own { reply, .. } => reply.replies(),
        }
    }

    /// Returns the place that is asked for here.
    pub(super) fn place(&self) -> Option<FencePlace> {
        match self {
            Self::Own {
                reply: OwnReply::Place(place, _),
                ..
            } => Some(*place),
            _ => None,
        }
    }

    /// Tells whether what it answers, or what stands before it, may wait for as long as a client likes.
    pub(super) fn may_wait(&self) -> bool {
        self.is_blocking() || self.place().is_some_and(|place| place.before.blocks)
    }

    /// Returns where it starts among all bytes ever appended.
    pub(super) fn start(&self) -> u64 {
        match self {
            Self::Client { start, .. } | Self::Own { start, .. } => *start,
        }
    }

    pub(super) fn start_mut(&mut self) -> &mut u64 {
        match self {
            Self::Client { start, .. } | Self::Own { start, .. } => start,
        }
    }
}
