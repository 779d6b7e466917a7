//! Whose commands are better kept apart from those of others, by what they have done to a connection.

mod distrust;

pub use distrust::{Distrust, Offence};
