//! A connection that goes the way of its client: nothing more is sent on it, and what the server still answers is passed on.
//!
//! Amid a stream nobody sees whether the server answers a call or lets it wait. The server knows: told that nothing more comes it ends a
//! call that waits, and runs nothing behind it, and it answers one that need not wait.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};

use super::Link;
use crate::command::Delays;
use crate::silence::{AwaitedReply, LinkSilence};
use crate::transport::Stream;

/// Tells whether nothing more is sent on a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Finishing {
    #[default]
    No,
    /// The server is told so when it has been sent everything.
    Asked,
    /// It has been told.
    Told,
    /// It has closed in answer.
    Done,
}

/// Holds requests that put elements back, and how many each.
pub(super) type Returns = RefCell<Vec<(Vec<u8>, u64)>>;

impl Link {
    /// Has elements that came for a client that has left go back by way of a shared connection: nothing more may be sent on this one, and whether
    /// the server takes them has to be seen.
    pub(super) fn put_back(&self, request: Vec<u8>, elements: u64) {
        self.returns.borrow_mut().push((request, elements));
    }

    /// Tells whether there are such.
    pub(super) fn has_returns(&self) -> bool {
        !self.returns.borrow().is_empty()
    }

    /// Takes what is to be put back by way of another connection.
    pub fn take_returns(&self) -> Vec<(Vec<u8>, u64)> {
        self.returns.take()
    }

    /// Sends nothing behind what has been sent up to now: the server is told so, and closes when it has answered, at once where it lets
    /// a call wait.
    pub fn finish_sending(&self) {
        if !self.is_finishing() {
            self.finishing.set(Finishing::Asked);
            self.finishing_micros.set(self.thread.clock.now_micros());
            self.wake();
        }
    }

    /// Tells whether nothing more is sent on it.
    pub fn is_finishing(&self) -> bool {
        self.finishing.get() != Finishing::No
    }

    /// Judges the silence of a server that has been told so as that behind any command, from then on: it has no call wait.
    pub fn judged_as_finishing(&self, silence: &mut LinkSilence) {
        if self.is_finishing() && silence.awaited == AwaitedReply::Wait {
            silence.awaited = AwaitedReply::Command(Delays::NONE);
            silence.since_micros = silence.since_micros.max(self.finishing_micros.get());
        }
    }

    /// Tells whether the server has closed in answer, so that what it has not answered it has not done.
    pub(super) fn has_finished(&self) -> bool {
        self.finishing.get() == Finishing::Done
    }

    /// Takes in that the connection has ended so.
    pub(super) fn note_finished(&self, error: &io::Error) {
        if self.finishing.get() == Finishing::Told && error.kind() == io::ErrorKind::UnexpectedEof {
            self.finishing.set(Finishing::Done);
        }
    }

    /// Tells the server that nothing more comes, if that is asked for and everything is with the socket.
    #[inline]
    pub(super) fn finish_if_asked(&self, cx: &mut Context<'_>, stream: &Stream) {
        if self.finishing.get() != Finishing::Asked {
            return;
        }
        let is_written = self.exchange.borrow().is_all_sent();
        if is_written && matches!(stream.poll_flush(cx), Poll::Ready(Ok(()))) {
            self.finishing.set(Finishing::Told);
            stream.finish_socket();
        }
    }
}
