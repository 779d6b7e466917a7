//! One small HTTP request to an endpoint that hands out keys, in plain text or by TLS.

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
use zeroize::Zeroizing;

use super::on_thread::on_thread;
use crate::config::{Address, Secret, ServerVerification, TrustedAuthorities, UpstreamTls};
use crate::failover::ServerNode;
use crate::transport::{Stream, TlsConnector, dial, literal, look_up};

/// The whole of it may take this long.
const LIMIT: Duration = Duration::from_secs(5);

/// An answer has at most this many bytes.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Says how the endpoint is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HttpScheme {
    /// It is not known at all.
    Plain,
    /// It shows a certificate for its name, signed by an authority of this system.
    Tls,
}

/// Describes a request that has not been sent.
pub(super) struct HttpRequest {
    pub(super) scheme: HttpScheme,
    pub(super) host: String,
    pub(super) port: u16,
    /// The query stands behind the path.
    pub(super) path: String,
    /// The fields of a form make it a POST.
    pub(super) form: Option<Zeroizing<String>>,
    /// The header is sent as it stands here.
    pub(super) authorization: Option<Secret>,
}

/// Holds the answer to an [`HttpRequest`].
pub(super) struct HttpAnswer {
    /// The status is for people: number and words.
    pub(super) status: String,
    /// The body may hold secrets.
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

impl HttpRequest {
    /// Returns the GET that a URI means; `None`: it is no URI of HTTP, or has a user.
    pub(super) fn of(uri: &str) -> Option<Self> {
        let (scheme, rest) = match uri.split_once("://")? {
            ("http", rest) => (HttpScheme::Plain, rest),
            ("https", rest) => (HttpScheme::Tls, rest),
            _ => return None,
        };
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let default = match scheme {
            HttpScheme::Plain => "80",
            HttpScheme::Tls => "443",
        };
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
            scheme,
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

    /// Sends it, and waits for the whole answer.
    ///
    /// # Errors
    /// The text says why there is none, and holds nothing of what was sent or received.
    pub(super) async fn send(self) -> Result<HttpAnswer, String> {
        let address = self.address();
        let answer = tokio::time::timeout(LIMIT, answer(self)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")));
        answer.map_err(|why| format!("the endpoint at {address}: {why}"))
    }

    fn encoded(self) -> Result<Request<Full<Bytes>>, String> {
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

async fn answer(asked: HttpRequest) -> Result<HttpAnswer, String> {
    let nodes = nodes(&asked.address()).await?;
    let (stream, _) = dial(&nodes, LIMIT, Duration::ZERO, |_| {})
        .await
        .map_err(|error| error.to_string())?;
    let stream = match asked.scheme {
        HttpScheme::Plain => stream,
        HttpScheme::Tls => secure(stream, &asked.host).await?,
    };
    let request = asked.encoded()?;
    let (mut sender, connection) = handshake(HttpStream(stream))
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
        Ok(HttpAnswer { status, bytes })
    };
    let mut exchange = pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        // It may end before its last answer is taken.
        _ = &mut connection => exchange.await,
    }
}

/// Resolves the endpoint's name. A lookup blocks: it has a thread of its own, of which there is one for each request.
async fn nodes(address: &Address) -> Result<Vec<ServerNode>, String> {
    let (host, port) = match (literal(address), address) {
        (Some(node), _) => return Ok(vec![node]),
        (None, Address::Tcp { host, port }) => (host.clone(), *port),
        (None, Address::Unix(_)) => return Err("its address is no name".to_owned()),
    };
    let told = on_thread("resolver", move || look_up(&host, port, None))
        .map_err(|error| format!("no thread to resolve its name on: {error}"))?;
    let found = told
        .await
        .map_err(|_| "its name could not be resolved".to_owned())?;
    found.map_err(|error| format!("its name could not be resolved: {error}"))
}

/// Makes TLS of a connection to `host`.
async fn secure(stream: Stream, host: &str) -> Result<Stream, String> {
    let tls = UpstreamTls {
        server_name: ServerName::try_from(host.to_owned())
            .map_err(|_| "its host is no name that a certificate could bear".to_owned())?,
        authorities: TrustedAuthorities::System,
        identity: None,
        verification: ServerVerification::Full,
        handshake_timeout: LIMIT,
    };
    // Reads the system's authorities, some hundred files or one that is long: on a thread, for others wait for this one.
    let told = on_thread("authorities", move || TlsConnector::new(&tls))
        .map_err(|error| format!("no thread to read the authorities: {error}"))?;
    let connector = told.await.map_err(|_| "reading the authorities failed")??;
    connector.connect(stream).await.map_err(|error| {
        format!("{error}; here not upstream.tls counts, but SSL_CERT_FILE of the environment")
    })
}

/// Reads and writes a stream as hyper wants it.
struct HttpStream(Stream);

impl hyper::rt::Read for HttpStream {
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

impl hyper::rt::Write for HttpStream {
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
