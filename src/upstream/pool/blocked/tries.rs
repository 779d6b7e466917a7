//! What is done on shared connections for blocked clients: tries, which are transactions of calls that never wait.

use std::rc::Rc;

use super::bare::WantedTry;
use super::returning::UnderWay;
use super::{AROUND_ELEMENTS, SharedWork};
use crate::exchange::{Answer, AnswerPace, Offence, OwnCall, OwnReply};
use crate::link::Link;
use crate::session::State;
use crate::upstream::pool::{Upstream, WaitError};
use crate::waits::{RequestBatch, TryFailure, TryId, has_run};

impl Upstream {
    /// Does something on a shared connection in `state`, as soon as there is one.
    pub(super) fn find_for(self: &Rc<Self>, state: State, work: SharedWork) {
        if let Some(link) = self.shared_for(&state, work.delays()) {
            return self.run(work, &link);
        }
        match self.wait_shared(&state, 1) {
            Err(error) => self.give_up(work, error),
            Ok(wait) => {
                let upstream = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    match std::future::poll_fn(|cx| wait.poll(cx)).await {
                        Ok(Some(link)) => upstream.run(work, &link),
                        Ok(None) => upstream.find_for(state, work),
                        Err(error) => upstream.give_up(work, error),
                    }
                    upstream.carry_out();
                });
            }
        }
    }

    fn give_up(self: &Rc<Self>, work: SharedWork, error: WaitError) {
        match work {
            SharedWork::Try(WantedTry { attempt, .. }, _) => {
                let failure = match error {
                    WaitError::Unreachable => TryFailure::Unreachable,
                    WaitError::Refused(reply) => TryFailure::Refused(reply),
                };
                let now = self.thread.clock.now_micros();
                self.blocked
                    .waits
                    .borrow_mut()
                    .failed(attempt, failure, now);
            }
            SharedWork::PutBack(returning) => match error {
                WaitError::Unreachable => self.orphaned(returning.elements),
                // As if it had refused the request: another user may be let in.
                WaitError::Refused(reply) => self.returned(returning, Answer::Replies(reply)),
            },
        }
    }

    fn run(self: &Rc<Self>, work: SharedWork, link: &Rc<Link>) {
        match work {
            SharedWork::Try(WantedTry { attempt, .. }, asking) => {
                let now = self.thread.clock.now_micros();
                let sending = self.blocked.waits.borrow_mut().begin(attempt, now);
                if let Some(sending) = sending {
                    let user = link.state();
                    if sending.is_transaction()
                        && self.thread.distrusts(&user, Offence::OpenTransaction)
                    {
                        // As if EXEC had refused it: who wants it has a connection of its own.
                        return self.blocked.waits.borrow_mut().tried(attempt, b"", now);
                    }
                    drop(user);
                    let count = sending.replies as u32;
                    self.send_try(link, attempt, sending, move || drop(asking));
                    self.served(link, count);
                }
            }
            SharedWork::PutBack(returning) if !returning.may_go_to(link.origin()) => {
                self.orphaned(returning.elements);
            }
            SharedWork::PutBack(returning) => self.send_back(link, returning),
        }
    }

    /// Sends a try; `over` is called when it has been answered, or cannot be any more.
    pub(in crate::upstream) fn send_try(
        self: &Rc<Self>,
        link: &Rc<Link>,
        attempt: TryId,
        sending: RequestBatch,
        over: impl FnOnce() + 'static,
    ) {
        let upstream = Rc::downgrade(self);
        let under_way = UnderWay::new(&self.blocked.under_way);
        let is_transaction = sending.is_transaction();
        let state = is_transaction.then(|| link.state().clone());
        let sent_micros = self.thread.clock.now_micros();
        let answered_micros = self.thread.pulse.answered_micros();
        let takes = sending.takes > 0;
        let call = move |answer| {
            drop(under_way);
            let Some(upstream) = upstream.upgrade() else {
                return;
            };
            if let (Answer::Replies(replies), Some(state)) = (&answer, &state) {
                upstream.told_of_multi(state, replies);
            }
            let now = upstream.thread.clock.now_micros();
            if let Answer::Replies(replies) = &answer
                && takes
                && has_run(replies, is_transaction)
            {
                upstream.note_written(sent_micros, answered_micros);
            }
            let waits = &upstream.blocked.waits;
            match answer {
                Answer::Replies(replies) => {
                    waits.borrow_mut().tried(attempt, &replies, now);
                }
                Answer::TooLarge => waits
                    .borrow_mut()
                    .failed(attempt, TryFailure::TooLarge, now),
                Answer::Lost { sent } => {
                    let failure = TryFailure::Lost { sent };
                    waits.borrow_mut().failed(attempt, failure, now);
                }
            }
            upstream.carry_out();
            over();
        };
        let limit_bytes = self.limit_bytes(sending.takes);
        let pace = match (is_transaction, takes) {
            (true, writes) => AnswerPace::Transaction { writes },
            (false, true) => AnswerPace::Writing,
            (false, false) => AnswerPace::Prompt,
        };
        let call = OwnCall::new(sending.replies, limit_bytes, pace, call);
        link.send_own(&sending.bytes, OwnReply::Call(call));
        link.note_held();
    }

    /// Returns how much the replies to calls may measure of which so many take something away: what was popped is handed on,
    /// while who only reads can do so on a connection of its own.
    pub(in crate::upstream) fn limit_bytes(&self, takes: usize) -> usize {
        let limits = &self.thread.settings().limits;
        let most = match takes {
            0 => limits.max_client_buffer.min(limits.max_request),
            takes => limits.max_request.saturating_mul(takes),
        };
        most.saturating_add(AROUND_ELEMENTS)
    }
}
