//! Whether what comes on a connection can be told apart: what a lent one carried before it is lent on, and whose commands have
//! ended a shared one.

use std::io;

use tokio::sync::oneshot;

use super::Link;
use crate::exchange::{Offence, Proving, Verdict};
use crate::resp::ReplyScanner;
use crate::session::{Protocol, is_busy};
use crate::upstream::traffic::Inner;

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
            .fence(self.thread.clock.now_micros());
        self.wake();
        told.await.is_ok_and(|is_answered| is_answered)
    }

    /// Whether a push on it can only be text that a script has written: nothing that pushes is ever asked for on a shared
    /// connection, and in RESP2 there are no pushes.
    pub(super) fn takes_no_push(&self) -> bool {
        let is_shared = self.slot.get() != usize::MAX;
        !self.is_raw() && (is_shared || self.worn().protocol == Protocol::Resp2)
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

    /// Sends a proof behind all that is due, if a fence could not tell and its answer has been read.
    #[inline]
    pub(super) fn prove(&self, inner: &mut Inner, now: u64) {
        if inner.proving.is_doubtful() && inner.scanner.at_boundary() {
            inner.prove(now);
            self.wake();
        }
    }

    /// Holds what comes while a proof is under way, and hands it on once it is proven.
    pub(super) fn hold_back(&self, inner: &mut Inner, bytes: &[u8], now: u64) -> io::Result<()> {
        let Proving::UnderWay(proof) = &mut inner.proving else {
            return Ok(());
        };
        match proof.take(bytes) {
            Verdict::Open => {}
            Verdict::Refuted => return Err(inner.surplus()),
            Verdict::Proven => {
                let held = inner.proving.finish();
                let used = self.dispatch(inner, &held, now)?;
                inner.carry.extend_from_slice(&held[used..]);
            }
        }
        Ok(())
    }

    /// A fence was answered, with its number or with a refusal.
    pub(super) fn fenced(&self, answer: &[u8]) {
        let is_answered = !answer.starts_with(b"-");
        // That it is busy is nobody's offence.
        if !is_answered && !is_busy(answer) {
            self.distrust_user(Offence::Surplus);
        }
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
        if self.thread.distrust.borrow_mut().note(user, offence) {
            tracing::warn!(
                connection = self.name,
                "{}: {}",
                offence.text(),
                offence.remedy()
            );
        }
    }
}
