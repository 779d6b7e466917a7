//! Tries of blocked clients: transactions of calls that never wait.

use std::rc::Rc;

use super::apart::{Asking, WantedTry};
use super::link::Link;
use super::pool::Upstream;
use super::returning::{Returning, UnderWay};
use super::waiting::AROUND_ELEMENTS;
use crate::command::Delays;
use crate::exchange::{Answer, OwnCall, OwnReply, Pace};
use crate::waits::{RequestBatch, TryFailure, TryId, has_run};

/// What is done on a shared connection.
pub(super) enum Errand {
    /// A try, which may be the first of its user.
    Try(WantedTry, Option<Asking>),
    PutBack(Returning),
}

impl Errand {
    /// What may delay it: what is put back is written.
    pub(super) fn delays(&self) -> Delays {
        match self {
            Self::Try(wanted, _) => wanted.delays,
            Self::PutBack(_) => Delays::PAUSE,
        }
    }
}

impl Upstream {
    /// Sends a try; `over` is called when it has been answered, or cannot be any more.
    pub(super) fn send_try(
        self: &Rc<Self>,
        link: &Rc<Link>,
        attempt: TryId,
        sending: RequestBatch,
        over: impl FnOnce() + 'static,
    ) {
        let upstream = Rc::downgrade(self);
        let under_way = UnderWay::new(&self.waiting.under_way);
        let is_transaction = sending.is_transaction();
        let state = is_transaction.then(|| link.worn().clone());
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
            let waits = &upstream.waiting.waits;
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
            (true, writes) => Pace::Transaction { writes },
            (false, true) => Pace::Writing,
            (false, false) => Pace::Prompt,
        };
        let call = OwnCall::new(sending.replies, limit_bytes, pace, call);
        link.send_own(&sending.bytes, OwnReply::Call(call));
        link.note_held();
    }

    /// How much the replies to calls may measure of which so many take something away: what was popped is handed on,
    /// while who only reads can do so on a connection of its own.
    pub(super) fn limit_bytes(&self, takes: usize) -> usize {
        let limits = &self.thread.settings().limits;
        let most = match takes {
            0 => limits.max_client_buffer.min(limits.max_request),
            takes => limits.max_request.saturating_mul(takes),
        };
        most.saturating_add(AROUND_ELEMENTS)
    }
}
