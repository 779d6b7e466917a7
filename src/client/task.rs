//! One client's life: a loop that writes what is due, goes on with what was waited for, reads, and hands the requests on.
//!
//! Invariant: a client has its place in its group for exactly as long as its socket is open.

use std::io;
use std::pin::Pin as Pinned;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::attempts::Attempt;
use super::gate::Gate;
use super::held::hold;
use super::kept::standing_bytes;
use super::leaving::EndWatch;
use super::login::{Login, Shown};
use super::pinned::PinUse;
use super::rejection::tell_of;
use super::sent_ahead::SentAhead;
use super::site::{Resident, Site};
use super::waiting::Line;
use crate::admission::{Permit, Refusal};
use crate::budget::UploadPlace;
use crate::identity::{Arrival, CardGuard, Flag, Identity, Peer};
use crate::resp::RequestScanner;
use crate::schedule::goes_on_at;
use crate::session::{ReplyMode, Session, UnplacedTransaction};
use crate::telemetry::{Bound, Disconnect};
use crate::transport::{READ_SIZE, Stream};
use crate::upstream::{
    Blocked, Link, Outlet, Pin, PinError, RoomWait, SharedWait, SubscribeResult, WaitError,
};

/// A client that has been admitted and not yet begun.
pub struct Arrived {
    /// Its socket.
    pub stream: Stream,
    /// Its place.
    pub permit: Permit,
    /// Who it is.
    pub identity: Identity,
    /// Where it connected to.
    pub laddr: Peer,
    /// When it connected, in the worker's microseconds.
    pub arrived_micros: u64,
}

/// What a client waits for before its next request is looked at.
pub(super) enum Wait {
    Nothing,
    /// That nothing is outstanding.
    Answers,
    /// That fewer requests are outstanding.
    InFlight,
    /// That it reads what is held for it.
    Unread,
    /// That the connection takes more bytes.
    Room(RoomWait),
    /// A shared connection in its state.
    Shared(SharedWait, Purpose),
    /// That the others have had their turns; true: they were let go first.
    Turn(bool),
    /// Its turn in a line of blocked clients.
    Blocked(Blocked),
    /// Something that happens seldom: nearly always the server's answer.
    Task(Pinned<Box<dyn Future<Output = Done>>>),
    /// A connection, or leave to use one, for which others may have to give one back first.
    Loan(Pinned<Box<dyn Future<Output = Done>>>),
    /// Its turn behind others, which is seldom, too: until then nobody does anything for it.
    Others(Pinned<Box<dyn Future<Output = Done>>>),
}

/// What a shared connection is waited for.
pub(super) enum Purpose {
    /// The next request.
    Traffic,
    /// Requests that came back unsent.
    Again,
    /// That the server acknowledges a database.
    Select(u32),
    /// Which database an EXEC has left the pinned connection in.
    Settle(u32),
    /// That the server acknowledges a user.
    Login(Box<Login>),
    /// The same on a pinned connection, which speaks another protocol after that.
    Hello(Box<Login>),
}

impl Purpose {
    /// Memory that it takes of what the client has sent.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Login(login) | Self::Hello(login) => login.held_bytes(),
            Self::Traffic | Self::Again | Self::Select(_) | Self::Settle(_) => 0,
        }
    }
}

/// What a task ended with.
pub(super) enum Done {
    Pinned(Result<Pin, PinError>, crate::command::PinReason),
    /// The right to an upload; `None`: others had it for too long.
    UploadPlace(Option<UploadPlace>),
    /// The pinned connection wears what was asked, or the server refused; `None`: it was lost.
    Dressed(Option<Result<(), Vec<u8>>>, Purpose),
    /// WAIT may be sent; or why not.
    WaitReady(Result<(), Box<[u8]>>),
    /// SUBSCRIBE was answered; `None`: the server is away.
    Subscribed(Option<SubscribeResult>),
    /// It has left so many of its topics that it can leave the rest at once.
    Unsubscribed,
    /// Its message can be sent.
    Announced,
    /// Connections have ended that nothing is to be redirected to.
    Ended,
    /// Whether the client's user may do what the request at hand asks for.
    Permission(Result<Result<(), Vec<u8>>, PinError>),
    /// The stream on the pinned connection has ended for QUIT or RESET; false: with the connection.
    Unstreamed(bool, crate::command::Local),
    /// What it sent amid a stream has been answered; false: the connection was lost.
    Placed(bool),
    /// A connection to stand for this client, or none.
    StandIn(Result<Pin, PinError>, u64),
    /// The server's answer to GETREDIR or TRACKINGINFO.
    Redirection(Vec<u8>),
    /// The server's answer to whether an EXEC has switched tracking.
    TrackingInfo(Vec<u8>),
    /// Its attempt to authenticate is looked at, or (`None`) respool is ending.
    Attempt(Option<Attempt>, Box<Shown>),
    /// A reply of respool's own.
    Reply(Vec<u8>),
    /// The server finds nothing wrong with the words of this CLIENT command, or could not be asked.
    Judged(crate::command::ClientSub, Box<[u8]>),
    /// Room was made in the group that refused the client, or not; the reply, unless it is placed for its next request.
    Room(bool, Option<Vec<u8>>, Refusal),
}

/// One client.
pub struct Client {
    pub(super) site: Rc<Site>,
    pub(super) stream: Rc<Stream>,
    pub(super) outlet: Rc<Outlet>,
    pub(super) resident: Rc<Resident>,
    pub(super) card: CardGuard,
    pub(super) permit: Permit,
    pub(super) session: Session,
    pub(super) scanner: RequestScanner,
    /// What has been read and not used.
    pub(super) input: Vec<u8>,
    /// What has been read behind that while a call waits.
    pub(super) sent_ahead: Option<Box<SentAhead>>,
    pub(super) link: Option<Rc<Link>>,
    pub(super) pin: Option<Pin>,
    pub(super) pin_use: PinUse,
    pub(super) wait: Wait,
    /// A request is being passed on as it arrives, or (false) skipped.
    pub(super) streaming: Option<bool>,
    /// It is subscribed, in RESP2: it may do little else.
    pub(super) is_listening: bool,
    /// Whether its user may do what the request at hand asks for, as far as that is known.
    pub(super) permission: Option<Box<Result<(), Vec<u8>>>>,
    /// What its blocking call has come to.
    pub(super) line: Option<Box<Line>>,
    /// WAIT was preceded by what it needs.
    pub(super) wait_ready: Option<Result<(), Box<[u8]>>>,
    /// It has written on a connection that is not lent to it now.
    pub(super) has_written: bool,
    /// The workers know of the message at hand, or the mark before the request at hand has been passed; until it is counted.
    pub(super) is_announced: bool,
    /// The server cannot take the requests that are here: each is answered with this.
    pub(super) refusing: Option<Vec<u8>>,
    /// Its transaction, of which the busy server has not been told.
    pub(super) unplaced: Option<Box<UnplacedTransaction>>,
    /// The socket was emptied by the last read.
    pub(super) is_drained: bool,
    /// It will be closed for this once its replies are out.
    pub(super) ending: Option<Disconnect>,
    pub(super) rejected: Option<Box<Refusal>>,
    /// What stands between its requests and where they go.
    pub(super) gate: Gate,
    pub(super) is_at_end: bool,
    /// Looks for its end while it is not read.
    pub(super) end_watch: Option<EndWatch>,
    has_left: bool,
    seen_bytes_out: u64,
    /// Dropped last, when its place and its entry in the list are gone: who waits for its place may take it then.
    gone: Option<tokio::sync::oneshot::Sender<bool>>,
}

impl Client {
    /// Takes a client in.
    pub fn new(site: Rc<Site>, arrived: Arrived) -> Box<Self> {
        let Arrived {
            stream,
            permit,
            identity,
            laddr,
            arrived_micros,
        } = arrived;
        let fd = stream.descriptor();
        let stream = Rc::new(stream);
        let group = permit.group().index() as u32;
        let now_ms = site.thread.clock.now_ms();
        let card = site.registry.register(Arrival {
            identity,
            laddr,
            fd,
            group,
            now_ms,
        });
        site.thread.account.enter(standing_bytes(&stream));
        let outlet = site.outlet(&stream, card.card());
        let resident = Rc::new(Resident::new(
            Rc::clone(&outlet),
            Arc::clone(card.card()),
            arrived_micros,
            site.guest(),
            site.idle_timeout(group as usize),
        ));
        resident.must_reseat.set(permit.is_stale());
        site.residents
            .borrow_mut()
            .insert(card.id(), Rc::clone(&resident));
        let mut client = Box::new(Self {
            session: Session::new(site.guest()),
            site,
            stream,
            outlet,
            resident,
            card,
            permit,
            scanner: RequestScanner::default(),
            input: Vec::new(),
            sent_ahead: None,
            link: None,
            pin: None,
            pin_use: PinUse::default(),
            wait: Wait::Nothing,
            streaming: None,
            is_listening: false,
            permission: None,
            line: None,
            wait_ready: None,
            has_written: false,
            is_announced: false,
            refusing: None,
            unplaced: None,
            is_drained: true,
            ending: None,
            rejected: None,
            gate: Gate::default(),
            is_at_end: false,
            end_watch: None,
            has_left: false,
            seen_bytes_out: 0,
            gone: None,
        });
        client.log_admission();
        client.note_known();
        client.note_arriving();
        client
    }

    /// Serves the client until it leaves.
    pub async fn run(mut self: Box<Self>) {
        let reason = std::future::poll_fn(|cx| self.poll(cx)).await;
        if reason == Disconnect::ProtocolError {
            self.drop_input();
            // Boxed, as what follows: an idle client carries neither.
            Box::pin(self.linger()).await;
        }
        let Some(refusal) = self.rejected.take() else {
            self.empty_socket(reason);
            return self.leave(reason);
        };
        // Its place is gone; the socket is held and told so.
        let sent = (std::mem::take(&mut self.input), self.sent_ahead.take());
        let stream = Rc::clone(&self.stream);
        let explain = self.site.thread.settings().limits.explain_rejections;
        // Not a word to a client that wants none.
        let text = match self.session.reply {
            ReplyMode::Off => Vec::new(),
            _ => refusal.client_text(explain),
        };
        let site = Rc::clone(&self.site);
        self.leave(reason);
        if let Some(permit) = site.admission.hold(Instant::now()) {
            Box::pin(hold(Rc::clone(&site.thread), stream, text, sent, permit)).await;
        } else {
            site.thread.counters.bound(Bound::Rejected).add(1);
        }
    }

    pub(super) fn group(&self) -> usize {
        self.permit.group().index()
    }

    /// Logs what its admission crossed: a warning threshold, or a cap that is only observed.
    pub(super) fn log_admission(&mut self) {
        let lines = [self.permit.warning.take(), self.permit.observed.take()];
        for line in lines.into_iter().flatten() {
            tell_of(&self.card.identity(), &line);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Disconnect> {
        self.outlet.register(cx);
        self.site.thread.clock.refresh();
        self.look_at_bytes_out();
        if self.resident.must_reseat.take() {
            self.reseat();
        }
        loop {
            if let Some(end) = self.outlet.end() {
                // Replies already received are still passed on, as far as the socket takes them.
                self.outlet.flush();
                return Poll::Ready(end);
            }
            if self.outlet.has_unwritten() {
                let _ = self.outlet.poll_flush(cx);
                if self.outlet.is_closed() {
                    continue;
                }
            }
            let moved = self.resume(cx);
            if let Some(end) = self.has_ended() {
                if self.is_due_more(end) {
                    continue;
                }
                return Poll::Ready(end);
            }
            if moved {
                if self.has_finished() {
                    self.note_progress_of_finished();
                }
                continue;
            }
            if self.outlet.outstanding() > 0
                && (self.pin.is_some()
                    || self.is_at_end
                    || self.ending.is_some()
                    || self.site.draining.get())
            {
                self.outlet.wake_at(0);
            }
            if self.may_read() {
                self.leave_unread(cx);
            }
            if !self.may_read()
                && let Some(end) = self.poll_leaving(cx)
            {
                return Poll::Ready(end);
            }
            if self.may_read() && self.makes_way(cx) {
                return Poll::Pending;
            }
            match self.poll_read(cx) {
                Poll::Pending => {
                    self.note_record();
                    self.resident
                        .is_waiting
                        .set(!matches!(self.wait, Wait::Nothing));
                    if std::mem::replace(&mut self.is_drained, true) || self.input.is_empty() {
                        return Poll::Pending;
                    }
                    // What is here is all there is: a transaction that was hoped to arrive whole did not.
                }
                Poll::Ready(Ok(0)) => {
                    self.is_at_end = true;
                    self.is_drained = true;
                    self.note_finished();
                }
                Poll::Ready(Ok(_)) => {
                    // One read a turn: the others' requests join this turn's write.
                    if !self.is_drained {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Disconnect::SocketError),
            }
        }
    }

    /// Goes on with what was waited for and with requests that are here. True: something changed.
    fn resume(&mut self, cx: &Context<'_>) -> bool {
        if !self.poll_wait(cx) {
            return false;
        }
        self.release_pin();
        if !matches!(self.wait, Wait::Nothing) {
            return true;
        }
        if self.outlet.has_unsent() {
            self.send_again();
            return true;
        }
        if self.input.is_empty() || self.ending.is_some() {
            return false;
        }
        let input = std::mem::take(&mut self.input);
        let used = self.requests(&input);
        self.keep(input, used);
        self.release_pin();
        self.outlet.flush();
        self.note_state(used);
        !matches!(self.wait, Wait::Nothing) || (used > 0 && !self.input.is_empty())
    }

    /// True: nothing is waited for any more.
    fn poll_wait(&mut self, cx: &Context<'_>) -> bool {
        let goes_on_at = goes_on_at(self.most_in_flight());
        match &mut self.wait {
            Wait::Nothing => true,
            &mut Wait::Turn(is_due) => self.has_its_turn(is_due, cx),
            Wait::Answers if self.outlet.outstanding() > 0 => {
                self.outlet.wake_at(0);
                false
            }
            Wait::InFlight if self.outlet.outstanding() > goes_on_at => {
                self.outlet.wake_at(goes_on_at);
                false
            }
            Wait::Unread if !self.outlet.has_room() => {
                if self.outlet.outstanding() > 0 {
                    self.outlet.wake_at(0);
                }
                false
            }
            Wait::Room(room) if room.is_pending(cx) => false,
            Wait::Answers | Wait::InFlight | Wait::Unread | Wait::Room(_) => {
                if let Wait::Room(room) = std::mem::replace(&mut self.wait, Wait::Nothing) {
                    room.come(&self.outlet);
                }
                true
            }
            Wait::Shared(wait, _) => match wait.poll(cx) {
                Poll::Pending => false,
                Poll::Ready(outcome) => {
                    if let Wait::Shared(_, purpose) =
                        std::mem::replace(&mut self.wait, Wait::Nothing)
                    {
                        self.waited(outcome, purpose);
                    }
                    matches!(self.wait, Wait::Nothing) || self.poll_wait(cx)
                }
            },
            Wait::Blocked(blocked) => match blocked.poll(cx) {
                Poll::Pending => false,
                Poll::Ready(outcome) => {
                    if let Wait::Blocked(blocked) = std::mem::replace(&mut self.wait, Wait::Nothing)
                    {
                        self.left_line(blocked, outcome);
                    }
                    true
                }
            },
            Wait::Task(task) | Wait::Loan(task) | Wait::Others(task) => {
                let mut cx = Context::from_waker(cx.waker());
                match task.as_mut().poll(&mut cx) {
                    Poll::Pending => {
                        self.outlet.hold_wait(size_of_val(&**task));
                        false
                    }
                    Poll::Ready(done) => {
                        self.outlet.hold_wait(0);
                        self.wait = Wait::Nothing;
                        self.done(done);
                        matches!(self.wait, Wait::Nothing) || self.poll_wait(&cx)
                    }
                }
            }
        }
    }

    fn waited(&mut self, outcome: Result<Option<Rc<Link>>, WaitError>, purpose: Purpose) {
        match outcome {
            Ok(None) if self.selects_elsewhere(&purpose) => {}
            Ok(link) => {
                // Acknowledged, even if the connection has been lost since: the next request asks for another.
                self.link = link;
                self.acknowledged(purpose, Ok(()));
            }
            Err(WaitError::Refused(reply)) => self.acknowledged(purpose, Err(reply)),
            Err(WaitError::Unreachable) => {
                self.acknowledged(purpose, Err(super::requests::UNREACHABLE.to_vec()))
            }
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Pinned(result, reason) => self.pinned(result, reason),
            Done::UploadPlace(place) => self.upload_place(place),
            Done::Dressed(Some(result), purpose) => self.acknowledged(purpose, result),
            // The client is closed with the connection it was lent.
            Done::Dressed(None, _) => self.outlet.close(Disconnect::UpstreamLost),
            Done::WaitReady(result) => self.wait_ready = Some(result),
            Done::Subscribed(result) => self.has_subscribed(result),
            Done::Unsubscribed => self.note_subscriptions(),
            Done::Announced => {
                self.is_announced = true;
                self.note_kept(0);
            }
            Done::Permission(reply) => self.permission_told(reply),
            Done::Unstreamed(true, local) => self.unstreamed(local),
            Done::Placed(true) | Done::Ended => {}
            Done::Unstreamed(false, _) | Done::Placed(false) => {
                self.outlet.close(Disconnect::UpstreamLost);
            }
            Done::StandIn(result, id) => self.stands_in(result, id),
            Done::Redirection(reply) => self.told_redirection(reply),
            Done::TrackingInfo(reply) => self.tracking_settled(&reply),
            Done::Attempt(attempt, shown) => {
                self.note_kept(0);
                self.attempt(attempt, *shown);
                // Where respool knows the users itself it is answered at once.
                self.outlet.flush();
            }
            Done::Reply(reply) => {
                self.note_kept(0);
                self.reply(&reply);
            }
            Done::Judged(sub, request) => self.judged(sub, &request),
            Done::Room(true, reply, _) => self.regroup_anew(reply),
            Done::Room(false, reply, refusal) => self.reject(refusal, reply.is_some()),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(taken) = self.use_ahead() {
            return Poll::Ready(Ok(taken));
        }
        if !self.may_read() {
            return Poll::Pending;
        }
        self.end_watch = None;
        let reads_ahead = self.reads_ahead();
        let site = Rc::clone(&self.site);
        let mut scratch = site.thread.scratch.borrow_mut();
        let mut is_gathered;
        let read = loop {
            match self.stream.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(ready) => ready?,
            }
            let gathered = if reads_ahead { None } else { self.read_on() };
            is_gathered = gathered.is_some();
            match gathered.unwrap_or_else(|| self.stream.try_read(&mut scratch[..READ_SIZE])) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => break read?,
            }
        };
        if read == 0 {
            return Poll::Ready(Ok(0));
        }
        if !is_gathered {
            self.is_drained = read < READ_SIZE;
        }
        self.card.bytes_in.add(read as u64);
        site.thread
            .counters
            .group(self.group())
            .bytes_in
            .add(read as u64);
        let used = if reads_ahead {
            self.keep_ahead(&scratch[..read])
        } else if is_gathered {
            None
        } else {
            self.use_read(&scratch[..read])
        };
        drop(scratch);
        self.settle_read(used);
        Poll::Ready(Ok(read))
    }

    /// Keeps what is left of `input`.
    fn keep(&mut self, mut input: Vec<u8>, used: usize) {
        if used == input.len() {
            return self.site.spares.keep(input);
        }
        if used > 0 {
            input.drain(..used);
        }
        if input.capacity() > 4 * READ_SIZE && input.len() < input.capacity() / 16 {
            input.shrink_to_fit();
        }
        self.input = input;
    }

    /// Whether it is time to close, and why.
    fn has_ended(&self) -> Option<Disconnect> {
        let is_cut_off = self.is_at_end && self.sent_ahead.is_none() && self.streaming.is_some();
        if is_cut_off || self.leaves_its_call() {
            return Some(Disconnect::Closed);
        }
        if matches!(self.wait, Wait::Blocked(_)) {
            // Nothing is coming that a drain would cut off.
            return self.site.draining.get().then_some(Disconnect::Drained);
        }
        if self.outlet.outstanding() > 0 || self.outlet.has_unwritten() || self.outlet.has_unsent()
        {
            // A blocked client has nothing coming that a drain would cut off.
            return (self.site.draining.get() && self.is_blocked()).then_some(Disconnect::Drained);
        }
        if let Some(ending) = self.ending {
            return Some(ending);
        }
        if !matches!(self.wait, Wait::Nothing) {
            return None;
        }
        if self.is_at_end && self.sent_ahead.is_none() {
            return Some(Disconnect::Closed);
        }
        let between = self.has_used_all() && self.streaming.is_none();
        if !between || !self.outlet.transaction().is_clear() {
            return None;
        }
        if self.stream.is_worn_out() {
            // Cut off later it would lose what it has asked for.
            return Some(Disconnect::TlsKeys);
        }
        self.site.draining.get().then_some(Disconnect::Drained)
    }

    pub(super) fn is_blocked(&self) -> bool {
        matches!(self.wait, Wait::Blocked(_))
            || self.pin.as_ref().is_some_and(|pin| pin.link().is_blocked())
    }

    pub(super) fn flag(&self, flag: Flag, on: bool) {
        if on {
            self.card.raise(flag);
        } else {
            self.card.lower(flag);
        }
    }

    /// Notes that the client has read more, where it had not read everything.
    #[inline]
    fn look_at_bytes_out(&mut self) {
        let written = self.outlet.bytes_out();
        if written != std::mem::replace(&mut self.seen_bytes_out, written)
            && self.outlet.has_unwritten()
        {
            self.note_reading();
        }
    }

    fn leave(mut self: Box<Self>, reason: Disconnect) {
        self.has_left = true;
        self.site
            .thread
            .counters
            .group(self.group())
            .disconnect(reason)
            .add(1);
        self.site.closed(&self.card, reason);
    }

    pub(super) fn now(&self) -> Instant {
        Instant::now()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !self.has_left && !self.site.upstream.is_stopping() {
            // Only a panic, or the end of the worker itself, drops a client that has not left.
            self.site
                .thread
                .counters
                .group(self.group())
                .disconnect(Disconnect::Panic)
                .add(1);
        }
        self.subscriptions().leave(self.card.id());
        self.site.uploads.borrow_mut().remove(&self.card.id());
        // In this order: its turn in line, the connections lent to it, its socket, its place.
        self.wait = Wait::Nothing;
        if let Some(Line::Over(blocked, outcome)) = self.line.take().map(|line| *line) {
            blocked.refuse(outcome);
        }
        self.site.thread.account.leave(standing_bytes(&self.stream));
        self.resident.leave_redirections();
        self.pin.take();
        self.outlet.leave(Disconnect::Closed);
        self.site.residents.borrow_mut().remove(&self.card.id());
        self.resident.pinned.borrow_mut().take();
        self.resident.blocked.borrow_mut().take();
        self.gone = self.resident.evicting.borrow_mut().take();
    }
}
