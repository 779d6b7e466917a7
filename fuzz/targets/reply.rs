//! What a server may send: frames end at the same bytes however they arrive, and where another parser says that they end.

use redis_protocol::resp2::decode::decode as decode_resp2;
use redis_protocol::resp3::decode::complete::decode as decode_resp3;
use respool::checked::{ReplyScanner, ScanProgress};

const FRAGMENTS: &[&[u8]] = &[
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":-12\r\n",
    b"$-1\r\n",
    b"$0\r\n\r\n",
    b"$5\r\nhello\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*2\r\n",
    b"*1\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",3.14\r\n",
    b"(12345678901234567890\r\n",
    b"=8\r\ntxt:text\r\n",
    b"!5\r\nERR x\r\n",
    b"~2\r\n",
    b"%1\r\n",
    b"|1\r\n",
    b">3\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b"+a\nb\r\n",
    b"-a\rb\r\n",
    b"$9223372036854775807\r\n",
    b"*4294967296\r\n",
    b"%-1\r\n",
    b"00000000000000000000000000000000000",
];

/// The longest first line of a bulk string or an aggregate, which waits until it has come whole.
const LONGEST_HEADER: usize = 32;

/// What the scanner made of a stream: where frames end, and whether what follows is no RESP.
#[derive(Debug, Default, PartialEq, Eq)]
struct Frames {
    ends: Vec<usize>,
    malformed: bool,
}

/// Holds for any bytes.
pub(crate) fn check(data: &[u8]) {
    let bytes = super::assemble(data, FRAGMENTS);
    let whole = frames(&bytes, bytes.len().max(1));
    for piece in 1..=7 {
        assert_eq!(
            frames(&bytes, piece),
            whole,
            "in pieces of {piece}: {bytes:?}"
        );
    }
    let mut start = 0;
    for &end in &whole.ends {
        agree(&bytes[start..], end - start);
        start = end;
    }
}

/// Scans what arrives in pieces of a length, as the data path does: what was not used is shown again with what follows.
fn frames(bytes: &[u8], piece: usize) -> Frames {
    let (mut scanner, mut from, mut arrived) = (ReplyScanner::default(), 0, 0);
    let mut found = Frames::default();
    while arrived < bytes.len() {
        arrived = (arrived + piece).min(bytes.len());
        while from < arrived {
            let shown = &bytes[from..arrived];
            let Ok(ScanProgress { used, complete }) = scanner.advance(shown) else {
                found.malformed = true;
                return found;
            };
            assert!(used <= shown.len(), "{used} of {} bytes used", shown.len());
            from += used;
            if !complete {
                let kept = arrived - from;
                assert!(kept <= LONGEST_HEADER, "{kept} bytes kept: {bytes:?}");
                break;
            }
            assert!(used > 0, "a frame without a byte");
            assert!(scanner.at_boundary());
            found.ends.push(from);
        }
    }
    found
}

/// A frame that both parsers understand ends where both say. The others end a line at the first CR, and a bulk string without a look
/// at what stands behind it: where a CR or an LF stands alone they do not judge; nor what an invalidation is inside of a frame.
fn agree(bytes: &[u8], length: usize) {
    let stands_alone = |pair: &[u8]| (pair[0] == b'\r') != (pair[1] == b'\n');
    let invalidation = b"\n>2\r\n";
    let holds_one =
        || (bytes[..length].windows(invalidation.len())).any(|part| part == invalidation);
    if bytes[..length].windows(2).any(stands_alone) || holds_one() {
        return;
    }
    if let Ok(Some((_, used))) = decode_resp2(bytes) {
        assert_eq!(used, length, "RESP2: {bytes:?}");
    }
    if let Ok(Some((_, used))) = decode_resp3(bytes) {
        assert_eq!(used, length, "RESP3: {bytes:?}");
    }
}
