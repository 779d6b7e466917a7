//! A server that hangs, is busy, runs an endless script or is paused.

mod busy;
mod dead;
mod pause_over;
mod paused;
mod script;
mod transactions;
