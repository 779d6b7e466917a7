//! Connecting again: when the next attempt is due, who makes it, and what is said of those that fail.

use std::rc::Rc;
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::closing::LINGER;
use super::failovers::{News, Probe};
use super::handshake::ConnectError;
use super::link::{Ended, Link};
use super::pool::{Outcome, Upstream, WaitError, Waiter};
use super::thread::Process;
use crate::budget::{Kind, SocketPermit};
use crate::failover::{ConnectTurn, backoff};
use crate::telemetry::{Bound, ConnectResult};

/// Least time between two log lines about a server that stays away.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A connection that is lost sooner than this counts as an attempt that failed: a server may take every connection and
/// close it at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// When another worker has reached the server this one tries within so long.
const FOLLOW_WITHIN: Duration = Duration::from_millis(50);

/// A server that cannot serve yet is asked again within so long by who needs a connection while others are up.
const ASK_UNREADY_AFTER: Duration = Duration::from_millis(100);

/// What a server that is there has said instead of serving.
struct Unready {
    said: Box<[u8]>,
    at: Instant,
}

/// Back-off while the server is away.
#[derive(Default)]
pub(super) struct Away {
    failures: u32,
    /// Connections lost soon after they were opened, one after the other.
    short_lives: u32,
    next_attempt: Option<Instant>,
    /// The server has no place left: that another was given one says nothing.
    is_full: bool,
    /// The server is there, and did not take respool at the last attempt.
    is_refused: bool,
    /// The server is there, and has said with this at the last attempt that it cannot serve now.
    unready: Option<Unready>,
    last_logged: Option<Instant>,
}

impl Away {
    /// Whether what another has achieved says anything of the next attempt: not where the server is full, nor where it
    /// takes connections and closes them.
    fn follows(&self) -> bool {
        !self.is_full && self.short_lives == 0
    }
}

/// A turn at the rate of connects that has not come yet.
struct Awaited<'a> {
    process: &'a Process,
    kind: Kind,
    per_second: u32,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let failovers = &self.process.failovers;
        failovers.give_back_turn(self.kind, self.per_second);
    }
}

impl Upstream {
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
                let away = self.away.borrow();
                (away.next_attempt, away.follows())
            };
            let Some(until) = until else { return };
            let is_due = |news: &News| {
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
        if !self.is_away() {
            return self.away_since_micros.set(None);
        }
        let away = self.away_since_micros.get().unwrap_or(now);
        self.away_since_micros.set(Some(away));
        let refused = self.refused_micros.get();
        let limit = self.thread.settings().upstream.queue.timeout;
        let late = |waiter: &Rc<Waiter>| {
            // A server that refuses others is there.
            let since = waiter.since_micros.max(away).max(refused);
            self.thread.clock.is_past(since, limit)
        };
        let expired = self.schedule.borrow_mut().take_while(late);
        for waiter in expired {
            self.thread.counters.bound(Bound::QueueTimeout).add(1);
            self.thread.process.failovers.failed(waiter.commands);
            waiter.settle(Outcome::Failed(WaitError::Unreachable));
        }
    }

    /// Whether the last attempt has failed and the next one is not due yet.
    pub(super) fn is_pausing(&self) -> bool {
        let next = self.away.borrow().next_attempt;
        next.is_some_and(|next| next > Instant::now())
    }

    /// As [`Self::pause`], for whoever keeps trying: while the circuit is open it may be the one in the process.
    pub(super) async fn pause_or_probe(&self) -> Option<Probe> {
        let process = &self.thread.process;
        let mut news = process.failovers.news();
        loop {
            let (turn, probe) = process.turn();
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
    pub(super) async fn connect_turn(&self, kind: Kind) {
        let process = &self.thread.process;
        let per_second = self.thread.settings().upstream.max_connects_per_second;
        let wait = process
            .failovers
            .take_turn(kind, process.now_micros(), per_second);
        if !wait.is_zero() {
            let awaited = Awaited {
                process,
                kind,
                per_second,
            };
            self.thread.counters.bound(Bound::ConnectRate).add(1);
            tokio::time::sleep(wait).await;
            std::mem::forget(awaited);
        }
    }

    /// Whether attempts to connect have failed since the last that succeeded.
    pub fn is_failing(&self) -> bool {
        self.away.borrow().failures > 0 || self.thread.process.failovers.is_open()
    }

    /// Whether the server is there, and did not take respool at the last attempt.
    pub fn is_refused(&self) -> bool {
        self.away.borrow().is_refused
    }

    /// What the server has said at the last attempt, where it is there and cannot serve now: LOADING, MASTERDOWN.
    pub fn says_unready(&self) -> Option<Box<[u8]>> {
        let away = self.away.borrow();
        away.unready.as_ref().map(|unready| unready.said.clone())
    }

    /// The same, where it was said after `needed`: of who began to need a connection then it is true.
    pub(super) fn says_unready_since(&self, needed: Instant) -> Option<Box<[u8]>> {
        let away = self.away.borrow();
        let unready = away.unready.as_ref().filter(|said| said.at >= needed);
        unready.map(|unready| unready.said.clone())
    }

    /// An attempt to connect failed.
    pub(super) fn failed(&self, error: &ConnectError) {
        let process = &self.thread.process;
        let settings = self.thread.settings();
        let upstream = &settings.upstream;
        let mut away = self.away.borrow_mut();
        away.is_full = matches!(
            error,
            ConnectError::Away {
                result: ConnectResult::MaxClients,
                ..
            }
        );
        away.is_refused = away.is_full
            || matches!(
                error,
                ConnectError::Away {
                    result: ConnectResult::HandshakeError,
                    ..
                }
            );
        let now = Instant::now();
        away.unready = match error {
            ConnectError::Unready(_, reply) => Some(Unready {
                said: reply.as_slice().into(),
                at: now,
            }),
            _ => None,
        };
        // A server that is full is not helped by being asked often.
        let failures = if away.is_full {
            u32::MAX
        } else {
            away.failures
        };
        let chance = rand::rng().random::<f64>();
        let delay = backoff(upstream.reconnect, failures, chance);
        let serves_others = away.unready.is_some() && !self.is_away();
        let delay = if serves_others {
            delay.min(ASK_UNREADY_AFTER)
        } else {
            delay
        };
        away.failures = away.failures.saturating_add(1);
        away.next_attempt = Some(now + delay);
        if away.last_logged.is_none_or(|last| now - last >= LOG_EVERY) {
            away.last_logged = Some(now);
            tracing::warn!(
                failures = away.failures,
                "cannot connect to the server: {error}"
            );
        }
        drop(away);
        let after = upstream.circuit_after;
        if process
            .failovers
            .attempt_failed(process.now_micros(), after, delay)
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

    /// A connection to the server came about.
    pub(super) fn connected(&self) {
        let mut away = self.away.borrow_mut();
        let failures = std::mem::take(&mut away.failures);
        away.next_attempt = None;
        away.last_logged = None;
        away.is_full = false;
        away.is_refused = false;
        away.unready = None;
        if failures > 0 {
            tracing::debug!(failures, "a worker is connected to the server again");
        }
    }

    /// A server that hung has closed what it had kept: it is back, and the next attempt is due at once.
    pub(super) fn stirred(&self) {
        let mut away = self.away.borrow_mut();
        if away.follows() {
            away.next_attempt = None;
        }
        drop(away);
        let process = &self.thread.process;
        process.failovers.stirred(process.now_micros());
    }

    /// The right to the shared connection that is kept open. `None`: sockets whose end at the server is not seen hold them all,
    /// which is an attempt that failed.
    pub(super) async fn first_permit(&self) -> Option<SocketPermit> {
        let limit = self.thread.settings().upstream.connect_timeout;
        let any = async {
            let mut reserved = std::pin::pin!(self.permit(Kind::Shared));
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

    /// One of those that are for lending, in place of a shared one whose end is not seen. No worker needs more than one: at a server
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
            if let Some(permit) = budget.try_socket(Kind::Pinned) {
                break permit;
            }
            // What falls idle meanwhile is closed in its turn.
            if let Some(link) = self.idle_pins.borrow_mut().pop() {
                link.close("its place in the budget is needed");
            }
            if let Ok(Some(permit)) = tokio::time::timeout(LINGER, self.place()).await {
                break permit;
            }
        };
        permit.share(lease)
    }

    /// A connection has ended; one that lived for a moment only is an attempt that failed.
    pub(super) fn lived(&self, link: &Link, ended: &Ended) {
        // What respool itself ended says nothing.
        if ended.cause.is_none() || link.leaving().is_some() {
            return;
        }
        let now = self.thread.process.now_micros();
        let life = Duration::from_micros(now.saturating_sub(link.origin().opened_micros));
        let mut away = self.away.borrow_mut();
        if life >= SHORT_LIFE {
            away.short_lives = 0;
            return;
        }
        let reconnect = self.thread.settings().upstream.reconnect;
        let delay = backoff(reconnect, away.short_lives, rand::random::<f64>());
        away.short_lives = away.short_lives.saturating_add(1);
        away.next_attempt = Some(Instant::now() + delay);
    }

    /// The server has another address: what was seen of the one before says nothing of it.
    pub(super) fn start_over(&self) {
        *self.away.borrow_mut() = Away::default();
        self.thread.process.failovers.start_over();
    }
}

/// Waits until the news are so. What the wait would return holds a lock, and must be gone before anything else is awaited.
async fn until_told(news: &mut watch::Receiver<News>, is_so: impl FnMut(&News) -> bool) {
    drop(news.wait_for(is_so).await);
}
