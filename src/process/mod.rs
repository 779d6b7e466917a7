//! What keeps the process itself alive and seen: its log.

mod logging;

pub use logging::{Logging, say};
