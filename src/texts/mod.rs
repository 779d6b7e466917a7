//! The server's own words: what respool answers itself is said as the server at hand would say it, by product and version.
//!
//! Seen on Redis 6.2, 7.0 and 8.2 and on Valkey 8.1 and 9.1. Between two of those the older one's words hold, unless the
//! release that changed them is known.

mod version;

pub use version::{Product, ServerVersion};
