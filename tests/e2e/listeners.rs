//! Listeners that a reload adds, removes and changes, while the clients of others, and their own, go on.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use crate::harness::{Client, Pki, Redis, Respool, RespoolSettings, Value, eventually, free_port};
use crate::tls::listener_tls;

/// Adds a listener at this port of 127.0.0.1, before the one of the harness.
fn at(settings: RespoolSettings, port: u16, lines: &str) -> RespoolSettings {
    settings.top(&format!(
        "[[listener]]\naddress = \"127.0.0.1:{port}\"\n{lines}"
    ))
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Connects a client that is served, with something that no reload may disturb.
fn in_transaction(address: &str) -> Client {
    let mut client = Client::connect(address);
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    assert_eq!(client.cmd(&["INCR", "n"]), Value::simple("QUEUED"));
    client
}

#[track_caller]
fn assert_commits(client: &mut Client, count: i64) {
    assert_eq!(client.cmd(&["EXEC"]), Value::Array(vec![Value::Int(count)]));
}

#[test]
fn listeners_come_and_go_and_clients_stay() {
    let redis = Redis::start(&[]);
    let plain = || Respool::with(&redis).plain_clients();
    let (first, second) = (free_port(), free_port());
    let respool = plain().start();
    let mut here = in_transaction(&respool.addr());
    respool.reload(&at(plain(), first, ""));
    let mut of_first = in_transaction(&local(first));
    // Another address in its place, and another beside it.
    respool.reload(&at(plain(), second, ""));
    assert!(
        Client::try_connect(&local(first)).is_err(),
        "nobody listens there"
    );
    let mut of_second = in_transaction(&local(second));
    respool.reload(&plain());
    assert!(
        Client::try_connect(&local(second)).is_err(),
        "nobody listens there"
    );
    assert_commits(&mut of_first, 1);
    assert_commits(&mut of_second, 2);
    assert_commits(&mut here, 3);
    of_first.ping();
    eventually(
        || {
            let log = respool.log_text();
            let told = format!("listens no longer on {}", local(second));
            log.contains(&told) && log.contains(&format!("listens on {}", local(second)))
        },
        "it is logged",
    );
    // The port can be had again, by respool too.
    respool.reload(&at(plain(), first, ""));
    Client::connect(local(first)).ping();
    eventually(
        || respool.clients_of("default") == 3,
        "those who stayed are counted, and nobody else",
    );
}

#[test]
fn a_unix_socket_comes_changes_and_goes_with_its_file() {
    let redis = Redis::start(&[]);
    let plain = || Respool::with(&redis).plain_clients();
    let respool = plain().start();
    let path = respool.config().with_file_name("other.sock");
    let with = |lines: &str| {
        plain().top(&format!(
            "[[listener]]\naddress = \"unix:{}\"\n{lines}",
            path.display()
        ))
    };
    let about = || std::fs::metadata(&path).expect("the socket");
    let mode = || about().permissions().mode() & 0o777;
    respool.reload(&with(""));
    let (unset, owner, group) = (mode(), about().uid(), about().gid());
    respool.reload(&with("mode = \"0600\""));
    assert_eq!(mode(), 0o600);
    let mut client = Client::connect_unix(&path);
    client.ping();
    respool.reload(&with("mode = \"0660\"\nbacklog = 7"));
    assert_eq!(mode(), 0o660);
    Client::connect_unix(&path).ping();
    respool.reload(&with(""));
    assert_eq!(mode(), unset, "as if it had never been written");
    // Giving files away takes root.
    if owner == 0 {
        respool.reload(&with("owner = \"12345\"\ngroup = \"23456\""));
        assert_eq!((about().uid(), about().gid()), (12345, 23456));
        respool.reload(&with("mode = \"0600\""));
        assert_eq!(
            (mode(), about().uid(), about().gid()),
            (0o600, owner, group)
        );
    }
    respool.reload(&plain());
    assert!(!path.exists(), "the file goes with it");
    client.ping();
}

#[test]
fn what_was_set_at_the_start_and_is_removed_is_as_if_it_had_never_been() {
    let redis = Redis::start(&[]);
    let plain = || Respool::with(&redis).plain_clients();
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("other.sock");
    let with = |lines: &str| {
        plain().top(&format!(
            "[[listener]]\naddress = \"unix:{}\"\n{lines}",
            path.display()
        ))
    };
    let mode = || {
        let about = std::fs::metadata(&path).expect("the socket");
        about.permissions().mode() & 0o777
    };
    let unset = {
        let _respool = with("").start();
        mode()
    };
    let respool = with("mode = \"0600\"").start();
    assert_eq!(mode(), 0o600);
    respool.reload(&with(""));
    assert_eq!(mode(), unset);
    Client::connect_unix(&path).ping();
}

#[test]
fn a_listener_that_cannot_be_had_changes_nothing() {
    let redis = Redis::start(&[]);
    let plain = |cap: usize| {
        Respool::with(&redis).plain_clients().section(&format!(
            "[[group]]\nname = \"default\"\nmax_connections = {cap}"
        ))
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let (before, another) = (free_port(), free_port());
    let respool = at(plain(5), before, "").start();
    let mut client = Client::connect(local(before));
    client.ping();
    // One that can be had, one that cannot, one that would go, and a cap: none of it.
    respool.rewrite(&at(at(plain(9), another, ""), port, ""));
    let (code, text) = respool.post_reload();
    assert_eq!(code, 409, "{text}");
    assert!(
        text.contains(&local(port)) && text.contains("in use"),
        "{text}"
    );
    assert!(respool.status().contains("in use"));
    assert!(
        Client::try_connect(&local(another)).is_err(),
        "it is closed again"
    );
    Client::connect(local(before)).ping();
    client.ping();
    let limit = respool.metric("respool_client_connections_limit{group=\"default\"}");
    assert_eq!(limit, 5.0);
    drop(taken);
    assert_eq!(respool.post_reload().0, 200);
    Client::connect(local(port)).ping();
    Client::connect(local(another)).ping();
    assert!(
        Client::try_connect(&local(before)).is_err(),
        "nobody listens there"
    );
    client.ping();
}

#[test]
fn a_port_that_another_listener_has_is_told_by_its_name() {
    let redis = Redis::start(&[]);
    let plain = || Respool::with(&redis).plain_clients();
    let port = free_port();
    let respool = at(plain(), port, "").start();
    respool.rewrite(&plain().top(&format!("[[listener]]\naddress = \"0.0.0.0:{port}\"")));
    let (code, text) = respool.post_reload();
    assert_eq!(code, 409, "{text}");
    assert!(
        text.contains(&format!("{} has this port", local(port))),
        "{text}"
    );
    Client::connect(local(port)).ping();
}

#[test]
fn tls_is_switched_on_and_off_for_those_who_come() {
    let pki = Pki::new();
    let own = pki.issue("server", &["localhost"]);
    let redis = Redis::start(&[]);
    let plain = || Respool::with(&redis).plain_clients();
    let respool = plain().start();
    let mut first = in_transaction(&respool.addr());
    respool.reload(&plain().listener(&listener_tls(&own, "")));
    assert_eq!(
        respool.client().try_cmd(&["PING"]),
        None,
        "plain bytes are no TLS"
    );
    let mut second = respool.tls_client(&pki.client(None));
    second.ping();
    let certificates = "respool_certificate_expiry_timestamp_seconds{role=\"listener\"}";
    assert!(respool.metric(certificates) > 0.0);
    respool.reload(&plain());
    respool.client().ping();
    assert_eq!(
        respool.metric_or_zero(certificates),
        0.0,
        "it shows none any more"
    );
    second.ping();
    assert_commits(&mut first, 1);
}

#[test]
fn a_listener_becomes_one_for_operators() {
    let redis = Redis::start(&[]);
    let settings = |lines: &str| {
        Respool::with(&redis)
            .plain_clients()
            .limits("max_clients = 1\nreject_hold = \"60s\"")
            .listener(lines)
    };
    let respool = settings("").start();
    let mut first = respool.client();
    first.ping();
    assert!(respool.client().cmd(&["PING"]).is_error());
    respool.reload(&settings("admin = true"));
    let mut operator = respool.client();
    assert!(operator.cmd(&["CLIENT", "LIST"]).text().contains("id="));
    first.ping();
    respool.reload(&settings(""));
    operator.ping();
    assert!(respool.client().cmd(&["PING"]).is_error());
}
