//! SCRIPT DEBUG: a script that the server runs under its debugger, as `redis-cli --ldb` asks for it. The session belongs to the
//! connection and ends with it, so the client keeps the one lent to it, and its bytes are passed on as they are from the moment
//! the debugger speaks.
//!
//! Invariant: no connection on which SCRIPT DEBUG may be on is lent to anybody else; RESET does not switch it off.

use std::rc::Rc;

use crate::client::story::{SlowRequest, Told};
use crate::client::{Client, Wait};
use crate::command::{PinReason, lookup, same_word};
use crate::link::{Link, RoomWait};
use crate::session::PinnedCommand;
use crate::telemetry::Disconnect;

/// Answers a script inside MULTI while SCRIPT DEBUG is on. The server itself runs what stands behind it twice: in the debugger, and on the
/// data.
const NOT_DEBUGGED_IN_MULTI: &[u8] =
    b"-ERR respool: a script is not debugged inside MULTI, send SCRIPT DEBUG NO before MULTI\r\n";

impl Client {
    /// Tells SCRIPT DEBUG. No reply is due on the connection: behind one the server refuses it.
    pub(super) async fn script_debug(&mut self, slow: &SlowRequest) -> Told {
        let (request, command) = (slow.request(), slow.command());
        let Some(link) = self.lent(slow, PinReason::ScriptDebug).await? else {
            return Ok(());
        };
        self.use_pin(|pin| pin.queues_unsure = true);
        if self.outlet.transaction().is_open() {
            // EXEC answers that it must be called outside of a pipeline.
            self.queue(&link, &request, command, PinnedCommand::Queue);
            return Ok(());
        }
        let is_off = request
            .argument(2)
            .is_some_and(|word| same_word(word, b"no"));
        if !is_off {
            link.set_may_debug(true);
        }
        self.queue(&link, &request, command, PinnedCommand::Debug(!is_off));
        // What follows goes by its answer.
        self.wait = Wait::Answers;
        Ok(())
    }

    /// Tells whether SCRIPT DEBUG is on.
    pub(in crate::client) fn is_debugging(&self) -> bool {
        self.pin.is_some() && self.outlet.transaction().debugging
    }

    /// Tells a script of a client with SCRIPT DEBUG on. Nothing is outstanding.
    pub(super) async fn debugged(&mut self, slow: &SlowRequest) -> Told {
        let Some(link) = self.lent(slow, PinReason::ScriptDebug).await? else {
            return Ok(());
        };
        if self.outlet.transaction().is_open() {
            self.spoil(slow.command(), NOT_DEBUGGED_IN_MULTI);
            return Ok(());
        }
        self.queue(
            &link,
            &slow.request(),
            slow.command(),
            PinnedCommand::Debugged,
        );
        // The start of its answer tells whether a debugger speaks from here on.
        self.wait = Wait::Answers;
        Ok(())
    }

    /// The connection that carries the session of a debugger, if one does.
    #[inline]
    pub(in crate::client) fn debugger(&self) -> Option<Rc<Link>> {
        let link = self.pin.as_ref()?.link();
        link.is_debugging().then(|| Rc::clone(link))
    }

    /// Passes on what a client sends to its debugger. Returns how many bytes are done with.
    #[cold]
    pub(in crate::client) fn tell_debugger(&mut self, link: &Rc<Link>, data: &[u8]) -> usize {
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
