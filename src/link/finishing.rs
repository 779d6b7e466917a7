//! A connection that goes the way of its client: nothing more is sent on it, and what the server still answers is passed on.
//!
//! Amid a stream nobody sees whether the server answers a call or lets it wait. The server knows: told that nothing more comes it ends a
//! call that waits, and runs nothing behind it, and it answers one that need not wait.

use std::task::{Context, Poll};

use super::Link;
use crate::command::Delays;
use crate::silence::{AwaitedReply, LinkSilence};
use crate::transport::Stream;

impl Link {
    /// Sends nothing behind what has been sent up to now: the server is told so, and closes when it has answered, at once where it lets
    /// a call wait.
    pub fn finish_sending(&self) {
        if self.ending.finish(self.thread.clock.now_micros()) {
            self.wake();
        }
    }

    /// Tells whether nothing more is sent on it.
    pub fn is_finishing(&self) -> bool {
        self.ending.is_finishing()
    }

    /// Judges the silence of a server that has been told so as that behind any command, from then on: it has no call wait.
    pub(super) fn judged_as_finishing(&self, silence: &mut LinkSilence) {
        if let Some(micros) = self.ending.finishing_since()
            && silence.awaited == AwaitedReply::Wait
        {
            silence.awaited = AwaitedReply::Command(Delays::NONE);
            silence.since_micros = silence.since_micros.max(micros);
        }
    }

    /// Tells the server that nothing more comes, if that is asked for and everything is with the socket.
    #[inline]
    pub(super) fn finish_if_asked(&self, cx: &mut Context<'_>, stream: &Stream) {
        if !self.ending.is_server_to_be_told() {
            return;
        }
        let is_written = self.exchange.borrow().is_all_sent();
        if is_written && matches!(stream.poll_flush(cx), Poll::Ready(Ok(()))) {
            self.ending.told();
            stream.finish_socket();
        }
    }
}
