//! Replies as values: a small RESP2 and RESP3 parser of the tests' own, so that respool is not its own judge.

use std::fmt;

/// Holds one reply. Doubles, big numbers and verbatim strings keep their text.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// A simple string, behind `+`.
    Simple(Vec<u8>),
    /// An error, behind `-` or, in RESP3, `!`.
    Error(Vec<u8>),
    /// An integer, behind `:`.
    Int(i64),
    /// A bulk string, behind `$`.
    Bulk(Vec<u8>),
    /// A null of RESP2 that stands as `$-1`.
    NullBulk,
    /// A null of RESP2 that stands as `*-1`.
    NullArray,
    /// The null of RESP3, which stands as `_`.
    Null,
    /// A boolean, behind `#`.
    Bool(bool),
    /// A double, behind `,`.
    Double(Vec<u8>),
    /// A big number, behind `(`.
    BigNumber(Vec<u8>),
    /// A verbatim string, behind `=`; its three letters and the colon are kept.
    Verbatim(Vec<u8>),
    /// An array, behind `*`.
    Array(Vec<Value>),
    /// A map, behind `%`.
    Map(Vec<(Value, Value)>),
    /// A set, behind `~`.
    Set(Vec<Value>),
    /// A push, behind `>`.
    Push(Vec<Value>),
}

/// Tells why no value stands at the start of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unparsed {
    /// At least this number of bytes, counted from the start, are needed before another attempt is worth while.
    NeedAtLeast(usize),
    /// These bytes are not RESP.
    NotResp(String),
}

impl Value {
    /// Makes the simple string `OK`.
    pub(crate) fn ok() -> Self {
        Self::simple("OK")
    }

    /// Makes a simple string.
    pub(crate) fn simple(text: &str) -> Self {
        Self::Simple(text.into())
    }

    /// Makes a bulk string.
    pub(crate) fn bulk(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bulk(bytes.as_ref().to_vec())
    }

    /// Makes an error; its text is without the leading `-`.
    pub(crate) fn error(text: &str) -> Self {
        Self::Error(text.into())
    }

    /// Tells whether it is an error.
    pub(crate) fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    /// Tells whether it is a null of any protocol and kind.
    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Null | Self::NullBulk | Self::NullArray)
    }

    /// Tells the text of a string or an error; it is empty for everything else.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Simple(b)
            | Self::Error(b)
            | Self::Bulk(b)
            | Self::Double(b)
            | Self::BigNumber(b) => String::from_utf8_lossy(b).into_owned(),
            Self::Verbatim(b) => {
                String::from_utf8_lossy(b.get(4..).unwrap_or_default()).into_owned()
            }
            _ => String::new(),
        }
    }

    /// Tells the number of an integer reply; panics on everything else.
    #[track_caller]
    pub(crate) fn int(&self) -> i64 {
        match self {
            Self::Int(n) => *n,
            other => panic!("an integer was awaited, got {other:?}"),
        }
    }

    /// Tells the elements of an array, a set or a push; panics on everything else.
    #[track_caller]
    pub(crate) fn items(&self) -> &[Value] {
        match self {
            Self::Array(items) | Self::Set(items) | Self::Push(items) => items,
            other => panic!("an array was awaited, got {other:?}"),
        }
    }

    /// Reads the value at the start of `bytes`, and tells its length.
    pub(crate) fn parse(bytes: &[u8]) -> Result<(Self, usize), Unparsed> {
        let mut cursor = Cursor { bytes, at: 0 };
        let value = cursor.value()?;
        Ok((value, cursor.at))
    }
}

impl fmt::Debug for Value {
    /// Shows it as redis-cli would, with long strings cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(b) => write!(f, "+{}", show(b)),
            Self::Error(b) => write!(f, "-{}", show(b)),
            Self::Int(n) => write!(f, ":{n}"),
            Self::Bulk(b) => write!(f, "\"{}\"", show(b)),
            Self::NullBulk => f.write_str("$-1"),
            Self::NullArray => f.write_str("*-1"),
            Self::Null => f.write_str("_"),
            Self::Bool(b) => write!(f, "#{b}"),
            Self::Double(b) => write!(f, ",{}", show(b)),
            Self::BigNumber(b) => write!(f, "({}", show(b)),
            Self::Verbatim(b) => write!(f, "={}", show(b)),
            Self::Array(v) => f.debug_list().entries(v).finish(),
            Self::Map(v) => f
                .debug_map()
                .entries(v.iter().map(|(k, v)| (k, v)))
                .finish(),
            Self::Set(v) => f.debug_set().entries(v).finish(),
            Self::Push(v) => write!(f, ">{v:?}"),
        }
    }
}

/// Shows bytes as people read them, at most 300 of them.
pub(crate) fn show(bytes: &[u8]) -> String {
    const SHOWN: usize = 300;
    let mut text = bytes[..bytes.len().min(SHOWN)].escape_ascii().to_string();
    if bytes.len() > SHOWN {
        text.push_str(&format!("... ({} bytes)", bytes.len()));
    }
    text
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn value(&mut self) -> Result<Value, Unparsed> {
        let kind = *self
            .bytes
            .get(self.at)
            .ok_or(Unparsed::NeedAtLeast(self.at + 1))?;
        let start = self.at;
        self.at += 1;
        let line = self.line()?;
        let bad = || Unparsed::NotResp(show(&self.bytes[start..]));
        let number = || -> Result<i64, Unparsed> {
            std::str::from_utf8(&line)
                .ok()
                .and_then(|t| t.parse().ok())
                .ok_or_else(bad)
        };
        Ok(match kind {
            b'+' => Value::Simple(line),
            b'-' => Value::Error(line),
            b':' => Value::Int(number()?),
            b',' => Value::Double(line),
            b'(' => Value::BigNumber(line),
            b'_' if line.is_empty() => Value::Null,
            b'#' if line == b"t" => Value::Bool(true),
            b'#' if line == b"f" => Value::Bool(false),
            b'$' if line == b"-1" => Value::NullBulk,
            b'*' if line == b"-1" => Value::NullArray,
            b'$' | b'=' | b'!' => {
                let length = usize::try_from(number()?).map_err(|_| bad())?;
                let body = self.body(length)?;
                match kind {
                    b'$' => Value::Bulk(body),
                    b'=' => Value::Verbatim(body),
                    _ => Value::Error(body),
                }
            }
            b'*' | b'~' | b'>' | b'%' => {
                let count = usize::try_from(number()?).map_err(|_| bad())?;
                self.aggregate(kind, count)?
            }
            _ => return Err(bad()),
        })
    }

    fn aggregate(&mut self, kind: u8, count: usize) -> Result<Value, Unparsed> {
        if kind == b'%' {
            let pairs: Result<_, _> = (0..count)
                .map(|_| Ok((self.value()?, self.value()?)))
                .collect();
            return Ok(Value::Map(pairs?));
        }
        let items = (0..count)
            .map(|_| self.value())
            .collect::<Result<Vec<_>, _>>()?;
        Ok(match kind {
            b'*' => Value::Array(items),
            b'~' => Value::Set(items),
            _ => Value::Push(items),
        })
    }

    fn line(&mut self) -> Result<Vec<u8>, Unparsed> {
        let rest = &self.bytes[self.at..];
        let end = rest
            .windows(2)
            .position(|w| w == b"\r\n")
            .ok_or(Unparsed::NeedAtLeast(self.bytes.len() + 1))?;
        self.at += end + 2;
        Ok(rest[..end].to_vec())
    }

    fn body(&mut self, length: usize) -> Result<Vec<u8>, Unparsed> {
        let end = self.at + length;
        if self.bytes.len() < end + 2 {
            return Err(Unparsed::NeedAtLeast(end + 2));
        }
        if &self.bytes[end..end + 2] != b"\r\n" {
            return Err(Unparsed::NotResp(format!(
                "no line end after {length} bytes"
            )));
        }
        let body = self.bytes[self.at..end].to_vec();
        self.at = end + 2;
        Ok(body)
    }
}
