//! Tells whether a client is subscribed, from its own connection and amid everything else that comes on it: each confirmation of the
//! server holds the count.
//!
//! Data may look like a confirmation. So one is believed only where a subscription command is due, which the caller says: it does not
//! send others beside those before all has come that they are answered by, or tells their places in a transaction.
//! Invariant: what the server confirms is counted, and nothing that only looks like it.

use std::collections::VecDeque;

use super::TopicKind;
use crate::resp::parse_integer;

/// Bounds the bytes that are kept of a line or a string: the longest word that a confirmation begins with has fewer, and so has
/// any count.
const MOST_KEPT: usize = 24;

/// Messages begin with these; they may stand between the elements of an EXEC of Redis 6.2 that receives its own.
const MESSAGES: [&[u8]; 3] = [b"message\r\n", b"pmessage\r\n", b"smessage\r\n"];

/// Describes a subscription command that was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuedSubscription {
    /// It stands at this place among the commands of its transaction.
    pub place: u32,
    /// It is about this kind of topics.
    pub kind: TopicKind,
    /// It subscribes, or (false) unsubscribes.
    pub subscribes: bool,
    /// It names this many topics; with none it leaves all.
    pub topics: u32,
}

/// Says what is sent from now on, where all has come that answers what was sent before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentNow {
    /// No subscription commands are sent.
    Others,
    /// Nothing else is sent.
    Subscriptions,
    /// One transaction is sent.
    Transaction,
}

/// Says where confirmations stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConfirmationPlace {
    /// No confirmation is expected anywhere.
    Nowhere,
    /// Each stands by itself, and all that looks like one is one.
    Alone,
    /// They stand in the reply to EXEC, which has not come; MULTI's has, or not.
    Transaction { is_begun: bool },
    /// They stand among so many elements, of which this one is next or under way; so many confirmations are left in it, if
    /// that is known.
    Elements {
        place: u32,
        of: u32,
        left: Option<u64>,
    },
}

/// Says what a confirmation still needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExpectedPart {
    /// It needs its first line: an array or a push of three.
    Start,
    /// It needs the command that it confirms, in a frame of so many parts.
    Verb(i64),
    /// It needs the channel, or a null.
    Topic(TopicKind, bool),
    /// It needs how many topics the client is subscribed to.
    Count(TopicKind, bool),
}

/// Says what a frame, or an element of EXEC's reply, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrameUnit {
    /// It begins with this byte.
    Other(u8),
    Message,
    Confirmation {
        kind: TopicKind,
        subscribes: bool,
        count: u64,
    },
}

/// Reads confirmations from a stream of frames.
///
/// Within one frame it may be over and begin again. What comes between two frames sees the frame's end.
#[derive(Debug)]
pub struct ConfirmedSubscriptions {
    stage: ConfirmationPlace,
    queued: VecDeque<QueuedSubscription>,
    unit: FrameUnit,
    /// This number of the unit's elements have yet to come, nested ones included.
    missing: u64,
    expected: ExpectedPart,
    /// This number of a string's bytes have yet to come, its line end included; `None` while a line is under way.
    body: Option<u64>,
    kept: Vec<u8>,
    has_return: bool,
    /// Redis counts these apart from each other: channels with patterns, and shard channels.
    channels: u64,
    shard_channels: u64,
    /// Among `channels` there are this many patterns.
    patterns: u64,
    /// It holds for what comes behind the frame under way.
    is_subscribed: bool,
}

impl ConfirmedSubscriptions {
    /// Begins at the reply to an EXEC that has run these commands, of a client that is not subscribed.
    pub fn executed(queued: Vec<QueuedSubscription>) -> Self {
        Self {
            stage: ConfirmationPlace::Transaction { is_begun: true },
            queued: queued.into(),
            unit: FrameUnit::Other(0),
            missing: 0,
            expected: ExpectedPart::Start,
            body: None,
            kept: Vec::with_capacity(MOST_KEPT),
            has_return: false,
            channels: 0,
            shard_channels: 0,
            patterns: 0,
            is_subscribed: false,
        }
    }

    /// Notes that all has come that answers what was sent before, and that this is sent from now on.
    pub fn sent_now(&mut self, sent: SentNow) {
        self.queued.clear();
        self.stage = match sent {
            SentNow::Others => ConfirmationPlace::Nowhere,
            SentNow::Subscriptions => ConfirmationPlace::Alone,
            SentNow::Transaction => ConfirmationPlace::Transaction { is_begun: false },
        };
    }

    /// Notes that the transaction that is sent now holds this command, too.
    pub fn queue(&mut self, queued: QueuedSubscription) {
        self.queued.push_back(queued);
    }

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

    /// Forgets what seemed to be under way and was text.
    pub fn break_off(&mut self) {
        self.missing = 0;
        self.expected = ExpectedPart::Start;
        self.body = None;
        self.kept.clear();
        self.has_return = false;
    }

    fn total(&self) -> u64 {
        self.channels.saturating_add(self.shard_channels)
    }

    /// Returns how many of its topics are of a kind.
    fn of_kind(&self, kind: TopicKind) -> u64 {
        match kind {
            TopicKind::Channel => self.channels.saturating_sub(self.patterns),
            TopicKind::Pattern => self.patterns,
            TopicKind::Shard => self.shard_channels,
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MOST_KEPT.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Reads bytes of a string of which `left` are to come. Returns what follows them.
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
                ExpectedPart::Verb(_) if MESSAGES.contains(&text.as_slice()) => {
                    self.unit = FrameUnit::Message;
                    ExpectedPart::Start
                }
                ExpectedPart::Verb(3) => {
                    let verb = text.strip_suffix(b"\r\n").and_then(TopicKind::of_verb);
                    verb.map_or(ExpectedPart::Start, |(kind, subscribes)| {
                        ExpectedPart::Topic(kind, subscribes)
                    })
                }
                ExpectedPart::Topic(kind, subscribes) => ExpectedPart::Count(kind, subscribes),
                _ => ExpectedPart::Start,
            };
            self.kept = text;
            self.kept.clear();
            self.element();
        }
        &bytes[here..]
    }

    /// Reads bytes of a line. Returns what follows it.
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
        self.ended(&line);
        self.kept = line;
        self.kept.clear();
        &bytes[end..]
    }

    /// Reads a line that has ended, of which the first bytes are here: all of them, if it can be a part of a confirmation.
    fn ended(&mut self, line: &[u8]) {
        let mark = line.first().copied().unwrap_or_default();
        let number = line
            .strip_suffix(b"\r\n")
            .and_then(|line| parse_integer(&line[1..]));
        let length = number.and_then(|number| u64::try_from(number).ok());
        let begins = self.missing == 0;
        if begins {
            if self.begins_exec(mark, number) {
                return;
            }
            (self.missing, self.unit, self.expected) =
                (1, FrameUnit::Other(mark), ExpectedPart::Start);
        }
        if let (b'$' | b'=' | b'!', Some(length)) = (mark, length) {
            // What it is for is seen when it is whole.
            self.body = Some(length.saturating_add(2));
            if mark != b'$' {
                self.expected = ExpectedPart::Start;
            }
            return;
        }
        self.expected = match (self.expected, mark, number) {
            (_, b'*' | b'>', Some(parts @ (3 | 4))) if begins => ExpectedPart::Verb(parts),
            (ExpectedPart::Topic(kind, subscribes), b'$', Some(-1)) => {
                ExpectedPart::Count(kind, subscribes)
            }
            (ExpectedPart::Topic(kind, subscribes), b'_', _) => {
                ExpectedPart::Count(kind, subscribes)
            }
            (ExpectedPart::Count(kind, subscribes), b':', Some(_)) => {
                let count = length.unwrap_or(0);
                self.unit = FrameUnit::Confirmation {
                    kind,
                    subscribes,
                    count,
                };
                ExpectedPart::Start
            }
            _ => ExpectedPart::Start,
        };
        let parts = match mark {
            b'*' | b'~' | b'>' => length,
            b'%' | b'|' => length.map(|pairs| pairs.saturating_mul(2)),
            _ => None,
        };
        let parts = parts.unwrap_or(0);
        // Neither an attribute is an element, nor what Redis 6.2 says of keys between those of its client's EXEC.
        let is_none = mark == b'|' || (mark == b'>' && parts == 2 && !begins);
        self.missing = self.missing.saturating_add(parts);
        if !is_none {
            self.element();
        }
    }

    /// Tells whether a line is the first of EXEC's reply: what follows it are the elements.
    fn begins_exec(&mut self, mark: u8, number: Option<i64>) -> bool {
        let ConfirmationPlace::Transaction { is_begun: true } = self.stage else {
            return false;
        };
        if mark != b'*' {
            return false;
        }
        let of = number.and_then(|number| u32::try_from(number).ok());
        self.stage = match of {
            None | Some(0) => ConfirmationPlace::Nowhere,
            Some(of) => ConfirmationPlace::Elements {
                place: 0,
                of,
                left: None,
            },
        };
        true
    }

    /// Notes that an element of what is under way has ended.
    fn element(&mut self) {
        self.missing = self.missing.saturating_sub(1);
        if self.missing > 0 {
            return;
        }
        let unit = self.unit;
        match (self.stage, unit) {
            (
                ConfirmationPlace::Alone,
                FrameUnit::Confirmation {
                    kind,
                    subscribes,
                    count,
                },
            ) => self.confirmed(kind, subscribes, count),
            // Messages to a client that is subscribed.
            (
                ConfirmationPlace::Transaction { .. },
                FrameUnit::Message | FrameUnit::Other(b'>'),
            ) => {}
            // It was refused: what was to be queued has run.
            (ConfirmationPlace::Transaction { is_begun: false }, FrameUnit::Other(b'-')) => {
                self.stage = ConfirmationPlace::Alone;
            }
            (ConfirmationPlace::Transaction { .. }, _) => {
                self.stage = ConfirmationPlace::Transaction { is_begun: true }
            }
            (ConfirmationPlace::Elements { place, of, left }, unit) => {
                self.stage = self.in_exec(unit, (place, of), left);
            }
            (ConfirmationPlace::Nowhere | ConfirmationPlace::Alone, _) => {}
        }
    }

    /// Returns what follows on `unit` of EXEC's reply.
    fn in_exec(
        &mut self,
        unit: FrameUnit,
        (place, of): (u32, u32),
        left: Option<u64>,
    ) -> ConfirmationPlace {
        let due = self.queued.front().copied();
        let due = due.filter(|queued| queued.place == place);
        let same = |left| ConfirmationPlace::Elements { place, of, left };
        match (due, unit) {
            // A message of its own, or one about keys, stands between two.
            (_, FrameUnit::Message) if self.total() > 0 => return same(left),
            (_, FrameUnit::Other(b'>')) => return same(left),
            (None, _) => {}
            (Some(_), FrameUnit::Other(b'-')) if left.is_none() => {
                self.queued.pop_front();
            }
            (
                Some(due),
                FrameUnit::Confirmation {
                    kind,
                    subscribes,
                    count,
                },
            ) if (kind, subscribes) == (due.kind, due.subscribes) => {
                let all = match due.topics {
                    0 => self.of_kind(kind).max(1),
                    topics => u64::from(topics),
                };
                self.confirmed(kind, subscribes, count);
                let left = left.unwrap_or(all) - 1;
                if left > 0 {
                    return same(Some(left));
                }
                self.queued.pop_front();
            }
            // Text of a script before it has made more elements than there are.
            (Some(_), _) => return same(left),
        }
        match place + 1 == of {
            true => ConfirmationPlace::Nowhere,
            false => ConfirmationPlace::Elements {
                place: place + 1,
                of,
                left: None,
            },
        }
    }

    /// Notes how many there are now, as the server has said.
    fn confirmed(&mut self, kind: TopicKind, subscribes: bool, count: u64) {
        match kind {
            TopicKind::Shard => self.shard_channels = count,
            TopicKind::Channel | TopicKind::Pattern => {
                let before = std::mem::replace(&mut self.channels, count);
                let patterns = match (kind, subscribes) {
                    (TopicKind::Pattern, true) if count > before => self.patterns + 1,
                    (TopicKind::Pattern, false) if count < before => {
                        self.patterns.saturating_sub(1)
                    }
                    _ => self.patterns,
                };
                self.patterns = patterns.min(count);
            }
        }
        self.is_subscribed &= self.total() > 0;
    }
}

#[cfg(test)]
mod tests;
