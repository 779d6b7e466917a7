//! One class: waiters whose calls can be one, in one state.

use std::collections::{BTreeMap, BTreeSet};

use super::call::{Call, Shape};
use super::lines::Lines;
use super::owners::{Account, Address};
use super::price::Size;
use super::seats::SeatId;
use super::{FIRST_POLL_MICROS, Key, MAX_AHEAD, MAX_AHEAD_BYTES, MAX_KEYS, POLL_MICROS, WaiterId};

/// Identifies a class; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClassId(pub(super) u64);

/// Where a class stands with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It needs nothing, or waits for keys alone that are of another kind.
    Nowhere,
    /// It wants a seat since this turn, and is to be tried at this time.
    Queued { turn: u64, poll_at: u64 },
    /// It has this one.
    Seated(SeatId),
    /// It wants a seat as soon as it may have a call issued again, and is to be tried at this time.
    Asleep { poll_at: u64 },
    /// The server refuses its calls for a while: it is to be tried at this time, and wants no seat until that succeeds.
    Resting { poll_at: u64 },
}

/// Tries for one key that the next call has in front of it.
#[derive(Debug, Clone)]
pub(super) struct Chase {
    pub(super) key: Key,
    pub(super) count: u32,
    /// What the last answer measured.
    pub(super) bytes: usize,
}

impl Chase {
    /// How many tries are sent where `room` are of use.
    pub(super) fn count(&self, room: usize) -> u32 {
        let by_bytes = (MAX_AHEAD_BYTES / self.bytes.max(1)).max(1);
        let most = room.min(by_bytes).min(MAX_AHEAD as usize);
        self.count.min(most as u32)
    }
}

/// After how many calls that were not refused the next may be over twice as many keys: at first, and at most.
const WIDENS_AFTER: u32 = 8;
const MAX_WIDENS_AFTER: u32 = 65_536;

#[derive(Debug)]
pub(super) struct Class<S> {
    pub(super) state: S,
    pub(super) identity: Box<[u8]>,
    /// The call of one of its waiters.
    pub(super) call: Call,
    pub(super) lines: Lines,
    /// Everybody who is still there.
    pub(super) members: BTreeSet<WaiterId>,
    /// How many of them are of each client group.
    pub(super) groups: BTreeMap<usize, usize>,
    /// Who of them comes from each address.
    pub(super) owners: BTreeMap<Address, BTreeSet<WaiterId>>,
    /// Where it is counted, as long as it needs something.
    pub(super) account: Option<Account>,
    /// When the last of them has come.
    pub(super) fresh_at: u64,
    /// When its call may be issued again for no other reason than that a seat is to be had.
    pub(super) wakes_at: u64,
    /// How large its last call was.
    size: Size,
    /// How many of them have tried and found nothing.
    pub(super) waiting: usize,
    /// Newcomers whose try waits until fewer pops are under way: those of others who have left meanwhile.
    pub(super) held: BTreeSet<WaiterId>,
    /// Tries of newcomers that are under way.
    pub(super) newcomers: usize,
    /// Tries for the class itself that are wanted, and how many of them have been sent.
    pub(super) attempts: usize,
    pub(super) begun: usize,
    pub(super) place: Place,
    /// What was popped while nobody stood in line for it, in that order: it is put back when nothing more can come that
    /// was popped from there.
    pub(super) adrift: BTreeMap<Key, Vec<Box<[u8]>>>,
    /// Most keys of one call, and the last key of the one before.
    pub(super) window: usize,
    pub(super) cursor: Option<Key>,
    pub(super) chase: Option<Chase>,
    /// The last call was refused because of the server's state: it is not issued again at once.
    pub(super) rests: bool,
    /// The last call was refused as one that arrives: tries ask for the kinds of the keys first.
    pub(super) is_doubted: bool,
    /// Places of keys that are of another kind: a try that asks for the kinds leaves them out, where that can be.
    pub(super) omitted: BTreeSet<usize>,
    /// The user may not ask for them.
    pub(super) hides_kinds: bool,
    /// The server is being asked for the kinds of keys that are left out.
    pub(super) is_looking: bool,
    /// Calls over several keys that were refused one after the other.
    refusals: u32,
    /// Calls that were not refused since the window has changed, and how many it takes to widen it again.
    accepted: u32,
    widens_after: u32,
}

impl<S> Class<S> {
    pub(super) fn new(state: S, call: Call) -> Self {
        Self {
            state,
            identity: call.identity(),
            size: call.size(),
            call,
            lines: Lines::default(),
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
            place: Place::Nowhere,
            adrift: BTreeMap::new(),
            window: MAX_KEYS,
            cursor: None,
            chase: None,
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

    /// Whether its calls take something away.
    pub(super) fn takes(&self) -> bool {
        self.call.shape != Shape::Reads
    }

    /// How many calls it takes to ask about every key.
    pub(super) fn windows(&self) -> u64 {
        (self.lines.awaited().div_ceil(self.window.max(1)) as u64).max(1)
    }

    /// Whether it is tried from time to time.
    pub(super) fn is_polled(&self) -> bool {
        matches!(
            self.place,
            Place::Queued { .. } | Place::Asleep { .. } | Place::Resting { .. }
        )
    }

    /// Whether it wants a seat, now or later.
    pub(super) fn wants_seat(&self) -> bool {
        matches!(self.place, Place::Queued { .. } | Place::Asleep { .. })
    }

    /// Whether a call is to be issued for it: somebody who has found nothing waits for a key that is not left out.
    pub(super) fn wants_call(&self) -> bool {
        self.lines.is_wanted()
    }

    /// When it is tried, if it is.
    pub(super) fn poll_at(&mut self) -> Option<&mut u64> {
        match &mut self.place {
            Place::Queued { poll_at, .. }
            | Place::Asleep { poll_at }
            | Place::Resting { poll_at } => Some(poll_at),
            Place::Nowhere | Place::Seated(_) => None,
        }
    }

    /// How often it is to be tried: who has waited long may be served a little later.
    pub(super) fn wanted_every(&self, now: u64) -> u64 {
        let waited = now.saturating_sub(self.fresh_at);
        (waited / 4).clamp(FIRST_POLL_MICROS, POLL_MICROS)
    }

    /// Whether somebody has just come.
    pub(super) fn is_young(&self, now: u64) -> bool {
        self.wanted_every(now) < POLL_MICROS
    }

    /// Whether its waiters may wait for different things: it is one for all of them.
    pub(super) fn is_plain(&self) -> bool {
        self.call.shape == Shape::Pops
    }

    /// How large its next call is, as far as the last one tells.
    pub(super) fn size(&self) -> Size {
        if self.is_plain() {
            let keys = self.lines.awaited().min(self.window);
            self.size.over(keys + 1)
        } else {
            self.size
        }
    }

    /// Its call over these keys is about to be sent. Returns how large it is.
    pub(super) fn sends(&mut self, keys: &[Key]) -> Size {
        if self.is_plain() {
            self.size = Size::of(keys.iter().map(AsRef::as_ref));
        }
        self.size
    }

    /// Whether nothing is left of it.
    pub(super) fn is_over(&self) -> bool {
        self.members.is_empty()
            && self.newcomers == 0
            && self.attempts == 0
            && !self.is_looking
            && self.place == Place::Nowhere
    }

    /// A call was not refused.
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

    /// A call over so many keys was refused. One of them may have been the cause and is gone then; what is refused again
    /// and again is asked for over fewer keys, and over more the later the more often that has failed.
    pub(super) fn refused(&mut self, keys: usize) {
        self.refusals += 1;
        if self.refusals > 1 {
            self.window = (keys / 2).max(1);
            self.accepted = 0;
            self.widens_after = (self.widens_after * 2).min(MAX_WIDENS_AFTER);
        }
    }

    /// The keys the next call asks about: `favoured` ones each time, the others in turn.
    pub(super) fn next_keys(&mut self, favoured: BTreeSet<Key>) -> BTreeSet<Key> {
        let mut keys = self.lines.window(self.cursor.as_ref(), self.window);
        keys.retain(|key| !favoured.contains(key));
        keys.truncate(self.window.saturating_sub(favoured.len()));
        self.cursor = keys.last().cloned();
        keys.into_iter().chain(favoured).collect()
    }

    /// Another waiter of `key` might have been served by the answer, of so many bytes, that came for it.
    pub(super) fn chase(&mut self, key: &Key, bytes: usize) {
        match &mut self.chase {
            Some(chase) if chase.key == *key => chase.bytes = bytes,
            _ => {
                self.chase = Some(Chase {
                    key: Key::clone(key),
                    count: 1,
                    bytes,
                })
            }
        }
    }
}
