//! Whether what comes on a connection can be told apart: what a lent one carried before it is lent on, and whose commands have
//! ended a shared one.

use std::io;

use tokio::sync::oneshot;

use super::Link;
use crate::exchange::Offence;
use crate::resp::ReplyScanner;
use crate::session::Protocol;
use crate::upstream::traffic::{Inner, OwnReply};

impl Link {
    /// A reply on it may be more than one frame, and nothing tells: before anybody else has it, a fence must be answered.
    pub fn doubt(&self) {
        self.is_doubtful.set(true);
    }

    /// Whether a fence must be answered before anybody else has it.
    pub fn is_doubtful(&self) -> bool {
        self.is_doubtful.get()
    }

    /// Nobody else is to have it, and what comes behind the replies that are due reaches nobody.
    pub fn distrust(&self) {
        self.inner.borrow_mut().is_distrusted = true;
    }

    /// Whether nobody else is to have it.
    pub fn is_distrusted(&self) -> bool {
        self.inner.borrow().is_distrusted
    }

    /// Whether all replies so far were one frame each. It is asked as respool's own user, who may.
    pub(in super::super) async fn vouched(&self) -> bool {
        if !self.is_doubtful() {
            return true;
        }
        let (tell, told) = oneshot::channel();
        *self.vouching.borrow_mut() = Some(tell);
        self.inner
            .borrow_mut()
            .ask(self.thread.clock.now_micros(), OwnReply::Vouch);
        self.wake();
        told.await.is_ok_and(|is_answered| is_answered)
    }

    /// Whether a push on it can only be text that a script has written: nothing that pushes is ever asked for on a shared
    /// connection, and in RESP2 there are no pushes.
    fn takes_no_push(&self) -> bool {
        let is_shared = self.slot.get() != usize::MAX;
        !self.is_raw() && (is_shared || self.worn().protocol == Protocol::Resp2)
    }

    /// Whether a frame that starts with `first` answers no request. Where the answer to a fence is due it is no frame at all, and on
    /// a connection that is closed with its loan it is dropped.
    #[inline]
    pub(super) fn is_push(&self, inner: &mut Inner, first: u8) -> io::Result<bool> {
        let is_written = first == b'>' && self.takes_no_push();
        if is_written && !inner.is_distrusted && !inner.awaits_fence() {
            return Err(inner.surplus());
        }
        Ok((first == b'>' && !is_written) || self.is_raw())
    }

    /// Whether what it carried may have been answered with more than a reply, and a frame has begun that has not ended: it may
    /// never end.
    pub(in super::super) fn may_never_end(&self) -> bool {
        self.is_doubtful() && !self.inner.borrow().scanner.at_boundary()
    }

    /// Bytes that reach nobody, frames or not: what was asked for on this connection has been answered with more than a reply.
    pub(super) fn drop_surplus(inner: &mut Inner, buf: &[u8]) -> (usize, bool) {
        match inner.advance(buf) {
            Ok(step) => (step.used, step.complete),
            Err(_) => {
                inner.scanner = ReplyScanner::default();
                (buf.len(), true)
            }
        }
    }

    /// A fence was answered with its number (nothing is told of that), or refused.
    pub(super) fn fenced(&self, refusal: &[u8]) {
        // Refused to everybody, while a script runs past its time, it blames nobody.
        if refusal.starts_with(b"-NOPERM ") {
            self.distrust_user(Offence::Surplus);
        }
    }

    /// What a lent connection carried was answered with one frame each, or that cannot be told.
    pub(super) fn was_vouched(&self, answer: &[u8]) {
        let is_answered = !answer.starts_with(b"-");
        if let Some(tell) = self.vouching.borrow_mut().take() {
            self.is_doubtful.set(!is_answered);
            // Who asked may have gone.
            let _ = tell.send(is_answered);
        }
    }

    /// Commands of its user that may do as one has done go on connections of their own from now on.
    pub(super) fn distrust_user(&self, offence: Offence) {
        let user = self.worn().user.clone();
        let user = user.as_ref().map(|user| user.user());
        let now = self.thread.clock.now_micros();
        if self.thread.distrust.borrow_mut().note(user, offence, now) {
            tracing::warn!(
                connection = self.name,
                "{}: {}",
                offence.text(),
                offence.remedy()
            );
        }
    }
}
