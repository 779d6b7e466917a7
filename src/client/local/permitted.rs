//! Whether the server lets a client's user run the subcommands of CLIENT that respool answers itself.
//!
//! Whoever has not authenticated is, to the server, respool's own user, and may do what that user may. What concerns other
//! clients waits for the server's answer. What concerns the client's own connection alone goes by what is known, and waits
//! no longer than a moment where nothing is: nobody's connection is held up by a server that is busy or away.

use std::rc::Rc;
use std::time::Duration;

use crate::auth::{KnownPermission, PermissionResult, concerns_others};
use crate::client::Client;
use crate::client::questions::{UNKNOWN_SUBCOMMAND, question_while_busy};
use crate::client::refusals::refusal;
use crate::client::story::{Awaited, Told};
use crate::command::{ClientSub, Local};
use crate::resp::speak::encode_request;
use crate::session::stand_in_for;
use crate::texts::ServerVersion;

/// How long a command that concerns the client's own connection waits for the server's answer.
const OWN_WAITS: Duration = Duration::from_millis(250);

/// What the server is asked, in the place of a subcommand of CLIENT that respool answers itself, to know whether it permits that.
fn question_of(server: ServerVersion, sub: ClientSub) -> Option<&'static [&'static str]> {
    match stand_in_for(sub) {
        Some(question) => Some(question),
        // Before 7.0 a subcommand is looked for when the command runs.
        None if !server.is_from((7, 0)) => Some(UNKNOWN_SUBCOMMAND),
        None => None,
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

    /// What is known of a permission, as far as that is enough. What has been known for long is asked for again meanwhile.
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
                tokio::task::spawn_local(async move { drop(asking.await) });
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
        // What it comes to is for those who come later, too.
        let asking = tokio::time::timeout(OWN_WAITS, tokio::task::spawn_local(asking));
        let told = self.meanwhile(asking, Awaited::Server).await?;
        let permission = told.ok().and_then(Result::ok).and_then(Result::ok);
        Ok(permission.unwrap_or(Ok(())))
    }
}
