//! A pause that is over without respool's having been told, and what ends one: nobody waits longer than the server has him wait.

use super::script::take_every_shared_connection;
use crate::harness::{
    Client, NetworkPipe, Redis, Respool, ScriptedAct, ScriptedServer, Value, encode, encode_line,
    eventually,
};

/// Is longer than any test waits.
const LONG: &str = "600000";

fn pause(through: &mut Client) {
    let pause = ["CLIENT", "PAUSE", LONG, "WRITE"];
    assert_eq!(through.cmd(&pause), Value::ok());
}

/// Connects clients whose calls wait at the server, or in line for it.
fn blocked(respool: &Respool, calls: &[&str]) -> Vec<Client> {
    let call = |line: &&str| {
        let mut client = respool.client();
        client.send(encode_line(line));
        client
    };
    let clients = calls.iter().map(call).collect();
    eventually(
        || respool.metric("respool_blocked_clients") == calls.len() as f64,
        "they wait",
    );
    clients
}

/// Tells whether so many calls wait at the server, or are put off there, beside what respool finds out by itself whether they are.
fn are_at_the_server(redis: &Redis, count: usize) -> bool {
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    let waits = |line: &&str| line.contains(" flags=b") && !line.contains(" cmd=pfcount");
    list.lines().filter(waits).count() == count
}

fn wait_at_the_server(redis: &Redis, count: usize) {
    eventually(
        || are_at_the_server(redis, count),
        &format!("{count} calls wait at the server"),
    );
}

/// Checks that what somebody has pushed is there for whoever comes, and pends for nobody.
fn nothing_is_taken(redis: &Redis) {
    redis.cmd(&["RPUSH", "from", "x"]);
    redis.cmd(&["XADD", "s", "1-1", "f", "v"]);
    assert_eq!(redis.cmd(&["LLEN", "from"]), Value::Int(1));
    assert_eq!(redis.cmd(&["EXISTS", "to"]), Value::Int(0));
    let pending = redis.cmd(&["XPENDING", "s", "g"]);
    assert_eq!(pending.items()[0], Value::Int(0));
}

const TAKE: [&str; 2] = [
    "BLMOVE from to LEFT LEFT 0",
    "XREADGROUP GROUP g c BLOCK 0 STREAMS s >",
];

#[test]
fn calls_end_with_their_clients_where_a_pause_was_ended_at_the_server() {
    for comes_first in [true, false] {
        let redis = Redis::start(&[]);
        let respool = Respool::start(&redis);
        redis.cmd(&["XGROUP", "CREATE", "s", "g", "$", "MKSTREAM"]);
        let mut other = respool.client();
        let mut clients = Vec::new();
        if comes_first {
            clients = blocked(&respool, &TAKE);
            wait_at_the_server(&redis, 2);
        }
        pause(&mut other);
        assert_eq!(redis.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
        if !comes_first {
            clients = blocked(&respool, &TAKE);
            wait_at_the_server(&redis, 2);
        }
        drop(clients);
        wait_at_the_server(&redis, 0);
        nothing_is_taken(&redis);
    }
}

#[test]
fn calls_end_with_their_clients_where_the_server_was_started_anew() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("health_interval = \"100ms\"")
        .start();
    let mut other = respool.client();
    pause(&mut other);
    redis.kill_hard();
    redis.restart();
    redis.cmd(&["XGROUP", "CREATE", "s", "g", "$", "MKSTREAM"]);
    eventually(
        || respool.metric("respool_server_up") == 1.0,
        "the server is seen again",
    );
    let clients = blocked(&respool, &TAKE);
    wait_at_the_server(&redis, 2);
    drop(clients);
    wait_at_the_server(&redis, 0);
    nothing_is_taken(&redis);
}

#[test]
fn calls_that_waited_before_a_pause_end_with_their_clients_amid_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    redis.cmd(&["XGROUP", "CREATE", "s", "g", "$", "MKSTREAM"]);
    let clients = blocked(&respool, &TAKE);
    wait_at_the_server(&redis, 2);
    let mut other = respool.client();
    pause(&mut other);
    drop(clients);
    wait_at_the_server(&redis, 0);
    assert_eq!(other.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    nothing_is_taken(&redis);
}

#[test]
fn what_ends_a_pause_is_not_held_up_by_blocked_clients() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 1")
        .start();
    let mut other = respool.client();
    // As many as can be lent: with more there is a try of theirs now and then, which a pause would put off on the shared connection.
    let calls: Vec<String> = (0..3)
        .map(|number| format!("BLMOVE from{number} to LEFT LEFT 0"))
        .collect();
    let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
    let mut clients = blocked(&respool, &calls);
    wait_at_the_server(&redis, 3);
    pause(&mut other);
    assert_eq!(other.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    for (number, client) in clients.iter_mut().enumerate() {
        redis.cmd(&["RPUSH", &format!("from{number}"), "x"]);
        assert_eq!(client.reply(), Value::bulk("x"));
    }
}

#[test]
fn who_waited_before_a_pause_gives_way_to_others_amid_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 1")
        .start();
    let calls = ["BLMOVE from0 to LEFT LEFT 0", "BLMOVE from1 to LEFT LEFT 0"];
    let mut clients = blocked(&respool, &calls);
    wait_at_the_server(&redis, 2);
    // Ended once it is known that it waits, and so that those do which were called before it.
    let mut other = respool.client();
    let call = ["BLMOVE", "from2", "to", "LEFT", "LEFT", "0.3"];
    assert!(other.cmd(&call).is_null());
    pause(&mut other);
    let mut watching = [other, respool.client(), respool.client()];
    for client in &mut watching {
        assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
    }
    assert_eq!(redis.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    drop(watching);
    for (number, client) in clients.iter_mut().enumerate() {
        redis.cmd(&["RPUSH", &format!("from{number}"), "x"]);
        assert_eq!(client.reply(), Value::bulk("x"));
    }
}

#[test]
fn a_call_that_reads_is_answered_while_writes_are_paused() {
    let redis = Redis::start(&[]);
    redis.cmd(&["XADD", "s", "1-1", "f", "v"]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 5\nshared_connections = 2")
        .start();
    let mut other = respool.client();
    pause(&mut other);
    // Its try is put off, on one of the two shared connections.
    let taker = blocked(&respool, &["BLMOVE from to LEFT LEFT 0"]);
    let mut reader = respool.client();
    let entries = reader.cmd(&["XREAD", "BLOCK", "0", "STREAMS", "s", "0"]);
    assert!(!entries.is_error() && !entries.is_null(), "{entries:?}");
    assert_eq!(redis.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    drop(taker);
}

/// Lets the client send its last call to a server that has stopped, which goes on when the client's grace is long over.
fn send_to_a_slow_server(redis: &Redis, respool: &Respool, client: &mut Client, call: &[&str]) {
    // Each ends as soon as its grace is over, for it waits.
    let waits = ["one", "other"].map(|stream| {
        let mut client = respool.client();
        client.send(encode(&["XREAD", "BLOCK", "0", "STREAMS", stream, "$"]));
        client
    });
    wait_at_the_server(redis, 2);
    redis.pause();
    client.send(encode(call));
    client.finish_sending();
    for mut client in waits {
        client.finish_sending();
        assert!(client.read_to_end().is_empty());
    }
    redis.resume();
}

#[test]
fn who_has_finished_sending_is_answered_however_slow_the_server_is() {
    for believes_a_pause in [false, true] {
        let redis = Redis::start(&[]);
        let respool = Respool::with(&redis)
            .limits("half_closed_grace = \"50ms\"")
            .start();
        if believes_a_pause {
            pause(&mut respool.client());
            assert_eq!(redis.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
        }
        for state in [&["PING"][..], &["WATCH", "k"]] {
            for call in [
                &["BLMOVE", "from", "to", "LEFT", "LEFT", "0"][..],
                &["BLPOP", "from", "0"],
                &["NO.SUCH", "x"],
            ] {
                redis.cmd(&["RPUSH", "from", "x"]);
                let mut client = respool.client();
                client.cmd(state);
                let mut direct = redis.client();
                direct.send(encode(call));
                let answer = direct.reply();
                redis.cmd(&["DEL", "from"]);
                redis.cmd(&["RPUSH", "from", "x"]);
                send_to_a_slow_server(&redis, &respool, &mut client, call);
                assert_eq!(client.reply(), answer, "{state:?} {call:?}");
                assert_eq!(client.try_reply(), None);
            }
        }
    }
}

#[test]
fn no_call_is_unblocked_that_a_pause_of_somebody_else_puts_off() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    let mut watches = respool.client();
    assert_eq!(watches.cmd(&["WATCH", "k"]), Value::ok());
    // One call for the three.
    let mut clients = blocked(&respool, &["BLPOP a 0", "BLPOP b 0", "BLPOP c 0"]);
    wait_at_the_server(&redis, 1);
    assert_eq!(redis.cmd(&["CLIENT", "PAUSE", LONG, "WRITE"]), Value::ok());
    watches.send(encode(&["BLPOP", "d", "0"]));
    wait_at_the_server(&redis, 2);
    drop(watches);
    // Each that leaves has the call for the others issued anew, and that is put off.
    while let Some(client) = clients.pop() {
        drop(client);
        eventually(
            || respool.metric("respool_blocked_clients") == clients.len() as f64,
            "it has left",
        );
    }
    wait_at_the_server(&redis, 0);
    assert_eq!(redis.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    for key in ["a", "b", "c", "d"] {
        redis.cmd(&["RPUSH", key, "x"]);
        assert_eq!(redis.cmd(&["LLEN", key]), Value::Int(1));
    }
}

/// Starts a server that says it is a later one than that in which a pause is.
fn a_later_server() -> ScriptedServer {
    ScriptedServer::start(|words| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["hello"] | ["hello", "2"] => ScriptedAct::Say(
                "*8\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n8.2.3\r\n$2\r\nid\r\n:7\r\n$4\r\nrole\r\n$6\r\nmaster\r\n",
            ),
            ["hello", "3", ..] => ScriptedAct::Say(
                "%4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n8.2.3\r\n$2\r\nid\r\n:7\r\n$4\r\nrole\r\n$6\r\nmaster\r\n",
            ),
            _ => ScriptedAct::Usual,
        }
    })
}

#[test]
fn a_call_is_ended_as_the_server_bears_it_at_which_it_is() {
    let redis = Redis::start(&[]);
    let later = a_later_server();
    let pipe = NetworkPipe::to(redis.addr().to_owned());
    let respool = Respool::before(pipe.addr()).top("workers = 1").start();
    let mut watches = respool.client();
    assert_eq!(watches.cmd(&["WATCH", "k"]), Value::ok());
    let mut clients = blocked(&respool, &["BLPOP a 0", "BLPOP b 0"]);
    wait_at_the_server(&redis, 1);
    assert_eq!(redis.cmd(&["CLIENT", "PAUSE", LONG, "WRITE"]), Value::ok());
    watches.send(encode(&["BLPOP", "d", "0"]));
    wait_at_the_server(&redis, 2);
    pipe.turn_to(later.addr().to_owned());
    let mut others = Vec::new();
    while later.connections() == 0 {
        let mut other = respool.client();
        assert_eq!(other.cmd(&["WATCH", "k"]), Value::ok());
        others.push(other);
    }
    drop(watches);
    while let Some(client) = clients.pop() {
        drop(client);
        eventually(
            || respool.metric("respool_blocked_clients") == clients.len() as f64,
            "it has left",
        );
    }
    wait_at_the_server(&redis, 0);
    assert_eq!(redis.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
}

#[test]
fn who_stays_outlasts_a_pause_of_somebody_else_though_others_leave() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 1\nreply_timeout = \"500ms\"")
        .start();
    let calls = "abcdefgh".chars().map(|key| format!("BLPOP {key} 0"));
    let calls: Vec<String> = calls.collect();
    let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
    let mut clients = blocked(&respool, &calls);
    wait_at_the_server(&redis, 1);
    assert_eq!(redis.cmd(&["CLIENT", "PAUSE", LONG, "WRITE"]), Value::ok());
    // The first has the call issued anew, which is put off.
    while clients.len() > 2 {
        drop(clients.pop());
        eventually(
            || respool.metric("respool_blocked_clients") == clients.len() as f64,
            "it has left",
        );
        respool.client().ping();
    }
    // Longer than a call may take to end: a read is answered every time, through a client that comes and goes.
    let began = std::time::Instant::now();
    eventually(
        || {
            respool.client().ping();
            began.elapsed() > std::time::Duration::from_millis(1500)
        },
        "three times the timeout has passed",
    );
    assert_eq!(redis.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    for (client, key) in clients.iter_mut().zip(["a", "b"]) {
        redis.cmd(&["RPUSH", key, "x"]);
        assert_eq!(client.reply().items()[1], Value::bulk("x"));
    }
}

#[test]
fn a_pause_is_ended_from_a_database_in_which_no_connection_is() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 2")
        .start();
    let mut holders = [respool.client(), respool.client()];
    for holder in &mut holders {
        assert_eq!(holder.cmd(&["WATCH", "k"]), Value::ok());
    }
    let _others = take_every_shared_connection(&redis, &respool, 2);
    let mut client = respool.client();
    pause(&mut client);
    assert_eq!(client.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    assert_eq!(redis.cmd(&["SET", "k", "v"]), Value::ok());
}

#[test]
fn whose_time_is_over_amid_a_pause_is_told_so() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 1").start();
    // One call for the first two: what it is issued anew as, for the one that stays, is put off.
    let calls = [("BLPOP d 0", 1), ("BLPOP a 1", 1), ("BZPOPMIN b 1.2", 2)];
    let mut clients = Vec::new();
    for (call, at_the_server) in calls {
        let mut client = respool.client();
        client.send(encode_line(call));
        clients.push(client);
        eventually(
            || respool.metric("respool_blocked_clients") == clients.len() as f64,
            "it waits",
        );
        // One by one, or they would take turns.
        wait_at_the_server(&redis, at_the_server);
    }
    // Ended once it is known that it waits, and so that those do which were called before it.
    assert!(respool.client().cmd(&["BZPOPMAX", "w", "0.2"]).is_null());
    wait_at_the_server(&redis, 2);
    pause(&mut respool.client());
    for client in &mut clients[1..] {
        assert!(client.reply().is_null());
    }
    assert_eq!(redis.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
    redis.cmd(&["RPUSH", "d", "x"]);
    assert_eq!(clients[0].reply().items()[1], Value::bulk("x"));
}
