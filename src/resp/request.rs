//! Requests of clients: where one ends and what it asks, told from bytes that arrive in any pieces.
//!
//! Invariant: validates at least as strictly as any server that is supported (`processMultibulkBuffer` of Redis 6.2 to 8.2
//! and Valkey 8.1 to 9.1), so that a request which passed can not make the server close the connection it travels on. Every
//! line and every argument ends with CRLF, which Valkey demands and Redis takes unseen.

use std::fmt;
use std::ops::Range;

use memchr::memchr2;

use super::{HeaderLine, MAX_LINE, header};

/// Bounds the arguments of one request, as Redis does.
const MAX_ARGUMENTS: i64 = i32::MAX as i64;

/// Bounds an argument by the default of Redis' `proto-max-bulk-len`.
const MAX_ARGUMENT: usize = 512 * 1024 * 1024;

/// Ends a line, and an argument.
const LINE_END: &[u8] = b"\r\n";

/// Bounds what a request may measure.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The most arguments a request may have.
    pub arguments: i64,
    /// The longest an argument may be, in bytes.
    pub argument: usize,
    /// The longest a request may be, in bytes.
    pub request: usize,
    /// Tells whether the client has yet to authenticate: it changes the texts, as in Redis.
    pub unauthenticated: bool,
}

impl Bounds {
    /// Bounds a client that may send commands: arguments of at most `request` bytes, alone and together. What announces
    /// them comes on top, so that one argument may use the bound up, as in Redis.
    pub fn new(request: usize) -> Self {
        let argument = request.min(MAX_ARGUMENT);
        Self {
            arguments: MAX_ARGUMENTS,
            argument,
            request: request.saturating_add(MAX_LINE),
            unauthenticated: false,
        }
    }

    /// Bounds a client before authentication as Redis does: 10 arguments of 16 KiB.
    pub fn before_authentication(request: usize) -> Self {
        Self {
            arguments: 10,
            argument: 16 * 1024,
            request,
            unauthenticated: true,
        }
    }
}

/// Tells what a client sent that RESP does not allow. Each is answered with Redis' text, and the client closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestViolation {
    /// A count of arguments is no integer, or too large.
    MultibulkLength,
    /// There are more than 10 arguments before authentication.
    UnauthenticatedMultibulkLength,
    /// An argument's length is no integer, negative or too large.
    BulkLength,
    /// An argument is over 16 KiB before authentication.
    UnauthenticatedBulkLength,
    /// An argument is no bulk string; this byte was found instead of `$`.
    ExpectedBulk(u8),
    /// A count line does not end.
    MultibulkLine,
    /// A length line does not end.
    BulkLine,
    /// An inline request does not end.
    InlineLine,
    /// A quote of an inline request is not closed.
    UnbalancedQuotes,
    /// A line or an argument does not end with CRLF.
    LineEnd,
}

impl fmt::Display for RequestViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protocol error: ")?;
        f.write_str(match self {
            Self::MultibulkLength => "invalid multibulk length",
            Self::UnauthenticatedMultibulkLength => "unauthenticated multibulk length",
            Self::BulkLength => "invalid bulk length",
            Self::UnauthenticatedBulkLength => "unauthenticated bulk length",
            Self::MultibulkLine => "too big mbulk count string",
            Self::BulkLine => "too big bulk count string",
            Self::InlineLine => "too big inline request",
            Self::UnbalancedQuotes => "unbalanced quotes in request",
            Self::ExpectedBulk(_) => "expected '$', got ",
            Self::LineEnd => "invalid CRLF in request",
        })
    }
}

impl RequestViolation {
    /// Writes the error reply as Redis 7.0 does, or Valkey, where only that has one.
    pub fn reply(self) -> Vec<u8> {
        let mut text = format!("-ERR {self}").into_bytes();
        if let Self::ExpectedBulk(found) = self {
            // Redis writes the byte as it is, but never a line end inside an error.
            let shown = if matches!(found, b'\r' | b'\n') {
                b' '
            } else {
                found
            };
            text.extend_from_slice(&[b'\'', shown, b'\'']);
        }
        text.extend_from_slice(b"\r\n");
        text
    }
}

/// Tells what the scanner found at the start of the bytes it was given.
#[derive(Debug, PartialEq, Eq)]
pub enum Scan {
    /// A whole multibulk request stands there.
    Request {
        /// Counts the bytes of the request.
        length: usize,
    },
    /// A whole inline request stands there.
    Inline {
        /// Its text stands here, without the line end.
        text: Range<usize>,
        /// Counts its bytes, the line end included.
        length: usize,
    },
    /// It asks nothing and gets no reply: `*0`, `*-1`.
    Nothing {
        /// Counts the bytes that ask nothing.
        length: usize,
    },
    /// The request has not arrived whole; [`RequestScanner::extent`] tells how long it is known to be.
    Incomplete,
    /// The client broke the protocol.
    Violation(RequestViolation),
}

/// Finds the end of the next request. Given the same bytes again with more behind them, it goes on where it stood.
#[derive(Debug, Default, Clone)]
pub struct RequestScanner {
    /// The next unread line starts here, from the start of the request; it may lie past the bytes that are here.
    next: usize,
    /// Counts the bytes of this request that the caller has taken away already.
    gone: usize,
    /// Counts the arguments whose length line has not been read.
    left: u32,
    /// Counts the arguments in all; it is 0 while the count line has not been read.
    count: u32,
    /// The first argument, the command's name, stands here, once that is known.
    name: Range<usize>,
    /// Is true while the end of an argument, not a line, stands at `next`.
    is_at_end: bool,
}

impl RequestScanner {
    /// Looks at `buf`, whose first byte is the first of a request, or, after [`Self::forget`], the first not yet taken away.
    #[inline]
    pub fn scan(&mut self, buf: &[u8], bounds: &Bounds) -> Scan {
        if self.count == 0 {
            match buf.first() {
                None => return Scan::Incomplete,
                Some(b'*') => {}
                Some(_) => return self.inline(buf),
            }
            match self.count_line(buf, bounds) {
                None => {}
                Some(found) => return found,
            }
        }
        loop {
            if self.is_at_end
                && let Some(found) = self.argument_end(buf)
            {
                return found;
            }
            if self.left == 0 {
                break;
            }
            if let Some(found) = self.length_line(buf, bounds) {
                return found;
            }
        }
        let length = self.next;
        *self = Self {
            name: self.name.clone(),
            ..Self::default()
        };
        Scan::Request { length }
    }

    /// Tells where the name of the request just found, or of the one arriving, stands in the bytes; it is empty until
    /// known.
    pub fn name(&self) -> Range<usize> {
        self.name.clone()
    }

    /// Counts the bytes that the request is known to measure so far, those not arrived and those taken away included.
    pub fn extent(&self) -> usize {
        let end = if self.is_at_end { LINE_END.len() } else { 0 };
        self.gone + self.next + end
    }

    /// Tells whether a multibulk request has begun and not ended.
    pub fn is_inside(&self) -> bool {
        self.count > 0
    }

    /// Counts, of `available` bytes of a request under way, those that hold no line, and no end of an argument, that is
    /// still to be read whole.
    pub fn settled(&self, available: usize) -> usize {
        self.next.min(available)
    }

    /// Notes that the caller has taken away the first `length` bytes, all of them settled.
    pub fn forget(&mut self, length: usize) {
        self.next -= length;
        self.gone += length;
        self.name = 0..0;
    }

    #[inline]
    fn count_line(&mut self, buf: &[u8], bounds: &Bounds) -> Option<Scan> {
        match header(buf, 0) {
            // Where both are wrong, Redis names the number, and Valkey too.
            HeaderLine::Line { value, after }
                if buf[after - 1] != b'\n' && value <= bounds.arguments =>
            {
                Some(Scan::Violation(RequestViolation::LineEnd))
            }
            HeaderLine::Line {
                value,
                after: length,
            } if value <= 0 => Some(Scan::Nothing { length }),
            HeaderLine::Line { value, after } => {
                if value > bounds.arguments {
                    return Some(Scan::Violation(
                        if bounds.unauthenticated && value <= MAX_ARGUMENTS {
                            RequestViolation::UnauthenticatedMultibulkLength
                        } else {
                            RequestViolation::MultibulkLength
                        },
                    ));
                }
                self.count = value as u32;
                self.left = self.count;
                self.next = after;
                self.name = 0..0;
                None
            }
            HeaderLine::Incomplete if buf.len() > MAX_LINE => {
                Some(Scan::Violation(RequestViolation::MultibulkLine))
            }
            HeaderLine::Incomplete => Some(Scan::Incomplete),
            HeaderLine::NotInteger => Some(Scan::Violation(RequestViolation::MultibulkLength)),
        }
    }

    /// Goes past the line end of an argument; returns what is found in its place.
    #[inline]
    fn argument_end(&mut self, buf: &[u8]) -> Option<Scan> {
        match buf.get(self.next..self.next + LINE_END.len()) {
            Some(end) if end == LINE_END => {}
            Some(_) => return Some(Scan::Violation(RequestViolation::LineEnd)),
            None => return Some(Scan::Incomplete),
        }
        self.next += LINE_END.len();
        self.is_at_end = false;
        None
    }

    /// Goes past the line that tells how long the next argument is, and the argument; returns what is found in its place.
    #[inline]
    fn length_line(&mut self, buf: &[u8], bounds: &Bounds) -> Option<Scan> {
        if self.next >= buf.len() {
            return Some(Scan::Incomplete);
        }
        match header(buf, self.next) {
            HeaderLine::Line { value, after } if buf[self.next] == b'$' => {
                if buf[after - 1] != b'\n' {
                    return Some(Scan::Violation(RequestViolation::LineEnd));
                }
                if let Some(violation) = self.length_violation(value, after, bounds) {
                    return Some(Scan::Violation(violation));
                }
                let end = after + value as usize;
                if self.left == self.count {
                    self.name = after..end;
                }
                self.next = end;
                self.is_at_end = true;
                self.left -= 1;
                None
            }
            HeaderLine::Incomplete if buf.len() - self.next > MAX_LINE => {
                Some(Scan::Violation(RequestViolation::BulkLine))
            }
            HeaderLine::Incomplete => Some(Scan::Incomplete),
            _ if buf[self.next] != b'$' => Some(Scan::Violation(RequestViolation::ExpectedBulk(
                buf[self.next],
            ))),
            _ => Some(Scan::Violation(RequestViolation::BulkLength)),
        }
    }

    #[inline]
    fn length_violation(
        &self,
        value: i64,
        after: usize,
        bounds: &Bounds,
    ) -> Option<RequestViolation> {
        let Ok(length) = usize::try_from(value) else {
            return Some(RequestViolation::BulkLength);
        };
        let total = length.saturating_add(self.gone + after);
        if length <= bounds.argument && total <= bounds.request {
            return None;
        }
        Some(if bounds.unauthenticated && total <= bounds.request {
            RequestViolation::UnauthenticatedBulkLength
        } else {
            RequestViolation::BulkLength
        })
    }

    fn inline(&mut self, buf: &[u8]) -> Scan {
        // Bytes already searched are not searched again. As for Redis, which reads a C string, no line ends behind a NUL.
        let from = self.next.min(buf.len());
        let found = memchr2(b'\n', 0, &buf[from..]).map(|at| from + at);
        let Some(at) = found.filter(|&at| buf[at] == b'\n') else {
            self.next = found.unwrap_or(buf.len());
            return if buf.len() > MAX_LINE {
                Scan::Violation(RequestViolation::InlineLine)
            } else {
                Scan::Incomplete
            };
        };
        self.next = 0;
        if at > MAX_LINE {
            return Scan::Violation(RequestViolation::InlineLine);
        }
        let end = if at > 0 && buf[at - 1] == b'\r' {
            at - 1
        } else {
            at
        };
        Scan::Inline {
            text: 0..end,
            length: at + 1,
        }
    }
}

/// Is a whole multibulk request that the scanner has passed.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    bytes: &'a [u8],
    after_count: usize,
    count: usize,
}

impl<'a> Request<'a> {
    /// Wraps the bytes of one request for which the scanner said [`Scan::Request`].
    pub fn new(bytes: &'a [u8]) -> Self {
        match header(bytes, 0) {
            HeaderLine::Line { value, after } => Self {
                bytes,
                after_count: after,
                count: value.max(0) as usize,
            },
            _ => Self {
                bytes,
                after_count: bytes.len(),
                count: 0,
            },
        }
    }

    /// Returns the bytes as the client sent them.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Counts its arguments, the command's name included.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Lists its arguments, the command's name first.
    pub fn arguments(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        let mut at = self.after_count;
        // Of a request that has not arrived whole they end where its bytes do.
        (0..self.count).map_while(move |_| {
            match header((at <= bytes.len()).then_some(bytes)?, at) {
                HeaderLine::Line { value, after } => {
                    let end = after.checked_add(usize::try_from(value).ok()?)?;
                    at = end + 2;
                    bytes.get(after..end)
                }
                _ => None,
            }
        })
    }

    /// Returns the argument at `index`; 0 is the command's name.
    pub fn argument(&self, index: usize) -> Option<&'a [u8]> {
        self.arguments().nth(index)
    }
}

/// Counts the whole requests that `bytes` starts with; there is at least 1.
pub fn count_requests(bytes: &[u8]) -> usize {
    let bounds = Bounds::new(usize::MAX);
    let (mut at, mut count) = (0, 0);
    while at < bytes.len() {
        match RequestScanner::default().scan(&bytes[at..], &bounds) {
            Scan::Request { length } | Scan::Inline { length, .. } => {
                at += length;
                count += 1;
            }
            Scan::Nothing { length } => at += length,
            Scan::Incomplete | Scan::Violation(_) => break,
        }
    }
    count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::speak::encode_request;
    use proptest::prelude::*;

    fn bounds() -> Bounds {
        Bounds::new(512 * 1024 * 1024)
    }

    fn scan(bytes: &[u8]) -> Scan {
        RequestScanner::default().scan(bytes, &bounds())
    }

    fn violation(bytes: &[u8]) -> String {
        match scan(bytes) {
            Scan::Violation(violation) => String::from_utf8(violation.reply()).unwrap(),
            other => panic!("{bytes:?}: {other:?}"),
        }
    }

    #[test]
    fn requests_without_a_reply() {
        assert_eq!(scan(b"*0\r\n"), Scan::Nothing { length: 4 });
        assert_eq!(scan(b"*-1\r\nrest"), Scan::Nothing { length: 5 });
        assert_eq!(scan(b"*-77\r\n"), Scan::Nothing { length: 6 });
        assert_eq!(
            scan(b"\r\n"),
            Scan::Inline {
                text: 0..0,
                length: 2
            }
        );
        assert_eq!(scan(b"PING\0\r\nPING\r\n"), Scan::Incomplete);
        assert_eq!(
            scan(b"\nPING"),
            Scan::Inline {
                text: 0..0,
                length: 1
            }
        );
    }

    #[test]
    fn violations_have_the_texts_of_redis() {
        let error = |text: &str| format!("-ERR Protocol error: {text}\r\n");
        for bytes in ["*+1\r\n", "*01\r\n", "*2147483648\r\n", "*x\r\n", "*\r\n"] {
            assert_eq!(
                violation(bytes.as_bytes()),
                error("invalid multibulk length"),
                "{bytes}"
            );
        }
        for length in [
            "+4",
            "04",
            "-1",
            "536870913",
            "9223372036854775807",
            "x",
            "",
        ] {
            let bytes = format!("*1\r\n${length}\r\n");
            assert_eq!(
                violation(bytes.as_bytes()),
                error("invalid bulk length"),
                "{bytes}"
            );
        }
        assert_eq!(violation(b"*1\r\n:5\r\n"), error("expected '$', got ':'"));
        assert_eq!(violation(b"*1\r\n*0\r\n"), error("expected '$', got '*'"));
        assert_eq!(violation(b"*1\r\n\r\n"), error("expected '$', got ' '"));
        assert_eq!(
            violation(&[b'*'; MAX_LINE + 1]),
            error("too big mbulk count string")
        );
        assert_eq!(
            violation(&[b'a'; MAX_LINE + 1]),
            error("too big inline request")
        );
        let mut endless = b"*1\r\n".to_vec();
        endless.resize(MAX_LINE + 5, b'$');
        assert_eq!(violation(&endless), error("too big bulk count string"));
    }

    #[test]
    fn bounds_before_authentication() {
        let bounds = Bounds::before_authentication(1 << 20);
        let scan = |bytes: &[u8]| RequestScanner::default().scan(bytes, &bounds);
        assert_eq!(scan(b"*10\r\n"), Scan::Incomplete);
        assert_eq!(
            scan(b"*11\r\n"),
            Scan::Violation(RequestViolation::UnauthenticatedMultibulkLength)
        );
        assert_eq!(scan(b"*1\r\n$16384\r\n"), Scan::Incomplete);
        assert_eq!(
            scan(b"*1\r\n$16385\r\n"),
            Scan::Violation(RequestViolation::UnauthenticatedBulkLength)
        );
    }

    #[test]
    fn nested_counts_are_one_violation_however_many() {
        assert_eq!(
            scan(&b"*1\r\n".repeat(10_000)),
            Scan::Violation(RequestViolation::ExpectedBulk(b'*'))
        );
    }

    #[test]
    fn all_arguments_together_are_bounded() {
        let bounds = Bounds {
            request: 100,
            ..Bounds::new(100)
        };
        let mut scanner = RequestScanner::default();
        let bytes = encode_request(&[&[b'x'; 60], &[b'y'; 60]]);
        assert_eq!(
            scanner.scan(&bytes, &bounds),
            Scan::Violation(RequestViolation::BulkLength)
        );
    }

    proptest! {
        #[test]
        fn a_request_cut_anywhere_is_found_whole(
            arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..12),
            cuts in prop::collection::vec(1usize..20, 0..60),
            tail in prop::collection::vec(any::<u8>(), 0..10),
        ) {
            let views: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
            let request = encode_request(&views);
            let mut bytes = request.clone();
            bytes.extend_from_slice(&tail);
            let mut scanner = RequestScanner::default();
            let mut arrived = 0;
            for cut in cuts {
                arrived = (arrived + cut).min(bytes.len());
                if arrived >= request.len() { break; }
                prop_assert_eq!(scanner.scan(&bytes[..arrived], &bounds()), Scan::Incomplete);
                prop_assert!(scanner.extent() <= request.len());
            }
            prop_assert_eq!(scanner.scan(&bytes, &bounds()), Scan::Request { length: request.len() });
            let found = Request::new(&bytes[..request.len()]);
            prop_assert_eq!(found.arguments().collect::<Vec<_>>(), views);
            prop_assert_eq!(&bytes[scanner.name()], arguments[0].as_slice());
        }

        #[test]
        fn a_request_taken_away_piece_by_piece_ends_at_its_end(
            arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..12),
            cuts in prop::collection::vec(1usize..50, 1..100),
        ) {
            let views: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
            let mut rest = encode_request(&views);
            rest.extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
            let total = rest.len() - 14;
            let (mut scanner, mut buffer, mut taken) = (RequestScanner::default(), Vec::new(), 0);
            let mut cuts = cuts.into_iter().cycle();
            loop {
                match scanner.scan(&buffer, &bounds()) {
                    Scan::Request { length } => { prop_assert_eq!(taken + length, total); break; }
                    Scan::Incomplete => {
                        let settled = if scanner.is_inside() { scanner.settled(buffer.len()) } else { 0 };
                        if settled > 0 { scanner.forget(settled); buffer.drain(..settled); taken += settled; }
                        prop_assert!(!rest.is_empty());
                        let cut = cuts.next().unwrap().min(rest.len());
                        buffer.extend(rest.drain(..cut));
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_never_overrun(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let found = scan(&bytes);
            if let Scan::Request { length } | Scan::Nothing { length } | Scan::Inline { length, .. } = found {
                prop_assert!(length > 0 && length <= bytes.len());
            }
        }
    }
}
