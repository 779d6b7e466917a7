//! A client that has yet to say who it is: it gets its place with the first request that a place is needed for, or when it
//! has taken long enough.
//!
//! Invariant: nothing but what introduces a client is passed on before its group has a place for it.

use super::story::Awaited;
use super::{Client, Next, Wait};
use crate::admission::AdmissionRefusal;
use crate::identity::ClientFlag;
use crate::session::Restrictions;

impl Client {
    /// Shows in its figures whether it is arriving, or an operator.
    pub(super) fn note_arriving(&mut self) {
        let is_arriving = self.permit.is_arriving();
        self.restrictions.set_arriving(is_arriving);
        self.flag(ClientFlag::Arriving, is_arriving);
        self.flag(ClientFlag::Operator, self.permit.is_operator());
    }

    /// Returns what stands between its next request and where that goes.
    #[inline]
    pub(super) fn restrictions(&self) -> Restrictions {
        match self.restrictions.is_arriving() && self.arrives_for_long() {
            true => self.restrictions.overdue(),
            false => self.restrictions,
        }
    }

    /// Gets the client its place, since its next request needs one. [`Next::Used`]: it has one, and the request is looked at
    /// again; what was not used is answered for it by whoever holds rejected sockets.
    #[cold]
    pub(super) fn take_place(&mut self) -> Next {
        match self.permit.settle(&self.record.identity(), self.now()) {
            Ok(()) => {
                self.moved();
                Next::Used(0)
            }
            Err(refusal) if refusal.evict && !self.restrictions.is_locked() => {
                self.await_room(refusal, None);
                Next::Wait
            }
            Err(refusal) => {
                self.reject(refusal, false);
                Next::Wait
            }
        }
    }

    /// The client has taken long enough to say who it is, and is placed by what is known.
    pub(super) fn settle_late(&mut self) {
        // What is waited for may be the answer to who it is; it is looked at again with the next tick.
        if matches!(self.wait, Wait::Nothing) && self.ending.is_none() {
            self.take_place();
        }
    }

    /// Tells whether the client has been arriving for as long as it may.
    pub(super) fn arrives_for_long(&self) -> bool {
        let since = self.record.created_ms() * 1000;
        let thread = &self.clients.thread;
        let most = thread.settings().limits.arriving_timeout;
        // What it has said while respool was stopped is read first.
        self.restrictions.is_arriving() && (most.is_zero() || thread.has_run_for(since, most))
    }

    /// Waits until one of the group that is full has been closed; then answers `reply`, or goes on with its next request.
    pub(super) fn await_room(&mut self, refusal: AdmissionRefusal, reply: Option<Vec<u8>>) {
        let clients = &self.clients;
        let evictor = clients.evictor();
        let now_ms = clients.thread.clock.now_ms();
        let (own, identity) = (self.record.id(), self.record.identity());
        self.then(async move |client: &mut Self| {
            let making = evictor.make_room(&refusal, &identity, now_ms, own);
            match client.meanwhile(making, Awaited::Server).await? {
                true => client.regroup_anew(reply),
                false => client.reject(refusal, reply.is_some()),
            }
            Ok(())
        });
    }
}
