//! Subscriptions of one client, served by the worker's subscription connection.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use redis_protocol::resp3::decode::complete::decode;
use redis_protocol::resp3::types::OwnedFrame;

use super::refusals::{UNREACHABLE, refusal};
use super::story::Awaited;
use super::{Client, Next};
use crate::command::{CommandId, Delays, PinReason};
use crate::fanout::{ChannelAudiences, TopicKind};
use crate::identity::ClientFlag;
use crate::resp::Request;
use crate::resp::speak::{error, push_bulk, push_header};
use crate::session::Protocol;
use crate::telemetry::Bound;
use crate::texts::is_unknown_command;
use crate::upstream::{PinError, SubscribeResult, Subscriptions};

const TOO_MANY: &str =
    "ERR respool: too many subscriptions of one client (limits.max_client_subscriptions)";

impl Client {
    /// Returns where the client's subscriptions are.
    pub(super) fn subscriptions(&self) -> &Rc<Subscriptions> {
        self.clients.upstream.subscriptions_of(&self.outlet)
    }

    /// Returns how long a subscription waits for a connection, and for the server.
    pub(super) fn subscription_limit(&self) -> Duration {
        let settings = &self.clients.thread.settings().upstream;
        settings.queue.timeout.max(settings.borrow_timeout)
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
                subscriptions.abandon(self.record.id());
                // While the server is there and takes respool, what is waited for is a place, or the turn to connect; or else its
                // answer.
                let upstream = &self.clients.upstream;
                let awaits_connection = subscriptions.awaits_connection(upstream.is_away());
                let error = match (subscriptions.awaits_place(), awaits_connection) {
                    (true, _) => PinError::Timeout,
                    (false, true) => upstream.not_in_time(),
                    (false, false) => PinError::Unreachable,
                };
                if matches!(error, PinError::Timeout) {
                    self.clients
                        .thread
                        .counters
                        .bound(Bound::BorrowTimeout)
                        .add(1);
                }
                self.reply(&refusal(error));
            }
        }
        self.note_subscriptions();
    }

    /// Notes that what the client's user may have is to be looked at again: it may have changed since the server was asked.
    pub(super) fn note_subscribes(&self) {
        if let Some(user) = &self.session.state.user {
            self.clients.user_watch.subscribes(user);
        }
    }

    /// PUBSUB NUMSUB and SHARDNUMSUB: the server counts connections, its users mean clients.
    pub(super) fn count_subscribers(
        &mut self,
        kind: TopicKind,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        let most = self.clients.thread.settings().upstream.max_shared_request;
        if request.bytes().len() > most {
            return self.on_pin(PinReason::LargeRequest, request, command);
        }
        let pinned = self.pin.as_ref().map(|pin| Rc::clone(pin.link()));
        let link = match pinned {
            Some(link) => Some(link),
            None => match self.link_ready(request.bytes(), Delays::NONE) {
                Ok(()) => self.link.clone(),
                Err(next) => return next,
            },
        };
        let Some(link) = link else {
            return Next::Wait;
        };
        let told = link.ask(request.bytes());
        if self.pin.is_none() {
            self.clients.upstream.served(&link, 1);
        }
        let process = Arc::clone(&self.clients.thread.process);
        self.then(async move |client: &mut Self| {
            match client.meanwhile(told, Awaited::Server).await? {
                Ok(reply) => client.reply(&corrected(reply, kind, &process.audiences)),
                Err(_) => client.reply(UNREACHABLE),
            }
            Ok(())
        });
        Next::Used(request.bytes().len())
    }

    /// Shows what the client is subscribed to.
    pub(super) fn note_subscriptions(&mut self) {
        self.note_kept(0);
        let counts = self.subscriptions().counts(self.record.id());
        let shown = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.record.channels.set(shown(counts.channels));
        self.record.patterns.set(shown(counts.patterns));
        self.record.shard_channels.set(shown(counts.shard_channels));
        let is_subscribed = counts.total() > 0;
        self.flag(ClientFlag::Pubsub, is_subscribed);
        self.entry.may_be_silent.set(is_subscribed);
    }

    /// Tells the protocol in which the client is subscribed to something.
    pub(super) fn subscribed(&self) -> Option<Protocol> {
        let is_subscribed = self.record.has(ClientFlag::Pubsub);
        is_subscribed.then_some(self.session.state.protocol)
    }

    /// Tells whether the client is subscribed, in RESP2: it may do little else.
    pub(super) fn is_listening(&self) -> bool {
        self.subscribed() == Some(Protocol::Resp2)
    }

    /// The client is subscribed to nothing any more.
    pub(super) fn unsubscribe_all(&mut self) {
        while self.subscriptions().leave_some(self.record.id()) {}
        self.note_subscriptions();
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

/// Returns what a client gets that would have more subscriptions than it may.
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

/// The answer to PING of a RESP2 subscriber.
pub(super) fn pong(request: &Request<'_>) -> Vec<u8> {
    if request.count() > 2 {
        return error("ERR wrong number of arguments for 'ping' command");
    }
    let mut reply = Vec::new();
    push_header(&mut reply, b'*', 2);
    push_bulk(&mut reply, b"pong");
    push_bulk(&mut reply, request.argument(1).unwrap_or_default());
    reply
}
