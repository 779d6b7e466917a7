//! The way out to one client: its socket, the replies it is due, and what it waits for.
//!
//! Whoever owes the client a reply holds its outlet; the client's task owns the client. When the client is gone the outlet
//! stays behind, closed, so that the replies still due to it are dropped instead of reaching anybody else.

mod held;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::exchange::{ClientHandle, Ending, Unsent};
use crate::identity::{ClientFlag, ClientRecord};
use crate::memory::{HeldBytes, MemoryAccount, SharedFrame};
use crate::replies::Replies;
use crate::schedule::{AnsweredRequests, ClientShare};
use crate::session::{PinnedCommand, Protocol, StreamKind, Transaction};
use crate::telemetry::{Disconnect, WorkerCounters};
use crate::transport::{PeerEnd, Stream, let_others_go_first};

/// So many bytes are handed to a socket at most before others have their turn, as Redis hands over 64 KiB. Of 150 subscribers each took what
/// its socket had room for, and a request of another client waited for 150 ms.
const MOST_AT_ONCE: usize = 256 * 1024;

/// Holds one client's way out.
#[derive(Debug)]
pub struct Outlet {
    stream: RefCell<Option<Rc<Stream>>>,
    replies: RefCell<Replies>,
    /// So many requests are at the server, or on their way to it, without an answer.
    outstanding: Cell<u32>,
    /// Says how many of them there may be on a shared connection.
    share: Cell<ClientShare>,
    /// The client's task is woken when no more than this many are outstanding.
    wake_at: Cell<Option<u32>>,
    end: Cell<Option<Disconnect>>,
    waker: RefCell<Option<Waker>>,
    transaction: RefCell<Transaction>,
    unsent: RefCell<Vec<Unsent>>,
    /// With more held for it than this its requests wait.
    limit_bytes: Cell<usize>,
    /// Its replies take so much memory.
    replies_bytes: Cell<usize>,
    input_bytes: Cell<usize>,
    /// TLS holds so much: what is not sent yet, and the start of a record that has not arrived whole.
    stream_bytes: Cell<u32>,
    /// So much else is kept while it is there: names of what it is subscribed to, its blocked call.
    kept_bytes: Cell<u32>,
    /// It takes so much to wait for what it waits for.
    wait_bytes: Cell<u32>,
    /// It counts what of that is on the worker's account.
    holding: HeldBytes,
    /// The client's figures are here: what is written counts at once, whoever writes it.
    record: Arc<ClientRecord>,
    counters: Arc<WorkerCounters>,
    /// Messages begin with this byte: `>` in RESP3, `*` in RESP2.
    message_mark: Cell<u8>,
    /// Is true while messages have come that `flush_messages` has not sent yet.
    has_messages: Cell<bool>,
    /// Is true where its messages come by the second connection of subscribers.
    is_apart: Cell<bool>,
}

impl Outlet {
    /// Makes the outlet of a client on `stream` whose requests wait while more than `limit_bytes` of replies are held for it.
    pub fn new(
        stream: Rc<Stream>,
        limit_bytes: usize,
        account: &Rc<MemoryAccount>,
        record: Arc<ClientRecord>,
        counters: Arc<WorkerCounters>,
    ) -> Rc<Self> {
        Rc::new(Self {
            stream: RefCell::new(Some(stream)),
            replies: RefCell::default(),
            outstanding: Cell::new(0),
            share: Cell::default(),
            wake_at: Cell::new(None),
            end: Cell::new(None),
            waker: RefCell::new(None),
            transaction: RefCell::default(),
            unsent: RefCell::default(),
            limit_bytes: Cell::new(limit_bytes),
            replies_bytes: Cell::new(0),
            input_bytes: Cell::new(0),
            stream_bytes: Cell::new(0),
            kept_bytes: Cell::new(0),
            wait_bytes: Cell::new(0),
            holding: HeldBytes::new(account),
            record,
            counters,
            message_mark: Cell::new(b'*'),
            has_messages: Cell::new(false),
            is_apart: Cell::new(false),
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

    /// Returns how many requests are without an answer.
    #[inline]
    pub fn outstanding(&self) -> u32 {
        self.outstanding.get()
    }

    /// Returns how many requests may be without an answer on a shared connection.
    #[inline]
    pub fn window(&self) -> u32 {
        self.share.get().window()
    }

    /// Tells whether what its replies take is measured now: so many of them are due that its share may matter.
    #[inline]
    pub fn is_measured(&self) -> bool {
        self.share.get().matters(self.outstanding.get())
    }

    /// Wakes the client's task when no more than `count` requests are outstanding.
    pub fn wake_at(&self, count: u32) {
        self.wake_at.set(Some(count));
    }

    /// Takes in that `count` requests were sent; the replies of visible ones are due to the client.
    #[inline]
    pub fn sent(&self, count: u32, visible: bool) {
        self.outstanding.set(self.outstanding.get() + count);
        if visible {
            self.replies.borrow_mut().expect(u64::from(count));
        }
    }

    /// Tells whether the next frames of the server may be passed by in one piece.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.replies.borrow().is_plain()
    }

    /// Tells whether the client is gone or about to be closed.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.end.get().is_some()
    }

    /// Tells how far the client has gone, though it may not have been read up to there.
    pub fn peer_end(&self) -> PeerEnd {
        let stream = self.stream.borrow();
        stream
            .as_ref()
            .map_or(PeerEnd::Gone, |stream| stream.peer_end())
    }

    /// Returns the number by which the kernel's tables know its socket.
    pub fn inode(&self) -> Option<u64> {
        self.stream.borrow().as_ref()?.inode()
    }

    /// Tells whether the client's socket is gone.
    pub fn is_gone(&self) -> bool {
        self.stream.borrow().is_none()
    }

    /// Returns why the client is to be closed.
    pub fn end(&self) -> Option<Disconnect> {
        self.end.get()
    }

    /// Has the client closed; the first reason stands.
    pub fn close(&self, reason: Disconnect) {
        if self.end.get().is_none() {
            self.end.set(Some(reason));
            self.wake();
        }
    }

    /// Takes in that a confirmation for the client has said whether it is subscribed: what is only for clients that are may follow from here on, or
    /// not any more.
    pub fn note_subscribed(&self, is_subscribed: bool) {
        if is_subscribed {
            self.record.raise(ClientFlag::Pubsub);
        } else {
            self.record.lower(ClientFlag::Pubsub);
        }
    }

    /// Tells whether it is subscribed, as the server's confirmations say.
    pub fn is_subscribed(&self) -> bool {
        self.record.has(ClientFlag::Pubsub)
    }

    /// Tells when the client has last sent a command.
    pub fn last_active_ms(&self) -> u64 {
        self.record.last_active_ms.get()
    }

    /// Drops what was to follow the frame under way, unasked for: in RESP2 it is not for the client any more.
    pub fn drop_amid(&self) {
        if self.message_mark.get() == b'>' {
            return;
        }
        let mut replies = self.replies.borrow_mut();
        replies.drop_amid();
        self.note(&mut replies);
    }

    /// Takes in that the client is gone: its socket is closed as soon as its task lets go of it.
    pub fn leave(&self, reason: Disconnect) {
        if self.end.get().is_none() {
            self.end.set(Some(reason));
        }
        self.stream.borrow_mut().take();
        *self.replies.borrow_mut() = Replies::default();
        self.unsent.borrow_mut().clear();
        self.waker.borrow_mut().take();
        self.hold_nothing();
    }

    /// Tells whether more is held for it than it may leave unread: its requests wait.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.replies_bytes.get() > self.limit_bytes.get()
    }

    /// Tells whether its next request is looked at: it is not about to be closed, and reads its replies.
    #[inline]
    pub fn takes_requests(&self) -> bool {
        !self.is_closed() && !self.is_over()
    }

    /// Tells whether so much of that has gone that its requests go on: half, so that they go on by the thousand.
    pub fn has_room(&self) -> bool {
        self.replies_bytes.get() <= self.limit_bytes.get() / 2
    }

    /// Passes on bytes of the server in which `complete` visible replies end; `open`: another has begun.
    #[inline]
    pub fn deliver(&self, bytes: &[u8], complete: u32, open: bool) {
        if self.is_closed_by_socket() {
            return;
        }
        if let Some(stream) = &*self.stream.borrow() {
            let mut replies = self.replies.borrow_mut();
            self.write(stream, &mut replies, bytes);
            replies.served(u64::from(complete), open);
            if !replies.is_written() {
                self.flush_into(stream, &mut replies);
            }
            self.note(&mut replies);
        }
    }

    /// Passes on bytes of frames that nobody asked for: invalidations, messages, what MONITOR shows.
    pub fn deliver_unasked(&self, bytes: &[u8], open: bool) {
        self.deliver(bytes, 0, open);
        let mut replies = self.replies.borrow_mut();
        replies.passed_unasked(bytes.len());
        self.check_unasked(&replies);
    }

    /// Makes messages pushes from now on (RESP3), or arrays.
    pub fn speak(&self, protocol: Protocol) {
        self.message_mark.set(match protocol {
            Protocol::Resp2 => b'*',
            Protocol::Resp3 => b'>',
        });
    }

    /// Returns the null of what messages are made of.
    pub fn null(&self) -> &'static [u8] {
        if self.message_mark.get() == b'>' {
            b"_\r\n"
        } else {
            b"$-1\r\n"
        }
    }

    /// Places a message, or a confirmation, of an array's form. True: it is the first since [`Self::flush_messages`].
    /// `shared` is the frame as other clients may hold it already.
    pub fn message(&self, frame: &[u8], shared: &mut Option<Rc<SharedFrame>>) -> bool {
        if self.is_closed() {
            return false;
        }
        let mut replies = self.replies.borrow_mut();
        let account = self.holding.account();
        replies.message(self.message_mark.get(), frame, shared, account);
        self.note(&mut replies);
        !self.has_messages.replace(true)
    }

    /// Tells whether its messages come by the second connection of subscribers.
    pub fn is_apart(&self) -> bool {
        self.is_apart.get()
    }

    /// Says by which connection its messages come from now on.
    pub fn set_apart(&self, is_apart: bool) {
        self.is_apart.set(is_apart);
    }

    /// Returns what its replies may take before its requests wait.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes.get()
    }

    /// Has the client's requests wait from now on with more than this held for it.
    pub fn set_limit_bytes(&self, limit_bytes: usize) {
        self.limit_bytes.set(limit_bytes);
    }

    /// Sends messages, as far as the socket takes them. A client that leaves more than `limit_bytes` unread is closed.
    pub fn flush_messages(&self, limit_bytes: usize) {
        self.has_messages.set(false);
        self.flush();
        if self.replies.borrow().unread_bytes() > limit_bytes {
            self.close(Disconnect::PubsubBuffer);
        }
    }

    /// Takes in that `complete` requests were answered.
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

    /// Returns the transaction of the client's pinned connection.
    pub fn transaction(&self) -> std::cell::RefMut<'_, Transaction> {
        self.transaction.borrow_mut()
    }

    /// Places a reply of respool's own; [`Self::flush`] sends it.
    pub fn own_reply(&self, reply: &[u8]) {
        let mut replies = self.replies.borrow_mut();
        replies.own(reply);
        self.note(&mut replies);
    }

    /// Passes on whole frames that answer no request, between two others.
    pub fn push(&self, frames: &[u8]) {
        if let Some(stream) = &*self.stream.borrow() {
            let mut replies = self.replies.borrow_mut();
            replies.push(frames);
            self.flush_into(stream, &mut replies);
            self.note(&mut replies);
            self.check_unasked(&replies);
        }
    }

    /// Sends what is ready, as far as the socket takes it.
    pub fn flush(&self) {
        if let Some(stream) = &*self.stream.borrow() {
            let mut replies = self.replies.borrow_mut();
            if !replies.is_written() {
                self.flush_into(stream, &mut replies);
                self.note(&mut replies);
            }
        }
    }

    /// Sends what is ready and waits for the socket to take the rest.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut has_flushed = false;
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
                Poll::Ready(Ok(())) if has_flushed => return let_others_go_first(cx),
                Poll::Ready(Ok(())) => {
                    self.flush();
                    has_flushed = true;
                }
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

    /// Tells whether a frame of the server has been passed on in part.
    pub fn has_open_frame(&self) -> bool {
        self.replies.borrow().is_open()
    }

    /// Tells whether replies wait for the socket.
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

    /// Returns how many bytes were written to the client so far.
    pub fn bytes_out(&self) -> u64 {
        self.record.bytes_out.get()
    }

    /// Tells whether requests came back.
    #[inline]
    pub fn has_unsent(&self) -> bool {
        !self.unsent.borrow().is_empty()
    }

    /// Takes the requests that came back.
    pub fn take_unsent(&self) -> Vec<Unsent> {
        let unsent = std::mem::take(&mut *self.unsent.borrow_mut());
        self.holding.set(self.own_bytes(&self.replies.borrow()));
        unsent
    }

    /// Returns how many requests came back.
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
        {
            let mut replies = self.replies.borrow_mut();
            replies.fail_awaited(error);
            self.note(&mut replies);
        }
        self.flush();
    }

    fn is_closed_by_socket(&self) -> bool {
        matches!(
            self.end.get(),
            Some(
                Disconnect::SocketError
                    | Disconnect::OutputBuffer
                    | Disconnect::PubsubBuffer
                    | Disconnect::Memory
            )
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
        }
    }

    fn flush_into(&self, stream: &Stream, replies: &mut Replies) {
        let mut left = MOST_AT_ONCE;
        while left > 0 && !replies.is_written() {
            let next = replies.unwritten();
            let next = &next[..next.len().min(left)];
            let taken = self.try_write(stream, next);
            let is_full = taken < next.len();
            replies.wrote(taken);
            left -= taken;
            if is_full {
                break;
            }
        }
        if !replies.is_written() {
            // The client's task waits for the socket.
            self.wake();
        }
    }

    /// Closes a client that leaves too much unread of what nobody asks for: no request can hold that back.
    fn check_unasked(&self, replies: &Replies) {
        let limit = self.limit_bytes.get();
        if replies.unasked_bytes() > limit && replies.unread_bytes() > limit {
            self.close(Disconnect::OutputBuffer);
        }
    }

    #[inline]
    fn count_out(&self, bytes: u64) {
        self.record.bytes_out.add(bytes);
        let group = self.counters.group(self.record.group.get() as usize);
        group.bytes_out.add(bytes);
    }

    #[inline]
    fn try_write(&self, stream: &Stream, bytes: &[u8]) -> usize {
        if bytes.is_empty() || self.is_closed_by_socket() {
            return 0;
        }
        match stream.try_write(bytes) {
            Ok(taken) => {
                self.count_out(taken as u64);
                if stream.has_unflushed() {
                    self.hold_stream(stream);
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

impl ClientHandle for Rc<Outlet> {
    #[inline]
    fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(self, other)
    }

    #[inline]
    fn sent(&self, count: u32, visible: bool) {
        Outlet::sent(self, count, visible);
    }

    #[inline]
    fn is_plain(&self) -> bool {
        Outlet::is_plain(self)
    }

    #[inline]
    fn is_measured(&self) -> bool {
        Outlet::is_measured(self)
    }

    fn is_gone(&self) -> bool {
        Outlet::is_gone(self)
    }

    #[inline]
    fn deliver(&self, bytes: &[u8], complete: u32, open: bool) {
        Outlet::deliver(self, bytes, complete, open);
    }

    #[inline]
    fn answered(&self, complete: u32) {
        Outlet::answered(self, complete);
    }

    fn transaction_answered(&self, verb: PinnedCommand, head: &[u8]) {
        self.transaction.borrow_mut().answered(verb, head);
    }

    fn stream(&self) -> Option<StreamKind> {
        self.transaction.borrow().stream
    }

    fn charge(&self, answered: &AnsweredRequests) {
        let mut share = self.share.get();
        share.answered(answered);
        self.share.set(share);
    }

    fn take_back(&self, unsent: Unsent) {
        if self.stream.borrow().is_some() {
            self.outstanding.set(self.outstanding.get() - unsent.count);
            self.unsent.borrow_mut().push(unsent);
            self.holding.set(self.own_bytes(&self.replies.borrow()));
            self.wake();
        }
    }

    fn disconnect(&self, ending: Ending) -> bool {
        let was_open = !self.is_closed();
        self.close(match ending {
            Ending::Lost => Disconnect::UpstreamLost,
            Ending::Finished => Disconnect::Closed,
        });
        was_open
    }
}
