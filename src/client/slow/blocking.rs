//! A blocking call: it stands in line with the others, and goes on a connection of its own where it cannot.

use std::future::poll_fn;
use std::rc::Rc;

use crate::client::Client;
use crate::client::refusals::UNREACHABLE;
use crate::client::story::{Awaited, SlowRequest, Told};
use crate::command::PinReason;
use crate::identity::ClientFlag;
use crate::session::Protocol;
use crate::telemetry::Disconnect;
use crate::transport::PeerEnd;
use crate::upstream::Blocked;
use crate::waits::{BlockingCall, WaitOrigin, WaitOutcome};

impl Client {
    /// Tells a blocking call of a client without a connection of its own. Nothing is outstanding.
    pub(super) async fn blocking(&mut self, slow: &SlowRequest, reason: PinReason) -> Told {
        self.has_written = true;
        let mut count = 1;
        if let Some(call) = BlockingCall::parse(&slow.request()) {
            self.count(1, slow.command());
            let (blocked, outcome) = self.in_line(call).await?;
            if !matches!(outcome, WaitOutcome::OwnConnection) {
                self.end_line(&blocked, outcome);
                return Ok(());
            }
            // It was counted when it came to stand in line.
            count = 0;
        }
        // Boxed, as hardly any needs it: who stands in line does not carry it.
        let own = self.until_done(slow, |client, request| match client.refusing {
            Some(_) => client.refuse_one(slow.command(), slow.length(), count),
            None => client.send_on_pin(reason, request, slow.command(), count),
        });
        Box::pin(own).await
    }

    /// Stands in line until the call has ended.
    async fn in_line(&mut self, call: BlockingCall) -> Told<(Rc<Blocked>, WaitOutcome)> {
        self.flag(ClientFlag::Blocked, true);
        self.entry.may_be_silent.set(true);
        let whose = WaitOrigin {
            group: self.group(),
            address: self.record.peer().number(),
        };
        let blocked = Rc::new(
            self.clients
                .upstream
                .block(&self.session.state, whose, call),
        );
        *self.entry.blocked.borrow_mut() = Some(Rc::clone(blocked.waiter()));
        self.note_kept(blocked.held_bytes());
        let outcome = poll_fn(|cx| blocked.poll(cx));
        let awaited = Awaited::Line(Rc::clone(&blocked));
        let outcome = self.meanwhile(outcome, awaited).await?;
        self.flag(ClientFlag::Blocked, false);
        self.entry
            .may_be_silent
            .set(self.record.has(ClientFlag::Pubsub));
        self.entry.blocked.borrow_mut().take();
        self.note_kept(0);
        Ok((blocked, outcome))
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
