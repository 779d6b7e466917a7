//! What is right by itself and wrong together: limits against each other, groups, addresses, the machine.
//!
//! Pure. A conflict is told at the first of its keys that is written, and not at all when one of them was refused
//! already: one mistake, one problem.

use super::check::DEFAULT_GROUP;
use super::file::{File, key_of};
use super::keys::{self, Fallback};
use super::machine::Machine;
use super::problem::Problem;
use super::value::{duration_text, shown, size_text};
use super::{Address, AtLimit, Group, Match, Mode, Settings};

/// Everything in `settings` that contradicts something else or does not fit on `machine`.
pub(super) fn find(settings: &Settings, file: &File, machine: &Machine) -> Vec<Problem> {
    let mut found = Conflicts {
        settings,
        file,
        problems: Vec::new(),
    };
    found.in_the_pool();
    found.in_authentication();
    found.in_limits();
    found.in_addresses();
    for index in 0..file.tables("group") {
        found.in_group(index);
        found.in_match(index);
    }
    found.with_the_machine(machine);
    found.problems
}

struct Conflicts<'a> {
    settings: &'a Settings,
    file: &'a File,
    problems: Vec<Problem>,
}

impl Conflicts<'_> {
    /// A conflict between the values of `keys`, told at the first of them that is written.
    fn add(&mut self, keys: &[&str], what: String, remedy: String) {
        if keys.iter().any(|key| self.is_unknown(key)) {
            return;
        }
        let written = keys.iter().find(|key| self.file.line(key).is_some());
        let Some(key) = written.or(keys.first()) else {
            return;
        };
        self.problems
            .push(Problem::new(self.line_near(key), key_of(key), what, remedy));
    }

    /// Whether the value of `path` was refused or is missing, so that nothing can be said about it.
    fn is_unknown(&self, path: &str) -> bool {
        let required = || {
            keys::find(&key_of(path)).is_some_and(|key| matches!(key.default, Fallback::Required))
        };
        self.file.is_refused(path) || (self.file.line(path).is_none() && required())
    }

    /// The line of `path`, or of the innermost table it would stand in.
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
        if upstream.username.is_some() && upstream.password.is_none() {
            self.add(
                &[
                    "upstream.username",
                    "upstream.password",
                    "upstream.password_file",
                    "upstream.password_env",
                ],
                "a user without a password".to_owned(),
                "add password_file or password_env, or remove username".to_owned(),
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
                    "a silent client is closed before, after {} (idle_timeout)",
                    duration_text(idle)
                ),
                "set handshake_timeout to at most idle_timeout".to_owned(),
            );
        }
    }

    fn in_addresses(&mut self) {
        let settings = self.settings;
        let upstream = &settings.upstream.address;
        let admin = settings.admin.map(|admin| Address::Tcp {
            host: admin.ip().to_string(),
            port: admin.port(),
        });
        if matches!(upstream, Address::Tcp { port: 0, .. }) {
            self.add(
                &["upstream.address"],
                "a server has no port 0".to_owned(),
                "write its port".to_owned(),
            );
        }
        for (index, listener) in settings.listeners.iter().enumerate() {
            let key = format!("listener[{index}].address");
            if reaches(&listener.address, upstream) {
                self.add(
                    &[&key, "upstream.address"],
                    format!(
                        "{} is where the server is: respool would connect to itself",
                        listener.name
                    ),
                    "listen elsewhere, or correct upstream.address".to_owned(),
                );
            }
            for (before, other) in settings.listeners[..index].iter().enumerate() {
                if collide(&listener.address, &other.address) {
                    self.add(
                        &[&key, &format!("listener[{before}].address")],
                        format!("{} is taken by the listener {}", listener.name, other.name),
                        "listen on another port or path".to_owned(),
                    );
                }
            }
            if admin
                .as_ref()
                .is_some_and(|admin| collide(&listener.address, admin))
            {
                self.add(
                    &["admin.address", &key],
                    format!(
                        "{} is taken by the listener {}",
                        settings.admin_text(),
                        listener.name
                    ),
                    "give the admin endpoint another port".to_owned(),
                );
            }
        }
        if admin.as_ref().is_some_and(|admin| reaches(admin, upstream)) {
            self.add(
                &["admin.address", "upstream.address"],
                format!("{} is where the server is", settings.admin_text()),
                "give the admin endpoint another port, or correct upstream.address".to_owned(),
            );
        }
    }

    fn in_group(&mut self, index: usize) {
        let group = &self.settings.groups[index];
        let key = |name: &str| format!("group[{index}].{name}");
        let label = label_of(group);
        let max_clients = self.settings.limits.max_clients;
        for (name, cap) in [
            ("max_connections", group.max_connections),
            ("warn_connections", group.warn_connections),
        ] {
            if let Some(cap) = cap.filter(|cap| *cap > max_clients) {
                self.add(
                    &[&key(name), "limits.max_clients"],
                    format!("{label} can never come to {cap}: there are {max_clients} clients (limits.max_clients)"),
                    format!("set it to at most {max_clients}, or raise limits.max_clients"),
                );
            }
        }
        if let (Some(warn), Some(cap)) = (group.warn_connections, group.max_connections)
            && warn >= cap
        {
            self.add(
                &[&key("warn_connections"), &key("max_connections")],
                format!("{label} is at its cap of {cap} before it is warned of at {warn}"),
                format!("set warn_connections below {cap}"),
            );
        }
        let upstream = &self.settings.upstream;
        let lent = upstream
            .max_connections
            .saturating_sub(upstream.shared_connections);
        if let Some(pinned) = group.max_pinned.filter(|pinned| *pinned > lent) {
            self.add(
                &[
                    &key("max_pinned"),
                    "upstream.max_connections",
                    "upstream.shared_connections",
                ],
                format!("{label} can never hold {pinned}: {lent} connections can be pinned"),
                format!("set max_pinned to at most {lent}, or raise upstream.max_connections"),
            );
        }
        self.in_cap_behaviour(index, &label);
        let earlier = self.settings.groups[..index]
            .iter()
            .any(|other| other.name == group.name);
        if earlier && !group.name.is_empty() {
            self.add(
                &[&key("name")],
                format!("there is an earlier {label}"),
                "give each group a name of its own".to_owned(),
            );
        }
    }

    /// What happens at a cap, in a group that has none.
    fn in_cap_behaviour(&mut self, index: usize, label: &str) {
        let group = &self.settings.groups[index];
        let key = |name: &str| format!("group[{index}].{name}");
        if group.max_connections.is_some() {
            return;
        }
        if group.at_limit == AtLimit::EvictIdle {
            self.add(
                &[&key("at_limit"), &key("max_connections")],
                format!("{label} has no cap at which to evict"),
                "add max_connections, or remove at_limit".to_owned(),
            );
        }
        if group.mode == Mode::Observe && group.max_connects_per_second.is_none() {
            self.add(
                &[
                    &key("mode"),
                    &key("max_connections"),
                    &key("max_connects_per_second"),
                ],
                format!("{label} has no cap to observe"),
                "add max_connections or max_connects_per_second, or remove mode".to_owned(),
            );
        }
    }

    fn in_match(&mut self, index: usize) {
        let groups = &self.settings.groups;
        let group = &groups[index];
        let label = label_of(group);
        let table = format!("group[{index}].match");
        let name = format!("group[{index}].name");
        let mut keys = vec![name.clone()];
        keys.extend(match_keys(index));
        if group.name == DEFAULT_GROUP && !group.matches.is_empty() {
            self.add(
                &[&table, &name],
                "the group \"default\" takes everyone whom no other group takes".to_owned(),
                "remove its match, or give the group another name".to_owned(),
            );
            return;
        }
        if group.name == DEFAULT_GROUP && index + 1 < self.file.tables("group") {
            self.add(
                &[&name],
                "the group \"default\" comes after all others".to_owned(),
                "move it to the end".to_owned(),
            );
            return;
        }
        let shadow = groups[..index].iter().enumerate().find(|(earlier, other)| {
            let unknown = match_keys(*earlier).iter().any(|key| self.is_unknown(key));
            !unknown && other.name != DEFAULT_GROUP && covers(&other.matches, &group.matches)
        });
        if let Some((_, other)) = shadow {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            self.add(
                &keys,
                format!(
                    "{label} can never match: the earlier {} takes all of its clients",
                    label_of(other)
                ),
                "move it before that group, or narrow that group's match".to_owned(),
            );
        } else {
            self.in_listener_match(group, index, &label);
        }
    }

    /// A match that no listener can satisfy.
    fn in_listener_match(&mut self, group: &Group, index: usize, label: &str) {
        let listeners = &self.settings.listeners;
        let unknown =
            (0..listeners.len()).any(|at| self.is_unknown(&format!("listener[{at}].address")));
        if unknown || listeners.is_empty() {
            return;
        }
        let mut matching = listeners
            .iter()
            .filter(|listener| {
                group
                    .matches
                    .listener
                    .as_ref()
                    .is_none_or(|glob| glob.matches(listener.name.as_bytes()))
            })
            .peekable();
        if matching.peek().is_none() {
            self.add(
                &[&format!("group[{index}].match.listener")],
                format!("{label} can never match: no listener has such an address"),
                "write the address of a [[listener]], or a glob of it".to_owned(),
            );
        } else if !group.matches.address.is_empty()
            && matching.all(|listener| matches!(listener.address, Address::Unix(_)))
        {
            self.add(
                &[&format!("group[{index}].match.address")],
                format!("{label} can never match: clients of unix sockets have no IP address"),
                "match by listener, client_name or user".to_owned(),
            );
        }
    }

    fn with_the_machine(&mut self, machine: &Machine) {
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
            "{needed} file descriptors are needed ({} clients, {} rejected, {} to the server, {} listeners, {} spare), \
             and this process may have {allowed}",
            limits.max_clients,
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

impl Settings {
    fn admin_text(&self) -> String {
        self.admin
            .map(|admin| admin.to_string())
            .unwrap_or_default()
    }
}

/// What a message calls a group, whose name may be what was refused.
fn label_of(group: &Group) -> String {
    if group.name.is_empty() {
        "group".to_owned()
    } else {
        format!("group {}", shown(&group.name))
    }
}

fn match_keys(index: usize) -> Vec<String> {
    let key = |name: &str| format!("group[{index}].match.{name}");
    ["address", "listener", "client_name", "user", "process"]
        .map(key)
        .to_vec()
}

/// Whether everyone whom `narrow` takes is taken by `wide`. Errs on the side of no: of two globs it knows only that
/// they are the same or that one is a plain name which the other matches.
fn covers(wide: &Match, narrow: &Match) -> bool {
    let addresses = wide.address.is_empty()
        || (!narrow.address.is_empty()
            && narrow
                .address
                .iter()
                .all(|net| wide.address.iter().any(|outer| outer.contains(net))));
    let globs = [
        (&wide.listener, &narrow.listener),
        (&wide.client_name, &narrow.client_name),
        (&wide.user, &narrow.user),
    ];
    addresses
        && globs
            .into_iter()
            .all(|(wide, narrow)| match (wide, narrow) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(wide), Some(narrow)) => {
                    let plain = !narrow.text().contains(['*', '?', '[', ']', '{', '}', '\\']);
                    wide == narrow || (plain && wide.matches(narrow.text().as_bytes()))
                }
            })
}

/// The address of a host's name or IP, as far as it can be told without asking anyone.
fn ip_of(host: &str) -> Option<std::net::IpAddr> {
    match host {
        "localhost" | "localhost." => Some(std::net::Ipv4Addr::LOCALHOST.into()),
        host => host.parse().ok(),
    }
}

/// Whether the two cannot be listened on at once. Port 0 takes any port that is free.
fn collide(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Unix(one), Address::Unix(other)) => one == other,
        (
            Address::Tcp { host: one, port },
            Address::Tcp {
                host: other,
                port: other_port,
            },
        ) => {
            let same_port = port == other_port && *port != 0;
            same_port
                && match (ip_of(one), ip_of(other)) {
                    (Some(one), Some(other)) => {
                        let any = one.is_unspecified() || other.is_unspecified();
                        one == other || (any && one.is_ipv4() == other.is_ipv4())
                    }
                    _ => one.eq_ignore_ascii_case(other),
                }
        }
        _ => false,
    }
}

/// Whether a connect to `target` arrives at a socket that listens on `listening`.
fn reaches(listening: &Address, target: &Address) -> bool {
    let to_this_host = |target: &Address| match target {
        Address::Tcp { host, .. } => {
            ip_of(host).is_some_and(|ip| ip.is_loopback() || ip.is_unspecified())
        }
        Address::Unix(_) => false,
    };
    match (listening, target) {
        (
            Address::Tcp { host, port },
            Address::Tcp {
                port: target_port, ..
            },
        ) => {
            let everywhere = ip_of(host).is_some_and(|ip| ip.is_unspecified());
            collide(listening, target)
                || (port == target_port && *port != 0 && everywhere && to_this_host(target))
        }
        _ => collide(listening, target),
    }
}

#[cfg(test)]
mod tests {
    use super::super::value;
    use super::*;

    fn tcp(text: &str) -> Address {
        value::address(text).expect("an address")
    }

    #[test]
    fn one_socket_is_one_listener() {
        for (one, other) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("localhost:1", "127.0.0.1:1"),
            ("[::1]:1", "[0:0:0:0:0:0:0:1]:1"),
            ("Host.example.com:1", "host.example.com:1"),
            ("unix:/a", "unix:/a"),
        ] {
            assert!(
                collide(&tcp(one), &tcp(other)) && collide(&tcp(other), &tcp(one)),
                "{one} {other}"
            );
        }
        for (one, other) in [
            ("127.0.0.1:1", "127.0.0.1:2"),
            ("127.0.0.1:1", "127.0.0.2:1"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("0.0.0.0:1", "[::]:1"),
            ("unix:/a", "unix:/b"),
        ] {
            assert!(!collide(&tcp(one), &tcp(other)), "{one} {other}");
        }
    }

    #[test]
    fn a_wildcard_listener_reaches_itself_through_this_host_only() {
        assert!(reaches(&tcp("0.0.0.0:6379"), &tcp("localhost:6379")));
        assert!(reaches(&tcp("[::]:6379"), &tcp("127.0.0.1:6379")));
        assert!(!reaches(
            &tcp("0.0.0.0:6379"),
            &tcp("redis.example.com:6379")
        ));
        assert!(!reaches(&tcp("0.0.0.0:6380"), &tcp("127.0.0.1:6379")));
    }

    fn matching(address: &[&str], client_name: Option<&str>) -> Match {
        Match {
            address: address
                .iter()
                .map(|text| value::network(text).expect("a network"))
                .collect(),
            client_name: client_name.map(|text| value::glob(text).expect("a glob")),
            ..Match::default()
        }
    }

    #[test]
    fn a_match_covers_what_it_surely_takes() {
        let everyone = Match::default();
        let loopback = matching(&["127.0.0.0/8"], None);
        assert!(covers(&everyone, &loopback) && !covers(&loopback, &everyone));
        assert!(covers(
            &loopback,
            &matching(&["127.0.0.1", "127.1.0.0/16"], Some("a*"))
        ));
        assert!(!covers(
            &loopback,
            &matching(&["127.0.0.1", "10.0.0.1"], None)
        ));
        assert!(covers(
            &matching(&[], Some("a*")),
            &matching(&[], Some("a*"))
        ));
        assert!(covers(
            &matching(&[], Some("a*")),
            &matching(&[], Some("abc"))
        ));
        assert!(
            !covers(&matching(&[], Some("a*")), &matching(&[], Some("ab*"))),
            "not known, so not claimed"
        );
        assert!(!covers(&matching(&[], Some("*")), &everyone));
    }
}
