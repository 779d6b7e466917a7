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

pub use addresses::{Addresses, Node};
pub use backoff::backoff;
pub use bucket::TokenBucket;
pub use circuit::{Circuit, ConnectTurn};
pub use demotion::Demotion;
pub use record::{Failover, FailoverRecord, FailoverStanding};
pub use silent::SilentNodes;
