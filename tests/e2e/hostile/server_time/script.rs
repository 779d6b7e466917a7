//! An endless script: the server says BUSY to everybody else, and ends it when it is told to.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Redis, Respool, Value, encode, eventually, eventually_some, needs, until_silent, words,
};

/// Is what Redis and Valkey say, each in its own name.
const BUSY: [&str; 2] = [
    "BUSY Redis is busy running a script",
    "BUSY Valkey is busy running a script",
];

/// Bounds the commands of another client that are answered, each asked when the one before it was, until the script is killed.
const BEFORE_KILL: usize = 100;

/// Starts a respool in which nothing that is silent is waited for longer than a moment.
fn respool(redis: &Redis) -> Respool {
    respool_of(redis, "")
}

fn respool_of(redis: &Redis, workers: &str) -> Respool {
    Respool::with(redis)
        .top(workers)
        .upstream(
            "reply_timeout = \"500ms\"\nhealth_interval = \"200ms\"\nping_interval = \"200ms\"",
        )
        .start()
}

pub(super) fn script(respool: &Respool) -> Client {
    script_by(respool, "EVAL")
}

/// Starts an endless script by this command.
fn script_by(respool: &Respool, command: &str) -> Client {
    let mut client = respool.client();
    // One whose connection has answered quickly: of a slow one it is not seen as soon that it does not.
    for _ in 0..20 {
        client.cmd(&["GET", "k"]);
    }
    client.send(encode(&[command, "while true do end", "0"]));
    client
}

/// Waits until the server answers BUSY, asked directly.
pub(super) fn until_busy(redis: &Redis) {
    eventually(
        || {
            let mut probe = redis.client();
            probe.send(encode(&["PING"]));
            let reply = probe.reply_within(Duration::from_secs(1));
            reply.is_some_and(|reply| reply.text().starts_with("BUSY"))
        },
        "the server says BUSY",
    );
}

fn is_busy(reply: &Value) -> bool {
    let text = reply.text();
    reply.is_error() && BUSY.iter().any(|busy| text.starts_with(busy))
}

#[test]
fn an_endless_script_is_answered_with_busy_and_can_be_killed() {
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    let respool = respool(&redis);
    let mut early: Vec<Client> = (0..8).map(|_| respool.client()).collect();
    early.iter_mut().for_each(Client::ping);
    let mut subscriber = respool.client();
    subscriber.cmd(&["SUBSCRIBE", "c"]);
    let mut blocked = respool.client();
    blocked.send(encode(&["BLPOP", "list", "0"]));
    let mut elsewhere = respool.client();
    elsewhere.cmd(&["SELECT", "7"]);
    let mut caller = script(&respool);
    until_busy(&redis);
    let (began, mut rounds) = (Instant::now(), 0);
    // Six times as long as a silence is waited for.
    while rounds < 2 || began.elapsed() < Duration::from_secs(3) {
        rounds += 1;
        for client in early.iter_mut().chain([&mut elsewhere]) {
            let reply = client.cmd(&["GET", "k"]);
            assert!(is_busy(&reply), "{reply:?}");
        }
        let mut newcomer = respool.client();
        let selected = newcomer.cmd(&["SELECT", "3"]);
        let got = newcomer.cmd(&["SET", "where", "3"]);
        // As at the server: neither runs, or the database is known to be and the command alone is refused.
        assert!(
            is_busy(&selected) || selected == Value::ok(),
            "{selected:?}"
        );
        assert!(is_busy(&got), "{got:?}");
        assert_eq!(respool.metric("respool_server_up"), 1.0);
    }
    let mut killer = respool.client();
    killer.send(encode(&["SCRIPT", "KILL"]));
    // It is heard as soon as what else is asked: of that only few, one after the other, are answered before it.
    let mut before = 0;
    while before <= BEFORE_KILL && is_busy(&early[0].cmd(&["GET", "k"])) {
        before += 1;
    }
    eprintln!("{before} commands were answered with BUSY before the script was killed");
    assert!(before <= BEFORE_KILL, "{before} before SCRIPT KILL");
    assert_eq!(killer.reply(), Value::ok());
    let reply = caller.reply();
    assert!(
        reply.is_error() && reply.text().contains("killed"),
        "{reply:?}"
    );
    caller.ping();
    for client in early.iter_mut().chain([&mut elsewhere]) {
        eventually(
            || client.cmd(&["GET", "k"]).is_null(),
            "the server serves again",
        );
    }
    assert_eq!(redis.cmd(&["DBSIZE"]), Value::Int(0));
    redis.cmd(&["PUBLISH", "c", "m"]);
    assert_eq!(subscriber.reply().items()[2], Value::bulk("m"));
    redis.cmd(&["RPUSH", "list", "x"]);
    assert_eq!(blocked.reply().items()[1], Value::bulk("x"));
    let lost = "respool_client_disconnects_total{group=\"default\",reason=\"upstream_lost\"}";
    assert_eq!(respool.metric_or_zero(lost), 0.0);
}

#[test]
fn scripts_behind_one_that_does_not_end_cost_nobody_a_connection() {
    let redis = Redis::start(&["--lua-time-limit", "300"]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("shared_connections = 1")
        .start();
    let mut pairs: Vec<[Client; 2]> = (0..12)
        .map(|_| [redis.client(), respool.client()])
        .collect();
    pairs.iter_mut().flatten().for_each(Client::ping);
    let lent = "respool_pins_total{reason=\"raw_error\"}";
    for _ in 0..3 {
        let mut endless = redis.client();
        endless.send(encode(&["EVAL", "while true do end", "0"]));
        until_silent(&redis, Duration::from_millis(50));
        // Before it says that it is busy, and behind each other on one connection.
        for (number, client) in pairs.iter_mut().flatten().enumerate() {
            client.send(match number / 2 % 3 {
                0 => encode(&["EVAL", "return 1", "0"]),
                1 => encode(&["GET", "k"]),
                _ => [encode(&["GET", "k"]), encode(&["EVAL", "return 1", "0"])].concat(),
            });
        }
        for (number, client) in pairs.iter_mut().flatten().enumerate() {
            for _ in 0..1 + usize::from(number / 2 % 3 == 2) {
                let reply = client.reply();
                assert!(is_busy(&reply), "{number}: {reply:?}");
            }
        }
        assert!(is_busy(&pairs[0][1].cmd(&["EVAL", "return 1", "0"])));
        assert_eq!(redis.cmd(&["SCRIPT", "KILL"]), Value::ok());
        for client in pairs.iter_mut().flatten() {
            let mut is_served = || client.cmd(&["EVAL", "return 1", "0"]) == Value::Int(1);
            eventually(&mut is_served, "scripts run again");
        }
    }
    assert_eq!(respool.metric_or_zero(lent), 0.0);
}

#[test]
fn a_script_that_somebody_else_runs_is_heard_of_too() {
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    let respool = respool(&redis);
    let mut clients: Vec<Client> = (0..8).map(|_| respool.client()).collect();
    clients.iter_mut().for_each(Client::ping);
    let mut direct = redis.client();
    direct.send(encode(&["EVAL", "while true do end", "0"]));
    until_busy(&redis);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        for client in &mut clients {
            let reply = client.cmd(&["GET", "k"]);
            assert!(is_busy(&reply), "{reply:?}");
        }
        assert_eq!(respool.metric("respool_server_up"), 1.0);
    }
    let killed = eventually_some(
        || Some(respool.client().cmd(&["SCRIPT", "KILL"])),
        "it is killed",
    );
    assert_eq!(killed, Value::ok());
    clients
        .iter_mut()
        .for_each(|client| eventually(|| client.cmd(&["GET", "k"]).is_null(), "it serves again"));
}

#[test]
fn a_change_of_state_while_a_script_runs_leaves_everybody_in_the_state_they_had() {
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    let respool = respool(&redis);
    let mut clients: Vec<Client> = (0..6).map(|_| respool.client()).collect();
    clients.iter_mut().for_each(Client::ping);
    let mut caller = script(&respool);
    until_busy(&redis);
    let mut wants: Vec<u32> = Vec::new();
    for (number, client) in clients.iter_mut().enumerate() {
        let database = number as u32 + 1;
        let reply = client.cmd(&["SELECT", &database.to_string()]);
        assert!(is_busy(&reply) || reply == Value::ok(), "{reply:?}");
        wants.push(if reply == Value::ok() { database } else { 0 });
    }
    assert_eq!(respool.client().cmd(&["SCRIPT", "KILL"]), Value::ok());
    assert!(caller.reply().is_error());
    for (number, (client, database)) in clients.iter_mut().zip(wants).enumerate() {
        let key = format!("of-{number}");
        eventually(
            || client.cmd(&["SET", &key, "x"]) == Value::ok(),
            "it is written",
        );
        let mut direct = redis.client();
        direct.cmd(&["SELECT", &database.to_string()]);
        assert_eq!(
            direct.cmd(&["GET", &key]),
            Value::bulk("x"),
            "database {database}"
        );
    }
}

/// Lists forms in which a transaction comes while a script runs: what is sent first, and what after a moment.
fn transactions() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let (multi, exec) = (encode(&["MULTI"]), encode(&["EXEC"]));
    let set = encode(&["SET", "k", "v"]);
    let large = encode(&["SET", "k", &"v".repeat(200_000)]);
    let cut = set.len() / 2;
    vec![
        ("whole", [&multi[..], &set, &exec].concat(), Vec::new()),
        ("by line", multi.clone(), [&set[..], &exec].concat()),
        (
            "in two pieces",
            [&multi[..], &set[..cut]].concat(),
            [&set[cut..], &exec].concat(),
        ),
        ("large", [&multi[..], &large].concat(), exec.clone()),
        (
            "discarded",
            [&multi[..], &set].concat(),
            encode(&["DISCARD"]),
        ),
        ("nested", [&multi[..], &multi].concat(), exec),
    ]
}

/// Reads the replies to the three requests of a transaction, and to a command behind it.
fn replies_to(client: &mut Client, first: &[u8], then: &[u8]) -> Vec<Value> {
    client.send(first);
    let mut replies = vec![client.reply()];
    client.send(then);
    replies.extend((1..3).map(|_| client.reply()));
    replies.push(client.cmd(&["GET", "k"]));
    replies
}

#[test]
fn a_transaction_that_begins_while_a_script_runs_comes_to_nothing_as_directly() {
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    let respool = Respool::start(&redis);
    let forms = transactions();
    let in_database_7 = |mut client: Client| {
        assert_eq!(client.cmd(&["SELECT", "7"]), Value::ok());
        client
    };
    let mut clients: Vec<[Client; 2]> = forms
        .iter()
        .map(|_| [redis.client(), respool.client()].map(in_database_7))
        .collect();
    let mut caller = script(&respool);
    until_busy(&redis);
    for ((form, first, then), pair) in forms.iter().zip(&mut clients) {
        let [direct, through] = pair;
        let expected = replies_to(direct, first, then);
        assert_eq!(replies_to(through, first, then), expected, "{form}");
    }
    assert_eq!(redis.cmd(&["SCRIPT", "KILL"]), Value::ok());
    assert!(caller.reply().is_error());
    for [direct, through] in &mut clients {
        for client in [direct, through] {
            assert!(client.cmd(&["GET", "k"]).is_null(), "nothing of it has run");
            assert_eq!(client.cmd(&["MULTI"]), Value::ok());
            assert_eq!(client.cmd(&["EXEC"]), Value::Array(Vec::new()));
        }
    }
}

#[test]
fn a_worker_with_one_connection_hears_busy_beside_a_script_on_it() {
    // Each of four workers has one of the shared connections.
    for workers in ["workers = 1", "workers = 4"] {
        let redis = Redis::start(&["--lua-time-limit", "100"]);
        let respool = respool_of(&redis, workers);
        let mut clients: Vec<Client> = (0..12).map(|_| respool.client()).collect();
        clients.iter_mut().for_each(Client::ping);
        let mut caller = script(&respool);
        until_busy(&redis);
        for round in 0..3 {
            for client in &mut clients {
                let (read, write) = (encode(&["GET", "k"]), encode(&["SET", "k", "v"]));
                client.send(if round == 1 { read } else { write });
            }
            for (number, client) in clients.iter_mut().enumerate() {
                let reply = client.reply_within(Duration::from_secs(20));
                let is_busy = reply.as_ref().is_some_and(is_busy);
                assert!(is_busy, "{workers}: {number} in round {round}: {reply:?}");
            }
        }
        let mut killer = respool.client();
        assert_eq!(killer.cmd(&["SCRIPT", "KILL"]), Value::ok());
        assert!(caller.reply().is_error());
        for client in &mut clients {
            eventually(
                || client.cmd(&["SET", "k", "v"]) == Value::ok(),
                "it serves again",
            );
        }
        let lost = "respool_client_disconnects_total{group=\"default\",reason=\"upstream_lost\"}";
        assert_eq!(respool.metric_or_zero(lost), 0.0);
    }
}

/// Starts a respool whose one worker has one shared connection, and a client of each kind: nobody, and one with a user of its own.
fn with_one_connection(redis: &Redis) -> (Respool, [Client; 2]) {
    redis.cmd(&[
        "ACL", "SETUSER", "own", "on", ">secret", "~*", "&*", "+@all",
    ]);
    let respool = Respool::with(redis)
        .top("workers = 1")
        .upstream("shared_connections = 1")
        .start();
    let mut clients = [respool.client(), respool.client()];
    assert_eq!(clients[1].cmd(&["AUTH", "own", "secret"]), Value::ok());
    clients.iter_mut().for_each(Client::ping);
    (respool, clients)
}

#[test]
fn what_respool_answers_itself_is_refused_beside_a_script_on_the_only_connection() {
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    let (respool, mut clients) = with_one_connection(&redis);
    let mut caller = script(&respool);
    until_busy(&redis);
    for client in &mut clients {
        let heard = client.cmd(&["GET", "k"]);
        assert!(is_busy(&heard), "{heard:?}");
    }
    let mut direct = redis.client();
    for request in ["SELECT 5", "READONLY", "CLIENT LIST", "SUBSCRIBE c"] {
        let words = words(request);
        let expected = direct.cmd(&words);
        for (number, client) in clients.iter_mut().enumerate() {
            let told = client.cmd(&words);
            let same = is_busy(&told) == is_busy(&expected);
            assert!(same, "{number}: {request}: {told:?}, not {expected:?}");
        }
    }
    assert_eq!(respool.client().cmd(&["SCRIPT", "KILL"]), Value::ok());
    assert!(caller.reply().is_error());
}

#[test]
fn a_database_is_selected_or_refused_beside_a_script_that_nobody_has_called_endless_yet() {
    let redis = Redis::start(&["--lua-time-limit", "1000"]);
    let (respool, clients) = with_one_connection(&redis);
    let mut caller = script(&respool);
    until_silent(&redis, Duration::from_millis(50));
    let [own, users] = clients;
    let mut clients = [redis.client(), own, users];
    for client in &mut clients {
        client.send(encode(&["SELECT", "5"]));
    }
    let told: Vec<Value> = clients.iter_mut().map(Client::reply).collect();
    assert!(told.iter().all(|reply| *reply == told[0]), "{told:?}");
    assert_eq!(respool.client().cmd(&["SCRIPT", "KILL"]), Value::ok());
    assert!(caller.reply().is_error());
    for client in &mut clients {
        eventually(|| client.cmd(&["GET", "k"]).is_null(), "it serves again");
    }
}

#[test]
fn a_script_is_killed_though_all_that_can_be_lent_is() {
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 2")
        .start();
    let mut holders = [respool.client(), respool.client()];
    for holder in &mut holders {
        assert_eq!(holder.cmd(&["WATCH", "k"]), Value::ok());
    }
    let mut caller = script(&respool);
    until_busy(&redis);
    // By now the connection on which it runs is known to be stalled.
    let mut other = respool.client();
    eventually(|| is_busy(&other.cmd(&["GET", "k"])), "the server is busy");
    assert_eq!(respool.client().cmd(&["SCRIPT", "KILL"]), Value::ok());
    assert!(caller.reply().is_error());
}

/// Connects clients in databases of their own, so many as there are shared connections: none of these is in database 0 after that.
pub(super) fn take_every_shared_connection(
    redis: &Redis,
    respool: &Respool,
    count: usize,
) -> Vec<Client> {
    let in_database = |number: usize| {
        let mut client = respool.client();
        let select = ["SELECT", &(number + 1).to_string()];
        assert_eq!(client.cmd(&select), Value::ok());
        client
    };
    let mut clients: Vec<Client> = (0..count).map(in_database).collect();
    eventually(
        || {
            for client in &mut clients {
                assert!(client.cmd(&["GET", "k"]).is_null());
            }
            let list = redis.cmd(&["CLIENT", "LIST"]).text();
            let shared = list.lines().filter(|line| line.contains(":shared:"));
            shared.filter(|line| !line.contains(" db=0 ")).count() == count
        },
        "each has a connection of its own",
    );
    clients
}

#[test]
fn a_script_is_killed_from_a_database_in_which_no_connection_is() {
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 2")
        .start();
    let mut holders = [respool.client(), respool.client()];
    for holder in &mut holders {
        assert_eq!(holder.cmd(&["WATCH", "k"]), Value::ok());
    }
    let mut clients = take_every_shared_connection(&redis, &respool, 2);
    clients[0].send(encode(&["EVAL", "while true do end", "0"]));
    until_busy(&redis);
    eventually(
        || is_busy(&clients[1].cmd(&["GET", "k"])),
        "the server is busy",
    );
    assert_eq!(respool.client().cmd(&["SCRIPT", "KILL"]), Value::ok());
    assert!(clients[0].reply().is_error());
}

#[test]
fn what_kills_a_script_is_not_sent_behind_it() {
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 2")
        .start();
    let mut holders = [respool.client(), respool.client()];
    for holder in &mut holders {
        assert_eq!(holder.cmd(&["WATCH", "k"]), Value::ok());
    }
    let mut killer = respool.client();
    killer.ping();
    let asked = || respool.metric("respool_client_commands_total");
    let before = asked();
    let mut caller = respool.client();
    caller.send(encode(&["EVAL", "while true do end", "0"]));
    eventually(|| asked() > before, "the script is under way");
    // Long before anybody is told that the server is busy.
    assert_eq!(killer.cmd(&["SCRIPT", "KILL"]), Value::ok());
    assert!(caller.reply().is_error());
}

#[test]
fn a_script_is_killed_though_others_go_on_calling_scripts() {
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 2")
        .start();
    let mut holders = [respool.client(), respool.client()];
    for holder in &mut holders {
        assert_eq!(holder.cmd(&["WATCH", "k"]), Value::ok());
    }
    let mut clients = take_every_shared_connection(&redis, &respool, 2);
    let mut other = clients.pop().expect("there are two");
    let mut caller = clients.pop().expect("there are two");
    caller.send(encode(&["EVAL", "while true do end", "0"]));
    until_busy(&redis);
    eventually(|| is_busy(&other.cmd(&["GET", "k"])), "the server is busy");
    // Whenever it is looked, some are under way on the only connection that is left.
    let mut others: Vec<Client> = (0..8).map(|_| respool.client()).collect();
    let calls = encode(&["EVAL", "return 1", "0"]).repeat(50);
    let mut killer = respool.client();
    let is_killed = AtomicBool::new(false);
    let rounds = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for other in &mut others {
            scope.spawn(|| {
                other.send(encode(&["SELECT", "2"]));
                other.reply();
                while !is_killed.load(Ordering::SeqCst) {
                    other.send(&calls);
                    (0..50).for_each(|_| drop(other.reply()));
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        eventually(|| rounds.load(Ordering::SeqCst) > 100, "they are at it");
        let before = rounds.load(Ordering::SeqCst);
        let reply = killer.cmd(&["SCRIPT", "KILL"]);
        let meanwhile = rounds.load(Ordering::SeqCst) - before;
        is_killed.store(true, Ordering::SeqCst);
        eprintln!("{meanwhile} times fifty scripts were answered before");
        assert_eq!(reply, Value::ok());
        assert!(meanwhile <= BEFORE_KILL, "{meanwhile}");
    });
    assert!(caller.reply().is_error());
}

/// The refusals of what all of them have asked for at once are far more bytes than those of a few.
#[test]
fn a_crowd_that_calls_scripts_beside_an_endless_one_hears_busy_and_stays() {
    const CALLS: usize = 100;
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 2")
        .start();
    let mut clients = take_every_shared_connection(&redis, &respool, 2);
    let mut caller = clients.swap_remove(0);
    for _ in 0..30 {
        let mut client = respool.client();
        assert_eq!(client.cmd(&["SELECT", "2"]), Value::ok());
        clients.push(client);
    }
    caller.send(encode(&["EVAL", "while true do end", "0"]));
    until_busy(&redis);
    let calls = encode(&["EVAL", "return 1", "0"]).repeat(CALLS);
    for _ in 0..3 {
        clients.iter_mut().for_each(|client| client.send(&calls));
        for client in &mut clients {
            for _ in 0..CALLS {
                let reply = client.reply();
                assert!(is_busy(&reply), "{reply:?}");
            }
        }
    }
    let mut killer = respool.client();
    assert_eq!(killer.cmd(&["SCRIPT", "KILL"]), Value::ok());
    assert!(caller.reply().is_error());
    clients.iter_mut().for_each(Client::ping);
}

/// A server that is busy with a script changes no database.
#[test]
fn a_script_is_killed_on_a_connection_that_is_in_any_database() {
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 2\nshared_connections = 1")
        .start();
    let mut holder = respool.client();
    for words in [["SELECT", "5"], ["WATCH", "k"]] {
        assert_eq!(holder.cmd(&words), Value::ok());
    }
    let mut caller = script(&respool);
    until_busy(&redis);
    let mut killer = respool.client();
    killer.send(encode(&["SCRIPT", "KILL"]));
    let waiting = || respool.metric("respool_upstream_waiting_pins");
    eventually(|| waiting() > 0.0, "it waits for a connection");
    // What the holder had is given to who waits for it.
    holder.send(encode(&["UNWATCH"]));
    assert_eq!(killer.reply(), Value::ok());
    assert!(caller.reply().is_error());
}

#[test]
fn a_script_that_only_reads_is_one_too() {
    needs!("EVAL_RO return 0");
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 1")
        .start();
    let mut caller = script_by(&respool, "EVAL_RO");
    until_busy(&redis);
    for words in [&["GET", "k"][..], &["SELECT", "3"]] {
        let reply = respool.client().cmd(words);
        assert!(is_busy(&reply) || reply == Value::ok(), "{reply:?}");
    }
    assert_eq!(respool.client().cmd(&["SCRIPT", "KILL"]), Value::ok());
    assert!(caller.reply().is_error());
}

#[test]
fn who_logs_in_while_the_server_is_busy_is_told_of_the_login_alone() {
    let redis = Redis::start(&["--lua-time-limit", "100"]);
    redis.cmd(&["ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all"]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("shared_connections = 1")
        .start();
    let mut clients: Vec<Client> = (0..4).map(|_| respool.client()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["SELECT", "3"]), Value::ok());
    }
    // On a connection of its own, and the shared one is in another database than those who log in.
    let mut caller = respool.client();
    assert_eq!(caller.cmd(&["WATCH", "k"]), Value::ok());
    respool.client().ping();
    caller.send(encode(&["EVAL", "while true do end", "0"]));
    until_busy(&redis);
    let login = |password| ["AUTH", "app", password];
    for (number, client) in clients.iter_mut().enumerate() {
        let wrong = client.cmd(&login("wrong"));
        assert!(wrong.text().starts_with("WRONGPASS"), "{number}: {wrong:?}");
        assert_eq!(client.cmd(&login("secret")), Value::ok(), "{number}");
        let reply = client.cmd(&["GET", "k"]);
        assert!(is_busy(&reply), "{number}: {reply:?}");
    }
    let mut direct = redis.client();
    assert_eq!(direct.cmd(&["SCRIPT", "KILL"]), Value::ok());
    assert!(caller.reply().is_error());
    for client in &mut clients {
        eventually(|| client.cmd(&["SET", "k", "v"]) == Value::ok(), "served");
    }
    direct.cmd(&["SELECT", "3"]);
    assert_eq!(direct.cmd(&["GET", "k"]), Value::bulk("v"));
}
