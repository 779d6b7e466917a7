//! The file as written: each key checked against the list of keys, with the line it stands on.
//!
//! The document is walked with its spans rather than deserialized, because serde stops at the first error and the
//! operator is told all of them. What the values mean together is decided in `check` and `conflicts`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Fallback, Kind};
use super::problem::Problem;
use super::value::{self, Wrong, shown, wrong};
use super::{Address, Glob, Secret};

/// A value of the kind its key asks for.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Table,
    Count(u64),
    Duration(Duration),
    Size(u64),
    Flag(bool),
    Choice(&'static str),
    Address(Address),
    SocketAddress(SocketAddr),
    Networks(Vec<IpNet>),
    Glob(Glob),
    Commands(Vec<String>),
    Text(String),
    Secret(Secret),
}

/// What stands in the file under one key.
#[derive(Debug)]
struct Entry {
    line: usize,
    /// `None`: refused, and the problem is already told.
    value: Option<Value>,
}

/// A configuration file in which every key that was not refused holds a value of its kind.
#[derive(Debug, Default)]
pub(super) struct File {
    /// By path; the tables of a `[[table]]` are `table[0]`, `table[1]`...
    entries: BTreeMap<String, Entry>,
}

impl File {
    /// Reads `text` and says everything that is wrong with single keys. `Err`: the text is not TOML at all.
    pub(super) fn read(text: &str) -> Result<(Self, Vec<Problem>), Problem> {
        let lines = Lines::of(text);
        // Only the message and the place are taken: the error's own text would show the line, and with it a password.
        let document = DeTable::parse(text).map_err(|error| {
            let line = error.span().map(|span| lines.at(span.start));
            Problem::new(
                line,
                "",
                format!("not TOML: {}", error.message()),
                "mend this line",
            )
        })?;
        let mut walk = Walk {
            file: Self::default(),
            lines,
            problems: Vec::new(),
        };
        walk.table(document.get_ref(), "", "");
        Ok((walk.file, walk.problems))
    }

    /// The value under `path`, or else the default of its key.
    pub(super) fn value(&self, path: &str) -> Option<Value> {
        if let Some(Entry {
            value: Some(value), ..
        }) = self.entries.get(path)
        {
            return Some(value.clone());
        }
        match keys::find(&key_of(path))? {
            key if matches!(key.default, Fallback::Is(_)) => default_value(key),
            _ => None,
        }
    }

    /// Where `path` is written.
    pub(super) fn line(&self, path: &str) -> Option<usize> {
        self.entries.get(path).map(|entry| entry.line)
    }

    /// Whether what is written under `path`, or a table it stands in, was refused.
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

    /// How many `[[table]]` there are.
    pub(super) fn tables(&self, table: &str) -> usize {
        (0..)
            .take_while(|index| self.entries.contains_key(&format!("{table}[{index}]")))
            .count()
    }

    pub(super) fn count(&self, path: &str) -> Option<u64> {
        match self.value(path)? {
            Value::Count(count) => Some(count),
            _ => None,
        }
    }

    /// The time under `path`; zero where neither it nor a default is there.
    pub(super) fn duration(&self, path: &str) -> Option<Duration> {
        match self.value(path)? {
            Value::Duration(duration) => Some(duration),
            _ => None,
        }
    }

    pub(super) fn size(&self, path: &str) -> Option<u64> {
        match self.value(path)? {
            Value::Size(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(super) fn text(&self, path: &str) -> Option<String> {
        match self.value(path)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn choice(&self, path: &str) -> Option<&'static str> {
        match self.value(path)? {
            Value::Choice(word) => Some(word),
            _ => None,
        }
    }

    pub(super) fn address(&self, path: &str) -> Option<Address> {
        match self.value(path)? {
            Value::Address(address) => Some(address),
            _ => None,
        }
    }

    pub(super) fn glob(&self, path: &str) -> Option<Glob> {
        match self.value(path)? {
            Value::Glob(glob) => Some(glob),
            _ => None,
        }
    }
}

/// The key of a path: the path without its indices.
pub(super) fn key_of(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|c| {
            inside = *c == '[' || (inside && *c != ']');
            !inside && *c != ']'
        })
        .collect()
}

/// The default of `key` as a value; a test holds that every default in the list is one.
fn default_value(key: &keys::Key) -> Option<Value> {
    let Fallback::Is(toml) = key.default else {
        return None;
    };
    let document = DeValue::parse(toml).ok()?;
    leaf(key.kind, &document).ok()
}

/// Where lines begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let after = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(at, _)| at + 1);
        Self(std::iter::once(0).chain(after).collect())
    }

    /// The line, from 1, of the byte at `offset`.
    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }
}

struct Walk {
    file: File,
    lines: Lines,
    problems: Vec<Problem>,
}

impl Walk {
    fn table(&mut self, table: &DeTable<'_>, key: &str, path: &str) {
        for (name, value) in table {
            let line = self.lines.at(name.span().start);
            let key = join(key, name.get_ref());
            let path = join(path, name.get_ref());
            self.entry(&key, &path, line, value);
        }
    }

    fn entry(&mut self, key: &str, path: &str, line: usize, value: &Spanned<DeValue<'_>>) {
        let Some(known) = keys::find(key) else {
            return self.unknown(key, path, line);
        };
        match (known.kind, value.get_ref()) {
            (Kind::Later(remedy), _) => {
                self.refuse(key, path, line, wrong("not in this version", remedy))
            }
            (Kind::Table, DeValue::Table(table)) => {
                self.keep(path, line, Value::Table);
                self.table(table, key, path);
            }
            (Kind::Table, DeValue::Array(_)) => {
                self.refuse(
                    key,
                    path,
                    line,
                    wrong("there is one of these", format!("write [{key}]")),
                );
            }
            (Kind::Table, other) => {
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
            (Kind::Tables, DeValue::Array(tables)) => self.tables(tables, key, path, line),
            (Kind::Tables, _) => {
                let remedy = format!("write [[{key}]], with two brackets");
                self.refuse(
                    key,
                    path,
                    line,
                    wrong("there can be several of these", remedy),
                );
            }
            (kind, _) => match leaf(kind, value) {
                Ok(value) => self.keep(path, line, value),
                Err(errors) => {
                    for LeafError { at, wrong } in errors {
                        // In a list of many lines the line of the element helps more than that of the key.
                        let element = at.map(|offset| self.lines.at(offset));
                        self.refuse(key, path, element.unwrap_or(line), wrong);
                    }
                }
            },
        }
    }

    fn tables(&mut self, tables: &[Spanned<DeValue<'_>>], key: &str, path: &str, line: usize) {
        self.keep(path, line, Value::Table);
        for (index, table) in tables.iter().enumerate() {
            let line = self.lines.at(table.span().start);
            let path = format!("{path}[{index}]");
            if let DeValue::Table(inner) = table.get_ref() {
                self.keep(&path, line, Value::Table);
                self.table(inner, key, &path);
            } else {
                let what = format!("{} where a table is expected", kind_of(table.get_ref()));
                self.refuse(key, &path, line, wrong(what, format!("write [[{key}]]")));
            }
        }
    }

    fn unknown(&mut self, key: &str, path: &str, line: usize) {
        let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
        let remedy = if let Some(meant) = keys::nearest(table, name) {
            // What follows is judged as if the key that was meant stood here with some value: one mistake, one problem.
            let meant_path = join(
                path.rsplit_once('.').map_or("", |(table, _)| table),
                meant.name(),
            );
            self.file
                .entries
                .entry(meant_path)
                .or_insert(Entry { line, value: None });
            format!("did you mean \"{}\"?", meant.name())
        } else if let Some(elsewhere) = keys::keys()
            .iter()
            .find(|key| key.name() == name && key.table() != table)
        {
            match elsewhere.table() {
                "" => format!("\"{name}\" stands at the top of the file, before the first [table]"),
                home => format!("\"{name}\" stands in [{home}]"),
            }
        } else {
            let known: Vec<&str> = keys::in_table(table)
                .filter(|key| !matches!(key.kind, Kind::Later(_)))
                .map(keys::Key::name)
                .collect();
            format!("remove it; known here: {}", known.join(", "))
        };
        let key = printable(key);
        self.problems
            .push(Problem::new(Some(line), key, "unknown key", remedy));
    }

    fn keep(&mut self, path: &str, line: usize, value: Value) {
        self.file.entries.insert(
            path.to_owned(),
            Entry {
                line,
                value: Some(value),
            },
        );
    }

    fn refuse(&mut self, key: &str, path: &str, line: usize, wrong: Wrong) {
        self.file
            .entries
            .insert(path.to_owned(), Entry { line, value: None });
        self.problems
            .push(Problem::new(Some(line), key, wrong.what, wrong.remedy));
    }
}

fn join(table: &str, name: &str) -> String {
    if table.is_empty() {
        name.to_owned()
    } else {
        format!("{table}.{name}")
    }
}

/// A key of the operator's own making, fit for one line of a message.
fn printable(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if key.chars().all(plain) && key.len() <= 64 {
        key.to_owned()
    } else {
        shown(key)
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Why a value was refused, and which element of a list it was.
struct LeafError {
    at: Option<usize>,
    wrong: Wrong,
}

impl LeafError {
    fn of_all(wrong: Wrong) -> Vec<Self> {
        vec![Self { at: None, wrong }]
    }
}

fn leaf(kind: Kind, value: &Spanned<DeValue<'_>>) -> Result<Value, Vec<LeafError>> {
    let found = value.get_ref();
    let read = match kind {
        Kind::Count { min, max } => count(found, min, max).map(Value::Count),
        Kind::Duration { min_ms, zero } => duration(found, min_ms, zero).map(Value::Duration),
        Kind::Size { min, max } => size(found, min, max).map(Value::Size),
        Kind::Flag => match found {
            DeValue::Boolean(flag) => Ok(Value::Flag(*flag)),
            other => Err(mismatch(other, "true or false without quotes")),
        },
        Kind::Choice { of, later } => choice(found, of, later).map(Value::Choice),
        Kind::Address => string(found).and_then(value::address).map(Value::Address),
        Kind::SocketAddress => string(found)
            .and_then(value::socket_address)
            .map(Value::SocketAddress),
        Kind::Networks => return networks(value).map(Value::Networks),
        Kind::Glob => string(found).and_then(value::glob).map(Value::Glob),
        Kind::Commands => return list(value, value::denied_command).map(Value::Commands),
        Kind::Word => string(found).and_then(value::word).map(Value::Text),
        Kind::Text => non_empty(found).map(|text| Value::Text(text.to_owned())),
        Kind::Secret => non_empty(found).map(|text| Value::Secret(Secret::new(text.to_owned()))),
        Kind::Table | Kind::Tables | Kind::Later(_) => Ok(Value::Table),
    };
    read.map_err(LeafError::of_all)
}

fn mismatch(found: &DeValue<'_>, expected: &str) -> Wrong {
    wrong(
        format!("{} where another kind of value is expected", kind_of(found)),
        format!("write {expected}"),
    )
}

fn string<'a>(found: &'a DeValue<'_>) -> Result<&'a str, Wrong> {
    found
        .as_str()
        .ok_or_else(|| mismatch(found, "text in quotes"))
}

fn non_empty<'a>(found: &'a DeValue<'_>) -> Result<&'a str, Wrong> {
    match string(found)? {
        "" => Err(wrong("empty", "write a value, or remove the key")),
        text => Ok(text),
    }
}

/// The value of an integer, and `None` for one that is negative or past any bound.
fn integer(found: &DeValue<'_>) -> Option<u64> {
    let integer = found.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn count(found: &DeValue<'_>, min: u64, max: u64) -> Result<u64, Wrong> {
    if !found.is_integer() {
        return Err(mismatch(found, "a whole number without quotes"));
    }
    match integer(found) {
        Some(number) if number < min => Err(wrong(
            format!("{number} is too few"),
            format!("write a number from {min} to {max}, or remove the key"),
        )),
        Some(number) if number <= max => Ok(number),
        _ => Err(wrong(
            "this number is negative or too large",
            format!("write a number from {min} to {max}"),
        )),
    }
}

fn duration(found: &DeValue<'_>, min_ms: u64, zero: bool) -> Result<Duration, Wrong> {
    if let Some(number) = integer(found) {
        return Err(wrong(
            "a duration without a unit",
            format!("write \"{number}s\" or \"{number}ms\""),
        ));
    }
    let Some(text) = found.as_str() else {
        return Err(mismatch(found, "a duration such as \"10s\""));
    };
    let duration = value::duration(text)?;
    let least = Duration::from_millis(min_ms);
    if duration >= least || (zero && duration.is_zero()) {
        return Ok(duration);
    }
    let or_zero = if zero { ", or \"0s\"" } else { "" };
    let least = value::duration_text(least);
    Err(wrong(
        format!("{} is too short", shown(text)),
        format!("write at least \"{least}\"{or_zero}"),
    ))
}

fn size(found: &DeValue<'_>, min: u64, max: u64) -> Result<u64, Wrong> {
    let bytes = match (found, found.as_str()) {
        (_, Some(text)) => value::size(text)?,
        (DeValue::Integer(_), _) => integer(found).ok_or_else(|| {
            wrong(
                "this size is negative or too large",
                "write a size such as \"64KiB\"",
            )
        })?,
        (other, _) => {
            return Err(mismatch(
                other,
                "a size such as \"64KiB\", or a number of bytes",
            ));
        }
    };
    let (least, most) = (value::size_text(min), value::size_text(max));
    match bytes {
        bytes if bytes < min => Err(wrong(
            "this size is too small",
            format!("write at least \"{least}\""),
        )),
        bytes if bytes > max => Err(wrong(
            "this size is too large",
            format!("write at most \"{most}\""),
        )),
        bytes => Ok(bytes),
    }
}

fn choice(
    found: &DeValue<'_>,
    of: &[&'static str],
    later: &[&'static str],
) -> Result<&'static str, Wrong> {
    let all = format!("\"{}\"", of.join("\", \""));
    let Some(text) = found.as_str() else {
        return Err(mismatch(found, &format!("one of {all}")));
    };
    if let Some(word) = of.iter().find(|word| **word == text) {
        return Ok(word);
    }
    if later.contains(&text) {
        return Err(wrong(
            format!("{} is not in this version", shown(text)),
            format!("write one of {all}"),
        ));
    }
    let remedy = match keys::nearest_word(of.iter().copied(), text) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("write one of {all}"),
    };
    Err(wrong(
        format!("{} is none of the values this key takes", shown(text)),
        remedy,
    ))
}

/// A list of texts, each read by `read`; every one that is wrong is told with its place.
fn list<T>(
    value: &Spanned<DeValue<'_>>,
    read: impl Fn(&str) -> Result<T, Wrong>,
) -> Result<Vec<T>, Vec<LeafError>> {
    let DeValue::Array(elements) = value.get_ref() else {
        return Err(LeafError::of_all(mismatch(
            value.get_ref(),
            "a list such as [\"...\", \"...\"]",
        )));
    };
    let mut values = Vec::new();
    let mut errors = Vec::new();
    for element in elements {
        match string(element.get_ref()).and_then(&read) {
            Ok(value) => values.push(value),
            Err(wrong) => errors.push(LeafError {
                at: Some(element.span().start),
                wrong,
            }),
        }
    }
    if errors.is_empty() {
        Ok(values)
    } else {
        Err(errors)
    }
}

fn networks(value: &Spanned<DeValue<'_>>) -> Result<Vec<IpNet>, Vec<LeafError>> {
    let networks = list(value, value::network)?;
    if networks.is_empty() {
        return Err(LeafError::of_all(wrong(
            "an empty list matches nobody",
            "name an address, or remove the key",
        )));
    }
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_of_its_key() {
        for key in keys::keys() {
            if matches!(key.default, Fallback::Is(_)) {
                assert!(default_value(key).is_some(), "{}", key.path());
            }
        }
    }

    #[test]
    fn a_path_without_indices_is_its_key() {
        assert_eq!(key_of("group[12].match.user"), "group.match.user");
        assert_eq!(key_of("workers"), "workers");
    }

    #[test]
    fn lines_are_counted_from_one() {
        let lines = Lines::of("a\nb\n\nc");
        assert_eq!(
            [0, 1, 2, 4, 5, 6].map(|offset| lines.at(offset)),
            [1, 1, 2, 3, 4, 4]
        );
    }

    #[test]
    fn what_was_refused_is_known_with_all_that_stands_in_it() {
        let (file, problems) =
            File::read("upstream = 1\n[[group]]\nname = 5\nper = \"user\"\n").expect("TOML");
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
