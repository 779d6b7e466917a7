//! What the server would remember of one client, and where each of its requests goes.

mod state;
mod transaction;

pub use state::{Change, Credentials, Effect, Protocol, State, Step, name_request, steps};
pub use transaction::{Transaction, Verb};
