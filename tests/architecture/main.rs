//! The order of the modules, held: a file imports only from modules that stand above its own in [`ORDER`].
//!
//! Also held: no files of a folder need each other in a circle; what stands before [`FIRST_IMPURE`] touches no sockets, clock, files,
//! environment or threads; no two types share a name; the page on the architecture lists the modules as
//! they are, and the tour names what is there; every Rust file opens with a `//!` line that says what it is, and none grows past
//! [`MAX_LINES`].

mod paths;
mod source;
mod tour;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;

use paths::{circles, imports};
use source::{SourceFile, read, rust_files, source_files, type_names};

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
    "server",
    "login",
    "thread",
    "outlet",
    "link",
    "upstream",
    "client",
    "worker",
    "fleet",
    "admin",
    "process",
];

/// The first module of [`ORDER`] that touches sockets or the clock; all before it are told the time and the bytes.
const FIRST_IMPURE: &str = "transport";

/// Lists what a pure module must not name, and what that would give it.
const IMPURE: &[(&str, &str)] = &[
    ("tokio::", "the runtime"),
    ("socket2", "sockets"),
    ("TcpStream", "sockets"),
    ("UnixStream", "sockets"),
    ("TcpListener", "sockets"),
    ("UdpSocket", "sockets"),
    ("rustix::", "the operating system"),
    ("Instant::now", "the clock"),
    ("SystemTime::now", "the clock"),
    ("fs::", "files"),
    ("env::", "the environment"),
    ("thread::", "threads"),
    ("rand::", "chance"),
];

/// Files of pure modules that touch it all the same, each for one thing only, and why.
const NOT_PURE: &[(&str, &str, &str)] = &[
    (
        "config/files.rs",
        "threads",
        "gives up on a file that does not answer",
    ),
    (
        "config/files.rs",
        "files",
        "reads the files that settings name, once, before they are checked",
    ),
    (
        "config/files.rs",
        "the operating system",
        "tells a file from a pipe that would never end",
    ),
    (
        "config/load.rs",
        "the environment",
        "reads the secrets that are given in variables",
    ),
    (
        "config/mod.rs",
        "the environment",
        "reads the secrets that are given in variables",
    ),
    (
        "config/access.rs",
        "files",
        "looks up the users and groups that own a socket file",
    ),
    (
        "config/machine.rs",
        "files",
        "asks the machine for its limits, of which defaults are made",
    ),
    (
        "config/machine.rs",
        "the operating system",
        "asks the machine for its limits, of which defaults are made",
    ),
    (
        "config/machine.rs",
        "threads",
        "asks the machine for its cores",
    ),
    (
        "config/machine.rs",
        "the clock",
        "asks what time it is, for certificates that are over",
    ),
    (
        "telemetry/server.rs",
        "the clock",
        "notes when the server failed last, for people",
    ),
    (
        "telemetry/parts.rs",
        "threads",
        "names the thread that a part runs on",
    ),
    (
        "budget/upload.rs",
        "the runtime",
        "wakes who waits for an upload",
    ),
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
    let files = files();
    let mut problems = Vec::new();
    for file in files {
        if rank(&file.module[0]).is_none() {
            problems.push(format!(
                "{}: `{}` has no place in the order of modules",
                file.path.display(),
                file.module[0]
            ));
        }
    }
    for import in imports(files) {
        let (own, other) = (&import.from[0], import.to.first());
        match other.and_then(|other| rank(other)) {
            Some(other_rank) if Some(other_rank) <= rank(own) => {}
            Some(_) => problems.push(format!(
                "{}:{}: `{own}` takes `{}` from `{}`, below it",
                import.from.join("/"),
                import.line,
                import.name,
                import.to.join("/")
            )),
            None => problems.push(format!(
                "{}:{}: `{}` is in no module",
                import.from.join("/"),
                import.line,
                import.name
            )),
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// The arrows between the files of a folder, with what each takes.
type Arrows = BTreeMap<(String, String), BTreeSet<String>>;

/// Two files of a folder that need each other are one file, or need a third. A module and its own children are one to the others.
#[test]
fn the_files_of_a_folder_stand_in_no_circle() {
    let files = files();
    let mut arrows: BTreeMap<Vec<String>, Arrows> = BTreeMap::new();
    for import in imports(files) {
        let shared = import
            .from
            .iter()
            .zip(&import.to)
            .take_while(|(from, to)| from == to)
            .count();
        if let (Some(from), Some(to)) = (import.from.get(shared), import.to.get(shared)) {
            let folder = arrows.entry(import.from[..shared].to_vec()).or_default();
            folder
                .entry((from.clone(), to.clone()))
                .or_default()
                .insert(import.name);
        }
    }
    let mut problems = Vec::new();
    for (folder, arrows) in &arrows {
        let name = folder.join("/");
        for circle in circles(&arrows.keys().cloned().collect()) {
            problems.push(format!(
                "src/{name}: a circle of {}",
                Vec::from_iter(&circle).len()
            ));
            let inside = arrows
                .iter()
                .filter(|((from, to), _)| circle.contains(from) && circle.contains(to));
            problems.extend(inside.map(|((from, to), names)| {
                format!(
                    "    {from} takes from {to}: {}",
                    Vec::from_iter(names.iter().cloned()).join(", ")
                )
            }));
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// A type's name says what it is without its module: whoever reads it anywhere knows which one is meant.
#[test]
fn no_two_types_share_a_name() {
    let mut found: BTreeMap<&str, Vec<&SourceFile>> = BTreeMap::new();
    for file in files() {
        for name in type_names(&file.code) {
            found.entry(name).or_default().push(file);
        }
    }
    let mut problems = Vec::new();
    for (name, files) in found.iter().filter(|(_, files)| files.len() > 1) {
        let paths: Vec<_> = files
            .iter()
            .map(|file| file.path.display().to_string())
            .collect();
        problems.push(format!("`{name}` is a type in {}", paths.join(", ")));
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn pure_modules_touch_neither_sockets_nor_the_clock() {
    let src = root().join("src");
    let pure = rank(FIRST_IMPURE).expect("it stands in the order");
    let mut problems = Vec::new();
    let mut unused: Vec<_> = NOT_PURE.iter().collect();
    for file in files() {
        if rank(&file.module[0]).is_none_or(|own| own >= pure) {
            continue;
        }
        let inside = file
            .path
            .strip_prefix(&src)
            .expect("found inside src")
            .to_string_lossy()
            .into_owned();
        for (word, what) in IMPURE.iter().filter(|(word, _)| has_word(&file.code, word)) {
            let is_excused =
                |(path, excused, _): &&(&str, &str, &str)| *path == inside && excused == what;
            if NOT_PURE.iter().any(|entry| is_excused(&entry)) {
                unused.retain(|entry| !is_excused(entry));
                continue;
            }
            problems.push(format!(
                "{}: `{word}` ({what}) in a module that stands before `{FIRST_IMPURE}`",
                file.path.display()
            ));
        }
    }
    problems.extend(unused.iter().map(|(path, what, _)| {
        format!("{path}: does not touch {what} any more; take it from NOT_PURE")
    }));
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// Finds `word` in `code` where no name goes on before it: `fs::` is not in `offs::`.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().last();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[test]
fn lib_declares_the_modules_in_their_order() {
    let lib = read(&root().join("src/lib.rs"));
    let declared: Vec<&str> = lib
        .lines()
        .filter_map(|line| {
            let line = line.strip_prefix("pub ").unwrap_or(line);
            line.strip_prefix("mod ")?.strip_suffix(';')
        })
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
fn the_page_on_the_architecture_lists_the_modules_in_their_order() {
    let page = read(&root().join("docs/architecture.md"));
    let table = page
        .lines()
        .skip_while(|line| *line != "| module | is |")
        .skip(2);
    let listed: Vec<&str> = table
        .take_while(|line| line.starts_with('|'))
        .flat_map(|line| {
            line.split('|')
                .nth(1)
                .unwrap_or_default()
                .split('`')
                .skip(1)
                .step_by(2)
        })
        .collect();
    assert_eq!(
        listed, ORDER,
        "docs/architecture.md lists the modules, lowest first"
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

fn rank(module: &str) -> Option<usize> {
    ORDER.iter().position(|name| *name == module)
}

/// Reads `src` once for all tests.
fn files() -> &'static [SourceFile] {
    static FILES: OnceLock<Vec<SourceFile>> = OnceLock::new();
    FILES.get_or_init(|| source_files(&root().join("src")))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
