//! A server that is there and serves nobody for now says so itself: busy with a script, loading, a replica without its primary. Its
//! own text is what clients get, also of what respool answers in its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{
    Client, Redis, Respool, ScriptedAct, ScriptedServer, Value, encode, eventually, words,
};

/// Lists what respool answers itself, and what it would be mistaken for.
const ANSWERED_HERE: [&str; 33] = [
    "SELECT 1",
    "SELECT x",
    "SELECT",
    "READONLY",
    "READWRITE",
    "ASKING",
    "HELLO",
    "HELLO 3",
    "HELLO 9",
    "RESET",
    "QUIT",
    "CLIENT ID",
    "CLIENT GETNAME",
    "CLIENT SETNAME x",
    "CLIENT SETNAME",
    "CLIENT SETINFO lib-name x",
    "CLIENT INFO",
    "CLIENT LIST",
    "CLIENT LIST x",
    "CLIENT KILL ID 987654321",
    "CLIENT KILL USER nobody",
    "CLIENT UNBLOCK 987654321",
    "CLIENT NO-EVICT on",
    "CLIENT NO-TOUCH off",
    "CLIENT CAPA redirect",
    "CLIENT IMPORT-SOURCE on",
    "CLIENT REPLY ON",
    "CLIENT REPLY x",
    "CLIENT NOSUCH",
    "PUBSUB NUMSUB c",
    "SUBSCRIBE c",
    "UNSUBSCRIBE c",
    "PUNSUBSCRIBE",
];

/// Tells what two answers are compared by: an error's text, and the kind of anything else, which may hold a number of its own.
fn said(answer: &Value) -> String {
    match answer.is_error() {
        true => answer.text(),
        false => "an answer".to_owned(),
    }
}

/// Tells what a client is told behind a command that the busy server refuses: whoever answers it has heard so just now.
fn told(client: &mut Client, line: &[&str]) -> Value {
    client.cmd(&["GET", "k"]);
    client.send([encode(&["GET", "k"]), encode(line)].concat());
    let refusal = client.reply();
    assert!(refusal.text().starts_with("BUSY"), "{refusal:?}");
    client.reply()
}

/// Starts a script that does not end by itself.
fn start_script(redis: &Redis) -> Client {
    assert_eq!(
        redis.cmd(&["CONFIG", "SET", "lua-time-limit", "5"]),
        Value::ok()
    );
    let mut client = redis.client();
    client.send(encode(&["EVAL", "while true do end", "0"]));
    let is_busy = || redis.client().cmd(&["GET", "k"]).text().starts_with("BUSY");
    eventually(is_busy, "the script is over its time");
    client
}

#[test]
fn busy_with_a_script_it_is_busy_for_what_respool_answers_itself() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    // Its channel is subscribed to already: nobody else's SUBSCRIBE needs the server.
    let mut subscriber = respool.client();
    assert!(!subscriber.cmd(&["SUBSCRIBE", "c"]).is_error());
    let mut direct_subscriber = redis.client();
    direct_subscriber.cmd(&["SUBSCRIBE", "c"]);
    let script = start_script(&redis);
    for line in ANSWERED_HERE {
        let line = words(line);
        let direct = said(&redis.client().cmd(&line));
        let through = said(&told(&mut respool.client(), &line));
        assert_eq!(through, direct, "{line:?}");
    }
    let direct = direct_subscriber.cmd(&["PING"]);
    eventually(
        || {
            respool.client().cmd(&["GET", "k"]);
            subscriber.cmd(&["PING"]) == direct
        },
        "a subscriber's PING is refused, too",
    );
    // When it is over nobody is told that it is not.
    assert_eq!(redis.cmd(&["SCRIPT", "KILL"]), Value::ok());
    drop(script);
    eventually(
        || redis.client().cmd(&["GET", "k"]).is_null(),
        "the script is over",
    );
    for line in ["SELECT 1", "CLIENT SETNAME x", "SUBSCRIBE c"] {
        let answer = respool.client().cmd(&words(line));
        assert!(!answer.is_error(), "{line}: {answer:?}");
    }
    assert!(!subscriber.cmd(&["PING"]).is_error());
}

#[test]
fn who_is_refused_by_a_busy_server_is_as_it_was() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut client = respool.client();
    assert_eq!(client.cmd(&["CLIENT", "SETNAME", "before"]), Value::ok());
    let script = start_script(&redis);
    let mut direct = redis.client();
    for line in ["SELECT 1", "CLIENT SETNAME after"] {
        let direct = said(&direct.cmd(&words(line)));
        assert_eq!(said(&told(&mut client, &words(line))), direct, "{line}");
    }
    assert_eq!(redis.cmd(&["SCRIPT", "KILL"]), Value::ok());
    drop(script);
    eventually(
        || !direct.cmd(&["SET", "k", "v"]).is_error(),
        "the script is over",
    );
    // What has been taken in database 1 stands there for both, and for neither where it was refused.
    assert_eq!(client.cmd(&["GET", "k"]), direct.cmd(&["GET", "k"]));
    let name = direct.cmd(&["CLIENT", "GETNAME"]);
    let expected = match name.is_null() {
        true => "before".to_owned(),
        false => name.text(),
    };
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]).text(), expected);
}

/// Makes the server a replica without its primary, which may not serve stale data. Returns what it answers to a GET from then on.
fn loses_its_primary(redis: &Redis) -> Value {
    for line in [
        "CONFIG SET replica-serve-stale-data no",
        "REPLICAOF 127.0.0.1 1",
    ] {
        assert_eq!(redis.cmd(&words(line)), Value::ok());
    }
    let direct = redis.cmd(&["GET", "k"]);
    assert!(direct.text().starts_with("MASTERDOWN"), "{direct:?}");
    direct
}

#[test]
fn a_replica_without_its_primary_says_so_where_respool_is_not_connected() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("queue = { timeout = \"300ms\", max_commands = 100 }")
        .start();
    let mut client = respool.client();
    client.ping();
    let direct = loses_its_primary(&redis);
    // New connections of respool's are told so, too.
    let killed = redis.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert!(killed.int() > 0);
    let told = || respool.client().cmd(&["GET", "k"]);
    eventually(|| told() == direct, "the server's own text");
    for _ in 0..5 {
        assert_eq!(told(), direct);
    }
}

#[test]
fn a_server_that_loads_says_so_where_respool_is_not_connected() {
    const LOADING: &str = "-LOADING Redis is loading the dataset in memory\r\n";
    let is_loading = Arc::new(AtomicBool::new(true));
    let says = Arc::clone(&is_loading);
    let server = ScriptedServer::start(move |words| match words[0].as_str() {
        "hello" | "client" | "command" | "info" => ScriptedAct::Usual,
        _ if says.load(Ordering::SeqCst) => ScriptedAct::Say(LOADING),
        _ => ScriptedAct::Usual,
    });
    let respool = Respool::before(server.addr())
        .upstream("queue = { timeout = \"300ms\", max_commands = 100 }")
        .start();
    let mut client = respool.client();
    let told = |client: &mut Client| {
        client.send(encode(&["GET", "k"]));
        client.reply_bytes()
    };
    eventually(
        || told(&mut client) == LOADING.as_bytes(),
        "the server's own text",
    );
    // Nobody is disconnected for it, and what waits for a connection of its own hears the same.
    assert_eq!(
        client.cmd(&["BLPOP", "q", "0"]).text(),
        LOADING[1..].trim_end()
    );
    assert_eq!(told(&mut client), LOADING.as_bytes());
    is_loading.store(false, Ordering::SeqCst);
    eventually(|| told(&mut client) == b"+OK\r\n", "it has loaded");
}

#[test]
fn a_replica_without_its_primary_says_so_to_who_waits_for_a_connection_of_its_own() {
    let redis = Redis::start(&[]);
    for line in ["MULTI", "WATCH k", "SUBSCRIBE c", "MONITOR"] {
        // With connections of its own still up, respool is told so only where it opens another.
        let respool = Respool::with(&redis)
            .top("workers = 1")
            .upstream("borrow_timeout = \"2s\"")
            .upstream("queue = { timeout = \"2s\", max_commands = 100 }")
            .upstream("reconnect = { initial = \"5s\", max = \"5s\" }")
            .start();
        let mut client = respool.client();
        client.ping();
        let direct = loses_its_primary(&redis);
        // Redis 6.2 takes a new connection all the same: it is lent, and answers as directly.
        let answers = [direct, redis.client().cmd(&words(line))];
        let told = client.cmd(&words(line));
        assert!(answers.contains(&told), "{line}: {told:?}");
        assert_eq!(redis.cmd(&["REPLICAOF", "NO", "ONE"]), Value::ok());
        // What was true a moment ago is told to nobody who asks now.
        let told = respool.client().cmd(&words(line));
        assert!(!told.is_error(), "{line}: {told:?}");
    }
}
