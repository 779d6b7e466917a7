//! What stands between MULTI and EXEC and changes more than data, and what an EXEC leaves to be settled.

use std::rc::Rc;

use super::pinned::NOT_IN_MULTI;
use super::requests::Next;
use super::serve::Awaited;
use super::slow::Told;
use super::task::{Client, Done, Wait};
use crate::command::{CommandId, Delays, Local, PinReason, TransactionCommand};
use crate::exchange::RequestKind;
use crate::identity::Flag;
use crate::resp::speak::{OK, encode_request};
use crate::resp::{Request, parse_integer};
use crate::session::{Change, PinnedCommand, ReplyMode, State};
use crate::telemetry::Disconnect;
use crate::upstream::Link;

impl Client {
    /// What a plain request on the pinned connection is: inside MULTI the server queues it.
    pub(super) fn queued_kind(&self) -> RequestKind {
        if self.pin_use.in_multi || self.outlet.transaction().open {
            RequestKind::Pinned(PinnedCommand::Queue)
        } else {
            RequestKind::Plain
        }
    }

    /// A command of a transaction was sent.
    pub(super) fn in_multi_after(&mut self, verb: TransactionCommand) {
        match verb {
            TransactionCommand::Multi => {
                self.pin_use.in_multi = true;
                self.pin_use.queues_unsure = false;
            }
            TransactionCommand::Exec | TransactionCommand::Discard => {
                self.pin_use.in_multi = false;
                if self.pin_use.messages.take().is_some() {
                    self.note_kept(0);
                }
                self.pin_use.queues_own = false;
                if std::mem::take(&mut self.pin_use.queues_messages) {
                    self.take_queued(verb == TransactionCommand::Exec);
                    // Only its reply tells whether what follows on the connection are messages.
                    self.wait = Wait::Answers;
                }
            }
            TransactionCommand::Watch | TransactionCommand::Unwatch => {}
        }
    }

    /// SELECT inside MULTI is queued by the server like any command; EXEC tells whether it took effect.
    pub(super) fn queued_select(
        &mut self,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        let Some(link) = self.pin.as_ref().map(|pin| Rc::clone(pin.link())) else {
            return Next::Wait;
        };
        let database = request
            .argument(1)
            .and_then(parse_integer)
            .and_then(|number| u32::try_from(number).ok());
        let has_place = !self.needs_mark();
        let verb = database.map_or(PinnedCommand::Queue, |database| PinnedCommand::Select {
            database,
            has_place,
        });
        self.queue(&link, request, command, verb)
    }

    /// A subscription command inside MULTI: when EXEC runs it, the connection lent to the client carries its messages from
    /// then on. Who receives messages already does so elsewhere, and cannot. Nor can who has commands of respool's own in the same
    /// transaction, whose places among its confirmations and messages nobody could tell, or wants no replies, since from then on all
    /// that comes is passed on.
    pub(super) fn queued_subscription(
        &mut self,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        let link = match self.pin_with_room(PinReason::Subscription) {
            Ok(link) => link,
            Err(next) => return next,
        };
        let shows_all = self.session.reply == ReplyMode::On;
        if self.card.has(Flag::Pubsub) || self.pin_use.queues_own || !shows_all {
            return self.spoil_transaction(request, command, NOT_IN_MULTI);
        }
        if !self.note_queued(request, command) {
            return self.spoil_transaction(request, command, NOT_IN_MULTI);
        }
        self.pin_use.queues_messages = true;
        self.queue(&link, request, command, PinnedCommand::Subscribe)
    }

    /// Sends what the answer to is more than a reply.
    pub(super) fn queue(
        &mut self,
        link: &Rc<Link>,
        request: &Request<'_>,
        command: Option<CommandId>,
        verb: PinnedCommand,
    ) -> Next {
        self.count(1, command);
        let show = self.show();
        let kind = (RequestKind::Pinned(verb), Delays::of(command));
        link.send(&self.outlet, request.bytes(), 1, kind, show);
        Next::Used(request.bytes().len())
    }

    /// QUIT or RESET of a client all frames of whose connection are passed on: answered when the server has answered all before it.
    pub(super) fn leave_stream(&mut self, link: &Rc<Link>, local: Local) {
        let told = link.ask(&encode_request(&["RESET"]));
        let limit = self.clients.thread.settings().upstream.reply_timeout;
        let thread = Rc::clone(&self.clients.thread);
        self.wait = Wait::Task(Box::pin(async move {
            // Lost with the connection, and the client with it; or the server hangs.
            let told = thread.within(limit, told).await;
            Done::Unstreamed(matches!(told, Some(Ok(_))), local)
        }));
    }

    /// The server has answered all that was sent amid the stream.
    pub(super) fn unstreamed(&mut self, local: Local) {
        if local == Local::Quit {
            self.answer(OK);
            self.ending = Some(Disconnect::Quit);
        } else {
            self.reset();
        }
        self.outlet.flush();
    }

    /// Whether an EXEC has left what only the server knows: which of the selected databases the connection is in, and whether CLIENT
    /// TRACKING is on. It is asked then before anything else.
    pub(super) fn settle(&mut self) {
        let waits = matches!(
            self.wait,
            Wait::Nothing | Wait::Answers | Wait::InFlight | Wait::Unread | Wait::Room(_)
        );
        let transaction = self.outlet.transaction();
        let is_over = !transaction.open && !transaction.watching;
        let is_unsure = !transaction.selected.is_empty() || transaction.tracking_unsure;
        drop(transaction);
        if waits && is_over && is_unsure {
            self.wait = Wait::Settle;
        }
    }

    /// Asks the server for what only it knows after an EXEC: which of the selected databases the connection is in (the last that exists),
    /// then whether CLIENT TRACKING is on.
    pub(super) async fn settle_exec(&mut self) -> Told {
        let Some(link) = self.pin.as_ref().map(|pin| Rc::clone(pin.link())) else {
            return Ok(());
        };
        while let Some(database) = self.take_selected() {
            let (upstream, link) = (Rc::clone(&self.clients.upstream), Rc::clone(&link));
            let target = State {
                database,
                ..self.session.state.clone()
            };
            let change = async move { upstream.change(&link, &target, Change::InPlace).await };
            match self.meanwhile(change, Awaited::Server).await? {
                Some(Ok(())) => {
                    self.in_database(database);
                    self.outlet.transaction().selected.clear();
                }
                // The one selected before it is asked for next.
                Some(Err(_)) => {}
                // The client is closed with the connection it was lent.
                None => {
                    self.outlet.close(Disconnect::UpstreamLost);
                    return Ok(());
                }
            }
        }
        if self.outlet.transaction().tracking_unsure {
            self.settle_tracking(&link).await?;
        }
        Ok(())
    }

    fn take_selected(&self) -> Option<u32> {
        self.outlet.transaction().selected.pop()
    }
}
