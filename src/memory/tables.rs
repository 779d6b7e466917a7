//! Tables that give back the memory of what they have held.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

use indexmap::IndexMap;

/// A table that has room for no more than this is left as it is.
const SMALL: usize = 256;

/// Is a table whose memory grows with what it holds, and does not shrink by itself.
pub trait ShrinkingTable {
    /// Gives back most of its memory where less than a quarter of that is in use; called with each removal. What is left is moved then,
    /// and has been more than halved since it was moved last.
    fn give_back(&mut self);
}

/// Returns what a table with room for `capacity` is to have room for, if it is to shrink.
fn shrinks_to(held: usize, capacity: usize) -> Option<usize> {
    (capacity > SMALL && held < capacity / 4).then_some(2 * held)
}

impl<K: Eq + Hash, V> ShrinkingTable for HashMap<K, V> {
    #[inline]
    fn give_back(&mut self) {
        if let Some(room) = shrinks_to(self.len(), self.capacity()) {
            self.shrink_to(room);
        }
    }
}

impl<K: Eq + Hash> ShrinkingTable for HashSet<K> {
    #[inline]
    fn give_back(&mut self) {
        if let Some(room) = shrinks_to(self.len(), self.capacity()) {
            self.shrink_to(room);
        }
    }
}

impl<K: Eq + Hash, V> ShrinkingTable for IndexMap<K, V> {
    #[inline]
    fn give_back(&mut self) {
        if let Some(room) = shrinks_to(self.len(), self.capacity()) {
            self.shrink_to(room);
        }
    }
}

impl<T> ShrinkingTable for VecDeque<T> {
    #[inline]
    fn give_back(&mut self) {
        if let Some(room) = shrinks_to(self.len(), self.capacity()) {
            self.shrink_to(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shrinks_with_what_it_holds_and_seldom() {
        let mut table: HashMap<u32, u32> = (0..100_000).map(|key| (key, key)).collect();
        let (mut shrunk, mut moved) = (0, 0);
        for key in 0..100_000 {
            table.remove(&key);
            let before = table.capacity();
            table.give_back();
            if table.capacity() < before {
                shrunk += 1;
                moved += table.len();
            }
            assert!(table.capacity() <= SMALL.max(4 * table.len() + 4));
        }
        assert!((4..=10).contains(&shrunk), "{shrunk}");
        assert!(moved <= 100_000, "{moved}");
    }

    #[test]
    fn a_small_table_and_one_in_use_are_left_alone() {
        let mut small: VecDeque<u32> = VecDeque::with_capacity(SMALL);
        small.give_back();
        assert!(small.capacity() >= SMALL);
        let mut used: VecDeque<u32> = (0..1000).collect();
        used.truncate(used.capacity() / 4);
        let before = used.capacity();
        used.give_back();
        assert_eq!(used.capacity(), before);
        used.truncate(1);
        used.give_back();
        assert!(used.capacity() < before);
    }
}
