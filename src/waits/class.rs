//! Describes one class: waiters whose calls can be one, in one state.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::arrivals::{OmittedKeys, asked};
use super::call::{BlockingCall, CallShape};
use super::ids::{CallConnectionId, WaiterId};
use super::lines::KeyLines;
use super::owners::{ClassAccount, ClientAddress};
use super::price::{CallSize, kinds};
use super::{FIRST_POLL_MICROS, LineKey, MAX_AHEAD, MAX_AHEAD_BYTES, MAX_KEYS, POLL_MICROS};
use crate::texts::{ServerVersion, is_other_kind};

/// Says where a class stands with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClassStage {
    /// It needs nothing, or waits for keys alone that are of another kind.
    Nowhere,
    /// It wants a connection since this turn, and is to be tried at this time.
    Queued { turn: u64, poll_at: u64 },
    /// It has this connection.
    Calling(CallConnectionId),
    /// It wants a connection as soon as it may have a call issued again, and is to be tried at this time.
    Asleep { poll_at: u64 },
    /// The server refuses its calls for a while: it is to be tried at this time, and wants no connection until that succeeds.
    Resting { poll_at: u64 },
}

/// Counts the tries for one key that the next call has in front of it.
#[derive(Debug, Clone)]
pub(super) struct KeyFollowUp {
    pub(super) key: LineKey,
    pub(super) count: u32,
    /// The last answer had this many bytes.
    pub(super) bytes: usize,
}

impl KeyFollowUp {
    /// Returns how many tries are sent where `room` are of use.
    pub(super) fn count(&self, room: usize) -> u32 {
        let by_bytes = (MAX_AHEAD_BYTES / self.bytes.max(1)).max(1);
        let most = room.min(by_bytes).min(MAX_AHEAD as usize);
        self.count.min(most as u32)
    }
}

/// After this many calls that were not refused the next may be over twice as many keys, at first and at most.
const WIDENS_AFTER: u32 = 8;
const MAX_WIDENS_AFTER: u32 = 65_536;

#[derive(Debug)]
pub(super) struct WaitClass<S> {
    pub(super) state: S,
    pub(super) identity: Box<[u8]>,
    /// It is the call of one of its waiters.
    pub(super) call: BlockingCall,
    pub(super) lines: KeyLines,
    /// Everybody who is still there is one of these.
    pub(super) members: BTreeSet<WaiterId>,
    /// Each client group has this number of them.
    pub(super) groups: BTreeMap<usize, usize>,
    /// These of them come from each address.
    pub(super) owners: BTreeMap<ClientAddress, BTreeSet<WaiterId>>,
    /// It is counted here as long as it needs something.
    pub(super) account: Option<ClassAccount>,
    /// The last of them came at this time.
    pub(super) fresh_at: u64,
    /// Its call may be issued again from this time on for no other reason than that a connection is to be had.
    pub(super) wakes_at: u64,
    /// Its last call had this size.
    size: CallSize,
    /// This number of them have tried and found nothing.
    pub(super) waiting: usize,
    /// The tries of these newcomers wait until fewer pops are under way, those of others who have left meanwhile.
    pub(super) held: BTreeSet<WaiterId>,
    /// This number of newcomers' tries are under way.
    pub(super) newcomers: usize,
    /// The class itself wants `attempts` tries, of which `begun` have been sent.
    pub(super) attempts: usize,
    pub(super) begun: usize,
    pub(super) stage: ClassStage,
    /// These elements were popped while nobody stood in line for them, in that order: they are put back when nothing more can
    /// come that was popped from there.
    pub(super) unclaimed: BTreeMap<LineKey, Vec<Box<[u8]>>>,
    /// One call asks about this many keys at most; the one before ended with this one.
    pub(super) window: usize,
    pub(super) cursor: Option<LineKey>,
    pub(super) follow_up: Option<KeyFollowUp>,
    /// The last call was refused because of the server's state: it is not issued again at once.
    pub(super) rests: bool,
    /// The last call was refused as one that arrives: tries ask for the kinds of the keys first.
    pub(super) is_doubted: bool,
    /// The keys at these places are of another kind: a try that asks for the kinds leaves them out, where that can be.
    pub(super) omitted: BTreeSet<usize>,
    /// The user may not ask for the kinds.
    pub(super) hides_kinds: bool,
    /// The server is being asked for the kinds of keys that are left out.
    pub(super) is_looking: bool,
    /// This number of calls over several keys were refused one after the other.
    refusals: u32,
    /// The window is widened again when `accepted`, the calls that were not refused since it has changed, reaches `widens_after`.
    accepted: u32,
    widens_after: u32,
}

impl<S> WaitClass<S> {
    pub(super) fn new(state: S, call: BlockingCall) -> Self {
        Self {
            state,
            identity: call.identity(),
            size: call.size(),
            call,
            lines: KeyLines::default(),
            members: BTreeSet::new(),
            groups: BTreeMap::new(),
            owners: BTreeMap::new(),
            account: None,
            fresh_at: 0,
            wakes_at: 0,
            waiting: 0,
            held: BTreeSet::new(),
            newcomers: 0,
            attempts: 0,
            begun: 0,
            stage: ClassStage::Nowhere,
            unclaimed: BTreeMap::new(),
            window: MAX_KEYS,
            cursor: None,
            follow_up: None,
            rests: false,
            is_doubted: false,
            omitted: BTreeSet::new(),
            hides_kinds: false,
            is_looking: false,
            refusals: 0,
            accepted: 0,
            widens_after: WIDENS_AFTER,
        }
    }

    /// Tells whether its calls take something away.
    pub(super) fn takes(&self) -> bool {
        self.call.shape != CallShape::Reads
    }

    /// Returns how many calls it takes to ask about every key.
    pub(super) fn windows(&self) -> u64 {
        (self.lines.awaited().div_ceil(self.window.max(1)) as u64).max(1)
    }

    /// Tells whether it is tried from time to time.
    pub(super) fn is_polled(&self) -> bool {
        matches!(
            self.stage,
            ClassStage::Queued { .. } | ClassStage::Asleep { .. } | ClassStage::Resting { .. }
        )
    }

    /// Tells whether it wants a connection, now or later.
    pub(super) fn wants_connection(&self) -> bool {
        matches!(
            self.stage,
            ClassStage::Queued { .. } | ClassStage::Asleep { .. }
        )
    }

    /// Tells whether a call is to be issued for it: somebody who has found nothing waits for a key that is not left out.
    pub(super) fn wants_call(&self) -> bool {
        self.lines.is_wanted()
    }

    /// Tells whether its issued call asks for keys nobody awaits, lacks one, or has to end before somebody is told.
    pub(super) fn is_amiss(&self) -> bool {
        let lines = &self.lines;
        lines.has_stale() || lines.is_pressed() || (lines.has_uncovered() && self.windows() == 1)
    }

    /// Returns when it is tried, if it is.
    pub(super) fn poll_at(&mut self) -> Option<&mut u64> {
        match &mut self.stage {
            ClassStage::Queued { poll_at, .. }
            | ClassStage::Asleep { poll_at }
            | ClassStage::Resting { poll_at } => Some(poll_at),
            ClassStage::Nowhere | ClassStage::Calling(_) => None,
        }
    }

    /// Returns how often it is to be tried: who has waited long may be served a little later.
    pub(super) fn wanted_every(&self, now: u64) -> u64 {
        let waited = now.saturating_sub(self.fresh_at);
        (waited / 4).clamp(FIRST_POLL_MICROS, POLL_MICROS)
    }

    /// Tells whether somebody has just come.
    pub(super) fn is_young(&self, now: u64) -> bool {
        self.wanted_every(now) < POLL_MICROS
    }

    /// Tells whether its waiters may wait for different things: it is one for all of them.
    pub(super) fn is_plain(&self) -> bool {
        self.call.shape == CallShape::Pops
    }

    /// Returns how large its next call is, as far as the last one tells.
    pub(super) fn size(&self) -> CallSize {
        if self.is_plain() {
            let keys = self.lines.awaited().min(self.window);
            self.size.over(keys + 1)
        } else {
            self.size
        }
    }

    /// Notes that its call over these keys is about to be sent. Returns how large it is.
    pub(super) fn sends(&mut self, keys: &[LineKey]) -> CallSize {
        if self.is_plain() {
            self.size = CallSize::of(keys.iter().map(AsRef::as_ref));
        }
        self.size
    }

    /// Tells whether nothing is left of it.
    pub(super) fn is_over(&self) -> bool {
        self.members.is_empty()
            && self.newcomers == 0
            && self.attempts == 0
            && !self.is_looking
            && self.stage == ClassStage::Nowhere
    }

    /// Notes that a call was not refused.
    pub(super) fn accepted(&mut self) {
        self.refusals = 0;
        self.is_doubted = false;
        self.hides_kinds = false;
        if self.window < MAX_KEYS {
            self.accepted += 1;
            if self.accepted >= self.widens_after {
                self.accepted = 0;
                self.window = (self.window * 2).min(MAX_KEYS);
            }
        }
    }

    /// Notes that a call over so many keys was refused. One of them may have been the cause and is gone then; what is refused
    /// again and again is asked for over fewer keys, and over more the later the more often that has failed.
    pub(super) fn refused(&mut self, keys: usize) {
        self.refusals += 1;
        if self.refusals > 1 {
            self.window = (keys / 2).max(1);
            self.accepted = 0;
            self.widens_after = (self.widens_after * 2).min(MAX_WIDENS_AFTER);
        }
    }

    /// Returns the keys that the next call asks about: `favoured` ones each time, the others in turn.
    pub(super) fn next_keys(&mut self, favoured: BTreeSet<LineKey>) -> BTreeSet<LineKey> {
        let mut keys = self.lines.window(self.cursor.as_ref(), self.window);
        keys.retain(|key| !favoured.contains(key));
        keys.truncate(self.window.saturating_sub(favoured.len()));
        self.cursor = keys.last().cloned();
        keys.into_iter().chain(favoured).collect()
    }

    /// Notes that another waiter of `key` might have been served by the answer, of so many bytes, that came for it.
    pub(super) fn follow_up(&mut self, key: &LineKey, bytes: usize) {
        match &mut self.follow_up {
            Some(follow_up) if follow_up.key == *key => follow_up.bytes = bytes,
            _ => {
                self.follow_up = Some(KeyFollowUp {
                    key: LineKey::clone(key),
                    count: 1,
                    bytes,
                })
            }
        }
    }
}

impl<S> WaitClass<S> {
    /// Returns for how many kinds of keys its next try asks.
    pub(super) fn kinds_wanted(&self) -> usize {
        match self.is_doubted && !self.hides_kinds {
            true => asked(&self.call),
            false => 0,
        }
    }

    /// Returns the microseconds that the server takes to tell of them.
    pub(super) fn kinds_price(&self) -> u64 {
        match self.kinds_wanted() {
            0 => 0,
            wanted => kinds(
                wanted,
                self.call.awaited().iter().map(|key| key.len()).sum(),
            ),
        }
    }

    /// Returns the call that its next try makes: over the keys that are not known to be of another kind.
    pub(super) fn tried_call(&self) -> Cow<'_, BlockingCall> {
        let fewer = Some(&self.omitted).filter(|_| self.kinds_wanted() > 0);
        let fewer = fewer.and_then(|omitted| self.call.without(omitted));
        fewer.map_or(Cow::Borrowed(&self.call), Cow::Owned)
    }

    /// Makes the requests that ask for the kinds, and says how many they are.
    pub(super) fn ask_kinds(&self) -> (Vec<u8>, usize) {
        match self.kinds_wanted() {
            0 => (Vec::new(), 0),
            wanted => (self.call.ask_kinds(), wanted),
        }
    }

    /// Notes the kinds of its keys: the next try leaves out those that are of another one, where the server serves who is
    /// blocked from the rest. From Redis 7.2 on it runs the call again when something has come: one that reads is refused
    /// then, as soon as the rest has something, and one that takes is refused or served by the order of its keys, as one that
    /// arrives. One that reads for a group is served from the rest by Redis 6.2 alone, where a stream that is gone is in the
    /// way as well.
    pub(super) fn sort_out(&mut self, server: ServerVersion, kinds: &[&[u8]]) -> OmittedKeys {
        let is_of_group = self.call.is_of_group();
        let ends = if is_of_group { (7, 0) } else { (7, 2) };
        if kinds.is_empty() || (self.takes() && server.is_from(ends)) {
            return OmittedKeys::None;
        }
        let is_there = |kind: &[u8]| is_of_group || kind != b"+none\r\n";
        let is_other = |kind: &[u8]| kind.starts_with(b"+") && is_there(kind);
        let others = kinds.iter().enumerate();
        let others = others.filter(|(_, kind)| is_other(kind) && **kind != self.call.kind());
        let others = others.map(|(place, _)| place).collect();
        if self.call.without(&others).is_none() {
            self.omitted.clear();
            return OmittedKeys::None;
        }
        match self.omitted == others {
            true => OmittedKeys::Same,
            false => {
                self.omitted = others;
                OmittedKeys::Others
            }
        }
    }

    /// Tells whether the server, where it has blocked somebody, answers what a try over fewer keys has found with an error.
    pub(super) fn ends_with_error(&self, server: ServerVersion, fewer: OmittedKeys) -> bool {
        fewer != OmittedKeys::None && server.is_from((7, 2)) && !self.takes()
    }

    /// Tells whether keys are left out where the server answers `error` to its call.
    pub(super) fn bars(&self, error: &[u8]) -> bool {
        is_other_kind(error) && self.is_plain() && !self.hides_kinds
    }
}
