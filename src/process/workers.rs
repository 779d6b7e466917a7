//! The workers and what they share, as they are started.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::accept::ClientIntake;
use crate::admin::StatusView;
use crate::admission::Admission;
use crate::budget::SocketBudget;
use crate::client::{ClientMessage, ClientsMessage, WorkerMailboxes};
use crate::command::PinReason;
use crate::config::Settings;
use crate::identity::ClientRegistry;
use crate::login::OwnLogin;
use crate::memory::MemoryRoom;
use crate::telemetry::{LastReload, ServerHealth, Throttle, WorkerCounters};
use crate::thread::{LinkPassing, Process};
use crate::transport::{EndpointFile, OpenListeners, TlsConnector};
use crate::worker::{Worker, WorkerEquipment, WorkerMessage, mailbox};

/// Bounds the groups that reloads add and that are counted by themselves; those past it count as one.
const SPARE_GROUPS: usize = 64;

/// Holds the labels of the reasons to pin, by their index.
const PIN_REASONS: [&str; PinReason::ALL.len()] = {
    let mut labels = [""; PinReason::ALL.len()];
    let mut at = 0;
    while at < labels.len() {
        labels[at] = PinReason::ALL[at].label();
        at += 1;
    }
    labels
};

/// Makes what the workers share.
fn process(settings: &Arc<Settings>, start: Instant) -> io::Result<Arc<Process>> {
    let upstream = &settings.upstream;
    let tls = upstream.tls.as_ref().map(TlsConnector::new).transpose();
    let tls = tls.map_err(|why| io::Error::other(String::from(why)))?;
    let tls = tls.map(Arc::new);
    let max_pinned = settings
        .groups
        .iter()
        .map(|group| group.max_pinned)
        .collect();
    let budget = SocketBudget::new(
        upstream.max_connections,
        upstream.shared_connections,
        max_pinned,
        settings.workers,
        move || start.elapsed().as_micros() as u64,
    );
    Ok(Arc::new(Process {
        configured: ArcSwap::new(Arc::clone(settings)),
        budget,
        memory: Arc::new(MemoryRoom::new(
            settings.limits.max_memory as u64,
            settings.workers,
        )),
        login: OwnLogin::new(upstream.login.as_ref()).into(),
        health: Arc::new(ServerHealth::new(upstream.address.to_string())),
        server: Default::default(),
        tls: tls.into(),
        queued: Default::default(),
        queued_logins: Default::default(),
        audiences: Default::default(),
        served: Arc::default(),
        weights: Default::default(),
        call_connections_wanted: Default::default(),
        uncounted: Default::default(),
        unseen_ends: Default::default(),
        passing: LinkPassing::new(settings.workers),
        address: Default::default(),
        failovers: Default::default(),
        listing: Default::default(),
        pulse: Default::default(),
        in_force: Default::default(),
        parts: Arc::default(),
        start,
    }))
}

/// Starts the workers.
///
/// # Errors
/// A thread or its runtime cannot be had, or the TLS of the settings is not taken.
pub(super) fn start_workers(
    settings: &Arc<Settings>,
    start: Instant,
    listeners: Arc<OpenListeners>,
    endpoint_files: Arc<[EndpointFile]>,
) -> io::Result<(ClientIntake, StatusView)> {
    let process = process(settings, start)?;
    let admission = Admission::new(settings);
    let registry = ClientRegistry::new();
    let mailboxes: Vec<_> = (0..settings.workers).map(|_| mailbox()).collect();
    let senders: Vec<_> = mailboxes.iter().map(|(sender, _)| sender.clone()).collect();
    set_reclaimers(&process.budget, &senders);
    let tell_workers = Arc::new(Mailboxes {
        senders,
        start: Instant::now(),
        line: Mutex::default(),
    });
    let charge = WorkerEquipment {
        process: Arc::clone(&process),
        admission,
        registry,
        tell_workers,
    };
    let workers = start_each(settings, &charge, mailboxes)?;
    let parts = Arc::clone(&process.parts);
    let view = StatusView {
        process: Arc::clone(&process),
        admission: Arc::clone(&charge.admission),
        registry: Arc::clone(&charge.registry),
        counters: workers
            .iter()
            .map(|worker| Arc::clone(&worker.counters))
            .collect(),
        listeners,
        endpoint_files,
        parts: Arc::clone(&parts),
        last_reload: Arc::new(Mutex::new(LastReload {
            at: SystemTime::now(),
            error: None,
        })),
    };
    let intake = ClientIntake {
        admission: charge.admission,
        registry: charge.registry,
        tell_workers: charge.tell_workers,
        workers,
        process,
        start,
        draining: Arc::default(),
        takes_nobody: AtomicBool::new(false),
        parts,
        #[cfg(debug_assertions)]
        fault: Arc::default(),
    };
    Ok((intake, view))
}

/// Sets how the budget asks each worker to close its idle pins.
fn set_reclaimers(budget: &SocketBudget, senders: &[mpsc::Sender<WorkerMessage>]) {
    for (index, sender) in senders.iter().enumerate() {
        let sender = sender.clone();
        // A worker so far behind looks for itself when its next pin falls idle.
        let reclaim = move || drop(sender.try_send(WorkerMessage::Reclaim));
        budget.set_reclaimer(index, Box::new(reclaim));
    }
}

fn start_each(
    settings: &Settings,
    charge: &WorkerEquipment,
    mailboxes: Vec<(mpsc::Sender<WorkerMessage>, mpsc::Receiver<WorkerMessage>)>,
) -> io::Result<Vec<Worker>> {
    let start = |(index, mailbox)| {
        let groups = settings.groups.len() + SPARE_GROUPS;
        let counters = Arc::new(WorkerCounters::new(groups, &PIN_REASONS));
        let shared = settings.shared_of_worker(index);
        Worker::start(index, shared, charge.clone(), counters, mailbox)
    };
    mailboxes.into_iter().enumerate().map(start).collect()
}

/// Tells workers by their mailboxes, and logs which it could not tell.
struct Mailboxes {
    senders: Vec<mpsc::Sender<WorkerMessage>>,
    start: Instant,
    line: Mutex<Throttle>,
}

impl Mailboxes {
    fn send(&self, sender: &mpsc::Sender<WorkerMessage>, message: WorkerMessage) {
        if sender.try_send(message).is_ok() {
            return;
        }
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unwritten) = line.write(self.start.elapsed().as_micros() as u64) {
            tracing::warn!(
                unwritten,
                "a worker is too far behind to be told of a CLIENT KILL, UNBLOCK or eviction"
            );
        }
    }
}

impl WorkerMailboxes for Mailboxes {
    fn tell(&self, worker: usize, message: ClientMessage) {
        if let Some(sender) = self.senders.get(worker) {
            self.send(sender, WorkerMessage::Client(message));
        }
    }

    fn tell_all(&self, message: &ClientsMessage) {
        for sender in &self.senders {
            self.send(sender, WorkerMessage::Clients(message.clone()));
        }
    }
}
