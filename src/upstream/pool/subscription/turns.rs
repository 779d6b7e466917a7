//! A worker does so much for its subscribers in one turn, and leaves the rest for the next one.
//!
//! Invariant: while messages wait to be handed to sockets, the server's are not read: its socket tells it to slow down.

use std::rc::Rc;

use super::Subscriptions;
use crate::fanout::SubscriberId;
use crate::link::SubscriberFrames;
use crate::outlet::Outlet;
use crate::upstream::pool::Upstream;

/// Bounds the topics that are looked at in one turn. 80,000 of one client held its worker for more than a tenth of a second, and
/// the requests of all its other clients.
pub const TOPICS_A_TURN: usize = 1000;

impl Subscriptions {
    /// Takes out a client that is gone, or is to be subscribed to nothing.
    pub fn leave(&self, subscriber: SubscriberId) {
        self.abandon_command(subscriber);
        self.note_left(subscriber);
        if self
            .fanout
            .borrow_mut()
            .leave_some(subscriber, TOPICS_A_TURN)
        {
            self.leaving.borrow_mut().push_back(subscriber);
        }
        self.turn();
    }

    /// Takes a client that goes on, and has no command under way, out of some of its topics. Returns false where it is in none now.
    pub fn leave_some(&self, subscriber: SubscriberId) -> bool {
        self.note_left(subscriber);
        let is_left = self
            .fanout
            .borrow_mut()
            .leave_some(subscriber, TOPICS_A_TURN);
        self.turn();
        is_left
    }

    /// Remembers that somebody has left who was subscribed. Who only unsubscribes from something has not: it is looked at
    /// like everybody else.
    fn note_left(&self, subscriber: SubscriberId) {
        if self.fanout.borrow().handle(subscriber).is_some() {
            self.left_micros.set(self.thread.clock.now_micros());
        }
    }

    /// Has `outlet` sent what was placed with it, now or in the next turn.
    pub(super) fn touch(&self, outlet: &Rc<Outlet>) {
        self.touched.borrow_mut().push_back(Rc::clone(outlet));
    }

    /// Sends what this turn has brought about: requests to the server, messages to clients.
    pub(in crate::upstream) fn turn(&self) {
        if let Some(reply) = self.fanout.borrow_mut().take_login()
            && let Some(link) = &*self.link.borrow()
        {
            link.renewal.answered(&self.thread, link.name(), &reply);
        }
        self.pass_marks();
        self.tell_patterns();
        self.unwanted.set(self.fanout.borrow().unwanted_bytes());
        if self.fanout.borrow().may_ask() {
            self.has_answered.notify_one();
        }
        let requests = self.fanout.borrow_mut().take_requests();
        if let Some(link) = &*self.link.borrow()
            && !requests.is_empty()
        {
            link.send_more(&requests);
        }
        // Otherwise it goes on with what was left, in turns of its own.
        if !self.is_behind.get() {
            self.go_on();
        }
    }

    /// Does as much of what is to be done as fits a turn.
    fn go_on(&self) {
        let changed = self.fanout.borrow_mut().take_changed(TOPICS_A_TURN);
        let audiences = &self.thread.process.audiences;
        for (kind, name, part) in changed {
            audiences.set(self.audience(), kind, &name, part);
        }
        self.let_leave();
        self.flush();
        let is_behind = self.has_unsent()
            || self.fanout.borrow().has_changed()
            || !self.leaving.borrow().is_empty();
        if self.is_behind.replace(is_behind)
            && !self.has_unsent()
            && let Some(link) = &*self.link.borrow()
        {
            // It was not read meanwhile.
            link.wake();
        }
        if is_behind {
            self.has_work.notify_one();
        }
        self.count_topics();
    }

    /// Takes one of those who are gone out of more of its topics.
    fn let_leave(&self) {
        let next = self.leaving.borrow_mut().pop_front();
        if let Some(subscriber) = next
            && self
                .fanout
                .borrow_mut()
                .leave_some(subscriber, TOPICS_A_TURN)
        {
            self.leaving.borrow_mut().push_back(subscriber);
        }
    }

    /// Hands what has been placed with subscribers to their sockets, as far as the turn goes.
    fn flush(&self) {
        let limit = self.thread.settings().limits.pubsub_buffer;
        self.pace.borrow_mut().begin();
        while !self.pace.borrow().is_spent() {
            let next = self.touched.borrow_mut().pop_front();
            let Some(outlet) = next else { break };
            let before = outlet.bytes_out();
            outlet.flush_messages(limit);
            let bytes = outlet.bytes_out() - before;
            self.pace.borrow_mut().handed_over(bytes);
        }
        self.pace.borrow_mut().begin();
    }
}

impl Upstream {
    /// Goes on with what did not fit the turn in which it came up, between the turns of everybody else.
    pub(in crate::upstream) async fn keep_handing_out(
        self: Rc<Self>,
        subscriptions: Rc<Subscriptions>,
    ) {
        while !self.is_stopping() {
            subscriptions.has_work.notified().await;
            tokio::task::yield_now().await;
            subscriptions.go_on();
            // Requests of those who were let leave.
            subscriptions.turn();
        }
    }
}
