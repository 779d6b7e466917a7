//! Leaves keys of another kind out of the one call for many, and looks at them again now and then (`looks.rs`).
//!
//! The server passes over such a key where it has blocked somebody, and refuses a call over it that arrives. Whoever has waited is told
//! nothing: the keys of a refused call are not asked about before the server has told which of them are in the way, and those that are
//! not before it has told that they are no longer. They are looked at by LLEN or ZCARD, which take nothing away.

use std::collections::HashMap;

use super::BlockingCalls;
use crate::texts::is_other_kind;
use crate::waits::blocked::WaitingClient;
use crate::waits::class::ClassStage;
use crate::waits::ids::{ClassId, TryId, WaiterId};
use crate::waits::lines::KeyLine;
use crate::waits::looks::{MAX_AGAIN, MAX_LOOK_BYTES};
use crate::waits::owners::ClientAddress;
use crate::waits::reply::{frames, is_passing};
use crate::waits::tries::{RequestBatch, TryPurpose};
use crate::waits::{LineKey, MAX_KEYS, WaitOutcome};

impl<S: Clone + PartialEq> BlockingCalls<S> {
    /// Tells whether keys are left out where the server answers `error` to the call of a class.
    pub(super) fn bars(&self, id: ClassId, error: &[u8]) -> bool {
        let class = self.blocked.class(id);
        class.is_some_and(|class| class.bars(error))
    }

    /// Notes that one of `keys` is of another kind: none is asked about before it is known which.
    pub(super) fn bar(&mut self, id: ClassId, keys: &[LineKey]) {
        if let Some(class) = self.blocked.class_mut(id) {
            class.lines.doubt(keys);
            if class.lines.has_doubted() {
                self.look(id);
            }
        }
    }

    /// Looks at keys that are in doubt or due, unless that is under way.
    fn look(&mut self, id: ClassId) {
        if let Some(class) = self.blocked.class_mut(id)
            && !std::mem::replace(&mut class.is_looking, true)
        {
            let state = class.state.clone();
            self.attempt(TryPurpose::Look(id), state);
        }
    }

    /// Looks where it is time to.
    pub(super) fn look_again(&mut self) {
        for id in self.looks.fall_due(self.now) {
            self.look(id);
        }
    }

    /// Sees to it that every key that is left out is looked at for somebody who waits for it, and no other is.
    pub(super) fn share_looks(&mut self, id: ClassId) {
        let Some(class) = self.blocked.classes.get_mut(&id) else {
            return;
        };
        let mut new = Vec::new();
        for key in class.lines.take_turned() {
            let is_left_out = class.lines.is_left_out(&key);
            let line = class.lines.get(&key).filter(|_| is_left_out);
            match (line, self.looks.payer(id, &key)) {
                (None, _) => self.looks.leave(id, &key),
                (Some(line), Some(payer)) if line.living.contains(&payer) => {}
                (Some(line), payer) => {
                    self.looks
                        .pay(id, &key, line_of(line, &self.blocked.waiters));
                    if payer.is_none() {
                        new.push(key);
                    }
                }
            }
        }
        self.look_later(id, &new, self.looks.count(id).min(MAX_AGAIN));
    }

    /// Has these keys looked at again, so many of them in one go.
    fn look_later(&mut self, id: ClassId, keys: &[LineKey], together: usize) {
        for key in keys {
            self.looks.look_later(id, key, together, self.now);
        }
    }

    /// Does the same for keys that have been looked at, each for whom that is best by now.
    fn looked_at(&mut self, id: ClassId, keys: &[LineKey]) {
        let Some(class) = self.blocked.class(id) else {
            return;
        };
        for key in keys {
            if let Some(line) = class.lines.get(key)
                && self.looks.payer(id, key).is_some()
            {
                self.looks
                    .pay(id, key, line_of(line, &self.blocked.waiters));
            }
        }
        self.look_later(id, keys, keys.len());
    }

    pub(super) fn begin_look(&mut self, attempt: TryId, id: ClassId) -> Option<RequestBatch> {
        let keys = self.next_look(id)?;
        let class = self.blocked.class(id)?;
        let bytes = keys.iter().flat_map(|key| class.call.ask_kind(key));
        let (bytes, replies) = (bytes.collect(), keys.len());
        if let Some(attempt) = self.attempts.get_mut(&attempt) {
            attempt.class = Some(id);
            attempt.keys = keys;
        }
        Some(RequestBatch {
            bytes,
            replies,
            takes: 0,
        })
    }

    /// Returns the keys that the next look is at: those in doubt first, then those that are due.
    fn next_look(&mut self, id: ClassId) -> Option<Vec<LineKey>> {
        let class = self.blocked.class(id)?;
        if class.lines.has_doubted() {
            let mut bytes = 0;
            let mut keys = class.lines.doubted(MAX_KEYS);
            keys.retain(|key| {
                let is_first = bytes == 0;
                bytes += key.len() + 1;
                is_first || bytes <= MAX_LOOK_BYTES
            });
            return Some(keys);
        }
        while self.looks.is_due(id) {
            let mut keys = self.looks.take(id);
            keys.retain(|key| class.lines.is_left_out(key));
            if !keys.is_empty() {
                return Some(keys);
            }
        }
        None
    }

    /// Reads the server's answer of what kind `keys` are.
    pub(super) fn looked(&mut self, id: ClassId, keys: &[LineKey], replies: &[u8]) {
        let mut is_refused = false;
        if let Some(class) = self.blocked.class_mut(id) {
            let mut answers = frames(replies).into_iter();
            for key in keys {
                match answers.next().unwrap_or_default() {
                    [b':', ..] => class.lines.unbar(key),
                    b"" => class.lines.leave_out(key),
                    error if is_other_kind(error) || is_passing(error) => {
                        class.lines.leave_out(key)
                    }
                    _ => {
                        is_refused = true;
                        class.lines.unbar(key);
                    }
                }
            }
            class.hides_kinds |= is_refused;
        }
        if is_refused {
            // Its user may not look: each asks for itself, and is told what one that arrives is.
            self.retry_all(id, keys);
        }
        self.share_looks(id);
        self.looked_at(id, keys);
        let has_doubted = self
            .blocked
            .class(id)
            .is_some_and(|c| c.lines.has_doubted());
        if has_doubted || self.looks.is_due(id) {
            self.look(id);
        }
        self.tend(id, keys);
    }

    /// Goes on after a look at `keys`, if it was sent, that has no answer: it is repeated, or nobody of the class can be
    /// served.
    pub(super) fn look_failed(
        &mut self,
        id: ClassId,
        keys: &[LineKey],
        failed: Option<(&WaitOutcome, &[u8])>,
    ) {
        let class = self.blocked.class(id);
        let is_served = class.is_some_and(|class| matches!(class.stage, ClassStage::Calling(_)));
        match failed {
            Some((outcome, refusal)) if !is_served && !is_passing(refusal) => {
                self.fail_class(id, outcome);
            }
            _ => {}
        }
        if let Some(class) = self.blocked.class_mut(id) {
            class.lines.leave_out_doubted();
        }
        self.share_looks(id);
        self.looked_at(id, keys);
        while let due = self.looks.take(id)
            && !due.is_empty()
        {
            self.looked_at(id, &due);
        }
        self.tend(id, &[]);
    }

    /// Lets go of `keys`, under which somebody found nothing: none of them is in the way.
    pub(super) fn unbar(&mut self, id: ClassId, keys: &[LineKey]) {
        if let Some(class) = self.blocked.class_mut(id)
            && (class.lines.left_out() > 0 || class.lines.has_doubted())
        {
            keys.iter().for_each(|key| class.lines.unbar(key));
        }
    }
}

/// Returns who waits in a line, in order of arrival, and from where.
fn line_of<'a, S>(
    line: &'a KeyLine,
    waiters: &'a HashMap<WaiterId, WaitingClient<S>>,
) -> impl Iterator<Item = (WaiterId, ClientAddress)> + 'a {
    let address = |id: &WaiterId| Some((*id, waiters.get(id)?.whose.address));
    line.living.iter().filter_map(address)
}
