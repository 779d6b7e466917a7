//! CLIENT TRACKING: the connection it needs, invalidations to whom they belong, redirections between respool's clients.

use std::time::Duration;

use crate::harness::{Client, Redis, Respool, Value, encode, eventually, show, words};

#[track_caller]
fn ok(client: &mut Client, line: &str) {
    let words = words(line);
    assert_eq!(client.cmd(&words), Value::ok(), "{line}");
}

fn invalidation(key: &str) -> Vec<u8> {
    let length = key.len();
    format!(">2\r\n$10\r\ninvalidate\r\n*1\r\n${length}\r\n{key}\r\n").into_bytes()
}

fn invalidation_message(value: &str) -> Vec<u8> {
    format!("*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n{value}").into_bytes()
}

#[test]
fn a_connection_is_lent_from_on_to_off() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    let mut client = respool.resp3_client();
    for options in ["", " BCAST PREFIX a PREFIX b", " OPTIN", " OPTOUT NOLOOP"] {
        let before = respool.pins("tracking");
        ok(&mut client, &format!("CLIENT TRACKING ON{options}"));
        assert_eq!(respool.pins("tracking"), before + 1.0, "{options}");
        assert!(!respool.can_lend(), "lent while tracking is on{options}");
        ok(&mut client, "CLIENT TRACKING OFF");
        eventually(|| respool.can_lend(), "given back when tracking is off");
        client.ping();
    }
    // What ends with RESET and with the client.
    ok(&mut client, "CLIENT TRACKING ON");
    assert!(!respool.can_lend());
    assert_eq!(client.cmd(&["RESET"]), Value::simple("RESET"));
    eventually(|| respool.can_lend(), "given back by RESET");
    ok(&mut client, "CLIENT TRACKING ON");
    assert!(!respool.can_lend());
    drop(client);
    eventually(|| respool.can_lend(), "given back when its client has left");
}

#[test]
fn what_is_refused_or_only_asks_keeps_no_connection() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    let mut client = respool.resp3_client();
    for line in [
        "CLIENT TRACKINGINFO",
        "CLIENT GETREDIR",
        "CLIENT CACHING YES",
        "CLIENT TRACKING OFF",
        "CLIENT TRACKING MAYBE",
        "CLIENT TRACKING OFF FOO",
        "CLIENT TRACKING",
    ] {
        let words = words(line);
        client.cmd(&words);
        assert_eq!(respool.pins("tracking"), 0.0, "{line}");
        assert!(respool.can_lend(), "{line}");
    }
    for line in [
        "CLIENT TRACKING ON FOO",
        "CLIENT TRACKING ON PREFIX a",
        "CLIENT TRACKING ON OPTIN OPTOUT",
        "CLIENT TRACKING ON BCAST PREFIX a PREFIX ab",
        "CLIENT TRACKING ON REDIRECT 999999999",
        "CLIENT TRACKING ON REDIRECT abc",
        "CLIENT TRACKING ON REDIRECT",
    ] {
        let words = words(line);
        assert!(client.cmd(&words).is_error(), "{line}");
        eventually(|| respool.can_lend(), line);
    }
}

#[test]
fn the_next_user_of_the_connection_sees_nothing_of_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    for ends in ["CLIENT TRACKING OFF", "RESET", ""] {
        let mut client = respool.resp3_client();
        ok(&mut client, "CLIENT TRACKING ON BCAST");
        if !ends.is_empty() {
            client.cmd(&words(ends));
        }
        drop(client);
        let mut next = respool.resp3_client();
        eventually(|| next.cmd(&["WATCH", "k"]) == Value::ok(), "lent again");
        redis.cmd(&["SET", "k", ends]);
        for _ in 0..3 {
            next.ping();
        }
        assert_eq!(next.cmd(&["UNWATCH"]), Value::ok());
        let flags = redis.cmd(&["CLIENT", "LIST"]).text();
        assert!(!flags.contains("flags=t"), "{flags}");
    }
}

#[test]
fn invalidations_reach_their_client_only() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let (mut one, mut two, mut plain) = (
        respool.resp3_client(),
        respool.resp3_client(),
        respool.resp3_client(),
    );
    ok(&mut one, "CLIENT TRACKING ON");
    ok(&mut two, "CLIENT TRACKING ON");
    for (client, key) in [(&mut one, "a"), (&mut two, "b"), (&mut plain, "a")] {
        assert_eq!(client.cmd(&["GET", key]), Value::Null);
    }
    ok(&mut plain, "MSET a 1 b 2");
    assert_eq!(one.reply_bytes(), invalidation("a"));
    assert_eq!(two.reply_bytes(), invalidation("b"));
    for client in [&mut one, &mut two, &mut plain] {
        client.ping();
    }
    // One that is told while a transaction of its own is open, or while it blocks.
    assert_eq!(one.cmd(&["GET", "a"]), Value::bulk("1"));
    ok(&mut one, "MULTI");
    ok(&mut plain, "SET a 3");
    assert_eq!(one.reply_bytes(), invalidation("a"));
    assert_eq!(one.cmd(&["EXEC"]), Value::Array(vec![]));
    assert_eq!(one.cmd(&["GET", "a"]), Value::bulk("3"));
    one.send(encode(&["BLPOP", "list", "0"]));
    eventually(|| redis.info("blocked_clients") == "1", "blocked");
    ok(&mut plain, "SET a 4");
    assert_eq!(one.reply_bytes(), invalidation("a"));
    assert_eq!(plain.cmd(&["RPUSH", "list", "x"]).int(), 1);
    assert_eq!(one.reply().items()[1], Value::bulk("x"));
}

#[test]
fn the_protocol_may_change_while_tracking_is_on() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut client = respool.resp3_client();
    ok(&mut client, "CLIENT TRACKING ON");
    client.cmd(&["HELLO", "2"]);
    assert_eq!(client.cmd(&["GET", "k"]), Value::NullBulk);
    redis.cmd(&["SET", "k", "1"]);
    // Redis has no way to tell a RESP2 client.
    client.ping();
    client.cmd(&["HELLO", "3"]);
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("1"));
    redis.cmd(&["SET", "k", "2"]);
    assert_eq!(client.reply_bytes(), invalidation("k"));
    client.ping();
}

#[test]
fn tracking_switched_by_a_transaction_is_settled_with_the_server() {
    let redis = Redis::start(&[]);
    let respool = Respool::lending_one(&redis, "100ms").start();
    let mut client = respool.resp3_client();
    ok(&mut client, "MULTI");
    let queued = Value::simple("QUEUED");
    assert_eq!(client.cmd(&["CLIENT", "TRACKING", "ON"]), queued);
    assert_eq!(client.cmd(&["GET", "k"]), queued);
    assert_eq!(
        client.cmd(&["EXEC"]),
        Value::Array(vec![Value::ok(), Value::Null])
    );
    redis.cmd(&["SET", "k", "1"]);
    assert_eq!(client.reply_bytes(), invalidation("k"));
    assert!(!respool.can_lend());
    let info = client.cmd(&["CLIENT", "INFO"]).text();
    assert!(info.contains(" flags=t "), "{info}");
    ok(&mut client, "MULTI");
    assert_eq!(client.cmd(&["CLIENT", "TRACKING", "OFF"]), queued);
    assert_eq!(client.cmd(&["EXEC"]), Value::Array(vec![Value::ok()]));
    eventually(|| respool.can_lend(), "given back after that EXEC");
}

#[test]
fn a_database_selected_by_a_transaction_is_known_while_tracking() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    redis.cmd(&["SET", "k", "zero"]);
    let mut client = respool.resp3_client();
    ok(&mut client, "CLIENT TRACKING ON");
    ok(&mut client, "MULTI");
    client.cmd(&["SELECT", "5"]);
    client.cmd(&["EXEC"]);
    assert_eq!(client.cmd(&["GET", "k"]), Value::Null);
    ok(&mut client, "SELECT 0");
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("zero"));
}

/// Redis 6.2 writes them between the elements of EXEC's reply, all others behind it.
#[test]
fn what_a_transaction_invalidates_of_its_own_comes_where_it_does_directly() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let name = &["CLIENT", "GETNAME"][..];
    let (set_a, set_b) = (&["SET", "a", "x"][..], &["SET", "b", "y"][..]);
    for own in [&["PING"][..], name] {
        let run = |mut client: Client| {
            redis.flush();
            assert!(!client.cmd(&["HELLO", "3"]).is_error());
            ok(&mut client, "CLIENT TRACKING ON");
            assert_eq!(client.cmd(&["MGET", "a", "b"]).items().len(), 2);
            for line in [
                &["MULTI"][..],
                set_a,
                own,
                &["GET", "b"],
                set_b,
                own,
                &["EXEC"],
                &["GET", "a"],
                &["QUIT"],
            ] {
                client.send(encode(line));
            }
            show(&client.read_to_end())
        };
        let direct = run(redis.client());
        assert_eq!(run(respool.client()), direct);
        assert_eq!(direct.matches("invalidate").count(), 2, "{direct}");
    }
}

/// Tells whether a connection at the server redirects.
fn redirects(redis: &Redis) -> bool {
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    let fields = list.split([' ', '\n']);
    let mut to = fields.filter_map(|field| field.strip_prefix("redir="));
    to.any(|id| id != "-1")
}

#[test]
fn redirected_invalidations_reach_a_resp2_subscriber() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    for round in 0..4 {
        let mut listener = respool.client();
        let id = listener.id();
        // Every other round both are on the same worker.
        let between = (round % 2 == 0).then(|| respool.client());
        let mut client = respool.client();
        ok(&mut client, &format!("CLIENT TRACKING ON REDIRECT {id}"));
        assert_eq!(client.cmd(&["CLIENT", "GETREDIR"]).int().to_string(), id);
        let key = format!("key-{round}");
        let early = format!("early-{round}");
        assert_eq!(client.cmd(&["GET", &early]), Value::NullBulk);
        // Nobody is subscribed: dropped, as the server does, unless it is still on its way when the subscription comes.
        redis.cmd(&["SET", &early, "1"]);
        let confirmed = listener.cmd(&["SUBSCRIBE", "__redis__:invalidate"]);
        assert_eq!(confirmed.items()[2], Value::Int(1));
        assert_eq!(client.cmd(&["GET", &key]), Value::NullBulk);
        redis.cmd(&["SET", &key, "2"]);
        let of = |key: &str| invalidation_message(&format!("*1\r\n${}\r\n{key}\r\n", key.len()));
        let mut heard = listener.reply_bytes();
        if heard == of(&early) {
            heard = listener.reply_bytes();
        }
        assert_eq!(heard, of(&key));
        assert_eq!(client.cmd(&["GET", &key]), Value::bulk("2"));
        redis.cmd(&["FLUSHALL"]);
        assert_eq!(listener.reply_bytes(), invalidation_message("$-1\r\n"));
        client.ping();
        ok(&mut client, "CLIENT TRACKING OFF");
        assert_eq!(client.cmd(&["CLIENT", "GETREDIR"]), Value::Int(-1));
        drop(between);
    }
}

#[test]
fn redirected_invalidations_reach_a_resp3_client() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    for round in 0..4 {
        let mut listener = respool.resp3_client();
        let id = listener.id();
        let between = (round % 2 == 0).then(|| respool.client());
        let mut client = respool.resp3_client();
        ok(
            &mut client,
            &format!("CLIENT TRACKING ON BCAST PREFIX p: REDIRECT {id} NOLOOP"),
        );
        // Told amid whatever the listener does.
        listener.send(encode(&["BLPOP", "none", "0"]));
        eventually(|| redis.info("blocked_clients") == "1", "blocked");
        ok(&mut client, "SET p:own 1");
        redis.cmd(&["SET", "p:theirs", "1"]);
        assert_eq!(listener.reply_bytes(), invalidation("p:theirs"));
        redis.cmd(&["RPUSH", "none", "x"]);
        assert_eq!(listener.reply().items()[1], Value::bulk("x"));
        redis.cmd(&["FLUSHALL"]);
        assert_eq!(
            listener.reply_bytes(),
            b">2\r\n$10\r\ninvalidate\r\n_\r\n".to_vec()
        );
        client.ping();
        drop((client, between));
        eventually(|| !redirects(&redis), "nobody redirects");
        redis.cmd(&["SET", "p:theirs", "2"]);
        listener.ping();
    }
}

#[test]
fn a_client_may_redirect_to_itself() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut client = respool.resp3_client();
    let id = client.id();
    ok(&mut client, &format!("CLIENT TRACKING ON REDIRECT {id}"));
    assert_eq!(client.cmd(&["GET", "k"]), Value::Null);
    redis.cmd(&["SET", "k", "1"]);
    assert_eq!(client.reply_bytes(), invalidation("k"));
}

#[test]
fn respools_own_numbers_are_all_a_client_sees() {
    let redis = Redis::start(&[]);
    // Numbers of the server that no client of respool has.
    for _ in 0..50 {
        redis.client().ping();
    }
    let respool = Respool::start(&redis);
    let mut listener = respool.client();
    let id: i64 = listener.cmd(&["CLIENT", "ID"]).int();
    for mut client in [respool.client(), respool.resp3_client()] {
        ok(&mut client, &format!("CLIENT TRACKING ON REDIRECT {id}"));
        let info = client.cmd(&["CLIENT", "TRACKINGINFO"]);
        let redirect = match &info {
            Value::Map(pairs) => pairs[1].1.clone(),
            flat => flat.items()[3].clone(),
        };
        assert_eq!(redirect, Value::Int(id), "{info:?}");
        assert_eq!(client.cmd(&["CLIENT", "GETREDIR"]), Value::Int(id));
        let line = client.cmd(&["CLIENT", "INFO"]).text();
        // Redis 6.2 has no field behind this one.
        let redir = format!("redir={id}");
        let mut fields = line.split_whitespace();
        assert!(fields.any(|field| field == redir), "{line}");
        assert!(line.contains(" flags=t "), "{line}");
        let twice = format!("CLIENT TRACKING ON REDIRECT {id} REDIRECT {id}");
        assert_eq!(
            client.cmd(&words(&twice)),
            Value::error("ERR A client can only redirect to a single other client")
        );
        let nobody = ["CLIENT", "TRACKING", "ON", "REDIRECT", "40"];
        assert_eq!(
            client.cmd(&nobody),
            Value::error("ERR The client ID you want redirect to does not exist")
        );
        // Neither changed anything.
        assert_eq!(client.cmd(&["CLIENT", "GETREDIR"]), Value::Int(id));
        ok(
            &mut client,
            &format!("CLIENT TRACKING OFF REDIRECT {id} NOLOOP"),
        );
        assert_eq!(client.cmd(&["CLIENT", "GETREDIR"]), Value::Int(-1));
    }
}

#[test]
fn a_redirection_may_be_moved_to_another_client() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let (mut first, mut second, mut client) = (
        respool.resp3_client(),
        respool.resp3_client(),
        respool.resp3_client(),
    );
    let (one, two) = (first.id(), second.id());
    ok(&mut client, &format!("CLIENT TRACKING ON REDIRECT {one}"));
    client.cmd(&["GET", "k"]);
    redis.cmd(&["SET", "k", "1"]);
    assert_eq!(first.reply_bytes(), invalidation("k"));
    ok(&mut client, &format!("CLIENT TRACKING ON REDIRECT {two}"));
    assert_eq!(client.cmd(&["CLIENT", "GETREDIR"]).int().to_string(), two);
    client.cmd(&["GET", "k"]);
    redis.cmd(&["SET", "k", "2"]);
    assert_eq!(second.reply_bytes(), invalidation("k"));
    first.ping();
    // Without REDIRECT it ends, and the client is told itself.
    ok(&mut client, "CLIENT TRACKING ON");
    assert_eq!(client.cmd(&["CLIENT", "GETREDIR"]), Value::Int(0));
    client.cmd(&["GET", "k"]);
    redis.cmd(&["SET", "k", "3"]);
    assert_eq!(client.reply_bytes(), invalidation("k"));
    second.ping();
}

#[test]
fn who_redirects_is_told_when_the_other_has_left() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut listener = respool.resp3_client();
    let id = listener.id();
    let (mut two, mut three) = (respool.client(), respool.resp3_client());
    for client in [&mut two, &mut three] {
        ok(client, &format!("CLIENT TRACKING ON REDIRECT {id}"));
        client.cmd(&["GET", "k"]);
    }
    drop(listener);
    let told = format!(">2\r\n$21\r\ntracking-redir-broken\r\n:{id}\r\n").into_bytes();
    let broken = |client: &mut Client| {
        let info = client.cmd(&["CLIENT", "TRACKINGINFO"]);
        format!("{info:?}").contains("broken_redirect")
    };
    eventually(
        || three.cmd(&["CLIENT", "LIST", "ID", &id]).text().is_empty(),
        "the listener is gone",
    );
    // Each time something would have been sent, as the server does.
    for value in ["1", "2", "3"] {
        redis.cmd(&["SET", "k", value]);
        assert_eq!(three.reply_bytes(), told);
        three.cmd(&["GET", "k"]);
        two.cmd(&["GET", "k"]);
    }
    assert!(broken(&mut two) && broken(&mut three));
    assert_eq!(
        three.cmd(&["CLIENT", "GETREDIR"]).int().to_string(),
        id,
        "still its number"
    );
    let mut another = respool.resp3_client();
    let id = another.id();
    ok(&mut three, &format!("CLIENT TRACKING ON REDIRECT {id}"));
    three.cmd(&["GET", "k"]);
    redis.cmd(&["SET", "k", "4"]);
    assert_eq!(another.reply_bytes(), invalidation("k"));
}

#[test]
fn redirections_give_their_connections_back() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 3\nshared_connections = 1\nborrow_timeout = \"100ms\"")
        .start();
    let mut listener = respool.resp3_client();
    let id = listener.id();
    let lends_two = || {
        let mut both = [respool.client(), respool.client()];
        both.iter_mut()
            .all(|client| client.cmd(&["WATCH", "k"]) == Value::ok())
    };
    for ends in ["OFF", "RESET", "left", "aborted"] {
        eventually(lends_two, "two can be lent");
        let mut client = respool.client();
        let redirect = ["CLIENT", "TRACKING", "ON", "BCAST", "REDIRECT", &id];
        eventually(|| client.cmd(&redirect) == Value::ok(), "both are lent");
        let before = respool.pins("tracking");
        assert!(before >= 2.0, "both are counted: {before}");
        let mut other = respool.client();
        assert!(other.cmd(&["WATCH", "k"]).is_error(), "nothing is left");
        match ends {
            "OFF" => ok(&mut client, "CLIENT TRACKING OFF"),
            "RESET" => assert_eq!(client.cmd(&["RESET"]), Value::simple("RESET")),
            "left" => drop(client),
            _ => client.abort(),
        }
        eventually(lends_two, ends);
        redis.cmd(&["SET", "k", ends]);
        listener.ping();
    }
    assert!(
        listener.reply_within(Duration::from_millis(50)).is_none(),
        "nothing comes that was not asked for"
    );
    // Without a second connection there is no redirection, and none is kept.
    let mut first = respool.client();
    ok(&mut first, "WATCH k");
    let mut client = respool.client();
    let refused = client.cmd(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id]);
    assert!(refused.text().starts_with("LOADING"), "{refused:?}");
    let mut second = respool.client();
    eventually(|| second.cmd(&["WATCH", "k"]) == Value::ok(), "given back");
}

#[test]
fn many_invalidations_at_once_all_arrive() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    let mut listener = respool.resp3_client();
    let id = listener.id();
    let between = respool.client();
    let mut client = respool.resp3_client();
    ok(
        &mut client,
        &format!("CLIENT TRACKING ON BCAST REDIRECT {id}"),
    );
    const KEYS: usize = 20_000;
    let mut writer = redis.client();
    let requests: Vec<u8> = (0..KEYS)
        .flat_map(|n| encode(&["SET", &format!("key-{n}"), "x"]))
        .collect();
    let mut sender = writer.writer();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.send(requests));
        (0..KEYS).for_each(|_| assert_eq!(writer.reply(), Value::ok()));
    });
    let mut told = 0;
    while told < KEYS {
        let Value::Push(parts) = listener.reply() else {
            panic!("not a push")
        };
        told += parts[1].items().len();
    }
    assert_eq!(told, KEYS);
    client.ping();
    drop(between);
}

/// Tells what a client is told whose transactions redirect its invalidations first to one and then to another, and what those hear.
fn redirected_by_transactions(connect: &dyn Fn() -> Client, redis: &Redis) -> Vec<String> {
    let mut listeners = [connect(), connect()];
    let mut ids = Vec::new();
    for listener in &mut listeners {
        assert!(!listener.cmd(&["HELLO", "3"]).is_error());
        ids.push(listener.id());
    }
    let mut client = connect();
    let mut told = Vec::new();
    let mut say = |lines: &[&str]| {
        for line in lines {
            let line = line.replace("ONE", &ids[0]).replace("TWO", &ids[1]);
            let words = words(&line);
            let reply = format!("{:?}", client.cmd(&words));
            told.push(match reply.as_str() {
                reply if reply == format!(":{}", ids[0]) => "one".to_owned(),
                reply if reply == format!(":{}", ids[1]) => "two".to_owned(),
                reply => reply
                    .replace(&format!(":{},", ids[0]), "one,")
                    .replace(&format!(":{},", ids[1]), "two,")
                    .replace(&format!(":{}]", ids[0]), "one]")
                    .replace(&format!(":{}]", ids[1]), "two]"),
            });
        }
    };
    say(&[
        "MULTI",
        "CLIENT TRACKING ON REDIRECT ONE",
        "CLIENT GETREDIR",
        "DISCARD",
        "CLIENT GETREDIR",
    ]);
    say(&[
        "MULTI",
        "CLIENT TRACKING ON REDIRECT ONE",
        "GET",
        "EXEC",
        "CLIENT GETREDIR",
    ]);
    say(&[
        "MULTI",
        "SET k 1",
        "CLIENT TRACKING ON REDIRECT ONE",
        "CLIENT GETREDIR",
        "CLIENT TRACKING ON REDIRECT 987654321",
        "GET k",
        "EXEC",
        "CLIENT GETREDIR",
        "GET a",
    ]);
    redis.cmd(&["SET", "a", "1"]);
    assert_eq!(listeners[0].reply_bytes(), invalidation("a"));
    say(&[
        "MULTI",
        "CLIENT TRACKING ON REDIRECT ONE",
        "CLIENT TRACKING ON REDIRECT TWO",
        "CLIENT GETREDIR",
        "EXEC",
        "CLIENT GETREDIR",
        "GET b",
    ]);
    redis.cmd(&["SET", "b", "1"]);
    assert_eq!(listeners[1].reply_bytes(), invalidation("b"));
    say(&[
        "MULTI",
        "CLIENT TRACKING OFF",
        "CLIENT GETREDIR",
        "EXEC",
        "CLIENT GETREDIR",
        "GET b",
    ]);
    redis.cmd(&["SET", "b", "2"]);
    for listener in &mut listeners {
        listener.ping();
    }
    redis.cmd(&["DEL", "a", "b", "k"]);
    told
}

#[test]
fn a_transaction_may_redirect() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    let direct = redirected_by_transactions(&|| redis.client(), &redis);
    for _ in 0..4 {
        let through = redirected_by_transactions(&|| respool.client(), &redis);
        assert_eq!(through, direct);
    }
}

#[test]
fn a_transaction_that_redirects_gives_its_connections_back() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 3\nshared_connections = 1\nborrow_timeout = \"100ms\"")
        .start();
    let mut listener = respool.resp3_client();
    let id = listener.id();
    let lends_two = || {
        let mut both = [respool.client(), respool.client()];
        both.iter_mut()
            .all(|client| client.cmd(&["WATCH", "k"]) == Value::ok())
    };
    let redirect = ["CLIENT", "TRACKING", "ON", "BCAST", "REDIRECT", &id];
    for ends in ["DISCARD", "left", "RESET", "OFF"] {
        eventually(lends_two, "two can be lent");
        let mut client = respool.client();
        ok(&mut client, "MULTI");
        assert_eq!(client.cmd(&redirect), Value::simple("QUEUED"));
        match ends {
            "DISCARD" => ok(&mut client, "DISCARD"),
            "RESET" => assert_eq!(client.cmd(&["RESET"]), Value::simple("RESET")),
            "OFF" => {
                assert_eq!(client.cmd(&["EXEC"]), Value::Array(vec![Value::ok()]));
                ok(&mut client, "CLIENT TRACKING OFF");
            }
            _ => drop(client),
        }
        eventually(lends_two, ends);
        redis.cmd(&["SET", "k", ends]);
        listener.ping();
    }
    // Without a second connection the transaction fails, as by any error.
    let mut first = respool.client();
    ok(&mut first, "WATCH k");
    let mut client = respool.client();
    ok(&mut client, "MULTI");
    let refused = client.cmd(&redirect);
    assert!(refused.text().starts_with("LOADING"), "{refused:?}");
    assert!(client.cmd(&["EXEC"]).text().starts_with("EXECABORT"));
    client.ping();
}
