//! Who respool itself is to the server: the secrets that it shows, and where they come from.
//!
//! Beside workers, it is all that asks somebody who is not the server: an endpoint that hands out keys, or a command.

mod command;
mod credentials;
mod http;
mod keys;
mod on_thread;
mod sigv4;

pub use credentials::{LikelyLogin, LoginCandidate, OwnLogin};
