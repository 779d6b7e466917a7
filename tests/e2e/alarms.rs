//! Alarms: what an operator is told to be wrong, levels, warnings, and what is only observed.

use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

/// Reads the group of this name in `/status`.
#[track_caller]
fn group(respool: &Respool, name: &str) -> serde_json::Value {
    let status = respool.status_json();
    let groups = status["groups"].as_array().expect("a list");
    let found = groups.iter().find(|group| group["name"] == name);
    found.expect("the group is there").clone()
}

#[track_caller]
fn eventually_warned(respool: &Respool, part: &str, is_warned: bool) {
    let what = format!("warned of {part:?}: {is_warned}");
    eventually(|| respool.warnings(part).is_empty() != is_warned, &what);
}

fn named(respool: &Respool, name: &str) -> Client {
    let mut client = respool.client_named(name);
    assert!(client.cmd(&["GET", "k"]).is_null());
    client
}

#[test]
fn a_cap_of_each_name_alarms_by_the_fullest_name() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .section(
            "[[group]]\nname = \"apps\"\nmatch = { client_name = \"app-*\" }\nper = \"client_name\"\n\
             max_connections = 3\nwarn_connections = 2",
        )
        .start();
    let mut clients: Vec<Client> = (0..10)
        .map(|number| named(&respool, &format!("app-{number}")))
        .collect();
    let apps = group(&respool, "apps");
    assert_eq!(
        (&apps["level"], &apps["connections"]),
        (&"ok".into(), &10.into())
    );
    assert_eq!(apps["fullest"]["connections"], 1);
    assert_eq!(
        (&apps["keys_at_limit"], &apps["keys_at_warn"]),
        (&0.into(), &0.into())
    );
    assert!(respool.warnings("apps").is_empty());

    clients.push(named(&respool, "app-7"));
    let apps = group(&respool, "apps");
    assert_eq!(
        (&apps["level"], &apps["keys_at_warn"]),
        (&"warning".into(), &1.into())
    );
    clients.push(named(&respool, "app-7"));
    let apps = group(&respool, "apps");
    assert_eq!(
        (&apps["level"], &apps["connections"]),
        (&"critical".into(), &12.into())
    );
    assert_eq!(apps["fullest"]["connections"], 3);
    assert_eq!(apps["fullest"]["key"], "client name \"app-7\"");
    assert_eq!(
        (&apps["per"], &apps["keys_at_limit"]),
        (&"client_name".into(), &1.into())
    );
    let of_group = |metric: &str| respool.metric(&format!("{metric}{{group=\"apps\"}}"));
    assert_eq!(of_group("respool_client_connections"), 12.0);
    assert_eq!(of_group("respool_client_connections_fullest"), 3.0);
    assert_eq!(of_group("respool_client_connections_limit"), 3.0);
    assert_eq!(of_group("respool_client_keys_at_limit"), 1.0);
    let told = respool.warnings("apps");
    assert!(told.len() == 1 && told[0].contains("app-7"), "{told:?}");
    drop(clients);
    eventually_warned(&respool, "apps", false);
    // They leave one by one: two of three are still worth a warning.
    let is_over = || group(&respool, "apps")["level"] == "ok";
    eventually(is_over, "all have left");
}

#[test]
fn what_is_only_observed_is_told_apart() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .section("[[group]]\nname = \"default\"\nmax_connections = 3\nmode = \"observe\"")
        .start();
    let mut clients: Vec<Client> = (0..10).map(|_| respool.client()).collect();
    clients.iter_mut().for_each(Client::ping);
    assert_eq!(
        respool.metric("respool_client_connections_rejected_total"),
        0.0
    );
    let observed =
        "respool_client_connections_observed_total{group=\"default\",reason=\"group_cap\"}";
    assert_eq!(respool.metric(observed), 7.0);
    let default = group(&respool, "default");
    assert_eq!(
        (&default["rejected_total"], &default["observed_total"]),
        (&0.into(), &7.into())
    );
    assert_eq!(default["observed"]["group_cap"], 7);
    assert_eq!(
        (&default["mode"], &default["level"]),
        (&"observe".into(), &"warning".into())
    );
    let told = respool.warnings("newcomers are served");
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn a_full_group_and_a_full_process_are_warned_of_while_they_are() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("max_clients = 4")
        .section("[[group]]\nname = \"leaky\"\nmatch = { address = [\"127.0.0.2/32\"] }\nmax_connections = 2")
        .start();
    let mut leaks: Vec<Client> = (0..2).map(|_| respool.client_from("127.0.0.2")).collect();
    leaks.iter_mut().for_each(Client::ping);
    let told = respool.warnings("\"leaky\" is at its cap: 2 of 2");
    assert!(
        told.len() == 1 && told[0].contains("CLIENT LIST"),
        "{told:?}"
    );
    let mut others: Vec<Client> = (0..2).map(|_| respool.client()).collect();
    others.iter_mut().for_each(Client::ping);
    assert_eq!(respool.warnings("4 of 4 (limits.max_clients)").len(), 1);
    drop((leaks, others));
    eventually(
        || respool.status_json()["warnings"] == serde_json::json!([]),
        "all is well again",
    );
}

#[test]
fn a_server_that_is_down_is_warned_of_and_so_is_the_open_circuit() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream(
            "circuit = { after = \"300ms\" }\nqueue = { timeout = \"200ms\", max_commands = 100 }",
        )
        .start();
    respool.client().cmd(&["GET", "k"]);
    eventually_warned(&respool, "does not answer", false);
    redis.kill_hard();
    let mut client = respool.client();
    client.send(encode(&["GET", "k"]));
    eventually_warned(&respool, "does not answer", true);
    let told = respool.warnings("does not answer").remove(0);
    assert!(told.contains("upstream.address"), "{told}");
    eventually_warned(&respool, "the circuit is open", true);
    redis.restart();
    eventually_warned(&respool, "the circuit is open", false);
    eventually_warned(&respool, "does not answer", false);
    eventually(
        || {
            let log = respool.log_text();
            log.contains("the server is back after ") && log.contains(": commands are sent again")
        },
        "it is logged for how long the server was away",
    );
}

#[test]
fn a_reload_that_failed_is_warned_of_until_one_succeeds() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    respool.rewrite(&Respool::with(&redis).limits("max_clients = 0"));
    assert_eq!(respool.post_reload().0, 409);
    let told = respool.warnings("was not reloaded");
    assert!(
        told.len() == 1 && told[0].contains("limits.max_clients"),
        "{told:?}"
    );
    respool.reload(&Respool::with(&redis));
    assert!(respool.warnings("was not reloaded").is_empty());
}

#[test]
fn leases_that_are_all_lent_are_warned_of() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 4\nshared_connections = 2\nborrow_timeout = \"60s\"")
        .start();
    let mut holders: Vec<Client> = (0..2).map(|_| respool.client()).collect();
    for holder in &mut holders {
        assert_eq!(holder.cmd(&["WATCH", "k"]), Value::ok());
    }
    eventually_warned(&respool, "all connections that can be lent are", true);
    let mut waiting = respool.client();
    waiting.send(encode(&["WATCH", "k"]));
    eventually_warned(
        &respool,
        "waiting for one (upstream.borrow_timeout): 1",
        true,
    );
    drop((holders, waiting));
    eventually_warned(&respool, "can be lent", false);
}
