//! What decides what happens in the model: given bytes first, and chance when there are none left.

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

pub(super) struct ModelDice {
    /// The bytes are given; the last one is first here.
    bytes: Vec<u8>,
    chance: SmallRng,
}

impl ModelDice {
    /// Goes by chance alone.
    pub(super) fn by_chance(seed: u64) -> Self {
        Self::of(&[], seed)
    }

    pub(super) fn of(bytes: &[u8], seed: u64) -> Self {
        Self {
            bytes: bytes.iter().rev().copied().collect(),
            chance: SmallRng::seed_from_u64(seed),
        }
    }

    pub(super) fn roll(&mut self, sides: u32) -> u32 {
        if sides > 256 {
            return self.chance.random_range(0..sides);
        }
        match self.bytes.pop() {
            Some(byte) => u32::from(byte) % sides,
            None => self.chance.random_range(0..sides),
        }
    }
}
