//! The server's own words: what respool answers itself is said as the server at hand would say it, by product and version.
//!
//! Seen on Redis 6.2, 7.0 and 8.2 and on Valkey 8.1 and 9.1. Between two of those the older one's words hold, unless the
//! release that changed them is known.

mod answers;
mod known;
mod refusals;
mod version;

pub use answers::{
    GROUP_GONE, NOT_AN_INT, NOT_AN_INTEGER, STREAM_GONE, asking, import_source, readonly,
    readwrite, takes_readonly,
};
pub use known::has_command;
pub use refusals::{
    asks_authentication_first, closes_aliens_first, exec_aborted, hello_without_auth,
    no_permission, resets_strangers, senseless_subcommand, subscribers_may_not, unknown_command,
    unknown_subcommand, wrong_arity,
};
pub use version::{PackedVersion, Product, ServerVersion};
