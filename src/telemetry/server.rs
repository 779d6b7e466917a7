//! What is known of the server, written by whoever asks it and read by the admin endpoint.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::texts::ServerProduct;

/// Stands for a number the server has not told.
const UNKNOWN: u64 = u64::MAX;

/// Bounds a text kept from the server or from an error, in bytes.
const MAX_TEXT: usize = 512;

/// Holds the server's health, shared between the one that asks and those that show.
#[derive(Debug)]
pub struct ServerHealth {
    up: AtomicBool,
    latency_us: AtomicU64,
    connected_clients: AtomicU64,
    maxclients: AtomicU64,
    blocked_clients: AtomicU64,
    certificate_not_after: AtomicU64,
    texts: Mutex<HealthTexts>,
}

#[derive(Debug, Default)]
struct HealthTexts {
    address: String,
    product: &'static str,
    version: String,
    role: String,
    refusal: Option<String>,
    last_error: Option<LastError>,
}

/// Tells the last thing that went wrong with the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// Says for people what happened.
    pub text: String,
    pub at: SystemTime,
}

/// Shows the server's health at one moment.
#[derive(Debug, Clone, Default)]
pub struct ServerSnapshot {
    /// The address as configured.
    pub address: String,
    /// Tells whether it answered when last asked.
    pub up: bool,
    /// The round trip of the last answered check in microseconds.
    pub(super) latency_us: Option<u64>,
    /// Counts the clients as the server does, respool's connections among them.
    pub connected_clients: Option<u64>,
    /// The server's own limit of clients.
    pub maxclients: Option<u64>,
    /// Counts the clients that wait in a blocking call at the server.
    pub blocked_clients: Option<u64>,
    /// Says until when the certificate it showed last is good, in seconds since the epoch.
    pub certificate_not_after: Option<u64>,
    /// Is `redis` or `valkey`; empty while unknown.
    pub product: &'static str,
    /// Holds the version as the server tells it; it is empty while unknown.
    pub version: String,
    /// Is `master`, `replica` or another word of the server; empty while unknown.
    pub role: String,
    /// Says why the server does not tell all that it was asked for.
    pub refusal: Option<String>,
    /// The last error, also after the server has recovered.
    pub last_error: Option<LastError>,
}

impl ServerHealth {
    /// Knows nothing yet of the server at `address`.
    pub fn new(address: String) -> Self {
        Self {
            up: AtomicBool::new(false),
            latency_us: AtomicU64::new(UNKNOWN),
            connected_clients: AtomicU64::new(UNKNOWN),
            maxclients: AtomicU64::new(UNKNOWN),
            blocked_clients: AtomicU64::new(UNKNOWN),
            certificate_not_after: AtomicU64::new(UNKNOWN),
            texts: Mutex::new(HealthTexts {
                address,
                ..HealthTexts::default()
            }),
        }
    }

    /// Notes that the server is at another address now, by the configuration.
    pub fn set_address(&self, address: String) {
        self.texts().address = address;
    }

    /// Notes that the server answered after `latency_us` microseconds.
    pub fn answered(&self, latency_us: u64) {
        self.latency_us.store(latency_us, Ordering::Relaxed);
        self.up.store(true, Ordering::Relaxed);
    }

    /// Notes that the server has been heard again that was silent.
    pub fn heard_again(&self) {
        self.up.store(true, Ordering::Relaxed);
    }

    /// Notes that the server cannot be reached, for the reason in `error`, which must hold no secret. What it told of
    /// its clients is no longer true; its version and role stay as last known.
    pub fn failed(&self, error: &str) {
        self.up.store(false, Ordering::Relaxed);
        self.latency_us.store(UNKNOWN, Ordering::Relaxed);
        self.set_clients(None, None, None);
        self.note_error(error);
    }

    /// Notes that something went wrong that does not mean that the server is down. `error` must hold no secret.
    pub fn note_error(&self, error: &str) {
        self.texts().last_error = Some(LastError {
            text: shortened(error),
            at: SystemTime::now(),
        });
    }

    /// Notes what `INFO clients` said; `None` where the server does not tell.
    pub fn set_clients(&self, connected: Option<u64>, max: Option<u64>, blocked: Option<u64>) {
        let numbers = [
            (&self.connected_clients, connected),
            (&self.maxclients, max),
            (&self.blocked_clients, blocked),
        ];
        for (number, told) in numbers {
            number.store(told.unwrap_or(UNKNOWN), Ordering::Relaxed);
        }
    }

    /// Notes why the server does not tell what it was asked for; `None` where it does.
    pub fn set_refusal(&self, refusal: Option<String>) {
        self.texts().refusal = refusal.as_deref().map(shortened);
    }

    /// Notes until when the certificate is good that the server has shown; it stays as last known.
    pub fn set_certificate_expiry(&self, not_after: Option<u64>) {
        self.certificate_not_after
            .store(not_after.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }

    /// Notes which server it is, and its version as it writes it.
    pub fn set_version(&self, product: ServerProduct, version: &str) {
        let mut texts = self.texts();
        texts.product = product.name();
        texts.version = shortened(version);
    }

    /// Notes what the server says it is for. What is empty it does not say, and stays as last known.
    pub fn set_role(&self, role: &str) {
        // INFO has another word for it than HELLO.
        let role = if role == "slave" { "replica" } else { role };
        if !role.is_empty() {
            self.texts().role = shortened(role);
        }
    }

    /// Tells whether the server answered when last asked.
    fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Shows all of it at one moment.
    pub fn snapshot(&self) -> ServerSnapshot {
        let known =
            |number: &AtomicU64| Some(number.load(Ordering::Relaxed)).filter(|n| *n != UNKNOWN);
        let texts = self.texts();
        ServerSnapshot {
            address: texts.address.clone(),
            up: self.is_up(),
            latency_us: known(&self.latency_us),
            connected_clients: known(&self.connected_clients),
            maxclients: known(&self.maxclients),
            blocked_clients: known(&self.blocked_clients),
            certificate_not_after: known(&self.certificate_not_after),
            product: texts.product,
            version: texts.version.clone(),
            role: texts.role.clone(),
            refusal: texts.refusal.clone(),
            last_error: texts.last_error.clone(),
        }
    }

    /// Locks the texts. They are replaced whole, so those left by a thread that panicked are as good as any.
    fn texts(&self) -> MutexGuard<'_, HealthTexts> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shortened(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_not_told_as_a_number() {
        let health = ServerHealth::new("127.0.0.1:6379".into());
        let fresh = health.snapshot();
        assert!(!fresh.up && fresh.latency_us.is_none() && fresh.maxclients.is_none());
        health.answered(250);
        health.set_clients(Some(12), None, Some(2));
        let seen = health.snapshot();
        assert!(seen.up);
        assert_eq!(
            (seen.latency_us, seen.connected_clients, seen.maxclients),
            (Some(250), Some(12), None)
        );
        assert_eq!(seen.blocked_clients, Some(2));
    }

    #[test]
    fn a_recovered_server_keeps_its_last_error_and_a_lost_one_its_identity() {
        let health = ServerHealth::new("127.0.0.1:6379".into());
        health.set_version(ServerProduct::Valkey, "7.2.4");
        health.set_role("master");
        health.set_clients(Some(3), Some(100), None);
        health.set_role("slave");
        health.set_role("");
        health.failed("connection refused");
        let lost = health.snapshot();
        assert!(!lost.up && lost.connected_clients.is_none());
        assert_eq!(
            (lost.product, lost.version.as_str(), lost.role.as_str()),
            ("valkey", "7.2.4", "replica")
        );
        health.answered(10);
        let back = health.snapshot();
        assert!(back.up);
        assert_eq!(
            back.last_error.map(|e| e.text),
            Some("connection refused".to_owned())
        );
    }

    #[test]
    fn texts_are_bounded_at_a_character() {
        let health = ServerHealth::new(String::new());
        health.note_error(&"é".repeat(MAX_TEXT));
        let error = health.snapshot().last_error.expect("an error was noted");
        assert_eq!(error.text.len(), MAX_TEXT);
        health.note_error(&format!("x{}", "é".repeat(MAX_TEXT)));
        assert_eq!(
            health.snapshot().last_error.expect("noted").text.len(),
            MAX_TEXT - 1
        );
    }
}
