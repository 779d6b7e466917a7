//! The server's side of one worker: its connections, what waits for them, and what goes on beside the clients.
//!
//! [`Upstream`] is the pool of the worker; `handshake` opens its connections.
//!
//! Invariant: every socket to the server holds a permit of the process-wide budget until the server has closed it too.

mod handshake;
mod pool;

pub use pool::{
    Announcement, Blocked, BlockedClient, EndsDelay, Pin, PinError, SharedWait, SubscribeResult,
    Subscriptions, TOPICS_A_TURN, Upstream, WaitError,
};
