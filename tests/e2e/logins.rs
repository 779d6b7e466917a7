//! Logins that the server refuses among other requests: Redis 8.2 answers those that stand alone, and no others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{
    Client, Redis, Respool, ScriptedAct, ScriptedServer, Value, encode, eventually,
};

const WRONG: &str = "WRONGPASS invalid username-password pair or user is disabled.";

const OWN: &str = "username = \"respool\"\npassword = \"own\"";

const REFUSED: &str = "respool_upstream_reauthentications_total{result=\"refused\"}";

/// Starts a server that takes the password `own`, while it is let, and `pw`, and answers others only where they stand alone.
fn server() -> (ScriptedServer, Arc<AtomicBool>) {
    let takes_own = Arc::new(AtomicBool::new(true));
    let of_server = Arc::clone(&takes_own);
    let server = ScriptedServer::start(move |words| {
        let is_good = match words.last().map(String::as_str) {
            Some("own") => of_server.load(Ordering::SeqCst),
            Some(password) => password == "pw",
            None => false,
        };
        match words[0].as_str() {
            "auth" if !is_good => ScriptedAct::SayAlone(
                "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
            ),
            _ => ScriptedAct::Usual,
        }
    });
    (server, takes_own)
}

fn log_in(respool: &Respool) -> Client {
    let mut client = respool.client();
    assert_eq!(client.cmd(&["AUTH", "ann", "pw"]), Value::ok());
    client
}

/// Checks what a client is answered whose login is refused amid others of its own, all sent at once.
fn amid_others(client: &mut Client) {
    let requests = [
        &["ECHO", "one"][..],
        &["ECHO", "two"],
        &["AUTH", "ann", "bad"],
        &["ECHO", "three"],
        &["HELLO", "3", "AUTH", "ann", "bad"],
        &["ECHO", "four"],
    ];
    client.send(requests.map(encode).concat());
    for text in ["one", "two", WRONG, "three", WRONG, "four"] {
        assert_eq!(client.reply().text(), text);
    }
}

/// Checks logins that are refused on shared connections in other databases, on lent ones, and between requests of others.
fn refused_logins_are_told(respool: &Respool) {
    let mut neighbour = log_in(respool);
    for round in 0..20 {
        let round = round.to_string();
        // The connection is in another database, and another user's, when it is to become this one's.
        assert_eq!(neighbour.cmd(&["SELECT", "5"]), Value::ok());
        assert_eq!(neighbour.cmd(&["ECHO", &round]), Value::bulk(&round));
        let mut wrong = respool.client();
        assert_eq!(wrong.cmd(&["AUTH", "ann", "bad"]).text(), WRONG);
        assert_eq!(neighbour.cmd(&["ECHO", &round]), Value::bulk(&round));
        let hello = wrong.cmd(&["HELLO", "3", "AUTH", "ann", "bad"]);
        assert_eq!(hello.text(), WRONG);
        assert_eq!(neighbour.cmd(&["SELECT", "0"]), Value::ok());
        assert_eq!(neighbour.cmd(&["ECHO", &round]), Value::bulk(&round));
        let mut mixed = log_in(respool);
        amid_others(&mut mixed);
        assert_eq!(mixed.cmd(&["WATCH", "k"]), Value::ok());
        amid_others(&mut mixed);
        assert_eq!(neighbour.cmd(&["ECHO", &round]), Value::bulk(&round));
    }
}

/// Starts a respool whose bound of a reply that is missing is far beyond the test's patience.
fn on_one_connection(settings: crate::harness::RespoolSettings) -> Respool {
    settings
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 1\nreply_timeout = \"5m\"")
        .upstream("busy_timeout = \"10m\"\nconnect_timeout = \"2m\"\nborrow_timeout = \"2m\"")
        .section("[auth]\nmode = \"passthrough\"\nfree_failures = 100000")
        .start()
}

#[test]
fn a_server_that_answers_refused_logins_only_alone_is_asked_so() {
    let (server, _) = server();
    let respool = on_one_connection(Respool::before(server.addr()).upstream(OWN));
    refused_logins_are_told(&respool);
}

#[test]
fn every_server_tells_of_refused_logins_whatever_stands_beside_them() {
    let redis = Redis::start(&[]);
    for user in [["ann", ">pw"], ["respool", ">own"]] {
        let rules = [
            "ACL", "SETUSER", user[0], "on", user[1], "~*", "&*", "+@all",
        ];
        assert_eq!(redis.cmd(&rules), Value::ok());
    }
    for own in [OWN, ""] {
        let respool = on_one_connection(Respool::with(&redis).upstream(own));
        refused_logins_are_told(&respool);
        // Whose user is gone is told so, and nobody gets what is another's.
        let mut gone = log_in(&respool);
        assert_eq!(gone.cmd(&["SELECT", "3"]), Value::ok());
        let mut other = respool.client();
        assert_eq!(other.cmd(&["ECHO", "other"]), Value::bulk("other"));
        let changed = redis.cmd(&["ACL", "SETUSER", "ann", "resetpass", ">new"]);
        assert_eq!(changed, Value::ok());
        for round in 0..20 {
            let round = round.to_string();
            let mut wrong = respool.client();
            wrong.send([encode(&["AUTH", "ann", "pw"]), encode(&["ECHO", &round])].concat());
            assert_eq!(wrong.reply().text(), WRONG);
            assert_eq!(wrong.reply(), Value::bulk(&round));
            assert_eq!(other.cmd(&["ECHO", &round]), Value::bulk(&round));
        }
        let back = redis.cmd(&["ACL", "SETUSER", "ann", "resetpass", ">pw"]);
        assert_eq!(back, Value::ok());
    }
}

#[test]
fn a_login_that_is_not_renewed_costs_nobody_a_reply() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("password");
    std::fs::write(&path, "own\n").expect("written");
    let (server, takes_own) = server();
    let respool = Respool::before(server.addr())
        .top("workers = 1")
        .upstream(&format!(
            "username = \"respool\"\npassword_command = [\"/bin/cat\", \"{}\"]",
            path.display()
        ))
        .upstream("max_connections = 4\nshared_connections = 1\nreauthenticate_after = \"100ms\"")
        .start();
    let mut clients: Vec<Client> = (0..4).map(|_| respool.client()).collect();
    for client in &mut clients {
        client.ping();
    }
    takes_own.store(false, Ordering::SeqCst);
    let mut round = 0;
    eventually(
        || {
            round += 1;
            let texts: Vec<String> = (0..40).map(|of| format!("{round} {of}")).collect();
            for (number, client) in clients.iter_mut().enumerate() {
                for text in &texts {
                    client.send(encode(&["ECHO", &format!("{number} {text}")]));
                }
            }
            for (number, client) in clients.iter_mut().enumerate() {
                for text in &texts {
                    assert_eq!(client.reply().text(), format!("{number} {text}"));
                }
            }
            respool.metric_or_zero(REFUSED) >= 1.0
        },
        "a renewal is refused",
    );
}
