//! All clients of the process, by number. Touched only when one connects or leaves and when somebody asks for the list.

use std::collections::BTreeMap;
use std::ops::{Bound, Deref};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{ClientArrival, ClientRecord};

/// Bounds the clients that are looked at before others may come, leave or look.
const LOOKED_AT_ONCE: usize = 256;

/// Lists the clients of the process.
#[derive(Debug, Default)]
pub struct ClientRegistry {
    last_id: AtomicU64,
    records: Mutex<BTreeMap<u64, Arc<ClientRecord>>>,
}

impl ClientRegistry {
    /// Makes an empty registry; the first client is number 1.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Enters a client; it is listed until the guard is dropped.
    pub fn register(self: &Arc<Self>, arrival: ClientArrival) -> RegisteredClient {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let record = Arc::new(ClientRecord::new(id, arrival));
        self.records().insert(id, Arc::clone(&record));
        RegisteredClient {
            registry: Arc::clone(self),
            record,
        }
    }

    /// Returns all clients in order of their numbers.
    pub fn list(&self) -> Vec<Arc<ClientRecord>> {
        self.records().values().cloned().collect()
    }

    /// Returns those whom `is_meant` finds, in order of their numbers. Nothing is done for the others, who are nearly all in most searches,
    /// and nobody waits to come or leave for longer than some of them take.
    pub fn select(&self, is_meant: impl Fn(&ClientRecord) -> bool) -> Vec<Arc<ClientRecord>> {
        let mut meant = Vec::new();
        let mut from = Bound::Unbounded;
        loop {
            let records = self.records();
            let mut behind = records.range((from, Bound::Unbounded));
            for (_, record) in behind.by_ref().take(LOOKED_AT_ONCE) {
                if is_meant(record) {
                    meant.push(Arc::clone(record));
                }
                from = Bound::Excluded(record.id());
            }
            if behind.next().is_none() {
                return meant;
            }
        }
    }

    /// Returns the client with this number, if it is still here.
    pub fn find(&self, id: u64) -> Option<Arc<ClientRecord>> {
        self.records().get(&id).cloned()
    }

    /// Counts the clients that are registered.
    pub fn len(&self) -> usize {
        self.records().len()
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<ClientRecord>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Is a client's place in the registry; its drop takes the client out.
#[derive(Debug)]
pub struct RegisteredClient {
    registry: Arc<ClientRegistry>,
    record: Arc<ClientRecord>,
}

impl RegisteredClient {
    /// Returns the record itself, to be kept by those who only read it.
    pub fn record(&self) -> &Arc<ClientRecord> {
        &self.record
    }
}

impl Deref for RegisteredClient {
    type Target = ClientRecord;

    fn deref(&self) -> &ClientRecord {
        &self.record
    }
}

impl Drop for RegisteredClient {
    fn drop(&mut self) {
        self.registry.records().remove(&self.record.id());
    }
}
