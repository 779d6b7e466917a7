//! A server that wants a password, and a respool that has none: clients that bring their own are served, and all others are told
//! what the server tells them.

use crate::harness::{Client, Redis, Respool, RespoolSettings, Value, encode, eventually, words};

/// Starts a server whose default user has a password, and a user `ann`.
fn locked() -> Redis {
    let redis = Redis::start(&[]);
    for words in [
        &["ACL", "SETUSER", "ann", "on", ">pw", "~*", "&*", "+@all"][..],
        &["CONFIG", "SET", "requirepass", "secret"],
    ] {
        assert_eq!(redis.cmd(words), Value::ok());
    }
    redis
}

fn without_secret(redis: &Redis, mode: &str, more: &str) -> Respool {
    Respool::with(redis)
        .upstream(more)
        .section(&format!("[auth]\nmode = \"{mode}\""))
        .start()
}

/// Lists what is said on one connection, in order.
const CONVERSATION: [&str; 25] = [
    "PING",
    "GET k",
    "SUBSCRIBE c",
    "CLIENT LIST",
    "AUTH wrong",
    "PING",
    "AUTH ann wrong",
    "AUTH ann pw",
    "ACL WHOAMI",
    "SELECT 3",
    "SET k v",
    "GET k",
    "AUTH secret",
    "ACL WHOAMI",
    "GET k",
    "WATCH k",
    "MULTI",
    "INCR n",
    "EXEC",
    "BLPOP none 0.01",
    "SELECT 0",
    "GET k",
    "RESET",
    "PING",
    "AUTH ann pw",
];

fn say(client: &mut Client, line: &str) -> Value {
    client.cmd(&words(line))
}

#[test]
fn a_client_that_brings_its_own_password_needs_none_of_respools() {
    let (redis, other) = (locked(), locked());
    for (mode, more) in [
        ("optional", ""),
        ("passthrough", ""),
        ("optional", "max_connections = 3\nshared_connections = 1"),
    ] {
        let respool = without_secret(&redis, mode, more);
        let (mut direct, mut through) = (other.client(), respool.client());
        for line in CONVERSATION {
            let expected = say(&mut direct, line);
            assert_eq!(say(&mut through, line), expected, "{mode}: {line}");
        }
        // In RESP3, with the server's own answer to HELLO.
        let mut ann = respool.client();
        let told = say(&mut ann, "HELLO 3 AUTH ann pw");
        assert!(matches!(told, Value::Map(_)), "{told:?}");
        assert_eq!(say(&mut ann, "ACL WHOAMI"), Value::bulk("ann"));
        for redis in [&redis, &other] {
            assert_eq!(redis.cmd(&["FLUSHALL"]), Value::ok());
        }
    }
}

#[test]
fn two_users_take_turns_on_the_connections_and_neither_is_the_other() {
    let redis = locked();
    let respool = without_secret(
        &redis,
        "optional",
        "max_connections = 3\nshared_connections = 1\nborrow_timeout = \"20s\"",
    );
    let (mut ann, mut default) = (respool.client(), respool.client());
    assert_eq!(say(&mut ann, "AUTH ann pw"), Value::ok());
    assert_eq!(say(&mut default, "AUTH secret"), Value::ok());
    for round in 0..20 {
        for (client, name) in [(&mut ann, "ann"), (&mut default, "default")] {
            assert_eq!(say(client, "ACL WHOAMI"), Value::bulk(name));
            assert_eq!(
                say(client, &format!("SELECT {round}")).is_error(),
                round > 15
            );
            assert_eq!(say(client, "MULTI"), Value::ok());
            assert_eq!(say(client, "ACL WHOAMI"), Value::simple("QUEUED"));
            let told = say(client, "EXEC");
            assert_eq!(told, Value::Array(vec![Value::bulk(name)]));
            let stranger = say(&mut respool.client(), "PING");
            assert_eq!(stranger, Value::error("NOAUTH Authentication required."));
        }
    }
}

#[test]
fn its_subscribers_and_blocked_clients_are_served_too() {
    let redis = locked();
    let respool = without_secret(&redis, "passthrough", "");
    let (mut subscriber, mut blocked) = (respool.client(), respool.client());
    for client in [&mut subscriber, &mut blocked] {
        assert_eq!(say(client, "AUTH ann pw"), Value::ok());
    }
    assert_eq!(
        say(&mut subscriber, "SUBSCRIBE c").items()[2],
        Value::Int(1)
    );
    assert_eq!(redis.cmd(&["PUBLISH", "c", "m"]), Value::Int(1));
    assert_eq!(subscriber.reply().items()[2], Value::bulk("m"));
    blocked.send(encode(&["BLPOP", "list", "0"]));
    eventually(
        || redis.info_number("blocked_clients") == 1,
        "somebody is blocked",
    );
    redis.cmd(&["RPUSH", "list", "x"]);
    assert_eq!(blocked.reply().items()[1], Value::bulk("x"));
}

#[test]
fn the_server_counts_as_up_and_the_operator_is_told_what_is_missing() {
    let redis = locked();
    let respool = without_secret(&redis, "optional", "health_interval = \"100ms\"");
    eventually(
        || respool.metric("respool_server_up") == 1.0,
        "the server answers",
    );
    eventually(
        || {
            respool
                .status()
                .contains("the server wants a password and respool has none")
        },
        "the remedy is shown",
    );
    let mut ann = respool.client();
    assert_eq!(say(&mut ann, "AUTH ann pw"), Value::ok());
    redis.kill_hard();
    eventually(|| respool.metric("respool_server_up") == 0.0, "it is gone");
    redis.restart();
    for words in [
        &["ACL", "SETUSER", "ann", "on", ">pw", "~*", "&*", "+@all"][..],
        &["CONFIG", "SET", "requirepass", "secret"],
    ] {
        assert_eq!(redis.cmd(words), Value::ok());
    }
    eventually(
        || {
            let told = respool.client().try_cmd(&["AUTH", "ann", "pw"]);
            told == Some(Value::ok())
        },
        "clients are served when it is back",
    );
}

#[test]
fn nobody_is_told_that_a_server_cannot_be_reached_that_refuses_respools_login() {
    let redis = locked();
    let respool = Respool::with(&redis)
        .upstream(
            "password = \"wrong\"\nqueue = { timeout = \"100ms\" }\nborrow_timeout = \"100ms\"",
        )
        .start();
    let told = "LOADING respool: the server refuses respool, command not sent";
    for line in [
        "GET k",
        "WATCH k",
        "SUBSCRIBE c",
        "BLPOP list 0",
        "AUTH ann pw",
    ] {
        let mut client = respool.client();
        assert_eq!(say(&mut client, line), Value::error(told), "{line}");
    }
}

/// A reload gives respool this login.
const LOGIN_OF_OWN: &str = "username = \"own\"\npassword = \"pw\"";

fn with_login(redis: &Redis, login: &str) -> RespoolSettings {
    Respool::with(redis)
        .top("workers = 1")
        .upstream(&format!(
            "max_connections = 3\nshared_connections = 1\n{login}"
        ))
        .section("[auth]\nmode = \"passthrough\"")
}

/// A reload gives respool a user of its own, who may do more than those who have not authenticated.
#[test]
fn who_waits_for_a_connection_while_respool_gets_a_user_does_not_run_as_it() {
    let redis = Redis::start(&[]);
    for user in [
        "ACL SETUSER own on >pw ~* &* +@all",
        "ACL SETUSER default on nopass ~* &* +@all -keys",
    ] {
        assert_eq!(redis.cmd(&words(user)), Value::ok());
    }
    let respool = with_login(&redis, "").start();
    let mut holders: Vec<Client> = (0..2).map(|_| respool.client()).collect();
    for holder in &mut holders {
        assert_eq!(say(holder, "WATCH k"), Value::ok());
    }
    let mut waiting = Vec::new();
    for line in ["MULTI", "WATCH q", "CLIENT TRACKING ON", "MONITOR"] {
        let mut client = respool.client();
        assert!(say(&mut client, "KEYS *").text().starts_with("NOPERM"));
        client.send(encode(&words(line)));
        waiting.push((line, client));
    }
    let pins = || respool.metric("respool_upstream_waiting_pins");
    eventually(|| pins() == 4.0, "each waits for a connection");
    respool.reload(&with_login(&redis, LOGIN_OF_OWN));
    drop(holders);
    for (line, client) in &mut waiting {
        let told = client.read_to_end();
        assert!(told.is_empty(), "{line}: {told:?}");
    }
    let reply = say(&mut respool.client(), "KEYS *").text();
    assert!(reply.starts_with("NOPERM"), "{reply}");
}

#[test]
fn who_is_about_to_authenticate_while_respool_gets_a_user_stays() {
    let redis = Redis::start(&[]);
    let own = words("ACL SETUSER own on >pw ~* &* +@all");
    assert_eq!(redis.cmd(&own), Value::ok());
    let respool = with_login(&redis, "").start();
    let mut clients: Vec<Client> = (0..2).map(|_| respool.client()).collect();
    clients.iter_mut().for_each(Client::ping);
    redis.pause();
    for (client, line) in clients.iter_mut().zip(["AUTH own pw", "SELECT 5"]) {
        let before = respool.metric("respool_client_commands_total");
        client.send(encode(&words(line)));
        let asked = || respool.metric("respool_client_commands_total");
        eventually(|| asked() > before, "it waits for the server");
    }
    respool.reload(&with_login(&redis, LOGIN_OF_OWN));
    redis.resume();
    for client in &mut clients {
        assert_eq!(client.reply(), Value::ok());
        client.ping();
    }
}
