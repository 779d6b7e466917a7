//! Whether the server lets a client's user run the subcommands of CLIENT that respool answers itself.
//!
//! Whoever has not authenticated is, to the server, respool's own user, and may do what that user may. What concerns other
//! clients waits for the server's answer. What concerns the client's own connection alone goes by what is known, and waits
//! no longer than a moment where nothing is: nobody's connection is held up by a server that is busy or away.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::auth::{KnownPermission, PermissionResult, concerns_others};
use crate::client::Client;
use crate::client::questions::{UNKNOWN_SUBCOMMAND, question_while_busy};
use crate::client::refusals::refusal;
use crate::client::story::{Awaited, Told};
use crate::command::{ClientSub, Local};
use crate::resp::speak::encode_request;
use crate::session::{Credentials, stand_in_for};
use crate::texts::ServerVersion;
use crate::upstream::PinError;

/// Bounds how long a command that concerns the client's own connection waits for the server's answer.
const OWN_WAITS: Duration = Duration::from_millis(250);

/// Returns what the server is asked, in the place of a subcommand of CLIENT that respool answers itself, to know whether it permits that.
fn question_of(server: ServerVersion, sub: ClientSub) -> Option<&'static [&'static str]> {
    match stand_in_for(sub) {
        Some(question) => Some(question),
        // Before 7.0 a subcommand is looked for when the command runs.
        None if !server.is_from((7, 0)) => Some(UNKNOWN_SUBCOMMAND),
        None => None,
    }
}

/// Is a question about a permission that is under way, for all who wait for what it comes to.
#[derive(Default)]
pub(in crate::client) struct PermissionQuestion {
    /// Has what its key points at live for as long as it is under way.
    _shown: Option<Rc<Credentials>>,
    answer: RefCell<Option<PermissionResult>>,
    is_over: Cell<bool>,
    over: Notify,
}

/// Names a question about a permission: by what its asker has shown, `None`: it is respool's own user, and for what. Of one user's two
/// passwords the server may take no more than one.
pub(in crate::client) type PermissionKey = (Option<*const Credentials>, ClientSub);

impl PermissionQuestion {
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
            _ if self.may_be_busy() && question_while_busy(local).is_some() => None,
            _ => Some(Ok(())),
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
                self.clients.thread.renews_permission(user, sub);
                let upstream = Rc::clone(upstream);
                let asking = upstream.ask_permission(self.asker(), sub, encode_request(question));
                self.permission_question(sub, asking);
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
        let upstream = Rc::clone(&self.clients.upstream);
        let asking = upstream.ask_permission(self.asker(), sub, encode_request(question));
        if concerns_others(sub) {
            let told = self.meanwhile(asking, Awaited::Server).await?;
            return Ok(told.unwrap_or_else(|error| Err(refusal(error))));
        }
        let question = self.permission_question(sub, asking);
        let told = tokio::time::timeout(OWN_WAITS, question.told());
        let told = self.meanwhile(told, Awaited::Server).await?;
        Ok(told.ok().flatten().unwrap_or(Ok(())))
    }

    /// Returns the question of whether the client's user may use `sub`. It is asked once for all who have shown the same and want to know at the same
    /// time: a server
    /// that does not answer is asked nothing more, however many come, and leave.
    fn permission_question(
        &self,
        sub: ClientSub,
        asking: impl Future<Output = Result<PermissionResult, PinError>> + 'static,
    ) -> Rc<PermissionQuestion> {
        let shown = self.session.state.user.clone();
        let key = (shown.as_ref().map(Rc::as_ptr), sub);
        let clients = Rc::clone(&self.clients);
        let mut questions = clients.permission_questions.borrow_mut();
        if let Some(question) = questions.get(&key) {
            return Rc::clone(question);
        }
        let question = Rc::new(PermissionQuestion {
            _shown: shown,
            ..PermissionQuestion::default()
        });
        questions.insert(key, Rc::clone(&question));
        drop(questions);
        let asked = Rc::clone(&question);
        // What it comes to is for those who come later, too.
        tokio::task::spawn_local(async move {
            let answer = asking.await.ok();
            clients.permission_questions.borrow_mut().remove(&key);
            asked.answered(answer);
        });
        question
    }
}
