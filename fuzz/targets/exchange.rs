//! Who is due what a server sends: a reply in whose text somebody else's client has written frames hands nobody else any of them.

use respool::exchange::{Before, Fence, Found, Proof, Verdict, ends_transaction};
use respool::resp::{Advance, ReplyScanner};

const FRAGMENTS: &[&[u8]] = &[
    b"-ERR ",
    b"-EXECABORT ",
    b"-ERR EXEC without MULTI\r\n",
    b"-NOPERM ",
    b"-BUSY \r\n",
    b"-ERR unknown command 'respool-",
    b"+QUEUED\r\n",
    b"+OK\r\n",
    b"*-1\r\n",
    b"*1\r\n",
    b"_\r\n",
    b"$8\r\nINJECTED\r\n",
    b"$16\r\n",
    b"$16\r\n0000000000001234\r\n",
    b"0000000000001234",
    b"\r\n",
    b"\r",
    b"\n",
    b":1\r\n",
];

/// The fence's number, which a client cannot know.
const NUMBER: u64 = 0x5eed_0000_c0de_1234;

/// Holds for any bytes.
pub(crate) fn check(data: &[u8]) {
    let bytes = super::assemble(data, FRAGMENTS);
    an_end_is_told_once(&bytes);
    nothing_but_its_number_answers_a_fence(&bytes);
    a_proof_counts_frames(&bytes);
}

/// What is told by the first bytes of an answer to EXEC, more of them do not change; its first line always tells.
fn an_end_is_told_once(bytes: &[u8]) {
    let mut told = None;
    for end in 0..=bytes.len().min(64) {
        let now = ends_transaction(&bytes[..end]);
        assert!(
            told.is_none() || now == told,
            "{}",
            bytes[..end].escape_ascii()
        );
        told = now;
    }
    let line = bytes.windows(2).position(|pair| pair == b"\r\n");
    if line.is_some_and(|line| line < 62) {
        assert!(told.is_some(), "{}", bytes.escape_ascii());
    }
}

/// A server writes these bytes as the reply to one request, and behind them the answer to the fence. If they are one frame, the
/// fence is answered; if they are more, the second is no answer to it, and nobody is given any of them.
fn nothing_but_its_number_answers_a_fence(reply: &[u8]) {
    let fence = Fence::new(NUMBER);
    let answer = format!("$16\r\n{NUMBER:016x}\r\n");
    let sent = [reply, answer.as_bytes()].concat();
    let Ok(Advance {
        used,
        complete: true,
    }) = ReplyScanner::default().advance(&sent)
    else {
        // Not RESP, or no end of it: the connection ends, or is found silent.
        return;
    };
    let before = Before::of(&sent);
    let behind = &sent[used..];
    for end in 1..=behind.len() {
        let found = fence.judge(&behind[..end], before);
        let expected = answer.as_bytes().starts_with(&behind[..end]);
        assert_eq!(found == Found::Answer, expected, "{}", sent.escape_ascii());
        if before == Before::Error {
            // That the server is busy is believed only when it is proven.
            let is_known = found != Found::Refusal;
            assert!(is_known, "{}", sent.escape_ascii());
        }
    }
    if used == reply.len() {
        assert_eq!(fence.judge(behind, before), Found::Answer);
    } else if used < reply.len() && behind.len() >= answer.len() {
        assert!(fence.judge(behind, before) != Found::Answer);
    }
}

/// Whatever was written before a proof's number was drawn: it is proven exactly when that is as many frames as are due.
fn a_proof_counts_frames(written: &[u8]) {
    let mut scanner = ReplyScanner::default();
    let (mut at, mut frames) = (0, 0);
    while at < written.len() {
        match scanner.advance(&written[at..]) {
            Ok(step) if step.complete => (at, frames) = (at + step.used, frames + 1),
            _ => break,
        }
    }
    let is_whole = at == written.len();
    for due in 0..frames + 2 {
        let mut proof = Proof::new(NUMBER, due);
        let answer = format!("-ERR unknown command 'respool-{NUMBER:016x}'\r\n");
        let mut told = Verdict::Open;
        for piece in [written, answer.as_bytes()].concat().chunks(7) {
            if told == Verdict::Open {
                told = proof.take(piece);
            }
        }
        let expected = is_whole && due == frames;
        assert_eq!(
            told == Verdict::Proven,
            expected,
            "{}",
            written.escape_ascii()
        );
    }
}
