//! Errors that the server tells a call that arrives, and nobody whom it has blocked.
//!
//! A client that waits here is blocked from its own point of view, while the server sees one call after the other on its behalf. Between
//! two of them a key may go, or become one of another kind: the next call is refused as one that arrives, and who has waited is due
//! what the server does with whoever it has blocked meanwhile. That depends on the kinds of the keys, which are asked for by a try
//! that makes the call once more behind them, in one transaction.

use super::attempts::{Attempt, Kind};
use super::call::{Call, Shape};
use super::class::{Class, ClassId, Place};
use super::machine::Waits;
use super::{Key, Outcome};
use crate::texts::{GROUP_GONE, STREAM_GONE, ServerVersion};

/// Most keys whose kinds are asked for, and how many bytes they may measure together: whoever waits for more is told what one that
/// arrives is.
const MAX_KINDS: usize = 64;
const MAX_KINDS_BYTES: usize = 64 * 1024;

/// What is due to who has waited, where the server refuses a call that arrives.
#[derive(Debug, PartialEq, Eq)]
enum Due<'a> {
    /// The server would have it wait on.
    Wait,
    /// The server would have ended its wait with this.
    Told(&'a [u8]),
}

/// Whether `server` answers `error` to such a call when it arrives, and does otherwise with one that it has blocked. From Redis 7.2 on, and
/// on every Valkey, a blocked XREADGROUP is run again when its stream has changed, and is told what one that arrives is told.
fn is_of_arrival(call: &Call, server: ServerVersion, error: &[u8]) -> bool {
    let is_other_kind = error.starts_with(b"-WRONGTYPE ");
    let is_missing = error.starts_with(b"-NOGROUP No such key ");
    let is_meant = match call.is_of_group() {
        true => (is_other_kind || is_missing) && !server.is_from((7, 2)),
        // A call over the keys of many may be refused for one of them: each asks for itself then.
        false => is_other_kind && call.shape != Shape::Pops,
    };
    if !is_meant {
        return false;
    }
    let keys = call.awaited();
    let bytes: usize = keys.iter().map(|key| key.len()).sum();
    (1..=MAX_KINDS).contains(&keys.len()) && bytes <= MAX_KINDS_BYTES
}

/// What is due to who has waited with this call, which `server` refuses with `error` while its keys are of these `kinds`, the answers to
/// TYPE. Without kinds it cannot be known, and the wait ends: a stream is sooner gone than left without its group.
fn due<'a>(call: &Call, server: ServerVersion, error: &'a [u8], kinds: &[&[u8]]) -> Due<'a> {
    let right = kinds.iter().filter(|kind| **kind == call.kind()).count();
    let is_known = !kinds.is_empty() && kinds.iter().all(|kind| kind.starts_with(b"+"));
    let are_all_right = is_known && right == kinds.len();
    if call.is_of_group() && are_all_right {
        return Due::Told(GROUP_GONE);
    }
    if call.is_of_group() && server.is_from((7, 0)) {
        return Due::Told(STREAM_GONE);
    }
    match is_known && right == 0 {
        true => Due::Wait,
        // One of its keys may have what it waits for while another is in the way, or what it takes has nowhere to go.
        false => Due::Told(error),
    }
}

impl<S: Clone + PartialEq> Waits<S> {
    /// Whether the server answers `error` to the call of a class when it arrives, and does otherwise with one that it has blocked.
    pub(super) fn is_of_arrival(&self, id: ClassId, error: &[u8]) -> bool {
        let class = self.classes.get(&id);
        class.is_some_and(|class| is_of_arrival(&class.call, self.server, error))
    }

    /// A call of a class was refused as one that arrives: it is not issued again before a try has told what is due to who has waited.
    pub(super) fn doubt(&mut self, id: ClassId) {
        let Some(class) = self.classes.get_mut(&id) else {
            return;
        };
        class.is_doubted = true;
        match class.place {
            Place::Seated(_) => class.rests = true,
            Place::Queued { .. } | Place::Asleep { .. } => self.rest(id),
            Place::Nowhere | Place::Resting { .. } => {}
        }
        self.ask_kinds(id);
    }

    fn ask_kinds(&mut self, id: ClassId) {
        if let Some(class) = self.classes.get(&id) {
            let state = class.state.clone();
            self.attempt(Kind::Poll(id), state);
        }
    }

    /// The server refused a call of a class, made by a try, as one that arrives.
    pub(super) fn refused_on_arrival(
        &mut self,
        id: ClassId,
        attempt: &Attempt,
        error: &[u8],
        kinds: &[&[u8]],
    ) {
        let Some(class) = self.classes.get(&id) else {
            return;
        };
        if attempt.kinds == 0 && !class.hides_kinds {
            return self.doubt(id);
        }
        if let Due::Told(error) = due(&class.call, self.server, error, kinds) {
            let outcome = Outcome::reply(error);
            let all = self.seated_out(id, &attempt.keys);
            self.tell_all(all, &outcome);
        }
    }

    /// A try that asks for kinds was refused as a whole: its user may not ask for them. What is due is found out without.
    pub(super) fn kinds_refused(&mut self, id: ClassId, keys: &[Key]) {
        if let Some(class) = self.classes.get_mut(&id)
            && !std::mem::replace(&mut class.hides_kinds, true)
        {
            return self.ask_kinds(id);
        }
        self.retry_all(id, keys);
    }
}

impl<S> Class<S> {
    /// For how many kinds of keys its next try asks.
    pub(super) fn kinds_wanted(&self) -> usize {
        match self.is_doubted && !self.hides_kinds {
            true => self.call.awaited().len(),
            false => 0,
        }
    }

    /// The requests that ask for them, and how many.
    pub(super) fn ask_kinds(&self) -> (Vec<u8>, usize) {
        match self.kinds_wanted() {
            0 => (Vec::new(), 0),
            wanted => (self.call.ask_kinds(), wanted),
        }
    }
}
