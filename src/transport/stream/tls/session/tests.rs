//! Two sessions that talk to each other, their records cut as a network may cut them.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::crypto::{CipherSuiteCommon, CryptoProvider};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, Tls12CipherSuite};

use super::*;
use crate::config::provider;

/// Both ends of a connection, and what is on its way between them.
struct Wire {
    client: TlsSession,
    server: TlsSession,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
}

/// Tells which end it is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Client,
    Server,
}

/// What respool uses, but for a limit of its own to what the keys of TLS 1.2 may encrypt.
fn limited(confidentiality_limit: u64) -> Arc<CryptoProvider> {
    let limit = |suite: &SupportedCipherSuite| {
        let &SupportedCipherSuite::Tls12(suite) = suite else {
            return *suite;
        };
        let common = CipherSuiteCommon {
            suite: suite.common.suite,
            hash_provider: suite.common.hash_provider,
            confidentiality_limit,
        };
        SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite { common, ..*suite })))
    };
    let provider = provider();
    Arc::new(CryptoProvider {
        cipher_suites: provider.cipher_suites.iter().map(limit).collect(),
        ..(*provider).clone()
    })
}

impl Wire {
    fn new() -> Self {
        Self::with(provider(), rustls::DEFAULT_VERSIONS)
    }

    fn with(
        provider: Arc<CryptoProvider>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let client = UnbufferedClientConnection::new(Arc::new(client), name).unwrap();
        let server = UnbufferedServerConnection::new(Arc::new(server)).unwrap();
        let mut wire = Self {
            client: TlsSession::new(SessionSide::Client(client)),
            server: TlsSession::new(SessionSide::Server(server)),
            to_server: Vec::new(),
            to_client: Vec::new(),
        };
        wire.client.start().unwrap();
        wire.server.start().unwrap();
        wire
    }

    fn shaken() -> Self {
        Self::new().shake()
    }

    fn shake(self) -> Self {
        let mut wire = self;
        for _ in 0..8 {
            for end in [End::Client, End::Server] {
                assert_eq!(wire.pass(end, usize::MAX, 0), Ok(Vec::new()));
            }
        }
        assert!(!wire.client.is_handshaking() && !wire.server.is_handshaking());
        wire
    }

    fn of(&mut self, end: End) -> (&mut TlsSession, &mut Vec<u8>, &mut Vec<u8>) {
        match end {
            End::Client => (&mut self.client, &mut self.to_client, &mut self.to_server),
            End::Server => (&mut self.server, &mut self.to_server, &mut self.to_client),
        }
    }

    /// Up to `most` bytes arrive at `end`, which has `room` for plain bytes; what it has to say goes on its way.
    fn pass(&mut self, end: End, most: usize, room: usize) -> Result<Vec<u8>, Error> {
        let (session, arriving, leaving) = self.of(end);
        let count = most.min(arriving.len());
        let mut records = session.incoming().to_vec();
        records.extend(arriving.drain(..count));
        let mut into = vec![0; room];
        let mut filled = 0;
        let fed = session.feed(&mut records, &mut into, &mut filled);
        into.truncate(filled);
        into.extend_from_slice(session.plain().front());
        session.plain().clear();
        leaving.extend_from_slice(session.out().front());
        session.out().clear();
        fed.map(|()| into)
    }

    fn say(&mut self, end: End, plain: &[u8]) {
        let mut cipher = vec![0; MOST_CIPHER];
        let (session, _, leaving) = self.of(end);
        let length = session.encrypt(plain, &mut cipher).unwrap();
        leaving.extend_from_slice(session.out().front());
        session.out().clear();
        leaving.extend_from_slice(&cipher[..length]);
    }
}

#[test]
fn as_much_as_is_taken_at_once_fits_its_buffer() {
    let mut wire = Wire::shaken();
    let plain: Vec<u8> = (0..MOST_PLAIN).map(|n| n as u8).collect();
    wire.say(End::Client, &plain);
    let got = wire.pass(End::Server, usize::MAX, 100).unwrap();
    assert!(got == plain, "{} bytes of {}", got.len(), plain.len());
}

#[test]
fn an_idle_session_holds_no_buffers() {
    let mut wire = Wire::shaken();
    for end in [End::Client, End::Server] {
        wire.say(end, b"PING");
    }
    for end in [End::Client, End::Server] {
        assert_eq!(wire.pass(end, usize::MAX, 10).unwrap(), b"PING");
        let (session, ..) = wire.of(end);
        let held = session.incoming.capacity() + session.plain.bytes.capacity();
        assert_eq!(held + session.out.bytes.capacity(), 0);
    }
}

#[test]
fn a_goodbye_ends_one_way_and_leaves_the_other() {
    let mut wire = Wire::shaken();
    wire.say(End::Client, b"last words");
    wire.client.close();
    wire.client.close();
    assert_eq!(wire.pass(End::Client, 0, 0), Ok(Vec::new()));
    assert_eq!(
        wire.pass(End::Server, usize::MAX, 0).unwrap(),
        b"last words"
    );
    assert!(wire.server.is_closed());
    wire.say(End::Server, b"an answer");
    assert_eq!(wire.pass(End::Client, usize::MAX, 0), Ok(Vec::new()));
    wire.server.close();
    assert_eq!(wire.pass(End::Server, 0, 0), Ok(Vec::new()));
    assert_eq!(wire.to_client.len(), 24, "a goodbye of its own");
}

#[test]
fn what_comes_after_a_goodbye_cannot_fail() {
    let mut wire = Wire::shaken();
    wire.say(End::Server, b"half of it");
    let half = wire.to_client.split_off(10);
    assert_eq!(wire.pass(End::Client, usize::MAX, 0), Ok(Vec::new()));
    wire.client.close();
    assert!(!wire.client.out().is_empty());
    wire.client.out().clear();
    wire.to_client = half;
    *wire.to_client.last_mut().unwrap() ^= 1;
    for _ in 0..2 {
        assert_eq!(wire.pass(End::Client, usize::MAX, 0), Ok(Vec::new()));
        assert!(wire.to_server.is_empty(), "nothing can be said any more");
        wire.to_client = b"-ERR no TLS at all\r\n".repeat(10);
    }
    wire.client.close();
    assert!(wire.client.out().is_empty());
}

#[test]
fn keys_are_worn_out_before_they_end_the_session() {
    let mut wire = Wire::with(limited(64), &[&rustls::version::TLS12]).shake();
    let (mut said, mut cipher) = (0, vec![0; MOST_CIPHER]);
    while !wire.client.is_worn_out() {
        // Two records.
        wire.say(End::Client, &[b'x'; FRAGMENT + 1]);
        said += 2;
    }
    assert_eq!(said, 60);
    // What is under way can be finished.
    assert!(wire.client.encrypt(b"x", &mut cipher).is_ok());
    assert!(!wire.server.is_worn_out(), "each side has keys of its own");
    let ended = (0..64).find_map(|_| wire.client.encrypt(b"x", &mut cipher).err());
    assert!(ended.is_some(), "the limit is the one that counts");
}

#[test]
fn keys_that_are_changed_do_not_wear_out() {
    let mut wire = Wire::with(limited(64), &[&rustls::version::TLS13]).shake();
    for _ in 0..200 {
        wire.say(End::Client, b"PING");
    }
    assert!(!wire.client.is_worn_out());
}

#[test]
fn a_broken_session_tells_the_other_side_and_is_asked_nothing_any_more() {
    let mut wire = Wire::shaken();
    wire.say(End::Client, b"PING");
    *wire.to_server.last_mut().unwrap() ^= 1;
    assert!(wire.pass(End::Server, usize::MAX, 10).is_err());
    assert!(matches!(
        wire.pass(End::Client, usize::MAX, 0),
        Err(Error::AlertReceived(_))
    ));
    for end in [End::Client, End::Server] {
        let (session, ..) = wire.of(end);
        session.close();
        assert!(session.out().is_empty());
        assert!(session.encrypt(b"x", &mut [0; 100]).is_err());
        assert!(session.feed(&mut [], &mut [], &mut 0).is_err());
    }
}

#[test]
fn a_handshake_of_endless_records_is_ended() {
    let mut wire = Wire::new();
    // The head of a message of the handshake as long as it may be, in records of one byte.
    wire.to_server = vec![22, 3, 1, 0, 4, 1, 0, 0xff, 0xff];
    for _ in 0..100_000 {
        wire.to_server.extend([22, 3, 1, 0, 1, 0]);
    }
    let mut ended = false;
    while !wire.to_server.is_empty() && !ended {
        ended = wire.pass(End::Server, 60_000, 0).is_err();
        assert!(wire.server.incoming().len() <= MOST_INCOMPLETE);
    }
    assert!(ended);
}

fn lengths() -> impl Strategy<Value = Vec<(bool, usize)>> {
    let length = prop_oneof![1..200_usize, 10_000..MOST_PLAIN];
    proptest::collection::vec((any::<bool>(), length), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is said arrives, however the records are cut and however little room there is.
    #[test]
    fn all_arrives_in_order_however_it_is_cut(
        said in lengths(), cuts in proptest::collection::vec((1..40_000_usize, 0..70_000_usize), 1..8)
    ) {
        let mut wire = Wire::new();
        let mut cuts = cuts.into_iter().cycle();
        let mut due = [Vec::new(), Vec::new()];
        let mut got = [Vec::new(), Vec::new()];
        let mut said = said.into_iter();
        let mut quiet = 0;
        while quiet < 4 {
            quiet += 1;
            for end in [End::Client, End::Server] {
                let (cut, room) = cuts.next().unwrap_or((1, 0));
                let plain = wire.pass(end, cut, room).unwrap();
                if !plain.is_empty() || !wire.of(end).1.is_empty() {
                    quiet = 0;
                }
                got[end as usize].extend(plain);
            }
            if !wire.client.is_handshaking()
                && !wire.server.is_handshaking()
                && let Some((of_client, length)) = said.next()
            {
                let (from, to) = if of_client { (End::Client, End::Server) } else { (End::Server, End::Client) };
                let plain: Vec<u8> = (0..length).map(|n| (n ^ (n >> 8)) as u8).collect();
                wire.say(from, &plain);
                due[to as usize].extend(plain);
                quiet = 0;
            }
        }
        prop_assert!(said.next().is_none());
        prop_assert!(got == due);
    }

    /// What is no TLS is an error, and never more.
    #[test]
    fn garbage_ends_a_session(at in 0..3_usize, bytes in proptest::collection::vec(any::<u8>(), 1..2000)) {
        let mut wire = if at == 0 { Wire::new() } else { Wire::shaken() };
        if at == 2 {
            wire.say(End::Client, b"PING");
            wire.to_server.pop();
        }
        wire.to_server.extend(&bytes);
        for cut in [1, 100, 100_000] {
            let _ = wire.pass(End::Server, cut, 64);
        }
        wire.server.close();
    }
}
