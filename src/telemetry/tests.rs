//! Tests of the exposition as a whole.

use std::collections::HashSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::*;

const MEMORY: MemoryRow = MemoryRow {
    held: 5 << 20,
    resident: 20 << 20,
    limit: 64 << 20,
};

const PIN_REASONS: &[&str] = &["transaction", "blocking"];

fn group_rows() -> Vec<GroupRow> {
    vec![
        GroupRow {
            name: "test \"scripts\"\n".into(),
            connections: 20,
            limit: Some(20),
            warn: Some(15),
            accepted_total: 50,
            rejected: vec![("group_connections", 30), ("max_clients", 0)],
            observed: vec![("group_connections", 2), ("max_clients", 0)],
            evictions: vec![("evicted", 4), ("returned", 1), ("too_fast", 0)],
            per: "group",
            fullest: 20,
            keys_at_limit: 1,
            keys_at_warn: 1,
            fullest_key: None,
            is_observed: false,
            idle_connections: 19,
            oldest_idle_seconds: Some(77),
        },
        GroupRow {
            name: "default".into(),
            connections: 3,
            ..GroupRow::default()
        },
    ]
}

fn standing() -> ProcessStanding {
    ProcessStanding {
        groups: group_rows(),
        upstream: UpstreamCounts {
            shared: 4,
            pinned: 2,
            subscription: 1,
            limit: 10,
            lendable: 6,
            waiting: 5,
        },
        server: ServerSnapshot {
            address: "127.0.0.1:6379".into(),
            up: true,
            latency_us: Some(250),
            connected_clients: Some(7),
            maxclients: Some(10_000),
            blocked_clients: Some(3),
            certificate_not_after: None,
            product: "redis",
            version: "7.2.4".into(),
            role: "master".into(),
            refusal: None,
            last_error: Some(LastError {
                text: "refused".into(),
                at: UNIX_EPOCH + Duration::from_secs(99),
            }),
        },
        failovers: FailoverRows {
            is_circuit_open: true,
            totals: vec![("reset", 2), ("moved", 0)],
            last: Some(FailoverRow {
                from: "10.0.0.1:6379".into(),
                to: Some("10.0.0.2:6379".into()),
                cause: "reset",
                at: 98,
                seconds: 1.5,
                held: 4,
                failed: 3,
                disconnected: 2,
            }),
        },
        last_reload: LastReload {
            at: UNIX_EPOCH + Duration::from_secs(1_000),
            error: None,
        },
        handshaking: 6,
        arriving: 3,
        operators: 2,
        held_rejected: 30,
        counted: 23,
        max_clients: 100,
        lent: 2,
        blocked_clients: 4,
        top_clients: vec![ClientRow {
            id: 9,
            name: "<b>worker</b>".into(),
            state: "idle",
            ..ClientRow::default()
        }],
        certificates: vec![CertificateRow {
            role: "listener",
            name: "unix:/run/respool.sock".into(),
            not_after: 2_000_000_000,
        }],
        warnings: vec!["upstream.tls.insecure_skip_verify: not verified".into()],
        memory: MEMORY,
        process: ProcessRow {
            parts: vec![PartRow {
                name: "worker-0".into(),
                wrong: None,
            }],
            ..ProcessRow::default()
        },
        uptime: Duration::from_millis(3_600_500),
    }
}

fn workers() -> Vec<Arc<WorkerCounters>> {
    let workers: Vec<_> = (0..2)
        .map(|_| Arc::new(WorkerCounters::new(2, PIN_REASONS)))
        .collect();
    for (worker, n) in workers.iter().zip([1, 10]) {
        worker.group(0).commands.add(n);
        worker.group(1).bytes_in.add(2 * n);
        worker.group(1).bytes_out.add(3 * n);
        worker.group(0).pin(1).add(4 * n);
        worker
            .group(1)
            .disconnect(Disconnect::OutputBuffer)
            .add(5 * n);
        worker.connects(ConnectResult::Refused).add(6 * n);
        worker.losses(LossCause::HalfOpen).add(2 * n);
        worker.client_handshakes(TlsHandshake::Resumed).add(3 * n);
        worker.server_handshakes(TlsHandshake::Failed).add(2 * n);
        worker.bound(Bound::QueueTimeout).add(7 * n);
        worker.waiting_requests.set(8 * n);
        worker.state_changes.add(9 * n);
        worker.request_duration.record_micros(150, n);
        worker.returned_elements.add(n);
    }
    workers
}

fn sample() -> MetricScrape {
    MetricScrape::gather(&workers(), standing())
}

/// Finds the value of the line that starts with `series`.
fn value(text: &str, series: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}"))
        .parse()
        .expect("a number")
}

fn promtool_check(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool must be installed for this test (package prometheus)");
    promtool
        .stdin
        .take()
        .expect("piped")
        .write_all(text.as_bytes())
        .expect("promtool reads its input");
    let output = promtool.wait_with_output().expect("promtool ends");
    let complaints = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && complaints.is_empty(),
        "{complaints}\nin\n{text}"
    );
}

#[test]
fn promtool_accepts_a_full_scrape_an_empty_one_and_a_server_never_seen() {
    promtool_check(&render_metrics(&sample()));
    let mut bare = standing();
    bare.groups.clear();
    bare.server = ServerHealth::new("127.0.0.1:1".into()).snapshot();
    bare.last_reload.error = Some("line 3: unknown key".into());
    promtool_check(&render_metrics(&MetricScrape::gather(&[], bare)));
}

#[test]
fn a_scrape_adds_up_the_workers() {
    let text = render_metrics(&sample());
    let scripts = r#"group="test \"scripts\"\n""#;
    for (series, expected) in [
        (format!("respool_client_connections{{{scripts}}}"), 20.0),
        (
            format!("respool_client_connections_limit{{{scripts}}}"),
            20.0,
        ),
        (
            format!(
                r#"respool_client_connections_rejected_total{{{scripts},reason="group_connections"}}"#
            ),
            30.0,
        ),
        (format!("respool_client_commands_total{{{scripts}}}"), 11.0),
        (
            format!(r#"respool_pins_total{{{scripts},reason="blocking"}}"#),
            44.0,
        ),
        (
            r#"respool_client_bytes_total{group="default",direction="in"}"#.into(),
            22.0,
        ),
        (
            r#"respool_client_bytes_total{group="default",direction="out"}"#.into(),
            33.0,
        ),
        (
            r#"respool_client_disconnects_total{group="default",reason="output_buffer"}"#.into(),
            55.0,
        ),
        (
            r#"respool_upstream_connects_total{result="refused"}"#.into(),
            66.0,
        ),
        (r#"respool_upstream_connections{kind="pinned"}"#.into(), 2.0),
        (
            r#"respool_bounds_reached_total{bound="queue_timeout"}"#.into(),
            77.0,
        ),
        ("respool_upstream_waiting_requests".into(), 88.0),
        ("respool_upstream_state_changes_total".into(), 99.0),
        (
            r#"respool_request_duration_seconds_bucket{le="0.0001"}"#.into(),
            0.0,
        ),
        (
            r#"respool_request_duration_seconds_bucket{le="0.0002"}"#.into(),
            11.0,
        ),
        (
            r#"respool_request_duration_seconds_bucket{le="+Inf"}"#.into(),
            11.0,
        ),
        ("respool_request_duration_seconds_count".into(), 11.0),
        ("respool_server_latency_seconds".into(), 0.00025),
        ("respool_config_last_reload_successful".into(), 1.0),
        (
            format!(
                r#"respool_build_info{{version="{}"}}"#,
                env!("CARGO_PKG_VERSION")
            ),
            1.0,
        ),
    ] {
        assert!(
            (value(&text, &series) - expected).abs() < 1e-12,
            "{series} is not {expected} in\n{text}"
        );
    }
    assert!(
        !text.contains(r#"respool_client_connections_limit{group="default"}"#),
        "no cap, no sample"
    );
}

#[test]
fn tls_is_told_by_side_and_certificate() {
    let text = render_metrics(&sample());
    let handshakes =
        |labels: &str| value(&text, &format!("respool_tls_handshakes_total{{{labels}}}"));
    assert_eq!(handshakes(r#"side="client",result="resumed""#), 33.0);
    assert_eq!(handshakes(r#"side="server",result="failed""#), 22.0);
    let expiry = r#"{role="listener",name="unix:/run/respool.sock"}"#;
    let name = "respool_certificate_expiry_timestamp_seconds";
    assert_eq!(value(&text, &format!("{name}{expiry}")), 2e9);
}

#[test]
fn every_metric_of_the_list_is_exposed_once_with_help_and_unique_series() {
    let text = render_metrics(&sample());
    for metric in METRICS {
        let help = format!("# HELP {} ", metric.name);
        assert_eq!(
            text.lines().filter(|line| line.starts_with(&help)).count(),
            1,
            "{}",
            metric.name
        );
        if let MetricSource::Counter(samples) | MetricSource::Gauge(samples) = metric.source {
            assert!(
                samples(&sample())
                    .iter()
                    .all(|s| s.labels.len() == metric.labels.len()),
                "{}",
                metric.name
            );
        }
    }
    let series: Vec<_> = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.rsplit_once(' '))
        .collect();
    let names: HashSet<_> = series.iter().map(|(series, _)| series).collect();
    assert_eq!(names.len(), series.len());
}

#[test]
fn what_clients_choose_is_no_label() {
    let text = render_metrics(&sample());
    assert!(!text.contains("worker</b>") && !text.contains("127.0.0.1"));
}

#[test]
fn groups_added_by_a_reload_count_nothing_until_they_are_counted() {
    let mut standing = standing();
    standing.groups.push(GroupRow {
        name: "new".into(),
        ..GroupRow::default()
    });
    let scrape = MetricScrape::gather(&workers(), standing);
    assert_eq!(scrape.totals.groups[1].bytes_in, 22);
    assert_eq!(scrape.totals.groups[2].bytes_in, 0);
    let worker = WorkerCounters::new(2, PIN_REASONS);
    worker.group(7).commands.add(1);
    assert_eq!(
        worker.group(1).commands.get(),
        1,
        "an unknown group counts as the last one"
    );
}

#[test]
fn the_status_tells_the_same() {
    let status = status_json(&sample());
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["uptime_seconds"], 3_600);
    assert_eq!(status["server"]["latency_ms"], 0.25);
    assert_eq!(status["server"]["last_error"]["text"], "refused");
    assert_eq!(status["server"]["last_error"]["at"], 99);
    assert_eq!(status["server"]["maxclients"], 10_000);
    assert_eq!(status["pool"]["limit"], 10);
    assert_eq!(status["pool"]["waiting"], 5);
    assert_eq!(status["pool"]["waiting_requests"], 88);
    assert_eq!(status["groups"][0]["rejected_total"], 30);
    assert_eq!(status["groups"][0]["rejected"]["group_connections"], 30);
    assert_eq!(status["groups"][0]["level"], "critical");
    assert_eq!(status["groups"][1]["level"], "ok");
    assert_eq!(status["groups"][1]["limit"], serde_json::Value::Null);
    assert_eq!(status["clients"]["total"], 23);
    assert_eq!(status["clients"]["handshaking"], 6);
    assert_eq!(status["clients"]["held_rejected"], 30);
    assert_eq!(status["clients"]["top"][0]["name"], "<b>worker</b>");
    assert_eq!(status["certificates"][0]["not_after"], 2_000_000_000);
    assert_eq!(
        status["warnings"][0],
        "upstream.tls.insecure_skip_verify: not verified"
    );
    assert_eq!(status["last_reload"]["successful"], true);
}

#[test]
fn the_level_warns_before_the_cap() {
    let mut standing = standing();
    standing.groups[0].fullest = 15;
    let status = status_json(&MetricScrape::gather(&[], standing));
    assert_eq!(status["groups"][0]["level"], "warning");
}

/// Reads the rows of the tables in `docs/metrics.md`: name, type, labels.
fn documented() -> Vec<(String, String, String)> {
    let page = include_str!("../../docs/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `respool_"));
    rows.map(|row| {
        let cells: Vec<_> = row
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect();
        (cells[1].clone(), cells[2].clone(), cells[3].clone())
    })
    .collect()
}

#[test]
fn the_page_and_the_list_name_the_same_metrics() {
    let listed = METRICS.iter().map(|metric| {
        let kind = match metric.source {
            MetricSource::Counter(_) => "counter",
            MetricSource::Gauge(_) => "gauge",
            MetricSource::Histogram(_) => "histogram",
        };
        (
            metric.name.to_owned(),
            kind.to_owned(),
            metric.labels.join(", "),
        )
    });
    assert_eq!(
        documented(),
        listed.collect::<Vec<_>>(),
        "docs/metrics.md and METRICS differ (names, types, labels, order)"
    );
}

#[test]
fn the_page_explains_every_constant_label_value() {
    let page = include_str!("../../docs/metrics.md");
    let labels = Disconnect::ALL.map(Disconnect::label).into_iter();
    let labels = labels
        .chain(Bound::ALL.map(Bound::label))
        .chain(ConnectResult::ALL.map(ConnectResult::label))
        .chain(TlsHandshake::ALL.map(TlsHandshake::label));
    for label in labels {
        assert!(
            page.contains(&format!("`{label}`")),
            "{label} is not explained"
        );
    }
}
