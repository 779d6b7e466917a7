//! What a host's name stands for: a file of the form of `/etc/hosts`, else the system. Blocks; on a thread of its own.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;

use crate::config::{Address, read_hosts};
use crate::failover::ServerNode;

/// Returns the address of what needs no lookup: an IP address, a unix socket.
pub fn literal(address: &Address) -> Option<ServerNode> {
    match address {
        Address::Unix(path) => Some(ServerNode::Unix(path.as_path().into())),
        Address::Tcp { host, port } => {
            let ip: IpAddr = host.parse().ok()?;
            Some(ServerNode::Tcp(SocketAddr::new(ip, *port)))
        }
    }
}

/// Looks up the addresses of `host`, in the order in which they are told, each once. It blocks for as long as the
/// system likes.
///
/// # Errors
/// The file cannot be read, which is told with its key and path, or the system has no answer.
pub fn look_up(host: &str, port: u16, hosts_file: Option<&Path>) -> io::Result<Vec<ServerNode>> {
    let mut addresses = match hosts_file {
        Some(path) => {
            let told = |why| {
                let path = path.display();
                io::Error::other(format!("upstream.hosts_file {path} cannot be read: {why}"))
            };
            in_hosts(&read_hosts(path).map_err(told)?, host)
        }
        None => Vec::new(),
    };
    if addresses.is_empty() {
        addresses = (host, port).to_socket_addrs()?.map(|at| at.ip()).collect();
    }
    let mut nodes: Vec<ServerNode> = Vec::new();
    for ip in addresses {
        let node = ServerNode::Tcp(SocketAddr::new(ip, port));
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    Ok(nodes)
}

/// Lists the addresses that lines of `text` give to `host`; the case of a name does not matter, nor a dot at its end.
fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let wanted = host.trim_end_matches('.');
    let address = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let ip = words.next()?.parse().ok()?;
        words
            .any(|name| name.trim_end_matches('.').eq_ignore_ascii_case(wanted))
            .then_some(ip)
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_is_read_as_the_system_reads_it() {
        let text = "# 10.0.0.9 redis\n10.0.0.1 redis Redis.example.com # redis2\n\n10.0.0.2\tother redis\n::1 redis\nnone redis\n";
        let ips = |host| -> Vec<String> {
            in_hosts(text, host)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(ips("redis"), ["10.0.0.1", "10.0.0.2", "::1"]);
        assert_eq!(ips("redis.EXAMPLE.com."), ["10.0.0.1"]);
        assert!(ips("redis2").is_empty() && ips("10.0.0.1").is_empty());
    }

    #[test]
    fn addresses_need_no_lookup() {
        let tcp = |host: &str| Address::Tcp {
            host: host.into(),
            port: 6379,
        };
        let shown = |address| literal(&address).map(|node| node.to_string());
        assert_eq!(shown(tcp("10.0.0.1")), Some("10.0.0.1:6379".into()));
        assert_eq!(shown(tcp("::1")), Some("[::1]:6379".into()));
        assert_eq!(shown(tcp("redis")), None);
        assert_eq!(
            shown(Address::Unix("/run/redis.sock".into())),
            Some("unix:/run/redis.sock".into())
        );
    }
}
