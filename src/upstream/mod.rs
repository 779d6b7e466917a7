//! The server's side of one worker: shared connections, pins, and what waits for them.
//!
//! Invariant: every socket to the server holds a permit of the process-wide budget until the server has closed it too.

mod acknowledged;
mod apart;
mod away;
mod closing;
mod failovers;
mod guests;
mod handshake;
mod health;
mod info;
mod lanes;
mod link;
mod listing;
mod liveness;
mod loss_lines;
mod moving;
mod outlet;
mod passing;
mod pauses;
mod permission;
mod pins;
mod pool;
mod pulse;
mod pushes;
mod renewal;
mod returning;
mod server;
mod socket;
mod subscription;
mod thread;
mod tries;
mod turn;
mod unauthenticated;
mod unseen_ends;
mod waiting;
mod wanted;
mod whereabouts;

pub use lanes::Ends;
pub use link::{Link, RoomWait, SocketEnd};
pub use listing::Tells;
pub use outlet::Outlet;
pub use passing::Passing;
pub use pauses::Taken;
pub use pins::{Pin, PinError};
pub use pool::{SharedWait, Upstream, WaitError};

pub use pushes::{Forward, broken_redirection};

pub use subscription::{Announcement, SubscribeResult, Subscriptions, TOPICS_A_TURN};
pub use thread::{Process, Thread};
pub use turn::let_others_go_first;
pub use waiting::{Blocked, Waiter};
