//! A secret of respool's own that comes or goes while it runs, and what is said of one that is wrong.

use crate::harness::{Redis, Respool, Value, eventually};

/// Starts a server with a user for respool beside the default one, which has no password.
fn with_own() -> Redis {
    let redis = Redis::start(&[]);
    let words = ["ACL", "SETUSER", "own", "on", ">pw", "~*", "&*", "+@all"];
    assert_eq!(redis.cmd(&words), Value::ok());
    redis
}

const OWN: &str = "username = \"own\"\npassword = \"pw\"";

#[test]
fn a_secret_that_comes_or_goes_is_a_reload() {
    let redis = with_own();
    let respool = Respool::start(&redis);
    let (mut client, mut amid) = (respool.client(), respool.client());
    let mut subscriber = respool.client();
    assert_eq!(
        subscriber.cmd(&["SUBSCRIBE", "c"]).items()[2],
        Value::Int(1)
    );
    for (lines, user) in [(OWN, "own"), ("", "default"), (OWN, "own")] {
        assert!(!client.cmd(&["ACL", "WHOAMI"]).is_error());
        assert_eq!(amid.cmd(&["WATCH", "k"]), Value::ok());
        assert_eq!(amid.cmd(&["MULTI"]), Value::ok());
        assert_eq!(amid.cmd(&["SET", "k", user]), Value::simple("QUEUED"));
        respool.reload(&Respool::with(&redis).upstream(lines));
        // What is under way comes to its end; nobody is cut off.
        assert_eq!(amid.cmd(&["EXEC"]), Value::Array(vec![Value::ok()]));
        eventually(
            || client.cmd(&["ACL", "WHOAMI"]) == Value::bulk(user),
            "its commands run as respool's user of now",
        );
        eventually(
            || {
                let list = redis.cmd(&["CLIENT", "LIST"]).text();
                let of_respool = list.lines().filter(|line| line.contains(" name=respool:"));
                of_respool.clone().count() > 0
                    && of_respool
                        .into_iter()
                        .all(|line| line.contains(&format!(" user={user} ")))
            },
            "no connection of the user of before is left",
        );
        eventually(
            || redis.cmd(&["PUBLISH", "c", user]).int() == 1,
            "the subscriber is subscribed again",
        );
        loop {
            let message = subscriber.reply();
            if message.items()[2] == Value::bulk(user) {
                break;
            }
        }
    }
    assert_eq!(respool.clients_of("default"), 3);
}

#[test]
fn who_has_not_authenticated_is_never_the_user_that_respool_becomes() {
    let redis = with_own();
    let passed_through = |lines: &str| {
        Respool::with(&redis)
            .upstream(lines)
            .section("[auth]\nmode = \"passthrough\"")
    };
    let respool = passed_through("").start();
    let (mut stranger, mut blocked) = (respool.client(), respool.client());
    stranger.ping();
    blocked.send(crate::harness::encode(&["BLPOP", "list", "0"]));
    eventually(
        || redis.info_number("blocked_clients") == 1,
        "somebody is blocked",
    );
    std::thread::scope(|scope| {
        let reloads = scope.spawn(|| {
            for lines in [OWN, "", OWN] {
                respool.reload(&passed_through(lines));
            }
        });
        while !reloads.is_finished() {
            assert_eq!(stranger.cmd(&["ACL", "WHOAMI"]), Value::bulk("default"));
        }
    });
    for _ in 0..50 {
        assert_eq!(stranger.cmd(&["ACL", "WHOAMI"]), Value::bulk("default"));
        let reply = respool.client().cmd(&["ACL", "WHOAMI"]);
        assert_eq!(reply, Value::bulk("default"));
    }
    // It was blocked as a user that strangers are no more.
    blocked.expect_end();
}

#[test]
fn a_server_that_wants_a_password_is_served_when_a_reload_brings_it() {
    let redis = Redis::start(&[]);
    let words = ["CONFIG", "SET", "requirepass", "secret"];
    assert_eq!(redis.cmd(&words), Value::ok());
    let respool = Respool::start(&redis);
    eventually(
        || respool.log_text().contains("set upstream.password_file"),
        "the remedy is told",
    );
    let file = respool.config().with_file_name("password");
    std::fs::write(&file, "secret\n").expect("a file");
    let lines = format!("password_file = \"{}\"", file.display());
    respool.reload(&Respool::with(&redis).upstream(&lines));
    eventually(
        || respool.client().cmd(&["PING"]) == Value::simple("PONG"),
        "clients are served",
    );
}

#[test]
fn a_wrong_password_is_told_by_the_setting_that_gives_it() {
    let redis = with_own();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "wrong\n").expect("written");
    let lines = format!("password_file = \"{}\"", file.path().display());
    for (lines, told) in [
        (
            format!("username = \"own\"\n{lines}"),
            "check upstream.username and upstream.password_file",
        ),
        (
            "username = \"own\"\npassword_env = \"OF_RESPOOL\"".to_owned(),
            "check upstream.username and upstream.password_env",
        ),
        (
            "username = \"own\"\npassword_command = [\"/bin/echo\", \"wrong\"]\npassword_next = \"bad\"".to_owned(),
            "check upstream.username, upstream.password_command and upstream.password_next",
        ),
    ] {
        let respool = Respool::with(&redis)
            .environment("OF_RESPOOL", "wrong")
            .upstream(&lines)
            .start();
        eventually(|| respool.log_text().contains(told), told);
        let log = respool.log_text();
        assert!(!log.contains("wrong\n") && !log.contains(file.path().to_str().expect("text")));
    }
}
