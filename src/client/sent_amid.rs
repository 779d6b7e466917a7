//! What a client sends amid messages, as far as the confirmations of its subscriptions are told from data by it: subscription commands,
//! other commands and transactions are sent one after the other, each kind when all before it has been answered.

use super::Client;
use crate::command::{CommandId, TransactionCommand, spec};
use crate::fanout::{QueuedSubscription, SentNow, TopicKind};
use crate::link::Link;
use crate::resp::Request;
use crate::session::{Route, Routed};

/// Most subscription commands of one transaction, whose places are kept.
const MOST_QUEUED: usize = 4096;

/// Holds what a client has sent amid messages, or behind the MULTI that may bring them.
#[derive(Debug, Default)]
pub(super) struct SentAmid {
    now: Option<SentNow>,
    /// Commands of the transaction.
    commands: u32,
    /// Subscription commands of it.
    queued: Vec<QueuedSubscription>,
}

/// The subscription command that is the one of this place in a transaction.
fn queued(request: &Request<'_>, command: Option<CommandId>, place: u32) -> QueuedSubscription {
    let verb = command.map_or("", |id| spec(id).name);
    let (kind, subscribes) =
        TopicKind::of_verb(verb.as_bytes()).unwrap_or((TopicKind::Channel, false));
    QueuedSubscription {
        place,
        kind,
        subscribes,
        topics: u32::try_from(request.count().saturating_sub(1)).unwrap_or(u32::MAX),
    }
}

impl Client {
    /// Notes a subscription command of a transaction that may bring messages, and all before which has been answered. False: there are
    /// too many.
    pub(super) fn note_queued(
        &mut self,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> bool {
        let place = self.outlet.transaction().commands();
        let Some(pin) = &mut self.pin else {
            return false;
        };
        let sent = pin.sent_amid.get_or_insert_default();
        let has_room = sent.queued.len() < MOST_QUEUED;
        if has_room {
            sent.queued.push(queued(request, command, place));
        }
        has_room
    }

    /// The transaction is over; or (true) EXEC is sent, whose reply confirms what it has run.
    pub(super) fn take_queued(&mut self, runs: bool) {
        let Some(pin) = &mut self.pin else { return };
        let sent = pin.sent_amid.take().unwrap_or_default();
        if runs {
            pin.link().expect_confirmations(sent.queued);
        }
    }

    /// Tells whether a request is not to be sent amid messages before all has come that was asked for.
    pub(super) fn is_kept_apart(
        &mut self,
        link: &Link,
        request: &Request<'_>,
        routed: &Routed,
    ) -> bool {
        if self.in_multi() {
            return false;
        }
        // The server refuses MULTI to who is subscribed.
        let begins = matches!(routed.route, Route::Transaction(TransactionCommand::Multi))
            && request.count() == 1
            && !self.is_listening();
        let now = match routed.route {
            _ if begins => SentNow::Transaction,
            Route::Subscribed => SentNow::Subscriptions,
            _ => SentNow::Others,
        };
        let sent_now = self
            .pin
            .as_ref()
            .and_then(|pin| pin.sent_amid.as_ref()?.now);
        if sent_now == Some(now) && !begins {
            return false;
        }
        if self.waits_for_place() {
            return true;
        }
        link.sent_now(now);
        let sent = SentAmid {
            now: Some(now),
            ..SentAmid::default()
        };
        self.use_pin(|pin| pin.sent_amid = Some(Box::new(sent)));
        false
    }

    /// Notes a command of a transaction that is sent amid messages. False: it holds too many about subscriptions.
    pub(super) fn note_sent_amid(
        &mut self,
        link: &Link,
        request: &Request<'_>,
        routed: &Routed,
    ) -> bool {
        let pin = self.pin.as_mut().filter(|pin| pin.in_multi);
        let Some(sent) = pin.and_then(|pin| pin.sent_amid.as_mut()) else {
            return true;
        };
        match routed.route {
            Route::Transaction(TransactionCommand::Exec | TransactionCommand::Discard) => {
                if request.count() == 1 && sent.queued.is_empty() {
                    sent.now = Some(SentNow::Others);
                    link.sent_now(SentNow::Others);
                }
                return true;
            }
            // They run at once, and are refused.
            Route::Transaction(TransactionCommand::Multi | TransactionCommand::Watch) => {
                return true;
            }
            Route::Subscribed if sent.queued.len() == MOST_QUEUED => return false,
            Route::Subscribed => {
                let queued = queued(request, routed.command, sent.commands);
                link.queue_subscription(queued);
                sent.queued.push(queued);
            }
            _ => {}
        }
        sent.commands = sent.commands.saturating_add(1);
        true
    }

    /// Tells whether a MULTI that was sent amid messages begins a transaction.
    pub(super) fn begins_amid(&self) -> bool {
        let sent = self.pin.as_ref().and_then(|pin| pin.sent_amid.as_ref());
        sent.is_some_and(|sent| sent.now == Some(SentNow::Transaction))
    }
}
