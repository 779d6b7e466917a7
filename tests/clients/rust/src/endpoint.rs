//! Where the server is, and how each library gets there: REDIS_PORT, and with REDIS_CA (a file of PEM) by TLS, the
//! server's certificate verified against that authority alone.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use fred::prelude::{Config, TlsConfig, TlsConnector};
use redis::{Client, RedisResult, TlsCertificates};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Names the one server of this run.
#[derive(Clone)]
pub(crate) struct Endpoint {
    port: u16,
    authority: Option<Vec<u8>>,
}

impl Endpoint {
    /// Reads what the runner has told by the environment.
    pub(crate) fn told() -> Result<Self> {
        let port = std::env::var("REDIS_PORT")
            .context("REDIS_PORT is not set: run this by scripts/clients")?;
        let authority = match std::env::var_os("REDIS_CA") {
            Some(file) => Some(std::fs::read(file).context("REDIS_CA")?),
            None => None,
        };
        Ok(Self {
            port: port.parse().context("REDIS_PORT")?,
            authority,
        })
    }

    /// Makes a client of redis-rs.
    pub(crate) fn redis(&self, database: usize, protocol: &str) -> RedisResult<Client> {
        let place = format!("127.0.0.1:{}/{database}?protocol=resp{protocol}", self.port);
        match &self.authority {
            None => Client::open(format!("redis://{place}")),
            Some(authority) => Client::build_with_tls(
                format!("rediss://{place}"),
                TlsCertificates {
                    client_tls: None,
                    root_cert: Some(authority.clone()),
                },
            ),
        }
    }

    /// Makes what fred is configured with.
    pub(crate) fn fred(&self) -> Result<Config> {
        let mut config = Config::from_url(&format!("redis://127.0.0.1:{}", self.port))?;
        if let Some(authority) = &self.authority {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(authority) {
                roots.add(certificate?)?;
            }
            let client = ClientConfig::builder()
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.tls = Some(TlsConfig::from(TlsConnector::Rustls(
                Arc::new(client).into(),
            )));
        }
        Ok(config)
    }
}
