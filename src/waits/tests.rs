//! Blocked clients against a server that is a few lines of code.

mod invariants;
mod leaving;
mod model;
mod order;
mod rest;
mod server;
mod single;
mod turns;
mod world;
