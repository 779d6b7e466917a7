//! What the server forbids a user is forbidden through respool: be it respool's own user, be it a rule of a moment ago.

use crate::harness::{Client, Redis, Respool, TESTED_SERVER, Value, eventually, words};

/// Lists what a subcommand of CLIENT is sent as, where it is permitted.
const CLIENT_COMMANDS: [&[&str]; 10] = [
    &["CLIENT", "LIST"],
    &["CLIENT", "KILL", "TYPE", "normal"],
    &["CLIENT", "KILL", "127.0.0.1:1"],
    &["CLIENT", "UNBLOCK", "1"],
    &["CLIENT", "NO-EVICT", "ON"],
    &["CLIENT", "SETNAME", "n"],
    &["CLIENT", "GETNAME"],
    &["CLIENT", "ID"],
    &["CLIENT", "INFO"],
    &["CLIENT", "PAUSE", "1"],
];

fn as_user(redis: &Redis, name: &str) -> Client {
    let mut client = redis.client();
    assert_eq!(client.cmd(&["AUTH", name, "pw"]), Value::ok());
    client
}

/// Starts a server with a user for respool that may use nothing of CLIENT.
fn without_client() -> Redis {
    let redis = Redis::start(&[]);
    redis.set_user("own", &["on", ">pw", "~*", "&*", "+@all", "-client"]);
    redis
}

const OWN: &str = "username = \"own\"\npassword = \"pw\"";

#[test]
fn who_has_not_authenticated_may_do_what_respools_own_user_may() {
    let redis = without_client();
    let mut direct = as_user(&redis, "own");
    let ann = "[[auth.user]]\nname = \"ann\"\npassword = \"pw\"";
    for (mode, users) in [("optional", ""), ("none", ""), ("proxy", ann)] {
        let respool = Respool::with(&redis)
            .upstream(OWN)
            .section(&format!("[auth]\nmode = \"{mode}\"\n{users}"))
            .start();
        let (mut bystander, mut stranger) = (respool.client(), respool.client());
        if mode == "proxy" {
            for client in [&mut bystander, &mut stranger] {
                assert_eq!(client.cmd(&["AUTH", "ann", "pw"]), Value::ok());
            }
        }
        bystander.ping();
        stranger.ping();
        for words in CLIENT_COMMANDS {
            let expected = direct.cmd(words);
            assert!(expected.text().starts_with("NOPERM "), "{expected:?}");
            assert_eq!(stranger.cmd(words), expected, "{mode} {words:?}");
            // In RESP3, and once more from what is known by now.
            assert!(!stranger.cmd(&["HELLO", "3"]).is_error());
            assert_eq!(stranger.cmd(words), expected, "{mode} {words:?}");
            assert!(!stranger.cmd(&["HELLO", "2"]).is_error());
        }
        // On a connection lent to it.
        assert_eq!(stranger.cmd(&["WATCH", "k"]), Value::ok());
        let expected = direct.cmd(&["CLIENT", "LIST"]);
        assert_eq!(stranger.cmd(&["CLIENT", "LIST"]), expected);
        bystander.ping();
    }
}

#[test]
fn a_command_that_the_server_has_not_is_not_to_be_had_from_respool() {
    let redis = Redis::start(&["--rename-command", "CLIENT", ""]);
    let respool = Respool::with(&redis).start();
    let mut victim = respool.client();
    victim.ping();
    let (mut client, mut direct) = (respool.client(), redis.client());
    client.ping();
    for _ in 0..2 {
        for words in [
            &["CLIENT", "LIST"][..],
            &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"],
            &["CLIENT", "UNBLOCK", "1"],
        ] {
            let expected = direct.cmd(words);
            assert!(expected.text().contains("unknown command"), "{expected:?}");
            assert_eq!(client.cmd(words), expected, "{words:?}");
        }
    }
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    assert!(client.cmd(&["CLIENT", "KILL", "TYPE", "normal"]).is_error());
    assert!(client.cmd(&["EXEC"]).text().starts_with("EXECABORT"));
    victim.ping();
}

/// Lists the commands about nobody but the client that sends them. Redis 6.2 has no NO-EVICT.
fn own_business() -> impl Iterator<Item = &'static [&'static str]> {
    const WORDS: [&[&str]; 3] = [
        &["CLIENT", "SETNAME", "n"],
        &["CLIENT", "GETNAME"],
        &["CLIENT", "NO-EVICT", "ON"],
    ];
    let known = if TESTED_SERVER.is_7_or_later() { 3 } else { 2 };
    WORDS.into_iter().take(known)
}

#[test]
fn what_is_granted_and_withdrawn_is_heeded_by_who_goes_on_asking() {
    let redis = without_client();
    let respool = Respool::with(&redis).upstream(OWN).start();
    let (mut client, mut direct) = (respool.client(), as_user(&redis, "own"));
    let words: &[&str] = &["CLIENT", "LIST"];
    for _ in 0..2 {
        let refused = direct.cmd(words);
        assert!(refused.text().starts_with("NOPERM "), "{refused:?}");
        eventually(|| client.cmd(words) == refused, "it is refused");
        redis.set_user("own", &["+client"]);
        for words in own_business().chain([words]) {
            eventually(|| !client.cmd(words).is_error(), "it is permitted");
        }
        redis.set_user("own", &["-client"]);
        for words in own_business().chain([words]) {
            eventually(|| client.cmd(words).is_error(), "it is refused again");
        }
    }
}

#[test]
fn asking_for_permission_costs_a_busy_client_next_to_nothing() {
    let redis = Redis::start(&[]);
    redis.set_user("ann", &["on", ">pw", "~*", "&*", "+@all"]);
    let respool = Respool::with(&redis).start();
    let mut own = respool.client();
    let mut ann = respool.client();
    assert_eq!(ann.cmd(&["AUTH", "ann", "pw"]), Value::ok());
    for client in [&mut own, &mut ann] {
        let before = redis.info_number("total_commands_processed");
        for _ in 0..500 {
            assert!(!client.cmd(&["CLIENT", "LIST"]).is_error());
            assert!(!client.cmd(&["CLIENT", "GETNAME"]).is_error());
        }
        let cost = redis.info_number("total_commands_processed") - before;
        assert!(cost < 300, "{cost} commands");
    }
}

#[test]
fn asking_for_permission_harms_no_connection() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).start();
    let mut client = respool.client();
    client.ping();
    let opened = respool.metric("respool_upstream_connects_total{result=\"ok\"}");
    // Redis 6.2 takes the number 0 for everybody.
    let id = client.cmd(&["CLIENT", "ID"]).int() + 1000;
    let killed = client.cmd(&["CLIENT", "KILL", "ID", &id.to_string()]);
    assert_eq!(killed, Value::Int(0));
    client.ping();
    let reopened = respool.metric("respool_upstream_connects_total{result=\"ok\"}");
    assert_eq!(opened, reopened, "no connection was lost");
}

#[test]
fn a_client_may_name_itself_and_look_around_while_the_server_is_away() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).start();
    let mut early = respool.client();
    assert!(!early.cmd(&["CLIENT", "LIST"]).is_error());
    redis.kill_hard();
    eventually(
        || respool.metric("respool_server_up") == 0.0,
        "the server is seen to be away",
    );
    let mut client = respool.client();
    for words in own_business() {
        assert!(!client.cmd(words).is_error(), "{words:?}");
    }
}

/// Tells how often the server was shown a password.
fn auth_calls(redis: &Redis) -> usize {
    let text = redis.cmd(&["INFO", "commandstats"]).text();
    let line = text.lines().find(|line| line.starts_with("cmdstat_auth:"));
    let calls = line.and_then(|line| line.split(['=', ',']).nth(1));
    calls.map_or(0, |calls| calls.parse().expect("a number"))
}

/// Starts a server whose default user has a password.
fn locked() -> Redis {
    let redis = Redis::start(&[]);
    let words = ["CONFIG", "SET", "requirepass", "secret"];
    assert_eq!(redis.cmd(&words), Value::ok());
    redis
}

const SECRET: &str = "password = \"secret\"";

#[test]
fn wrong_passwords_without_end_are_few_at_the_server_and_hold_up_no_other_address() {
    let redis = locked();
    let respool = Respool::with(&redis)
        .plain_clients()
        .upstream(SECRET)
        .section("[auth]\nmode = \"passthrough\"")
        .start();
    let mut bystander = respool.client_from("127.0.0.2");
    assert_eq!(bystander.cmd(&["AUTH", "secret"]), Value::ok());
    let before = auth_calls(&redis);
    let (start, respool) = (std::time::Instant::now(), &respool);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..20 {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut client = respool.client_from("127.0.0.3");
                for attempt in 0.. {
                    let guess = format!("guess-{number}-{attempt}");
                    client.send(crate::harness::encode(&["AUTH", &guess]));
                    loop {
                        let patience = std::time::Duration::from_millis(20);
                        match client.reply_within(patience) {
                            Some(reply) => {
                                let text = reply.text();
                                assert!(text.starts_with("WRONGPASS "), "{text}");
                                break;
                            }
                            None if is_over.load(std::sync::atomic::Ordering::Relaxed) => return,
                            None => {}
                        }
                    }
                    if is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        for _ in 0..2000 {
            assert!(!bystander.cmd(&["GET", "k"]).is_error());
        }
        // Others who come with the right password are served, from this address too.
        for address in ["127.0.0.2", "127.0.0.3"] {
            let mut client = respool.client_from(address);
            assert_eq!(client.cmd(&["AUTH", "secret"]), Value::ok());
            client.ping();
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let most = 100 + 4 * start.elapsed().as_secs() as usize;
    let calls = auth_calls(&redis) - before;
    assert!(calls < most, "{calls} calls of AUTH");
    let delayed = respool.metric("respool_bounds_reached_total{bound=\"auth_delayed\"}");
    assert!(delayed >= 1.0, "it is counted");
    respool.eventually_logs("an address that has shown wrong passwords is slowed");
    let log = respool.log_text();
    assert!(!log.contains("guess-"), "what was tried is told nowhere");
}

#[test]
fn attempts_past_those_that_may_wait_are_refused_unseen_and_the_rest_are_not_lost() {
    let redis = locked();
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream(SECRET)
        .section(
            "[auth]\nmode = \"passthrough\"\nmax_attempts_in_flight = 1\nmax_attempts_waiting = 1\nfree_failures = 0",
        )
        .start();
    respool.client().cmd(&["PING"]);
    let wrong = respool.client().cmd(&["AUTH", "guess"]);
    assert!(wrong.text().starts_with("WRONGPASS "), "{wrong:?}");
    redis.pause();
    let mut clients: Vec<Client> = (0..10).map(|_| respool.client()).collect();
    for client in &mut clients {
        client.send(crate::harness::encode(&["AUTH", "secret"]));
    }
    // One is looked at and one waits, or one waits and nobody else has come before its turn.
    let refused = "respool_bounds_reached_total{bound=\"auth_waiting\"}";
    eventually(
        || respool.metric_or_zero(refused) >= 8.0,
        "the rest are refused",
    );
    redis.resume();
    let replies: Vec<Value> = clients.iter_mut().map(Client::reply).collect();
    let of = |wanted: &Value| replies.iter().filter(|reply| *reply == wanted).count();
    let told =
        "ERR respool: too many failed attempts to authenticate from this address, try again later";
    let (taken, told) = (of(&Value::ok()), of(&Value::error(told)));
    assert!(taken >= 1 && taken + told == 10, "{replies:?}");
    assert_eq!(told as f64, respool.metric(refused));
}

/// This is as after a failover: all clients of one machine show the right password at once, to a server that does not answer yet.
#[test]
fn clients_of_an_address_that_has_not_failed_are_all_let_in() {
    let redis = locked();
    let respool = Respool::with(&redis)
        .upstream(SECRET)
        .section(
            "[auth]\nmode = \"passthrough\"\nmax_attempts_in_flight = 1\nmax_attempts_waiting = 1",
        )
        .start();
    respool.client().cmd(&["PING"]);
    redis.pause();
    let mut clients: Vec<Client> = (0..200).map(|_| respool.client()).collect();
    for client in &mut clients {
        client.send(crate::harness::encode(&["AUTH", "secret"]));
    }
    let delayed = "respool_bounds_reached_total{bound=\"auth_delayed\"}";
    eventually(|| respool.metric_or_zero(delayed) > 150.0, "they wait");
    redis.resume();
    for client in &mut clients {
        assert_eq!(client.reply(), Value::ok());
    }
    let refused = "respool_bounds_reached_total{bound=\"auth_waiting\"}";
    assert_eq!(respool.metric_or_zero(refused), 0.0);
}

/// Before Redis 7.0 the server looks at the permission before it looks for the subcommand.
#[test]
fn who_may_not_use_client_is_told_so_as_at_the_server() {
    let redis = Redis::start(&[]);
    let user = [
        "ACL", "SETUSER", "own", "on", ">pw", "~*", "&*", "+@all", "-client",
    ];
    assert_eq!(redis.cmd(&user), Value::ok());
    let respool = Respool::with(&redis)
        .upstream("username = \"own\"\npassword = \"pw\"")
        .start();
    let run = |mut client: Client| {
        let mut told = Vec::new();
        for line in [
            "CLIENT NOSUCH",
            "CLIENT NOSUCH a b",
            "CLIENT SETINFO a b",
            "CLIENT NO-EVICT on",
            "CLIENT SETNAME",
            "CLIENT MAINT_NOTIFICATIONS on",
            "CLIENT LIST x",
            "CLIENT KILL USER nobody",
        ] {
            let words = words(line);
            told.push((line, client.cmd(&words)));
            client.cmd(&["MULTI"]);
            told.push((line, client.cmd(&words)));
            told.push(("EXEC", client.cmd(&["EXEC"])));
        }
        told
    };
    let mut direct = redis.client();
    assert_eq!(direct.cmd(&["AUTH", "own", "pw"]), Value::ok());
    assert_eq!(run(respool.client()), run(direct));
}
