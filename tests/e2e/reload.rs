//! Reloading: what changes is in force when the answer comes, what cannot change is named, and nobody is dropped.

mod under_load;

use std::os::unix::fs::symlink;

use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

fn group(name: &str, address: &str, lines: &str) -> String {
    format!("[[group]]\nname = \"{name}\"\nmatch = {{ address = [\"{address}/32\"] }}\n{lines}")
}

#[track_caller]
fn assert_served(client: &mut Client) {
    assert_eq!(client.cmd(&["PING"]), Value::simple("PONG"));
}

/// Tells the clients that still have their connection, each asked.
fn alive(clients: &mut [Client]) -> Vec<usize> {
    let answers = |client: &mut Client| client.try_cmd(&["PING"]) == Some(Value::simple("PONG"));
    let asked = clients.iter_mut().enumerate();
    asked
        .filter_map(|(index, client)| answers(client).then_some(index))
        .collect()
}

#[test]
fn a_lowered_cap_drops_nobody_and_holds_for_who_comes() {
    let redis = Redis::start(&[]);
    let with_cap = |cap: usize| {
        Respool::with(&redis).section(&group(
            "g",
            "127.0.0.2",
            &format!("max_connections = {cap}"),
        ))
    };
    let respool = with_cap(5).start();
    let mut clients: Vec<_> = (0..5).map(|_| respool.client_from("127.0.0.2")).collect();
    clients.iter_mut().for_each(assert_served);
    respool.reload(&with_cap(3));
    assert_eq!(
        respool.metric("respool_client_connections_limit{group=\"g\"}"),
        3.0
    );
    clients.iter_mut().for_each(assert_served);
    respool.client_from("127.0.0.2").assert_rejected();
    clients.truncate(3);
    eventually(|| respool.clients_of("g") == 3, "two have left");
    respool.client_from("127.0.0.2").assert_rejected();
    clients.truncate(2);
    eventually(|| respool.clients_of("g") == 2, "three have left");
    assert_served(&mut respool.client_from("127.0.0.2"));
    respool.reload(&with_cap(50));
    let mut more: Vec<_> = (0..40).map(|_| respool.client_from("127.0.0.2")).collect();
    more.iter_mut().for_each(assert_served);
}

#[test]
fn enforced_on_reload_a_lowered_cap_closes_who_is_past_it_and_holds_nothing() {
    let redis = Redis::start(&[]);
    let with_cap = |cap: usize| {
        Respool::with(&redis)
            .limits("enforce_on_reload = true")
            .section(&group(
                "g",
                "127.0.0.2",
                &format!("max_connections = {cap}"),
            ))
    };
    let respool = with_cap(6).start();
    let mut busy: Vec<_> = (0..2).map(|_| respool.client_from("127.0.0.2")).collect();
    assert_eq!(busy[0].cmd(&["WATCH", "k"]), Value::ok());
    busy[1].send(encode(&["BLPOP", "list", "0"]));
    eventually(
        || {
            respool
                .client()
                .cmd(&["CLIENT", "LIST"])
                .text()
                .contains("flags=b")
        },
        "one is blocked",
    );
    let mut idle: Vec<_> = (0..4).map(|_| respool.client_from("127.0.0.2")).collect();
    idle.iter_mut().for_each(assert_served);
    let mut other = respool.client();
    respool.reload(&with_cap(3));
    eventually(|| respool.clients_of("g") == 3, "three are closed");
    assert_eq!(alive(&mut idle).len(), 1);
    assert_eq!(busy[0].cmd(&["UNWATCH"]), Value::ok());
    assert_eq!(other.cmd(&["RPUSH", "list", "x"]).int(), 1);
    assert_eq!(busy[1].reply().items(), ["list", "x"].map(Value::bulk));
    let closed =
        respool.metric("respool_client_disconnects_total{group=\"g\",reason=\"over_cap\"}");
    assert_eq!(closed, 3.0);
}

#[test]
fn a_configuration_is_taken_whole_or_not_at_all() {
    let redis = Redis::start(&[]);
    let settings =
        || Respool::with(&redis).section(&group("g", "127.0.0.2", "max_connections = 5"));
    let respool = settings().start();
    let broken = Respool::with(&redis)
        .top("workers = 1\ninstance = \"another\"")
        .section(&group("g", "127.0.0.2", "max_connections = 1"));
    respool.rewrite(&broken);
    let (code, text) = respool.post_reload();
    assert_eq!(code, 409, "{text}");
    assert!(
        text.contains("instance: cannot change") && text.contains("restart"),
        "{text}"
    );
    let is_unchanged = || {
        assert_eq!(
            respool.metric("respool_client_connections_limit{group=\"g\"}"),
            5.0
        );
        assert_eq!(respool.metric("respool_config_last_reload_successful"), 0.0);
    };
    is_unchanged();
    assert!(respool.status().contains("instance: cannot change"));
    std::fs::write(respool.config(), "[[listener]]\naddress = 5\nlistenr = 1\n").expect("a file");
    let (code, text) = respool.post_reload();
    assert_eq!(code, 409);
    assert!(
        text.contains("listener.address") && text.contains("listenr"),
        "{text}"
    );
    is_unchanged();
    std::fs::remove_file(respool.config()).expect("it is there");
    assert_eq!(respool.post_reload().0, 409);
    is_unchanged();
    respool.rewrite(&settings());
    respool.hang_up();
    eventually(
        || respool.metric("respool_config_last_reload_successful") == 1.0,
        "SIGHUP reloads",
    );
}

#[test]
fn groups_come_go_and_change_places_and_clients_follow() {
    let redis = Redis::start(&[]);
    let a = |lines: &str| group("a", "127.0.0.2", lines);
    let b = |lines: &str| group("b", "127.0.0.3", lines);
    let respool = Respool::with(&redis).section(&a("")).start();
    let mut of_a = respool.client_from("127.0.0.2");
    let mut of_b = respool.client_from("127.0.0.3");
    assert_served(&mut of_a);
    assert_served(&mut of_b);
    assert_eq!(
        (respool.clients_of("a"), respool.clients_of("default")),
        (1, 1)
    );

    let denying = "deny_commands = [\"set\"]";
    respool.reload(&Respool::with(&redis).section(&b(denying)).section(&a("")));
    eventually(|| respool.clients_of("b") == 1, "the client has moved");
    assert_eq!(
        (respool.clients_of("a"), respool.clients_of("default")),
        (1, 0)
    );
    assert!(of_b.cmd(&["SET", "k", "v"]).text().contains("NOPERM"));
    assert_eq!(of_a.cmd(&["SET", "k", "v"]), Value::ok());
    let mut newcomer = respool.client_from("127.0.0.3");
    assert!(newcomer.cmd(&["SET", "k", "v"]).text().contains("NOPERM"));

    respool.reload(&Respool::with(&redis));
    eventually(
        || respool.clients_of("default") == 3,
        "both groups are gone",
    );
    assert_eq!((respool.clients_of("a"), respool.clients_of("b")), (0, 0));
    for client in [&mut of_a, &mut of_b, &mut newcomer] {
        assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    }
    respool.reload(
        &Respool::with(&redis)
            .section(&a("max_connections = 1"))
            .section(&b("")),
    );
    eventually(|| respool.clients_of("b") == 2, "and back");
    drop((of_a, of_b, newcomer));
    eventually(
        || {
            ["a", "b", "default"]
                .iter()
                .all(|group| respool.clients_of(group) == 0)
        },
        "every place is given back",
    );
}

#[test]
fn the_level_of_the_log_changes() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    respool.reload(&Respool::with(&redis).section("[log]\nlevel = \"error\""));
    respool.hang_up();
    respool.reload(&Respool::with(&redis).section("[log]\nlevel = \"info\""));
    respool.hang_up();
    eventually(
        || {
            respool
                .log_text()
                .contains("SIGHUP: the configuration is reloaded")
        },
        "what is reloaded at level info is logged",
    );
    let told = respool
        .log_text()
        .matches("POST /reload: the configuration is reloaded")
        .count();
    assert_eq!(told, 1, "{}", respool.log_text());
}

/// This is how Kubernetes mounts a config map: the file is a link into a folder that is a link, which is swapped.
#[test]
fn a_watched_file_is_reloaded_when_its_content_changes() {
    let redis = Redis::start(&[]);
    let watching = |cap: usize| {
        Respool::with(&redis)
            .section("[reload]\nwatch = true\ninterval = \"20ms\"")
            .section(&group(
                "g",
                "127.0.0.2",
                &format!("max_connections = {cap}"),
            ))
    };
    let respool = watching(5).start();
    let dir = respool.config().parent().expect("a folder").to_owned();
    let limit = || respool.metric("respool_client_connections_limit{group=\"g\"}");
    let swap = |name: &str, cap: usize| {
        respool.rewrite(&watching(cap));
        let text = std::fs::read(respool.config()).expect("just written");
        std::fs::create_dir(dir.join(name)).expect("a folder");
        std::fs::write(dir.join(name).join("respool.toml"), text).expect("a file");
    };
    // The content stays: nothing is reloaded.
    swap("first", 5);
    symlink("first", dir.join("..data")).expect("a link");
    symlink("..data/respool.toml", dir.join("link")).expect("a link");
    std::fs::rename(dir.join("link"), respool.config()).expect("renamed");
    std::fs::create_dir(dir.join("second")).expect("a folder");
    let text = std::fs::read_to_string(respool.config()).expect("it is there");
    let text = text.replace("max_connections = 5", "max_connections = 7");
    std::fs::write(dir.join("second").join("respool.toml"), &text).expect("a file");
    symlink("second", dir.join("..next")).expect("a link");
    std::fs::rename(dir.join("..next"), dir.join("..data")).expect("renamed");
    eventually(|| limit() == 7.0, "the swapped content is in force");
    respool.eventually_logs("the configuration is reloaded");
    let reloads = respool
        .log_text()
        .matches("the configuration is reloaded")
        .count();
    assert_eq!(reloads, 1, "{}", respool.log_text());

    std::fs::write(dir.join("second").join("respool.toml"), "workers = 0").expect("a file");
    eventually(
        || respool.metric("respool_config_last_reload_successful") == 0.0,
        "what is wrong is refused",
    );
    assert_eq!(limit(), 7.0);
    std::fs::write(dir.join("second").join("respool.toml"), text).expect("a file");
    eventually(
        || respool.metric("respool_config_last_reload_successful") == 1.0,
        "the right content is taken again",
    );
    respool.eventually_logs("is not reloaded");
    let refused = respool.log_text().matches("is not reloaded").count();
    assert_eq!(
        refused,
        1,
        "a refusal is logged once\n{}",
        respool.log_text()
    );
}

#[test]
fn users_change_and_who_was_one_goes_on() {
    let redis = Redis::start(&[]);
    let with_users = |users: &[(&str, &str)]| {
        let user = |(name, password)| {
            format!("[[auth.user]]\nname = \"{name}\"\npassword = \"{password}\"\n")
        };
        let users: String = users.iter().copied().map(user).collect();
        Respool::with(&redis).section(&format!("[auth]\nmode = \"proxy\"\n{users}"))
    };
    let respool = with_users(&[("ann", "one"), ("bob", "one")]).start();
    let mut ann = respool.client();
    assert_eq!(ann.cmd(&["AUTH", "ann", "one"]), Value::ok());
    respool.reload(&with_users(&[("ann", "two"), ("carl", "one")]));
    assert_served(&mut ann);
    for (name, password, is_good) in [
        ("ann", "two", true),
        ("carl", "one", true),
        ("ann", "one", false),
        ("bob", "one", false),
    ] {
        let reply = respool.client().cmd(&["AUTH", name, password]);
        assert_eq!(reply == Value::ok(), is_good, "{name} {password}");
    }
    respool.rewrite(&Respool::with(&redis).section("[auth]\nmode = \"none\""));
    let (status, text) = respool.post_reload();
    assert!(status == 409 && text.contains("auth.mode"), "{text}");
    assert_served(&mut ann);
    assert!(respool.client().cmd(&["PING"]).is_error());
}

#[test]
fn respools_own_password_changes_and_its_user_does_not() {
    let redis = Redis::start(&[]);
    let allow = [
        "ACL", "SETUSER", "respool", "on", ">one", "~*", "&*", "+@all",
    ];
    assert_eq!(redis.cmd(&allow), Value::ok());
    let with_password = |user: &str, password: &str| {
        let lines = format!("username = \"{user}\"\npassword = \"{password}\"");
        Respool::with(&redis).upstream(&lines)
    };
    let respool = with_password("respool", "one").start();
    let mut client = respool.client();
    assert_eq!(client.cmd(&["ACL", "WHOAMI"]), Value::bulk("respool"));
    let replaced = ["ACL", "SETUSER", "respool", "resetpass", ">two"];
    assert_eq!(redis.cmd(&replaced), Value::ok());
    respool.reload(&with_password("respool", "two"));
    assert_eq!(client.cmd(&["ACL", "WHOAMI"]), Value::bulk("respool"));
    redis.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually(
        || respool.client().cmd(&["ACL", "WHOAMI"]) == Value::bulk("respool"),
        "it is connected again",
    );
    respool.rewrite(&with_password("other", "two"));
    let (status, text) = respool.post_reload();
    assert!(
        status == 409 && text.contains("upstream.username"),
        "{text}"
    );
    assert!(!text.contains("two"), "{text}");
}

/// A reload that was refused for want of a file is taken when the file is there.
#[test]
fn a_file_that_comes_later_is_waited_for() {
    let redis = Redis::start(&[]);
    let watching = |more: &str| {
        Respool::with(&redis)
            .upstream(more)
            .section("[reload]\nwatch = true\ninterval = \"20ms\"")
    };
    let respool = watching("").start();
    let hosts = respool.config().with_file_name("hosts");
    respool.rewrite(&watching(&format!("hosts_file = \"{}\"", hosts.display())));
    let successful = || respool.metric("respool_config_last_reload_successful");
    eventually(|| successful() == 0.0, "it is refused without the file");
    std::fs::write(&hosts, "127.0.0.1 redis\n").expect("a file");
    eventually(|| successful() == 1.0, "and taken with it");
    // What a reload that was asked for has read is not reloaded once more.
    let reloads = || {
        respool
            .log_text()
            .matches("the configuration is reloaded")
            .count()
    };
    respool.reload(&watching(""));
    respool.eventually_logs("POST /reload: the configuration is reloaded");
    let before = reloads();
    respool.client().ping();
    respool.hang_up();
    eventually(|| reloads() == before + 1, "only the one that is asked for");
}
