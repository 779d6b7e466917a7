//! From the file as written to [`Settings`]: defaults, what follows from the machine, secrets, what is missing.
//!
//! What contradicts something else is found in `conflicts`, on the settings built here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::file::{WrittenFile, key_of, to_usize};
use super::files::read_hosts;
use super::keys::{self, KeyDefault};
use super::machine::{FileSurroundings, MachineResources};
use super::memory::memory_warnings;
use super::problem::ConfigProblem;
use super::typed_value::TypedValue;
use super::value::word_of_host;
use super::{
    Address, AtLimit, CapMode, CapScope, ClientGroup, DEFAULT_GROUP, DrainSettings, GroupMatch,
    Limits, ListenerSettings, LogFormat, LogSettings, OnSubscriptionLoss, QueueBounds,
    ReconnectDelays, ReloadSettings, ServerLogin, ServerRole, Settings, UpstreamSettings,
    UpstreamTls, WrittenDefaults, access, admin, auth, tls,
};

/// Builds the settings that `file` means, and finds what is missing or cannot be had.
///
/// When there is any problem, of this or of reading, stand-ins may be in the place of what was refused: the caller looks for conflicts in
/// them and then drops them.
pub(super) fn settings(
    file: &WrittenFile,
    around: &FileSurroundings<'_>,
) -> (Settings, Vec<ConfigProblem>) {
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
    let listeners: Vec<ListenerSettings> = (0..file.tables("listener"))
        .map(|index| listener(file, around, &format!("listener[{index}]"), &mut problems))
        .collect();
    let groups = groups(file, limits.idle_timeout);
    let mut warnings = tls::warnings(file, upstream.tls.as_ref(), &listeners, around.machine.now);
    warnings.extend(admin::warnings(file, &admin));
    let has_tls = listeners.iter().any(|listener| listener.tls.is_some());
    warnings.extend(memory_warnings(file, &limits, has_tls));
    let settings = Settings {
        written: WrittenDefaults {
            workers: file.line("workers").is_some(),
            instance: file.line("instance").is_some(),
        },
        workers: workers(file, around.machine, &upstream),
        instance: file
            .text("instance")
            .unwrap_or_else(|| word_of_host(&around.machine.host_name)),
        drain: DrainSettings {
            delay: file.time("drain_delay"),
            until_empty: file.flag("drain_until_empty"),
            deadline: file.time("drain_deadline"),
        },
        drain_timeout: file.time("drain_timeout"),
        stall_timeout: file.time("stall_timeout"),
        warnings,
        listeners,
        auth,
        order: (0..groups.len()).collect(),
        groups,
        upstream,
        limits,
        operators: file.texts("admin.users"),
        admin: Arc::new(admin),
        log: log(file),
        reload: ReloadSettings {
            watch: file.flag("reload.watch"),
            interval: file.time("reload.interval"),
        },
    };
    (settings, problems)
}

/// Finds the required keys that are not there, in every table that is.
fn missing(file: &WrittenFile) -> Vec<ConfigProblem> {
    let required = keys::keys()
        .iter()
        .filter(|key| matches!(key.default, KeyDefault::Required));
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
                problems.push(ConfigProblem::new(
                    file.line(&table),
                    key.path(),
                    what,
                    remedy,
                ));
            }
        }
    }
    problems
}

fn workers(file: &WrittenFile, machine: &MachineResources, upstream: &UpstreamSettings) -> usize {
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
    file: &WrittenFile,
    around: &FileSurroundings<'_>,
    path: &str,
    problems: &mut Vec<ConfigProblem>,
) -> ListenerSettings {
    let address = address(file, &format!("{path}.address"));
    let (tls, wrong) = tls::listener(file, around, path);
    problems.extend(wrong);
    let (access, wrong) = access::access(file, path);
    problems.extend(wrong);
    ListenerSettings {
        name: address.to_string(),
        address,
        backlog: file
            .number(&format!("{path}.backlog"))
            .try_into()
            .unwrap_or(u32::MAX),
        tls,
        access,
        admin: file.flag(&format!("{path}.admin")),
    }
}

/// Returns two of five by default: the rest must do for a subscription connection of each worker and for what is lent out.
fn shared_connections(file: &WrittenFile) -> usize {
    let total = file.number("upstream.max_connections");
    let default = (total * 2 / 5).clamp(1, 4);
    file.count("upstream.shared_connections")
        .map_or(default, to_usize)
}

/// Returns the file that names are looked up in; it is read again at every lookup.
fn hosts_file(
    file: &WrittenFile,
    around: &FileSurroundings<'_>,
) -> Result<Option<PathBuf>, ConfigProblem> {
    let key = "upstream.hosts_file";
    let Some(path) = file.text(key).map(|path| around.dir.join(path)) else {
        return Ok(None);
    };
    match read_hosts(&path) {
        Ok(_) => Ok(Some(path)),
        Err(why) => Err(ConfigProblem::new(
            file.line(key),
            key,
            format!("{} cannot be read: {why}", path.display()),
            "name a file of the form of /etc/hosts, or remove the key",
        )),
    }
}

/// The server may be away for this long by default until it counts as down: never shorter than commands wait for it.
const CIRCUIT_AFTER: Duration = Duration::from_secs(10);

fn upstream(
    file: &WrittenFile,
    login: Option<ServerLogin>,
    tls: Option<UpstreamTls>,
    hosts_file: Option<PathBuf>,
) -> UpstreamSettings {
    let queue_timeout = file.time("upstream.queue.timeout");
    UpstreamSettings {
        address: address(file, "upstream.address"),
        role: match file.choice("upstream.role") {
            Some("replica") => ServerRole::Replica,
            _ => ServerRole::Primary,
        },
        hosts_file,
        resolve_interval: file.time("upstream.resolve_interval"),
        move_timeout: file.time("upstream.move_timeout"),
        max_connections: file.number("upstream.max_connections"),
        shared_connections: shared_connections(file),
        connect_timeout: file.time("upstream.connect_timeout"),
        reply_timeout: file.time("upstream.reply_timeout"),
        busy_timeout: file.time("upstream.busy_timeout"),
        keepalive: file.time("upstream.keepalive"),
        ping_interval: file.time("upstream.ping_interval"),
        health_interval: file.time("upstream.health_interval"),
        reconnect: ReconnectDelays {
            initial: file.time("upstream.reconnect.initial"),
            max: file.time("upstream.reconnect.max"),
        },
        max_connects_per_second: file
            .count("upstream.max_connects_per_second")
            .map_or(u32::MAX, |rate| u32::try_from(rate).unwrap_or(u32::MAX)),
        circuit_after: file
            .duration("upstream.circuit.after")
            .unwrap_or(CIRCUIT_AFTER.max(queue_timeout)),
        queue: QueueBounds {
            timeout: queue_timeout,
            max_commands: file.number("upstream.queue.max_commands"),
        },
        borrow_timeout: file.time("upstream.borrow_timeout"),
        max_write_buffer: file.bytes("upstream.max_write_buffer"),
        max_shared_request: file.bytes("upstream.max_shared_request"),
        on_subscription_loss: match file.choice("upstream.on_subscription_loss") {
            Some("close") => OnSubscriptionLoss::Close,
            _ => OnSubscriptionLoss::Resubscribe,
        },
        tls,
        login,
        reauthenticate_after: file.time("upstream.reauthenticate_after"),
    }
}

fn limits(file: &WrittenFile, machine: &MachineResources) -> Limits {
    Limits {
        max_clients: file.number("limits.max_clients"),
        max_memory: match file.value("limits.max_memory") {
            Some(TypedValue::Size(bytes)) => to_usize(bytes),
            _ => machine.memory / 4 * 3,
        },
        max_client_buffer: file.bytes("limits.max_client_buffer"),
        reply_stall_timeout: file.time("limits.reply_stall_timeout"),
        pubsub_buffer: file.bytes("limits.pubsub_buffer"),
        max_client_subscriptions: file.number("limits.max_client_subscriptions"),
        max_client_in_flight: file.number("limits.max_client_in_flight"),
        max_client_read_ahead: file.bytes("limits.max_client_read_ahead"),
        max_client_query_buffer: file.bytes("limits.max_client_query_buffer"),
        max_request: file.bytes("limits.max_request"),
        idle_timeout: file.time("limits.idle_timeout"),
        handshake_timeout: file.time("limits.handshake_timeout"),
        half_closed_grace: file.time("limits.half_closed_grace"),
        request_stall_timeout: file.time("limits.request_stall_timeout"),
        upload_patience: file.time("limits.upload_patience"),
        keepalive: file.time("limits.keepalive"),
        explain_rejections: file.flag("limits.explain_rejections"),
        reject_hold: file.time("limits.reject_hold"),
        max_rejected: file.number("limits.max_rejected"),
        max_arriving: file.number("limits.max_arriving"),
        arriving_timeout: file.time("limits.arriving_timeout"),
        operator_places: file.number("limits.operator_places"),
        enforce_on_reload: file.flag("limits.enforce_on_reload"),
    }
}

/// Returns the groups as written, and `default` behind them unless the operator wrote it.
fn groups(file: &WrittenFile, idle_timeout: Duration) -> Vec<ClientGroup> {
    let mut groups: Vec<ClientGroup> = (0..file.tables("group"))
        .map(|index| group(file, &format!("group[{index}]"), idle_timeout))
        .collect();
    if groups.last().is_none_or(|last| last.name != DEFAULT_GROUP) {
        groups.push(ClientGroup {
            name: DEFAULT_GROUP.to_owned(),
            matches: GroupMatch::default(),
            per: CapScope::Group,
            max_connections: None,
            warn_connections: None,
            max_connects_per_second: None,
            max_pinned: None,
            idle_timeout,
            at_limit: AtLimit::Reject,
            evict_pause: Duration::ZERO,
            max_evictions_per_second: 1,
            mode: CapMode::Enforce,
            deny_commands: Vec::new(),
        });
    }
    groups
}

fn group(file: &WrittenFile, path: &str, idle_timeout: Duration) -> ClientGroup {
    let at = |name: &str| format!("{path}.{name}");
    let cap = |name: &str| file.count(&at(name)).map(to_usize);
    ClientGroup {
        name: file.text(&at("name")).unwrap_or_default(),
        matches: GroupMatch {
            address: match file.value(&at("match.address")) {
                Some(TypedValue::Networks(networks)) => networks,
                _ => Vec::new(),
            },
            listener: file.glob(&at("match.listener")),
            client_name: file.glob(&at("match.client_name")),
            user: file.glob(&at("match.user")),
            certificate_name: file.glob(&at("match.certificate_name")),
        },
        per: match file.choice(&at("per")) {
            Some("address") => CapScope::Address {
                ipv6_prefix: file
                    .count(&at("per_ipv6_prefix"))
                    .and_then(|bits| u8::try_from(bits).ok())
                    .unwrap_or(64),
            },
            Some("client_name") => CapScope::ClientName,
            Some("user") => CapScope::User,
            _ => CapScope::Group,
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
        evict_pause: file.time(&at("evict_pause")),
        max_evictions_per_second: file
            .count(&at("max_evictions_per_second"))
            .map_or(u32::MAX, |rate| u32::try_from(rate).unwrap_or(u32::MAX)),
        mode: match file.choice(&at("mode")) {
            Some("observe") => CapMode::Observe,
            _ => CapMode::Enforce,
        },
        deny_commands: match file.value(&at("deny_commands")) {
            Some(TypedValue::Commands(commands)) => commands,
            _ => Vec::new(),
        },
    }
}

fn log(file: &WrittenFile) -> LogSettings {
    LogSettings {
        level: file.choice("log.level").unwrap_or("info").to_owned(),
        format: match file.choice("log.format") {
            Some("json") => LogFormat::Json,
            _ => LogFormat::Text,
        },
        buffer: file.bytes("log.buffer"),
    }
}

/// Returns the address under `path`, or a stand-in that no socket has where it was refused or is missing.
fn address(file: &WrittenFile, path: &str) -> Address {
    file.address(path)
        .unwrap_or(Address::Unix(std::path::PathBuf::new()))
}
