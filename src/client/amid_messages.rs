//! What a client sends whose lent connection carries messages: EXEC has run a SUBSCRIBE. All frames of the connection are passed on as
//! they come, so nobody sees which of them answers what.
//!
//! Invariant: no command that leaves a mark on its connection or on the server, of which the loan keeps account elsewhere, is sent on such
//! a connection; and nobody else ever gets it.

use std::rc::Rc;

use super::refusals::NOT_AMID_MESSAGES;
use super::story::Awaited;
use super::{Client, Next, Wait};
use crate::command::{
    ClientSub, Delays, Local, PinReason, TransactionCommand, outlasts_reset, spec,
};
use crate::exchange::MayTake;
use crate::link::{Link, RoomWait};
use crate::resp::Request;
use crate::resp::speak::encode_request;
use crate::session::{Route, Routed};
use crate::telemetry::Disconnect;
use crate::texts::subscribers_may_not;
use crate::waits::PoppedElements;

/// A request in the place of one that is refused inside MULTI: no server has such a command, so it says so, in its place among the
/// replies, and EXEC fails as after every error while queueing.
const NOT_QUEUED: &str =
    "respool: this command is not possible inside MULTI while messages are received";

/// Tells whether a request that needs a lent connection for this reason may be sent where nobody sees its answer.
fn may_go_unseen(reason: PinReason, request: &Request<'_>) -> bool {
    match reason {
        // A redirection would name a connection of the server's, which may be anybody's. The others change what respool has to know of
        // the connection or the server, by an answer that nobody looks at.
        PinReason::Tracking | PinReason::Pause | PinReason::Admin | PinReason::ScriptDebug => false,
        // It may be one of those that was given another name.
        PinReason::Unlisted => !request.argument(1).is_some_and(outlasts_reset),
        _ => true,
    }
}

/// Tells whether respool answers a request that goes this way, and not the server.
fn is_answered_here(route: &Route, request: &Request<'_>) -> bool {
    match route {
        Route::Local(_) | Route::Refused(_) => true,
        Route::Pinned(reason) => !may_go_unseen(*reason, request),
        _ => false,
    }
}

/// Tells whether the server is sent a request that goes this way.
fn is_sent_there(route: &Route, request: &Request<'_>) -> bool {
    !is_answered_here(route, request) && *route != Route::Alien
}

/// Returns how long the server may take to answer a request that is sent amid messages.
fn may_take(request: &Request<'_>, routed: &Routed, in_multi: bool) -> MayTake {
    let blocks = !in_multi && matches!(routed.route, Route::Pinned(reason) if reason.may_block());
    MayTake {
        // What waits for others says nothing of the server.
        delays: match blocks {
            true => Delays::NONE,
            false => Delays::of(routed.command),
        },
        blocks,
        takes: blocks && PoppedElements::by(request.arguments()) != PoppedElements::Nothing,
    }
}

impl Client {
    /// A request of a client whose connection carries messages.
    pub(super) fn amid_messages(&mut self, request: &Request<'_>, routed: Routed) -> Next {
        let Some(link) = self.pin.as_ref().map(|pin| Rc::clone(pin.link())) else {
            return Next::Wait;
        };
        if !link.is_alive() {
            self.outlet.close(Disconnect::UpstreamLost);
            return Next::Wait;
        }
        if !link.has_room(&self.outlet) {
            self.wait = Wait::Room(RoomWait::new(&link, request.bytes().len()));
            return Next::Wait;
        }
        let takes = may_take(request, &routed, self.in_multi());
        if self.waits_amid(&link, request, &routed, takes.blocks) {
            return Next::Wait;
        }
        self.count(1, routed.command);
        let has_room =
            !is_sent_there(&routed.route, request) || self.note_sent_amid(&link, request, &routed);
        match routed.route {
            Route::Alien => self.ending = Some(Disconnect::ProtocolError),
            Route::Local(local @ (Local::Quit | Local::Reset)) => {
                self.leave_stream(&link, local);
            }
            Route::Local(_) | Route::Refused(_) if self.is_listening() => {
                let name = routed.command.map_or("", |id| spec(id).name);
                let server = self.clients.thread.server_version();
                self.outlet.own_reply(&subscribers_may_not(server, name));
            }
            Route::Local(Local::Client(sub)) if sub != ClientSub::Reply && !self.in_multi() => {
                return self.local(Local::Client(sub), request, routed.command);
            }
            Route::Local(_) => self.refuse_amid_messages(&link, NOT_AMID_MESSAGES),
            Route::Pinned(reason) if !may_go_unseen(reason, request) => {
                self.refuse_amid_messages(&link, NOT_AMID_MESSAGES);
            }
            Route::Refused(reply) => self.refuse_amid_messages(&link, &reply),
            _ if !has_room => self.refuse_amid_messages(&link, NOT_AMID_MESSAGES),
            Route::Transaction(verb) => {
                self.note_multi_unseen(verb, request);
                link.send_amid(request.bytes(), takes);
            }
            _ if takes.blocks && !self.is_at_end => link.send_call_amid(request.bytes(), takes),
            _ => link.send_amid(request.bytes(), takes),
        }
        Next::Used(request.bytes().len())
    }

    /// Tells whether a request waits, before it is answered or sent, for what the server has still to answer.
    fn waits_amid(
        &mut self,
        link: &Link,
        request: &Request<'_>,
        routed: &Routed,
        blocks: bool,
    ) -> bool {
        // What is answered here has its place behind what the server has still to answer, and by then it is known whether the client
        // is subscribed. Inside MULTI the server answers, but to what ends it.
        let ends_multi = matches!(routed.route, Route::Local(Local::Quit | Local::Reset));
        if is_answered_here(&routed.route, request)
            && (self.is_listening() || !self.in_multi() || ends_multi)
            && self.waits_for_place()
        {
            return true;
        }
        if is_sent_there(&routed.route, request) && self.is_kept_apart(link, request, routed) {
            return true;
        }
        // Of one that sends nothing more all goes there at once, as it has sent it: nothing has to find its place behind that.
        let is_to_wait = blocks && !self.is_at_end && link.has_many_calls_amid();
        let waits_for_calls = is_to_wait && self.waits_for_place();
        self.use_pin(|pin| pin.waits_for_calls = waits_for_calls);
        waits_for_calls
    }

    /// Tells whether the server has still to answer what was sent amid messages, before which nothing of respool's own may come. That is
    /// waited for then, for as long as a reply may take or a call before it waits, and the request at hand is looked at again.
    pub(super) fn waits_for_place(&mut self) -> bool {
        let Some(pin) = &mut self.pin else {
            return false;
        };
        let was_shown_its_own = std::mem::replace(&mut pin.is_shown_its_own, true);
        let link = pin.link();
        let told = link.ask_for_place();
        // Where the commands of everybody are shown those of the client itself come behind their replies.
        let told = match was_shown_its_own {
            true => told,
            false => told.or_else(|| link.ask_for_place_amid_commands()),
        };
        let Some(told) = told else {
            return false;
        };
        self.then(async move |client: &mut Self| {
            if client.meanwhile(told, Awaited::Server).await?.is_err() {
                client.outlet.close(Disconnect::UpstreamLost);
            }
            Ok(())
        });
        true
    }

    /// Answers with an error; inside MULTI the server does, so that EXEC fails.
    fn refuse_amid_messages(&mut self, link: &Link, reply: &[u8]) {
        match self.in_multi() {
            true => link.send_amid(&encode_request(&[NOT_QUEUED]), MayTake::NO_TIME),
            false => self.outlet.own_reply(reply),
        }
    }

    /// MULTI, or what ends it, is sent. Where the server refuses MULTI, though the client is not subscribed, more is refused than need be
    /// until EXEC; where it refuses to end it, that EXEC will fail.
    fn note_multi_unseen(&mut self, verb: TransactionCommand, request: &Request<'_>) {
        let in_multi = match verb {
            _ if request.count() != 1 => return,
            TransactionCommand::Multi => self.begins_amid(),
            TransactionCommand::Exec | TransactionCommand::Discard => false,
            TransactionCommand::Watch | TransactionCommand::Unwatch => return,
        };
        self.use_pin(|pin| pin.in_multi = in_multi);
    }
}
