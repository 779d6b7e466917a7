//! A user that is deleted, or loses a channel: its clients end as they do at the server, whatever they are doing, and nobody
//! else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Redis, Respool, ScriptedAct, ScriptedServer, Value, encode, eventually, needs, show,
};

const OWN: &str = "username = \"own\"\npassword = \"pw\"";

const PASSED_THROUGH: &str = "[auth]\nmode = \"passthrough\"";

/// Is what respool's own user may do: everything, or nothing of ACL.
const OWN_RIGHTS: [&str; 2] = ["+@all", "-acl"];

/// Starts a server with users `ann`, `bob` and respool's own.
fn with_users(own_rights: &str) -> Redis {
    let redis = Redis::start(&[]);
    for name in ["ann", "bob", "own"] {
        redis.set_user(name, &["on", ">pw", "~*", "&*", "+@all"]);
    }
    redis.set_user("own", &[own_rights]);
    redis
}

fn passed_through(redis: &Redis) -> Respool {
    Respool::with(redis)
        .upstream(&format!("{OWN}\nmax_connections = 12"))
        .section(PASSED_THROUGH)
        .start()
}

/// Logs the client in, as a user that has sent something, whose reply was read if it has one.
fn doing(mut client: Client, user: &str, words: &[&str]) -> Client {
    assert_eq!(client.cmd(&["AUTH", user, "pw"]), Value::ok());
    client.send(encode(words));
    if words[0] != "BLPOP" {
        client.reply();
    }
    client
}

const DOINGS: [&[&str]; 6] = [
    &["SUBSCRIBE", "c"],
    &["PSUBSCRIBE", "c*"],
    &["BLPOP", "list", "0"],
    &["PING"],
    &["MULTI"],
    &["WATCH", "k"],
];

fn assert_ends(client: &mut Client, what: &str) {
    let rest = client.read_to_end();
    let is_told = rest.starts_with(b"-WRONGPASS ") || rest.starts_with(b"-UNBLOCKED ");
    assert!(rest.is_empty() || is_told, "{what}: {}", show(&rest));
}

fn message(channel: &str, text: &str) -> Value {
    Value::Array(vec![
        Value::bulk("message"),
        Value::bulk(channel),
        Value::bulk(text),
    ])
}

#[test]
fn the_clients_of_a_user_that_is_deleted_end_whatever_they_do() {
    for own_rights in OWN_RIGHTS {
        let redis = with_users(own_rights);
        let respool = passed_through(&redis);
        let (mut direct, mut through) = (Vec::new(), Vec::new());
        for words in DOINGS {
            direct.push(doing(redis.client(), "ann", words));
            through.push(doing(respool.client(), "ann", words));
        }
        let mut bob = doing(respool.client(), "bob", &["SUBSCRIBE", "c"]);
        assert_eq!(redis.cmd(&["ACL", "DELUSER", "ann"]), Value::Int(1));
        for (index, words) in DOINGS.iter().enumerate() {
            direct[index].expect_end();
            assert_ends(&mut through[index], &format!("{own_rights} {words:?}"));
        }
        redis.cmd(&["PUBLISH", "c", "m"]);
        assert_eq!(bob.reply(), message("c", "m"));
        let metric = "respool_client_disconnects_total{reason=\"permission_lost\"}";
        eventually(|| respool.metric_or_zero(metric) >= 3.0, "it is counted");
    }
}

#[test]
fn subscribers_that_lose_a_channel_end_and_others_of_the_user_do_not() {
    for own_rights in OWN_RIGHTS {
        let redis = with_users(own_rights);
        let respool = passed_through(&redis);
        let mut stays = doing(respool.client(), "ann", &["SUBSCRIBE", "c"]);
        let mut idle = doing(respool.client(), "ann", &["PING"]);
        let mut bob = doing(respool.client(), "bob", &["SUBSCRIBE", "d"]);
        let mut lose = vec![
            doing(respool.client(), "ann", &["SUBSCRIBE", "d"]),
            doing(respool.client(), "ann", &["PSUBSCRIBE", "c*"]),
        ];
        // Many topics of a kind are asked about in slices.
        let mut many = respool.client();
        assert_eq!(many.cmd(&["AUTH", "ann", "pw"]), Value::ok());
        let names: Vec<String> = (0..1000).map(|number| format!("many-{number}")).collect();
        let words = std::iter::once("SUBSCRIBE").chain(names.iter().map(String::as_str));
        many.send(encode(&words.collect::<Vec<_>>()));
        for _ in &names {
            many.reply();
        }
        redis.set_user("ann", &["resetchannels", "&c", "&many-*"]);
        for client in &mut lose {
            assert_ends(client, own_rights);
        }
        redis.set_user("ann", &["resetchannels", "&c", "&many-?", "&many-??"]);
        assert_ends(&mut many, own_rights);
        redis.cmd(&["PUBLISH", "c", "m"]);
        redis.cmd(&["PUBLISH", "d", "m"]);
        assert_eq!(stays.reply(), message("c", "m"));
        assert_eq!(bob.reply(), message("d", "m"));
        idle.ping();
        // All at once, as `ACL SETUSER ann reset` does.
        redis.set_user("ann", &["resetchannels", "-@all"]);
        assert_ends(&mut stays, own_rights);
    }
}

#[test]
fn who_loses_a_thousand_channels_ends_after_a_few_questions() {
    let redis = with_users("-acl");
    let respool = passed_through(&redis);
    let mut stays = doing(respool.client(), "ann", &["SUBSCRIBE", "c"]);
    let mut many = respool.client();
    assert_eq!(many.cmd(&["AUTH", "ann", "pw"]), Value::ok());
    let names: Vec<String> = (0..1000).map(|number| format!("many-{number}")).collect();
    let words = std::iter::once("SUBSCRIBE").chain(names.iter().map(String::as_str));
    many.send(encode(&words.collect::<Vec<_>>()));
    for _ in &names {
        many.reply();
    }
    redis.set_user("ann", &["resetchannels", "&c"]);
    assert_ends(&mut many, "-acl");
    let refused = refused_subscriptions(&redis);
    assert!((1..100).contains(&refused), "{refused} questions refused");
    redis.cmd(&["PUBLISH", "c", "m"]);
    assert_eq!(stays.reply(), message("c", "m"));
}

/// The server may take one of them no more, and what it says to who has shown that is not for who has shown the other.
#[test]
fn a_permission_is_asked_for_by_each_password_of_a_user() {
    // Before 7.0 the server does not count subcommands apart.
    needs!("ACL SETUSER u -client|list");
    let redis = with_users("-acl");
    redis.set_user("ann", &[">other"]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream(&format!("{OWN}\nmax_connections = 12"))
        .section(PASSED_THROUGH)
        .start();
    let mut clients: Vec<Client> = ["pw", "other"]
        .map(|password| {
            let mut client = respool.client();
            assert_eq!(client.cmd(&["AUTH", "ann", password]), Value::ok());
            client
        })
        .into();
    redis.pause();
    for client in &mut clients {
        client.send(encode(&["CLIENT", "GETNAME"]));
    }
    for client in &mut clients {
        assert_eq!(client.reply(), Value::NullBulk);
    }
    redis.resume();
    eventually(
        || redis.calls("client|getname") == 2,
        "each password has asked",
    );
}

/// Each of its clients may show another, and what is asked for a client outlives it.
#[test]
fn what_is_asked_for_a_user_that_takes_any_password_has_a_bound() {
    const COUNT: usize = 150;
    // Before 7.0 the server does not count subcommands apart.
    needs!("ACL SETUSER u -client|list");
    let redis = with_users("-acl");
    redis.set_user("ann", &["nopass"]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream(OWN)
        .section(PASSED_THROUGH)
        .start();
    let mut clients: Vec<Client> = (0..COUNT).map(|_| respool.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let password = format!("pw-{number}");
        assert_eq!(client.cmd(&["AUTH", "ann", &password]), Value::ok());
    }
    redis.pause();
    // Nobody waits for longer than a moment.
    for _ in 0..2 {
        for client in &mut clients {
            client.send(encode(&["CLIENT", "GETNAME"]));
        }
        for client in &mut clients {
            assert_eq!(client.reply(), Value::NullBulk);
        }
    }
    redis.resume();
    eventually(|| redis.calls("client|getname") > 0, "the server was asked");
    // Behind what was asked for them.
    for client in &mut clients {
        assert!(client.cmd(&["GET", "k"]).is_null());
    }
    let waits = respool.metric("respool_bounds_reached_total{bound=\"permission_questions\"}");
    assert!(waits >= 1.0, "it is counted");
    let asked = redis.calls("client|getname");
    assert!(asked <= 64, "{asked} questions");
}

/// Tells how many subscriptions the server has refused.
fn refused_subscriptions(redis: &Redis) -> usize {
    let text = redis.cmd(&["INFO", "commandstats"]).text();
    let line = text
        .lines()
        .find(|line| line.starts_with("cmdstat_subscribe:"));
    let field = line.and_then(|line| line.split("rejected_calls=").nth(1));
    let number = field.and_then(|rest| rest.split(',').next()?.parse().ok());
    number.expect("the server counts what it refuses")
}

/// Tells how often the server was asked about a user.
fn lookups(redis: &Redis) -> usize {
    let text = redis.cmd(&["INFO", "commandstats"]).text();
    let lines = text.lines().filter(|line| {
        line.starts_with("cmdstat_acl|getuser:") || line.starts_with("cmdstat_acl:")
    });
    let calls = lines.filter_map(|line| line.split(['=', ',']).nth(1)?.parse::<usize>().ok());
    calls.sum()
}

#[test]
fn what_leaves_clients_alone_at_the_server_leaves_them_alone_here() {
    for rules in [&["off"][..], &["<pw", ">other"], &["-@all"]] {
        let redis = with_users("+@all");
        let respool = passed_through(&redis);
        let mut through = doing(respool.client(), "ann", &["SUBSCRIBE", "c"]);
        let mut direct = doing(redis.client(), "ann", &["SUBSCRIBE", "c"]);
        redis.set_user("ann", rules);
        let before = lookups(&redis);
        eventually(
            || lookups(&redis) >= before + 6,
            "the server has been asked more than once since",
        );
        redis.cmd(&["PUBLISH", "c", "m"]);
        assert_eq!(direct.reply(), message("c", "m"), "{rules:?}");
        assert_eq!(through.reply(), message("c", "m"), "{rules:?}");
    }
}

#[test]
fn a_user_costs_the_same_however_many_clients_and_channels_it_has() {
    let redis = with_users("+@all");
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream(OWN)
        .section(PASSED_THROUGH)
        .start();
    redis.set_user("ann", &["resetchannels", "&c-*"]);
    let clients: Vec<Client> = (0..200)
        .map(|number| {
            let channel = format!("c-{number}");
            doing(respool.client(), "ann", &["SUBSCRIBE", &channel])
        })
        .collect();
    let (before, start) = (lookups(&redis), Instant::now());
    eventually(|| lookups(&redis) >= before + 4, "it is asked about");
    let most = 4 + 2 * start.elapsed().as_secs() as usize;
    let asked = lookups(&redis) - before;
    assert!(asked <= most, "{asked} questions");
    drop(clients);
}

#[test]
fn subscribers_that_are_respools_own_user_end_when_it_loses_their_channel() {
    // Redis 6.2 closes no subscriber that has lost its channel, and so not respool either.
    needs!("CONFIG GET cluster-allow-pubsubshard-when-down");
    let redis = with_users("+@all");
    let respool = Respool::with(&redis).upstream(OWN).start();
    let mut stays = respool.client();
    stays.cmd(&["SUBSCRIBE", "c"]);
    let mut loses = respool.client();
    loses.cmd(&["SUBSCRIBE", "d"]);
    redis.set_user("own", &["resetchannels", "&c"]);
    assert_ends(&mut loses, "its channel is gone");
    eventually(
        || redis.cmd(&["PUBLISH", "c", "m"]).int() == 1,
        "the other is subscribed again",
    );
    let patience = Duration::from_secs(60);
    assert_eq!(stays.reply_within(patience), Some(message("c", "m")));
}

const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

/// A server that tells respool nothing of its users. When `is_changed`, it takes `ann one` no more.
struct ChangingServer {
    server: ScriptedServer,
    is_changed: Arc<AtomicBool>,
    /// Counts how often it was asked about `ann one` since; it answers when it is let.
    asked: Arc<AtomicUsize>,
    may_answer: Arc<AtomicBool>,
    /// Lets it answer `ann two` and `ann three` when it is let: that one is right, and the other wrong.
    may_judge: Arc<AtomicBool>,
}

impl ChangingServer {
    fn start() -> Self {
        let flag = || Arc::new(AtomicBool::new(false));
        let (is_changed, may_answer, may_judge) = (flag(), flag(), flag());
        let asked = Arc::new(AtomicUsize::new(0));
        let its = (
            Arc::clone(&is_changed),
            Arc::clone(&asked),
            Arc::clone(&may_answer),
            Arc::clone(&may_judge),
        );
        let server = ScriptedServer::start(move |words| {
            let (is_changed, asked, may_answer, may_judge) = &its;
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match words.as_slice() {
                ["acl", ..] => ScriptedAct::Say("-NOPERM this user has no permissions\r\n"),
                ["auth", "ann", "one"] if is_changed.load(Ordering::SeqCst) => {
                    asked.fetch_add(1, Ordering::SeqCst);
                    ScriptedAct::SayWhen(Arc::clone(may_answer), WRONG)
                }
                ["auth", "ann", "two"] => ScriptedAct::SayWhen(Arc::clone(may_judge), "+OK\r\n"),
                ["auth", "ann", "three"] => ScriptedAct::SayWhen(Arc::clone(may_judge), WRONG),
                _ => ScriptedAct::Usual,
            }
        });
        Self {
            server,
            is_changed,
            asked,
            may_answer,
            may_judge,
        }
    }

    fn respool(&self) -> Respool {
        Respool::before(self.server.addr())
            .top("workers = 1")
            .upstream(&format!("{OWN}\nmax_connections = 12"))
            .section(PASSED_THROUGH)
            .start()
    }

    /// Decides that from here on `ann one` is wrong, and the server has just been asked about it.
    fn change(&self) {
        self.is_changed.store(true, Ordering::SeqCst);
        self.is_asked(1);
    }

    fn is_asked(&self, times: usize) {
        let asked = || self.asked.load(Ordering::SeqCst);
        eventually(|| asked() >= times, "the server is asked");
    }
}

/// Counts what the watch of users closes.
const CLOSED: &str =
    "respool_client_disconnects_total{group=\"default\",reason=\"permission_lost\"}";

#[test]
fn who_has_shown_the_password_that_holds_before_the_old_one_is_judged_stays() {
    let ann = ChangingServer::start();
    let respool = ann.respool();
    let mut client = respool.client();
    let mut other = respool.client();
    for client in [&mut client, &mut other] {
        assert_eq!(client.cmd(&["AUTH", "ann", "one"]), Value::ok());
    }
    ann.change();
    ann.may_judge.store(true, Ordering::SeqCst);
    assert_eq!(client.cmd(&["AUTH", "ann", "two"]), Value::ok());
    ann.may_answer.store(true, Ordering::SeqCst);
    // Who has not is closed by the same look.
    assert_ends(&mut other, "it shows the old one");
    assert_eq!(respool.metric(CLOSED), 1.0);
    client.ping();
}

#[test]
fn who_is_about_to_show_the_password_that_holds_is_closed_only_if_it_is_not_taken() {
    for (shown, is_taken) in [("two", true), ("three", false)] {
        let ann = ChangingServer::start();
        let respool = ann.respool();
        let mut client = respool.client();
        assert_eq!(client.cmd(&["AUTH", "ann", "one"]), Value::ok());
        ann.change();
        client.send(encode(&["AUTH", "ann", shown]));
        eventually(
            || respool.metric("respool_client_commands_total") >= 2.0,
            "it is on its way",
        );
        ann.may_answer.store(true, Ordering::SeqCst);
        // By the second question the answer to the first has been gone by.
        ann.is_asked(2);
        assert_eq!(respool.metric_or_zero(CLOSED), 0.0);
        ann.may_judge.store(true, Ordering::SeqCst);
        if is_taken {
            assert_eq!(client.reply(), Value::ok());
            client.ping();
        } else {
            assert_eq!(show(&client.read_to_end()), show(WRONG.as_bytes()));
            eventually(|| respool.metric_or_zero(CLOSED) >= 1.0, "it is counted");
        }
    }
}
