//! What keeps the process itself alive and seen: its log, its parts, its signals and its end.

mod ending;
#[cfg(debug_assertions)]
mod fault;
mod logging;
mod signals;
mod trial;
mod watch;

pub use ending::Ending;
#[cfg(debug_assertions)]
pub use fault::Faults;
pub use logging::{Logging, say};
pub use signals::{Asked, Signals};
pub use trial::Trial;
pub use watch::Watch;
