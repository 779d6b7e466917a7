//! Clients that have yet to say who they are: what they may ask meanwhile, when they get their place, and who is served
//! when everything is full.

use crate::harness::{
    Client, REJECTION, Redis, Respool, Value, encode, eventually, eventually_some, show,
};

/// Holds what a client of this library sends when it connects: `NAME` stands for the client's name, and a request that holds it is
/// sent by those only that have one.
struct ClientLibrary {
    name: &'static str,
    first: &'static [&'static [&'static str]],
}

const SETINFO: [&[&str]; 2] = [
    &["CLIENT", "SETINFO", "LIB-NAME", "x"],
    &["CLIENT", "SETINFO", "LIB-VER", "1.0"],
];
const SETNAME: &[&str] = &["CLIENT", "SETNAME", "NAME"];
const MAINT: &[&str] = &["CLIENT", "MAINT_NOTIFICATIONS", "ON"];

const LIBRARIES: &[ClientLibrary] = &[
    ClientLibrary {
        name: "ioredis 6",
        first: &[
            &["HELLO", "3"],
            &["SELECT", "1"],
            SETNAME,
            SETINFO[0],
            SETINFO[1],
            &["INFO"],
        ],
    },
    ClientLibrary {
        name: "ioredis 5",
        first: &[
            &["SELECT", "1"],
            SETNAME,
            SETINFO[0],
            SETINFO[1],
            &["INFO"],
            &["READONLY"],
        ],
    },
    ClientLibrary {
        name: "node-redis 6",
        first: &[
            &["HELLO", "3", "SETNAME", "NAME"],
            &["SELECT", "1"],
            SETINFO[0],
            SETINFO[1],
            MAINT,
        ],
    },
    ClientLibrary {
        name: "node-redis 5",
        first: &[SETNAME, &["SELECT", "1"], SETINFO[0], SETINFO[1]],
    },
    ClientLibrary {
        name: "node-redis 4",
        first: &[SETNAME, SETINFO[0], SETINFO[1], &["SELECT", "1"]],
    },
    ClientLibrary {
        name: "redis-py 8",
        first: &[
            &["PING"],
            &["HELLO", "3"],
            MAINT,
            SETNAME,
            SETINFO[0],
            SETINFO[1],
            &["SELECT", "1"],
        ],
    },
    ClientLibrary {
        name: "redis-py 5",
        first: &[SETNAME, SETINFO[0], SETINFO[1], &["SELECT", "1"]],
    },
    ClientLibrary {
        name: "redis-rb, Sidekiq",
        first: &[&["HELLO", "3"], SETNAME, &["SELECT", "1"], &["INFO"]],
    },
    ClientLibrary {
        name: "BullMQ",
        first: &[
            &["SELECT", "1"],
            SETINFO[0],
            SETINFO[1],
            &["INFO"],
            &["INFO"],
            SETNAME,
        ],
    },
    ClientLibrary {
        name: "RQ",
        first: &[SETINFO[0], SETINFO[1], &["INFO", "server"], SETNAME],
    },
    ClientLibrary {
        name: "redis-rs",
        first: &[
            &["HELLO", "3", "SETNAME", "NAME"],
            &["SELECT", "1"],
            SETINFO[0],
            SETINFO[1],
        ],
    },
    ClientLibrary {
        name: "go-redis",
        first: &[
            &["HELLO", "3"],
            &["SELECT", "1"],
            &["READONLY"],
            SETNAME,
            MAINT,
            SETINFO[0],
            SETINFO[1],
        ],
    },
    ClientLibrary {
        name: "redis-cli",
        first: &[
            &["COMMAND", "DOCS", "get"],
            &["COMMAND"],
            &["PING"],
            SETNAME,
        ],
    },
    ClientLibrary {
        name: "StackExchange.Redis",
        first: &[
            SETNAME,
            SETINFO[0],
            SETINFO[1],
            &["CLIENT", "ID"],
            &["CONFIG", "GET", "timeout"],
            &["INFO", "replication"],
            &["CLUSTER", "NODES"],
            &["ECHO", "abc"],
        ],
    },
];

impl ClientLibrary {
    /// Tells what a client of this name sends, or one without.
    fn requests(&self, name: Option<&str>) -> Vec<Vec<String>> {
        let of_name = |words: &[&str]| -> Option<Vec<String>> {
            let words = match (name, words.iter().position(|word| *word == "SETNAME")) {
                (None, Some(_)) if words[0] == "CLIENT" => return None,
                (None, Some(until)) => &words[..until],
                _ => words,
            };
            let said = |word: &&str| match *word {
                "NAME" => name.unwrap_or_default().to_owned(),
                word => word.to_owned(),
            };
            Some(words.iter().map(said).collect())
        };
        self.first
            .iter()
            .filter_map(|words| of_name(words))
            .collect()
    }
}

/// Starts a respool in which `orders-*` have a group of their own, and everybody else is one of `default`, which takes two.
fn orders(redis: &Redis, limits: &str) -> Respool {
    orders_up_to(redis, 40, limits)
}

fn orders_up_to(redis: &Redis, cap: usize, limits: &str) -> Respool {
    Respool::with(redis)
        .limits(limits)
        .section(&format!(
            "[[group]]\nname = \"orders\"\nmatch = {{ client_name = \"orders-*\" }}\nmax_connections = {cap}"
        ))
        .section("[[group]]\nname = \"default\"\nmax_connections = 2")
        .start()
}

/// Takes every place of `default`.
fn fill(respool: &Respool) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..2).map(|_| respool.client()).collect();
    for client in &mut clients {
        assert!(client.cmd(&["GET", "k"]).is_null());
    }
    assert_eq!(respool.clients_of("default"), 2);
    clients
}

#[track_caller]
fn assert_rejected(client: &mut Client, request: &[&str]) {
    client.send(encode(request));
    assert_eq!(show(&client.reply_bytes()), show(REJECTION), "{request:?}");
}

/// Tells the line of the log about a rejection, which comes a moment later.
#[track_caller]
fn rejection_logged(respool: &Respool) -> String {
    let line = || {
        let log = respool.log_text();
        let mut lines = log.lines();
        lines
            .find(|line| line.contains("rejected: "))
            .map(str::to_owned)
    };
    eventually_some(line, "the rejection is logged")
}

#[track_caller]
fn eventually_crowd(respool: &Respool, metric: &str, count: usize) {
    let name = format!("respool_client_{metric}");
    eventually(
        || respool.metric(&name) as usize == count,
        &format!("{name} is {count}"),
    );
}

/// Checks that respool answers as the server does. What it answers whatever the server knows must only not be the rejection.
#[track_caller]
fn assert_same(library: &ClientLibrary, request: &[String], here: &Value, there: &Value) {
    assert_ne!(
        here.text(),
        "ERR max number of clients reached",
        "{}: {request:?}",
        library.name
    );
    let is_its_own = request
        .iter()
        .any(|word| ["SETINFO", "MAINT_NOTIFICATIONS"].contains(&&**word));
    if !is_its_own {
        assert_eq!(gist(here), gist(there), "{}: {request:?}", library.name);
    }
}

/// Tells the kind of a reply, and the text of an error: what a library goes by.
fn gist(reply: &Value) -> String {
    match reply {
        Value::Error(_) => reply.text(),
        _ => show(&[reply_kind(reply)]),
    }
}

fn reply_kind(reply: &Value) -> u8 {
    match reply {
        Value::Simple(_) => b'+',
        Value::Array(_) => b'*',
        Value::Map(_) => b'%',
        Value::Bulk(_) | Value::Verbatim(_) => b'$',
        _ => b'?',
    }
}

#[test]
fn each_librarys_first_commands_get_a_named_client_in_and_turn_a_nameless_one_away() {
    let redis = Redis::start(&[]);
    let respool = orders(&redis, "reject_hold = \"60s\"");
    let _full = fill(&respool);
    for library in LIBRARIES {
        let named = library.requests(Some("orders-api"));
        let mut client = respool.client();
        let mut direct = redis.client();
        for request in &named {
            let (here, there) = (client.cmd(request), direct.cmd(request));
            assert_same(library, request, &here, &there);
        }
        assert_eq!(
            client.cmd(&["SET", "k2", "v"]),
            Value::ok(),
            "{}",
            library.name
        );
        assert_eq!(respool.clients_of("orders"), 1, "{}", library.name);
        drop(client);
        eventually(|| respool.clients_of("orders") == 0, "it has left");

        // In one write, what it is for behind it.
        let mut at_once = respool.client();
        let mut bytes: Vec<u8> = named.iter().flat_map(|request| encode(request)).collect();
        bytes.extend(encode(&["SET", "k2", "v"]));
        at_once.send(bytes);
        for request in &named {
            let reply = at_once.reply();
            assert_ne!(
                reply.text(),
                "ERR max number of clients reached",
                "{request:?}"
            );
        }
        assert_eq!(at_once.reply(), Value::ok(), "{}", library.name);
        drop(at_once);
        eventually(|| respool.clients_of("orders") == 0, "it has left");

        let mut nameless = respool.client();
        let mut direct = redis.client();
        for request in library.requests(None) {
            let (here, there) = (nameless.cmd(&request), direct.cmd(&request));
            assert_same(library, &request, &here, &there);
        }
        for request in [
            &["GET", "k"][..],
            &["HELLO", "3"],
            &["PING"],
            &["CLIENT", "SETNAME", "orders-api"],
        ] {
            assert_rejected(&mut nameless, request);
        }
    }
    let rejected =
        "respool_client_connections_rejected_total{group=\"default\",reason=\"group_cap\"}";
    assert_eq!(respool.metric(rejected) as usize, LIBRARIES.len());
    eventually_crowd(&respool, "arriving", 0);
}

#[test]
fn whatever_serves_a_client_needs_a_place() {
    let redis = Redis::start(&[]);
    let respool = orders(&redis, "reject_hold = \"60s\"");
    let _full = fill(&respool);
    let large = "x".repeat(1 << 20);
    let requests: [&[&str]; 12] = [
        &["MULTI"],
        &["WATCH", "k"],
        &["SUBSCRIBE", "c"],
        &["BLPOP", "l", "0"],
        &["EVAL", "return 1", "0"],
        &["nosuchcommand"],
        &["CLIENT", "LIST"],
        &["CLIENT", "KILL", "ID", "1"],
        &["CLIENT", "TRACKING", "ON"],
        &["MONITOR"],
        &["SET", "k3", &large],
        &["CLIENT", "REPLY", "OFF"],
    ];
    for request in requests {
        let mut nameless = respool.client();
        assert_rejected(&mut nameless, request);
        assert_rejected(&mut nameless, &["PING"]);
    }
    // Behind what introduces it, in one write: the replies come in their order.
    let mut client = respool.client();
    client.send(
        [
            encode(&["PING"]),
            encode(&["ECHO", "a"]),
            encode(&["GET", "k"]),
            encode(&["PING"]),
        ]
        .concat(),
    );
    assert_eq!(client.reply(), Value::simple("PONG"));
    assert_eq!(client.reply(), Value::bulk("a"));
    for _ in 0..2 {
        assert_eq!(show(&client.reply_bytes()), show(REJECTION));
    }
    // Typed by hand.
    let mut inline = respool.client();
    inline.send("PING\r\n\r\nclient setname orders-cli\r\nget k\r\n");
    assert_eq!(inline.reply(), Value::simple("PONG"));
    assert_eq!(inline.reply(), Value::ok());
    assert!(inline.reply().is_null());
    let mut nameless = respool.client();
    nameless.send("PING\r\nget k\r\n");
    assert_eq!(nameless.reply(), Value::simple("PONG"));
    assert_eq!(show(&nameless.reply_bytes()), show(REJECTION));
    // Whole transactions, large requests and subscriptions of one with a name.
    let mut named = respool.client();
    assert_eq!(named.cmd(&["CLIENT", "SETNAME", "orders-1"]), Value::ok());
    named.send(
        [
            encode(&["MULTI"]),
            encode(&["SET", "k4", "v"]),
            encode(&["EXEC"]),
        ]
        .concat(),
    );
    assert_eq!(
        [named.reply(), named.reply()],
        [Value::ok(), Value::simple("QUEUED")]
    );
    assert_eq!(named.reply(), Value::Array(vec![Value::ok()]));
    let mut large_first = respool.client_named("orders-2");
    assert_eq!(large_first.cmd(&["SET", "k3", &large]), Value::ok());
    let mut subscriber = respool.client_named("orders-3");
    assert_eq!(
        subscriber.cmd(&["SUBSCRIBE", "c"]).items()[2],
        Value::Int(1)
    );
    assert_eq!(respool.clients_of("orders"), 4);
}

#[test]
fn a_request_that_is_half_here_takes_no_place() {
    let redis = Redis::start(&[]);
    let respool = orders(&redis, "");
    let _full = fill(&respool);
    let mut client = respool.client();
    let request = [
        encode(&["CLIENT", "SETNAME", "orders-1"]),
        encode(&["SET", "k", "v"]),
    ]
    .concat();
    let (start, rest) = request.split_at(request.len() - 5);
    client.send(start);
    assert_eq!(client.reply(), Value::ok());
    eventually_crowd(&respool, "arriving", 1);
    assert_eq!(respool.clients_of("orders"), 0);
    client.send(rest);
    assert_eq!(client.reply(), Value::ok());
    assert_eq!(respool.clients_of("orders"), 1);
    eventually_crowd(&respool, "arriving", 0);
}

#[test]
fn nobody_arrives_for_ever() {
    let redis = Redis::start(&[]);
    let respool = orders(
        &redis,
        "arriving_timeout = \"300ms\"\nreject_hold = \"60s\"",
    );
    // Nothing is asked of the silent one: it is placed where it is all the same.
    let silent = respool.client();
    let mut pinging = respool.client();
    eventually(
        || {
            pinging.ping();
            respool.clients_of("default") == 2
        },
        "both are counted",
    );
    eventually_crowd(&respool, "arriving", 0);
    pinging.ping();
    // Now it is full: who only asks whether somebody is there gets the error once its time is over.
    let mut late = respool.client();
    late.ping();
    eventually(|| late.cmd(&["PING"]).is_error(), "its time is over");
    assert_rejected(&mut late, &["PING"]);
    let line = rejection_logged(&respool);
    assert!(line.contains(&late.local_addr().to_string()), "{line}");
    drop(silent);
    eventually(|| respool.clients_of("default") == 1, "one has left");
    let mut next = respool.client();
    assert!(next.cmd(&["GET", "k"]).is_null());
}

#[test]
fn nobody_arrives_for_ever_by_trying_passwords() {
    let redis = Redis::start(&[]);
    let respool = orders(
        &redis,
        "arriving_timeout = \"300ms\"\nreject_hold = \"60s\"",
    );
    let full = fill(&respool);
    let mut guessing = respool.client();
    guessing.send(encode(&["AUTH", "nobody", "wrong"]).repeat(3000));
    eventually_crowd(&respool, "arriving", 1);
    eventually_crowd(&respool, "arriving", 0);
    let line = rejection_logged(&respool);
    assert!(line.contains(&guessing.local_addr().to_string()), "{line}");
    drop(full);
}

#[test]
fn silent_strangers_leave_operators_their_listener() {
    let redis = Redis::start(&[]);
    let port = crate::harness::free_port();
    let respool = Respool::with(&redis)
        .plain_clients()
        .top(&format!(
            "[[listener]]\naddress = \"127.0.0.1:{port}\"\nadmin = true"
        ))
        .limits("max_clients = 4\noperator_places = 5\nreject_hold = \"60s\"\narriving_timeout = \"60s\"")
        .operators(&["ops"])
        .start();
    let full: Vec<Client> = (0..4).map(|_| respool.client()).collect();
    eventually_crowd(&respool, "arriving", 4);
    let silent: Vec<Client> = (0..5).map(|_| respool.client()).collect();
    eventually_crowd(&respool, "arriving", 6);
    for _ in 0..3 {
        let mut operator = Client::connect(format!("127.0.0.1:{port}"));
        assert!(!operator.cmd(&["CLIENT", "LIST"]).is_error());
    }
    drop((full, silent));
}

#[test]
fn those_who_arrive_are_bounded_and_count_among_all() {
    let redis = Redis::start(&[]);
    let respool = orders_up_to(
        &redis,
        6,
        "max_arriving = 3\nmax_clients = 6\nreject_hold = \"60s\"",
    );
    let full = fill(&respool);
    let mut arriving: Vec<Client> = (0..3).map(|_| respool.client()).collect();
    arriving.iter_mut().for_each(Client::ping);
    eventually_crowd(&respool, "arriving", 3);
    // The next is asked for its place at once, and `default` is full.
    assert_rejected(&mut respool.client(), &["CLIENT", "SETNAME", "orders-1"]);
    assert_eq!(
        respool.metric("respool_bounds_reached_total{bound=\"arriving\"}"),
        1.0
    );
    drop(full);
    eventually(|| respool.clients_of("default") == 0, "there is room");
    let mut placed = respool.client();
    placed.ping();
    assert_eq!(respool.clients_of("default"), 1);
    // Who was placed at once still goes where its name belongs.
    assert_eq!(placed.cmd(&["CLIENT", "SETNAME", "orders-1"]), Value::ok());
    assert_eq!(
        (respool.clients_of("default"), respool.clients_of("orders")),
        (0, 1)
    );
    let mut more: Vec<Client> = (0..2).map(|_| respool.client()).collect();
    more.iter_mut().for_each(Client::ping);
    assert_rejected(&mut respool.client(), &["PING"]);
    let reason = "respool_client_connections_rejected_total{reason=\"max_clients\"}";
    assert_eq!(respool.metric(reason), 1.0);
    drop((arriving, more, placed));
    eventually_crowd(&respool, "arriving", 0);
    eventually(
        || respool.clients_of("default") + respool.clients_of("orders") == 0,
        "all have left",
    );
}

#[test]
fn who_arrives_evicts_nobody_and_is_not_evicted_before_it_needs_a_place() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .section("[[group]]\nname = \"orders\"\nmatch = { client_name = \"orders-*\" }\nmax_connections = 40")
        .section("[[group]]\nname = \"default\"\nmax_connections = 2\nat_limit = \"evict-idle\"")
        .start();
    let mut arriving = respool.client();
    arriving.ping();
    let mut here = fill(&respool);
    let mut newcomer = respool.client();
    newcomer.ping();
    here.iter_mut().for_each(Client::ping);
    assert!(newcomer.cmd(&["GET", "k"]).is_null());
    assert_eq!(
        respool.metric("respool_client_disconnects_total{reason=\"evicted\"}"),
        1.0
    );
    here.remove(0).expect_end();
    arriving.ping();
    assert_eq!(respool.clients_of("default"), 2);
}

#[test]
fn an_operator_gets_in_when_everything_is_full() {
    let redis = Redis::start(&[]);
    let port = crate::harness::free_port();
    let acl = [
        "ACL", "SETUSER", "ops", "on", ">secret", "~*", "&*", "+@all",
    ];
    assert_eq!(redis.cmd(&acl), Value::ok());
    let respool = Respool::with(&redis)
        .plain_clients()
        .top(&format!(
            "[[listener]]\naddress = \"127.0.0.1:{port}\"\nadmin = true"
        ))
        .limits("max_clients = 4\noperator_places = 2\nreject_hold = \"60s\"")
        .section("[[group]]\nname = \"default\"\nmax_connections = 2")
        .operators(&["ops"])
        .start();
    let full = fill(&respool);
    let mut arriving: Vec<Client> = (0..2).map(|_| respool.client()).collect();
    arriving.iter_mut().for_each(Client::ping);
    // By its user, on the listener of everybody, past `default` and past `max_clients`.
    let mut by_user = respool.client();
    assert_eq!(by_user.cmd(&["AUTH", "ops", "secret"]), Value::ok());
    let list = by_user.cmd(&["CLIENT", "LIST"]).text();
    assert_eq!(list.lines().count(), 5, "{list}");
    // By its listener.
    let mut by_listener = Client::connect(format!("127.0.0.1:{port}"));
    let id = by_listener.cmd(&["CLIENT", "ID"]).int();
    assert!(
        by_listener
            .cmd(&["CLIENT", "LIST"])
            .text()
            .contains(&format!("id={id} "))
    );
    eventually_crowd(&respool, "operators", 2);
    // Two places were kept, and no more.
    assert_rejected(&mut respool.client(), &["PING"]);
    assert_rejected(&mut Client::connect(format!("127.0.0.1:{port}")), &["PING"]);
    assert_eq!(respool.clients_of("default"), 2, "they count in no group");
    // What it is there for.
    let victim = full[0].local_addr().to_string();
    assert_eq!(
        by_listener.cmd(&["CLIENT", "KILL", "ADDR", &victim]),
        Value::Int(1)
    );
    eventually(|| respool.clients_of("default") == 1, "it is gone");
    drop((by_user, by_listener));
    eventually_crowd(&respool, "operators", 0);
    let mut again = Client::connect(format!("127.0.0.1:{port}"));
    again.ping();
    drop((full, arriving, again));
    eventually_crowd(&respool, "operators", 0);
    eventually_crowd(&respool, "arriving", 0);
}

#[test]
fn a_client_that_wants_no_replies_gets_no_rejection() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("reject_hold = \"60s\"")
        .section(
            "[[group]]\nname = \"one\"\nmatch = { client_name = \"one\" }\nmax_connections = 1",
        )
        .start();
    let mut first = respool.client_named("one");
    assert!(first.cmd(&["GET", "k"]).is_null());
    let mut mute = respool.client();
    let requests = [
        &["GET", "k"][..],
        &["CLIENT", "REPLY", "OFF"],
        &["CLIENT", "SETNAME", "one"],
        &["SET", "k", "v"],
        &["PING"],
    ];
    mute.send(requests.map(encode).concat());
    mute.finish_sending();
    assert_eq!(show(&mute.read_to_end()), show(b"$-1\r\n"));
    assert!(first.cmd(&["GET", "k"]).is_null(), "and nothing was done");
}

#[test]
fn a_rejection_names_who_is_rejected() {
    let redis = Redis::start(&[]);
    let respool = orders(&redis, "reject_hold = \"60s\"");
    let _full = fill(&respool);
    let mut client = respool.client();
    assert_eq!(
        client.cmd(&["CLIENT", "SETNAME", "nightly-report"]),
        Value::ok()
    );
    assert_rejected(&mut client, &["GET", "k"]);
    let line = rejection_logged(&respool);
    for part in [
        client.local_addr().to_string(),
        respool.addr(),
        "nightly-report".to_owned(),
        "user=\"default\"".to_owned(),
        "group \"default\" is at its cap".to_owned(),
    ] {
        assert!(line.contains(&part), "{part} in {line}");
    }
}

#[test]
fn a_reload_leaves_those_who_arrive_where_they_are() {
    let redis = Redis::start(&[]);
    let settings = |cap: usize| {
        Respool::with(&redis)
            .section("[[group]]\nname = \"orders\"\nmatch = { client_name = \"orders-*\" }\nmax_connections = 40")
            .section(&format!("[[group]]\nname = \"default\"\nmax_connections = {cap}"))
    };
    let respool = settings(2).start();
    let _full = fill(&respool);
    let mut named = respool.client_named("orders-1");
    let mut nameless = respool.client();
    nameless.ping();
    respool.reload(&settings(3));
    named.ping();
    eventually_crowd(&respool, "arriving", 2);
    assert_eq!(named.cmd(&["SET", "k", "v"]), Value::ok());
    assert_eq!(nameless.cmd(&["GET", "k"]), Value::bulk("v"));
    assert_eq!(
        (respool.clients_of("orders"), respool.clients_of("default")),
        (1, 3)
    );
}
