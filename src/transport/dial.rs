//! Connecting to the server: its addresses are tried one after the other, within one bound.

use std::fmt;
use std::io;
use std::time::Duration;

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
/// share of it.
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
        match tokio::time::timeout(left / others, open(node)).await {
            Err(_) => failed = DialError::Timeout(limit),
            Ok(Err(error)) => failed = DialError::Io(error),
            Ok(Ok(stream)) => {
                stream.tune(keepalive);
                return Ok((stream, node.clone()));
            }
        }
    }
    Err(failed)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that dials; its caller holds the budget permit"
)]
async fn open(node: &Node) -> io::Result<Stream> {
    match node {
        Node::Tcp(address) => TcpStream::connect(address).await.map(Stream::Tcp),
        Node::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
    }
}
