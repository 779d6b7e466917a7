//! Admission on a listener with TLS: who gets a place, when, and what those are told who get none.

use std::process::Command;

use crate::harness::{
    CertificatePair, Client, Pki, Redis, Respool, Value, eventually, respool_program, run_to_end,
};
use crate::tls::listener_tls;

const FULL: &str = "ERR max number of clients reached";

/// Starts a respool whose clients must show a certificate; `billing-*` have a group of their own, and all others have `rest`.
fn mutual(
    pki: &Pki,
    own: &CertificatePair,
    redis: &Redis,
    (limits, billing, rest): (&str, &str, &str),
) -> Respool {
    let ca = format!(", client_ca_file = \"{}\"", pki.ca_file().display());
    Respool::with(redis)
        .plain_clients()
        .limits(limits)
        .listener(&listener_tls(own, &ca))
        .section(&format!(
            "[[group]]\nname = \"billing\"\nmatch = {{ certificate_name = \"billing-*\" }}\n{billing}\n\
             [[group]]\nname = \"rest\"\n{rest}"
        ))
        .start()
}

fn handshaking(respool: &Respool) -> usize {
    respool.metric("respool_client_handshakes") as usize
}

#[test]
fn a_full_group_keeps_out_nobody_whose_certificate_belongs_elsewhere() {
    let (pki, redis) = (Pki::new(), Redis::start(&[]));
    let own = pki.issue("server", &["localhost"]);
    let rest = "max_connections = 1\nmax_connects_per_second = 1";
    let respool = mutual(&pki, &own, &redis, ("", "max_connections = 3", rest));
    let web = pki.client(Some(&pki.issue("web", &[])));
    let billing = pki.client(Some(&pki.issue("billing-1", &[])));
    let mut first = respool.tls_client(&web);
    first.ping();
    assert_eq!(respool.tls_client(&web).cmd(&["PING"]), Value::error(FULL));
    let mut inside: Vec<Client> = (0..3).map(|_| respool.tls_client(&billing)).collect();
    inside.iter_mut().for_each(Client::ping);
    assert_eq!(
        (respool.clients_of("billing"), respool.clients_of("rest")),
        (3, 1)
    );
    let counted = |what: &str, group: &str| {
        respool.metric_or_zero(&format!(
            "respool_client_connections_{what}_total{{group=\"{group}\"}}"
        ))
    };
    assert_eq!(
        (counted("accepted", "rest"), counted("accepted", "billing")),
        (1.0, 3.0)
    );
    assert_eq!(
        (counted("rejected", "rest"), counted("rejected", "billing")),
        (1.0, 0.0)
    );
    assert_eq!(handshaking(&respool), 0);
    first.ping();
}

#[test]
fn who_has_shown_no_certificate_evicts_nobody_and_takes_no_place_in_a_group() {
    let (pki, redis) = (Pki::new(), Redis::start(&[]));
    let own = pki.issue("server", &["localhost"]);
    let rest = "max_connections = 2\nwarn_connections = 1\nat_limit = \"evict-idle\"";
    let respool = mutual(&pki, &own, &redis, ("", "max_connections = 3", rest));
    let web = pki.client(Some(&pki.issue("web", &[])));
    let mut idle = respool.tls_client(&web);
    idle.ping();
    let silent: Vec<Client> = (0..5).map(|_| respool.client()).collect();
    eventually(|| handshaking(&respool) == 5, "all are in their handshake");
    let mut second = respool.tls_client(&web);
    second.ping();
    assert_eq!(respool.clients_of("rest"), 2);
    // The group is full now: who has no certificate leaves it as it is.
    let stranger = Client::try_connect_tls(&respool.addr(), &pki.client(None));
    let told = stranger
        .ok()
        .and_then(|mut client| client.try_cmd(&["PING"]));
    assert_eq!(told, None);
    let refused = "respool_client_disconnects_total{group=\"rest\",reason=\"tls_handshake\"}";
    eventually(|| respool.metric(refused) == 1.0, "it is counted");
    idle.ping();
    second.ping();
    let evicted = "respool_client_disconnects_total{reason=\"evicted\"}";
    assert_eq!(respool.metric_or_zero(evicted), 0.0);
    // One of the group's own makes room, once it has shown that it is that.
    let mut third = respool.tls_client(&web);
    third.ping();
    assert_eq!(
        (respool.metric(evicted), respool.clients_of("rest")),
        (1.0, 2)
    );
    idle.expect_end();
    second.ping();
    drop(silent);
    eventually(|| handshaking(&respool) == 0, "the silent have left");
}

#[test]
fn handshakes_are_bounded_as_all_clients_are() {
    let (pki, redis) = (Pki::new(), Redis::start(&[]));
    let own = pki.issue("server", &["localhost"]);
    let respool = mutual(&pki, &own, &redis, ("max_clients = 3", "", ""));
    let web = pki.client(Some(&pki.issue("web", &[])));
    let mut inside = respool.tls_client(&web);
    inside.ping();
    let silent: Vec<Client> = (0..2).map(|_| respool.client()).collect();
    eventually(|| handshaking(&respool) == 2, "both are in their handshake");
    assert_eq!(respool.tls_client(&web).cmd(&["PING"]), Value::error(FULL));
    drop(silent);
    eventually(|| handshaking(&respool) == 0, "both have left");
    let mut next = respool.tls_client(&web);
    next.ping();
    inside.ping();
    drop((inside, next));
    eventually(|| respool.clients_of("rest") == 0, "nobody is left");
}

#[test]
fn a_full_certificate_group_is_told_even_when_nobody_can_be_held() {
    let (pki, redis) = (Pki::new(), Redis::start(&[]));
    let own = pki.issue("server", &["localhost"]);
    let respool = mutual(
        &pki,
        &own,
        &redis,
        ("max_rejected = 0", "max_connections = 1", ""),
    );
    let billing = pki.client(Some(&pki.issue("billing-1", &[])));
    let mut first = respool.tls_client(&billing);
    first.ping();
    let mut second = respool.tls_client(&billing);
    assert_eq!(second.try_reply(), Some(Value::error(FULL)));
    second.expect_end();
    first.ping();
}

#[test]
fn few_rejected_sockets_shake_hands_at_once_and_all_are_counted() {
    let (pki, redis) = (Pki::new(), Redis::start(&[]));
    let own = pki.issue("server", &["localhost"]);
    let respool = Respool::with(&redis)
        .plain_clients()
        .limits("max_clients = 1\nmax_rejected = 17\nreject_hold = \"60s\"\nhandshake_timeout = \"60s\"")
        .listener(&listener_tls(&own, ""))
        .start();
    let config = pki.client(None);
    let mut served = respool.tls_client(&config);
    served.ping();
    let silent: Vec<Client> = (0..10).map(|_| respool.client()).collect();
    let turned_away = "respool_bounds_reached_total{bound=\"rejected\"}";
    eventually(
        || respool.metric(turned_away) == 7.0,
        "the others are closed at once",
    );
    assert_eq!(respool.metric("respool_client_rejections_held"), 3.0);
    drop(silent);
    let handshakes = |result: &str| {
        respool.metric(&format!(
            "respool_tls_handshakes_total{{side=\"client\",result=\"{result}\"}}"
        ))
    };
    eventually(
        || handshakes("failed") == 3.0,
        "those that shook hands are counted",
    );
    eventually(
        || respool.metric("respool_client_rejections_held") == 0.0,
        "and have left",
    );
    // Whose handshake is over makes room for another's.
    let mut told: Vec<Client> = (0..6).map(|_| respool.tls_client(&config)).collect();
    for client in &mut told {
        assert_eq!(client.cmd(&["PING"]), Value::error(FULL));
    }
    assert_eq!(handshakes("full") + handshakes("resumed"), 7.0);
    served.ping();
}

#[test]
fn who_is_to_be_held_for_no_time_is_closed_before_a_handshake() {
    let (pki, redis) = (Pki::new(), Redis::start(&[]));
    let own = pki.issue("server", &["localhost"]);
    let respool = Respool::with(&redis)
        .plain_clients()
        .limits("max_clients = 1\nreject_hold = \"0s\"")
        .listener(&listener_tls(&own, ""))
        .unix_listener()
        .start();
    let mut served = respool.tls_client(&pki.client(None));
    served.ping();
    respool.client().expect_end();
    let turned_away = "respool_bounds_reached_total{bound=\"rejected\"}";
    assert_eq!(respool.metric(turned_away), 1.0);
    // Without TLS it is told first.
    let mut plain = respool.unix_client();
    assert_eq!(plain.try_reply(), Some(Value::error(FULL)));
    plain.expect_end();
    served.ping();
}

#[test]
fn authorities_that_were_named_and_cannot_be_read_end_the_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("respool.toml");
    let socket = dir.path().join("respool.sock");
    let text = format!(
        "[[listener]]\naddress = \"unix:{}\"\n[upstream]\naddress = \"127.0.0.1:6379\"\ntls = {{ enabled = true }}\n",
        socket.display()
    );
    std::fs::write(&file, text).expect("a file can be written");
    std::fs::write(dir.path().join("empty.pem"), "").expect("a file can be written");
    for (name, place) in [
        ("SSL_CERT_FILE", dir.path().join("nowhere.pem")),
        ("SSL_CERT_FILE", dir.path().join("empty.pem")),
        ("SSL_CERT_DIR", dir.path().join("nowhere")),
    ] {
        let mut command = Command::new(respool_program());
        let (code, said) = run_to_end(
            command
                .args(["run", "--config"])
                .arg(&file)
                .env_remove("SSL_CERT_FILE")
                .env_remove("SSL_CERT_DIR")
                .env(name, &place),
        );
        assert_ne!(code, Some(0), "{said}");
        let named = format!("{name}={place:?}");
        assert!(
            said.contains(&named) && said.contains("set upstream.tls.ca_file"),
            "{said}"
        );
    }
}
