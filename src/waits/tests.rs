//! Blocked clients against a server that is a few lines of code.

pub mod course;
mod dice;
mod invariants;
mod rest;
mod server;
mod world;

#[cfg(test)]
mod arrivals;
#[cfg(test)]
mod barred;
#[cfg(test)]
mod full_memory;
#[cfg(test)]
mod late;
#[cfg(test)]
mod leaving;
#[cfg(test)]
mod model;
#[cfg(test)]
mod order;
#[cfg(test)]
mod single;
#[cfg(test)]
mod turns;
