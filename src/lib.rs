//! respool: a connection-limiting, multiplexing proxy for Redis and Valkey.
//!
//! The modules stand in the order in which they may import each other: a file imports only from modules above its own.
//! `tests/architecture` holds that order.

pub mod config;

mod resp;

mod texts;

mod command;

mod memory;

mod replies;

mod identity;

mod admission;

mod budget;

mod auth;

mod fences;

mod session;

mod silence;

mod schedule;

mod fanout;

mod waits;

mod exchange;

mod telemetry;

mod failover;

mod transport;

mod server;

mod login;

mod thread;

mod outlet;

mod link;

mod upstream;

mod client;

mod worker;

mod admin;

mod process;

pub use process::{check, fail, healthcheck, run};

/// Shows the tests and the fuzz targets what they check from outside.
pub mod checked {
    #[cfg(fuzzing)]
    pub use crate::exchange::tests::course::check as check_exchange;
    #[cfg(fuzzing)]
    pub use crate::fanout::model::check as check_fanout;
    pub use crate::fences::{
        Before, Fence, FenceSearch, FenceVerdict, SearchOutcome, ends_transaction,
    };
    pub use crate::resp::{
        Bounds, LineSyntax, MAX_LINE, ReplyScanner, Request, RequestScanner, RequestViolation,
        Scan, ScanProgress, split_inline,
    };
    #[cfg(fuzzing)]
    pub use crate::waits::tests::course::check as check_waits;
}
