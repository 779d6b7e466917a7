//! Errors that the server tells a call that arrives, and nobody whom it has blocked.
//!
//! A client that waits here is blocked from its own point of view, while the server sees one call after the other on its behalf. Between
//! two of them a key may go, or become one of another kind: the next call is refused as one that arrives, and who has waited is due
//! what the server does with whoever it has blocked meanwhile. That depends on the kinds of the keys, which are asked for by a try
//! that makes the call once more behind them, in one transaction.

use std::borrow::Cow;

use super::attempts::{Attempt, Kind};
use super::call::{Call, Shape};
use super::class::{Class, ClassId, Place};
use super::looks::MAX_LOOK_BYTES;
use super::machine::Waits;
use super::price::kinds;
use super::{Key, MAX_KEYS, Outcome};
use crate::texts::{GROUP_GONE, STREAM_GONE, ServerVersion};

/// Most keys whose kinds are asked for, as many as one look at keys that are left out is at, and how many bytes several may measure
/// together: whoever waits for more waits on without that being known.
const MAX_KINDS: usize = MAX_KEYS;
const MAX_KINDS_BYTES: usize = MAX_LOOK_BYTES;

/// What every server answers where a key is of another kind.
pub(super) const OTHER_KIND: &[u8] =
    b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";

/// What the kinds of its keys tell of a try for a class in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fewer {
    /// It was about every key, or none of those it left out is of another kind.
    None,
    /// It left out those that are of another kind.
    Same,
    /// It was to leave out others: another one does.
    Others,
}

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
    match call.is_of_group() {
        true => (is_other_kind || is_missing) && !server.is_from((7, 2)),
        // A call over the keys of many may be refused for one of them: each asks for itself then.
        false => is_other_kind && call.shape != Shape::Pops,
    }
}

/// Of how many keys the kinds are asked for: all of the call, or none where that would be too many.
fn asked(call: &Call) -> usize {
    let keys = call.awaited();
    let bytes: usize = keys.iter().map(|key| key.len()).sum();
    match keys.len() {
        1 => 1,
        2..=MAX_KINDS if bytes <= MAX_KINDS_BYTES => keys.len(),
        _ => 0,
    }
}

/// What is due to who has waited with this call, which `server` refuses with `error` while its keys are of these `kinds`, the answers to
/// TYPE; those in the way are left out where that can be. Without kinds it cannot be known: a stream is sooner gone than left without its
/// group. Where there are too many keys to ask it is not known either, and nobody is told what may not be so. One that takes from one key alone has nothing else to be refused for; where what it takes also has to go somewhere it would wait
/// for ever for a place, so it is told.
fn due<'a>(call: &Call, server: ServerVersion, error: &'a [u8], kinds: &[&[u8]]) -> Due<'a> {
    // A user who may not use MULTI either is refused TYPE by itself.
    let is_refused = kinds.iter().any(|kind| kind.starts_with(b"-"));
    let kinds = if is_refused { &[] } else { kinds };
    let right = kinds.iter().filter(|kind| **kind == call.kind()).count();
    let is_known = !kinds.is_empty() && kinds.iter().all(|kind| kind.starts_with(b"+"));
    if call.is_of_group() {
        // Redis 7.0 tells of any stream that is gone, 6.2 of groups alone.
        let needed = if server.is_from((7, 0)) {
            kinds.len()
        } else {
            1
        };
        if is_known && right >= needed {
            return Due::Told(GROUP_GONE);
        }
        if server.is_from((7, 0)) {
            return Due::Told(STREAM_GONE);
        }
    }
    let hides_one = kinds.is_empty() && call.awaited().len() == 1 && !call.has_destination();
    let are_too_many = !call.is_of_group() && asked(call) == 0;
    match hides_one || are_too_many || (is_known && right == 0) {
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
        class.omitted.clear();
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
        (fewer, kinds): (Fewer, &[&[u8]]),
    ) {
        let Some(class) = self.classes.get(&id) else {
            return;
        };
        if attempt.kinds == 0 && !class.hides_kinds && asked(&class.call) > 0 {
            return self.doubt(id);
        }
        if fewer == Fewer::Others {
            return self.ask_kinds(id);
        }
        if let Due::Told(error) = due(&class.call, self.server, error, kinds) {
            let outcome = Outcome::reply(error);
            let all = self.seated_out(id, &attempt.keys);
            self.tell_all(all, &outcome);
        }
    }

    /// The kinds of the keys of a class are known: the next try leaves out those that are of another one, where the server serves who is
    /// blocked from the rest. From Redis 7.2 on it runs the call again when something has come: one that reads is refused then, as
    /// soon as the rest has something, and one that takes is refused or served by the order of its keys, as one that arrives. One that
    /// reads for a group is served from the rest by Redis 6.2 alone, where a stream that is gone is in the way as well.
    pub(super) fn sort_out(&mut self, id: ClassId, kinds: &[&[u8]]) -> Fewer {
        let server = self.server;
        let Some(class) = self.classes.get_mut(&id) else {
            return Fewer::None;
        };
        let is_of_group = class.call.is_of_group();
        let ends = if is_of_group { (7, 0) } else { (7, 2) };
        if kinds.is_empty() || (class.takes() && server.is_from(ends)) {
            return Fewer::None;
        }
        let is_there = |kind: &[u8]| is_of_group || kind != b"+none\r\n";
        let is_other = |kind: &[u8]| kind.starts_with(b"+") && is_there(kind);
        let others = kinds.iter().enumerate();
        let others = others.filter(|(_, kind)| is_other(kind) && **kind != class.call.kind());
        let others = others.map(|(place, _)| place).collect();
        if class.call.without(&others).is_none() {
            class.omitted.clear();
            return Fewer::None;
        }
        match class.omitted == others {
            true => Fewer::Same,
            false => {
                class.omitted = others;
                Fewer::Others
            }
        }
    }

    /// Whether the server, where it has blocked somebody, answers what a try over fewer keys has found with an error.
    pub(super) fn ends_with_error(&self, id: ClassId, fewer: Fewer) -> bool {
        let class = self.classes.get(&id);
        fewer != Fewer::None
            && self.server.is_from((7, 2))
            && class.is_some_and(|class| !class.takes())
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
            true => asked(&self.call),
            false => 0,
        }
    }

    /// Microseconds that the server takes to tell of them.
    pub(super) fn kinds_price(&self) -> u64 {
        match self.kinds_wanted() {
            0 => 0,
            wanted => kinds(
                wanted,
                self.call.awaited().iter().map(|key| key.len()).sum(),
            ),
        }
    }

    /// The call that its next try makes: over the keys that are not known to be of another kind.
    pub(super) fn tried_call(&self) -> Cow<'_, Call> {
        let fewer = Some(&self.omitted).filter(|_| self.kinds_wanted() > 0);
        let fewer = fewer.and_then(|omitted| self.call.without(omitted));
        fewer.map_or(Cow::Borrowed(&self.call), Cow::Owned)
    }

    /// The requests that ask for them, and how many.
    pub(super) fn ask_kinds(&self) -> (Vec<u8>, usize) {
        match self.kinds_wanted() {
            0 => (Vec::new(), 0),
            wanted => (self.call.ask_kinds(), wanted),
        }
    }
}
