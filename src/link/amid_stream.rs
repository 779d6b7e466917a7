//! What is sent on a connection all of whose frames are its client's.

use tokio::sync::oneshot;

use super::Link;
use crate::exchange::{MayTake, TakeReply};
use crate::fanout::{QueuedSubscription, SentNow};

impl Link {
    /// Sends more bytes of a request that is already due, one that is streamed.
    pub fn send_more(&self, bytes: &[u8]) {
        self.exchange.borrow_mut().more(bytes);
        self.wake();
    }

    /// Takes in that an EXEC is sent that may run these commands, and make all frames the client's.
    pub fn expect_confirmations(&self, queued: Vec<QueuedSubscription>) {
        self.role.borrow_mut().expect(queued);
    }

    /// Takes in what is sent amid the messages from now on, where all has come that was asked for before.
    pub fn sent_now(&self, sent: SentNow) {
        if let Some(confirmed) = self.role.borrow_mut().confirmed() {
            confirmed.sent_now(sent);
        }
    }

    /// Takes in that the transaction which is sent amid the messages holds this command, too.
    pub fn queue_subscription(&self, queued: QueuedSubscription) {
        if let Some(confirmed) = self.role.borrow_mut().confirmed() {
            confirmed.queue(queued);
        }
    }

    /// Sends a request whose answer comes amid a stream.
    pub fn send_amid(&self, bytes: &[u8], takes: MayTake) {
        self.exchange.borrow_mut().request_amid(bytes, takes);
        self.wake();
    }

    /// Asks to be told when all has come that answers what was sent amid the stream. `None`: nothing that was sent since the server
    /// last told so is unanswered, or the connection carries no stream any more. An open MULTI fails by it.
    pub fn ask_for_place(&self) -> Option<oneshot::Receiver<Vec<u8>>> {
        let now = self.thread.clock.now_micros();
        self.asked(|tell| self.exchange.borrow_mut().ask_for_place(tell, now))
    }

    /// Asks the same of a connection on which the commands of everybody come between replies: those of its client come behind its replies.
    pub fn ask_for_place_amid_commands(&self) -> Option<oneshot::Receiver<Vec<u8>>> {
        let now = self.thread.clock.now_micros();
        self.asked(|tell| {
            let mut exchange = self.exchange.borrow_mut();
            exchange.ask_for_place_amid_commands(tell, now)
        })
    }

    fn asked(&self, ask: impl FnOnce(TakeReply) -> bool) -> Option<oneshot::Receiver<Vec<u8>>> {
        let (tell, told) = oneshot::channel();
        let is_asked = self.is_alive() && ask(Box::new(|reply| drop(tell.send(reply))));
        is_asked.then(|| {
            self.wake();
            told
        })
    }

    /// Tells whether so many calls that may wait are sent that the next has to wait here: for each of them something is kept.
    pub fn has_many_calls_amid(&self) -> bool {
        self.exchange.borrow().has_many_calls_amid()
    }

    /// Sends a request that may wait for as long as its client likes, and what tells that it has been answered: until then it counts as
    /// one that waits, and no longer.
    pub fn send_call_amid(&self, bytes: &[u8], takes: MayTake) {
        self.send_amid(bytes, takes);
        drop(self.ask_for_place());
    }

    /// Returns how long what stands before the first place may take that is asked for and not told yet.
    pub fn place_asked(&self) -> Option<MayTake> {
        self.exchange.borrow().place_asked()
    }

    /// Returns how long that may take which was sent amid the stream and is not known to be answered.
    pub fn unanswered_amid(&self) -> MayTake {
        self.exchange.borrow().unanswered_amid()
    }
}
