//! Finds out by a try what is due to who has waited, where the server refuses a call as one that arrives.

use super::BlockingCalls;
use crate::waits::arrivals::{ArrivalAnswer, OmittedKeys, asked, due, is_of_arrival};
use crate::waits::class::ClassStage;
use crate::waits::ids::ClassId;
use crate::waits::tries::{PendingTry, TryPurpose};
use crate::waits::{LineKey, WaitOutcome};

impl<S: Clone + PartialEq> BlockingCalls<S> {
    /// Tells whether the server answers `error` to the call of a class when it arrives, and does otherwise with one that it
    /// has blocked.
    pub(super) fn is_of_arrival(&self, id: ClassId, error: &[u8]) -> bool {
        let class = self.blocked.class(id);
        class.is_some_and(|class| is_of_arrival(&class.call, self.server, error))
    }

    /// Doubts a class of which a call was refused as one that arrives: it is not issued again before a try has told what is
    /// due to who has waited.
    pub(super) fn doubt(&mut self, id: ClassId) {
        let Some(class) = self.blocked.class_mut(id) else {
            return;
        };
        class.is_doubted = true;
        class.omitted.clear();
        match class.stage {
            ClassStage::Calling(_) => class.rests = true,
            ClassStage::Queued { .. } | ClassStage::Asleep { .. } => self.rest(id),
            ClassStage::Nowhere | ClassStage::Resting { .. } => {}
        }
        self.ask_kinds(id);
    }

    fn ask_kinds(&mut self, id: ClassId) {
        if let Some(class) = self.blocked.class(id) {
            let state = class.state.clone();
            self.attempt(TryPurpose::Poll(id), state);
        }
    }

    /// Does what the server's refusal of a class's call as one that arrives asks for, where a try made it.
    pub(super) fn refused_on_arrival(
        &mut self,
        id: ClassId,
        attempt: &PendingTry,
        error: &[u8],
        (fewer, kinds): (OmittedKeys, &[&[u8]]),
    ) {
        let Some(class) = self.blocked.class(id) else {
            return;
        };
        if attempt.kinds == 0 && !class.hides_kinds && asked(&class.call) > 0 {
            return self.doubt(id);
        }
        if fewer == OmittedKeys::Others {
            return self.ask_kinds(id);
        }
        if let ArrivalAnswer::Told(error) = due(&class.call, self.server, error, kinds) {
            let outcome = WaitOutcome::reply(error);
            let all = self.blocked.who_waited(id, &attempt.keys);
            self.tell_all(all, &outcome);
        }
    }

    /// Finds out what is due without kinds: a try that asks for them was refused as a whole, since its user may not ask for
    /// them.
    pub(super) fn kinds_refused(&mut self, id: ClassId, keys: &[LineKey]) {
        if let Some(class) = self.blocked.class_mut(id)
            && !std::mem::replace(&mut class.hides_kinds, true)
        {
            return self.ask_kinds(id);
        }
        self.retry_all(id, keys);
    }
}
