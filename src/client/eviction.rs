//! Making room in a full group: `at_limit = "evict-idle"`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{ClientMessage, TellWorkers};
use crate::admission::{Admission, AdmissionRefusal};
use crate::identity::{ClientRecord, ClientRegistry, Identity};

/// Candidates asked before the newcomer is rejected: each may have become busy since its figures were read.
const MOST_CANDIDATES: usize = 4;

/// Bounds how long one may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// Holds what making room in a group takes.
#[derive(Clone)]
pub struct Evictor {
    /// Decides which clients may come.
    pub admission: Arc<Admission>,
    /// Lists all clients of the process.
    pub registry: Arc<ClientRegistry>,
    /// Reaches the worker of each.
    pub tell_workers: TellWorkers,
}

impl Evictor {
    /// Closes the longest-idle client without state whose place `refusal` needs, for `newcomer`, but not the client `own`, who
    /// asks. False: there is none.
    pub async fn make_room(
        &self,
        refusal: &AdmissionRefusal,
        newcomer: &Identity,
        now_ms: u64,
        own: u64,
    ) -> bool {
        for candidate in self.candidates(refusal, now_ms, own) {
            let (gone, told) = oneshot::channel();
            let idle_ms = candidate.idle_ms(now_ms);
            let eviction = ClientMessage::Evict(candidate.id(), gone);
            self.tell_workers.tell(candidate.worker(), eviction);
            // Dropped unanswered by the client that went, or at once by the worker that does not close it.
            let _ = tokio::time::timeout(GONE_WITHIN, told).await;
            if self.registry.find(candidate.id()).is_none() {
                self.tell(refusal, &candidate.identity(), newcomer, idle_ms);
                return true;
            }
        }
        false
    }

    /// Counts an eviction and logs it, as often as its group's lines may come.
    fn tell(
        &self,
        refusal: &AdmissionRefusal,
        victim: &Identity,
        newcomer: &Identity,
        idle_ms: u64,
    ) {
        if let Some(line) = self.admission.evicted(refusal, victim, Instant::now()) {
            tracing::warn!(
                client = %victim.peer,
                listener = %victim.listener,
                name = ?victim.shown_name(),
                user = ?String::from_utf8_lossy(victim.shown_user()),
                idle_seconds = idle_ms / 1000,
                newcomer = %newcomer.peer,
                newcomer_name = ?newcomer.shown_name(),
                "evicted for a newcomer: {refusal}{line}"
            );
        }
    }

    fn candidates(
        &self,
        refusal: &AdmissionRefusal,
        now_ms: u64,
        own: u64,
    ) -> Vec<Arc<ClientRecord>> {
        let mut records = self.registry.select(|record| {
            let may_go = !record.is_busy() && record.counts_in_group();
            record.id() != own && refusal.frees(record) && may_go
        });
        records.sort_by_cached_key(|record| std::cmp::Reverse(record.idle_ms(now_ms)));
        records.truncate(MOST_CANDIDATES);
        records
    }
}
