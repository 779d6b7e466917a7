//! What all workers hold together, and how much of `limits.max_memory` is left for that.

use std::sync::atomic::{AtomicU64, Ordering};

/// One part in this many of the limit is kept free: what is read in the turn in which the limit is reached, and what the
/// allocator keeps.
const SPARE: u64 = 8;

/// One part in this many of the limit may be held beyond what was held when the process was last measured.
const UNMEASURED: u64 = 64;

/// One part in this many of the limit may be held whatever else there is: names, a call over a few keys.
const LEAST: u64 = 16;

/// Holds what one worker has last said. It is aligned so that no two workers write the same cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerShare {
    held: AtomicU64,
    going: AtomicU64,
    largest: AtomicU64,
    standing: AtomicU64,
}

/// Knows the memory of the process: what its workers hold for clients, and how much they may.
#[derive(Debug)]
pub struct MemoryRoom {
    limit_bytes: AtomicU64,
    room_bytes: AtomicU64,
    resident_bytes: AtomicU64,
    /// Counts what of that is a file's: code.
    mapped_bytes: AtomicU64,
    /// Counts what was held when the process was last measured.
    measured_bytes: AtomicU64,
    shares: Box<[WorkerShare]>,
}

/// Returns how much may be held for clients when the process has `resident` bytes of which `held` are held for them. What else it
/// has (its code, its tables, what the allocator has not given back) is not theirs. An allocator that keeps what was freed must
/// never cost every client its replies: what else there is is taken for at most half of the limit, or for an eighth more than is
/// known to be no allocator's where that is more, which is `fixed`: code, and what the clients take that are there.
pub fn room(limit: u64, resident: u64, held: u64, fixed: u64) -> u64 {
    let most = (limit / 2).max(fixed.saturating_add(limit / SPARE));
    let other = resident.saturating_sub(held).min(most);
    (limit - limit / SPARE)
        .saturating_sub(other)
        .max(limit / LEAST)
}

impl MemoryRoom {
    /// Makes the memory of a process with so many workers that may have `limit_bytes`.
    pub fn new(limit_bytes: u64, workers: usize) -> Self {
        Self {
            limit_bytes: AtomicU64::new(limit_bytes),
            room_bytes: AtomicU64::new(room(limit_bytes, 0, 0, 0)),
            resident_bytes: AtomicU64::new(0),
            mapped_bytes: AtomicU64::new(0),
            measured_bytes: AtomicU64::new(0),
            shares: (0..workers.max(1))
                .map(|_| WorkerShare::default())
                .collect(),
        }
    }

    /// Lets the process have this much from now on.
    pub fn set_limit(&self, limit_bytes: u64) {
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
        self.measured(self.resident(), self.mapped_bytes.load(Ordering::Relaxed));
    }

    /// Notes that the process was seen to have `resident` bytes, `mapped` of which are a file's.
    pub fn measured(&self, resident: u64, mapped: u64) {
        let held = self.held();
        let room = room(self.limit(), resident, held, mapped + self.standing());
        self.mapped_bytes.store(mapped, Ordering::Relaxed);
        self.measured_bytes.store(held, Ordering::Relaxed);
        self.resident_bytes.store(resident, Ordering::Relaxed);
        self.room_bytes.store(room, Ordering::Relaxed);
    }

    /// Tells whether so much has come since the process was last measured that it is to be measured again: what is on no account grows with
    /// what is, and a worker that gets no time measures nothing.
    pub(super) fn is_to_be_measured(&self) -> bool {
        let measured = self.measured_bytes.load(Ordering::Relaxed);
        self.held() > measured.saturating_add(self.limit() / UNMEASURED)
    }

    /// Returns the limit, which is `limits.max_memory`.
    pub fn limit(&self) -> u64 {
        self.limit_bytes.load(Ordering::Relaxed)
    }

    /// Counts what the process had when it was last measured.
    pub fn resident(&self) -> u64 {
        self.resident_bytes.load(Ordering::Relaxed)
    }

    /// Counts what all workers hold for clients.
    pub fn held(&self) -> u64 {
        let held = |share: &WorkerShare| share.held.load(Ordering::Relaxed);
        self.shares.iter().map(held).sum()
    }

    /// Counts what the clients take that are there, whatever they do.
    fn standing(&self) -> u64 {
        let standing = |share: &WorkerShare| share.standing.load(Ordering::Relaxed);
        self.shares.iter().map(standing).sum()
    }

    /// Returns how much those of one worker may hold together who hold next to nothing each, before any of them goes: if all workers have
    /// as much, it is half of what there is room for.
    pub fn next_to_nothing(&self) -> u64 {
        self.room_bytes.load(Ordering::Relaxed) / (2 * self.shares.len() as u64)
    }

    /// Counts what will be held when those have gone who were told to.
    fn staying(&self) -> u64 {
        let staying = |share: &WorkerShare| {
            let held = share.held.load(Ordering::Relaxed);
            held.saturating_sub(share.going.load(Ordering::Relaxed))
        };
        self.shares.iter().map(staying).sum()
    }

    /// Tells whether more is held than there is room for, by those who have not been told to go.
    pub fn is_over(&self) -> bool {
        self.staying() > self.room_bytes.load(Ordering::Relaxed)
    }

    /// Tells whether more is held than there is room for, by whomever.
    pub fn is_full(&self) -> bool {
        self.held() > self.room_bytes.load(Ordering::Relaxed)
    }

    /// Tells whether half of what is kept free is used up too.
    pub fn is_urgent(&self) -> bool {
        let room = self.room_bytes.load(Ordering::Relaxed);
        self.staying() > room + self.limit() / (2 * SPARE)
    }

    /// Returns how much has to go when there is no room: one part in eight more than what is too much, so that it is not looked for again
    /// with the next read. 0: there is room.
    pub fn excess(&self) -> u64 {
        let (staying, room) = (self.staying(), self.room_bytes.load(Ordering::Relaxed));
        if staying > room {
            staying - (room - room / SPARE)
        } else {
            0
        }
    }

    /// Tells whether nobody of the other workers holds more than `bytes`, the most that one client of `worker` holds.
    pub fn is_largest(&self, worker: usize, bytes: u64) -> bool {
        let mut others = self.shares.iter().enumerate();
        others
            .all(|(index, share)| index == worker || share.largest.load(Ordering::Relaxed) <= bytes)
    }

    /// Sets what the largest holder of `worker` holds.
    pub fn set_largest(&self, worker: usize, bytes: u64) {
        if let Some(share) = self.shares.get(worker) {
            share.largest.store(bytes, Ordering::Relaxed);
        }
    }

    pub(super) fn set_standing(&self, worker: usize, bytes: u64) {
        if let Some(share) = self.shares.get(worker) {
            share.standing.store(bytes, Ordering::Relaxed);
        }
    }

    pub(super) fn set_held(&self, worker: usize, bytes: u64, going: u64) {
        if let Some(share) = self.shares.get(worker) {
            share.held.store(bytes, Ordering::Relaxed);
            share.going.store(going, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    proptest! {
        #[test]
        fn what_may_be_held_fits_beside_what_else_there_is(
            limit in 16 * MIB..1 << 40,
            resident in 0u64..1 << 41,
            held in 0u64..1 << 41,
            fixed in 0u64..1 << 41,
        ) {
            let room = room(limit, resident, held, fixed);
            prop_assert!(room >= limit / LEAST);
            let other = resident.saturating_sub(held);
            if other <= (fixed + limit / SPARE).max(limit / 2) && other <= limit * 3 / 4 {
                prop_assert!(room + other <= limit - limit / SPARE + 1);
            }
            if fixed <= limit / 4 {
                prop_assert!(room >= limit / 4, "what an allocator keeps is nobody's fault");
            }
        }

        #[test]
        fn whatever_is_configured_fits(
            limit in 16 * MIB..1 << 40,
            kept in 0u64..1 << 41,
            clients in 0usize..1 << 24,
        ) {
            let (limit, process) = (limit as usize, config::PROCESS_BYTES as u64);
            prop_assume!(config::memory_for(clients, config::CLIENT_BYTES) <= limit);
            let standing = (clients * config::CLIENT_BYTES) as u64;
            let limit = limit as u64;
            // What an allocator keeps is in the way as far as it is believed.
            let room = room(limit, process + standing + kept.min(limit / SPARE), 0, process + standing);
            prop_assert!(room + process + standing <= limit - limit / SPARE);
        }

        #[test]
        fn what_goes_makes_room(limit in 16 * MIB..1 << 40, held in 0u64..1 << 41, resident in 0u64..1 << 41) {
            let memory = MemoryRoom::new(limit, 2);
            memory.set_held(1, held, 0);
            memory.measured(resident, 0);
            let excess = memory.excess();
            prop_assert_eq!(excess > 0, memory.is_over());
            memory.set_held(1, held - excess, 0);
            prop_assert!(!memory.is_over());
        }
    }

    #[test]
    fn the_process_is_measured_by_what_has_come_since() {
        let memory = MemoryRoom::new(64 * MIB, 2);
        memory.measured(10 * MIB, 0);
        assert!(!memory.is_to_be_measured());
        memory.set_held(0, MIB / 2, 0);
        memory.set_held(1, MIB / 2, 0);
        assert!(!memory.is_to_be_measured());
        memory.set_held(1, MIB, 0);
        assert!(memory.is_to_be_measured(), "whichever worker it came to");
        memory.measured(12 * MIB, 0);
        assert!(!memory.is_to_be_measured());
        memory.set_held(1, 0, 0);
        assert!(!memory.is_to_be_measured(), "what is given back is not");
    }

    #[test]
    fn what_clients_take_that_are_there_is_no_allocators() {
        let memory = MemoryRoom::new(16 * MIB, 2);
        let room = |memory: &MemoryRoom| memory.room_bytes.load(Ordering::Relaxed);
        memory.measured(11 * MIB, 7 * MIB);
        assert_eq!(
            room(&memory),
            5 * MIB,
            "an eighth beyond what is code is believed"
        );
        memory.set_standing(0, MIB);
        memory.set_standing(1, 2 * MIB);
        memory.measured(11 * MIB, 7 * MIB);
        assert_eq!(room(&memory), 3 * MIB);
        memory.measured(20 * MIB, 7 * MIB);
        assert_eq!(room(&memory), 2 * MIB);
        memory.set_standing(1, 20 * MIB);
        memory.measured(30 * MIB, 7 * MIB);
        assert_eq!(room(&memory), MIB, "names are nobody's fault either");
        assert_eq!(memory.next_to_nothing(), MIB / 4);
    }

    #[test]
    fn the_largest_holder_is_known_across_workers() {
        let memory = MemoryRoom::new(64 * MIB, 3);
        memory.set_largest(0, 10);
        memory.set_largest(2, 30);
        assert!(memory.is_largest(2, 30));
        assert!(memory.is_largest(0, 30));
        assert!(!memory.is_largest(0, 29));
    }
}
