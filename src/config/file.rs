//! The file as written: each key checked against the list of keys, with the line it stands on.
//!
//! The document is walked with its spans rather than deserialized, because serde stops at the first error and the
//! operator is told all of them. What the values mean together is decided in `check` and `conflicts`.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, KeyDefault, ValueKind};

use super::problem::ConfigProblem;
use super::typed_value::{TypedValue, ValueError, default_value, kind_of, typed_value};
use super::value::{WrongValue, shown, wrong};
use super::{Address, AdminAddress, Glob};

/// Stands in the file under one key.
#[derive(Debug)]
struct WrittenValue {
    line: usize,
    /// Holds what was read; `None`: it was refused, and the problem is already told.
    value: Option<TypedValue>,
}

/// Holds a configuration file in which every key that was not refused has a value of its kind.
#[derive(Debug, Default)]
pub(super) struct WrittenFile {
    /// Holds the entries by path; the tables of a `[[table]]` are `table[0]`, `table[1]`...
    entries: BTreeMap<String, WrittenValue>,
}

impl WrittenFile {
    /// Reads `text` and says everything that is wrong with single keys. `Err`: the text is not TOML at all.
    pub(super) fn read(text: &str) -> Result<(Self, Vec<ConfigProblem>), ConfigProblem> {
        let lines = LineStarts::of(text);
        // Only the message and the place are taken: the error's own text would show the line, and with it a password.
        let document = DeTable::parse(text).map_err(|error| {
            let line = match error.span() {
                Some(span) => lines.at(span.start),
                None => lines.first_without_place(text),
            };
            ConfigProblem::new(
                Some(line),
                "",
                format!("not TOML: {}", error.message()),
                "correct this line: TOML writes key = value, texts in double quotes, and tables in brackets",
            )
        })?;
        let mut walk = FileWalk {
            file: Self::default(),
            lines,
            problems: Vec::new(),
        };
        walk.table(document.get_ref(), "", "");
        Ok((walk.file, walk.problems))
    }

    /// Returns the value under `path`, or else the default of its key.
    pub(super) fn value(&self, path: &str) -> Option<TypedValue> {
        if let Some(WrittenValue {
            value: Some(value), ..
        }) = self.entries.get(path)
        {
            return Some(value.clone());
        }
        match keys::find(&key_of(path))? {
            key if matches!(key.default, KeyDefault::Is(_)) => default_value(key),
            _ => None,
        }
    }

    /// Returns the texts written under keys whose names end so.
    pub(super) fn texts_of<'a>(&'a self, end: &'static str) -> impl Iterator<Item = &'a str> {
        let named = self
            .entries
            .iter()
            .filter(move |(path, _)| path.ends_with(end));
        named.filter_map(|(_, entry)| match &entry.value {
            Some(TypedValue::Text(text)) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Returns the line where `path` is written.
    pub(super) fn line(&self, path: &str) -> Option<usize> {
        self.entries.get(path).map(|entry| entry.line)
    }

    /// Tells whether what is written under `path`, or a table it stands in, was refused.
    pub(super) fn is_refused(&self, path: &str) -> bool {
        let refused = |path: &str| {
            self.entries
                .get(path)
                .is_some_and(|entry| entry.value.is_none())
        };
        refused(path)
            || path
                .char_indices()
                .any(|(at, c)| (c == '.' || c == '[') && refused(&path[..at]))
    }

    /// Counts the `[[table]]` there are.
    pub(super) fn tables(&self, table: &str) -> usize {
        (0..)
            .take_while(|index| self.entries.contains_key(&format!("{table}[{index}]")))
            .count()
    }

    /// Returns the paths of all that is written under the key `table`.
    pub(super) fn written(&self, table: &str) -> Vec<String> {
        let is_one = |path: &&String| key_of(path) == table && !keys_of_many(table, path);
        self.entries.keys().filter(is_one).cloned().collect()
    }

    pub(super) fn count(&self, path: &str) -> Option<u64> {
        match self.value(path)? {
            TypedValue::Count(count) => Some(count),
            _ => None,
        }
    }

    pub(super) fn duration(&self, path: &str) -> Option<Duration> {
        match self.value(path)? {
            TypedValue::Duration(duration) => Some(duration),
            _ => None,
        }
    }

    pub(super) fn size(&self, path: &str) -> Option<u64> {
        match self.value(path)? {
            TypedValue::Size(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Returns the count under `path`, or 0.
    pub(super) fn number(&self, path: &str) -> usize {
        self.count(path).map_or(0, to_usize)
    }

    /// Returns the size under `path`, or 0.
    pub(super) fn bytes(&self, path: &str) -> usize {
        self.size(path).map_or(0, to_usize)
    }

    /// Returns the duration under `path`, or zero.
    pub(super) fn time(&self, path: &str) -> Duration {
        self.duration(path).unwrap_or_default()
    }

    /// Tells whether `true` holds under `path`.
    pub(super) fn flag(&self, path: &str) -> bool {
        matches!(self.value(path), Some(TypedValue::Flag(true)))
    }

    pub(super) fn text(&self, path: &str) -> Option<String> {
        match self.value(path)? {
            TypedValue::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn mode(&self, path: &str) -> Option<u32> {
        match self.value(path)? {
            TypedValue::Mode(mode) => Some(mode),
            _ => None,
        }
    }

    pub(super) fn choice(&self, path: &str) -> Option<&'static str> {
        match self.value(path)? {
            TypedValue::Choice(word) => Some(word),
            _ => None,
        }
    }

    pub(super) fn address(&self, path: &str) -> Option<Address> {
        match self.value(path)? {
            TypedValue::Address(address) => Some(address),
            _ => None,
        }
    }

    pub(super) fn admin_address(&self, path: &str) -> Option<AdminAddress> {
        match self.value(path)? {
            TypedValue::AdminAddress(address) => Some(address),
            _ => None,
        }
    }

    /// Returns the list of texts under `path`, empty where there is none.
    pub(super) fn texts(&self, path: &str) -> Vec<String> {
        match self.value(path) {
            Some(TypedValue::Texts(texts)) => texts,
            _ => Vec::new(),
        }
    }

    pub(super) fn glob(&self, path: &str) -> Option<Glob> {
        match self.value(path)? {
            TypedValue::Glob(glob) => Some(glob),
            _ => None,
        }
    }
}

/// Makes a count or size of the file one of this machine: the list of keys bounds every number far below what an address space of
/// 64 bits counts.
pub(super) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Tells whether `path` is the list of all `[[table]]` rather than one of them.
fn keys_of_many(table: &str, path: &str) -> bool {
    table == path && keys::find(table).is_some_and(|key| matches!(key.kind, ValueKind::Tables))
}

/// Returns the key of a path: the path without its indices.
pub(super) fn key_of(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|c| {
            inside = *c == '[' || (inside && *c != ']');
            !inside && *c != ']'
        })
        .collect()
}

/// Knows where lines begin.
struct LineStarts(Vec<usize>);

impl LineStarts {
    fn of(text: &str) -> Self {
        let after = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(at, _)| at + 1);
        Self(std::iter::once(0).chain(after).collect())
    }

    /// Returns the line, from 1, of the byte at `offset`.
    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }

    /// Returns the first line up to which the parser refuses the text without a place: it does so where tables are too deep in each other.
    fn first_without_place(&self, text: &str) -> usize {
        let ends = self.0[1..].iter().copied();
        let ends: Vec<usize> = ends.chain([text.len()]).collect();
        let is_before = |&end: &usize| {
            let refused = DeTable::parse(&text[..end]).err();
            refused.is_none_or(|error| error.span().is_some())
        };
        let line = ends.partition_point(is_before) + 1;
        line.min(ends.len())
    }
}

struct FileWalk {
    file: WrittenFile,
    lines: LineStarts,
    problems: Vec<ConfigProblem>,
}

impl FileWalk {
    fn table(&mut self, table: &DeTable<'_>, key: &str, path: &str) {
        for (name, value) in table {
            let line = self.lines.at(name.span().start);
            let full = join(key, name.get_ref());
            // A quoted key with a dot in it is not the path of a key, however much it looks like one.
            let known = keys::find(&full).filter(|known| known.table() == key);
            match known {
                Some(known) => self.entry(known, &join(path, name.get_ref()), line, value),
                None => self.unknown((key, path), name.get_ref(), line),
            }
        }
    }

    fn entry(
        &mut self,
        known: &'static keys::SettingKey,
        path: &str,
        line: usize,
        value: &Spanned<DeValue<'_>>,
    ) {
        let key = known.path();
        match (known.kind, value.get_ref()) {
            (ValueKind::Later(remedy), _) => {
                self.refuse(key, path, line, wrong("not in this version", remedy))
            }
            (ValueKind::Table, DeValue::Table(table)) => {
                self.keep(path, line, TypedValue::Table);
                self.table(table, key, path);
            }
            (ValueKind::Table, DeValue::Array(_)) => {
                self.refuse(
                    key,
                    path,
                    line,
                    wrong(
                        "there can be only one such table",
                        format!("write [{key}], with one bracket"),
                    ),
                );
            }
            (ValueKind::Table, other) => {
                let what = format!("{} where a table is expected", kind_of(other));
                self.refuse(
                    key,
                    path,
                    line,
                    wrong(
                        what,
                        format!("write [{key}] or {} = {{ ... }}", known.name()),
                    ),
                );
            }
            (ValueKind::Tables, DeValue::Array(tables)) => self.tables(tables, key, path, line),
            (ValueKind::Tables, _) => {
                let remedy = format!("write each of them as [[{key}]], with two brackets");
                self.refuse(key, path, line, wrong("it is a list of tables", remedy));
            }
            (kind, _) => match typed_value(kind, value) {
                Ok(value) => self.keep(path, line, value),
                Err(errors) => {
                    for ValueError { at, wrong } in errors {
                        // In a list of many lines the line of the element helps more than that of the key.
                        let element = at.map(|offset| self.lines.at(offset));
                        self.refuse(key, path, element.unwrap_or(line), wrong);
                    }
                }
            },
        }
    }

    fn tables(&mut self, tables: &[Spanned<DeValue<'_>>], key: &str, path: &str, line: usize) {
        self.keep(path, line, TypedValue::Table);
        for (index, table) in tables.iter().enumerate() {
            let line = self.lines.at(table.span().start);
            let path = format!("{path}[{index}]");
            if let DeValue::Table(inner) = table.get_ref() {
                self.keep(&path, line, TypedValue::Table);
                self.table(inner, key, &path);
            } else {
                let what = format!("{} where a table is expected", kind_of(table.get_ref()));
                self.refuse(key, &path, line, wrong(what, format!("write [[{key}]]")));
            }
        }
    }

    /// Refuses a key that is none, in the table of this key and path.
    fn unknown(&mut self, (table, path): (&str, &str), name: &str, line: usize) {
        let remedy = if let Some(meant) = keys::nearest(table, name) {
            // What follows is judged as if the key that was meant stood here with some value: one mistake, one problem.
            let meant_path = join(path, meant.name());
            self.file
                .entries
                .entry(meant_path)
                .or_insert(WrittenValue { line, value: None });
            format!("did you mean \"{}\"?", meant.name())
        } else if let Some(elsewhere) = keys::keys()
            .iter()
            .find(|key| key.name() == name && key.table() != table)
        {
            match elsewhere.table() {
                "" => format!("\"{name}\" stands at the top of the file, before the first [table]"),
                home @ ("listener" | "group" | "auth.user") => {
                    format!("\"{name}\" stands in [[{home}]]")
                }
                home => format!("\"{name}\" stands in [{home}]"),
            }
        } else {
            let known: Vec<&str> = keys::in_table(table)
                .filter(|key| !matches!(key.kind, ValueKind::Later(_)))
                .map(keys::SettingKey::name)
                .collect();
            format!("remove it; known here: {}", known.join(", "))
        };
        let key = printable(&join(table, name));
        self.problems
            .push(ConfigProblem::new(Some(line), key, "unknown key", remedy));
    }

    fn keep(&mut self, path: &str, line: usize, value: TypedValue) {
        self.file.entries.insert(
            path.to_owned(),
            WrittenValue {
                line,
                value: Some(value),
            },
        );
    }

    fn refuse(&mut self, key: &str, path: &str, line: usize, wrong: WrongValue) {
        self.file
            .entries
            .insert(path.to_owned(), WrittenValue { line, value: None });
        self.problems.push(ConfigProblem::new(
            Some(line),
            key,
            wrong.what,
            wrong.remedy,
        ));
    }
}

fn join(table: &str, name: &str) -> String {
    if table.is_empty() {
        name.to_owned()
    } else {
        format!("{table}.{name}")
    }
}

/// Makes a key of the operator's own making fit for one line of a message.
fn printable(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if key.chars().all(plain) && key.len() <= 64 {
        key.to_owned()
    } else {
        shown(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_without_indices_is_its_key() {
        assert_eq!(key_of("group[12].match.user"), "group.match.user");
        assert_eq!(key_of("workers"), "workers");
    }

    #[test]
    fn lines_are_counted_from_one() {
        let lines = LineStarts::of("a\nb\n\nc");
        assert_eq!(
            [0, 1, 2, 4, 5, 6].map(|offset| lines.at(offset)),
            [1, 1, 2, 3, 4, 4]
        );
    }

    #[test]
    fn a_key_that_is_too_deep_is_told_by_its_line() {
        for (deep, line) in [
            (["a"; 200].join("."), 3),
            (format!("{}{}", "[".repeat(200), "]".repeat(200)), 3),
            (format!("a = {}1{}", "[".repeat(200), "]".repeat(200)), 3),
        ] {
            let text = format!("workers = 1\n\n{deep} = 1\nworkers = 2\n");
            let problem = WrittenFile::read(&text).expect_err("it is too deep");
            assert_eq!(problem.line, Some(line), "{problem:?}");
        }
    }

    #[test]
    fn what_was_refused_is_known_with_all_that_stands_in_it() {
        let (file, problems) =
            WrittenFile::read("upstream = 1\n[[group]]\nname = 5\nper = \"user\"\n").expect("TOML");
        assert_eq!(problems.len(), 2);
        assert!(file.is_refused("upstream.address") && file.is_refused("group[0].name"));
        assert!(!file.is_refused("group[0].per") && !file.is_refused("limits.max_clients"));
        assert_eq!(
            (file.line("group[0]"), file.line("group[0].per")),
            (Some(2), Some(4))
        );
        assert_eq!((file.tables("group"), file.tables("listener")), (1, 0));
    }
}
