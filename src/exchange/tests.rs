//! Exchanges against a model that knows who asked for what: clients, a network that cuts anywhere, a server of a few lines.

pub(super) mod client;
pub mod course;
mod dice;
mod heard;
mod ledger;
mod server;
mod world;

#[cfg(test)]
mod model;
#[cfg(test)]
mod stream;
#[cfg(test)]
mod unsent;
