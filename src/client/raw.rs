//! Requests whose reply the server may write more into than one frame, and transactions that may not end: where they travel so
//! that it is nobody else's.

use std::rc::Rc;

use super::{Client, Next, Wait};
use crate::command::{CommandId, Delays, PinReason, Way, spec};
use crate::exchange::{Offence, RequestKind};
use crate::link::Link;
use crate::resp::Request;

/// Tells whether the start of a request of this way may be passed on: at most its reply leaves a doubt.
pub(super) fn leaves_no_trace(way: Way) -> bool {
    matches!(
        way,
        Way::Shared | Way::Fenced | Way::Pinned(PinReason::Unlisted)
    )
}

impl Client {
    /// Tells whether transactions of this user end, as far as is known, so that they may share a connection.
    pub(super) fn blocks_end(&self) -> bool {
        let thread = &self.clients.thread;
        !thread.distrusts(&self.session.state, Offence::OpenTransaction)
    }

    /// A request that goes, for this reason, on a connection lent to the client, and whose reply may be more than one frame.
    pub(super) fn on_pin_in_doubt(
        &mut self,
        reason: PinReason,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        let link = match self.pin_with_room(reason) {
            Ok(link) => link,
            Err(next) => return next,
        };
        link.doubt();
        self.use_pin(|pin| pin.queues_unsure = true);
        let kind = (self.queued_kind(), Delays::of(command));
        self.count(1, command);
        let show = self.show();
        link.send(&self.outlet, request.bytes(), 1, kind, show);
        Next::Used(request.bytes().len())
    }

    /// A request whose error may be more than one frame, on a connection lent to the client: nothing follows on it until it has
    /// been answered, and nobody gets it after an error.
    pub(super) fn raw_error(
        &mut self,
        link: &Rc<Link>,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        let is_queued = self.in_multi() || self.outlet.transaction().is_open();
        let kind = if is_queued {
            // The error stands among the replies of EXEC, and what is behind it after them.
            link.distrust();
            self.queued_kind()
        } else {
            RequestKind::RawError
        };
        self.wait = Wait::Answers;
        self.count(1, command);
        let show = self.show();
        let kind = (kind, Delays::of(command));
        link.send(&self.outlet, request.bytes(), 1, kind, show);
        Next::Used(request.bytes().len())
    }

    /// A request that is passed on as it arrives has begun on a connection lent to the client.
    pub(super) fn doubt_large(&mut self, link: &Link, command: Option<CommandId>) {
        let way = command.map_or(Way::Pinned(PinReason::Unlisted), |id| spec(id).way);
        if way != Way::Shared {
            link.doubt();
            self.use_pin(|pin| {
                pin.leaves_traces = true;
                pin.queues_unsure = true;
            });
        }
    }
}
