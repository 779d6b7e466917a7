//! Whether a client is subscribed whose own connection says so, amid everything else that comes on it: the count in each confirmation
//! of the server, wherever that stands.

use super::Kind;
use crate::resp::parse_integer;

/// Bytes of a line or a string that are kept: the longest word that a confirmation begins with, and more digits than a count has.
const MOST_KEPT: usize = 24;

/// What a confirmation still needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Its first line: an array or a push of three.
    Start,
    /// The command that it confirms.
    Verb,
    /// The channel, or a null.
    Topic(Kind),
    /// How many the client is subscribed to.
    Count(Kind),
}

/// Reads confirmations from a stream of frames in which they may stand by themselves or inside the reply to EXEC.
///
/// Within one frame it may be over and begin again. What comes between two frames sees the frame's end.
#[derive(Debug)]
pub struct ConfirmedSubscriptions {
    expected: Expected,
    /// Bytes of a string that have not come, its line end included; `None`: a line is under way.
    body: Option<u64>,
    kept: Vec<u8>,
    has_return: bool,
    /// What Redis counts apart from each other: channels with patterns, and shard channels.
    channels: u64,
    shard_channels: u64,
    /// What holds for what comes behind the frame under way.
    is_subscribed: bool,
}

impl Default for ConfirmedSubscriptions {
    fn default() -> Self {
        Self {
            expected: Expected::Start,
            body: None,
            kept: Vec::with_capacity(MOST_KEPT),
            has_return: false,
            channels: 0,
            shard_channels: 0,
            is_subscribed: false,
        }
    }
}

impl ConfirmedSubscriptions {
    /// Reads more of what the server has sent, which ends a frame if it is `complete`. Returns whether the client is subscribed: no more
    /// from the confirmation on that says so, and again only from the end of a frame on.
    pub fn take(&mut self, mut bytes: &[u8], complete: bool) -> bool {
        while !bytes.is_empty() {
            bytes = match self.body {
                Some(left) => self.text(bytes, left),
                None => self.line(bytes),
            };
        }
        if complete {
            self.is_subscribed = self.total() > 0;
        }
        self.is_subscribed
    }

    /// What seemed to be under way was text.
    pub fn break_off(&mut self) {
        self.expected = Expected::Start;
        self.body = None;
        self.kept.clear();
        self.has_return = false;
    }

    fn total(&self) -> u64 {
        self.channels.saturating_add(self.shard_channels)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MOST_KEPT.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Bytes of a string of which `left` are to come. Returns what follows them.
    fn text<'a>(&mut self, bytes: &'a [u8], left: u64) -> &'a [u8] {
        let here = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.keep(&bytes[..here]);
        let left = left - here as u64;
        if left > 0 {
            self.body = Some(left);
        } else {
            self.body = None;
            let text = std::mem::take(&mut self.kept);
            self.expected = match self.expected {
                Expected::Verb => {
                    let verb = text.strip_suffix(b"\r\n").and_then(Kind::of_verb);
                    verb.map_or(Expected::Start, |(kind, _)| Expected::Topic(kind))
                }
                Expected::Topic(kind) => Expected::Count(kind),
                _ => Expected::Start,
            };
            self.kept = text;
            self.kept.clear();
        }
        &bytes[here..]
    }

    /// Bytes of a line. Returns what follows it.
    fn line<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let mut from = 0;
        let end = loop {
            let Some(length) = memchr::memchr(b'\n', &bytes[from..]) else {
                break None;
            };
            let at = from + length;
            let is_behind_return = match at {
                0 => self.has_return,
                at => bytes[at - 1] == b'\r',
            };
            from = at + 1;
            if is_behind_return {
                break Some(from);
            }
        };
        let Some(end) = end else {
            self.keep(bytes);
            self.has_return = bytes.last() == Some(&b'\r');
            return &[];
        };
        self.keep(&bytes[..end]);
        self.has_return = false;
        let line = std::mem::take(&mut self.kept);
        self.ended(line.strip_suffix(b"\r\n").unwrap_or_default());
        self.kept = line;
        self.kept.clear();
        &bytes[end..]
    }

    /// A line has ended; empty: it was too long to be a part of a confirmation.
    fn ended(&mut self, line: &[u8]) {
        let (mark, number) = line
            .split_first()
            .map_or((0, None), |(mark, rest)| (*mark, parse_integer(rest)));
        let length = number.and_then(|number| u64::try_from(number).ok());
        if let (b'$' | b'=' | b'!', Some(length)) = (mark, length) {
            // What it is for is seen when it is whole.
            self.body = Some(length.saturating_add(2));
            if mark != b'$' {
                self.expected = Expected::Start;
            }
            return;
        }
        self.expected = match (self.expected, mark, number) {
            (_, b'*' | b'>', Some(3)) => Expected::Verb,
            (Expected::Topic(kind), b'$', Some(-1)) => Expected::Count(kind),
            (Expected::Topic(kind), b'_', _) => Expected::Count(kind),
            (Expected::Count(kind), b':', Some(_)) => {
                let counted = match kind {
                    Kind::Channel | Kind::Pattern => &mut self.channels,
                    Kind::Shard => &mut self.shard_channels,
                };
                *counted = length.unwrap_or(0);
                self.is_subscribed &= self.total() > 0;
                Expected::Start
            }
            _ => Expected::Start,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn confirmation(verb: &str, topic: Option<&str>, count: usize) -> String {
        let topic = topic.map_or("$-1\r\n".to_owned(), |topic| {
            format!("${}\r\n{topic}\r\n", topic.len())
        });
        format!("*3\r\n${}\r\n{verb}\r\n{topic}:{count}\r\n", verb.len())
    }

    /// What holds after each of these frames.
    fn after(frames: &[String]) -> Vec<bool> {
        let mut confirmed = ConfirmedSubscriptions::default();
        let mut after = |frame: &String| confirmed.take(frame.as_bytes(), true);
        frames.iter().map(&mut after).collect()
    }

    #[test]
    fn the_counts_of_the_server_hold() {
        let one = |verb, count| confirmation(verb, Some("c"), count);
        assert_eq!(
            after(&[
                one("subscribe", 1),
                one("psubscribe", 2),
                one("unsubscribe", 1),
                one("punsubscribe", 0),
                one("ssubscribe", 1),
                one("subscribe", 1),
                one("sunsubscribe", 0),
                one("unsubscribe", 0),
                confirmation("unsubscribe", None, 0),
                confirmation("unsubscribe", None, 0).replace("$-1", "_"),
                one("subscribe", 1).replace('*', ">"),
                one("unsubscribe", 0).replace('*', ">"),
            ]),
            [
                true, true, true, false, true, true, true, false, false, false, true, false
            ]
        );
    }

    #[test]
    fn confirmations_stand_inside_exec_too() {
        let inside = |parts: &[String]| format!("*{}\r\n{}", parts.len(), parts.concat());
        let subscribed = confirmation("subscribe", Some("c"), 1);
        let left = confirmation("unsubscribe", Some("c"), 0);
        let error = "-ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client\r\n".to_owned();
        assert_eq!(after(&[inside(std::slice::from_ref(&subscribed))]), [true]);
        assert_eq!(after(&[inside(&[error])]), [false]);
        assert_eq!(after(&[inside(std::slice::from_ref(&left))]), [false]);
        let both = inside(&[subscribed.clone(), ":3\r\n".into(), left.clone()]);
        assert_eq!(after(&[both]), [false]);
        let again = inside(&[left, "$3\r\nabc\r\n".into(), subscribed]);
        assert_eq!(after(&[again]), [true]);
    }

    #[test]
    fn what_only_looks_like_one_is_none() {
        let real = confirmation("subscribe", Some("c"), 1);
        let quoted = format!("${}\r\n{real}\r\n", real.len());
        for frame in [
            quoted.clone(),
            format!("*2\r\n$1\r\na\r\n{quoted}"),
            format!("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n{quoted}"),
            "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n$1\r\n1\r\n".into(),
            "*3\r\n+subscribe\r\n$1\r\nc\r\n:1\r\n".into(),
            "*3\r\n$9\r\nsubscribe\r\n:1\r\n:1\r\n".into(),
            "*3\r\n$10\r\nsubscribed\r\n$1\r\nc\r\n:1\r\n".into(),
            "-ERR *3\n$9\n\r$9\r subscribe :1\r\n".into(),
            format!("+{}\r\n", "x".repeat(100)),
            format!("={}\r\ntxt:{real}\r\n", real.len() + 4),
        ] {
            assert_eq!(after(std::slice::from_ref(&frame)), [false], "{frame}");
            assert_eq!(after(&[real.clone(), frame.clone()]), [true, true]);
            assert_eq!(after(&[frame, real.clone()]), [false, true]);
        }
    }

    #[test]
    fn it_ends_amid_a_frame_and_begins_at_its_end() {
        let frame = format!(
            "*3\r\n{}{}$1\r\nx\r\n",
            confirmation("unsubscribe", Some("c"), 0),
            confirmation("subscribe", Some("c"), 1)
        );
        let mut confirmed = ConfirmedSubscriptions::default();
        assert!(confirmed.take(confirmation("subscribe", Some("c"), 1).as_bytes(), true));
        let mut bytes = frame.bytes().peekable();
        let mut seen = Vec::new();
        while let Some(byte) = bytes.next() {
            seen.push(confirmed.take(&[byte], bytes.peek().is_none()));
        }
        seen.dedup();
        assert_eq!(seen, [true, false, true]);
    }

    proptest! {
        #[test]
        fn it_is_read_however_it_is_cut(
            counts in prop::collection::vec((0usize..6, 0usize..3, "[a-z\r\n:*$0-9]{0,40}"), 1..12),
            cuts in prop::collection::vec(1usize..30, 200),
        ) {
            let frames: Vec<String> = counts
                .iter()
                .map(|(verb, count, topic)| {
                    let (kind, subscribes) = (crate::fanout::PUBSUB_KINDS[verb / 2], verb % 2 == 0);
                    confirmation(kind.verb(subscribes), Some(topic), *count)
                })
                .collect();
            let expected = after(&frames);
            let mut cuts = cuts.into_iter().cycle();
            let mut confirmed = ConfirmedSubscriptions::default();
            for (frame, expected) in frames.iter().zip(expected) {
                let mut rest = frame.as_bytes();
                let mut told = false;
                while !rest.is_empty() {
                    let (piece, behind) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                    told = confirmed.take(piece, behind.is_empty());
                    rest = behind;
                }
                prop_assert_eq!(told, expected);
            }
        }
    }
}
