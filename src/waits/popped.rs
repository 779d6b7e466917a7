//! Knows what a blocking call takes away, and how it is put back when the client it was taken for has left.

use redis_protocol::resp3::decode::complete::decode;
use redis_protocol::resp3::types::OwnedFrame;

use crate::resp::speak::encode_request;

/// Says what the reply to a blocking call has taken from a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoppedElements {
    /// It took one element from the left end: BLPOP answers `[key, element]`.
    Left,
    /// It took one from the right end, as BRPOP does.
    Right,
    /// It took several from the left end, in the order they left: BLMPOP answers `[key, [element...]]`.
    ManyLeft,
    /// It took several from the right end.
    ManyRight,
    /// It took a member of a sorted set: BZPOPMIN and BZPOPMAX answer `[key, member, score]`.
    Member,
    /// It took several of them: BZMPOP answers `[key, [[member, score]...]]`.
    Members,
    /// It took something that cannot be put back: it has been moved, or stays pending at the server.
    Elsewhere,
    /// It took nothing, as XREAD and WAIT do.
    Nothing,
}

/// Says what is to be done with a reply nobody is there for.
#[derive(Debug, PartialEq, Eq)]
pub enum PoppedFate {
    /// The call has taken nothing.
    Nothing,
    /// An element was taken that cannot be put back.
    Orphaned,
    /// This request puts back what was taken: this number of elements.
    Return(Vec<u8>, u64),
}

impl PoppedElements {
    /// Reads what the blocking call with these arguments takes.
    pub fn by<'a>(mut arguments: impl Iterator<Item = &'a [u8]>) -> Self {
        let name = arguments.next().unwrap_or_default().to_ascii_lowercase();
        match name.as_slice() {
            b"blpop" => Self::Left,
            b"brpop" => Self::Right,
            b"bzpopmin" | b"bzpopmax" => Self::Member,
            b"bzmpop" => Self::Members,
            // BLMPOP timeout numkeys key... LEFT|RIGHT [COUNT n]; keys may be named like the option.
            b"blmpop" => {
                let rest: Vec<&[u8]> = arguments.collect();
                let keys = rest
                    .get(1)
                    .and_then(|text| std::str::from_utf8(text).ok()?.parse::<usize>().ok());
                let end = keys.and_then(|keys| rest.get(keys.saturating_add(2)));
                match end {
                    Some(end) if end.eq_ignore_ascii_case(b"left") => Self::ManyLeft,
                    Some(end) if end.eq_ignore_ascii_case(b"right") => Self::ManyRight,
                    _ => Self::Elsewhere,
                }
            }
            b"blmove" | b"brpoplpush" | b"xreadgroup" => Self::Elsewhere,
            _ => Self::Nothing,
        }
    }

    /// Returns the same where it cannot be put back, whatever it is.
    pub fn for_good(self) -> Self {
        match self {
            Self::Nothing => Self::Nothing,
            _ => Self::Elsewhere,
        }
    }

    /// Returns what becomes of `reply`, for which the client is not there any more.
    pub fn give_back(self, reply: &[u8]) -> PoppedFate {
        // RESP2's two nulls are no RESP3 frames.
        if self == Self::Nothing
            || reply.is_empty()
            || reply.starts_with(b"*-1")
            || reply.starts_with(b"$-1")
        {
            return PoppedFate::Nothing;
        }
        let Ok(Some((frame, _))) = decode(reply) else {
            return PoppedFate::Orphaned;
        };
        if matches!(
            frame,
            OwnedFrame::Null
                | OwnedFrame::SimpleString { .. }
                | OwnedFrame::SimpleError { .. }
                | OwnedFrame::BlobError { .. }
        ) {
            return PoppedFate::Nothing;
        }
        match self.returning(&frame) {
            Some((words, elements)) => PoppedFate::Return(encode_request(&words), elements),
            None => PoppedFate::Orphaned,
        }
    }

    /// Returns what puts back the elements of several replies, given in the order they were popped: one request for each key,
    /// so that they end up in that order again.
    pub(super) fn give_back_all(self, replies: &[Box<[u8]>]) -> Vec<PoppedFate> {
        let mut fates = Vec::new();
        let mut requests: Vec<(Vec<Vec<u8>>, u64)> = Vec::new();
        for reply in replies.iter().rev() {
            let frame = decode(reply).ok().flatten();
            match frame.and_then(|(frame, _)| self.returning(&frame)) {
                None => fates.push(PoppedFate::Orphaned),
                Some((words, elements)) => {
                    let same = requests.iter_mut().find(|(known, _)| known[1] == words[1]);
                    match same {
                        Some((known, count)) => {
                            known.extend(words.into_iter().skip(self.head_words()));
                            *count += elements;
                        }
                        None => requests.push((words, elements)),
                    }
                }
            }
        }
        let returns = requests.into_iter();
        fates.extend(
            returns.map(|(words, count)| PoppedFate::Return(encode_request(&words), count)),
        );
        fates
    }

    /// Returns how many words stand before the first element of a request that puts elements back.
    fn head_words(self) -> usize {
        match self {
            // ZADD key NX.
            Self::Member | Self::Members => 3,
            _ => 2,
        }
    }

    /// Returns the words of the request that puts an element back, the name, the key and the rest, and how many elements it
    /// holds.
    fn returning(self, frame: &OwnedFrame) -> Option<(Vec<Vec<u8>>, u64)> {
        let parts = elements(frame)?;
        let key = text(parts.first()?)?;
        let (request, count): (Vec<Vec<u8>>, usize) = match self {
            Self::Left => (vec![b"LPUSH".into(), key, text(parts.get(1)?)?], 1),
            Self::Right => (vec![b"RPUSH".into(), key, text(parts.get(1)?)?], 1),
            Self::ManyLeft | Self::ManyRight => {
                let name = if self == Self::ManyLeft {
                    "LPUSH"
                } else {
                    "RPUSH"
                };
                let popped = elements(parts.get(1)?)?;
                let mut request = vec![name.into(), key];
                // Pushed in the opposite order, the first popped ends up at the end it came from.
                for element in popped.iter().rev() {
                    request.push(text(element)?);
                }
                (request, popped.len())
            }
            Self::Member => (
                vec![
                    b"ZADD".into(),
                    key,
                    // Added again meanwhile, it keeps its new score.
                    b"NX".into(),
                    text(parts.get(2)?)?,
                    text(parts.get(1)?)?,
                ],
                1,
            ),
            Self::Members => {
                let popped = elements(parts.get(1)?)?;
                let mut request = vec![b"ZADD".to_vec(), key, b"NX".to_vec()];
                for pair in popped {
                    let [member, score] = elements(pair)? else {
                        return None;
                    };
                    request.push(text(score)?);
                    request.push(text(member)?);
                }
                (request, popped.len())
            }
            Self::Elsewhere | Self::Nothing => return None,
        };
        Some((request, count as u64))
    }
}

fn elements(frame: &OwnedFrame) -> Option<&[OwnedFrame]> {
    match frame {
        OwnedFrame::Array { data, .. } => Some(data),
        _ => None,
    }
}

fn text(frame: &OwnedFrame) -> Option<Vec<u8>> {
    match frame {
        OwnedFrame::BlobString { data, .. } | OwnedFrame::SimpleString { data, .. } => {
            Some(data.clone())
        }
        OwnedFrame::Double { data, .. } => Some(data.to_string().into_bytes()),
        OwnedFrame::Number { data, .. } => Some(data.to_string().into_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn popped(request: &str) -> PoppedElements {
        PoppedElements::by(request.split(' ').map(str::as_bytes))
    }

    fn returned(popped: PoppedElements, reply: &str) -> String {
        match popped.give_back(reply.as_bytes()) {
            PoppedFate::Return(request, count) => {
                let request = String::from_utf8(request).unwrap();
                let words: Vec<_> = request
                    .split("\r\n")
                    .filter(|word| !word.starts_with(['*', '$']))
                    .collect();
                format!("{}{count}", words.join(" "))
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_put_back_is_counted_as_orphaned() {
        let reply = b"*2\r\n$1\r\nk\r\n$1\r\nv\r\n";
        for call in ["BLPOP", "BZPOPMIN", "BLMOVE"] {
            let popped = PoppedElements::by([call.as_bytes()].into_iter()).for_good();
            assert_eq!(popped.give_back(reply), PoppedFate::Orphaned, "{call}");
            assert_eq!(popped.give_back(b"*-1\r\n"), PoppedFate::Nothing);
        }
        let nothing = PoppedElements::by([&b"XREAD"[..]].into_iter()).for_good();
        assert_eq!(nothing.give_back(reply), PoppedFate::Nothing);
    }

    #[test]
    fn elements_go_back_to_the_end_they_came_from() {
        let pair = "*2\r\n$1\r\nk\r\n$1\r\nv\r\n";
        assert_eq!(returned(popped("BLPOP k 0"), pair), "LPUSH k v 1");
        assert_eq!(returned(popped("brpop k 0"), pair), "RPUSH k v 1");
        let many = "*2\r\n$1\r\nk\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n";
        assert_eq!(
            returned(popped("BLMPOP 0 1 left LEFT COUNT 2"), many),
            "LPUSH k b a 2"
        );
        assert_eq!(
            returned(popped("BLMPOP 0 2 x k RIGHT"), many),
            "RPUSH k b a 2"
        );
        assert_eq!(
            returned(
                popped("BZPOPMIN k 0"),
                "*3\r\n$1\r\nk\r\n$1\r\nm\r\n$3\r\n1.5\r\n"
            ),
            "ZADD k NX 1.5 m 1"
        );
        assert_eq!(
            returned(
                popped("BZPOPMAX k 0"),
                "*3\r\n$1\r\nk\r\n$1\r\nm\r\n,1.5\r\n"
            ),
            "ZADD k NX 1.5 m 1"
        );
        let members = "*2\r\n$1\r\nk\r\n*2\r\n*2\r\n$1\r\na\r\n,1\r\n*2\r\n$1\r\nb\r\n,2\r\n";
        assert_eq!(
            returned(popped("BZMPOP 0 1 k MIN"), members),
            "ZADD k NX 1 a 2 b 2"
        );
    }

    #[test]
    fn elements_of_several_replies_go_back_in_their_order() {
        let reply = |key: &str, element: &str| encode_request(&[key, element]).into();
        let replies = [reply("k", "a"), reply("l", "x"), reply("k", "b")];
        let fates = popped("BLPOP k l 0").give_back_all(&replies);
        let expected = [
            PoppedFate::Return(encode_request(&["LPUSH", "k", "b", "a"]), 2),
            PoppedFate::Return(encode_request(&["LPUSH", "l", "x"]), 1),
        ];
        assert_eq!(fates, expected);
        let member = |member: &str| encode_request(&["z", member, "1"]).into();
        let fates = popped("BZPOPMIN z 0").give_back_all(&[member("a"), member("b")]);
        let expected = encode_request(&["ZADD", "z", "NX", "1", "b", "1", "a"]);
        assert_eq!(fates, [PoppedFate::Return(expected, 2)]);
        let fates = popped("BLMOVE a b LEFT LEFT 0").give_back_all(&replies[..1]);
        assert_eq!(fates, [PoppedFate::Orphaned]);
    }

    #[test]
    fn nothing_taken_is_nothing_to_return() {
        for reply in [
            "*-1\r\n",
            "$-1\r\n",
            "_\r\n",
            "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n",
        ] {
            assert_eq!(
                popped("BLPOP k 0").give_back(reply.as_bytes()),
                PoppedFate::Nothing,
                "{reply}"
            );
            assert_eq!(
                popped("BLMOVE a b LEFT LEFT 0").give_back(reply.as_bytes()),
                PoppedFate::Nothing,
                "{reply}"
            );
        }
        assert_eq!(
            popped("BLMOVE a b LEFT LEFT 0").give_back(b"$1\r\nv\r\n"),
            PoppedFate::Orphaned
        );
        assert_eq!(
            popped("XREAD BLOCK 0 STREAMS s $").give_back(b"*1\r\n+x\r\n"),
            PoppedFate::Nothing
        );
    }
}
