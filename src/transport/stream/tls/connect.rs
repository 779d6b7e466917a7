//! TLS towards the server: the handshake, with the server verified and earlier sessions resumed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;

use super::authorities::{NoAuthorities, trusted};
use super::verify::{AnybodyVerifier, ExplainingVerifier};
use super::{BrokenHandshake, SessionSide, Stream, TlsRole, TlsStream, explain};
use crate::config::{ServerVerification, UpstreamTls, provider};

/// Makes TLS of connections to the server. One for all of them: that is how sessions are resumed.
#[derive(Debug)]
pub struct TlsConnector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    limit: Duration,
    has_identity: bool,
}

/// Says why there is no TLS with the server, and what to do.
#[derive(Debug)]
pub struct HandshakeFailed(String);

impl fmt::Display for HandshakeFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TlsConnector {
    /// Reads the system's authorities where they are wanted.
    ///
    /// # Errors
    /// There is nobody who could vouch for the server.
    pub fn new(tls: &UpstreamTls) -> Result<Self, NoAuthorities> {
        let provider = provider();
        let verifier: Arc<dyn ServerCertVerifier> = match tls.verification {
            ServerVerification::Skipped => Arc::new(AnybodyVerifier {
                provider: Arc::clone(&provider),
            }),
            ServerVerification::Full => {
                let (roots, trust) = trusted(&tls.authorities)?;
                let verifier = WebPkiServerVerifier::builder_with_provider(
                    Arc::new(roots),
                    Arc::clone(&provider),
                )
                .build()
                .map_err(|error| NoAuthorities {
                    what: format!("no verification of the server: {error}"),
                    remedy: "correct upstream.tls.ca_file",
                })?;
                Arc::new(ExplainingVerifier { verifier, trust })
            }
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| NoAuthorities {
                what: format!("no TLS: {error}"),
                remedy: "correct upstream.tls",
            })?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match &tls.identity {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let own: Arc<dyn ResolvesClientCert> =
                    Arc::new(SingleCertAndKey::from(Arc::clone(&pair.certified)));
                builder.with_client_cert_resolver(own)
            }
        };
        Ok(Self {
            config: Arc::new(config),
            name: tls.server_name.clone(),
            limit: tls.handshake_timeout,
            has_identity: tls.identity.is_some(),
        })
    }

    /// Makes TLS of a connection that nobody counts, to another server than Redis: see [`TlsConnector::begin`].
    ///
    /// # Errors
    /// [`HandshakeFailed`] says why not.
    pub async fn connect(&self, socket: Stream) -> Result<Stream, HandshakeFailed> {
        let stream = self.begin(socket).map_err(|(failed, _)| failed)?;
        self.shake_hands(&stream).await?;
        Ok(stream)
    }

    /// Makes TLS of a connection that has just been opened; [`TlsConnector::shake_hands`] is next.
    ///
    /// # Errors
    /// [`HandshakeFailed`] says why not, and the connection is as it was.
    pub fn begin(&self, socket: Stream) -> Result<Stream, (HandshakeFailed, Stream)> {
        match UnbufferedClientConnection::new(Arc::clone(&self.config), self.name.clone()) {
            Err(error) => Err((
                HandshakeFailed(format!("no TLS with the server: {error}")),
                socket,
            )),
            Ok(connection) => {
                let role = TlsRole::TowardsServer {
                    has_identity: self.has_identity,
                };
                let tls = TlsStream::new(socket, SessionSide::Client(connection), role);
                Ok(Stream::Tls(Box::new(tls)))
            }
        }
    }

    /// Shakes hands on what [`TlsConnector::begin`] has made. The connection stays its owner's, however this ends.
    ///
    /// # Errors
    /// [`HandshakeFailed`] says why not, and which setting helps.
    pub async fn shake_hands(&self, stream: &Stream) -> Result<(), HandshakeFailed> {
        let Stream::Tls(tls) = stream else {
            return Ok(());
        };
        let mut first = Vec::new();
        // The server is trusted with the few messages of its handshake.
        let shaken = tls.shake_hands(&mut first, |_| true);
        let done = tokio::time::timeout(self.limit, shaken).await;
        let text = match done {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(broken)) => self.why(&broken, &first),
            Err(_) if first.is_empty() => format!(
                "the server was silent for {:?} when asked for TLS (upstream.tls.handshake_timeout): if it speaks no TLS on \
                 this port, remove upstream.tls or set upstream.address to its TLS port",
                self.limit
            ),
            Err(_) => format!(
                "the TLS handshake took longer than {:?} (upstream.tls.handshake_timeout)",
                self.limit
            ),
        };
        Err(HandshakeFailed(text))
    }

    fn why(&self, broken: &BrokenHandshake, first: &[u8]) -> String {
        match broken {
            BrokenHandshake::Tls(error) => explain::towards_server(error, first, self.has_identity),
            BrokenHandshake::Closed if first.is_empty() => CLOSED.to_owned(),
            BrokenHandshake::Socket(error) if first.is_empty() => format!("{CLOSED} ({error})"),
            BrokenHandshake::Closed => {
                "the server closed the connection during the TLS handshake".to_owned()
            }
            BrokenHandshake::Socket(error) => {
                format!("the connection was lost during the TLS handshake: {error}")
            }
        }
    }
}

const CLOSED: &str = "the server closed the connection when asked for TLS: if it speaks no TLS on this port, remove \
                      upstream.tls or set upstream.address to its TLS port; a Redis that has reached its maxclients does this too";
