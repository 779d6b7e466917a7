//! The way out to one client: its socket, the replies it is due, and what it waits for.
//!
//! Whoever owes the client a reply holds its outlet; the client's task owns the client. When the client is gone the outlet
//! stays behind, closed, so that the replies still due to it are dropped instead of reaching anybody else.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::replies::Replies;
use crate::session::{Protocol, Transaction, Verb};
use crate::telemetry::Disconnect;
use crate::transport::Stream;

/// A request that a connection lost before any byte of it was sent: it is sent again, on another.
#[derive(Debug)]
pub struct Unsent {
    /// The requests.
    pub bytes: Vec<u8>,
    /// How many.
    pub count: u32,
    /// Whether their replies are shown.
    pub visible: bool,
}

/// One client's way out.
#[derive(Debug)]
pub struct Outlet {
    stream: RefCell<Option<Rc<Stream>>>,
    replies: RefCell<Replies>,
    /// Requests at the server, or on their way to it, without an answer.
    outstanding: Cell<u32>,
    /// The client's task is woken when no more than this many are outstanding.
    wake_at: Cell<Option<u32>>,
    end: Cell<Option<Disconnect>>,
    waker: RefCell<Option<Waker>>,
    transaction: RefCell<Transaction>,
    unsent: RefCell<Vec<Unsent>>,
    limit_bytes: Cell<usize>,
    /// What one reply that is here whole may hold beyond that, until it is out.
    whole_bytes: Cell<usize>,
    bytes_out: Cell<u64>,
    /// First byte of messages: `>` in RESP3, `*` in RESP2.
    message_mark: Cell<u8>,
    /// Messages have come that `flush_messages` has not sent yet.
    has_messages: Cell<bool>,
}

impl Outlet {
    /// The outlet of a client on `stream` that may leave `limit_bytes` of replies unread.
    pub fn new(stream: Rc<Stream>, limit_bytes: usize) -> Rc<Self> {
        Rc::new(Self {
            stream: RefCell::new(Some(stream)),
            replies: RefCell::default(),
            outstanding: Cell::new(0),
            wake_at: Cell::new(None),
            end: Cell::new(None),
            waker: RefCell::new(None),
            transaction: RefCell::default(),
            unsent: RefCell::default(),
            limit_bytes: Cell::new(limit_bytes),
            whole_bytes: Cell::new(0),
            bytes_out: Cell::new(0),
            message_mark: Cell::new(b'*'),
            has_messages: Cell::new(false),
        })
    }

    /// Remembers the client's task.
    pub fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Wakes the client's task.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Requests without an answer.
    #[inline]
    pub fn outstanding(&self) -> u32 {
        self.outstanding.get()
    }

    /// The client's task wants to be woken when no more than `count` requests are outstanding.
    pub fn wake_at(&self, count: u32) {
        self.wake_at.set(Some(count));
    }

    /// `count` requests were sent; the replies of visible ones are due to the client.
    #[inline]
    pub fn sent(&self, count: u32, visible: bool) {
        self.outstanding.set(self.outstanding.get() + count);
        if visible {
            self.replies.borrow_mut().expect(u64::from(count));
        }
    }

    /// Whether the next frames of the server may be passed by in one piece.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.replies.borrow().is_plain()
    }

    /// Whether the client is gone or about to be closed.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.end.get().is_some()
    }

    /// Whether the client has closed its end, though it may not have been read up to there.
    pub fn has_hung_up(&self) -> bool {
        self.stream
            .borrow()
            .as_ref()
            .is_some_and(|stream| stream.has_hung_up())
    }

    /// Whether the client's socket is gone.
    pub fn is_gone(&self) -> bool {
        self.stream.borrow().is_none()
    }

    /// Why the client is to be closed.
    pub fn end(&self) -> Option<Disconnect> {
        self.end.get()
    }

    /// The client is to be closed; the first reason stands.
    pub fn close(&self, reason: Disconnect) {
        if self.end.get().is_none() {
            self.end.set(Some(reason));
            self.wake();
        }
    }

    /// The client is gone: its socket is closed as soon as its task lets go of it.
    pub fn leave(&self, reason: Disconnect) {
        if self.end.get().is_none() {
            self.end.set(Some(reason));
        }
        self.stream.borrow_mut().take();
        *self.replies.borrow_mut() = Replies::default();
        self.unsent.borrow_mut().clear();
        self.waker.borrow_mut().take();
    }

    /// Passes on bytes of the server in which `complete` visible replies end; `open`: another has begun.
    #[inline]
    pub fn deliver(&self, bytes: &[u8], complete: u32, open: bool) {
        if let Some(stream) = &*self.stream.borrow() {
            let mut replies = self.replies.borrow_mut();
            self.write(stream, &mut replies, bytes);
            replies.served(u64::from(complete), open);
            if !replies.is_written() {
                self.flush_into(stream, &mut replies);
            }
        }
    }

    /// Messages are pushes from now on (RESP3), or arrays.
    pub fn speak(&self, protocol: Protocol) {
        self.message_mark.set(match protocol {
            Protocol::Resp2 => b'*',
            Protocol::Resp3 => b'>',
        });
    }

    /// The null of what messages are made of.
    pub fn null(&self) -> &'static [u8] {
        if self.message_mark.get() == b'>' {
            b"_\r\n"
        } else {
            b"$-1\r\n"
        }
    }

    /// Places a message, or a confirmation, of an array's form. True: it is the first since [`Self::flush_messages`].
    /// `shared` is the frame as other clients may hold it already.
    pub fn message(&self, frame: &[u8], shared: &mut Option<Rc<[u8]>>) -> bool {
        if self.is_closed() {
            return false;
        }
        let mut replies = self.replies.borrow_mut();
        replies.message(self.message_mark.get(), frame, shared);
        !self.has_messages.replace(true)
    }

    /// The client may leave this many bytes of replies unread from now on.
    pub fn set_limit_bytes(&self, limit_bytes: usize) {
        self.limit_bytes.set(limit_bytes);
    }

    /// Sends messages, as far as the socket takes them. A client that leaves more than `limit_bytes` unread is closed.
    pub fn flush_messages(&self, limit_bytes: usize) {
        self.has_messages.set(false);
        self.flush();
        if self.held_bytes() > limit_bytes {
            self.close(Disconnect::PubsubBuffer);
        }
    }

    /// `complete` requests were answered.
    #[inline]
    pub fn answered(&self, complete: u32) {
        let left = self.outstanding.get() - complete;
        self.outstanding.set(left);
        if let Some(at) = self.wake_at.get()
            && left <= at
        {
            self.wake_at.set(None);
            self.wake();
        }
    }

    /// The server answered a command of a transaction.
    pub fn transaction_answered(&self, verb: Verb, head: &[u8]) {
        self.transaction.borrow_mut().answered(verb, head);
    }

    /// The transaction of the client's pinned connection.
    pub fn transaction(&self) -> std::cell::RefMut<'_, Transaction> {
        self.transaction.borrow_mut()
    }

    /// Places a reply of respool's own; [`Self::flush`] sends it.
    pub fn own_reply(&self, reply: &[u8]) {
        let mut replies = self.replies.borrow_mut();
        replies.own(reply);
        self.check_bound(&replies);
    }

    /// Passes on whole frames that answer no request, between two others.
    pub fn push(&self, frames: &[u8]) {
        if let Some(stream) = &*self.stream.borrow() {
            let mut replies = self.replies.borrow_mut();
            replies.push(frames);
            self.check_bound(&replies);
            self.flush_into(stream, &mut replies);
        }
    }

    /// Places one reply of the server that is here whole, however large it is; [`Self::flush`] sends it.
    pub fn whole_reply(&self, reply: &[u8]) {
        self.whole_bytes.set(reply.len());
        self.own_reply(reply);
    }

    /// Sends what is ready, as far as the socket takes it.
    pub fn flush(&self) {
        if let Some(stream) = &*self.stream.borrow() {
            let mut replies = self.replies.borrow_mut();
            if !replies.is_written() {
                self.flush_into(stream, &mut replies);
            }
        }
    }

    /// Sends what is ready and waits for the socket to take the rest.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.is_closed_by_socket() {
                return Poll::Ready(());
            }
            if self.replies.borrow().unwritten().is_empty() {
                return self.poll_flush_stream(cx);
            }
            let ready = match &*self.stream.borrow() {
                None => return Poll::Ready(()),
                Some(stream) => stream.poll_write_ready(cx),
            };
            match ready {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => self.close(Disconnect::SocketError),
                Poll::Ready(Ok(())) => self.flush(),
            }
        }
    }

    /// Waits for the socket to take what the stream has taken: the end of what TLS has encrypted.
    fn poll_flush_stream(&self, cx: &mut Context<'_>) -> Poll<()> {
        let flushed = match &*self.stream.borrow() {
            None => return Poll::Ready(()),
            Some(stream) => stream.poll_flush(cx),
        };
        flushed.map(|flushed| {
            if flushed.is_err() {
                self.close(Disconnect::SocketError);
            }
        })
    }

    /// Whether a frame of the server has been passed on in part.
    pub fn has_open_frame(&self) -> bool {
        self.replies.borrow().is_open()
    }

    /// Whether replies wait for the socket.
    #[inline]
    pub fn has_unwritten(&self) -> bool {
        !self.replies.borrow().unwritten().is_empty() || self.has_unflushed()
    }

    #[inline]
    fn has_unflushed(&self) -> bool {
        self.stream
            .borrow()
            .as_ref()
            .is_some_and(|stream| stream.has_unflushed())
    }

    /// Bytes held for the client.
    pub fn held_bytes(&self) -> usize {
        self.replies.borrow().held_bytes()
    }

    /// Bytes written to the client so far.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.get()
    }

    /// Requests come back unsent; the client's task sends them again.
    pub fn take_back(&self, unsent: Unsent) {
        if self.stream.borrow().is_some() {
            self.outstanding.set(self.outstanding.get() - unsent.count);
            self.unsent.borrow_mut().push(unsent);
            self.wake();
        }
    }

    /// Whether requests came back.
    #[inline]
    pub fn has_unsent(&self) -> bool {
        !self.unsent.borrow().is_empty()
    }

    /// Takes the requests that came back.
    pub fn take_unsent(&self) -> Vec<Unsent> {
        std::mem::take(&mut self.unsent.borrow_mut())
    }

    /// How many requests came back.
    pub fn unsent_count(&self) -> usize {
        self.unsent
            .borrow()
            .iter()
            .map(|unsent| unsent.count as usize)
            .sum()
    }

    /// Answers the requests that came back, or were never sent whole, and whose places are kept, with `error`.
    pub fn fail_unsent(&self, error: &[u8]) {
        self.take_unsent();
        self.replies.borrow_mut().fail_awaited(error);
        self.flush();
    }

    fn is_closed_by_socket(&self) -> bool {
        matches!(
            self.end.get(),
            Some(Disconnect::SocketError | Disconnect::OutputBuffer | Disconnect::PubsubBuffer)
        )
    }

    #[inline]
    fn write(&self, stream: &Stream, replies: &mut Replies, bytes: &[u8]) {
        let taken = if replies.is_written() {
            self.try_write(stream, bytes)
        } else {
            0
        };
        if taken < bytes.len() {
            replies.keep(&bytes[taken..]);
            self.check_bound(replies);
        }
    }

    fn flush_into(&self, stream: &Stream, replies: &mut Replies) {
        loop {
            let next = replies.unwritten();
            let taken = self.try_write(stream, next);
            let is_full = taken < next.len();
            replies.wrote(taken);
            if is_full || replies.is_written() {
                break;
            }
        }
        if replies.is_written() {
            self.whole_bytes.set(0);
        } else {
            self.check_bound(replies);
            // The client's task waits for the socket.
            self.wake();
        }
    }

    fn check_bound(&self, replies: &Replies) {
        if replies.held_bytes() > self.limit_bytes.get() + self.whole_bytes.get() {
            self.close(Disconnect::OutputBuffer);
        }
    }

    #[inline]
    fn try_write(&self, stream: &Stream, bytes: &[u8]) -> usize {
        if bytes.is_empty() || self.is_closed_by_socket() {
            return 0;
        }
        match stream.try_write(bytes) {
            Ok(taken) => {
                self.bytes_out.set(self.bytes_out.get() + taken as u64);
                if stream.has_unflushed() {
                    // The client's task waits for the socket.
                    self.wake();
                }
                taken
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.close(Disconnect::SocketError);
                0
            }
        }
    }
}
