//! The course of a model: what happens step by step, and what must hold along the way and at its end.

use super::dice::Dice;
use super::world::World;

/// Most steps of a course that bytes decide.
const MAX_STEPS: usize = 400;

/// Lets clients, producers, a network and a server do what the bytes say. What must hold does, for any bytes.
pub fn check(data: &[u8]) {
    let trouble = match data.first().map_or(0, |byte| byte % 3) {
        0 => Trouble::Everything,
        1 => Trouble::Leaving,
        _ => Trouble::None,
    };
    let seed = data.iter().fold(data.len() as u64, |seed, byte| {
        seed.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    let dice = Dice::of(data.get(1..).unwrap_or_default(), seed);
    let steps = data.len().clamp(1, MAX_STEPS);
    run(World::with(dice), steps, trouble);
}

/// How much of what happens is trouble.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trouble {
    None,
    Leaving,
    Everything,
}

fn step(world: &mut World, trouble: Trouble) {
    match (world.roll(32), trouble) {
        (0..=3, _) => world.arrive(),
        (4..=6, _) => world.produce(),
        (7, _) => {
            let micros = u64::from(world.roll(60_000));
            world.pass(micros);
        }
        (8, Trouble::Leaving | Trouble::Everything) => world.leave(),
        (9, Trouble::Leaving | Trouble::Everything) => world.unblock(),
        (10, Trouble::Everything) if world.roll(2) == 0 => world.clear(),
        (11, Trouble::Everything) => world.yield_to(),
        (12, Trouble::Everything) => world.stray_unblock(),
        (13, Trouble::Everything) if world.roll(8) == 0 => world.lose(),
        (14, Trouble::Everything) if world.roll(64) == 0 => world.outage(),
        (15, Trouble::Everything) if world.roll(32) == 0 => world.refuse(),
        _ => drop(world.go_on()),
    }
}

pub(super) fn run(mut world: World, steps: usize, trouble: Trouble) -> World {
    for number in 1..=steps {
        step(&mut world, trouble);
        if number % 150 == 0 {
            // Long enough for every class to have had its turn or its try.
            world.calm(300_000);
            world.check_rest();
        }
    }
    world.calm(5_000_000);
    world.check_rest();
    world.check_elements();
    world.check_end();
    world.check_elements();
    world
}
