//! The one list of metrics: name, labels, help, and where the samples come from. `docs/metrics.md` is held to it.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    AdminRefusal, Bound, CertificateRow, ConnectResult, Disconnect, GroupRow, GroupTotals,
    HistogramTotals, LossCause, MetricScrape, ServerSnapshot, TlsHandshake,
};

/// Describes one metric family.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Holds the full name; counters end in `_total`, units are base units.
    pub name: &'static str,
    /// Names of its labels, in the order of [`MetricSample::labels`].
    pub labels: &'static [&'static str],
    /// Explains the family to people, in one line.
    pub help: &'static str,
    /// Says its type, and how its samples are taken from a scrape.
    pub source: MetricSource,
}

/// Joins the type of a metric with the function that takes its samples from a scrape.
#[derive(Debug, Clone, Copy)]
pub enum MetricSource {
    /// It only grows while the process lives.
    Counter(fn(&MetricScrape) -> Vec<MetricSample>),
    /// It is a value of now.
    Gauge(fn(&MetricScrape) -> Vec<MetricSample>),
    /// It holds durations by bucket.
    Histogram(fn(&MetricScrape) -> &HistogramTotals),
}

/// Holds one value with the values of its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricSample {
    /// There are as many as the metric has labels.
    pub labels: Vec<String>,
    /// It is in the metric's unit.
    pub value: f64,
}

/// Lists every metric of respool, in the order of exposition.
pub(super) const METRICS: &[Metric] = &[
    Metric {
        name: "respool_client_connections",
        labels: &["group"],
        help: "Clients connected and admitted.",
        source: MetricSource::Gauge(|s| each_group(s, |row, _| Some(row.connections))),
    },
    Metric {
        name: "respool_client_connections_fullest",
        labels: &["group"],
        help: "Clients of the address, name or user that has most, where the group's cap counts those; else all of its clients.",
        source: MetricSource::Gauge(|s| each_group(s, |row, _| Some(row.fullest))),
    },
    Metric {
        name: "respool_client_keys_at_limit",
        labels: &["group"],
        help: "Addresses, names or users of the group that are at its cap; 1 for a group that is counted as one.",
        source: MetricSource::Gauge(|s| each_group(s, |row, _| Some(row.keys_at_limit))),
    },
    Metric {
        name: "respool_client_connections_limit",
        labels: &["group"],
        help: "Hard cap (group.max_connections) of respool_client_connections_fullest; absent without a cap.",
        source: MetricSource::Gauge(|s| each_group(s, |row, _| row.limit)),
    },
    Metric {
        name: "respool_client_connections_warning",
        labels: &["group"],
        help: "Count of clients from which on a warning is logged (group.warn_connections); absent when not set.",
        source: MetricSource::Gauge(|s| each_group(s, |row, _| row.warn)),
    },
    Metric {
        name: "respool_client_connections_accepted_total",
        labels: &["group"],
        help: "Clients admitted.",
        source: MetricSource::Counter(|s| each_group(s, |row, _| Some(row.accepted_total))),
    },
    Metric {
        name: "respool_client_connections_rejected_total",
        labels: &["group", "reason"],
        help: "Clients rejected, by the limit that rejected them.",
        source: MetricSource::Counter(|s| each_group_by(s, |row, _| row.rejected.clone())),
    },
    Metric {
        name: "respool_client_connections_observed_total",
        labels: &["group", "reason"],
        help: "Clients admitted that mode \"enforce\" would have rejected, by the limit.",
        source: MetricSource::Counter(|s| each_group_by(s, |row, _| row.observed.clone())),
    },
    Metric {
        name: "respool_client_evictions_total",
        labels: &["group", "result"],
        help: "Newcomers at a cap with at_limit = \"evict-idle\": one was evicted for them, or they were rejected because evictions are damped.",
        source: MetricSource::Counter(|s| each_group_by(s, |row, _| row.evictions.clone())),
    },
    Metric {
        name: "respool_client_handshakes",
        labels: &[],
        help: "Clients in a TLS handshake after which their certificate decides their group; they count in limits.max_clients.",
        source: MetricSource::Gauge(|s| one(s.standing.handshaking)),
    },
    Metric {
        name: "respool_client_arriving",
        labels: &[],
        help: "Clients that have yet to say who they are: they count in limits.max_clients and in no group.",
        source: MetricSource::Gauge(|s| one(s.standing.arriving)),
    },
    Metric {
        name: "respool_client_operators",
        labels: &[],
        help: "Clients in the places kept for operators (limits.operator_places), which count in no group.",
        source: MetricSource::Gauge(|s| one(s.standing.operators)),
    },
    Metric {
        name: "respool_client_rejections_held",
        labels: &[],
        help: "Rejected sockets that are held and answered with the error.",
        source: MetricSource::Gauge(|s| one(s.standing.held_rejected)),
    },
    Metric {
        name: "respool_client_disconnects_total",
        labels: &["group", "reason"],
        help: "Clients whose connection ended, by reason; of a handshake without an accepted certificate, in the group of those without.",
        source: MetricSource::Counter(|s| {
            each_group_by(s, |_, totals| {
                pairs(Disconnect::ALL.map(Disconnect::label), &totals.disconnects)
            })
        }),
    },
    Metric {
        name: "respool_client_idle_connections",
        labels: &["group"],
        help: "Admitted clients that are idle.",
        source: MetricSource::Gauge(|s| each_group(s, |row, _| Some(row.idle_connections))),
    },
    Metric {
        name: "respool_client_oldest_idle_seconds",
        labels: &["group"],
        help: "How long the longest idle client has been idle; 0 when none is.",
        source: MetricSource::Gauge(|s| {
            each_group(s, |row, _| Some(row.oldest_idle_seconds.unwrap_or(0)))
        }),
    },
    Metric {
        name: "respool_blocked_clients",
        labels: &[],
        help: "Admitted clients that wait in a blocking call.",
        source: MetricSource::Gauge(|s| one(s.standing.blocked_clients)),
    },
    Metric {
        name: "respool_client_commands_total",
        labels: &["group"],
        help: "Commands answered.",
        source: MetricSource::Counter(|s| each_group(s, |_, totals| Some(totals.commands))),
    },
    Metric {
        name: "respool_client_auth_failures_total",
        labels: &["group"],
        help: "Attempts of clients to authenticate that failed: wrong passwords, unknown or disabled users.",
        source: MetricSource::Counter(|s| each_group(s, |_, totals| Some(totals.auth_failures))),
    },
    Metric {
        name: "respool_client_bytes_total",
        labels: &["group", "direction"],
        help: "Bytes read from clients (in) and written to them (out).",
        source: MetricSource::Counter(|s| {
            each_group_by(s, |_, totals| {
                vec![("in", totals.bytes_in), ("out", totals.bytes_out)]
            })
        }),
    },
    Metric {
        name: "respool_pins_total",
        labels: &["group", "reason"],
        help: "Times a connection to the server was lent to one client, by what required it.",
        source: MetricSource::Counter(|s| {
            let reasons = s.totals.pin_reasons;
            each_group_by(s, |_, totals| pairs(reasons.iter().copied(), &totals.pins))
        }),
    },
    Metric {
        name: "respool_upstream_connections",
        labels: &["kind"],
        help: "Connections to the server, those being dialled and closed included.",
        source: MetricSource::Gauge(|s| {
            let counts = s.standing.upstream;
            let kinds = [
                ("shared", counts.shared),
                ("pinned", counts.pinned),
                ("subscription", counts.subscription),
            ];
            by_label(kinds)
        }),
    },
    Metric {
        name: "respool_upstream_connections_limit",
        labels: &[],
        help: "Hard total of connections to the server (upstream.max_connections).",
        source: MetricSource::Gauge(|s| one(s.standing.upstream.limit)),
    },
    Metric {
        name: "respool_upstream_connects_total",
        labels: &["result"],
        help: "Attempts to connect to the server, by how they ended.",
        source: MetricSource::Counter(|s| {
            by_label(pairs(
                ConnectResult::ALL.map(ConnectResult::label),
                &s.totals.connects,
            ))
        }),
    },
    Metric {
        name: "respool_upstream_losses_total",
        labels: &["cause"],
        help: "Connections to the server that were lost or left, and LOADING and MASTERDOWN answers, by cause.",
        source: MetricSource::Counter(|s| {
            by_label(pairs(
                LossCause::ALL.map(LossCause::label),
                &s.totals.losses,
            ))
        }),
    },
    Metric {
        name: "respool_upstream_circuit_open",
        labels: &[],
        help: "1 while the server is known to be down and commands are answered at once as not sent.",
        source: MetricSource::Gauge(|s| one(u64::from(s.standing.failovers.is_circuit_open))),
    },
    Metric {
        name: "respool_failovers_total",
        labels: &["cause"],
        help: "Times all connections to the server were lost or left and one came about again, by what was noticed first.",
        source: MetricSource::Counter(|s| by_label(s.standing.failovers.totals.iter().copied())),
    },
    Metric {
        name: "respool_last_failover_seconds",
        labels: &[],
        help: "How long the last failover took, from what was noticed first to the first connection; absent without any.",
        source: MetricSource::Gauge(|s| {
            let last = s.standing.failovers.last.iter();
            last.map(|last| MetricSample {
                labels: Vec::new(),
                value: last.seconds,
            })
            .collect()
        }),
    },
    Metric {
        name: "respool_upstream_reauthentications_total",
        labels: &["result"],
        help: "Times respool's own login was renewed on an open connection, by how the server answered.",
        source: MetricSource::Counter(|s| {
            by_label([
                ("ok", s.totals.renewals),
                ("refused", s.totals.renewals_refused),
            ])
        }),
    },
    Metric {
        name: "respool_upstream_waiting_requests",
        labels: &[],
        help: "Requests that wait for a connection to the server.",
        source: MetricSource::Gauge(|s| one(s.totals.waiting_requests)),
    },
    Metric {
        name: "respool_upstream_waiting_pins",
        labels: &[],
        help: "Clients that wait for a connection to pin.",
        source: MetricSource::Gauge(|s| one(s.standing.upstream.waiting)),
    },
    Metric {
        name: "respool_upstream_state_changes_total",
        labels: &[],
        help: "Changes of a shared connection's user, protocol version or database.",
        source: MetricSource::Counter(|s| one(s.totals.state_changes)),
    },
    Metric {
        name: "respool_bounds_reached_total",
        labels: &["bound"],
        help: "Times a configured bound was reached.",
        source: MetricSource::Counter(|s| {
            by_label(pairs(Bound::ALL.map(Bound::label), &s.totals.bounds))
        }),
    },
    Metric {
        name: "respool_returned_elements_total",
        labels: &[],
        help: "Elements popped for a client that had left and put back where they came from.",
        source: MetricSource::Counter(|s| one(s.totals.returned_elements)),
    },
    Metric {
        name: "respool_orphaned_elements_total",
        labels: &[],
        help: "Elements taken for a client that had left that could not be put back.",
        source: MetricSource::Counter(|s| one(s.totals.orphaned_elements)),
    },
    Metric {
        name: "respool_dropped_texts_total",
        labels: &[],
        help: "Errors of scripts behind which the server had written more of their text, which was dropped.",
        source: MetricSource::Counter(|s| one(s.totals.dropped_texts)),
    },
    Metric {
        name: "respool_subscribed_topics",
        labels: &[],
        help: "Channels, patterns and shard channels subscribed to at the server, summed over the workers.",
        source: MetricSource::Gauge(|s| one(s.totals.subscribed_topics)),
    },
    Metric {
        name: "respool_delivered_messages_total",
        labels: &[],
        help: "Messages and confirmations of subscriptions handed to clients.",
        source: MetricSource::Counter(|s| one(s.totals.delivered_messages)),
    },
    Metric {
        name: "respool_subscription_losses_total",
        labels: &[],
        help: "Times the connection of a worker's subscriptions was lost while clients were subscribed: they may have missed messages.",
        source: MetricSource::Counter(|s| one(s.totals.subscription_losses)),
    },
    Metric {
        name: "respool_request_duration_seconds",
        labels: &[],
        help: "Time from a request's arrival to its reply.",
        source: MetricSource::Histogram(|s| &s.totals.request_duration),
    },
    Metric {
        name: "respool_server_up",
        labels: &[],
        help: "1 if the server answered when last asked.",
        source: MetricSource::Gauge(|s| one(u64::from(s.standing.server.up))),
    },
    Metric {
        name: "respool_server_latency_seconds",
        labels: &[],
        help: "Round trip of the last check of the server; absent while it is down.",
        source: MetricSource::Gauge(|s| {
            let latency = s.standing.server.latency_us;
            latency
                .map(|us| MetricSample {
                    labels: Vec::new(),
                    value: us as f64 / 1e6,
                })
                .into_iter()
                .collect()
        }),
    },
    Metric {
        name: "respool_server_connected_clients",
        labels: &[],
        help: "Clients the server counts (INFO clients); absent while unknown.",
        source: MetricSource::Gauge(|s| {
            s.standing
                .server
                .connected_clients
                .map(one)
                .unwrap_or_default()
        }),
    },
    Metric {
        name: "respool_server_maxclients",
        labels: &[],
        help: "The server's own limit of clients; absent while unknown.",
        source: MetricSource::Gauge(|s| s.standing.server.maxclients.map(one).unwrap_or_default()),
    },
    Metric {
        name: "respool_server_blocked_clients",
        labels: &[],
        help: "Clients that wait in a blocking call at the server, as it counts them; absent while unknown.",
        source: MetricSource::Gauge(|s| {
            s.standing
                .server
                .blocked_clients
                .map(one)
                .unwrap_or_default()
        }),
    },
    Metric {
        name: "respool_server_info",
        labels: &["server", "version", "role"],
        help: "1, with what the server says of itself as labels; absent until it was reached.",
        source: MetricSource::Gauge(|s| server_info(&s.standing.server)),
    },
    Metric {
        name: "respool_server_ping_seconds",
        labels: &[],
        help: "Round trip of PINGs on idle connections to the server.",
        source: MetricSource::Histogram(|s| &s.totals.ping_duration),
    },
    Metric {
        name: "respool_server_pings_unanswered_total",
        labels: &[],
        help: "PINGs on idle connections to the server without an answer in time; the connection was replaced.",
        source: MetricSource::Counter(|s| one(s.totals.unanswered_pings)),
    },
    Metric {
        name: "respool_tls_handshakes_total",
        labels: &["side", "result"],
        help: "TLS handshakes with clients (client) and with the server (server), by how they ended.",
        source: MetricSource::Counter(|s| {
            let sides = [
                ("client", &s.totals.client_handshakes),
                ("server", &s.totals.server_handshakes),
            ];
            let samples = sides.map(|(side, counts)| {
                let labels = TlsHandshake::ALL.map(TlsHandshake::label);
                pairs(labels, counts)
                    .into_iter()
                    .map(move |(result, count)| MetricSample {
                        labels: vec![side.to_owned(), result.to_owned()],
                        value: count as f64,
                    })
            });
            samples.into_iter().flatten().collect()
        }),
    },
    Metric {
        name: "respool_certificate_expiry_timestamp_seconds",
        labels: &["role", "name"],
        help: "Until when a certificate in use is good, in seconds since the epoch.",
        source: MetricSource::Gauge(|s| {
            let sample = |row: &CertificateRow| MetricSample {
                labels: vec![row.role.to_owned(), row.name.clone()],
                value: row.not_after as f64,
            };
            s.standing.certificates.iter().map(sample).collect()
        }),
    },
    Metric {
        name: "respool_config_last_reload_successful",
        labels: &[],
        help: "1 if the last attempt to load the configuration succeeded.",
        source: MetricSource::Gauge(|s| one(u64::from(s.standing.last_reload.error.is_none()))),
    },
    Metric {
        name: "respool_config_last_reload_timestamp_seconds",
        labels: &[],
        help: "When the configuration was last loaded or tried, in seconds since the epoch.",
        source: MetricSource::Gauge(|s| one(unix_seconds(s.standing.last_reload.at))),
    },
    Metric {
        name: "respool_memory_bytes",
        labels: &[],
        help: "Memory held for clients: unread replies, requests that wait, what is on its way to the server.",
        source: MetricSource::Gauge(|s| one(s.standing.memory.held)),
    },
    Metric {
        name: "respool_memory_resident_bytes",
        labels: &[],
        help: "Memory the process has in all.",
        source: MetricSource::Gauge(|s| one(s.standing.memory.resident)),
    },
    Metric {
        name: "respool_memory_limit_bytes",
        labels: &[],
        help: "limits.max_memory; past it the clients that hold most are closed.",
        source: MetricSource::Gauge(|s| one(s.standing.memory.limit)),
    },
    Metric {
        name: "respool_log_lines_lost_total",
        labels: &["reason"],
        help: "Lines of the log that nobody can read: no room in log.buffer (full), or standard error took none (failed).",
        source: MetricSource::Counter(|s| {
            by_label([
                ("full", s.standing.process.lines_dropped),
                ("failed", s.standing.process.lines_failed),
            ])
        }),
    },
    Metric {
        name: "respool_panics_total",
        labels: &[],
        help: "Panics of any thread: bugs of respool, which the log names.",
        source: MetricSource::Counter(|s| one(s.standing.process.panics)),
    },
    Metric {
        name: "respool_admin_refused_total",
        labels: &["reason"],
        help: "Connections to the admin endpoint and requests on it that came to nothing, by reason.",
        source: MetricSource::Counter(|s| {
            by_label(pairs(
                AdminRefusal::ALL.map(AdminRefusal::label),
                &s.standing.process.admin_refused,
            ))
        }),
    },
    Metric {
        name: "respool_client_connections_without_descriptor_total",
        labels: &[],
        help: "Clients turned away at accept because the process may open no more files.",
        source: MetricSource::Counter(|s| one(s.standing.process.without_descriptor)),
    },
    Metric {
        name: "respool_part_up",
        labels: &["part"],
        help: "1 for each part of the process that does its work; 0 for one that has ended or stands still.",
        source: MetricSource::Gauge(|s| {
            let rows = s.standing.process.parts.iter();
            rows.map(|row| MetricSample {
                labels: vec![row.name.clone()],
                value: f64::from(u8::from(row.wrong.is_none())),
            })
            .collect()
        }),
    },
    Metric {
        name: "respool_uptime_seconds",
        labels: &[],
        help: "Time since the process started.",
        source: MetricSource::Gauge(|s| one(s.standing.uptime.as_secs())),
    },
    Metric {
        name: "respool_build_info",
        labels: &["version"],
        help: "1, with the version of respool as a label.",
        source: MetricSource::Gauge(|_| by_label([(super::process::VERSION, 1)])),
    },
];

/// Returns seconds since the epoch; 0 for a clock set before it.
pub(super) fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn one(value: u64) -> Vec<MetricSample> {
    vec![MetricSample {
        labels: Vec::new(),
        value: value as f64,
    }]
}

/// Makes a label of a role only where it is a word that is known.
fn server_info(server: &ServerSnapshot) -> Vec<MetricSample> {
    if server.version.is_empty() {
        return Vec::new();
    }
    let role = match server.role.as_str() {
        "" => "unknown",
        role @ ("master" | "replica") => role,
        _ => "other",
    };
    vec![MetricSample {
        labels: vec![
            server.product.to_owned(),
            server.version.chars().take(64).collect(),
            role.to_owned(),
        ],
        value: 1.0,
    }]
}

fn by_label(values: impl IntoIterator<Item = (&'static str, u64)>) -> Vec<MetricSample> {
    values
        .into_iter()
        .map(|(label, value)| MetricSample {
            labels: vec![label.to_owned()],
            value: value as f64,
        })
        .collect()
}

fn pairs(
    labels: impl IntoIterator<Item = &'static str>,
    values: &[u64],
) -> Vec<(&'static str, u64)> {
    labels.into_iter().zip(values.iter().copied()).collect()
}

/// Takes one sample for each group that has the value.
fn each_group(
    scrape: &MetricScrape,
    value: impl Fn(&GroupRow, &GroupTotals) -> Option<u64>,
) -> Vec<MetricSample> {
    let sample = |(row, totals): (&GroupRow, &GroupTotals)| {
        value(row, totals).map(|value| MetricSample {
            labels: vec![row.name.clone()],
            value: value as f64,
        })
    };
    scrape
        .standing
        .groups
        .iter()
        .zip(&scrape.totals.groups)
        .filter_map(sample)
        .collect()
}

/// Takes one sample for each group and each value of a second label.
fn each_group_by(
    scrape: &MetricScrape,
    values: impl Fn(&GroupRow, &GroupTotals) -> Vec<(&'static str, u64)>,
) -> Vec<MetricSample> {
    let groups = scrape.standing.groups.iter().zip(&scrape.totals.groups);
    groups
        .flat_map(|(row, totals)| {
            values(row, totals)
                .into_iter()
                .map(|(label, value)| MetricSample {
                    labels: vec![row.name.clone(), label.to_owned()],
                    value: value as f64,
                })
        })
        .collect()
}
