//! The operator's endpoint: who reaches it, who may change something, and who can blind it: nobody.

use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use crate::harness::{PATIENCE, Redis, Respool, run_respool};

/// Sends a request and reads what comes until the end.
fn exchange(stream: &mut (impl std::io::Read + std::io::Write), request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    // A reset is an end like any other.
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn connect(respool: &Respool) -> TcpStream {
    let stream = TcpStream::connect(respool.admin_addr()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    stream
}

fn code(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("nothing")
}

fn healthcheck(arguments: &[&str]) -> (Option<i32>, String) {
    run_respool(&[&["healthcheck"], arguments].concat())
}

#[test]
fn half_sent_requests_do_not_blind_probes() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let halves = [
        "",
        "GET /livez HTTP/1.1\r\nX-Half: ",
        "POST /reload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nx",
    ];
    let mut held = Vec::new();
    for half in halves {
        for _ in 0..64 {
            let mut stream = connect(&respool);
            let _ = stream.write_all(half.as_bytes());
            held.push(stream);
        }
        assert_eq!(healthcheck(&["--admin", &respool.admin_addr()]).0, Some(0));
        for path in ["/livez", "/readyz", "/metrics"] {
            assert_eq!(respool.http(path).0, 200, "{path}");
        }
    }
    assert!(respool.metric("respool_admin_refused_total{reason=\"displaced\"}") > 100.0);
    respool.eventually_logs("more connections than");
    assert_eq!(
        respool.log_text().matches("more connections than").count(),
        1,
        "throttled"
    );
}

#[test]
fn a_page_of_another_site_neither_reads_nor_reloads() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .admin("hosts = [\"respool.internal\"]")
        .start();
    let ask = |method: &str, path: &str, headers: &str| {
        let request = format!("{method} {path} HTTP/1.1\r\n{headers}\r\n");
        code(&exchange(&mut connect(&respool), &request)).to_owned()
    };
    for path in ["/", "/metrics", "/status", "/livez", "/readyz"] {
        assert_eq!(
            ask("GET", path, "Host: rebound.example.com:9180\r\n"),
            "403",
            "{path}"
        );
        assert_eq!(
            ask("GET", path, "Host: respool.internal:9180\r\n"),
            "200",
            "{path}"
        );
    }
    let rebound = "Host: evil.example.com\r\nOrigin: http://evil.example.com\r\n";
    assert_eq!(ask("POST", "/reload", rebound), "403");
    let other = "Host: 127.0.0.1\r\nOrigin: http://evil.example.com\r\n";
    assert_eq!(ask("POST", "/reload", other), "403");
    assert_eq!(
        respool.metric("respool_admin_refused_total{reason=\"host\"}"),
        6.0
    );
    assert_eq!(
        respool.metric("respool_admin_refused_total{reason=\"origin\"}"),
        1.0
    );
    assert!(!respool.log_text().contains("reloaded"));
}

#[test]
fn a_token_is_asked_for_and_can_be_replaced_by_a_reload() {
    let redis = Redis::start(&[]);
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("token");
    std::fs::write(&file, "first-secret\n").expect("a file");
    let settings = || {
        let line = format!("token_file = \"{}\"", file.display());
        Respool::with(&redis).admin(&line)
    };
    let respool = settings().start();
    let reload = |token: &str| {
        let request = format!(
            "POST /reload HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
        );
        code(&exchange(&mut connect(&respool), &request)).to_owned()
    };
    assert_eq!(respool.post_reload().0, 401);
    assert_eq!(reload("wrong"), "401");
    assert_eq!(respool.http("/status").0, 200, "reading takes none");
    std::fs::write(&file, "second-secret\n").expect("a file");
    respool.rewrite(&settings().admin("read_token = true"));
    assert_eq!(reload("first-secret"), "200");
    assert_eq!(reload("first-secret"), "401", "it was replaced");
    for path in ["/", "/metrics", "/status"] {
        assert_eq!(respool.http(path).0, 401, "{path}");
    }
    assert_eq!(respool.http("/livez").0, 200, "probes show none");
    let request =
        "GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer second-secret\r\n\r\n";
    let status = exchange(&mut connect(&respool), request);
    assert_eq!(code(&status), "200");
    for secret in ["first-secret", "second-secret"] {
        assert!(!status.contains(secret) && !respool.log_text().contains(secret));
    }
}

#[test]
fn a_file_of_the_endpoint_that_is_gone_is_told_of() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("health.sock");
    let address = format!("unix:{}", path.display());
    let line = format!("health_address = \"{address}\"");
    let settings = || Respool::before("127.0.0.1:1").admin(&line);
    let respool = settings().start();
    let trouble = format!("admin.health_address: nobody can connect to {address} any more: ");
    assert!(!respool.status().contains(&trouble));
    std::fs::rename(&path, dir.path().join("aside")).expect("by hand");
    let gone = format!("{trouble}the file of its socket has been removed; restart respool");
    assert!(respool.status().contains(&gone), "{}", respool.status());
    respool.reload(&settings());
    respool.eventually_logs(&gone);
    std::fs::write(&path, "").expect("written");
    let other =
        format!("{trouble}another file stands in the place of its socket by now; remove that file");
    assert!(respool.status().contains(&other), "{}", respool.status());
    std::fs::rename(dir.path().join("aside"), &path).expect("by hand");
    assert!(!respool.status().contains(&trouble));
}

#[test]
fn the_endpoint_may_be_a_unix_socket_with_health_apart() {
    let redis = Redis::start(&[]);
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("health.sock");
    let respool = Respool::with(&redis)
        .admin(&format!(
            "health_address = \"unix:{}\"\nmode = \"0600\"",
            path.display()
        ))
        .start();
    let mode = std::fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let ask = |request: &str| {
        let mut stream = UnixStream::connect(&path).expect("it listens");
        code(&exchange(&mut stream, request)).to_owned()
    };
    for (page, expected) in [
        ("/livez", "200"),
        ("/readyz", "200"),
        ("/status", "404"),
        ("/", "404"),
    ] {
        let request = format!("GET {page} HTTP/1.1\r\nHost: anything\r\n\r\n");
        assert_eq!(ask(&request), expected, "{page}");
    }
    assert_eq!(
        ask("POST /reload HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        "404"
    );
    let config = respool.config();
    assert_eq!(
        healthcheck(&["--config", &config.display().to_string()]).0,
        Some(0)
    );
    assert_eq!(
        healthcheck(&["--admin", &format!("unix:{}", path.display())]).0,
        Some(0)
    );
    respool.terminate();
    respool.wait();
    assert!(!path.exists(), "its file is removed");
    assert_eq!(
        healthcheck(&["--config", &config.display().to_string()]).0,
        Some(1)
    );
}

#[test]
fn a_healthcheck_without_an_address_says_so() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "[[listener]]\naddress = \"127.0.0.1:0\"\n").expect("a file");
    let (code, text) = healthcheck(&["--config", &file.path().display().to_string()]);
    assert_eq!(code, Some(1));
    assert!(text.contains("to [admin]"), "{text}");
    // What is wrong elsewhere is not its business.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("bound");
    drop(free);
    std::fs::write(
        file.path(),
        format!("nonsense = 1\n[admin]\naddress = \"{address}\"\n"),
    )
    .expect("a file");
    let (code, text) = healthcheck(&["--config", &file.path().display().to_string()]);
    assert_eq!(code, Some(1));
    assert!(text.contains(&address.to_string()), "{text}");
}
