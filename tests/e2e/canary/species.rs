//! The kinds of canaries: how many there are of each, and what they do.

use rand::Rng as _;

use super::bird::Bird;
use super::flock::End;
use super::wire::Gone;
use super::{lodging, operations, subscribing, waiting};

/// Ends with the connection as it was found, or as a new one.
pub(super) type Operation = fn(&mut Bird<'_>) -> Result<(), Gone>;

/// Canaries of one kind.
pub(super) struct Species {
    pub(super) name: &'static str,
    pub(super) birds: usize,
    /// Name, how often it is chosen, what it does.
    operations: &'static [(&'static str, u32, Operation)],
}

pub(super) const SPECIES: [Species; 5] = [
    Species {
        name: "plain",
        birds: 260,
        operations: &operations::OPERATIONS,
    },
    Species {
        name: "subscriber",
        birds: 32,
        operations: &subscribing::OPERATIONS,
    },
    Species {
        name: "waiter",
        birds: 36,
        operations: &waiting::OPERATIONS,
    },
    Species {
        name: "tracker",
        birds: lodging::TRACKERS,
        operations: &lodging::TRACKING,
    },
    Species {
        name: "monitor",
        birds: lodging::MONITORS,
        operations: &lodging::MONITORING,
    },
];

/// The names of everything that is done.
pub(super) fn operations() -> impl Iterator<Item = &'static str> {
    SPECIES
        .iter()
        .flat_map(|species| species.operations.iter().map(|(name, _, _)| *name))
}

impl Species {
    /// Does random things of its kind until the run ends.
    pub(super) fn fly(&self, bird: &mut Bird<'_>) {
        let total: u32 = self.operations.iter().map(|(_, weight, _)| weight).sum();
        while !bird.flock.has_ended() {
            let mut drawn = bird.rng.random_range(0..total);
            let (name, _, operation) = self
                .operations
                .iter()
                .find(|(_, weight, _)| {
                    let found = drawn < *weight;
                    drawn = drawn.saturating_sub(*weight);
                    found
                })
                .expect("the draw is below the sum of all weights");
            bird.session.begin(bird.flock.phase());
            let end = match operation(bird) {
                Ok(()) if bird.session.refused => End::Refused,
                Ok(()) => End::Finished,
                Err(Gone) => {
                    bird.reconnect();
                    End::Cut
                }
            };
            bird.flock.count(name, end);
            bird.pause(15);
        }
    }
}
