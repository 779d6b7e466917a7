//! Clients, producers, a network and a server at random: what must hold of blocked clients whatever happens.

use proptest::prelude::*;

use super::world::World;

/// How much of what happens is trouble.
#[derive(Debug, Clone, Copy)]
enum Trouble {
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

fn run(mut world: World, steps: usize, trouble: Trouble) -> World {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_element_goes_to_one_living_client(
        seed in any::<u64>(),
        steps in 1usize..400,
        trouble in prop::sample::select(vec![Trouble::None, Trouble::Leaving, Trouble::Everything]),
    ) {
        run(World::new(seed), steps, trouble);
    }
}

#[test]
fn long_lives_end_well() {
    let mut told = std::collections::BTreeMap::new();
    let (mut returned, mut delivered) = (0, 0);
    for seed in 0..60 {
        let world = run(World::new(seed), 3_000, Trouble::Everything);
        for (what, count) in &world.told {
            *told.entry(*what).or_insert(0) += count;
        }
        returned += world.returned;
        delivered += world.delivered.len();
    }
    // What is never seen is not tested.
    for what in [
        "element",
        "error",
        "null",
        "unblocked",
        "lost",
        "unreachable",
        "refused",
    ] {
        assert!(told.contains_key(what), "nobody was told {what}: {told:?}");
    }
    assert!(
        returned > 0 && delivered > 5_000,
        "{returned} returned, {delivered} delivered"
    );
}

#[test]
fn without_trouble_nothing_is_returned_or_lost() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        // Two keys of one client can make the elements of a third one too many.
        world.most_keys = 1;
        let world = run(world, 1_000, Trouble::None);
        assert_eq!(world.told.get("lost"), None);
        assert_eq!((world.orphaned, world.returned), (0, 0), "seed {seed}");
    }
}
