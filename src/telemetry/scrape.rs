//! Everything that is told, as plain data at one moment.
//!
//! Invariant: no type here can hold a secret; names, counts and addresses only.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{
    Bound, ConnectResult, Counter, Disconnect, GroupCounters, HistogramTotals, LossCause,
    ProcessRow, ServerSnapshot, TlsHandshake, WorkerCounters,
};

/// All there is to tell at one moment.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// What stands now, as gathered by the caller.
    pub standing: Standing,
    /// What the workers have counted, added up.
    pub totals: Totals,
}

/// What stands at this moment: gathered by the one who knows admission, budget and clients.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The client groups, in the order of their index.
    pub groups: Vec<GroupRow>,
    /// Connections to the server.
    pub upstream: UpstreamCounts,
    /// The server's health.
    pub server: ServerSnapshot,
    /// How the server was lost, and whether it is.
    pub failovers: FailoverRows,
    /// The last attempt to load the configuration; the start counts as one.
    pub last_reload: Reload,
    /// Clients in a TLS handshake after which their certificate decides their group.
    pub handshaking: u64,
    /// Clients that have yet to say who they are.
    pub arriving: u64,
    /// Clients in the places kept for operators.
    pub operators: u64,
    /// What the process has and holds.
    pub memory: MemoryRow,
    /// Rejected sockets that are held and answered now.
    pub held_rejected: u64,
    /// Clients that count in `limits.max_clients`.
    pub counted: u64,
    /// `limits.max_clients`.
    pub max_clients: u64,
    /// Clients that hold a connection to the server.
    pub lent: u64,
    /// Admitted clients whose call waits at the server, or in line for one that does.
    pub blocked_clients: u64,
    /// The clients worth showing, the most interesting first.
    pub top_clients: Vec<ClientRow>,
    /// The certificates in use.
    pub certificates: Vec<CertificateRow>,
    /// What is no fault and yet worth a word, one line each.
    pub warnings: Vec<String>,
    /// The process itself.
    pub process: ProcessRow,
    /// Since the process started.
    pub uptime: Duration,
}

/// Memory of the process, in bytes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct MemoryRow {
    /// What is held for clients: unread replies and messages, requests that wait, what is on its way to the server.
    pub held: u64,
    /// What the process has in all.
    pub resident: u64,
    /// `limits.max_memory`.
    pub limit: u64,
}

/// How the server was lost and found.
#[derive(Debug, Clone, Default)]
pub struct FailoverRows {
    /// The server is known to be down: commands are answered at once as not sent.
    pub is_circuit_open: bool,
    /// Failovers that are over, by each cause.
    pub totals: Vec<(&'static str, u64)>,
    /// The one under way, else the last.
    pub last: Option<FailoverRow>,
}

/// One failover.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailoverRow {
    /// The address that was lost.
    pub from: String,
    /// The address of the first connection after; `None`: it is not over.
    pub to: Option<String>,
    /// What was noticed first; a value of [`LossCause`].
    pub cause: &'static str,
    /// When, in seconds since the epoch.
    pub at: u64,
    /// From then to the first connection; so far, when it is not over.
    pub seconds: f64,
    /// Commands that waited for the server.
    pub held: u64,
    /// Commands answered as not sent.
    pub failed: u64,
    /// Clients closed because a command of theirs was sent and not answered.
    pub disconnected: u64,
}

/// A certificate in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateRow {
    /// Whose it is: `server` (what the server shows), `upstream` (what the server is shown), `listener`.
    pub role: &'static str,
    /// The listener's address, or the name that the server is asked for; from the configuration.
    pub name: String,
    /// Until when it is good, in seconds since the epoch.
    pub not_after: u64,
}

/// A client group as admission sees it.
#[derive(Debug, Clone, Default)]
pub struct GroupRow {
    /// Name from the configuration.
    pub name: String,
    /// Admitted clients now.
    pub connections: u64,
    /// `group.max_connections`.
    pub limit: Option<u64>,
    /// `group.warn_connections`.
    pub warn: Option<u64>,
    /// Clients admitted since the start.
    pub accepted_total: u64,
    /// Clients rejected since the start, by reason; each reason once, also when it is 0.
    pub rejected: Vec<(&'static str, u64)>,
    /// Clients that would have been rejected, had the group's mode not been `observe`, by reason.
    pub observed: Vec<(&'static str, u64)>,
    /// What became of newcomers for whom another was to be closed, by result; each result once.
    pub evictions: Vec<(&'static str, u64)>,
    /// Whether its cap is only observed.
    pub is_observed: bool,
    /// What its cap counts: `group`, or each `address`, `client_name` or `user`.
    pub per: &'static str,
    /// Clients of the key that has most; all of them where the group is counted as one.
    pub fullest: u64,
    /// Which key that is, in words; `None`: the group is counted as one.
    pub fullest_key: Option<String>,
    /// Keys at the cap or past it.
    pub keys_at_limit: u64,
    /// Keys at the warning threshold or past it.
    pub keys_at_warn: u64,
    /// Admitted clients that are idle now.
    pub idle_connections: u64,
    /// How long the longest idle of them has been idle; `None` when there is none.
    pub oldest_idle_seconds: Option<u64>,
}

/// Connections to the server, as the budget counts them.
#[derive(Debug, Clone, Copy, Default)]
pub struct UpstreamCounts {
    /// Carry multiplexed traffic.
    pub shared: u64,
    /// Are lent to one client, or kept for that.
    pub pinned: u64,
    /// Carry subscriptions.
    pub subscription: u64,
    /// `upstream.max_connections`.
    pub limit: u64,
    /// Connections that can be lent: `limit` without the shared ones.
    pub lendable: u64,
    /// Clients that wait for a connection to pin.
    pub waiting: u64,
}

/// How the configuration was last loaded.
#[derive(Debug, Clone)]
pub struct Reload {
    /// When.
    pub at: SystemTime,
    /// Why it failed and the older configuration still holds; must hold no secret.
    pub error: Option<String>,
}

/// A client worth showing.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ClientRow {
    /// Its id, as in `CLIENT LIST`.
    pub id: u64,
    /// Peer address.
    pub address: String,
    /// As set by CLIENT SETNAME or HELLO.
    pub name: String,
    /// As of AUTH or HELLO; `default` otherwise.
    pub user: String,
    /// Its group.
    pub group: String,
    /// Seconds since it connected.
    pub age_s: u64,
    /// Seconds since its last command.
    pub idle_s: u64,
    /// Commands since it connected.
    pub commands: u64,
    /// Bytes read from it.
    pub bytes_in: u64,
    /// Bytes written to it.
    pub bytes_out: u64,
    /// What it is doing: one word.
    pub state: &'static str,
}

/// The counters of all workers added up.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// By group, as many as [`Standing::groups`].
    pub groups: Vec<GroupTotals>,
    /// Labels of [`GroupTotals::pins`].
    pub pin_reasons: &'static [&'static str],
    /// Attempts to connect to the server, by [`ConnectResult`].
    pub connects: [u64; ConnectResult::ALL.len()],
    /// Connections to the server lost or left, by [`LossCause`].
    pub losses: [u64; LossCause::ALL.len()],
    /// TLS handshakes with clients, by [`TlsHandshake`].
    pub client_handshakes: [u64; TlsHandshake::ALL.len()],
    /// TLS handshakes with the server, by [`TlsHandshake`].
    pub server_handshakes: [u64; TlsHandshake::ALL.len()],
    /// Bounds reached, by [`Bound`].
    pub bounds: [u64; Bound::ALL.len()],
    /// Requests that wait now.
    pub waiting_requests: u64,
    /// State changes of shared connections.
    pub redresses: u64,
    /// Durations of requests.
    pub request_duration: HistogramTotals,
    /// Round trips of PINGs of respool's own.
    pub ping_duration: HistogramTotals,
    /// Those that were not answered in time.
    pub unanswered_pings: u64,
    /// Elements put back.
    pub returned_elements: u64,
    /// Elements that could not be put back.
    pub orphaned_elements: u64,
    /// Errors behind which text of a script was dropped.
    pub dropped_texts: u64,
    /// Topics subscribed to at the server; one that two workers need counts twice.
    pub subscribed_topics: u64,
    /// Messages and confirmations handed to subscribers.
    pub delivered_messages: u64,
    /// Renewed logins of open connections.
    pub renewals: u64,
    /// Logins that the server refused to renew.
    pub renewals_refused: u64,
    /// Losses of a subscription connection.
    pub subscription_losses: u64,
}

/// The counters of one group in all workers added up.
#[derive(Debug, Clone, Default)]
pub struct GroupTotals {
    /// Commands answered.
    pub commands: u64,
    /// Wrong passwords, and users there are not.
    pub auth_failures: u64,
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes written to clients.
    pub bytes_out: u64,
    /// Pinned connections, by pin reason.
    pub pins: Vec<u64>,
    /// Disconnected clients, by [`Disconnect`].
    pub disconnects: [u64; Disconnect::ALL.len()],
}

impl Scrape {
    /// Adds up what the workers have counted and puts it beside what stands.
    pub fn gather(workers: &[Arc<WorkerCounters>], standing: Standing) -> Self {
        let mut totals = Totals {
            pin_reasons: workers.first().map_or(&[], |worker| worker.pin_reasons()),
            ..Totals::default()
        };
        let group = GroupTotals {
            pins: vec![0; totals.pin_reasons.len()],
            ..GroupTotals::default()
        };
        totals.groups = vec![group; standing.groups.len()];
        for worker in workers {
            totals.add(worker);
        }
        Self { standing, totals }
    }
}

impl Totals {
    fn add(&mut self, worker: &WorkerCounters) {
        // Groups that a reload added have no counters of their own yet; asking for them would count the last one twice.
        for (index, total) in self.groups.iter_mut().enumerate().take(worker.groups()) {
            total.add(worker.group(index));
        }
        for result in ConnectResult::ALL {
            self.connects[result as usize] += worker.connects(result).get();
        }
        for cause in LossCause::ALL {
            self.losses[cause as usize] += worker.losses(cause).get();
        }
        for result in TlsHandshake::ALL {
            self.client_handshakes[result as usize] += worker.client_handshakes(result).get();
            self.server_handshakes[result as usize] += worker.server_handshakes(result).get();
        }
        for bound in Bound::ALL {
            self.bounds[bound as usize] += worker.bound(bound).get();
        }
        self.waiting_requests += worker.waiting_requests.get();
        self.redresses += worker.redresses.get();
        worker.request_duration.add_to(&mut self.request_duration);
        worker.ping_duration.add_to(&mut self.ping_duration);
        self.unanswered_pings += worker.unanswered_pings.get();
        self.returned_elements += worker.returned_elements.get();
        self.orphaned_elements += worker.orphaned_elements.get();
        self.dropped_texts += worker.dropped_texts.get();
        self.subscribed_topics += worker.subscribed_topics.get();
        self.delivered_messages += worker.delivered_messages.get();
        self.renewals += worker.renewals.get();
        self.renewals_refused += worker.renewals_refused.get();
        self.subscription_losses += worker.subscription_losses.get();
    }
}

impl GroupTotals {
    fn add(&mut self, group: &GroupCounters) {
        let add = |total: &mut u64, counter: &Counter| *total += counter.get();
        add(&mut self.commands, &group.commands);
        add(&mut self.auth_failures, &group.auth_failures);
        add(&mut self.bytes_in, &group.bytes_in);
        add(&mut self.bytes_out, &group.bytes_out);
        for (reason, total) in self.pins.iter_mut().enumerate() {
            add(total, group.pin(reason));
        }
        for reason in Disconnect::ALL {
            add(
                &mut self.disconnects[reason as usize],
                group.disconnect(reason),
            );
        }
    }
}
