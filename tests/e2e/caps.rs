//! Caps: who is served, who is told what, who counts, and that every place is given back.
//!
//! Groups are told apart by source address here: all of 127.0.0.0/8 is this machine.

use crate::harness::{Client, REJECTION, Redis, Respool, Value, encode, eventually};

/// Clients from 127.0.0.2 are the leaky group.
const LEAKY: &str = "127.0.0.2";

fn leaky_group(settings: &str) -> String {
    format!("[[group]]\nname = \"leaky\"\nmatch = {{ address = [\"{LEAKY}/32\"] }}\n{settings}")
}

fn rejected_of(respool: &Respool, group: &str) -> usize {
    let name = format!("respool_client_connections_rejected_total{{group=\"{group}\"}}");
    respool.metric_or_zero(&name) as usize
}

/// Tells whether a PING is served; everything else must be the rejection.
#[track_caller]
fn is_served(client: &mut Client) -> bool {
    client.send(encode(&["PING"]));
    let reply = client.reply_bytes();
    assert!(
        reply == b"+PONG\r\n" || reply == REJECTION,
        "got {}",
        reply.escape_ascii()
    );
    reply == b"+PONG\r\n"
}

/// Names the client and lets it ask for something: it has its place then.
#[track_caller]
fn placed(mut client: Client, name: &str) -> Client {
    assert_eq!(client.cmd(&["CLIENT", "SETNAME", name]), Value::ok());
    assert!(client.cmd(&["GET", "k"]).is_null());
    client
}

#[track_caller]
fn eventually_clients(respool: &Respool, group: &str, count: usize) {
    eventually(
        || respool.clients_of(group) == count,
        &format!("group {group} counts {count} clients"),
    );
}

#[test]
fn a_leaky_group_is_held_at_its_cap_and_told_so() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .section(&leaky_group("max_connections = 20\nwarn_connections = 15"))
        .start();
    let mut healthy: Vec<_> = (0..5).map(|_| respool.client()).collect();
    let leaks: Vec<_> = (0..50).map(|_| respool.client_from(LEAKY)).collect();

    let (mut served, mut rejected) = (Vec::new(), Vec::new());
    for mut client in leaks {
        if is_served(&mut client) {
            served.push(client)
        } else {
            rejected.push(client)
        }
    }
    assert_eq!((served.len(), rejected.len()), (20, 30));

    // Every command of theirs is answered so, those with which libraries open a connection too.
    for client in &mut rejected {
        let commands = [
            &["HELLO", "3"][..],
            &["CLIENT", "SETNAME", "x"],
            &["SELECT", "1"],
            &["INFO"],
            &["GET", "k"],
        ];
        for command in commands {
            client.send(encode(command));
            client.assert_told_rejection();
        }
        client.send("PING\r\n\r\nGET k\r\n");
        assert_eq!(
            [client.reply_bytes(), client.reply_bytes()],
            [REJECTION, REJECTION],
            "inline"
        );
    }
    for client in served.iter_mut().chain(&mut healthy) {
        assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    }
    respool.client().cmd(&["PING"]);

    eventually_clients(&respool, "leaky", 20);
    assert_eq!(rejected_of(&respool, "leaky"), 30);
    assert_eq!(rejected_of(&respool, "default"), 0);
    assert_eq!(
        respool.metric("respool_client_connections_limit{group=\"leaky\"}"),
        20.0
    );
    assert!(
        respool.status().contains("leaky"),
        "/status names the group"
    );
    eventually(
        || respool.log_text().contains("leaky"),
        "the log names the group",
    );

    drop((served, rejected));
    eventually_clients(&respool, "leaky", 0);
    eventually_clients(&respool, "default", 5);
    respool.client_from(LEAKY).ping();
    drop(healthy);
    eventually_clients(&respool, "default", 0);
}

#[test]
fn a_place_given_back_is_taken_by_the_next() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .section(&leaky_group("max_connections = 2"))
        .start();
    let mut first = respool.client_from(LEAKY);
    let mut second = respool.client_from(LEAKY);
    first.ping();
    second.ping();
    let mut third = respool.client_from(LEAKY);
    third.assert_rejected();
    for leave in [Client::abort, drop::<Client>] {
        // It is told before the place is free; whoever comes after gets it.
        let mut replacement = respool.client_from(LEAKY);
        replacement.assert_rejected();
        leave(std::mem::replace(&mut first, replacement));
        eventually_clients(&respool, "leaky", 1);
        first = respool.client_from(LEAKY);
        first.ping();
    }
    third.assert_rejected();
    second.ping();
}

#[test]
fn the_longest_idle_client_without_state_gives_way() {
    let redis = Redis::start(&[]);
    let group = leaky_group("max_connections = 5\nat_limit = \"evict-idle\"");
    let respool = Respool::with(&redis).section(&group).start();
    let mut clients: Vec<_> = (0..5).map(|_| respool.client_from(LEAKY)).collect();
    assert_eq!(clients[0].cmd(&["MULTI"]), Value::ok());
    for client in &mut clients[2..] {
        client.ping();
    }
    clients[1].cmd(&["PING"]);
    eventually(
        || respool.metric("respool_client_oldest_idle_seconds{group=\"leaky\"}") >= 1.0,
        "the oldest client was idle for a second",
    );
    for client in &mut clients[2..] {
        client.ping();
    }

    let mut newcomer = respool.client_from(LEAKY);
    newcomer.ping();
    clients.remove(1).expect_end();
    for client in &mut clients[1..] {
        client.ping();
    }
    // The one with a transaction open was idle for longer, and has state.
    assert_eq!(clients[0].cmd(&["EXEC"]), Value::Array(vec![]));
    eventually_clients(&respool, "leaky", 5);

    // Nobody without state: the newcomer is rejected.
    clients.push(newcomer);
    for client in &mut clients {
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    }
    respool.client_from(LEAKY).assert_rejected();
    for client in &mut clients {
        assert_eq!(client.cmd(&["DISCARD"]), Value::ok());
    }
    drop(clients);
    eventually_clients(&respool, "leaky", 0);
}

#[test]
fn a_blocked_client_is_not_evicted() {
    let redis = Redis::start(&[]);
    let group = leaky_group("max_connections = 1\nat_limit = \"evict-idle\"");
    let respool = Respool::with(&redis).section(&group).start();
    let mut blocked = respool.client_from(LEAKY);
    blocked.send(encode(&["BLPOP", "list", "0"]));
    eventually(
        || redis.info("blocked_clients") == "1",
        "the client is blocked",
    );
    respool.client_from(LEAKY).assert_rejected();
    redis.cmd(&["RPUSH", "list", "x"]);
    assert_eq!(
        blocked.reply(),
        Value::Array(vec![Value::bulk("list"), Value::bulk("x")])
    );
}

#[test]
fn an_observed_group_is_counted_and_served() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .section(&leaky_group("max_connections = 3\nmode = \"observe\""))
        .start();
    let mut clients: Vec<_> = (0..10).map(|_| respool.client_from(LEAKY)).collect();
    clients.iter_mut().for_each(Client::ping);
    eventually_clients(&respool, "leaky", 10);
    assert_eq!(rejected_of(&respool, "leaky"), 0, "nobody was rejected");
    let observed =
        "respool_client_connections_observed_total{group=\"leaky\",reason=\"group_cap\"}";
    assert_eq!(respool.metric(observed), 7.0);
    drop(clients);
    eventually_clients(&respool, "leaky", 0);
}

#[test]
fn a_cap_for_each_address_counts_each_address() {
    let redis = Redis::start(&[]);
    let group = "[[group]]\nname = \"each\"\nmatch = { address = [\"127.0.0.0/8\"] }\n\
                 per = \"address\"\nmax_connections = 2";
    let respool = Respool::with(&redis).section(group).start();
    let mut kept = Vec::new();
    for source in ["127.0.0.2", "127.0.0.3", "127.0.0.4"] {
        kept.extend((0..2).map(|_| respool.client_from(source)));
        kept.iter_mut().for_each(Client::ping);
        respool.client_from(source).assert_rejected();
    }
    eventually_clients(&respool, "each", 6);
    assert_eq!(rejected_of(&respool, "each"), 3);
}

#[test]
fn a_cap_for_each_name_counts_each_name() {
    let redis = Redis::start(&[]);
    let group = "[[group]]\nname = \"apps\"\nmatch = { client_name = \"app-*\" }\n\
                 per = \"client_name\"\nmax_connections = 2";
    let respool = Respool::with(&redis).section(group).start();
    let mut kept = Vec::new();
    for name in ["app-a", "app-b"] {
        kept.extend((0..2).map(|_| placed(respool.client(), name)));
        let mut third = respool.client();
        assert!(third.cmd(&["GET", "k"]).is_null());
        third.send(encode(&["CLIENT", "SETNAME", name]));
        third.assert_told_rejection();
        third.assert_rejected();
        let mut fourth = respool.client_named(name);
        fourth.send(encode(&["GET", "k"]));
        fourth.assert_told_rejection();
        fourth.assert_rejected();
    }
    kept.iter_mut().for_each(Client::ping);
    eventually_clients(&respool, "apps", 4);
    eventually_clients(&respool, "default", 0);
    // From one name to the other within the group: full too. To a third: free.
    kept[0].send(encode(&["CLIENT", "SETNAME", "app-b"]));
    kept[0].assert_told_rejection();
    assert_eq!(kept[1].cmd(&["CLIENT", "SETNAME", "app-c"]), Value::ok());
    drop(kept);
    eventually_clients(&respool, "apps", 0);
}

#[test]
fn a_name_moves_the_place_of_its_client() {
    let redis = Redis::start(&[]);
    let group =
        "[[group]]\nname = \"jobs\"\nmatch = { client_name = \"job-*\" }\nmax_connections = 2";
    let respool = Respool::with(&redis).section(group).start();
    let (mut first, mut second) = (placed(respool.client(), "a"), placed(respool.client(), "b"));
    eventually_clients(&respool, "default", 2);
    assert_eq!(first.cmd(&["CLIENT", "SETNAME", "job-1"]), Value::ok());
    assert!(!second.cmd(&["HELLO", "3", "SETNAME", "job-2"]).is_error());
    eventually_clients(&respool, "default", 0);
    eventually_clients(&respool, "jobs", 2);

    // In a full group a client may rename itself: it has its place.
    assert_eq!(first.cmd(&["CLIENT", "SETNAME", "job-3"]), Value::ok());
    let mut third = placed(respool.client(), "c");
    third.send(encode(&["HELLO", "3", "SETNAME", "job-4"]));
    third.assert_told_rejection();
    third.assert_rejected();
    eventually_clients(&respool, "default", 0);

    // Out of the group again, and the place is free.
    assert_eq!(first.cmd(&["CLIENT", "SETNAME", "other"]), Value::ok());
    eventually_clients(&respool, "default", 1);
    eventually_clients(&respool, "jobs", 1);
    let fourth = placed(respool.client(), "job-5");
    eventually_clients(&respool, "jobs", 2);
    drop((first, second, third, fourth));
    eventually_clients(&respool, "default", 0);
    eventually_clients(&respool, "jobs", 0);
}

#[test]
fn the_first_group_that_matches_takes_the_client() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .section("[[group]]\nname = \"both\"\nmatch = { address = [\"127.0.0.2/32\"], client_name = \"a-*\" }")
        .section("[[group]]\nname = \"address\"\nmatch = { address = [\"127.0.0.2/32\"] }")
        .section("[[group]]\nname = \"name\"\nmatch = { client_name = \"a-*\" }")
        .start();
    let _clients = [
        placed(respool.client_from(LEAKY), "a-1"),
        placed(respool.client_from(LEAKY), "b-1"),
        placed(respool.client(), "a-1"),
        placed(respool.client(), "b-1"),
    ];
    for group in ["both", "address", "name", "default"] {
        eventually_clients(&respool, group, 1);
    }
}

#[test]
fn connects_are_limited_by_the_second() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .section(&leaky_group("max_connects_per_second = 1"))
        .start();
    // Even a slow machine opens fifty in less than fifty seconds.
    let mut clients: Vec<_> = (0..50).map(|_| respool.client_from(LEAKY)).collect();
    let served = clients
        .iter_mut()
        .map(is_served)
        .filter(|&served| served)
        .count();
    assert!((1..50).contains(&served), "{served} of 50 were served");
    assert_eq!(rejected_of(&respool, "leaky"), 50 - served);
    let mut other = respool.client();
    other.ping();
    eventually(
        || is_served(&mut respool.client_from(LEAKY)),
        "another is served after a while",
    );
}

#[test]
fn rejected_sockets_beyond_their_bound_are_told_at_once() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .plain_clients()
        .limits("max_rejected = 2\nreject_hold = \"60s\"")
        .section(&leaky_group("max_connections = 1"))
        .start();
    let mut served = respool.client_from(LEAKY);
    served.ping();
    let mut held = [respool.client_from(LEAKY), respool.client_from(LEAKY)];
    held.iter_mut().for_each(Client::assert_rejected);
    let mut told = respool.client_from(LEAKY);
    assert_eq!(told.read_to_end(), REJECTION);
    held.iter_mut().for_each(Client::assert_rejected);
    eventually_clients(&respool, "leaky", 1);
    // A held one that leaves makes room for another.
    drop(held);
    eventually(
        || respool.client_from(LEAKY).try_cmd(&["PING"]).is_some(),
        "another is held and answered",
    );
}

#[test]
fn a_rejected_client_is_closed_after_its_hold() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("max_clients = 1\nreject_hold = \"300ms\"")
        .start();
    let mut served = respool.client();
    served.ping();
    respool.client().expect_end();
    served.ping();
}

#[test]
fn a_rejected_client_is_closed_after_64_commands() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("max_clients = 1\nreject_hold = \"60s\"")
        .start();
    let mut served = respool.client();
    served.ping();
    let mut rejected = respool.client();
    rejected.send(encode(&["PING"]).repeat(63));
    for _ in 0..63 {
        rejected.assert_told_rejection();
    }
    rejected.assert_rejected();
    rejected.expect_end();
}

#[test]
fn a_rejected_client_sends_garbage_in_vain() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("max_clients = 1\nreject_hold = \"60s\"")
        .start();
    let mut served = respool.client();
    served.ping();
    let before = respool.resident_bytes();
    for _ in 0..10 {
        let mut rejected = respool.client();
        // Whatever it is answered, it ends, and nothing of it is kept.
        while rejected.try_send(vec![b'x'; 64 * 1024]).is_ok() {}
    }
    let grown = respool.resident_bytes().saturating_sub(before);
    assert!(
        grown < 16 << 20,
        "rejected clients grew the process by {grown} bytes"
    );
    served.ping();
    eventually_clients(&respool, "default", 1);
}

#[test]
fn rejections_can_be_explained() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("explain_rejections = true")
        .section(&leaky_group("max_connections = 7"))
        .start();
    let mut clients: Vec<_> = (0..7).map(|_| respool.client_from(LEAKY)).collect();
    clients.iter_mut().for_each(Client::ping);
    let reply = respool.client_from(LEAKY).cmd(&["PING"]);
    let text = reply.text();
    assert!(
        reply.is_error() && text.starts_with("ERR max number of clients reached"),
        "{text}"
    );
    assert!(
        text.contains("leaky") && text.contains('7'),
        "group, count and cap: {text}"
    );
}

#[test]
fn all_groups_together_are_bounded() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("max_clients = 4")
        .section(&leaky_group(""))
        .start();
    let mut clients = [
        respool.client(),
        respool.client(),
        respool.client_from(LEAKY),
        respool.client_from(LEAKY),
    ];
    clients.iter_mut().for_each(Client::ping);
    respool.client().assert_rejected();
    respool.client_from(LEAKY).assert_rejected();
    eventually_clients(&respool, "leaky", 2);
    eventually_clients(&respool, "default", 2);
}

#[test]
fn a_group_pins_no_more_than_its_share() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("borrow_timeout = \"300ms\"")
        .section(&leaky_group("max_pinned = 1"))
        .start();
    let mut first = respool.client_from(LEAKY);
    first.send(encode(&["WATCH", "k"]));
    assert_eq!(first.reply(), Value::ok());
    let mut second = respool.client_from(LEAKY);
    assert!(
        second.cmd(&["WATCH", "k"]).is_error(),
        "the share of the group is lent out"
    );
    second.ping();
    let mut other = respool.client();
    assert_eq!(
        other.cmd(&["WATCH", "k"]),
        Value::ok(),
        "another group has its own share"
    );
    assert_eq!(first.cmd(&["UNWATCH"]), Value::ok());
    assert_eq!(second.cmd(&["WATCH", "k"]), Value::ok());
}

#[test]
fn denied_commands_do_not_reach_the_server() {
    let redis = Redis::start(&[]);
    let group = leaky_group("deny_commands = [\"flushall\", \"config|set\", \"@geo\"]");
    let respool = Respool::with(&redis).section(&group).start();
    let mut client = respool.client_from(LEAKY);
    assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    for denied in [
        &["FLUSHALL"][..],
        &["flushall", "ASYNC"],
        &["CONFIG", "SET", "maxmemory-samples", "6"],
        &["GEOPOS", "g"],
    ] {
        assert!(client.cmd(denied).is_error(), "{denied:?}");
    }
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    assert!(client.cmd(&["FLUSHALL"]).is_error());
    assert!(
        client.cmd(&["EXEC"]).text().starts_with("EXECABORT"),
        "as after any refused command"
    );
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("v"));
    assert_eq!(
        client.cmd(&["CONFIG", "GET", "maxmemory-samples"]).items()[1],
        Value::bulk("5")
    );
    assert_eq!(
        respool.client().cmd(&["FLUSHALL"]),
        Value::ok(),
        "another group may"
    );
}

#[test]
fn the_connect_rate_of_a_group_is_asked_when_its_clients_have_said_who_they_are() {
    let redis = Redis::start(&[]);
    let orders = "[[group]]\nname = \"orders\"\nmatch.client_name = \"orders-*\"\nmax_connects_per_second = 1\n";
    let respool = Respool::with(&redis).section(orders).start();
    // Even a slow machine opens thirty in less than thirty seconds.
    let served = |at: u32| {
        let mut client = respool.client_named(&format!("orders-{at}"));
        let served = client.try_cmd(&["GET", "k"]);
        served.is_some_and(|reply| reply.is_null())
    };
    let count = (0..30).filter(|&at| served(at)).count();
    assert!((1..30).contains(&count), "{count} of 30 were served");
    let rejected =
        "respool_client_connections_rejected_total{group=\"orders\",reason=\"connect_rate\"}";
    assert_eq!(respool.metric(rejected), (30 - count) as f64);
    // Whoever is of another group is not touched.
    for _ in 0..10 {
        assert!(respool.client().cmd(&["GET", "k"]).is_null());
    }
    eventually(|| served(30), "another is served after a while");
}
