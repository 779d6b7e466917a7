//! Attempts to authenticate wait here for their turn, so that an address that shows wrong passwords is slowed and nobody else is.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::auth::{
    AttemptBounds, AttemptOutcome, AttemptSource, AttemptTicket, AttemptTurn, AwaitedSecret,
    ConfiguredUsers, LoginAttempts, SecretHash, SecretsListener, ServedSecrets,
};
use crate::client::Clients;
use crate::config::{AuthMode, Settings};
use crate::schedule::LoginPlace;
use crate::session::Credentials;
use crate::telemetry::{Bound, Throttle};

fn bounds(settings: &Settings) -> AttemptBounds {
    let auth = &settings.auth;
    AttemptBounds {
        free_failures: auth.free_failures,
        max_delay: auth.max_failure_delay,
        max_in_flight: auth.max_attempts_in_flight,
        max_waiting: auth.max_attempts_waiting,
        max_addresses: auth.max_failing_addresses,
    }
}

/// The attempts of one worker's clients.
pub(in crate::client) struct AttemptQueue {
    attempts: RefCell<LoginAttempts>,
    waiting: RefCell<HashMap<AttemptTicket, TurnAwaited>>,
    /// Knows by what the clients of all workers are served.
    served: SecretsListener,
    /// The lines that say that an address is slowed, or that too many wait.
    slowed_line: Throttle,
    refused_line: Throttle,
}

/// Holds what an attempt shows that waits for its turn, and where it is told.
struct TurnAwaited {
    shown: Rc<Credentials>,
    tell: oneshot::Sender<Attempt>,
    /// While it lives it is told when somebody is served by the same.
    _awaited: Option<AwaitedSecret>,
}

/// Tells whether others are served by what is shown.
enum ServedBefore {
    Served,
    /// Nobody is, and it is told when somebody is, where that is for the server to say.
    Unserved(Option<AwaitedSecret>),
}

impl AttemptQueue {
    pub(in crate::client) fn new(settings: &Settings, served: &Arc<ServedSecrets>) -> Self {
        Self {
            attempts: RefCell::new(LoginAttempts::new(bounds(settings))),
            waiting: RefCell::default(),
            served: served.listener(),
            slowed_line: Throttle::default(),
            refused_line: Throttle::default(),
        }
    }

    pub(in crate::client) fn reload(&self, settings: &Settings) {
        self.attempts.borrow_mut().reload(bounds(settings));
    }
}

/// An attempt that is being looked at, until it is dropped.
pub(in crate::client) struct Attempt {
    clients: Weak<Clients>,
    source: AttemptSource,
    outcome: Cell<AttemptOutcome>,
}

impl Attempt {
    /// Notes how it has ended.
    pub(in crate::client) fn came_to(&self, outcome: AttemptOutcome) {
        self.outcome.set(outcome);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(clients) = self.clients.upgrade() else {
            return;
        };
        let now = clients.thread.clock.now_micros();
        let mut attempts = clients.attempts.attempts.borrow_mut();
        attempts.ended(self.source, self.outcome.get(), now);
        drop(attempts);
        clients.release_attempts();
    }
}

/// An attempt that waits for its turn.
pub(in crate::client) struct WaitingAttempt {
    clients: Weak<Clients>,
    source: AttemptSource,
    ticket: AttemptTicket,
    turn: oneshot::Receiver<Attempt>,
}

impl WaitingAttempt {
    /// Waits; `None`: respool is ending.
    pub(in crate::client) async fn turn(mut self) -> Option<Attempt> {
        (&mut self.turn).await.ok()
    }
}

impl Drop for WaitingAttempt {
    fn drop(&mut self) {
        if let Some(clients) = self.clients.upgrade() {
            let queue = &clients.attempts;
            queue.waiting.borrow_mut().remove(&self.ticket);
            let mut attempts = queue.attempts.borrow_mut();
            attempts.leave(self.source, self.ticket);
        }
    }
}

/// Says what becomes of an attempt.
pub(in crate::client) enum Admitted {
    Now(Attempt),
    Waits(WaitingAttempt),
    Refused,
}

impl Clients {
    /// Looks whether another client, of any worker, is served by what is shown.
    fn look(&self, shown: &Credentials, hash: impl FnOnce() -> SecretHash) -> ServedBefore {
        match self.thread.settings().auth.mode {
            AuthMode::Optional | AuthMode::Passthrough => match self.attempts.served.look(hash()) {
                None => ServedBefore::Served,
                awaited => ServedBefore::Unserved(awaited),
            },
            // Nothing is asked, so nothing can be guessed.
            AuthMode::None => ServedBefore::Served,
            AuthMode::Proxy => {
                let users = self.users();
                let verifies =
                    |users: &ConfiguredUsers| users.verifies(shown.user(), &shown.password);
                match users.as_deref().is_some_and(verifies) {
                    true => ServedBefore::Served,
                    // Only a reload makes it right.
                    false => ServedBefore::Unserved(None),
                }
            }
        }
    }

    fn hash_of(&self, shown: &Credentials) -> SecretHash {
        let name = shown.username.as_deref();
        self.attempts.served.hash(name, &shown.password)
    }

    /// A client at `peer` shows a user and a password; see [`LoginAttempts::begin`].
    pub(in crate::client) fn begin_attempt(
        self: &Rc<Self>,
        peer: &crate::identity::PeerAddress,
        shown: &Rc<Credentials>,
        has_failed: bool,
    ) -> Admitted {
        let queue = &self.attempts;
        let (source, now) = (peer.number(), self.thread.clock.now_micros());
        let hash = self.hash_of(shown);
        let mut awaited = None;
        let is_served = || match self.look(shown, || hash) {
            ServedBefore::Served => true,
            ServedBefore::Unserved(unserved) => {
                awaited = unserved;
                false
            }
        };
        let mut attempts = queue.attempts.borrow_mut();
        match attempts.begin(source, hash, is_served, has_failed, now) {
            AttemptTurn::Now => Admitted::Now(self.attempt(source)),
            AttemptTurn::Wait(ticket, is_first) => {
                self.thread.counters.bound(Bound::AuthDelayed).add(1);
                if is_first && let Some(unwritten) = queue.slowed_line.write(now) {
                    tracing::warn!(
                        client = %peer,
                        unwritten,
                        "an address that has shown wrong passwords is slowed: its attempts to authenticate are looked at one \
                         after another, with up to auth.max_failure_delay between them"
                    );
                }
                let (tell, turn) = oneshot::channel();
                let shown = Rc::clone(shown);
                let awaited = TurnAwaited {
                    shown,
                    tell,
                    _awaited: awaited,
                };
                queue.waiting.borrow_mut().insert(ticket, awaited);
                Admitted::Waits(WaitingAttempt {
                    clients: Rc::downgrade(self),
                    source,
                    ticket,
                    turn,
                })
            }
            AttemptTurn::Refused => {
                self.thread.counters.bound(Bound::AuthWaiting).add(1);
                if let Some(unwritten) = queue.refused_line.write(now) {
                    tracing::warn!(
                        client = %peer,
                        unwritten,
                        "an attempt to authenticate is refused: auth.max_attempts_waiting of this address wait already"
                    );
                }
                Admitted::Refused
            }
        }
    }

    /// Returns where `user`, who has shown a password by `attempt`, stands among the others who wait for the server to say whether they may.
    pub(super) fn login_place(
        &self,
        user: Option<&Rc<Credentials>>,
        attempt: Option<&Attempt>,
    ) -> LoginPlace {
        let served = &self.attempts.served;
        if user.is_some_and(|user| served.is_served(self.hash_of(user))) {
            return LoginPlace::First;
        }
        let attempts = self.attempts.attempts.borrow();
        let before = attempt.map_or(0, |attempt| attempts.before_last(attempt.source));
        LoginPlace::Behind(before)
    }

    fn attempt(self: &Rc<Self>, source: AttemptSource) -> Attempt {
        Attempt {
            clients: Rc::downgrade(self),
            source,
            outcome: Cell::new(AttemptOutcome::Untold),
        }
    }

    /// Has those looked at whose turn has come, or who show what others are served by now.
    pub(in crate::client) fn release_attempts(self: &Rc<Self>) {
        let now = self.thread.clock.now_micros();
        loop {
            let released = self.released_attempts(now);
            if released.is_empty() {
                return;
            }
            for (source, ticket) in released {
                let waiting = self.attempts.waiting.borrow_mut().remove(&ticket);
                let attempt = self.attempt(source);
                match waiting {
                    // Who waited may have left, and the attempt ends with it.
                    Some(waiting) => drop(waiting.tell.send(attempt)),
                    None => drop(attempt),
                }
            }
        }
    }

    fn released_attempts(&self, now: u64) -> Vec<(AttemptSource, AttemptTicket)> {
        let queue = &self.attempts;
        let mut attempts = queue.attempts.borrow_mut();
        let mut released = Vec::new();
        for hash in queue.served.come() {
            released.extend(attempts.served(hash));
        }
        let mut waiting = queue.waiting.borrow_mut();
        let is_served = |ticket| {
            let Some(waiting) = waiting.get_mut(&ticket) else {
                return false;
            };
            match self.look(&waiting.shown, || self.hash_of(&waiting.shown)) {
                ServedBefore::Served => true,
                ServedBefore::Unserved(awaited) => {
                    waiting._awaited = awaited;
                    false
                }
            }
        };
        released.extend(attempts.release(is_served, now));
        released
    }
}
