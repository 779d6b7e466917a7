//! RESET: the client is as it was when it connected.

use crate::client::Client;
use crate::identity::ClientFlag;
use crate::session::{ReplyMode, Session};
use crate::telemetry::Disconnect;
use crate::texts::RESET;

impl Client {
    /// Makes the client what it was when it connected, and answers.
    pub(in crate::client) fn reset(&mut self) {
        if self.outlet.has_open_frame() {
            // Half a message is out; nothing can follow it on this connection.
            return self.outlet.close(Disconnect::Closed);
        }
        // Whatever the connection lent to it holds is scrubbed with it.
        self.entry.leave_redirections();
        self.pin.take();
        self.entry.pinned.borrow_mut().take();
        self.entry.may_be_silent.set(false);
        *self.outlet.transaction() = Default::default();
        self.link = None;
        let skips = self.session.reply == ReplyMode::SkipNext;
        self.session = Session::new(self.clients.guest());
        self.restrictions.set_locked(self.must_authenticate());
        self.note_known();
        if skips {
            // As in Redis it undoes OFF for its own reply, but not a SKIP.
            self.session.reply = ReplyMode::SkipNext;
        }
        self.unsubscribe_all();
        self.outlet.speak(self.session.state.protocol);
        self.in_database(0);
        self.record.resp.set(2);
        {
            let mut names = self.record.names();
            names.name = Box::default();
            names.user = Box::default();
        }
        self.note_kept(0);
        for flag in [
            ClientFlag::Pinned,
            ClientFlag::Multi,
            ClientFlag::Watching,
            ClientFlag::Tracking,
            ClientFlag::Broadcast,
            ClientFlag::BrokenRedirection,
            ClientFlag::Monitor,
            ClientFlag::Pubsub,
            ClientFlag::ReadsReplica,
        ] {
            self.flag(flag, false);
        }
        self.regroup(RESET.to_vec());
    }
}
