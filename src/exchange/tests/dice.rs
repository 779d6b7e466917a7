//! What decides what happens in the model: given bytes first, and chance when there are none left.

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

pub(super) struct Dice {
    /// Given bytes, the last one first.
    bytes: Vec<u8>,
    chance: SmallRng,
}

impl Dice {
    pub(super) fn of(bytes: &[u8], seed: u64) -> Self {
        Self {
            bytes: bytes.iter().rev().copied().collect(),
            chance: SmallRng::seed_from_u64(seed),
        }
    }

    pub(super) fn roll(&mut self, sides: u32) -> u32 {
        match self.bytes.pop() {
            Some(byte) => u32::from(byte) % sides,
            None => self.chance.random_range(0..sides),
        }
    }

    /// Whether one of so many comes.
    pub(super) fn one_of(&mut self, sides: u32) -> bool {
        self.roll(sides) == 0
    }
}
