//! What the kernel itself says: its table of TCP sockets, which tells what stands at a server whatever anybody says of it; whether a
//! process has stopped, and how long it has been at work.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::eventually;

/// States of `/proc/net/tcp` that stand for no connection: the server listens, or both sides have closed.
const NO_CONNECTION: [&str; 2] = ["0A", "06"];

/// Connections at the side of whoever listens on `port`: those in use, those it has not accepted yet, and those whose
/// closing it has not seen.
///
/// The table is not read in one moment: a socket that is closed meanwhile may stand in one copy of it together with the one that
/// is opened in its place. What stands in two copies stood there between them.
pub(crate) fn sockets_at(port: u16) -> usize {
    peers_at(port).intersection(&peers_at(port)).count()
}

/// Whether the connection from `peer` to whoever listens on `port` is open on that side: the end of the other one has not
/// arrived there. What one copy of the table lacks may stand in the next.
pub(crate) fn is_open_at(port: u16, peer: u16) -> bool {
    let ends = [
        format!(":{port:04X}"),
        format!(":{peer:04X}"),
        "01".to_owned(),
    ];
    let is_it = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let mut ends = ends.iter();
        ends.all(|end| fields.next().is_some_and(|field| field.ends_with(end)))
    };
    let is_open = || {
        let table =
            std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table can be read");
        table.lines().skip(1).any(is_it)
    };
    is_open() || is_open()
}

/// Whether every thread of a process has stopped. One that waits for a core when SIGSTOP is sent may run on for a while.
pub(crate) fn has_stopped(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state stands behind the name, in which any byte may stand.
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

/// Processor time that these processes have used, to within 10 ms for each: a clock that stands while others have the machine.
pub(crate) fn worked(pids: &[u32]) -> Duration {
    /// The kernel counts so for every process to read, whatever its own clock does.
    const TICK: Duration = Duration::from_millis(10);
    let ticks = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let (_, rest) = stat.rsplit_once(") ").unwrap_or_default();
        // For its own code, and for the kernel's.
        let used = rest.split_whitespace().skip(11).take(2);
        used.map(|ticks| ticks.parse::<u32>().expect("a number"))
            .sum::<u32>()
    };
    pids.iter().map(ticks).sum::<u32>() * TICK
}

/// The other ends of those connections, in one copy of the table.
fn peers_at(port: u16) -> HashSet<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table can be read");
    let wanted = format!(":{port:04X}");
    let peer = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, peer, state) = (fields.next()?, fields.next()?, fields.next()?);
        let is_one = local.ends_with(&wanted) && !NO_CONNECTION.contains(&state);
        is_one.then(|| peer.to_owned())
    };
    table.lines().skip(1).filter_map(peer).collect()
}

/// The most connections at a port, beyond those that stood there when the watch began.
pub(crate) struct SocketWatch {
    before: usize,
    most: Arc<AtomicUsize>,
    samples: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SocketWatch {
    /// Begins to count what comes to `port`.
    pub(crate) fn start(port: u16) -> Self {
        Self::beyond(sockets_at(port), port)
    }

    /// Begins to count at `port`, of which `before` connections are the test's own.
    pub(crate) fn beyond(before: usize, port: u16) -> Self {
        let (most, samples, stop): (Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicBool>) =
            Default::default();
        let thread = std::thread::spawn({
            let (most, samples, stop) = (most.clone(), samples.clone(), stop.clone());
            move || {
                // As in `sockets_at`: what stands in two copies.
                let mut last = HashSet::new();
                while !stop.load(Ordering::Relaxed) {
                    let peers = peers_at(port);
                    most.fetch_max(peers.intersection(&last).count(), Ordering::Relaxed);
                    last = peers;
                    samples.fetch_add(1, Ordering::Relaxed);
                    // The processor is left to what is tested.
                    std::thread::park_timeout(std::time::Duration::from_millis(2));
                }
            }
        });
        Self {
            before,
            most,
            samples,
            stop,
            thread: Some(thread),
        }
    }

    /// The most that stood there at once so far; the last look is from now.
    #[track_caller]
    pub(crate) fn most(&self) -> usize {
        let seen = self.samples.load(Ordering::Relaxed);
        eventually(
            || self.samples.load(Ordering::Relaxed) > seen + 2,
            "another look at the kernel's table",
        );
        self.most
            .load(Ordering::Relaxed)
            .saturating_sub(self.before)
    }
}

impl Drop for SocketWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
