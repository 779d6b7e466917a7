//! What a server's replies tell of the connection they came on: whether a transaction is over, whether it sent no more frames
//! than it was asked for, which elements of EXEC's reply are respool's own, and whose commands are better kept apart from then on.
//!
//! Invariant: what is decided here is decided by bytes that only the server can have chosen.

mod block;
mod distrust;
mod executed;
mod fence;
mod search;
#[cfg(test)]
mod tests;

pub use block::ends_transaction;
pub use distrust::{Distrust, FORGOTTEN_AFTER, MAX_USERS, Offence};
pub use executed::{Executed, Mismatch, OwnPlace, Part};
pub use fence::{Ahead, Before, Fence, Found};
pub use search::{Search, Searched};
