//! Connecting to the server: its addresses are tried one after the other, within one bound.

use std::fmt;
use std::io;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::Stream;
use crate::failover::Node;

/// Why no connection came about.
#[derive(Debug)]
pub enum DialError {
    /// The name could not be resolved.
    Unresolved(String),
    /// The connect failed.
    Io(io::Error),
    /// `upstream.connect_timeout` passed.
    Timeout(Duration),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved(why) => f.write_str(why),
            Self::Io(error) => write!(f, "{error}"),
            Self::Timeout(limit) => write!(
                f,
                "no connection within {limit:?} (upstream.connect_timeout)"
            ),
        }
    }
}

/// Opens one connection to the first of `nodes` that takes it, within `limit`; one that is silent leaves the others their
/// share of it. Whoever awaits this awaits its end: a socket that is dropped on the way is one that nobody counts.
///
/// # Errors
/// [`DialError`] says why the last of them did not.
pub async fn dial(
    nodes: &[Node],
    limit: Duration,
    keepalive: Duration,
) -> Result<(Stream, Node), DialError> {
    let deadline = Instant::now() + limit;
    let mut failed = DialError::Timeout(limit);
    for (at, node) in nodes.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let others = u32::try_from(nodes.len() - at).unwrap_or(u32::MAX);
        match open(node, left / others).await {
            Ok(None) => failed = DialError::Timeout(limit),
            Err(error) => failed = DialError::Io(error),
            Ok(Some(stream)) => {
                stream.tune(keepalive);
                return Ok((stream, node.clone()));
            }
        }
    }
    Err(failed)
}

/// `None`: the server has not taken the connection within `limit`, and will not know of it.
async fn open(node: &Node, limit: Duration) -> io::Result<Option<Stream>> {
    match node {
        Node::Tcp(address) => {
            let socket = Socket::new(
                Domain::for_address(*address),
                Type::STREAM.nonblocking().cloexec(),
                Some(Protocol::TCP),
            )?;
            match socket.connect(&(*address).into()) {
                Err(error) if !is_under_way(&error) => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let stream = TcpStream::from_std(socket.into())?;
            let is_late = tokio::time::timeout(limit, stream.writable()).await;
            if is_late.is_err() && stream.peer_addr().is_err() {
                // Ends an attempt, and only closes what has become a connection in this very moment: that is one to be
                // counted until the server has closed it too.
                let _ = SockRef::from(&stream).shutdown(std::net::Shutdown::Write);
                if stream.peer_addr().is_err() {
                    return Ok(None);
                }
            }
            match stream.take_error()? {
                Some(error) => Err(error),
                None => Ok(Some(Stream::Tcp(stream))),
            }
        }
        // The kernel takes it at once, or says that there is no room.
        Node::Unix(path) => open_unix(path).await.map(Stream::Unix).map(Some),
    }
}

fn is_under_way(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that dials; its caller holds the budget permit"
)]
async fn open_unix(path: &std::path::Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::transport::DEAD_AFTER;

    #[tokio::test(flavor = "local")]
    async fn the_kernel_is_told_how_long_bytes_may_stay_unacknowledged() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let node = Node::Tcp(listener.local_addr().unwrap());
        let (stream, _) = dial(&[node], Duration::from_secs(5), Duration::ZERO)
            .await
            .unwrap();
        let Stream::Tcp(stream) = &stream else {
            panic!("it is no TCP socket");
        };
        let told = SockRef::from(stream).tcp_user_timeout().unwrap();
        assert_eq!(told, Some(DEAD_AFTER));
    }
}
