//! Looks after the parts of the process: workers that have ended or stand still, and the thread that writes the log.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};

use crate::telemetry::{Heartbeat, ProcessParts};
use crate::transport::refill_descriptors;
use crate::worker::Worker;

/// The parts are looked at this often.
const LOOK: Duration = Duration::from_millis(100);

/// Judges the parts. It runs where the endpoint that tells of them does: while this one stands still, nothing is told at all, and whoever
/// probes sees that.
pub(super) struct PartsWatch {
    parts: Arc<ProcessParts>,
    hearts: Vec<Heartbeat>,
    log_has_ended: Box<dyn Fn() -> bool>,
    looks: Interval,
    /// Is true once the workers are told to end: that they do is nothing to tell.
    is_ending: bool,
    /// Is true once a part is lost and that was told.
    is_told: bool,
}

impl PartsWatch {
    pub(super) fn new(parts: Arc<ProcessParts>, log_has_ended: Box<dyn Fn() -> bool>) -> Self {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            parts,
            hearts: Vec::new(),
            log_has_ended,
            looks,
            is_ending: false,
            is_told: false,
        }
    }

    /// Lets workers end from here on.
    pub(super) fn let_end(&mut self) {
        self.is_ending = true;
    }

    /// Looks after the parts until one has ended without which the process cannot go on, which is told once. `stall` tells for how long a
    /// worker may stand still. Cancelling it loses nothing.
    pub(super) async fn until_lost(
        &mut self,
        workers: &[Worker],
        stall: impl Fn() -> Duration,
    ) -> String {
        loop {
            self.looks.tick().await;
            self.look(workers, stall());
            refill_descriptors();
            if let Some(lost) = self.parts.lost().filter(|_| !self.is_told) {
                self.is_told = true;
                return lost;
            }
        }
    }

    fn look(&mut self, workers: &[Worker], stall: Duration) {
        let most = u32::try_from(stall.as_millis() / LOOK.as_millis()).unwrap_or(u32::MAX);
        self.hearts.resize_with(workers.len(), Heartbeat::default);
        for (index, (worker, heart)) in workers.iter().zip(&mut self.hearts).enumerate() {
            let name = format!("worker-{index}");
            if worker.has_ended() {
                if !self.is_ending {
                    self.parts.lose(&name, "has ended");
                }
                continue;
            }
            let is_stuck = heart.look(worker.counters.beats.get()) > most.max(1);
            worker.set_stuck(is_stuck);
            let wrong = format!("has not moved for {stall:?} (stall_timeout)");
            match (self.parts.set(&name, is_stuck.then_some(&wrong)), is_stuck) {
                (true, true) => tracing::error!(
                    "{name} {wrong}: its clients are not served; newcomers go to others"
                ),
                (true, false) => tracing::warn!("{name} moves again"),
                (false, _) => {}
            }
        }
        let ended = (self.log_has_ended)().then_some("has ended");
        self.parts.set("log", ended);
    }
}
