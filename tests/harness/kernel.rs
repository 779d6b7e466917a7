//! The word of the kernel itself: its table of TCP sockets, which tells what stands at a server whatever anybody says of it; whether a
//! process has stopped, and how much processor time it has used.

use std::collections::HashSet;
use std::time::Duration;

use super::peak_watch::PeakWatch;

/// These states of `/proc/net/tcp` stand for no connection: the server listens, or both sides have closed.
const NO_CONNECTION: [&str; 2] = ["0A", "06"];

/// Counts the connections at the side of whoever listens on `port`: those in use, those it has not accepted yet, and those whose
/// closing it has not seen.
///
/// The table is not read in one moment: a socket that is closed meanwhile may stand in one copy of it together with the one that
/// is opened in its place. What stands in two copies stood there between them.
pub(crate) fn sockets_at(port: u16) -> usize {
    peers_at(port).intersection(&peers_at(port)).count()
}

/// Tells whether the connection from `peer` to whoever listens on `port` is open on that side: the end of the other one has not
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

/// Tells whether a TCP socket of the process listens on this port, seen without connecting: a probe would be counted as a client.
pub(super) fn is_listened_at(pid: u32, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let local = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut columns = line.split_whitespace().skip(1);
        columns.next().is_some_and(|a| a.ends_with(&local)) && columns.nth(1) == Some(LISTEN)
    })
}

/// Tells whether every thread of a process has stopped. One that waits for a core when SIGSTOP is sent may run on for a while.
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

/// Tells how much processor time these processes have used, to within 10 ms for each: a clock that stands while others have the
/// machine.
pub(crate) fn processor_time(pids: &[u32]) -> Duration {
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

/// Finds the other ends of those connections, in one copy of the table.
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

/// Watches the most connections at a port, beyond those that stand there now.
#[track_caller]
pub(crate) fn watch_sockets(port: u16) -> PeakWatch {
    watch_sockets_beyond(sockets_at(port), port)
}

/// Watches the most connections at `port`, of which `own` are the test's own.
#[track_caller]
pub(crate) fn watch_sockets_beyond(own: usize, port: u16) -> PeakWatch {
    // As in `sockets_at`: what stands in two copies.
    let mut last = HashSet::new();
    PeakWatch::start(own, move || {
        let peers = peers_at(port);
        let count = peers.intersection(&last).count();
        last = peers;
        Some(count)
    })
}
