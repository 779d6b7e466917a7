//! What a server that is there and serves nobody for now says for itself: that a script keeps it busy, that it is loading, that
//! it is a replica without its primary.

use std::borrow::Cow;
use std::rc::Rc;

use super::requests::{Next, REFUSED, UNREACHABLE};
use super::serve::Awaited;
use super::slow::Told;
use super::task::{Client, Done, Wait};
use crate::command::Local;
use crate::resp::speak::encode_request;
use crate::session::{State, is_busy};

/// What every server refuses while it is busy, and that changes nothing.
pub(super) const ECHO: &[&str] = &["ECHO", ""];

/// What the server is asked in the place of a command of respool's own, which it would refuse while a script does not end;
/// `None`: it answers that all the same, or is asked anyway.
fn question_of(local: Local) -> Option<&'static [&'static str]> {
    match local {
        // To Valkey 9.1 it is one of those that are answered.
        Local::Select => Some(&["SELECT", "-"]),
        Local::Readonly | Local::Readwrite | Local::Asking => Some(ECHO),
        Local::Hello | Local::Auth | Local::Reset | Local::Quit => None,
        Local::NumSub | Local::ShardNumSub | Local::Client(_) => None,
    }
}

impl Client {
    /// What becomes of a command that respool answers itself and a busy server would refuse; `None`: the server is not busy.
    pub(super) fn refused_while_busy(&mut self, local: Local, length: usize) -> Option<Next> {
        question_of(local).and_then(|question| self.asked_while_busy(question, length))
    }

    /// Nobody is asked unless the server has just said that it is busy, to whomever: else such a command costs no round trip.
    fn asked_while_busy(&mut self, question: &[&str], length: usize) -> Option<Next> {
        if let Some(told) = self.permission.take() {
            let reply = told.err()?;
            self.answer(&reply);
            return Some(Next::Used(length));
        }
        if !self.may_be_busy() {
            return None;
        }
        let upstream = Rc::clone(&self.clients.upstream);
        let asking = upstream.answer_to(self.asker(), encode_request(question));
        self.wait = Wait::Task(Box::pin(async move {
            let told = asking.await.ok().filter(|reply| is_busy(reply));
            Done::Permission(Ok(told.map_or(Ok(()), Err)))
        }));
        Some(Next::Wait)
    }

    /// The server has just said that it is busy, to whomever.
    fn may_be_busy(&self) -> bool {
        self.clients.thread.says_busy() && !self.clients.upstream.is_away()
    }

    /// What a busy server says to `question`; `None`: it is not busy.
    pub(super) async fn said_while_busy(&mut self, question: &[&str]) -> Told<Option<Vec<u8>>> {
        if !self.may_be_busy() {
            return Ok(None);
        }
        let upstream = Rc::clone(&self.clients.upstream);
        let asking = upstream.answer_to(self.asker(), encode_request(question));
        let told = self.meanwhile(asking, Awaited::Server).await?;
        Ok(told.ok().filter(|reply| is_busy(reply)))
    }

    /// For whom the server is asked something, and which group lends a connection for it.
    pub(super) fn asker(&self) -> (State, Option<usize>) {
        (self.session.state.clone(), Some(self.group()))
    }

    /// What is said for `reply`, a reason why a command was not sent, to whoever sent it: the server's own words where it has
    /// some.
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
