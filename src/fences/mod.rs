//! What proves where a reply of the server ends and whose it is: fences and the search for their answers, the end of a transaction,
//! the elements of EXEC's reply that are respool's own.
//!
//! Invariant: what is decided here is decided by bytes that only the server can have chosen.

mod executed;
mod fence;
mod search;
#[cfg(test)]
mod tests;
mod transaction_end;

pub use executed::{ExecPart, Executed, OwnPlace};
pub use fence::{Before, Fence, FencePosition, FenceVerdict};
pub use search::{FenceSearch, SearchOutcome};
pub use transaction_end::ends_transaction;
