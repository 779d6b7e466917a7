//! A transaction of which a busy server has not been told: answered as the server would, and placed on a connection as soon as
//! one is lent.

use super::questions::NEVER_QUEUED;
use super::{Client, Next, Wait};
use crate::command::{CommandId, Delays, Local, PinReason, TransactionCommand};
use crate::exchange::{RequestKind, Show};
use crate::identity::ClientFlag;
use crate::resp::Request;
use crate::resp::speak::OK;
use crate::session::{
    Begun, PinnedCommand, Route, Routed, Unplaced, UnplacedTransaction, miscounted,
};
use crate::texts::is_busy;

const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";

impl Client {
    /// Answers a command of a transaction as the busy server would that has let respool have no connection in the client's state.
    /// False: it is refused for another reason.
    pub(super) fn is_answered_busy(
        &mut self,
        verb: TransactionCommand,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> bool {
        let Some(refusal) = self.refusing.as_ref().filter(|reply| is_busy(reply)) else {
            return false;
        };
        let begun = match miscounted(self.clients.thread.server_version(), request, command) {
            Some(wrong) => Begun::Reply(wrong),
            None => UnplacedTransaction::begin(verb, refusal),
        };
        self.count(1, command);
        match begun {
            Begun::Reply(reply) => self.answer(&reply),
            Begun::Ok(unplaced) => {
                self.unplaced = Some(Box::new(unplaced));
                self.note_unplaced();
                self.answer(OK);
            }
        }
        true
    }

    /// A request of a client whose transaction the server has not been told of. `None`: it is as any other.
    pub(super) fn amid_unplaced(&mut self, request: &Request<'_>, routed: &Routed) -> Option<Next> {
        let server = self.clients.thread.server_version();
        let wrong = miscounted(server, request, routed.command);
        if wrong.is_none() && routed.route == Route::Local(Local::Reset) {
            self.unplaced = None;
            return None;
        }
        if let Some(next) = self.place() {
            return Some(next);
        }
        let unplaced = self.unplaced.as_mut()?;
        if let Some(refusal) = &self.refusing {
            unplaced.hear(refusal);
        }
        let reply = match unplaced.answer(&routed.route, wrong, server) {
            Unplaced::Elsewhere => return None,
            Unplaced::Reply(reply) => reply,
            Unplaced::Over(reply) => {
                self.unplaced = None;
                reply
            }
        };
        self.note_unplaced();
        self.count(1, routed.command);
        self.answer(&reply);
        Some(Next::Used(request.bytes().len()))
    }

    /// The start of a request too large to share: it is refused as all are in such a transaction. `Some`: not yet.
    pub(super) fn large_amid_unplaced(&mut self) -> Option<Next> {
        if let Some(next) = self.place() {
            return Some(next);
        }
        if let Some(unplaced) = self.unplaced.as_mut().filter(|one| one.is_open()) {
            if let Some(refusal) = &self.refusing {
                unplaced.hear(refusal);
            }
            self.refusing = Some(unplaced.refuse());
        }
        None
    }

    /// Tells the server of the transaction, if it lends a connection now. `Some`: that is waited for.
    fn place(&mut self) -> Option<Next> {
        let unplaced = self.unplaced.as_mut()?;
        if unplaced.is_sent() {
            if self.outlet.transaction().is_open() {
                self.unplaced = None;
            } else {
                // What follows must not run by itself.
                unplaced.lose();
            }
            return None;
        }
        if !unplaced.may_be_placed() || self.refusing.is_some() {
            return None;
        }
        let link = match self.pin_with_room(PinReason::Multi) {
            Ok(link) => link,
            Err(next) => return Some(next),
        };
        let is_spoilt = self.unplaced.as_mut().is_some_and(|one| one.send());
        let multi = TransactionCommand::Multi;
        let kind = RequestKind::Pinned(PinnedCommand::Transaction(multi));
        let kind = (kind, Delays::NONE);
        link.send(&self.outlet, MULTI, 1, kind, Show::Hide);
        self.in_multi_after(multi);
        if is_spoilt {
            let kind = (RequestKind::Plain, Delays::NONE);
            link.send(&self.outlet, NEVER_QUEUED, 1, kind, Show::Hide);
        }
        // Its answer tells whether the transaction is open there.
        self.wait = Wait::Answers;
        Some(Next::Wait)
    }

    /// Tells whether its MULTI was answered.
    pub(super) fn has_unplaced_open(&self) -> bool {
        self.unplaced.as_ref().is_some_and(|one| one.is_open())
    }

    /// Shows on the client's record what such a transaction makes of it.
    fn note_unplaced(&self) {
        let is_open = self.unplaced.as_ref().map(|unplaced| unplaced.is_open());
        self.flag(ClientFlag::Multi, is_open == Some(true));
        self.flag(ClientFlag::Watching, is_open == Some(false));
    }
}
