//! respool: a connection-limiting, multiplexing proxy for Redis and Valkey.
//!
//! The modules stand in the order in which they may import each other: a file imports only from modules above its own.
//! `tests/architecture` holds that order.

pub mod config;

pub mod resp;

pub mod texts;

pub mod command;

pub mod memory;

pub mod replies;

pub mod identity;

pub mod admission;

pub mod budget;

pub mod auth;

pub mod fences;

pub mod session;

pub mod silence;

pub mod schedule;

pub mod fanout;

pub mod waits;

pub mod exchange;

pub mod telemetry;

pub mod failover;

pub mod transport;

pub mod login;

pub mod upstream;

pub mod client;

pub mod worker;

pub mod admin;

pub mod process;

pub mod proxy;
