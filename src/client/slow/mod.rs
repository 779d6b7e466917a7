//! Requests that are not done with at once. Each is a story, told in its order: it waits at the client's gate and nowhere else, and
//! nobody looks at its request a second time.
//!
//! `subscribe` is a subscription command, or PING of a subscriber; `blocking` a blocking call, `wait` WAIT, `multi` what concerns
//! transactions, `monitor` MONITOR, `debugging` a script under the server's debugger, `large` a request of megabytes.

mod blocking;
mod debugging;
mod large;
mod monitor;
mod multi;
mod subscribe;
mod wait;

use std::rc::Rc;

use crate::client::story::{SlowRequest, Story, Told};
use crate::client::{Client, Next, Wait};
use crate::command::{Delays, PinReason};
use crate::exchange::RequestKind;
use crate::link::Link;
use crate::resp::Request;
use crate::session::{Destination, Mode, Route, Routed, StoryKind};
use crate::transport::READ_SIZE;

impl Client {
    /// Has `story` told before the next request is looked at: the request at hand is done with but for what the story waits for.
    pub(super) fn then(&mut self, story: impl AsyncFnOnce(&mut Self) -> Told + 'static) {
        self.wait = Wait::Next(Box::new(|client| {
            Box::pin(async move { story(client).await })
        }));
    }

    /// Hands a request to its story, which begins when everything before it has been answered.
    pub(super) fn begin_slow(&mut self, bytes: Vec<u8>, routed: Routed) {
        if self.outlet.outstanding() > 0 && matches!(self.wait, Wait::Nothing) {
            self.wait = Wait::Answers;
        }
        self.slow = Some(Box::new(SlowRequest { bytes, routed }));
    }

    /// Tells whether a request that cannot go now waits in a story: one for which a connection is to be lent, or that needs one which is. Any
    /// other is looked at when what it waits for has come.
    pub(super) fn takes_a_story(&self, next: &Next, routed: &Routed) -> bool {
        let is_raw = self.pin.as_ref().is_some_and(|pin| pin.link().is_raw());
        let shares = match &routed.route {
            Route::Shared | Route::Fenced => true,
            Route::Transaction(_) => self.pin.is_none(),
            _ => false,
        };
        match (next, &self.wait) {
            (Next::Lend(_), _) => true,
            (Next::Wait, Wait::Answers) => !shares && !is_raw && routed.route != Route::Unsettled,
            _ => false,
        }
    }

    /// Begins the story of a request.
    pub(super) fn story(&mut self, slow: Box<SlowRequest>) -> Story<'_> {
        // Each is boxed by itself: none is as large as the largest.
        macro_rules! told {
            (|$client:ident, $slow:ident| $story:expr) => {
                Box::pin(async move {
                    let ($client, $slow) = (self, slow);
                    let told = $story.await;
                    $client.is_told(*$slow, told)
                })
            };
        }
        let mode = Mode {
            is_unplaced: self.has_unplaced_open(),
            ..self.mode()
        };
        match self.destination(&slow.routed, &slow.request(), &mode) {
            Destination::Story(kind) => match kind {
                StoryKind::Subscription => told!(|client, slow| client.subscription(&slow)),
                StoryKind::Ping => told!(|client, slow| client.ping_of_subscriber(&slow)),
                StoryKind::Blocking(reason) => {
                    Box::pin(async move { self.blocking(&slow, reason).await })
                }
                StoryKind::Exec => told!(|client, slow| client.exec(&slow)),
                StoryKind::Wait => told!(|client, slow| client.wait_for_replicas(&slow)),
                StoryKind::Monitor => told!(|client, slow| client.monitor(&slow)),
                StoryKind::Redirection => told!(|client, slow| client.names_stand_in(&slow)),
                StoryKind::ScriptDebug => told!(|client, slow| client.script_debug(&slow)),
                StoryKind::Debugged => told!(|client, slow| client.debugged(&slow)),
                StoryKind::Publish => told!(|client, slow| client.publish(&slow)),
            },
            Destination::Begin(verb) => {
                told!(|client, slow| client.begin_transaction(verb, &slow))
            }
            _ => told!(|client, slow| client.until_done(&slow, |client, _| client.go_on(&slow))),
        }
    }

    /// Ends what was announced with CLIENT CACHING before a request that has been sent, or answered.
    fn is_told(&self, slow: SlowRequest, told: Told) -> Told {
        if told.is_ok() && self.slow.is_none() {
            self.caching_ends(self.announcing(), slow.command());
        }
        self.clients.spares.keep(slow.bytes);
        told
    }

    /// Sends a request that leaves no trace wherever its client's requests go.
    pub(super) async fn send_plain(&mut self, slow: &SlowRequest) -> Told {
        let most = self.clients.thread.settings().upstream.max_shared_request;
        let command = slow.command();
        self.until_done(slow, |client, request| {
            if client.refusing.is_some() {
                return client.refuse_one(command, slow.length(), 1);
            }
            if client.pin.is_none() && slow.length() <= most {
                let kind = (RequestKind::Plain, Delays::of(command));
                return client.on_shared(request.bytes(), 1, command, kind);
            }
            client.on_pin(PinReason::LargeRequest, request, command)
        })
        .await
    }

    /// Has `go` try until the request is done with, and waits for what it is to wait for in between.
    pub(super) async fn until_done(
        &mut self,
        slow: &SlowRequest,
        go: impl Fn(&mut Self, &Request<'_>) -> Next,
    ) -> Told {
        loop {
            self.settled().await?;
            match go(self, &slow.request()) {
                Next::Used(1..) => break,
                Next::Slow(routed) => {
                    self.begin_slow(slow.bytes.clone(), *routed);
                    break;
                }
                Next::Used(0) if self.refusing.is_some() => {
                    self.refuse_one(slow.command(), slow.length(), 1);
                    break;
                }
                Next::Used(0) => {}
                Next::Lend(reason) => self.borrow(reason).await?,
                // What is here is all there is.
                Next::More => self.is_drained = true,
                Next::Wait if matches!(self.wait, Wait::Nothing) => break,
                Next::Wait => {}
            }
        }
        self.refuse_nothing_else();
        Ok(())
    }

    /// Waits for what is to be waited for. What came back unsent meanwhile was sent before the request at hand, and goes first.
    pub(super) async fn settled(&mut self) -> Told {
        loop {
            if !matches!(self.wait, Wait::Nothing) {
                self.waited_for().await?;
            } else if self.outlet.has_unsent() {
                self.send_again();
            } else {
                return Ok(());
            }
        }
    }

    /// Waits until the connection lent to the client takes another request; one is borrowed where there is none. `None`: none was lent, and
    /// the request is refused.
    pub(super) async fn lent(
        &mut self,
        slow: &SlowRequest,
        reason: PinReason,
    ) -> Told<Option<Rc<Link>>> {
        let link = self.borrowed(reason).await?;
        if link.is_none() {
            self.refuse_one(slow.command(), slow.length(), 1);
            self.refuse_nothing_else();
        }
        Ok(link)
    }

    /// The same, but that the request is not refused.
    async fn borrowed(&mut self, reason: PinReason) -> Told<Option<Rc<Link>>> {
        while self.refusing.is_none() {
            match self.pin_with_room(reason) {
                Ok(link) => return Ok(Some(link)),
                Err(Next::Lend(reason)) => self.borrow(reason).await?,
                Err(_) => self.waited_for().await?,
            }
        }
        Ok(None)
    }

    /// Refuses a MULTI or a WATCH for which no connection was lent, and what is at hand behind it.
    fn refuse_beginning(&mut self, slow: &SlowRequest) {
        if self.input.is_empty() {
            self.refuse_one(slow.command(), slow.length(), 1);
            return;
        }
        // No transaction that is refused whole is longer: not all that a client has sent is copied.
        let most = self.clients.thread.settings().upstream.max_shared_request + READ_SIZE;
        let behind = &self.input[..self.input.len().min(most)];
        let rest = [&slow.bytes, behind].concat();
        let learned = self.learned();
        self.refuse_transaction(slow.command(), &rest, learned.as_deref());
    }

    /// Refuses a request, and what is at hand behind it.
    pub(super) fn refuse_with(&mut self, slow: &SlowRequest, reply: Vec<u8>) {
        self.refusing = Some(reply);
        self.refuse_one(slow.command(), slow.length(), 1);
        self.refuse_nothing_else();
    }

    /// Forgets why a request was refused where nothing is at hand behind it that would be refused, too.
    fn refuse_nothing_else(&mut self) {
        if self.input.is_empty()
            && let Some(reply) = self.refusing.take()
        {
            self.end_if_lost(&reply);
        }
    }

    /// Sends a request, or answers it, if nothing is to be waited for.
    fn go_on(&mut self, slow: &SlowRequest) -> Next {
        let learned = self.learned();
        self.request_alone(
            &slow.request(),
            &slow.routed,
            &slow.bytes,
            learned.as_deref(),
        )
    }
}
