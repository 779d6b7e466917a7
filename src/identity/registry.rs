//! All clients of the process, by number. Touched only when one connects or leaves and when somebody asks for the list.

use std::collections::BTreeMap;
use std::ops::{Bound, Deref};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Arrival, Card};

/// So many clients are looked at before others may come, leave or look.
const LOOKED_AT_ONCE: usize = 256;

/// Lists the clients of the process.
#[derive(Debug, Default)]
pub struct Registry {
    last_id: AtomicU64,
    cards: Mutex<BTreeMap<u64, Arc<Card>>>,
}

impl Registry {
    /// Makes an empty registry; the first client is number 1.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Enters a client; it is listed until the guard is dropped.
    pub fn register(self: &Arc<Self>, arrival: Arrival) -> CardGuard {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let card = Arc::new(Card::new(id, arrival));
        self.cards().insert(id, Arc::clone(&card));
        CardGuard {
            registry: Arc::clone(self),
            card,
        }
    }

    /// Returns all clients in order of their numbers.
    pub fn list(&self) -> Vec<Arc<Card>> {
        self.cards().values().cloned().collect()
    }

    /// Returns those whom `is_meant` finds, in order of their numbers. Nothing is done for the others, who are nearly all in most searches,
    /// and nobody waits to come or leave for longer than some of them take.
    pub fn select(&self, is_meant: impl Fn(&Card) -> bool) -> Vec<Arc<Card>> {
        let mut meant = Vec::new();
        let mut from = Bound::Unbounded;
        loop {
            let cards = self.cards();
            let mut behind = cards.range((from, Bound::Unbounded));
            for (_, card) in behind.by_ref().take(LOOKED_AT_ONCE) {
                if is_meant(card) {
                    meant.push(Arc::clone(card));
                }
                from = Bound::Excluded(card.id());
            }
            if behind.next().is_none() {
                return meant;
            }
        }
    }

    /// Returns the client with this number, if it is still here.
    pub fn find(&self, id: u64) -> Option<Arc<Card>> {
        self.cards().get(&id).cloned()
    }

    /// Counts the clients that are registered.
    pub fn len(&self) -> usize {
        self.cards().len()
    }

    fn cards(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Card>>> {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's place in the registry; its drop takes the client out.
#[derive(Debug)]
pub struct CardGuard {
    registry: Arc<Registry>,
    card: Arc<Card>,
}

impl CardGuard {
    /// Returns the record itself, to be kept by those who only read it.
    pub fn card(&self) -> &Arc<Card> {
        &self.card
    }
}

impl Deref for CardGuard {
    type Target = Card;

    fn deref(&self) -> &Card {
        &self.card
    }
}

impl Drop for CardGuard {
    fn drop(&mut self) {
        self.registry.cards().remove(&self.card.id());
    }
}
