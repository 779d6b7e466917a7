//! RESP as respool reads it on the data path: where frames end, what a request asks, the replies respool itself speaks.
//!
//! Invariant: nothing here recurses, allocates by a count a peer announced, or rescans bytes it has seen.

mod inline;
pub mod parts;
mod reply;
mod request;
pub mod speak;

pub use inline::{LineSyntax, split_inline};
pub use reply::{ReplyScanner, ScanProgress};
pub use request::{Bounds, Request, RequestScanner, RequestViolation, Scan, count_requests};

use memchr::memchr;

/// Bounds an inline request or a count line, in bytes; it is `PROTO_INLINE_MAX_SIZE` of Redis.
pub const MAX_LINE: usize = 64 * 1024;

/// Parses a decimal integer exactly as Redis' `string2ll` does: no sign but `-`, no leading zeros, no `-0`.
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    let mut value: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value
            .checked_mul(10)?
            .checked_add(u64::from(digit - b'0'))?;
    }
    if negative {
        0i64.checked_sub_unsigned(value)
    } else {
        i64::try_from(value).ok()
    }
}

/// Is a header line `<kind><integer>\r\n` of a frame.
#[derive(Debug, PartialEq, Eq)]
enum HeaderLine {
    /// It holds this integer, and the first byte after the line stands at this offset.
    Line { value: i64, after: usize },
    /// It has not arrived whole.
    Incomplete,
    /// It has arrived, and holds no integer.
    NotInteger,
}

/// Reads the header line that starts at `at` with its kind byte. As in Redis the line ends at the first `\r`, and the byte
/// after it is taken for the `\n` unseen.
#[inline]
fn header(buf: &[u8], at: usize) -> HeaderLine {
    // Nearly every header on the wire has one or two digits.
    if let Some(&[a, b, c, _]) = buf.get(at + 1..at + 5) {
        if b == b'\r' && a.is_ascii_digit() {
            return HeaderLine::Line {
                value: i64::from(a - b'0'),
                after: at + 4,
            };
        }
        if c == b'\r' && a.is_ascii_digit() && a != b'0' && b.is_ascii_digit() {
            let value = i64::from(a - b'0') * 10 + i64::from(b - b'0');
            return HeaderLine::Line {
                value,
                after: at + 5,
            };
        }
    }
    long_header(buf, at)
}

fn long_header(buf: &[u8], at: usize) -> HeaderLine {
    let Some(length) = memchr(b'\r', &buf[at..]) else {
        return HeaderLine::Incomplete;
    };
    let after = at + length + 2;
    if after > buf.len() {
        return HeaderLine::Incomplete;
    }
    match parse_integer(&buf[at + 1..at + length.max(1)]) {
        Some(value) => HeaderLine::Line { value, after },
        None => HeaderLine::NotInteger,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_parse_as_string2ll_does() {
        for (text, value) in [
            ("0", 0),
            ("7", 7),
            ("-1", -1),
            ("9223372036854775807", i64::MAX),
        ] {
            assert_eq!(parse_integer(text.as_bytes()), Some(value), "{text}");
        }
        assert_eq!(parse_integer(b"-9223372036854775808"), Some(i64::MIN));
        for text in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            "00",
            "1 ",
            " 1",
            "1a",
            "9223372036854775808",
        ] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn headers_of_every_length() {
        for value in [0i64, 5, 9, 10, 16, 99, 100, 12345, 536870912] {
            let line = format!("${value}\r\n");
            let after = line.len();
            assert_eq!(
                header(line.as_bytes(), 0),
                HeaderLine::Line { value, after },
                "{line:?}"
            );
            for cut in 1..line.len() {
                assert_eq!(
                    header(&line.as_bytes()[..cut], 0),
                    HeaderLine::Incomplete,
                    "{line:?} cut at {cut}"
                );
            }
        }
        assert_eq!(header(b"$04\r\nab", 0), HeaderLine::NotInteger);
        assert_eq!(header(b"$+4\r\n", 0), HeaderLine::NotInteger);
        assert_eq!(header(b"$\r\n", 0), HeaderLine::NotInteger);
        assert_eq!(header(b"\r\n", 0), HeaderLine::NotInteger);
    }
}
