//! Fences where they stand: behind requests whose reply may be more than one frame.
//!
//! Invariant: behind such a reply nothing reaches anybody until the answer to the fence has come, or it is known that the server has
//! refused it and written nothing else.

use std::io;

use super::Link;
use crate::fences::{Before, Fence, Found, Search, Searched};
use crate::upstream::traffic::{Due, Inner, OwnReply, invalid};

/// What a connection ends with on which the server refuses to tell where what a script has written ends.
const NOT_TOLD: &str = "the server refused to tell where the reply to a script ends, and others are due on its connection";

impl Inner {
    /// The fence whose answer is due next, if one is.
    #[inline]
    fn fence_due(&self) -> Option<Fence> {
        match self.due.front() {
            Some(&Due::Own {
                reply: OwnReply::Fence(fence),
                ..
            }) => Some(fence),
            _ => None,
        }
    }

    /// Whether the answer to a fence is due next.
    #[inline]
    pub(in super::super) fn awaits_fence(&self) -> bool {
        self.fence_due().is_some()
    }

    /// Asks for a number behind what was sent last. It is not counted among the replies that are due, which tell how quickly the
    /// server works.
    pub(in super::super) fn ask(&mut self, now: u64, what: fn(Fence) -> OwnReply) {
        let fence = Fence::new(rand::random());
        let reply = what(fence);
        let start = self.append(&match reply {
            OwnReply::Last(_) => fence.last_request(),
            _ => fence.request(),
        });
        self.due.push_back(Due::Own {
            reply,
            sent_micros: now,
            start,
        });
    }

    /// Whether what was gathered of the answer tells that all replies on a lent connection were one frame each.
    pub(in super::super) fn check_vouch(&mut self, fence: Fence) -> io::Result<()> {
        let gathered = self.gathered.as_deref().unwrap_or_default();
        match fence.judge(gathered, Before::Plain) {
            Found::Answer(_) | Found::Refusal(_) | Found::Start => Ok(()),
            Found::Doubt => Err(self.surplus()),
        }
    }

    /// Begins to search what comes for the answer to `fence`.
    fn begin_search(&mut self, fence: Fence, now: u64) {
        self.ask(now, OwnReply::Last);
        if let Some(Due::Own {
            reply: OwnReply::Last(last),
            ..
        }) = self.due.back()
        {
            self.search = Some(Box::new(Search::new(fence, *last, now)));
        }
        // A login would wait for what is behind it.
        self.put_before_logins();
    }

    /// What is due behind the fence at the front, up to the question that was asked last for it.
    fn due_in_search(&mut self) -> impl Iterator<Item = &mut Due> {
        let last = self.search.as_ref().map(|search| search.last());
        let is_between = move |due: &&mut Due| {
            let is_last =
                |reply: &OwnReply| matches!(reply, OwnReply::Last(fence) if Some(*fence) == last);
            !matches!(due, Due::Own { reply, .. } if is_last(reply))
        };
        self.due.iter_mut().skip(1).take_while(is_between)
    }
}

impl Link {
    /// Bytes where the answer to a fence is due. Returns how many are used, and whether more may follow.
    pub(super) fn at_fence(
        &self,
        inner: &mut Inner,
        buf: &[u8],
        now: u64,
    ) -> io::Result<(usize, bool)> {
        if inner.search.is_none()
            && let Some(fence) = inner.fence_due()
        {
            match fence.judge(buf, inner.before_fence) {
                Found::Start => return Ok((0, false)),
                Found::Answer(used) => {
                    self.passed(inner, b"");
                    return Ok((used, true));
                }
                Found::Refusal(used) => {
                    self.passed(inner, &buf[..used]);
                    return Ok((used, true));
                }
                Found::Doubt => inner.begin_search(fence, now),
            }
        }
        let due = inner.due_in_search().map(|due| due.replies()).sum();
        let Some(search) = &mut inner.search else {
            return Ok((0, false));
        };
        let patience = self.thread.settings().upstream.reply_timeout;
        let is_long = self.thread.clock.is_past(search.since_micros(), patience);
        match search.take(buf, due) {
            Searched::Goes if is_long => Err(invalid(NOT_TOLD.to_owned())),
            Searched::Goes => Ok((buf.len(), true)),
            Searched::Answered { used } => {
                inner.search = None;
                self.thread.dropped_text(&self.name);
                self.passed(inner, b"");
                Ok((used, true))
            }
            Searched::Refused {
                refusal,
                replies,
                used,
            } => {
                for due in inner.due_in_search() {
                    due.pass_fence();
                }
                inner.search = None;
                self.passed(inner, &refusal);
                let dispatched = self.dispatch(inner, &replies, now)?;
                match dispatched == replies.len() {
                    true => Ok((used, true)),
                    false => Err(invalid(NOT_TOLD.to_owned())),
                }
            }
            Searched::Lost { may_not: true } => Err(inner.surplus()),
            Searched::Lost { may_not: false } => Err(invalid(NOT_TOLD.to_owned())),
        }
    }

    /// The fence at the front is done with; `refusal` is what the server said instead of its number.
    fn passed(&self, inner: &mut Inner, refusal: &[u8]) {
        if !refusal.is_empty() {
            self.hear_error(refusal);
            inner.gathered = Some(refusal.to_vec());
        }
        if let Some(due) = inner.due.front() {
            self.thread.pulse.answered(due.sent_micros());
        }
        inner.answered(1);
    }
}

impl Due {
    /// How many replies are due.
    fn replies(&self) -> usize {
        match self {
            Self::Client { count, .. } => *count as usize,
            Self::Own { reply, .. } => reply.replies(),
        }
    }

    /// Where it is a fence, it was refused together with another.
    fn pass_fence(&mut self) {
        if let Self::Own {
            reply: reply @ OwnReply::Fence(_),
            ..
        } = self
        {
            *reply = OwnReply::Refused;
        }
    }
}
