//! Clients, and a server, that are not polite: half-sent, huge, slow, stalled, gone, busy; and what the others must not
//! notice of it. A test is named after what must hold.

mod bytes;
mod fairness;
mod leases;
mod leaving;
mod memory;
mod messages;
mod server_time;
mod sockets;
mod timers;
mod uploads;
mod waits;
