//! A blocking call of a client without a connection of its own: it stands in line with the others.

use std::rc::Rc;

use super::requests::{Next, UNREACHABLE};
use super::task::{Client, Wait};
use crate::command::{CommandId, PinReason};
use crate::identity::Flag;
use crate::resp::Request;
use crate::session::Protocol;
use crate::telemetry::Disconnect;
use crate::transport::PeerEnd;
use crate::upstream::Blocked;
use crate::waits::{BlockingCall, WaitOrigin, WaitOutcome};

/// What has become of the client's blocking call, whose request is still at hand.
pub(super) enum Line {
    /// It has ended so.
    Over(Blocked, WaitOutcome),
    /// It needs a connection of its own.
    OwnConnection,
}

impl Client {
    /// A blocking call that can stand in line, or has stood there. `None`: it goes the way of its own connection.
    pub(super) fn in_line(
        &mut self,
        reason: PinReason,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Option<Next> {
        if self.pin.is_some() || !matches!(reason, PinReason::Blocking | PinReason::BlockingOption)
        {
            return None;
        }
        self.has_written = true;
        match self.line.take().map(|line| *line) {
            Some(Line::Over(blocked, outcome)) => {
                self.end_line(&blocked, outcome);
                return Some(Next::Used(request.bytes().len()));
            }
            Some(Line::OwnConnection) => {
                // Looked at again when there is one.
                self.line = Some(Box::new(Line::OwnConnection));
                return None;
            }
            None => {}
        }
        let call = BlockingCall::parse(request)?;
        if self.outlet.outstanding() > 0 {
            self.wait = Wait::Answers;
            return Some(Next::Wait);
        }
        self.count(1, command);
        self.flag(Flag::Blocked, true);
        self.resident.may_be_silent.set(true);
        let whose = WaitOrigin {
            group: self.group(),
            address: self.card.peer().number(),
        };
        let blocked = self.site.upstream.block(&self.session.state, whose, call);
        *self.resident.blocked.borrow_mut() = Some(Rc::clone(blocked.waiter()));
        self.wait = Wait::Blocked(blocked);
        self.note_kept(0);
        // The request stays at hand: whatever comes of it is told when it is looked at again.
        Some(Next::Wait)
    }

    /// The wait in line has ended.
    pub(super) fn left_line(&mut self, blocked: Blocked, outcome: WaitOutcome) {
        self.flag(Flag::Blocked, false);
        self.resident.may_be_silent.set(self.card.has(Flag::Pubsub));
        self.resident.blocked.borrow_mut().take();
        self.note_kept(0);
        self.line = Some(Box::new(match outcome {
            WaitOutcome::OwnConnection => Line::OwnConnection,
            outcome => Line::Over(blocked, outcome),
        }));
    }

    fn end_line(&mut self, blocked: &Blocked, outcome: WaitOutcome) {
        match outcome {
            WaitOutcome::Reply(reply) => {
                let would_not_see_it = match self.outlet.peer_end() {
                    // Below TLS nobody sees it, unless it has been read.
                    PeerEnd::Open if !self.is_at_end => false,
                    // The server answers who need not wait, and ends the wait of who has finished sending.
                    PeerEnd::Open | PeerEnd::Finished => blocked.has_waited(),
                    PeerEnd::Gone => true,
                };
                if blocked.takes() && would_not_see_it {
                    blocked.refuse(WaitOutcome::Reply(reply));
                    return self.outlet.close(Disconnect::Closed);
                }
                if self.session.take_visible() {
                    self.outlet.own_reply(&reply);
                }
                // Of the call itself none says so.
                self.end_if_lost(&reply);
            }
            WaitOutcome::Null => self.answer(match self.session.state.protocol {
                Protocol::Resp2 => b"*-1\r\n",
                Protocol::Resp3 => b"_\r\n",
            }),
            WaitOutcome::Unblocked => self.answer(crate::texts::UNBLOCKED),
            WaitOutcome::Unreachable => self.answer(UNREACHABLE),
            WaitOutcome::Lost => self.outlet.close(Disconnect::UpstreamLost),
            WaitOutcome::OwnConnection => {}
        }
    }
}
