//! The shipped samples and the documentation, held to the code.

use std::collections::BTreeMap;

use respool::config;

use crate::{parse, root, valid};

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
        settings.admin.address,
        Some("127.0.0.1:9180".parse().expect("an address"))
    );
}

/// Reads the type and the default of every key in the tables of the documentation, by path.
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
