//! Addresses that cannot be used at once: listeners, the admin endpoint, the server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::super::Address;
use super::SettingConflicts;

impl SettingConflicts<'_> {
    pub(super) fn in_addresses(&mut self) {
        let settings = self.settings;
        let upstream = &settings.upstream.address;
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
            self.in_access(index);
            for (before, other) in settings.listeners[..index].iter().enumerate() {
                if collide(&listener.address, &other.address) {
                    self.add(
                        &[&key, &format!("listener[{before}].address")],
                        format!("{} is taken by the listener {}", listener.name, other.name),
                        "listen on another port or path".to_owned(),
                    );
                }
            }
        }
        self.in_admin();
    }

    fn in_admin(&mut self) {
        let settings = self.settings;
        let admin = &settings.admin;
        let both = [
            ("admin.address", &admin.address),
            ("admin.health_address", &admin.health_address),
        ];
        for (key, written) in both {
            let Some(written) = written else {
                continue;
            };
            let address = written.address();
            for (index, listener) in settings.listeners.iter().enumerate() {
                if collide(&listener.address, &address) {
                    self.add(
                        &[key, &format!("listener[{index}].address")],
                        format!("{written} is taken by the listener {}", listener.name),
                        "give the admin endpoint another port".to_owned(),
                    );
                }
            }
            if reaches(&address, &settings.upstream.address) {
                self.add(
                    &[key, "upstream.address"],
                    format!("{written} is where the server is"),
                    "give the admin endpoint another port, or correct upstream.address".to_owned(),
                );
            }
        }
        if let (Some(all), Some(health)) = (&admin.address, &admin.health_address)
            && collide(&all.address(), &health.address())
        {
            self.add(
                &["admin.health_address", "admin.address"],
                format!("{health} is where everything is served"),
                "give it another port, or remove it: health is served there, too".to_owned(),
            );
        }
    }
}

impl SettingConflicts<'_> {
    /// Finds settings of a socket's file where there is none.
    fn in_access(&mut self, index: usize) {
        let is_tcp = matches!(self.settings.listeners[index].address, Address::Tcp { .. });
        for name in ["mode", "owner", "group"] {
            let key = format!("listener[{index}].{name}");
            if is_tcp && self.file.line(&key).is_some() {
                self.add(
                    &[&key, &format!("listener[{index}].address")],
                    format!("a TCP listener has no {name}; only the file of a unix socket has"),
                    "remove it, or write address = \"unix:/path\"".to_owned(),
                );
            }
        }
    }
}

/// Returns the address of a host's name or IP, as far as it can be told without asking anyone.
fn ip_of(host: &str) -> Option<IpAddr> {
    match host.trim_end_matches('.') {
        name if name.eq_ignore_ascii_case("localhost") => Some(Ipv4Addr::LOCALHOST.into()),
        _ => host.parse().ok().map(|ip: IpAddr| ip.to_canonical()),
    }
}

/// Tells whether two sockets cannot listen there at once. Port 0 takes any port that is free.
pub fn share_a_port(one: SocketAddr, other: SocketAddr) -> bool {
    // `[::ffff:10.0.0.1]` is that of IPv4, by another name.
    let (one_ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    let any = one_ip.is_unspecified() || other_ip.is_unspecified();
    // `[::]` takes IPv4 as well.
    let takes_both = |ip: IpAddr| ip.is_ipv6() && ip.is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && (one_ip == other_ip
            || (any && one_ip.is_ipv4() == other_ip.is_ipv4())
            || takes_both(one_ip)
            || takes_both(other_ip))
}

/// Tells whether the two cannot be listened on at once, as far as that can be told without asking anyone.
fn collide(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Unix(one), Address::Unix(other)) => one == other,
        (
            Address::Tcp { host: one, port },
            Address::Tcp {
                host: other,
                port: other_port,
            },
        ) => match (ip_of(one), ip_of(other)) {
            (Some(one), Some(other)) => share_a_port(
                SocketAddr::new(one, *port),
                SocketAddr::new(other, *other_port),
            ),
            _ => port == other_port && *port != 0 && one.eq_ignore_ascii_case(other),
        },
        _ => false,
    }
}

/// Tells whether a connect to `target` arrives at a socket that listens on `listening`.
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
    use super::super::super::address;
    use super::*;

    fn tcp(text: &str) -> Address {
        address::address(text).expect("an address")
    }

    #[test]
    fn one_socket_is_one_listener() {
        for (one, other) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("localhost:1", "127.0.0.1:1"),
            ("[::1]:1", "[0:0:0:0:0:0:0:1]:1"),
            ("Host.example.com:1", "host.example.com:1"),
            ("0.0.0.0:1", "[::]:1"),
            ("127.0.0.1:1", "[::]:1"),
            ("[::1]:1", "[::]:1"),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1"),
            ("[::ffff:127.0.0.1]:1", "[::ffff:7f00:1]:1"),
            ("[::ffff:127.0.0.1]:1", "0.0.0.0:1"),
            ("[::ffff:127.0.0.1]:1", "[::]:1"),
            ("[::ffff:127.0.0.1]:1", "LocalHost.:1"),
            ("[::ffff:0.0.0.0]:1", "127.0.0.1:1"),
            ("unix:/a", "unix:/a"),
            ("unix:/a/b", "unix:/a//./b"),
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
            ("0.0.0.0:1", "[::1]:1"),
            ("[::ffff:127.0.0.1]:1", "[::1]:1"),
            ("[::ffff:0.0.0.0]:1", "[::1]:1"),
            ("unix:/a", "unix:/b"),
        ] {
            assert!(!collide(&tcp(one), &tcp(other)), "{one} {other}");
        }
    }

    #[test]
    fn a_wildcard_listener_reaches_itself_through_this_host_only() {
        assert!(reaches(&tcp("0.0.0.0:6379"), &tcp("localhost:6379")));
        assert!(reaches(&tcp("[::]:6379"), &tcp("127.0.0.1:6379")));
        assert!(reaches(
            &tcp("0.0.0.0:6379"),
            &tcp("[::ffff:127.0.0.1]:6379")
        ));
        assert!(!reaches(
            &tcp("0.0.0.0:6379"),
            &tcp("redis.example.com:6379")
        ));
        assert!(!reaches(&tcp("0.0.0.0:6380"), &tcp("127.0.0.1:6379")));
    }
}
