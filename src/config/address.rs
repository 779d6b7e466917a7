//! Addresses: a TCP port or the file of a unix socket, as the operator writes them.
//!
//! Pure; nothing is resolved here.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::value::{WrongValue, shown, wrong};

/// A TCP address or the path of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// It is written `host:port`; the host may be a name, resolved at every connect.
    Tcp {
        /// This is a host name or an IP address, without brackets.
        host: String,
        /// This is the TCP port.
        port: u16,
    },
    /// It is written `unix:/path`.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    /// Writes the address as it would be written in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Says where the operator's endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// It listens at an IP address and a port.
    Tcp(SocketAddr),
    /// It listens at the path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for AdminAddress {
    /// Writes the address as it would be written in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl std::str::FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        admin_address(text).map_err(|wrong| format!("{}: {}", wrong.what, wrong.remedy))
    }
}

impl AdminAddress {
    /// Returns the same as an address of anything else.
    pub(super) fn address(&self) -> Address {
        match self {
            Self::Tcp(address) => Address::Tcp {
                host: address.ip().to_string(),
                port: address.port(),
            },
            Self::Unix(path) => Address::Unix(path.clone()),
        }
    }
}

/// Reads `ip:port` or `unix:/path`.
pub(super) fn admin_address(text: &str) -> Result<AdminAddress, WrongValue> {
    match address(text) {
        Ok(Address::Unix(path)) => Ok(AdminAddress::Unix(path)),
        Err(wrong) if text.starts_with("unix:") => Err(wrong),
        _ => socket_address(text).map(AdminAddress::Tcp),
    }
}

/// Reads the name of a host, or `*.` and what it must end in; the result is lower case.
pub(super) fn host_name(text: &str) -> Result<String, WrongValue> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || text.len() > 253 || !name.bytes().all(fits) || name.starts_with('.') {
        return Err(wrong(
            format!("{} is not the name of a host", shown(text)),
            "write such as \"respool.example.com\" or \"*.svc.cluster.local\", without a port",
        ));
    }
    Ok(text.trim_end_matches('.').to_ascii_lowercase())
}

/// Reads `host:port`, `[ipv6]:port` or `unix:/path`.
pub(super) fn address(text: &str) -> Result<Address, WrongValue> {
    // A URL may carry a password: what is written here must not be shown.
    if text.contains('@') || text.contains("://") {
        return Err(wrong(
            "this is a URL, not an address",
            "write \"host:port\" or \"unix:/path\"; user and password have keys of their own",
        ));
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_address(path);
    }
    let not_an_address = || wrong(format!("{} is not an address", shown(text)), ADDRESS_FORM);
    let (host, port) = text.rsplit_once(':').ok_or_else(not_an_address)?;
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(not_an_address());
    }
    let port = port.parse::<u16>().map_err(|_| {
        wrong(
            format!("{} has no possible port", shown(text)),
            "write a port up to 65535",
        )
    })?;
    let bracketed = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let host = match bracketed {
        Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => inner,
        None if host.contains(':') && host.parse::<Ipv6Addr>().is_ok() => {
            return Err(wrong(
                format!("{} is an IPv6 address without brackets", shown(text)),
                format!("write \"[{host}]:{port}\""),
            ));
        }
        None if is_host(host) => host,
        _ => return Err(not_an_address()),
    };
    Ok(Address::Tcp {
        host: host.to_owned(),
        port,
    })
}

const ADDRESS_FORM: &str =
    "write \"host:port\" such as \"127.0.0.1:6380\", \"[::1]:6380\", or \"unix:/path\"";

/// The kernel's `sun_path` holds 108 bytes with the one that ends it.
const LONGEST_UNIX_PATH: usize = 107;

fn unix_address(path: &str) -> Result<Address, WrongValue> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let is_folder = ["", ".", ".."].contains(&name);
    if !path.starts_with('/') || is_folder || path.chars().any(char::is_control) {
        let what = format!("{} is not the absolute path of a socket", shown(path));
        return Err(wrong(
            what,
            "write such as \"unix:/run/respool/redis.sock\"",
        ));
    }
    if path.len() > LONGEST_UNIX_PATH {
        let what = format!(
            "a path of {} bytes is too long for a unix socket",
            path.len()
        );
        return Err(wrong(
            what,
            format!("choose one of at most {LONGEST_UNIX_PATH} bytes"),
        ));
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

fn is_host(host: &str) -> bool {
    let numeric = host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if numeric {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    host.len() <= 253
        && host
            .strip_suffix('.')
            .unwrap_or(host)
            .split('.')
            .all(|label| {
                (1..=63).contains(&label.len())
                    && label
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            })
}

/// Reads `ip:port`; a name would have to be resolved before anything could be told.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, WrongValue> {
    text.parse().map_err(|_| {
        let what = format!("{} is not an IP address and a port", shown(text));
        wrong(what, "write such as \"127.0.0.1:9180\" or \"[::1]:9180\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn addresses_are_tcp_or_unix() {
        assert_eq!(address("127.0.0.1:6379"), Ok(tcp("127.0.0.1", 6379)));
        assert_eq!(address("[::1]:6379"), Ok(tcp("::1", 6379)));
        assert_eq!(
            address("redis.example.com:0"),
            Ok(tcp("redis.example.com", 0))
        );
        assert_eq!(
            address("unix:/run/r.sock"),
            Ok(Address::Unix(PathBuf::from("/run/r.sock")))
        );
        let long = format!("unix:/{}", "x".repeat(107));
        for text in [
            "",
            "6379",
            ":6379",
            "localhost",
            "localhost:",
            "localhost:+1",
            "localhost:65536",
            "127.0.0.256:1",
            "a b:1",
            "::1:6379",
            "[::1]",
            "[zz]:1",
            "unix:",
            "unix:relative",
            "unix:/dir/",
            "unix:/dir/.",
            "unix:/dir/..",
            "a..b:1",
            "ü:1",
            long.as_str(),
        ] {
            assert!(address(text).is_err(), "{text}");
        }
        assert_eq!(
            address("fe80::1:6379").unwrap_err().remedy,
            "write \"[fe80::1]:6379\""
        );
    }

    #[test]
    fn a_password_in_a_url_is_not_repeated() {
        let refusal = address("redis://:hunter2@127.0.0.1:6379").unwrap_err();
        assert!(!format!("{refusal:?}").contains("hunter2"));
    }

    #[test]
    fn a_path_that_is_no_sockets_is_told_of_as_one() {
        for path in ["unix:relative", "unix:/run/x/.", "unix:/run/"] {
            let told = admin_address(path).expect_err(path);
            assert!(
                told.what.contains("absolute path of a socket"),
                "{path}: {}",
                told.what
            );
        }
        let told = admin_address("localhost:1").expect_err("a name");
        assert!(told.what.contains("not an IP address"), "{}", told.what);
    }
}
