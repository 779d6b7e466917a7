//! One connection to the server: its socket, its state, and what becomes of what its exchange says.
//!
//! Invariant: nothing is sent behind a change of state until the server has answered it.

mod amid_stream;
mod announcing;
mod debugging;
mod ending;
mod events;
mod exempt;
mod finishing;
mod held_up;
mod keys;
mod listing;
mod liveness;
mod load;
mod parcel;
mod renewal;
mod room;
mod sink;
mod socket;
mod steps;
mod through;
mod trust;
mod unasked;

pub use ending::{Leaving, LinkEnd, SocketEnd};
pub use room::RoomWait;
pub use sink::{Forward, SubscriberFrames, broken_redirection};
pub use socket::ServerSocket;

use std::cell::{Cell, Ref, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ending::Closing;
use finishing::{Finishing, Returns};
use tokio::sync::oneshot;

use crate::budget::SocketKind;
use crate::command::Delays;
use crate::exchange::{Changed, Exchange, OwnReply, RequestKind, Show, Unsent, Violation};
use crate::memory::HeldBytes;
use crate::outlet::Outlet;
use crate::schedule::RoomQueue;
use crate::server::{LinkOrigin, ListHint};
use crate::session::{State, Step};
use crate::telemetry::LossCause;
use crate::thread::Thread;
use crate::transport::Stream;
use renewal::Renewal;
use sink::FrameSink;

/// Reads of one turn before other tasks get theirs.
const READS_A_TURN: usize = 16;

/// Holds one connection to the server.
pub struct Link {
    /// The server knows it by this name.
    pub name: String,
    /// The server knows it by this id, which CLIENT UNBLOCK takes.
    pub server_id: i64,
    /// It stands here among the worker's shared connections; `usize::MAX`: it is pinned.
    pub slot: Cell<usize>,
    thread: Rc<Thread>,
    /// It has no socket from its end on.
    socket: RefCell<Option<Rc<ServerSocket>>>,
    /// Its socket is counted as one of this kind.
    socket_kind: SocketKind,
    state: RefCell<State>,
    exchange: RefCell<Exchange<Rc<Outlet>>>,
    /// These wait until it takes more bytes.
    room: RefCell<RoomQueue<Waker>>,
    /// It counts what is held: bytes on their way, who is due what, a reply that is gathered.
    holding: HeldBytes,
    /// It gets frames that answer no request.
    sink: RefCell<FrameSink>,
    /// Is true while SCRIPT DEBUG may be on, which its client has sent.
    may_debug: Cell<bool>,
    /// The answer to the request sent last tells this of the server's commands.
    tells: Cell<Option<ListHint>>,
    /// Is true where its client may have left something on it that nothing undoes.
    keeps_traces: Cell<bool>,
    /// Others hold this while they are about to unblock it: until that is answered it may not be lent on.
    holds: Rc<()>,
    /// Is true where the last request was CLIENT CACHING, which is for the next one.
    announces: Cell<bool>,
    /// Is true where a reply on it may have been more than one frame.
    is_doubtful: Cell<bool>,
    /// Somebody waits to be told whether all replies were.
    vouching: RefCell<Option<oneshot::Sender<bool>>>,
    /// Is true while a request has been sent in part: nothing but its rest may follow.
    partial: Cell<bool>,
    /// It says when respool's own login on it has to be renewed.
    pub renewal: Renewal,
    /// It says where the connection goes to, and since when.
    origin: LinkOrigin,
    closing: Cell<Option<Closing>>,
    /// Tells whether nothing more is to be sent on it.
    finishing: Cell<Finishing>,
    finishing_micros: Cell<u64>,
    returns: Returns,
    /// This worker gets its socket when it ends.
    passes_to: Cell<Option<usize>>,
    leaving: Cell<Option<Leaving>>,
    /// What may make it one to be left had changed so often when that was last asked.
    pub checked: Cell<u64>,
    /// The server has said on it that it is no primary, and nobody has heeded that yet.
    alarm: Cell<Option<LossCause>>,
    /// Is true once the server has refused a write on it, being a replica.
    has_refused_write: Cell<bool>,
    /// The client with the outlet at this address has waited for room and appends next; 0: none.
    turn: Cell<usize>,
    woken: Cell<bool>,
    /// Is true while frames have been read that there was no time for in their turn.
    is_behind: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Link {
    /// Makes a connection of a socket that has been opened and is in `state`.
    pub fn new(
        thread: Rc<Thread>,
        socket: ServerSocket,
        state: State,
        (name, server_id): (String, i64),
        origin: LinkOrigin,
    ) -> Rc<Self> {
        let now = thread.clock.now_micros();
        let connect_micros = origin.opened_micros.saturating_sub(origin.begun_micros);
        Rc::new(Self {
            name,
            server_id,
            origin,
            leaving: Cell::new(None),
            checked: Cell::new(0),
            alarm: Cell::new(None),
            has_refused_write: Cell::new(false),
            slot: Cell::new(usize::MAX),
            holding: HeldBytes::new(&thread.account),
            thread,
            socket_kind: socket.kind(),
            socket: RefCell::new(Some(Rc::new(socket))),
            state: RefCell::new(state),
            exchange: Exchange::begun(now, connect_micros, rand::random).into(),
            room: RefCell::default(),
            sink: RefCell::default(),
            may_debug: Cell::new(false),
            tells: Cell::new(None),
            keeps_traces: Cell::new(false),
            holds: Rc::new(()),
            announces: Cell::new(false),
            is_doubtful: Cell::new(false),
            vouching: RefCell::default(),
            partial: Cell::new(false),
            renewal: Renewal::default(),
            closing: Cell::new(None),
            finishing: Cell::default(),
            finishing_micros: Cell::default(),
            returns: Returns::default(),
            passes_to: Cell::new(None),
            turn: Cell::new(0),
            woken: Cell::new(false),
            is_behind: Cell::new(false),
            waker: RefCell::default(),
        })
    }

    /// Returns the state that the server has acknowledged.
    pub fn state(&self) -> Ref<'_, State> {
        self.state.borrow()
    }

    /// Tells whether it can be used.
    #[inline]
    pub fn is_alive(&self) -> bool {
        self.closing.get().is_none()
    }

    /// Returns how many requests are sent and not answered.
    pub fn in_flight(&self) -> usize {
        self.exchange.borrow().in_flight()
    }

    /// Lends the connection to a client: frames that answer no request go there.
    pub fn lend_to(&self, outlet: Option<Rc<Outlet>>) {
        *self.sink.borrow_mut() = FrameSink::of(outlet);
    }

    /// Hands every frame to the subscribers of the worker from here on.
    pub fn feed(&self, subscribers: Rc<dyn SubscriberFrames>) {
        *self.sink.borrow_mut() = FrameSink::Subscribers(subscribers);
        self.set_raw();
    }

    /// Has frames that answer no request forwarded instead from here on, whole.
    pub fn forward_pushes(&self, forward: Box<dyn Forward>) {
        self.sink.borrow_mut().forward(forward);
    }

    /// Takes in that the client it was lent to has left; what is forwarded still is.
    pub fn forget_client(&self) {
        self.sink.borrow_mut().forget_client();
    }

    /// Has the client that it is lent to told of another by the id it knows, where the server names a connection by its own.
    pub fn stand_for(&self, names: Option<(i64, u64)>) {
        self.sink.borrow_mut().stand_for(names);
    }

    /// Says whether a request has been sent in part.
    pub fn set_partial(&self, partial: bool) {
        self.partial.set(partial);
        let now = self.thread.clock.now_micros();
        self.exchange.borrow_mut().set_partial(now);
    }

    /// Tells whether a request has been sent in part.
    pub fn is_partial(&self) -> bool {
        self.partial.get()
    }

    /// Keeps the connection from being lent on while the guard lives.
    pub fn hold(&self) -> Rc<()> {
        Rc::clone(&self.holds)
    }

    /// Tells whether somebody holds it.
    pub fn is_held(&self) -> bool {
        Rc::strong_count(&self.holds) > 1
    }

    /// Has every frame go to the client it is lent to from here on.
    pub fn set_raw(&self) {
        self.exchange.borrow_mut().set_raw();
    }

    /// Tells whether every frame goes to the client it is lent to.
    pub fn is_raw(&self) -> bool {
        self.exchange.borrow().is_raw()
    }

    /// Appends `count` requests of a client; the link's task sends them when this turn's clients have all appended.
    #[inline]
    pub fn send(
        &self,
        outlet: &Rc<Outlet>,
        bytes: &[u8],
        count: u32,
        kind: (RequestKind, Delays),
        show: Show,
    ) {
        let mut exchange = self.exchange.borrow_mut();
        let now = self.thread.clock.now_micros();
        self.announces.set(false);
        exchange.request(outlet, bytes, count, kind, show, now);
        self.wake();
    }

    /// Sends again what another connection lost unsent; its replies have their places already.
    pub fn send_again(&self, outlet: &Rc<Outlet>, unsent: Unsent) {
        let now = self.thread.clock.now_micros();
        let mut exchange = self.exchange.borrow_mut();
        exchange.request_again(outlet, unsent, now);
        self.wake();
    }

    /// Sends requests of respool's own.
    pub fn send_own(&self, bytes: &[u8], reply: OwnReply) {
        let now = self.thread.clock.now_micros();
        self.exchange.borrow_mut().own_request(bytes, reply, now);
        self.wake();
    }

    /// Asks the server something. The answer does not come where the connection is lost before it.
    pub fn ask(&self, request: &[u8]) -> oneshot::Receiver<Vec<u8>> {
        let (tell, told) = oneshot::channel();
        self.send_own(
            request,
            OwnReply::Asked(Box::new(|reply| drop(tell.send(reply)))),
        );
        told
    }

    /// Sends the steps of a change and calls `done` when the server has answered them all.
    pub fn change_state(&self, steps: Vec<Step>, done: Changed) {
        if steps.is_empty() {
            return done(Ok(()));
        }
        self.thread.counters.state_changes.add(1);
        self.exchange.borrow_mut().begin_change(steps.len(), done);
        for step in &steps {
            self.send_own(&step.request, OwnReply::Step(step.effect.clone()));
        }
    }

    /// Tells whether respool's own login can be renewed on it now: what is sent next runs as respool's own user, outside of a
    /// transaction, at once, and its reply is told from all that comes.
    pub fn takes_login(&self) -> bool {
        let is_own = self.state.borrow().user.is_none() && !self.is_changing_state();
        let is_free = match self.sink.borrow().client() {
            Some(client) => self.in_flight() == 0 && !client.transaction().open,
            None => !self.is_blocked(),
        };
        let is_between = self.partial.get() || self.announces.get();
        self.is_alive() && !self.is_raw() && is_own && is_free && !is_between
    }

    /// Tells whether a change is under way.
    #[inline]
    pub fn is_changing_state(&self) -> bool {
        self.exchange.borrow().is_changing()
    }

    /// Tells whether a blocking call is due: it may stand behind a PING.
    pub fn is_blocked(&self) -> bool {
        self.exchange.borrow().is_blocked()
    }

    /// Tells whether a blocking call is due that takes something away.
    pub fn takes(&self) -> bool {
        self.exchange.borrow().takes()
    }

    /// Serves the connection until it ends, then closes it. Returns why it ended.
    ///
    /// `idle` is called after every read, `lost` once, before the clients learn of the loss.
    pub async fn drive(
        self: &Rc<Self>,
        mut idle: impl FnMut(&Rc<Self>),
        lost: impl FnOnce(),
    ) -> LinkEnd {
        let socket = self.socket.borrow().clone();
        let Some(socket) = socket else {
            return LinkEnd::default();
        };
        let ended = std::future::poll_fn(|cx| self.poll(cx, &socket, &mut idle)).await;
        self.end(&ended);
        lost();
        self.collapse();
        match self.passes_to.get() {
            Some(worker) => {
                self.socket.borrow_mut().take();
                self.hand_over(socket, worker);
            }
            None => self.linger(socket).await,
        }
        ended
    }

    fn poll(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        stream: &Stream,
        idle: &mut impl FnMut(&Rc<Self>),
    ) -> Poll<LinkEnd> {
        self.woken.set(false);
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        if self.sink.borrow().subscribers().is_some() {
            return self.poll_messages(cx, stream, idle);
        }
        for _ in 0..READS_A_TURN {
            if let Some(ended) = self.write_or_end(cx, stream) {
                return Poll::Ready(ended);
            }
            match stream.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(self.ended_by(&error)),
                Poll::Ready(Ok(())) => {}
            }
            match self.read(stream) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    return Poll::Ready(self.ended_amid_replies(&error, idle));
                }
            }
            self.react();
            idle(self);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends what there is to be sent. `Some`: the connection has ended, or is to end.
    fn write_or_end(&self, cx: &mut Context<'_>, stream: &Stream) -> Option<LinkEnd> {
        if let Some(closing) = self.closing.get() {
            // What was to be sent before it was closed goes out as far as it can: an element that is put back.
            self.exchange.borrow_mut().let_logins_go();
            let _ = self.write(cx, stream);
            return Some(closing.into());
        }
        if let Err(error) = self.write(cx, stream) {
            return Some(self.ended_by(&error));
        }
        self.finish_if_asked(cx, stream);
        None
    }

    fn write(&self, cx: &mut Context<'_>, stream: &Stream) -> io::Result<()> {
        let exchange = &mut *self.exchange.borrow_mut();
        loop {
            let next = exchange.sendable();
            if next.is_empty() {
                break;
            }
            match stream.try_write(next) {
                Ok(taken) => exchange.wrote(taken, self.thread.clock.now_micros()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match stream.poll_write_ready(cx) {
                        Poll::Pending => break,
                        Poll::Ready(ready) => ready?,
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if let Poll::Ready(Err(error)) = stream.poll_flush(cx) {
            return Err(error);
        }
        exchange.forget_written();
        self.holding.set(exchange.held_bytes());
        self.offer_room(exchange.unsent_bytes());
        Ok(())
    }

    fn read(&self, stream: &Stream) -> io::Result<()> {
        let mut scratch = self.thread.scratch.borrow_mut();
        let exchange = &mut *self.exchange.borrow_mut();
        let carried = exchange.carry().len();
        scratch[..carried].copy_from_slice(exchange.carry());
        let read = stream.try_read(&mut scratch[carried..])?;
        if read == 0 {
            let why = "the server closed the connection";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        let now = self.thread.clock.refresh();
        self.thread.pulse.heard(now);
        let received = exchange.received(&scratch[..carried + read], now, self);
        received.map_err(invalid)?;
        self.holding.set(exchange.held_bytes());
        Ok(())
    }

    /// Acts on replies to respool itself, with nothing borrowed.
    fn react(&self) {
        let (answered, orphans) = {
            let mut exchange = self.exchange.borrow_mut();
            if !exchange.has_answered() {
                return;
            }
            (exchange.take_answered(), exchange.take_orphans())
        };
        for (reply, bytes) in answered {
            match reply {
                OwnReply::Step(effect) => self.stepped(&effect, bytes),
                OwnReply::Asked(tell) | OwnReply::Place(_, tell) => tell(bytes),
                OwnReply::Pong(asked) => self.thread.ponged(asked, &bytes),
                OwnReply::Fence(_) => self.fenced(&bytes),
                OwnReply::Vouch(_) => self.was_vouched(&bytes),
                OwnReply::Ignore | OwnReply::KeepAlive | OwnReply::Last(_) | OwnReply::Refused => {}
                OwnReply::Call(call) => call.tell(bytes),
            }
        }
        for (popped, bytes) in orphans {
            match popped.give_back(&bytes) {
                crate::waits::PoppedFate::Nothing => {}
                crate::waits::PoppedFate::Orphaned => self.thread.counters.orphaned_elements.add(1),
                crate::waits::PoppedFate::Return(request, elements) => {
                    self.put_back(request, elements)
                }
            }
        }
    }

    #[inline]
    pub fn wake(&self) {
        if !self.woken.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}

/// Makes a violation the error with which reading ends.
fn invalid(violation: Violation) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, violation)
}
