//! Tests of the endpoint over real loopback sockets.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::config::{AdminAddress, PasswordDigest};
use crate::transport::bind_admin;

/// Connections that the endpoint takes.
const PLACES: usize = 16;

use crate::telemetry::{GroupRow, LastReload, ProcessStanding, ServerHealth, UpstreamCounts};

fn scrape() -> MetricScrape {
    let standing = ProcessStanding {
        certificates: Vec::new(),
        warnings: Vec::new(),
        groups: vec![GroupRow {
            name: "default".into(),
            connections: 3,
            ..GroupRow::default()
        }],
        upstream: UpstreamCounts {
            shared: 4,
            limit: 10,
            ..UpstreamCounts::default()
        },
        server: ServerHealth::new("127.0.0.1:6379".into()).snapshot(),
        failovers: Default::default(),
        last_reload: LastReload {
            at: SystemTime::UNIX_EPOCH,
            error: None,
        },
        handshaking: 0,
        arriving: 0,
        operators: 0,
        held_rejected: 0,
        counted: 0,
        max_clients: 100,
        lent: 0,
        blocked_clients: 0,
        top_clients: Vec::new(),
        memory: Default::default(),
        process: Default::default(),
        uptime: Duration::from_secs(1),
    };
    MetricScrape::gather(&[], standing)
}

/// A endpoint that is open until the value is dropped or closed.
struct OpenEndpoint {
    address: SocketAddr,
    draining: Arc<AtomicBool>,
    reloads: Arc<AtomicU64>,
    close: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl OpenEndpoint {
    /// Every second reload fails.
    async fn open() -> Self {
        Self::showing(Arc::new(scrape)).await
    }

    async fn showing(view: Arc<dyn Fn() -> MetricScrape + Send + Sync>) -> Self {
        Self::guarded(view, AdminSettings::default()).await
    }

    async fn guarded(
        view: Arc<dyn Fn() -> MetricScrape + Send + Sync>,
        admin: AdminSettings,
    ) -> Self {
        let admin = Arc::new(AdminSettings {
            max_connections: PLACES,
            ..admin
        });
        let any = "127.0.0.1:0".parse().expect("an address");
        let bound = bind_admin("admin.address", &any, None).expect("a free port");
        let address = bound.local_address().expect("bound");
        let acceptor = bound.open().expect("a runtime");
        let (draining, reloads) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let counted = Arc::clone(&reloads);
        let reload = move || -> ReloadFuture {
            let answer = match counted.fetch_add(1, Ordering::Relaxed) % 2 {
                0 => Ok(()),
                _ => Err("line 3: unknown key \"grup\", did you mean \"group\"?".to_owned()),
            };
            Box::pin(std::future::ready(answer))
        };
        let endpoint = AdminEndpoint {
            view,
            reload: Arc::new(reload),
            admin: Arc::new(move || Arc::clone(&admin)),
            draining: Arc::clone(&draining),
            parts: Arc::default(),
            fault: Arc::new(|_| false),
        };
        let (close, closed) = oneshot::channel();
        let serving = tokio::spawn(serve(acceptor, endpoint, EndpointScope::All, async move {
            // A dropped sender closes the endpoint too.
            let _ = closed.await;
        }));
        Self {
            address,
            draining,
            reloads,
            close,
            serving,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the test is the client")]
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address)
            .await
            .expect("the endpoint listens")
    }

    /// Sends `bytes` and reads what comes until the end; a reset counts as the end.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The endpoint may close before it has read all of a bad request.
        let _ = stream.write_all(bytes).await;
        rest(&mut stream).await
    }

    async fn request(&self, method: &str, path: &str, headers: &str) -> String {
        let host = self.address;
        self.exchange(
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n").as_bytes(),
        )
        .await
    }

    async fn get(&self, path: &str) -> String {
        self.request("GET", path, "").await
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        answer.extend_from_slice(&piece[..read]);
    }
    String::from_utf8(answer).expect("answers are UTF-8")
}

fn status(answer: &str) -> &str {
    answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .unwrap_or_default()
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    let named = |line: &'a str| {
        line.split_once(": ")
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
    };
    head.lines().find_map(named).map(|(_, value)| value)
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[tokio::test]
async fn each_path_answers_with_its_type() {
    let endpoint = OpenEndpoint::open().await;
    for (path, kind, contains) in [
        (
            "/metrics",
            "text/plain; version=0.0.4; charset=utf-8",
            "respool_upstream_connections_limit 10\n",
        ),
        ("/status", "application/json", "\"limit\": 10"),
        ("/livez", "text/plain; charset=utf-8", "ok\n"),
        ("/readyz", "text/plain; charset=utf-8", "ok\n"),
        ("/", "text/html; charset=utf-8", "<title>respool</title>"),
        (
            "/metrics?x=1",
            "text/plain; version=0.0.4; charset=utf-8",
            "respool_build_info",
        ),
    ] {
        let answer = endpoint.get(path).await;
        assert_eq!(status(&answer), "200", "{path}: {answer}");
        assert_eq!(header(&answer, "content-type"), Some(kind), "{path}");
        assert_eq!(header(&answer, "cache-control"), Some("no-store"), "{path}");
        assert!(body(&answer).contains(contains), "{path}: {answer}");
        let head = endpoint.request("HEAD", path, "").await;
        assert_eq!((status(&head), body(&head)), ("200", ""), "{path}");
    }
    let json: serde_json::Value =
        serde_json::from_str(body(&endpoint.get("/status").await)).expect("JSON");
    assert_eq!(json["groups"][0]["connections"], 3);
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_told() {
    let endpoint = OpenEndpoint::open().await;
    for path in [
        "/nothing",
        "/metrics/",
        "//",
        "/livez/../reload",
        "/%6detrics",
        "*",
    ] {
        assert_eq!(status(&endpoint.get(path).await), "404", "{path}");
    }
    for (method, path, allow) in [
        ("POST", "/metrics", "GET, HEAD"),
        ("DELETE", "/", "GET, HEAD"),
        ("OPTIONS", "/status", "GET, HEAD"),
        ("GE", "/livez", "GET, HEAD"),
        ("GET", "/reload", "POST"),
        ("HEAD", "/reload", "POST"),
    ] {
        let answer = endpoint.request(method, path, "").await;
        assert_eq!(
            (status(&answer), header(&answer, "allow")),
            ("405", Some(allow)),
            "{method} {path}"
        );
    }
    assert_eq!(endpoint.reloads.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_reload_tells_how_it_went() {
    let endpoint = OpenEndpoint::open().await;
    let done = endpoint
        .request("POST", "/reload", "Content-Length: 0\r\n")
        .await;
    assert_eq!((status(&done), body(&done)), ("200", "reloaded\n"));
    let failed = endpoint.request("POST", "/reload", "").await;
    assert_eq!(status(&failed), "409");
    assert_eq!(
        body(&failed),
        "line 3: unknown key \"grup\", did you mean \"group\"?\n"
    );
    assert_eq!(endpoint.reloads.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn other_sites_and_long_bodies_do_not_reload() {
    let endpoint = OpenEndpoint::open().await;
    for origin in ["http://example.com", "null", "http://127.0.0.1"] {
        let answer = endpoint
            .request("POST", "/reload", &format!("Origin: {origin}\r\n"))
            .await;
        assert_eq!(status(&answer), "403", "{origin}");
    }
    let long = format!(
        "POST /reload HTTP/1.1\r\nContent-Length: {}\r\n\r\n{}",
        MAX_BODY + 1,
        "x".repeat(MAX_BODY + 1)
    );
    assert_eq!(status(&endpoint.exchange(long.as_bytes()).await), "413");
    assert_eq!(endpoint.reloads.load(Ordering::Relaxed), 0);
    let own = format!("Origin: http://{}\r\n", endpoint.address);
    assert_eq!(
        status(&endpoint.request("POST", "/reload", &own).await),
        "200"
    );
}

#[tokio::test]
async fn a_draining_respool_lives_but_is_not_ready() {
    let endpoint = OpenEndpoint::open().await;
    endpoint.draining.store(true, Ordering::Relaxed);
    let ready = endpoint.get("/readyz").await;
    assert_eq!((status(&ready), body(&ready)), ("503", "draining\n"));
    assert_eq!(status(&endpoint.get("/livez").await), "200");
}

#[tokio::test]
async fn garbage_costs_only_its_connection() {
    let endpoint = OpenEndpoint::open().await;
    let long_head = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(64 * 1024));
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(500));
    for garbage in [
        "*1\r\n$4\r\nPING\r\n".as_bytes(),
        b"\0\xff\xfe\x80 nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n \r\n",
        long_head.as_bytes(),
        many_headers.as_bytes(),
    ] {
        let answer = endpoint.exchange(garbage).await;
        assert!(
            answer.is_empty() || status(&answer).starts_with('4'),
            "{answer}"
        );
        assert_eq!(status(&endpoint.get("/livez").await), "200");
    }
    // Only the first of several requests on one connection is answered.
    let twice = endpoint
        .exchange(b"GET /livez HTTP/1.1\r\n\r\nGET /livez HTTP/1.1\r\n\r\n")
        .await;
    assert_eq!(twice.matches("HTTP/1.1 200").count(), 1);
}

#[tokio::test]
async fn who_holds_places_and_asks_nothing_keeps_nobody_out() {
    let endpoint = OpenEndpoint::open().await;
    let mut held = Vec::new();
    for half in [
        &b"GET /livez HTTP/1.1\r\nX-Half: "[..],
        b"",
        b"POST /reload HTTP/1.1\r\nContent-Length: 2\r\n\r\nx",
    ] {
        for _ in 0..2 * PLACES {
            let mut stream = endpoint.connect().await;
            // It may have had to go already.
            let _ = stream.write_all(half).await;
            held.push(stream);
            assert_eq!(status(&endpoint.get("/livez").await), "200");
        }
    }
    assert_eq!(rest(&mut held[0]).await, "", "the oldest had to go");
    assert_eq!(endpoint.reloads.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn whoever_changes_something_shows_the_token() {
    let token = Some(PasswordDigest::of(b"sesame"));
    let endpoint = OpenEndpoint::guarded(
        Arc::new(scrape),
        AdminSettings {
            token,
            ..AdminSettings::default()
        },
    )
    .await;
    let without = endpoint.request("POST", "/reload", "").await;
    assert_eq!(status(&without), "401");
    assert!(header(&without, "www-authenticate").is_some());
    assert_eq!(endpoint.reloads.load(Ordering::Relaxed), 0);
    let with = "Authorization: Bearer sesame\r\n";
    assert_eq!(
        status(&endpoint.request("POST", "/reload", with).await),
        "200"
    );
    assert_eq!(status(&endpoint.get("/status").await), "200");
}

#[tokio::test]
async fn another_sites_name_is_not_answered() {
    let endpoint = OpenEndpoint::open().await;
    for path in ["/", "/status", "/metrics", "/livez", "/nothing", "/reload"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: evil.example.com\r\n\r\n");
        assert_eq!(
            status(&endpoint.exchange(request.as_bytes()).await),
            "403",
            "{path}"
        );
    }
    let request = "POST /reload HTTP/1.1\r\nHost: evil.example.com\r\nOrigin: http://evil.example.com\r\n\r\n";
    assert_eq!(status(&endpoint.exchange(request.as_bytes()).await), "403");
    assert_eq!(endpoint.reloads.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn who_sends_no_whole_head_is_closed() {
    let endpoint = OpenEndpoint::open().await;
    let mut silent = endpoint.connect().await;
    let mut slow = endpoint.connect().await;
    slow.write_all(b"GET /livez HTTP/1.1\r\nX-Half: ")
        .await
        .expect("sent");
    assert_eq!(rest(&mut silent).await, "");
    let answer = rest(&mut slow).await;
    assert!(
        answer.is_empty() || status(&answer).starts_with('4'),
        "{answer}"
    );
}

#[tokio::test]
async fn a_panic_costs_only_its_request() {
    let endpoint = OpenEndpoint::showing(Arc::new(|| panic!("a bug in the view"))).await;
    assert_eq!(endpoint.get("/status").await, "");
    assert_eq!(status(&endpoint.get("/livez").await), "200");
}

#[tokio::test]
async fn shutdown_closes_the_door() {
    let endpoint = OpenEndpoint::open().await;
    let mut waiting = endpoint.connect().await;
    assert_eq!(status(&endpoint.get("/livez").await), "200");
    endpoint.close.send(()).expect("the endpoint is open");
    endpoint
        .serving
        .await
        .expect("serving ends without a panic");
    assert_eq!(rest(&mut waiting).await, "");
}

#[expect(
    clippy::disallowed_methods,
    reason = "the check blocks, as it does in its own process"
)]
#[tokio::test]
async fn the_healthcheck_finds_a_living_respool() {
    let endpoint = OpenEndpoint::open().await;
    let address = endpoint.address;
    let outcome = tokio::task::spawn_blocking(move || healthcheck(&AdminAddress::Tcp(address)))
        .await
        .expect("no panic");
    assert_eq!(outcome, Ok(()));
}

#[test]
fn the_page_fetches_nothing_from_elsewhere_and_writes_no_markup() {
    let page = include_str!("page.html");
    for forbidden in [
        "http:",
        "https:",
        "src=",
        "@import",
        "url(",
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "eval(",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}
