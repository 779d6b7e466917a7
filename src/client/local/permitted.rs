//! Whether the server lets a client's user run the subcommands of CLIENT that respool answers itself.
//!
//! Whoever has not authenticated is, to the server, respool's own user, and may do what that user may. What concerns other
//! clients waits for the server's answer. What concerns the client's own connection alone goes by what is known, and waits
//! no longer than a moment where nothing is: nobody's connection is held up by a server that is busy or away.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::auth::{KnownPermission, PermissionResult, concerns_others};
use crate::client::questions::{UNKNOWN_SUBCOMMAND, question_while_busy};
use crate::client::refusals::refusal;
use crate::client::story::{Awaited, Told};
use crate::client::{Client, Clients};
use crate::command::{ClientSub, Local};
use crate::resp::speak::encode_request;
use crate::session::{Credentials, stand_in_for};
use crate::telemetry::Bound;
use crate::texts::ServerVersion;
use crate::upstream::PinError;

/// Bounds how long a command that concerns the client's own connection waits for the server's answer.
const OWN_WAITS: Duration = Duration::from_millis(250);

/// A worker has so many questions under way that no client need wait for: each outlives who has asked, and takes up to 3 KiB and what
/// was shown. With a user that takes any password every client has one of its own.
const MOST_QUESTIONS: usize = 64;

/// Returns what the server is asked, in the place of a subcommand of CLIENT that respool answers itself, to know whether it permits that.
fn question_of(server: ServerVersion, sub: ClientSub) -> Option<&'static [&'static str]> {
    match stand_in_for(sub) {
        Some(question) => Some(question),
        // Before 7.0 a subcommand is looked for when the command runs.
        None if !server.is_from((7, 0)) => Some(UNKNOWN_SUBCOMMAND),
        None => None,
    }
}

/// Holds the questions about permissions that concern the askers' own connections alone, while they are under way.
pub(in crate::client) struct PermissionQuestions {
    under_way: RefCell<HashMap<PermissionKey, Rc<PermissionQuestion>>>,
    places: Arc<Semaphore>,
}

/// Is a question about a permission that is under way, for all who wait for what it comes to.
struct PermissionQuestion {
    /// Has what its key points at live for as long as it is under way.
    _shown: Option<Rc<Credentials>>,
    _place: OwnedSemaphorePermit,
    answer: RefCell<Option<PermissionResult>>,
    is_over: Cell<bool>,
    over: Notify,
}

/// Names a question about a permission: by what its asker has shown, `None`: it is respool's own user, and for what. Of one user's two
/// passwords the server may take no more than one.
type PermissionKey = (Option<*const Credentials>, ClientSub);

impl Default for PermissionQuestions {
    fn default() -> Self {
        Self {
            under_way: RefCell::default(),
            places: Arc::new(Semaphore::new(MOST_QUESTIONS)),
        }
    }
}

impl PermissionQuestions {
    fn under_way(&self, key: &PermissionKey) -> Option<Rc<PermissionQuestion>> {
        self.under_way.borrow().get(key).cloned()
    }
}

impl PermissionQuestion {
    fn new(shown: Option<Rc<Credentials>>, place: OwnedSemaphorePermit) -> Self {
        Self {
            _shown: shown,
            _place: place,
            answer: RefCell::default(),
            is_over: Cell::default(),
            over: Notify::new(),
        }
    }

    /// Returns what the server has said; `None`: it could not be asked.
    async fn told(&self) -> Option<PermissionResult> {
        if !self.is_over.get() {
            self.over.notified().await;
        }
        self.answer.borrow().clone()
    }

    fn answered(&self, answer: Option<PermissionResult>) {
        self.answer.replace(answer);
        self.is_over.set(true);
        self.over.notify_waiters();
    }
}

impl Client {
    /// Tells whether the server permits the client what respool answers itself, or why not; `None`: it has to be asked.
    pub(in crate::client) fn permission_of(&self, local: Local) -> Option<PermissionResult> {
        match local {
            Local::Client(sub) => match question_of(self.clients.thread.server_version(), sub) {
                Some(question) => self.known_permission(sub, question),
                None => Some(Ok(())),
            },
            // Of these no permission is asked for: a server that is busy may refuse them.
            Local::Select
            | Local::Readonly
            | Local::Readwrite
            | Local::Asking
            | Local::Hello
            | Local::Auth
            | Local::Reset
            | Local::Quit
            | Local::NumSub
            | Local::ShardNumSub => {
                let is_asked = self.may_be_busy() && question_while_busy(local).is_some();
                (!is_asked).then_some(Ok(()))
            }
        }
    }

    /// Asks the server whether it permits that.
    pub(in crate::client) async fn asked_permission_of(
        &mut self,
        local: Local,
    ) -> Told<PermissionResult> {
        if let Local::Client(sub) = local {
            return match question_of(self.clients.thread.server_version(), sub) {
                Some(question) => self.ask_permission_for(sub, question).await,
                None => Ok(Ok(())),
            };
        }
        let said = match question_while_busy(local) {
            Some(question) => self.said_while_busy(question).await?,
            None => None,
        };
        Ok(said.map_or(Ok(()), Err))
    }

    /// Returns what is known of a permission, as far as that is enough. What has been known for long is asked for again meanwhile.
    fn known_permission(&self, sub: ClientSub, question: &[&str]) -> Option<PermissionResult> {
        let upstream = &self.clients.upstream;
        let user = self.session.state.user.as_deref();
        let known = self.clients.thread.permission(user, sub);
        if self.clients.thread.says_busy()
            && !upstream.is_away()
            && !matches!(known, KnownPermission::Now(Err(_)))
        {
            // Who may is told that it is busy, as long as it is.
            return None;
        }
        match known {
            KnownPermission::Now(permission) => Some(permission),
            // It cannot say otherwise now.
            KnownPermission::Before(permission) if upstream.is_away() => Some(permission),
            KnownPermission::Before(permission) if !concerns_others(sub) => {
                // Where as many are asked about as may be, a later command asks.
                if let Ok(place) =
                    Arc::clone(&self.clients.permission_questions.places).try_acquire_owned()
                {
                    self.clients.thread.renews_permission(user, sub);
                    let shown = self.session.state.user.clone();
                    ask_question(
                        &self.clients,
                        (shown, sub),
                        place,
                        self.asking(sub, question),
                    );
                }
                Some(permission)
            }
            KnownPermission::Nothing if upstream.is_away() && !concerns_others(sub) => Some(Ok(())),
            _ => None,
        }
    }

    async fn ask_permission_for(
        &mut self,
        sub: ClientSub,
        question: &[&str],
    ) -> Told<PermissionResult> {
        let asking = self.asking(sub, question);
        if concerns_others(sub) {
            let told = self.meanwhile(asking, Awaited::Server).await?;
            return Ok(told.unwrap_or_else(|error| Err(refusal(error))));
        }
        let clients = Rc::clone(&self.clients);
        let shown = self.session.state.user.clone();
        let told = tokio::time::timeout(OWN_WAITS, told_together(clients, (shown, sub), asking));
        let told = self.meanwhile(told, Awaited::Server).await?;
        Ok(told.ok().flatten().unwrap_or(Ok(())))
    }

    fn asking(
        &self,
        sub: ClientSub,
        question: &[&str],
    ) -> impl Future<Output = Result<PermissionResult, PinError>> + use<> {
        let upstream = Rc::clone(&self.clients.upstream);
        upstream.ask_permission(self.asker(), sub, encode_request(question))
    }
}

/// Returns what the server says of whether a user may use a subcommand; `None`: it could not be asked. It is asked once for all who
/// have shown the same and want to know at the same time: a server that does not answer is asked nothing more, however many come,
/// and leave.
async fn told_together(
    clients: Rc<Clients>,
    (shown, sub): (Option<Rc<Credentials>>, ClientSub),
    asking: impl Future<Output = Result<PermissionResult, PinError>> + 'static,
) -> Option<PermissionResult> {
    let key = (shown.as_ref().map(Rc::as_ptr), sub);
    let questions = &clients.permission_questions;
    if let Some(question) = questions.under_way(&key) {
        return question.told().await;
    }
    if questions.places.available_permits() == 0 {
        let counters = &clients.thread.counters;
        counters.bound(Bound::PermissionQuestions).add(1);
    }
    let place = Arc::clone(&questions.places).acquire_owned().await.ok()?;
    let question = ask_question(&clients, (shown, sub), place, asking);
    question.told().await
}

/// Asks the server whether a user may use a subcommand, unless that is under way.
fn ask_question(
    clients: &Rc<Clients>,
    (shown, sub): (Option<Rc<Credentials>>, ClientSub),
    place: OwnedSemaphorePermit,
    asking: impl Future<Output = Result<PermissionResult, PinError>> + 'static,
) -> Rc<PermissionQuestion> {
    let key = (shown.as_ref().map(Rc::as_ptr), sub);
    let questions = &clients.permission_questions;
    if let Some(question) = questions.under_way(&key) {
        return question;
    }
    let question = Rc::new(PermissionQuestion::new(shown, place));
    let mut under_way = questions.under_way.borrow_mut();
    under_way.insert(key, Rc::clone(&question));
    let (clients, asked) = (Rc::clone(clients), Rc::clone(&question));
    // What it comes to is for those who come later, too.
    tokio::task::spawn_local(async move {
        let answer = asking.await.ok();
        let mut under_way = clients.permission_questions.under_way.borrow_mut();
        under_way.remove(&key);
        asked.answered(answer);
    });
    question
}
