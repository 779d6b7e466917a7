//! One connection to the server: its socket, its state, and what becomes of what its exchange says.
//!
//! Invariant: nothing is sent behind a change of state until the server has answered it.

mod amid_stream;
mod begun;
mod debugging;
mod end;
mod ending;
mod events;
mod exempt;
mod finishing;
mod frames;
mod held_up;
mod keys;
mod leaving;
mod listing;
mod liveness;
mod load;
mod parcel;
mod remembering;
mod renewal;
mod role;
mod room;
mod signs;
mod socket;
mod steps;
mod task;
mod through;
mod traces;
mod trust;
mod unasked;

pub use end::LinkEnd;
pub use ending::SocketEnd;
pub use frames::{Forward, SubscriberFrames, broken_redirection};
pub use leaving::Leaving;
pub use room::RoomWait;
pub use socket::ServerSocket;

use std::cell::{Cell, Ref, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use begun::BegunRequest;
use end::LinkEnding;
use frames::ForwardedFrames;
use leaving::LinkLeaving;
use renewal::Renewal;
use role::LinkRole;
use room::WriteRoom;
use signs::ReplicaSigns;
use task::LinkTask;
use tokio::sync::oneshot;
use traces::ClientTraces;

use crate::command::Delays;
use crate::exchange::{Changed, Exchange, OwnReply, RequestKind, Show, Unsent, Violation};
use crate::memory::HeldBytes;
use crate::outlet::{GatheredReplies, Outlet};
use crate::server::LinkOrigin;
use crate::session::{State, Step};
use crate::thread::Thread;
use crate::transport::{Stream, let_others_go_first};

/// Reads of one turn before other tasks get theirs.
const READS_A_TURN: usize = 16;

/// Holds one connection to the server.
pub struct Link {
    thread: Rc<Thread>,
    /// It has no socket from its end on.
    socket: RefCell<Option<Rc<ServerSocket>>>,
    /// It says where the connection goes to, since when, and what the server calls it.
    origin: LinkOrigin,
    /// The server has acknowledged this state.
    state: RefCell<State>,
    exchange: RefCell<Exchange<Rc<Outlet>>>,
    /// It counts what is held: bytes on their way, who is due what, a reply that is gathered.
    holding: HeldBytes,
    /// It says what the connection is for.
    role: RefCell<LinkRole>,
    /// Its client has begun this on it.
    begun: Cell<BegunRequest>,
    /// Its clients may have left this on it.
    traces: ClientTraces,
    /// Others hold this while they are about to unblock it: until that is answered it may not be lent on.
    holds: Rc<()>,
    /// It says when respool's own login on it has to be renewed.
    pub renewal: Renewal,
    /// It says who waits until the connection takes more bytes.
    room: WriteRoom,
    /// It says whether the connection is to be left for another.
    leaving: LinkLeaving,
    /// It says why the connection is to end.
    ending: LinkEnding,
    /// It says what the server has told of itself as a replica.
    signs: ReplicaSigns,
    /// These requests, with how many elements each, put back what came for clients that have left: by way of another connection, since on
    /// this one nothing more may be sent, and whether the server takes them has to be seen.
    returns: RefCell<Vec<(Vec<u8>, u64)>>,
    task: LinkTask,
}

impl Link {
    /// Makes a connection of a socket that has been opened and is in `state`.
    pub fn new(
        thread: Rc<Thread>,
        socket: ServerSocket,
        state: State,
        origin: LinkOrigin,
    ) -> Rc<Self> {
        let now = thread.clock.now_micros();
        let connect_micros = origin.opened_micros.saturating_sub(origin.begun_micros);
        Rc::new(Self {
            holding: HeldBytes::new(&thread.account),
            thread,
            socket: RefCell::new(Some(Rc::new(socket))),
            origin,
            state: RefCell::new(state),
            exchange: Exchange::begun(now, connect_micros, rand::random).into(),
            role: RefCell::default(),
            begun: Cell::default(),
            traces: ClientTraces::default(),
            holds: Rc::new(()),
            renewal: Renewal::default(),
            room: WriteRoom::default(),
            leaving: LinkLeaving::default(),
            ending: LinkEnding::default(),
            signs: ReplicaSigns::default(),
            returns: RefCell::default(),
            task: LinkTask::default(),
        })
    }

    /// Returns the name by which the server knows it.
    pub fn name(&self) -> &str {
        &self.origin.name
    }

    /// Returns the id by which the server knows it, which CLIENT UNBLOCK takes.
    pub fn server_id(&self) -> i64 {
        self.origin.server_id
    }

    /// Returns the state that the server has acknowledged.
    pub fn state(&self) -> Ref<'_, State> {
        self.state.borrow()
    }

    /// Tells whether it can be used.
    #[inline]
    pub fn is_alive(&self) -> bool {
        self.ending.closing().is_none()
    }

    /// Returns how many requests are sent and not answered.
    pub fn in_flight(&self) -> usize {
        self.exchange.borrow().in_flight()
    }

    /// Has many clients share it, at place `slot` among the worker's shared connections.
    pub fn share(&self, slot: usize) {
        *self.role.borrow_mut() = LinkRole::Shared(slot);
    }

    /// Returns its place among the worker's shared connections, where it is one.
    #[inline]
    pub fn slot(&self) -> Option<usize> {
        self.role.borrow().slot()
    }

    /// Lends the connection to a client, which gets the frames that answer no request; `None`: to respool itself.
    pub fn lend_to(&self, outlet: Option<Rc<Outlet>>) {
        *self.role.borrow_mut() = LinkRole::lent_to(outlet);
    }

    /// Takes in that nobody uses it: it is kept for who wants one next.
    pub fn set_idle(&self) {
        *self.role.borrow_mut() = LinkRole::Idle;
    }

    /// Tells whether another connection may take its place at once.
    pub fn is_replaceable(&self) -> bool {
        self.role.borrow().is_replaceable()
    }

    /// Hands every frame to the subscribers of the worker from here on.
    pub fn feed(&self, subscribers: Rc<dyn SubscriberFrames>) {
        *self.role.borrow_mut() = LinkRole::of_subscribers(subscribers);
        self.set_raw();
    }

    /// Has frames that answer no request forwarded instead from here on, whole.
    pub fn forward_pushes(&self, forward: Box<dyn Forward>) {
        let mut role = self.role.borrow_mut();
        let owner = role.client().cloned();
        *role = LinkRole::Standing(ForwardedFrames::new(forward, owner, &self.thread.account));
    }

    /// Takes in that the client it was lent to has left; what is forwarded still is.
    pub fn forget_client(&self) {
        self.role.borrow_mut().forget_client();
    }

    /// Has the client that it is lent to told of another by the id it knows, where the server names a connection by its own.
    pub fn stand_for(&self, names: Option<(i64, u64)>) {
        self.role.borrow_mut().stand_for(names);
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
        self.begun.set(BegunRequest::None);
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
        let is_free = match self.role.borrow().client() {
            Some(client) => self.in_flight() == 0 && !client.transaction().is_open(),
            None => !self.is_blocked(),
        };
        let is_begun = self.begun.get() != BegunRequest::None;
        self.is_alive() && !self.is_raw() && is_own && is_free && !is_begun
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
        let passes_to = self.ending.passes_to();
        self.end(&socket, &ended);
        lost();
        self.collapse();
        match passes_to {
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
        self.task.begin_turn(cx.waker());
        if self.role.borrow().subscribers().is_some() {
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
        let_others_go_first(cx)
    }

    /// Sends what there is to be sent. `Some`: the connection has ended, or is to end.
    fn write_or_end(&self, cx: &mut Context<'_>, stream: &Stream) -> Option<LinkEnd> {
        if let Some(closing) = self.ending.closing() {
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
        let gathered = self.role.borrow().client().map(GatheredReplies::of);
        let received = exchange.received(&scratch[..carried + read], now, self);
        drop(gathered);
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
                    self.returns.borrow_mut().push((request, elements));
                }
            }
        }
    }

    /// Tells whether something is to be put back by way of another connection.
    fn has_returns(&self) -> bool {
        !self.returns.borrow().is_empty()
    }

    /// Takes what is to be put back by way of another connection.
    pub fn take_returns(&self) -> Vec<(Vec<u8>, u64)> {
        self.returns.take()
    }

    /// Wakes its task, which sends what there is to be sent.
    #[inline]
    pub fn wake(&self) {
        self.task.wake();
    }
}

/// Makes a violation the error with which reading ends.
fn invalid(violation: Violation) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, violation)
}
