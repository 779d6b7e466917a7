//! From the file as written to [`Settings`]: defaults, what follows from the machine, secrets, what is missing.
//!
//! What contradicts something else is found in `conflicts`, on the settings built here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::file::{File, key_of};
use super::files::read_hosts;
use super::keys::{self, Fallback};
use super::leaf::Value;
use super::machine::Machine;
use super::problem::Problem;
use super::value::word_of_host;
use super::{
    Address, AtLimit, Drain, Group, Limits, Listener, Log, LogFormat, Login, Match, Mode,
    OnSubscriptionLoss, Per, Queue, Reconnect, Reload, Role, Settings, Upstream, UpstreamTls,
    Written, access, admin, auth, tls,
};

/// What stands around the file.
pub(super) struct Surroundings<'a> {
    /// Where relative paths start.
    pub(super) dir: &'a Path,
    pub(super) machine: &'a Machine,
    /// The value of an environment variable.
    pub(super) environment: &'a dyn Fn(&str) -> Option<String>,
}

/// The settings that `file` means, and what is missing or cannot be had.
///
/// When there is any problem, of this or of reading, stand-ins may be in the place of what was refused: the caller
/// looks for conflicts in them and then drops them.
pub(super) fn settings(file: &File, around: &Surroundings<'_>) -> (Settings, Vec<Problem>) {
    let mut problems = missing(file);
    let (login, wrong) = auth::login(file, around);
    problems.extend(wrong);
    let (tls, wrong) = tls::upstream(file, around, &address(file, "upstream.address"));
    problems.extend(wrong);
    let hosts_file = hosts_file(file, around).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    let upstream = upstream(file, login, tls, hosts_file);
    let (auth, wrong) = auth::auth(file, around);
    problems.extend(wrong);
    let (admin, wrong) = admin::admin(file, around);
    problems.extend(wrong);
    let limits = limits(file, around.machine);
    let listeners: Vec<Listener> = (0..file.tables("listener"))
        .map(|index| listener(file, around, &format!("listener[{index}]"), &mut problems))
        .collect();
    let groups = groups(file, limits.idle_timeout);
    let mut warnings = tls::warnings(file, upstream.tls.as_ref(), &listeners, around.machine.now);
    warnings.extend(admin::warnings(file, &admin));
    let has_tls = listeners.iter().any(|listener| listener.tls.is_some());
    warnings.extend(super::conflicts::memory_warnings(file, &limits, has_tls));
    let settings = Settings {
        written: Written {
            workers: file.line("workers").is_some(),
            instance: file.line("instance").is_some(),
        },
        workers: workers(file, around.machine, &upstream),
        instance: file
            .text("instance")
            .unwrap_or_else(|| word_of_host(&around.machine.host_name)),
        drain: Drain {
            delay: time(file, "drain_delay"),
            until_empty: matches!(file.value("drain_until_empty"), Some(Value::Flag(true))),
            deadline: time(file, "drain_deadline"),
        },
        drain_timeout: time(file, "drain_timeout"),
        stall_timeout: time(file, "stall_timeout"),
        warnings,
        listeners,
        auth,
        order: (0..groups.len()).collect(),
        groups,
        upstream,
        limits,
        operators: match file.value("admin.users") {
            Some(Value::Texts(users)) => users,
            _ => Vec::new(),
        },
        admin: Arc::new(admin),
        log: log(file),
        reload: Reload {
            watch: matches!(file.value("reload.watch"), Some(Value::Flag(true))),
            interval: time(file, "reload.interval"),
        },
    };
    (settings, problems)
}

/// Required keys that are not there, in every table that is.
fn missing(file: &File) -> Vec<Problem> {
    let required = keys::keys()
        .iter()
        .filter(|key| matches!(key.default, Fallback::Required));
    let mut problems = Vec::new();
    for key in required {
        let (table, name) = (key.table(), key.name());
        let tables: Vec<String> = match key.path() {
            // What is missing of a server that is not there at all is its address.
            "upstream" => continue,
            "listener" if file.tables("listener") > 0 => continue,
            "listener" | "upstream.address" => vec![table.to_owned()],
            _ => file.written(table),
        };
        for table in tables {
            let path = if table.is_empty() {
                name.to_owned()
            } else {
                format!("{table}.{name}")
            };
            if file.line(&path).is_none() && !file.is_refused(&path) {
                let (what, remedy) = match key.path() {
                    "listener" => (
                        "nothing to listen on",
                        "add [[listener]] with an address".to_owned(),
                    ),
                    "upstream.address" => (
                        "missing",
                        "add the server's address to [upstream]".to_owned(),
                    ),
                    _ if key_of(&table).contains('.') => (
                        "missing",
                        format!("add {name} = \"...\" to this {}", key_of(&table)),
                    ),
                    _ => (
                        "missing",
                        format!("add {name} = \"...\" to this [[{}]]", key_of(&table)),
                    ),
                };
                problems.push(Problem::new(file.line(&table), key.path(), what, remedy));
            }
        }
    }
    problems
}

fn workers(file: &File, machine: &Machine, upstream: &Upstream) -> usize {
    // More workers than shared connections cannot be had, and each takes another for subscriptions: the default gives way;
    // a number that is written does not.
    let shared = upstream.shared_connections;
    let lent = upstream.max_connections.saturating_sub(shared);
    let default = machine
        .cores
        .min(shared)
        .min(lent.saturating_sub(1))
        .clamp(1, 256);
    file.count("workers").map_or(default, to_usize)
}

fn listener(
    file: &File,
    around: &Surroundings<'_>,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Listener {
    let address = address(file, &format!("{path}.address"));
    let (tls, wrong) = tls::listener(file, around, path);
    problems.extend(wrong);
    let (access, wrong) = access::access(file, path);
    problems.extend(wrong);
    Listener {
        name: address.to_string(),
        address,
        backlog: number(file, &format!("{path}.backlog"))
            .try_into()
            .unwrap_or(u32::MAX),
        tls,
        access,
        admin: matches!(
            file.value(&format!("{path}.admin")),
            Some(Value::Flag(true))
        ),
    }
}

/// Two of five: the rest must do for a subscription connection of each worker and for what is lent out.
fn shared_connections(file: &File) -> usize {
    let total = number(file, "upstream.max_connections");
    let default = (total * 2 / 5).clamp(1, 4);
    file.count("upstream.shared_connections")
        .map_or(default, to_usize)
}

/// The file that names are looked up in; it is read again at every lookup.
fn hosts_file(file: &File, around: &Surroundings<'_>) -> Result<Option<PathBuf>, Problem> {
    let key = "upstream.hosts_file";
    let Some(path) = file.text(key).map(|path| around.dir.join(path)) else {
        return Ok(None);
    };
    match read_hosts(&path) {
        Ok(_) => Ok(Some(path)),
        Err(why) => Err(Problem::new(
            file.line(key),
            key,
            format!("{} cannot be read: {why}", path.display()),
            "name a file of the form of /etc/hosts, or remove the key",
        )),
    }
}

/// How long the server may be away until it counts as down: not shorter than commands wait for it.
const CIRCUIT_AFTER: Duration = Duration::from_secs(10);

fn upstream(
    file: &File,
    login: Option<Login>,
    tls: Option<UpstreamTls>,
    hosts_file: Option<PathBuf>,
) -> Upstream {
    let queue_timeout = time(file, "upstream.queue.timeout");
    Upstream {
        address: address(file, "upstream.address"),
        role: match file.choice("upstream.role") {
            Some("replica") => Role::Replica,
            _ => Role::Primary,
        },
        hosts_file,
        resolve_interval: time(file, "upstream.resolve_interval"),
        move_timeout: time(file, "upstream.move_timeout"),
        max_connections: number(file, "upstream.max_connections"),
        shared_connections: shared_connections(file),
        connect_timeout: time(file, "upstream.connect_timeout"),
        reply_timeout: time(file, "upstream.reply_timeout"),
        busy_timeout: time(file, "upstream.busy_timeout"),
        keepalive: time(file, "upstream.keepalive"),
        ping_interval: time(file, "upstream.ping_interval"),
        health_interval: time(file, "upstream.health_interval"),
        reconnect: Reconnect {
            initial: time(file, "upstream.reconnect.initial"),
            max: time(file, "upstream.reconnect.max"),
        },
        max_connects_per_second: file
            .count("upstream.max_connects_per_second")
            .map_or(u32::MAX, |rate| u32::try_from(rate).unwrap_or(u32::MAX)),
        circuit_after: file
            .duration("upstream.circuit.after")
            .unwrap_or(CIRCUIT_AFTER.max(queue_timeout)),
        queue: Queue {
            timeout: queue_timeout,
            max_commands: number(file, "upstream.queue.max_commands"),
        },
        borrow_timeout: time(file, "upstream.borrow_timeout"),
        max_write_buffer: bytes(file, "upstream.max_write_buffer"),
        max_shared_request: bytes(file, "upstream.max_shared_request"),
        on_subscription_loss: match file.choice("upstream.on_subscription_loss") {
            Some("close") => OnSubscriptionLoss::Close,
            _ => OnSubscriptionLoss::Resubscribe,
        },
        tls,
        login,
        reauthenticate_after: time(file, "upstream.reauthenticate_after"),
    }
}

fn limits(file: &File, machine: &Machine) -> Limits {
    Limits {
        max_clients: number(file, "limits.max_clients"),
        max_memory: match file.value("limits.max_memory") {
            Some(Value::Size(bytes)) => to_usize(bytes),
            _ => machine.memory / 4 * 3,
        },
        max_client_buffer: bytes(file, "limits.max_client_buffer"),
        reply_stall_timeout: time(file, "limits.reply_stall_timeout"),
        pubsub_buffer: bytes(file, "limits.pubsub_buffer"),
        max_client_subscriptions: number(file, "limits.max_client_subscriptions"),
        max_client_in_flight: number(file, "limits.max_client_in_flight"),
        max_client_read_ahead: bytes(file, "limits.max_client_read_ahead"),
        max_client_query_buffer: bytes(file, "limits.max_client_query_buffer"),
        max_request: bytes(file, "limits.max_request"),
        idle_timeout: time(file, "limits.idle_timeout"),
        handshake_timeout: time(file, "limits.handshake_timeout"),
        half_closed_grace: time(file, "limits.half_closed_grace"),
        request_stall_timeout: time(file, "limits.request_stall_timeout"),
        upload_patience: time(file, "limits.upload_patience"),
        keepalive: time(file, "limits.keepalive"),
        explain_rejections: matches!(
            file.value("limits.explain_rejections"),
            Some(Value::Flag(true))
        ),
        reject_hold: time(file, "limits.reject_hold"),
        max_rejected: number(file, "limits.max_rejected"),
        max_arriving: number(file, "limits.max_arriving"),
        arriving_timeout: time(file, "limits.arriving_timeout"),
        operator_places: number(file, "limits.operator_places"),
        enforce_on_reload: matches!(
            file.value("limits.enforce_on_reload"),
            Some(Value::Flag(true))
        ),
    }
}

/// The groups as written, and `default` behind them unless the operator wrote it.
fn groups(file: &File, idle_timeout: Duration) -> Vec<Group> {
    let mut groups: Vec<Group> = (0..file.tables("group"))
        .map(|index| group(file, &format!("group[{index}]"), idle_timeout))
        .collect();
    if groups.last().is_none_or(|last| last.name != DEFAULT_GROUP) {
        groups.push(Group {
            name: DEFAULT_GROUP.to_owned(),
            matches: Match::default(),
            per: Per::Group,
            max_connections: None,
            warn_connections: None,
            max_connects_per_second: None,
            max_pinned: None,
            idle_timeout,
            at_limit: AtLimit::Reject,
            evict_pause: Duration::ZERO,
            max_evictions_per_second: 1,
            mode: Mode::Enforce,
            deny_commands: Vec::new(),
        });
    }
    groups
}

/// The name of the group that takes whom no other takes.
pub(super) const DEFAULT_GROUP: &str = "default";

fn group(file: &File, path: &str, idle_timeout: Duration) -> Group {
    let at = |name: &str| format!("{path}.{name}");
    let cap = |name: &str| file.count(&at(name)).map(to_usize);
    Group {
        name: file.text(&at("name")).unwrap_or_default(),
        matches: Match {
            address: match file.value(&at("match.address")) {
                Some(Value::Networks(networks)) => networks,
                _ => Vec::new(),
            },
            listener: file.glob(&at("match.listener")),
            client_name: file.glob(&at("match.client_name")),
            user: file.glob(&at("match.user")),
            certificate_name: file.glob(&at("match.certificate_name")),
        },
        per: match file.choice(&at("per")) {
            Some("address") => Per::Address {
                ipv6_prefix: file
                    .count(&at("per_ipv6_prefix"))
                    .and_then(|bits| u8::try_from(bits).ok())
                    .unwrap_or(64),
            },
            Some("client_name") => Per::ClientName,
            Some("user") => Per::User,
            _ => Per::Group,
        },
        max_connections: cap("max_connections"),
        warn_connections: cap("warn_connections"),
        max_connects_per_second: file
            .count(&at("max_connects_per_second"))
            .map(|rate| u32::try_from(rate).unwrap_or(u32::MAX)),
        max_pinned: cap("max_pinned"),
        idle_timeout: file.duration(&at("idle_timeout")).unwrap_or(idle_timeout),
        at_limit: match file.choice(&at("at_limit")) {
            Some("evict-idle") => AtLimit::EvictIdle,
            _ => AtLimit::Reject,
        },
        evict_pause: time(file, &at("evict_pause")),
        max_evictions_per_second: file
            .count(&at("max_evictions_per_second"))
            .map_or(u32::MAX, |rate| u32::try_from(rate).unwrap_or(u32::MAX)),
        mode: match file.choice(&at("mode")) {
            Some("observe") => Mode::Observe,
            _ => Mode::Enforce,
        },
        deny_commands: match file.value(&at("deny_commands")) {
            Some(Value::Commands(commands)) => commands,
            _ => Vec::new(),
        },
    }
}

fn log(file: &File) -> Log {
    Log {
        level: file.choice("log.level").unwrap_or("info").to_owned(),
        format: match file.choice("log.format") {
            Some("json") => LogFormat::Json,
            _ => LogFormat::Text,
        },
        buffer: bytes(file, "log.buffer"),
    }
}

/// The address under `path`, or a stand-in that no socket has where it was refused or is missing.
fn address(file: &File, path: &str) -> Address {
    file.address(path)
        .unwrap_or(Address::Unix(std::path::PathBuf::new()))
}

pub(super) fn time(file: &File, path: &str) -> Duration {
    file.duration(path).unwrap_or_default()
}

fn number(file: &File, path: &str) -> usize {
    file.count(path).map_or(0, to_usize)
}

fn bytes(file: &File, path: &str) -> usize {
    file.size(path).map_or(0, to_usize)
}

/// The list of keys bounds every number far below what an address space of 64 bits counts.
pub(super) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
