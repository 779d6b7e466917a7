//! Keys of another kind than the one call for many waits for: they are left out of it, and looked at again now and then.
//!
//! The server passes over such a key where it has blocked somebody, and refuses a call over it that arrives. Whoever has waited is told
//! nothing: the keys of a refused call are not asked about before the server has told which of them are in the way, and those that are
//! not before it has told that they are no longer. They are looked at by LLEN or ZCARD, which take nothing away.

use super::attempts::{Kind, Sending, TryId};
use super::class::{Class, ClassId, Place};
use super::machine::Waits;
use super::price::{KIND_MICROS, SHARE};
use super::reply::{frames, is_passing};
use super::{Key, MAX_KEYS, MIN_POLL_MICROS, Outcome, POLL_MICROS};

/// Most keys that are looked at again at once, and how many bytes of keys stand in one look.
const MAX_AGAIN: usize = 64;
const MAX_LOOK_BYTES: usize = 64 * 1024;

/// Whether the server says that a key is of another kind.
pub(super) fn is_of_kind(error: &[u8]) -> bool {
    error.starts_with(b"-WRONGTYPE ")
}

impl<S: Clone + PartialEq> Waits<S> {
    /// Whether keys are left out where the server answers `error` to the call of a class.
    pub(super) fn bars(&self, id: ClassId, error: &[u8]) -> bool {
        let class = self.classes.get(&id);
        is_of_kind(error) && class.is_some_and(|class| class.is_plain() && !class.hides_kinds)
    }

    /// One of `keys` is of another kind: none is asked about before it is known which.
    pub(super) fn bar(&mut self, id: ClassId, keys: &[Key]) {
        if let Some(class) = self.classes.get_mut(&id) {
            class.lines.doubt(keys);
            if class.lines.has_doubted() {
                self.look(id);
            }
        }
    }

    /// Looks at the keys that are left out, unless that is under way.
    fn look(&mut self, id: ClassId) {
        if let Some(class) = self.classes.get_mut(&id)
            && !std::mem::replace(&mut class.is_looking, true)
        {
            let (state, look_at) = (class.state.clone(), class.look_at.take());
            if let Some(at) = look_at {
                self.looks.remove(&(at, id));
            }
            self.attempt(Kind::Look(id), state);
        }
    }

    /// Looks where it is time to.
    pub(super) fn look_again(&mut self) {
        while let Some(&(at, id)) = self.looks.first()
            && at <= self.now
        {
            self.looks.pop_first();
            let class = self.classes.get_mut(&id);
            let is_needed = class.is_some_and(|class| {
                class.look_at = None;
                class.lines.barred() > 0
            });
            if is_needed {
                self.look(id);
            }
        }
    }

    /// Keys that are left out are to be looked at after a while, in which all such looks take no more than their share.
    fn look_later(&mut self, id: ClassId) {
        let (now, classes) = (self.now, self.looks.len() as u64 + 1);
        let Some(class) = self.classes.get_mut(&id) else {
            return;
        };
        if class.is_looking || class.look_at.is_some() || class.lines.barred() == 0 {
            return;
        }
        let keys = class.lines.barred().min(MAX_AGAIN);
        let looks = class.lines.barred().div_ceil(MAX_AGAIN) as u64;
        let price = class.size().over(keys + 1).tried() + keys as u64 * KIND_MICROS;
        let wanted = (POLL_MICROS / looks).max(MIN_POLL_MICROS);
        let at = now + wanted.max(price * SHARE * classes);
        class.look_at = Some(at);
        self.looks.insert((at, id));
    }

    pub(super) fn begin_look(&mut self, attempt: TryId, id: ClassId) -> Option<Sending> {
        let class = self.classes.get_mut(&id)?;
        let keys = class.next_look();
        if keys.is_empty() {
            return None;
        }
        let bytes = keys.iter().flat_map(|key| class.call.ask_kind(key));
        let (bytes, replies) = (bytes.collect(), keys.len());
        if let Some(attempt) = self.attempts.get_mut(&attempt) {
            attempt.class = Some(id);
            attempt.keys = keys;
        }
        Some(Sending {
            bytes,
            replies,
            takes: 0,
        })
    }

    /// The server has answered of what kind `keys` are.
    pub(super) fn looked(&mut self, id: ClassId, keys: &[Key], replies: &[u8]) {
        let mut is_refused = false;
        if let Some(class) = self.classes.get_mut(&id) {
            let mut answers = frames(replies).into_iter();
            for key in keys {
                match answers.next().unwrap_or_default() {
                    [b':', ..] => class.lines.unbar(key),
                    b"" => class.lines.leave_out(key),
                    error if is_of_kind(error) || is_passing(error) => class.lines.leave_out(key),
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
        if self.classes.get(&id).is_some_and(|c| c.lines.has_doubted()) {
            self.look(id);
        }
        self.look_later(id);
        self.tend(id, keys);
    }

    /// A look has no answer: it is repeated, or nobody of the class can be served.
    pub(super) fn look_failed(&mut self, id: ClassId, failed: Option<(&Outcome, &[u8])>) {
        let class = self.classes.get(&id);
        let is_served = class.is_some_and(|class| matches!(class.place, Place::Seated(_)));
        match failed {
            Some((outcome, refusal)) if !is_served && !is_passing(refusal) => {
                self.fail_class(id, outcome);
            }
            _ => {}
        }
        self.look_later(id);
        self.tend(id, &[]);
    }

    /// One found nothing under `keys`: none of them is in the way.
    pub(super) fn unbar(&mut self, id: ClassId, keys: &[Key]) {
        if let Some(class) = self.classes.get_mut(&id)
            && class.lines.barred() > 0
        {
            keys.iter().for_each(|key| class.lines.unbar(key));
        }
    }
}

impl<S> Class<S> {
    /// The keys the next look is at: those of which nothing is known first, the others in turn.
    fn next_look(&mut self) -> Vec<Key> {
        let mut keys = match self.lines.has_doubted() {
            true => self.lines.doubted(MAX_KEYS),
            false => self.lines.left_out(self.look_cursor.as_ref(), MAX_AGAIN),
        };
        let mut bytes = 0;
        keys.retain(|key| {
            let is_first = bytes == 0;
            bytes += key.len() + 1;
            is_first || bytes <= MAX_LOOK_BYTES
        });
        self.look_cursor = keys.last().cloned();
        keys
    }
}
