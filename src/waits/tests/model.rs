//! Clients, producers, a network and a server at random: what must hold of blocked clients whatever happens.

use proptest::prelude::*;

use super::course::{self, CourseTrouble, run};
use super::world::WaitWorld;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_element_goes_to_one_living_client(
        seed in any::<u64>(),
        steps in 1usize..400,
        trouble in prop::sample::select(vec![CourseTrouble::None, CourseTrouble::Leaving, CourseTrouble::Everything]),
    ) {
        run(WaitWorld::new(seed), steps, trouble);
    }

    /// Runs what `cargo fuzz` runs, with bytes at random.
    #[test]
    fn every_element_goes_to_one_living_client_whatever_decides(
        data in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        course::check(&data);
    }
}

#[test]
fn long_lives_end_well() {
    let mut told = std::collections::BTreeMap::new();
    let (mut returned, mut delivered) = (0, 0);
    for seed in 0..60 {
        let world = run(WaitWorld::new(seed), 3_000, CourseTrouble::Everything);
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
        let mut world = WaitWorld::new(seed);
        // Two keys of one client can make the elements of a third one too many.
        world.most_keys = 1;
        let world = run(world, 1_000, CourseTrouble::None);
        assert_eq!(world.told.get("lost"), None);
        assert_eq!((world.orphaned, world.returned), (0, 0), "seed {seed}");
    }
}
