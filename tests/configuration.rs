//! The configuration as an operator meets it: the shipped samples, the documentation, and every problem told at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use respool::config::{self, Address, AtLimit, Machine, Mode, Per, Problems, Settings};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn machine() -> Machine {
    Machine {
        cores: 2,
        file_descriptors: 20_000,
        host_name: "web-1".to_owned(),
    }
}

fn parse(text: &str) -> Result<Settings, Problems> {
    let environment = |name: &str| (name == "REDIS_PASSWORD").then(|| "hunter2-env".to_owned());
    config::parse(text, root(), &machine(), &environment)
}

/// The least that works, with more at its end.
fn minimal_and(more: &str) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:6380\"\n[upstream]\naddress = \"127.0.0.1:6379\"\n{more}"
    )
}

fn valid(text: &str) -> Settings {
    parse(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// The problems of `text` as `line key: what; remedy`.
fn told(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(problems) => problems
            .to_string()
            .lines()
            .map(|line| line.replacen("line ", "", 1))
            .collect(),
    }
}

/// Asserts that the one problem of the minimal file with `more` (which begins in line 5) begins with `start`.
#[track_caller]
fn one_problem(more: &str, start: &str) {
    let told = told(&minimal_and(more));
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].starts_with(start), "{}", told[0]);
}

// ---- samples and documentation

#[test]
fn every_shipped_sample_is_valid() {
    let mut samples = 0;
    for entry in std::fs::read_dir(root().join("config")).expect("config/") {
        let path = entry.expect("an entry").path();
        assert_eq!(
            path.extension().and_then(|name| name.to_str()),
            Some("toml"),
            "{}",
            path.display()
        );
        let text = std::fs::read_to_string(&path).expect("readable");
        if let Err(problems) = parse(&text) {
            panic!("{}: {problems}", path.display());
        }
        samples += 1;
    }
    assert!(samples >= 4);
}

#[test]
fn the_sample_of_make_run_is_where_its_users_look() {
    let settings = config::load(&root().join("config/respool.toml"))
        .unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(settings.listeners[0].name, "127.0.0.1:6380");
    assert_eq!(settings.upstream.address.to_string(), "127.0.0.1:6379");
    assert_eq!(
        settings.admin,
        Some("127.0.0.1:9180".parse().expect("an address"))
    );
}

/// Type and default of every key in the tables of the documentation, by path.
fn documented() -> BTreeMap<String, (String, String)> {
    let page = std::fs::read_to_string(root().join("docs/configuration.md"))
        .expect("docs/configuration.md");
    let mut keys = BTreeMap::new();
    let mut table = None;
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let name = heading.trim_matches('`').trim_matches(['[', ']']);
            table = match name {
                "Top of the file" => Some(String::new()),
                _ if heading.starts_with('`') => Some(format!("{name}.")),
                _ => None,
            };
        }
        let cells: Vec<&str> = line
            .split(" | ")
            .map(|cell| cell.trim_matches(['|', ' ']))
            .collect();
        if let (Some(table), [key, kind, default, meaning]) = (&table, cells.as_slice())
            && key.starts_with('`')
        {
            assert!(meaning.ends_with('.'), "{key} without a meaning");
            let path = format!("{table}{}", key.trim_matches('`'));
            let twice = keys.insert(path, ((*kind).to_owned(), (*default).to_owned()));
            assert!(twice.is_none(), "{key} twice");
        }
    }
    keys
}

#[test]
fn documentation_and_code_know_the_same_keys_types_and_defaults() {
    let page = std::fs::read_to_string(root().join("docs/configuration.md"))
        .expect("docs/configuration.md");
    let later = page
        .split("## Not in this version")
        .nth(1)
        .expect("a section of what is not in this version");
    let mut known = BTreeMap::new();
    for key in config::keys().iter().filter(|key| !key.is_table()) {
        if key.kind_text() == "not in this version" {
            assert!(
                later.contains(&format!("`{}`", key.path())),
                "{} is not named",
                key.path()
            );
        } else {
            known.insert(key.path().to_owned(), (key.kind_text(), key.default_text()));
        }
    }
    let documented = documented();
    for (path, code) in &known {
        assert_eq!(
            documented.get(path),
            Some(code),
            "docs/configuration.md about {path}"
        );
    }
    for path in documented.keys() {
        assert!(known.contains_key(path), "{path} is documented and unknown");
    }
}

#[test]
fn what_the_documentation_calls_a_default_is_what_holds() {
    let written: Vec<String> = config::keys()
        .iter()
        .filter(|key| !key.path().starts_with("group") && !key.path().starts_with("listener"))
        .filter_map(|key| {
            let default = key.default_text();
            default
                .strip_prefix('`')
                .and_then(|rest| rest.strip_suffix('`'))
                .map(|toml| format!("{}={toml}", key.path()))
        })
        .collect();
    assert!(written.len() > 25);
    let base = "upstream.address='127.0.0.1:6379'\n[[listener]]\naddress='127.0.0.1:6380'";
    let explicit = valid(&format!("{}\n{base}", written.join("\n")));
    assert_eq!(format!("{explicit:?}"), format!("{:?}", valid(base)));
}

// ---- what a configuration means

#[test]
fn the_minimal_file_means_the_defaults_of_the_design() {
    let settings = valid(&minimal_and(""));
    assert_eq!((settings.workers, settings.instance.as_str()), (2, "web-1"));
    assert_eq!(settings.drain_timeout, Duration::from_secs(10));
    assert_eq!(settings.listeners[0].backlog, 1024);
    assert_eq!(
        (
            settings.upstream.max_connections,
            settings.upstream.shared_connections
        ),
        (10, 4)
    );
    assert_eq!(
        settings.upstream.reconnect.initial,
        Duration::from_millis(50)
    );
    assert_eq!(settings.upstream.queue.max_commands, 10_000);
    assert_eq!(settings.upstream.max_shared_request, 65_536);
    assert_eq!(
        (settings.limits.max_clients, settings.limits.max_rejected),
        (10_000, 1000)
    );
    assert_eq!(settings.limits.max_client_buffer, 32 << 20);
    assert!(!settings.limits.explain_rejections && settings.admin.is_none());
    let [group] = settings.groups.as_slice() else {
        panic!("{:?}", settings.groups)
    };
    assert!(group.name == "default" && group.matches.is_empty() && group.max_connections.is_none());
    assert_eq!(
        settings.descriptors_needed(),
        10_000 + 1000 + 10 + 1 + 64 + 2 * 4
    );
}

#[test]
fn a_group_is_read_with_all_its_keys() {
    let settings = valid(&minimal_and(
        "[limits]\nidle_timeout = '5m'\n[[group]]\nname = 'ci'\nper = 'client_name'\nmax_connections = 20\n\
         warn_connections = 15\nmax_connects_per_second = 50\nmax_pinned = 2\nat_limit = 'evict-idle'\nmode = 'observe'\n\
         deny_commands = ['FLUSHALL', 'Config|Set', '@dangerous']\n\
         match = { address = ['10.1.2.3/8', '::1'], listener = '127.*', client_name = 'test-*', user = 'ci' }\n",
    ));
    let [group, default] = settings.groups.as_slice() else {
        panic!("{:?}", settings.groups)
    };
    assert_eq!(group.per, Per::ClientName);
    assert_eq!(
        (
            group.max_connections,
            group.warn_connections,
            group.max_pinned
        ),
        (Some(20), Some(15), Some(2))
    );
    assert_eq!(group.max_connects_per_second, Some(50));
    assert_eq!(
        (group.at_limit, group.mode),
        (AtLimit::EvictIdle, Mode::Observe)
    );
    assert_eq!(
        group.deny_commands,
        ["flushall", "config|set", "@dangerous"]
    );
    assert_eq!(group.matches.address[0].to_string(), "10.0.0.0/8");
    let name = group.matches.client_name.as_ref().expect("a glob");
    assert!(name.matches(b"test-1") && !name.matches(b"web"));
    assert_eq!(
        (group.idle_timeout, default.idle_timeout),
        (Duration::from_secs(300), Duration::from_secs(300))
    );
    assert_eq!(default.name, "default");
}

#[test]
fn the_operator_may_write_the_default_group() {
    let settings = valid(&minimal_and(
        "[[group]]\nname = 'default'\nmax_connections = 7\n",
    ));
    assert_eq!(settings.groups.len(), 1);
    assert_eq!(settings.groups[0].max_connections, Some(7));
}

#[test]
fn workers_give_way_to_shared_connections_unless_they_are_written() {
    let one = valid(&minimal_and("shared_connections = 1\n"));
    assert_eq!(one.workers, 1);
    assert_eq!(
        told(&format!(
            "workers = 2\n{}",
            minimal_and("shared_connections = 1\n")
        )),
        [
            "1: workers: 2 workers need a shared connection each, and there are 1; \
          set workers to at most 1, or raise upstream.shared_connections"
        ]
    );
}

#[test]
fn sockets_of_files_are_addresses_too() {
    let settings = valid(
        "upstream.address = 'unix:/run/redis.sock'\n[[listener]]\naddress = 'unix:/run/respool.sock'\n",
    );
    assert_eq!(
        settings.upstream.address,
        Address::Unix(PathBuf::from("/run/redis.sock"))
    );
    assert_eq!(settings.listeners[0].name, "unix:/run/respool.sock");
}

// ---- problems

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    let text = "workers = 0\ncolour = 'red'\n[[listener]]\nadress = '127.0.0.1:1'\n[upstream]\n\
                address = '127.0.0.1:1'\nmax_conections = 12\nconnect_timeout = 5\nshared_connections = 'four'\n\
                tls = { enabled = true }\n[limits]\nmax_clients = 30000\nmax_request = '512mb'\n[[group]]\nname = 'a b'\n\
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
        "10: upstream.tls: not in this version;",
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
            "1: listener: there can be several of these; write [[listener]], with two brackets",
            "3: upstream: there is one of these; write [upstream]",
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
fn pool_and_limits_must_fit_together() {
    one_problem(
        "max_connections = 4\n",
        "5: upstream.max_connections: 4 shared of 4 connections",
    );
    one_problem(
        "reconnect = { initial = '5s' }\n",
        "5: upstream.reconnect.initial: the first delay 5s is longer",
    );
    one_problem(
        "username = 'respool'\n",
        "5: upstream.username: a user without a password",
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
fn file_descriptors_are_counted_against_the_hard_limit() {
    one_problem(
        "[limits]\nmax_clients = 19000\n",
        "6: limits.max_clients: 20083 file descriptors are needed (19000 clients, 1000 rejected, 10 to the server, \
         1 listeners, 72 spare), and this process may have 20000; raise the hard limit (ulimit -Hn) to 20083, \
         or set limits.max_clients to at most 18917",
    );
    valid(&minimal_and("[limits]\nmax_clients = 18917\n"));
    let small = Machine {
        file_descriptors: 1024,
        ..machine()
    };
    let refusal = config::parse(&minimal_and(""), root(), &small, &|_| None).expect_err("too few");
    assert!(
        refusal
            .to_string()
            .contains("raise the hard limit (ulimit -Hn) to 11083"),
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

// ---- secrets

#[test]
fn a_password_comes_from_one_of_three_places() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("secret"), "hunter2-file\r\n").expect("written");
    let password = |key: &str| {
        let environment = |name: &str| (name == "REDIS_PASSWORD").then(|| "hunter2-env".to_owned());
        let settings = config::parse(&minimal_and(key), dir.path(), &machine(), &environment);
        let settings = settings.unwrap_or_else(|problems| panic!("{problems}"));
        settings
            .upstream
            .password
            .expect("a password")
            .expose()
            .to_owned()
    };
    assert_eq!(password("password = 'hunter2'"), "hunter2");
    assert_eq!(password("password_file = 'secret'"), "hunter2-file");
    assert_eq!(password("password_env = 'REDIS_PASSWORD'"), "hunter2-env");
}

#[test]
fn secrets_are_in_no_problem_and_no_report() {
    let wrong = [
        "password = 'hunter2\n",
        "password = 'hunter2' 'hunter2'\n",
        "password = hunter2\n",
        "password = ['hunter2']\n",
        "password = { hunter = 'hunter2' }\n",
        "pasword = 'hunter2'\n",
        "password = 'hunter2'\npassword = 'hunter2'\n",
        "password = 'hunter2'\npassword_env = 'hunter2'\n",
        "password_env = 'hunter2'\n",
        "password_file = 'hunter2'\n",
        "password = 'hunter2'\nmax_connections = 1\n",
        "tls = { key = 'hunter2' }\n",
        "queue = 'hunter2'\n",
        "auth = 'hunter2'\n",
        "[limits]\npassword = 'hunter2'\n",
    ];
    for more in wrong {
        let problems = parse(&minimal_and(more)).expect_err(more);
        assert!(
            !format!("{problems} {problems:?}").contains("hunter2"),
            "{problems}"
        );
    }
    let url = parse("upstream.address = 'redis://:hunter2@127.0.0.1:6379'\n").expect_err("a URL");
    assert!(!format!("{url} {url:?}").contains("hunter2"), "{url}");
    for key in ["password = 'hunter2'", "password_env = 'REDIS_PASSWORD'"] {
        let settings = valid(&minimal_and(key));
        assert!(!format!("{settings:?}{}", config::report(&settings)).contains("hunter2"));
    }
}

#[test]
fn the_report_says_what_a_configuration_means() {
    let more = "password = 'x'\n[[group]]\nname = 'ci'\nmatch.user = 'ci'\nmax_connections = 20\nwarn_connections = 15\n";
    assert_eq!(
        config::report(&valid(&minimal_and(more))),
        "listens on        127.0.0.1:6380\n\
         server            127.0.0.1:6379, with a password: at most 10 connections, 4 shared and 6 to lend\n\
         workers           2 (instance \"web-1\")\n\
         admin endpoint    off\n\
         group             ci: at most 20, warned of from 15\n\
         group             default: no cap of its own (limits.max_clients 10000)\n\
         file descriptors  11083 needed: 10000 clients + 1000 rejected + 10 to the server + 1 listeners + 72 spare"
    );
}

// ---- anything at all

/// Text that is TOML often enough to get far: known and unknown keys with values of every kind.
fn lines_of_toml() -> impl Strategy<Value = String> {
    let paths: Vec<&str> = config::keys().iter().map(config::Key::path).collect();
    let key = prop_oneof![
        proptest::sample::select(paths),
        Just("[[listener]]"),
        Just("[[group]]"),
        Just("[upstream]"),
        Just("[limits]"),
        Just("[group.match]"),
        Just("address"),
        Just("name"),
        Just("match"),
        Just("\"a\\nb\""),
    ];
    let value = prop_oneof![
        Just("1"),
        Just("-1"),
        Just("99999999999999999999999"),
        Just("0x10"),
        Just("1.5"),
        Just("true"),
        Just("''"),
        Just("'5s'"),
        Just("'64KiB'"),
        Just("'127.0.0.1:6379'"),
        Just("'unix:/a'"),
        Just("'default'"),
        Just("[]"),
        Just("[1, 'x', '::1']"),
        Just("{}"),
        Just("{ address = ['::1'], user = '*' }"),
        Just("[{}, 1]"),
        Just("2020-01-01"),
        Just("'{a,b'"),
        Just("'*'"),
    ];
    let line = (key, value).prop_map(|(key, value)| match key.starts_with('[') {
        true => format!("{key}\n"),
        false => format!("{key} = {value}\n"),
    });
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
}

proptest! {
    #[test]
    fn any_text_is_settings_or_problems_of_one_line_each(text in prop_oneof![any::<String>(), lines_of_toml()]) {
        if let Err(problems) = parse(&text) {
            prop_assert!(problems.count() > 0);
            prop_assert_eq!(problems.to_string().lines().count(), problems.count());
            prop_assert!(problems.iter().all(|problem| !problem.remedy.is_empty()));
        }
    }

    #[test]
    fn no_number_makes_the_checks_overflow(
        clients in 0_u64..=u64::MAX, rejected in 0_u64..=u64::MAX, total in 0_u64..=u64::MAX, shared in 0_u64..=u64::MAX,
    ) {
        let text = format!(
            "upstream={{address='127.0.0.1:1',max_connections={total},shared_connections={shared}}}\n\
             limits={{max_clients={clients},max_rejected={rejected}}}\n[[listener]]\naddress='127.0.0.1:2'\n"
        );
        if let Ok(settings) = parse(&text) {
            prop_assert!(settings.descriptors_needed() <= 20_000);
            prop_assert!(settings.workers <= settings.upstream.shared_connections);
            prop_assert!(settings.upstream.shared_connections < settings.upstream.max_connections);
        }
    }
}
