//! A world in which every list stays in order, whoever leaves.

use super::server::ModelValue;
use super::world::{LISTS, WaitWorld};

impl WaitWorld {
    pub(super) fn in_order(seed: u64) -> Self {
        let mut world = Self::new(seed);
        (world.in_order, world.leases) = (true, 0);
        for id in [2, 3] {
            world.wires.remove(&id);
            world.server.disconnect(id);
        }
        world
    }

    pub(super) fn arrive_in_order(&mut self) {
        let keys: Vec<Vec<u8>> = (0..=self.roll(2)).map(|_| self.key(LISTS)).collect();
        let mut words = vec![b"BLPOP".to_vec()];
        words.extend(keys.iter().cloned());
        words.push(b"0".to_vec());
        self.arrive_with(&words, keys);
    }

    pub(super) fn push_in_order(&mut self) {
        let key = LISTS[self.roll(LISTS.len() as u32) as usize];
        for _ in 0..=self.roll(4) {
            self.push(0, b"RPUSH", key);
        }
    }

    pub(super) fn check_order(&self) {
        for value in self.server.keys.values() {
            let ModelValue::List(list) = value else {
                continue;
            };
            let number = |element: &Vec<u8>| {
                let text = String::from_utf8_lossy(&element[1..]);
                text.parse::<u64>().expect("a number")
            };
            assert!(
                list.iter().map(number).is_sorted(),
                "out of order: {list:?}"
            );
        }
    }
}

#[test]
fn what_is_put_back_keeps_its_order() {
    let mut returned = 0;
    for seed in 0..60 {
        let mut world = WaitWorld::in_order(seed);
        for _ in 0..1_000 {
            match world.roll(16) {
                0..=3 => world.arrive_in_order(),
                4 | 5 => world.push_in_order(),
                6..=8 => world.leave(),
                9 => world.pass(60_000),
                _ => drop(world.go_on()),
            }
            world.check_order();
        }
        returned += world.returned;
    }
    assert!(returned > 20, "{returned} returned");
}
