//! Reads a blocking call as a client sent it: what it waits for, for how long, and how it is asked again.

use std::collections::BTreeSet;

use super::popped::PoppedElements;
use super::price::CallSize;
use super::{LineKey, MAX_MERGED};
use crate::command::PinReason;
use crate::resp::speak::{encode_request, push_bulk, push_header};
use crate::resp::{Request, parse_integer};

/// Bounds the timeout that is told to the second here; the server speaks for itself about longer ones.
const MAX_TIMEOUT_SECONDS: f64 = 1e9;

/// The bytes of a call are kept this many times at most.
const COPIES: usize = 6;

/// A key takes so much memory beside its own bytes where it is a line, and any word takes so much.
const LINE_BYTES: usize = 400;
const WORD_BYTES: usize = 80;

/// A class of its own takes this much memory: what is kept of its connection, its lines and its owner.
const CLASS_BYTES: usize = 4 * 1024;

/// Says what equal calls have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallShape {
    /// It answers with the key it popped from: calls over different keys are one.
    Pops,
    /// It takes something away and does not say for whom: only equal calls stand in one line.
    Takes,
    /// It takes nothing away: one answer serves all equal calls.
    Reads,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimeoutUnit {
    Seconds,
    Milliseconds,
}

/// No timeout in seconds that is sent is shorter than this many milliseconds. Redis 6.2 cuts off what is less than a
/// millisecond when it has multiplied `0.001` by a thousand, and what is left of it means for ever.
const LEAST_OF_SECONDS: u64 = 2;

/// Says how long the server is asked to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallTimeout {
    /// It waits until it is unblocked.
    Endless,
    /// It waits for at most so many milliseconds.
    Millis(u64),
}

/// Holds a blocking call: what it waits for, for how long, and how it is asked again.
#[derive(Debug, Clone)]
pub struct BlockingCall {
    /// All its words are here but the timeout; the name is in upper case.
    words: Vec<Box<[u8]>>,
    /// The timeout stands at this place among all words.
    timeout_at: usize,
    unit: TimeoutUnit,
    timeout_micros: Option<u64>,
    pub(super) shape: CallShape,
    pub(super) popped: PoppedElements,
    /// Each `$` has an entry: the places of its stream and of itself among `words`.
    lasts: Vec<(usize, usize)>,
}

impl BlockingCall {
    /// Reads a blocking call. Returns `None` for one that only the server can judge, on a connection of the client's own.
    pub fn parse(request: &Request<'_>) -> Option<Self> {
        let words: Vec<&[u8]> = request.arguments().collect();
        let name = words.first()?.to_ascii_uppercase();
        let last = words.len() - 1;
        let (timeout_at, shape) = match (name.as_slice(), words.len()) {
            (b"BLPOP" | b"BRPOP" | b"BZPOPMIN" | b"BZPOPMAX", 3..) if last - 1 <= MAX_MERGED => {
                (last, CallShape::Pops)
            }
            // So many keys would make the call of everybody else long, and each arrival costly.
            (b"BLPOP" | b"BRPOP" | b"BZPOPMIN" | b"BZPOPMAX", 3..) => (last, CallShape::Takes),
            (b"BLMOVE", 6) | (b"BRPOPLPUSH", 4) => (last, CallShape::Takes),
            (b"BLMPOP" | b"BZMPOP", 5..) => (1, CallShape::Takes),
            (b"XREAD", _) => (streams(&words)?.timeout_at, CallShape::Reads),
            (b"XREADGROUP", _) => (streams(&words)?.timeout_at, CallShape::Takes),
            _ => return None,
        };
        let is_stream = name.starts_with(b"X");
        let (unit, timeout_micros) = if is_stream {
            (TimeoutUnit::Milliseconds, milliseconds(words[timeout_at])?)
        } else {
            (TimeoutUnit::Seconds, seconds(words[timeout_at])?)
        };
        let lasts = match shape {
            CallShape::Reads => lasts(&words)?,
            _ => Vec::new(),
        };
        let popped = PoppedElements::by(request.arguments());
        let mut words: Vec<Box<[u8]>> = words.into_iter().map(Box::from).collect();
        words.remove(timeout_at);
        words[0] = name.into();
        Some(Self {
            words,
            timeout_at,
            unit,
            timeout_micros: (timeout_micros > 0).then_some(timeout_micros),
            shape,
            popped,
            lasts,
        })
    }

    /// Returns how long the client waits, or `None` where it waits for ever.
    pub(super) fn timeout_micros(&self) -> Option<u64> {
        self.timeout_micros
    }

    /// Returns the memory that it takes while it waits: its words are kept by its waiter and by its class, are the names of
    /// lines, and stand in what is sent, a try or a call over the keys of many, which is built, gathered and handed over.
    pub fn held_bytes(&self) -> usize {
        let words: usize = self.words.iter().map(|word| word.len()).sum();
        let beside = match self.shape {
            CallShape::Pops => LINE_BYTES,
            CallShape::Takes | CallShape::Reads => WORD_BYTES,
        };
        // Few others make the same call.
        let class = match self.shape {
            CallShape::Pops => 0,
            CallShape::Takes | CallShape::Reads => CLASS_BYTES,
        };
        COPIES * words + self.words.len() * beside + class
    }

    /// Returns what it takes away.
    pub fn popped(&self) -> PoppedElements {
        self.popped
    }

    /// Tells whether the server refuses it when its memory is full: it puts what it takes away somewhere else.
    pub(super) fn takes_memory(&self) -> bool {
        matches!(self.words[0].as_ref(), b"BLMOVE" | b"BRPOPLPUSH")
    }

    /// Tells whether it reads for a group, which the server has to know.
    pub(super) fn is_of_group(&self) -> bool {
        self.words[0].as_ref() == b"XREADGROUP"
    }

    /// Returns the keys it waits for, in its own order.
    pub(super) fn awaited(&self) -> Vec<&[u8]> {
        let mut words: Vec<&[u8]> = self.words.iter().map(AsRef::as_ref).collect();
        words.insert(self.timeout_at, b"0");
        let (first, count) = match words[0] {
            b"XREAD" | b"XREADGROUP" => match streams(&words) {
                Some(streams) => (streams.first, streams.count),
                None => return Vec::new(),
            },
            b"BLMPOP" | b"BZMPOP" => {
                let count = parse_integer(words[2]).and_then(|count| usize::try_from(count).ok());
                (3, count.unwrap_or(0))
            }
            b"BLMOVE" | b"BRPOPLPUSH" => (1, 1),
            _ => (1, words.len() - 2),
        };
        let keys = words.get(first..first.saturating_add(count));
        keys.map(<[&[u8]]>::to_vec).unwrap_or_default()
    }

    /// Tells whether what it takes goes to another key.
    pub(super) fn has_destination(&self) -> bool {
        matches!(self.words[0].as_ref(), b"BLMOVE" | b"BRPOPLPUSH")
    }

    /// Returns the same call over fewer keys, without those at these places among [`Self::awaited`]; `None` where none would
    /// be left, or where it cannot be made over fewer.
    pub(super) fn without(&self, places: &BTreeSet<usize>) -> Option<Self> {
        let count = self.awaited().len();
        let is_counted = matches!(self.words[0].as_ref(), b"BLMPOP" | b"BZMPOP");
        let first = match self.words[0].as_ref() {
            // The timeout, which stands before the keys, is not among the words.
            b"BLMPOP" | b"BZMPOP" => 2,
            b"XREAD" | b"XREADGROUP" => self.words.len().checked_sub(2 * count)?,
            b"BLPOP" | b"BRPOP" | b"BZPOPMIN" | b"BZPOPMAX" => 1,
            _ => return None,
        };
        if places.is_empty() || places.len() >= count {
            return None;
        }
        // Of a stream the key and the id behind all keys.
        let copies = if self.words[0].starts_with(b"X") {
            2
        } else {
            1
        };
        let is_left_out = |at: usize| {
            let place = at.checked_sub(first).filter(|at| *at < copies * count);
            place.is_some_and(|place| places.contains(&(place % count)))
        };
        let mut fewer = self.clone();
        let mut at = 0;
        fewer.words.retain(|_| {
            at += 1;
            !is_left_out(at - 1)
        });
        if is_counted {
            fewer.words[1] = (count - places.len()).to_string().into_bytes().into();
        }
        if self.timeout_at == self.words.len() {
            fewer.timeout_at = fewer.words.len();
        }
        Some(fewer)
    }

    /// Returns what TYPE answers about a key that has what it waits for.
    pub(super) fn kind(&self) -> &'static [u8] {
        match self.words[0].as_ref() {
            [b'X', ..] => b"+stream\r\n",
            [b'B', b'Z', ..] => b"+zset\r\n",
            _ => b"+list\r\n",
        }
    }

    /// Makes the requests that tell of what kind its keys are.
    pub(super) fn ask_kinds(&self) -> Vec<u8> {
        let ask = |key: &[u8]| encode_request(&[&b"TYPE"[..], key]);
        self.awaited().into_iter().flat_map(ask).collect()
    }

    /// Makes the request that tells whether one of its keys is of another kind: its answer is a number where it is not.
    pub(super) fn ask_kind(&self, key: &[u8]) -> Vec<u8> {
        let name = match self.words[0].as_ref() {
            [b'B', b'Z', ..] => &b"ZCARD"[..],
            _ => b"LLEN",
        };
        encode_request(&[name, key])
    }

    /// Returns why a connection is borrowed for it.
    pub(super) fn reason(&self) -> PinReason {
        match self.unit {
            TimeoutUnit::Seconds => PinReason::Blocking,
            TimeoutUnit::Milliseconds => PinReason::BlockingOption,
        }
    }

    /// Returns what calls served by the same issued call have in common.
    pub(super) fn identity(&self) -> Box<[u8]> {
        match self.shape {
            CallShape::Pops => self.words[0].clone(),
            CallShape::Takes | CallShape::Reads => encode_request(&self.words).into(),
        }
    }

    pub(super) fn size(&self) -> CallSize {
        CallSize::of(self.words.iter().map(AsRef::as_ref))
    }

    /// Returns the lines it stands in, each once: its keys, or the one of its equals.
    pub(super) fn keys(&self) -> Vec<LineKey> {
        if self.shape != CallShape::Pops {
            return vec![LineKey::from(&[][..])];
        }
        let mut seen = std::collections::HashSet::new();
        let mut keys: Vec<LineKey> = self.words[1..]
            .iter()
            .map(|key| key.as_ref().into())
            .collect();
        keys.retain(|key| seen.insert(LineKey::clone(key)));
        keys
    }

    /// Appends the call as the client made it, but for its timeout.
    pub(super) fn push(&self, out: &mut Vec<u8>, patience: CallTimeout) {
        self.push_words(
            out,
            self.words.iter().map(AsRef::as_ref),
            self.words.len(),
            patience,
        );
    }

    /// Appends the same call over other keys; one that stands in line with its equals is the same over all.
    pub(super) fn push_over(&self, out: &mut Vec<u8>, keys: &[LineKey], patience: CallTimeout) {
        if self.shape != CallShape::Pops {
            return self.push(out, patience);
        }
        let name = std::iter::once(self.words[0].as_ref());
        let words = name.chain(keys.iter().map(AsRef::as_ref));
        self.push_words(out, words, keys.len() + 1, patience);
    }

    fn push_words<'a>(
        &self,
        out: &mut Vec<u8>,
        words: impl Iterator<Item = &'a [u8]> + Clone,
        count: usize,
        patience: CallTimeout,
    ) {
        // At once: grown step by step a call of megabytes is there twice for a moment.
        out.reserve_exact(words.clone().map(|word| word.len() + 16).sum::<usize>() + 64);
        let timeout = match (patience, self.unit) {
            (CallTimeout::Endless, _) => "0".to_owned(),
            (CallTimeout::Millis(millis), TimeoutUnit::Milliseconds) => millis.to_string(),
            (CallTimeout::Millis(millis), TimeoutUnit::Seconds) => {
                let millis = millis.max(LEAST_OF_SECONDS);
                format!("{}.{:03}", millis / 1000, millis % 1000)
            }
        };
        push_header(out, b'*', count as i64 + 1);
        let timeout_at = if self.shape == CallShape::Pops {
            count
        } else {
            self.timeout_at
        };
        for (at, word) in words.enumerate() {
            if at == timeout_at {
                push_bulk(out, timeout.as_bytes());
            }
            push_bulk(out, word);
        }
        if timeout_at >= count {
            push_bulk(out, timeout.as_bytes());
        }
    }

    /// Tells whether it speaks of the last entry of a stream, which is another one each time it is asked.
    pub(super) fn is_relative(&self) -> bool {
        !self.lasts.is_empty()
    }

    /// Makes the requests that tell what the last entries are, and says how many they are.
    pub(super) fn last_entries(&self) -> (Vec<u8>, usize) {
        let ask = |&(stream, _): &(usize, usize)| {
            encode_request(&[b"XINFO", &b"STREAM"[..], &self.words[stream]])
        };
        (self.lasts.iter().flat_map(ask).collect(), self.lasts.len())
    }

    /// Puts the ids of the last entries in their places, as far as they are known.
    pub(super) fn resolve(&mut self, ids: Vec<Option<Vec<u8>>>) {
        let mut lasts = std::mem::take(&mut self.lasts);
        let mut ids = ids.into_iter();
        lasts.retain(|&(_, at)| match ids.next().flatten() {
            Some(id) => {
                self.words[at] = id.into();
                false
            }
            None => true,
        });
        self.lasts = lasts;
    }
}

struct StreamsShape {
    timeout_at: usize,
    /// The streams begin here, and are this many.
    first: usize,
    count: usize,
}

/// Reads the shape of an XREAD or XREADGROUP that may block, as `xreadCommand` does.
fn streams(words: &[&[u8]]) -> Option<StreamsShape> {
    let is_group = words[0].eq_ignore_ascii_case(b"XREADGROUP");
    let (mut at, mut timeout_at) = (1, None);
    loop {
        let option = words.get(at)?.to_ascii_uppercase();
        match option.as_slice() {
            b"BLOCK" if timeout_at.is_none() => {
                timeout_at = Some(at + 1);
                at += 2;
            }
            b"COUNT" => at += 2,
            b"GROUP" if is_group => at += 3,
            b"NOACK" if is_group => at += 1,
            b"STREAMS" => break,
            _ => return None,
        }
    }
    let rest = words.len() - at - 1;
    (rest > 0 && rest.is_multiple_of(2)).then_some(StreamsShape {
        timeout_at: timeout_at?,
        first: at + 1,
        count: rest / 2,
    })
}

/// Returns for each `$` the places of its stream and of itself, the timeout taken out; `None` where an id means something
/// else each time.
fn lasts(words: &[&[u8]]) -> Option<Vec<(usize, usize)>> {
    let streams = streams(words)?;
    let mut lasts = Vec::new();
    for stream in streams.first..streams.first + streams.count {
        let id = stream + streams.count;
        match words[id] {
            // The timeout stands before both.
            b"$" => lasts.push((stream - 1, id - 1)),
            [first, rest @ ..]
                if first.is_ascii_digit()
                    && rest
                        .iter()
                        .all(|byte| byte.is_ascii_digit() || *byte == b'-') => {}
            _ => return None,
        }
    }
    Some(lasts)
}

/// Reads a timeout in seconds as microseconds, rounded up to the millisecond as the server does.
fn seconds(text: &[u8]) -> Option<u64> {
    let is_plain = text.first().is_some_and(u8::is_ascii_digit)
        && text
            .iter()
            .all(|byte| byte.is_ascii_digit() || *byte == b'.');
    let value: f64 = std::str::from_utf8(text)
        .ok()
        .filter(|_| is_plain)?
        .parse()
        .ok()?;
    (value <= MAX_TIMEOUT_SECONDS).then(|| (value * 1000.0).ceil() as u64 * 1000)
}

fn milliseconds(text: &[u8]) -> Option<u64> {
    let value = u64::try_from(parse_integer(text)?).ok()?;
    (value as f64 <= MAX_TIMEOUT_SECONDS * 1000.0).then_some(value * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Option<BlockingCall> {
        let words: Vec<&str> = line.split(' ').collect();
        let bytes = encode_request(&words);
        BlockingCall::parse(&Request::new(&bytes))
    }

    fn again(line: &str, patience: CallTimeout) -> String {
        let mut out = Vec::new();
        call(line).unwrap().push(&mut out, patience);
        let request = Request::new(&out);
        let words: Vec<_> = request.arguments().map(String::from_utf8_lossy).collect();
        assert_eq!(words.len(), request.count());
        words.join(" ")
    }

    #[test]
    fn a_call_is_made_over_fewer_keys() {
        let fewer = |line: &str, places: &[usize]| {
            let places = places.iter().copied().collect();
            let call = call(line).expect("it is understood").without(&places)?;
            let mut out = Vec::new();
            call.push(&mut out, CallTimeout::Endless);
            let words: Vec<String> = Request::new(&out)
                .arguments()
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            Some(words.join(" "))
        };
        let line = "XREAD COUNT 2 BLOCK 5 STREAMS a b c 1 2 3";
        let expected = "XREAD COUNT 2 BLOCK 0 STREAMS a c 1 3";
        assert_eq!(fewer(line, &[1]).as_deref(), Some(expected));
        let expected = "XREAD COUNT 2 BLOCK 0 STREAMS b 2";
        assert_eq!(fewer(line, &[0, 2]).as_deref(), Some(expected));
        let line = "BLMPOP 5 3 a b c LEFT COUNT 2";
        let expected = "BLMPOP 0 1 b LEFT COUNT 2";
        assert_eq!(fewer(line, &[0, 2]).as_deref(), Some(expected));
        assert_eq!(fewer(line, &[0, 1, 2]), None);
        assert_eq!(fewer(line, &[]), None);
        assert_eq!(fewer("BLMOVE a b LEFT LEFT 0", &[0]), None);
        assert_eq!(
            fewer("BLPOP a b c 5", &[0, 2]).as_deref(),
            Some("BLPOP b 0")
        );
        let keys = |keys: &[usize]| keys.iter().map(|key| format!(" {key}")).collect::<String>();
        let all: Vec<usize> = (0..=MAX_MERGED).collect();
        let line = format!("BZPOPMAX{} 5", keys(&all));
        let expected = format!("BZPOPMAX{} 0", keys(&all[2..]));
        assert_eq!(fewer(&line, &[0, 1]), Some(expected));
        let line = "XREADGROUP GROUP g c NOACK BLOCK 7 STREAMS a b c > 0 >";
        let expected = "XREADGROUP GROUP g c NOACK BLOCK 0 STREAMS b 0";
        assert_eq!(fewer(line, &[0, 2]).as_deref(), Some(expected));
    }

    #[test]
    fn only_the_timeout_changes_when_a_call_is_asked_again() {
        for (line, expected) in [
            ("blpop k l 5", "BLPOP k l 0.050"),
            ("BLMOVE a b left right 0", "BLMOVE a b left right 0.050"),
            ("brpoplpush a b 1", "BRPOPLPUSH a b 0.050"),
            (
                "BLMPOP 7 2 a b LEFT COUNT 3",
                "BLMPOP 0.050 2 a b LEFT COUNT 3",
            ),
            (
                "xread COUNT 1 block 9 STREAMS s 0-1",
                "XREAD COUNT 1 block 50 STREAMS s 0-1",
            ),
            (
                "XREADGROUP GROUP block c BLOCK 9 NOACK STREAMS s >",
                "XREADGROUP GROUP block c BLOCK 50 NOACK STREAMS s >",
            ),
        ] {
            assert_eq!(again(line, CallTimeout::Millis(50)), expected);
        }
        assert_eq!(again("BZPOPMIN z 3", CallTimeout::Endless), "BZPOPMIN z 0");
        // Redis 6.2 takes 0.001 for 0.
        assert_eq!(again("BLPOP k 3", CallTimeout::Millis(1)), "BLPOP k 0.002");
        assert_eq!(
            again("XREAD BLOCK 9 STREAMS s 0-1", CallTimeout::Millis(1)),
            "XREAD BLOCK 1 STREAMS s 0-1"
        );
        let mut out = Vec::new();
        let keys = [LineKey::from(&b"x"[..]), LineKey::from(&b"y"[..])];
        call("BRPOP k 3")
            .unwrap()
            .push_over(&mut out, &keys, CallTimeout::Endless);
        assert_eq!(out, encode_request(&["BRPOP", "x", "y", "0"]));
    }

    #[test]
    fn timeouts_are_what_the_server_makes_of_them() {
        for (line, micros) in [
            ("BLPOP k 0", None),
            ("BLPOP k 0.0", None),
            ("BLPOP k 0.0000001", Some(1000)),
            ("BLPOP k 1.5", Some(1_500_000)),
            ("BLPOP k 00.01", Some(10_000)),
            ("BLPOP k 5.", Some(5_000_000)),
            ("XREAD BLOCK 20 STREAMS s 1", Some(20_000)),
            ("XREAD BLOCK 0 STREAMS s 1", None),
        ] {
            assert_eq!(call(line).unwrap().timeout_micros(), micros, "{line}");
        }
    }

    #[test]
    fn what_only_the_server_can_judge_is_left_to_it() {
        for line in [
            "BLPOP k",
            "BLPOP k -1",
            "BLPOP k inf",
            "BLPOP k nan",
            "BLPOP k 0x10",
            "BLPOP k 1e-3",
            "BLPOP k 1.2.3",
            "BLPOP k 9223372036854776",
            "BLMOVE a b LEFT 0",
            "BLMPOP 0 1 k",
            "XREAD STREAMS s 0",
            "XREAD BLOCK 0001 STREAMS s 0",
            "XREAD BLOCK 1 BLOCK 2 STREAMS s 0",
            "XREAD BLOCK 1 STREAMS s +",
            "XREAD BLOCK 1 STREAMS s",
            "XREAD NOACK BLOCK 1 STREAMS s 0",
            "XREAD BLOCK",
            "WAIT 1 0",
        ] {
            assert!(call(line).is_none(), "{line}");
        }
    }

    #[test]
    fn equal_calls_differ_in_their_timeout_alone() {
        let identity = |line| call(line).unwrap().identity();
        assert_eq!(
            identity("BLMOVE a b LEFT LEFT 1"),
            identity("blmove a b LEFT LEFT 2")
        );
        assert_ne!(
            identity("BLMOVE a b LEFT LEFT 1"),
            identity("BLMOVE a b LEFT RIGHT 1")
        );
        assert_eq!(identity("BLPOP a 1"), identity("blpop b c 0"));
        assert_ne!(identity("BLPOP a 1"), identity("BRPOP a 1"));
        let keys = call("BLPOP q q r 0").unwrap().keys();
        assert_eq!(keys, [LineKey::from(&b"q"[..]), LineKey::from(&b"r"[..])]);
    }

    #[test]
    fn a_call_over_many_keys_stands_by_itself() {
        let keys: Vec<String> = (0..=MAX_MERGED).map(|key| key.to_string()).collect();
        let few = call(&format!("BLPOP {} 0", keys[1..].join(" "))).unwrap();
        assert_eq!(few.shape, CallShape::Pops);
        let line = format!("BLPOP {}", keys.join(" "));
        let many = call(&format!("{line} 0")).unwrap();
        assert_eq!(many.shape, CallShape::Takes);
        assert_eq!(many.keys().len(), 1, "one line, however many keys");
        assert_ne!(many.identity(), call("BLPOP 1 0").unwrap().identity());
        assert_eq!(
            again(&format!("{line} 7"), CallTimeout::Millis(50)),
            format!("{line} 0.050")
        );
        assert_eq!(many.popped(), PoppedElements::Left);
    }

    #[test]
    fn the_keys_a_call_waits_for_are_told_from_its_other_words() {
        for (line, keys, kind) in [
            (
                "XREADGROUP GROUP g STREAMS BLOCK 0 STREAMS a b > >",
                "a b",
                "stream",
            ),
            ("XREAD COUNT 1 BLOCK 9 STREAMS a 0", "a", "stream"),
            ("BLMOVE a b LEFT RIGHT 0", "a", "list"),
            ("BRPOPLPUSH a b 0", "a", "list"),
            ("BLMPOP 0 2 a b LEFT COUNT 3", "a b", "list"),
            ("BZMPOP 0 1 a MIN", "a", "zset"),
            ("BZMPOP 0 9 a MIN", "", "zset"),
            ("BLPOP a b 0", "a b", "list"),
            ("BZPOPMAX a 0", "a", "zset"),
        ] {
            let call = call(line).unwrap();
            let words = keys.split(' ').filter(|key| !key.is_empty());
            let keys: Vec<&[u8]> = words.map(str::as_bytes).collect();
            assert_eq!(call.awaited(), keys, "{line}");
            assert_eq!(call.kind(), format!("+{kind}\r\n").as_bytes());
        }
    }

    #[test]
    fn the_last_entries_of_streams_are_asked_for_once() {
        let mut call = call("XREAD BLOCK 5 STREAMS a b c $ 7 $").unwrap();
        assert!(call.is_relative());
        let (requests, count) = call.last_entries();
        assert_eq!(count, 2);
        let expected = [["XINFO", "STREAM", "a"], ["XINFO", "STREAM", "c"]];
        assert_eq!(
            requests,
            expected
                .iter()
                .flat_map(|words| encode_request(words))
                .collect::<Vec<_>>()
        );
        call.resolve(vec![Some(b"5-1".to_vec()), None]);
        assert!(call.is_relative(), "one of them is not known");
        call.resolve(vec![Some(b"6-1".to_vec())]);
        assert!(!call.is_relative());
        let mut out = Vec::new();
        call.push(&mut out, CallTimeout::Endless);
        let words = [
            "XREAD", "BLOCK", "0", "STREAMS", "a", "b", "c", "5-1", "7", "6-1",
        ];
        assert_eq!(out, encode_request(&words));
    }
}
