//! When the server was heard last, by anybody in the process, and what is known that keeps it from answering.
//!
//! Each worker notes what it hears in cells of its own and tells the others with every tick: the data path shares nothing.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::pauses::Pauses;
use crate::silence::Around;

/// What another worker has seen with one of its last ticks still holds.
const SEEN_LATELY: Duration = Duration::from_secs(1);

/// A server that has said BUSY within so long is still busy: it is asked again each second at least.
const BUSY_LATELY: Duration = Duration::from_secs(2);

/// Least time between two log lines that say that the server is silent.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What the workers know together.
#[derive(Debug, Default)]
pub struct ServerPulse {
    heard_micros: AtomicU64,
    /// When a command was seen last that the server may work on for long.
    working_micros: AtomicU64,
    /// When the server was seen last to owe a reply and to answer nobody.
    quiet_micros: AtomicU64,
    busy_micros: AtomicU64,
    /// What it holds back at somebody's wish.
    pub pauses: Pauses,
    /// When the kernel has found that its host acknowledges nothing.
    gone_micros: AtomicU64,
    /// When its silence was suspected first; 0: it is not.
    suspected_micros: AtomicU64,
    /// When the log was told last that it is silent; 0: never.
    told_micros: AtomicU64,
    /// The log has been told of the latest suspicion, and not of its end.
    is_told: AtomicBool,
}

/// What one worker has heard.
#[derive(Debug, Default)]
pub struct ThreadPulse {
    heard_micros: Cell<u64>,
    busy_micros: Cell<u64>,
    /// When it was answered BUSY first of those times that followed each other closely.
    busy_since_micros: Cell<u64>,
    /// When the latest of the requests was sent that have been answered.
    answered_micros: Cell<u64>,
    /// When the latest of the tries of blocked clients was sent that the server has done and that are writes.
    written_micros: Cell<u64>,
}

impl ThreadPulse {
    /// A request has been answered that was sent then.
    #[inline]
    pub fn answered(&self, sent_micros: u64) {
        if sent_micros > self.answered_micros.get() {
            self.answered_micros.set(sent_micros);
        }
    }

    /// When the latest of the requests was sent that have been answered.
    pub fn answered_micros(&self) -> u64 {
        self.answered_micros.get()
    }

    /// The server has done a write that was sent then.
    pub fn written(&self, sent_micros: u64) {
        let latest = self.written_micros.get().max(sent_micros);
        self.written_micros.set(latest);
    }

    /// When the latest write was sent of which is known that the server has done it.
    pub fn written_micros(&self) -> u64 {
        self.written_micros.get()
    }

    /// The server has sent something.
    #[inline]
    pub fn heard(&self, now_micros: u64) {
        self.heard_micros.set(now_micros);
    }

    /// When this worker has heard the server last.
    pub fn heard_micros(&self) -> u64 {
        self.heard_micros.get()
    }

    /// When this worker has been answered BUSY last.
    pub fn busy_micros(&self) -> u64 {
        self.busy_micros.get()
    }

    /// The server has answered BUSY.
    pub fn heard_busy(&self, now_micros: u64) {
        if self.busy_since(now_micros).is_none() {
            self.busy_since_micros.set(now_micros);
        }
        self.busy_micros.set(now_micros);
    }

    /// Since when the server answers this worker BUSY, if it has done so within a moment.
    pub fn busy_since(&self, now_micros: u64) -> Option<u64> {
        let is_busy = is_within(self.busy_micros.get(), BUSY_LATELY, now_micros);
        is_busy.then(|| self.busy_since_micros.get())
    }
}

/// Whether `then` is no more than `limit` ago.
fn is_within(then_micros: u64, limit: Duration, now_micros: u64) -> bool {
    then_micros > 0 && now_micros.saturating_sub(then_micros) <= limit.as_micros() as u64
}

impl ServerPulse {
    /// Tells what a worker has heard since it told last.
    pub fn tell(&self, thread: &ThreadPulse) {
        let heard = thread.heard_micros.get();
        self.heard_micros.fetch_max(heard, Ordering::Relaxed);
        let busy = thread.busy_micros.get();
        self.busy_micros.fetch_max(busy, Ordering::Relaxed);
    }

    /// A command is due that the server may work on for long.
    pub fn is_working(&self, now_micros: u64) {
        self.working_micros.store(now_micros, Ordering::Relaxed);
    }

    /// The server owes a reply, and answers nobody.
    pub fn is_quiet(&self, now_micros: u64) {
        self.quiet_micros.store(now_micros, Ordering::Relaxed);
    }

    /// The host of the server acknowledges nothing: whatever is due there explains no silence.
    pub fn host_is_gone(&self, now_micros: u64) {
        self.gone_micros.store(now_micros, Ordering::Relaxed);
    }

    /// Whether its host was found to be gone, and the server was not heard since.
    pub fn is_host_gone(&self) -> bool {
        self.gone_micros.load(Ordering::Relaxed) > self.heard_micros.load(Ordering::Relaxed)
    }

    /// Whether writes are held back now, as far as is known.
    #[inline]
    pub fn are_writes_paused(&self, now_micros: u64) -> bool {
        self.pauses.writes_until() > now_micros
    }

    /// Whether every command is held back now, as far as is known.
    pub fn is_all_paused(&self, now_micros: u64) -> bool {
        self.pauses.all_until() > now_micros
    }

    /// What is known of the server beside one connection.
    pub fn around(&self, now_micros: u64) -> Around {
        let working = self.working_micros.load(Ordering::Relaxed);
        Around {
            heard_micros: self.heard_micros.load(Ordering::Relaxed),
            may_work: is_within(working, SEEN_LATELY, now_micros) && !self.is_host_gone(),
            all_paused_until: self.pauses.all_until(),
            writes_paused_until: self.pauses.writes_until(),
        }
    }

    /// Whether the server is there and does not get round to answering: it works, is paused, or says that it is busy.
    pub fn is_busy(&self, now_micros: u64) -> bool {
        let quiet = self.quiet_micros.load(Ordering::Relaxed);
        let busy = self.busy_micros.load(Ordering::Relaxed);
        self.is_all_paused(now_micros)
            || self.are_writes_paused(now_micros)
            || is_within(quiet, SEEN_LATELY, now_micros)
            || is_within(busy, BUSY_LATELY, now_micros)
    }

    /// Whether the server has said within a moment that it is busy, to this worker or, up to its last tick, to another.
    pub fn says_busy(&self, thread: &ThreadPulse, now_micros: u64) -> bool {
        let told = self.busy_micros.load(Ordering::Relaxed);
        is_within(told.max(thread.busy_micros()), BUSY_LATELY, now_micros)
    }

    /// Nothing explains the server's silence. True: nobody has said so before.
    pub fn suspect(&self, now_micros: u64) -> bool {
        let suspected = &self.suspected_micros;
        suspected
            .compare_exchange(0, now_micros, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Whether a suspicion that has just come up is worth a line in the log.
    pub fn tells_suspicion(&self, now_micros: u64) -> bool {
        let told = self.told_micros.load(Ordering::Relaxed);
        let tells = !is_within(told, TOLD_EVERY, now_micros);
        if tells {
            self.told_micros.store(now_micros, Ordering::Relaxed);
            self.is_told.store(true, Ordering::Relaxed);
        }
        tells
    }

    /// Whether the log was told of the suspicion that has ended, once.
    pub fn is_suspicion_told(&self) -> bool {
        self.is_told.swap(false, Ordering::Relaxed)
    }

    /// Whether the server was heard again after it was suspected, once.
    pub fn is_cleared(&self) -> bool {
        let suspected = self.suspected_micros.load(Ordering::Relaxed);
        let is_heard = suspected > 0 && self.heard_micros.load(Ordering::Relaxed) > suspected;
        let cleared = || {
            let swapped = self.suspected_micros.compare_exchange(
                suspected,
                0,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            swapped.is_ok()
        };
        is_heard && cleared()
    }
}
