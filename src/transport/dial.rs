//! Connecting to the server: its addresses are tried one after the other, within one bound.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::Stream;
use super::reserve::{DescriptorReserve, reserve};
use crate::failover::ServerNode;

/// Tells why no connection came about.
#[derive(Debug)]
pub enum DialError {
    /// The name could not be resolved.
    Unresolved(String),
    /// The connect failed with this error.
    Io(io::Error),
    /// The time of `upstream.connect_timeout` has passed.
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

/// Says how long an address may take at first while there are others: time for a packet that was lost to be sent again.
const FIRST_PATIENCE: Duration = Duration::from_millis(1500);

/// Opens one connection to the first of `nodes` that takes it, within `limit`, and tells `was_silent` of those that let it
/// wait in vain. One that is silent leaves the others their share of the time, and is tried again when all are. One after
/// the other: two at a time would be a connection more than the budget knows. Whoever awaits this awaits its end: a
/// socket that is dropped on the way is one that nobody counts.
///
/// # Errors
/// [`DialError`] says why the last of them did not.
pub async fn dial(
    nodes: &[ServerNode],
    limit: Duration,
    keepalive: Duration,
    mut was_silent: impl FnMut(&ServerNode),
) -> Result<(Stream, ServerNode), DialError> {
    let deadline = Instant::now() + limit;
    let mut failed = DialError::Timeout(limit);
    let mut to_try: Vec<&ServerNode> = nodes.iter().collect();
    let first = match to_try.len() {
        1 => limit,
        _ => FIRST_PATIENCE,
    };
    for most in [first, limit] {
        let mut silent = Vec::new();
        for (at, node) in to_try.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let others = u32::try_from(to_try.len() - at).unwrap_or(u32::MAX);
            match open(node, (left / others).min(most)).await {
                Ok(None) => {
                    failed = DialError::Timeout(limit);
                    was_silent(node);
                    silent.push(*node);
                }
                Err(error) => failed = DialError::Io(error),
                Ok(Some(stream)) => {
                    stream.tune(keepalive);
                    return Ok((stream, (*node).clone()));
                }
            }
        }
        to_try = silent;
        if Instant::now() >= deadline {
            break;
        }
    }
    Err(failed)
}

/// Opens a connection to `node`; `None` where the server has not taken it within `limit`, and will not know of it.
async fn open(node: &ServerNode, limit: Duration) -> io::Result<Option<Stream>> {
    match node {
        ServerNode::Tcp(address) => {
            let socket = tcp_socket(*address)?;
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
        ServerNode::Unix(path) => open_unix(path).await.map(Stream::Unix).map(Some),
    }
}

/// Makes a socket towards `address`, by a descriptor that was kept back when there is no other.
fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let new = || {
        Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )
    };
    new().or_else(|error| match reserve() {
        Some(kept) if is_exhausted(&error) && kept.give_up() => new(),
        _ => Err(error),
    })
}

fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        rustix::io::Errno::from_io_error(error),
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)
    )
}

fn is_under_way(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that dials; its caller holds the budget permit"
)]
async fn open_unix(path: &std::path::Path) -> io::Result<UnixStream> {
    match UnixStream::connect(path).await {
        Err(error) if is_exhausted(&error) && reserve().is_some_and(DescriptorReserve::give_up) => {
            UnixStream::connect(path).await
        }
        connected => connected,
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::transport::DEAD_AFTER;

    #[tokio::test(flavor = "local")]
    async fn the_kernel_is_told_how_long_bytes_may_stay_unacknowledged() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let node = ServerNode::Tcp(listener.local_addr().unwrap());
        let (stream, _) = dial(&[node], Duration::from_secs(5), Duration::ZERO, |_| {})
            .await
            .unwrap();
        let Stream::Tcp(stream) = &stream else {
            panic!("it is no TCP socket");
        };
        let told = SockRef::from(stream).tcp_user_timeout().unwrap();
        assert_eq!(told, Some(DEAD_AFTER));
    }
}
