//! What the server says on a subscription connection, which speaks RESP2 or RESP3: messages differ in their first byte.

use super::Kind;
use crate::resp::parse_integer;

/// No server says this on a subscription connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// A message's topic, which its subscribers have subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// It is of this kind.
    pub kind: Kind,
    /// It has this name.
    pub topic: &'a [u8],
}

/// One frame of the server, read as far as it matters.
#[derive(Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// It is a message.
    Message(Message<'a>),
    /// It is a confirmation.
    Confirmed {
        /// The topic is of this kind.
        kind: Kind,
        /// It confirms a subscription, or (false) its end.
        subscribes: bool,
        /// The topic has this name; there is none where all of nothing was left.
        topic: Option<&'a [u8]>,
    },
    /// It is this error, whole.
    Refused(&'a [u8]),
    /// It is the answer to PING.
    Pong,
}

/// Reads a whole frame, or its beginning up to where the topic ends.
///
/// # Errors
///
/// Returns [`Malformed`] where no server says so.
pub fn read(frame: &[u8]) -> Result<Said<'_>, Malformed> {
    match frame.first() {
        Some(b'-') => return Ok(Said::Refused(frame)),
        Some(b'+') => return Ok(Said::Pong),
        Some(b'*' | b'>') => {}
        _ => return Err(Malformed),
    }
    let (_, rest) = line(frame)?;
    let (word, rest) = text(rest)?;
    let message = |kind: Kind| {
        let (topic, _) = text(rest)?;
        let topic = topic.ok_or(Malformed)?;
        Ok(Said::Message(Message { kind, topic }))
    };
    let word = word.ok_or(Malformed)?;
    match word {
        b"message" => message(Kind::Channel),
        b"pmessage" => message(Kind::Pattern),
        b"smessage" => message(Kind::Shard),
        b"pong" => Ok(Said::Pong),
        _ => {
            let (kind, subscribes) = Kind::of_verb(word).ok_or(Malformed)?;
            let (topic, _) = text(rest)?;
            Ok(Said::Confirmed {
                kind,
                subscribes,
                topic,
            })
        }
    }
}

/// Returns the first line without its end, and what follows.
fn line(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let end = memchr::memchr(b'\n', bytes).ok_or(Malformed)?;
    let line = bytes[..end].strip_suffix(b"\r").ok_or(Malformed)?;
    Ok((line, &bytes[end + 1..]))
}

/// Returns a bulk string (`None` for null), and what follows.
fn text(bytes: &[u8]) -> Result<(Option<&[u8]>, &[u8]), Malformed> {
    let (head, rest) = line(bytes)?;
    if head == b"_" {
        return Ok((None, rest));
    }
    let length = head.strip_prefix(b"$").and_then(parse_integer);
    match length {
        Some(-1) => Ok((None, rest)),
        Some(length) => {
            let length = usize::try_from(length).map_err(|_| Malformed)?;
            let text = rest.get(..length).ok_or(Malformed)?;
            Ok((Some(text), rest.get(length + 2..).unwrap_or_default()))
        }
        None => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_confirmations_are_told_apart() {
        let message = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n";
        let topic = |kind, topic: &'static [u8]| Said::Message(Message { kind, topic });
        assert_eq!(read(message), Ok(topic(Kind::Channel, b"c")));
        let pattern = b"*4\r\n$8\r\npmessage\r\n$2\r\nc*\r\n$1\r\nc\r\n$2\r\nhi\r\n";
        assert_eq!(read(pattern), Ok(topic(Kind::Pattern, b"c*")));
        let shard = b"*3\r\n$8\r\nsmessage\r\n$0\r\n\r\n$0\r\n\r\n";
        assert_eq!(read(shard), Ok(topic(Kind::Shard, b"")));
        let begun = b"*3\r\n$10\r\npsubscribe\r\n$2\r\na*\r\n:1\r\n";
        let confirmed = |kind, subscribes, topic| Said::Confirmed {
            kind,
            subscribes,
            topic,
        };
        assert_eq!(
            read(begun),
            Ok(confirmed(Kind::Pattern, true, Some(&b"a*"[..])))
        );
        let ended = b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n";
        assert_eq!(read(ended), Ok(confirmed(Kind::Channel, false, None)));
        let ended = b">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n";
        assert_eq!(read(ended), Ok(confirmed(Kind::Channel, false, None)));
        let message = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n";
        assert_eq!(read(message), Ok(topic(Kind::Channel, b"c")));
        assert_eq!(read(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"), Ok(Said::Pong));
        assert_eq!(read(b"+PONG\r\n"), Ok(Said::Pong));
        assert_eq!(
            read(b"-NOPERM no\r\n"),
            Ok(Said::Refused(b"-NOPERM no\r\n"))
        );
        // The beginning is enough for the topic.
        assert_eq!(
            read(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2000\r\nhi"),
            Ok(topic(Kind::Channel, b"c"))
        );
    }

    #[test]
    fn anything_else_is_malformed() {
        for bytes in [
            &b":1\r\n"[..],
            b"$-1\r\n",
            b"*2\r\n$4\r\nwhat\r\n$0\r\n\r\n",
            b"*3\r\n$7\r\nmessage\r\n$-1\r\n",
            b"*3\r\n$7\r\nmess",
            b"*3\r\n:7\r\n",
            b"",
        ] {
            assert_eq!(read(bytes), Err(Malformed), "{bytes:?}");
        }
    }
}
