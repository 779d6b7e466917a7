//! A scrape as JSON, for people and for `respool top`.

use serde_json::{Map, Value, json};

use super::metrics::unix_seconds;
use super::process::VERSION;
use super::{
    Bound, ConnectResult, CounterTotals, Disconnect, GroupRow, GroupTotals, LastError, LastReload,
    LossCause, MetricScrape, ServerSnapshot, TlsHandshake,
};

/// Shows the whole scrape as one JSON object: `version`, `uptime_seconds`, `server`, `pool`, `groups`, `clients`,
/// `memory`, `circuit`, `last_failover`, `certificates`, `warnings`, `last_reload`. Times are in seconds since the
/// epoch; what is unknown is `null`.
pub fn status_json(scrape: &MetricScrape) -> Value {
    let standing = &scrape.standing;
    let groups: Vec<_> = standing.groups.iter().zip(&scrape.totals.groups).collect();
    let total: u64 = standing.groups.iter().map(|row| row.connections).sum();
    json!({
        "version": VERSION,
        "uptime_seconds": standing.uptime.as_secs(),
        "server": server(&standing.server, &scrape.totals),
        "pool": pool(scrape),
        "groups": groups.iter().map(|(row, totals)| group(row, totals, scrape.totals.pin_reasons)).collect::<Vec<_>>(),
        "clients": {
            "total": total,
            "handshaking": standing.handshaking,
            "arriving": standing.arriving,
            "operators": standing.operators,
            "blocked": standing.blocked_clients,
            "held_rejected": standing.held_rejected,
            "top": standing.top_clients,
        },
        "memory": standing.memory,
        "circuit": if standing.failovers.is_circuit_open { "open" } else { "closed" },
        "last_failover": standing.failovers.last,
        "certificates": standing.certificates,
        "warnings": standing.warnings,
        "last_reload": reload(&standing.last_reload),
    })
}

fn server(server: &ServerSnapshot, totals: &CounterTotals) -> Value {
    let last_error =
        |LastError { text, at }: &LastError| json!({ "text": text, "at": unix_seconds(*at) });
    json!({
        "address": server.address,
        "up": server.up,
        "latency_ms": server.latency_us.map(|us| us as f64 / 1e3),
        "pings": { "answered": totals.ping_duration.count(), "unanswered": totals.unanswered_pings },
        "last_error": server.last_error.as_ref().map(last_error),
        "server": known(server.product),
        "version": known(&server.version),
        "role": known(&server.role),
        "connected_clients": server.connected_clients,
        "maxclients": server.maxclients,
        "blocked_clients": server.blocked_clients,
        "refusal": server.refusal,
    })
}

fn pool(scrape: &MetricScrape) -> Value {
    let upstream = scrape.standing.upstream;
    let totals = &scrape.totals;
    json!({
        "limit": upstream.limit,
        "shared": upstream.shared,
        "pinned": upstream.pinned,
        "subscription": upstream.subscription,
        "waiting": upstream.waiting,
        "waiting_requests": totals.waiting_requests,
        "state_changes": totals.state_changes,
        "tls_handshakes": by_label(TlsHandshake::ALL.map(TlsHandshake::label), &totals.server_handshakes),
        "connects": by_label(ConnectResult::ALL.map(ConnectResult::label), &totals.connects),
        "losses": by_label(LossCause::ALL.map(LossCause::label), &totals.losses),
        "bounds_reached": by_label(Bound::ALL.map(Bound::label), &totals.bounds),
    })
}

fn group(row: &GroupRow, totals: &GroupTotals, pin_reasons: &'static [&'static str]) -> Value {
    let total = |counts: &[(&str, u64)]| counts.iter().map(|(_, count)| count).sum::<u64>();
    let by_reason = |counts: &[(&'static str, u64)]| {
        let (reasons, counts): (Vec<_>, Vec<_>) = counts.iter().copied().unzip();
        by_label(reasons, &counts)
    };
    json!({
        "name": row.name,
        "connections": row.connections,
        "limit": row.limit,
        "warn": row.warn,
        "level": level(row),
        "accepted_total": row.accepted_total,
        "per": row.per,
        "fullest": { "key": row.fullest_key, "connections": row.fullest },
        "keys_at_limit": row.keys_at_limit,
        "keys_at_warn": row.keys_at_warn,
        "mode": if row.is_observed { "observe" } else { "enforce" },
        "rejected_total": total(&row.rejected),
        "rejected": by_reason(&row.rejected),
        "evictions": by_reason(&row.evictions),
        "observed_total": total(&row.observed),
        "observed": by_reason(&row.observed),
        "idle_connections": row.idle_connections,
        "oldest_idle_seconds": row.oldest_idle_seconds,
        "commands_total": totals.commands,
        "bytes_in": totals.bytes_in,
        "bytes_out": totals.bytes_out,
        "pins": by_label(pin_reasons.iter().copied(), &totals.pins),
        "disconnects": by_label(Disconnect::ALL.map(Disconnect::label), &totals.disconnects),
    })
}

/// Says how worried the operator should be: `critical` at the cap, `warning` from `warn_connections` on, else `ok`.
/// Where the cap counts keys it is the fullest that decides, and a cap that is only observed turns nobody away.
fn level(row: &GroupRow) -> &'static str {
    let reached = |bound: Option<u64>| bound.is_some_and(|bound| row.fullest >= bound);
    match (reached(row.limit), reached(row.warn)) {
        (true, _) if !row.is_observed => "critical",
        (false, false) => "ok",
        _ => "warning",
    }
}

fn reload(reload: &LastReload) -> Value {
    json!({ "successful": reload.error.is_none(), "at": unix_seconds(reload.at), "error": reload.error })
}

fn known(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn by_label(labels: impl IntoIterator<Item = &'static str>, values: &[u64]) -> Map<String, Value> {
    labels
        .into_iter()
        .map(str::to_owned)
        .zip(values.iter().map(|value| json!(value)))
        .collect()
}
