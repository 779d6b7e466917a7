//! Subscriptions and messages of one client, and what they cost the others: their turns, their messages, their connections.

mod full_pool;
mod large;
mod refused;
mod slices;
mod unannounced;
