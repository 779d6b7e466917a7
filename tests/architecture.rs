//! The order of the modules, held: a file imports only from modules that stand above its own in [`ORDER`].
//!
//! Also held: every Rust file opens with a `//!` line that says what it is, and none grows past [`MAX_LINES`].

use std::fs;
use std::path::{Path, PathBuf};

/// Lowest first. `lib.rs` and `main.rs` see everything.
const ORDER: &[&str] = &[
    "config",
    "resp",
    "texts",
    "command",
    "memory",
    "replies",
    "identity",
    "admission",
    "budget",
    "auth",
    "fences",
    "session",
    "silence",
    "schedule",
    "fanout",
    "waits",
    "exchange",
    "telemetry",
    "failover",
    "transport",
    "login",
    "upstream",
    "client",
    "worker",
    "fleet",
    "admin",
    "process",
    "proxy",
];

/// The first module of [`ORDER`] that touches sockets or the clock; all before it are told the time and the bytes.
const FIRST_IMPURE: &str = "transport";

/// What gives a pure module away.
const IMPURE: &[&str] = &[
    "tokio::net",
    "tokio::time",
    "TcpStream",
    "UnixStream",
    "Instant::now",
];

/// A file longer than this is more than one noun.
const MAX_LINES: usize = 700;

/// Folders whose Rust files must be introduced and short; the order of modules concerns `src` alone.
const FOLDERS: &[&str] = &[
    "src",
    "tests",
    "benches",
    "examples",
    "fuzz/targets",
    "fuzz/fuzz_targets",
];

#[test]
fn a_file_imports_only_from_modules_above_its_own() {
    let src = root().join("src");
    let mut problems = Vec::new();
    for file in rust_files(&src) {
        let Some(own) = module_of(&file, &src) else {
            continue;
        };
        let Some(own_rank) = rank(&own) else {
            problems.push(format!(
                "{}: `{own}` has no place in the order of modules",
                file.display()
            ));
            continue;
        };
        for (line, target) in imports(&read(&file)) {
            match rank(&target) {
                Some(target_rank) if target_rank <= own_rank => {}
                Some(_) => problems.push(format!(
                    "{}:{line}: `{own}` imports `{target}`, below it",
                    file.display()
                )),
                None => problems.push(format!(
                    "{}:{line}: `crate::{target}` is not a module",
                    file.display()
                )),
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn pure_modules_touch_neither_sockets_nor_the_clock() {
    let src = root().join("src");
    let pure = rank(FIRST_IMPURE).expect("it stands in the order");
    let mut problems = Vec::new();
    for file in rust_files(&src) {
        let is_pure = module_of(&file, &src)
            .and_then(|own| rank(&own))
            .is_some_and(|own| own < pure);
        let path = file.to_string_lossy();
        if !is_pure || path.ends_with("tests.rs") || path.contains("/tests/") {
            continue;
        }
        let text = read(&file);
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in IMPURE
            .iter()
            .filter(|word| without_comments(code).contains(**word))
        {
            problems.push(format!(
                "{}: `{word}` in a module that stands before `{FIRST_IMPURE}`",
                file.display()
            ));
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn lib_declares_the_modules_in_their_order() {
    let lib = read(&root().join("src/lib.rs"));
    let declared: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let ordered: Vec<&str> = ORDER
        .iter()
        .copied()
        .filter(|name| declared.contains(name))
        .collect();
    assert_eq!(
        declared, ordered,
        "src/lib.rs is the table of contents and keeps the order of modules"
    );
}

#[test]
fn every_file_is_introduced_and_short() {
    let mut problems = Vec::new();
    for file in FOLDERS
        .iter()
        .flat_map(|folder| rust_files(&root().join(folder)))
    {
        let text = read(&file);
        if !text.lines().next().unwrap_or_default().starts_with("//! ") {
            problems.push(format!(
                "{}: the first line is not a `//! ` line",
                file.display()
            ));
        }
        let lines = text.lines().count();
        if lines > MAX_LINES {
            problems.push(format!(
                "{}: {lines} lines, more than {MAX_LINES}",
                file.display()
            ));
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn imports_are_found_in_every_form() {
    let source = "//! [`crate::proxy`]\nuse crate::config::Settings;\nuse crate::{\n    resp::{self, request},\n    \
                  command,\n};\nlet x = crate::session::Session::new(); // crate::admin\npub(crate) fn f() {}\n";
    let found = imports(source);
    let expected = [(2, "config"), (3, "resp"), (3, "command"), (7, "session")];
    assert_eq!(found, expected.map(|(line, name)| (line, name.to_owned())));
}

/// The first names of all `crate::` paths in `source`, with their line; comments do not count.
fn imports(source: &str) -> Vec<(usize, String)> {
    let code = without_comments(source);
    let mut found = Vec::new();
    for (at, needle) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let path = &code[at + needle.len()..];
        match path.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group).into_iter().map(|name| (line, name))),
            None => found.push((line, head(path))),
        }
    }
    found
}

fn without_comments(source: &str) -> String {
    let code: Vec<&str> = source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect();
    code.join("\n")
}

/// The first name of each path in the group of a `use`, of which `group` begins after the brace.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut heads) = (0_usize, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.push(head(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads.retain(|name| !name.is_empty());
    heads
}

fn head(path: &str) -> String {
    path.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

fn rank(module: &str) -> Option<usize> {
    ORDER.iter().position(|name| *name == module)
}

/// The top-level module a file of `src` belongs to; none for `lib.rs` and `main.rs`.
fn module_of(file: &Path, src: &Path) -> Option<String> {
    let inside = file.strip_prefix(src).expect("found inside src");
    let first = inside.iter().next()?.to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib" && name != "main").then(|| name.to_owned())
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.expect("folder is readable").path()) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
