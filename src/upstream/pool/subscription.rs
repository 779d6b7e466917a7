//! A worker's clients are subscribed on one connection of its own, which is opened with the first of them.
//!
//! Invariant: what is subscribed to is asked for again on a new connection before anything else is.

mod announced;
mod apart;
mod turns;

pub use announced::Announcement;
use announced::MarkedWait;
pub use turns::TOPICS_A_TURN;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, oneshot};

use super::Upstream;
use crate::budget::SocketKind;
use crate::command::Delays;
use crate::config::OnSubscriptionLoss;
use crate::exchange::Violation;
use crate::fanout::{
    FanoutPace, SubscriberId, SubscriptionFrame, SubscriptionSide, SubscriptionStart,
    TopicConfirmation, TopicCounts, TopicFanout, TopicKind, TopicMessage, UnexpectedFrame,
    least_bytes, read,
};
use crate::link::Link;
use crate::link::SubscriberFrames;
use crate::memory::{HeldBytes, SharedFrame, UnfinishedFrame};
use crate::outlet::Outlet;
use crate::resp::speak::{push_bulk, push_header};
use crate::session::{Credentials, Protocol, State};
use crate::silence::{
    AwaitedReply, LinkSilence, OvertakenSilence, SilenceLimits, SilenceVerdict, judge,
};
use crate::telemetry::{Bound, Disconnect, LossCause};
use crate::thread::Thread;
use crate::upstream::handshake::connect;

/// A connection that has been silent for this long is asked whether it is still there, unless `upstream.ping_interval` asks
/// sooner: while it is dead and nobody knows, messages are missed.
const PING_AFTER: Duration = Duration::from_secs(5);

/// A connection nobody is subscribed on stays open for this long, unless its place is needed.
const IDLE_FOR: Duration = Duration::from_secs(10);

/// Tells how a subscription ended: `Ok` with its confirmations placed, or the server's error.
pub type SubscribeResult = Result<(), Vec<u8>>;

/// Holds the subscriptions of a worker's clients on one connection.
pub struct Subscriptions {
    thread: Rc<Thread>,
    side: SubscriptionSide,
    fanout: RefCell<TopicFanout<Rc<Outlet>>>,
    link: RefCell<Option<Rc<Link>>>,
    /// The connection is opened as this one of the subscribers where respool is nobody.
    user: RefCell<Option<Rc<Credentials>>>,
    /// Is true while a connection is wanted and being opened, or open.
    is_kept: Cell<bool>,
    /// The commands of these wait for the server.
    waiting: RefCell<HashMap<SubscriberId, oneshot::Sender<SubscribeResult>>>,
    /// It holds the start of a frame that has not arrived whole.
    gathered: RefCell<UnfinishedFrame>,
    /// Is true while the rest of the frame under way is too long for anybody.
    is_skipping: Cell<bool>,
    /// These have messages that were not sent yet.
    touched: RefCell<VecDeque<Rc<Outlet>>>,
    /// It says how much has been done in this turn.
    pace: RefCell<FanoutPace>,
    /// These are gone, and are still in some of their topics.
    leaving: RefCell<VecDeque<SubscriberId>>,
    /// Is true where the last turn has left something for the next one.
    is_behind: Cell<bool>,
    has_work: Notify,
    /// The server has answered, and may be asked for more.
    has_answered: Notify,
    /// Who has this is the first in line to ask it.
    asks_next: Semaphore,
    /// It counts what the server has not answered and nobody wants.
    unwanted: HeldBytes,
    /// These are large messages that wait until the server has let go of those for whom they are too much, and clients that wait for what has
    /// come before, in the order of its marks.
    marked: RefCell<VecDeque<MarkedWait>>,
    /// The other workers know of this many patterns.
    patterns: Cell<usize>,
    /// This number of its topics is counted among those of the worker.
    topics: Cell<u64>,
    /// Is true while a connection is waited for until others give one back.
    awaits_place: Cell<bool>,
    heard_micros: Cell<u64>,
    /// Somebody who was subscribed has left then.
    left_micros: Cell<u64>,
    /// The PING that has not been answered was sent then.
    pinged_micros: Cell<Option<u64>>,
    /// The server is known to have answered elsewhere since then.
    overtaken: Cell<OvertakenSilence>,
    needed_micros: Cell<u64>,
}

impl Subscriptions {
    /// Begins with nobody subscribed to anything.
    pub(in crate::upstream) fn new(thread: Rc<Thread>, side: SubscriptionSide) -> Rc<Self> {
        let limits = &thread.settings().limits;
        let (most, most_bytes) = (limits.max_client_subscriptions, limits.pubsub_buffer / 2);
        thread.process.weights.set_limit(limits.pubsub_buffer);
        let gathered = UnfinishedFrame::new(&thread.account);
        let unwanted = HeldBytes::new(&thread.account);
        Rc::new(Self {
            thread,
            side,
            fanout: RefCell::new(TopicFanout::new(most, most_bytes)),
            link: RefCell::default(),
            user: RefCell::default(),
            is_kept: Cell::new(false),
            waiting: RefCell::default(),
            gathered: RefCell::new(gathered),
            is_skipping: Cell::new(false),
            touched: RefCell::default(),
            pace: RefCell::default(),
            leaving: RefCell::default(),
            is_behind: Cell::new(false),
            has_work: Notify::new(),
            has_answered: Notify::new(),
            asks_next: Semaphore::new(1),
            unwanted,
            marked: RefCell::default(),
            patterns: Cell::new(0),
            topics: Cell::new(0),
            awaits_place: Cell::new(false),
            heard_micros: Cell::new(0),
            left_micros: Cell::new(0),
            pinged_micros: Cell::new(None),
            overtaken: Cell::default(),
            needed_micros: Cell::new(0),
        })
    }

    /// Goes by other bounds from now on.
    pub(in crate::upstream) fn reload(&self) {
        let limits = &self.thread.settings().limits;
        let (most, most_bytes) = (limits.max_client_subscriptions, limits.pubsub_buffer / 2);
        self.fanout.borrow_mut().set_bounds(most, most_bytes);
        self.thread.process.weights.set_limit(limits.pubsub_buffer);
    }

    /// Notes that a client of this user is about to subscribe.
    pub fn is_for(&self, user: Option<&Rc<Credentials>>) {
        if let Some(user) = user
            && self.thread.is_nobody()
        {
            *self.user.borrow_mut() = Some(Rc::clone(user));
        }
    }

    /// Tells whether a client may subscribe to all of `names`.
    ///
    /// # Errors
    /// The client would have more subscriptions than `limits.max_client_subscriptions`.
    pub fn may_subscribe_to<'a>(
        &self,
        subscriber: SubscriberId,
        names: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), TooManySubscriptions> {
        if self.fanout.borrow().has_room(subscriber, names) {
            return Ok(());
        }
        self.thread.counters.bound(Bound::Subscriptions).add(1);
        Err(TooManySubscriptions)
    }

    /// Returns what a client is subscribed to.
    pub fn counts(&self, subscriber: SubscriberId) -> TopicCounts {
        self.fanout.borrow().counts(subscriber)
    }

    /// Returns the memory that a client's subscriptions take.
    pub fn held_bytes(&self, subscriber: SubscriberId) -> usize {
        self.fanout.borrow().held_bytes(subscriber)
    }

    /// Unsubscribes a client from `names`, or (`None`) from everything of a kind. Answers as [`Upstream::subscribe`] does.
    pub fn unsubscribe<'a>(
        &self,
        subscriber: SubscriberId,
        outlet: &Rc<Outlet>,
        kind: TopicKind,
        names: Option<impl Iterator<Item = &'a [u8]>>,
    ) -> Option<oneshot::Receiver<SubscribeResult>> {
        let begun = self
            .fanout
            .borrow_mut()
            .unsubscribe(subscriber, outlet, kind, names);
        let told = match begun {
            SubscriptionStart::Confirmed(confirmations) => {
                self.confirm(subscriber, outlet, (kind, false), &confirmations);
                None
            }
            SubscriptionStart::Asked | SubscriptionStart::TooMany => Some(self.expect(subscriber)),
        };
        self.turn();
        told
    }

    /// Tells whether the server may be asked now for what a client wants that has just come: it has answered enough of what it was asked for
    /// those who have gone, and nobody waits for that; or it has confirmed all of `names`.
    pub fn may_ask_for<'a>(
        &self,
        kind: TopicKind,
        mut names: impl Iterator<Item = &'a [u8]>,
    ) -> bool {
        let fanout = self.fanout.borrow();
        let is_free = fanout.may_ask() && self.asks_next.available_permits() > 0;
        is_free || names.all(|name| fanout.is_confirmed(kind, name))
    }

    /// Waits until it may be asked, in the order in which clients have come.
    pub async fn until_it_may_ask(&self) {
        let _first = self.asks_next.acquire().await;
        while !self.fanout.borrow().may_ask() {
            self.has_answered.notified().await;
        }
    }

    /// Returns the answer to a client's command, when it comes.
    fn expect(&self, subscriber: SubscriberId) -> oneshot::Receiver<SubscribeResult> {
        let (tell, told) = oneshot::channel();
        self.waiting.borrow_mut().insert(subscriber, tell);
        told
    }

    /// Has a client not wait any more for its command to be answered.
    pub fn abandon(&self, subscriber: SubscriberId) {
        self.abandon_command(subscriber);
        self.turn();
    }

    fn abandon_command(&self, subscriber: SubscriberId) {
        self.waiting.borrow_mut().remove(&subscriber);
        self.fanout.borrow_mut().abandon(subscriber);
    }

    /// Tells whether what would serve the subscribers waits until others give a connection back.
    pub fn awaits_place(&self) -> bool {
        self.awaits_place.get()
    }

    /// Returns whether a connection to a server that is there is what subscribers wait for, rather than an answer on it.
    pub fn awaits_connection(&self, is_away: bool) -> bool {
        self.awaits_place() || (!is_away && !self.is_connected())
    }

    /// Returns at most `most` of the topics of a kind that a client is subscribed to.
    pub fn some_topics(
        &self,
        subscriber: SubscriberId,
        kind: TopicKind,
        most: usize,
    ) -> Vec<Rc<[u8]>> {
        self.fanout.borrow().some_topics(subscriber, kind, most)
    }

    /// Tells whether a client is subscribed to this.
    pub fn is_subscribed(&self, subscriber: SubscriberId, kind: TopicKind, topic: &[u8]) -> bool {
        self.fanout.borrow().is_subscribed(subscriber, kind, topic)
    }

    /// Tells whether a client is subscribed to something that is so.
    pub fn has_topic(
        &self,
        subscriber: SubscriberId,
        is_so: impl Fn(TopicKind, &[u8]) -> bool,
    ) -> bool {
        self.fanout.borrow().has_topic(subscriber, is_so)
    }

    /// Takes bytes of a frame of the server, whose end they hold if it is `complete`.
    fn gather(&self, bytes: &[u8], complete: bool) -> Result<(), UnexpectedFrame> {
        self.heard_micros.set(self.thread.clock.now_micros());
        if self.is_skipping.get() {
            self.is_skipping.set(!complete);
            return Ok(());
        }
        let mut gathered = self.gathered.borrow_mut();
        if gathered.bytes().is_empty() && complete {
            return self.frame(bytes, None);
        }
        let limit = self.thread.settings().limits.pubsub_buffer;
        let least = match gathered.bytes() {
            [] => least_bytes(bytes).unwrap_or(0),
            _ => 0,
        };
        if least <= limit {
            gathered.expect(least);
        }
        gathered.append(bytes);
        if least.max(gathered.bytes().len()) > limit {
            self.too_long(gathered.bytes())?;
            self.is_skipping.set(!complete);
            gathered.take();
        } else if complete {
            let frame = gathered.take();
            drop(gathered);
            // Who does not take it at once shares what has been gathered, not a copy.
            let frame = SharedFrame::new(frame, &self.thread.account);
            return self.frame(frame.bytes(), Some(Rc::clone(&frame)));
        }
        Ok(())
    }

    /// Takes a whole frame of the server, and what holds it for all whom it goes to where something does already.
    fn frame(
        &self,
        frame: &[u8],
        mut shared: Option<Rc<SharedFrame>>,
    ) -> Result<(), UnexpectedFrame> {
        match read(frame)? {
            SubscriptionFrame::Message(TopicMessage { kind, topic }) => {
                let fanout = self.fanout.borrow();
                fanout.heard(kind, topic, frame.len());
                let mut count = 0;
                for outlet in fanout.subscribers(kind, topic) {
                    count += 1;
                    if outlet.message(frame, &mut shared) {
                        self.touch(outlet);
                    }
                }
                drop(fanout);
                self.thread.counters.delivered_messages.add(count);
                self.pace.borrow_mut().placed(count as usize, frame.len());
                Ok(())
            }
            SubscriptionFrame::Confirmed {
                kind,
                subscribes,
                topic,
            } => {
                self.fanout
                    .borrow_mut()
                    .confirmed(kind, subscribes, topic)?;
                self.settle();
                Ok(())
            }
            SubscriptionFrame::Refused(error) => {
                self.fanout.borrow_mut().refused(error)?;
                self.settle();
                Ok(())
            }
            SubscriptionFrame::Pong => {
                self.fanout.borrow_mut().ponged()?;
                if let Some(asked) = self.pinged_micros.take() {
                    self.thread.ponged(asked, b"+PONG");
                }
                Ok(())
            }
        }
    }

    /// Takes a message that is longer than anybody's buffer may be.
    fn too_long(&self, start: &[u8]) -> Result<(), UnexpectedFrame> {
        if let SubscriptionFrame::Message(TopicMessage { kind, topic }) = read(start)? {
            let fanout = self.fanout.borrow();
            fanout.heard(kind, topic, start.len());
            for outlet in fanout.subscribers(kind, topic) {
                outlet.close(Disconnect::PubsubBuffer);
            }
        }
        Ok(())
    }

    /// Places the confirmations of commands that the server has answered, before any message that comes behind them.
    fn settle(&self) {
        let settled = self.fanout.borrow_mut().settled();
        for settled in settled {
            let result = settled.result.map(|confirmations| {
                let verb = (settled.kind, settled.subscribes);
                self.confirm(settled.subscriber, &settled.handle, verb, &confirmations);
            });
            if let Some(waiting) = self.waiting.borrow_mut().remove(&settled.subscriber) {
                // Who asked may have gone.
                let _ = waiting.send(result);
            }
        }
        for outlet in self.fanout.borrow_mut().take_unrenewed() {
            outlet.close(Disconnect::SubscriptionLost);
        }
    }

    fn confirm(
        &self,
        subscriber: SubscriberId,
        outlet: &Rc<Outlet>,
        (kind, subscribes): (TopicKind, bool),
        confirmations: &[TopicConfirmation],
    ) {
        for confirmation in confirmations {
            let mut frame = Vec::with_capacity(64);
            push_header(&mut frame, b'*', 3);
            push_bulk(&mut frame, kind.verb(subscribes).as_bytes());
            match &confirmation.topic {
                Some(topic) => push_bulk(&mut frame, topic),
                None => frame.extend_from_slice(outlet.null()),
            }
            push_header(&mut frame, b':', confirmation.count as i64);
            if outlet.message(&frame, &mut None) {
                self.touch(outlet);
            }
        }
        if !confirmations.is_empty() {
            // Redirected invalidations may come before its task looks.
            outlet.note_subscribed(self.counts(subscriber).total() > 0);
        }
        self.thread
            .counters
            .delivered_messages
            .add(confirmations.len() as u64);
    }

    /// Takes in that the connection is open.
    fn opened(self: &Rc<Self>, link: &Rc<Link>) {
        self.heard_micros.set(self.thread.clock.now_micros());
        self.needed_micros.set(self.thread.clock.now_micros());
        self.pinged_micros.set(None);
        link.feed(Rc::<Self>::clone(self));
        *self.link.borrow_mut() = Some(Rc::clone(link));
        self.fanout.borrow_mut().connected();
        self.turn();
    }

    /// Takes in that the connection is lost. Returns how many clients may have missed messages.
    fn lost(&self) -> usize {
        *self.link.borrow_mut() = None;
        self.hear_cut_off();
        self.gathered.borrow_mut().take();
        self.is_skipping.set(false);
        let subscribers = self.fanout.borrow_mut().lost();
        self.settle();
        self.turn();
        subscribers
    }

    fn close_subscribers(&self) {
        let everybody = self.fanout.borrow().everybody();
        for outlet in everybody {
            outlet.close(Disconnect::SubscriptionLost);
        }
    }

    /// Does what time has made due: asks a silent connection whether it is there, closes one that is of no use.
    pub(in crate::upstream) fn tick(&self) {
        let second = self.thread.clock.now_micros() / 1_000_000;
        self.fanout.borrow_mut().set_second(second);
        let Some(link) = self.link.borrow().clone() else {
            return;
        };
        let clock = &self.thread.clock;
        if !self.fanout.borrow().is_empty() {
            self.needed_micros.set(clock.now_micros());
        } else if clock.is_past(self.needed_micros.get(), IDLE_FOR)
            || self.thread.process.budget.waiting() > 0
        {
            return link.close("nobody is subscribed to anything");
        }
        self.fanout.borrow_mut().ask_again();
        self.ask_if_silent(&link);
        self.turn();
    }

    fn ask_if_silent(&self, link: &Link) {
        let clock = &self.thread.clock;
        let heard = self.heard_micros.get();
        let settings = self.thread.settings();
        let upstream = &settings.upstream;
        match self.pinged_micros.get() {
            // Whatever has come since shows that it is there; the answer still tells how long it took.
            Some(asked) => {
                let now = clock.now_micros();
                let around = self.thread.signs_around(now);
                let since_micros = asked.max(heard);
                let mut overtaken = self.overtaken.get();
                let silence = LinkSilence {
                    since_micros,
                    awaited: AwaitedReply::Command(Delays::NONE),
                    overtaken_micros: overtaken.look(since_micros, &around, now),
                };
                self.overtaken.set(overtaken);
                let limits = SilenceLimits {
                    reply: upstream.reply_timeout,
                    busy: upstream.busy_timeout,
                };
                let verdict = judge(&silence, &around, &limits, now);
                if matches!(verdict, SilenceVerdict::Lost | SilenceVerdict::Overdue) {
                    self.thread.counters.bound(Bound::ReplyTimeout).add(1);
                    self.thread.counters.unanswered_pings.add(1);
                    let why = "no answer to PING within upstream.reply_timeout";
                    link.lose(LossCause::HalfOpen, why);
                }
            }
            None if clock.is_past(heard, upstream.ping_interval.min(PING_AFTER)) => {
                self.pinged_micros.set(Some(clock.now_micros()));
                self.fanout.borrow_mut().ping();
            }
            _ => {}
        }
    }

    /// Returns the connection, while there is one.
    pub(in crate::upstream) fn connection(&self) -> Option<Rc<Link>> {
        self.link.borrow().clone()
    }

    /// Returns the connection, if respool's login on it is to be renewed and can be.
    pub(in crate::upstream) fn overdue_link(&self, now_micros: u64) -> Option<Rc<Link>> {
        let link = self.link.borrow().clone()?;
        let takes_login = link.state().protocol == Protocol::Resp3;
        (takes_login && link.renewal.is_due(now_micros)).then_some(link)
    }

    /// Shows the server who respool is.
    pub(in crate::upstream) fn renew_login(&self, request: &[u8]) {
        self.fanout.borrow_mut().login(request);
        self.turn();
    }

    /// Returns the state of the connection: one that is subscribed can be authenticated anew in RESP3.
    fn state(&self) -> State {
        let process = &self.thread.process;
        let server = process.server.load();
        let speaks = server
            .as_ref()
            .is_some_and(|server| server.speaks(Protocol::Resp3));
        let protocol = if speaks && process.login().expires() {
            Protocol::Resp3
        } else {
            Protocol::Resp2
        };
        let is_nobody = self.thread.is_nobody();
        State {
            user: self.user.borrow().clone().filter(|_| is_nobody),
            protocol,
            ..State::INITIAL
        }
    }

    /// Tells whether there is a connection, and it is not lost.
    pub fn is_connected(&self) -> bool {
        self.link.borrow().is_some()
    }

    pub(in crate::upstream) fn stop(&self) {
        if let Some(link) = &*self.link.borrow() {
            link.close("respool is ending");
        }
    }
}

impl SubscriberFrames for Subscriptions {
    fn take(&self, bytes: &[u8], complete: bool) -> Result<bool, Violation> {
        self.gather(bytes, complete)
            .map_err(|_| Violation::NoSubscription)?;
        Ok(!complete || !self.pace.borrow().is_spent())
    }

    fn has_unsent(&self) -> bool {
        !self.touched.borrow().is_empty()
    }
}

impl Upstream {
    /// Subscribes a client to `names`. `None`: done, its confirmations are placed. The receiver tells later, and is dropped
    /// unanswered when the client leaves.
    ///
    /// # Errors
    /// The client would have more subscriptions than `limits.max_client_subscriptions`.
    pub fn subscribe<'a>(
        self: &Rc<Self>,
        subscriber: SubscriberId,
        outlet: &Rc<Outlet>,
        kind: TopicKind,
        names: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Option<oneshot::Receiver<SubscribeResult>>, TooManySubscriptions> {
        let subscriptions = self.subscriptions_of(outlet);
        let begun = subscriptions
            .fanout
            .borrow_mut()
            .subscribe(subscriber, outlet, kind, names);
        let told = match begun {
            SubscriptionStart::TooMany => {
                self.thread.counters.bound(Bound::Subscriptions).add(1);
                return Err(TooManySubscriptions);
            }
            SubscriptionStart::Confirmed(confirmations) => {
                subscriptions.confirm(subscriber, outlet, (kind, true), &confirmations);
                None
            }
            SubscriptionStart::Asked => Some(subscriptions.expect(subscriber)),
        };
        if !subscriptions.is_kept.replace(true) {
            self.thread.keep(
                "keeps subscriptions",
                Rc::clone(self).keep_subscribed(Rc::clone(subscriptions)),
            );
        }
        subscriptions.turn();
        Ok(told)
    }

    /// Keeps a connection for the subscriptions while there are any.
    async fn keep_subscribed(self: Rc<Self>, subscriptions: Rc<Subscriptions>) {
        let mut witness: Option<Rc<Link>> = None;
        while !self.is_stopping() {
            self.pause().await;
            subscriptions.awaits_place.set(true);
            let permit = self.permit(SocketKind::Subscription).await;
            subscriptions.awaits_place.set(false);
            if subscriptions.fanout.borrow().is_empty() {
                break;
            }
            let name = self.name("subscription");
            self.connect_turn(SocketKind::Subscription).await;
            let state = subscriptions.state();
            match connect(&self.thread, &state, name, permit, None).await {
                Ok(link) => {
                    self.connected();
                    if witness.take().is_some_and(|link| link.is_alive()) {
                        self.suspect_somebody(&subscriptions);
                    }
                    subscriptions.opened(&link);
                    let lost = || self.lost_subscriptions(&subscriptions);
                    let ended = link.drive(|_| subscriptions.turn(), lost).await;
                    witness = self.witness_of(&ended);
                    if witness.is_none() {
                        // Otherwise the server is there, and nobody is to wait for it.
                        self.lived(&link, &ended);
                    }
                    tracing::debug!(
                        cause = ended.cause.map(LossCause::label),
                        "the subscription connection to the server ended: {}",
                        ended.why
                    );
                }
                Err(error) => self.failed(&error),
            }
            // From here to its end nothing is awaited: who subscribes now finds it kept, or not.
            if subscriptions.fanout.borrow().is_empty() {
                break;
            }
        }
        subscriptions.is_kept.set(false);
    }

    fn lost_subscriptions(&self, subscriptions: &Subscriptions) {
        // What came before the end is delivered.
        subscriptions.turn();
        let subscribers = subscriptions.lost();
        if subscribers == 0 || self.is_stopping() {
            return;
        }
        self.thread.counters.subscription_losses.add(1);
        let on_loss = self.thread.settings().upstream.on_subscription_loss;
        let what = match on_loss {
            OnSubscriptionLoss::Resubscribe => "they are subscribed again",
            OnSubscriptionLoss::Close => "they are closed",
        };
        let now = self.thread.clock.now_micros();
        if let Some(unwritten) = self.thread.loss_lines.subscriptions.write(now) {
            tracing::warn!(
                worker = self.thread.index,
                subscribers,
                unwritten,
                "the connection of the subscriptions is lost: their clients may miss messages; {what} \
                 (upstream.on_subscription_loss)"
            );
        }
        if on_loss == OnSubscriptionLoss::Close {
            subscriptions.close_subscribers();
        }
    }
}

/// A client would have more subscriptions than `limits.max_client_subscriptions`.
#[derive(Debug)]
pub struct TooManySubscriptions;
