//! The course of a model: what happens step by step, and what must hold along the way and at its end.

use super::dice::ModelDice;
use super::world::WaitWorld;

/// A course that bytes decide has no more steps than this.
const MAX_STEPS: usize = 400;

/// Lets clients, producers, a network and a server do what the bytes say. What must hold does, for any bytes.
pub fn check(data: &[u8]) {
    let trouble = match data.first().map_or(0, |byte| byte % 3) {
        0 => CourseTrouble::Everything,
        1 => CourseTrouble::Leaving,
        _ => CourseTrouble::None,
    };
    let seed = data.iter().fold(data.len() as u64, |seed, byte| {
        seed.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    let dice = ModelDice::of(data.get(1..).unwrap_or_default(), seed);
    let steps = data.len().clamp(1, MAX_STEPS);
    run(WaitWorld::with(dice), steps, trouble);
}

/// Says how much of what happens is trouble.
#[derive(Debug, Clone, Copy)]
pub(super) enum CourseTrouble {
    None,
    Leaving,
    Everything,
}

fn step(world: &mut WaitWorld, trouble: CourseTrouble) {
    match (world.roll(32), trouble) {
        (0..=3, _) => world.arrive(),
        (4..=6, _) => world.produce(),
        (7, _) => {
            let micros = u64::from(world.roll(60_000));
            world.pass(micros);
        }
        (8, CourseTrouble::Leaving | CourseTrouble::Everything) => world.leave(),
        (9, CourseTrouble::Leaving | CourseTrouble::Everything) => world.unblock(),
        (10, CourseTrouble::Everything) if world.roll(2) == 0 => world.clear(),
        (11, CourseTrouble::Everything) => world.yield_to(),
        (12, CourseTrouble::Everything) => world.stray_unblock(),
        (13, CourseTrouble::Everything) if world.roll(8) == 0 => world.lose(),
        (14, CourseTrouble::Everything) if world.roll(64) == 0 => world.outage(),
        (15, CourseTrouble::Everything) if world.roll(32) == 0 => world.refuse(),
        _ => drop(world.go_on()),
    }
}

pub(super) fn run(mut world: WaitWorld, steps: usize, trouble: CourseTrouble) -> WaitWorld {
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
