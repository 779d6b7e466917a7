//! Uploads on lent connections: how many there may be at once, and how one keeps up with the time that it has its connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A second on a connection that others wait for must at least be used for this much: a megabyte, a byte in a microsecond.
const BYTES_A_MICROSECOND: u64 = 1;

/// A look that comes later than this comes late for respool's own reasons: its clients have not been read either.
const LONGEST_STEP_MICROS: u64 = 100_000;

/// Tells how far one upload is behind.
#[derive(Debug, Clone, Copy)]
pub struct UploadPace {
    looked_micros: u64,
    /// Counts the bytes since then.
    moved: u64,
    behind_micros: u64,
}

impl UploadPace {
    /// Begins with an upload that begins to be sent.
    pub fn new(now_micros: u64) -> Self {
        Self {
            looked_micros: now_micros,
            moved: 0,
            behind_micros: 0,
        }
    }

    /// Notes that more of it has come.
    pub fn moved(&mut self, bytes: usize) {
        self.moved += bytes as u64;
    }

    /// Returns how many microseconds it is behind, as of now. Bytes that came faster before give no right to come slower later; an upload
    /// that `waits` for the server is not to blame for the time since the last look.
    pub fn look(&mut self, now_micros: u64, waits: bool) -> u64 {
        let step = now_micros.saturating_sub(self.looked_micros);
        let paid = std::mem::take(&mut self.moved) / BYTES_A_MICROSECOND;
        self.looked_micros = now_micros;
        if !waits {
            let due = self.behind_micros + step.min(LONGEST_STEP_MICROS);
            self.behind_micros = due.saturating_sub(paid);
        }
        self.behind_micros
    }
}

/// Is the right to one upload on a lent connection; it is given back when it is dropped.
#[derive(Debug)]
pub struct UploadPlace {
    _permit: OwnedSemaphorePermit,
}

/// Bounds the uploads on lent connections to no more than half of what can be lent, for one that goes on may take minutes. Six of 400 MB at
/// a megabyte in a second had everybody else refused who needed a connection for a moment.
#[derive(Debug)]
pub(super) struct UploadPlaces {
    free: Arc<Semaphore>,
    /// Counts the places there are, free or taken.
    places: Mutex<usize>,
    waiting: AtomicUsize,
}

/// Counts a client among those that wait for a place, for as long as it lives.
struct UploadWait<'a>(&'a AtomicUsize);

impl Drop for UploadWait<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Counts the places where so many connections can be lent.
fn places_of(lendable: usize) -> usize {
    (lendable / 2).max(1)
}

impl UploadPlaces {
    /// Makes the places where `lendable` connections can be lent.
    pub(super) fn new(lendable: usize) -> Self {
        let places = places_of(lendable);
        Self {
            free: Arc::new(Semaphore::new(places)),
            places: Mutex::new(places),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Goes by so many connections that can be lent from now on. Places that are taken stay: where there are to be fewer, those that are
    /// free go now, and the others by the next reload.
    pub(super) fn resize(&self, lendable: usize) {
        let wanted = places_of(lendable);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted > *places {
            self.free.add_permits(wanted - *places);
            *places = wanted;
        } else {
            *places -= self.free.forget_permits(*places - wanted);
        }
    }

    pub(super) fn try_take(&self) -> Option<UploadPlace> {
        let taken = Arc::clone(&self.free).try_acquire_owned().ok();
        taken.map(|permit| UploadPlace { _permit: permit })
    }

    /// Waits for a place, in order of arrival. `None` comes never: the places are not closed.
    pub(super) async fn take(&self) -> Option<UploadPlace> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = UploadWait(&self.waiting);
        let taken = Arc::clone(&self.free).acquire_owned().await.ok();
        taken.map(|permit| UploadPlace { _permit: permit })
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: u64 = 50_000;

    /// Looks each tick at an upload of which `bytes` came in between; how far it is behind at the end.
    fn after(ticks: u64, bytes: usize) -> u64 {
        let mut pace = UploadPace::new(0);
        let looks = (1..=ticks).map(|tick| {
            pace.moved(bytes);
            pace.look(tick * TICK, false)
        });
        looks.last().unwrap_or(0)
    }

    #[test]
    fn who_stalls_or_dribbles_falls_behind_and_who_goes_on_does_not() {
        assert_eq!(after(4, 0), 200_000);
        assert_eq!(after(4, 1), 199_996);
        assert_eq!(after(1000, 50_000), 0);
        assert_eq!(after(1000, 500_000), 0);
    }

    #[test]
    fn half_of_what_can_be_lent_is_for_uploads_and_a_reload_takes_nothing_away() {
        let places = UploadPlaces::new(6);
        let mut taken: Vec<_> = (0..3)
            .map(|_| places.try_take().expect("is free"))
            .collect();
        assert!(places.try_take().is_none());
        places.resize(2);
        taken.pop();
        places.resize(2);
        assert!(places.try_take().is_none(), "two are taken, of one");
        taken.clear();
        places.resize(2);
        let only = places.try_take().expect("is free");
        assert!(places.try_take().is_none());
        places.resize(20);
        let all: Vec<_> = (0..20).map_while(|_| places.try_take()).collect();
        assert_eq!(all.len(), 9);
        drop((only, all));
        assert!(
            UploadPlaces::new(1).try_take().is_some(),
            "the only one too"
        );
    }

    #[test]
    fn a_burst_pays_for_what_was_due_and_not_for_what_will_be() {
        let mut pace = UploadPace::new(0);
        assert_eq!(pace.look(TICK, false), TICK);
        pace.moved(10_000_000);
        assert_eq!(pace.look(2 * TICK, false), 0);
        assert_eq!(pace.look(3 * TICK, false), TICK);
    }

    #[test]
    fn time_in_which_it_could_not_be_read_is_not_its_own() {
        let mut pace = UploadPace::new(0);
        assert_eq!(pace.look(30_000_000, true), 0);
        assert_eq!(pace.look(60_000_000, false), LONGEST_STEP_MICROS);
    }

    proptest! {
        #[test]
        fn nobody_is_further_behind_than_the_time_it_had(
            looks in proptest::collection::vec((1u64..200_000, 0usize..300_000, any::<bool>()), 0..50)
        ) {
            let (mut pace, mut now) = (UploadPace::new(0), 0);
            for (step, bytes, waits) in looks {
                now += step;
                pace.moved(bytes);
                prop_assert!(pace.look(now, waits) <= now);
            }
        }
    }
}
