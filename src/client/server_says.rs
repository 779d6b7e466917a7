//! What a server that is there and serves nobody for now says for itself: that a script keeps it busy, that it is loading, that
//! it is a replica without its primary.

use std::borrow::Cow;
use std::rc::Rc;

use super::Client;
use super::refusals::{REFUSED, UNREACHABLE};
use super::story::{Awaited, Told};
use crate::resp::speak::encode_request;
use crate::session::State;
use crate::texts::is_busy;

impl Client {
    /// The server has just said that it is busy, to whomever. Nobody is asked otherwise: else such a command costs no round trip.
    pub(super) fn may_be_busy(&self) -> bool {
        self.clients.thread.says_busy() && !self.clients.upstream.is_away()
    }

    /// Returns what a busy server says to `question`; `None`: it is not busy.
    pub(super) async fn said_while_busy(&mut self, question: &[&str]) -> Told<Option<Vec<u8>>> {
        if !self.may_be_busy() {
            return Ok(None);
        }
        let upstream = Rc::clone(&self.clients.upstream);
        let asking = upstream.answer_to(self.asker(), encode_request(question));
        let told = self.meanwhile(asking, Awaited::Server).await?;
        Ok(told.ok().filter(|reply| is_busy(reply)))
    }

    /// Returns for whom the server is asked something, and which group lends a connection for it.
    pub(super) fn asker(&self) -> (State, Option<usize>) {
        (self.session.state.clone(), Some(self.group()))
    }

    /// Returns what is said for `reply`, a reason why a command was not sent, to whoever sent it: the server's own words where it has some.
    pub(super) fn unsent_reply<'a>(&self, reply: &'a [u8]) -> Cow<'a, [u8]> {
        if reply != UNREACHABLE {
            return Cow::Borrowed(reply);
        }
        let upstream = &self.clients.upstream;
        match upstream.says_unready() {
            Some(said) => Cow::Owned(said.into()),
            None if upstream.is_refused() => Cow::Borrowed(REFUSED),
            None => Cow::Borrowed(reply),
        }
    }
}
