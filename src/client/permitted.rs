//! Whether the server lets a client's user run the subcommands of CLIENT that respool answers itself.
//!
//! Whoever has not authenticated is, to the server, respool's own user, and may do what that user may. What concerns other
//! clients waits for the server's answer. What concerns the client's own connection alone goes by what is known, and waits
//! no longer than a moment where nothing is: nobody's connection is held up by a server that is busy or away.

use std::rc::Rc;
use std::time::Duration;

use super::requests::Next;
use super::task::{Client, Done, Wait};
use crate::auth::{Known, Permission, concerns_others, is_unknown_command};
use crate::command::ClientSub;
use crate::resp::Request;
use crate::resp::speak::encode_request;
use crate::session::stand_in_for;
use crate::texts::unknown_command;

/// How long a command that concerns the client's own connection waits for the server's answer.
const OWN_WAITS: Duration = Duration::from_millis(250);

/// What no server has, as a server before Redis 7.0 is asked for it.
pub(super) const UNKNOWN_SUBCOMMAND: &[&str] = &["CLIENT", "-"];

impl Client {
    /// What becomes of a subcommand of CLIENT that the server does not permit the client's user, or has to be asked about;
    /// `None`: it is permitted.
    pub(super) fn unpermitted(&mut self, sub: ClientSub, request: &Request<'_>) -> Option<Next> {
        let question = match stand_in_for(sub) {
            Some(question) => question,
            // Before 7.0 a subcommand is looked for when the command runs.
            None if !self.clients.thread.server_version().is_from((7, 0)) => UNKNOWN_SUBCOMMAND,
            None => return None,
        };
        let permission = match self.permission.take() {
            Some(told) => *told,
            None => match self.known_permission(sub, question) {
                Some(known) => known,
                None => return Some(self.ask_permission_for(sub, question)),
            },
        };
        let mut reply = permission.err()?;
        if is_unknown_command(&reply) {
            // It names the words that it was sent.
            reply = unknown_command(self.clients.thread.server_version(), request);
        }
        self.answer(&reply);
        self.end_if_lost(&reply);
        Some(Next::Used(request.bytes().len()))
    }

    /// What is known of a permission, as far as that is enough. What has been known for long is asked for again meanwhile.
    fn known_permission(&self, sub: ClientSub, question: &[&str]) -> Option<Permission> {
        let upstream = &self.clients.upstream;
        let user = self.session.state.user.as_deref();
        let known = self.clients.thread.permission(user, sub);
        if self.clients.thread.says_busy()
            && !upstream.is_away()
            && !matches!(known, Known::Now(Err(_)))
        {
            // Who may is told that it is busy, as long as it is.
            return None;
        }
        match known {
            Known::Now(permission) => Some(permission),
            // It cannot say otherwise now.
            Known::Before(permission) if upstream.is_away() => Some(permission),
            Known::Before(permission) if !concerns_others(sub) => {
                self.clients.thread.renews_permission(user, sub);
                let upstream = Rc::clone(upstream);
                let asking = upstream.ask_permission(self.asker(), sub, encode_request(question));
                tokio::task::spawn_local(async move { drop(asking.await) });
                Some(permission)
            }
            Known::Nothing if upstream.is_away() && !concerns_others(sub) => Some(Ok(())),
            _ => None,
        }
    }

    fn ask_permission_for(&mut self, sub: ClientSub, question: &[&str]) -> Next {
        let upstream = Rc::clone(&self.clients.upstream);
        let asking = upstream.ask_permission(self.asker(), sub, encode_request(question));
        self.wait = Wait::Task(Box::pin(async move {
            if concerns_others(sub) {
                return Done::Permission(asking.await);
            }
            // What it comes to is for those who come later, too.
            let asking = tokio::task::spawn_local(asking);
            let told = tokio::time::timeout(OWN_WAITS, asking).await;
            let permission = told.ok().and_then(Result::ok).and_then(Result::ok);
            Done::Permission(Ok(permission.unwrap_or(Ok(()))))
        }));
        Next::Wait
    }
}
