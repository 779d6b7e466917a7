//! The one list of keys: what may be written, of what kind it is, and what holds when it is not written.
//!
//! Unknown keys and their suggestions, defaults and the test of `docs/configuration.md` derive from it; a key that is
//! not in here does not exist. What a value means is read in `value`, what it becomes is decided in `check`.

/// Describes a key of the configuration file.
#[derive(Debug)]
pub struct SettingKey {
    path: &'static str,
    pub(super) kind: ValueKind,
    pub(super) default: KeyDefault,
}

/// Says what is written under a key, with its bounds.
#[derive(Debug, Clone, Copy)]
pub(super) enum ValueKind {
    /// A table is written: `[name]` or `{ ... }`.
    Table,
    /// Several tables are written: `[[name]]`.
    Tables,
    /// A whole number within these bounds is written.
    Count { min: u64, max: u64 },
    /// A time of at least `min_ms` is written; zero only where it has a meaning of its own.
    Duration { min_ms: u64, zero: bool },
    /// A number of bytes within these bounds is written.
    Size { min: u64, max: u64 },
    /// It is `true` or `false`.
    Flag,
    /// The permission bits of a file are written, as octal text.
    Mode,
    /// One of these words is written; the `later` ones belong to a version to come.
    Choice {
        of: &'static [&'static str],
        later: &'static [&'static str],
    },
    /// It is `host:port` or `unix:/path`.
    Address,
    /// It is `ip:port` or `unix:/path`.
    AdminAddress,
    /// It is a list of names of hosts.
    Hosts,
    /// It is a list of IP addresses and CIDR networks.
    Networks,
    /// It is a pattern of `*`, `?`, `[...]`, `{a,b}`.
    Glob,
    /// It is a list of names, each any text but the empty one.
    Names,
    /// It is a list of command names, `name|subcommand` or `@category`.
    Commands,
    /// It is a word of letters, digits and `-_.:/`, which becomes part of logs, metric labels and client names.
    Word,
    /// It is any text but the empty one.
    Text,
    /// It is text that is never shown.
    Secret,
    /// It is a list of digests of passwords, never shown.
    Digests,
    /// It is a program and its arguments.
    Argv,
    /// It is not in this version; the text is the remedy.
    Later(&'static str),
}

/// Says what holds when a key is not written.
#[derive(Debug, Clone, Copy)]
pub(super) enum KeyDefault {
    /// This value holds, as it would be written in the file.
    Is(&'static str),
    /// Nothing holds: the file is wrong without it.
    Required,
    /// The setting is off or empty.
    Absent,
    /// Something holds that follows from the machine or from another key, told in words.
    From(&'static str),
}

impl SettingKey {
    /// Returns the key with the tables it stands in, without the indices of `[[tables]]`: `group.match.user`.
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// Says its kind in the words of `docs/configuration.md`.
    pub fn kind_text(&self) -> String {
        let text = match self.kind {
            ValueKind::Table => "table",
            ValueKind::Tables => "tables",
            ValueKind::Count { .. } => "count",
            ValueKind::Duration { .. } => "duration",
            ValueKind::Size { .. } => "size",
            ValueKind::Flag => "`true`, `false`",
            ValueKind::Mode => "mode",
            ValueKind::Choice { of, .. } => {
                let quoted: Vec<String> = of.iter().map(|word| format!("`\"{word}\"`")).collect();
                return quoted.join(", ");
            }
            ValueKind::Address => "address",
            ValueKind::AdminAddress => "IP address and port, or `unix:/path`",
            ValueKind::Hosts => "list of host names",
            ValueKind::Networks => "list of networks",
            ValueKind::Glob => "glob",
            ValueKind::Names => "list of names",
            ValueKind::Commands => "list of commands",
            ValueKind::Word => "word",
            ValueKind::Text => "text",
            ValueKind::Secret => "secret",
            ValueKind::Digests => "list of digests",
            ValueKind::Argv => "program and arguments",
            ValueKind::Later(_) => "not in this version",
        };
        text.to_owned()
    }

    /// Says its default in the words of `docs/configuration.md`.
    pub fn default_text(&self) -> String {
        match self.default {
            KeyDefault::Is(toml) => format!("`{toml}`"),
            KeyDefault::Required => "required".to_owned(),
            KeyDefault::Absent => "none".to_owned(),
            KeyDefault::From(words) => words.to_owned(),
        }
    }

    /// Tells whether it only holds other keys.
    pub fn is_table(&self) -> bool {
        matches!(self.kind, ValueKind::Table | ValueKind::Tables)
    }

    /// Returns its last part: `user` of `group.match.user`.
    pub(super) fn name(&self) -> &'static str {
        self.path
            .rsplit_once('.')
            .map_or(self.path, |(_, name)| name)
    }

    /// Returns the table it stands in: `group.match` of `group.match.user`, empty at the top.
    pub(super) fn table(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(table, _)| table)
    }
}

/// Lists every key, tables before what stands in them.
pub fn keys() -> &'static [SettingKey] {
    KEYS
}

/// Finds the key of this path.
pub(super) fn find(path: &str) -> Option<&'static SettingKey> {
    KEYS.iter().find(|key| key.path == path)
}

/// Lists the keys that stand directly in this table.
pub(super) fn in_table(table: &str) -> impl Iterator<Item = &'static SettingKey> {
    KEYS.iter().filter(move |key| key.table() == table)
}

/// Finds the key of `table` that someone who wrote `name` most likely meant.
pub(super) fn nearest(table: &str, name: &str) -> Option<&'static SettingKey> {
    let known: Vec<&SettingKey> = in_table(table)
        .filter(|key| !matches!(key.kind, ValueKind::Later(_)))
        .collect();
    let names = known.iter().map(|key| key.name());
    let word = nearest_word(names, name)?;
    known.into_iter().find(|key| key.name() == word)
}

/// Finds the word nearest to `written`, if one is near enough to have been meant.
pub(super) fn nearest_word<'a>(
    words: impl Iterator<Item = &'a str>,
    written: &str,
) -> Option<&'a str> {
    // An absurdly long key is no misspelling, and the distance costs the product of both lengths.
    if written.len() > 64 {
        return None;
    }
    let written = written.to_lowercase().replace('-', "_");
    words
        .map(|word| {
            (
                strsim::damerau_levenshtein(&word.replace('-', "_"), &written),
                word,
            )
        })
        .filter(|(distance, word)| *distance <= (word.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

const fn key(path: &'static str, kind: ValueKind, default: KeyDefault) -> SettingKey {
    SettingKey {
        path,
        kind,
        default,
    }
}

const fn count(min: u64, max: u64) -> ValueKind {
    ValueKind::Count { min, max }
}

/// Makes the kind of a time that cannot be zero.
const fn time() -> ValueKind {
    ValueKind::Duration {
        min_ms: 1,
        zero: false,
    }
}

/// Makes the kind of a time whose zero means something: never, off, at once.
const fn time_or_zero(min_ms: u64) -> ValueKind {
    ValueKind::Duration { min_ms, zero: true }
}

const fn size(min: u64, max: u64) -> ValueKind {
    ValueKind::Size { min, max }
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const TIB: u64 = MIB * MIB;
/// No server or process can hold more sockets: what is past it is a slip of the finger.
const MANY: u64 = 10_000_000;

use KeyDefault::{Absent, From, Is, Required};

#[rustfmt::skip]
const KEYS: &[SettingKey] = &[
    key("workers", count(1, 256), From("one for each core, at most `upstream.shared_connections` and fewer than there are connections to lend")),
    key("instance", ValueKind::Word, From("the host's name")),
    key("drain_delay", time_or_zero(1), Is("\"0s\"")),
    key("drain_until_empty", ValueKind::Flag, Is("false")),
    key("drain_deadline", time(), Is("\"20s\"")),
    key("drain_timeout", time_or_zero(1), Is("\"10s\"")),
    key("stall_timeout", ValueKind::Duration { min_ms: 500, zero: false }, Is("\"10s\"")),

    key("auth", ValueKind::Table, Absent),
    key("auth.mode", ValueKind::Choice { of: &["optional", "none", "proxy", "passthrough"], later: &[] }, Is("\"optional\"")),
    key("auth.free_failures", count(0, MANY), Is("10")),
    key("auth.max_failure_delay", time_or_zero(1), Is("\"1s\"")),
    key("auth.max_attempts_in_flight", count(1, MANY), Is("16")),
    key("auth.max_attempts_waiting", count(1, MANY), Is("100")),
    key("auth.max_failing_addresses", count(16, MANY), Is("4096")),
    key("auth.user", ValueKind::Tables, Absent),
    key("auth.user.name", ValueKind::Text, Required),
    key("auth.user.password", ValueKind::Secret, Absent),
    key("auth.user.password_file", ValueKind::Text, Absent),
    key("auth.user.password_env", ValueKind::Text, Absent),
    key("auth.user.password_sha256", ValueKind::Digests, Absent),

    key("listener", ValueKind::Tables, Required),
    key("listener.address", ValueKind::Address, Required),
    key("listener.admin", ValueKind::Flag, Is("false")),
    key("listener.backlog", count(1, 65_535), Is("1024")),
    key("listener.mode", ValueKind::Mode, Absent),
    key("listener.owner", ValueKind::Text, Absent),
    key("listener.group", ValueKind::Text, Absent),
    key("listener.tls", ValueKind::Table, Absent),
    key("listener.tls.cert_file", ValueKind::Text, Required),
    key("listener.tls.key_file", ValueKind::Text, Required),
    key("listener.tls.client_ca_file", ValueKind::Text, Absent),
    key("listener.proxy_protocol_from", ValueKind::Later("remove it; clients are known by the address of their socket"), Absent),

    key("upstream", ValueKind::Table, Required),
    key("upstream.address", ValueKind::Address, Required),
    key("upstream.role", ValueKind::Choice { of: &["primary", "replica"], later: &[] }, Is("\"primary\"")),
    key("upstream.hosts_file", ValueKind::Text, Absent),
    key("upstream.resolve_interval", time_or_zero(100), Is("\"5s\"")),
    key("upstream.move_timeout", time(), Is("\"10s\"")),
    key("upstream.max_connections", count(2, MANY), Is("10")),
    key("upstream.shared_connections", count(1, MANY), From("two of five, at most 4")),
    key("upstream.connect_timeout", time(), Is("\"5s\"")),
    key("upstream.reply_timeout", time(), Is("\"10s\"")),
    key("upstream.busy_timeout", time(), Is("\"10m\"")),
    key("upstream.keepalive", time_or_zero(1000), Is("\"30s\"")),
    key("upstream.ping_interval", time_or_zero(100), Is("\"15s\"")),
    key("upstream.health_interval", time_or_zero(100), Is("\"10s\"")),
    key("upstream.reconnect", ValueKind::Table, Absent),
    key("upstream.reconnect.initial", time(), Is("\"50ms\"")),
    key("upstream.reconnect.max", time(), Is("\"1s\"")),
    key("upstream.max_connects_per_second", count(1, 1_000_000), Is("200")),
    key("upstream.circuit", ValueKind::Table, Absent),
    key("upstream.circuit.after", time_or_zero(1), From("`\"10s\"`, or `upstream.queue.timeout` if that is longer")),
    key("upstream.queue", ValueKind::Table, Absent),
    key("upstream.queue.timeout", time_or_zero(1), Is("\"5s\"")),
    key("upstream.queue.max_commands", count(0, MANY), Is("10000")),
    key("upstream.borrow_timeout", time(), Is("\"5s\"")),
    key("upstream.max_write_buffer", size(16 * KIB, 1024 * MIB), Is("\"1MiB\"")),
    key("upstream.max_shared_request", size(KIB, MIB), Is("\"64KiB\"")),
    key("upstream.on_subscription_loss", ValueKind::Choice { of: &["resubscribe", "close"], later: &[] }, Is("\"resubscribe\"")),
    key("upstream.username", ValueKind::Text, Absent),
    key("upstream.password", ValueKind::Secret, Absent),
    key("upstream.password_file", ValueKind::Text, Absent),
    key("upstream.password_env", ValueKind::Text, Absent),
    key("upstream.password_command", ValueKind::Argv, Absent),
    key("upstream.password_command_timeout", time(), Is("\"5s\"")),
    key("upstream.password_next", ValueKind::Secret, Absent),
    key("upstream.password_next_file", ValueKind::Text, Absent),
    key("upstream.password_next_env", ValueKind::Text, Absent),
    key("upstream.iam", ValueKind::Table, Absent),
    key("upstream.iam.region", ValueKind::Word, From("`AWS_REGION` of the environment")),
    key("upstream.iam.cluster", ValueKind::Word, Absent),
    key("upstream.iam.user", ValueKind::Word, Absent),
    key("upstream.iam.serverless", ValueKind::Flag, Absent),
    key("upstream.reauthenticate_after", time(), Is("\"6h\"")),
    key("upstream.tls", ValueKind::Table, Absent),
    key("upstream.tls.enabled", ValueKind::Flag, Is("false")),
    key("upstream.tls.ca_file", ValueKind::Text, Absent),
    key("upstream.tls.server_name", ValueKind::Text, From("the host of `upstream.address`")),
    key("upstream.tls.cert_file", ValueKind::Text, Absent),
    key("upstream.tls.key_file", ValueKind::Text, Absent),
    key("upstream.tls.handshake_timeout", time(), Is("\"5s\"")),
    key("upstream.tls.insecure_skip_verify", ValueKind::Flag, Is("false")),

    key("limits", ValueKind::Table, Absent),
    key("limits.max_clients", count(1, MANY), Is("10000")),
    key("limits.max_memory", size(16 * MIB, TIB), From("three quarters of what the control group, else the machine, has")),
    key("limits.max_client_buffer", size(64 * KIB, TIB), Is("\"32MiB\"")),
    key("limits.reply_stall_timeout", time(), Is("\"30s\"")),
    key("limits.pubsub_buffer", size(64 * KIB, TIB), Is("\"32MiB\"")),
    key("limits.max_client_subscriptions", count(1, MANY), Is("100000")),
    key("limits.max_client_in_flight", count(1, MANY), Is("10000")),
    key("limits.max_client_read_ahead", size(KIB, 1024 * MIB), Is("\"64KiB\"")),
    key("limits.max_client_query_buffer", size(64 * KIB, TIB), Is("\"1GiB\"")),
    key("limits.max_request", size(KIB, TIB), Is("\"512MiB\"")),
    key("limits.idle_timeout", time_or_zero(1), Is("\"0s\"")),
    key("limits.handshake_timeout", time_or_zero(1), Is("\"10s\"")),
    key("limits.half_closed_grace", time(), Is("\"250ms\"")),
    key("limits.request_stall_timeout", time_or_zero(1), Is("\"60s\"")),
    key("limits.upload_patience", time(), Is("\"200ms\"")),
    key("limits.keepalive", time_or_zero(1000), Is("\"60s\"")),
    key("limits.explain_rejections", ValueKind::Flag, Is("false")),
    key("limits.reject_hold", time_or_zero(1), Is("\"5s\"")),
    key("limits.max_rejected", count(0, MANY), Is("1000")),
    key("limits.max_arriving", count(0, MANY), Is("1000")),
    key("limits.arriving_timeout", time_or_zero(1), Is("\"10s\"")),
    key("limits.operator_places", count(0, 1000), Is("5")),
    key("limits.enforce_on_reload", ValueKind::Flag, Is("false")),

    key("reload", ValueKind::Table, Absent),
    key("reload.watch", ValueKind::Flag, Is("false")),
    key("reload.interval", time(), Is("\"5s\"")),

    key("group", ValueKind::Tables, Absent),
    key("group.name", ValueKind::Word, Required),
    key("group.match", ValueKind::Table, Absent),
    key("group.match.address", ValueKind::Networks, Absent),
    key("group.match.listener", ValueKind::Glob, Absent),
    key("group.match.client_name", ValueKind::Glob, Absent),
    key("group.match.user", ValueKind::Glob, Absent),
    key("group.match.certificate_name", ValueKind::Glob, Absent),
    key("group.match.process", ValueKind::Later("remove it; match by address, listener, client_name, user or certificate_name"), Absent),
    key("group.per", ValueKind::Choice { of: &["group", "address", "client_name", "user"], later: &["process"] }, Is("\"group\"")),
    key("group.per_ipv6_prefix", count(1, 128), Is("64")),
    key("group.max_connections", count(1, MANY), Absent),
    key("group.warn_connections", count(1, MANY), Absent),
    key("group.max_connects_per_second", count(1, MANY), Absent),
    key("group.max_pinned", count(1, MANY), Absent),
    key("group.idle_timeout", time_or_zero(1), From("`limits.idle_timeout`")),
    key("group.at_limit", ValueKind::Choice { of: &["reject", "evict-idle"], later: &[] }, Is("\"reject\"")),
    key("group.evict_pause", time_or_zero(1), Is("\"1s\"")),
    key("group.max_evictions_per_second", count(1, 1_000_000), Is("10")),
    key("group.mode", ValueKind::Choice { of: &["enforce", "observe"], later: &[] }, Is("\"enforce\"")),
    key("group.deny_commands", ValueKind::Commands, Is("[]")),

    key("admin", ValueKind::Table, Absent),
    key("admin.address", ValueKind::AdminAddress, Absent),
    key("admin.health_address", ValueKind::AdminAddress, Absent),
    key("admin.mode", ValueKind::Mode, Absent),
    key("admin.max_connections", count(4, 4096), Is("64")),
    key("admin.hosts", ValueKind::Hosts, Is("[]")),
    key("admin.token", ValueKind::Secret, Absent),
    key("admin.token_file", ValueKind::Text, Absent),
    key("admin.token_env", ValueKind::Text, Absent),
    key("admin.read_token", ValueKind::Flag, Is("false")),
    key("admin.users", ValueKind::Names, Is("[]")),

    key("log", ValueKind::Table, Absent),
    key("log.level", ValueKind::Choice { of: &["error", "warn", "info", "debug", "trace"], later: &[] }, Is("\"info\"")),
    key("log.format", ValueKind::Choice { of: &["text", "json"], later: &[] }, Is("\"text\"")),
    key("log.buffer", size(4 * KIB, 1024 * MIB), Is("\"1MiB\"")),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_key_stands_once_and_in_a_table_named_before_it() {
        let mut seen = HashSet::from([""]);
        for key in KEYS {
            assert!(seen.contains(key.table()), "{} before its table", key.path);
            assert!(seen.insert(key.path), "{} twice", key.path);
        }
    }

    #[test]
    fn a_slip_finds_the_key_that_was_meant() {
        let meant = |table, name| nearest(table, name).map(SettingKey::path);
        assert_eq!(
            meant("upstream", "max_conections"),
            Some("upstream.max_connections")
        );
        assert_eq!(
            meant("upstream", "max-connections"),
            Some("upstream.max_connections")
        );
        assert_eq!(meant("", "Listener"), Some("listener"));
        assert_eq!(meant("", "groups"), Some("group"));
        assert_eq!(
            meant("group", "warn_connection"),
            Some("group.warn_connections")
        );
        assert_eq!(meant("group", "colour"), None);
        assert_eq!(
            meant("group.match", "proces"),
            None,
            "what is not in this version is not suggested"
        );
        assert_eq!(meant("", &"x".repeat(100_000)), None);
    }
}
