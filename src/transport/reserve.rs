//! File descriptors that clients never get: the endpoint, health and connections to the server work when there are no others.
//!
//! The kernel gives the lowest number that is free, so that a client whose number is among the last ones tells that all
//! below are taken: it is turned away, and the last ones stay free. Beside them some are held open, to be given up where a
//! limit was lowered below what is open, or the machine has none left.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::process::{Resource, getrlimit};

/// Counts the descriptors held open.
const HELD: usize = 8;

/// Counts the last numbers, for the endpoint, files that are read, names that are looked up.
const LAST: u64 = 32;

/// Holds what is kept back in this process.
#[derive(Debug)]
pub(super) struct DescriptorReserve {
    held: Mutex<Vec<File>>,
    /// Counts the descriptors that the configuration needs, and connections to the server among them.
    needed: u64,
    upstream: u64,
}

static RESERVE: OnceLock<DescriptorReserve> = OnceLock::new();

/// Keeps descriptors back from now on, in a process that needs so many, and of them `upstream` for connections to the
/// server.
pub fn keep_descriptors(needed: usize, upstream: usize) {
    let reserve = RESERVE.get_or_init(|| DescriptorReserve {
        held: Mutex::default(),
        needed: needed as u64,
        upstream: upstream as u64,
    });
    reserve.refill();
}

/// Returns the reserve of this process; `None` where nothing is kept back.
pub(super) fn reserve() -> Option<&'static DescriptorReserve> {
    RESERVE.get()
}

/// Holds again what was given up, as far as there is something to be had.
pub fn refill_descriptors() {
    if let Some(reserve) = reserve() {
        reserve.refill();
    }
}

impl DescriptorReserve {
    fn held(&self) -> MutexGuard<'_, Vec<File>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens what is missing. False: there is none to be had.
    pub(super) fn refill(&self) -> bool {
        let mut held = self.held();
        while held.len() < HELD {
            match File::open("/dev/null") {
                Ok(file) => held.push(file),
                Err(_) => return false,
            }
        }
        true
    }

    /// Gives one up, so that something that matters more can be opened. False: none is left.
    pub(super) fn give_up(&self) -> bool {
        self.held().pop().is_some()
    }

    /// Tells whether a client may not have this descriptor, or any: what is held comes first.
    pub(super) fn keeps(&self, client: impl AsFd) -> bool {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let number = u64::try_from(client.as_fd().as_raw_fd()).unwrap_or(0);
        is_among_last(number, limit, self.needed, self.upstream) || !self.refill()
    }
}

/// Tells whether the descriptor `number` is one of those that are kept back below `limit`: 32, and where the limit is
/// lower than what the configuration needs those of connections to the server too, but never more than half of all.
fn is_among_last(number: u64, limit: u64, needed: u64, upstream: u64) -> bool {
    let kept = match limit < needed {
        true => LAST.saturating_add(upstream).min(limit / 2),
        false => LAST,
    };
    number >= limit.saturating_sub(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_numbers_are_kept() {
        assert!(!is_among_last(967, 1000, 900, 10) && is_among_last(968, 1000, 900, 10));
        // Fewer than are needed: connections to the server come first.
        assert!(!is_among_last(957, 1000, 2000, 10) && is_among_last(958, 1000, 2000, 10));
        // Half of them at the most.
        assert!(!is_among_last(49, 100, 2000, 500) && is_among_last(50, 100, 2000, 500));
        assert!(!is_among_last(5_000_000, u64::MAX, 900, 10));
    }
}
