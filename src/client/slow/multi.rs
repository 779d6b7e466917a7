//! MULTI and WATCH on a connection lent for them, what stands between MULTI and EXEC and changes more than data, and what an EXEC leaves
//! to be settled.

use std::rc::Rc;

use crate::client::questions::NEVER_QUEUED;
use crate::client::refusals::NOT_IN_MULTI;
use crate::client::story::{Awaited, SlowRequest, Told};
use crate::client::{Client, Next, Wait};
use crate::command::{CommandId, Delays, Local, PinReason, TransactionCommand};
use crate::exchange::{RequestKind, Show};
use crate::identity::ClientFlag;
use crate::link::Link;
use crate::resp::speak::{OK, encode_request};
use crate::resp::{Request, parse_integer};
use crate::session::{Change, PinnedCommand, ReplyMode, State};
use crate::telemetry::Disconnect;
use crate::texts::NO_SUCH_DATABASE;

/// Returns why a connection is lent for a command of transactions.
fn reason_of(verb: TransactionCommand) -> PinReason {
    match verb {
        TransactionCommand::Watch | TransactionCommand::Unwatch => PinReason::Watch,
        _ => PinReason::Multi,
    }
}

impl Client {
    /// Tells a MULTI that has not come whole, or a WATCH: a connection is lent for it. Nothing is outstanding.
    pub(super) async fn begin_transaction(
        &mut self,
        verb: TransactionCommand,
        slow: &SlowRequest,
    ) -> Told {
        let (request, command) = (slow.request(), slow.command());
        if let Some(link) = self.borrowed(reason_of(verb)).await? {
            self.send_verb(&link, verb, &request, command);
            return Ok(());
        }
        if !self.is_answered_busy(verb, &request, command) {
            self.refuse_beginning(slow);
        }
        self.refuse_nothing_else();
        Ok(())
    }

    /// Tells an EXEC that runs commands of respool's own, or publishes what may be too much for somebody. Nothing is outstanding: it is
    /// known what was queued.
    pub(super) async fn exec(&mut self, slow: &SlowRequest) -> Told {
        if self.queues_own() {
            self.end_queued_redirections().await?;
        }
        self.make_ready_for_queued().await?;
        if let Some(link) = self.lent(slow, PinReason::Multi).await? {
            self.send_verb(
                &link,
                TransactionCommand::Exec,
                &slow.request(),
                slow.command(),
            );
        }
        Ok(())
    }

    /// MULTI, EXEC, DISCARD, WATCH or UNWATCH on the connection lent to the client.
    pub(in crate::client) fn verb(
        &mut self,
        verb: TransactionCommand,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        match self.pin_with_room(reason_of(verb)) {
            Ok(link) => self.send_verb(&link, verb, request, command),
            Err(next) => next,
        }
    }

    fn send_verb(
        &mut self,
        link: &Link,
        verb: TransactionCommand,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        let is_whole = request.count() == 1;
        self.count(1, command);
        let own = match is_whole && verb == TransactionCommand::Exec && self.queues_own() {
            true => self.exec_with_own(),
            false => None,
        };
        let show = match own {
            Some(executed) => executed,
            None => self.show(),
        };
        let kind = RequestKind::Pinned(PinnedCommand::Transaction(verb));
        let kind = (kind, Delays::of(command));
        link.send(&self.outlet, request.bytes(), 1, kind, show);
        if is_whole {
            self.in_multi_after(verb);
        }
        Next::Used(request.bytes().len())
    }

    /// Returns what a plain request on the pinned connection is: inside MULTI the server queues it.
    pub(in crate::client) fn queued_kind(&self) -> RequestKind {
        if self.in_multi() || self.outlet.transaction().is_open() {
            RequestKind::Pinned(PinnedCommand::Queue)
        } else {
            RequestKind::Plain
        }
    }

    /// A command of a transaction was sent.
    pub(in crate::client) fn in_multi_after(&mut self, verb: TransactionCommand) {
        match verb {
            TransactionCommand::Multi => self.use_pin(|pin| {
                pin.in_multi = true;
                pin.queues_unsure = false;
            }),
            TransactionCommand::Exec | TransactionCommand::Discard => {
                let Some(pin) = &mut self.pin else { return };
                pin.in_multi = false;
                pin.queues_own = false;
                let had_messages = pin.messages.take().is_some();
                let may_bring_messages = std::mem::take(&mut pin.queues_messages);
                if had_messages {
                    self.note_kept(0);
                }
                if may_bring_messages {
                    self.take_queued(verb == TransactionCommand::Exec);
                    // Only its reply tells whether what follows on the connection are messages.
                    self.wait = Wait::Answers;
                }
            }
            TransactionCommand::Watch | TransactionCommand::Unwatch => {}
        }
    }

    /// SELECT inside MULTI is queued by the server like any command; EXEC tells whether it took effect.
    pub(in crate::client) fn queued_select(
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
    pub(in crate::client) fn queued_subscription(
        &mut self,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        let link = match self.pin_with_room(PinReason::Subscription) {
            Ok(link) => link,
            Err(next) => return next,
        };
        let shows_all = self.session.reply == ReplyMode::On;
        if self.record.has(ClientFlag::Pubsub) || self.queues_own() || !shows_all {
            return self.spoil_transaction(request, command, NOT_IN_MULTI);
        }
        if !self.note_queued(request, command) {
            return self.spoil_transaction(request, command, NOT_IN_MULTI);
        }
        self.use_pin(|pin| pin.queues_messages = true);
        self.queue(&link, request, command, PinnedCommand::Subscribe)
    }

    /// Sends what the answer to is more than a reply.
    pub(in crate::client) fn queue(
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
    pub(in crate::client) fn leave_stream(&mut self, link: &Rc<Link>, local: Local) {
        let told = link.ask(&encode_request(&["RESET"]));
        let limit = self.clients.thread.settings().upstream.reply_timeout;
        let thread = Rc::clone(&self.clients.thread);
        self.then(async move |client: &mut Self| {
            let told = thread.within(limit, told);
            if !matches!(client.meanwhile(told, Awaited::Server).await?, Some(Ok(_))) {
                // Lost with the connection, and the client with it; or the server hangs.
                client.outlet.close(Disconnect::UpstreamLost);
            } else if local == Local::Quit {
                client.answer(OK);
                client.ending = Some(Disconnect::Quit);
            } else {
                client.reset();
            }
            Ok(())
        });
    }

    /// Begins to ask, before anything else, for what only the server knows after an EXEC: which of the selected databases the connection is
    /// in, and whether CLIENT TRACKING is on. That unwatches no keys.
    pub(in crate::client) fn settle(&mut self) {
        let waits = matches!(
            self.wait,
            Wait::Nothing | Wait::Answers | Wait::InFlight | Wait::Unread | Wait::Room(_)
        );
        let transaction = self.outlet.transaction();
        let is_over = !transaction.is_open();
        let is_unsure = transaction.has_selects() || transaction.tracking_unsure;
        drop(transaction);
        if waits && is_over && is_unsure {
            self.then(async |client: &mut Self| client.settle_exec().await);
        }
    }

    /// Asks the server for what only it knows after an EXEC: which of the selected databases the connection is in (the last that exists),
    /// then whether CLIENT TRACKING is on.
    pub(in crate::client) async fn settle_exec(&mut self) -> Told {
        let Some(link) = self.pin.as_ref().map(|pin| Rc::clone(pin.link())) else {
            return Ok(());
        };
        let take_selected = |client: &Self| client.outlet.transaction().take_selected();
        while let Some(database) = take_selected(self) {
            let target = State {
                database,
                ..self.session.state.clone()
            };
            match self.change_pin(&target, Change::Select).await? {
                Some(Ok(())) => {
                    self.in_database(database);
                    self.outlet.transaction().took_select();
                }
                // The one selected before it is asked for next.
                Some(Err(reply)) if reply == NO_SUCH_DATABASE => {}
                // That the server is busy, or the user may not, says nothing of the database.
                Some(Err(_)) => self.outlet.transaction().lose_database(),
                None => return Ok(()),
            }
        }
        if self.outlet.transaction().tracking_unsure {
            self.settle_tracking(&link).await?;
        }
        Ok(())
    }

    /// Refuses a command inside MULTI in a way that makes EXEC fail, as every error while queueing does.
    pub(in crate::client) fn spoil_transaction(
        &mut self,
        request: &Request<'_>,
        command: Option<CommandId>,
        reply: &[u8],
    ) -> Next {
        self.spoil(command, reply);
        Next::Used(request.bytes().len())
    }

    /// Has the server refuse something in the place of a command, whose answer `reply` is.
    pub(in crate::client) fn spoil(&mut self, command: Option<CommandId>, reply: &[u8]) {
        let Some(link) = self.pin.as_ref().map(|pin| Rc::clone(pin.link())) else {
            return;
        };
        self.count(1, command);
        let show = match self.show() {
            Show::Pass => Show::Replace(reply.into()),
            other => other,
        };
        let kind = (RequestKind::Plain, Delays::NONE);
        link.send(&self.outlet, NEVER_QUEUED, 1, kind, show);
    }
}
