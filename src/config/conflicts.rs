//! What is right by itself and wrong together: limits against each other, groups, addresses, the machine.
//!
//! Pure. A conflict is told at the first of its keys that is written, and not at all when one of them was refused
//! already: one mistake, one problem.

mod addresses;
mod groups;

pub use addresses::share_a_port;

use super::file::{WrittenFile, key_of};
use super::keys::{self, KeyDefault};
use super::machine::MachineResources;
use super::memory::{CLIENT_BYTES, CLIENTS, MEMORY, too_little};
use super::problem::ConfigProblem;
use super::value::{duration_text, size_text};
use super::{AuthMode, Settings};

/// Finds everything in `settings` that contradicts something else or does not fit on `machine`.
pub(super) fn find(
    settings: &Settings,
    file: &WrittenFile,
    machine: &MachineResources,
) -> Vec<ConfigProblem> {
    let mut found = SettingConflicts {
        settings,
        file,
        problems: Vec::new(),
    };
    found.in_the_pool();
    found.in_authentication();
    found.in_operators();
    found.in_operator_places();
    found.in_limits();
    found.in_memory();
    found.in_addresses();
    for index in 0..file.tables("group") {
        found.in_group(index);
        found.in_match(index);
    }
    found.with_the_machine(machine);
    found.problems
}

struct SettingConflicts<'a> {
    settings: &'a Settings,
    file: &'a WrittenFile,
    problems: Vec<ConfigProblem>,
}

impl SettingConflicts<'_> {
    /// Tells whether the operator has written `path`.
    fn is_written(&self, path: &str) -> bool {
        self.file.line(path).is_some()
    }

    /// Adds a conflict between the values of `keys`, told at the first of them that is written.
    fn add(&mut self, keys: &[&str], what: String, remedy: String) {
        if keys.iter().any(|key| self.is_unknown(key)) {
            return;
        }
        let written = keys.iter().find(|key| self.file.line(key).is_some());
        let Some(key) = written.or(keys.first()) else {
            return;
        };
        self.problems.push(ConfigProblem::new(
            self.line_near(key),
            key_of(key),
            what,
            remedy,
        ));
    }

    /// Tells whether the value of `path` was refused or is missing, so that nothing can be said about it.
    fn is_unknown(&self, path: &str) -> bool {
        let required = || {
            keys::find(&key_of(path)).is_some_and(|key| matches!(key.default, KeyDefault::Required))
        };
        self.file.is_refused(path) || (self.file.line(path).is_none() && required())
    }

    /// Returns the line of `path`, or of the innermost table it would stand in.
    fn line_near(&self, path: &str) -> Option<usize> {
        let mut path = path;
        loop {
            if let Some(line) = self.file.line(path) {
                return Some(line);
            }
            path = path.rsplit_once('.')?.0;
        }
    }

    fn in_the_pool(&mut self) {
        let upstream = &self.settings.upstream;
        let (total, shared, workers) = (
            upstream.max_connections,
            upstream.shared_connections,
            self.settings.workers,
        );
        if shared >= total {
            self.add(
                &["upstream.shared_connections", "upstream.max_connections"],
                format!(
                    "{shared} shared of {total} connections leave none to lend (max_connections)"
                ),
                format!("set shared_connections below {total}, or max_connections above {shared}"),
            );
        }
        if workers > shared {
            self.add(
                &["workers", "upstream.shared_connections"],
                format!("{workers} workers need a shared connection each, and there are {shared}"),
                format!("set workers to at most {shared}, or raise upstream.shared_connections"),
            );
        }
        let reconnect = upstream.reconnect;
        if reconnect.initial > reconnect.max {
            let (initial, max) = (
                duration_text(reconnect.initial),
                duration_text(reconnect.max),
            );
            self.add(
                &["upstream.reconnect.initial", "upstream.reconnect.max"],
                format!("the first delay {initial} is longer than the longest, {max}"),
                "set initial to at most max".to_owned(),
            );
        }
    }

    fn in_authentication(&mut self) {
        let upstream = &self.settings.upstream;
        let written = |key: &str| self.file.line(key).is_some();
        if written("upstream.username") && upstream.login.is_none() {
            self.add(
                &[
                    "upstream.username",
                    "upstream.password",
                    "upstream.password_file",
                    "upstream.password_env",
                    "upstream.password_command",
                    "upstream.password_next",
                    "upstream.password_next_file",
                    "upstream.password_next_env",
                    "upstream.iam",
                ],
                "respool's user at the server is set, and no password of it".to_owned(),
                "add password_file or password_env, or remove username".to_owned(),
            );
        }
    }

    /// Users for whom places are kept must be told from others.
    fn in_operators(&mut self) {
        let settings = self.settings;
        if settings.operators.iter().any(|user| user == "default") {
            self.add(
                &["admin.users"],
                "every client is the user \"default\" until it authenticates".to_owned(),
                "name another user, or give operators a [[listener]] with admin = true".to_owned(),
            );
        } else if settings.auth.mode == AuthMode::None && !settings.operators.is_empty() {
            self.add(
                &["admin.users", "auth.mode"],
                "with auth.mode = \"none\" nobody is a user".to_owned(),
                "give operators a [[listener]] with admin = true instead".to_owned(),
            );
        }
    }

    /// Operators that are named must have places.
    fn in_operator_places(&mut self) {
        if self.settings.limits.operator_places > 0 {
            return;
        }
        let what = "there are no places for operators (limits.operator_places)";
        let remedy = "set limits.operator_places to at least 1, or remove this";
        if !self.settings.operators.is_empty() {
            let keys = ["admin.users", "limits.operator_places"];
            self.add(&keys, what.to_owned(), remedy.to_owned());
        }
        let listeners = self.settings.listeners.iter();
        let first = listeners.clone().position(|listener| listener.admin);
        if let Some(index) = first {
            let key = format!("listener[{index}].admin");
            self.add(
                &[&key, "limits.operator_places"],
                what.to_owned(),
                remedy.to_owned(),
            );
        }
    }

    fn in_limits(&mut self) {
        let limits = &self.settings.limits;
        let (shared, request) = (
            self.settings.upstream.max_shared_request,
            limits.max_request,
        );
        if shared > request {
            let (shared, request) = (size_text(shared as u64), size_text(request as u64));
            self.add(
                &["upstream.max_shared_request", "limits.max_request"],
                format!(
                    "{shared} is more than any request may have, {request} (limits.max_request)"
                ),
                format!(
                    "set max_shared_request to at most \"{request}\", or raise limits.max_request"
                ),
            );
        }
        // A default that never comes to act harms nobody; one that is written was meant to act.
        let (handshake, idle) = (limits.handshake_timeout, limits.idle_timeout);
        let written = self.file.line("limits.handshake_timeout").is_some();
        if written && !idle.is_zero() && handshake > idle {
            self.add(
                &["limits.handshake_timeout", "limits.idle_timeout"],
                format!(
                    "a client that sends nothing more is closed before, after {} (idle_timeout)",
                    duration_text(idle)
                ),
                "set handshake_timeout to at most idle_timeout".to_owned(),
            );
        }
    }

    /// Checks the room for what each client takes whatever it does: who holds nothing cannot be made to go for room.
    fn in_memory(&mut self) {
        let limits = &self.settings.limits;
        // A default follows from the machine, which nobody can make larger by a word in this file.
        if !self.is_written(MEMORY) || self.is_unknown(CLIENTS) {
            return;
        }
        if let Some((what, remedy)) = too_little(limits, CLIENT_BYTES, "") {
            self.add(&[MEMORY, CLIENTS], what, remedy);
        }
    }

    fn with_the_machine(&mut self, machine: &MachineResources) {
        let needed = self.settings.descriptors_needed();
        let allowed = machine.file_descriptors;
        // Whatever the pool was meant to be, it hardly counts beside the clients.
        let unknown = ["limits.max_clients", "limits.max_rejected"]
            .iter()
            .any(|key| self.is_unknown(key));
        if needed <= allowed || unknown {
            return;
        }
        let (limits, upstream) = (&self.settings.limits, &self.settings.upstream);
        let what = format!(
            "{needed} file descriptors are needed ({} clients, {} operators, {} rejected, {} to the server, {} listeners, {} spare), \
             and this process may have {allowed}",
            limits.max_clients,
            limits.operator_places,
            limits.max_rejected,
            upstream.max_connections,
            self.settings.listeners.len(),
            self.settings.spare_descriptors(),
        );
        let fit = limits.max_clients.saturating_sub(needed - allowed);
        let remedy = match fit {
            0 => format!("raise the hard limit (ulimit -Hn) to {needed}"),
            fit => format!(
                "raise the hard limit (ulimit -Hn) to {needed}, or set limits.max_clients to at most {fit}"
            ),
        };
        let largest = [
            (limits.max_rejected, "limits.max_rejected"),
            (upstream.max_connections, "upstream.max_connections"),
            (limits.max_clients, "limits.max_clients"),
        ];
        let key = largest
            .iter()
            .max()
            .map_or("limits.max_clients", |(_, key)| key);
        self.add(&[key], what, remedy);
    }
}
