//! The server is asked whether it lets a client's user do what respool does for it.
//!
//! Messages come by a connection of respool's own user, and `CLIENT LIST` speaks of respool's clients: neither would meet the
//! server's ACL. To subscribe is asked on a connection lent for it, never on a shared one: what a user may do of MULTI, SUBSCRIBE and DISCARD is not known,
//! and each that it may not would leave something behind.

use std::rc::Rc;

use zeroize::Zeroizing;

use super::lent::{Pin, PinError};
use super::{SharedWait, Upstream, WaitError};
use crate::auth::{KnownPermission, PermissionResult, is_refusal, is_wrong_password};
use crate::command::{ClientSub, Delays};
use crate::fanout::TopicKind;
use crate::link::Link;
use crate::resp::speak::encode_request;
use crate::session::{Credentials, Protocol, State, stand_in_for};
use crate::telemetry::Bound;
use crate::texts::{NOAUTH, is_busy, is_no_permission};

/// Tells how the shared connection stands on which a user's question could be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NearestLink {
    /// No shared connection is there.
    Missing,
    /// It answers what is sent on it.
    Free,
    /// It may answer in a moment what is sent on it.
    HeldUp,
    /// It owes an answer for longer than servers take.
    Stalled,
}

/// Tells which way a question about a user goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QuestionWay {
    /// It goes on the nearest connection.
    Nearest,
    /// It goes on a connection lent for it.
    Lent,
    /// It waits for a shared connection.
    Wait,
    /// Respool has no user of its own of whom it could be asked.
    Nobody,
    /// The server is away.
    Unreachable,
}

impl NearestLink {
    /// Decides the way of a question of respool's `own` user or of another, where respool `is_nobody` or is somebody: to a connection
    /// that is held up only where all are.
    fn way(
        self,
        (own, is_nobody): (bool, bool),
        are_all_held_up: impl FnOnce() -> bool,
        answers_elsewhere: impl FnOnce() -> bool,
    ) -> QuestionWay {
        match self {
            Self::Free => QuestionWay::Nearest,
            // What is not stalled may be done with its work in a moment.
            Self::HeldUp if are_all_held_up() => QuestionWay::Nearest,
            Self::Missing if own && is_nobody => QuestionWay::Nobody,
            Self::Missing if own => QuestionWay::Unreachable,
            _ if answers_elsewhere() => QuestionWay::Lent,
            _ => QuestionWay::Wait,
        }
    }
}

impl Upstream {
    /// Asks the server what is to be known of it: its commands, and what respool's own user may do to other clients, which holds
    /// while the server is away.
    pub(super) fn learn_all(self: &Rc<Self>, link: &Rc<Link>) {
        self.learn(link);
        if link.state().user.is_some() {
            return;
        }
        for sub in [ClientSub::List, ClientSub::Kill, ClientSub::Unblock] {
            let is_known = self.thread.permission(None, sub) != KnownPermission::Nothing;
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

    /// Tells whether the user of `state` may run a subcommand of CLIENT; `question` is that command, asking for nothing. The answer is
    /// kept for those who come later.
    ///
    /// # Errors
    /// [`PinError`] says why it could not be asked.
    pub async fn ask_permission(
        self: Rc<Self>,
        (state, group): (State, Option<usize>),
        sub: ClientSub,
        question: Vec<u8>,
    ) -> Result<PermissionResult, PinError> {
        let answer = match self.answer_for(&state, group, &question).await? {
            Ok(answer) => answer,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let permission = permission(Some(sub), answer.clone());
        let told = permission.clone();
        self.thread
            .told_permission(state.user.as_deref(), sub, told);
        // It would say so of the command, too, and not for long.
        Ok(if is_busy(&answer) {
            Err(answer)
        } else {
            permission
        })
    }

    /// Returns the server's answer to a request of the user of `state`, which leaves no trace.
    ///
    /// # Errors
    /// [`PinError`] says why it could not be asked.
    pub async fn answer_to(
        self: Rc<Self>,
        (state, group): (State, Option<usize>),
        request: Vec<u8>,
    ) -> Result<Vec<u8>, PinError> {
        let told = self.answer_for(&state, group, &request).await?;
        Ok(told.unwrap_or_else(|refusal| refusal))
    }

    /// Returns the server's answer to a question that leaves no trace, asked on a shared connection of the user of `state`, whatever database
    /// that is in, and protocol it speaks: on none that is held up as long as another may be had. Where all are, and the server is known to
    /// answer elsewhere, one is lent for it, for a client of `group`. `Ok(Err)`: the server refuses that user.
    async fn answer_for(
        self: &Rc<Self>,
        state: &State,
        group: Option<usize>,
        question: &[u8],
    ) -> Result<Result<Vec<u8>, Vec<u8>>, PinError> {
        let anywhere = State {
            user: state.user.clone(),
            ..State::INITIAL
        };
        let link = loop {
            let near = match state.user {
                None => self.own_link().await,
                Some(_) => self.link_of(state),
            };
            let stands = match &near {
                None => NearestLink::Missing,
                Some(link) if !self.is_held_up(link) => NearestLink::Free,
                Some(link) if link.is_stalled() => NearestLink::Stalled,
                Some(_) => NearestLink::HeldUp,
            };
            let own = state.user.is_none();
            let way = stands.way(
                (own, own && self.thread.is_nobody()),
                || self.are_all_held_up(),
                || self.answers_elsewhere(),
            );
            match (way, near) {
                (QuestionWay::Nearest, Some(link)) => break link,
                (QuestionWay::Nobody, _) => return Ok(Err(NOAUTH.to_vec())),
                (QuestionWay::Unreachable, _) => return Err(PinError::Unreachable),
                (QuestionWay::Lent, near) => {
                    let told = match group {
                        Some(group) => self.answer_on_lent(group, anywhere, question).await,
                        None => Err(PinError::Timeout),
                    };
                    match (told, near) {
                        // It waits no longer there than for one that can be lent.
                        (Err(PinError::Timeout), Some(link)) => break link,
                        (told, _) => return told.map(Ok),
                    }
                }
                (QuestionWay::Wait | QuestionWay::Nearest, _) => {
                    match self.granted_or_lent(&anywhere).await? {
                        Ok(Some(link)) => break link,
                        Ok(None) => {}
                        Err(refusal) => return Ok(Err(refusal)),
                    }
                }
            }
        };
        self.answer_on(&link, question).await.map(Ok)
    }

    /// Returns the answer on a connection that is lent for the question.
    async fn answer_on_lent(
        self: &Rc<Self>,
        group: usize,
        state: State,
        question: &[u8],
    ) -> Result<Vec<u8>, PinError> {
        let asking = async |pin: Pin| {
            let answer = reply(pin.link(), question).await;
            pin.give_back_clear();
            answer
        };
        let answer = self.on_lent(group, state, asking).await?;
        self.hear_of_script(&answer);
        Ok(answer)
    }

    /// Tells whether the server takes a client to `state`, where no shared connection can be asked: one is lent for it, and keeps the state.
    ///
    /// # Errors
    /// [`PinError`] says why it could not be asked, or how it refuses that.
    pub async fn leads_to(self: Rc<Self>, group: usize, state: State) -> Result<(), PinError> {
        let keep = async |pin: Pin| {
            pin.give_back_clear();
            Some(())
        };
        self.on_lent(group, state, keep).await
    }

    /// Tells whether the user of `state` may run a command; `probe` is that command, asking for nothing. `Ok(Err)`: the server's error.
    ///
    /// # Errors
    /// [`PinError`] says why it could not be asked.
    pub async fn may_run(
        self: Rc<Self>,
        (state, group): (State, usize),
        probe: &[u8],
    ) -> Result<PermissionResult, PinError> {
        loop {
            if let Some(link) = self.shared_for(&state, Delays::NONE) {
                return self.ask_on(&link, probe, None).await;
            }
            if self.lends_instead(&state, Delays::NONE) {
                let answer = self.answer_on_lent(group, state, probe).await?;
                return Ok(permission(None, answer));
            }
            match self.granted_or_lent(&state).await? {
                Ok(Some(link)) => return self.ask_on(&link, probe, None).await,
                Ok(None) => {}
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
    }

    /// Returns a shared connection of the user of `state`, in whatever database.
    fn link_of(&self, state: &State) -> Option<Rc<Link>> {
        let links = self.links.borrow();
        let of_user = links.iter().flatten().filter(|link| {
            link.is_alive() && !link.is_changing_state() && link.state().user == state.user
        });
        self.least_held_up(of_user)
    }

    /// Returns a shared connection in `state`; `Ok(Err)`: the server refuses that state.
    async fn link_in(
        self: &Rc<Self>,
        state: &State,
    ) -> Result<Result<Rc<Link>, Vec<u8>>, PinError> {
        loop {
            if let Some(link) = self.shared_for(state, Delays::NONE) {
                return Ok(Ok(link));
            }
            match granted(self.wait_shared(state, 1)).await? {
                Ok(Some(link)) => return Ok(Ok(link)),
                // It ended meanwhile: there is another.
                Ok(None) => {}
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
    }

    /// Returns the shared connection in `state` that is given to a question which waits for one. `Ok(Ok(None))`: it has ended meanwhile, or
    /// the question is better asked on a connection lent for it; `Ok(Err)`: the server refuses that state.
    async fn granted_or_lent(
        self: &Rc<Self>,
        state: &State,
    ) -> Result<Result<Option<Rc<Link>>, Vec<u8>>, PinError> {
        let wait = self.wait_shared(state, 1);
        if let Ok(wait) = &wait {
            wait.may_be_lent(Delays::NONE);
        }
        granted(wait).await
    }

    async fn ask_on(
        self: &Rc<Self>,
        link: &Rc<Link>,
        probe: &[u8],
        sub: Option<ClientSub>,
    ) -> Result<PermissionResult, PinError> {
        Ok(permission(sub, self.answer_on(link, probe).await?))
    }

    async fn answer_on(
        self: &Rc<Self>,
        link: &Rc<Link>,
        request: &[u8],
    ) -> Result<Vec<u8>, PinError> {
        let answer = reply(link, request);
        self.served(link, 1);
        let answer = answer.await.ok_or_else(|| self.not_in_time())?;
        self.hear_of_script(&answer);
        Ok(answer)
    }

    fn hear_of_script(&self, answer: &[u8]) {
        if is_busy(answer) {
            self.thread.pulse.heard_busy(self.thread.clock.now_micros());
        }
    }

    /// Asks something as respool's own user. `None`: that could not be done.
    pub async fn ask_as_own(self: Rc<Self>, request: &[u8]) -> Option<Vec<u8>> {
        let link = self.own_link().await?;
        reply(&link, request).await
    }

    /// Tells whether the server still takes what a client has shown; `None`: it has not said so.
    pub async fn takes(self: Rc<Self>, credentials: Rc<Credentials>) -> Option<bool> {
        let state = State {
            user: Some(Rc::clone(&credentials)),
            ..State::INITIAL
        };
        let Some(link) = self.link_of(&state) else {
            // It is shown as the connection becomes the user's.
            return match self.link_in(&state).await.ok()? {
                Ok(_) => Some(true),
                Err(refusal) => still_takes(&refusal),
            };
        };
        // The connection is the user's already: a refusal leaves it as it is.
        let answer = reply(&link, &Zeroizing::new(credentials.request())).await?;
        still_takes(&answer)
    }

    /// Tells whether a user may still subscribe to all of `topics`; `None`: the server has not said so.
    pub async fn may_still_subscribe(
        self: Rc<Self>,
        group: usize,
        credentials: &Rc<Credentials>,
        kind: TopicKind,
        topics: &[Rc<[u8]>],
    ) -> Option<bool> {
        let mut words: Vec<&[u8]> = vec![kind.verb(true).as_bytes()];
        words.extend(topics.iter().map(|topic| &topic[..]));
        let state = State {
            user: Some(Rc::clone(credentials)),
            ..State::INITIAL
        };
        let asked = self.may_subscribe(group, state, encode_request(&words));
        still_permits(&asked.await.ok()?)
    }

    /// Tells whether the server would let the user of `state` publish to a channel, as far as it says so: what it queues in a
    /// transaction that never runs, it would run.
    pub async fn may_publish(
        self: Rc<Self>,
        group: usize,
        state: State,
        kind: TopicKind,
        channel: &[u8],
    ) -> bool {
        let verb: &[u8] = match kind {
            TopicKind::Shard => b"SPUBLISH",
            TopicKind::Channel | TopicKind::Pattern => b"PUBLISH",
        };
        let request = encode_request(&[verb, channel, b""]);
        let asking = async |pin: Pin| would_queue(pin.link(), &request).await;
        let asked = self.on_lent(group, state, asking).await;
        asked.is_ok_and(|may_run| may_run)
    }

    /// Tells whether the user of `state` may run `request`, a SUBSCRIBE or its like. `Ok(Err)`: the server's error.
    ///
    /// # Errors
    /// [`PinError`] says why it could not be asked.
    pub async fn may_subscribe(
        self: Rc<Self>,
        group: usize,
        state: State,
        request: Vec<u8>,
    ) -> Result<Result<(), Vec<u8>>, PinError> {
        let asking = async |pin: Pin| ask(pin.link(), &request).await;
        self.on_lent(group, state, asking).await
    }

    /// Asks something on a connection of the user of `state` that is lent for it.
    pub(super) async fn on_lent<T>(
        self: &Rc<Self>,
        group: usize,
        state: State,
        question: impl AsyncFnOnce(Pin) -> Option<T>,
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
            let link = self.unused(&state).await?;
            Ok(question(self.lend(link, lease, None)).await)
        };
        let Some(asked) = self.thread.within(limit, asking).await else {
            self.thread.counters.bound(Bound::QueueTimeout).add(1);
            return Err(self.not_in_time());
        };
        asked?.ok_or_else(|| self.not_in_time())
    }
}

/// Reads what an answer says of a permission.
fn permission(sub: Option<ClientSub>, answer: Vec<u8>) -> PermissionResult {
    match is_refusal(sub, &answer) {
        true => Err(answer),
        false => Ok(()),
    }
}

/// Reads whether an answer to AUTH says that what was shown is taken; `None`: it is about something else.
fn still_takes(answer: &[u8]) -> Option<bool> {
    match answer.starts_with(b"+OK") {
        true => Some(true),
        false => is_wrong_password(answer).then_some(false),
    }
}

/// Reads whether an answer to a question about a permission grants it; `None`: it is about something else.
fn still_permits(answer: &PermissionResult) -> Option<bool> {
    match answer {
        Ok(()) => Some(true),
        Err(refusal) => is_no_permission(refusal).then_some(false),
    }
}

/// Returns what a wait for a shared connection comes to. `Ok(Ok(None))`: none, and it is to be looked for anew; `Ok(Err)`: the server refuses
/// what the connection was to be.
async fn granted(
    wait: Result<SharedWait, WaitError>,
) -> Result<Result<Option<Rc<Link>>, Vec<u8>>, PinError> {
    let found = match wait {
        Ok(wait) => std::future::poll_fn(|cx| wait.poll(cx)).await,
        Err(error) => Err(error),
    };
    match found {
        Ok(link) => Ok(Ok(link)),
        Err(WaitError::Refused(reply)) => Ok(Err(reply)),
        Err(WaitError::Unreachable) => Err(PinError::Unreachable),
    }
}

/// Asks whether a user may run `request`, which the server checks when it is queued. `None`: the connection was lost.
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

/// Tells whether the server queues `request`. `None`: the connection was lost.
async fn would_queue(link: &Rc<Link>, request: &[u8]) -> Option<bool> {
    let can_queue = reply(link, &encode_request(&["MULTI"]))
        .await?
        .starts_with(b"+");
    Some(can_queue && reply(link, request).await?.starts_with(b"+QUEUED"))
}

/// Sends at once; the reply comes when it is awaited. `None`: the connection was lost.
fn reply(link: &Rc<Link>, request: &[u8]) -> impl Future<Output = Option<Vec<u8>>> + use<> {
    let told = link.ask(request);
    async { told.await.ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [NearestLink; 4] = [
        NearestLink::Missing,
        NearestLink::Free,
        NearestLink::HeldUp,
        NearestLink::Stalled,
    ];

    /// Asks of a server on which so much is held up; another is somebody always.
    fn way(near: NearestLink, own: bool, all_held_up: bool, elsewhere: bool) -> QuestionWay {
        near.way((own, false), || all_held_up, || elsewhere)
    }

    #[test]
    fn a_question_goes_on_a_connection_that_answers_whatever_the_others_do() {
        for own in [false, true] {
            for (all_held_up, elsewhere) in [(false, false), (true, false), (true, true)] {
                let way = way(NearestLink::Free, own, all_held_up, elsewhere);
                assert_eq!(way, QuestionWay::Nearest);
            }
        }
    }

    #[test]
    fn a_connection_that_is_held_up_is_asked_on_only_where_all_are_and_it_may_answer() {
        let way = |near, all, elsewhere| way(near, false, all, elsewhere);
        assert_eq!(way(NearestLink::HeldUp, false, false), QuestionWay::Wait);
        assert_eq!(way(NearestLink::HeldUp, true, false), QuestionWay::Nearest);
        assert_eq!(way(NearestLink::HeldUp, true, true), QuestionWay::Nearest);
        assert_eq!(way(NearestLink::Stalled, true, false), QuestionWay::Wait);
        assert_eq!(way(NearestLink::Stalled, true, true), QuestionWay::Lent);
    }

    #[test]
    fn a_user_without_a_connection_waits_for_one_and_respool_itself_does_not() {
        let missing = NearestLink::Missing;
        assert_eq!(way(missing, false, false, false), QuestionWay::Wait);
        assert_eq!(way(missing, false, true, true), QuestionWay::Lent);
        assert_eq!(way(missing, true, true, true), QuestionWay::Unreachable);
        let nobody = missing.way((true, true), || true, || true);
        assert_eq!(nobody, QuestionWay::Nobody);
    }

    #[test]
    fn only_where_none_is_near_it_matters_who_respool_is() {
        for near in ALL.into_iter().filter(|near| *near != NearestLink::Missing) {
            for (all_held_up, elsewhere) in [(false, false), (true, false), (true, true)] {
                let of = |own, nobody| near.way((own, nobody), || all_held_up, || elsewhere);
                let usual = of(false, false);
                assert!(
                    [of(true, false), of(true, true)]
                        .iter()
                        .all(|way| *way == usual)
                );
            }
        }
    }

    #[test]
    fn an_answer_about_something_else_takes_nothing_away() {
        assert_eq!(still_takes(b"+OK\r\n"), Some(true));
        assert_eq!(still_takes(b"-WRONGPASS invalid\r\n"), Some(false));
        for other in [
            &b"-LOADING\r\n"[..],
            b"-BUSY Redis\r\n",
            b"-ERR max number of clients\r\n",
        ] {
            assert_eq!(still_takes(other), None);
            assert_eq!(still_permits(&Err(other.to_vec())), None);
        }
        assert_eq!(still_permits(&Ok(())), Some(true));
        assert_eq!(still_permits(&Err(b"-NOPERM no\r\n".to_vec())), Some(false));
    }
}
