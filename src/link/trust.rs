//! Whether what comes on a connection can be told apart: what a lent one carried before it is lent on, and whose commands have
//! ended a shared one.

use super::Link;
use crate::exchange::Offence;
use crate::texts::is_no_permission;

impl Link {
    /// Takes in that a reply on it may be more than one frame, and nothing tells: before anybody else has it, a fence must be answered.
    pub fn doubt(&self) {
        self.traces.doubt();
    }

    /// Tells whether a fence must be answered before anybody else has it.
    pub fn is_doubtful(&self) -> bool {
        self.traces.is_doubtful()
    }

    /// Keeps it from everybody else, and what comes behind the replies that are due reaches nobody.
    pub fn distrust(&self) {
        self.exchange.borrow_mut().distrust();
    }

    /// Tells whether nobody else is to have it.
    pub fn is_distrusted(&self) -> bool {
        self.exchange.borrow().is_distrusted()
    }

    /// Tells whether all replies so far were one frame each. It is asked as respool's own user, who may.
    pub async fn vouched(&self) -> bool {
        if !self.is_doubtful() {
            return true;
        }
        let told = self.traces.ask();
        let now = self.thread.clock.now_micros();
        self.exchange.borrow_mut().ask_to_vouch(now);
        self.wake();
        told.await.is_ok_and(|is_answered| is_answered)
    }

    /// Tells whether what it carried may have been answered with more than a reply, and a frame has begun that has not ended: it may
    /// never end.
    pub fn may_never_end(&self) -> bool {
        self.is_doubtful() && self.exchange.borrow().is_amid_frame()
    }

    /// Takes in that a fence was answered with its number (nothing is told of that), or refused.
    pub(super) fn fenced(&self, refusal: &[u8]) {
        // Refused to everybody, while a script runs past its time, it blames nobody.
        if is_no_permission(refusal) {
            self.distrust_user(Offence::Surplus);
        }
    }

    /// Takes in that what a lent connection carried was answered with one frame each, or that this cannot be told.
    pub(super) fn was_vouched(&self, answer: &[u8]) {
        self.traces.answered(!answer.starts_with(b"-"));
    }

    /// Has commands of its user that may do as one has done go on connections of their own from now on.
    pub(super) fn distrust_user(&self, offence: Offence) {
        let user = self.state().user.clone();
        let user = user.as_ref().map(|user| user.user());
        let now = self.thread.clock.now_micros();
        if self.thread.distrust.borrow_mut().note(user, offence, now) {
            tracing::warn!(
                connection = self.name(),
                "{}: {}",
                offence.text(),
                offence.remedy()
            );
        }
    }
}
