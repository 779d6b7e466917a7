//! The second connection for subscribers: of those who may cost the others theirs.
//!
//! It is opened when the server has ended the first one by itself, and has its place in the budget like that.

use std::rc::Rc;

use super::Subscriptions;
use crate::budget::SocketKind;
use crate::fanout::{
    LossRemedy, SubscriberId, SubscriptionFrame, SubscriptionSide, SuspectPresence, TopicMessage,
    read,
};
use crate::link::{Link, LinkEnd};
use crate::outlet::Outlet;
use crate::telemetry::{Disconnect, LossCause};
use crate::upstream::pool::Upstream;

impl Subscriptions {
    /// Returns the number under which what it is subscribed to is known to the other workers.
    pub(super) fn audience(&self) -> usize {
        match self.side {
            SubscriptionSide::Usual => self.thread.index,
            SubscriptionSide::Apart => usize::MAX - self.thread.index,
        }
    }

    /// Counts its topics among those of the worker.
    pub(super) fn count_topics(&self) {
        let has = self.fanout.borrow().topics() as u64;
        let had = self.topics.replace(has);
        let all = &self.thread.counters.subscribed_topics;
        all.set((all.get() + has).saturating_sub(had));
    }

    /// Counts a message that was arriving when the connection ended as far as it came.
    pub(super) fn hear_cut_off(&self) {
        let gathered = self.gathered.borrow();
        if let Ok(SubscriptionFrame::Message(TopicMessage { kind, topic })) = read(gathered.bytes())
        {
            self.fanout
                .borrow()
                .heard(kind, topic, gathered.bytes().len());
        }
    }

    fn close_some(&self, subscribers: &[SubscriberId]) {
        let fanout = self.fanout.borrow();
        for outlet in subscribers.iter().filter_map(|id| fanout.handle(*id)) {
            outlet.close(Disconnect::ServerBuffer);
        }
    }
}

impl Upstream {
    /// Returns the subscriptions on either connection.
    pub(in crate::upstream) fn both_subscriptions(
        &self,
    ) -> impl Iterator<Item = &Rc<Subscriptions>> {
        [&self.subscriptions, &self.apart].into_iter()
    }

    /// Returns the subscriptions that a client's belong to. One that has none yet is kept apart while somebody is looked for who has
    /// cost the others their connection.
    pub fn subscriptions_of(&self, outlet: &Outlet) -> &Rc<Subscriptions> {
        if outlet.is_apart() {
            &self.apart
        } else {
            &self.subscriptions
        }
    }

    /// Places a client that is subscribed to nothing and is about to subscribe.
    pub fn place_subscriber(&self, outlet: &Outlet) {
        let now = self.thread.clock.now_micros();
        let has_place = || match self.apart.is_kept.get() {
            true => !self.apart.awaits_place(),
            false => {
                let budget = &self.thread.process.budget;
                budget.try_socket(SocketKind::Subscription).is_some()
            }
        };
        outlet.set_apart(self.suspicion.borrow().is_alarmed(now) && has_place());
    }

    /// Returns a connection that tells whether the server was there while that of subscribers ended. `None`: it did not end by the
    /// server's will, or nothing could tell.
    pub(super) fn witness_of(&self, ended: &LinkEnd) -> Option<Rc<Link>> {
        if !matches!(ended.cause, Some(LossCause::Closed | LossCause::Reset)) {
            return None;
        }
        let links = self.links.borrow();
        let mut alive = links.iter().flatten().filter(|link| link.is_alive());
        alive.next().cloned()
    }

    /// Takes in that the server has ended a connection of subscribers, and nothing else: most likely it held too much for one of them.
    pub(super) fn suspect_somebody(self: &Rc<Self>, lost: &Rc<Subscriptions>) {
        let other = match lost.side {
            SubscriptionSide::Usual => &self.apart,
            SubscriptionSide::Apart => &self.subscriptions,
        };
        let here = lost.fanout.borrow().candidates();
        let there = other.fanout.borrow().ids();
        let now = self.thread.clock.now_micros();
        let presence = match lost.left_micros.get() >= lost.heard_micros.get() {
            true => SuspectPresence::SomebodyLeft,
            false => SuspectPresence::All,
        };
        let remedy = self
            .suspicion
            .borrow_mut()
            .lost((lost.side, presence), here, there, now);
        match remedy {
            LossRemedy::Nothing => {}
            LossRemedy::Close(those) => lost.close_some(&those),
            LossRemedy::Move(those) => self.move_subscribers(&those, lost, other),
        }
    }

    fn move_subscribers(
        self: &Rc<Self>,
        those: &[SubscriberId],
        from: &Subscriptions,
        to: &Rc<Subscriptions>,
    ) {
        let budget = &self.thread.process.budget;
        if !to.is_kept.get() && budget.try_socket(SocketKind::Subscription).is_none() {
            // They would have no connection at all.
            return;
        }
        for &id in those {
            let is_answered = !from.waiting.borrow().contains_key(&id);
            let taken = is_answered
                .then(|| from.fanout.borrow_mut().take(id))
                .flatten();
            if let Some(taken) = taken {
                taken.handle.set_apart(to.side == SubscriptionSide::Apart);
                to.fanout.borrow_mut().adopt(id, taken);
            }
        }
        let now = self.thread.clock.now_micros();
        if let Some(unwritten) = self.thread.loss_lines.apart.write(now) {
            tracing::info!(
                worker = self.thread.index,
                subscribers = those.len(),
                unwritten,
                "the server has ended the connection of the subscriptions: those who may be the cause are kept apart"
            );
        }
        if !to.is_kept.replace(true) {
            self.thread.keep(
                "keeps subscriptions",
                Rc::clone(self).keep_subscribed(Rc::clone(to)),
            );
        }
        to.turn();
    }
}
