//! What a client may send, judged by a real server: what the scanner lets pass the server takes for a request, and where both see a
//! breach they say the same.

use respool::checked::{
    Bounds, LineSyntax, MAX_LINE, ReplyScanner, Request, RequestScanner, RequestViolation, Scan,
    split_inline,
};

use super::server::Server;

const FRAGMENTS: &[&[u8]] = &[
    b"*1\r\n",
    b"*2\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"$4\r\nPING\r\n",
    b"$1\r\na\r\n",
    b"$0\r\n\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"$-1\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"PING\r\n",
    b"ping 'a b'\n",
    b"\"",
    b"'",
    b"\\x41",
    b"\0",
    b" ",
    b"*1\r\n$4\r\nPINGxx",
    b"*2\r\n$4\r\nPING\r\r$1\r\na\n\n",
    b"*01\r\n",
    b"*+1\r\n",
    b"$536870913\r\n",
    b"*2147483648\r\n",
    b"*1\r\n:1\r\n",
    b"*1\n",
    b"$4\n",
    b"*1\r\n$4\r\nquit\r\n",
    b"POST / HTTP/1.1\r\n",
    b"Host: a\r\n",
    LONG,
];

/// Whether another breach may be told instead: of two line ends, by how strictly they are looked at; of a line that is too long, by how
/// much of it has come.
fn is_open(text: &[u8]) -> bool {
    contains(text, b"invalid CRLF") || contains(text, b"too big")
}

const LONG: &[u8] = &[b'7'; 30_000];

/// How much a server reads at a time.
const READ: usize = 16 * 1024;

/// What is due for one thing that a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Judged {
    /// One reply.
    Request,
    /// One reply, and then the end of the connection.
    Quit,
    /// No reply.
    Nothing,
    /// The end of the connection, without a reply.
    End,
    /// This error, and then the end of the connection.
    Violation(Vec<u8>),
}

/// How the scanner and the server compared.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Requests that both took.
    pub(crate) requests: usize,
    /// Breaches that both saw.
    pub(crate) violations: usize,
    /// Breaches that only the scanner saw.
    pub(crate) stricter: usize,
}

/// Holds for any bytes.
pub(crate) fn check(server: &Server, data: &[u8]) -> Seen {
    let bytes = super::assemble(data, FRAGMENTS);
    let judged = judge(&bytes, READ);
    // What is told of a line that is too long depends on how much of it has come.
    if bytes.len() <= MAX_LINE {
        for piece in [1, 2, 3, 7, 5000] {
            // Every byte of a long line by itself takes long.
            if bytes.len() / piece < 2_000 {
                let shown = bytes.escape_ascii();
                assert_eq!(
                    judge(&bytes, piece),
                    judged,
                    "in pieces of {piece}: {shown}"
                );
            }
        }
    }
    compare(&bytes, &judged, &replies(&server.answer(&bytes)))
}

/// What the scanner makes of bytes that arrive in pieces of a length.
fn judge(bytes: &[u8], piece: usize) -> Vec<Judged> {
    let bounds = Bounds::new(512 * 1024 * 1024);
    let (mut scanner, mut from, mut arrived) = (RequestScanner::default(), 0, 0);
    let mut found = Vec::new();
    while arrived < bytes.len() {
        arrived = (arrived + piece).min(bytes.len());
        while from < arrived {
            let shown = &bytes[from..arrived];
            let (judged, length) = match scanner.scan(shown, &bounds) {
                Scan::Incomplete => break,
                Scan::Violation(violation) => (Judged::Violation(violation.reply()), 0),
                Scan::Nothing { length } => (Judged::Nothing, length),
                Scan::Request { length } => {
                    let name = Request::new(&shown[..length]).argument(0);
                    (of_name(name.unwrap_or_default()), length)
                }
                Scan::Inline { text, length } => {
                    match split_inline(&shown[text], LineSyntax::Redis) {
                        Err(_) => (
                            Judged::Violation(RequestViolation::UnbalancedQuotes.reply()),
                            0,
                        ),
                        Ok(words) => match words.first() {
                            None => (Judged::Nothing, length),
                            Some(name) => (of_name(name), length),
                        },
                    }
                }
            };
            assert!(length <= shown.len(), "{length} of {} bytes", shown.len());
            let ends = matches!(judged, Judged::Violation(_) | Judged::Quit | Judged::End);
            assert!(ends || length > 0, "a request without a byte");
            found.push(judged);
            if ends {
                return found;
            }
            from += length;
        }
    }
    found
}

fn of_name(name: &[u8]) -> Judged {
    if name.eq_ignore_ascii_case(b"quit") {
        Judged::Quit
    } else if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
        Judged::End
    } else {
        Judged::Request
    }
}

/// The frames of a server's answer.
fn replies(mut answer: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while !answer.is_empty() {
        let step = ReplyScanner::default().advance(answer);
        let step = step.unwrap_or_else(|e| panic!("{e:?} of a real server: {answer:?}"));
        assert!(step.complete, "half a frame of a real server: {answer:?}");
        let (frame, rest) = answer.split_at(step.used);
        frames.push(frame);
        answer = rest;
    }
    frames
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

fn compare(bytes: &[u8], judged: &[Judged], replies: &[&[u8]]) -> Seen {
    let mut seen = Seen::default();
    let mut replies = replies.iter();
    let is_breach = |reply: &&&[u8]| reply.starts_with(b"-ERR Protocol error");
    // A server that takes somebody for a browser ends the connection without what it had still to answer; it may do so behind
    // what the scanner does not let pass.
    let lower = bytes.to_ascii_lowercase();
    let is_browser = [&b"post"[..], b"host:"]
        .iter()
        .any(|word| contains(&lower, word));
    let shown = bytes.escape_ascii();
    for one in judged {
        match one {
            Judged::Nothing => {}
            Judged::Request | Judged::Quit => {
                let reply = replies.next();
                if reply.is_none() && is_browser {
                    return seen;
                }
                let is_reply = reply.is_some_and(|reply| !is_breach(&reply));
                assert!(is_reply, "{one:?}, and the server: {reply:?}, of {shown}");
                seen.requests += 1;
            }
            // Redis 6.2 asks first whether the command is permitted.
            Judged::End => return seen,
            Judged::Violation(text) => {
                match replies.next() {
                    Some(reply) if *reply == &text[..] => seen.violations += 1,
                    Some(reply) if is_breach(&reply) && !(is_open(reply) || is_open(text)) => {
                        let texts = [reply.escape_ascii(), text.escape_ascii()];
                        panic!("{} of the server, {} here, of {shown}", texts[0], texts[1]);
                    }
                    // It takes line ends on trust, and goes on; or has not read far enough to see another breach.
                    _ => seen.stricter += 1,
                }
                return seen;
            }
        }
    }
    let more = replies.next();
    assert!(
        more.is_none(),
        "{judged:?}, and the server also: {more:?}, of {bytes:?}"
    );
    seen
}
