//! One small HTTP request to somebody who is not the server: an endpoint that hands out keys, plain or by TLS.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::rt::ReadBufCursor;
use rustls::pki_types::ServerName;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::config::{Address, Authorities, Secret, UpstreamTls, Verification};
use crate::failover::Node;
use crate::transport::{Connector, Stream, dial, literal, look_up};

/// How long the whole of it may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Most bytes of an answer.
const LONGEST_ANSWER: usize = 64 * 1024;

/// How whoever is asked is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// Not at all.
    Plain,
    /// By a certificate for its name, signed by an authority of this system.
    Tls,
}

/// A request.
pub(super) struct Fetch {
    /// How.
    pub(super) wire: Wire,
    /// Whom.
    pub(super) host: String,
    /// Where.
    pub(super) port: u16,
    /// What, with the query.
    pub(super) path: String,
    /// The fields of a form, which make it a POST.
    pub(super) form: Option<Zeroizing<String>>,
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
    /// The GET that a URI means; `None`: it is no URI of HTTP, or has a user.
    pub(super) fn of(uri: &str) -> Option<Self> {
        let (wire, rest) = match uri.split_once("://")? {
            ("http", rest) => (Wire::Plain, rest),
            ("https", rest) => (Wire::Tls, rest),
            _ => return None,
        };
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let default = if wire == Wire::Tls { "443" } else { "80" };
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, port.strip_prefix(':').unwrap_or(default))
            }
            None => authority.split_once(':').unwrap_or((authority, default)),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        (!host.is_empty() && host.bytes().all(is_name)).then_some(())?;
        Some(Self {
            wire,
            host: host.to_owned(),
            port: port.parse().ok()?,
            path: path.to_owned(),
            form: None,
            authorization: None,
        })
    }

    fn address(&self) -> Address {
        Address::Tcp {
            host: self.host.clone(),
            port: self.port,
        }
    }

    fn request(self) -> Result<Request<Full<Bytes>>, String> {
        let builder = Request::builder()
            .uri(&self.path)
            .header(HOST, self.address().to_string());
        let request = match &self.form {
            None => builder.method("GET").body(Full::default()),
            Some(form) => builder
                .method("POST")
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(Full::from(form.as_bytes().to_vec())),
        };
        let mut request = request.map_err(|_| "its path is no path of a URI".to_owned())?;
        if let Some(secret) = &self.authorization {
            let mut value = HeaderValue::from_str(secret.expose())
                .map_err(|_| "the authorization token holds what no header may".to_owned())?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }
}

/// Asks, and waits for the whole answer.
///
/// # Errors
/// Why there is none; nothing of what was sent or received.
pub(super) async fn fetch(asked: Fetch) -> Result<Body, String> {
    let address = asked.address();
    let answer = tokio::time::timeout(LIMIT, answer(asked)).await;
    let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")));
    answer.map_err(|why| format!("the endpoint at {address}: {why}"))
}

async fn answer(asked: Fetch) -> Result<Body, String> {
    let nodes = nodes(&asked.address()).await?;
    let (stream, _) = dial(&nodes, LIMIT, Duration::ZERO, |_| {})
        .await
        .map_err(|error| error.to_string())?;
    let stream = match asked.wire {
        Wire::Plain => stream,
        Wire::Tls => secure(stream, &asked.host).await?,
    };
    let request = asked.request()?;
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

/// Where whoever is asked is. A lookup blocks: it has a thread of its own, of which there is one for each fetch.
async fn nodes(address: &Address) -> Result<Vec<Node>, String> {
    let (host, port) = match (literal(address), address) {
        (Some(node), _) => return Ok(vec![node]),
        (None, Address::Tcp { host, port }) => (host.clone(), *port),
        (None, Address::Unix(_)) => return Err("its address is no name".to_owned()),
    };
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new()
        .name("resolver".to_owned())
        // Whoever asked may have given up.
        .spawn(move || drop(tell.send(look_up(&host, port, None))))
        .map_err(|error| format!("no thread to resolve its name on: {error}"))?;
    let found = told
        .await
        .map_err(|_| "its name could not be resolved".to_owned())?;
    found.map_err(|error| format!("its name could not be resolved: {error}"))
}

/// Makes TLS of the connection.
async fn secure(stream: Stream, host: &str) -> Result<Stream, String> {
    let tls = UpstreamTls {
        server_name: ServerName::try_from(host.to_owned())
            .map_err(|_| "its host is no name that a certificate could bear".to_owned())?,
        authorities: Authorities::System,
        identity: None,
        verification: Verification::Full,
        handshake_timeout: LIMIT,
    };
    // Reads the system's authorities, some hundred files or one that is long: on a thread, for others wait for this one.
    let (tell, told) = oneshot::channel();
    let read = move || drop(tell.send(Connector::new(&tls)));
    std::thread::Builder::new()
        .name("authorities".to_owned())
        .spawn(read)
        .map_err(|error| format!("no thread to read the authorities: {error}"))?;
    let connector = told.await.map_err(|_| "reading the authorities failed")??;
    connector.connect(stream).await.map_err(|error| {
        format!("{error}; here not upstream.tls counts, but SSL_CERT_FILE of the environment")
    })
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

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.finish_writing();
        Poll::Ready(Ok(()))
    }
}
