//! What respool decides when the server is lost, moves or is demoted: no sockets, no clock; it is told the time.
//!
//! Times are microseconds of the process' clock.

mod addresses;
mod backoff;
mod bucket;
mod circuit;
mod demotion;
mod record;
mod silent;

pub use addresses::{AddressSet, ServerNode};
pub use backoff::backoff;
pub use bucket::TokenBucket;
pub use circuit::{CircuitBreaker, ConnectTurn};
pub use demotion::DemotionSteps;
pub use record::{FailoverRecord, FailoverStanding, SeenFailover};
pub use silent::SilentNodes;
