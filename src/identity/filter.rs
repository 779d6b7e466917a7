//! The arguments of `CLIENT KILL` and `CLIENT LIST`, parsed as Redis parses them and with its texts.
//!
//! Errors are the text of the reply without the leading `-` and without the line end. Accepts the filters of Redis 7.2
//! and `MAXAGE` of 7.4. Whether a user of `USER` exists is known to the server alone.

use std::sync::Arc;

use super::{Card, Flag, Registry};

const SYNTAX: &str = "ERR syntax error";

/// The classes of clients Redis tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientType {
    /// Everybody who is nothing else, MONITOR included.
    Normal,
    /// respool's clients never are: it has the server's replicas refused.
    Master,
    /// Neither are they this.
    Replica,
    /// Has subscriptions.
    Pubsub,
}

impl ClientType {
    fn parse(name: &[u8]) -> Result<Self, String> {
        const NAMES: [(&str, ClientType); 5] = [
            ("normal", ClientType::Normal),
            ("slave", ClientType::Replica),
            ("replica", ClientType::Replica),
            ("pubsub", ClientType::Pubsub),
            ("master", ClientType::Master),
        ];
        NAMES
            .iter()
            .find(|(known, _)| is(name, known))
            .map(|&(_, class)| class)
            .ok_or_else(|| format!("ERR Unknown client type '{}'", quoted(name)))
    }

    /// The class of a client.
    pub fn of(card: &Card) -> Self {
        if card.has(Flag::Pubsub) {
            Self::Pubsub
        } else {
            Self::Normal
        }
    }
}

/// Whom a `CLIENT KILL` means: clients to which all given filters apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KillFilter {
    id: Option<u64>,
    class: Option<ClientType>,
    user: Option<Box<[u8]>>,
    addr: Option<Box<[u8]>>,
    laddr: Option<Box<[u8]>>,
    max_age_s: Option<u64>,
    skip_me: bool,
    old_form: bool,
}

impl KillFilter {
    /// Parses what follows `CLIENT KILL`. The last of a filter given twice holds, as in Redis 7.
    ///
    /// # Errors
    /// Redis' text, see the head of this file; the first mistake from the left.
    pub fn parse(args: &[&[u8]]) -> Result<Self, String> {
        match args {
            [] => Err("ERR wrong number of arguments for 'client|kill' command".to_owned()),
            [addr] => Ok(Self {
                addr: Some((*addr).into()),
                old_form: true,
                ..Self::default()
            }),
            filters => Self::parse_filters(filters),
        }
    }

    fn parse_filters(args: &[&[u8]]) -> Result<Self, String> {
        let mut filter = Self {
            skip_me: true,
            ..Self::default()
        };
        for pair in args.chunks(2) {
            let &[option, value] = pair else {
                return Err(SYNTAX.to_owned());
            };
            if is(option, "id") {
                let text = "ERR client-id should be greater than 0";
                filter.id = Some(positive(value, text, text)?);
            } else if is(option, "maxage") {
                let not_a_number = "ERR maxage is not an integer or out of range";
                filter.max_age_s = Some(positive(
                    value,
                    not_a_number,
                    "ERR maxage should be greater than 0",
                )?);
            } else if is(option, "type") {
                filter.class = Some(ClientType::parse(value)?);
            } else if is(option, "addr") {
                filter.addr = Some(value.into());
            } else if is(option, "laddr") {
                filter.laddr = Some(value.into());
            } else if is(option, "user") {
                filter.user = Some(value.into());
            } else if is(option, "skipme") && is(value, "yes") {
                filter.skip_me = true;
            } else if is(option, "skipme") && is(value, "no") {
                filter.skip_me = false;
            } else {
                return Err(SYNTAX.to_owned());
            }
        }
        Ok(filter)
    }

    /// Whether this is `CLIENT KILL addr`, answered by `+OK` or the error `ERR No such client` rather than by a count.
    pub fn is_old_form(&self) -> bool {
        self.old_form
    }

    /// The user asked for, if one is.
    pub fn user(&self) -> Option<&[u8]> {
        self.user.as_deref()
    }

    /// Whether `card` is meant when the client `own_id` asks at `now_ms`.
    pub fn selects(&self, card: &Card, own_id: u64, now_ms: u64) -> bool {
        let age_s = now_ms.saturating_sub(card.created_ms()) / 1000;
        !(self.skip_me && card.id() == own_id)
            && self.id.is_none_or(|id| card.id() == id)
            && self.class.is_none_or(|class| ClientType::of(card) == class)
            && self.max_age_s.is_none_or(|max| age_s >= max)
            && self
                .addr
                .as_deref()
                .is_none_or(|addr| card.peer().to_string().as_bytes() == addr)
            && self
                .laddr
                .as_deref()
                .is_none_or(|addr| card.laddr().to_string().as_bytes() == addr)
            && self.user.as_deref().is_none_or(|user| card.is_user(user))
    }
}

/// Whom a `CLIENT LIST` lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListFilter {
    /// Everybody.
    All,
    /// One class.
    Type(ClientType),
    /// These, in this order, one line for each time it is named; unknown ones are left out.
    Ids(Vec<i64>),
}

impl ListFilter {
    /// Parses what follows `CLIENT LIST`.
    ///
    /// # Errors
    /// Redis' text, see the head of this file.
    pub fn parse(args: &[&[u8]]) -> Result<Self, String> {
        match args {
            [] => Ok(Self::All),
            [option, class] if is(option, "type") => ClientType::parse(class).map(Self::Type),
            [option, ids @ ..] if is(option, "id") && !ids.is_empty() => ids
                .iter()
                .map(|id| integer(id).ok_or_else(|| "ERR Invalid client ID".to_owned()))
                .collect::<Result<_, _>>()
                .map(Self::Ids),
            _ => Err(SYNTAX.to_owned()),
        }
    }

    /// Whether `card` is listed.
    pub fn selects(&self, card: &Card, _own_id: u64, _now_ms: u64) -> bool {
        match self {
            Self::All => true,
            Self::Type(class) => ClientType::of(card) == *class,
            Self::Ids(ids) => ids.iter().any(|&id| u64::try_from(id) == Ok(card.id())),
        }
    }

    /// The clients listed, in the order of their lines: by number, or as they were asked for.
    pub fn choose(&self, registry: &Registry) -> Vec<Arc<Card>> {
        match self {
            Self::Ids(ids) => ids
                .iter()
                .filter_map(|&id| u64::try_from(id).ok())
                .filter_map(|id| registry.find(id))
                .collect(),
            Self::All | Self::Type(_) => {
                let mut cards = registry.list();
                cards.retain(|card| self.selects(card, 0, 0));
                cards
            }
        }
    }
}

/// Whether `word` is `name`, in any case.
fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

fn positive(value: &[u8], not_a_number: &str, too_small: &str) -> Result<u64, String> {
    let number = integer(value).ok_or_else(|| not_a_number.to_owned())?;
    u64::try_from(number)
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| too_small.to_owned())
}

/// A 64-bit integer as Redis' `string2ll` takes it: no sign `+`, no leading zeros, no blanks.
fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if plain {
        str::from_utf8(text).ok()?.parse().ok()
    } else {
        None
    }
}

/// An argument inside an error text, as a C string without line ends.
fn quoted(argument: &[u8]) -> String {
    let end = argument
        .iter()
        .position(|&b| b == 0)
        .unwrap_or(argument.len());
    String::from_utf8_lossy(&argument[..end]).replace(['\r', '\n'], " ")
}
