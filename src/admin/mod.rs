//! The operator's door: a small HTTP server for metrics, health, status and reload.
//!
//! It knows nothing of workers or clients; what it shows and does comes in as closures. Whoever reaches it costs it
//! little: at most [`MAX_CONNECTIONS`] at once, one request each, [`HEADER_TIMEOUT`] for the request's head and
//! [`CONNECTION_TIMEOUT`] for the whole, bodies of at most [`MAX_BODY`] bytes.

use std::convert::Infallible;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};

use crate::telemetry::Scrape;

mod healthcheck;
mod routes;
#[cfg(test)]
mod tests;
mod view;

pub use healthcheck::healthcheck;
pub use view::View;

/// Connections served at once; more are closed as they come.
pub const MAX_CONNECTIONS: usize = 64;

/// Time for a request's head to arrive.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a whole connection, the reading of the answer included.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest request body that is read, in bytes; its content is ignored.
pub const MAX_BODY: usize = 4096;

/// Longest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Pause after a failed accept: out of descriptors, trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A reload under way, and how it went.
pub type Reloading = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// What the door shows and does.
#[derive(Clone)]
pub struct Endpoint {
    /// Takes a scrape; called for each `/metrics` and `/status`.
    pub view: Arc<dyn Fn() -> Scrape + Send + Sync>,
    /// Reloads the configuration; the error is told to the caller, so it must hold no secret.
    pub reload: Arc<dyn Fn() -> Reloading + Send + Sync>,
    /// Whether respool is shutting down: `/readyz` then answers 503.
    pub draining: Arc<AtomicBool>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("draining", &self.draining)
            .finish_non_exhaustive()
    }
}

/// Serves the door on `listener` until `shutdown` is ready; connections still open then are closed. Must run in a tokio
/// runtime with network and time.
pub async fn serve(listener: TcpListener, endpoint: Endpoint, shutdown: impl Future<Output = ()>) {
    let mut connections = JoinSet::new();
    let mut refusing = false;
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Some(ended) = connections.join_next() => tell_panic(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                    refusing = false;
                    connections.spawn(connection(stream, endpoint.clone()));
                }
                Ok((_, peer)) => {
                    if !refusing {
                        tracing::warn!(%peer, limit = MAX_CONNECTIONS, "admin: too many connections, closing new ones");
                    }
                    refusing = true;
                }
                Err(error) => {
                    tracing::warn!(%error, "admin: cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

fn tell_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "admin: a request panicked; this is a bug of respool");
    }
}

/// Answers one request.
async fn connection(stream: TcpStream, endpoint: Endpoint) {
    let service = service_fn(move |request| {
        let endpoint = endpoint.clone();
        async move { Ok::<_, Infallible>(routes::answer(request, &endpoint).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        // A scrape every few seconds gains nothing from a connection kept open, and none can then be held.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin: a connection ended early"),
        Err(_) => tracing::debug!("admin: a connection took too long"),
    }
}
