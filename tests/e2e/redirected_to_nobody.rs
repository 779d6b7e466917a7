//! CLIENT TRACKING REDIRECT to a client that has left: whoever redirects is told of each invalidation that reached nobody, as directly.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::harness::{
    Client, Redis, Respool, ScriptedAct, ScriptedServer, Value, encode_line, eventually, words,
};

#[track_caller]
fn ok(client: &mut Client, line: &str) {
    client.send(encode_line(line));
    assert_eq!(client.reply(), Value::ok(), "{line}");
}

/// Connects a client of RESP3, and tells its number.
fn resp3(connect: &dyn Fn() -> Client) -> (Client, String) {
    let mut client = connect();
    assert!(!client.cmd(&["HELLO", "3"]).is_error());
    let id = client.id();
    (client, id)
}

fn broken(id: &str) -> Vec<u8> {
    format!(">2\r\n$21\r\ntracking-redir-broken\r\n:{id}\r\n").into_bytes()
}

/// Tells what is told to a client that redirects to another one, which `leaves` ends, around which two keys are written that are tracked.
fn told(
    connect: &dyn Fn() -> Client,
    redis: &Redis,
    hello: &str,
    leaves: &dyn Fn(Client, &str, &mut Client),
) -> Vec<String> {
    let (mut target, mut owner) = (connect(), connect());
    owner.cmd(&words(hello));
    let id = target.id();
    ok(&mut owner, &format!("CLIENT TRACKING ON REDIRECT {id}"));
    for key in ["k", "l"] {
        owner.cmd(&["GET", key]);
        // It has a place in its group from then on.
        target.cmd(&["GET", key]);
    }
    let mut writer = redis.client();
    writer.ping();
    leaves(target, &id, &mut writer);
    for _ in 0..2 {
        assert_eq!(writer.reply(), Value::ok());
    }
    let shown =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&format!(":{id}\r\n"), ":its id\r\n");
    let mut told = Vec::new();
    let pushes = usize::from(hello == "HELLO 3");
    told.extend((0..2 * pushes).map(|_| shown(&owner.reply_bytes())));
    let mut info = String::new();
    eventually(
        || {
            owner.send(encode_line("CLIENT TRACKINGINFO"));
            info = shown(&owner.reply_bytes());
            info.contains("broken_redirect")
        },
        "it is told",
    );
    told.push(info);
    // And each time anew.
    for value in ["2", "3"] {
        owner.send(encode_line("GET k"));
        told.push(shown(&owner.reply_bytes()));
        redis.cmd(&["SET", "k", value]);
        told.extend((0..pushes).map(|_| shown(&owner.reply_bytes())));
    }
    let line = owner.cmd(&["CLIENT", "INFO"]).text();
    let flags = line.split(' ').find(|field| field.starts_with("flags="));
    told.push(flags.expect("its flags").to_owned());
    told
}

/// Starts a respool with a group whose clients show that time has passed.
fn with_brief(redis: &Redis) -> Respool {
    Respool::with(redis)
        .top("workers = 1")
        .section(
            "[[group]]\nname = \"brief\"\nmatch = { client_name = \"brief\" }\n\
             idle_timeout = \"300ms\"",
        )
        .start()
}

/// Waits until one of so many clients has left, and respool has done since what time makes due.
fn has_been_seen(respool: &Respool, clients: usize) {
    eventually(
        || respool.clients_of("default") < clients,
        "the target is gone",
    );
    // All are looked at when this one is found to be idle.
    respool.client_named("brief").expect_end();
}

#[test]
fn what_was_for_a_client_that_has_left_is_told_as_broken() {
    let redis = Redis::start(&[]);
    let respool = with_brief(&redis);
    let write = |writer: &mut Client| {
        writer.send([encode_line("SET k 1"), encode_line("SET l 1")].concat())
    };
    for hello in ["HELLO 2", "HELLO 3"] {
        let direct = told(&|| redis.client(), &redis, hello, &|target, id, writer| {
            drop(target);
            eventually(
                || redis.cmd(&["CLIENT", "LIST", "ID", id]).text().is_empty(),
                "the target is gone",
            );
            write(writer);
        });
        // The server has sent what it invalidates before it can see anything of what respool does about it.
        let through = told(&|| respool.client(), &redis, hello, &|target, _, writer| {
            let before = respool.clients_of("default");
            redis.pause();
            write(writer);
            drop(target);
            has_been_seen(&respool, before);
            redis.resume();
        });
        assert_eq!(through, direct, "{hello}");
        redis.flush();
    }
}

#[test]
fn what_was_for_it_is_told_though_a_transaction_moves_the_redirection() {
    let redis = Redis::start(&[]);
    let respool = with_brief(&redis);
    let connect = || respool.client();
    for round in 0..4 {
        let ((mut one, one_id), (mut two, two_id)) = (resp3(&connect), resp3(&connect));
        let (mut owner, _) = resp3(&connect);
        one.cmd(&["GET", "k"]);
        ok(&mut owner, &format!("CLIENT TRACKING ON REDIRECT {one_id}"));
        owner.cmd(&["GET", "k"]);
        ok(&mut owner, "MULTI");
        owner.send(encode_line(&format!(
            "CLIENT TRACKING ON REDIRECT {two_id}"
        )));
        assert_eq!(owner.reply(), Value::simple("QUEUED"));
        let mut writer = redis.client();
        writer.ping();
        let before = respool.clients_of("default");
        redis.pause();
        writer.send(encode_line(&format!("SET k {round}")));
        drop(one);
        has_been_seen(&respool, before);
        owner.send(encode_line("EXEC"));
        redis.resume();
        assert_eq!(writer.reply(), Value::ok());
        // They come on two connections.
        let mut told = [owner.reply_bytes(), owner.reply_bytes()];
        told.sort();
        assert_eq!(told, [b"*1\r\n+OK\r\n".to_vec(), broken(&one_id)]);
        let info = format!("{:?}", owner.cmd(&["CLIENT", "TRACKINGINFO"]));
        assert!(!info.contains("broken"), "{info}");
        let line = owner.cmd(&["CLIENT", "INFO"]).text();
        assert!(line.contains(" flags=t "), "{line}");
        owner.cmd(&["GET", "k"]);
        redis.cmd(&["SET", "k", "moved"]);
        assert!(format!("{:?}", two.reply()).contains("invalidate"));
    }
}

/// Checks that no client has this number any more, as one that `connect` makes is told.
fn has_left(connect: &dyn Fn() -> Client, id: &str) {
    let mut other = connect();
    eventually(
        || other.cmd(&["CLIENT", "LIST", "ID", id]).text().is_empty(),
        "the target is gone",
    );
}

#[test]
fn a_transaction_redirects_to_nobody_who_has_left_before_it_runs() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    let run = |connect: &dyn Fn() -> Client, hello: &str, before: &str, queued: &[&str]| {
        let (mut owner, mut target) = (connect(), connect());
        owner.cmd(&words(hello));
        let id = target.id();
        if !before.is_empty() {
            ok(&mut owner, &before.replace("ID", &id));
            owner.cmd(&["GET", "k"]);
        }
        ok(&mut owner, "MULTI");
        for line in queued {
            owner.send(encode_line(&line.replace("ID", &id)));
            assert_eq!(owner.reply(), Value::simple("QUEUED"));
        }
        drop(target);
        has_left(connect, &id);
        owner.send(encode_line("EXEC"));
        let mut reply = owner.reply_bytes();
        if reply == broken(&id) {
            // Respool cannot know whether something was to go there still.
            assert!(!before.is_empty(), "nothing was redirected there yet");
            reply = owner.reply_bytes();
        }
        let reply = String::from_utf8_lossy(&reply).into_owned();
        assert!(
            reply.contains("does not exist"),
            "{hello}, {before:?}, {queued:?}: {reply}"
        );
        let mut info = String::new();
        let ends = if queued[0].ends_with("OFF") || before.is_empty() {
            "off"
        } else {
            redis.cmd(&["SET", "k", "1"]);
            "broken_redirect"
        };
        eventually(
            || {
                owner.send(encode_line("CLIENT TRACKINGINFO"));
                info = String::from_utf8_lossy(&owner.reply_bytes())
                    .replace(&format!(":{id}\r\n"), ":its id\r\n");
                info.contains(ends)
            },
            "it is told what holds",
        );
        (reply, info)
    };
    let on = "CLIENT TRACKING ON REDIRECT ID";
    for hello in ["HELLO 2", "HELLO 3"] {
        for before in ["", on] {
            for queued in [&[on][..], &["CLIENT TRACKING OFF", on], &[on, "SET l 1"]] {
                let direct = run(&|| redis.client(), hello, before, queued);
                for _ in 0..4 {
                    let through = run(&|| respool.client(), hello, before, queued);
                    assert_eq!(through, direct, "{hello}, {before:?}, {queued:?}");
                }
            }
        }
    }
}

/// Tells the numbers of the server's connections to which something is redirected.
fn redirected_to(redis: &Redis) -> Vec<String> {
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    let fields = list.split([' ', '\n']);
    let to = fields.filter_map(|field| field.strip_prefix("redir="));
    to.filter(|to| !["-1", "0"].contains(to))
        .map(str::to_owned)
        .collect()
}

#[test]
fn who_redirects_to_nobody_is_told_when_the_server_ends_that_connection() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    for hello in ["HELLO 2", "HELLO 3"] {
        let (mut owner, mut target) = (respool.client(), respool.client());
        owner.cmd(&words(hello));
        let id = target.id();
        ok(&mut owner, &format!("CLIENT TRACKING ON REDIRECT {id}"));
        owner.cmd(&["GET", "k"]);
        drop(target);
        has_left(&|| respool.client(), &id);
        let to = redirected_to(&redis);
        assert_eq!(to.len(), 1, "{to:?}");
        assert_eq!(redis.cmd(&["CLIENT", "KILL", "ID", &to[0]]).int(), 1);
        let is_told = |owner: &mut Client| {
            if hello == "HELLO 3" {
                assert_eq!(owner.reply_bytes(), broken(&id));
            }
            eventually(
                || {
                    let info = owner.cmd(&["CLIENT", "TRACKINGINFO"]);
                    format!("{info:?}").contains("broken_redirect")
                },
                "it is told",
            );
        };
        is_told(&mut owner);
        // The server says so from now on.
        redis.cmd(&["SET", "k", hello]);
        is_told(&mut owner);
        ok(&mut owner, "CLIENT TRACKING OFF");
        owner.ping();
    }
}

/// Whoever tracks nothing any more misses nothing that the connection was to bring still.
#[test]
fn who_has_switched_tracking_off_stays_when_the_server_ends_that_connection() {
    let is_ended = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&is_ended);
    // The connection that has switched it off: each is served by a thread.
    let switched = Mutex::new(None);
    let server = ScriptedServer::start(move |words| {
        let this = Some(std::thread::current().id());
        let mut switched = switched.lock().expect("no test panics here");
        if words.starts_with(&["client", "tracking", "off"].map(str::to_owned)) {
            *switched = this;
        }
        let is_asked = words == ["ping"] && switched.is_some() && *switched != this;
        if is_asked && !ends.swap(true, Ordering::SeqCst) {
            return ScriptedAct::SayAndClose("");
        }
        ScriptedAct::Usual
    });
    let respool = Respool::before(server.addr())
        .top("workers = 1")
        .upstream("health_interval = \"0s\"\nping_interval = \"0s\"")
        .start();
    let (mut owner, mut target) = (respool.client(), respool.client());
    let id = target.id();
    ok(&mut owner, &format!("CLIENT TRACKING ON REDIRECT {id}"));
    ok(&mut owner, "CLIENT TRACKING OFF");
    eventually(
        || respool.metric("respool_upstream_losses_total{cause=\"closed\"}") > 0.0,
        "the connection is lost",
    );
    assert!(is_ended.load(Ordering::SeqCst));
    ok(&mut owner, "GET k");
    ok(&mut target, "GET k");
}

#[test]
fn of_several_that_lead_to_nobody_no_more_end_than_are_waited_for() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 7\nshared_connections = 1")
        .start();
    let mut owners: Vec<Client> = (0..3)
        .map(|_| {
            let (mut owner, mut target) = (respool.client(), respool.client());
            let id = target.id();
            ok(&mut owner, &format!("CLIENT TRACKING ON REDIRECT {id}"));
            drop(target);
            has_left(&|| respool.client(), &id);
            owner
        })
        .collect();
    // It takes a socket of its own.
    let mut subscriber = respool.client();
    assert!(!subscriber.cmd(&["SUBSCRIBE", "channel"]).is_error());
    let broken = owners.iter_mut().filter_map(|owner| {
        let info = owner.cmd(&["CLIENT", "TRACKINGINFO"]);
        format!("{info:?}")
            .contains("broken_redirect")
            .then_some(())
    });
    assert_eq!(broken.count(), 1);
}

#[test]
fn the_connection_that_leads_to_nobody_is_given_to_who_waits_for_one() {
    let redis = Redis::start(&[]);
    for (bounds, group) in [
        ("max_connections = 3\nshared_connections = 1", ""),
        (
            "max_connections = 9\nshared_connections = 1",
            "[[group]]\nname = \"few\"\nmatch = { client_name = \"few\" }\nmax_pinned = 2",
        ),
    ] {
        let respool = Respool::with(&redis)
            .top("workers = 1")
            .upstream(bounds)
            .section(group)
            .start();
        let connect = || respool.client_named("few");
        let (target, id) = resp3(&connect);
        let (mut owner, _) = resp3(&connect);
        let (mut next, next_id) = resp3(&connect);
        ok(&mut owner, &format!("CLIENT TRACKING ON REDIRECT {id}"));
        owner.cmd(&["GET", "k"]);
        drop(target);
        eventually(
            || owner.cmd(&["CLIENT", "LIST", "ID", &id]).text().is_empty(),
            "the target is gone",
        );
        // Another one, which may miss what invalidates from then on.
        let mut other = connect();
        ok(&mut other, "WATCH k");
        assert_eq!(owner.reply_bytes(), broken(&id));
        let info = format!("{:?}", owner.cmd(&["CLIENT", "TRACKINGINFO"]));
        assert!(info.contains("broken_redirect"), "{info}");
        eventually(
            || {
                owner.cmd(&["GET", "k"]);
                let list = redis.cmd(&["CLIENT", "LIST"]).text();
                let fields: Vec<&str> = list.split([' ', '\n']).collect();
                let to = fields
                    .iter()
                    .filter_map(|field| field.strip_prefix("redir="))
                    .find(|to| *to != "-1");
                to.is_some_and(|to| !fields.contains(&format!("id={to}").as_str()))
            },
            "the server has seen that it is closed",
        );
        redis.cmd(&["SET", "k", "1"]);
        assert_eq!(owner.reply_bytes(), broken(&id), "the server says so");
        ok(&mut other, "UNWATCH");
        // Who redirects itself, to one that is there.
        ok(
            &mut owner,
            &format!("CLIENT TRACKING ON REDIRECT {next_id}"),
        );
        owner.cmd(&["GET", "k"]);
        redis.cmd(&["SET", "k", "2"]);
        assert!(format!("{:?}", next.reply()).contains("invalidate"));
        drop(next);
        let (mut last, last_id) = resp3(&connect);
        eventually(
            || {
                last.cmd(&["CLIENT", "LIST", "ID", &next_id])
                    .text()
                    .is_empty()
            },
            "it is gone too",
        );
        owner.send(encode_line(&format!(
            "CLIENT TRACKING ON REDIRECT {last_id}"
        )));
        assert_eq!(owner.reply_bytes(), broken(&next_id));
        assert_eq!(owner.reply(), Value::ok());
        owner.cmd(&["GET", "k"]);
        redis.cmd(&["SET", "k", "3"]);
        assert!(format!("{:?}", last.reply()).contains("invalidate"));
        redis.flush();
    }
}
