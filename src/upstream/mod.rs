//! The server's side of one worker: its connections, what waits for them, and what goes on beside the clients.
//!
//! [`Upstream`] is the pool of the worker; all that stands beside `pool` here is what it is made of.
//!
//! Invariant: every socket to the server holds a permit of the process-wide budget until the server has closed it too.

mod closing;
mod handshake;
mod link;
mod liveness;
mod loss_lines;
mod outlet;
mod passing;
mod pool;
mod process;
mod renewal;
mod sink;
mod socket;
mod thread;
mod turn;

pub use link::{Link, RoomWait, SocketEnd};
pub use outlet::Outlet;
pub use passing::Passing;
pub use pool::{
    Announcement, Blocked, BlockedClient, Ends, Pin, PinError, SharedWait, SubscribeResult,
    Subscriptions, TOPICS_A_TURN, Upstream, WaitError,
};
pub use process::Process;
pub use sink::{Forward, broken_redirection};
pub use thread::Thread;
pub use turn::let_others_go_first;
