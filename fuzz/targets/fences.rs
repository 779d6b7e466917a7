//! Who is due what a server sends: a reply in whose text somebody else's client has written frames hands nobody else any of them.

use respool::checked::{
    Before, Fence, FenceSearch, FenceVerdict, ReplyScanner, ScanProgress, SearchOutcome,
    ends_transaction,
};

const FRAGMENTS: &[&[u8]] = &[
    b"-ERR ",
    b"-EXECABORT ",
    b"-ERR EXEC without MULTI\r\n",
    b"-NOPERM ",
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

/// The number that comes back even where a fence is refused.
const LAST: u64 = 0x1a57_0000_c0de_5678;

/// Holds for any bytes.
pub(crate) fn check(data: &[u8]) {
    let bytes = super::assemble(data, FRAGMENTS);
    an_end_is_told_once(&bytes);
    // The fuzzer sees what bytes are compared with; a client does not.
    if [NUMBER, LAST]
        .into_iter()
        .any(|number| knows(&bytes, number))
    {
        return;
    }
    nothing_but_its_number_answers_a_fence(&bytes);
    what_a_script_has_written_ends_at_the_number(&bytes);
}

fn knows(bytes: &[u8], number: u64) -> bool {
    let number = format!("{number:016x}");
    let mut words = bytes.windows(number.len());
    words.any(|word| word == number.as_bytes())
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
/// fence is answered; if they are more, the second is no answer to it.
fn nothing_but_its_number_answers_a_fence(reply: &[u8]) {
    let fence = Fence::new(NUMBER);
    let answer = format!("$16\r\n{NUMBER:016x}\r\n");
    let sent = [reply, answer.as_bytes()].concat();
    let Ok(ScanProgress {
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
        let is_answer = answer.as_bytes().starts_with(&behind[..end]);
        match fence.judge(&behind[..end], before) {
            FenceVerdict::Answer(length) => assert_eq!(&behind[..length], answer.as_bytes()),
            FenceVerdict::Start => assert!(is_answer || before == Before::Plain),
            FenceVerdict::Refusal(length) => {
                let is_line = behind[0] == b'-' && behind[..length].ends_with(b"\r\n");
                assert!(
                    is_line && before == Before::Plain,
                    "{}",
                    sent.escape_ascii()
                );
            }
            FenceVerdict::Doubt => assert!(!is_answer, "{}", sent.escape_ascii()),
        }
    }
    if used == reply.len() {
        let found = fence.judge(behind, before);
        assert_eq!(found, FenceVerdict::Answer(answer.len()));
    }
}

/// Whatever it is, the answer to the fence ends it, and what stands behind that is left; where the fence was refused nothing of it
/// is given to anybody.
fn what_a_script_has_written_ends_at_the_number(text: &[u8]) {
    let last = format!("-ERR Syntax error in HELLO option '{LAST:016x}'\r\n");
    let answered = format!("$16\r\n{NUMBER:016x}\r\n{last}");
    let refused = format!("-BUSY a script runs\r\n{last}");
    // Redis ends an error with the name of its script.
    let text = [text, b" script: f\r\n"].concat();
    for (behind, is_answered) in [(&answered, true), (&refused, false)] {
        let sent = [&text, behind.as_bytes()].concat();
        let mut search = FenceSearch::new(Fence::new(NUMBER), Fence::new(LAST), 0);
        let mut at = 0;
        for piece in sent.chunks(11) {
            match search.take(piece, 0) {
                SearchOutcome::Goes => at += piece.len(),
                SearchOutcome::Answered { used } => {
                    assert!(is_answered, "{}", sent.escape_ascii());
                    assert_eq!(&sent[at + used..], last.as_bytes());
                    break;
                }
                SearchOutcome::Lost { .. } => {
                    assert!(!is_answered, "{}", sent.escape_ascii());
                    break;
                }
                SearchOutcome::Refused { .. } => panic!("{}", sent.escape_ascii()),
            }
        }
        assert!(at < sent.len(), "it is told: {}", sent.escape_ascii());
    }
}
