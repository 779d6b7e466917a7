//! The operator's endpoint: a small HTTP server for metrics, health, status and reload.
//!
//! It knows nothing of workers or clients; what it shows and does comes in as closures. Whoever reaches it costs it
//! little: at most `admin.max_connections` at once, one request each, [`HEADER_TIMEOUT`] for the request's head and
//! [`CONNECTION_TIMEOUT`] for the whole, bodies of at most [`MAX_BODY`] bytes. Whoever comes is served: who holds a place
//! and asks nothing gives it up.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::config::AdminSettings;
use crate::telemetry::{AdminRefusal, MetricScrape, PROCESS, ProcessParts, Throttle};
use crate::transport::{AcceptedClient, AcceptedSocket, ClientAcceptor};
use places::{ConnectionOrigin, EndpointPlaces};

mod access;
mod healthcheck;
mod places;
mod routes;
#[cfg(test)]
mod tests;
mod view;

pub use healthcheck::healthcheck;
pub use view::StatusView;

/// A request's head may take this long to arrive: whoever asks has it ready.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);

/// A request's body may take this long to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// A whole connection may take this long, the reading of the answer included.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// A request body may be this long, in bytes; its content is ignored.
const MAX_BODY: usize = 4096;

/// A request's head may be this long, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Carries a reload out and returns how it went.
pub type ReloadFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Holds what the operator's endpoint shows and does.
#[derive(Clone)]
pub struct AdminEndpoint {
    /// Takes a scrape; called for each `/metrics` and `/status`.
    pub view: Arc<dyn Fn() -> MetricScrape + Send + Sync>,
    /// Reloads the configuration; the error is told to the caller, so it must hold no secret.
    pub reload: Arc<dyn Fn() -> ReloadFuture + Send + Sync>,
    /// Returns who may ask, as of the last reload.
    pub admin: Arc<dyn Fn() -> Arc<AdminSettings> + Send + Sync>,
    /// Is true while respool shuts down: `/readyz` then answers 503.
    pub draining: Arc<AtomicBool>,
    /// Knows the parts of the process: `/livez` answers 503 while one is not well.
    pub parts: Arc<ProcessParts>,
    /// Makes a fault that a test asks for.
    #[cfg(debug_assertions)]
    pub fault: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

impl fmt::Debug for AdminEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("draining", &self.draining)
            .finish_non_exhaustive()
    }
}

/// Says what is served at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointScope {
    /// Everything is served at it.
    All,
    /// Only `/livez` and `/readyz` are served.
    Health,
}

/// Serves the operator's endpoint by `acceptor` until `shutdown` is ready; connections still open then are closed. Must run in a tokio
/// runtime with network and time.
pub async fn serve(
    mut acceptor: ClientAcceptor,
    endpoint: AdminEndpoint,
    scope: EndpointScope,
    shutdown: impl Future<Output = ()>,
) {
    let places = Arc::new(Mutex::new(EndpointPlaces::new(1)));
    let mut connections = JoinSet::new();
    let mut running: HashMap<u64, AbortHandle> = HashMap::new();
    let (start, displaced) = (Instant::now(), Throttle::default());
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => return,
            Some(ended) = connections.join_next() => {
                tell_panic(ended);
                continue;
            }
            accepted = acceptor.accept() => accepted,
        };
        let most = (endpoint.admin)().max_connections;
        let (id, gone) = {
            let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
            places.resize(most);
            places.take(from(&accepted))
        };
        running.retain(|_, connection| !connection.is_finished());
        if let Some(connection) = gone.and_then(|gone| running.remove(&gone)) {
            connection.abort();
            PROCESS.admin_refused(AdminRefusal::Displaced);
            if let Some(unwritten) = displaced.write(start.elapsed().as_micros() as u64) {
                tracing::warn!(
                    limit = most,
                    unwritten,
                    "admin: more connections than admin.max_connections, or a quarter of them from one peer: the oldest is closed"
                );
            }
        }
        let place = PlaceGuard {
            places: Arc::clone(&places),
            id,
        };
        let connection = connection(accepted, endpoint.clone(), scope, place);
        running.insert(id, connections.spawn(connection));
    }
}

fn from(accepted: &AcceptedClient) -> ConnectionOrigin {
    match &accepted.socket {
        AcceptedSocket::Tcp(_, peer) => ConnectionOrigin::address(peer.ip()),
        AcceptedSocket::Unix(_) => ConnectionOrigin::Unix,
    }
}

fn tell_panic(ended: Result<(), JoinError>) {
    match ended {
        Err(error) if error.is_panic() => {
            tracing::error!(%error, "admin: a request panicked; this is a bug of respool");
        }
        // It has made room for another.
        Err(_) | Ok(()) => {}
    }
}

/// Keeps a connection's place, which it gives back on drop.
struct PlaceGuard {
    places: Arc<Mutex<EndpointPlaces>>,
    id: u64,
}

impl PlaceGuard {
    fn asked(&self) {
        self.places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .asked(self.id);
    }
}

impl Drop for PlaceGuard {
    fn drop(&mut self) {
        self.places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .leave(self.id);
    }
}

async fn connection(
    accepted: AcceptedClient,
    endpoint: AdminEndpoint,
    scope: EndpointScope,
    place: PlaceGuard,
) {
    let served = match accepted.socket {
        AcceptedSocket::Tcp(socket, _) => match TcpStream::from_std(socket) {
            Ok(stream) => answer_one(stream, endpoint, scope, place, false).await,
            Err(error) => Err(error),
        },
        AcceptedSocket::Unix(socket) => match UnixStream::from_std(socket) {
            Ok(stream) => answer_one(stream, endpoint, scope, place, true).await,
            Err(error) => Err(error),
        },
    };
    if let Err(error) = served {
        tracing::debug!(%error, "admin: a connection ended early");
    }
}

async fn answer_one(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    endpoint: AdminEndpoint,
    scope: EndpointScope,
    place: PlaceGuard,
    is_unix: bool,
) -> io::Result<()> {
    let place = Arc::new(place);
    let service = service_fn(move |request| {
        place.asked();
        let endpoint = endpoint.clone();
        async move { Ok::<_, Infallible>(routes::answer(request, &endpoint, scope, is_unix).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        // A scrape every few seconds gains nothing from a connection kept open, and none can then be held.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, serving).await {
        Ok(served) => served.map_err(io::Error::other),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
