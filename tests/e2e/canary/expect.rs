//! Expectations: what a reply to a canary must be, given what the client did before on this connection.

use std::time::{Duration, Instant};

use super::bird::is_refusal;
use crate::harness::{Value, show};

/// A value may get so old before its expiry excuses its absence.
const FRESH: Duration = Duration::from_secs(60);

/// A value of the client's own at the server.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) database: u32,
    /// The phase of the server when it was written: a restart takes all values.
    pub(super) phase: usize,
    pub(super) at: Instant,
}

/// Says what one reply must be.
#[derive(Debug)]
pub(super) enum Expect {
    /// It is this and nothing else.
    Is(Value),
    /// It is this, of a command that respool answers without the server: never refused.
    Local(Value),
    /// It is `+OK`; from then on the value can be read.
    Stored(Kept),
    /// It is this value, or nothing where it may be gone.
    Kept(Kept),
    /// It is the mark of the database in which the client is.
    Mark,
    /// It is a counter of this batch, incremented.
    Count,
    /// It is `+OK`, and the client is in this database.
    Select(u32),
    /// It is the reply to HELLO.
    Hello { resp3: bool, name: Option<String> },
    /// It is `+OK`, and this is the client's name.
    SetName(String),
    /// It is the client's name.
    Name,
    /// It is the client's user at the server.
    User,
    /// It is the client's id, the same for as long as the connection lives.
    Id,
    /// It is `+RESET`, and the client is as a new one.
    Reset,
    /// It is a hash: a map in RESP3, an array in RESP2.
    Hash(String),
    /// It is `+QUEUED`, of a command with its reply.
    Queued,
    /// It holds the replies to the commands of a transaction.
    Exec(Vec<Expect>),
    /// It is a null, of the EXEC of a transaction whose watched key was changed.
    Aborted,
    /// It is an integer; how many keys were there is not known after a restart.
    Number,
    /// It answers DISCARD, whether there is a transaction or not.
    Discarded,
}

/// Says why a reply cannot be this client's.
#[derive(Debug)]
pub(super) struct Mismatch(pub(super) String);

/// Holds what the client knows of its own connection.
#[derive(Debug)]
pub(super) struct Session {
    number: usize,
    pub(super) database: u32,
    pub(super) resp3: bool,
    name: Option<String>,
    user: Option<String>,
    id: Option<i64>,
    /// The last value of the counter of this batch.
    counted: i64,
    /// Is true when a command of this batch was refused, so those that build on it find nothing.
    pub(super) refused: bool,
    /// The server's phase when this batch was sent.
    phase: usize,
}

impl Session {
    pub(super) fn new(number: usize, user: Option<String>) -> Self {
        Self {
            number,
            database: 0,
            resp3: false,
            name: None,
            user,
            id: None,
            counted: 0,
            refused: false,
            phase: 0,
        }
    }

    /// Tells the client's id, once respool has told it.
    pub(super) fn id(&self) -> Option<i64> {
        self.id
    }

    /// Begins a batch, which is sent in this phase of the server.
    pub(super) fn begin(&mut self, phase: usize) {
        (self.counted, self.refused, self.phase) = (0, false, phase);
    }

    /// Checks a reply and takes its meaning in; a value that can be read from now on is returned.
    pub(super) fn check(
        &mut self,
        expected: Expect,
        reply: &Value,
        phase: usize,
    ) -> Result<Option<Kept>, Mismatch> {
        if is_refusal(reply) && !matches!(expected, Expect::Local(_) | Expect::Name | Expect::Id) {
            self.refused = true;
            return Ok(None);
        }
        if reply.is_null() && matches!(reply, Value::Null) != self.resp3 {
            return Err(Mismatch("a null of the other protocol".into()));
        }
        let restarted = self.phase != phase || !phase.is_multiple_of(2);
        let fits = match expected {
            Expect::Is(value) | Expect::Local(value) => *reply == value,
            Expect::Stored(mut kept) => {
                kept.database = self.database;
                if *reply == Value::ok() {
                    return Ok(Some(kept));
                }
                false
            }
            Expect::Kept(kept) => {
                let may_be_gone =
                    self.refused || restarted || kept.phase != phase || kept.at.elapsed() > FRESH;
                is_bulk(reply, &kept.value) || (reply.is_null() && may_be_gone)
            }
            Expect::Mark => is_bulk(reply, &mark(self.database)) || (reply.is_null() && restarted),
            Expect::Count => {
                let Value::Int(count) = *reply else {
                    return Err(Mismatch("not a number".into()));
                };
                let next = self.counted + 1;
                self.counted = count;
                count == next || (restarted && (1..=next).contains(&count))
            }
            Expect::Select(database) => {
                self.database = database;
                *reply == Value::ok()
            }
            Expect::Hello { resp3, name } => {
                self.resp3 = resp3;
                self.name = name.or(self.name.take());
                return self.check_hello(reply).map(|()| None);
            }
            Expect::SetName(name) => {
                self.name = Some(name);
                *reply == Value::ok()
            }
            Expect::Name => match &self.name {
                Some(name) => is_bulk(reply, name),
                None => reply.is_null(),
            },
            Expect::User => is_bulk(reply, self.user.as_deref().unwrap_or("default")),
            Expect::Id => matches!(reply, Value::Int(id) if *self.id.get_or_insert(*id) == *id),
            Expect::Reset => {
                (self.database, self.resp3) = (0, false);
                (self.name, self.user) = (None, None);
                *reply == Value::simple("RESET")
            }
            Expect::Hash(value) => {
                self.is_hash(reply, &value)
                    || ((restarted || self.refused) && self.is_no_hash(reply))
            }
            Expect::Queued => {
                *reply == Value::simple("QUEUED") || (self.refused && self.is_own(reply))
            }
            Expect::Exec(inner) => return self.check_exec(inner, reply, phase),
            Expect::Aborted => reply.is_null() || (self.refused && reply.is_error()),
            Expect::Number => matches!(reply, Value::Int(_)),
            Expect::Discarded => {
                *reply == Value::ok() || *reply == Value::error("ERR DISCARD without MULTI")
            }
        };
        if fits {
            Ok(None)
        } else {
            Err(Mismatch("not this client's".into()))
        }
    }

    fn check_exec(
        &mut self,
        inner: Vec<Expect>,
        reply: &Value,
        phase: usize,
    ) -> Result<Option<Kept>, Mismatch> {
        if self.refused {
            let text = reply.text();
            let may = reply.is_error()
                && (text.starts_with("EXECABORT") || text.contains("without MULTI"));
            return if may || self.is_own(reply) {
                Ok(None)
            } else {
                Err(Mismatch("EXEC of a refused transaction".into()))
            };
        }
        let Value::Array(items) = reply else {
            return Err(Mismatch("EXEC without an array".into()));
        };
        if items.len() != inner.len() {
            return Err(Mismatch(format!(
                "{} replies for {} commands",
                items.len(),
                inner.len()
            )));
        }
        let mut stored = None;
        for (expected, item) in inner.into_iter().zip(items) {
            stored = self.check(expected, item, phase)?.or(stored);
        }
        Ok(stored)
    }

    fn check_hello(&mut self, reply: &Value) -> Result<(), Mismatch> {
        let pairs: Vec<_> = match reply {
            Value::Map(pairs) if self.resp3 => pairs.clone(),
            Value::Array(items) if !self.resp3 => items
                .chunks_exact(2)
                .map(|pair| (pair[0].clone(), pair[1].clone()))
                .collect(),
            _ => return Err(Mismatch("HELLO of the other protocol".into())),
        };
        let field = |name: &str| {
            pairs
                .iter()
                .find(|(key, _)| is_bulk(key, name))
                .map(|(_, value)| value)
        };
        let Some(&Value::Int(id)) = field("id") else {
            return Err(Mismatch("HELLO without an id".into()));
        };
        if *self.id.get_or_insert(id) != id {
            return Err(Mismatch("another client's id".into()));
        }
        let protocol = if self.resp3 { 3 } else { 2 };
        if field("proto") != Some(&Value::Int(protocol)) {
            return Err(Mismatch("HELLO tells another protocol".into()));
        }
        Ok(())
    }

    fn is_hash(&self, reply: &Value, value: &str) -> bool {
        match reply {
            Value::Map(pairs) => {
                self.resp3
                    && pairs.len() == 1
                    && is_bulk(&pairs[0].0, "f")
                    && is_bulk(&pairs[0].1, value)
            }
            Value::Array(items) => {
                !self.resp3
                    && items.len() == 2
                    && is_bulk(&items[0], "f")
                    && is_bulk(&items[1], value)
            }
            _ => false,
        }
    }

    fn is_no_hash(&self, reply: &Value) -> bool {
        match reply {
            Value::Map(pairs) => self.resp3 && pairs.is_empty(),
            Value::Array(items) => !self.resp3 && items.is_empty(),
            _ => false,
        }
    }

    /// Tells whether every string in it is of this client's making.
    fn is_own(&self, reply: &Value) -> bool {
        match reply {
            Value::Bulk(bytes) => {
                bytes.starts_with(format!("c{}.", self.number).as_bytes())
                    || *bytes == mark(self.database).into_bytes()
            }
            Value::Array(items) => items.iter().all(|item| self.is_own(item)),
            Value::Error(_) => is_refusal(reply),
            Value::Simple(_) | Value::Int(_) => true,
            _ => reply.is_null(),
        }
    }
}

/// Tells what every database says of itself.
pub(super) fn mark(database: u32) -> String {
    format!("database {database}")
}

pub(super) fn is_bulk(reply: &Value, text: &str) -> bool {
    matches!(reply, Value::Bulk(bytes) if bytes == text.as_bytes())
}

/// Tells all strings of a reply, in order.
pub(super) fn strings(reply: &Value) -> Vec<String> {
    match reply {
        Value::Bulk(bytes) => vec![String::from_utf8_lossy(bytes).into_owned()],
        Value::Array(items) => items.iter().flat_map(strings).collect(),
        Value::Map(pairs) => pairs
            .iter()
            .flat_map(|(key, value)| [strings(key), strings(value)].concat())
            .collect(),
        Value::Simple(bytes) => vec![show(bytes)],
        _ => Vec::new(),
    }
}
