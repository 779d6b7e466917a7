//! Connecting to the server: the name is resolved at every connect.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use super::Stream;
use crate::config::Address;

/// Why no connection came about.
#[derive(Debug)]
pub enum DialError {
    /// The name could not be resolved or the connect failed.
    Io(io::Error),
    /// `upstream.connect_timeout` passed.
    Timeout(Duration),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Timeout(limit) => write!(
                f,
                "no connection within {limit:?} (upstream.connect_timeout)"
            ),
        }
    }
}

/// Opens one connection to `address` within `limit`.
///
/// # Errors
/// [`DialError`] says why not.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that dials; its caller holds the budget permit"
)]
pub async fn dial(
    address: &Address,
    limit: Duration,
    keepalive: Duration,
) -> Result<Stream, DialError> {
    let connect = async {
        match address {
            Address::Tcp { host, port } => TcpStream::connect((host.as_str(), *port))
                .await
                .map(Stream::Tcp),
            Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        }
    };
    match tokio::time::timeout(limit, connect).await {
        Err(_) => Err(DialError::Timeout(limit)),
        Ok(Err(error)) => Err(DialError::Io(error)),
        Ok(Ok(stream)) => {
            stream.tune(keepalive);
            Ok(stream)
        }
    }
}
