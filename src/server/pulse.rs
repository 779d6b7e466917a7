//! When the server was heard last, by anybody in the process, and what is known that keeps it from answering.
//!
//! Each worker notes what it hears in cells of its own and tells the others with every tick: the data path shares nothing.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::pauses::{ServerPauses, comes_first};
use crate::silence::{RecentStops, ServerSigns};

/// Another worker's view of the server, given with one of its last ticks, still holds when it is no older than this.
const SEEN_LATELY: Duration = Duration::from_secs(1);

/// A server that has said BUSY within this long is still busy: it is asked again each second at least.
const BUSY_LATELY: Duration = Duration::from_secs(2);

/// At least this long lies between two log lines that say that the server is silent.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Holds what the workers know together of when the server was heard.
#[derive(Debug, Default)]
pub struct ServerPulse {
    heard_micros: AtomicU64,
    /// A command was seen last then that the server may work on for long.
    working_micros: AtomicU64,
    /// The server was seen last then to owe a reply and to answer nobody.
    quiet_micros: AtomicU64,
    busy_micros: AtomicU64,
    /// It holds this back at somebody's wish.
    pub pauses: ServerPauses,
    /// The kernel has found then that its host acknowledges nothing.
    gone_micros: AtomicU64,
    /// Its silence was suspected first then; 0: it is not.
    suspected_micros: AtomicU64,
    /// The log was told last then that it is silent; 0: never.
    told_micros: AtomicU64,
    /// The log has been told of the latest suspicion, and not of its end.
    is_told: AtomicBool,
}

/// Holds what one worker has heard.
#[derive(Debug, Default)]
pub struct ThreadPulse {
    heard_micros: Cell<u64>,
    busy_micros: Cell<u64>,
    /// It was answered BUSY first then, of those times that followed each other closely.
    busy_since_micros: Cell<u64>,
    /// The latest of the requests that have been answered was sent then.
    answered_micros: Cell<u64>,
    /// The latest of what had been sent and answered, when a write was sent that the server has done, was sent then.
    done_behind_micros: Cell<u64>,
}

impl ThreadPulse {
    /// Notes that a request has been answered that was sent then.
    #[inline]
    pub fn answered(&self, sent_micros: u64) {
        if sent_micros > self.answered_micros.get() {
            self.answered_micros.set(sent_micros);
        }
    }

    /// Returns when the latest of the requests was sent that have been answered.
    pub fn answered_micros(&self) -> u64 {
        self.answered_micros.get()
    }

    /// Notes that the server has done a write; `answered_micros`: [`Self::answered_micros`] when it was sent.
    pub fn written(&self, answered_micros: u64) {
        let latest = self.done_behind_micros.get().max(answered_micros);
        self.done_behind_micros.set(latest);
    }

    /// Tells whether the server has done a write that came to it in a later turn than what was sent then on another connection. Of what it reads in
    /// one turn any may come first, and its turn may last; but what is sent behind an answer is read in a later turn than what was answered, and
    /// what was sent [`COMES_FIRST`](super::pauses::COMES_FIRST) before that in no later one.
    pub fn has_written_behind(&self, sent_micros: u64) -> bool {
        self.done_behind_micros.get() > comes_first(sent_micros)
    }

    /// Notes that the server has sent something.
    #[inline]
    pub fn heard(&self, now_micros: u64) {
        self.heard_micros.set(now_micros);
    }

    /// Returns when this worker has been answered BUSY last.
    pub fn busy_micros(&self) -> u64 {
        self.busy_micros.get()
    }

    /// Notes that the server has answered BUSY.
    pub fn heard_busy(&self, now_micros: u64) {
        if self.busy_since(now_micros).is_none() {
            self.busy_since_micros.set(now_micros);
        }
        self.busy_micros.set(now_micros);
    }

    /// Returns since when the server answers this worker BUSY, if it has done so within a moment.
    pub fn busy_since(&self, now_micros: u64) -> Option<u64> {
        let is_busy = is_within(self.busy_micros.get(), BUSY_LATELY, now_micros);
        is_busy.then(|| self.busy_since_micros.get())
    }
}

/// Tells whether `then` is no more than `limit` ago.
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

    /// Notes that a command is due that the server may work on for long.
    pub fn is_working(&self, now_micros: u64) {
        self.working_micros.store(now_micros, Ordering::Relaxed);
    }

    /// Notes that the server owes a reply, and answers nobody.
    pub fn is_quiet(&self, now_micros: u64) {
        self.quiet_micros.store(now_micros, Ordering::Relaxed);
    }

    /// Notes that the host of the server acknowledges nothing: whatever is due there explains no silence.
    pub fn host_is_gone(&self, now_micros: u64) {
        self.gone_micros.store(now_micros, Ordering::Relaxed);
    }

    /// Tells whether its host was found to be gone, and the server was not heard since.
    pub fn is_host_gone(&self) -> bool {
        self.gone_micros.load(Ordering::Relaxed) > self.heard_micros.load(Ordering::Relaxed)
    }

    /// Tells whether writes are held back now, as far as is known.
    #[inline]
    pub fn are_writes_paused(&self, now_micros: u64) -> bool {
        self.pauses.writes_until() > now_micros
    }

    /// Tells whether every command is held back now, as far as is known.
    pub fn is_all_paused(&self, now_micros: u64) -> bool {
        self.pauses.all_until() > now_micros
    }

    /// Returns what is known of the server beside one connection.
    pub fn around(&self, now_micros: u64) -> ServerSigns {
        let working = self.working_micros.load(Ordering::Relaxed);
        ServerSigns {
            heard_micros: self.heard_micros.load(Ordering::Relaxed),
            may_work: is_within(working, SEEN_LATELY, now_micros) && !self.is_host_gone(),
            all_paused_until: self.pauses.all_until(),
            writes_paused_until: self.pauses.writes_until(),
            stops: RecentStops::default(),
        }
    }

    /// Tells whether the server is there and does not get round to answering: it works, is paused, or says that it is busy.
    pub fn is_busy(&self, now_micros: u64) -> bool {
        let quiet = self.quiet_micros.load(Ordering::Relaxed);
        let busy = self.busy_micros.load(Ordering::Relaxed);
        self.is_all_paused(now_micros)
            || self.are_writes_paused(now_micros)
            || is_within(quiet, SEEN_LATELY, now_micros)
            || is_within(busy, BUSY_LATELY, now_micros)
    }

    /// Tells whether the server has said within a moment that it is busy, to this worker or, up to its last tick, to another.
    pub fn says_busy(&self, thread: &ThreadPulse, now_micros: u64) -> bool {
        let told = self.busy_micros.load(Ordering::Relaxed);
        is_within(told.max(thread.busy_micros()), BUSY_LATELY, now_micros)
    }

    /// Notes that nothing explains the server's silence. Returns true where nobody has said so before.
    pub fn suspect(&self, now_micros: u64) -> bool {
        let suspected = &self.suspected_micros;
        suspected
            .compare_exchange(0, now_micros, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Tells whether a suspicion that has just come up is worth a line in the log.
    pub fn tells_suspicion(&self, now_micros: u64) -> bool {
        let told = self.told_micros.load(Ordering::Relaxed);
        let tells = !is_within(told, TOLD_EVERY, now_micros);
        if tells {
            self.told_micros.store(now_micros, Ordering::Relaxed);
            self.is_told.store(true, Ordering::Relaxed);
        }
        tells
    }

    /// Tells whether the log was told of the suspicion that has ended, once.
    pub fn is_suspicion_told(&self) -> bool {
        self.is_told.swap(false, Ordering::Relaxed)
    }

    /// Tells whether the server was heard again after it was suspected, once.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::server::pauses::COMES_FIRST;

    /// Stands for what happens next: time passes, respool sends something on a connection of its own, somebody else has the
    /// server hold writes back or no longer, or the server reads all that has come, in this order.
    #[derive(Debug, Clone)]
    enum Event {
        Passes { millis: u64 },
        Calls,
        Writes,
        Reads,
        Pauses,
        Unpauses,
        Turn { from: usize, back: bool },
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => (1_u64..40).prop_map(|millis| Event::Passes { millis }),
            2 => Just(Event::Calls),
            3 => Just(Event::Writes),
            1 => Just(Event::Reads),
            1 => Just(Event::Pauses),
            1 => Just(Event::Unpauses),
            4 => (any::<usize>(), any::<bool>()).prop_map(|(from, back)| Event::Turn { from, back }),
        ]
    }

    proptest! {
        /// Whatever order the server reads in what has come to it since its last turn: no call is taken for one that waits which a pause
        /// has put off.
        #[test]
        fn no_call_that_is_put_off_is_taken_for_one_that_waits(
            events in prop::collection::vec(event(), 1..80),
        ) {
            let pulse = ThreadPulse::default();
            let (mut now, mut is_paused) = (1_u64, false);
            let (mut arrived, mut held, mut put_off) = (Vec::new(), Vec::new(), Vec::new());
            for event in events {
                match event {
                    Event::Passes { millis } => now += millis * 1000,
                    Event::Calls | Event::Writes | Event::Reads | Event::Pauses | Event::Unpauses => {
                        arrived.push((event, now, pulse.answered_micros()));
                    }
                    Event::Turn { from, back } => {
                        let mut turn = std::mem::take(&mut arrived);
                        let length = turn.len().max(1);
                        turn.rotate_left(from % length);
                        if back {
                            turn.reverse();
                        }
                        let mut answered = Vec::new();
                        for (event, sent, then) in turn {
                            match event {
                                Event::Calls if is_paused => put_off.push(sent),
                                Event::Writes if is_paused => held.push((sent, then)),
                                Event::Writes => answered.push((sent, Some(then))),
                                Event::Reads => answered.push((sent, None)),
                                Event::Pauses => is_paused = true,
                                Event::Unpauses => {
                                    is_paused = false;
                                    put_off.clear();
                                    answered.extend(held.drain(..).map(|(sent, then)| (sent, Some(then))));
                                }
                                _ => {}
                            }
                        }
                        for (sent, then) in answered {
                            pulse.answered(sent);
                            if let Some(then) = then {
                                pulse.written(then);
                            }
                        }
                    }
                }
                now += 1;
                for sent in &put_off {
                    prop_assert!(!pulse.has_written_behind(*sent), "{sent}");
                }
            }
        }
    }

    #[test]
    fn a_call_waits_once_a_write_is_done_that_was_sent_behind_an_answer() {
        let pulse = ThreadPulse::default();
        let called = 1000;
        let later = called + COMES_FIRST.as_micros() as u64 + 1;
        pulse.answered(called);
        pulse.written(pulse.answered_micros());
        assert!(!pulse.has_written_behind(called));
        // Read in the same turn as the call, perhaps.
        let sent_with = pulse.answered_micros();
        pulse.answered(later);
        pulse.written(sent_with);
        assert!(!pulse.has_written_behind(called));
        pulse.written(pulse.answered_micros());
        assert!(pulse.has_written_behind(called));
    }
}
