//! What the process holds for its clients, as it really is: how much that may be, and who goes first when it is more.
//!
//! Invariant: what one holder has said it holds is given back when the holder is dropped, whatever happened in between.

mod account;
mod order;
mod room;
mod stall;
mod strangers;
mod tables;

pub use account::{HeldBytes, MemoryAccount, SharedFrame, UnfinishedFrame};
use order::largest_first;
pub use order::{MemoryHolder, who_goes};
pub use room::MemoryRoom;
pub use stall::ReplyStalls;
pub use strangers::{Stranger, StrangerList};
pub use tables::ShrinkingTable;
