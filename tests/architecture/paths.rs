//! Which file takes what from which: the paths of `use` and of the code, followed through re-exports to where a thing is defined.

use std::collections::{BTreeMap, BTreeSet};

use super::source::SourceFile;

/// A path as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathUse {
    /// The line it stands on, from 1.
    pub(crate) line: usize,
    /// Its names: `["crate", "resp", "Request"]`.
    pub(crate) names: Vec<String>,
    /// The name under which the file makes it known to others, where it does.
    exported: Option<String>,
}

/// One file that takes something from another.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Import {
    /// The module that takes.
    pub(crate) from: Vec<String>,
    /// The module in which it is defined.
    pub(crate) to: Vec<String>,
    /// Names the item that is taken.
    pub(crate) name: String,
    /// Tells on which line it is taken.
    pub(crate) line: usize,
}

/// Finds what each file takes from other files.
pub(crate) fn imports(files: &[SourceFile]) -> Vec<Import> {
    let tree = ModuleTree::new(files);
    let mut found = Vec::new();
    for file in files {
        for path in &tree.uses[&file.module] {
            if let Some(to) = tree.defined_in(&path.names, &file.module, 0)
                && to != file.module
            {
                found.push(Import {
                    from: file.module.clone(),
                    to,
                    name: path.names.last().cloned().unwrap_or_default(),
                    line: path.line,
                });
            }
        }
    }
    found
}

struct ModuleTree {
    uses: BTreeMap<Vec<String>, Vec<PathUse>>,
}

impl ModuleTree {
    fn new(files: &[SourceFile]) -> Self {
        let uses = |file: &SourceFile| (file.module.clone(), paths(&file.code));
        Self {
            uses: files.iter().map(uses).collect(),
        }
    }

    /// Follows a path from `module` to the module that defines what it names. `None`: it leads out of the crate.
    fn defined_in(&self, names: &[String], module: &[String], depth: usize) -> Option<Vec<String>> {
        let mut at = module.to_vec();
        let mut rest = names;
        match names.first()?.as_str() {
            "crate" => {
                at.clear();
                rest = &rest[1..];
            }
            "self" | "super" => {
                while let Some(name) = rest
                    .first()
                    .filter(|name| ["self", "super"].contains(&name.as_str()))
                {
                    if name == "super" {
                        at.pop();
                    }
                    rest = &rest[1..];
                }
            }
            name if self.child(&at, name).is_some() => {}
            _ => return None,
        }
        while let Some(name) = rest.first() {
            if let Some(child) = self.child(&at, name) {
                at = child;
                rest = &rest[1..];
                continue;
            }
            let exported = self.uses.get(&at).into_iter().flatten();
            let exported = exported.filter(|path| path.exported.as_ref() == Some(name));
            let mut through = exported.filter_map(|path| {
                // No chain of re-exports is longer: a path that names itself is not followed for ever.
                (depth < 8).then(|| self.defined_in(&path.names, &at, depth + 1))?
            });
            return Some(through.next().unwrap_or(at));
        }
        Some(at)
    }

    fn child(&self, module: &[String], name: &str) -> Option<Vec<String>> {
        let mut child = module.to_vec();
        child.push(name.to_owned());
        self.uses.contains_key(&child).then_some(child)
    }
}

/// A word, `::`, or another character, with its line.
type Token<'a> = (&'a str, usize);

fn tokens(code: &str) -> Vec<Token<'_>> {
    let (mut found, mut line, mut at) = (Vec::new(), 1, 0);
    while let Some(c) = code[at..].chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = if is_word(c) {
            code[at..].find(|c| !is_word(c)).unwrap_or(code.len() - at)
        } else if code[at..].starts_with("::") {
            2
        } else {
            c.len_utf8()
        };
        if !c.is_whitespace() {
            found.push((&code[at..at + length], line));
        }
        line += usize::from(c == '\n');
        at += length;
    }
    found
}

/// Finds all paths in `code`: those of `use`, each of a group by itself, and those that begin with `crate`, `super` or `self`.
pub(crate) fn paths(code: &str) -> Vec<PathUse> {
    let tokens = tokens(code);
    let word = |at: usize| tokens.get(at).map_or("", |token| token.0);
    let (mut found, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let before = if at == 0 { "" } else { word(at - 1) };
        if word(at) == "use" && word(at + 1) != "<" {
            let is_export = before == "pub" || before == ")";
            at = group(&tokens, at + 1, &[], is_export, &mut found);
        } else if ["crate", "super", "self"].contains(&word(at))
            && word(at + 1) == "::"
            && !["::", "in"].contains(&before)
        {
            let line = tokens[at].1;
            let mut names = vec![word(at).to_owned()];
            while word(at + 1) == "::"
                && word(at + 2).starts_with(|c: char| c.is_alphabetic() || c == '_')
            {
                names.push(word(at + 2).to_owned());
                at += 2;
            }
            found.push(PathUse {
                line,
                names,
                exported: None,
            });
            at += 1;
        } else {
            at += 1;
        }
    }
    found
}

/// Reads the tree of a `use` behind `prefix`; returns where it ends.
fn group(
    tokens: &[Token<'_>],
    at: usize,
    prefix: &[String],
    is_export: bool,
    found: &mut Vec<PathUse>,
) -> usize {
    let word = |at: usize| tokens.get(at).map_or(";", |token| token.0);
    let (mut at, mut names) = (at, prefix.to_vec());
    loop {
        match word(at) {
            "{" => {
                at += 1;
                while word(at) != "}" {
                    at = group(tokens, at, &names, is_export, found);
                    at += usize::from(word(at) == ",");
                }
                return at + 1;
            }
            "::" => at += 1,
            "*" | ";" | "," | "}" => break,
            name => {
                names.push(name.to_owned());
                at += 1;
            }
        }
        if word(at) == "as" {
            let exported = is_export.then(|| word(at + 1).to_owned());
            found.push(PathUse {
                line: tokens[at].1,
                names,
                exported,
            });
            return at + 2;
        }
    }
    let exported = names.last().cloned().filter(|_| is_export);
    let line = tokens.get(at).map_or(0, |token| token.1);
    found.push(PathUse {
        line,
        names,
        exported,
    });
    at + usize::from(word(at) == "*")
}

/// Finds the circles in a set of arrows: each a set of names that all lead to one another.
pub(crate) fn circles(arrows: &BTreeSet<(String, String)>) -> Vec<BTreeSet<String>> {
    let names: BTreeSet<&String> = arrows.iter().map(|arrow| &arrow.0).collect();
    let reached = |start: &String| {
        let mut seen: BTreeSet<&String> = BTreeSet::new();
        let mut next = vec![start];
        while let Some(name) = next.pop() {
            for (_, to) in arrows.iter().filter(|arrow| &arrow.0 == name) {
                if seen.insert(to) {
                    next.push(to);
                }
            }
        }
        seen
    };
    let all: BTreeMap<&String, BTreeSet<&String>> =
        names.iter().map(|name| (*name, reached(name))).collect();
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for (name, reached) in &all {
        let circle: BTreeSet<String> = reached
            .iter()
            .filter(|other| all.get(**other).is_some_and(|back| back.contains(name)))
            .map(|other| (*other).clone())
            .collect();
        if circle.contains(*name) && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

#[test]
fn paths_are_found_in_every_form() {
    let code = "use crate::config::Settings;\nuse crate::{\n    resp::{self, request},\n    command as c,\n};\n\
                pub use pool::*;\npub(in super::super) fn f(self) {}\nlet x = crate::session::Session::new(super::Y);\n";
    let found: Vec<(usize, String)> = paths(code)
        .into_iter()
        .map(|path| (path.line, path.names.join("::")))
        .collect();
    let expected = [
        (1, "crate::config::Settings"),
        (3, "crate::resp::self"),
        (3, "crate::resp::request"),
        (4, "crate::command"),
        (6, "pool"),
        (8, "crate::session::Session::new"),
        (8, "super::Y"),
    ];
    assert_eq!(found, expected.map(|(line, name)| (line, name.to_owned())));
}

#[test]
fn a_re_export_leads_to_where_the_thing_is() {
    let file = |module: &[&str], code: &str| SourceFile {
        path: module.join("/").into(),
        module: module.iter().map(|name| (*name).to_owned()).collect(),
        code: code.to_owned(),
    };
    let files = [
        file(&["a"], "mod b; mod c; pub use b::Thing;"),
        file(&["a", "b"], "use super::c::Other; use std::fmt;"),
        file(
            &["a", "c"],
            "fn f(x: super::Thing) {} fn g(x: crate::a::Own) {}",
        ),
    ];
    let found: Vec<String> = imports(&files)
        .iter()
        .map(|import| {
            format!(
                "{} > {}: {}",
                import.from.join("/"),
                import.to.join("/"),
                import.name
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            "a > a/b: Thing",
            "a/b > a/c: Other",
            "a/c > a/b: Thing",
            "a/c > a: Own"
        ]
    );
}

#[test]
fn circles_are_found() {
    let arrow = |(from, to): (&str, &str)| (from.to_owned(), to.to_owned());
    let arrows = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "a")].map(arrow);
    let circle: BTreeSet<String> = ["a", "b", "c"].map(str::to_owned).into();
    assert_eq!(circles(&arrows.into()), [circle]);
    assert!(circles(&[arrow(("a", "b")), arrow(("b", "c"))].into()).is_empty());
}
