//! Text to value and back: durations, sizes, networks, globs, commands.
//!
//! Pure; every refusal says what was found and what to write instead, and never shows what may hold a secret.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::Glob;
use super::keys::nearest_word;

/// Says why a value was refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WrongValue {
    pub(super) what: String,
    pub(super) remedy: String,
}

pub(super) fn wrong(what: impl Into<String>, remedy: impl Into<String>) -> WrongValue {
    WrongValue {
        what: what.into(),
        remedy: remedy.into(),
    }
}

/// Makes the operator's text fit for one line of a message: quoted, escaped, cut.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 48;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// No time may be longer than a year: longer waits are slips, and deadlines must not overflow the clock.
const LONGEST_MS: u64 = 365 * 24 * 3_600_000;

const UNITS_MS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads `50ms`, `5s`, `2m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, WrongValue> {
    let (digits, unit) = split_number(text);
    let Some((_, unit_ms)) = UNITS_MS
        .iter()
        .find(|(name, _)| *name == unit && !digits.is_empty())
    else {
        return Err(wrong(
            format!("{} is not a duration", shown(text)),
            "write a whole number with ms, s, m or h, such as \"500ms\" or \"10s\"",
        ));
    };
    let ms = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*unit_ms));
    match ms {
        Some(ms) if ms <= LONGEST_MS => Ok(Duration::from_millis(ms)),
        _ => Err(wrong(
            format!("{} is more than a year", shown(text)),
            "write at most \"8760h\"",
        )),
    }
}

/// Returns the shortest text that [`duration`] reads as this, to the millisecond.
pub(super) fn duration_text(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".to_owned();
    }
    let unit = UNITS_MS
        .iter()
        .find(|(_, unit_ms)| ms.is_multiple_of(*unit_ms));
    unit.map_or_else(
        || format!("{ms}ms"),
        |(name, unit_ms)| format!("{}{name}", ms / unit_ms),
    )
}

const UNITS_BYTES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

/// Reads `32MiB`, `512MB`, `64KiB`, `100B` and plain bytes.
pub(super) fn size(text: &str) -> Result<u64, WrongValue> {
    let (digits, unit) = split_number(text);
    let unit_bytes = match unit {
        "" => Some(1),
        // Both spellings of the decimal kilo are in wide use and mean the same.
        "KB" => Some(1000),
        _ => UNITS_BYTES
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, bytes)| *bytes),
    };
    let Some(unit_bytes) = unit_bytes.filter(|_| !digits.is_empty()) else {
        let likely = UNITS_BYTES.iter().find(|(name, _)| {
            let short = name.strip_suffix("iB").unwrap_or(name);
            name.eq_ignore_ascii_case(unit) || short.eq_ignore_ascii_case(unit)
        });
        let remedy = match likely {
            Some((name, _)) if !digits.is_empty() && digits.len() < 20 => {
                format!("did you mean \"{digits}{name}\"?")
            }
            _ => "write a whole number with KiB, MiB, GiB, kB, MB or GB, such as \"64KiB\""
                .to_owned(),
        };
        return Err(wrong(format!("{} is not a size", shown(text)), remedy));
    };
    let bytes = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit_bytes));
    bytes.ok_or_else(|| {
        wrong(
            format!("{} is too large", shown(text)),
            "write a smaller size",
        )
    })
}

/// Returns the shortest text that [`size`] reads as this.
pub(super) fn size_text(bytes: u64) -> String {
    if bytes == 0 {
        return "0B".to_owned();
    }
    let unit = UNITS_BYTES
        .iter()
        .find(|(_, unit)| bytes.is_multiple_of(*unit));
    unit.map_or_else(
        || format!("{bytes}B"),
        |(name, unit)| format!("{}{name}", bytes / unit),
    )
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Reads an IP address or a CIDR network; bits past the prefix are cleared, IPv4 in IPv6 becomes IPv4.
pub(super) fn network(text: &str) -> Result<IpNet, WrongValue> {
    let net = match text.parse::<IpAddr>() {
        Ok(address) => Ok(IpNet::from(address)),
        Err(_) => text.parse::<IpNet>(),
    };
    let net = net.map_err(|_| {
        let what = format!("{} is neither an IP address nor a network", shown(text));
        wrong(what, "write such as \"10.0.0.7\" or \"10.0.0.0/8\"")
    })?;
    let mapped = match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => v6
            .addr()
            .to_ipv4_mapped()
            .and_then(|v4| ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96).ok())
            .map(IpNet::V4),
        _ => None,
    };
    Ok(mapped.unwrap_or(net).trunc())
}

/// Reads a glob; see [`Glob::new`].
pub(super) fn glob(text: &str) -> Result<Glob, WrongValue> {
    Glob::new(text).map_err(|why| {
        let what = format!("{} is not a glob: {why}", shown(text));
        wrong(
            what,
            "correct the pattern, or put a \\ before a special character that is meant as it is",
        )
    })
}

/// Reads a word that may stand in a log line, a metric label, a RESP error and a client name.
pub(super) fn word(text: &str) -> Result<String, WrongValue> {
    const LONGEST: usize = 64;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    if text.is_empty() || text.len() > LONGEST || !text.bytes().all(fits) {
        let what = format!("{} is not a usable name", shown(text));
        return Err(wrong(
            what,
            format!("write 1 to {LONGEST} letters, digits and any of -_.:/"),
        ));
    }
    Ok(text.to_owned())
}

/// Makes the host's name a [`word`], so that it can stand in a client name.
pub(super) fn word_of_host(host: &str) -> String {
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '-'
        }
    };
    let name: String = host.trim().chars().take(64).map(fit).collect();
    if name.is_empty() {
        "respool".to_owned()
    } else {
        name
    }
}

/// Lists the command categories of Redis' ACLs (`ACL CAT` of 7.2).
const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// Reads a command name, `name|subcommand` or `@category`; the result is lower case.
pub(super) fn denied_command(text: &str) -> Result<String, WrongValue> {
    let lower = text.to_ascii_lowercase();
    if let Some(category) = lower.strip_prefix('@') {
        if CATEGORIES.contains(&category) {
            return Ok(lower);
        }
        if let Some(near) = nearest_word(CATEGORIES.into_iter(), category) {
            return Err(wrong(
                format!("{} is no ACL category of Redis", shown(text)),
                format!("did you mean \"@{near}\"?"),
            ));
        }
        // Modules have categories of their own; the server says what is in them.
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if category == "all" || (!category.is_empty() && category.bytes().all(is_word)) {
            return Ok(lower);
        }
        return Err(wrong(
            format!("{} is no ACL category", shown(text)),
            format!(
                "write one of @{}, or one that ACL CAT of the server lists",
                CATEGORIES.join(", @")
            ),
        ));
    }
    // Names of modules hold dots, and a module may use any printable character.
    let is_name = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'|')
    };
    let (name, subcommand) = match lower.split_once('|') {
        Some((name, subcommand)) => (name, Some(subcommand)),
        None => (lower.as_str(), None),
    };
    let signed = name.starts_with(['+', '-', '~', '&']);
    if signed || lower.len() > 128 || !is_name(name) || !subcommand.is_none_or(is_name) {
        let what = format!("{} is not a command", shown(text));
        return Err(wrong(
            what,
            "write such as \"flushall\", \"config|set\" or \"@dangerous\"",
        ));
    }
    Ok(lower)
}

#[cfg(test)]
mod tests;
