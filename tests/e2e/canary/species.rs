//! The kinds of canaries: how many there are of each, and what they do.

use std::thread;

use rand::Rng as _;

use super::bird::Bird;
use super::flock::{End, EndOnPanic, Flock, Next};
use super::neighbours::KindOfWait;
use super::wire::Gone;
use super::{lodging, operations, subscribing, waiting};

/// Ends with the connection as it was found, or as a new one.
pub(super) type Operation = fn(&mut Bird<'_>) -> Result<(), Gone>;

/// One kind of canaries.
pub(super) struct Species {
    pub(super) name: &'static str,
    pub(super) birds: usize,
    operations: Operations,
    /// Lists what it does while the server may refuse anything.
    refusable: Operations,
}

/// Lists operations: the name, how often it is chosen, and what is done.
type Operations = &'static [(&'static str, u32, Operation)];

pub(super) const SPECIES: [Species; 5] = [
    Species {
        name: "plain",
        birds: 260,
        operations: &operations::OPERATIONS,
        refusable: &operations::REFUSABLE,
    },
    Species {
        name: "subscriber",
        birds: 32,
        operations: &subscribing::OPERATIONS,
        refusable: &[],
    },
    Species {
        name: "waiter",
        birds: 36,
        operations: &waiting::OPERATIONS,
        refusable: &[],
    },
    Species {
        name: "tracker",
        birds: lodging::TRACKERS,
        operations: &lodging::TRACKING,
        refusable: &[],
    },
    Species {
        name: "monitor",
        birds: lodging::MONITORS,
        operations: &lodging::MONITORING,
        refusable: &[],
    },
];

/// Lists the names of everything that is done.
pub(super) fn operations() -> impl Iterator<Item = &'static str> {
    SPECIES
        .iter()
        .flat_map(|species| species.operations.iter().map(|(name, _, _)| *name))
}

impl Species {
    /// Starts one more of its kind, on a thread of its own.
    pub(super) fn spawn<'scope>(
        &'static self,
        scope: &'scope thread::Scope<'scope, '_>,
        flock: &'scope Flock,
        number: usize,
    ) {
        thread::Builder::new()
            .name(format!("canary {number}, {}", self.name))
            .stack_size(256 * 1024)
            .spawn_scoped(scope, move || {
                let _end = EndOnPanic(flock);
                self.fly(&mut Bird::new(flock, number));
            })
            .expect("a thread can be started");
    }

    /// Does random things of its kind until the run ends.
    fn fly(&self, bird: &mut Bird<'_>) {
        while let Some(next) = bird.flock.next() {
            let operations = match next {
                Next::Anything => self.operations,
                Next::WhatMayBeRefused => self.refusable,
            };
            if operations.is_empty() {
                bird.flock.sit_out();
                continue;
            }
            let (name, operation) = draw(bird, operations);
            bird.session.begin(bird.flock.phase());
            bird.kind_of_wait = KindOfWait::of_operation(name);
            let end = match operation(bird) {
                Ok(()) if bird.session.refused => End::Refused,
                Ok(()) => End::Finished,
                Err(Gone) => {
                    bird.reconnect();
                    End::Cut
                }
            };
            bird.flock.count(name, end);
            bird.pause(bird.flock.longest_rest());
        }
    }
}

fn draw(bird: &mut Bird<'_>, operations: Operations) -> (&'static str, Operation) {
    let total = operations.iter().map(|(_, weight, _)| weight).sum();
    let mut drawn = bird.rng.random_range(0..total);
    let found = operations.iter().find(|(_, weight, _)| {
        let found = drawn < *weight;
        drawn = drawn.saturating_sub(*weight);
        found
    });
    let (name, _, operation) = found.expect("the draw is below the sum of all weights");
    (name, *operation)
}
