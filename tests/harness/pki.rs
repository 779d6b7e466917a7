//! An authority of the test's own, and the certificates that it signs, as files in a temporary folder.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use super::private_folder;

/// Holds an authority and its files.
pub(crate) struct Pki {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// Has every respool speak TLS to its server with `RESPOOL_TLS=server`, and its clients too with `RESPOOL_TLS=both`: the whole
/// suite sees then what it sees without.
pub(crate) struct TlsEverywhere {
    pub(crate) pki: Pki,
    pub(crate) pair: CertificatePair,
    pub(crate) clients_too: bool,
}

impl TlsEverywhere {
    /// Reads what the environment asks for.
    pub(super) fn asked() -> Option<Self> {
        let sides = std::env::var("RESPOOL_TLS").ok()?;
        assert!(
            matches!(sides.as_str(), "server" | "both"),
            "RESPOOL_TLS is \"server\" or \"both\""
        );
        let pki = Pki::new();
        Some(Self {
            pair: pki.issue("everywhere", &["127.0.0.1", "localhost"]),
            pki,
            clients_too: sides == "both",
        })
    }
}

/// Names a certificate and its key, both in PEM files.
#[derive(Clone)]
pub(crate) struct CertificatePair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl CertificatePair {
    /// Writes `cert_file` and `key_file` of a TOML table.
    pub(crate) fn toml(&self) -> String {
        format!(
            "cert_file = \"{}\", key_file = \"{}\"",
            self.cert.display(),
            self.key.display()
        )
    }
}

impl Pki {
    /// Makes an authority, whose certificate is a file.
    pub(crate) fn new() -> Self {
        let dir = private_folder("respool-pki-");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "the test's authority");
        let key = KeyPair::generate().expect("a key");
        let ca = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).expect("a file can be written");
        Self {
            dir,
            issuer: Issuer::new(params, key),
        }
    }

    /// Tells the file of the authority's own certificate.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Issues a certificate with this common name, good for these names until the end of 2090.
    pub(crate) fn issue(&self, common_name: &str, names: &[&str]) -> CertificatePair {
        self.issue_until(common_name, names, 2090)
    }

    /// Issues a certificate that ends on the last day of `year`.
    pub(crate) fn issue_until(
        &self,
        common_name: &str,
        names: &[&str],
        year: i32,
    ) -> CertificatePair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_after = date_time_ymd(year, 12, 31);
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let pair = CertificatePair {
            cert: self.dir.path().join(format!("{common_name}-{year}.pem")),
            key: self.dir.path().join(format!("{common_name}-{year}.key")),
        };
        std::fs::write(&pair.cert, cert.pem()).expect("a file can be written");
        std::fs::write(&pair.key, key.serialize_pem()).expect("a file can be written");
        pair
    }

    /// Makes a client's configuration that trusts this authority alone, and shows `own`. Sessions are resumed among the clients
    /// of one configuration.
    pub(crate) fn client(&self, own: Option<&CertificatePair>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.ca_file()).expect("a certificate");
        roots.add(ca).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let cert = CertificateDer::from_pem_file(&pair.cert).expect("a certificate");
                let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
                builder
                    .with_client_auth_cert(vec![cert], key)
                    .expect("a pair")
            }
        })
    }
}
