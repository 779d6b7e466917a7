//! Users: who verifies clients, as whom their commands run, and that nobody is ever somebody else.

use std::thread;

use crate::harness::{Client, Redis, Respool, TESTED_SERVER, Value, encode, eventually, show};

/// Lists what a client may send before it has authenticated, and what breaks the rules for those who have not.
const BEFORE_AUTHENTICATION: [&str; 38] = [
    "PING\r\n",
    "GET k\r\n",
    "GET\r\n",
    "NOSUCH a b\r\n",
    "POST / HTTP/1.1\r\n",
    "Host: x\r\n",
    "QUIT\r\n",
    "RESET\r\n",
    "RESET x\r\n",
    "HELLO\r\n",
    "HELLO 3\r\n",
    "HELLO 9\r\n",
    "HELLO x\r\n",
    "HELLO 3 AUTH default bad\r\n",
    "HELLO 3 AUTH nobody secret\r\n",
    "HELLO 3 AUTH default\r\n",
    "HELLO 3 SETNAME \"a b\"\r\n",
    "HELLO 3 SETNAME name\r\n",
    "HELLO 3 FOO\r\n",
    "AUTH\r\n",
    "AUTH bad\r\n",
    "AUTH \"\"\r\n",
    "AUTH default bad\r\n",
    "AUTH default \"\"\r\n",
    "AUTH nobody secret\r\n",
    "AUTH a b c\r\n",
    "CLIENT LIST\r\n",
    "SUBSCRIBE c\r\n",
    "MULTI\r\n",
    "BLPOP k 0\r\n",
    "SELECT 1\r\n",
    "PSYNC ? -1\r\n",
    "PING a b c\r\n",
    "*11\r\n",
    "*1\r\n$16385\r\n",
    "*2147483648\r\n",
    "*1\r\n$x\r\n",
    "*10\r\n$4\r\nPING\r\n",
];

/// Lists what is said with the right password. HELLO's answer holds an id and is left out.
const WITH_A_PASSWORD: [&str; 8] = [
    "AUTH secret\r\nPING\r\n",
    "AUTH default secret\r\nSET k v\r\nGET k\r\n",
    "AUTH ann pw\r\nPING\r\n",
    "AUTH ann pw\r\nAUTH ann bad\r\nPING\r\n",
    "AUTH ann bad\r\nPING\r\nAUTH ann pw\r\nPING\r\n",
    "AUTH ann pw\r\nRESET\r\nPING\r\nAUTH bad\r\nAUTH secret\r\nPING\r\n",
    "AUTH ann pw\r\nRESET\r\n*11\r\n",
    "PING\r\nAUTH ann pw\r\n*11\r\n$6\r\nCONFIG\r\n",
];

/// Starts a server with a password of its default user, a user `ann` and one for respool.
fn guarded() -> Redis {
    let redis = Redis::start(&[]);
    for command in [
        &["ACL", "SETUSER", "ann", "on", ">pw", "~*", "&*", "+@all"][..],
        &[
            "ACL", "SETUSER", "respool", "on", ">own", "~*", "&*", "+@all",
        ],
        // The test's own connection stays authenticated.
        &["CONFIG", "SET", "requirepass", "secret"],
    ] {
        assert_eq!(redis.cmd(command), Value::ok());
    }
    redis
}

const OWN: &str = "username = \"respool\"\npassword = \"own\"";

/// Tells everything a new connection answers to `input`, up to its end.
fn answer(mut client: Client, input: &str) -> Vec<u8> {
    client.send(input);
    client.finish_sending();
    client.read_to_end()
}

/// Tells the same of the server itself: a line at a time where it does not answer every login of a write.
fn direct_answer(mut client: Client, mut input: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !TESTED_SERVER.answers_every_login()
        && input.contains("AUTH")
        && !input.starts_with('*')
        && let Some((line, rest)) = input.split_once("\r\n")
    {
        client.send(format!("{line}\r\n"));
        bytes.extend(client.reply_bytes());
        input = rest;
    }
    bytes.extend(answer(client, input));
    bytes
}

fn assert_same_texts(direct: &Redis, respool: &Respool) {
    // From Redis 6.2.6 on. respool does so before every server.
    let bounds_strangers = !answer(direct.client(), "*11\r\n").is_empty();
    for input in BEFORE_AUTHENTICATION.iter().chain(&WITH_A_PASSWORD) {
        let is_long = input.contains("*11\r\n") || input.contains("$16385\r\n");
        if !bounds_strangers && is_long {
            continue;
        }
        let expected = direct_answer(direct.client(), input);
        let got = answer(respool.client(), input);
        assert_eq!(show(&got), show(&expected), "{input}");
    }
}

#[test]
fn passthrough_answers_strangers_as_the_server_does() {
    let redis = guarded();
    let respool = Respool::with(&redis)
        .upstream(OWN)
        .section("[auth]\nmode = \"passthrough\"")
        .start();
    assert_same_texts(&redis, &respool);
    respool.assert_alive();
}

#[test]
fn users_of_the_configuration_are_answered_as_by_a_server_that_has_them() {
    let (direct, open) = (guarded(), Redis::start(&[]));
    let digest = "30c952fab122c3f9759f02a6d95c3758b246b4fee239957b2d4fee46e26170c4";
    let respool = Respool::with(&open)
        .section(&format!(
            "[auth]\nmode = \"proxy\"\n[[auth.user]]\nname = \"default\"\npassword = \"secret\"\n\
             [[auth.user]]\nname = \"ann\"\npassword = \"other\"\npassword_sha256 = [\"{digest}\"]"
        ))
        .start();
    assert_same_texts(&direct, &respool);
    let mut ann = respool.client();
    assert_eq!(ann.cmd(&["AUTH", "ann", "other"]), Value::ok());
    assert!(matches!(
        respool.client().cmd(&["HELLO", "3", "AUTH", "ann", "pw"]),
        Value::Map(_)
    ));
    let info = ann.cmd(&["CLIENT", "INFO"]).text();
    assert!(info.contains(" user=ann "), "{info}");
    // One server user behind them all.
    assert_eq!(ann.cmd(&["ACL", "WHOAMI"]), Value::bulk("default"));
}

#[test]
fn a_large_request_may_stand_behind_the_password_and_not_before_it() {
    let redis = guarded();
    for (mode, upstream, users) in [
        ("passthrough", OWN, ""),
        (
            "proxy",
            OWN,
            "[[auth.user]]\nname = \"ann\"\npassword = \"pw\"",
        ),
    ] {
        let respool = Respool::with(&redis)
            .upstream(upstream)
            .section(&format!("[auth]\nmode = \"{mode}\"\n{users}"))
            .start();
        let value = "x".repeat(1 << 20);
        let mut client = respool.client();
        let mut both = encode(&["AUTH", "ann", "pw"]);
        both.extend(encode(&["SET", "k", &value]));
        client.send(both);
        assert_eq!((client.reply(), client.reply()), (Value::ok(), Value::ok()));
        assert_eq!(client.cmd(&["STRLEN", "k"]), Value::Int(1 << 20));
        // Ten arguments of 16 KiB are more than may share a connection; they reach none.
        let pieces = vec!["y".repeat(16 * 1024); 9];
        let mut words = vec!["DEL"];
        words.extend(pieces.iter().map(String::as_str));
        let mut stranger = respool.client();
        stranger.send(encode(&words));
        let reply = stranger.reply();
        assert_eq!(reply, Value::error("NOAUTH Authentication required."));
        assert_eq!(stranger.cmd(&["AUTH", "ann", "pw"]), Value::ok());
        assert_eq!(stranger.cmd(&words), Value::Int(0));
    }
}

#[test]
fn without_authentication_clients_are_answered_as_by_a_server_without_a_password() {
    let (open, guarded) = (Redis::start(&[]), guarded());
    let respool = Respool::with(&guarded)
        .upstream(OWN)
        .section("[auth]\nmode = \"none\"")
        .start();
    for input in [
        "AUTH secret\r\nPING\r\n",
        "AUTH default whatever\r\nPING\r\n",
        "AUTH ann pw\r\nPING\r\n",
        "AUTH a b c\r\n",
        "HELLO 3 AUTH ann pw\r\nPING\r\n",
        "RESET\r\nPING\r\n",
        "SET k v\r\nGET k\r\n",
    ] {
        let expected = answer(open.client(), input);
        assert_eq!(
            show(&answer(respool.client(), input)),
            show(&expected),
            "{input}"
        );
    }
    let mut client = respool.client();
    let reply = client.cmd(&["HELLO", "3", "AUTH", "default", "whatever"]);
    assert!(matches!(reply, Value::Map(_)), "{reply:?}");
    assert_eq!(client.cmd(&["ACL", "WHOAMI"]), Value::bulk("respool"));
}

#[test]
fn who_has_not_authenticated_is_the_servers_default_user_and_never_respools_own() {
    let redis = guarded();
    let rules = [
        "ACL",
        "SETUSER",
        "default",
        "nopass",
        "resetkeys",
        "~open:*",
        "-@dangerous",
    ];
    // The rules are not to bind the test's own connection.
    assert_eq!(redis.cmd(&["AUTH", "respool", "own"]), Value::ok());
    assert_eq!(redis.cmd(&rules), Value::ok());
    let respool = Respool::with(&redis)
        .upstream(&format!(
            "{OWN}\nmax_connections = 3\nshared_connections = 1"
        ))
        .section("[auth]\nmode = \"passthrough\"")
        .start();
    let (mut nameless, mut ann) = (respool.client(), respool.client());
    let (whoami, shut) = (&["ACL", "WHOAMI"], &["GET", "shut"]);
    assert_eq!(ann.cmd(&["AUTH", "ann", "pw"]), Value::ok());
    for _ in 0..3 {
        assert_eq!(nameless.cmd(&["SET", "open:k", "v"]), Value::ok());
        for words in [&["GET", "shut"][..], &["FLUSHALL"], &["CLIENT", "NO-SUCH"]] {
            let expected = redis.client().cmd(words);
            assert_eq!(nameless.cmd(words), expected, "{words:?}");
        }
        assert_eq!(nameless.cmd(whoami), redis.client().cmd(whoami));
        assert_eq!(ann.cmd(whoami), Value::bulk("ann"));
        assert_eq!(ann.cmd(&["GET", "shut"]), Value::NullBulk);
        // On a connection of its own too.
        assert_eq!(nameless.cmd(&["MULTI"]), Value::ok());
        assert_eq!(nameless.cmd(shut), redis.client().cmd(shut));
        assert!(nameless.cmd(&["EXEC"]).text().starts_with("EXECABORT"));
    }
    assert_eq!(ann.cmd(&["RESET"]), Value::simple("RESET"));
    assert_eq!(ann.cmd(shut), redis.client().cmd(shut));
    // The default user gets a password: from the next command that needs its state on, strangers have to have it.
    assert_eq!(
        redis.cmd(&["ACL", "SETUSER", "default", ">secret"]),
        Value::ok()
    );
    assert_eq!(ann.cmd(&["AUTH", "ann", "pw"]), Value::ok());
    let reply = respool.client().cmd(&["GET", "open:k"]);
    assert_eq!(reply, Value::error("NOAUTH Authentication required."));
}

#[test]
fn twenty_users_share_ten_connections_and_none_is_ever_another() {
    const USERS: usize = 20;
    let redis = guarded();
    for user in 0..USERS {
        let (name, password) = (format!("u{user}"), format!(">p{user}"));
        let (keys, channels) = (format!("~u{user}:*"), format!("&u{user}:*"));
        let rules = [
            "ACL",
            "SETUSER",
            &name,
            "on",
            &password,
            &keys,
            "resetchannels",
            &channels,
            "+@all",
        ];
        assert_eq!(redis.cmd(&rules), Value::ok());
    }
    let respool = Respool::with(&redis)
        .upstream(&format!(
            "{OWN}\nmax_connections = 10\nborrow_timeout = \"20s\""
        ))
        .section("[auth]\nmode = \"passthrough\"")
        .start();
    let watch = redis.watch_connections();
    let respool = &respool;
    thread::scope(|scope| {
        for user in 0..USERS {
            for protocol in ["2", "3"] {
                scope.spawn(move || be_nobody_else(respool.client(), user, protocol));
            }
        }
    });
    // The test's own connection is one of them.
    let most = watch.most();
    assert!(most <= 11, "{most} connections");
    assert_eq!(
        respool.metric_or_zero("respool_client_auth_failures_total"),
        0.0
    );
}

/// Does what a user does, and asks all the time who it is.
fn be_nobody_else(mut client: Client, user: usize, protocol: &str) {
    let (name, password) = (format!("u{user}"), format!("p{user}"));
    let reply = client.cmd(&["HELLO", protocol, "AUTH", &name, &password]);
    assert!(!reply.is_error(), "{reply:?}");
    let key = |what: &str| format!("u{user}:{protocol}:{what}");
    let (own, foreign) = (key("k"), format!("u{}:k", (user + 1) % 20));
    for round in 0..25 {
        let value = format!("{name}-{protocol}-{round}");
        let pipeline = [
            encode(&["SET", &own, &value]),
            encode(&["ACL", "WHOAMI"]),
            encode(&["GET", &own]),
            encode(&["GET", &foreign]),
        ];
        client.send(pipeline.concat());
        assert_eq!(client.reply(), Value::ok());
        assert_eq!(client.reply(), Value::bulk(&name));
        assert_eq!(client.reply(), Value::bulk(&value));
        let refused = client.reply().text();
        assert!(refused.starts_with("NOPERM "), "{name}: {refused}");
        match round % 5 {
            0 => {
                assert_eq!(client.cmd(&["MULTI"]), Value::ok());
                let queued = client.cmd(&["ACL", "WHOAMI"]);
                assert_eq!(queued, Value::simple("QUEUED"));
                let told = client.cmd(&["EXEC"]);
                assert_eq!(told, Value::Array(vec![Value::bulk(&name)]));
            }
            1 => {
                let list = key("list");
                assert_eq!(client.cmd(&["RPUSH", &list, &value]), Value::Int(1));
                let popped = client.cmd(&["BLPOP", &list, "20"]);
                assert_eq!(popped.items()[1], Value::bulk(&value));
            }
            2 => {
                let refused = client.cmd(&["BLPOP", &foreign, "20"]).text();
                assert!(refused.starts_with("NOPERM "), "{name}: {refused}");
                let refused = client.cmd(&["SUBSCRIBE", &foreign]).text();
                assert!(refused.starts_with("NOPERM "), "{name}: {refused}");
            }
            3 => {
                let begun = client.cmd(&["SUBSCRIBE", &own]);
                assert_eq!(begun.items()[2], Value::Int(1), "{name}: {begun:?}");
                let ended = client.cmd(&["UNSUBSCRIBE", &own]);
                assert_eq!(ended.items()[2], Value::Int(0), "{name}: {ended:?}");
            }
            _ => {
                assert_eq!(client.cmd(&["SELECT", "1"]), Value::ok());
                assert!(client.cmd(&["GET", &own]).is_null());
                assert_eq!(client.cmd(&["SELECT", "0"]), Value::ok());
            }
        }
    }
}

#[test]
fn a_user_that_may_not_select_is_served_beside_those_who_do() {
    let redis = guarded();
    let rules = [
        "ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@read", "+@write", "-select",
    ];
    assert_eq!(redis.cmd(&rules), Value::ok());
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream(&format!(
            "{OWN}\nmax_connections = 2\nshared_connections = 1\nborrow_timeout = \"20s\""
        ))
        .section("[auth]\nmode = \"passthrough\"")
        .start();
    let mut direct = redis.client();
    assert_eq!(direct.cmd(&["AUTH", "bob", "pw"]), Value::ok());
    let refused = direct.cmd(&["SELECT", "5"]);
    assert!(refused.text().starts_with("NOPERM "), "{refused:?}");
    let mut ann = respool.client();
    assert_eq!(ann.cmd(&["AUTH", "ann", "pw"]), Value::ok());
    assert_eq!(ann.cmd(&["SET", "k", "zero"]), Value::ok());
    assert_eq!(ann.cmd(&["SELECT", "5"]), Value::ok());
    for _ in 0..3 {
        assert_eq!(ann.cmd(&["SET", "k", "five"]), Value::ok());
        let mut bob = respool.client();
        assert_eq!(bob.cmd(&["AUTH", "bob", "pw"]), Value::ok());
        assert_eq!(bob.cmd(&["GET", "k"]), Value::bulk("zero"));
        // As at the server itself, whoever was in a database before stays there.
        let mut both = respool.client();
        assert_eq!(both.cmd(&["AUTH", "ann", "pw"]), Value::ok());
        assert_eq!(both.cmd(&["SELECT", "5"]), Value::ok());
        assert_eq!(both.cmd(&["AUTH", "bob", "pw"]), Value::ok());
        assert_eq!(both.cmd(&["GET", "k"]), Value::bulk("five"));
        // That there is a connection of his in it makes it nobody else's database.
        assert_eq!(bob.cmd(&["SELECT", "5"]), refused);
        assert_eq!(bob.cmd(&["GET", "k"]), Value::bulk("zero"));
        assert_eq!(ann.cmd(&["GET", "k"]), Value::bulk("five"));
        // On the connection that is lent, and was hers in her database.
        assert_eq!(ann.cmd(&["WATCH", "k"]), Value::ok());
        assert_eq!(ann.cmd(&["UNWATCH"]), Value::ok());
        assert!(bob.cmd(&["BLPOP", "list", "0.01"]).is_null());
        let popped = both.cmd(&["BLMOVE", "list", "other", "LEFT", "LEFT", "0.01"]);
        assert!(popped.is_null(), "{popped:?}");
    }
}

#[test]
fn a_hello_that_is_refused_changes_nothing_on_a_connection_of_the_clients_own() {
    let redis = guarded();
    let respool = Respool::with(&redis)
        .upstream(OWN)
        .section("[auth]\nmode = \"passthrough\"")
        .start();
    let (mut lent, mut direct) = (respool.client(), redis.client());
    for client in [&mut lent, &mut direct] {
        assert_eq!(client.cmd(&["AUTH", "ann", "pw"]), Value::ok());
        assert!(!client.cmd(&["HSET", "h", "f", "v"]).is_error());
        assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
        let refused = client.cmd(&["HELLO", "3", "AUTH", "ann", "bad"]).text();
        assert!(refused.starts_with("WRONGPASS "), "{refused}");
        let told = client.cmd(&["HGETALL", "h"]);
        assert!(matches!(told, Value::Array(_)), "{told:?}");
        let told = client.cmd(&["HELLO", "3", "AUTH", "default", "secret"]);
        assert!(matches!(told, Value::Map(_)), "{told:?}");
        let told = client.cmd(&["HGETALL", "h"]);
        assert!(matches!(told, Value::Map(_)), "{told:?}");
        assert_eq!(client.cmd(&["ACL", "WHOAMI"]), Value::bulk("default"));
        assert_eq!(client.cmd(&["UNWATCH"]), Value::ok());
        assert_eq!(client.cmd(&["ACL", "WHOAMI"]), Value::bulk("default"));
        let told = client.cmd(&["HELLO", "2"]);
        assert!(matches!(told, Value::Array(_)), "{told:?}");
    }
}

#[test]
fn a_user_is_in_its_group_from_its_password_on() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .section(
            "[auth]\nmode = \"proxy\"\n[[auth.user]]\nname = \"ann\"\npassword = \"pw\"\n[[auth.user]]\nname = \"bob\"\n\
             password = \"pw\"\n[[group]]\nname = \"anns\"\nmatch = { user = \"ann\" }\nmax_connections = 1",
        )
        .start();
    let mut first = respool.client();
    assert_eq!(first.cmd(&["AUTH", "ann", "pw"]), Value::ok());
    assert!(first.cmd(&["GET", "k"]).is_null());
    assert_eq!(respool.clients_of("anns"), 1);
    let mut second = respool.client();
    assert_eq!(second.cmd(&["AUTH", "ann", "pw"]), Value::ok());
    let reply = second.cmd(&["GET", "k"]);
    assert_eq!(reply, Value::error("ERR max number of clients reached"));
    let mut bob = respool.client();
    assert_eq!(bob.cmd(&["AUTH", "bob", "pw"]), Value::ok());
    assert_eq!(first.cmd(&["RESET"]), Value::simple("RESET"));
    assert_eq!(respool.clients_of("anns"), 0);
    let mut third = respool.client();
    assert_eq!(third.cmd(&["AUTH", "ann", "pw"]), Value::ok());
    assert!(third.cmd(&["GET", "k"]).is_null());
}

#[test]
fn failures_are_counted_and_logged_at_a_bounded_rate_without_what_was_tried() {
    let redis = guarded();
    for (mode, users) in [
        ("passthrough", ""),
        ("proxy", "[[auth.user]]\nname = \"ann\"\npassword = \"pw\""),
    ] {
        let respool = Respool::with(&redis)
            .upstream(OWN)
            .section(&format!(
                "[auth]\nmode = \"{mode}\"\nmax_failure_delay = \"0s\"\n{users}"
            ))
            .start();
        let mut client = respool.client();
        for attempt in 0..50 {
            let guess = format!("guess-{attempt}");
            let words = [
                vec!["AUTH", &guess],
                vec!["AUTH", &guess, "pw"],
                vec!["HELLO", "3", "AUTH", "ann", &guess],
            ];
            let reply = client.cmd(&words[attempt % 3]).text();
            assert!(reply.starts_with("WRONGPASS "), "{reply}");
        }
        let metric = "respool_client_auth_failures_total{group=\"default\"}";
        assert_eq!(respool.metric(metric), 50.0, "{mode}");
        respool.eventually_logs("failed to authenticate");
        let log = respool.log_text();
        assert!(!log.contains("guess-"), "{log}");
        let lines = log.matches("failed to authenticate").count();
        // One each ten seconds for each worker.
        assert!((1..=10).contains(&lines), "{mode}: {lines} lines");
    }
}

#[test]
fn a_client_whose_password_was_withdrawn_is_told_and_closed() {
    let redis = guarded();
    let respool = Respool::with(&redis)
        .upstream(&format!(
            "{OWN}\nmax_connections = 2\nshared_connections = 1"
        ))
        .section("[auth]\nmode = \"passthrough\"")
        .start();
    let mut ann = respool.client();
    assert_eq!(ann.cmd(&["AUTH", "ann", "pw"]), Value::ok());
    let rules = ["ACL", "SETUSER", "ann", "<pw", ">new"];
    assert_eq!(redis.cmd(&rules), Value::ok());
    // The connection is hers: as at the server itself, she goes on.
    assert_eq!(ann.cmd(&["ACL", "WHOAMI"]), Value::bulk("ann"));
    let mut other = respool.client();
    assert_eq!(other.cmd(&["AUTH", "secret"]), Value::ok());
    let reply = ann.cmd(&["GET", "k"]).text();
    assert!(reply.starts_with("WRONGPASS "), "{reply}");
    ann.expect_end();
    let metric = "respool_client_disconnects_total{reason=\"authentication_lost\"}";
    eventually(|| respool.metric_or_zero(metric) == 1.0, "it is counted");
    let mut ann = respool.client();
    assert_eq!(ann.cmd(&["AUTH", "ann", "new"]), Value::ok());
    assert_eq!(other.cmd(&["ACL", "WHOAMI"]), Value::bulk("default"));
}

#[test]
fn a_client_that_blocks_or_subscribes_is_closed_too_when_its_password_was_withdrawn() {
    let redis = guarded();
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream(&format!(
            "{OWN}\nmax_connections = 4\nshared_connections = 1"
        ))
        .section("[auth]\nmode = \"passthrough\"")
        .start();
    let (mut blocks, mut subscribes) = (respool.client(), respool.client());
    for client in [&mut blocks, &mut subscribes] {
        assert_eq!(client.cmd(&["AUTH", "ann", "pw"]), Value::ok());
    }
    let rules = ["ACL", "SETUSER", "ann", "<pw", ">new"];
    assert_eq!(redis.cmd(&rules), Value::ok());
    for (client, words) in [
        (&mut blocks, &["BLPOP", "list", "30"][..]),
        (&mut subscribes, &["SUBSCRIBE", "c"]),
    ] {
        let reply = client.cmd(words).text();
        assert!(reply.starts_with("WRONGPASS "), "{words:?}: {reply}");
        client.expect_end();
    }
}

#[test]
fn wrong_passwords_open_no_connections_and_long_ones_are_not_even_shown() {
    let redis = guarded();
    assert_eq!(redis.cmd(&["AUTH", "respool", "own"]), Value::ok());
    let open = ["ACL", "SETUSER", "default", "nopass"];
    assert_eq!(redis.cmd(&open), Value::ok());
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream(&format!(
            "{OWN}\nmax_connections = 4\nshared_connections = 3"
        ))
        .section("[auth]\nmax_failure_delay = \"0s\"")
        .start();
    let mut client = respool.client();
    for attempt in 0..30 {
        let reply = client
            .cmd(&["AUTH", "ann", &format!("bad{attempt}")])
            .text();
        assert!(reply.starts_with("WRONGPASS "), "{reply}");
    }
    let opened = respool.metric("respool_upstream_connects_total{result=\"ok\"}");
    assert!(opened <= 4.0, "{opened} connections were opened");
    let failed = "respool_upstream_connects_total{result=\"handshake_error\"}";
    assert_eq!(respool.metric_or_zero(failed), 0.0);
    let long = "x".repeat(16 * 1024);
    assert_eq!(client.cmd(&["AUTH", "default", &long]), Value::ok());
    let name = "x".repeat(1024);
    let reply = client.cmd(&["CLIENT", "SETNAME", &format!("{name}x")]);
    let expected = "ERR respool: a client name may measure 1 KiB";
    assert_eq!(reply, Value::error(expected));
    assert_eq!(client.cmd(&["CLIENT", "SETNAME", &name]), Value::ok());
}

#[test]
fn what_concerns_other_clients_has_to_be_permitted_by_the_server() {
    let redis = guarded();
    let rules = [
        "ACL", "SETUSER", "low", "on", ">pw", "~*", "&*", "+@all", "-@admin",
    ];
    assert_eq!(redis.cmd(&rules), Value::ok());
    let respool = Respool::with(&redis)
        .upstream(OWN)
        .section("[auth]\nmode = \"passthrough\"")
        .start();
    let mut ann = respool.client();
    assert_eq!(ann.cmd(&["AUTH", "ann", "pw"]), Value::ok());
    let id = ann.id();
    let (mut low, mut direct) = (respool.client(), redis.client());
    for client in [&mut low, &mut direct] {
        assert_eq!(client.cmd(&["AUTH", "low", "pw"]), Value::ok());
    }
    // On a shared connection, and on one of its own.
    for before in ["PING", "MULTI"] {
        assert!(!low.cmd(&[before]).is_error());
        if before == "MULTI" {
            assert_eq!(low.cmd(&["DISCARD"]), Value::ok());
            assert_eq!(low.cmd(&["WATCH", "k"]), Value::ok());
        }
        for words in [
            &["CLIENT", "LIST"][..],
            &["CLIENT", "KILL", "ID", &id],
            &["CLIENT", "UNBLOCK", &id],
            &["CLIENT", "KILL"],
        ] {
            let expected = direct.cmd(words);
            assert!(expected.is_error());
            assert_eq!(low.cmd(words), expected, "{words:?}");
        }
    }
    // Its own connection is its own business, but to Redis 6.2, and others may do what they may.
    let named = direct.cmd(&["CLIENT", "SETNAME", "n"]);
    assert_eq!(low.cmd(&["CLIENT", "SETNAME", "n"]), named);
    let list = ann.cmd(&["CLIENT", "LIST"]).text();
    assert_eq!(list.contains(" name=n "), named == Value::ok(), "{list}");
    let line = list.lines().find(|line| line.contains(" user=low "));
    let low_id = line.and_then(|line| line.strip_prefix("id=")?.split(' ').next());
    let low_id = low_id.expect("its line").to_owned();
    assert_eq!(ann.cmd(&["CLIENT", "UNBLOCK", &low_id]), Value::Int(0));
    assert_eq!(ann.cmd(&["CLIENT", "KILL", "ID", &low_id]), Value::Int(1));
    low.expect_end();
}

#[test]
fn a_user_that_is_deleted_is_nobody_from_then_on() {
    let redis = guarded();
    let respool = Respool::with(&redis)
        .upstream(&format!(
            "{OWN}\nmax_connections = 3\nshared_connections = 1"
        ))
        .section("[auth]\nmode = \"passthrough\"")
        .start();
    let mut ann = respool.client();
    assert_eq!(ann.cmd(&["AUTH", "ann", "pw"]), Value::ok());
    assert_eq!(ann.cmd(&["ACL", "WHOAMI"]), Value::bulk("ann"));
    // The server closes what was hers with it.
    assert_eq!(redis.cmd(&["ACL", "DELUSER", "ann"]), Value::Int(1));
    let mut other = respool.client();
    assert_eq!(other.cmd(&["AUTH", "secret"]), Value::ok());
    assert_eq!(other.cmd(&["ACL", "WHOAMI"]), Value::bulk("default"));
    // Whatever is left of her connection, her commands do not run as somebody else.
    match ann.try_cmd(&["ACL", "WHOAMI"]) {
        None => {}
        Some(reply) => {
            let text = reply.text();
            assert!(text.starts_with("WRONGPASS "), "{text}");
        }
    }
    // Another user of her name is another user, unless it has her password.
    let rules = ["ACL", "SETUSER", "ann", "on", ">other", "~*", "+@all"];
    assert_eq!(redis.cmd(&rules), Value::ok());
    let mut again = respool.client();
    let reply = again.cmd(&["AUTH", "ann", "pw"]).text();
    assert!(reply.starts_with("WRONGPASS "), "{reply}");
    let reply = again.cmd(&["ACL", "WHOAMI"]);
    assert_eq!(reply, Value::error("NOAUTH Authentication required."));
    assert_eq!(again.cmd(&["AUTH", "ann", "other"]), Value::ok());
    assert_eq!(again.cmd(&["ACL", "WHOAMI"]), Value::bulk("ann"));
}

#[test]
fn strangers_need_the_password_that_the_default_user_has_got_meanwhile() {
    let redis = guarded();
    assert_eq!(redis.cmd(&["AUTH", "respool", "own"]), Value::ok());
    let open = ["ACL", "SETUSER", "default", "nopass"];
    assert_eq!(redis.cmd(&open), Value::ok());
    let respool = Respool::with(&redis)
        .upstream(OWN)
        .section("[auth]\nmode = \"passthrough\"")
        .start();
    // Nobody else is there who would have the connection become another user's.
    respool.client().ping();
    let shut = ["ACL", "SETUSER", "default", "resetpass", ">secret"];
    assert_eq!(redis.cmd(&shut), Value::ok());
    let noauth = Value::error("NOAUTH Authentication required.");
    let is_asked = || respool.client().cmd(&["GET", "k"]) == noauth;
    eventually(is_asked, "strangers are asked for the password");
    let mut client = respool.client();
    assert_eq!(client.cmd(&["AUTH", "secret"]), Value::ok());
    client.ping();
}
