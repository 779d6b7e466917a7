//! TLS on either side: what it takes to trust a server, what is said when it is not trusted, and that what clients see
//! through it is what they see without.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use crate::harness::{
    CertificatePair, Client, Pki, Redis, Respool, Value, encode, eventually, run_respool,
    uninterrupted,
};

/// Writes `upstream.tls` with the test's authority and `more`.
pub(crate) fn upstream_tls(pki: &Pki, more: &str) -> String {
    format!(
        "tls = {{ enabled = true, ca_file = \"{}\"{more} }}",
        pki.ca_file().display()
    )
}

pub(crate) fn listener_tls(own: &CertificatePair, more: &str) -> String {
    format!("tls = {{ {}{more} }}", own.toml())
}

/// Starts a server and a respool with TLS between them and to the clients.
pub(crate) fn both_sides(pki: &Pki) -> (Redis, Respool) {
    let own = pki.issue("server", &["127.0.0.1", "localhost"]);
    let redis = Redis::start_tls(pki, &own, &[]);
    let respool = Respool::before(&redis.tls_addr())
        .upstream(&upstream_tls(pki, ""))
        .listener(&listener_tls(&own, ""))
        .start();
    (redis, respool)
}

/// Tells the last error of the server, once there is one that holds `part`.
#[track_caller]
fn last_error(respool: &Respool, part: &str) -> String {
    let text = || {
        let error = &respool.status_json()["server"]["last_error"]["text"];
        error.as_str().unwrap_or_default().to_owned()
    };
    eventually(|| text().contains(part), part);
    text()
}

/// Starts respool before `address` and returns the error that holds `part`; nobody is served meanwhile.
#[track_caller]
fn refused(address: &str, upstream: &str, part: &str) -> String {
    let respool = Respool::before(address)
        .upstream(&format!(
            "{upstream}\nqueue = {{ timeout = \"100ms\", max_commands = 10 }}"
        ))
        .start();
    let text = last_error(&respool, part);
    let reply = respool.client().cmd(&["PING"]);
    assert!(reply.text().starts_with("LOADING"), "{reply:?}");
    assert_eq!(respool.metric("respool_server_up"), 0.0);
    text
}

#[test]
fn commands_run_with_tls_on_both_sides() {
    let pki = Pki::new();
    let (redis, respool) = both_sides(&pki);
    let mut client = respool.tls_client(&pki.client(None));
    assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    assert_eq!(redis.cmd(&["GET", "k"]), Value::bulk("v"));
    client.send([encode(&["INCR", "n"]), encode(&["INCR", "n"])].concat());
    assert_eq!(
        (client.reply(), client.reply()),
        (Value::Int(1), Value::Int(2))
    );
    assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    assert_eq!(client.cmd(&["GET", "k"]), Value::simple("QUEUED"));
    assert_eq!(client.cmd(&["EXEC"]), Value::Array(vec![Value::bulk("v")]));
    assert_eq!(client.cmd(&["RPUSH", "list", "a"]), Value::Int(1));
    assert_eq!(
        client.cmd(&["BLPOP", "list", "1"]),
        Value::Array(vec![Value::bulk("list"), Value::bulk("a")])
    );
    let until = respool.metric("respool_certificate_expiry_timestamp_seconds{role=\"server\"}");
    assert_eq!(until, 3_818_361_600.0);
    let own = respool.metric("respool_certificate_expiry_timestamp_seconds{role=\"listener\"}");
    assert_eq!(own, until);
    assert!(respool.metric("respool_tls_handshakes_total{side=\"server\",result=\"full\"}") >= 1.0);
    assert_eq!(
        respool.metric("respool_tls_handshakes_total{side=\"client\",result=\"full\"}"),
        1.0
    );
    assert_eq!(respool.status_json()["warnings"], serde_json::json!([]));
}

#[test]
fn a_certificate_for_another_name_is_refused_until_that_name_is_set() {
    let pki = Pki::new();
    let own = pki.issue("redis", &["*.cache.example.com", "10.1.2.3"]);
    let redis = Redis::start_tls(&pki, &own, &[]);
    let text = refused(
        &redis.tls_addr(),
        &upstream_tls(&pki, ""),
        "not for \"127.0.0.1\"",
    );
    assert!(
        text.contains("is good for \"*.cache.example.com\", \"10.1.2.3\"")
            && text.contains("set upstream.tls.server_name"),
        "{text}"
    );
    let respool = Respool::before(&redis.tls_addr())
        .upstream(&upstream_tls(
            &pki,
            ", server_name = \"a.cache.example.com\"",
        ))
        .start();
    respool.client().ping();
}

#[test]
fn an_expired_certificate_is_named_with_its_date() {
    let pki = Pki::new();
    let own = pki.issue_until("redis", &["127.0.0.1"], 2020);
    let redis = Redis::start_tls(&pki, &own, &[]);
    let text = refused(&redis.tls_addr(), &upstream_tls(&pki, ""), "expired at");
    assert!(
        text.contains("expired at 2020-12-31T00:00:00Z; renew it at the server"),
        "{text}"
    );
}

#[test]
fn an_authority_that_is_not_known_is_named_with_the_key_to_set() {
    let (pki, other) = (Pki::new(), Pki::new());
    let own = pki.issue("redis", &["127.0.0.1"]);
    let redis = Redis::start_tls(&pki, &own, &[]);
    // The public authorities first; then one of the same name, which did not sign it.
    let text = refused(&redis.tls_addr(), "tls = { enabled = true }", "ca_file");
    assert!(
        text.contains("signed by \"CN=the test's authority\", an authority that is not known here")
            && text.contains("set upstream.tls.ca_file"),
        "{text}"
    );
    let text = refused(&redis.tls_addr(), &upstream_tls(&other, ""), "ca_file");
    assert!(text.contains("set upstream.tls.ca_file"), "{text}");
}

#[test]
fn a_server_without_tls_is_silent_and_said_to_be() {
    let redis = Redis::start(&[]);
    let pki = Pki::new();
    let text = refused(
        &redis.addr(),
        &upstream_tls(&pki, ", handshake_timeout = \"200ms\""),
        "silent",
    );
    assert!(
        text.contains("silent for 200ms when asked for TLS (upstream.tls.handshake_timeout)")
            && text.contains("remove upstream.tls"),
        "{text}"
    );
}

/// Starts a server that does `act` with each connection.
fn scripted(act: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            act(socket);
        }
    });
    address
}

#[test]
fn a_server_that_answers_tls_with_plain_bytes_is_quoted() {
    let address = scripted(|mut socket| {
        let _ = socket.write_all(b"-ERR max number of clients reached\r\n");
        let _ = socket.shutdown(Shutdown::Write);
        let _ = uninterrupted(|| socket.read(&mut [0; 4096]));
    });
    let pki = Pki::new();
    let text = refused(&address, &upstream_tls(&pki, ""), "plain bytes");
    assert!(
        text.contains("(\"-ERR max number of clients reached\")")
            && text.contains("remove upstream.tls"),
        "{text}"
    );
}

#[test]
fn a_server_that_hangs_up_on_tls_is_said_to() {
    let address = scripted(|mut socket| {
        let _ = uninterrupted(|| socket.read(&mut [0; 4096]));
    });
    let pki = Pki::new();
    let text = refused(
        &address,
        &upstream_tls(&pki, ""),
        "closed the connection when asked for TLS",
    );
    assert!(text.contains("remove upstream.tls"), "{text}");
}

#[test]
fn a_server_that_is_silent_behind_tls_is_told_from_one_without() {
    let pki = Pki::new();
    let own = pki.issue("redis", &["127.0.0.1"]);
    let cert = CertificateDer::from_pem_file(&own.cert).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(&own.key).expect("a key");
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .expect("a pair");
    let config = Arc::new(config);
    let address = scripted(move |mut socket| {
        let mut session = ServerConnection::new(Arc::clone(&config)).expect("a session");
        while session.is_handshaking() {
            if session.complete_io(&mut socket).is_err() {
                return;
            }
        }
        // Reads and says nothing.
        while !matches!(
            uninterrupted(|| socket.read(&mut [0; 4096])),
            Ok(0) | Err(_)
        ) {}
    });
    let more = "handshake_timeout = \"60s\"";
    let upstream = format!(
        "{}\nconnect_timeout = \"200ms\"",
        upstream_tls(&pki, &format!(", {more}"))
    );
    let text = refused(&address, &upstream, "200ms");
    assert!(
        text.contains(
            "did not answer respool's first commands within 200ms (upstream.connect_timeout)"
        ),
        "{text}"
    );
}

#[test]
fn a_server_that_speaks_only_tls_is_recognised_by_its_end() {
    let pki = Pki::new();
    let own = pki.issue("redis", &["127.0.0.1"]);
    let redis = Redis::start_tls(&pki, &own, &[]);
    let text = refused(&redis.tls_addr(), "", "TLS only");
    assert!(
        text.contains("set upstream.tls = { enabled = true }"),
        "{text}"
    );
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_it() {
    let pki = Pki::new();
    let own = pki.issue("redis", &["127.0.0.1"]);
    let redis = Redis::start_tls(&pki, &own, &["--tls-auth-clients", "yes"]);
    let text = refused(
        &redis.tls_addr(),
        &upstream_tls(&pki, ""),
        "client certificate",
    );
    assert!(
        text.contains("set upstream.tls.cert_file and key_file"),
        "{text}"
    );
    let with = |pair: &CertificatePair| upstream_tls(&pki, &format!(", {}", pair.toml()));
    let other = Pki::new();
    let unknown = other.issue("respool", &[]);
    let text = refused(&redis.tls_addr(), &with(&unknown), "does not accept");
    assert!(
        text.contains("set upstream.tls.cert_file and key_file"),
        "{text}"
    );
    let respool = Respool::before(&redis.tls_addr())
        .upstream(&with(&pki.issue("respool", &[])))
        .start();
    respool.client().ping();
    assert!(
        respool.metric("respool_certificate_expiry_timestamp_seconds{role=\"upstream\"}") > 0.0
    );
}

#[test]
fn verification_that_is_switched_off_is_warned_of() {
    let pki = Pki::new();
    let own = pki.issue_until("redis", &["elsewhere.example.com"], 2020);
    let redis = Redis::start_tls(&pki, &own, &[]);
    let respool = Respool::before(&redis.tls_addr())
        .upstream("tls = { enabled = true, insecure_skip_verify = true }")
        .start();
    respool.client().ping();
    let told = "upstream.tls.insecure_skip_verify: the server's certificate is not verified";
    respool.eventually_logs(told);
    let warnings = respool.status_json()["warnings"].to_string();
    assert!(warnings.contains(told), "{warnings}");
    assert!(
        warnings.contains("the certificate of the server \\\"127.0.0.1\\\" expired at 2020-12-31"),
        "{warnings}"
    );
}

#[test]
fn check_tells_warnings_and_passes() {
    let pki = Pki::new();
    let own = pki.issue_until("edge", &["localhost"], 2020);
    let file = pki.ca_file().with_file_name("respool.toml");
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:6380\"\n{}\n[upstream]\naddress = \"127.0.0.1:6379\"\n",
        listener_tls(&own, "")
    );
    std::fs::write(&file, text).expect("a file can be written");
    let (code, said) = run_respool(&["check", "--config", &file.display().to_string()]);
    assert_eq!(code, Some(0), "{said}");
    let warning = format!(
        "warning: {}:3: listener.tls.cert_file: the certificate expired at 2020-12-31T00:00:00Z; renew it",
        file.display()
    );
    assert!(said.contains(&warning), "{said}");
    assert!(said.contains("127.0.0.1:6380 (TLS)"), "{said}");
}

#[test]
fn sessions_are_resumed_on_both_sides() {
    let pki = Pki::new();
    let (redis, respool) = both_sides(&pki);
    let config = pki.client(None);
    let mut first = respool.tls_client(&config);
    first.ping();
    assert!(!first.is_resumed());
    let mut second = respool.tls_client(&config);
    second.ping();
    assert!(second.is_resumed());
    let handshakes = |side: &str, result: &str| {
        respool.metric(&format!(
            "respool_tls_handshakes_total{{side=\"{side}\",result=\"{result}\"}}"
        ))
    };
    assert_eq!(
        (
            handshakes("client", "full"),
            handshakes("client", "resumed")
        ),
        (1.0, 1.0)
    );
    let killed = redis.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert!(killed.int() > 0);
    eventually(
        || handshakes("server", "resumed") >= 1.0,
        "the connection to the server is resumed",
    );
    // Nobody lost anything by it.
    first.ping();
    second.ping();
}

#[test]
fn tls_1_2_serves_as_well() {
    let pki = Pki::new();
    let own = pki.issue("server", &["127.0.0.1", "localhost"]);
    let redis = Redis::start_tls(&pki, &own, &["--tls-protocols", "TLSv1.2"]);
    let respool = Respool::before(&redis.tls_addr())
        .upstream(&upstream_tls(&pki, ""))
        .listener(&listener_tls(&own, ""))
        .start();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    let ca =
        rustls::pki_types::pem::PemObject::from_pem_file(pki.ca_file()).expect("a certificate");
    roots.add(ca).expect("an authority");
    let old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let old = Arc::new(old);
    let mut client = respool.tls_client(&old);
    let value = "x".repeat(100_000);
    assert_eq!(client.cmd(&["SET", "k", &value]), Value::ok());
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk(&value));
    let mut again = respool.tls_client(&old);
    again.ping();
    assert!(again.is_resumed());
}

#[test]
fn a_clients_certificate_decides_its_group() {
    let pki = Pki::new();
    let own = pki.issue("server", &["localhost"]);
    let redis = Redis::start(&[]);
    let mutual = format!(", client_ca_file = \"{}\"", pki.ca_file().display());
    let respool = Respool::with(&redis)
        .plain_clients()
        .listener(&listener_tls(&own, &mutual))
        .section("[[group]]\nname = \"billing\"\nmatch = { certificate_name = \"billing-*\" }\nmax_connections = 2")
        .start();
    let billing = pki.client(Some(&pki.issue("billing-1", &[])));
    let mut inside: Vec<Client> = (0..2).map(|_| respool.tls_client(&billing)).collect();
    inside.iter_mut().for_each(Client::ping);
    // The second resumed its session, and is known by its certificate all the same.
    assert_eq!(respool.clients_of("billing"), 2);
    let mut third = respool.tls_client(&billing);
    assert_eq!(
        third.cmd(&["PING"]),
        Value::error("ERR max number of clients reached")
    );
    let mut other = respool.tls_client(&pki.client(Some(&pki.issue("web", &[]))));
    other.ping();
    assert_eq!(
        (respool.clients_of("billing"), respool.clients_of("default")),
        (2, 1)
    );
    // Whoever changes its name keeps the group that its certificate gave it.
    assert_eq!(inside[0].cmd(&["CLIENT", "SETNAME", "web"]), Value::ok());
    assert_eq!(respool.clients_of("billing"), 2);
    drop(inside);
    eventually(|| respool.clients_of("billing") == 0, "they have left");
    eventually(
        || respool.tls_client(&billing).try_cmd(&["PING"]) == Some(Value::simple("PONG")),
        "there is room again",
    );
}

#[test]
fn a_client_without_an_accepted_certificate_is_refused() {
    let pki = Pki::new();
    let own = pki.issue("server", &["localhost"]);
    let redis = Redis::start(&[]);
    let mutual = format!(", client_ca_file = \"{}\"", pki.ca_file().display());
    let respool = Respool::with(&redis)
        .plain_clients()
        .listener(&listener_tls(&own, &mutual))
        .start();
    let other = Pki::new();
    let stranger = pki.client(Some(&other.issue("billing-1", &[])));
    for config in [pki.client(None), stranger] {
        // TLS 1.3 lets the client speak before it is refused.
        let reply = Client::try_connect_tls(&respool.addr(), &config)
            .ok()
            .and_then(|mut client| client.try_cmd(&["PING"]));
        assert_eq!(reply, None);
    }
    let refused = "respool_client_disconnects_total{group=\"default\",reason=\"tls_handshake\"}";
    eventually(|| respool.metric(refused) == 2.0, "both are counted");
    eventually(|| respool.clients_of("default") == 0, "nobody is left");
    respool.eventually_logs("it showed no certificate");
}

#[test]
fn plain_bytes_to_tls_and_tls_to_plain_cost_that_connection_only() {
    let pki = Pki::new();
    let own = pki.issue("server", &["localhost"]);
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .plain_clients()
        .listener(&listener_tls(&own, ""))
        .unix_listener()
        .start();
    let mut bystander = respool.tls_client(&pki.client(None));
    bystander.ping();
    let mut plain = respool.client();
    plain.send(encode(&["PING"]));
    plain.expect_end();
    let refused = "respool_client_disconnects_total{group=\"default\",reason=\"tls_handshake\"}";
    eventually(|| respool.metric(refused) == 1.0, "it is counted");
    respool.eventually_logs("it sent plain bytes to a listener with TLS");
    // As Redis does: what looks like the start of a line gets no answer.
    let name = ServerName::try_from("localhost").expect("a name");
    let mut hello = Vec::new();
    let mut session = ClientConnection::new(pki.client(None), name).expect("a session");
    session
        .write_tls(&mut hello)
        .expect("a Vec takes everything");
    hello.retain(|byte| !b"\r\n".contains(byte));
    let mut mistaken = respool.unix_client();
    mistaken.send(&hello);
    assert_eq!(mistaken.reply_within(Duration::from_millis(200)), None);
    bystander.ping();
    drop((plain, mistaken));
    eventually(
        || respool.clients_of("default") == 1,
        "only the bystander is left",
    );
}

#[test]
fn a_handshake_that_does_not_go_on_is_ended() {
    let pki = Pki::new();
    let own = pki.issue("server", &["localhost"]);
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .plain_clients()
        .limits("handshake_timeout = \"300ms\"")
        .listener(&listener_tls(&own, ""))
        .start();
    let mut silent = respool.client();
    // The head of a record whose rest never comes.
    let mut halting = respool.client();
    halting.send([0x16, 3, 1, 2, 0, 1]);
    silent.expect_end();
    halting.expect_end();
    let timeouts =
        "respool_client_disconnects_total{group=\"default\",reason=\"handshake_timeout\"}";
    eventually(|| respool.metric(timeouts) == 2.0, "both are counted");
    eventually(|| respool.clients_of("default") == 0, "nobody is left");
}

#[test]
fn rejected_clients_are_told_through_tls() {
    let pki = Pki::new();
    let own = pki.issue("server", &["localhost"]);
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .plain_clients()
        .limits("max_clients = 1\nmax_rejected = 1")
        .listener(&listener_tls(&own, ""))
        .start();
    let config = pki.client(None);
    let mut first = respool.tls_client(&config);
    first.ping();
    let mut held = respool.tls_client(&config);
    for _ in 0..3 {
        assert_eq!(
            held.cmd(&["GET", "k"]),
            Value::error("ERR max number of clients reached")
        );
    }
    // Past what is held nobody is told anything: not in plain bytes, at least.
    let mut more = respool.client();
    more.expect_end();
    first.ping();
}
