//! The course of a model: what happens step by step, and what must hold along the way and at its end.

use super::dice::Dice;
use super::world::World;

/// Most steps of a course that bytes decide.
const MAX_STEPS: usize = 400;

/// Lets clients, a network and a server do what the bytes say. What must hold does, for any bytes.
pub fn check(data: &[u8]) {
    let seed = data.iter().fold(data.len() as u64, |seed, byte| {
        seed.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    let steps = data.len().clamp(1, MAX_STEPS);
    run(World::new(Dice::of(data, seed)), steps);
}

pub(super) fn run(mut world: World, steps: usize) {
    for _ in 0..steps {
        world.step();
        if world.broken.is_some() {
            break;
        }
    }
    if world.is_calm_at_end() {
        world.calm();
        world.check_surplus();
    }
    world.end();
}
