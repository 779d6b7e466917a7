//! The configuration as an operator meets it: the shipped samples, the documentation, and every problem told at once.

mod anything;
mod authentication;
mod documentation;
mod meaning;
mod problems;
mod removed;
mod secrets;
mod tls;

use std::path::Path;

use respool::config::{self, ConfigProblems, MachineResources, Settings, UnixSeconds};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn machine() -> MachineResources {
    MachineResources {
        cores: 2,
        file_descriptors: 20_000,
        memory: 8 << 30,
        host_name: "web-1".to_owned(),
        // 2026-01-02T03:04:05Z
        now: UnixSeconds(1_767_323_045),
    }
}

fn parse(text: &str) -> Result<Settings, ConfigProblems> {
    let environment = |name: &str| (name == "REDIS_PASSWORD").then(|| "hunter2-env".to_owned());
    config::parse(text, root(), &machine(), &environment)
}

/// Writes the least that works, with more at its end.
fn minimal_and(more: &str) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:6380\"\n[upstream]\naddress = \"127.0.0.1:6379\"\n{more}"
    )
}

fn valid(text: &str) -> Settings {
    parse(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// Tells the problems of `text` as `line key: what; remedy`.
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
