//! The ways by which idle connections go from one worker to another, as they are: no connect, nothing for the server to notice.
//!
//! A connection is a worker's own, so what travels is its socket, its permit and what is known of it, put together again on the
//! other thread (`handing_over.rs`).

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::budget::SocketPermit;
use crate::server::LinkOrigin;
use crate::session::{Credentials, Protocol};
use crate::transport::Stream;

/// Holds a connection on its way between two workers.
pub struct LinkParcel {
    pub stream: Stream,
    pub permit: SocketPermit,
    pub origin: LinkOrigin,
    /// The credentials are copied: those of its state are shared by one thread.
    pub user: Option<Credentials>,
    pub protocol: Protocol,
    pub database: u32,
    /// Respool's login on it has to be renewed then; see `Renewal::times`.
    pub renewal: (u64, u64),
}

/// Takes what is sent to one worker.
#[derive(Default)]
struct LinkInbox {
    /// `None`: the worker takes no more.
    parcels: Mutex<Option<Vec<LinkParcel>>>,
    arrived: Notify,
}

impl LinkInbox {
    fn parcels(&self) -> MutexGuard<'_, Option<Vec<LinkParcel>>> {
        self.parcels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds the ways between the workers of the process.
pub struct LinkPassing {
    inboxes: Vec<LinkInbox>,
}

impl LinkPassing {
    /// Lays the ways between so many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            inboxes: (0..workers).map(|_| LinkInbox::default()).collect(),
        }
    }

    /// Counts those on their way to worker `worker`. `None`: it takes none any more.
    pub fn under_way(&self, worker: usize) -> Option<usize> {
        let inbox = self.inboxes.get(worker)?;
        inbox.parcels().as_ref().map(Vec::len)
    }

    /// Has worker `worker` take what is sent to it. Returns false where there is no such worker.
    pub fn open(&self, worker: usize) -> bool {
        let inbox = self.inboxes.get(worker);
        inbox
            .map(|inbox| inbox.parcels().get_or_insert_default().len())
            .is_some()
    }

    /// Waits until something has arrived at worker `worker`, and returns it. `None`: it takes none any more.
    pub async fn arrived(&self, worker: usize) -> Option<Vec<LinkParcel>> {
        let inbox = self.inboxes.get(worker)?;
        inbox.arrived.notified().await;
        inbox.parcels().as_mut().map(std::mem::take)
    }

    /// Has worker `worker` take none any more. Returns what has arrived and was not taken.
    pub fn close(&self, worker: usize) -> Vec<LinkParcel> {
        let inbox = self.inboxes.get(worker);
        let left = inbox.and_then(|inbox| inbox.parcels().take());
        left.unwrap_or_default()
    }

    /// Sends it to worker `worker`, or gives it back when that takes none any more.
    pub fn send(&self, worker: usize, parcel: LinkParcel) -> Option<LinkParcel> {
        let inbox = &self.inboxes[worker];
        match &mut *inbox.parcels() {
            None => return Some(parcel),
            Some(parcels) => parcels.push(parcel),
        }
        inbox.arrived.notify_one();
        None
    }
}
