//! What the clients of all workers are served by, known by keyed hashes, and which workers wait for something of it.
//!
//! Invariant: no password can be told from what is kept here, and how long a look takes tells nothing but lengths.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Stands for a user and a password within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretHash(u64);

impl SecretHash {
    /// Makes one for a test.
    #[cfg(test)]
    pub(super) const fn numbered(number: u64) -> Self {
        Self(number)
    }
}

/// Knows what clients of any worker are served by. It is locked where a client authenticates, and nowhere else.
#[derive(Debug, Default)]
pub struct ServedSecrets {
    /// The key is the process' own, from the system's random numbers.
    key: RandomState,
    table: Mutex<ServedTable>,
    /// Grows when somebody is served by something that a worker waits for.
    news: AtomicU64,
}

#[derive(Debug, Default)]
struct ServedTable {
    /// Counts how many workers serve somebody by it.
    served: HashMap<SecretHash, usize>,
    /// Lists the workers that wait for it, and how many times each.
    awaited: HashMap<SecretHash, Vec<(usize, usize)>>,
    /// Lists for each worker what it has waited for and others have been served by since it looked last.
    come: Vec<HashSet<SecretHash>>,
}

impl ServedSecrets {
    /// Returns what this user and password are known by.
    pub fn hash(&self, user: Option<&[u8]>, password: &[u8]) -> SecretHash {
        SecretHash(self.key.hash_one((user, password)))
    }

    /// Notes that somebody is served by it until the value returned is dropped.
    pub fn serve(self: &Arc<Self>, hash: SecretHash) -> ServedSecret {
        let mut table = self.table();
        let count = table.served.entry(hash).or_default();
        *count += 1;
        if *count == 1 {
            let ServedTable { awaited, come, .. } = &mut *table;
            for (worker, _) in awaited.get(&hash).into_iter().flatten() {
                come[*worker].insert(hash);
                // Behind the entry: whoever sees the number finds it.
                self.news.fetch_add(1, Ordering::Release);
            }
        }
        drop(table);
        ServedSecret {
            secrets: Arc::clone(self),
            hash,
        }
    }

    /// Returns what another worker listens by, which may wait for what others are served by.
    pub fn listener(self: &Arc<Self>) -> SecretsListener {
        let mut table = self.table();
        let worker = table.come.len();
        table.come.push(HashSet::new());
        drop(table);
        SecretsListener {
            secrets: Arc::clone(self),
            worker,
            seen: Cell::new(0),
        }
    }

    fn table(&self) -> MutexGuard<'_, ServedTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that clients of one worker are served by something, as long as this lives.
#[derive(Debug)]
pub struct ServedSecret {
    secrets: Arc<ServedSecrets>,
    hash: SecretHash,
}

impl Drop for ServedSecret {
    fn drop(&mut self) {
        let mut table = self.secrets.table();
        if let Some(count) = table.served.get_mut(&self.hash) {
            *count -= 1;
            if *count == 0 {
                table.served.remove(&self.hash);
            }
        }
    }
}

/// One worker's look at what the clients of all are served by.
#[derive(Debug)]
pub struct SecretsListener {
    secrets: Arc<ServedSecrets>,
    worker: usize,
    seen: Cell<u64>,
}

impl SecretsListener {
    /// Returns what this user and password are known by.
    pub fn hash(&self, user: Option<&[u8]>, password: &[u8]) -> SecretHash {
        self.secrets.hash(user, password)
    }

    /// Tells whether somebody is served by it now.
    pub fn is_served(&self, hash: SecretHash) -> bool {
        self.secrets.table().served.contains_key(&hash)
    }

    /// Looks whether somebody is served by it: `None` where somebody is. Otherwise [`Self::come`] tells when somebody is, as long as the
    /// value returned lives.
    pub fn look(&self, hash: SecretHash) -> Option<AwaitedSecret> {
        let mut table = self.secrets.table();
        if table.served.contains_key(&hash) {
            return None;
        }
        let workers = table.awaited.entry(hash).or_default();
        match workers
            .iter_mut()
            .find(|(worker, _)| *worker == self.worker)
        {
            Some((_, count)) => *count += 1,
            None => workers.push((self.worker, 1)),
        }
        drop(table);
        Some(AwaitedSecret {
            secrets: Arc::clone(&self.secrets),
            worker: self.worker,
            hash,
        })
    }

    /// Returns what was waited for here and somebody has been served by since this was asked last. Nothing is locked where that is nothing.
    pub fn come(&self) -> HashSet<SecretHash> {
        let news = self.secrets.news.load(Ordering::Acquire);
        if self.seen.replace(news) == news {
            return HashSet::new();
        }
        std::mem::take(&mut self.secrets.table().come[self.worker])
    }
}

/// Says that a client of one worker waits for something, as long as this lives.
#[derive(Debug)]
pub struct AwaitedSecret {
    secrets: Arc<ServedSecrets>,
    worker: usize,
    hash: SecretHash,
}

impl Drop for AwaitedSecret {
    fn drop(&mut self) {
        let mut table = self.secrets.table();
        let Some(workers) = table.awaited.get_mut(&self.hash) else {
            return;
        };
        for (worker, count) in &mut *workers {
            if *worker == self.worker {
                *count -= 1;
            }
        }
        workers.retain(|(_, count)| *count > 0);
        if workers.is_empty() {
            table.awaited.remove(&self.hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_worker_serves_is_known_to_all_until_the_last_lets_go_of_it() {
        let secrets = Arc::new(ServedSecrets::default());
        let here = secrets.listener();
        let pw = secrets.hash(None, b"pw");
        assert!(here.look(pw).is_some());
        let first = secrets.serve(pw);
        let second = secrets.serve(pw);
        for (user, password) in [
            (Some(&b"default"[..]), &b"pw"[..]),
            (None, b"p"),
            (None, b"pw "),
            (None, b""),
            (Some(b""), b"pw"),
        ] {
            let other = here.hash(user, password);
            assert!(here.look(other).is_some(), "{user:?}");
        }
        drop(first);
        assert!(here.look(pw).is_none());
        drop(second);
        assert!(here.look(pw).is_some());
        let table = secrets.table();
        assert!(table.served.is_empty() && table.awaited.is_empty());
    }

    #[test]
    fn only_who_waits_for_it_is_told_of_what_somebody_is_served_by() {
        let secrets = Arc::new(ServedSecrets::default());
        let (here, there) = (secrets.listener(), secrets.listener());
        let shown = |number| SecretHash::numbered(number);
        let _waits = here.look(shown(1));
        let _waits_too = here.look(shown(1));
        let left = here.look(shown(2));
        let _other_waits = there.look(shown(3));
        drop(left);
        for _ in 0..1000 {
            // Nobody waits for what most are served by, be it that one comes and goes.
            drop(secrets.serve(shown(4)));
        }
        assert_eq!(secrets.news.load(Ordering::Relaxed), 0);
        drop(secrets.serve(shown(1)));
        drop(secrets.serve(shown(1)));
        drop(secrets.serve(shown(2)));
        let _serves = secrets.serve(shown(3));
        assert_eq!(here.come(), HashSet::from([shown(1)]));
        assert!(here.come().is_empty());
        assert_eq!(there.come(), HashSet::from([shown(3)]));
        assert!(there.look(shown(3)).is_none());
    }
}
