//! Ending calls that are issued for blocked clients, where the server lets respool (`CLIENT UNBLOCK`).

use std::rc::Rc;
use std::time::Duration;

use super::{LONGEST_PAUSE, Seat};
use crate::auth::Known;
use crate::command::ClientSub;
use crate::resp::speak::encode_request;
use crate::session::{State, stand_in_for};
use crate::telemetry::{Bound, LossCause};
use crate::upstream::pool::Upstream;

impl Upstream {
    /// Ends the call on a seat. Asked again until it has answered: the call itself may still be on its way, or the server be
    /// busy. A connection on which it does not end in time is closed.
    pub(super) async fn end_call(self: &Rc<Self>, seat: &Seat) {
        let limit = self.thread.settings().upstream.reply_timeout;
        let ending = async {
            let is_over = {
                let mut asking = std::pin::pin!(self.ask_to_end(seat));
                tokio::select! {
                    biased;
                    () = self.cannot_be_asked(seat) => false,
                    () = &mut asking => true,
                }
            };
            if !is_over {
                self.finish_call(seat).await;
            }
        };
        if self.thread.within(limit, ending).await.is_none() {
            self.thread.counters.bound(Bound::ReplyTimeout).add(1);
            let why = "its call did not end within upstream.reply_timeout";
            seat.link.lose(LossCause::Timeout, why);
        }
    }

    /// Ends as soon as the server must not, or cannot, be asked to end the call on a seat: a pause may have put the call off, or holds up
    /// whatever is asked on any connection to its server.
    async fn cannot_be_asked(&self, seat: &Seat) {
        let cannot = || {
            self.may_be_put_off(seat.called_micros.get(), seat.takes.get())
                || self.holds_up_questions(&seat.link.origin().node)
        };
        while !cannot() {
            tokio::time::sleep(LONGEST_PAUSE).await;
        }
    }

    /// Has the server forget the call on a seat, as that of a client that leaves: it is told that nothing more comes on the
    /// connection. It answers, if it has served the call, and closes.
    async fn finish_call(&self, seat: &Seat) {
        seat.link.finish_sending();
        let mut pause = Duration::from_millis(1);
        while seat.is_calling.get() && seat.link.is_alive() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        // Answered meanwhile, it is of no use either.
        seat.link.close("its call was ended with it");
    }

    /// The server lets respool end no call: from now on each ends by itself. Returns whether others may be under way that do not.
    fn calls_end_by_themselves(&self) -> bool {
        let had_endless = self.waiting.waits.borrow_mut().can_end_calls(false);
        if !self.waiting.has_told_of_ends.replace(true) {
            tracing::warn!(
                "the server refuses CLIENT UNBLOCK to respool's own user: blocking calls are issued again and again, ten times a \
                 second, and clients may wait a tenth of a second longer than they asked for; permit it (ACL: +client|unblock)"
            );
        }
        had_endless
    }

    /// Goes by what the server has said of ending calls. Where it has refused that, it is asked again while somebody waits.
    pub(super) fn note_whether_calls_can_be_ended(self: &Rc<Self>) {
        let server = self.thread.server_version();
        self.waiting.waits.borrow_mut().served_by(server);
        match self.thread.permission(None, ClientSub::Unblock) {
            Known::Now(Ok(())) => {
                self.waiting.waits.borrow_mut().can_end_calls(true);
                if self.waiting.has_told_of_ends.replace(false) {
                    tracing::info!(
                        "the server lets respool end calls (CLIENT UNBLOCK): blocking calls are issued once again"
                    );
                }
            }
            Known::Now(Err(_)) => {
                self.calls_end_by_themselves();
            }
            Known::Before(Err(_)) => {
                self.calls_end_by_themselves();
                self.ask_whether_calls_can_be_ended();
            }
            // It has been asked, and will have said so soon.
            Known::Nothing => {
                self.waiting.waits.borrow_mut().can_end_calls(false);
            }
            Known::Before(Ok(())) => {}
        }
    }

    fn ask_whether_calls_can_be_ended(self: &Rc<Self>) {
        let sub = ClientSub::Unblock;
        let Some(question) = stand_in_for(sub).filter(|_| !self.is_away()) else {
            return;
        };
        // Once, until it has answered or what it has said before has become old again.
        self.thread.renews_permission(None, sub);
        let asker = (State::INITIAL, None);
        let asking = Rc::clone(self).ask_permission(asker, sub, encode_request(question));
        tokio::task::spawn_local(async move { drop(asking.await) });
    }

    async fn ask_to_end(self: &Rc<Self>, seat: &Seat) {
        let server_id = seat.link.server_id.to_string();
        let request = encode_request(&["CLIENT", "UNBLOCK", &server_id]);
        let mut pause = Duration::from_millis(1);
        while seat.is_calling.get() && seat.link.is_alive() {
            // Another server has other clients by the same ids.
            let asked = self.ask_at(&seat.link.origin().node, &request).await;
            if let (None, Some(leaving)) = (&asked, seat.link.leaving()) {
                let why = "its call cannot be ended at a server that has moved";
                return seat.link.lose(leaving.cause, why);
            }
            if asked.is_none() && !seat.takes.get() {
                // Nothing is lost with it, and nobody else can end it.
                let why = "its call cannot be ended: no other connection leads to its server";
                return seat.link.close(why);
            }
            let reply = asked.unwrap_or_default();
            let refused: [&[u8]; 3] = [b"-NOPERM", b"-NOAUTH", b"-ERR unknown"];
            if refused.iter().any(|refused| reply.starts_with(refused)) {
                self.thread
                    .told_permission(None, ClientSub::Unblock, Err(reply));
                if self.calls_end_by_themselves() {
                    return seat.link.close("its call cannot be ended");
                }
                pause = LONGEST_PAUSE;
            }
            if seat.is_calling.get() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
