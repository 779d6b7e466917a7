//! Clients, a network and a server at random: what must hold of who is due what, whatever happens.

use proptest::prelude::*;

use super::course::{self, run};
use super::dice::Dice;
use super::world::World;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_frame_goes_to_whom_it_is_due(seed in any::<u64>(), steps in 1usize..300) {
        run(World::new(Dice::of(&[], seed)), steps);
    }

    /// What `cargo fuzz` runs, with bytes at random.
    #[test]
    fn a_frame_goes_to_whom_it_is_due_whatever_decides(
        data in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        course::check(&data);
    }
}
