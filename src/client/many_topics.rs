//! Commands that name many topics at once, a thousand at a time: the worker's other clients have their turns between them.
//!
//! The server sees several commands instead of one. Confirmations are the same, and so is their order; only what the
//! server refuses (ACL) is refused from there on, not altogether.

use std::rc::Rc;
use std::time::Duration;

use super::Client;
use super::story::{Awaited, Told};
use super::subscribed::{in_own_words, too_many};
use crate::fanout::{SubscriberId, TOPIC_BYTES, TopicKind};
use crate::outlet::Outlet;
use crate::resp::Request;
use crate::texts::unknown_command;
use crate::upstream::{SubscribeResult, TOPICS_A_TURN, Upstream};

/// Says who subscribes, and how long it waits for the server each time.
struct Subscriber {
    upstream: Rc<Upstream>,
    outlet: Rc<Outlet>,
    id: SubscriberId,
    limit: Duration,
}

impl Subscriber {
    /// Waits for the server's answer, if it was asked. `None`: it is away.
    async fn confirmed(
        &self,
        told: Option<tokio::sync::oneshot::Receiver<SubscribeResult>>,
    ) -> Option<SubscribeResult> {
        let result = match told {
            None => Ok(()),
            Some(told) => self.upstream.thread.within(self.limit, told).await?.ok()?,
        };
        tokio::task::yield_now().await;
        Some(result)
    }

    async fn subscribe(self, kind: TopicKind, request: &Request<'_>) -> Option<SubscribeResult> {
        let mut names = request.arguments().skip(1).peekable();
        while names.peek().is_some() {
            let some = names.by_ref().take(TOPICS_A_TURN);
            let Ok(told) = self.upstream.subscribe(self.id, &self.outlet, kind, some) else {
                return Some(Err(too_many()));
            };
            let result = self.confirmed(told).await?;
            let server = self.upstream.thread.server_version();
            let result = in_own_words(result, || unknown_command(server, request));
            if let Err(error) = result {
                return Some(Err(error));
            }
        }
        Some(Ok(()))
    }

    async fn unsubscribe(self, kind: TopicKind, request: &Request<'_>) -> Option<SubscribeResult> {
        let mut names = request.arguments().skip(1).peekable();
        let is_of_all = names.peek().is_none();
        loop {
            // It may have been moved.
            let subscriptions = self.upstream.subscriptions_of(&self.outlet);
            let told = if is_of_all {
                let some = subscriptions.some_topics(self.id, kind, TOPICS_A_TURN);
                if some.is_empty() {
                    break;
                }
                let some = some.iter().map(|name| &**name);
                subscriptions.unsubscribe(self.id, &self.outlet, kind, Some(some))
            } else {
                if names.peek().is_none() {
                    break;
                }
                let some = names.by_ref().take(TOPICS_A_TURN);
                subscriptions.unsubscribe(self.id, &self.outlet, kind, Some(some))
            };
            if let Err(error) = self.confirmed(told).await? {
                return Some(Err(error));
            }
        }
        Some(Ok(()))
    }
}

impl Client {
    /// Tells whether a command names, or means, more topics than are looked at in one turn.
    pub(super) fn means_many_topics(
        &self,
        kind: TopicKind,
        subscribes: bool,
        request: &Request<'_>,
    ) -> bool {
        if subscribes || request.count() > 1 {
            return request.count() > TOPICS_A_TURN;
        }
        let counts = self.subscriptions().counts(self.record.id());
        let of_kind = match kind {
            TopicKind::Channel => counts.channels,
            TopicKind::Pattern => counts.patterns,
            TopicKind::Shard => counts.shard_channels,
        };
        of_kind > TOPICS_A_TURN
    }

    /// A command of many topics. It has been looked at, and may run.
    pub(super) async fn with_many_topics(
        &mut self,
        kind: TopicKind,
        subscribes: bool,
        request: &Request<'_>,
    ) -> Told {
        let subscriber = Subscriber {
            upstream: Rc::clone(&self.clients.upstream),
            outlet: Rc::clone(&self.outlet),
            id: self.record.id(),
            limit: self.subscription_limit(),
        };
        // As if it had them all: they come while nobody looks.
        let to_come = if subscribes { request.count() } else { 0 };
        self.note_kept(2 * request.bytes().len() + to_come * TOPIC_BYTES);
        let awaited = self.awaits_confirmation();
        let result = match subscribes {
            true => {
                let work = subscriber.subscribe(kind, request);
                self.meanwhile(work, awaited).await?
            }
            false => {
                let work = subscriber.unsubscribe(kind, request);
                self.meanwhile(work, awaited).await?
            }
        };
        self.has_subscribed(result);
        Ok(())
    }

    /// Tells whether the client has more topics than are looked at in one turn.
    pub(super) fn has_many_topics(&self) -> bool {
        self.subscriptions().counts(self.record.id()).total() > TOPICS_A_TURN
    }

    /// Has the client leave its topics, some in each turn.
    pub(super) async fn leave_topics(&mut self) -> Told {
        let subscriptions = Rc::clone(self.subscriptions());
        let id = self.record.id();
        let leaving = async move {
            while subscriptions.leave_some(id) {
                tokio::task::yield_now().await;
            }
        };
        self.meanwhile(leaving, Awaited::Server).await
    }
}
