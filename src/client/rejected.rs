//! A rejected socket, held and answered.
//!
//! Every command gets the error. Clients that were told once, or closed at accept, show their users a broken pipe or
//! nothing at all, and reconnect in a loop; told to each command, six of six client libraries show the reason.

use std::io;
use std::rc::Rc;
use std::task::Poll;

use super::kept::standing_bytes;
use super::sent_ahead::SentAhead;
use crate::admission::HoldPermit;
use crate::memory::Stranger;
use crate::resp::{Bounds, RequestScanner, Scan};
use crate::telemetry::Bound;
use crate::thread::Thread;
use crate::transport::Stream;

/// Commands answered before the socket is closed.
const MOST_COMMANDS: u32 = 64;

/// Answers every command on `stream` with `text` until the permit's time (`limits.reject_hold`) or 64 commands are over. `sent` is what the
/// client has sent already: what is at hand, and what was read behind that.
pub async fn hold(
    thread: Rc<Thread>,
    stream: Rc<Stream>,
    text: Vec<u8>,
    sent: (Vec<u8>, Option<Box<SentAhead>>),
    permit: HoldPermit,
) {
    let stranger = thread.strangers.enter(standing_bytes(&stream));
    let mut held = Held {
        thread: Rc::clone(&thread),
        stream,
        text,
        input: sent.0,
        sent_ahead: sent.1,
        scanner: RequestScanner::default(),
        told: 0,
        stranger,
    };
    let ended = tokio::time::timeout_at(permit.until().into(), held.serve()).await;
    if ended.is_err() || held.told >= MOST_COMMANDS {
        thread.counters.bound(Bound::RejectHold).add(1);
    }
    held.stream.finish_writing();
    drop(held);
    drop(permit);
}

struct Held {
    thread: Rc<Thread>,
    stream: Rc<Stream>,
    text: Vec<u8>,
    input: Vec<u8>,
    /// Holds what comes behind that, before anything in the socket.
    sent_ahead: Option<Box<SentAhead>>,
    scanner: RequestScanner,
    told: u32,
    /// Holds what it sends.
    stranger: Stranger,
}

impl Held {
    /// Ends when the client has gone, broke the protocol, does not read, has been told often enough, or takes room that
    /// those who were admitted need.
    async fn serve(&mut self) {
        while self.answer() && self.has_room() {
            if let Some(piece) = self.sent_ahead.as_mut().and_then(|ahead| ahead.pop()) {
                self.input.extend_from_slice(&piece);
                // The others have their turns in between.
                tokio::task::yield_now().await;
                continue;
            }
            self.sent_ahead = None;
            let ready = std::future::poll_fn(|cx| match self.stranger.poll_told(cx) {
                Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::OutOfMemory.into())),
                Poll::Pending => self.stream.poll_read_ready(cx),
            });
            let ready = ready.await;
            if self.stranger.makes_way() {
                tokio::task::yield_now().await;
                continue;
            }
            let read = ready.and_then(|()| {
                let mut scratch = self.thread.scratch.borrow_mut();
                let read = self.stream.try_read(&mut scratch[..])?;
                self.input.extend_from_slice(&scratch[..read]);
                Ok(read)
            });
            match read {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    fn has_room(&self) -> bool {
        let ahead = self.sent_ahead.as_ref();
        let ahead = ahead.map_or(0, |ahead| ahead.held_bytes());
        self.stranger
            .hold(self.input.capacity() + ahead + self.stream.held_bytes())
    }

    /// Answers what has arrived. False: enough.
    fn answer(&mut self) -> bool {
        let bounds = Bounds::new(self.thread.settings().limits.max_request);
        let mut at = 0;
        loop {
            let commands = match self.scanner.scan(&self.input[at..], &bounds) {
                Scan::Request { length } => {
                    at += length;
                    1
                }
                Scan::Inline { text, length } => {
                    at += length;
                    u32::from(!text.is_empty())
                }
                Scan::Nothing { length } => {
                    at += length;
                    0
                }
                Scan::Violation(_) => return false,
                Scan::Incomplete => break,
            };
            self.told += commands;
            for _ in 0..commands {
                // A client that does not read its errors is not waited for.
                if !matches!(self.stream.try_write(&self.text), Ok(taken) if taken == self.text.len())
                {
                    return false;
                }
            }
            if self.told >= MOST_COMMANDS {
                return false;
            }
        }
        self.input.drain(..at);
        if self.scanner.is_inside() {
            // Nothing of the request is kept but the line that is still to be read.
            let settled = self.scanner.settled(self.input.len());
            self.input.drain(..settled);
            self.scanner.forget(settled);
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        true
    }
}
