//! A flock: what all canaries of a run share, where respool is, how the server fares, what was done how often.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ledger::Ledger;
use super::neighbours::{KindOfWait, Part, Scene, Wait};
use super::subscriptions::Voice;

pub(super) struct Flock {
    pub(super) address: String,
    pub(super) seed: u64,
    /// They are so many users of the server; with 0 none authenticates.
    users: usize,
    /// Is even while the server runs and every database has its mark. Odd: it is being killed, started and marked.
    phase: AtomicUsize,
    /// Is odd while a subscription connection is being killed, and even when so many halves of kills are done.
    subscription_kills: AtomicUsize,
    /// Counts connections that published, so that none is taken for another.
    voices: AtomicUsize,
    /// Is held by a client that keeps a connection to the server for itself.
    lodger: Mutex<()>,
    /// Accounts for the elements that all canaries push and pop.
    pub(super) ledger: Ledger,
    ended: AtomicBool,
    /// Holds what else is worth telling, or asserting, at the end.
    notes: Mutex<BTreeMap<&'static str, usize>>,
    /// Counts operations finished, cut short by the end of the connection, and refused.
    done: Mutex<BTreeMap<&'static str, [usize; 3]>>,
    /// Its part in a run in which two flocks take turns; it has none when it is alone.
    part: Option<Part>,
}

/// Says what canaries may do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Anything,
    /// A script that does not end keeps the server busy: it refuses all but a few commands, even those that need nothing of it.
    WhatMayBeRefused,
}

/// Says how an operation ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Finished,
    Cut,
    Refused,
}

impl Flock {
    pub(super) fn new(address: String, seed: u64, users: usize) -> Self {
        Self {
            address,
            seed,
            users,
            phase: AtomicUsize::new(0),
            subscription_kills: AtomicUsize::new(0),
            voices: AtomicUsize::new(0),
            lodger: Mutex::default(),
            ledger: Ledger::default(),
            notes: Mutex::default(),
            ended: AtomicBool::new(false),
            done: Mutex::default(),
            part: None,
        }
    }

    /// Makes a flock that takes turns with another one.
    pub(super) fn with_part(address: String, seed: u64, part: Part) -> Self {
        Self {
            part: Some(part),
            ..Self::new(address, seed, 0)
        }
    }

    /// Waits until its canaries may go on, and tells with what; `None`: the run has ended.
    pub(super) fn next(&self) -> Option<Next> {
        if self.has_ended() {
            return None;
        }
        match &self.part {
            None => Some(Next::Anything),
            Some(part) => Some(match part.await_turn()? {
                Scene::EndlessScript => Next::WhatMayBeRefused,
                _ => Next::Anything,
            }),
        }
    }

    /// Waits until its canaries may do anything again.
    pub(super) fn sit_out(&self) {
        if let Some(part) = &self.part {
            part.sit_out();
        }
    }

    /// Tells the longest rest of a canary between two things that it does, in milliseconds.
    pub(super) fn longest_rest(&self) -> u64 {
        if self.part.is_some() { 100 } else { 15 }
    }

    pub(super) fn begin_wait(&self, kind: KindOfWait) -> Option<Wait> {
        self.part.as_ref()?.begin_wait(kind)
    }

    pub(super) fn end_wait(&self, wait: Option<Wait>) {
        if let (Some(part), Some(wait)) = (&self.part, wait) {
            part.end_wait(wait);
        }
    }

    /// Tells the user that a canary authenticates as.
    pub(super) fn user_of(&self, number: usize) -> Option<String> {
        (self.users > 0).then(|| super::user(number % self.users))
    }

    pub(super) fn phase(&self) -> usize {
        self.phase.load(Ordering::SeqCst)
    }

    pub(super) fn next_phase(&self) {
        self.phase.fetch_add(1, Ordering::SeqCst);
    }

    /// Kills a subscription connection, or begins to; messages on their way are lost with it.
    pub(super) fn subscription_kill(&self, kill: impl FnOnce()) {
        self.subscription_kills.fetch_add(1, Ordering::SeqCst);
        kill();
        self.subscription_kills.fetch_add(1, Ordering::SeqCst);
    }

    /// Tells which moment this is, if the server runs and no subscription connection is being killed. Another one later means
    /// that messages may have been lost in between.
    pub(super) fn quiet_moment(&self) -> Option<[usize; 2]> {
        let moment = [&self.phase, &self.subscription_kills].map(|n| n.load(Ordering::SeqCst));
        moment.iter().all(|n| n.is_multiple_of(2)).then_some(moment)
    }

    /// Makes a connection of a client as a publisher.
    pub(super) fn voice(&self, number: usize) -> Voice {
        Voice::new(number, self.voices.fetch_add(1, Ordering::SeqCst))
    }

    /// Waits for the one place for a client that keeps a connection to the server for itself for long.
    pub(super) fn lodge(&self) -> MutexGuard<'_, ()> {
        // Whoever failed in it has ended the run.
        self.lodger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, what: &'static str, count: usize) {
        let mut notes = self.notes.lock().expect("counting does not panic");
        *notes.entry(what).or_default() += count;
    }

    pub(super) fn noted(&self, what: &str) -> usize {
        let notes = self.notes.lock().expect("counting does not panic");
        notes.get(what).copied().unwrap_or(0)
    }

    pub(super) fn notes(&self) -> BTreeMap<&'static str, usize> {
        self.notes.lock().expect("counting does not panic").clone()
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(part) = &self.part {
            part.stage.end();
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    pub(super) fn count(&self, operation: &'static str, end: End) {
        let mut done = self.done.lock().expect("counting does not panic");
        done.entry(operation).or_default()[end as usize] += 1;
    }

    /// Tells how many were finished, cut and refused, by operation.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, [usize; 3]> {
        self.done.lock().expect("counting does not panic").clone()
    }
}

/// Ends the run for all when the thread that holds it fails.
pub(super) struct EndOnPanic<'a>(pub(super) &'a Flock);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end();
        }
    }
}
