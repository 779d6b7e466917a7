//! A key that a reload removes is as if it had never been written.

use std::path::Path;

use respool::config::{self, ConfigProblems, Settings};

use crate::machine;
use crate::tls::folder;

/// Lists the keys that cannot be removed, or that no reload changes.
const KEPT: [&str; 20] = [
    "workers",
    "instance",
    "auth.mode",
    "auth.user.name",
    "listener.address",
    "listener.tls.cert_file",
    "listener.tls.key_file",
    "upstream.address",
    "upstream.username",
    "limits.keepalive",
    "group.name",
    // What the group of this test is known by, and what takes another listener.
    "group.match.client_name",
    "group.match.address",
    "group.match.certificate_name",
    "admin.address",
    "admin.health_address",
    "admin.mode",
    "log.format",
    "log.buffer",
    // Nobody takes it, in no version yet.
    "listener.proxy_protocol_from",
];

/// Says what is written where a value of the key's kind alone does not do.
const WRITTEN: &[(&str, &str)] = &[
    ("auth.user.password", "password = 'other'"),
    ("auth.user.password_file", "password_file = 'own.pem'"),
    ("auth.user.password_env", "password_env = 'HOME'"),
    ("auth.max_failing_addresses", "max_failing_addresses = 77"),
    ("listener.owner", "owner = '7'"),
    ("listener.group", "group = '7'"),
    (
        "listener.tls.client_ca_file",
        "tls = { cert_file = 'own.pem', key_file = 'own.key', client_ca_file = 'ca.pem' }",
    ),
    ("upstream.hosts_file", "hosts_file = 'own.pem'"),
    ("upstream.password_env", "password_env = 'HOME'"),
    ("group.max_pinned", "max_pinned = 3"),
    ("group.mode", "max_connections = 9\nmode = 'observe'"),
    ("group.match.listener", "match.listener = 'unix:*'"),
    ("upstream.shared_connections", "shared_connections = 3"),
    ("upstream.reconnect.initial", "reconnect.initial = '70ms'"),
    (
        "upstream.max_shared_request",
        "max_shared_request = '32KiB'",
    ),
    ("upstream.password_file", "password_file = 'own.pem'"),
    (
        "upstream.password_command_timeout",
        "password_command = ['a']\npassword_command_timeout = '7s'",
    ),
    (
        "upstream.password_next",
        "password = 'a'\npassword_next = 'b'",
    ),
    (
        "upstream.password_next_file",
        "password = 'a'\npassword_next_file = 'own.pem'",
    ),
    (
        "upstream.password_next_env",
        "password = 'a'\npassword_next_env = 'HOME'",
    ),
    ("upstream.iam.region", IAM),
    ("upstream.iam.cluster", IAM),
    ("upstream.iam.user", IAM),
    ("upstream.iam.serverless", IAM),
    (
        "upstream.tls.ca_file",
        "tls = { enabled = true, ca_file = 'ca.pem' }",
    ),
    (
        "upstream.tls.server_name",
        "tls = { enabled = true, server_name = 'a' }",
    ),
    (
        "upstream.tls.cert_file",
        "tls = { enabled = true, cert_file = 'own.pem', key_file = 'own.key' }",
    ),
    (
        "upstream.tls.key_file",
        "tls = { enabled = true, cert_file = 'own.pem', key_file = 'own.key' }",
    ),
    (
        "upstream.tls.handshake_timeout",
        "tls = { enabled = true, handshake_timeout = '7s' }",
    ),
    (
        "upstream.tls.insecure_skip_verify",
        "tls = { enabled = true, insecure_skip_verify = true }",
    ),
    ("limits.max_memory", "max_memory = '512MiB'"),
    ("limits.max_request", "max_request = '1MiB'"),
    ("group.match.address", "match.address = ['10.0.0.0/8']"),
    (
        "group.per_ipv6_prefix",
        "per = 'address'\nper_ipv6_prefix = 48",
    ),
    (
        "group.warn_connections",
        "max_connections = 9\nwarn_connections = 7",
    ),
    (
        "group.evict_pause",
        "max_connections = 9\nat_limit = 'evict-idle'\nevict_pause = '7s'",
    ),
    (
        "group.max_evictions_per_second",
        "max_connections = 9\nat_limit = 'evict-idle'\nmax_evictions_per_second = 7",
    ),
    (
        "group.at_limit",
        "max_connections = 9\nat_limit = 'evict-idle'",
    ),
    ("group.deny_commands", "deny_commands = ['flushall']"),
    ("admin.hosts", "hosts = ['a.example.com']"),
    ("admin.token_file", "token_file = 'own.pem'"),
    ("admin.token_env", "token_env = 'HOME'"),
    ("admin.read_token", "token = 'a'\nread_token = true"),
    ("admin.users", "users = ['ops']"),
    ("log.level", "level = 'debug'"),
];

const IAM: &str = "tls = { enabled = true }\niam = { region = 'r', cluster = 'c', user = 'u', serverless = true }";

/// Writes a configuration with these lines in this table.
fn text(table: &str, lines: &str) -> String {
    let at = |name: &str| if name == table { lines } else { "" };
    let password = match lines.starts_with("password") && table == "auth.user" {
        true => String::new(),
        false => format!("password_sha256 = ['{}']", "0".repeat(64)),
    };
    format!(
        "{}\n[[listener]]\naddress = 'unix:/run/respool.sock'\n{}\n[upstream]\naddress = 'redis:6379'\n{}\n\
         [limits]\n{}\n[admin]\naddress = '127.0.0.1:1'\n{}\n[log]\n{}\n[reload]\n{}\n\
         [auth]\nmode = 'proxy'\n{}\n[[auth.user]]\nname = 'a'\n{password}\n{}\n\
         [[group]]\nname = 'a'\nmatch.client_name = 'a'\n{}\n",
        at(""),
        at("listener"),
        at("upstream"),
        at("limits"),
        at("admin"),
        at("log"),
        at("reload"),
        at("auth"),
        at("auth.user"),
        at("group"),
    )
}

fn settings(dir: &Path, text: &str) -> Result<Settings, ConfigProblems> {
    let environment = |name: &str| (name == "HOME").then(|| "/root".to_owned());
    config::parse(text, dir, &machine(), &environment)
}

/// Tells the table whose lines hold the key, and the key as it is written there.
fn place(path: &str) -> (&str, &str) {
    let tables = [
        "auth.user",
        "listener",
        "upstream",
        "limits",
        "admin",
        "log",
        "reload",
        "auth",
        "group",
    ];
    let stands_in = |table: &&str| path.starts_with(&format!("{table}."));
    match tables.into_iter().find(stands_in) {
        Some(table) => (table, &path[table.len() + 1..]),
        None => ("", path),
    }
}

#[test]
fn a_removed_key_is_as_if_it_had_never_been_written() {
    let dir = folder();
    let dir = dir.path();
    let follow = |now: &Settings, text: &str| config::succeed(now, settings(dir, text)?, 100_000);
    let base = text("-", "");
    let first = settings(dir, &base).expect("a configuration");
    let mut wrong = Vec::new();
    let mut tried = 0;
    for key in config::keys() {
        let path = key.path();
        let kind = key.kind_text();
        if key.is_table() || KEPT.contains(&path) || kind == "not in this version" {
            continue;
        }
        let (table, name) = place(path);
        let value = match kind.as_str() {
            "count" => "7",
            "duration" => "'7s'",
            "size" => "'7MiB'",
            "mode" => "'0600'",
            "`true`, `false`" => "true",
            "secret" | "text" | "glob" => "'x'",
            "list of digests" => {
                "['1111111111111111111111111111111111111111111111111111111111111111']"
            }
            "program and arguments" => "['a']",
            // A choice: its last word is not the default.
            kind => kind.rsplit('`').nth(1).unwrap_or_default(),
        };
        let own = WRITTEN.iter().find(|(of, _)| *of == path);
        let lines = own.map_or_else(
            || format!("{name} = {value}"),
            |(_, lines)| (*lines).to_owned(),
        );
        let with = match follow(&first, &text(table, &lines)) {
            Ok(with) => with,
            Err(problems) => {
                wrong.push(format!("{path}: {problems}"));
                continue;
            }
        };
        let without = follow(&with, &base).expect("what was taken before");
        let shown = |settings: &Settings| format!("{settings:#?}");
        let is_shown = kind != "secret" && kind != "list of digests" && table != "auth.user";
        if is_shown && shown(&with) == shown(&first) {
            wrong.push(format!("{path}: {lines} changes nothing"));
        }
        if shown(&without) != shown(&first) {
            wrong.push(format!("{path}: {lines} has left something"));
        }
        tried += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 90, "{tried} keys");
}
