//! FaultMaker that a test asks for, to see that the parts of the process are looked after. Not in a release.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::worker::{WorkerFault, WorkerMessage};

/// Makes the faults that a test asks for.
#[derive(Debug)]
pub(super) struct FaultMaker {
    pub(super) workers: Vec<mpsc::Sender<WorkerMessage>>,
    /// Has the accepting task panic with the next client.
    pub(super) accepting: Arc<AtomicBool>,
}

impl FaultMaker {
    /// Makes the fault that `what` names: `worker-1/panic`, `worker-1/task-panic`, `worker-1/hang/500` (in milliseconds),
    /// `accepting/panic`. Returns false where there is no such fault.
    pub(super) fn make(&self, what: &str) -> bool {
        let words: Vec<&str> = what.split('/').collect();
        if words == ["accepting", "panic"] {
            self.accepting.store(true, Ordering::Relaxed);
            return true;
        }
        let fault = match words[1..] {
            ["panic"] => Some(WorkerFault::Panic),
            ["task-panic"] => Some(WorkerFault::TaskPanic),
            ["hang", millis] => millis
                .parse()
                .ok()
                .map(Duration::from_millis)
                .map(WorkerFault::Hang),
            _ => None,
        };
        let index = words[0].strip_prefix("worker-");
        let worker = index.and_then(|index| self.workers.get(index.parse::<usize>().ok()?));
        match (worker, fault) {
            (Some(worker), Some(fault)) => worker.try_send(WorkerMessage::Fault(fault)).is_ok(),
            _ => false,
        }
    }
}
