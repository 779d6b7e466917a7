//! What needs a connection of its own: transactions, blocking calls, WAIT, streams of messages, large requests.

use std::cell::Cell;
use std::rc::Rc;

use super::in_multi::ExecEffects;
use super::publish::QueuedMessages;
use super::refusals::refusal;
use super::sent_amid::SentAmid;
use super::story::{Awaited, Told};
use super::{Client, Next, Wait};
use crate::command::{CommandId, Delays, PinReason, changes_modules, is_container, outlasts_reset};
use crate::exchange::RequestKind;
use crate::identity::ClientFlag;
use crate::link::{Link, RoomWait};
use crate::resp::Request;
use crate::server::ListHint;
use crate::session::{Change, PinnedCommand, State, StreamKind};
use crate::telemetry::Disconnect;
use crate::transport::READ_SIZE;
use crate::upstream::{EndsDelay, Pin, PinError};
use crate::waits::PoppedElements;

/// Holds the connection lent to a client, and says what the client does with it.
pub(super) struct LentConnection {
    pin: Pin,
    /// Is true once the client keeps the connection until it leaves: MONITOR, messages.
    pub(super) keeps: bool,
    /// Is true once the client may have left something on it that only a scrub undoes.
    pub(super) leaves_traces: bool,
    /// Is true while MULTI was sent, and neither EXEC nor DISCARD since.
    pub(super) in_multi: bool,
    /// Holds what was sent amid messages, or behind the MULTI that may bring them.
    pub(super) sent_amid: Option<Box<SentAmid>>,
    /// Is true while the call at hand waits for others that were sent amid messages, since these are many.
    pub(super) waits_for_calls: bool,
    /// Is true once a subscription command was sent behind MULTI.
    pub(super) queues_messages: bool,
    /// Is true once the client has asked for its place behind the last of its own commands that MONITOR shows it.
    pub(super) is_shown_its_own: bool,
    /// Is true of one that was lent since the shared connections are held up.
    pub(super) stands_in: bool,
    /// Is true once commands of respool's own were sent behind MULTI.
    pub(super) queues_own: bool,
    /// Is true once a command was sent, behind MULTI and the last mark, whose element of EXEC's reply may be more than one frame.
    pub(super) queues_unsure: bool,
    /// Holds what its transaction has queued that may be too much for somebody.
    pub(super) messages: Option<Box<QueuedMessages>>,
    /// Holds what the EXEC under way changes of the client.
    pub(super) exec_effects: Option<Rc<ExecEffects>>,
}

impl LentConnection {
    /// Takes up a connection that was lent for this reason.
    fn new(pin: Pin, reason: PinReason) -> Self {
        Self {
            pin,
            keeps: false,
            leaves_traces: false,
            in_multi: false,
            sent_amid: None,
            waits_for_calls: false,
            queues_messages: false,
            is_shown_its_own: false,
            stands_in: reason == PinReason::Stalled,
            queues_own: false,
            queues_unsure: false,
            messages: None,
            exec_effects: None,
        }
    }

    pub(super) fn link(&self) -> &Rc<Link> {
        self.pin.link()
    }

    /// Tells whether something has to be seen to before an EXEC is sent that ends the open transaction.
    pub(super) fn prepares_exec(&self) -> bool {
        self.queues_own || self.messages.is_some()
    }
}

/// Returns what a command ends that goes on a lent connection for this reason.
fn ends(reason: PinReason) -> Option<EndsDelay> {
    match reason {
        PinReason::Script => Some(EndsDelay::Script),
        PinReason::Pause => Some(EndsDelay::Pause),
        _ => None,
    }
}

/// Returns what the answer to a command tells of the server's commands.
fn tells(reason: PinReason, request: &Request<'_>, command: Option<CommandId>) -> Option<ListHint> {
    match (reason, command) {
        (PinReason::Unlisted, None) => Some(ListHint::Unlisted {
            lasts: request.argument(1).is_some_and(outlasts_reset),
        }),
        (PinReason::Admin, Some(id)) if changes_modules(id) => Some(ListHint::Modules),
        (PinReason::Admin, Some(id)) if is_container(id) => Some(ListHint::Subcommand),
        _ => None,
    }
}

impl Client {
    /// Notes something of the connection lent to the client, if one is.
    #[inline]
    pub(super) fn use_pin(&mut self, note: impl FnOnce(&mut LentConnection)) {
        if let Some(pin) = &mut self.pin {
            note(pin);
        }
    }

    /// Tells whether MULTI was sent on the connection lent to the client, and neither EXEC nor DISCARD since.
    pub(super) fn in_multi(&self) -> bool {
        self.pin.as_ref().is_some_and(|pin| pin.in_multi)
    }

    /// Tells whether commands of respool's own were sent behind that.
    pub(super) fn queues_own(&self) -> bool {
        self.pin.as_ref().is_some_and(|pin| pin.queues_own)
    }

    /// Returns the connection lent to the client.
    ///
    /// # Errors
    /// How the request goes on that needs one.
    pub(super) fn pinned_link(&mut self, reason: PinReason) -> Result<Rc<Link>, Next> {
        if let Some(pin) = &self.pin {
            if !pin.link().is_alive() {
                // What lived on it is lost with it.
                self.outlet.close(Disconnect::UpstreamLost);
                return Err(Next::Wait);
            }
            return Ok(Rc::clone(pin.link()));
        }
        if self.outlet.outstanding() > 0 {
            self.wait = Wait::Answers;
            return Err(Next::Wait);
        }
        self.link = None;
        let group = self.group();
        let ends = ends(reason);
        let upstream = Rc::clone(&self.clients.upstream);
        let state = match ends {
            None => self.session.state.clone(),
            Some(_) => upstream.in_any_database(&self.session.state),
        };
        if let Some(pin) = upstream.try_pin(group, &state, &self.outlet) {
            let link = Rc::clone(pin.link());
            self.pinned(Ok(pin), reason);
            return Ok(link);
        }
        if let Some(ends) = ends
            && let Some(link) = upstream.bypass(group, &state, ends)
        {
            return Ok(link);
        }
        Err(Next::Lend(reason))
    }

    /// Waits for a connection to be lent to the client, or for one on which its command goes beside others.
    pub(super) async fn borrow(&mut self, reason: PinReason) -> Told {
        let (group, ends) = (self.group(), ends(reason));
        let (upstream, outlet) = (Rc::clone(&self.clients.upstream), Rc::clone(&self.outlet));
        let state = match ends {
            None => self.session.state.clone(),
            Some(_) => upstream.in_any_database(&self.session.state),
        };
        let Some(ends) = ends else {
            let borrowing = upstream.pin(group, state, outlet);
            let result = self.meanwhile(borrowing, Awaited::Loan).await?;
            self.pinned(result, reason);
            return Ok(());
        };
        let borrowing = async move {
            // What is being opened for it is no reason to go elsewhere.
            let has_turn = Cell::new(false);
            let lender = Rc::clone(&upstream);
            let borrowing = lender.pin_anywhere((group, &state), outlet, &has_turn);
            tokio::select! {
                biased;
                result = borrowing => Some(result),
                // Looked at again, it is sent there.
                () = upstream.until_bypass((group, &state), ends, &has_turn) => None,
            }
        };
        if let Some(result) = self.meanwhile(borrowing, Awaited::Loan).await? {
            self.pinned(result, reason);
        }
        Ok(())
    }

    /// A connection was lent, or not.
    pub(super) fn pinned(&mut self, result: Result<Pin, PinError>, reason: PinReason) {
        match result {
            Ok(pin) => {
                let counters = self.clients.thread.counters.group(self.group());
                counters.pin(reason as usize).add(1);
                *self.entry.pinned.borrow_mut() = Some(Rc::clone(pin.link()));
                *self.outlet.transaction() = Default::default();
                self.flag(ClientFlag::Pinned, true);
                self.pin = Some(LentConnection::new(pin, reason));
            }
            Err(error) => self.refusing = Some(refusal(error)),
        }
    }

    /// Gives the connection back as soon as nothing of the client's lives on it.
    pub(super) fn release_pin(&mut self) {
        if self.outlet.outstanding() > 0 {
            return;
        }
        self.take_up_exec();
        if self.pin.is_none() {
            return;
        }
        self.flag(ClientFlag::Blocked, false);
        let is_clear = self.show_transaction();
        let Some(pin) = &mut self.pin else { return };
        pin.keeps |= self.outlet.transaction().stream.is_some();
        let keeps = pin.keeps;
        let is_to_stay = !pin.link().is_alive() || pin.link().is_raw();
        self.entry
            .may_be_silent
            .set(keeps || self.record.has(ClientFlag::Pubsub));
        if is_to_stay {
            return;
        }
        self.note_tracking();
        if !is_clear {
            return self.settle();
        }
        if keeps || !matches!(self.wait, Wait::Nothing) {
            return;
        }
        *self.entry.pinned.borrow_mut() = None;
        self.flag(ClientFlag::Pinned, false);
        // What it has written there is on a connection of the past.
        self.has_written = true;
        let Some(lent) = self.pin.take() else { return };
        if !self.outlet.transaction().has_tracked {
            // The server has refused all that was to switch tracking on.
            lent.link().set_may_remember_keys(false);
        }
        if !lent.leaves_traces {
            lent.pin.give_back_clear();
        }
    }

    /// Shows on the client's record what its transaction makes of it. Returns whether nothing of the client's lives on its connection.
    fn show_transaction(&self) -> bool {
        let transaction = self.outlet.transaction();
        self.flag(ClientFlag::Multi, transaction.is_open());
        self.record.multi.set(transaction.commands());
        self.flag(ClientFlag::Watching, transaction.watching);
        // Whether it is subscribed its confirmations say.
        if transaction.stream == Some(StreamKind::Commands) {
            self.flag(ClientFlag::Monitor, true);
        }
        transaction.is_clear()
    }

    /// Changes the state of the connection lent to the client. `None`: it is lost, and the client is closed with it.
    pub(super) async fn change_pin(
        &mut self,
        target: &State,
        change: Change,
    ) -> Told<Option<Result<(), Vec<u8>>>> {
        let Some(link) = self.pin.as_ref().map(|pin| Rc::clone(pin.link())) else {
            return Ok(None);
        };
        let upstream = Rc::clone(&self.clients.upstream);
        let changing = upstream.change(&link, target, change);
        let told = self.meanwhile(changing, Awaited::Server).await?;
        if told.is_none() {
            self.outlet.close(Disconnect::UpstreamLost);
        }
        Ok(told)
    }

    /// The connection lent to the client, when it takes another request; else what to do.
    pub(super) fn pin_with_room(&mut self, reason: PinReason) -> Result<Rc<Link>, Next> {
        let link = self.pinned_link(reason)?;
        if !link.has_room(&self.outlet) {
            self.wait = Wait::Room(RoomWait::new(&link, self.input.len()));
            return Err(Next::Wait);
        }
        if self.outlet.outstanding() >= self.in_flight_limit() {
            self.wait = Wait::InFlight;
            return Err(Next::Wait);
        }
        Ok(link)
    }

    /// Sends one request on a connection lent to the client.
    pub(super) fn on_pin(
        &mut self,
        reason: PinReason,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        self.send_on_pin(reason, request, command, 1)
    }

    /// The same of one that counts as `count`: one that has stood in line was counted there.
    pub(super) fn send_on_pin(
        &mut self,
        reason: PinReason,
        request: &Request<'_>,
        command: Option<CommandId>,
        count: u32,
    ) -> Next {
        let link = match self.pin_with_room(reason) {
            Ok(link) => link,
            Err(next) => return next,
        };
        self.use_pin(|pin| pin.queues_unsure |= !reason.is_one_frame());
        let may_block = reason.may_block();
        let tells = tells(reason, request, command);
        let goes_alone = match reason {
            PinReason::Pause => !self.in_multi(),
            // Seen to block, and unblocked, when the client leaves.
            _ => may_block || tells.is_some(),
        };
        if goes_alone && self.outlet.outstanding() > 0 {
            self.wait = Wait::Answers;
            return Next::Wait;
        }
        // By now it is known whether MULTI only queues it: then nobody waits at the server.
        let blocks = may_block && !self.outlet.transaction().is_open();
        match reason {
            PinReason::Pause if !self.in_multi() => {
                return self.pause(&link, request, command);
            }
            PinReason::Script if self.pin.is_none() => return self.pause(&link, request, command),
            PinReason::RawError => return self.raw_error(&link, request, command),
            _ => self.note_outcome(&link, reason, tells),
        }
        // What waits for others says nothing of the server.
        let kind = if blocks {
            (RequestKind::Blocking(self.popped_by(request)), Delays::NONE)
        } else if tells.is_some() {
            // Its answer is looked at.
            let kind = RequestKind::Pinned(PinnedCommand::Queue);
            (kind, Delays::of(command))
        } else {
            (self.queued_kind(), Delays::of(command))
        };
        self.count(count, command);
        let show = self.show();
        if request.bytes().len() > READ_SIZE {
            link.send_through(&self.outlet, request.bytes(), kind, show);
        } else {
            link.send(&self.outlet, request.bytes(), 1, kind, show);
        }
        if blocks {
            self.block();
        } else if may_block {
            self.wait = Wait::Answers;
        }
        Next::Used(request.bytes().len())
    }

    /// Returns what a call takes away that is sent on the connection lent to the client, and how that is put back if the client leaves.
    fn popped_by(&self, request: &Request<'_>) -> PoppedElements {
        let popped = PoppedElements::by(request.arguments());
        match self.outlet.transaction().is_database_unknown() {
            // It would be put back in another database.
            true => popped.for_good(),
            false => popped,
        }
    }

    /// Notes what a command may leave on the connection that goes there for this reason, and what its answer tells.
    fn note_outcome(&mut self, link: &Link, reason: PinReason, tells: Option<ListHint>) {
        if let Some(tells) = tells {
            link.set_tells(tells);
        }
        match reason {
            // The connection may be in another database: nothing else may follow on it.
            PinReason::Script => self.wait = Wait::Answers,
            PinReason::Admin | PinReason::Learned | PinReason::Unlisted => {
                link.doubt();
                self.use_pin(|pin| pin.leaves_traces = true);
            }
            PinReason::ReplicaScript => link.doubt(),
            _ => {}
        }
    }

    /// The requests behind a blocking call wait for its reply, so that they do not run when the client leaves meanwhile.
    pub(super) fn block(&mut self) {
        self.flag(ClientFlag::Blocked, true);
        self.entry.may_be_silent.set(true);
        self.wait = Wait::Answers;
    }
}
