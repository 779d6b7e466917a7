//! A connection all of whose frames are its client's, so that nobody sees which of them answers what: where an answer of respool's own
//! has its place among them.

use tokio::sync::oneshot;

use super::Link;
use crate::exchange::Fence;
use crate::upstream::pushes::ends_stream;
use crate::upstream::traffic::{Inner, OwnReply};

impl Link {
    /// More bytes of a request that is already due, one that is streamed; or a request whose answer comes amid a stream.
    pub fn send_more(&self, bytes: &[u8]) {
        self.has_unplaced.set(self.is_raw() && !self.is_debugging());
        self.inner.borrow_mut().append(bytes);
        self.wake();
    }

    /// Asks to be told when all has come that answers what was sent amid the stream. `None`: nothing that was sent since the server
    /// last told so is unanswered, or the connection carries no stream any more. An open MULTI fails by it.
    pub fn ask_for_place(&self) -> Option<oneshot::Receiver<Vec<u8>>> {
        if !self.has_unplaced.take() || !self.is_raw() || !self.is_alive() {
            return None;
        }
        let (tell, told) = oneshot::channel();
        let fence = Fence::new(rand::random());
        self.send_own(&fence.unknown_request(), OwnReply::Place(fence, tell));
        Some(told)
    }

    /// Whether the frame that begins with `frame` is not the client's, though all are: it ends the stream, or tells how far it is. `None`:
    /// more bytes must tell.
    pub(super) fn is_own_amid_stream(&self, inner: &Inner, frame: &[u8]) -> Option<bool> {
        let Some(reply) = inner.own_due().filter(|_| self.is_raw()) else {
            return Some(false);
        };
        if let OwnReply::Place(fence, _) = reply {
            return fence.is_unknown(frame);
        }
        let ends = ends_stream(frame)?;
        if ends {
            self.raw.set(false);
        }
        Some(ends)
    }
}
