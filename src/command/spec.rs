//! What a line of the table says: arity, flags and ACL categories, in Redis' own terms.

use super::way::Way;

/// Describes one command or subcommand.
#[derive(Debug, Clone, Copy)]
pub struct CommandSpec {
    /// Is in lower case; a subcommand stands as `client|list`.
    pub name: &'static str,
    /// Counts the words of a request, the name (and the subcommand's) included; negative, it is the least of them.
    pub arity: i8,
    /// Tells how it travels. A container's way serves the subcommands that the table does not know.
    pub way: Way,
    pub categories: AclCategories,
    /// Tells what else matters of it.
    pub flags: CommandFlags,
}

/// Holds command flags, as far as they decide something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandFlags(pub(super) u16);

impl CommandFlags {
    /// Has subcommands; the second word says which.
    pub(super) const CONTAINER: Self = Self(1);
    pub const WRITE: Self = Self(1 << 1);
    /// The command only reads keys.
    pub const READONLY: Self = Self(1 << 2);
    /// The command may wait for others.
    pub const BLOCKING: Self = Self(1 << 3);
    /// Marks `MULTI`, `EXEC`, `DISCARD`, `WATCH` and `UNWATCH`.
    pub(super) const TRANSACTION: Self = Self(1 << 4);
    /// The command belongs to pub/sub.
    pub const PUBSUB: Self = Self(1 << 5);
    /// The command is for administrators.
    pub(super) const ADMIN: Self = Self(1 << 6);
    /// The command is refused inside `MULTI`.
    pub(super) const NO_MULTI: Self = Self(1 << 7);
    /// The command is allowed before authentication.
    pub(super) const NO_AUTH: Self = Self(1 << 8);
    /// The command is refused inside scripts.
    pub(super) const NOSCRIPT: Self = Self(1 << 9);
    /// The key positions depend on the arguments.
    pub(super) const MOVABLE_KEYS: Self = Self(1 << 10);
    /// The server may work on it for seconds: its work is bounded neither by its arguments nor by reading one key.
    pub const LONG: Self = Self(1 << 11);
    /// It is no write, and yet held back while `CLIENT PAUSE WRITE` is in force.
    pub(super) const MAY_REPLICATE: Self = Self(1 << 12);

    /// Tells whether every flag of `other` is set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A set of ACL categories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AclCategories(pub(super) u32);

/// Lists the categories in Redis' own order, each a bit by its place.
macro_rules! categories {
    ($($constant:ident $name:literal $bit:literal)*) => {
        impl AclCategories {
            $(#[doc = concat!("`@", $name, "`")] pub const $constant: Self = Self(1 << $bit);)*

            /// Lists every category with its name, without the `@`.
            pub const ALL: &'static [(&'static str, Self)] = &[$(($name, Self::$constant)),*];
        }
    };
}

categories! {
    KEYSPACE "keyspace" 0
    READ "read" 1
    WRITE "write" 2
    SET "set" 3
    SORTEDSET "sortedset" 4
    LIST "list" 5
    HASH "hash" 6
    STRING "string" 7
    BITMAP "bitmap" 8
    HYPERLOGLOG "hyperloglog" 9
    GEO "geo" 10
    STREAM "stream" 11
    PUBSUB "pubsub" 12
    ADMIN "admin" 13
    FAST "fast" 14
    SLOW "slow" 15
    BLOCKING "blocking" 16
    DANGEROUS "dangerous" 17
    CONNECTION "connection" 18
    TRANSACTION "transaction" 19
    SCRIPTING "scripting" 20
}

impl AclCategories {
    /// Finds the category of this name, in any case and without the `@`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|&(_, category)| category)
    }

    /// Tells whether the two sets have a category in common.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}
