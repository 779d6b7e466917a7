//! A server whose name moves: a file stands for the resolver, an address of loopback for each server.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{assert_undisturbed, idle_clients, last_failover, losses};
use crate::harness::{
    Client, Pki, Redis, Respool, Value, encode, eventually, eventually_some, free_port_where, needs,
};

const NAME: &str = "redis.example.com";

/// Holds what the server's name stands for.
struct ServerNames {
    dir: tempfile::TempDir,
}

impl ServerNames {
    fn of(redis: &Redis) -> Self {
        let names = Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
        };
        names.point_to(redis);
        names
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("hosts")
    }

    /// Lets the name stand for this server from now on.
    fn point_to(&self, redis: &Redis) {
        let (host, _) = redis.host_and_port();
        let new = self.dir.path().join("new");
        std::fs::write(&new, format!("{host} {NAME}\n")).expect("a file can be written");
        std::fs::rename(&new, self.path()).expect("a file can be renamed");
    }

    #[track_caller]
    fn respool(&self, redis: &Redis, upstream: &str) -> Respool {
        let (_, port) = redis.host_and_port();
        Respool::before(&format!("{NAME}:{port}"))
            .upstream(&format!(
                "hosts_file = \"{}\"\n{upstream}",
                self.path().display()
            ))
            .start()
    }
}

/// Starts two servers on the same port of two addresses.
fn two() -> (Redis, Redis) {
    let hosts = ["127.0.0.1", "127.0.0.2"];
    let is_free = |port| {
        let listens = |host: &str| std::net::TcpListener::bind((host, port)).is_ok();
        hosts.into_iter().all(listens)
    };
    let port = free_port_where(is_free);
    let [first, second] = hosts.map(|host| Redis::start_at(host, port, &[]));
    (first, second)
}

fn connections_of_respool(redis: &Redis) -> usize {
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    list.lines()
        .filter(|line| line.contains(" name=respool:"))
        .count()
}

/// Pushes numbers of its own until told to stop, each until it is acknowledged or may have run.
fn write(respool: &Respool, writer: usize, is_over: &AtomicBool) -> Vec<String> {
    let mut client = respool.client();
    let (mut acknowledged, mut number) = (Vec::new(), 0);
    while !is_over.load(Ordering::SeqCst) {
        let entry = format!("{writer}:{number}");
        match client.try_cmd(&["RPUSH", "log", &entry]) {
            Some(Value::Int(_)) => {
                acknowledged.push(entry);
                number += 1;
            }
            // It did not run.
            Some(Value::Error(text)) => {
                let text = String::from_utf8_lossy(&text).into_owned();
                assert!(
                    text.starts_with("READONLY ") || text.starts_with("LOADING respool:"),
                    "{text}"
                );
            }
            Some(other) => panic!("{other:?}"),
            None => {
                number += 1;
                client = respool.client();
            }
        }
    }
    acknowledged
}

/// Makes `new` the primary as a failover that is asked for goes: no write is taken until the replica has them all. Returns
/// how much it has.
fn promote(old: &Redis, new: &Redis, names: &ServerNames) -> i64 {
    let (new_host, port) = new.host_and_port();
    assert_eq!(old.cmd(&["CLIENT", "PAUSE", "60000", "WRITE"]), Value::ok());
    eventually(
        || old.info("master_repl_offset") == new.info("slave_repl_offset"),
        "the replica has everything",
    );
    assert_eq!(new.cmd(&["REPLICAOF", "NO", "ONE"]), Value::ok());
    let written = new.cmd(&["LLEN", "log"]).int();
    names.point_to(new);
    let follow = ["REPLICAOF", new_host, &port.to_string()];
    assert_eq!(old.cmd(&follow), Value::ok());
    assert_eq!(old.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    written
}

#[test]
fn writes_follow_a_replica_promoted_by_hand() {
    let (old, new) = two();
    let (old_host, port) = old.host_and_port();
    let (new_host, _) = new.host_and_port();
    let port = port.to_string();
    assert_eq!(new.cmd(&["REPLICAOF", old_host, &port]), Value::ok());
    eventually(
        || new.info("master_link_status") == "up",
        "the replica follows",
    );
    let names = ServerNames::of(&old);
    let respool = names.respool(&old, "queue = { timeout = \"15s\", max_commands = 1000 }");
    let mut idle = idle_clients(&respool);
    let mut blocked = respool.client();
    blocked.send(encode(&["BLPOP", "jobs", "0"]));
    eventually(|| old.info("blocked_clients") == "1", "it is blocked");
    let is_over = AtomicBool::new(false);
    let (acknowledged, took) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..6)
            .map(|writer| {
                scope.spawn({
                    let (respool, is_over) = (&respool, &is_over);
                    move || write(respool, writer, is_over)
                })
            })
            .collect();
        eventually(|| old.cmd(&["LLEN", "log"]).int() > 500, "they write");
        let written = promote(&old, &new, &names);
        let flipped = Instant::now();
        let took = eventually_some(
            || (new.cmd(&["LLEN", "log"]).int() > written + 100).then(|| flipped.elapsed()),
            "writes reach the new primary",
        );
        is_over.store(true, Ordering::SeqCst);
        let ended = writers.into_iter().map(|w| w.join().expect("it ends well"));
        (ended.flatten().collect::<Vec<String>>(), took)
    });
    let log: Vec<String> = new
        .cmd(&["LRANGE", "log", "0", "-1"])
        .items()
        .iter()
        .map(Value::text)
        .collect();
    let once: std::collections::HashSet<_> = log.iter().collect();
    assert_eq!(once.len(), log.len(), "none ran twice");
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|entry| !once.contains(entry))
        .collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert_undisturbed(&mut idle);
    new.cmd(&["RPUSH", "jobs", "1"]);
    assert_eq!(blocked.reply().items()[1], Value::bulk("1"));
    eventually(
        || connections_of_respool(&old) == 0,
        "nothing is left at the old primary",
    );
    let told = last_failover(&respool);
    eprintln!(
        "writes at the new primary {took:?} after the name; {} acknowledged; {told}",
        acknowledged.len()
    );
    assert_eq!(told["from"], format!("{old_host}:{port}"));
    assert_eq!(told["to"], format!("{new_host}:{port}"));
    assert!(
        ["readonly", "moved"].contains(&told["cause"].as_str().unwrap_or_default()),
        "{told}"
    );
    assert!(losses(&respool, "readonly") + losses(&respool, "moved") >= 1.0);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn each_kind_of_use_moves_with_the_name() {
    let (old, new) = two();
    let names = ServerNames::of(&old);
    let respool = names.respool(&old, "resolve_interval = \"100ms\"\nmove_timeout = \"60s\"");
    let mut plain = respool.client();
    assert_eq!(plain.cmd(&["SET", "where", "old"]), Value::ok());
    let mut blocked: Vec<Client> = (0..3).map(|_| respool.client()).collect();
    for (i, client) in blocked.iter_mut().enumerate() {
        client.send(encode(&["BLPOP", &format!("list-{i}"), "0"]));
    }
    eventually(
        || old.info_number("blocked_clients") >= 1,
        "they are blocked",
    );
    let mut subscriber = respool.client();
    subscriber.cmd(&["SUBSCRIBE", "news"]);
    let mut transaction = respool.client();
    assert_eq!(transaction.cmd(&["WATCH", "k"]), Value::ok());
    assert_eq!(transaction.cmd(&["MULTI"]), Value::ok());
    assert_eq!(transaction.cmd(&["SET", "k", "v"]), Value::simple("QUEUED"));
    let mut idle_pin = respool.client();
    assert_eq!(idle_pin.cmd(&["WATCH", "other"]), Value::ok());
    assert_eq!(idle_pin.cmd(&["UNWATCH"]), Value::ok());
    let ended = respool.metric_or_zero("respool_client_disconnects_total");

    names.point_to(&new);
    eventually(
        || connections_of_respool(&old) == 1,
        "all but the transaction have left",
    );
    assert_eq!(plain.cmd(&["SET", "where", "new"]), Value::ok());
    assert_eq!(new.cmd(&["GET", "where"]), Value::bulk("new"));
    assert_eq!(
        transaction.cmd(&["EXEC"]).items(),
        [Value::ok()],
        "it ends where it began"
    );
    assert_eq!(old.cmd(&["GET", "k"]), Value::bulk("v"));
    eventually(
        || connections_of_respool(&old) == 0,
        "the transaction's has left too",
    );
    assert_eq!(transaction.cmd(&["GET", "where"]), Value::bulk("new"));

    eventually(
        || new.info_number("blocked_clients") >= 1,
        "they are blocked there",
    );
    for (i, client) in blocked.iter_mut().enumerate() {
        new.cmd(&["RPUSH", &format!("list-{i}"), "x"]);
        assert_eq!(client.reply().items()[1], Value::bulk("x"));
    }
    eventually(
        || new.cmd(&["PUBLISH", "news", "hello"]).int() == 1,
        "it is subscribed there",
    );
    assert_eq!(subscriber.reply().items()[2], Value::bulk("hello"));
    assert_eq!(
        respool.metric_or_zero("respool_client_disconnects_total"),
        ended,
        "nobody was disconnected"
    );
    assert!(losses(&respool, "moved") >= 3.0);
    let told = last_failover(&respool);
    assert_eq!(
        (told["cause"].as_str(), told["disconnected"].as_u64()),
        (Some("moved"), Some(0)),
        "{told}"
    );
}

#[test]
fn what_does_not_end_on_a_server_that_has_moved_is_ended() {
    let (old, new) = two();
    let names = ServerNames::of(&old);
    let respool = names.respool(
        &old,
        "resolve_interval = \"100ms\"\nmove_timeout = \"300ms\"",
    );
    let mut transaction = respool.client();
    assert_eq!(transaction.cmd(&["MULTI"]), Value::ok());
    assert_eq!(transaction.cmd(&["SET", "k", "v"]), Value::simple("QUEUED"));
    names.point_to(&new);
    transaction.expect_end();
    assert!(respool.metric("respool_bounds_reached_total{bound=\"move_timeout\"}") >= 1.0);
    assert!(old.cmd(&["GET", "k"]).is_null());
}

#[test]
fn a_resolver_that_fails_changes_nothing() {
    let (old, _new) = two();
    let names = ServerNames::of(&old);
    let respool = names.respool(&old, "resolve_interval = \"100ms\"");
    let mut client = respool.client();
    client.ping();
    std::fs::remove_file(names.path()).expect("it was there");
    let (moved, closed) = (losses(&respool, "moved"), losses(&respool, "closed"));
    old.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually(|| losses(&respool, "closed") > closed, "the loss is seen");
    // A connect looks the name up; what it stood for last is used.
    client.ping();
    assert_eq!(losses(&respool, "moved"), moved);
}

#[test]
fn the_next_address_is_tried_when_one_refuses() {
    // A port that those two have left.
    let port = two().0.host_and_port().1;
    let redis = Redis::start_at("127.0.0.1", port, &[]);
    let names = ServerNames::of(&redis);
    let both = format!("127.0.0.2 {NAME}\n127.0.0.1 {NAME}\n");
    std::fs::write(names.path(), both).expect("a file can be written");
    // It is one attempt: another would not come in time.
    let respool = names.respool(
        &redis,
        "reconnect = { initial = \"1h\", max = \"1h\" }\nqueue = { timeout = \"60s\", max_commands = 10 }",
    );
    respool.client().ping();
}

#[test]
fn a_name_unknown_at_the_start_is_no_error() {
    // A port that those two have left.
    let port = two().0.host_and_port().1;
    let redis = Redis::start_at("127.0.0.1", port, &[]);
    let names = ServerNames::of(&redis);
    std::fs::write(names.path(), "# nothing yet\n").expect("a file can be written");
    let (_, port) = redis.host_and_port();
    let respool = Respool::before(&format!("not-yet.invalid:{port}"))
        .upstream(&format!(
            "hosts_file = \"{}\"\nqueue = {{ timeout = \"60s\", max_commands = 10 }}",
            names.path().display()
        ))
        .start();
    let mut client = respool.client();
    client.send(encode(&["PING"]));
    eventually(
        || respool.metric("respool_upstream_connects_total{result=\"error\"}") >= 1.0,
        "the name is looked up in vain",
    );
    assert!(
        respool
            .status()
            .contains("not-yet.invalid could not be resolved"),
        "{}",
        respool.status()
    );
    std::fs::write(names.path(), "127.0.0.1 not-yet.invalid\n").expect("a file can be written");
    assert_eq!(client.reply(), Value::simple("PONG"));
}

#[test]
fn a_reload_of_the_address_moves_the_connections_and_drops_nobody() {
    let (old, new) = two();
    let at = |redis: &Redis| Respool::before(&redis.addr()).upstream("move_timeout = \"60s\"");
    let respool = at(&old).start();
    let mut clients: Vec<Client> = (0..10).map(|_| respool.client()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["SET", "where", "old"]), Value::ok());
    }
    let mut transaction = respool.client();
    assert_eq!(transaction.cmd(&["MULTI"]), Value::ok());
    assert_eq!(transaction.cmd(&["SET", "k", "v"]), Value::simple("QUEUED"));
    respool.reload(&at(&new));
    eventually(
        || connections_of_respool(&old) == 1,
        "all but the transaction have left",
    );
    for client in &mut clients {
        assert_eq!(client.cmd(&["SET", "where", "new"]), Value::ok());
    }
    assert_eq!(transaction.cmd(&["EXEC"]).items(), [Value::ok()]);
    eventually(|| connections_of_respool(&old) == 0, "all have left");
    assert_eq!(old.cmd(&["GET", "where"]), Value::bulk("old"));
    assert_eq!(
        respool.metric_or_zero("respool_client_disconnects_total"),
        0.0
    );
    assert_eq!(last_failover(&respool)["to"], new.addr());
}

/// One server does not know the connections of the other, but others by the same ids.
#[test]
fn an_id_of_one_server_is_not_told_to_the_other() {
    let (old, new) = two();
    let names = ServerNames::of(&old);
    let respool = names.respool(&old, "resolve_interval = \"100ms\"\nmove_timeout = \"10m\"");
    let mut blocked = respool.client();
    let own_id = blocked.id();
    assert_eq!(blocked.cmd(&["WATCH", "k"]), Value::ok());
    blocked.send(encode(&["BLPOP", "list", "0"]));
    eventually(|| old.info("blocked_clients") == "1", "it is blocked");
    let list = old.cmd(&["CLIENT", "LIST"]).text();
    let line = list
        .lines()
        .find(|line| line.contains(" cmd=blpop") && line.contains(" name=respool:"))
        .expect("its connection is listed");
    let id: i64 = line
        .split([' ', '='])
        .nth(1)
        .and_then(|id| id.parse().ok())
        .expect("a line begins with the id");
    // Somebody else has the same id at the other server.
    let mut others: Vec<Client> = Vec::new();
    let mut other = loop {
        let mut other = new.client();
        let its = other.cmd(&["CLIENT", "ID"]).int();
        assert!(its <= id, "{its} where {id} was to come");
        if its == id {
            break other;
        }
        others.push(other);
    };
    other.send(encode(&["BLPOP", "list", "0"]));
    eventually(|| new.info("blocked_clients") == "1", "it is blocked");
    let mut watching = respool.client();
    assert_eq!(watching.cmd(&["WATCH", "k"]), Value::ok());

    names.point_to(&new);
    eventually(
        || connections_of_respool(&old) == 2,
        "all but the two have left",
    );
    let mut asking = respool.client();
    asking.ping();
    let to = asking.id();
    assert_eq!(
        asking.cmd(&["CLIENT", "UNBLOCK", &own_id, "ERROR"]),
        Value::Int(0)
    );
    assert_eq!(
        watching.cmd(&["CLIENT", "TRACKING", "ON", "REDIRECT", &to]),
        Value::error(super::NOT_SENT)
    );
    assert_eq!(new.info("blocked_clients"), "1");
    new.cmd(&["RPUSH", "list", "new"]);
    assert_eq!(other.reply().items()[1], Value::bulk("new"));
    old.cmd(&["RPUSH", "list", "old"]);
    assert_eq!(blocked.reply().items()[1], Value::bulk("old"));
}

#[test]
fn a_reload_of_how_connections_are_opened_drops_nobody() {
    needs!(tls);
    let pki = Pki::new();
    let redis = Redis::start_tls(&pki, &pki.issue("redis", &["127.0.0.1", "localhost"]), &[]);
    let with = |more: &str| {
        let ca = pki.ca_file();
        Respool::before(&redis.tls_addr()).upstream(&format!(
            "move_timeout = \"100ms\"\ntls = {{ enabled = true, ca_file = \"{}\"{more} }}",
            ca.display()
        ))
    };
    let respool = with("").start();
    let mut transaction = respool.client();
    assert_eq!(transaction.cmd(&["MULTI"]), Value::ok());
    assert_eq!(transaction.cmd(&["SET", "k", "v"]), Value::simple("QUEUED"));
    let mut plain = respool.client();
    plain.ping();
    respool.reload(&with(", server_name = \"localhost\""));
    let reloaded = Instant::now();
    eventually(
        || {
            plain.ping();
            connections_of_respool(&redis) >= 2
                && losses(&respool, "renewed") >= 1.0
                && reloaded.elapsed() > Duration::from_secs(1)
        },
        "the others are replaced, and move_timeout is long over",
    );
    assert_eq!(transaction.cmd(&["EXEC"]).items(), [Value::ok()]);
    assert_eq!(losses(&respool, "moved"), 0.0);
    assert_eq!(respool.metric("respool_failovers_total"), 0.0);
    assert_eq!(
        respool.metric_or_zero("respool_client_disconnects_total"),
        0.0
    );
}

#[test]
fn a_new_address_is_not_kept_waiting_for_the_old() {
    let (old, new) = two();
    let at = |redis: &Redis| {
        Respool::before(&redis.addr()).upstream(
            "reconnect = { initial = \"1h\", max = \"1h\" }\nqueue = { timeout = \"60s\", max_commands = 100 }\ncircuit = { after = \"0s\" }",
        )
    };
    old.kill_hard();
    let respool = at(&old).start();
    eventually(
        || respool.metric("respool_upstream_connects_total{result=\"refused\"}") >= 1.0,
        "it has tried in vain",
    );
    let mut client = respool.client();
    client.send(encode(&["PING"]));
    respool.reload(&at(&new));
    assert_eq!(client.reply(), Value::simple("PONG"));
}

/// Has a client leave behind a call that takes an element which is there, and tells whether it is told.
fn leaves_behind_an_element(mut client: Client, redis: &Redis, number: usize) -> bool {
    let key = format!("q{number}");
    assert_eq!(redis.cmd(&["RPUSH", &key, "a"]), Value::Int(1));
    client.send([encode(&["BLPOP", &key, "0"]), encode(&["LLEN", &key])].concat());
    client.finish_sending();
    let read = client.read_to_end();
    read.windows(3).any(|bytes| bytes == b"\r\na")
}

/// It stays where it was, or is counted: at the next server others may have had it.
#[test]
fn an_element_of_a_server_that_is_left_goes_to_no_other() {
    let (old, new) = two();
    let names = ServerNames::of(&old);
    let respool = names.respool(&old, "resolve_interval = \"100ms\"\nmove_timeout = \"10m\"");
    let mut clients: Vec<Client> = (0..4).map(|_| respool.client()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
    }
    names.point_to(&new);
    eventually(
        || connections_of_respool(&old) == clients.len(),
        "the others have left",
    );
    let count = clients.len() as i64;
    let mut told = 0;
    for (number, client) in clients.into_iter().enumerate() {
        told += i64::from(leaves_behind_an_element(client, &old, number));
    }
    let elements = |what| respool.metric_or_zero(&format!("respool_{what}_elements_total")) as i64;
    let there = || old.cmd(&["DBSIZE"]).int();
    eventually(
        || told + there() + elements("orphaned") == count,
        "each is told, there or counted",
    );
    assert_eq!(new.cmd(&["DBSIZE"]), Value::Int(0));
    assert_eq!(elements("returned"), 0);
}

/// The connections are left for others to the same server.
#[test]
fn an_element_goes_back_to_its_server_by_another_name() {
    let redis = Redis::start(&[]);
    let (_, port) = redis.host_and_port();
    let names = ServerNames::of(&redis);
    let (host, _) = redis.host_and_port();
    let both = format!("{host} {NAME}\n{host} other.example.com\n");
    std::fs::write(names.path(), both).expect("a file can be written");
    let at = |name: &str| {
        Respool::before(&format!("{name}:{port}")).upstream(&format!(
            "hosts_file = \"{}\"\nmove_timeout = \"10m\"",
            names.path().display()
        ))
    };
    let respool = at(NAME).start();
    let mut clients: Vec<Client> = (0..4).map(|_| respool.client()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
    }
    respool.reload(&at("other.example.com"));
    eventually(
        || respool.log_text().matches(":pinned:").count() >= clients.len(),
        "their connections are left",
    );
    let count = clients.len() as i64;
    let mut told = 0;
    for (number, client) in clients.into_iter().enumerate() {
        told += i64::from(leaves_behind_an_element(client, &redis, number));
    }
    eventually(
        || told + redis.cmd(&["DBSIZE"]).int() == count,
        "each is told, or back",
    );
    assert_eq!(
        respool.metric_or_zero("respool_orphaned_elements_total"),
        0.0
    );
}
