//! Frames that answer no request, handed to whoever gets them.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::frames::SubscriberFrames;
use super::{Link, LinkEnd, READS_A_TURN, invalid};
use crate::transport::{Stream, let_others_go_first};

impl Link {
    /// Takes a turn of the connection that brings the messages of a worker's subscribers. One read may be for thousands of them: it
    /// ends when enough has been handed out, and the server is not read while any of that waits for its socket.
    pub(super) fn poll_messages(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        stream: &Stream,
        idle: &mut impl FnMut(&Rc<Self>),
    ) -> Poll<LinkEnd> {
        let mut has_read = false;
        for _ in 0..READS_A_TURN {
            if let Some(ended) = self.write_or_end(cx, stream) {
                return Poll::Ready(ended);
            }
            let has_unsent = |subscribers: &dyn SubscriberFrames| subscribers.has_unsent();
            if !has_read && self.role.borrow().subscribers().is_some_and(has_unsent) {
                // It is woken when they have been sent.
                return Poll::Pending;
            }
            let read = if self.role.borrow_mut().take_behind() {
                self.catch_up()
            } else {
                match stream.poll_read_ready(cx) {
                    Poll::Pending if has_read => {
                        idle(self);
                        return Poll::Pending;
                    }
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(self.ended_by(&error)),
                    Poll::Ready(Ok(())) => self.read(stream),
                }
            };
            match read {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(self.ended_amid_replies(&error, idle)),
            }
            has_read = true;
            self.react();
            if self.role.borrow().is_behind() {
                break;
            }
        }
        idle(self);
        let_others_go_first(cx)
    }

    /// Goes on with frames for which there was no time in the turn in which they were read.
    pub(super) fn catch_up(&self) -> io::Result<()> {
        let exchange = &mut *self.exchange.borrow_mut();
        let now = self.thread.clock.refresh();
        exchange.catch_up(now, self).map_err(invalid)?;
        self.holding.set(exchange.held_bytes());
        Ok(())
    }
}
