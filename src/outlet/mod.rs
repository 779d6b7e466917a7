//! The way out to one client: its socket, the replies it is due, and what it waits for.
//!
//! Whoever owes the client a reply holds its outlet; the client's task owns the client. When the client is gone the outlet
//! stays behind, closed, so that the replies still due to it are dropped instead of reaching anybody else.

mod end;
mod flow;
mod gathering;
mod held;
mod messages;
mod requests;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

pub use gathering::GatheredReplies;

use end::{ClientEnd, UnreadLimit};
use held::HeldForClient;
use messages::MessageForm;
use requests::OutstandingRequests;

use crate::exchange::{ClientHandle, Ending, Unsent};
use crate::identity::{ClientFlag, ClientRecord};
use crate::memory::{MemoryAccount, SharedFrame};
use crate::replies::Replies;
use crate::schedule::AnsweredRequests;
use crate::session::{PinnedCommand, Protocol, StreamKind, Transaction};
use crate::telemetry::{Disconnect, WorkerCounters};
use crate::transport::{PeerEnd, Stream, let_others_go_first};

/// Holds one client's way out.
#[derive(Debug)]
pub struct Outlet {
    /// It has no socket once the client is gone.
    stream: RefCell<Option<Rc<Stream>>>,
    replies: RefCell<Replies>,
    /// Is true while what is delivered is kept for one write.
    is_gathering: Cell<bool>,
    requests: OutstandingRequests,
    /// It says how much the client may leave unread before its requests wait.
    limit: Cell<UnreadLimit>,
    end: ClientEnd,
    waker: RefCell<Option<Waker>>,
    transaction: RefCell<Transaction>,
    /// These requests came back: no byte of them was sent.
    unsent: RefCell<Vec<Unsent>>,
    held: HeldForClient,
    /// The client's figures are here: what is written counts at once, whoever writes it.
    record: Arc<ClientRecord>,
    counters: Arc<WorkerCounters>,
    messages: MessageForm,
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
        let limit = UnreadLimit { bytes: limit_bytes };
        Rc::new(Self {
            stream: RefCell::new(Some(stream)),
            replies: RefCell::default(),
            is_gathering: Cell::default(),
            requests: OutstandingRequests::default(),
            limit: Cell::new(limit),
            end: ClientEnd::default(),
            waker: RefCell::new(None),
            transaction: RefCell::default(),
            unsent: RefCell::default(),
            held: HeldForClient::new(account),
            record,
            counters,
            messages: MessageForm::default(),
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
        self.requests.count()
    }

    /// Returns how many requests may be without an answer on a shared connection.
    #[inline]
    pub fn window(&self) -> u32 {
        self.requests.window()
    }

    /// Tells whether what its replies take is measured now: so many of them are due that its share may matter.
    #[inline]
    pub fn is_measured(&self) -> bool {
        self.requests.is_measured()
    }

    /// Counts bytes that were read of the client since a request of its was last sent to the server.
    #[inline]
    pub fn read_since_sent(&self) -> u32 {
        self.requests.read_since_sent()
    }

    /// Notes that so many bytes of the client were read.
    #[inline]
    pub fn note_read(&self, bytes: u64) {
        self.requests.note_read(bytes);
    }

    /// Wakes the client's task when no more than `count` requests are outstanding.
    pub fn wake_at(&self, count: u32) {
        self.requests.wake_at(count);
    }

    /// Takes in that `count` requests were sent; the replies of visible ones are due to the client.
    #[inline]
    pub fn sent(&self, count: u32, visible: bool) {
        self.requests.sent(count);
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
        self.end.reason().is_some()
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
        self.end.reason()
    }

    /// Has the client closed; the first reason stands.
    pub fn close(&self, reason: Disconnect) {
        if self.end.close(reason) {
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
        if self.messages.are_pushes() {
            return;
        }
        let mut replies = self.replies.borrow_mut();
        replies.drop_amid();
        self.note(&mut replies);
    }

    /// Takes in that the client is gone: its socket is closed as soon as its task lets go of it.
    pub fn leave(&self, reason: Disconnect) {
        self.end.close(reason);
        self.stream.borrow_mut().take();
        *self.replies.borrow_mut() = Replies::default();
        self.unsent.borrow_mut().clear();
        self.waker.borrow_mut().take();
        self.held.nothing();
    }

    /// Tells whether more is held for it than it may leave unread: its requests wait.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.limit.get().is_passed(self.held.replies_bytes())
    }

    /// Tells whether its next request is looked at: it is not about to be closed, and reads its replies.
    #[inline]
    pub fn takes_requests(&self) -> bool {
        !self.is_closed() && !self.is_over()
    }

    /// Tells whether so much of that has gone that its requests go on: half, so that they go on by the thousand.
    pub fn has_room(&self) -> bool {
        self.limit.get().is_half_free(self.held.replies_bytes())
    }

    /// Passes on bytes of the server in which `complete` visible replies end; `open`: another has begun.
    #[inline]
    pub fn deliver(&self, bytes: &[u8], complete: u32, open: bool) {
        if self.end.is_silent() {
            return;
        }
        if let Some(stream) = &*self.stream.borrow() {
            let mut replies = self.replies.borrow_mut();
            let take = |bytes: &[u8]| self.try_write(stream, bytes);
            let is_left = match self.is_gathering.get() {
                true => flow::gather(&mut replies, bytes, (complete, open), take),
                false => flow::pass(&mut replies, bytes, (complete, open), take),
            };
            if is_left {
                // The client's task waits for the socket.
                self.wake();
            }
            self.note(&mut replies);
        }
    }

    /// Passes on bytes of frames that nobody asked for: invalidations, messages, what MONITOR shows.
    pub fn deliver_unasked(&self, bytes: &[u8], open: bool) {
        self.deliver(bytes, 0, open);
        let mut replies = self.replies.borrow_mut();
        replies.passed_unasked(bytes.len());
        if !self.is_gathering.get() {
            self.check_unasked(&replies);
        }
    }

    /// Makes messages pushes from now on (RESP3), or arrays.
    pub fn speak(&self, protocol: Protocol) {
        self.messages.speak(protocol);
    }

    /// Returns the null of what messages are made of.
    pub fn null(&self) -> &'static [u8] {
        self.messages.null()
    }

    /// Places a message, or a confirmation, of an array's form. True: it is the first since [`Self::flush_messages`].
    /// `shared` is the frame as other clients may hold it already.
    pub fn message(&self, frame: &[u8], shared: &mut Option<Rc<SharedFrame>>) -> bool {
        if self.is_closed() {
            return false;
        }
        let mut replies = self.replies.borrow_mut();
        let account = self.held.account();
        replies.message(self.messages.mark(), frame, shared, account);
        self.note(&mut replies);
        self.messages.placed()
    }

    /// Tells whether its messages come by the second connection of subscribers.
    pub fn is_apart(&self) -> bool {
        self.messages.are_apart()
    }

    /// Says by which connection its messages come from now on.
    pub fn set_apart(&self, is_apart: bool) {
        self.messages.set_apart(is_apart);
    }

    /// Returns what its replies may take before its requests wait.
    pub fn limit_bytes(&self) -> usize {
        self.limit.get().bytes
    }

    /// Has the client's requests wait from now on with more than this held for it.
    pub fn set_limit_bytes(&self, limit_bytes: usize) {
        self.limit.set(UnreadLimit { bytes: limit_bytes });
    }

    /// Sends messages, as far as the socket takes them. A client that leaves more than `limit_bytes` unread is closed.
    pub fn flush_messages(&self, limit_bytes: usize) {
        self.messages.sent();
        self.flush();
        if self.replies.borrow().unread_bytes() > limit_bytes {
            self.close(Disconnect::PubsubBuffer);
        }
    }

    /// Takes in that `complete` requests were answered.
    #[inline]
    pub fn answered(&self, complete: u32) {
        if self.requests.answered(complete) {
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
            if self.end.is_silent() {
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
        self.note_own(&self.replies.borrow());
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

    fn flush_into(&self, stream: &Stream, replies: &mut Replies) {
        if flow::flush(replies, |bytes| self.try_write(stream, bytes)) {
            // The client's task waits for the socket.
            self.wake();
        }
    }

    /// Closes a client that leaves too much unread of what nobody asks for: no request can hold that back.
    fn check_unasked(&self, replies: &Replies) {
        if self.limit.get().is_passed_unasked(replies) {
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
        if bytes.is_empty() || self.end.is_silent() {
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
        self.requests.charge(answered);
    }

    fn take_back(&self, unsent: Unsent) {
        if self.stream.borrow().is_some() {
            self.requests.came_back(unsent.count);
            self.unsent.borrow_mut().push(unsent);
            self.note_own(&self.replies.borrow());
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
