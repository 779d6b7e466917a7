//! The process: starts, accepts clients, reloads, drains, and keeps alive and seen what it runs on: its parts, its log.

mod accept;
mod drain;
#[cfg(debug_assertions)]
mod fault;
mod listeners;
mod logging;
mod modes;
mod reload;
mod signals;
mod start;
mod trial;
mod watch;
mod workers;

pub use modes::{check, fail, healthcheck, run};
