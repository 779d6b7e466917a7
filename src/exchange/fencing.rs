//! Fences where they stand: behind requests whose reply may be more than one frame.
//!
//! Invariant: behind such a reply nothing reaches anybody until the answer to the fence has come, or it is known that the server has
//! refused it and written nothing else.

use super::request::DueEntry;
use super::{ClientHandle, ConnectionEvents, Exchange, OwnReply, Violation};
use crate::fences::{Before, Fence, FenceSearch, FenceVerdict, SearchOutcome};

impl<H: ClientHandle> Exchange<H> {
    /// Returns the fence whose answer is due next, if one is.
    #[inline]
    fn fence_due(&self) -> Option<Fence> {
        match self.due.front() {
            Some(&DueEntry::Own {
                reply: OwnReply::Fence(fence),
                ..
            }) => Some(fence),
            _ => None,
        }
    }

    /// Tells whether the answer to a fence is due next.
    #[inline]
    pub(super) fn awaits_fence(&self) -> bool {
        self.fence_due().is_some()
    }

    /// Asks whether all replies of a lent connection were one frame each.
    pub fn ask_to_vouch(&mut self, now_micros: u64) {
        self.ask(now_micros, OwnReply::Vouch);
    }

    /// Asks for a number behind what was sent last. It is not counted among the replies that are due, which tell how quickly the
    /// server works.
    pub(super) fn ask(&mut self, now: u64, what: fn(Fence) -> OwnReply) {
        let fence = Fence::new((self.draw)());
        let reply = what(fence);
        let start = self.append(&match reply {
            OwnReply::Last(_) => fence.last_request(),
            _ => fence.request(),
        });
        self.due.push_back(DueEntry::Own {
            reply,
            sent_micros: now,
            start,
        });
    }

    /// Looks whether what was gathered of the answer tells that all replies of a lent connection were one frame each.
    pub(super) fn check_vouch(&mut self, fence: Fence) -> Result<(), Violation> {
        let gathered = self.gathered.as_deref().unwrap_or_default();
        match fence.judge(gathered, Before::Plain) {
            FenceVerdict::Answer(_) | FenceVerdict::Refusal(_) | FenceVerdict::Start => Ok(()),
            FenceVerdict::Doubt => Err(self.surplus()),
        }
    }

    /// Begins to search what comes for the answer to `fence`.
    fn begin_search(&mut self, fence: Fence, now: u64) {
        self.ask(now, OwnReply::Last);
        if let Some(DueEntry::Own {
            reply: OwnReply::Last(last),
            ..
        }) = self.due.back()
        {
            self.search = Some(Box::new(FenceSearch::new(fence, *last, now)));
        }
        // A login would wait for what is behind it.
        self.put_before_logins();
    }

    /// Returns what is due behind the fence at the front, up to the question that was asked last for it.
    fn due_in_search(&mut self) -> impl Iterator<Item = &mut DueEntry<H>> {
        let last = self.search.as_ref().map(|search| search.last());
        let is_between = move |due: &&mut DueEntry<H>| {
            let is_last =
                |reply: &OwnReply| matches!(reply, OwnReply::Last(fence) if Some(*fence) == last);
            !matches!(due, DueEntry::Own { reply, .. } if is_last(reply))
        };
        self.due.iter_mut().skip(1).take_while(is_between)
    }

    /// Takes bytes where the answer to a fence is due. Returns how many, and whether more may follow.
    pub(super) fn at_fence(
        &mut self,
        buf: &[u8],
        now: u64,
        events: &impl ConnectionEvents,
    ) -> Result<(usize, bool), Violation> {
        if self.search.is_none()
            && let Some(fence) = self.fence_due()
        {
            match fence.judge(buf, self.before_fence) {
                FenceVerdict::Start => return Ok((0, false)),
                FenceVerdict::Answer(used) => {
                    self.passed(b"", events);
                    return Ok((used, true));
                }
                FenceVerdict::Refusal(used) => {
                    self.passed(&buf[..used], events);
                    return Ok((used, true));
                }
                FenceVerdict::Doubt => self.begin_search(fence, now),
            }
        }
        let due = self.due_in_search().map(|due| due.replies()).sum();
        let Some(search) = &mut self.search else {
            return Ok((0, false));
        };
        let is_long = events.is_overdue(search.since_micros());
        match search.take(buf, due) {
            SearchOutcome::Goes if is_long => Err(Violation::NotTold),
            SearchOutcome::Goes => Ok((buf.len(), true)),
            SearchOutcome::Answered { used } => {
                self.search = None;
                events.text_dropped();
                self.passed(b"", events);
                Ok((used, true))
            }
            SearchOutcome::Refused {
                refusal,
                replies,
                used,
            } => {
                for due in self.due_in_search() {
                    due.pass_fence();
                }
                self.search = None;
                self.passed(&refusal, events);
                let dispatched = self.dispatch(&replies, now, events)?;
                match dispatched == replies.len() {
                    true => Ok((used, true)),
                    false => Err(Violation::NotTold),
                }
            }
            SearchOutcome::Lost { may_not: true } => Err(self.surplus()),
            SearchOutcome::Lost { may_not: false } => Err(Violation::NotTold),
        }
    }

    /// The fence at the front is done with; `refusal` is what the server said instead of its number.
    fn passed(&mut self, refusal: &[u8], events: &impl ConnectionEvents) {
        if !refusal.is_empty() {
            events.refused(refusal);
            self.gathered = Some(refusal.to_vec());
        }
        if let Some(due) = self.due.front() {
            events.reached(due.sent_micros());
        }
        self.answered(1);
    }
}

impl<H> DueEntry<H> {
    /// Takes an answer that is due for refused together with the fence before it, if it is that of a fence.
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
