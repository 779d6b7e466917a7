//! Which databases the server is known to have, so that SELECT is answered without asking again.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

/// Bounds the databases that are remembered to exist.
const MAX_KNOWN: usize = 4096;

/// Remembers the databases of one server, and since when it is the one.
pub(super) struct KnownDatabases {
    databases: RefCell<HashSet<u32>>,
    /// Connections begun before then tell nothing of the server.
    since_micros: Cell<u64>,
}

impl Default for KnownDatabases {
    /// Begins with the one that every server has.
    fn default() -> Self {
        Self {
            databases: RefCell::new(HashSet::from([0])),
            since_micros: Cell::new(0),
        }
    }
}

impl KnownDatabases {
    /// Forgets all: from `now` on it is another server.
    pub(super) fn forget(&self, now: u64) {
        self.since_micros.set(now);
        self.databases.replace(HashSet::from([0]));
    }

    /// Tells whether a connection that was begun then goes to a server of before.
    pub(super) fn is_before(&self, begun_micros: u64) -> bool {
        begun_micros < self.since_micros.get()
    }

    /// Takes in that a connection that was begun then is in `database`.
    pub(super) fn seen(&self, database: u32, begun_micros: u64) {
        let mut databases = self.databases.borrow_mut();
        if !self.is_before(begun_micros) && databases.len() < MAX_KNOWN {
            databases.insert(database);
        }
    }

    /// Tells whether the server is known to have this database.
    pub(super) fn has(&self, database: u32) -> bool {
        self.databases.borrow().contains(&database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_to_the_server_of_before_tell_nothing() {
        let known = KnownDatabases::default();
        known.seen(3, 5);
        assert!(known.has(0) && known.has(3) && !known.has(4));
        known.forget(9);
        assert!(known.has(0) && !known.has(3));
        known.seen(3, 8);
        assert!(!known.has(3) && known.is_before(8));
        known.seen(3, 9);
        assert!(known.has(3) && !known.is_before(9));
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let known = KnownDatabases::default();
        (1..=MAX_KNOWN as u32).for_each(|database| known.seen(database, 0));
        assert!(known.has(MAX_KNOWN as u32 - 1) && !known.has(MAX_KNOWN as u32));
    }
}
