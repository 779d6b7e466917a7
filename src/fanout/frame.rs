//! Reads what the server says on a subscription connection, which speaks RESP2 or RESP3: messages differ in their first byte.

use super::TopicKind;
use crate::resp::parse_integer;

/// No server says this on a subscription connection.
#[derive(Debug, PartialEq, Eq)]
pub struct UnexpectedFrame;

/// Names a message's topic, which its subscribers have subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicMessage<'a> {
    /// It is of this kind.
    pub kind: TopicKind,
    /// It has this name.
    pub topic: &'a [u8],
}

/// Is one frame of the server, read as far as it matters.
#[derive(Debug, PartialEq, Eq)]
pub enum SubscriptionFrame<'a> {
    /// It is a message.
    Message(TopicMessage<'a>),
    /// It is a confirmation.
    Confirmed {
        /// The topic is of this kind.
        kind: TopicKind,
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
/// Returns [`UnexpectedFrame`] where no server says so.
pub fn read(frame: &[u8]) -> Result<SubscriptionFrame<'_>, UnexpectedFrame> {
    match frame.first() {
        Some(b'-') => return Ok(SubscriptionFrame::Refused(frame)),
        Some(b'+') => return Ok(SubscriptionFrame::Pong),
        Some(b'*' | b'>') => {}
        _ => return Err(UnexpectedFrame),
    }
    let (_, rest) = line(frame)?;
    let (word, rest) = text(rest)?;
    let message = |kind: TopicKind| {
        let (topic, _) = text(rest)?;
        let topic = topic.ok_or(UnexpectedFrame)?;
        Ok(SubscriptionFrame::Message(TopicMessage { kind, topic }))
    };
    let word = word.ok_or(UnexpectedFrame)?;
    match word {
        b"message" => message(TopicKind::Channel),
        b"pmessage" => message(TopicKind::Pattern),
        b"smessage" => message(TopicKind::Shard),
        b"pong" => Ok(SubscriptionFrame::Pong),
        _ => {
            let (kind, subscribes) = TopicKind::of_verb(word).ok_or(UnexpectedFrame)?;
            let (topic, _) = text(rest)?;
            Ok(SubscriptionFrame::Confirmed {
                kind,
                subscribes,
                topic,
            })
        }
    }
}

/// Returns how long a frame is at least of which this is the beginning; `None`: that cannot be told. A message ends with its longest part.
pub fn least_bytes(start: &[u8]) -> Option<usize> {
    let (_, mut rest) = line(start).ok()?;
    loop {
        let (head, after) = line(rest).ok()?;
        let length = head.strip_prefix(b"$").and_then(parse_integer)?;
        let length = usize::try_from(length).ok()?.checked_add(2)?;
        match after.get(length..) {
            Some(next) => rest = next,
            None => return length.checked_add(start.len() - after.len()),
        }
    }
}

/// Returns the first line without its end, and what follows.
fn line(bytes: &[u8]) -> Result<(&[u8], &[u8]), UnexpectedFrame> {
    let end = memchr::memchr(b'\n', bytes).ok_or(UnexpectedFrame)?;
    let line = bytes[..end].strip_suffix(b"\r").ok_or(UnexpectedFrame)?;
    Ok((line, &bytes[end + 1..]))
}

/// Returns a bulk string (`None` for null), and what follows.
fn text(bytes: &[u8]) -> Result<(Option<&[u8]>, &[u8]), UnexpectedFrame> {
    let (head, rest) = line(bytes)?;
    if head == b"_" {
        return Ok((None, rest));
    }
    let length = head.strip_prefix(b"$").and_then(parse_integer);
    match length {
        Some(-1) => Ok((None, rest)),
        Some(length) => {
            let length = usize::try_from(length).map_err(|_| UnexpectedFrame)?;
            let text = rest.get(..length).ok_or(UnexpectedFrame)?;
            Ok((Some(text), rest.get(length + 2..).unwrap_or_default()))
        }
        None => Err(UnexpectedFrame),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_message_is_shows_before_it_is_there() {
        let message =
            b"*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\nc\r\n$20\r\n01234567890123456789\r\n";
        let told = message.len() - 22;
        assert_eq!(least_bytes(&message[..told - 1]), None);
        for length in told..message.len() {
            assert_eq!(least_bytes(&message[..length]), Some(message.len()));
        }
        // It is at least as long as what has begun of it.
        assert_eq!(least_bytes(&message[..10]), Some(18));
        assert_eq!(least_bytes(b"-ERR long"), None);
        assert_eq!(least_bytes(b"*3\r\n$-1\r\n"), None);
        let endless = least_bytes(b"*3\r\n$9223372036854775807\r\nm");
        assert!(endless.is_some_and(|bytes| bytes > usize::MAX / 2));
    }

    #[test]
    fn messages_and_confirmations_are_told_apart() {
        let message = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n";
        let topic =
            |kind, topic: &'static [u8]| SubscriptionFrame::Message(TopicMessage { kind, topic });
        assert_eq!(read(message), Ok(topic(TopicKind::Channel, b"c")));
        let pattern = b"*4\r\n$8\r\npmessage\r\n$2\r\nc*\r\n$1\r\nc\r\n$2\r\nhi\r\n";
        assert_eq!(read(pattern), Ok(topic(TopicKind::Pattern, b"c*")));
        let shard = b"*3\r\n$8\r\nsmessage\r\n$0\r\n\r\n$0\r\n\r\n";
        assert_eq!(read(shard), Ok(topic(TopicKind::Shard, b"")));
        let begun = b"*3\r\n$10\r\npsubscribe\r\n$2\r\na*\r\n:1\r\n";
        let confirmed = |kind, subscribes, topic| SubscriptionFrame::Confirmed {
            kind,
            subscribes,
            topic,
        };
        assert_eq!(
            read(begun),
            Ok(confirmed(TopicKind::Pattern, true, Some(&b"a*"[..])))
        );
        let ended = b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n";
        assert_eq!(read(ended), Ok(confirmed(TopicKind::Channel, false, None)));
        let ended = b">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n";
        assert_eq!(read(ended), Ok(confirmed(TopicKind::Channel, false, None)));
        let message = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n";
        assert_eq!(read(message), Ok(topic(TopicKind::Channel, b"c")));
        assert_eq!(
            read(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"),
            Ok(SubscriptionFrame::Pong)
        );
        assert_eq!(read(b"+PONG\r\n"), Ok(SubscriptionFrame::Pong));
        assert_eq!(
            read(b"-NOPERM no\r\n"),
            Ok(SubscriptionFrame::Refused(b"-NOPERM no\r\n"))
        );
        // The beginning is enough for the topic.
        assert_eq!(
            read(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2000\r\nhi"),
            Ok(topic(TopicKind::Channel, b"c"))
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
            assert_eq!(read(bytes), Err(UnexpectedFrame), "{bytes:?}");
        }
    }
}
