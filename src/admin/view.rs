//! What the operator is shown, gathered when asked.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::admission::{Admission, RefusalReason};
use crate::command::AclCategories;
use crate::config::{CapMode, CapScope, Settings, UnixSeconds};
use crate::failover::SeenFailover;
use crate::identity::{ClientFlag, ClientRecord, ClientRegistry, shown_user};
use crate::telemetry::{
    Bound, CertificateRow, ClientRow, FailoverRow, FailoverRows, GroupRow, LastReload, LossCause,
    MemoryRow, MetricScrape, PROCESS, ProcessParts, ProcessRow, ProcessStanding, ServerHealth,
    UpstreamCounts, WorkerCounters, faults,
};
use crate::thread::Process;
use crate::transport::{EndpointFile, OpenListeners};

/// A client silent for this long counts as idle.
const IDLE_MS: u64 = 1_000;

/// A certificate that is good for less than this is warned of: two weeks.
const ENDS_SOON_SECONDS: u64 = 14 * 24 * 3600;

/// Bounds the clients that are named in `/status`.
const TOP_CLIENTS: usize = 20;

/// Sees all that the operator is shown, and changes nothing.
pub struct StatusView {
    /// Holds what the workers share.
    pub process: Arc<Process>,
    /// Knows who has been let in.
    pub admission: Arc<Admission>,
    /// Lists all clients there are.
    pub registry: Arc<ClientRegistry>,
    /// Holds what each worker counts.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// Lists the listeners that are open.
    pub listeners: Arc<OpenListeners>,
    /// Holds the files of the endpoint's own unix sockets.
    pub endpoint_files: Arc<[EndpointFile]>,
    /// Knows how the parts of the process do.
    pub parts: Arc<ProcessParts>,
    /// Tells how the configuration was last loaded; the start counts as once.
    pub last_reload: Arc<Mutex<LastReload>>,
}

impl StatusView {
    /// Gathers everything at this moment.
    pub fn scrape(&self) -> MetricScrape {
        let now_ms = self.process.start.elapsed().as_millis() as u64;
        let records = self.registry.list();
        let (shared, pinned, subscription) = self.process.budget.counts();
        let health: &ServerHealth = &self.process.health;
        let certificates = self.certificates();
        let crowd = self.admission.crowd();
        let (counted, max_clients) = self.admission.fill();
        let standing = ProcessStanding {
            groups: self.groups(&records, now_ms),
            upstream: UpstreamCounts {
                shared: shared as u64,
                pinned: pinned as u64,
                subscription: subscription as u64,
                limit: self.process.budget.limit() as u64,
                lendable: self.lendable(),
                waiting: self.process.budget.waiting() as u64,
            },
            server: health.snapshot(),
            failovers: self.failovers(),
            last_reload: self
                .last_reload
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            handshaking: self.admission.handshaking() as u64,
            arriving: crowd.arriving as u64,
            operators: crowd.operators as u64,
            memory: MemoryRow {
                held: self.process.memory.held(),
                resident: self.process.memory.resident(),
                limit: self.process.memory.limit(),
            },
            held_rejected: self.admission.held() as u64,
            counted: counted as u64,
            max_clients: max_clients as u64,
            lent: records
                .iter()
                .filter(|record| record.has(ClientFlag::Pinned))
                .count() as u64,
            blocked_clients: blocked(&records),
            top_clients: self.top_clients(records, now_ms),
            warnings: self.warnings(&certificates),
            certificates,
            process: ProcessRow {
                parts: self.parts.rows(),
                ..PROCESS.row()
            },
            uptime: self.process.start.elapsed(),
        };
        let mut scrape = MetricScrape::gather(&self.counters, standing);
        let faults = faults(&scrape.standing);
        scrape.standing.warnings.splice(0..0, faults);
        // Admission counts it: it belongs to no worker.
        scrape.totals.bounds[Bound::Arriving as usize] += crowd.unheard;
        scrape
    }

    /// Counts the connections that are not kept for shared traffic.
    fn lendable(&self) -> u64 {
        let upstream = &self.process.settings().upstream;
        let lendable = upstream
            .max_connections
            .saturating_sub(upstream.shared_connections);
        lendable as u64
    }

    fn failovers(&self) -> FailoverRows {
        let now = self.process.now_micros();
        let standing = self.process.failovers.standing(now);
        let today = UnixSeconds::of(SystemTime::now()).0;
        let row = |last: SeenFailover| FailoverRow {
            from: last.from.to_string(),
            to: last.to.map(|node| node.to_string()),
            cause: last.cause.label(),
            at: today - now.saturating_sub(last.began) / 1_000_000,
            seconds: last.took as f64 / 1e6,
            held: last.held,
            failed: last.failed,
            disconnected: last.disconnected,
        };
        let total = |cause: LossCause| {
            let label = cause.label();
            (label, standing.totals.get(label).copied().unwrap_or(0))
        };
        FailoverRows {
            is_circuit_open: self.process.failovers.is_open(),
            totals: LossCause::ALL.map(total).to_vec(),
            last: standing.last.map(row),
        }
    }

    /// Lists the certificates of the server, of respool towards it, and of the listeners.
    fn certificates(&self) -> Vec<CertificateRow> {
        let mut rows = Vec::new();
        if let Some(tls) = &self.process.settings().upstream.tls {
            let name = tls.server_name.to_str().into_owned();
            let server = self.process.health.snapshot().certificate_not_after;
            let own = tls
                .identity
                .as_ref()
                .map(|pair| pair.certificate.not_after.0);
            for (role, not_after) in [("server", server), ("upstream", own)] {
                rows.extend(not_after.map(|not_after| CertificateRow {
                    role,
                    name: name.clone(),
                    not_after,
                }));
            }
        }
        let listeners = self.listeners.all();
        rows.extend(listeners.iter().filter_map(|listener| {
            Some(CertificateRow {
                role: "listener",
                name: listener.name().to_owned(),
                not_after: listener.tls()?.not_after().0,
            })
        }));
        rows
    }

    /// Returns what was worth a word at the start and still is, and which certificates end soon.
    fn warnings(&self, certificates: &[CertificateRow]) -> Vec<String> {
        let now = UnixSeconds::of(SystemTime::now());
        let settings = self.process.settings();
        let of_settings = settings.warnings.iter();
        let mut warnings: Vec<String> = of_settings
            // Certificates are judged by the time of now.
            .filter(|warning| !warning.key.ends_with(".cert_file"))
            .map(ToString::to_string)
            .collect();
        for row in certificates {
            let until = UnixSeconds(row.not_after);
            let (role, name) = (row.role, &row.name);
            if now > until {
                warnings.push(format!(
                    "the certificate of the {role} {name:?} expired at {until}"
                ));
            } else if until.0 - now.0 < ENDS_SOON_SECONDS {
                warnings.push(format!(
                    "the certificate of the {role} {name:?} expires at {until}"
                ));
            }
        }
        warnings.extend(self.parts.wrong());
        warnings.extend(self.process.unresolved());
        let listeners = self.listeners.all();
        warnings.extend(listeners.iter().filter_map(|listener| listener.trouble()));
        let of_endpoint = self.endpoint_files.iter();
        warnings.extend(of_endpoint.filter_map(EndpointFile::trouble));
        warnings.extend(self.empty_categories(&settings));
        let server = self.process.health.snapshot();
        let concerns = server.concerns(settings.upstream.role);
        warnings.extend(concerns.into_iter().map(|(_, text)| text));
        warnings
    }

    /// Returns the categories in `deny_commands` that neither Redis nor the server at hand has: they deny nothing.
    fn empty_categories(&self, settings: &Settings) -> Vec<String> {
        let server = self.process.server.load();
        let Some(learned) = server.as_ref().and_then(|server| server.learned.as_ref()) else {
            return Vec::new();
        };
        let denied = settings.order.iter().flat_map(|&index| {
            let group = &settings.groups[index];
            group.deny_commands.iter().map(move |entry| (group, entry))
        });
        let is_empty = |entry: &str| {
            let category = entry.strip_prefix('@').filter(|name| *name != "all");
            category.is_some_and(|name| {
                AclCategories::named(name).is_none() && !learned.has_category(name.as_bytes())
            })
        };
        denied
            .filter(|(_, entry)| is_empty(entry))
            .map(|(group, entry)| {
                format!(
                    "group.deny_commands of {:?}: the server has no command in {entry}, so that it denies nothing",
                    group.name
                )
            })
            .collect()
    }

    fn groups(&self, records: &[Arc<ClientRecord>], now_ms: u64) -> Vec<GroupRow> {
        let counted = self.admission.rows();
        let mut idle = vec![(0u64, None::<u64>); counted.len()];
        for record in records {
            let silent = record.idle_ms(now_ms);
            if let Some((count, oldest)) = idle.get_mut(record.group.get() as usize)
                && silent >= IDLE_MS
            {
                *count += 1;
                *oldest = Some(oldest.unwrap_or(0).max(silent / 1000));
            }
        }
        let rows = counted.into_iter().zip(idle);
        rows.map(|(row, (idle_connections, oldest_idle_seconds))| GroupRow {
            name: row.name.to_string(),
            connections: row.connections as u64,
            limit: row.limit.map(|limit| limit as u64),
            warn: row.warn.map(|warn| warn as u64),
            accepted_total: row.accepted_total,
            rejected: by_reason(&row.rejected_total),
            observed: by_reason(&row.observed_total),
            evictions: evictions(&row),
            is_observed: row.mode == CapMode::Observe,
            per: per(row.per),
            fullest: row.fullest as u64,
            fullest_key: row.fullest_key,
            keys_at_limit: row.keys_at_limit as u64,
            keys_at_warn: row.keys_at_warn as u64,
            idle_connections,
            oldest_idle_seconds,
        })
        .collect()
    }

    fn top_clients(&self, mut records: Vec<Arc<ClientRecord>>, now_ms: u64) -> Vec<ClientRow> {
        // Once for each: workers count on meanwhile, and an order that changes while it is made is a panic.
        records.sort_by_cached_key(|record| std::cmp::Reverse(record.commands.get()));
        records.truncate(TOP_CLIENTS);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let settings = self.process.settings();
        let row = |record: Arc<ClientRecord>| {
            let group = settings.groups.get(record.group.get() as usize);
            let names = record.names();
            ClientRow {
                id: record.id(),
                address: record.peer().to_string(),
                name: text(&names.name),
                user: text(shown_user(&names.user)),
                group: group.map(|group| group.name.clone()).unwrap_or_default(),
                age_s: now_ms.saturating_sub(record.created_ms()) / 1000,
                idle_s: record.idle_ms(now_ms) / 1000,
                commands: record.commands.get(),
                bytes_in: record.bytes_in.get(),
                bytes_out: record.bytes_out.get(),
                state: state(&record),
            }
        };
        records.into_iter().map(row).collect()
    }
}

fn blocked(records: &[Arc<ClientRecord>]) -> u64 {
    let blocked = records
        .iter()
        .filter(|record| record.has(ClientFlag::Blocked));
    blocked.count() as u64
}

fn by_reason(totals: &[(RefusalReason, u64)]) -> Vec<(&'static str, u64)> {
    let totals = totals.iter();
    totals
        .map(|(reason, total)| (reason.label(), *total))
        .collect()
}

/// Counts what became of newcomers for whom another was to be closed.
fn evictions(row: &crate::admission::GroupFigures) -> Vec<(&'static str, u64)> {
    let damped = row.damped_total.iter();
    let damped = damped.map(|(damped, total)| (damped.label(), *total));
    [("evicted", row.evicted_total)]
        .into_iter()
        .chain(damped)
        .collect()
}

/// Returns `per` as it is written in the configuration.
fn per(per: CapScope) -> &'static str {
    match per {
        CapScope::Group => "group",
        CapScope::Address { .. } => "address",
        CapScope::ClientName => "client_name",
        CapScope::User => "user",
    }
}

fn state(record: &ClientRecord) -> &'static str {
    let states = [
        (ClientFlag::Rejected, "rejected"),
        (ClientFlag::Arriving, "arriving"),
        (ClientFlag::Monitor, "monitor"),
        (ClientFlag::Pubsub, "subscribed"),
        (ClientFlag::Blocked, "blocked"),
        (ClientFlag::Multi, "transaction"),
        (ClientFlag::Watching, "watching"),
        (ClientFlag::Tracking, "tracking"),
        (ClientFlag::Pinned, "pinned"),
    ];
    states
        .into_iter()
        .find(|(flag, _)| record.has(*flag))
        .map_or("shared", |(_, name)| name)
}
