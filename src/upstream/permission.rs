//! Whether the server lets a client's user do what respool does for it.
//!
//! Messages come by a connection of respool's own user, and `CLIENT LIST` speaks of respool's clients: neither would meet the
//! server's ACL. To subscribe is asked on a connection lent for it, never on a shared one: what a user may do of MULTI, SUBSCRIBE and DISCARD is not known,
//! and each that it may not would leave something behind.

use std::rc::Rc;

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::link::Link;
use super::pins::PinError;
use super::pool::{Upstream, WaitError};
use super::traffic::OwnReply;
use crate::auth::{Known, NOAUTH, Permission, is_refusal, is_wrong_password};
use crate::command::{ClientSub, Delays};
use crate::fanout::Kind;
use crate::resp::speak::encode_request;
use crate::session::{Credentials, Protocol, State, is_busy, stand_in_for};
use crate::telemetry::Bound;

impl Upstream {
    /// Asks the server what is to be known of it: its commands, and what respool's own user may do to other clients, which holds
    /// while the server is away.
    pub(super) fn learn_all(self: &Rc<Self>, link: &Rc<Link>) {
        self.learn(link);
        if link.worn().user.is_some() {
            return;
        }
        for sub in [ClientSub::List, ClientSub::Kill, ClientSub::Unblock] {
            let is_known = self.thread.permission(None, sub) != Known::Nothing;
            let Some(question) = stand_in_for(sub).filter(|_| !is_known) else {
                continue;
            };
            let (upstream, link) = (Rc::clone(self), Rc::clone(link));
            let question = encode_request(question);
            tokio::task::spawn_local(async move {
                // What is lost with the connection is asked again when it matters.
                if let Ok(permission) = upstream.ask_on(&link, &question, Some(sub)).await {
                    upstream.thread.told_permission(None, sub, permission);
                }
            });
        }
    }

    /// Whether the user of `state` may run a subcommand of CLIENT; `question` is that command, asking for nothing. The answer is
    /// kept for those who come later.
    ///
    /// # Errors
    /// [`PinError`]: it could not be asked.
    pub async fn ask_permission(
        self: Rc<Self>,
        state: State,
        sub: ClientSub,
        question: Vec<u8>,
    ) -> Result<Permission, PinError> {
        let user = state.user.clone();
        let link = match self.link_for(&state).await? {
            Ok(link) => link,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let answer = self.answer_on(&link, &question).await?;
        let permission = match is_refusal(Some(sub), &answer) {
            true => Err(answer.clone()),
            false => Ok(()),
        };
        let told = permission.clone();
        self.thread.told_permission(user.as_deref(), sub, told);
        // It would say so of the command, too, and not for long.
        Ok(if is_busy(&answer) {
            Err(answer)
        } else {
            permission
        })
    }

    /// The server's answer to a request of the user of `state`, which leaves no trace.
    ///
    /// # Errors
    /// [`PinError`]: it could not be asked.
    pub async fn answer_to(
        self: Rc<Self>,
        state: State,
        request: Vec<u8>,
    ) -> Result<Vec<u8>, PinError> {
        match self.link_for(&state).await? {
            Ok(link) => self.answer_on(&link, &request).await,
            Err(refusal) => Ok(refusal),
        }
    }

    /// A shared connection of the user of `state`, whatever database it is in, and protocol it speaks; `Ok(Err)`: the server
    /// refuses that user.
    async fn link_for(
        self: &Rc<Self>,
        state: &State,
    ) -> Result<Result<Rc<Link>, Vec<u8>>, PinError> {
        let link = match state.user {
            None => self.own_link().await,
            Some(_) => self.link_of(state),
        };
        match link {
            Some(link) => Ok(Ok(link)),
            None if state.user.is_some() => self.link_in(state).await,
            None if self.thread.is_nobody() => Ok(Err(NOAUTH.to_vec())),
            None => Err(PinError::Unreachable),
        }
    }

    /// Whether the user of `state` may run a command; `probe` is that command, asking for nothing. `Ok(Err)`: the server's error.
    ///
    /// # Errors
    /// [`PinError`]: it could not be asked.
    pub async fn may_run(
        self: Rc<Self>,
        state: State,
        probe: &[u8],
    ) -> Result<Permission, PinError> {
        match self.link_in(&state).await? {
            Ok(link) => self.ask_on(&link, probe, None).await,
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// A shared connection of the user of `state`, in whatever database.
    fn link_of(&self, state: &State) -> Option<Rc<Link>> {
        let links = self.links.borrow();
        let of_user = links.iter().flatten().filter(|link| {
            link.is_alive() && !link.is_dressing() && link.worn().user == state.user
        });
        of_user
            .min_by_key(|link| (link.is_stalled(), link.load()))
            .cloned()
    }

    /// A shared connection in `state`; `Ok(Err)`: the server refuses that state.
    async fn link_in(
        self: &Rc<Self>,
        state: &State,
    ) -> Result<Result<Rc<Link>, Vec<u8>>, PinError> {
        loop {
            let found = match self.shared_for(state, Delays::NONE) {
                Some(link) => Ok(Some(link)),
                None => match self.wait_shared(state, 1) {
                    Ok(wait) => std::future::poll_fn(|cx| wait.poll(cx)).await,
                    Err(error) => Err(error),
                },
            };
            match found {
                Ok(Some(link)) => return Ok(Ok(link)),
                // It ended meanwhile: there is another.
                Ok(None) => {}
                Err(WaitError::Refused(reply)) => return Ok(Err(reply)),
                Err(WaitError::Unreachable) => return Err(PinError::Unreachable),
            }
        }
    }

    async fn ask_on(
        self: &Rc<Self>,
        link: &Rc<Link>,
        probe: &[u8],
        sub: Option<ClientSub>,
    ) -> Result<Permission, PinError> {
        let answer = self.answer_on(link, probe).await?;
        Ok(match is_refusal(sub, &answer) {
            true => Err(answer),
            false => Ok(()),
        })
    }

    async fn answer_on(
        self: &Rc<Self>,
        link: &Rc<Link>,
        request: &[u8],
    ) -> Result<Vec<u8>, PinError> {
        let answer = reply(link, request);
        self.served(link, 1);
        let answer = answer.await.ok_or_else(|| self.not_in_time())?;
        if is_busy(&answer) {
            self.thread.pulse.heard_busy(self.thread.clock.now_micros());
        }
        Ok(answer)
    }

    /// Asks something as respool's own user. `None`: that could not be done.
    pub async fn ask_as_own(self: Rc<Self>, request: &[u8]) -> Option<Vec<u8>> {
        let link = self.own_link().await?;
        reply(&link, request).await
    }

    /// Whether the server still takes what a client has shown; `None`: it has not said so.
    pub async fn takes(self: Rc<Self>, credentials: Rc<Credentials>) -> Option<bool> {
        let state = State {
            user: Some(Rc::clone(&credentials)),
            ..State::INITIAL
        };
        let Some(link) = self.link_of(&state) else {
            // It is shown as the connection becomes the user's.
            return match self.link_in(&state).await.ok()? {
                Ok(_) => Some(true),
                Err(refusal) => is_wrong_password(&refusal).then_some(false),
            };
        };
        // The connection is the user's already: a refusal leaves it as it is.
        let answer = reply(&link, &Zeroizing::new(credentials.request())).await?;
        match answer.starts_with(b"+OK") {
            true => Some(true),
            false => is_wrong_password(&answer).then_some(false),
        }
    }

    /// Whether a user may still subscribe to all of `topics`; `None`: the server has not said so.
    pub async fn may_still_subscribe(
        self: Rc<Self>,
        group: usize,
        credentials: &Rc<Credentials>,
        kind: Kind,
        topics: &[Rc<[u8]>],
    ) -> Option<bool> {
        let mut words: Vec<&[u8]> = vec![kind.verb(true).as_bytes()];
        words.extend(topics.iter().map(|topic| &topic[..]));
        let state = State {
            user: Some(Rc::clone(credentials)),
            ..State::INITIAL
        };
        let asked = self.may_subscribe(group, state, encode_request(&words));
        match asked.await.ok()? {
            Ok(()) => Some(true),
            Err(refusal) => refusal.starts_with(b"-NOPERM").then_some(false),
        }
    }

    /// Whether the server would let the user of `state` publish to a channel, as far as it says so: what it queues in a
    /// transaction that never runs, it would run.
    pub async fn may_publish(
        self: Rc<Self>,
        group: usize,
        state: State,
        kind: Kind,
        channel: &[u8],
    ) -> bool {
        let verb: &[u8] = match kind {
            Kind::Shard => b"SPUBLISH",
            Kind::Channel | Kind::Pattern => b"PUBLISH",
        };
        let request = encode_request(&[verb, channel, b""]);
        let asking = async |link: Rc<Link>| Some(would_queue(&link, &request).await?);
        let asked = self.on_lent(group, state, asking).await;
        asked.is_ok_and(|may_run| may_run)
    }

    /// Whether the user of `state` may run `request`, a SUBSCRIBE or its like. `Ok(Err)`: the server's error.
    ///
    /// # Errors
    /// [`PinError`]: it could not be asked.
    pub async fn may_subscribe(
        self: Rc<Self>,
        group: usize,
        state: State,
        request: Vec<u8>,
    ) -> Result<Result<(), Vec<u8>>, PinError> {
        self.on_lent(group, state, async |link| ask(&link, &request).await)
            .await
    }

    /// Asks something on a connection of the user of `state` that is lent for it.
    async fn on_lent<T>(
        self: &Rc<Self>,
        group: usize,
        state: State,
        question: impl AsyncFnOnce(Rc<Link>) -> Option<T>,
    ) -> Result<T, PinError> {
        let settings = &self.thread.settings().upstream;
        let budget = &self.thread.process.budget;
        let turn = budget.wait_lease(group, self.thread.index);
        let Some(lease) = self.thread.within(settings.borrow_timeout, turn).await else {
            self.thread.counters.bound(Bound::BorrowTimeout).add(1);
            return Err(PinError::Timeout);
        };
        let limit = settings.queue.timeout + settings.connect_timeout;
        // Confirmations are replies in RESP2.
        let state = State {
            protocol: Protocol::Resp2,
            ..state
        };
        let asking = async {
            let link = self.wearing(&state).await?;
            let pin = self.lend(link, lease, None);
            Ok(question(Rc::clone(pin.link())).await)
        };
        let Some(asked) = self.thread.within(limit, asking).await else {
            self.thread.counters.bound(Bound::QueueTimeout).add(1);
            return Err(self.not_in_time());
        };
        asked?.ok_or_else(|| self.not_in_time())
    }
}

/// The server checks a command's permission when it is queued. `None`: the connection was lost.
async fn ask(link: &Rc<Link>, request: &[u8]) -> Option<Result<(), Vec<u8>>> {
    let can_queue = reply(link, &encode_request(&["MULTI"]))
        .await?
        .starts_with(b"+");
    let answer = reply(link, request).await?;
    if !can_queue {
        // It has really subscribed: messages may come, and the connection is of no further use.
        link.close("a user without MULTI has subscribed on it");
    }
    Some(if answer.starts_with(b"-") {
        Err(answer)
    } else {
        Ok(())
    })
}

/// Whether the server queues `request`. `None`: the connection was lost.
async fn would_queue(link: &Rc<Link>, request: &[u8]) -> Option<bool> {
    let can_queue = reply(link, &encode_request(&["MULTI"]))
        .await?
        .starts_with(b"+");
    Some(can_queue && reply(link, request).await?.starts_with(b"+QUEUED"))
}

/// Sends at once; the reply comes when it is awaited. `None`: the connection was lost.
fn reply(link: &Rc<Link>, request: &[u8]) -> impl Future<Output = Option<Vec<u8>>> + use<> {
    let (tell, told) = oneshot::channel();
    link.send_own(request, OwnReply::Tell(tell));
    async { told.await.ok() }
}
