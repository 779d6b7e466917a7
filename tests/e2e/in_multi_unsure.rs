//! Commands of respool's own in transactions whose other commands may be answered by more than one frame each: nothing of respool's own
//! runs but in its place, and nothing that the server says in such a place reaches anybody.

use crate::harness::{
    Client, Redis, Respool, TESTED_SERVER, Value, encode, encode_all, eventually, show,
};

/// Lists scripts whose errors hold a line end on some server (seen of Redis 7.0 and 8.2, Valkey 8.1 and 9.1).
const SCRIPTS: [&str; 8] = [
    "#!lua \"x\\r\\n+injected\"\nreturn 1",
    "#!lua \"x\\r\\n+injected\\r\\n-NO\"\nreturn 1",
    "#!lua \"x\\r\\n$60\\r\\n\"\nreturn 1",
    "error('x\\r\\n+injected')",
    "error({err='x\\r\\n+injected'})",
    "return {err='x\\r\\n+injected'}",
    "return {{err='x\\r\\n$60'}, 1}",
    "return {ok='x\\r\\n+injected'}",
];

fn hello(mut client: Client, version: &str) -> Client {
    client.cmd(&["HELLO", version]);
    client
}

/// Reads what comes, up to the end that QUIT makes if nothing else does.
fn answers(client: Client, lines: &[&[&str]]) -> Vec<u8> {
    asked(client, lines).read_to_end()
}

fn asked(mut client: Client, lines: &[&[&str]]) -> Client {
    client.send(encode_all(lines));
    client.send(encode(&["QUIT"]));
    client
}

/// Writes a transaction in which all that matters stands on either side of something else.
fn mixed<'a>(
    unsure: &'a [&'a str],
    own: &'a [&'a str],
    between: &'a [&'a str],
) -> [&'a [&'a str]; 9] {
    let (multi, name, exec) = (&["MULTI"][..], &["CLIENT", "GETNAME"][..], &["EXEC"][..]);
    [
        multi, name, unsure, between, own, between, own, between, exec,
    ]
}

#[test]
fn behind_scripts_they_are_answered_as_at_the_server() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let script = &["EVAL", "return {1, KEYS[1]}", "1", "k"][..];
    let failing = &["EVAL", "return redis.call('NOSUCH')", "0"][..];
    let name = &["CLIENT", "GETNAME"][..];
    let rename = &["CLIENT", "SETNAME", "x"][..];
    let sequences: [&[&[&str]]; 7] = [
        &[script, rename, name],
        &[rename, script, name, failing, name, &["GET", "k"]],
        &[
            script,
            &["SELECT", "3"],
            name,
            failing,
            &["SET", "k", "v"],
            rename,
        ],
        // Redisson's atomic batch without results.
        &[&["EVALSHA", "0", "0"], script, &["CLIENT", "REPLY", "OFF"]],
        &[
            script,
            &["CLIENT", "REPLY", "OFF"],
            failing,
            &["CLIENT", "REPLY", "ON"],
            script,
        ],
        &[
            script,
            &["CLIENT", "KILL", "ID", "987654321"],
            &["PUBSUB", "NUMSUB", "c"],
        ],
        &[
            failing,
            &["CLIENT", "TRACKING", "on"],
            name,
            &["CLIENT", "TRACKING", "off"],
            name,
        ],
    ];
    for version in ["2", "3"] {
        for sequence in sequences {
            for end in [&["EXEC"][..], &["DISCARD"], &["NOSUCH"]] {
                let run = |client: Client| {
                    redis.flush();
                    let mut lines = vec![&["MULTI"][..]];
                    lines.extend(sequence);
                    lines.extend([end, &["EXEC"], &["CLIENT", "REPLY", "ON"], name]);
                    answers(hello(client, version), &lines)
                };
                let (direct, through) = (run(redis.client()), run(respool.client()));
                assert!(
                    direct == through,
                    "{version} {sequence:?} {end:?}\n  directly {}\n  through  {}",
                    show(&direct),
                    show(&through)
                );
            }
        }
    }
}

#[test]
fn whatever_a_script_writes_nothing_of_the_servers_own_is_shown() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let name = &["CLIENT", "GETNAME"][..];
    for version in ["2", "3"] {
        // Whoever announces bytes that never come waits for them; see below.
        for script in SCRIPTS.into_iter().filter(|script| !script.contains("$60")) {
            let eval = &["EVAL", script, "0"][..];
            let list = &["FUNCTION", "LIST", "x\r\n+injected"][..];
            for unsure in [eval, list] {
                for own in [name, &["CLIENT", "INFO"]] {
                    for between in [&["PING", "x"][..], &["SELECT", "3"], name] {
                        let lines = mixed(unsure, own, between);
                        let seen = answers(hello(respool.client(), version), &lines);
                        let text = show(&seen);
                        assert!(!text.contains("respool:"), "{version} {lines:?}: {text}");
                    }
                }
            }
        }
    }
    respool.assert_alive();
    respool.client().ping();
}

/// Directly they would be waited for as long as the client likes; here its connection is needed by others.
#[test]
fn who_is_announced_bytes_that_never_come_does_not_wait_for_ever() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 40\nreply_timeout = \"2s\"")
        .start();
    let name = &["CLIENT", "GETNAME"][..];
    let mut waiting = Vec::new();
    for version in ["2", "3"] {
        for script in SCRIPTS.into_iter().filter(|script| script.contains("$60")) {
            for own in [name, &["CLIENT", "INFO"]] {
                for between in [&["PING", "x"][..], &["SELECT", "3"], name] {
                    let eval = ["EVAL", script, "0"];
                    let lines = mixed(&eval, own, between);
                    let client = hello(respool.client(), version);
                    waiting.push((asked(client, &lines), format!("{version} {lines:?}")));
                }
            }
        }
    }
    let mut bystander = respool.client();
    for (mut client, lines) in waiting {
        bystander.ping();
        let text = show(&client.read_to_end());
        assert!(!text.contains("respool:"), "{lines}: {text}");
    }
    respool.assert_alive();
    bystander.ping();
}

/// One client's connection that is of no more use is no sign of a server that is down.
#[test]
fn who_is_announced_bytes_that_never_come_makes_nobody_doubt_the_server() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("reply_timeout = \"6s\"")
        .start();
    let script = SCRIPTS.into_iter().find(|script| script.contains("$60"));
    let eval = ["EVAL", script.expect("one of them"), "0"];
    let mut nasty = asked(
        respool.client(),
        &mixed(&eval, &["CLIENT", "GETNAME"], &["PING", "x"]),
    );
    let mut bystander = respool.client();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let is_down = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut is_down = false;
            while !is_over.load(std::sync::atomic::Ordering::SeqCst) {
                bystander.ping();
                is_down |= respool.metric("respool_server_up") == 0.0;
            }
            is_down
        });
        nasty.read_to_end();
        is_over.store(true, std::sync::atomic::Ordering::SeqCst);
        looking.join().expect("it looks")
    });
    assert!(!is_down, "the server counts as down");
    let log = respool.log_text();
    assert!(!log.contains("answered nobody"), "{log}");
}

#[test]
fn what_the_server_refuses_behind_a_script_does_not_run() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let user = ["ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all"];
    let mut victim = respool.client();
    let id = victim.id();
    for script in SCRIPTS {
        redis.cmd(&user);
        let mut client = respool.client();
        assert_eq!(client.cmd(&["AUTH", "u", "p"]), Value::ok());
        for words in [
            &["MULTI"][..],
            &["EVAL", script, "0"],
            &["CLIENT", "KILL", "ID", &id],
        ] {
            assert!(!client.cmd(words).is_error(), "{words:?}");
        }
        // Redis 6.2 permits a command or does not.
        let less = if TESTED_SERVER.is_7_or_later() {
            "-client|kill"
        } else {
            "-client"
        };
        assert_eq!(redis.cmd(&["ACL", "SETUSER", "u", less]), Value::ok());
        client.send(encode_all(&[&["EXEC"], &["QUIT"]]));
        client.read_to_end();
        victim.ping();
    }
}

#[test]
fn a_subscription_and_they_do_not_stand_in_one_transaction() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut victim = respool.client();
    let id = victim.id();
    let kill = &["CLIENT", "KILL", "ID", &id][..];
    let name = &["CLIENT", "GETNAME"][..];
    for version in ["2", "3"] {
        for lines in [
            &[&["SUBSCRIBE", "a", "b"][..], kill, name][..],
            &[&["SUBSCRIBE", "a"], &["PUBLISH", "a", "m"], name, kill],
            &[name, kill, &["PSUBSCRIBE", "a*"]],
            &[&["UNSUBSCRIBE", "a", "b"], name, kill],
            &[name, &["UNSUBSCRIBE"], kill],
        ] {
            let mut client = hello(respool.client(), version);
            assert_eq!(client.cmd(&["MULTI"]), Value::ok());
            let replies: Vec<Value> = lines.iter().map(|words| client.cmd(words)).collect();
            assert!(replies.iter().any(Value::is_error), "{replies:?}");
            let aborted = client.cmd(&["EXEC"]).text();
            assert!(aborted.starts_with("EXECABORT"), "{aborted}");
            client.ping();
            assert!(client.cmd(name).is_null());
            victim.ping();
        }
        // Who wants no replies would get them all.
        let mut client = hello(respool.client(), version);
        client.send(encode_all(&[
            &["CLIENT", "REPLY", "OFF"],
            &["MULTI"],
            &["SUBSCRIBE", "a"],
            &["EXEC"],
            &["CLIENT", "REPLY", "ON"],
        ]));
        assert_eq!(client.reply(), Value::ok());
        client.ping();
    }
    eventually(
        || redis.cmd(&["PUBSUB", "CHANNELS"]).items().is_empty(),
        "nobody is subscribed",
    );
}

#[test]
fn without_the_permission_to_ping_they_are_refused_behind_scripts_only() {
    let redis = Redis::start(&[]);
    let user = [
        "ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all", "-ping",
    ];
    redis.cmd(&user);
    let respool = Respool::start(&redis);
    let name = &["CLIENT", "GETNAME"][..];
    let lines = [
        &["AUTH", "u", "p"][..],
        &["MULTI"],
        name,
        &["EVAL", "return 1", "0"],
        &["EXEC"],
    ];
    let (direct, through) = (
        answers(redis.client(), &lines),
        answers(respool.client(), &lines),
    );
    assert_eq!(show(&through), show(&direct));
    let mut client = respool.client();
    assert_eq!(client.cmd(&["AUTH", "u", "p"]), Value::ok());
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    assert_eq!(
        client.cmd(&["EVAL", "return 1", "0"]),
        Value::simple("QUEUED")
    );
    for _ in 0..2 {
        let refused = client.cmd(name).text();
        assert!(refused.contains("PING"), "{refused}");
    }
    let aborted = client.cmd(&["EXEC"]).text();
    assert!(aborted.starts_with("EXECABORT"), "{aborted}");
    assert!(client.cmd(&["GET", "k"]).is_null());
}
