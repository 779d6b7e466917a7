//! `respool healthcheck`: asks a running respool whether it lives, without a runtime.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::AdminAddress;

/// The whole check may take this long; container runtimes give up after a few seconds themselves.
const DEADLINE: Duration = Duration::from_secs(3);

/// Bounds the bytes of the answer that are looked at.
const MAX_ANSWER: usize = 1024;

/// Gets `/livez` from the admin endpoint at `address`, within three seconds. An endpoint that listens on all addresses is asked on
/// loopback.
///
/// # Errors
///
/// One line for people says what was asked, and how it failed.
pub fn healthcheck(address: &AdminAddress) -> Result<(), String> {
    let address = reachable(address);
    let answer = ask(&address).map_err(|error| format!("admin endpoint {address}: {error}"))?;
    let status = answer
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    if status.starts_with(b"HTTP/1.1 200") {
        return Ok(());
    }
    Err(format!(
        "admin endpoint {address}: answered {:?} to GET /livez",
        String::from_utf8_lossy(status)
    ))
}

/// Returns the address to connect to for one that is listened on.
fn reachable(address: &AdminAddress) -> AdminAddress {
    let mut address = address.clone();
    if let AdminAddress::Tcp(address) = &mut address {
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
    }
    address
}

fn ask(address: &AdminAddress) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + DEADLINE;
    let (domain, target) = match address {
        AdminAddress::Tcp(address) => (Domain::for_address(*address), (*address).into()),
        AdminAddress::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
    };
    let mut stream = Socket::new(domain, Type::STREAM, None)?;
    stream.connect_timeout(&target, DEADLINE)?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let host = match address {
        AdminAddress::Tcp(address) => address.to_string(),
        AdminAddress::Unix(_) => "localhost".to_owned(),
    };
    stream.write_all(
        format!("GET /livez HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    let mut piece = [0; MAX_ANSWER];
    while answer.len() < MAX_ANSWER && !answer.contains(&b'\r') {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What a read timeout is called on unix.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener};

    /// Runs the check against a peer that reads the request and answers with `answer`.
    fn checked(answer: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the check connects");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a whole request");
                request.push(byte[0]);
            }
            stream.write_all(answer).expect("the check reads");
            request
        });
        let outcome = healthcheck(&AdminAddress::Tcp(address));
        let request = peer.join().expect("the peer does not panic");
        assert!(request.starts_with(b"GET /livez HTTP/1.1\r\n"));
        outcome
    }

    #[test]
    fn only_a_200_is_healthy() {
        assert_eq!(checked(b"HTTP/1.1 200 OK\r\n\r\n"), Ok(()));
        let busy = checked(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").expect_err("not healthy");
        assert!(busy.contains("503") && busy.contains("127.0.0.1"), "{busy}");
        assert!(checked(b"-ERR unknown command\r\n").is_err());
        assert!(checked(b"").is_err());
    }

    #[test]
    fn nobody_listening_is_an_error() {
        // Bound but not listening: the port refuses, and no other test can get it.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .expect("a free port");
        let address = socket
            .local_addr()
            .expect("bound")
            .as_socket()
            .expect("an IP address");
        let error = healthcheck(&AdminAddress::Tcp(address)).expect_err("nobody answers");
        assert!(
            error.starts_with(&format!("admin endpoint {address}: ")),
            "{error}"
        );
    }

    #[test]
    fn an_address_for_all_interfaces_is_asked_on_loopback() {
        let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
        let any = listener.local_addr().expect("bound");
        let loopback = format!("127.0.0.1:{}", any.port());
        assert_eq!(reachable(&AdminAddress::Tcp(any)).to_string(), loopback);
        for (own, asked) in [
            ("[::]:9180", "[::1]:9180"),
            ("192.0.2.1:9180", "192.0.2.1:9180"),
            (
                "unix:/run/respool/admin.sock",
                "unix:/run/respool/admin.sock",
            ),
        ] {
            let own = own.parse().expect("an address");
            assert_eq!(reachable(&own).to_string(), asked);
        }
    }
}
