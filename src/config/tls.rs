//! TLS as the operator wants it: towards the server and from clients, with the files read and checked.
//!
//! What is wrong with a file is told by its key and never by its path or content: more than once a key was pasted where
//! its place was asked for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;

use super::certificate::CertificateFacts;
use super::file::WrittenFile;
use super::files::read_bytes;
use super::machine::FileSurroundings;
use super::problem::ConfigProblem;
use super::{Address, UnixSeconds};

/// Describes TLS towards the server.
#[derive(Debug, Clone)]
pub struct UpstreamTls {
    /// The server's certificate must bear this name, and the server is told it (SNI).
    pub server_name: ServerName<'static>,
    /// Says who may have signed it.
    pub authorities: TrustedAuthorities,
    /// Is shown to the server.
    pub identity: Option<CertifiedPair>,
    /// Says whether the server's certificate is verified.
    pub verification: ServerVerification,
    /// Bounds the time of one handshake.
    pub handshake_timeout: Duration,
}

/// Says whether the server's certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerVerification {
    /// The certificate is verified.
    Full,
    /// Anybody may play the server (`insecure_skip_verify`).
    Skipped,
}

/// Says who may have signed a certificate.
#[derive(Clone)]
pub enum TrustedAuthorities {
    /// The authorities that the system trusts may have; without any, the roots that are built in.
    System,
    /// Only these may have.
    Given(Vec<CertificateDer<'static>>),
}

impl fmt::Debug for TrustedAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("System"),
            Self::Given(list) => write!(f, "Given({})", list.len()),
        }
    }
}

/// Describes TLS from clients on one listener.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    /// Is shown to clients.
    pub identity: CertifiedPair,
    /// Clients must show a certificate signed by one of these.
    pub client_authorities: Option<Vec<CertificateDer<'static>>>,
}

/// Holds a certificate chain with its key. Invariant: the key belongs to the first certificate.
#[derive(Clone)]
pub struct CertifiedPair {
    /// Is used in the handshake.
    pub certified: Arc<CertifiedKey>,
    /// Holds what is known of the first certificate.
    pub certificate: CertificateFacts,
}

impl fmt::Debug for CertifiedPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({:?})", self.certificate)
    }
}

/// Returns the one provider of cryptography: named, since rustls does not choose between two that a build may hold.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Returns what was read of `upstream.tls`, and what is wrong with it.
pub(super) fn upstream(
    file: &WrittenFile,
    around: &FileSurroundings<'_>,
    address: &Address,
) -> (Option<UpstreamTls>, Vec<ConfigProblem>) {
    let table = "upstream.tls";
    let mut problems = Vec::new();
    if file.line(table).is_none() || file.is_refused(table) {
        return (None, problems);
    }
    let enabled = format!("{table}.enabled");
    if file.line(&enabled).is_none() && !file.is_refused(&enabled) {
        problems.push(ConfigProblem::new(
            file.line(table),
            table,
            "it is not said whether TLS is on",
            "add enabled = true, or enabled = false",
        ));
    }
    let is_on = file.flag(&enabled);
    let mut files = TlsFiles {
        file,
        around,
        table,
        problems: &mut problems,
    };
    // Read even when TLS is off: it will be switched on some day.
    let authorities = files.authorities("ca_file");
    let identity = files.pair();
    let server_name = files.server_name(address, is_on);
    let skipped = file.flag(&format!("{table}.insecure_skip_verify"));
    let tls = server_name
        .filter(|_| is_on)
        .map(|server_name| UpstreamTls {
            server_name,
            authorities: authorities.map_or(TrustedAuthorities::System, TrustedAuthorities::Given),
            identity,
            verification: if skipped {
                ServerVerification::Skipped
            } else {
                ServerVerification::Full
            },
            handshake_timeout: file.time(&format!("{table}.handshake_timeout")),
        });
    (tls, problems)
}

/// Returns what was read of the `tls` of the listener at `path`, and what is wrong with it.
pub(super) fn listener(
    file: &WrittenFile,
    around: &FileSurroundings<'_>,
    path: &str,
) -> (Option<ListenerTls>, Vec<ConfigProblem>) {
    let table = format!("{path}.tls");
    let mut problems = Vec::new();
    if file.line(&table).is_none() || file.is_refused(&table) {
        return (None, problems);
    }
    let mut files = TlsFiles {
        file,
        around,
        table: &table,
        problems: &mut problems,
    };
    let client_authorities = files.authorities("client_ca_file");
    let tls = files.pair().map(|identity| ListenerTls {
        identity,
        client_authorities,
    });
    (tls, problems)
}

/// Warns of what is no mistake and yet worth a word: TLS that does not verify, certificates that are not good now.
pub(super) fn warnings(
    file: &WrittenFile,
    upstream: Option<&UpstreamTls>,
    listeners: &[super::ListenerSettings],
    now: UnixSeconds,
) -> Vec<ConfigProblem> {
    let mut warnings = Vec::new();
    let mut untimely = |table: String, pair: &CertifiedPair| {
        if let Some(what) = pair.certificate.untimely(now) {
            let key = format!("{table}.cert_file");
            warnings.push(ConfigProblem::new(
                file.line(&key),
                super::file::key_of(&key),
                format!("the certificate {what}"),
                "renew it, or set this machine's clock",
            ));
        }
    };
    for (index, listener) in listeners.iter().enumerate() {
        if let Some(tls) = &listener.tls {
            untimely(format!("listener[{index}].tls"), &tls.identity);
        }
    }
    if let Some(pair) = upstream.and_then(|tls| tls.identity.as_ref()) {
        untimely("upstream.tls".to_owned(), pair);
    }
    if upstream.is_some_and(|tls| tls.verification == ServerVerification::Skipped) {
        let key = "upstream.tls.insecure_skip_verify";
        warnings.push(ConfigProblem::new(
            file.line(key),
            key,
            "the server's certificate is not verified: whoever is on the way can play the server",
            "remove it; set upstream.tls.server_name where the certificate bears another name, and ca_file where its \
             authority is not known here",
        ));
    }
    warnings
}

/// Reads the files that one table names.
struct TlsFiles<'a, 'b> {
    file: &'a WrittenFile,
    around: &'a FileSurroundings<'b>,
    table: &'a str,
    problems: &'a mut Vec<ConfigProblem>,
}

impl TlsFiles<'_, '_> {
    fn wrong(&mut self, name: &str, what: impl Into<String>, remedy: &str) {
        let path = format!("{}.{name}", self.table);
        let key = super::file::key_of(&path);
        let line = self.file.line(&path).or_else(|| self.file.line(self.table));
        self.problems
            .push(ConfigProblem::new(line, key, what, remedy));
    }

    fn text(&mut self, name: &str) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        let path = self.file.text(&format!("{}.{name}", self.table))?;
        let path = self.around.dir.join(path);
        match read_bytes(&path) {
            Ok(bytes) => Some(bytes),
            Err(why) => {
                let remedy = "name a file that respool's user can read";
                // Without the path: some paste what is to stand in the file.
                self.wrong(name, format!("the file cannot be read: {why}"), remedy);
                None
            }
        }
    }

    fn certificates(&mut self, name: &str) -> Option<Vec<CertificateDer<'static>>> {
        let text = self.text(name)?;
        let remedy = "it must hold certificates in PEM: -----BEGIN CERTIFICATE-----";
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        match read {
            Ok(list) if list.is_empty() => {
                self.wrong(name, "there is no certificate in it", remedy)
            }
            Err(_) => self.wrong(name, "it is no whole PEM file", remedy),
            Ok(list) => match list.iter().all(|der| CertificateFacts::read(der).is_some()) {
                true => return Some(list),
                false => self.wrong(name, "what is in it is no certificate", remedy),
            },
        }
        None
    }

    fn authorities(&mut self, name: &str) -> Option<Vec<CertificateDer<'static>>> {
        let list = self.certificates(name)?;
        let mut roots = rustls::RootCertStore::empty();
        if list.iter().any(|der| roots.add(der.clone()).is_err()) {
            self.wrong(
                name,
                "a certificate in it cannot be an authority",
                "put the certificates of the authorities there (CA), not those that they signed",
            );
            return None;
        }
        Some(list)
    }

    fn pair(&mut self) -> Option<CertifiedPair> {
        let has = |name: &str| {
            let path = format!("{}.{name}", self.table);
            (self.file.line(&path).is_some(), self.file.is_refused(&path))
        };
        match (has("cert_file"), has("key_file")) {
            ((_, true), _) | (_, (_, true)) | ((false, _), (false, _)) => return None,
            ((true, _), (true, _)) => {}
            // What a listener cannot be without is told as missing.
            _ if self.table != "upstream.tls" => return None,
            ((true, _), _) => {
                self.wrong("cert_file", "a certificate without its key", "add key_file");
                return None;
            }
            _ => {
                self.wrong("key_file", "a key without its certificate", "add cert_file");
                return None;
            }
        }
        let chain = self.certificates("cert_file");
        let key = self.key();
        let (chain, key) = (chain?, key?);
        let certificate = CertificateFacts::read(chain.first()?)?;
        let Ok(key) = provider().key_provider.load_private_key(key) else {
            let remedy = "use an RSA key of 2048 bits or more, or one of P-256, P-384 or Ed25519";
            self.wrong("key_file", "a key of a kind that is not supported", remedy);
            return None;
        };
        let certified = CertifiedKey::new(chain, key);
        if certified.keys_match().is_err() {
            self.wrong(
                "key_file",
                "the key does not belong to the first certificate of cert_file",
                "name the key for which that certificate was made, and put that certificate before its intermediates",
            );
            return None;
        }
        Some(CertifiedPair {
            certified: Arc::new(certified),
            certificate,
        })
    }

    fn key(&mut self) -> Option<PrivateKeyDer<'static>> {
        let text = self.text("key_file")?;
        let key = PrivateKeyDer::from_pem_slice(&text).ok();
        if key.is_none() {
            self.wrong(
                "key_file",
                "there is no private key in it that can be read",
                "it must hold a key in PEM, without a passphrase: -----BEGIN PRIVATE KEY-----",
            );
        }
        key
    }

    fn server_name(&mut self, address: &Address, is_on: bool) -> Option<ServerName<'static>> {
        let path = format!("{}.server_name", self.table);
        if self.file.is_refused(&path) {
            return None;
        }
        if let Some(text) = self.file.text(&path) {
            let name = ServerName::try_from(text.trim_end_matches('.').to_owned());
            if name.is_err() {
                self.wrong(
                    "server_name",
                    "neither a host name nor an IP address",
                    "write one name that the certificate is good for, such as \"cache.example.com\": no port, no *",
                );
            }
            return name.ok();
        }
        match address {
            Address::Tcp { host, .. } => {
                let name = ServerName::try_from(host.trim_end_matches('.').to_owned()).ok();
                if name.is_none() && is_on {
                    let remedy = "write the name that the certificate is good for";
                    self.wrong(
                        "server_name",
                        "upstream.address is no name to verify",
                        remedy,
                    );
                }
                name
            }
            // An address that was refused has a path of nothing.
            Address::Unix(path) if path.as_os_str().is_empty() => None,
            Address::Unix(_) => {
                if is_on {
                    let remedy = "write the name that the certificate is good for";
                    self.wrong("server_name", "a unix socket has no name to verify", remedy);
                }
                None
            }
        }
    }
}
