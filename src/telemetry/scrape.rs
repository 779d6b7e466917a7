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

/// Holds all there is to tell at one moment.
#[derive(Debug, Clone)]
pub struct MetricScrape {
    /// Says what stands now, as gathered by the caller.
    pub standing: ProcessStanding,
    /// Says what the workers have counted, added up.
    pub totals: CounterTotals,
}

/// Says what stands at this moment; it is gathered by the one who knows admission, budget and clients.
#[derive(Debug, Clone)]
pub struct ProcessStanding {
    /// Lists the client groups, in the order of their index.
    pub groups: Vec<GroupRow>,
    /// Counts the connections to the server.
    pub upstream: UpstreamCounts,
    pub server: ServerSnapshot,
    /// Tells how the server was lost, and whether it is.
    pub failovers: FailoverRows,
    /// Tells of the last attempt to load the configuration; the start counts as one.
    pub last_reload: LastReload,
    /// Counts the clients in a TLS handshake after which their certificate decides their group.
    pub handshaking: u64,
    /// Counts the clients that have yet to say who they are.
    pub arriving: u64,
    /// Counts the clients in the places kept for operators.
    pub operators: u64,
    /// Tells what memory the process has and holds.
    pub memory: MemoryRow,
    /// Counts the rejected sockets that are held and answered now.
    pub held_rejected: u64,
    /// Counts the clients that count in `limits.max_clients`.
    pub counted: u64,
    pub max_clients: u64,
    /// Counts the clients that hold a connection to the server.
    pub lent: u64,
    /// Counts the admitted clients whose call waits at the server, or in line for one that does.
    pub blocked_clients: u64,
    /// Lists the clients worth showing, the most interesting first.
    pub top_clients: Vec<ClientRow>,
    pub certificates: Vec<CertificateRow>,
    /// Lists what is no fault and yet worth a word, one line each.
    pub warnings: Vec<String>,
    pub process: ProcessRow,
    /// Counts from the start of the process.
    pub uptime: Duration,
}

/// Tells of the memory of the process, in bytes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct MemoryRow {
    /// Counts what is held for clients: unread replies and messages, requests that wait, what is on its way to the
    /// server.
    pub held: u64,
    /// Counts what the process has in all.
    pub resident: u64,
    /// Is `limits.max_memory` of the settings.
    pub limit: u64,
}

/// Tells how the server was lost and found.
#[derive(Debug, Clone, Default)]
pub struct FailoverRows {
    /// Is true while the server is known to be down: commands are answered at once as not sent.
    pub is_circuit_open: bool,
    /// Counts the failovers that are over, by each cause.
    pub totals: Vec<(&'static str, u64)>,
    /// Shows the one under way, else the last.
    pub last: Option<FailoverRow>,
}

/// Shows one failover to the operator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailoverRow {
    /// The address that was lost.
    pub from: String,
    /// The address of the first connection after; `None` while it is not over.
    pub to: Option<String>,
    /// Says what was noticed first; it is a value of [`LossCause`].
    pub cause: &'static str,
    /// Says when, in seconds since the epoch.
    pub at: u64,
    /// Counts from then to the first connection; so far, when it is not over.
    pub seconds: f64,
    /// Counts the commands that waited for the server.
    pub held: u64,
    /// Counts the commands answered as not sent.
    pub failed: u64,
    /// Counts the clients closed because a command of theirs was sent and not answered.
    pub disconnected: u64,
}

/// Shows a certificate in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateRow {
    /// Says whose it is: `server` (what the server shows), `upstream` (what the server is shown), `listener`.
    pub role: &'static str,
    /// The listener's address, or the name that the server is asked for; it comes from the configuration.
    pub name: String,
    /// Says until when it is good, in seconds since the epoch.
    pub not_after: u64,
}

/// Shows a client group as admission sees it.
#[derive(Debug, Clone, Default)]
pub struct GroupRow {
    /// Holds the name from the configuration.
    pub name: String,
    /// Counts the clients admitted now.
    pub connections: u64,
    pub limit: Option<u64>,
    pub warn: Option<u64>,
    /// Counts the clients admitted since the start.
    pub accepted_total: u64,
    /// Counts the clients rejected since the start, by reason; each reason stands once, also when it is 0.
    pub rejected: Vec<(&'static str, u64)>,
    /// Counts the clients that would have been rejected, had the group's mode not been `observe`, by reason.
    pub observed: Vec<(&'static str, u64)>,
    /// Counts what became of newcomers for whom another was to be closed, by result; each result stands once.
    pub evictions: Vec<(&'static str, u64)>,
    /// Tells whether its cap is only observed.
    pub is_observed: bool,
    /// Says what its cap counts: `group`, or each `address`, `client_name` or `user`.
    pub per: &'static str,
    /// Counts the clients of the key that has most; all of them where the group is counted as one.
    pub fullest: u64,
    /// Says in words which key that is; `None` where the group is counted as one.
    pub fullest_key: Option<String>,
    /// Counts the keys at the cap or past it.
    pub keys_at_limit: u64,
    /// Counts the keys at the warning threshold or past it.
    pub keys_at_warn: u64,
    /// Counts the admitted clients that are idle now.
    pub idle_connections: u64,
    /// Says how long the longest idle of them has been idle; `None` when there is none.
    pub oldest_idle_seconds: Option<u64>,
}

/// Counts connections to the server as the budget does.
#[derive(Debug, Clone, Copy, Default)]
pub struct UpstreamCounts {
    /// These carry multiplexed traffic.
    pub shared: u64,
    /// These are lent to one client, or kept for that.
    pub pinned: u64,
    pub subscription: u64,
    /// Is `upstream.max_connections` of the settings.
    pub limit: u64,
    /// Counts the connections that can be lent: `limit` without the shared ones.
    pub lendable: u64,
    /// Counts the clients that wait for a connection to pin.
    pub waiting: u64,
}

/// Tells how the configuration was last loaded.
#[derive(Debug, Clone)]
pub struct LastReload {
    pub at: SystemTime,
    /// Says why it failed and the older configuration still holds; it must hold no secret.
    pub error: Option<String>,
}

/// Shows a client worth showing.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ClientRow {
    /// Holds its id, as in `CLIENT LIST`.
    pub id: u64,
    pub address: String,
    /// It is as set by CLIENT SETNAME or HELLO.
    pub name: String,
    /// It is as of AUTH or HELLO; `default` otherwise.
    pub user: String,
    pub group: String,
    /// Counts the seconds since it connected.
    pub age_s: u64,
    /// Counts the seconds since its last command.
    pub idle_s: u64,
    /// Counts the commands since it connected.
    pub commands: u64,
    /// Counts the bytes read from it.
    pub bytes_in: u64,
    /// Counts the bytes written to it.
    pub bytes_out: u64,
    /// Says in one word what it is doing.
    pub state: &'static str,
}

/// Holds the counters of all workers added up.
#[derive(Debug, Clone, Default)]
pub struct CounterTotals {
    /// There are as many as [`ProcessStanding::groups`].
    pub groups: Vec<GroupTotals>,
    /// Lists the labels of [`GroupTotals::pins`].
    pub(super) pin_reasons: &'static [&'static str],
    /// Counts the attempts to connect to the server, by [`ConnectResult`].
    pub connects: [u64; ConnectResult::ALL.len()],
    /// Counts the connections to the server lost or left, by [`LossCause`].
    pub losses: [u64; LossCause::ALL.len()],
    /// Counts the TLS handshakes with clients, by [`TlsHandshake`].
    pub client_handshakes: [u64; TlsHandshake::ALL.len()],
    /// Counts the TLS handshakes with the server, by [`TlsHandshake`].
    pub server_handshakes: [u64; TlsHandshake::ALL.len()],
    /// Counts how often each bound was reached, by [`Bound`].
    pub bounds: Vec<u64>,
    /// Counts the requests that wait now.
    pub waiting_requests: u64,
    /// Counts the state changes of shared connections.
    pub state_changes: u64,
    /// Measures the durations of requests.
    pub request_duration: HistogramTotals,
    /// Measures the round trips of PINGs of respool's own.
    pub ping_duration: HistogramTotals,
    /// Counts those that were not answered in time.
    pub unanswered_pings: u64,
    pub returned_elements: u64,
    /// Counts the elements that could not be put back.
    pub orphaned_elements: u64,
    /// Counts the errors behind which text of a script was dropped.
    pub dropped_texts: u64,
    /// Counts the topics subscribed to at the server; one that two workers need counts twice.
    pub subscribed_topics: u64,
    /// Counts the messages and confirmations handed to subscribers.
    pub delivered_messages: u64,
    /// Counts the renewed logins of open connections.
    pub renewals: u64,
    /// Counts the logins that the server refused to renew.
    pub renewals_refused: u64,
    /// Counts the losses of a subscription connection.
    pub subscription_losses: u64,
}

/// Holds the counters of one group in all workers added up.
#[derive(Debug, Clone, Default)]
pub struct GroupTotals {
    pub commands: u64,
    /// Counts wrong passwords, and users there are not.
    pub auth_failures: u64,
    /// Counts the bytes read from clients.
    pub bytes_in: u64,
    /// Counts the bytes written to clients.
    pub bytes_out: u64,
    /// Counts the pinned connections, by pin reason.
    pub pins: Vec<u64>,
    /// Counts the disconnected clients, by [`Disconnect`].
    pub disconnects: [u64; Disconnect::ALL.len()],
}

impl MetricScrape {
    /// Adds up what the workers have counted and puts it beside what stands.
    pub fn gather(workers: &[Arc<WorkerCounters>], standing: ProcessStanding) -> Self {
        let mut totals = CounterTotals {
            pin_reasons: workers.first().map_or(&[], |worker| worker.pin_reasons()),
            bounds: vec![0; Bound::ALL.len()],
            ..CounterTotals::default()
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

impl CounterTotals {
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
        self.state_changes += worker.state_changes.get();
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
