//! Respool's own secret at the server: where it comes from, and that nobody notices when it changes.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::harness::{Client, Pki, Redis, Respool, Value, encode, eventually, lock, uninterrupted};

/// Starts a server on which respool is the user `respool` with these passwords, and `ann` is a client's.
fn server(passwords: &[&str]) -> Redis {
    let redis = Redis::start(&[]);
    let rules: Vec<String> = passwords.iter().map(|text| format!(">{text}")).collect();
    let mut own = vec!["ACL", "SETUSER", "respool", "on", "~*", "&*", "+@all"];
    own.extend(rules.iter().map(String::as_str));
    for command in [
        own.as_slice(),
        &["ACL", "SETUSER", "ann", "on", ">pw", "~*", "&*", "+@all"],
        &["CONFIG", "SET", "requirepass", "secret"],
    ] {
        assert_eq!(redis.cmd(command), Value::ok());
    }
    redis
}

/// Writes a program that prints what is in a file, or fails when there is none.
fn printing(path: &Path) -> String {
    format!("password_command = [\"/bin/cat\", \"{}\"]", path.display())
}

/// Runs clients of two users that ask all the time, on shared and lent connections, until they are told to stop.
struct RunningClients {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl RunningClients {
    fn start(respool: &Respool) -> Self {
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let clients = (0..8).map(|number| (number, respool.client()));
        let threads = clients.map(|(number, client)| {
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            thread::spawn(move || work(client, number, &stop, &rounds))
        });
        let threads = threads.collect();
        let load = Self {
            stop,
            rounds,
            threads,
        };
        load.goes_on();
        load
    }

    /// Waits until every client has done some more.
    fn goes_on(&self) {
        let before = self.rounds.load(Ordering::Relaxed);
        eventually(
            || {
                self.threads.iter().all(|thread| !thread.is_finished())
                    && self.rounds.load(Ordering::Relaxed) > before + 200
            },
            "the clients go on",
        );
    }

    /// Ends it; panics if a client met an error.
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no error at any client");
        }
    }
}

fn work(mut client: Client, number: usize, stop: &AtomicBool, rounds: &AtomicUsize) {
    let user = if number.is_multiple_of(2) {
        "ann"
    } else {
        "respool"
    };
    if user == "ann" {
        assert_eq!(client.cmd(&["AUTH", "ann", "pw"]), Value::ok());
    }
    let key = format!("k{number}");
    while !stop.load(Ordering::Relaxed) {
        let round = rounds.fetch_add(1, Ordering::Relaxed).to_string();
        client.send([encode(&["SET", &key, &round]), encode(&["GET", &key])].concat());
        assert_eq!(
            (client.reply(), client.reply()),
            (Value::ok(), Value::bulk(&round))
        );
        assert_eq!(client.cmd(&["ACL", "WHOAMI"]), Value::bulk(user));
        assert_eq!(client.cmd(&["WATCH", &key]), Value::ok());
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
        assert_eq!(client.cmd(&["GET", &key]), Value::simple("QUEUED"));
        let told = client.cmd(&["EXEC"]);
        assert_eq!(told, Value::Array(vec![Value::bulk(&round)]));
    }
}

#[test]
fn no_client_notices_that_the_servers_password_is_replaced_by_the_next() {
    let redis = server(&["one"]);
    let respool = Respool::with(&redis)
        .upstream("username = \"respool\"\npassword = \"one\"\npassword_next = \"two\"")
        .upstream("max_connections = 6\nshared_connections = 2\nborrow_timeout = \"20s\"")
        .start();
    let load = RunningClients::start(&respool);
    assert_eq!(
        redis.cmd(&["ACL", "SETUSER", "respool", ">two"]),
        Value::ok()
    );
    load.goes_on();
    assert_eq!(
        redis.cmd(&["ACL", "SETUSER", "respool", "<one"]),
        Value::ok()
    );
    eventually(
        || respool.log_text().contains("takes the other"),
        "the next password is in use",
    );
    load.goes_on();
    load.end();
    let lost = "respool_client_disconnects_total{reason=\"upstream_lost\"}";
    assert_eq!(respool.metric_or_zero(lost), 0.0);
}

#[test]
fn a_file_is_read_again_when_the_server_refuses_what_was_in_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("password");
    std::fs::write(&path, "one\n").expect("written");
    let redis = server(&["one", "two"]);
    let respool = Respool::with(&redis)
        .upstream(&format!(
            "username = \"respool\"\npassword_file = \"{}\"",
            path.display()
        ))
        .upstream("max_connections = 6\nshared_connections = 2\nborrow_timeout = \"20s\"")
        .start();
    let load = RunningClients::start(&respool);
    std::fs::write(&path, "two\n").expect("written");
    assert_eq!(
        redis.cmd(&["ACL", "SETUSER", "respool", "<one"]),
        Value::ok()
    );
    load.goes_on();
    // Every connection that had been opened with the old one has been used by both users since.
    load.goes_on();
    load.end();
    // A server that is gone takes all connections with it: new ones are opened with what the file holds.
    redis.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually(
        || respool.client().cmd(&["ACL", "WHOAMI"]) == Value::bulk("respool"),
        "it is connected again",
    );
}

#[test]
fn a_command_is_asked_until_it_has_a_secret_and_again_when_that_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("password");
    let redis = server(&["one"]);
    let respool = Respool::with(&redis)
        .upstream(&format!("username = \"respool\"\n{}", printing(&path)))
        .upstream("queue = { timeout = \"100ms\" }")
        .start();
    let reply = respool.client().cmd(&["GET", "k"]).text();
    assert!(reply.starts_with("LOADING respool:"), "{reply}");
    eventually(
        || {
            let status = respool.status();
            status.contains("upstream.password_command: the command ended with exit status: 1")
        },
        "/status says why",
    );
    std::fs::write(&path, "one\n").expect("written");
    let is_served = || respool.client().cmd(&["ACL", "WHOAMI"]) == Value::bulk("respool");
    eventually(is_served, "it has a secret");
    std::fs::write(&path, "two\n").expect("written");
    assert_eq!(
        redis.cmd(&["ACL", "SETUSER", "respool", "resetpass", ">two"]),
        Value::ok()
    );
    redis.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually(is_served, "it has asked again");
    let text = format!("{}{}", respool.log_text(), respool.status());
    assert!(!text.contains("\"one\"") && !text.contains("two"), "{text}");
}

#[test]
fn a_reload_of_the_secrets_source_leaves_no_connection_to_the_servers_default_user() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("password");
    std::fs::write(&path, "one\n").expect("written");
    let redis = Redis::start(&[]);
    for name in ["respool", "ann"] {
        let rules = ["ACL", "SETUSER", name, "on", ">one", "~*", "&*", "+@all"];
        assert_eq!(redis.cmd(&rules), Value::ok());
    }
    let with = |lines: &str| {
        Respool::with(&redis)
            .top("workers = 1")
            .upstream(&format!("username = \"respool\"\n{lines}"))
            .upstream("max_connections = 2\nshared_connections = 1\nborrow_timeout = \"20s\"")
    };
    let respool = with(&printing(&path)).start();
    // There is one connection to share, and one to lend.
    let nobody_is_the_default_user = || {
        let mut leaves = respool.client();
        assert_eq!(leaves.cmd(&["WATCH", "k"]), Value::ok());
        assert_eq!(leaves.cmd(&["MULTI"]), Value::ok());
        drop(leaves);
        let mut next = respool.client();
        assert_eq!(next.cmd(&["MULTI"]), Value::ok());
        let queued = next.cmd(&["ACL", "WHOAMI"]);
        assert_eq!(queued, Value::simple("QUEUED"));
        let told = next.cmd(&["EXEC"]);
        assert_eq!(told, Value::Array(vec![Value::bulk("respool")]));
        let mut ann = respool.client();
        assert_eq!(ann.cmd(&["AUTH", "ann", "one"]), Value::ok());
        assert_eq!(ann.cmd(&["ACL", "WHOAMI"]), Value::bulk("ann"));
        assert_eq!(next.cmd(&["ACL", "WHOAMI"]), Value::bulk("respool"));
    };
    nobody_is_the_default_user();
    let other = format!("{}\npassword_command_timeout = \"7s\"", printing(&path));
    respool.reload(&with(&other));
    (0..3).for_each(|_| nobody_is_the_default_user());
    // One that has nothing to show is not put in force.
    respool.rewrite(&with("password_command = [\"/bin/false\"]"));
    let (code, text) = respool.post_reload();
    assert_ne!(code, 200, "{text}");
    assert!(text.contains("upstream.password_command"), "{text}");
    (0..3).for_each(|_| nobody_is_the_default_user());
}

/// Turns tracking on for the client's next command.
fn announced(mut client: Client) -> Client {
    assert!(matches!(client.cmd(&["HELLO", "3"]), Value::Map(_)));
    let on = client.cmd(&["CLIENT", "TRACKING", "ON", "OPTIN"]);
    assert_eq!(on, Value::ok());
    assert_eq!(client.cmd(&["CLIENT", "CACHING", "YES"]), Value::ok());
    client
}

#[test]
fn open_connections_are_authenticated_anew_and_nobody_notices() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("password");
    std::fs::write(&path, "one\n").expect("written");
    let redis = server(&["one"]);
    let respool = Respool::with(&redis)
        .upstream(&format!("username = \"respool\"\n{}", printing(&path)))
        .upstream("reauthenticate_after = \"100ms\"\nmax_connections = 10\nshared_connections = 2")
        .upstream("borrow_timeout = \"20s\"")
        .start();
    let renewed =
        || respool.metric_or_zero("respool_upstream_reauthentications_total{result=\"ok\"}");
    let is_renewed = |more: f64| {
        let before = renewed();
        eventually(|| renewed() >= before + more, "logins are renewed");
    };
    // Inside a transaction and while blocked, for long enough to be due many times.
    let mut open = respool.client();
    assert_eq!(open.cmd(&["MULTI"]), Value::ok());
    assert_eq!(open.cmd(&["INCR", "n"]), Value::simple("QUEUED"));
    let mut blocked = respool.client();
    blocked.send(encode(&["BLPOP", "list", "0"]));
    let mut subscribed = respool.client();
    assert_eq!(
        subscribed.cmd(&["SUBSCRIBE", "c"]).items()[2],
        Value::Int(1)
    );
    let mut monitoring = respool.client();
    assert_eq!(monitoring.cmd(&["MONITOR"]), Value::ok());
    let mut tracking = respool.client();
    assert!(matches!(tracking.cmd(&["HELLO", "3"]), Value::Map(_)));
    assert_eq!(tracking.cmd(&["CLIENT", "TRACKING", "ON"]), Value::ok());
    assert!(tracking.cmd(&["GET", "tracked"]).is_null());
    let mut announcing = announced(respool.client());
    is_renewed(5.0);
    assert!(announcing.cmd(&["GET", "announced"]).is_null());
    assert_eq!(redis.cmd(&["SET", "announced", "v"]), Value::ok());
    assert!(matches!(announcing.reply(), Value::Push(_)));
    drop(announcing);
    // Connections on which nothing happens but what the server sends by itself.
    for flag in ["flags=P ", "flags=O ", "flags=t "] {
        eventually(
            || {
                let list = redis.cmd(&["CLIENT", "LIST"]).text();
                let mut lines = list.lines().filter(|line| line.contains(flag));
                lines.any(|line| line.contains(" cmd=auth "))
            },
            flag,
        );
    }
    let load = RunningClients::start(&respool);
    is_renewed(10.0);
    load.goes_on();
    load.end();
    assert_eq!(open.cmd(&["INCR", "n"]), Value::simple("QUEUED"));
    let told = open.cmd(&["EXEC"]);
    assert_eq!(told, Value::Array(vec![Value::Int(1), Value::Int(2)]));
    assert_eq!(redis.cmd(&["RPUSH", "list", "x"]), Value::Int(1));
    assert_eq!(blocked.reply().items()[1], Value::bulk("x"));
    assert_eq!(redis.cmd(&["PUBLISH", "c", "m"]), Value::Int(1));
    assert_eq!(subscribed.reply().items()[2], Value::bulk("m"));
    let ended = subscribed.cmd(&["UNSUBSCRIBE", "c"]);
    assert_eq!(ended.items()[2], Value::Int(0));
    assert_eq!(redis.cmd(&["SET", "tracked", "v"]), Value::ok());
    assert!(matches!(tracking.reply(), Value::Push(_)));
    // A secret that is not good any more costs nothing that is open.
    let refused = || {
        let metric = "respool_upstream_reauthentications_total{result=\"refused\"}";
        respool.metric_or_zero(metric)
    };
    let mut plain = respool.client();
    plain.ping();
    assert_eq!(refused(), 0.0);
    assert_eq!(
        redis.cmd(&["ACL", "SETUSER", "respool", "resetpass", ">two"]),
        Value::ok()
    );
    eventually(|| refused() >= 1.0, "the server refuses the old one");
    plain.ping();
    std::fs::write(&path, "two\n").expect("written");
    is_renewed(2.0);
    plain.ping();
}

/// Reads the head and the body of a request of HTTP, or what came if it ended early.
fn request_of(stream: &mut dyn ReadWrite) -> String {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.parse::<usize>().expect("a number"))
            });
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        match uninterrupted(|| stream.read(&mut piece)) {
            Ok(0) | Err(_) => return text,
            Ok(read) => request.extend_from_slice(&piece[..read]),
        }
    }
}

/// Starts an endpoint that answers every request with `body`, by TLS if it has a certificate. Returns its port, and what it
/// was asked.
fn endpoint(body: &'static str, tls: Option<Arc<ServerConfig>>) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let kept = Arc::clone(&asked);
    let answer = move |stream: &mut dyn ReadWrite| {
        let request = request_of(stream);
        lock(&kept).push(request);
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        // Who asked may have gone.
        let _ = stream.write_all(format!("{head}{body}").as_bytes());
    };
    // It ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            match &tls {
                None => answer(&mut stream),
                Some(config) => {
                    let session = ServerConnection::new(Arc::clone(config)).expect("a session");
                    answer(&mut StreamOwned::new(session, stream));
                }
            }
        }
    });
    (address.port(), asked)
}

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

#[test]
fn tokens_of_iam_are_signed_by_the_keys_of_the_containers_endpoint() {
    let redis = server(&["one"]);
    // This server takes any password of the user; what a token must look like is held by its known answers.
    let rules = [
        "ACL", "SETUSER", "iam-user", "on", "nopass", "~*", "&*", "+@all",
    ];
    assert_eq!(redis.cmd(&rules), Value::ok());
    let body = "{\"AccessKeyId\":\"AKIDEXAMPLE\",\"SecretAccessKey\":\"secret-key-4711\",\"Token\":\"session-0815\",\
                \"Expiration\":\"2100-01-01T00:00:00Z\"}";
    let (port, asked) = endpoint(body, None);
    let uri = format!("http://127.0.0.1:{port}/v1/credentials");
    let respool = Respool::with(&redis)
        .upstream(
            "iam = { region = \"eu-central-1\", cluster = \"My-Cache\", user = \"iam-user\" }",
        )
        .upstream("reauthenticate_after = \"100ms\"")
        .without_environment("AWS_")
        .environment("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri)
        .environment("AWS_CONTAINER_AUTHORIZATION_TOKEN", "authorization-2342")
        .start();
    let mut client = respool.client();
    assert_eq!(client.cmd(&["ACL", "WHOAMI"]), Value::bulk("iam-user"));
    let renewed = "respool_upstream_reauthentications_total{result=\"ok\"}";
    eventually(
        || respool.metric_or_zero(renewed) >= 2.0,
        "logins are renewed",
    );
    let asked = lock(&asked).clone();
    assert_eq!(asked.len(), 1, "the keys are kept until they end");
    assert!(
        asked[0].starts_with("GET /v1/credentials HTTP/1.1\r\n"),
        "{}",
        asked[0]
    );
    assert!(
        asked[0].contains("\r\nauthorization: authorization-2342\r\n"),
        "{}",
        asked[0]
    );
    let places = [respool.log_text(), respool.status(), respool.metrics()];
    for secret in [
        "secret-key-4711",
        "session-0815",
        "authorization-2342",
        "X-Amz-",
    ] {
        assert!(places.iter().all(|text| !text.contains(secret)), "{secret}");
    }
}

#[test]
fn without_keys_it_is_said_where_they_could_come_from() {
    let redis = server(&["one"]);
    for (name, value, expected) in [
        (
            "AWS_REGION",
            "eu-central-1",
            "upstream.iam: no keys: set AWS_ACCESS_KEY_ID",
        ),
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "http://example.com/x",
            "upstream.iam: AWS_CONTAINER_CREDENTIALS_FULL_URI is neither https:// nor http:// at loopback",
        ),
    ] {
        let respool = Respool::with(&redis)
            .upstream(
                "iam = { region = \"eu-central-1\", cluster = \"my-cache\", user = \"iam-user\" }",
            )
            .without_environment("AWS_")
            .environment(name, value)
            .start();
        eventually(|| respool.status().contains(expected), "/status says it");
        respool.eventually_logs(expected);
    }
}

#[test]
fn tokens_of_iam_are_signed_by_the_keys_that_a_web_identity_is_given() {
    let redis = server(&["one"]);
    let rules = [
        "ACL", "SETUSER", "iam-user", "on", "nopass", "~*", "&*", "+@all",
    ];
    assert_eq!(redis.cmd(&rules), Value::ok());
    let pki = Pki::new();
    let pair = pki.issue("sts", &["localhost"]);
    let cert = CertificateDer::from_pem_file(&pair.cert).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .expect("a pair");
    let body = "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
                <AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>secret-key-4711</SecretAccessKey>\
                <SessionToken>session-0815</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration>\
                </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";
    let (port, asked) = endpoint(body, Some(Arc::new(tls)));
    let dir = tempfile::tempdir().expect("a directory");
    let token = dir.path().join("token");
    std::fs::write(&token, "identity-token-2342").expect("written");
    let start = |authorities: &Path| {
        Respool::with(&redis)
            .upstream(
                "iam = { region = \"eu-central-1\", cluster = \"my-cache\", user = \"iam-user\" }",
            )
            .without_environment("AWS_")
            .environment("AWS_WEB_IDENTITY_TOKEN_FILE", &token.to_string_lossy())
            .environment("AWS_ROLE_ARN", "arn:aws:iam::1:role/x")
            .environment("AWS_ENDPOINT_URL_STS", &format!("https://localhost:{port}"))
            .environment("SSL_CERT_FILE", &authorities.to_string_lossy())
            .start()
    };
    let respool = start(&pki.ca_file());
    let mut client = respool.client();
    assert_eq!(client.cmd(&["ACL", "WHOAMI"]), Value::bulk("iam-user"));
    let requests = lock(&asked).clone();
    assert_eq!(requests.len(), 1, "the keys are kept until they end");
    assert!(
        requests[0].starts_with("POST / HTTP/1.1\r\n"),
        "{requests:?}"
    );
    assert!(
        requests[0].ends_with("&WebIdentityToken=identity-token-2342"),
        "{requests:?}"
    );
    // Somebody whom the system does not trust is told nothing.
    let others = Pki::new();
    let stranger = start(&others.ca_file());
    eventually(
        || stranger.status().contains("SSL_CERT_FILE"),
        "/status says it",
    );
    assert_eq!(
        lock(&asked).iter().filter(|text| !text.is_empty()).count(),
        1
    );
    for respool in [&respool, &stranger] {
        let places = [respool.log_text(), respool.status(), respool.metrics()];
        for secret in [
            "secret-key-4711",
            "session-0815",
            "identity-token",
            "X-Amz-",
        ] {
            assert!(places.iter().all(|text| !text.contains(secret)), "{secret}");
        }
    }
}
