//! Groups that can never match, or never come to their caps.

use super::super::value::shown;
use super::super::{Address, AtLimit, CapMode, CapScope, ClientGroup, DEFAULT_GROUP, GroupMatch};
use super::SettingConflicts;

impl SettingConflicts<'_> {
    pub(super) fn in_group(&mut self, index: usize) {
        let group = &self.settings.groups[index];
        let key = |name: &str| format!("group[{index}].{name}");
        let label = label_of(group);
        self.in_caps(index, &label);
        let prefix = key("per_ipv6_prefix");
        if self.is_written(&prefix) && !matches!(group.per, CapScope::Address { .. }) {
            self.add(
                &[&prefix, &key("per")],
                format!("{label} does not count by address"),
                "add per = \"address\", or remove per_ipv6_prefix".to_owned(),
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

    /// Finds caps that a group never comes to, and a warning that comes no earlier than its cap.
    fn in_caps(&mut self, index: usize, label: &str) {
        let group = &self.settings.groups[index];
        let key = |name: &str| format!("group[{index}].{name}");
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
    }

    /// Finds settings of a cap in a group that has none.
    fn in_cap_behaviour(&mut self, index: usize, label: &str) {
        let group = &self.settings.groups[index];
        let key = |name: &str| format!("group[{index}].{name}");
        if group.at_limit != AtLimit::EvictIdle {
            for name in ["evict_pause", "max_evictions_per_second"] {
                if self.file.line(&key(name)).is_some() {
                    self.add(
                        &[&key(name), &key("at_limit")],
                        format!("{label} evicts nobody"),
                        "set at_limit = \"evict-idle\", or remove it".to_owned(),
                    );
                }
            }
        }
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
        if group.mode == CapMode::Observe && group.max_connects_per_second.is_none() {
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

    pub(super) fn in_match(&mut self, index: usize) {
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

    /// Finds a match that no listener can satisfy.
    fn in_listener_match(&mut self, group: &ClientGroup, index: usize, label: &str) {
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
        } else if group.matches.certificate_name.is_some() {
            self.in_certificate_match(group, index, label);
        }
    }

    /// Finds a match by a certificate that no listener asks for.
    fn in_certificate_match(&mut self, group: &ClientGroup, index: usize, label: &str) {
        let listeners = &self.settings.listeners;
        let asks = listeners.iter().any(|listener| {
            let asks = listener
                .tls
                .as_ref()
                .is_some_and(|tls| tls.client_authorities.is_some());
            let fits = group
                .matches
                .listener
                .as_ref()
                .is_none_or(|glob| glob.matches(listener.name.as_bytes()));
            asks && fits
        });
        // What was written and could not be read may be the one that asks.
        let unknown = (0..listeners.len()).any(|at| {
            let written = self.file.line(&format!("listener[{at}].tls")).is_some();
            written && listeners[at].tls.is_none()
        });
        if !asks && !unknown {
            self.add(
                &[&format!("group[{index}].match.certificate_name")],
                format!("{label} can never match: no such listener asks clients for a certificate"),
                "set tls.client_ca_file of a [[listener]]".to_owned(),
            );
        }
    }
}

/// Returns what a message calls a group, whose name may be what was refused.
fn label_of(group: &ClientGroup) -> String {
    if group.name.is_empty() {
        "group".to_owned()
    } else {
        format!("group {}", shown(&group.name))
    }
}

fn match_keys(index: usize) -> Vec<String> {
    let key = |name: &str| format!("group[{index}].match.{name}");
    [
        "address",
        "listener",
        "client_name",
        "user",
        "certificate_name",
        "process",
    ]
    .map(key)
    .to_vec()
}

/// Tells whether everyone whom `narrow` takes is taken by `wide`. It errs on the side of no: of two globs it knows only that they are the
/// same or that one is a plain name which the other matches.
fn covers(wide: &GroupMatch, narrow: &GroupMatch) -> bool {
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
        (&wide.certificate_name, &narrow.certificate_name),
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

#[cfg(test)]
mod tests {
    use super::super::super::value;
    use super::*;

    fn matching(address: &[&str], client_name: Option<&str>) -> GroupMatch {
        GroupMatch {
            address: address
                .iter()
                .map(|text| value::network(text).expect("a network"))
                .collect(),
            client_name: client_name.map(|text| value::glob(text).expect("a glob")),
            ..GroupMatch::default()
        }
    }

    #[test]
    fn a_match_covers_what_it_surely_takes() {
        let everyone = GroupMatch::default();
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
