//! The Rust files of a folder as the rules see them: their code without comments, string contents and tests.
//!
//! Invariant: the code keeps the lines of the file, so that what is found on a line of it stands on that line of the file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One file of `src`, by the module it is.
pub(crate) struct SourceFile {
    /// The file, for messages.
    pub(crate) path: PathBuf,
    /// Its module path below the crate: `["upstream", "pool"]`.
    pub(crate) module: Vec<String>,
    /// The file without comments, without what stands in string literals, and without items for tests alone.
    pub(crate) code: String,
}

/// Reads all files of the folder `src` that are not for tests alone, in the order of their paths.
pub(crate) fn source_files(src: &Path) -> Vec<SourceFile> {
    let mut tests = BTreeSet::new();
    let mut files = Vec::new();
    for path in rust_files(src) {
        let Some(module) = module_of(&path, src) else {
            continue;
        };
        let text = read(&path);
        let (code, for_tests) = without_tests(&without_comments(&text));
        tests.extend(for_tests.into_iter().map(|name| {
            let mut path = module.clone();
            path.push(name);
            path
        }));
        files.push(SourceFile { path, module, code });
    }
    files.retain(|file| !tests.iter().any(|test| file.module.starts_with(test)));
    files
}

/// Finds all Rust files below `folder`, sorted.
pub(crate) fn rust_files(folder: &Path) -> Vec<PathBuf> {
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

/// Reads a file of the project.
pub(crate) fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Tells which module a file of `src` is; none for `lib.rs` and `main.rs`, which see everything.
fn module_of(file: &Path, src: &Path) -> Option<Vec<String>> {
    let inside = file.strip_prefix(src).expect("found inside src");
    let inside = inside.with_extension("");
    let mut names: Vec<String> = inside
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    if names.last().is_some_and(|name| name == "mod") {
        names.pop();
    }
    (names != ["lib"] && names != ["main"]).then_some(names)
}

/// Blanks comments and what stands between the quotes of literals; the lines stay where they are.
pub(crate) fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            quoted(rest, 1)
        } else if let Some(quotes) = raw_string(rest, &code) {
            quotes
        } else if first == '\'' {
            character(rest)
        } else {
            0
        };
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (blanked, after) = rest.split_at(skipped);
        if !blanked.starts_with('/') {
            code.push_str("\"\"");
        }
        code.extend(blanked.chars().filter(|c| *c == '\n'));
        rest = after;
    }
    code
}

/// Measures the string literal at the start of `text`, whose contents begin at `at`.
fn quoted(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes();
    let mut at = at;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// Measures the raw string literal at the start of `text`; `before` is the code that stands before it.
fn raw_string(text: &str, before: &str) -> Option<usize> {
    let is_inside_a_name = before
        .chars()
        .last()
        .is_some_and(|c| c.is_alphanumeric() || c == '_');
    let marks = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = marks.len() - marks.trim_start_matches('#').len();
    if is_inside_a_name || !marks[hashes..].starts_with('"') {
        return None;
    }
    let open = text.len() - marks.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(
        text[open..]
            .find(&end)
            .map_or(text.len(), |at| open + at + end.len()),
    )
}

/// Measures the character literal at the start of `text`; 0 where it is a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[3..].find('\'').map_or(0, |end| end + 4),
        Some((at, c)) if text[at + c.len_utf8()..].starts_with('\'') => at + c.len_utf8() + 1,
        _ => 0,
    }
}

/// Takes out what is compiled for tests alone. Returns the rest, and the child modules that are tests.
fn without_tests(code: &str) -> (String, Vec<String>) {
    let mut code = code.to_owned();
    let mut modules = Vec::new();
    let for_tests = |code: &str| {
        let attributes = ["#[cfg(test)]", "#[cfg(any(test, fuzzing))]"];
        let mut found = attributes.iter().filter_map(|attribute| {
            code.find(attribute)
                .map(|start| (start, start + attribute.len()))
        });
        found.next()
    };
    while let Some((start, mut at)) = for_tests(&code) {
        at += blank(&code[at..]);
        while code[at..].starts_with("#[") {
            at += code[at..].find(']').map_or(0, |end| end + 1);
            at += blank(&code[at..]);
        }
        let item = &code[at..];
        let length = match (item.find('{'), item.find(';')) {
            (Some(brace), Some(end)) if end < brace => end + 1,
            (Some(brace), _) => brace + block(&item[brace..]),
            (None, end) => end.map_or(item.len(), |end| end + 1),
        };
        let words: Vec<&str> = item[..length].split_whitespace().collect();
        if let Some(mod_at) = words.iter().position(|word| *word == "mod")
            && let Some(name) = words
                .get(mod_at + 1)
                .and_then(|name| name.strip_suffix(';'))
        {
            modules.push(name.to_owned());
        }
        let lines = "\n".repeat(code[start..at + length].matches('\n').count());
        code.replace_range(start..at + length, &lines);
    }
    (code, modules)
}

/// Finds the names of the types that `code` defines: structs, enums, unions, traits, and aliases outside of any block.
pub(crate) fn type_names(code: &str) -> Vec<&str> {
    let name_in = |line| {
        let is_outside = !str::starts_with(line, char::is_whitespace);
        let mut words = line.split_whitespace().peekable();
        if words.next_if(|word| word.starts_with("pub")).is_some() {
            // What stands in the parentheses of `pub(in crate::client)` is a word by itself.
            let _ = words.next_if(|word| word.ends_with(')'));
        }
        let is_type = match words.next()? {
            "struct" | "enum" | "union" | "trait" => true,
            "type" => is_outside,
            _ => false,
        };
        let name = words.next().filter(|_| is_type)?;
        name.split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
    };
    code.lines().filter_map(name_in).collect()
}

#[test]
fn types_are_found_in_every_form() {
    let code = "struct A;\npub enum B<T> {\npub(super) trait C: D {\n    type Output = E;\n}\n\
                pub(in crate::client) type F<'a> = G;\n    struct H(I);\nlet structure = J;\n";
    assert_eq!(type_names(code), ["A", "B", "C", "F", "H"]);
}

fn blank(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

/// Measures the block in braces at the start of `text`.
pub(crate) fn block(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

#[test]
fn comments_strings_and_tests_are_no_code() {
    let text = "fn a() {} // crate::x\nlet b = \"crate::y\\\"\"; let c = r#\"crate::z\"#;\nlet d = '\"'; fn e<'a>() {}\n\
                /* crate::v\n */ #[cfg(test)]\n#[rustfmt::skip]\nmod tests {\n use crate::w; }\n#[cfg(test)]\nmod model;\nfn f() {}\n";
    let (code, modules) = without_tests(&without_comments(text));
    assert!(!code.contains("crate"), "{code}");
    assert_eq!(code.matches('\n').count(), text.matches('\n').count());
    assert_eq!(modules, ["model"]);
    let left: Vec<&str> = code
        .split('\n')
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(
        left,
        [
            "fn a() {}",
            "let b = \"\"; let c = \"\";",
            "let d = \"\"; fn e<'a>() {}",
            "fn f() {}"
        ]
    );
}
