//! SUBSCRIBE and its like, served by the worker's subscription connection, and PING of a subscriber.

use std::rc::Rc;

use tokio::sync::oneshot::Receiver;

use crate::client::Client;
use crate::client::questions::ECHO;
use crate::client::refusals::refusal;
use crate::client::story::{Awaited, SlowRequest, Told};
use crate::client::subscribed::{in_own_words, pong, too_many};
use crate::command::spec;
use crate::fanout::TopicKind;
use crate::identity::ClientFlag;
use crate::resp::Request;
use crate::session::malformed;
use crate::telemetry::Bound;
use crate::texts::unknown_command;
use crate::upstream::SubscribeResult;

impl Client {
    /// Tells a subscription command. Nothing is outstanding: its confirmations stand behind the replies to what was sent before.
    pub(super) async fn subscription(&mut self, slow: &SlowRequest) -> Told {
        let (request, command) = (slow.request(), slow.command());
        if self.pin.is_some() && self.outlet.transaction().is_open() {
            return self
                .until_done(slow, |client, request| {
                    client.queued_subscription(request, command)
                })
                .await;
        }
        let server = self.clients.thread.server_version();
        if let Some(reply) = malformed(server, &request, command) {
            self.answer_counted(slow, &reply);
            return Ok(());
        }
        let verb = command.map_or("", |id| spec(id).name);
        let Some((kind, subscribes)) = TopicKind::of_verb(verb.as_bytes()) else {
            return Ok(());
        };
        // Of a user that is not respool's own a subscription is asked for anyway.
        let is_asked = subscribes && self.session.state.user.is_some();
        if !is_asked && let Some(reply) = self.said_while_busy(ECHO).await? {
            self.answer_counted(slow, &reply);
            return Ok(());
        }
        if subscribes {
            return self.subscribe(kind, slow).await;
        }
        if self.record.has(ClientFlag::Pubsub) {
            self.behind_messages().await?;
        }
        self.count(1, command);
        if self.means_many_topics(kind, subscribes, &request) {
            return self.with_many_topics(kind, subscribes, &request).await;
        }
        let names = (request.count() > 1).then(|| request.arguments().skip(1));
        let subscriptions = self.subscriptions();
        let told = subscriptions.unsubscribe(self.record.id(), &self.outlet, kind, names);
        self.confirmed(told, slow).await
    }

    async fn subscribe(&mut self, kind: TopicKind, slow: &SlowRequest) -> Told {
        let (request, command) = (slow.request(), slow.command());
        // The subscription connection is another user's: the server is asked whether this one may.
        if self.session.state.user.is_some()
            && let Err(reply) = self.may_subscribe(slow).await?
        {
            self.answer_counted(slow, &reply);
            self.end_if_lost(&reply);
            return Ok(());
        }
        self.note_subscribes();
        self.subscriptions()
            .is_for(self.session.state.user.as_ref());
        self.count(1, command);
        let upstream = &self.clients.upstream;
        if self.subscriptions().counts(self.record.id()).total() == 0 {
            upstream.place_subscriber(&self.outlet);
        }
        if !self.may_ask_for(kind, &request).await? {
            self.has_subscribed(None);
            return Ok(());
        }
        let upstream = &self.clients.upstream;
        let names = request.arguments().skip(1);
        if self.means_many_topics(kind, true, &request) {
            match self
                .subscriptions()
                .may_subscribe_to(self.record.id(), names)
            {
                Err(_) => self.answer(&too_many()),
                Ok(()) => self.with_many_topics(kind, true, &request).await?,
            }
            return Ok(());
        }
        match upstream.subscribe(self.record.id(), &self.outlet, kind, names) {
            Err(_) => self.answer(&too_many()),
            Ok(told) => {
                // From here on the names are kept, whether the server answers or not.
                self.note_kept(0);
                self.confirmed(told, slow).await?;
            }
        }
        Ok(())
    }

    /// Waits until the server may be asked for what a request names. False: it was not in time.
    async fn may_ask_for(&mut self, kind: TopicKind, request: &Request<'_>) -> Told<bool> {
        let names = request.arguments().skip(1);
        if self.subscriptions().may_ask_for(kind, names) {
            return Ok(true);
        }
        let counters = &self.clients.thread.counters;
        counters.bound(Bound::UnwantedTopics).add(1);
        let (upstream, outlet) = (Rc::clone(&self.clients.upstream), Rc::clone(&self.outlet));
        let limit = self.subscription_limit();
        let within = async move {
            let may_ask = upstream.subscriptions_of(&outlet).until_it_may_ask();
            upstream.thread.within(limit, may_ask).await
        };
        let is_in_time = self.meanwhile(within, Awaited::Turn).await?;
        Ok(is_in_time.is_some())
    }

    /// Waits for the server where its confirmation is needed.
    async fn confirmed(
        &mut self,
        told: Option<Receiver<SubscribeResult>>,
        slow: &SlowRequest,
    ) -> Told {
        let result = match told {
            None => Some(Ok(())),
            Some(told) => {
                let limit = self.subscription_limit();
                let thread = Rc::clone(&self.clients.thread);
                let within = async move { thread.within(limit, told).await };
                let result = self.meanwhile(within, self.awaits_confirmation()).await?;
                result.and_then(Result::ok)
            }
        };
        let server = self.clients.thread.server_version();
        let unknown = || unknown_command(server, &slow.request());
        self.has_subscribed(result.map(|result| in_own_words(result, unknown)));
        Ok(())
    }

    /// Names what a confirmation waits for: the server's answer, where the connection of subscribers is there.
    pub(in crate::client) fn awaits_confirmation(&self) -> Awaited {
        match self.subscriptions().is_connected() {
            true => Awaited::Server,
            false => Awaited::Loan,
        }
    }

    /// Asks whether the client's user may subscribe to what it asks for, or what it gets otherwise.
    async fn may_subscribe(&mut self, slow: &SlowRequest) -> Told<Result<(), Vec<u8>>> {
        let upstream = Rc::clone(&self.clients.upstream);
        let (group, state) = (self.group(), self.session.state.clone());
        let request = slow.request().bytes().to_vec();
        self.note_kept(request.len());
        let asking = upstream.may_subscribe(group, state, request);
        let told = self.meanwhile(asking, Awaited::Loan).await?;
        self.note_kept(0);
        Ok(told.unwrap_or_else(|error| Err(refusal(error))))
    }

    /// Answers PING of a subscriber. Nothing is outstanding.
    pub(super) async fn ping_of_subscriber(&mut self, slow: &SlowRequest) -> Told {
        self.behind_messages().await?;
        if !self.is_listening() {
            return self.send_plain(slow).await;
        }
        let reply = match self.said_while_busy(ECHO).await? {
            Some(reply) => reply,
            None => pong(&slow.request()),
        };
        self.answer_counted(slow, &reply);
        Ok(())
    }

    /// Waits until what the server had sent on the connection of the client's subscriptions by now has been placed with it: what is
    /// published before a request is seen before its answer, as on one connection.
    async fn behind_messages(&mut self) -> Told {
        let Some(passed) = self.subscriptions().mark_messages() else {
            return Ok(());
        };
        // Dropped when the mark has been passed, or is lost with its connection.
        let _ = self.meanwhile(passed, Awaited::Server).await?;
        Ok(())
    }

    fn answer_counted(&mut self, slow: &SlowRequest, reply: &[u8]) {
        self.count(1, slow.command());
        self.answer(reply);
    }
}
