//! Faults that a test asks for, to see that the parts of the process are looked after. Not in a release.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::worker::{Fault, Message};

/// Where faults are made.
#[derive(Debug)]
pub struct Faults {
    /// The workers.
    pub workers: Vec<mpsc::Sender<Message>>,
    /// Has the accepting task panic with the next client.
    pub accepting: Arc<AtomicBool>,
}

impl Faults {
    /// Makes one: `worker-1/panic`, `worker-1/task-panic`, `worker-1/hang/500` (in milliseconds), `accepting/panic`. False: there is no such.
    pub fn make(&self, what: &str) -> bool {
        let words: Vec<&str> = what.split('/').collect();
        if words == ["accepting", "panic"] {
            self.accepting.store(true, Ordering::Relaxed);
            return true;
        }
        let fault = match words[1..] {
            ["panic"] => Some(Fault::Panic),
            ["task-panic"] => Some(Fault::TaskPanic),
            ["hang", millis] => millis
                .parse()
                .ok()
                .map(Duration::from_millis)
                .map(Fault::Hang),
            _ => None,
        };
        let index = words[0].strip_prefix("worker-");
        let worker = index.and_then(|index| self.workers.get(index.parse::<usize>().ok()?));
        match (worker, fault) {
            (Some(worker), Some(fault)) => worker.try_send(Message::Fault(fault)).is_ok(),
            _ => false,
        }
    }
}
