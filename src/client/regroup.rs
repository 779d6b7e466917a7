//! A client's place moves with it to the group it belongs to now, or is lost.

use super::Client;
use crate::admission::AdmissionRefusal;
use crate::client::rejection::tell_rejection;
use crate::identity::ClientFlag;
use crate::telemetry::Disconnect;

impl Client {
    /// Moves the client's place to the group its name and user belong to now, and answers `reply`; or the rejection.
    pub(super) fn regroup(&mut self, reply: Vec<u8>) {
        let identity = self.record.identity();
        match self.permit.regroup(&identity, self.now()) {
            Ok(moved) => {
                if moved.is_some() {
                    self.moved();
                }
                // Inside EXEC it has been answered.
                if !reply.is_empty() {
                    self.answer(&reply);
                }
            }
            Err(refusal) if refusal.evict => self.await_room(refusal, Some(reply)),
            Err(refusal) => self.reject(refusal, true),
        }
    }

    /// Room was made for the client in the group that had none.
    pub(super) fn regroup_anew(&mut self, reply: Option<Vec<u8>>) {
        let identity = self.record.identity();
        let placed = match self.permit.has_place() {
            true => self.permit.settle(&identity, self.now()),
            false => {
                let admitted = self.clients.admission.admit(&identity, self.now());
                admitted.map(|permit| self.permit = permit)
            }
        };
        match placed {
            Ok(()) => {
                self.moved();
                if let Some(reply) = reply.filter(|reply| !reply.is_empty()) {
                    self.reply(&reply);
                }
            }
            Err(refusal) => self.reject(refusal, reply.is_some()),
        }
    }

    /// Goes where a reload puts it, whatever the caps say, and by what holds there.
    #[cold]
    pub(super) fn reassign(&mut self) {
        if self.arrives_for_long() {
            self.settle_late();
        }
        self.permit.reassign(&self.record.identity());
        self.become_guest();
        let limits = &self.clients.thread.settings().limits;
        self.outlet.set_limit_bytes(limits.max_client_buffer);
        self.moved();
    }

    pub(super) fn moved(&mut self) {
        self.note_arriving();
        let group = self.group();
        self.record.group.set(group as u32);
        self.entry
            .idle_timeout
            .set(self.clients.idle_timeout(group));
        self.log_admission();
    }

    /// The client has no place any more: every command from here on gets the error, with `is_answered` the one at hand too.
    pub(super) fn reject(&mut self, refusal: AdmissionRefusal, is_answered: bool) {
        tell_rejection(&self.clients.admission, &refusal, &self.record.identity());
        self.flag(ClientFlag::Rejected, true);
        if is_answered {
            let explain = self.clients.thread.settings().limits.explain_rejections;
            self.reply(&refusal.client_text(explain));
        }
        self.rejected = Some(Box::new(refusal));
        self.ending = Some(Disconnect::Rejected);
    }
}
