//! Any text at all is settings or problems, never a panic.

use proptest::prelude::*;
use respool::config;

use crate::parse;

/// Makes text that is TOML often enough to get far: known and unknown keys with values of every kind.
fn lines_of_toml() -> impl Strategy<Value = String> {
    let paths: Vec<&str> = config::keys()
        .iter()
        .map(config::SettingKey::path)
        .collect();
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
