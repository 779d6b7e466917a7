//! Connections that the server has closed, and another process holds open: the session of a debugger is a child of the server, which
//! has every connection that was there when it was forked, and up to Redis 7.0 what saves in the background is one too.

use std::io::Write;

use crate::harness::{
    Client, NetworkPipe, Redis, Respool, Value, encode, eventually, needs, watch_sockets_beyond,
};

/// Brings the client to the prompt of the debugger, if a connection was lent to it.
fn debugging(mut client: Client) -> Option<Client> {
    if client.cmd(&["SCRIPT", "DEBUG", "YES"]) != Value::ok() {
        return None;
    }
    client.send(encode(&[
        "EVAL",
        "return redis.call('INCR', KEYS[1])",
        "1",
        "k",
    ]));
    assert!(client.reply_bytes().starts_with(b"*"));
    Some(client)
}

fn with_two_pins(redis: &Redis, more: &str) -> Respool {
    Respool::with(redis)
        .top("workers = 1")
        .upstream(&format!(
            "max_connections = 3\nshared_connections = 1\n{more}"
        ))
        .start()
}

/// Has both connections opened that may be lent: what is opened after the fork is not the child's.
fn open_both(respool: &Respool) {
    for client in &mut [respool.client(), respool.client()] {
        assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
    }
}

/// Tells what the server has of respool's connections.
fn connections(redis: &Redis) -> usize {
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    list.matches(" name=respool:").count()
}

#[test]
fn a_debugger_that_idles_keeps_nobody_from_being_lent_a_connection() {
    let redis = Redis::start(&[]);
    let respool = with_two_pins(&redis, "borrow_timeout = \"20s\"");
    for idle in [redis.client(), respool.client()] {
        open_both(&respool);
        let idle = debugging(idle).expect("nobody else has a connection");
        for _ in 0..3 {
            // Its connection is closed as it leaves, while the other debugger's process has it.
            let left = debugging(respool.client());
            assert!(left.is_some(), "no connection is lent any more");
            assert!(connections(&redis) <= 3);
        }
        let mut client = respool.client();
        assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
        client.ping();
        drop(idle);
    }
    assert_eq!(redis.cmd(&["EXISTS", "k"]), Value::Int(0));
}

/// Starts a respool whose own user may not list clients, and the file of its password.
fn that_may_not_list(redis: &Redis, upstream: &str) -> (Respool, tempfile::NamedTempFile) {
    let user = "ACL SETUSER own on >secret ~* &* +@all -client|list";
    let user: Vec<&str> = user.split(' ').collect();
    assert_eq!(redis.cmd(&user), Value::ok());
    let mut password = tempfile::NamedTempFile::new().expect("a file");
    password.write_all(b"secret").expect("it is written");
    let path = password.path();
    let own = format!("{upstream}\nusername = \"own\"\npassword_file = {path:?}");
    (with_two_pins(redis, &own), password)
}

#[test]
fn whoever_may_not_list_clients_waits_for_the_debugger_to_leave() {
    needs!("ACL SETUSER somebody -client|list");
    let redis = Redis::start(&[]);
    let (respool, _password) = that_may_not_list(&redis, "borrow_timeout = \"4s\"");
    open_both(&respool);
    let idle = debugging(redis.client()).expect("directly");
    for _ in 0..2 {
        assert!(debugging(respool.client()).is_some());
    }
    let mut client = respool.client();
    assert!(client.cmd(&["WATCH", "k"]).is_error());
    assert!(connections(&redis) <= 3);
    drop(idle);
    eventually(
        || client.cmd(&["WATCH", "k"]) == Value::ok(),
        "their connections are closed, and others lent",
    );
}

/// Lets the server save in the background until it is dropped.
struct BackgroundSave<'a>(&'a Redis);

impl<'a> BackgroundSave<'a> {
    #[track_caller]
    fn start(redis: &'a Redis) -> Self {
        // A second for each key: longer than anything here may take.
        for key in 0..400 {
            assert_eq!(redis.cmd(&["SET", &format!("k{key}"), "v"]), Value::ok());
        }
        let slowly = ["CONFIG", "SET", "rdb-key-save-delay", "1000000"];
        assert_eq!(redis.cmd(&slowly), Value::ok());
        let saving = Self(redis);
        assert!(redis.cmd(&["BGSAVE"]).text().starts_with("Background"));
        eventually(|| saving.goes_on(), "it saves");
        saving
    }

    fn goes_on(&self) -> bool {
        self.0.info("rdb_bgsave_in_progress") == "1"
    }
}

impl Drop for BackgroundSave<'_> {
    fn drop(&mut self) {
        // The server ends what saves keys that are no more.
        self.0.cmd(&["FLUSHALL"]);
    }
}

/// Lets the server close every connection but the one that says so.
#[track_caller]
fn kill_all(redis: &Redis) {
    assert!(redis.cmd(&["CLIENT", "KILL", "TYPE", "normal"]).int() > 0);
}

#[track_caller]
fn eventually_serves(respool: &Respool) {
    eventually(
        || respool.client().try_cmd(&["GET", "k1"]) == Some(Value::bulk("v")),
        "it serves again",
    );
}

#[test]
fn a_server_that_saves_is_connected_to_again() {
    for workers in [1, 2] {
        let redis = Redis::start(&[]);
        let respool = Respool::with(&redis)
            .top(&format!("workers = {workers}"))
            .upstream(&format!(
                "max_connections = {}\nshared_connections = {workers}\nreply_timeout = \"500ms\"\nping_interval = \"100ms\"",
                workers + 2
            ))
            .start();
        eventually(|| connections(&redis) >= workers, "each worker has one");
        let saving = BackgroundSave::start(&redis);
        for _ in 0..2 {
            kill_all(&redis);
            eventually_serves(&respool);
            eventually(|| connections(&redis) >= workers, "each worker has one");
            // What the server has closed counts no more: both that may be lent are.
            let mut lent = [respool.client(), respool.client()];
            for client in &mut lent {
                eventually(
                    || client.cmd(&["WATCH", "k"]) == Value::ok(),
                    "it is lent a connection",
                );
            }
            assert!(connections(&redis) <= workers + 2);
        }
        assert!(saving.goes_on());
    }
}

#[test]
fn a_worker_that_has_no_connection_left_is_helped_by_another() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 2")
        .upstream(
            "max_connections = 3\nshared_connections = 2\nreply_timeout = \"500ms\"\nping_interval = \"100ms\"",
        )
        .start();
    let mut lent = respool.client();
    assert_eq!(lent.cmd(&["WATCH", "k"]), Value::ok());
    eventually(|| connections(&redis) == 3, "all that may be");
    let saving = BackgroundSave::start(&redis);
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    for name in [":shared:2 ", ":shared:3 "] {
        let line = list.lines().find(|line| line.contains(name));
        let line = line.unwrap_or_else(|| panic!("{name} in {list}"));
        let id = line["id=".len()..].split(' ').next().expect("a number");
        assert_eq!(redis.cmd(&["CLIENT", "KILL", "ID", id]).int(), 1);
        eventually(|| connections(&redis) == 3, "another in its place");
    }
    assert_eq!(lent.cmd(&["UNWATCH"]), Value::ok());
    eventually_serves(&respool);
    assert!(saving.goes_on());
}

#[test]
fn whoever_may_not_list_clients_is_served_by_what_may_be_lent() {
    needs!("ACL SETUSER somebody -client|list");
    let redis = Redis::start(&[]);
    let (respool, _password) = that_may_not_list(
        &redis,
        "reply_timeout = \"500ms\"\nping_interval = \"100ms\"",
    );
    respool.client().ping();
    let saving = BackgroundSave::start(&redis);
    kill_all(&redis);
    eventually_serves(&respool);
    assert!(saving.goes_on());
}

/// Another server at the same address knows nothing of a connection.
#[test]
fn what_one_server_holds_counts_whatever_another_says() {
    let (hangs, other) = (Redis::start(&[]), Redis::start(&[]));
    // Their numbers differ.
    for _ in 0..30 {
        other.client().ping();
    }
    let pipe = NetworkPipe::to(other.server_addr());
    pipe.end_apart();
    let respool = Respool::before(pipe.addr())
        .top("workers = 1")
        .upstream(
            "max_connections = 3\nshared_connections = 1\nreply_timeout = \"500ms\"\nborrow_timeout = \"1s\"",
        )
        .start();
    let mut client = respool.client();
    client.ping();
    let port = pipe.addr().rsplit(':').next().expect("a port");
    let watch = watch_sockets_beyond(0, port.parse().expect("a number"));
    pipe.turn_to(hangs.server_addr());
    let mut lent = [respool.client(), respool.client()];
    for client in &mut lent {
        assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
    }
    assert_eq!((connections(&hangs), connections(&other)), (2, 1));
    pipe.turn_to(other.server_addr());
    hangs.pause();
    for client in &mut lent {
        client.send(encode(&["EXISTS", "k"]));
        client.expect_end();
    }
    // By then the other one might have been asked.
    respool.eventually_logs("count still");
    client.ping();
    assert!(client.cmd(&["WATCH", "k"]).is_error(), "both are counted");
    let most = watch.most();
    hangs.resume();
    assert!(most <= 3, "{most} connections");
    eventually(
        || client.cmd(&["WATCH", "k"]) == Value::ok(),
        "it has closed them, and others are lent",
    );
}
