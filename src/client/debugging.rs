//! SCRIPT DEBUG: a script that the server runs under its debugger, as `redis-cli --ldb` asks for it. The session belongs to the
//! connection and ends with it, so the client keeps the one lent to it, and its bytes are passed on as they are from the moment
//! the debugger speaks.
//!
//! Invariant: no connection on which SCRIPT DEBUG may be on is lent to anybody else; RESET does not switch it off.

use std::rc::Rc;

use super::requests::Next;
use super::task::{Client, Wait};
use crate::command::{CommandId, PinReason, lookup, same_word, spec};
use crate::resp::Request;
use crate::session::{PinnedCommand, Route, Routed};
use crate::telemetry::Disconnect;
use crate::upstream::{Link, RoomWait};

/// What a script gets inside MULTI while SCRIPT DEBUG is on. The server itself runs what stands behind it twice: in the debugger,
/// and on the data.
const NOT_DEBUGGED_IN_MULTI: &[u8] =
    b"-ERR respool: a script is not debugged inside MULTI, send SCRIPT DEBUG NO before MULTI\r\n";

/// What RESET gets while SCRIPT DEBUG is on, which it would leave on.
pub(super) const NOT_WHILE_DEBUGGING: &[u8] =
    b"-ERR respool: RESET does not end SCRIPT DEBUG, send SCRIPT DEBUG NO before it\r\n";

/// Whether a command begins a session of the debugger where SCRIPT DEBUG is on.
fn is_debugged(command: Option<CommandId>) -> bool {
    command.is_some_and(|id| matches!(spec(id).name, "eval" | "eval_ro"))
}

impl Client {
    /// SCRIPT DEBUG on the connection lent to the client, on which no reply is due: behind one the server refuses it.
    pub(super) fn script_debug(
        &mut self,
        link: &Rc<Link>,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        if self.outlet.transaction().open {
            // EXEC answers that it must be called outside of a pipeline.
            return self.queue(link, request, command, PinnedCommand::Queue);
        }
        let is_off = request
            .argument(2)
            .is_some_and(|word| same_word(word, b"no"));
        if !is_off {
            link.set_may_debug(true);
        }
        // What follows goes by its answer.
        self.wait = Wait::Answers;
        self.queue(link, request, command, PinnedCommand::Debug(!is_off))
    }

    /// Whether SCRIPT DEBUG is on.
    pub(super) fn is_debugging(&self) -> bool {
        self.pin.is_some() && self.outlet.transaction().debugging
    }

    /// A script of a client with SCRIPT DEBUG on. `None`: the request is none.
    pub(super) fn debugged(&mut self, request: &Request<'_>, routed: &Routed) -> Option<Next> {
        let goes = matches!(
            routed.route,
            Route::Fenced | Route::Pinned(PinReason::ReplicaScript)
        );
        if !goes || !is_debugged(routed.command) || !self.is_debugging() {
            return None;
        }
        let link = match self.pin_with_room(PinReason::ScriptDebug) {
            Ok(link) => link,
            Err(next) => return Some(next),
        };
        if self.outlet.outstanding() > 0 {
            self.wait = Wait::Answers;
            return Some(Next::Wait);
        }
        if self.outlet.transaction().open {
            return Some(self.spoil_transaction(request, routed.command, NOT_DEBUGGED_IN_MULTI));
        }
        // The start of its answer tells whether a debugger speaks from here on.
        self.wait = Wait::Answers;
        Some(self.queue(&link, request, routed.command, PinnedCommand::Debugged))
    }

    /// The connection that carries the session of a debugger, if one does.
    #[inline]
    pub(super) fn debugger(&self) -> Option<Rc<Link>> {
        let link = self.pin.as_ref()?.link();
        link.is_debugging().then(|| Rc::clone(link))
    }

    /// What a client sends to its debugger. Returns how many bytes are done with.
    #[cold]
    pub(super) fn tell_debugger(&mut self, link: &Rc<Link>, data: &[u8]) -> usize {
        if !link.is_alive() {
            self.outlet.close(Disconnect::Quit);
            return 0;
        }
        if !link.has_room(&self.outlet) {
            self.wait = Wait::Room(RoomWait::new(link, data.len()));
            return 0;
        }
        self.count(1, lookup(b"eval"));
        link.send_more(data);
        data.len()
    }
}
