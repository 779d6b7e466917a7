//! Passwords that strangers guess, before a server that wants one and a respool that has none: they keep nobody else out.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::{
    Client, Redis, Respool, RespoolSettings, ScriptedAct, ScriptedServer, Value, encode, eventually,
};

const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

/// The password that the server takes.
const RIGHT: &str = "right-314";

/// Strangers guess from so many addresses, and so many of each.
const STRANGERS: usize = 12;
const EACH: usize = 8;

/// Sets one worker with one connection for all, and no secret.
fn without_secret(settings: RespoolSettings) -> RespoolSettings {
    settings
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 1\nconnect_timeout = \"60s\"")
        .section("[auth]\nmode = \"passthrough\"")
}

/// Connects strangers who each show something else that is wrong, all at once.
fn strangers(respool: &Respool) -> Vec<Client> {
    let numbers = 0..STRANGERS * EACH;
    let one = |number| {
        let mut client = respool.client_from(&format!("127.0.{}.1", 20 + number / EACH));
        client.send(encode(&["AUTH", &format!("guess-{number}")]));
        client
    };
    numbers.map(one).collect()
}

fn eventually_wait(respool: &Respool, count: usize) {
    let waiting = || respool.metric_or_zero("respool_upstream_waiting_requests");
    eventually(|| waiting() >= count as f64, "they wait for the server");
}

fn all_are_refused(clients: &mut [Client]) {
    for client in clients {
        assert_eq!(client.reply().text(), WRONGPASS[1..].trim_end());
    }
}

/// Starts a server that wants [`RIGHT`] of whoever connects, does this with any other password, and says what it was shown.
fn guarded(
    mut wrong: impl FnMut() -> ScriptedAct + Send + 'static,
) -> (ScriptedServer, Arc<Mutex<Vec<String>>>) {
    let shown = Arc::new(Mutex::new(Vec::new()));
    let (seen, mut is_open) = (Arc::clone(&shown), false);
    let server = ScriptedServer::start(move |words| {
        if words[0] == "auth" {
            let password = words[words.len() - 1].clone();
            is_open |= password == RIGHT;
            let is_right = password == RIGHT;
            seen.lock().expect("nobody panics with it").push(password);
            return match is_right {
                true => ScriptedAct::Say("+OK\r\n"),
                false => wrong(),
            };
        }
        match is_open {
            true => ScriptedAct::Usual,
            false => ScriptedAct::Say("-NOAUTH Authentication required.\r\n"),
        }
    });
    (server, shown)
}

#[test]
fn a_newcomer_stands_behind_one_guess_of_each_stranger() {
    let goes_on = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&goes_on);
    let (server, shown) = guarded(move || ScriptedAct::SayWhen(Arc::clone(&flag), WRONGPASS));
    let respool = without_secret(Respool::before(server.addr())).start();
    let mut wrong = strangers(&respool);
    eventually_wait(&respool, STRANGERS * EACH);
    let mut newcomer = respool.client_from("127.0.9.1");
    newcomer.send(encode(&["AUTH", RIGHT]));
    eventually_wait(&respool, STRANGERS * EACH + 1);
    goes_on.store(true, Ordering::SeqCst);
    assert_eq!(newcomer.reply(), Value::ok());
    all_are_refused(&mut wrong);
    let shown = shown.lock().expect("nobody panics with it");
    let at = shown.iter().position(|password| password == RIGHT);
    let at = at.expect("it was shown");
    // The one that was at the server before, and the first of each.
    assert!(at <= STRANGERS + 1, "behind {at} guesses");
    assert!(at >= 1, "it waited for what was at the server");
}

#[test]
fn a_server_that_ends_connections_with_its_refusal_is_asked_for_everybody() {
    let (server, shown) = guarded(|| ScriptedAct::SayAndClose(WRONGPASS));
    let respool = without_secret(Respool::before(server.addr())).start();
    let mut wrong = strangers(&respool);
    all_are_refused(&mut wrong);
    let mut newcomer = respool.client_from("127.0.9.1");
    assert_eq!(newcomer.cmd(&["AUTH", RIGHT]), Value::ok());
    newcomer.ping();
    let shown = shown.lock().expect("nobody panics with it");
    let right = shown.iter().filter(|password| *password == RIGHT).count();
    assert_eq!(right, 1);
}

#[test]
fn who_waits_behind_guesses_is_not_told_that_the_server_cannot_be_reached() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    // Slow, though far from silent: together the answers take longer than anybody may wait for a server that is away.
    let slowly = move || {
        count.fetch_add(1, Ordering::SeqCst);
        std::thread::park_timeout(Duration::from_millis(60));
        ScriptedAct::Say(WRONGPASS)
    };
    let (server, _) = guarded(slowly);
    let respool = without_secret(Respool::before(server.addr()))
        .upstream("queue.timeout = \"3s\"\nqueue.max_commands = 97")
        .start();
    let mut wrong = strangers(&respool);
    eventually(
        || refused.load(Ordering::SeqCst) > 0,
        "the server refuses one",
    );
    let mut newcomer = respool.client_from("127.0.9.1");
    assert_eq!(newcomer.cmd(&["AUTH", RIGHT]), Value::ok());
    all_are_refused(&mut wrong);
    let late = "respool_bounds_reached_total{bound=\"queue_timeout\"}";
    assert_eq!(respool.metric_or_zero(late), 0.0);
    let full = "respool_bounds_reached_total{bound=\"queue_full\"}";
    assert_eq!(respool.metric_or_zero(full), 0.0);
}

#[test]
fn what_was_refused_leaves_nothing_behind_for_whoever_is_served_next() {
    let redis = Redis::start(&[]);
    for user in ["ann", "bob"] {
        let rights = ["ACL", "SETUSER", user, "on", ">pw", "+@all", "~*"];
        assert_eq!(redis.cmd(&rights), Value::ok());
    }
    let locked = ["CONFIG", "SET", "requirepass", RIGHT];
    assert_eq!(redis.cmd(&locked), Value::ok());
    let respool = without_secret(Respool::with(&redis)).start();
    redis.pause();
    let mut wrong = strangers(&respool);
    let mut served: Vec<(&str, Client)> = ["ann", "bob", "default", "ann"]
        .into_iter()
        .map(|user| (user, respool.client_from("127.0.9.1")))
        .collect();
    for (user, client) in &mut served {
        let password = if *user == "default" { RIGHT } else { "pw" };
        client.send(encode(&["AUTH", user, password]));
        client.send(encode(&["ACL", "WHOAMI"]));
    }
    redis.resume();
    for (user, client) in &mut served {
        assert_eq!(client.reply(), Value::ok());
        assert_eq!(client.reply().text(), *user);
    }
    all_are_refused(&mut wrong);
    let mut nobody = respool.client_from("127.0.9.2");
    assert!(nobody.cmd(&["GET", "key"]).text().starts_with("NOAUTH"));
    for client in &mut wrong {
        assert!(client.cmd(&["GET", "key"]).text().starts_with("NOAUTH"));
    }
}

#[test]
fn a_line_too_many_behind_a_refusal_answers_nobody_else() {
    let mut is_first = true;
    let wrong = move || match std::mem::take(&mut is_first) {
        true => ScriptedAct::Say(
            "-WRONGPASS invalid username-password pair or user is disabled.\r\n-ERR second line\r\n",
        ),
        false => ScriptedAct::Say(WRONGPASS),
    };
    let (server, _) = guarded(wrong);
    let respool = without_secret(Respool::before(server.addr())).start();
    let shown = ["guess-0", "guess-1", RIGHT, "guess-2", "guess-3"];
    let mut clients: Vec<Client> = (1..)
        .zip(shown)
        .map(|(number, password)| {
            let mut client = respool.client_from(&format!("127.0.30.{number}"));
            client.send(encode(&["AUTH", password]));
            client
        })
        .collect();
    for (client, password) in clients.iter_mut().zip(shown) {
        match password {
            RIGHT => assert_eq!(client.reply(), Value::ok()),
            _ => assert_eq!(client.reply().text(), WRONGPASS[1..].trim_end()),
        }
    }
}

#[test]
fn a_connection_whose_first_answers_have_moved_by_a_line_serves_nobody() {
    let mut is_first = true;
    let server = ScriptedServer::start(move |words| match words[0].as_str() {
        "hello" if std::mem::take(&mut is_first) => ScriptedAct::Say(
            "-ERR a line too many\r\n%2\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$2\r\nid\r\n:7\r\n",
        ),
        "echo" => ScriptedAct::Say("$4\r\nmine\r\n"),
        _ => ScriptedAct::Usual,
    });
    let respool = Respool::before(server.addr())
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 1")
        .start();
    let mut client = respool.client();
    assert_eq!(client.cmd(&["GET", "key"]), Value::ok());
    assert!(server.connections() > 1, "it was given up");
}

#[test]
fn commands_that_wait_are_counted_whatever_was_refused_before_and_guesses_take_no_place_of_theirs()
{
    let redis = Redis::start(&[]);
    let locked = ["CONFIG", "SET", "requirepass", RIGHT];
    assert_eq!(redis.cmd(&locked), Value::ok());
    let respool = without_secret(Respool::with(&redis))
        .upstream("queue = { timeout = \"120s\", max_commands = 5 }\ncircuit = { after = \"0s\" }")
        .start();
    let mut clients: Vec<Client> = (0..12).map(|_| respool.client()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["AUTH", RIGHT]), Value::ok());
    }
    let kill = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
    redis.cmd(&kill);
    let shared = "respool_upstream_connections{kind=\"shared\"}";
    eventually(
        || respool.metric_or_zero(shared) == 0.0,
        "the shared connection is gone",
    );
    let mut guess = respool.client_from("127.0.9.1");
    let wrong = guess.cmd(&["AUTH", "wrong"]);
    assert_eq!(wrong.text(), WRONGPASS[1..].trim_end());
    redis.pause();
    // One has its connection opened; all of them wait.
    let (held, refused) = clients.split_at_mut(5);
    for client in held.iter_mut() {
        client.send(encode(&["GET", "key"]));
    }
    eventually_wait(&respool, held.len());
    for client in refused {
        let reply = client.cmd(&["GET", "key"]);
        assert!(reply.text().contains("unreachable"), "{reply:?}");
    }
    let mut late: Vec<Client> = (0..5)
        .map(|number| {
            let mut late = respool.client_from(&format!("127.0.31.{}", number + 1));
            late.send(encode(&["AUTH", &format!("late-{number}")]));
            late
        })
        .collect();
    eventually_wait(&respool, held.len() + late.len());
    let mut beyond = respool.client_from("127.0.32.1");
    let reply = beyond.cmd(&["AUTH", "beyond"]);
    assert!(reply.text().contains("unreachable"), "{reply:?}");
    redis.resume();
    for client in held {
        assert_eq!(client.reply(), Value::NullBulk);
    }
    all_are_refused(&mut late);
}
