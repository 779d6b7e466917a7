//! Both ends of a connection with TLS, on a socket.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::UnixStream;

use super::*;
use crate::config::provider;

/// Returns respool's end and that of the other side, after their handshake.
async fn pair() -> (Stream, Stream) {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let client = UnbufferedClientConnection::new(Arc::new(client), name).unwrap();
    let server = UnbufferedServerConnection::new(Arc::new(server)).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let role = TlsRole::TowardsServer {
        has_identity: false,
    };
    let ours = TlsStream::new(Stream::Unix(ours), SessionSide::Client(client), role);
    let theirs = TlsStream::new(
        Stream::Unix(theirs),
        SessionSide::Server(server),
        TlsRole::TowardsClient,
    );
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let (one, other) = tokio::join!(
        ours.shake_hands(&mut first, |_| true),
        theirs.shake_hands(&mut second, |_| true)
    );
    assert!(one.is_ok() && other.is_ok());
    (Stream::Tls(Box::new(ours)), Stream::Tls(Box::new(theirs)))
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(test);
}

async fn read(stream: &Stream) -> io::Result<usize> {
    loop {
        std::future::poll_fn(|cx| stream.poll_read_ready(cx)).await?;
        match stream.try_read(&mut [0; 4096]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

#[test]
fn an_end_that_could_not_be_sent_does_not_hide_the_other_sides() {
    run(async {
        let (ours, theirs) = pair().await;
        while !ours.has_unflushed() {
            ours.try_write(&[b'x'; 100_000]).unwrap();
        }
        ours.finish_writing();
        // Nothing has come: neither an end nor an error.
        let nothing = ours.try_read(&mut [0; 100]).map_err(|error| error.kind());
        assert_eq!(nothing, Err(io::ErrorKind::WouldBlock));
        while theirs.try_write(b"what is said meanwhile").is_err() {
            read(&theirs).await.unwrap();
        }
        let nothing = ours.try_read(&mut [0; 100]).map_err(|error| error.kind());
        assert_eq!(nothing, Err(io::ErrorKind::WouldBlock));
        theirs.finish_writing();
        assert_eq!(read(&ours).await.unwrap(), 0);
    });
}
