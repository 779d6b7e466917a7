//! Shared connections are opened, kept and opened again: whose attempt is due, by which permit, and what is said of those that fail.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::reconnect::{FailedAttempt, ReconnectPause};
use super::{SharedWaitOutcome, SharedWaiter, Upstream, WaitError};
use crate::budget::{SocketKind, SocketPermit};
use crate::config::ReconnectDelays;
use crate::failover::ConnectTurn;
use crate::link::{Link, LinkEnd};
use crate::server::{ConnectNews, ConnectProbe};
use crate::session::State;
use crate::telemetry::{Bound, ConnectResult, LossCause};
use crate::thread::LINGER;
use crate::thread::Process;
use crate::upstream::handshake::{ConnectError, connect};

/// A worker whose attempt was put off tries within this time once another worker has reached the server.
const FOLLOW_WITHIN: Duration = Duration::from_millis(50);

/// Holds a turn at the rate of connects that has not come yet. Its drop leaves it to others.
struct AwaitedTurn<'a> {
    process: &'a Process,
    kind: SocketKind,
    per_second: u32,
}

impl Drop for AwaitedTurn<'_> {
    fn drop(&mut self) {
        let failovers = &self.process.failovers;
        failovers.give_back_turn(self.kind, self.per_second);
    }
}

impl Upstream {
    /// Opens shared connection `slot` in `state` and serves it until it is lost; the first one is opened again.
    pub(super) async fn open(
        self: Rc<Self>,
        slot: usize,
        mut state: State,
        permit: Option<SocketPermit>,
    ) {
        let mut permit = permit;
        while !self.is_stopping() {
            let probe = self.attempt_due(slot).await;
            let permit = match permit.take() {
                None if slot == 0 => match self.first_permit().await {
                    None => continue,
                    permit => permit,
                },
                None => self.spare_permit(),
                taken => taken,
            };
            let Some(permit) = permit else {
                self.schedule.borrow_mut().lost(slot);
                return self.act();
            };
            self.connect_turn(SocketKind::Shared).await;
            let name = self.name("shared");
            let (link, refusal) = match connect(&self.thread, &state, name, permit, None).await {
                Ok(link) => (link, None),
                // What a client may not have is no reason to close it.
                Err(ConnectError::Refused(reply, link)) => (link, Some(reply)),
                Err(ConnectError::Unauthenticated(reply)) => {
                    return self.refused_and_closed(slot, &reply);
                }
                Err(error) => {
                    self.failed(&error);
                    if slot == 0 {
                        continue;
                    }
                    // Whoever waited for it takes turns on those that are there.
                    self.schedule.borrow_mut().lost(slot);
                    return self.act();
                }
            };
            drop(probe);
            self.serve(slot, refusal, link).await;
            if self.is_stopping() {
                return;
            }
            if slot != 0 {
                self.schedule.borrow_mut().lost(slot);
                self.act();
                return;
            }
            state = State::INITIAL;
            self.schedule.borrow_mut().open(slot, &state);
            self.act();
        }
    }

    /// Waits until an attempt to open shared connection `slot` is due. The first is kept open, so it may be the one that tries for the
    /// process while the circuit is open; the others are opened when they are needed.
    async fn attempt_due(&self, slot: usize) -> Option<ConnectProbe> {
        if slot == 0 {
            return self.pause_or_probe().await;
        }
        self.pause().await;
        None
    }

    /// Serves a connection that was opened in a state, or after another was refused.
    async fn serve(self: &Rc<Self>, slot: usize, refusal: Option<Vec<u8>>, link: Rc<Link>) {
        self.connected();
        link.share(slot);
        self.links.borrow_mut()[slot] = Some(Rc::clone(&link));
        match refusal {
            None => self.grant(slot, &link.state()),
            Some(reply) => self.refuse(slot, &link, &reply),
        }
        self.thread.pulse.answered(link.origin().begun_micros);
        self.look_for_pause();
        self.learn_all(&link);
        self.move_on();
        self.act();
        let ended = link
            .drive(
                |link| {
                    if self.schedule.borrow().waiting() > 0 {
                        self.act();
                    }
                    self.heed(link);
                },
                || {
                    link.lend_to(None);
                    self.links.borrow_mut()[slot] = None;
                    self.schedule.borrow_mut().closing(slot);
                },
            )
            .await;
        if self.is_stopping() || ended.cause.is_none() {
            return;
        }
        self.lived(&link, &ended);
        let (why, cause) = (ended.why, ended.cause.map(LossCause::label));
        let now = self.thread.clock.now_micros();
        if let Some(unwritten) = self.thread.loss_lines.shared.write(now) {
            tracing::warn!(
                connection = link.name(),
                server = %link.origin().node,
                cause,
                unwritten,
                "a shared connection to the server was lost: {why}"
            );
        }
        if self.is_away() {
            self.thread.process.health.failed(&why);
        }
    }

    /// Waits until the next attempt to connect is due.
    pub(super) async fn pause(&self) {
        let process = &self.thread.process;
        let mut news = process.failovers.news();
        loop {
            if process.failovers.is_open() {
                // The one that keeps the first shared connection tries.
                let _ = news.changed().await;
                continue;
            }
            let seen = *news.borrow_and_update();
            let (until, follows) = {
                let away = self.reconnect.borrow();
                (away.next_attempt(), away.follows())
            };
            let Some(until) = until else { return };
            let is_due = |news: &ConnectNews| {
                news.starts > seen.starts || (follows && news.connects > seen.connects)
            };
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = until_told(&mut news, is_due) => {
                    if news.borrow().starts > seen.starts {
                        continue;
                    }
                    let follow = FOLLOW_WITHIN.mul_f64(rand::random::<f64>());
                    return tokio::time::sleep_until(until.min(Instant::now() + follow)).await;
                }
            }
        }
    }

    /// Tells those who have waited for longer than `upstream.queue.timeout` that the server is away. While it is there they
    /// wait on, as they would directly: for a slow command, or for others whose turn comes first.
    pub(super) fn expire(&self) {
        let now = self.thread.clock.now_micros();
        let is_away = self.is_away();
        self.absence.note(is_away, now);
        if !is_away {
            return;
        }
        let limit = self.thread.settings().upstream.queue.timeout;
        let late = |waiter: &Rc<SharedWaiter>| {
            let since = self.absence.waited_for_since(waiter.since_micros);
            self.thread.clock.is_past(since, limit)
        };
        let expired = self.schedule.borrow_mut().take_while(late);
        for waiter in expired {
            self.thread.counters.bound(Bound::QueueTimeout).add(1);
            self.thread.process.failovers.failed(waiter.commands);
            waiter.settle(SharedWaitOutcome::Failed(WaitError::Unreachable));
        }
    }

    /// Tells whether the last attempt has failed and the next one is not due yet.
    pub(super) fn is_pausing(&self) -> bool {
        let next = self.reconnect.borrow().next_attempt();
        next.is_some_and(|next| next > Instant::now())
    }

    /// Waits as [`Self::pause`] does, for whoever keeps trying: while the circuit is open it may be the one in the process.
    pub(super) async fn pause_or_probe(&self) -> Option<ConnectProbe> {
        let process = &self.thread.process;
        let mut news = process.failovers.news();
        loop {
            let (turn, probe) = process.failovers.attempt(process.now_micros());
            match turn {
                ConnectTurn::Probe => return probe,
                ConnectTurn::Now => {
                    self.pause_while_closed().await;
                    if !process.failovers.is_open() {
                        return None;
                    }
                }
                ConnectTurn::At(at) => {
                    let at = Instant::from_std(process.start + Duration::from_micros(at));
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        _ = news.changed() => {}
                    }
                }
                ConnectTurn::After => drop(news.changed().await),
            }
        }
    }

    /// Pauses, or returns when the circuit opens meanwhile.
    async fn pause_while_closed(&self) {
        let failovers = &self.thread.process.failovers;
        let mut news = failovers.news();
        tokio::select! {
            () = self.pause() => {}
            () = until_told(&mut news, |_| failovers.is_open()) => {}
        }
    }

    /// Waits for a turn at the rate of connects. Whoever gives up before it has come leaves it to others.
    pub(super) async fn connect_turn(&self, kind: SocketKind) {
        let process = &self.thread.process;
        let per_second = self.thread.settings().upstream.max_connects_per_second;
        let wait = process
            .failovers
            .take_turn(kind, process.now_micros(), per_second);
        if !wait.is_zero() {
            let awaited = AwaitedTurn {
                process,
                kind,
                per_second,
            };
            self.thread.counters.bound(Bound::ConnectRate).add(1);
            tokio::time::sleep(wait).await;
            std::mem::forget(awaited);
        }
    }

    /// Tells whether attempts to connect have failed since the last that succeeded.
    pub fn is_failing(&self) -> bool {
        self.reconnect.borrow().is_failing() || self.thread.process.failovers.is_open()
    }

    /// Tells whether the server is there, and did not take respool at the last attempt.
    pub fn is_refused(&self) -> bool {
        self.reconnect.borrow().is_refused()
    }

    /// Returns what the server has said at the last attempt, where it is there and cannot serve now: LOADING, MASTERDOWN.
    pub fn says_unready(&self) -> Option<Box<[u8]>> {
        self.reconnect.borrow().says_unready()
    }

    /// Returns the same, where it was said after `needed`: of who began to need a connection then it is true.
    pub(super) fn says_unready_since(&self, needed: Instant) -> Option<Box<[u8]>> {
        self.reconnect.borrow().says_unready_since(needed)
    }

    /// Takes in that an attempt to connect failed.
    pub(super) fn failed(&self, error: &ConnectError) {
        let process = &self.thread.process;
        let settings = self.thread.settings();
        let upstream = &settings.upstream;
        let (backoff, serves_others) = (self.backoff(), !self.is_away());
        let (pause, told) = self.reconnect.borrow_mut().failed(
            error.into(),
            backoff,
            serves_others,
            Instant::now(),
        );
        if let Some(failures) = told {
            tracing::warn!(failures, "cannot connect to the server: {error}");
        }
        let after = upstream.circuit_after;
        if process
            .failovers
            .attempt_failed(process.now_micros(), after, pause)
        {
            self.thread.counters.bound(Bound::Circuit).add(1);
            tracing::warn!(
                "no attempt to connect has succeeded for {after:?}: commands are answered at once as not sent until the server \
                 is back (upstream.circuit.after)"
            );
        }
        let text = error.to_string();
        if self.is_away() {
            process.health.failed(&text);
        } else {
            process.health.note_error(&text);
        }
    }

    /// Takes in that a connection to the server came about.
    pub(super) fn connected(&self) {
        let failures = self.reconnect.borrow_mut().connected();
        if failures > 0 {
            tracing::debug!(failures, "a worker is connected to the server again");
        }
    }

    /// Takes in that a server that hung has closed what it had kept: it is back, and the next attempt is due at once.
    pub(super) fn stirred(&self) {
        self.reconnect.borrow_mut().stirred();
        let process = &self.thread.process;
        process.failovers.stirred(process.now_micros());
    }

    /// Waits for the right to the shared connection that is kept open. `None`: sockets whose end at the server is not seen hold them all,
    /// which is an attempt that failed.
    pub(super) async fn first_permit(&self) -> Option<SocketPermit> {
        let limit = self.thread.settings().upstream.connect_timeout;
        let any = async {
            let mut reserved = std::pin::pin!(self.permit(SocketKind::Shared));
            // Most servers have closed theirs by then.
            let waited = tokio::time::timeout(LINGER.min(limit / 2), &mut reserved).await;
            match waited {
                Ok(permit) => permit,
                Err(_) => tokio::select! {
                    biased;
                    permit = reserved => permit,
                    permit = self.lendable() => permit,
                },
            }
        };
        let permit = tokio::time::timeout(limit, any).await;
        if permit.is_err() && !self.is_stopping() {
            self.failed(&ConnectError::Away {
                text: "as many connections as upstream.max_connections allows are in use, or were closed by respool and it does not \
                       see that the server has closed them too"
                    .to_owned(),
                result: ConnectResult::Timeout,
            });
        }
        permit.ok()
    }

    /// Waits for one of the rights that are for lending, in place of a shared one whose end is not seen. No worker needs more than one: at a server
    /// that hangs what is opened is held up in its turn.
    async fn lendable(&self) -> SocketPermit {
        let settings = self.thread.settings();
        let budget = &self.thread.process.budget;
        if budget.shared_beyond() >= settings.workers {
            return std::future::pending().await;
        }
        // It is in no group.
        let group = settings.groups.len();
        let lease = budget.wait_lease(group, self.thread.index).await;
        let permit = loop {
            if let Some(permit) = budget.try_socket(SocketKind::Pinned) {
                break permit;
            }
            // What falls idle meanwhile is closed in its turn.
            if let Some(link) = self.idle.pop() {
                link.close("its place in the budget is needed");
            }
            if let Ok(Some(permit)) = tokio::time::timeout(LINGER, self.place()).await {
                break permit;
            }
        };
        permit.share(lease)
    }

    /// Takes in that a connection has ended. One that lived for a moment only is an attempt that failed.
    pub(super) fn lived(&self, link: &Link, ended: &LinkEnd) {
        // What respool itself ended says nothing.
        if ended.cause.is_none() || link.leaving().is_some() {
            return;
        }
        let now = self.thread.process.now_micros();
        let life = Duration::from_micros(now.saturating_sub(link.origin().opened_micros));
        let backoff = self.backoff();
        let mut reconnect = self.reconnect.borrow_mut();
        reconnect.lived(life, backoff, Instant::now());
    }

    /// Returns how the pauses grow, and a chance for the next one.
    fn backoff(&self) -> (ReconnectDelays, f64) {
        (self.thread.settings().upstream.reconnect, rand::random())
    }

    /// Forgets what was seen of the server: it has another address.
    pub(super) fn start_over(&self) {
        *self.reconnect.borrow_mut() = ReconnectPause::default();
        self.thread.process.failovers.start_over();
    }
}

/// Waits until the news are so. What the wait would return holds a lock, and must be gone before anything else is awaited.
async fn until_told(
    news: &mut watch::Receiver<ConnectNews>,
    is_so: impl FnMut(&ConnectNews) -> bool,
) {
    drop(news.wait_for(is_so).await);
}

impl From<&ConnectError> for FailedAttempt {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::Unready(_, said) => Self::Unready(said.as_slice().into()),
            ConnectError::Away { result, .. } => match result {
                ConnectResult::MaxClients => Self::Full,
                ConnectResult::HandshakeError => Self::Refused,
                _ => Self::Away,
            },
            ConnectError::Refused(..) | ConnectError::Unauthenticated(_) => Self::Away,
        }
    }
}
