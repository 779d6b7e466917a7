//! The process may open no more files: health, the endpoint and the server are reached, and newcomers are told.

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::harness::{Client, Redis, Respool, Value, eventually};

const TOLD: &str = "ERR max number of clients reached";

/// Lowers the limit of open files of a running process.
fn limit(respool: &Respool, files: u64) {
    let pid = i32::try_from(respool.pid()).ok().and_then(Pid::from_raw);
    let lowered = Rlimit {
        current: Some(files),
        maximum: Some(files),
    };
    prlimit(pid, Resource::Nofile, lowered).expect("a limit can be lowered");
}

/// Connects until one is turned away.
fn fill(respool: &Respool) -> Vec<Client> {
    let mut clients = Vec::new();
    loop {
        let mut client = respool.client();
        match client.try_cmd(&["PING"]) {
            Some(reply) if reply == Value::simple("PONG") => clients.push(client),
            other => {
                assert!(
                    other.is_none_or(|reply| reply == Value::error(TOLD)),
                    "told, or closed before it was"
                );
                return clients;
            }
        }
        assert!(clients.len() < 1000, "somebody is turned away");
    }
}

fn works(respool: &Respool) {
    for path in ["/livez", "/readyz", "/metrics", "/status"] {
        assert_eq!(respool.http(path).0, 200, "{path}");
    }
    // The file is read, and what it needs held against what there is.
    let (code, text) = respool.post_reload();
    assert!(
        code == 409 && text.contains("file descriptors are needed"),
        "{text}"
    );
}

#[test]
fn the_last_descriptors_are_kept_for_what_matters() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .plain_clients()
        .start();
    limit(&respool, 200);
    let mut clients = fill(&respool);
    assert!(clients.len() > 50, "{}", clients.len());
    works(&respool);
    for client in &mut clients {
        client.ping();
    }
    assert!(respool.metric("respool_client_connections_without_descriptor_total") >= 1.0);
    // The server is lost and found: connections to it are opened anew.
    redis.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    for client in &mut clients {
        let written = client.cmd(&["SET", "k", "v"]);
        assert_eq!(written, Value::ok());
    }
    let mut turned_away = respool.client();
    let reply = turned_away.try_reply();
    assert!(reply.is_none_or(|reply| reply == Value::error(TOLD)));
    clients.truncate(20);
    eventually(
        || {
            let mut newcomer = respool.client();
            newcomer.try_cmd(&["PING"]) == Some(Value::simple("PONG"))
        },
        "there is room again",
    );
}

#[test]
fn below_what_is_open_already_the_endpoint_answers() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .plain_clients()
        .start();
    let mut clients: Vec<Client> = (0..50).map(|_| respool.client()).collect();
    for client in &mut clients {
        client.ping();
    }
    limit(&respool, 30);
    for _ in 0..30 {
        assert_eq!(respool.http("/livez").0, 200);
        assert_eq!(respool.http("/metrics").0, 200);
        let mut newcomer = respool.client();
        assert!(
            newcomer
                .try_reply()
                .is_none_or(|reply| reply == Value::error(TOLD))
        );
    }
    for client in &mut clients {
        client.ping();
    }
}
