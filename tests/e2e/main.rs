//! End-to-end tests: the release path of respool against real servers, one binary, a module for each subject.

mod auth;
mod canary;
mod caps;
mod clients;
mod credentials;
mod differential;
mod failover;
mod harness;
mod health;
mod hostile;
mod invariants;
mod lifecycle;
mod load;
mod logging;
mod outage;
mod protocol;
mod pubsub;
mod reload;
mod replica;
mod streams;
mod tls;
mod tls_admission;
mod tls_flow;
mod tracking;
mod transactions;
mod waits;
