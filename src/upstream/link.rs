//! One connection to the server: what was sent on it, who is due the next reply, what state it wears.
//!
//! Invariant: a frame goes to the client whose request it answers, decided by the order of the requests alone.
//! Invariant: nothing is sent behind a change of state until the server has answered it.

mod amid_stream;
mod announcing;
mod debugging;
mod ending;
mod exempt;
mod fences;
mod finishing;
mod keys;
mod load;
mod room;
mod steps;
mod through;
mod trust;
mod unasked;

pub use amid_stream::MayTake;
pub(super) use amid_stream::Place;
pub use ending::SocketEnd;
pub(super) use ending::{Ended, Leaving, Origin};
pub use room::RoomWait;

use std::cell::{Cell, Ref, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ending::Closing;
use finishing::{Finishing, Returns};
use tokio::sync::oneshot;

use super::alone::is_login;
use super::listing::Tells;
use super::liveness::LinkPulse;
use super::outlet::{Outlet, Unsent};
use super::pushes::{Forward, Pushes, is_monitored};
use super::renewal::Renewal;
use super::socket::ServerSocket;
use super::subscription::Subscriptions;
use super::thread::Thread;
use super::traffic::{
    Dressed, Dressing, Due, Inner, Kind, NO_RESP, OwnReply, Show, invalid, unasked,
};
use crate::budget::Kind as SocketKind;
use crate::command::Delays;
use crate::memory::Holding;
use crate::session::{State, Step, Stream as SessionStream};
use crate::telemetry::LossCause;
use crate::transport::Stream;

/// Reads of one turn before other tasks get theirs.
const READS_A_TURN: usize = 16;

/// One connection to the server.
pub struct Link {
    /// Its name at the server.
    pub name: String,
    /// Its id at the server, for CLIENT UNBLOCK.
    pub server_id: i64,
    /// Its place among the worker's shared connections; `usize::MAX`: it is pinned.
    pub slot: Cell<usize>,
    pub(super) thread: Rc<Thread>,
    /// `None` from its end on.
    socket: RefCell<Option<Rc<ServerSocket>>>,
    /// What its socket is for.
    socket_kind: SocketKind,
    worn: RefCell<State>,
    pub(super) inner: RefCell<Inner>,
    /// What is held for it: bytes on their way, who is due what, a reply that is gathered.
    holding: Holding,
    /// Gets frames that answer no request.
    pushes: RefCell<Pushes>,
    /// Every frame is for whoever gets those, replies included (MONITOR, subscriptions).
    raw: Cell<bool>,
    /// Its client sent MONITOR: the commands of everybody come between replies.
    monitors: Cell<bool>,
    /// How long the requests may take that have been sent and whose answers come amid a stream.
    unplaced: Cell<Option<MayTake>>,
    /// Its client debugs a script: every byte is the client's, and the server closes it in the end.
    debugs: Cell<bool>,
    /// Its client has sent SCRIPT DEBUG, and that may be on.
    may_debug: Cell<bool>,
    /// What the answer to the request sent last tells of the server's commands.
    pub(super) tells: Cell<Option<Tells>>,
    /// Its client may have left something on it that nothing undoes.
    pub(super) keeps_traces: Cell<bool>,
    /// Somebody is about to unblock it: until that is answered it may not be lent on.
    holds: Rc<()>,
    /// The last request was CLIENT CACHING, which is for the next one.
    announces: Cell<bool>,
    /// A reply on it may have been more than one frame.
    is_doubtful: Cell<bool>,
    /// Who waits to be told whether all replies were.
    vouching: RefCell<Option<oneshot::Sender<bool>>>,
    /// A request has been sent in part: nothing but its rest may follow.
    partial: Cell<bool>,
    /// When respool's own login on it has to be renewed.
    pub(super) renewal: Renewal,
    /// Where it goes to, and since when.
    origin: Origin,
    closing: Cell<Option<Closing>>,
    /// Whether nothing more is to be sent on it.
    finishing: Cell<Finishing>,
    finishing_micros: Cell<u64>,
    returns: Returns,
    /// The worker that gets its socket when it ends.
    passes_to: Cell<Option<usize>>,
    leaving: Cell<Option<Leaving>>,
    /// How often what may make it one to be left had changed when that was last asked.
    pub(super) checked: Cell<u64>,
    /// The server has said on it that it is no primary, and nobody has heeded that yet.
    alarm: Cell<Option<LossCause>>,
    /// The server has refused a write on it, being a replica.
    has_refused_write: Cell<bool>,
    /// The client, by the address of its outlet, that has waited for room and appends next; 0: none.
    turn: Cell<usize>,
    woken: Cell<bool>,
    /// Frames have been read that there was no time for in their turn.
    is_behind: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Link {
    /// A connection that has been opened and wears `worn`.
    pub(super) fn new(
        thread: Rc<Thread>,
        socket: ServerSocket,
        worn: State,
        (name, server_id): (String, i64),
        origin: Origin,
    ) -> Rc<Self> {
        let inner = Inner {
            pulse: LinkPulse::begun(
                thread.clock.now_micros(),
                origin.opened_micros.saturating_sub(origin.begun_micros),
            ),
            ..Inner::default()
        };
        Rc::new(Self {
            name,
            server_id,
            origin,
            leaving: Cell::new(None),
            checked: Cell::new(0),
            alarm: Cell::new(None),
            has_refused_write: Cell::new(false),
            slot: Cell::new(usize::MAX),
            holding: Holding::new(&thread.account),
            thread,
            socket_kind: socket.kind(),
            socket: RefCell::new(Some(Rc::new(socket))),
            worn: RefCell::new(worn),
            inner: RefCell::new(inner),
            pushes: RefCell::default(),
            raw: Cell::new(false),
            monitors: Cell::new(false),
            unplaced: Cell::new(None),
            debugs: Cell::new(false),
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

    /// The state the server has acknowledged.
    pub fn worn(&self) -> Ref<'_, State> {
        self.worn.borrow()
    }

    /// Whether it can be used.
    #[inline]
    pub fn is_alive(&self) -> bool {
        self.closing.get().is_none()
    }

    /// Requests sent and not answered.
    pub fn in_flight(&self) -> usize {
        self.inner.borrow().due_count
    }

    /// Lends the connection to a client: frames that answer no request go there.
    pub fn lend_to(&self, outlet: Option<Rc<Outlet>>) {
        *self.pushes.borrow_mut() = Pushes::of(outlet);
    }

    /// From here on every frame is for the subscribers of the worker.
    pub(super) fn feed(&self, subscriptions: Rc<Subscriptions>) {
        *self.pushes.borrow_mut() = Pushes::of_subscribers(subscriptions);
        self.set_raw();
    }

    /// From here on frames that answer no request are forwarded instead, whole.
    pub fn forward_pushes(&self, forward: Box<dyn Forward>) {
        self.pushes.borrow_mut().forward(forward);
    }

    /// The client it was lent to has left; what is forwarded still is.
    pub fn forget_client(&self) {
        self.pushes.borrow_mut().forget_client();
    }

    /// The server tells the client it is lent to of a connection by an id; the client knows whom that stands for.
    pub fn stand_for(&self, names: Option<(i64, u64)>) {
        self.pushes.borrow_mut().stand_for(names);
    }

    /// Says whether a request has been sent in part.
    pub fn set_partial(&self, partial: bool) {
        self.partial.set(partial);
        self.inner.borrow_mut().pulse.whole_micros = self.thread.clock.now_micros();
    }

    /// Whether a request has been sent in part.
    pub fn is_partial(&self) -> bool {
        self.partial.get()
    }

    /// Keeps the connection from being lent on while the guard lives.
    pub fn hold(&self) -> Rc<()> {
        Rc::clone(&self.holds)
    }

    /// Whether somebody holds it.
    pub fn is_held(&self) -> bool {
        Rc::strong_count(&self.holds) > 1
    }

    /// From here on every frame goes to the client it is lent to.
    pub fn set_raw(&self) {
        self.raw.set(true);
    }

    /// Whether every frame goes to the client it is lent to.
    pub fn is_raw(&self) -> bool {
        self.raw.get()
    }

    /// Appends `count` requests of a client; the link's task sends them when this turn's clients have all appended.
    #[inline]
    pub fn send(
        &self,
        outlet: &Rc<Outlet>,
        bytes: &[u8],
        count: u32,
        (kind, delays): (Kind, Delays),
        show: Show,
    ) {
        let inner = &mut *self.inner.borrow_mut();
        let now = self.thread.clock.now_micros();
        let start = inner.append(bytes);
        self.announces.set(false);
        outlet.sent(count, show != Show::Hide);
        inner.due_for(outlet, count, (kind, delays), show, start, now);
        self.wake();
    }

    /// Sends again what another connection lost unsent; its replies have their places already.
    pub fn send_again(&self, outlet: &Rc<Outlet>, unsent: Unsent) {
        let inner = &mut *self.inner.borrow_mut();
        let now = self.thread.clock.now_micros();
        let start = inner.append(&unsent.bytes);
        outlet.sent(unsent.count, false);
        let show = if unsent.visible {
            Show::Pass
        } else {
            Show::Hide
        };
        let kind = (unsent.kind, unsent.delays);
        inner.due_for(outlet, unsent.count, kind, show, start, now);
        self.wake();
    }

    /// Sends a request of respool's own.
    pub fn send_own(&self, bytes: &[u8], reply: OwnReply) {
        let inner = &mut *self.inner.borrow_mut();
        let start = inner.append(bytes);
        if is_login(bytes) {
            inner.logins.add(start..inner.appended_total);
        }
        inner.due_count += reply.replies();
        let now = self.thread.clock.now_micros();
        if inner.due.is_empty() {
            inner.times.begin(now);
        }
        let due = Due::Own {
            reply,
            sent_micros: now,
            start,
        };
        inner.pulse.joined(Delays::NONE, due.delays());
        inner.due.push_back(due);
        self.wake();
    }

    /// Sends the steps of a change and calls `done` when the server has answered them all.
    pub fn dress(&self, steps: Vec<Step>, done: Dressed) {
        if steps.is_empty() {
            return done(Ok(()));
        }
        self.thread.counters.state_changes.add(1);
        self.inner.borrow_mut().dressings.push_back(Dressing {
            left: steps.len(),
            refusal: None,
            done,
        });
        for step in &steps {
            self.send_own(&step.request, OwnReply::Step(step.effect.clone()));
        }
    }

    /// Whether respool's own login can be renewed on it now: what is sent next runs as respool's own user, outside of a
    /// transaction, at once, and its reply is told from all that comes.
    pub(super) fn takes_login(&self) -> bool {
        let is_own = self.worn.borrow().user.is_none() && !self.is_dressing();
        let is_free = match self.pushes.borrow().client() {
            Some(client) => self.in_flight() == 0 && !client.transaction().open,
            None => !self.is_blocked(),
        };
        let is_between = self.partial.get() || self.announces.get();
        self.is_alive() && !self.raw.get() && is_own && is_free && !is_between
    }

    /// Whether a change is under way.
    #[inline]
    pub fn is_dressing(&self) -> bool {
        !self.inner.borrow().dressings.is_empty()
    }

    /// Whether a blocking call is due: it may stand behind a PING.
    pub fn is_blocked(&self) -> bool {
        self.inner.borrow().due.iter().any(Due::is_blocking)
    }

    /// Whether a blocking call is due that takes something away.
    pub fn takes(&self) -> bool {
        self.inner.borrow().due.iter().any(Due::takes)
    }

    /// Serves the connection until it ends, then closes it. Returns why it ended.
    ///
    /// `idle` is called after every read, `lost` once, before the clients learn of the loss.
    pub async fn drive(
        self: &Rc<Self>,
        mut idle: impl FnMut(&Rc<Self>),
        lost: impl FnOnce(),
    ) -> Ended {
        let socket = self.socket.borrow().clone();
        let Some(socket) = socket else {
            return Ended::default();
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
    ) -> Poll<Ended> {
        self.woken.set(false);
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        if self.pushes.borrow().are_fanned_out() {
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
    fn write_or_end(&self, cx: &mut Context<'_>, stream: &Stream) -> Option<Ended> {
        if let Some(closing) = self.closing.get() {
            // What was to be sent before it was closed goes out as far as it can: an element that is put back.
            self.inner.borrow_mut().logins.clear();
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
        let inner = &mut *self.inner.borrow_mut();
        let end = inner.sendable();
        while inner.written < end {
            match stream.try_write(&inner.out[inner.written..end]) {
                Ok(taken) => {
                    inner.written += taken;
                    inner.sent_total += taken as u64;
                    inner.pulse.written_micros = self.thread.clock.now_micros();
                }
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
        inner.forget_written();
        self.holding.set(inner.held_bytes());
        self.offer_room(inner);
        Ok(())
    }

    fn read(&self, stream: &Stream) -> io::Result<()> {
        let mut scratch = self.thread.scratch.borrow_mut();
        let inner = &mut *self.inner.borrow_mut();
        let carried = inner.carry.len();
        scratch[..carried].copy_from_slice(&inner.carry);
        let read = stream.try_read(&mut scratch[carried..])?;
        if read == 0 {
            let why = "the server closed the connection";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        inner.carry.clear();
        let now = self.thread.clock.refresh();
        inner.pulse.heard(now, inner.sent_total);
        self.thread.pulse.heard(now);
        let arrived = &scratch[..carried + read];
        let (due, asked) = (inner.due_count, inner.asked_micros());
        let used = self.dispatch(inner, arrived, now);
        inner.measure(now, due, asked);
        let used = used?;
        inner.carry.extend_from_slice(&arrived[used..]);
        self.holding.set(inner.held_bytes());
        Ok(())
    }

    /// Hands every byte to whom it is due. Returns how many bytes were used; the rest is the start of a line.
    fn dispatch(&self, inner: &mut Inner, buf: &[u8], now: u64) -> io::Result<usize> {
        let mut at = 0;
        while at < buf.len() {
            let starts = inner.scanner.at_boundary();
            if starts {
                if self.raw.get() && self.is_debugging() {
                    self.pushes.borrow_mut().take(&buf[at..], true)?;
                    return Ok(buf.len());
                }
                let Some(is_own) = self.is_own_amid_stream(inner, &buf[at..]) else {
                    break;
                };
                inner.is_push = !is_own && self.is_push(inner, buf[at])?;
                if !inner.is_push && !inner.judge_end(&buf[at..]) {
                    break;
                }
                if self.monitors.get() && !inner.is_push {
                    match is_monitored(&buf[at..]) {
                        Some(is_monitored) => inner.is_push = is_monitored,
                        None => break,
                    }
                }
            }
            let (used, goes_on) = if inner.is_push {
                match self.raw.get() {
                    true => self.pass_amid(inner, &buf[at..])?,
                    false => self.push(inner, &buf[at..])?,
                }
            } else {
                match inner.due.front() {
                    None if inner.is_distrusted => Self::drop_surplus(inner, &buf[at..]),
                    None => return Err(invalid(unasked(&buf[at..]))),
                    Some(Due::Client {
                        outlet,
                        kind: Kind::Plain | Kind::Block,
                        show: Show::Pass,
                        ..
                    }) if outlet.is_plain() && !self.monitors.get() => {
                        self.batch(inner, &buf[at..], now)?
                    }
                    Some(_) if inner.awaits_fence() => self.at_fence(inner, &buf[at..], now)?,
                    Some(_) => self.single(inner, &buf[at..], starts, now)?,
                }
            };
            at += used;
            inner.check_offence()?;
            if !goes_on {
                break;
            }
        }
        Ok(at)
    }

    /// The replies of one client's batch leave in one piece.
    #[inline]
    fn batch(&self, inner: &mut Inner, buf: &[u8], now: u64) -> io::Result<(usize, bool)> {
        let Some(Due::Client {
            outlet,
            count,
            kind,
            sent_micros,
            ..
        }) = inner.due.front()
        else {
            return Ok((0, false));
        };
        let (mut at, mut complete, mut goes_on) = (0, 0, true);
        // The end of a block is looked at before it is handed on.
        let is_block = matches!(kind, Kind::Block) && *count > 1;
        let most = *count - u32::from(is_block);
        while complete < most && at < buf.len() {
            // Only these two marks need a look at where they stand.
            let is_marked = matches!(buf[at], b'>' | b'-') && inner.scanner.at_boundary();
            if is_marked && buf[at] == b'>' {
                break;
            }
            let step = inner
                .scanner
                .advance(&buf[at..])
                .map_err(|_| invalid(NO_RESP.to_owned()))?;
            if is_marked && step.complete {
                self.hear_error(&buf[at..at + step.used]);
            }
            at += step.used;
            if !step.complete {
                goes_on = false;
                break;
            }
            complete += 1;
        }
        outlet.deliver(&buf[..at], complete, !inner.scanner.at_boundary());
        if complete > 0 {
            let waited = now.saturating_sub(*sent_micros);
            self.thread.pulse.answered(*sent_micros);
            inner.pulse.answered(waited);
            self.thread
                .counters
                .request_duration
                .record_micros(waited, u64::from(complete));
            inner.answered(complete);
        }
        Ok((at, goes_on))
    }

    /// One reply that does not simply pass.
    fn single(
        &self,
        inner: &mut Inner,
        buf: &[u8],
        starts: bool,
        now: u64,
    ) -> io::Result<(usize, bool)> {
        let step = inner.advance(buf)?;
        if step.used == 0 {
            return Ok((0, false));
        }
        // Who polls the server's health hears of it by itself.
        let is_poll = matches!(
            inner.due.front(),
            Some(Due::Own {
                reply: OwnReply::Then(_),
                ..
            })
        );
        if starts && step.complete && buf[0] == b'-' && !is_poll {
            self.hear_error(&buf[..step.used]);
            if inner.is_fenced() {
                self.hear_of_listed(buf);
            }
        }
        if starts && self.tells.get().is_some() {
            self.hear_of_list(&buf[..step.used]);
        }
        inner.frame(&buf[..step.used], starts, step.complete)?;
        match inner.started_stream() {
            Some(SessionStream::Messages) => {
                self.begin_messages();
                let bytes = &buf[..step.used];
                self.pushes.borrow_mut().heed(bytes, step.complete);
            }
            Some(SessionStream::Commands) => self.monitors.set(true),
            Some(SessionStream::Debugger) => self.begin_debugging(),
            None => {}
        }
        if step.complete {
            if let Some(due) = inner.due.front().filter(|due| !due.is_blocking()) {
                self.thread.pulse.answered(due.sent_micros());
            }
            if let Some(Due::Client { sent_micros, .. }) = inner.due.front() {
                self.thread
                    .counters
                    .request_duration
                    .record_micros(now.saturating_sub(*sent_micros), 1);
            }
            inner.answered(1);
        }
        Ok((step.used, step.complete))
    }

    /// Acts on replies to respool itself, with nothing borrowed.
    fn react(&self) {
        let (answered, orphans) = {
            let mut inner = self.inner.borrow_mut();
            if inner.answered.is_empty() && inner.orphans.is_empty() {
                return;
            }
            (
                std::mem::take(&mut inner.answered),
                std::mem::take(&mut inner.orphans),
            )
        };
        for (reply, bytes) in answered {
            match reply {
                OwnReply::Step(effect) => self.stepped(&effect, bytes),
                // Who asked may have gone.
                OwnReply::Tell(sender) | OwnReply::Place(_, sender) => drop(sender.send(bytes)),
                OwnReply::Pong(asked) => self.thread.ponged(asked, &bytes),
                OwnReply::Fence(_) => self.fenced(&bytes),
                OwnReply::Vouch(_) => self.was_vouched(&bytes),
                OwnReply::Ignore | OwnReply::KeepAlive | OwnReply::Last(_) | OwnReply::Refused => {}
                OwnReply::Then(then) => then.tell(bytes),
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
    pub(super) fn wake(&self) {
        if !self.woken.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}
