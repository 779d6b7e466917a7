//! Passwords: where they come from, and that they are shown nowhere; what a report says.

use respool::config::{self, SecretSource};

use crate::{machine, minimal_and, parse, valid};

#[test]
fn a_password_comes_from_one_of_three_places() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("secret"), "hunter2-file\r\n").expect("written");
    let password = |key: &str| {
        let environment = |name: &str| (name == "REDIS_PASSWORD").then(|| "hunter2-env".to_owned());
        let settings = config::parse(&minimal_and(key), dir.path(), &machine(), &environment);
        let settings = settings.unwrap_or_else(|problems| panic!("{problems}"));
        let login = settings.upstream.login.expect("a password");
        match login.sources.as_slice() {
            [SecretSource::Given(secret) | SecretSource::File(_, secret)] => {
                secret.expose().to_owned()
            }
            other => panic!("{other:?}"),
        }
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
        "auth.mode = 'hunter2'\n",
        "password_next = ['hunter2']\n",
        "password_next = 'hunter2'\npassword_next_env = 'hunter2'\n",
        "password_command = 'hunter2'\n",
        "password_command = ['', 'hunter2']\n",
        "password_command = ['a', 'hunter2']\npassword_env = 'hunter2'\n",
        "iam = 'hunter2'\n",
        "[[auth.user]]\nname = 'ann'\npassword = 'hunter2'\n",
        "[auth]\nmode = 'proxy'\n[[auth.user]]\nname = 'ann'\npassword_file = 'hunter2'\n",
        "[auth]\nmode = 'proxy'\n[[auth.user]]\nname = 'ann'\npassword_env = 'hunter2'\n",
        "[auth]\nmode = 'proxy'\n[[auth.user]]\nname = 'ann'\npassword_sha256 = ['hunter2']\n",
        "[auth]\nmode = 'proxy'\n[[auth.user]]\nname = 'ann'\npassword_sha256 = 'hunter2'\n",
        "[auth]\nmode = 'proxy'\n[[auth.user]]\npassword = 'hunter2'\n",
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
    for key in [
        "password = 'hunter2'",
        "password_env = 'REDIS_PASSWORD'",
        "password = 'x'\npassword_next = 'hunter2'",
        "password_command = ['/bin/echo', 'hunter2']",
        "[auth]\nmode = 'proxy'\n[[auth.user]]\nname = 'ann'\npassword = 'hunter2'\n",
    ] {
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
         memory            at most 6144MiB (limits.max_memory)\n\
         admin endpoint    off\n\
         group             ci: at most 20, warned of from 15\n\
         group             default: no cap of its own (limits.max_clients 10000)\n\
         file descriptors  11088 needed: 10000 clients + 5 operators + 1000 rejected + 10 to the server + 1 listeners + 72 spare"
    );
}
