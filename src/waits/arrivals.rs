//! Knows the errors that the server tells a call that arrives, and nobody whom it has blocked.
//!
//! A client that waits here is blocked from its own point of view, while the server sees one call after the other on its behalf. Between
//! two of them a key may go, or become one of another kind: the next call is refused as one that arrives, and who has waited is due
//! what the server does with whoever it has blocked meanwhile. That depends on the kinds of the keys, which are asked for by a try
//! that makes the call once more behind them, in one transaction.

use super::MAX_KEYS;
use super::call::{BlockingCall, CallShape};
use super::looks::MAX_LOOK_BYTES;
use crate::texts::{GROUP_GONE, STREAM_GONE, ServerVersion, is_other_kind};

/// The kinds of so many keys are asked for at most, as many as one look at keys that are left out is at, and several may
/// measure so many bytes together: whoever waits for more waits on without that being known.
const MAX_KINDS: usize = MAX_KEYS;
const MAX_KINDS_BYTES: usize = MAX_LOOK_BYTES;

/// Says what the kinds of its keys tell of a try for a class in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OmittedKeys {
    /// It was about every key, or none of those it left out is of another kind.
    None,
    /// It left out those that are of another kind.
    Same,
    /// It was to leave out others: another one does.
    Others,
}

/// Says what is due to who has waited, where the server refuses a call that arrives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ArrivalAnswer<'a> {
    /// The server would have it wait on.
    Wait,
    /// The server would have ended its wait with this.
    Told(&'a [u8]),
}

/// Tells whether `server` answers `error` to such a call when it arrives, and does otherwise with one that it has blocked.
/// From Redis 7.2 on, and on every Valkey, a blocked XREADGROUP is run again when its stream has changed, and is told what
/// one that arrives is told.
pub(super) fn is_of_arrival(call: &BlockingCall, server: ServerVersion, error: &[u8]) -> bool {
    let is_of_kind = is_other_kind(error);
    let is_missing = error.starts_with(b"-NOGROUP No such key ");
    match call.is_of_group() {
        true => (is_of_kind || is_missing) && !server.is_from((7, 2)),
        // A call over the keys of many may be refused for one of them: each asks for itself then.
        false => is_of_kind && call.shape != CallShape::Pops,
    }
}

/// Returns for how many keys the kinds are asked: for all of the call, or for none where that would be too many.
pub(super) fn asked(call: &BlockingCall) -> usize {
    let keys = call.awaited();
    let bytes: usize = keys.iter().map(|key| key.len()).sum();
    match keys.len() {
        1 => 1,
        2..=MAX_KINDS if bytes <= MAX_KINDS_BYTES => keys.len(),
        _ => 0,
    }
}

/// Finds what is due to who has waited with this call, which `server` refuses with `error` while its keys are of these
/// `kinds`, the answers to TYPE; those in the way are left out where that can be. Without kinds it cannot be known: a stream
/// is sooner gone than left without its group. Where there are too many keys to ask it is not known either, and nobody is
/// told what may not be so. One that takes from one key alone has nothing else to be refused for; where what it takes also
/// has to go somewhere it would wait for ever for a place, so it is told.
pub(super) fn due<'a>(
    call: &BlockingCall,
    server: ServerVersion,
    error: &'a [u8],
    kinds: &[&[u8]],
) -> ArrivalAnswer<'a> {
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
            return ArrivalAnswer::Told(GROUP_GONE);
        }
        if server.is_from((7, 0)) {
            return ArrivalAnswer::Told(STREAM_GONE);
        }
    }
    let hides_one = kinds.is_empty() && call.awaited().len() == 1 && !call.has_destination();
    let are_too_many = !call.is_of_group() && asked(call) == 0;
    match hides_one || are_too_many || (is_known && right == 0) {
        true => ArrivalAnswer::Wait,
        // One of its keys may have what it waits for while another is in the way, or what it takes has nowhere to go.
        false => ArrivalAnswer::Told(error),
    }
}
