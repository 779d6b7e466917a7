//! What the clients of all workers are served by, known by keyed hashes.
//!
//! Invariant: no password can be told from what is kept here, and how long a look takes tells nothing but lengths.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What clients of any worker are served by. It is locked where a client authenticates, and nowhere else.
#[derive(Debug, Default)]
pub struct ServedSecrets {
    /// The key is the process' own, from the system's random numbers.
    key: RandomState,
    /// How many workers serve somebody by it.
    counts: Mutex<HashMap<u64, usize>>,
    news: AtomicU64,
}

impl ServedSecrets {
    /// Somebody is served by this user and password until the value returned is dropped.
    pub fn serve(self: &Arc<Self>, user: Option<&[u8]>, password: &[u8]) -> ServedSecret {
        let hash = self.key.hash_one((user, password));
        let mut counts = self.counts();
        let count = counts.entry(hash).or_default();
        *count += 1;
        if *count == 1 {
            // Behind the entry: whoever sees the number finds it.
            self.news.fetch_add(1, Ordering::Release);
        }
        drop(counts);
        ServedSecret {
            secrets: Arc::clone(self),
            hash,
        }
    }

    /// Returns whether somebody is served by this user and password.
    pub fn is_served(&self, user: Option<&[u8]>, password: &[u8]) -> bool {
        let hash = self.key.hash_one((user, password));
        self.counts().contains_key(&hash)
    }

    /// Grows with everything that somebody is served by and nobody was before.
    pub fn news(&self) -> u64 {
        self.news.load(Ordering::Acquire)
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<u64, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that clients of one worker are served by, as long as this lives.
#[derive(Debug)]
pub struct ServedSecret {
    secrets: Arc<ServedSecrets>,
    hash: u64,
}

impl Drop for ServedSecret {
    fn drop(&mut self) {
        let mut counts = self.secrets.counts();
        if let Some(count) = counts.get_mut(&self.hash) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_worker_serves_is_known_to_all_until_the_last_lets_go_of_it() {
        let secrets = Arc::new(ServedSecrets::default());
        assert!(!secrets.is_served(None, b"pw"));
        let first = secrets.serve(None, b"pw");
        let second = secrets.serve(None, b"pw");
        assert_eq!(secrets.news(), 1, "the second is nothing new");
        for (user, password) in [
            (Some(&b"default"[..]), &b"pw"[..]),
            (None, b"p"),
            (None, b"pw "),
            (None, b""),
            (Some(b""), b"pw"),
        ] {
            assert!(!secrets.is_served(user, password), "{user:?}");
        }
        drop(first);
        assert!(secrets.is_served(None, b"pw"));
        drop(second);
        assert!(!secrets.is_served(None, b"pw"));
        assert!(secrets.counts().is_empty());
        let _again = secrets.serve(None, b"pw");
        assert_eq!(secrets.news(), 2);
    }
}
