//! How the process ends: it serves on for as long as it was asked to, drains, and closes what is left.
//!
//! Invariant: nothing waits without a bound for a worker that may stand still.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::signals::{SignalRequest, SignalStream};
use super::watch::PartsWatch;
use crate::admission::Admission;
use crate::thread::Process;
use crate::worker::{Worker, WorkerMessage};

/// The end of a phase is looked for this often.
const POLL: Duration = Duration::from_millis(10);

/// A drain with `drain_until_empty` begins when there has been no client for this long: an application that connects anew has a
/// moment to.
const EMPTY_FOR: Duration = Duration::from_secs(1);

/// A worker's mailbox may be full for this long when the worker is told something.
const TELL_WITHIN: Duration = Duration::from_secs(1);

/// A worker that was told to end at once may take this long; it is twice what the worker gives the server to see its connections closed.
const STOP_WITHIN: Duration = Duration::from_secs(8);

/// Says what ended one phase.
enum PhaseEnd {
    /// The phase came to its own end.
    Done,
    /// Another signal ended it.
    Signal(&'static str),
    /// The process cannot go on.
    Lost(String),
}

/// Ends the process: it holds what that takes.
pub(super) struct ProcessEnd<'a> {
    /// Holds what the workers share.
    pub(super) process: &'a Process,
    /// Counts who is there.
    pub(super) admission: &'a Admission,
    pub(super) workers: &'a [Worker],
    /// Is told to probes.
    pub(super) draining: &'a AtomicBool,
    /// Is set when the listeners are closed for good.
    pub(super) takes_nobody: &'a AtomicBool,
    /// Looks after the parts meanwhile.
    pub(super) watch: PartsWatch,
    /// Brings what the process is asked for.
    pub(super) signals: SignalStream,
    /// Has the configuration read again.
    pub(super) reload: Box<dyn Fn() + 'a>,
}

impl ProcessEnd<'_> {
    /// Waits for a signal to end, or for the loss of a part, and ends the process.
    ///
    /// # Errors
    /// Names the part that was lost.
    pub(super) async fn run(mut self) -> Result<(), String> {
        let mut lost = None;
        let is_at_once = match self.during(std::future::pending()).await {
            PhaseEnd::Lost(part) => {
                tracing::error!(
                    "{part}: a bug of respool. Clients of other workers may finish what they have begun, then the process ends"
                );
                self.draining.store(true, Ordering::Relaxed);
                lost = Some(part);
                false
            }
            PhaseEnd::Signal(name) => {
                self.draining.store(true, Ordering::Relaxed);
                match self.serve_on(name).await {
                    PhaseEnd::Done => false,
                    PhaseEnd::Signal(name) => {
                        tracing::warn!("{name} again: all clients are closed");
                        true
                    }
                    PhaseEnd::Lost(part) => {
                        tracing::error!("{part}: a bug of respool");
                        lost = Some(part);
                        false
                    }
                }
            }
            PhaseEnd::Done => false,
        };
        self.watch.let_end();
        if !is_at_once {
            self.drain().await;
        }
        let left = self.stop().await;
        match lost.or(left) {
            None => Ok(()),
            Some(part) => Err(part),
        }
    }

    /// Awaits `work`, and meanwhile reloads when asked to.
    async fn during(&mut self, work: impl Future<Output = ()>) -> PhaseEnd {
        let mut stall = self.process.configured.load().stall_timeout;
        let mut work = std::pin::pin!(work);
        loop {
            let lost = self.watch.until_lost(self.workers, || stall);
            tokio::select! {
                () = &mut work => return PhaseEnd::Done,
                part = lost => return PhaseEnd::Lost(part),
                asked = self.signals.next() => match asked {
                    SignalRequest::End(name) => return PhaseEnd::Signal(name),
                    // How it goes is logged.
                    SignalRequest::Reload => (self.reload)(),
                },
            }
            stall = self.process.configured.load().stall_timeout;
        }
    }

    /// Serves on through `drain_delay`, then through `drain_until_empty`.
    async fn serve_on(&mut self, name: &str) -> PhaseEnd {
        let settings = self.process.settings();
        let drain = &settings.drain;
        if !drain.delay.is_zero() {
            let delay = drain.delay;
            tracing::info!("{name}: serves on for {delay:?} (drain_delay) and then drains");
            match self.during(tokio::time::sleep(delay)).await {
                PhaseEnd::Done => {}
                over => return over,
            }
        }
        if drain.until_empty {
            let deadline = drain.deadline;
            tracing::info!(
                "{name}: serves on until there is no client (drain_until_empty), for up to {deadline:?} (drain_deadline)"
            );
            let admission = self.admission;
            let emptied = async {
                let mut empty = Duration::ZERO;
                while empty < EMPTY_FOR {
                    tokio::time::sleep(POLL).await;
                    empty = match admission.total() {
                        0 => empty + POLL,
                        _ => Duration::ZERO,
                    };
                }
            };
            let emptied = async {
                if tokio::time::timeout(deadline, emptied).await.is_err() {
                    tracing::warn!("drain_deadline is over, and there are clients still");
                }
            };
            return self.during(emptied).await;
        }
        PhaseEnd::Done
    }

    async fn drain(&mut self) {
        let limit = self.process.settings().drain_timeout;
        tracing::info!("drains for up to {limit:?} (drain_timeout)");
        self.takes_nobody.store(true, Ordering::Relaxed);
        self.tell_all(|| WorkerMessage::Drain).await;
        let (workers, ended) = (self.workers, all_ended(self.workers));
        let drained = async {
            if tokio::time::timeout(limit, ended).await.is_err() {
                tracing::warn!("drain_timeout is over: the rest is closed");
            }
        };
        match self.during(drained).await {
            PhaseEnd::Signal(name) => tracing::warn!("{name} again: the rest is closed"),
            PhaseEnd::Lost(part) => tracing::error!("{part}: the rest is closed"),
            PhaseEnd::Done if workers.iter().all(Worker::has_ended) => tracing::info!("drained"),
            PhaseEnd::Done => {}
        }
    }

    /// Ends the workers at once. Returns the one that does not.
    async fn stop(&self) -> Option<String> {
        self.tell_all(|| WorkerMessage::Stop).await;
        let ended = all_ended(self.workers);
        if tokio::time::timeout(STOP_WITHIN, ended).await.is_ok() {
            return None;
        }
        let mut all = self.workers.iter();
        let index = all.position(|worker| !worker.has_ended())?;
        Some(format!("worker-{index} does not end"))
    }

    async fn tell_all(&self, message: impl Fn() -> WorkerMessage) {
        for worker in self.workers {
            // One that has ended needs no telling, and one that stands still would not hear it.
            let telling = worker.mailbox().send(message());
            let _ = tokio::time::timeout(TELL_WITHIN, telling).await;
        }
    }
}

async fn all_ended(workers: &[Worker]) {
    while !workers.iter().all(Worker::has_ended) {
        tokio::time::sleep(POLL).await;
    }
}
