//! Subscriptions of one client, served by the worker's subscription connection.

use std::pin::Pin as Pinned;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use redis_protocol::resp3::decode::complete::decode;
use redis_protocol::resp3::types::OwnedFrame;
use tokio::sync::oneshot::Receiver;

use super::pinned::refusal;
use super::requests::{Next, UNREACHABLE};
use super::task::{Client, Done, Wait};
use crate::auth::is_unknown_command;
use crate::command::{CommandId, Delays, Local, PinReason, spec};
use crate::fanout::{ChannelAudiences, TopicKind};
use crate::identity::Flag;
use crate::resp::Request;
use crate::resp::speak::{error, push_bulk, push_header};
use crate::session::{Protocol, Route, Routed, malformed};
use crate::telemetry::Bound;
use crate::texts::{ServerVersion, exec_aborted, subscribers_may_not, unknown_command};
use crate::upstream::{OwnReply, PinError, SubscribeResult, Subscriptions};

const TOO_MANY: &str =
    "ERR respool: too many subscriptions of one client (limits.max_client_subscriptions)";

impl Client {
    /// A subscription command.
    pub(super) fn subscription(
        &mut self,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        if self.outlet.outstanding() > 0 {
            // Its confirmations stand behind the replies to what was sent before.
            self.wait = Wait::Answers;
            return Next::Wait;
        }
        if self.pin.is_some() && self.outlet.transaction().open {
            return self.queued_subscription(request, command);
        }
        let length = request.bytes().len();
        let server = self.site.thread.server_version();
        if let Some(reply) = malformed(server, request, command) {
            self.count(1, command);
            self.answer(&reply);
            return Next::Used(length);
        }
        let verb = command.map_or("", |id| spec(id).name);
        let Some((kind, subscribes)) = TopicKind::of_verb(verb.as_bytes()) else {
            return Next::Used(length);
        };
        // Of a user that is not respool's own a subscription is asked for anyway.
        let is_asked = subscribes && self.session.state.user.is_some();
        if !is_asked && let Some(next) = self.is_subscriber_refused(command, length) {
            return next;
        }
        if subscribes {
            return self.subscribe(kind, request, command);
        }
        if self.card.has(Flag::Pubsub)
            && let Some(next) = self.behind_messages()
        {
            return next;
        }
        self.count(1, command);
        if self.means_many_topics(kind, subscribes, request) {
            self.with_many_topics(kind, subscribes, request);
            return Next::Used(length);
        }
        let names = (request.count() > 1).then(|| request.arguments().skip(1));
        let subscriptions = self.subscriptions();
        let told = subscriptions.unsubscribe(self.card.id(), &self.outlet, kind, names);
        self.confirmed_by(told, request);
        Next::Used(length)
    }

    /// Waits for the server where its confirmation is needed.
    fn confirmed_by(&mut self, told: Option<Receiver<SubscribeResult>>, request: &Request<'_>) {
        match told {
            None => self.has_subscribed(Some(Ok(()))),
            Some(told) => {
                let limit = self.subscription_limit();
                let thread = Rc::clone(&self.site.thread);
                let unknown = unknown_command(thread.server_version(), request);
                self.wait_subscribed(Box::pin(async move {
                    let result = thread.within(limit, told).await;
                    let result = result.and_then(Result::ok);
                    Done::Subscribed(result.map(|result| in_own_words(result, || unknown)))
                }));
            }
        }
    }

    /// Waits for what a subscription comes to: for the server, where the connection of subscribers is there.
    pub(super) fn wait_subscribed(&mut self, task: Pinned<Box<dyn Future<Output = Done>>>) {
        let is_there = self.subscriptions().is_connected();
        self.wait = match is_there {
            true => Wait::Task(task),
            false => Wait::Loan(task),
        };
    }

    /// Where the client's subscriptions are.
    pub(super) fn subscriptions(&self) -> &Rc<Subscriptions> {
        self.site.upstream.subscriptions_of(&self.outlet)
    }

    /// How long a subscription waits for a connection, and for the server.
    pub(super) fn subscription_limit(&self) -> Duration {
        let settings = &self.site.thread.settings().upstream;
        settings.queue.timeout.max(settings.borrow_timeout)
    }

    fn subscribe(
        &mut self,
        kind: TopicKind,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        if self.session.state.user.is_some() {
            // The subscription connection is another user's: it is asked whether this one may.
            match self.permission.take().map(|permission| *permission) {
                None => return self.ask_permission(request),
                Some(Err(reply)) => {
                    self.count(1, command);
                    self.answer(&reply);
                    self.end_if_lost(&reply);
                    return Next::Used(request.bytes().len());
                }
                Some(Ok(())) => {}
            }
        }
        self.note_subscribes();
        self.subscriptions()
            .is_for(self.session.state.user.as_ref());
        self.count(1, command);
        let upstream = &self.site.upstream;
        if self.subscriptions().counts(self.card.id()).total() == 0 {
            upstream.place_subscriber(&self.outlet);
        }
        let names = request.arguments().skip(1);
        if self.means_many_topics(kind, true, request) {
            match self.subscriptions().may_subscribe_to(self.card.id(), names) {
                Err(_) => self.answer(&too_many()),
                Ok(()) => self.with_many_topics(kind, true, request),
            }
            return Next::Used(request.bytes().len());
        }
        match upstream.subscribe(self.card.id(), &self.outlet, kind, names) {
            Err(_) => self.answer(&too_many()),
            Ok(told) => {
                // From here on the names are kept, whether the server answers or not.
                self.note_kept(0);
                self.confirmed_by(told, request);
            }
        }
        Next::Used(request.bytes().len())
    }

    /// The server has answered SUBSCRIBE or UNSUBSCRIBE; `None`: it is away.
    pub(super) fn has_subscribed(&mut self, result: Option<SubscribeResult>) {
        match result {
            // Confirmations are shown whatever CLIENT REPLY says, as in Redis 7.0.
            Some(Ok(())) => {
                self.note_subscribes();
                self.session.take_visible();
            }
            Some(Err(reply)) => self.reply(&reply),
            None => {
                let subscriptions = self.subscriptions();
                subscriptions.abandon(self.card.id());
                // While the server is there and takes respool, what is waited for is a place, or the turn to connect; or else its
                // answer.
                let upstream = &self.site.upstream;
                let awaits_connection = subscriptions.awaits_connection(upstream.is_away());
                let error = match (subscriptions.awaits_place(), awaits_connection) {
                    (true, _) => PinError::Timeout,
                    (false, true) => upstream.not_in_time(),
                    (false, false) => PinError::Unreachable,
                };
                if matches!(error, PinError::Timeout) {
                    self.site.thread.counters.bound(Bound::BorrowTimeout).add(1);
                }
                self.reply(&refusal(error));
            }
        }
        self.note_subscriptions();
    }

    /// What the client's user may have is to be looked at again: it may have changed since the server was asked.
    fn note_subscribes(&self) {
        if let Some(user) = &self.session.state.user {
            self.site.user_watch.subscribes(user);
        }
    }

    fn ask_permission(&mut self, request: &Request<'_>) -> Next {
        let upstream = Rc::clone(&self.site.upstream);
        let (group, state) = (self.group(), self.session.state.clone());
        let request = request.bytes().to_vec();
        self.note_kept(request.len());
        self.wait = Wait::Loan(Box::pin(async move {
            Done::Permission(upstream.may_subscribe(group, state, request).await)
        }));
        Next::Wait
    }

    /// Whether the client's user may do what the request at hand asks for, or why that is not known.
    pub(super) fn permission_told(&mut self, told: Result<Result<(), Vec<u8>>, PinError>) {
        self.note_kept(0);
        self.permission = Some(Box::new(match told {
            Ok(permission) => permission,
            Err(error) => Err(refusal(error)),
        }));
    }

    /// PUBSUB NUMSUB and SHARDNUMSUB: the server counts connections, its users mean clients.
    pub(super) fn count_subscribers(
        &mut self,
        kind: TopicKind,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        let most = self.site.thread.settings().upstream.max_shared_request;
        if request.bytes().len() > most {
            return self.on_pin(PinReason::LargeRequest, request, command);
        }
        let pinned = self.pin.as_ref().map(|pin| Rc::clone(pin.link()));
        let link = match pinned {
            Some(link) => Some(link),
            None if self.link_ready(request.bytes(), Delays::NONE) => self.link.clone(),
            None if self.refusing.is_some() => return Next::Used(0),
            None => None,
        };
        let Some(link) = link else {
            return Next::Wait;
        };
        let (tell, told) = tokio::sync::oneshot::channel();
        link.send_own(request.bytes(), OwnReply::Tell(tell));
        if self.pin.is_none() {
            self.site.upstream.served(&link, 1);
        }
        let process = Arc::clone(&self.site.thread.process);
        self.wait = Wait::Task(Box::pin(async move {
            match told.await {
                Ok(reply) => Done::Reply(corrected(reply, kind, &process.audiences)),
                Err(_) => Done::Reply(UNREACHABLE.to_vec()),
            }
        }));
        Next::Used(request.bytes().len())
    }

    /// Shows what the client is subscribed to.
    pub(super) fn note_subscriptions(&mut self) {
        self.note_kept(0);
        let counts = self.subscriptions().counts(self.card.id());
        let shown = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.card.channels.set(shown(counts.channels));
        self.card.patterns.set(shown(counts.patterns));
        self.card.shard_channels.set(shown(counts.shard_channels));
        let is_subscribed = counts.total() > 0;
        self.flag(Flag::Pubsub, is_subscribed);
        self.resident.may_be_silent.set(is_subscribed);
        self.is_listening = is_subscribed && self.session.state.protocol == Protocol::Resp2;
    }

    /// The client is subscribed to nothing any more.
    pub(super) fn unsubscribe_all(&mut self) {
        while self.subscriptions().leave_some(self.card.id()) {}
        self.note_subscriptions();
    }

    /// A request of a RESP2 subscriber, which may do little else. `None`: it goes its usual way.
    pub(super) fn amid_subscriptions(
        &mut self,
        request: &Request<'_>,
        routed: &Routed,
    ) -> Option<Next> {
        match routed.route {
            Route::Subscribed | Route::Alien | Route::Local(Local::Quit | Local::Reset) => {
                return None;
            }
            _ => {}
        }
        let length = request.bytes().len();
        // What the table does not know the server answers: nearly always, that it does not know it either.
        let server = self.site.thread.server_version();
        let reply = match subscriber_refusal(server, request, routed) {
            Some(reply) => reply,
            None if is_ping(routed.command) => {
                if let Some(next) = self.behind_messages() {
                    return Some(next);
                }
                match self.is_subscriber_refused(routed.command, length) {
                    Some(next) => return Some(next),
                    None => pong(request),
                }
            }
            None => return None,
        };
        self.count(1, routed.command);
        self.answer(&reply);
        Some(Next::Used(length))
    }

    /// Has a request of a subscriber wait, once, until what the server had sent on the connection of its subscriptions by now has
    /// been placed with it: what is published before it is seen before its answer, as on one connection. `None`: it has, and
    /// goes on having until the request is counted, whatever else it waits for.
    pub(super) fn behind_messages(&mut self) -> Option<Next> {
        if self.is_announced {
            return None;
        }
        if self.outlet.outstanding() > 0 {
            self.wait = Wait::Answers;
            return Some(Next::Wait);
        }
        let passed = self.subscriptions().mark_messages()?;
        self.wait = Wait::Task(Box::pin(async move {
            // Dropped when the mark has been passed, or is lost with its connection.
            let _ = passed.await;
            Done::Announced
        }));
        Some(Next::Wait)
    }

    /// The same for PING of a subscriber in RESP3, which may send anything.
    pub(super) fn pings_behind_messages(&mut self, command: Option<CommandId>) -> Option<Next> {
        let is_subscriber = self.card.has(Flag::Pubsub);
        (is_subscriber && is_ping(command))
            .then(|| self.behind_messages())
            .flatten()
    }
}

/// The server was asked by respool: where it does not know the command it is told in the words of the client's request.
pub(super) fn in_own_words(
    result: SubscribeResult,
    unknown: impl FnOnce() -> Vec<u8>,
) -> SubscribeResult {
    result.map_err(|error| match is_unknown_command(&error) {
        true => unknown(),
        false => error,
    })
}

fn is_ping(command: Option<CommandId>) -> bool {
    command.is_some_and(|id| spec(id).name == "ping")
}

/// What a subscriber in RESP2 gets for a request that is known and is none of the few that it may send.
pub(super) fn subscriber_refusal(
    server: ServerVersion,
    request: &Request<'_>,
    routed: &Routed,
) -> Option<Vec<u8>> {
    let name = spec(routed.command?).name;
    let wrong = malformed(server, request, routed.command);
    wrong.or_else(|| (name != "ping").then(|| may_not(server, name)))
}

/// What a client gets that would have more subscriptions than it may.
pub(super) fn too_many() -> Vec<u8> {
    error(TOO_MANY)
}

/// The server's answer to PUBSUB NUMSUB with its counts of connections made counts of clients.
pub(super) fn corrected(reply: Vec<u8>, kind: TopicKind, audiences: &ChannelAudiences) -> Vec<u8> {
    let Ok(Some((OwnedFrame::Array { data, .. }, _))) = decode(&reply) else {
        return reply;
    };
    let mut corrected = Vec::with_capacity(reply.len());
    push_header(&mut corrected, b'*', data.len() as i64);
    for pair in data.chunks(2) {
        let [
            OwnedFrame::BlobString { data: channel, .. },
            OwnedFrame::Number { data: count, .. },
        ] = pair
        else {
            return reply;
        };
        push_bulk(&mut corrected, channel);
        let count = count + audiences.correction(kind, channel);
        push_header(&mut corrected, b':', count.max(0));
    }
    corrected
}

/// What the command `name` gets of a RESP2 subscriber.
fn may_not(server: ServerVersion, name: &str) -> Vec<u8> {
    let refusal = subscribers_may_not(server, name);
    match name {
        "exec" => exec_aborted(&refusal),
        _ => refusal,
    }
}

/// The answer to PING of a RESP2 subscriber.
fn pong(request: &Request<'_>) -> Vec<u8> {
    if request.count() > 2 {
        return error("ERR wrong number of arguments for 'ping' command");
    }
    let mut reply = Vec::new();
    push_header(&mut reply, b'*', 2);
    push_bulk(&mut reply, b"pong");
    push_bulk(&mut reply, request.argument(1).unwrap_or_default());
    reply
}
