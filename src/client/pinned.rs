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
use crate::session::{Change, PinnedCommand, State, Stream};
use crate::telemetry::Disconnect;
use crate::transport::READ_SIZE;
use crate::upstream::{EndsDelay, Pin, PinError};
use crate::waits::PoppedElements;

/// What the client does with the connection lent to it.
#[derive(Debug, Default)]
pub(super) struct PinUse {
    /// It keeps the connection until it leaves: MONITOR, messages.
    pub(super) keeps: bool,
    /// It may have left something on it that only a scrub undoes.
    pub(super) leaves_traces: bool,
    /// It was lent for the request at hand, which has not been sent yet.
    pub(super) is_fresh: bool,
    /// MULTI was sent, and neither EXEC nor DISCARD since.
    pub(super) in_multi: bool,
    /// What was sent amid messages, or behind the MULTI that may bring them.
    pub(super) sent_amid: Option<Box<SentAmid>>,
    /// The call at hand waits for others that were sent amid messages, since these are many.
    pub(super) waits_for_calls: bool,
    /// A subscription command was sent behind it.
    pub(super) queues_messages: bool,
    /// It ends behind the last of its own commands that MONITOR shows it.
    pub(super) is_shown_its_own: bool,
    /// It was lent since the shared connections are held up.
    pub(super) stands_in: bool,
    /// Commands of respool's own were sent behind MULTI.
    pub(super) queues_own: bool,
    /// A command was sent, behind MULTI and the last mark, whose element of EXEC's reply may be more than one frame.
    pub(super) queues_unsure: bool,
    /// What its transaction has queued that may be too much for somebody.
    pub(super) messages: Option<Box<QueuedMessages>>,
    /// What the EXEC under way changes of the client.
    pub(super) exec_effects: Option<Rc<ExecEffects>>,
}

/// What a command ends that goes on a lent connection for this reason.
fn ends(reason: PinReason) -> Option<EndsDelay> {
    match reason {
        PinReason::Script => Some(EndsDelay::Script),
        PinReason::Pause => Some(EndsDelay::Pause),
        _ => None,
    }
}

/// Whether what goes on a lent connection for this reason is answered by one frame, as the table knows it, also inside MULTI.
fn is_one_frame(reason: PinReason) -> bool {
    matches!(
        reason,
        PinReason::Watch
            | PinReason::Multi
            | PinReason::Blocking
            | PinReason::BlockingOption
            | PinReason::Wait
            | PinReason::Tracking
            | PinReason::Pause
            | PinReason::LargeRequest
    )
}

/// What the answer to a command tells of the server's commands.
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
    /// The connection lent to the client. `None`: what to wait for has been set, or every request at hand is refused.
    pub(super) fn pinned_link(&mut self, reason: PinReason) -> Option<Rc<Link>> {
        if let Some(pin) = &self.pin {
            if !pin.link().is_alive() {
                // What lived on it is lost with it.
                self.outlet.close(Disconnect::UpstreamLost);
                return None;
            }
            return Some(Rc::clone(pin.link()));
        }
        if self.outlet.outstanding() > 0 {
            self.wait = Wait::Answers;
            return None;
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
            self.pinned(Ok(pin), reason);
            return self.pin.as_ref().map(|pin| Rc::clone(pin.link()));
        }
        if let Some(ends) = ends
            && let Some(link) = upstream.bypass(group, &state, ends)
        {
            return Some(link);
        }
        self.wait = Wait::Borrow(reason);
        None
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
                self.pin_use = PinUse {
                    is_fresh: true,
                    stands_in: reason == PinReason::Stalled,
                    ..PinUse::default()
                };
                self.flag(ClientFlag::Pinned, true);
                self.pin = Some(pin);
            }
            Err(error) => self.refusing = Some(refusal(error)),
        }
    }

    /// Gives the connection back as soon as nothing of the client's lives on it.
    pub(super) fn release_pin(&mut self) {
        if self.outlet.outstanding() > 0 {
            return;
        }
        if self.pin_use.exec_effects.is_some() {
            self.take_up_exec();
        }
        let Some(pin) = &self.pin else { return };
        self.flag(ClientFlag::Blocked, false);
        let is_clear = {
            let transaction = self.outlet.transaction();
            self.flag(ClientFlag::Multi, transaction.open);
            self.record.multi.set(transaction.commands);
            self.flag(ClientFlag::Watching, transaction.watching);
            if let Some(stream) = transaction.stream {
                match stream {
                    Stream::Commands => self.flag(ClientFlag::Monitor, true),
                    // Whether it is subscribed its confirmations say.
                    Stream::Messages | Stream::Debugger => {}
                }
                self.pin_use.keeps = true;
            }
            transaction.is_clear()
        };
        self.entry
            .may_be_silent
            .set(self.pin_use.keeps || self.record.has(ClientFlag::Pubsub));
        if !pin.link().is_alive() || pin.link().is_raw() || self.pin_use.is_fresh {
            return;
        }
        self.note_tracking();
        if !is_clear {
            return self.settle();
        }
        if self.pin_use.keeps || !matches!(self.wait, Wait::Nothing) {
            return;
        }
        *self.entry.pinned.borrow_mut() = None;
        self.flag(ClientFlag::Pinned, false);
        // What it has written there is on a connection of the past.
        self.has_written = true;
        if let Some(pin) = self.pin.take()
            && !self.pin_use.leaves_traces
        {
            pin.give_back_clear();
        }
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
        let Some(link) = self.pinned_link(reason) else {
            return Err(self.not_now());
        };
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
        self.pin_use.queues_unsure |= !is_one_frame(reason);
        let may_block = matches!(
            reason,
            PinReason::Blocking
                | PinReason::BlockingOption
                | PinReason::Learned
                | PinReason::Unlisted
        );
        let tells = tells(reason, request, command);
        let goes_alone = match reason {
            PinReason::Pause => !self.pin_use.in_multi,
            // Seen to block, and unblocked, when the client leaves.
            _ => may_block || tells.is_some(),
        };
        if goes_alone && self.outlet.outstanding() > 0 {
            self.wait = Wait::Answers;
            return Next::Wait;
        }
        // By now it is known whether MULTI only queues it: then nobody waits at the server.
        let blocks = may_block && !self.outlet.transaction().open;
        match reason {
            PinReason::Pause if !self.pin_use.in_multi => {
                return self.pause(&link, request, command);
            }
            PinReason::Script if self.pin.is_none() => return self.pause(&link, request, command),
            PinReason::RawError => return self.raw_error(&link, request, command),
            PinReason::Script => {
                // The connection may be in another database: nothing else may follow on it.
                self.wait = Wait::Answers;
            }
            PinReason::Admin | PinReason::Learned | PinReason::Unlisted => {
                link.doubt();
                self.pin_use.leaves_traces = true;
            }
            PinReason::ReplicaScript => link.doubt(),
            _ => {}
        }
        if let Some(tells) = tells {
            link.set_tells(tells);
        }
        let kind = if blocks {
            RequestKind::Blocking(PoppedElements::by(request.arguments()))
        } else if tells.is_some() {
            // Its answer is looked at.
            RequestKind::Pinned(PinnedCommand::Queue)
        } else {
            self.queued_kind()
        };
        self.count(count, command);
        let show = self.show();
        // What waits for others says nothing of the server.
        let delays = match blocks {
            true => Delays::NONE,
            false => Delays::of(command),
        };
        let kind = (kind, delays);
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

    /// The requests behind a blocking call wait for its reply, so that they do not run when the client leaves meanwhile.
    pub(super) fn block(&mut self) {
        self.flag(ClientFlag::Blocked, true);
        self.entry.may_be_silent.set(true);
        self.wait = Wait::Answers;
    }

    pub(super) fn not_now(&self) -> Next {
        // Refused meanwhile: looked at again, and answered.
        if self.refusing.is_some() {
            Next::Used(0)
        } else {
            Next::Wait
        }
    }
}
