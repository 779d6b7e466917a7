//! Frames that answer no request, handed to whoever gets them.

use std::io;

use super::Link;
use crate::upstream::traffic::Inner;

impl Link {
    /// Bytes of a frame that answers no request. Returns how many, and whether more frames may follow now.
    pub(super) fn push(&self, inner: &mut Inner, buf: &[u8]) -> io::Result<(usize, bool)> {
        let step = inner.advance(buf)?;
        if step.used > 0 {
            let mut pushes = self.pushes.borrow_mut();
            pushes.take(&buf[..step.used], step.complete)?;
            if step.complete && pushes.is_spent() {
                self.is_behind.set(true);
                return Ok((step.used, false));
            }
        }
        Ok((step.used, step.complete))
    }

    /// Goes on with frames for which there was no time in the turn in which they were read.
    pub(super) fn catch_up(&self) -> io::Result<()> {
        let inner = &mut *self.inner.borrow_mut();
        let mut frames = std::mem::take(&mut inner.carry);
        let used = self.dispatch(inner, &frames, self.thread.clock.refresh())?;
        frames.drain(..used);
        inner.carry = frames;
        self.holding.set(inner.held_bytes());
        Ok(())
    }
}
