//! How the process ends: it serves on for as long as it was asked to, drains, and closes what is left.
//!
//! Invariant: nothing waits without a bound for a worker that may stand still.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Asked, Signals, Watch};
use crate::admission::Admission;
use crate::upstream::Process;
use crate::worker::{Message, Worker};

/// How often something is looked at that takes its time.
const POLL: Duration = Duration::from_millis(10);

/// With `drain_until_empty`: how long there must be no client. An application that connects anew has a moment to.
const EMPTY_FOR: Duration = Duration::from_secs(1);

/// How long a worker's mailbox may be full when it is told something.
const TELL_WITHIN: Duration = Duration::from_secs(1);

/// How long a worker that was told to end at once may take; twice what it gives the server to see its connections closed.
const STOP_WITHIN: Duration = Duration::from_secs(8);

/// What ended one phase.
enum Over {
    /// It came to its own end.
    Done,
    /// Another signal.
    Signal(&'static str),
    /// The process cannot go on.
    Lost(String),
}

/// The end of the process.
pub struct Ending<'a> {
    /// What the workers share.
    pub process: &'a Process,
    /// Who is there.
    pub admission: &'a Admission,
    /// The workers.
    pub workers: &'a [Worker],
    /// Told to probes.
    pub draining: &'a AtomicBool,
    /// Set when the listeners are closed for good.
    pub takes_nobody: &'a AtomicBool,
    /// Looks after the parts meanwhile.
    pub watch: Watch,
    /// What it is asked for.
    pub signals: Signals,
    /// Has the configuration read again.
    pub reload: Box<dyn Fn() + 'a>,
}

impl Ending<'_> {
    /// Waits for a signal to end, or for the loss of a part, and ends the process.
    ///
    /// # Errors
    /// The part that was lost.
    pub async fn run(mut self) -> Result<(), String> {
        let mut lost = None;
        let is_at_once = match self.during(std::future::pending()).await {
            Over::Lost(part) => {
                tracing::error!(
                    "{part}: a bug of respool. Clients of other workers may finish what they have begun, then the process ends"
                );
                self.draining.store(true, Ordering::Relaxed);
                lost = Some(part);
                false
            }
            Over::Signal(name) => {
                self.draining.store(true, Ordering::Relaxed);
                match self.serve_on(name).await {
                    Over::Done => false,
                    Over::Signal(name) => {
                        tracing::warn!("{name} again: all clients are closed");
                        true
                    }
                    Over::Lost(part) => {
                        tracing::error!("{part}: a bug of respool");
                        lost = Some(part);
                        false
                    }
                }
            }
            Over::Done => false,
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
    async fn during(&mut self, work: impl Future<Output = ()>) -> Over {
        let mut stall = self.process.configured.load().stall_timeout;
        let mut work = std::pin::pin!(work);
        loop {
            let lost = self.watch.until_lost(self.workers, || stall);
            tokio::select! {
                () = &mut work => return Over::Done,
                part = lost => return Over::Lost(part),
                asked = self.signals.next() => match asked {
                    Asked::End(name) => return Over::Signal(name),
                    // How it goes is logged.
                    Asked::Reload => (self.reload)(),
                },
            }
            stall = self.process.configured.load().stall_timeout;
        }
    }

    /// `drain_delay`, then `drain_until_empty`.
    async fn serve_on(&mut self, name: &str) -> Over {
        let settings = self.process.settings();
        let drain = &settings.drain;
        if !drain.delay.is_zero() {
            let delay = drain.delay;
            tracing::info!("{name}: serves on for {delay:?} (drain_delay) and then drains");
            match self.during(tokio::time::sleep(delay)).await {
                Over::Done => {}
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
        Over::Done
    }

    async fn drain(&mut self) {
        let limit = self.process.settings().drain_timeout;
        tracing::info!("drains for up to {limit:?} (drain_timeout)");
        self.takes_nobody.store(true, Ordering::Relaxed);
        self.tell_all(|| Message::Drain).await;
        let (workers, ended) = (self.workers, all_ended(self.workers));
        let drained = async {
            if tokio::time::timeout(limit, ended).await.is_err() {
                tracing::warn!("drain_timeout is over: the rest is closed");
            }
        };
        match self.during(drained).await {
            Over::Signal(name) => tracing::warn!("{name} again: the rest is closed"),
            Over::Lost(part) => tracing::error!("{part}: the rest is closed"),
            Over::Done if workers.iter().all(Worker::has_ended) => tracing::info!("drained"),
            Over::Done => {}
        }
    }

    /// Ends the workers at once. Returns the one that does not.
    async fn stop(&self) -> Option<String> {
        self.tell_all(|| Message::Stop).await;
        let ended = all_ended(self.workers);
        if tokio::time::timeout(STOP_WITHIN, ended).await.is_ok() {
            return None;
        }
        let mut all = self.workers.iter();
        let index = all.position(|worker| !worker.has_ended())?;
        Some(format!("worker-{index} does not end"))
    }

    async fn tell_all(&self, message: impl Fn() -> Message) {
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
