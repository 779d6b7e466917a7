//! TLS from clients: what a listener shows them, and the handshake.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{Error, RootCertStore, ServerConfig};

use super::{BrokenHandshake, SessionSide, Stream, TlsRole, TlsStream, explain};
use crate::config::{ListenerTls, UnixSeconds, provider};
use crate::memory::Stranger;

/// Holds what one listener shows its clients. It can be replaced while clients come; those that are there keep what
/// they have.
#[derive(Debug, Default)]
pub(crate) struct TlsAcceptor(ArcSwapOption<ClientTls>);

/// Holds what is shown to one client.
#[derive(Debug)]
pub struct ClientTls {
    config: Arc<ServerConfig>,
    not_after: UnixSeconds,
    asks_for_certificate: bool,
}

/// Tells why a client's handshake came to nothing.
#[derive(Debug)]
pub enum AcceptError {
    /// The client sent what is no TLS.
    Plain,
    Closed,
    /// It took too long.
    Timeout,
    /// The memory it held was needed for those who were admitted.
    NoRoom,
    /// It failed otherwise, as the text says.
    Failed(String),
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.write_str(
                "it sent plain bytes to a listener with TLS: let it connect with TLS, or use a listener without",
            ),
            Self::Closed => f.write_str("it left during the TLS handshake"),
            Self::Timeout => {
                f.write_str("its TLS handshake took too long (limits.handshake_timeout)")
            }
            Self::NoRoom => f.write_str(
                "limits.max_memory left no room, and who is still in its TLS handshake goes first",
            ),
            Self::Failed(text) => f.write_str(text),
        }
    }
}

impl TlsAcceptor {
    /// Shows what these settings say; without them its clients speak no TLS.
    ///
    /// # Errors
    /// What rustls does not take of them, in words.
    pub(crate) fn new(tls: Option<&ListenerTls>) -> Result<Self, String> {
        let acceptance = tls.map(ClientTls::new).transpose()?;
        Ok(Self(ArcSwapOption::new(acceptance.map(Arc::new))))
    }

    /// Shows something else to all clients that come from now on.
    pub(crate) fn replace(&self, acceptance: Option<ClientTls>) {
        self.0.store(acceptance.map(Arc::new));
    }

    /// Returns what the next client is shown; `None` where it speaks no TLS.
    pub(crate) fn current(&self) -> Option<Arc<ClientTls>> {
        self.0.load_full()
    }
}

impl ClientTls {
    /// Makes what these settings say.
    ///
    /// # Errors
    /// What rustls does not take of them, in words.
    pub fn new(tls: &ListenerTls) -> Result<Self, String> {
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| format!("no TLS: {error}"))?;
        let builder = match &tls.client_authorities {
            None => builder.with_no_client_auth(),
            Some(list) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(list.iter().cloned());
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|error| format!("no verification of clients: {error}"))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let own = SingleCertAndKey::from(Arc::clone(&tls.identity.certified));
        let mut config = builder.with_cert_resolver(Arc::new(own));
        // Tickets carry the session, so that none is kept here; their keys end with this configuration, and with it the
        // trust in client certificates that it verified.
        config.ticketer = rustls::crypto::ring::Ticketer::new()
            .map_err(|error| format!("no session tickets: {error}"))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // The clients that resume at all keep one.
        config.send_tls13_tickets = 1;
        Ok(Self {
            config: Arc::new(config),
            not_after: tls.identity.certificate.not_after,
            asks_for_certificate: tls.client_authorities.is_some(),
        })
    }

    /// Tells whether a client shows a certificate, by which its group may be decided: what that is is known after the
    /// handshake.
    pub fn asks_for_certificate(&self) -> bool {
        self.asks_for_certificate
    }

    /// Says until when the certificate shown is good.
    pub fn not_after(&self) -> UnixSeconds {
        self.not_after
    }

    /// Shakes hands with a client; what it holds is `stranger`'s. How long that may take is up to the caller.
    ///
    /// # Errors
    /// [`AcceptError`]; the connection is closed then.
    pub async fn accept(&self, socket: Stream, stranger: &Stranger) -> Result<Stream, AcceptError> {
        let connection = UnbufferedServerConnection::new(Arc::clone(&self.config))
            .map_err(|error| AcceptError::Failed(format!("no TLS: {error}")))?;
        let tls = TlsStream::new(
            socket,
            SessionSide::Server(connection),
            TlsRole::TowardsClient,
        );
        let mut first = Vec::new();
        let hold = |bytes| {
            // Whether it may is asked by the other branch.
            let _ = stranger.hold(bytes);
            !stranger.makes_way()
        };
        let shaken = tokio::select! {
            biased;
            shaken = tls.shake_hands(&mut first, hold) => shaken,
            () = poll_fn(|cx| stranger.poll_told(cx)) => return Err(AcceptError::NoRoom),
        };
        match shaken {
            Ok(()) => Ok(Stream::Tls(Box::new(tls))),
            Err(broken) => Err(why(&broken, &first)),
        }
    }
}

fn why(broken: &BrokenHandshake, first: &[u8]) -> AcceptError {
    match broken {
        BrokenHandshake::Socket(_) | BrokenHandshake::Closed => AcceptError::Closed,
        BrokenHandshake::Tls(Error::InvalidMessage(_)) if !explain::looks_like_tls(first) => {
            AcceptError::Plain
        }
        BrokenHandshake::Tls(Error::NoCertificatesPresented) => AcceptError::Failed(
            "it showed no certificate, and the listener asks for one (tls.client_ca_file)"
                .to_owned(),
        ),
        BrokenHandshake::Tls(Error::InvalidCertificate(error)) => AcceptError::Failed(format!(
            "its certificate was refused: {}; it must be signed by an authority in tls.client_ca_file",
            explain::short(&error.to_string())
        )),
        BrokenHandshake::Tls(Error::AlertReceived(alert)) => AcceptError::Failed(format!(
            "it ended the TLS handshake with {alert:?}: it may not trust the listener's certificate (tls.cert_file), or \
             know it by another name"
        )),
        BrokenHandshake::Tls(error) => {
            AcceptError::Failed(format!("its TLS handshake failed: {error}"))
        }
    }
}
