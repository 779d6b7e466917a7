//! Making room in a full group: `at_limit = "evict-idle"`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use super::site::{Errand, Errands};
use crate::admission::Refusal;
use crate::identity::{Card, Registry};

/// Candidates asked before the newcomer is rejected: each may have become busy since its figures were read.
const MOST_CANDIDATES: usize = 4;

/// How long one may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// Closes the longest-idle client without state whose place `refusal` needs, but not `own`, who asks. False: there is none.
pub async fn make_room(
    registry: Arc<Registry>,
    errands: Errands,
    refusal: Refusal,
    now_ms: u64,
    own: u64,
) -> bool {
    for candidate in candidates(&registry, &refusal, now_ms, own) {
        let (gone, told) = oneshot::channel();
        errands(Errand::Evict(
            candidate.id(),
            Arc::new(Mutex::new(Some(gone))),
        ));
        // Dropped unanswered by the client that went, or at once by workers that do not close it.
        let _ = tokio::time::timeout(GONE_WITHIN, told).await;
        if registry.find(candidate.id()).is_none() {
            return true;
        }
    }
    false
}

fn candidates(registry: &Registry, refusal: &Refusal, now_ms: u64, own: u64) -> Vec<Arc<Card>> {
    let mut cards = registry.list();
    cards.retain(|card| {
        let may_go = !card.is_busy() && card.counts_in_group();
        card.id() != own && refusal.frees(card) && may_go
    });
    cards.sort_by_cached_key(|card| std::cmp::Reverse(card.idle_ms(now_ms)));
    cards.truncate(MOST_CANDIDATES);
    cards
}
