//! What is wrong now and what to do about it, one line each: the `warnings` of `/status`, before those that are only worth a
//! word.
//!
//! Pure: from what stands at one moment. Invariant: a fault that is over is not told.

use super::{GroupRow, ProcessStanding};

/// Lists everything that is wrong in `standing`, what concerns most people first.
pub fn faults(standing: &ProcessStanding) -> Vec<String> {
    let mut faults = Vec::new();
    faults.extend(server(standing));
    faults.extend(circuit(standing));
    faults.extend(reload(standing));
    faults.extend(everybody(standing));
    faults.extend(standing.groups.iter().filter_map(group));
    faults.extend(leases(standing));
    faults.extend(process(standing));
    faults
}

fn server(standing: &ProcessStanding) -> Option<String> {
    let server = &standing.server;
    let last = server.last_error.as_ref();
    let why = last.map_or(String::new(), |last| format!(": {}", last.text));
    (!server.up).then(|| {
        format!(
            "the server {} does not answer{why}; commands wait for it (upstream.queue.timeout): see that it runs, and that \
             upstream.address, upstream.tls and the password are right",
            server.address
        )
    })
}

fn circuit(standing: &ProcessStanding) -> Option<String> {
    standing.failovers.is_circuit_open.then(|| {
        "the circuit is open: the server was away for so long that commands are answered at once as not sent \
         (upstream.circuit.after); they are sent again when a connection comes about"
            .to_owned()
    })
}

fn reload(standing: &ProcessStanding) -> Option<String> {
    let error = standing.last_reload.error.as_ref()?;
    let error = error.lines().map(str::trim).collect::<Vec<_>>().join("; ");
    Some(format!(
        "the configuration was not reloaded, and the one before stays in force: {error}; correct the file and reload again"
    ))
}

/// Tells what is wrong with all groups together.
fn everybody(standing: &ProcessStanding) -> Option<String> {
    let (counted, most) = (standing.counted, standing.max_clients);
    (most > 0 && counted >= most).then(|| {
        format!(
            "there are as many clients as there may be, {counted} of {most} (limits.max_clients): newcomers are rejected; find \
             who holds them with CLIENT LIST, or raise it"
        )
    })
}

fn group(row: &GroupRow) -> Option<String> {
    let limit = row.limit.filter(|limit| row.fullest >= *limit)?;
    let name = &row.name;
    let full = match &row.fullest_key {
        None => format!(
            "group {name:?} is at its cap: {} of {limit} clients",
            row.fullest
        ),
        Some(key) => {
            let keys = row.keys_at_limit;
            let others = match keys {
                0 | 1 => String::new(),
                keys => format!(", and {} more at theirs", keys - 1),
            };
            format!(
                "group {name:?} is at its cap for {key}: {} of {limit} clients{others}",
                row.fullest
            )
        }
    };
    Some(match row.is_observed {
        true => format!(
            "{full} (group.max_connections); newcomers are served, because group.mode is \"observe\", and would be rejected \
             otherwise"
        ),
        false => format!(
            "{full} (group.max_connections): newcomers are rejected; find who holds them with CLIENT LIST, or raise it"
        ),
    })
}

fn leases(standing: &ProcessStanding) -> Option<String> {
    let upstream = standing.upstream;
    let (lent, lendable) = (standing.lent + upstream.subscription, upstream.lendable);
    if upstream.waiting == 0 && (lendable == 0 || lent < lendable) {
        return None;
    }
    let waiting = match upstream.waiting {
        0 => String::new(),
        waiting => format!("; waiting for one (upstream.borrow_timeout): {waiting}"),
    };
    Some(format!(
        "all connections that can be lent are lent: {lendable} of upstream.max_connections, {} to clients and {} to \
         subscriptions{waiting}; raise upstream.max_connections, or bound who takes them (group.max_pinned): \
         respool_pins_total says what for",
        standing.lent, upstream.subscription
    ))
}

/// Tells what the process counts of itself: it does not pass.
fn process(standing: &ProcessStanding) -> Vec<String> {
    let mut faults = Vec::new();
    match standing.process.panics {
        0 => {}
        panics => faults.push(format!(
            "panics since the start: {panics}; a bug of respool, whose log has the place: restart it when that fits"
        )),
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::{
        FailoverRows, LastError, LastReload, MemoryRow, ProcessRow, ServerSnapshot, UpstreamCounts,
    };
    use super::*;

    fn well() -> ProcessStanding {
        ProcessStanding {
            groups: vec![GroupRow {
                name: "default".into(),
                per: "group",
                limit: Some(20),
                connections: 3,
                fullest: 3,
                ..GroupRow::default()
            }],
            upstream: UpstreamCounts {
                limit: 10,
                lendable: 6,
                ..UpstreamCounts::default()
            },
            server: ServerSnapshot {
                address: "127.0.0.1:6379".into(),
                up: true,
                ..ServerSnapshot::default()
            },
            failovers: FailoverRows::default(),
            last_reload: LastReload {
                at: UNIX_EPOCH,
                error: None,
            },
            handshaking: 0,
            arriving: 0,
            operators: 0,
            memory: MemoryRow::default(),
            held_rejected: 0,
            counted: 3,
            max_clients: 100,
            lent: 0,
            blocked_clients: 0,
            top_clients: Vec::new(),
            certificates: Vec::new(),
            warnings: Vec::new(),
            process: ProcessRow::default(),
            uptime: Duration::ZERO,
        }
    }

    /// The one fault of what `change` makes of a process that is well.
    #[track_caller]
    fn fault(change: impl Fn(&mut ProcessStanding)) -> String {
        let mut standing = well();
        change(&mut standing);
        let mut faults = faults(&standing);
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.remove(0)
    }

    #[test]
    fn a_process_that_is_well_has_none() {
        assert_eq!(faults(&well()), [""; 0]);
    }

    #[test]
    fn each_fault_is_told_with_what_to_do() {
        let down = fault(|standing| {
            standing.server.up = false;
            standing.server.last_error = Some(LastError {
                text: "connection refused".into(),
                at: UNIX_EPOCH,
            });
        });
        assert!(
            down.contains("127.0.0.1:6379 does not answer: connection refused"),
            "{down}"
        );
        let open = fault(|standing| standing.failovers.is_circuit_open = true);
        assert!(open.contains("circuit"), "{open}");
        let reload = fault(|standing| {
            standing.last_reload.error = Some("3: workers: wrong\n4: log.level: wrong".into());
        });
        assert!(
            reload.contains("3: workers: wrong; 4: log.level: wrong"),
            "{reload}"
        );
        let full = fault(|standing| standing.counted = 100);
        assert!(full.contains("100 of 100 (limits.max_clients)"), "{full}");
        let waiting = fault(|standing| standing.upstream.waiting = 2);
        assert!(
            waiting.contains("waiting for one (upstream.borrow_timeout): 2"),
            "{waiting}"
        );
        let lent = fault(|standing| (standing.lent, standing.upstream.subscription) = (5, 1));
        assert!(
            lent.contains("5 to clients and 1 to subscriptions"),
            "{lent}"
        );
        let panics = fault(|standing| standing.process.panics = 1);
        assert!(panics.contains("panics"), "{panics}");
    }

    #[test]
    fn a_group_is_told_by_its_fullest_key() {
        let whole = fault(|standing| standing.groups[0].fullest = 20);
        assert!(
            whole.contains("group \"default\" is at its cap: 20 of 20 clients"),
            "{whole}"
        );
        let by_name = |standing: &mut ProcessStanding| {
            let row = &mut standing.groups[0];
            (row.connections, row.per, row.limit) = (60, "client_name", Some(3));
            (row.fullest, row.keys_at_limit) = (3, 4);
            row.fullest_key = Some("client name \"a\"".into());
        };
        let one = fault(by_name);
        assert!(
            one.contains("for client name \"a\": 3 of 3 clients, and 3 more at theirs"),
            "{one}"
        );
        let observed = fault(|standing| {
            by_name(standing);
            standing.groups[0].is_observed = true;
        });
        assert!(observed.contains("newcomers are served"), "{observed}");
    }
}
