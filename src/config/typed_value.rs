//! One value of the document, read as the kind its key asks for, within its bounds.

use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::address::{self, admin_address, host_name};
use super::keys::{self, KeyDefault, ValueKind};
use super::value::{self, WrongValue, shown, wrong};
use super::{Address, AdminAddress, Glob, PasswordDigest, Secret};

/// A value of the kind its key asks for.
#[derive(Debug, Clone)]
pub(super) enum TypedValue {
    Table,
    Count(u64),
    Duration(Duration),
    Size(u64),
    Flag(bool),
    Mode(u32),
    Choice(&'static str),
    Address(Address),
    AdminAddress(AdminAddress),
    Networks(Vec<IpNet>),
    Glob(Glob),
    Commands(Vec<String>),
    Text(String),
    Secret(Secret),
    Digests(Vec<PasswordDigest>),
    Texts(Vec<String>),
}

/// Says why a value was refused, and which element of a list it was.
pub(super) struct ValueError {
    pub(super) at: Option<usize>,
    pub(super) wrong: WrongValue,
}

impl ValueError {
    fn of_all(wrong: WrongValue) -> Vec<Self> {
        vec![Self { at: None, wrong }]
    }
}

/// Returns the value, or everything that is wrong with it.
pub(super) fn typed_value(
    kind: ValueKind,
    value: &Spanned<DeValue<'_>>,
) -> Result<TypedValue, Vec<ValueError>> {
    let found = value.get_ref();
    let read = match kind {
        ValueKind::Count { min, max } => count(found, min, max).map(TypedValue::Count),
        ValueKind::Duration { min_ms, zero } => {
            duration(found, min_ms, zero).map(TypedValue::Duration)
        }
        ValueKind::Size { min, max } => size(found, min, max).map(TypedValue::Size),
        ValueKind::Flag => match found {
            DeValue::Boolean(flag) => Ok(TypedValue::Flag(*flag)),
            other => Err(mismatch(other, "true or false without quotes")),
        },
        ValueKind::Mode => mode(found).map(TypedValue::Mode),
        ValueKind::Choice { of, later } => choice(found, of, later).map(TypedValue::Choice),
        ValueKind::Address => string(found)
            .and_then(address::address)
            .map(TypedValue::Address),
        ValueKind::AdminAddress => string(found)
            .and_then(admin_address)
            .map(TypedValue::AdminAddress),
        ValueKind::Hosts => return list(value, host_name).map(TypedValue::Texts),
        ValueKind::Networks => return networks(value).map(TypedValue::Networks),
        ValueKind::Glob => string(found).and_then(value::glob).map(TypedValue::Glob),
        ValueKind::Commands => return list(value, value::denied_command).map(TypedValue::Commands),
        ValueKind::Names => return names(value).map(TypedValue::Texts),
        ValueKind::Word => string(found).and_then(value::word).map(TypedValue::Text),
        ValueKind::Text => non_empty(found).map(|text| TypedValue::Text(text.to_owned())),
        ValueKind::Secret => {
            non_empty(found).map(|text| TypedValue::Secret(Secret::new(text.to_owned())))
        }
        ValueKind::Digests => return digests(value).map(TypedValue::Digests),
        ValueKind::Argv => return argv(value).map(TypedValue::Texts),
        ValueKind::Table | ValueKind::Tables | ValueKind::Later(_) => Ok(TypedValue::Table),
    };
    read.map_err(ValueError::of_all)
}

fn mismatch(found: &DeValue<'_>, expected: &str) -> WrongValue {
    wrong(
        format!("{} where another kind of value is expected", kind_of(found)),
        format!("write {expected}"),
    )
}

fn string<'a>(found: &'a DeValue<'_>) -> Result<&'a str, WrongValue> {
    found
        .as_str()
        .ok_or_else(|| mismatch(found, "text in quotes"))
}

fn non_empty<'a>(found: &'a DeValue<'_>) -> Result<&'a str, WrongValue> {
    match string(found)? {
        "" => Err(wrong("empty", "write a value, or remove the key")),
        text => Ok(text),
    }
}

/// Returns the value of an integer, and `None` for one that is negative or past any bound.
fn integer(found: &DeValue<'_>) -> Option<u64> {
    let integer = found.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn count(found: &DeValue<'_>, min: u64, max: u64) -> Result<u64, WrongValue> {
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

fn duration(found: &DeValue<'_>, min_ms: u64, zero: bool) -> Result<Duration, WrongValue> {
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

fn size(found: &DeValue<'_>, min: u64, max: u64) -> Result<u64, WrongValue> {
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

fn mode(found: &DeValue<'_>) -> Result<u32, WrongValue> {
    // Without quotes it would be decimal, and 660 something else than meant.
    let Some(text) = found.as_str() else {
        return Err(mismatch(found, "a mode in quotes such as \"0660\""));
    };
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && text.len() <= 4 => Ok(mode),
        _ => Err(wrong(
            format!("{} is not a mode", shown(text)),
            "write three octal digits, such as \"0660\": owner, group, others; connecting takes the right to write",
        )),
    }
}

fn choice(
    found: &DeValue<'_>,
    of: &[&'static str],
    later: &[&'static str],
) -> Result<&'static str, WrongValue> {
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

/// Reads a list of texts, each by `read`; every one that is wrong is told with its place.
fn list<T>(
    value: &Spanned<DeValue<'_>>,
    read: impl Fn(&str) -> Result<T, WrongValue>,
) -> Result<Vec<T>, Vec<ValueError>> {
    let DeValue::Array(elements) = value.get_ref() else {
        return Err(ValueError::of_all(mismatch(
            value.get_ref(),
            "a list such as [\"...\", \"...\"]",
        )));
    };
    let mut values = Vec::new();
    let mut errors = Vec::new();
    for element in elements {
        match string(element.get_ref()).and_then(&read) {
            Ok(value) => values.push(value),
            Err(wrong) => errors.push(ValueError {
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

fn names(value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, Vec<ValueError>> {
    list(value, |text| match text {
        "" => Err(wrong("an empty name", "write a name, or remove it")),
        text => Ok(text.to_owned()),
    })
}

fn networks(value: &Spanned<DeValue<'_>>) -> Result<Vec<IpNet>, Vec<ValueError>> {
    let networks = list(value, value::network)?;
    if networks.is_empty() {
        return Err(ValueError::of_all(wrong(
            "an empty list matches nobody",
            "name an address, or remove the key",
        )));
    }
    Ok(networks)
}

/// Reads digests of passwords; not even one that is wrong is shown.
fn digests(value: &Spanned<DeValue<'_>>) -> Result<Vec<PasswordDigest>, Vec<ValueError>> {
    list(value, |text| {
        PasswordDigest::from_hex(text).ok_or_else(|| {
            wrong(
                "this is not the SHA-256 of a password",
                "write 64 hexadecimal digits, as ACL GETUSER of the server shows them",
            )
        })
    })
}

fn argv(value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, Vec<ValueError>> {
    let words = list(value, |text| match text.contains('\0') {
        true => Err(wrong("no argument can hold a NUL", "remove it")),
        false => Ok(text.to_owned()),
    })?;
    if words.first().is_none_or(String::is_empty) {
        return Err(ValueError::of_all(wrong(
            "no program",
            "write its path and its arguments, such as [\"/usr/local/bin/redis-password\", \"production\"]",
        )));
    }
    Ok(words)
}

/// Says what a value is, in words.
pub(super) fn kind_of(value: &DeValue<'_>) -> &'static str {
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

/// Returns the default of `key` as a value; a test holds that every default in the list is one.
pub(super) fn default_value(key: &keys::SettingKey) -> Option<TypedValue> {
    let KeyDefault::Is(toml) = key.default else {
        return None;
    };
    let document = DeValue::parse(toml).ok()?;
    typed_value(key.kind, &document).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_of_its_key() {
        for key in keys::keys() {
            if matches!(key.default, KeyDefault::Is(_)) {
                assert!(default_value(key).is_some(), "{}", key.path());
            }
        }
    }
}
