//! One small HTTP request to somebody who is not the server: an endpoint that hands out keys.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::rt::ReadBufCursor;
use zeroize::Zeroizing;

use crate::config::{Address, Secret};
use crate::transport::{Stream, dial};

/// How long the whole of it may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Most bytes of an answer.
const LONGEST_ANSWER: usize = 64 * 1024;

/// A request.
pub(super) struct Fetch {
    /// Whom.
    pub(super) address: Address,
    /// What, with the query.
    pub(super) path: String,
    /// Shown as it is.
    pub(super) authorization: Option<Secret>,
}

/// An answer.
pub(super) struct Body {
    /// Its status, in words.
    pub(super) status: String,
    /// Its body, which may hold secrets.
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

impl Fetch {
    /// A GET.
    pub(super) fn get(address: Address, path: String) -> Self {
        Self {
            address,
            path,
            authorization: None,
        }
    }
}

/// Asks, and waits for the whole answer.
///
/// # Errors
/// Why there is none; nothing of what was sent or received.
pub(super) async fn fetch(asked: Fetch) -> Result<Body, String> {
    let address = asked.address.to_string();
    let answer = tokio::time::timeout(LIMIT, answer(asked)).await;
    let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")));
    answer.map_err(|why| format!("the endpoint at {address}: {why}"))
}

async fn answer(asked: Fetch) -> Result<Body, String> {
    let stream = dial(&asked.address, LIMIT, Duration::ZERO)
        .await
        .map_err(|error| error.to_string())?;
    let mut request = Request::get(&asked.path)
        .header(HOST, asked.address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|_| "its path is no path of a URI".to_owned())?;
    if let Some(secret) = &asked.authorization {
        let mut value = HeaderValue::from_str(secret.expose())
            .map_err(|_| "the authorization token holds what no header may".to_owned())?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let (mut sender, connection) = handshake(Socket(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut connection = pin!(connection);
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = response.status().to_string();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect();
        let body = body
            .await
            .map_err(|_| "the answer was cut or too long".to_owned())?;
        let bytes = Zeroizing::new(body.to_bytes().to_vec());
        Ok(Body { status, bytes })
    };
    let mut exchange = pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        // It may end before its last answer is taken.
        _ = &mut connection => exchange.await,
    }
}

/// A stream as hyper wants it.
struct Socket(Stream);

impl hyper::rt::Read for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut piece = Zeroizing::new([0; 4096]);
        loop {
            std::task::ready!(self.0.poll_read_ready(cx))?;
            let most = piece.len().min(into.remaining());
            match self.0.try_read(&mut piece[..most]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    into.put_slice(&piece[..read?]);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl hyper::rt::Write for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            std::task::ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.finish_writing();
        Poll::Ready(Ok(()))
    }
}
