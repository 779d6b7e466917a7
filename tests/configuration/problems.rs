//! Everything that can be wrong, told at once, each with line, key and remedy.

use respool::config::{self, MachineResources};

use crate::{machine, minimal_and, one_problem, parse, root, told, valid};

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    let text = "workers = 0\ncolour = 'red'\n[[listener]]\nadress = '127.0.0.1:1'\n[upstream]\n\
                address = '127.0.0.1:1'\nmax_conections = 12\nconnect_timeout = 5\nshared_connections = 'four'\n\
                tls = { enabled = 'on' }\n[limits]\nmax_clients = 30000\nmax_request = '512mb'\n[[group]]\nname = 'a b'\n\
                match = { client_name = '[', process = 'x', address = [\n  '10.0.0.0/99',\n  '::1',\n  'here',\n] }\n\
                per = 'process'\nmode = 'enforced'\nmax_connections = 5\nwarn_connections = 5\n[[upstream.queue]]\n";
    let text = text.replace("[[upstream.queue]]\n", "[group.extra]\nx = 1\n");
    let told = told(&text);
    let starts = [
        "1: workers: 0 is too few;",
        "2: colour: unknown key; remove it; known here: workers, instance,",
        "4: listener.adress: unknown key; did you mean \"address\"?",
        "7: upstream.max_conections: unknown key; did you mean \"max_connections\"?",
        "8: upstream.connect_timeout: a duration without a unit; write \"5s\"",
        "9: upstream.shared_connections: text where another kind of value is expected;",
        "10: upstream.tls.enabled: text where another kind of value is expected;",
        "12: limits.max_clients: 31",
        "13: limits.max_request: \"512mb\" is not a size; did you mean \"512MB\"?",
        "15: group.name: \"a b\" is not a usable name;",
        "16: group.match.client_name: \"[\" is not a glob:",
        "16: group.match.process: not in this version;",
        "17: group.match.address: \"10.0.0.0/99\" is neither",
        "19: group.match.address: \"here\" is neither",
        "21: group.per: \"process\" is not in this version;",
        "22: group.mode: \"enforced\" is none of the values this key takes; did you mean \"enforce\"?",
        "24: group.warn_connections: ",
        "25: group.extra: unknown key;",
    ];
    assert_eq!(told.len(), starts.len(), "{told:#?}");
    for (told, start) in told.iter().zip(starts) {
        assert!(
            told.starts_with(start),
            "{told:?} does not start with {start:?}"
        );
    }
}

#[test]
fn what_is_missing_is_told_where_it_belongs() {
    assert_eq!(
        told("[[listener]]\nbacklog = 5\n\n[[group]]\n"),
        [
            "1: listener.address: missing; add address = \"...\" to this [[listener]]",
            "4: group.name: missing; add name = \"...\" to this [[group]]",
            "upstream.address: missing; add the server's address to [upstream]",
        ]
    );
    assert_eq!(told("").len(), 2);
    assert_eq!(
        told("[listener]\naddress='127.0.0.1:1'\n[[upstream]]\naddress='127.0.0.1:2'\n"),
        [
            "1: listener: it is a list of tables; write each of them as [[listener]], with two brackets",
            "3: upstream: there can be only one such table; write [upstream], with one bracket",
        ]
    );
}

#[test]
fn a_key_in_the_wrong_table_is_told_its_own() {
    one_problem(
        "max_clients = 5\n",
        "5: upstream.max_clients: unknown key; \"max_clients\" stands in [limits]",
    );
    one_problem(
        "workers = 2\n",
        "5: upstream.workers: unknown key; \"workers\" stands at the top of the file",
    );
}

#[test]
fn a_quoted_key_is_not_a_path() {
    let told = told(&format!(
        "\"upstream.workers\" = 2\n\"a\\nb\" = 1\n\"log.level\" = 'warn'\n{}",
        minimal_and("")
    ));
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(
        told[1].starts_with("2: \"a\\nb\": unknown key;"),
        "{}",
        told[1]
    );
    assert!(
        told[2].starts_with("3: log.level: unknown key;"),
        "{}",
        told[2]
    );
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_do_no_harm() {
    valid(&format!(
        "\u{feff}{}",
        minimal_and("").replace('\n', "\r\n")
    ));
}

#[test]
fn pool_and_limits_must_fit_together() {
    one_problem(
        "max_connections = 4\nshared_connections = 4\n",
        "6: upstream.shared_connections: 4 shared of 4 connections",
    );
    one_problem(
        "reconnect = { initial = '5s' }\n",
        "5: upstream.reconnect.initial: the first delay 5s is longer",
    );
    one_problem(
        "username = 'respool'\n",
        "5: upstream.username: respool's user at the server is set, and no password of it",
    );
    one_problem(
        "reply_timeout = '0s'\n",
        "5: upstream.reply_timeout: \"0s\" is too short",
    );
    one_problem(
        "keepalive = '10ms'\n",
        "5: upstream.keepalive: \"10ms\" is too short",
    );
    one_problem(
        "max_shared_request = '2MiB'\n",
        "5: upstream.max_shared_request: this size is too large",
    );
    one_problem(
        "[limits]\nmax_request = '32KiB'\n",
        "6: limits.max_request: 64KiB is more than any request",
    );
    one_problem(
        "[limits]\nmax_client_buffer = '1KiB'\n",
        "6: limits.max_client_buffer: this size is too small",
    );
    one_problem(
        "[limits]\nidle_timeout = '5s'\nhandshake_timeout = '6s'\n",
        "7: limits.handshake_timeout: ",
    );
    valid(&minimal_and("[limits]\nidle_timeout = '5s'\n"));
}

#[test]
fn places_for_operators_are_for_users_that_can_be_told_from_others() {
    one_problem(
        "[admin]\nusers = ['ops', 'default']\n",
        "6: admin.users: every client is the user \"default\" until it authenticates",
    );
    one_problem(
        "[auth]\nmode = 'none'\n[admin]\nusers = ['ops']\n",
        "8: admin.users: with auth.mode = \"none\" nobody is a user",
    );
    one_problem("[admin]\nusers = ['']\n", "6: admin.users: an empty name");
    valid(&minimal_and("[admin]\nusers = ['ops']\n"));
    one_problem(
        "[limits]\noperator_places = 0\n[admin]\nusers = ['ops']\n",
        "8: admin.users: there are no places for operators",
    );
}

#[test]
fn what_damps_evictions_belongs_to_a_group_that_evicts() {
    one_problem(
        "[[group]]\nname = 'default'\nmax_connections = 5\nevict_pause = '2s'\n",
        "8: group.evict_pause: group \"default\" evicts nobody",
    );
    valid(&minimal_and(
        "[[group]]\nname = 'default'\nmax_connections = 5\nat_limit = 'evict-idle'\nmax_evictions_per_second = 2\n",
    ));
}

#[test]
fn memory_has_room_for_respool_and_all_clients() {
    one_problem(
        "[limits]\nmax_memory = '16MiB'\nmax_clients = 1025\n",
        "6: limits.max_memory: 16MiB is too little for 1025 clients (limits.max_clients) of 3KiB each, which have half of it, and with \
         respool's own 9MiB three quarters; set max_memory to at least \"17MiB\", or max_clients to at most 1024",
    );
    one_problem(
        "[limits]\nmax_memory = '64MiB'\nmax_clients = 10923\n",
        "6: limits.max_memory: 64MiB is too little for 10923 clients",
    );
    for (memory, clients) in [(16, 1024), (17, 1280), (64, 10922), (65, 11093)] {
        valid(&minimal_and(&format!(
            "[limits]\nmax_memory = '{memory}MiB'\nmax_clients = {clients}\n"
        )));
    }
}

#[test]
fn memory_that_may_not_be_kept_is_warned_of() {
    let told = |more: &str, memory: usize| {
        let machine = MachineResources {
            memory: memory << 20,
            ..machine()
        };
        let settings = config::parse(&minimal_and(more), root(), &machine, &|_| None);
        let settings = settings.expect("it is valid");
        let warnings = settings.warnings.iter();
        warnings.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(told("", 80), [""; 0]);
    let small = told("", 64);
    assert!(
        small.len() == 1
            && small[0].contains("limits.max_memory: 48MiB is too little for 10000 clients"),
        "{small:?}"
    );
    assert!(
        small[0].contains("set max_memory to at least \"59MiB\", or max_clients to at most 8192"),
        "{small:?}"
    );
}

#[test]
fn file_descriptors_are_counted_against_the_hard_limit() {
    one_problem(
        "[limits]\nmax_clients = 19000\n",
        "6: limits.max_clients: 20088 file descriptors are needed (19000 clients, 5 operators, 1000 rejected, 10 to the server, \
         1 listeners, 72 spare), and this process may have 20000; raise the hard limit (ulimit -Hn) to 20088, \
         or set limits.max_clients to at most 18912",
    );
    valid(&minimal_and("[limits]\nmax_clients = 18912\n"));
    let small = MachineResources {
        file_descriptors: 1024,
        ..machine()
    };
    let refusal = config::parse(&minimal_and(""), root(), &small, &|_| None).expect_err("too few");
    assert!(
        refusal
            .to_string()
            .contains("raise the hard limit (ulimit -Hn) to 11088"),
        "{refusal}"
    );
}

#[test]
fn addresses_must_differ() {
    let second = "[[listener]]\naddress = ";
    one_problem(
        &format!("{second}'localhost:6380'"),
        "6: listener.address: localhost:6380 is taken by the listener",
    );
    one_problem(
        &format!("{second}'0.0.0.0:6379'"),
        "6: listener.address: 0.0.0.0:6379 is where the server is",
    );
    one_problem(
        "[admin]\naddress = '127.0.0.1:6380'\n",
        "6: admin.address: 127.0.0.1:6380 is taken by the listener",
    );
    one_problem(
        "[admin]\naddress = '0.0.0.0:6379'\n",
        "6: admin.address: 0.0.0.0:6379 is where the server is",
    );
    valid(&minimal_and(
        "[[listener]]\naddress = 'unix:/run/a.sock'\n[admin]\naddress = '127.0.0.1:0'\n",
    ));
}

#[test]
fn groups_must_be_able_to_match_and_to_reach_their_caps() {
    let group = |more: &str| format!("[[group]]\nname = 'a'\n{more}\n");
    let after =
        |first: &str, second: &str| format!("{}[[group]]\nname = 'b'\n{second}\n", group(first));
    one_problem(
        &group("max_connections = 10001"),
        "7: group.max_connections: group \"a\" can never come to 10001",
    );
    one_problem(
        &group("max_connections = 5\nwarn_connections = 5"),
        "8: group.warn_connections: group \"a\" is at",
    );
    one_problem(
        &group("max_connections = 0"),
        "7: group.max_connections: 0 is too few",
    );
    one_problem(
        &group("max_pinned = 7"),
        "7: group.max_pinned: group \"a\" can never hold 7: 6 connections",
    );
    one_problem(
        &group("at_limit = 'evict-idle'"),
        "7: group.at_limit: group \"a\" has no cap at which to evict",
    );
    one_problem(
        &group("mode = 'observe'"),
        "7: group.mode: group \"a\" has no cap to observe",
    );
    one_problem(
        &group("match = { address = [] }"),
        "7: group.match.address: an empty list matches nobody",
    );
    one_problem(
        &group("match = { listener = '10.*' }"),
        "7: group.match.listener: group \"a\" can never match",
    );
    one_problem(
        &after("", "match.user = 'x'"),
        "9: group.name: group \"b\" can never match: the earlier group \"a\" takes",
    );
    one_problem(
        &after(
            "match = { address = ['10.0.0.0/8', '::1'] }",
            "match = { address = ['::1', '10.1.0.0/16'], user = 'x' }",
        ),
        "9: group.name: group \"b\" can never match",
    );
    one_problem(
        &after("match.user = 'x'", "name2 = 1"),
        "10: group.name2: unknown key",
    );
    one_problem(
        "[[group]]\nname = 'a'\nmatch.user = 'x'\n[[group]]\nname = 'a'\nmatch.user = 'y'\n",
        "9: group.name: there is an earlier group \"a\"",
    );
    one_problem(
        "[[group]]\nname = 'default'\nmatch.user = 'x'\n",
        "7: group.match: the group \"default\" takes everyone",
    );
    one_problem(
        "[[group]]\nname = 'default'\n[[group]]\nname = 'b'\nmatch.user = 'x'\n",
        "6: group.name: the group \"default\" comes after all others",
    );
    valid(&minimal_and(&after(
        "match.user = 'x'",
        "match.user = 'y*'",
    )));
}

#[test]
fn one_mistake_is_one_problem() {
    // The cap cannot be judged against a limit that was refused or misspelt.
    one_problem(
        "[limits]\nmax_clints = 20000\n[[group]]\nname = 'a'\nmax_connections = 15000\n",
        "6: limits.max_clints",
    );
    one_problem(
        "max_connections = 3.5\n",
        "5: upstream.max_connections: a fraction where",
    );
    one_problem(
        "[[group]]\nname = 'a'\nmatch.user = 5\n[[group]]\nname = 'b'\nmatch.user = 'x'\n",
        "7: group.match.user",
    );
}

#[test]
fn a_syntax_error_is_one_problem_with_its_line() {
    let told = told("workers = 2\n[upstream\naddress = 5\n");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("2: not TOML: "), "{told:?}");
    assert!(parse(&format!("x = {}", "[".repeat(100_000))).is_err());
}

#[test]
fn a_loaded_file_is_named_with_each_problem() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("respool.toml");
    std::fs::write(&path, minimal_and("max_conections = 3\n")).expect("written");
    let problems = config::load(&path).expect_err("a misspelt key");
    let expected = format!(
        "{}:5: upstream.max_conections: unknown key; did you mean \"max_connections\"?",
        path.display()
    );
    assert_eq!(problems.to_string(), expected);
    let nowhere = config::load(&dir.path().join("none.toml")).expect_err("no file");
    assert!(
        nowhere
            .to_string()
            .contains("none.toml: cannot be read: No such file"),
        "{nowhere}"
    );
    std::fs::write(&path, b"workers = 2\nx = \"\xff\"\n").expect("written");
    assert!(
        config::load(&path)
            .expect_err("not text")
            .to_string()
            .contains("not UTF-8 in line 2")
    );
}
