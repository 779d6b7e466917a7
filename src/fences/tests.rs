//! What is told by bytes of the server, cut anywhere.

use proptest::prelude::*;

use super::fence::{Before, FencePosition, FenceVerdict};
use super::{Fence, FenceSearch, SearchOutcome, ends_transaction};

/// What may stand in an array, nested ones and such with attributes among them.
pub(super) const ELEMENTS: [&str; 16] = [
    "+OK\r\n",
    "-ERR a\nb\rc\r\n",
    ":12345678901\r\n",
    "$-1\r\n",
    "*-1\r\n",
    "_\r\n",
    "$0\r\n\r\n",
    "$12\r\n*2\r\n+a\r\n+b\r\n\r\n",
    "*0\r\n",
    "*2\r\n*1\r\n:1\r\n$2\r\nab\r\n",
    "%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n",
    "~1\r\n,3.14\r\n",
    "=8\r\ntxt:text\r\n",
    "|1\r\n+ttl\r\n:3\r\n$2\r\nab\r\n",
    "#t\r\n",
    "(123456789012345678901234567890\r\n",
];

#[test]
fn the_proper_end_of_a_transaction_is_known_however_it_is_cut() {
    for (reply, is_over) in [
        (&b"*2\r\n"[..], true),
        (b"*-1\r\n", true),
        (b"_\r\n", true),
        (
            b"-EXECABORT Transaction discarded because of previous errors.\r\n",
            true,
        ),
        (
            b"-EXECABORT Transaction discarded because of: NOPERM no\r\n",
            true,
        ),
        (b"-ERR EXEC without MULTI\r\n", true),
        (
            b"-ERR unknown command 'EXEC', with args beginning with: \r\n",
            false,
        ),
        (b"-ERR EXEC without MULTIPLE\r\n", false),
        (b"-NOPERM no\r\n", false),
        (b"-BUSY x\r\n", false),
        (b"-EXECABORTED\r\n", false),
        (b"+QUEUED\r\n", false),
        (b"+OK\r\n", false),
        (b"$-1\r\n", false),
    ] {
        assert_eq!(ends_transaction(reply), Some(is_over), "{reply:?}");
        for cut in 0..reply.len() {
            let told = ends_transaction(&reply[..cut]);
            assert!(
                told.is_none_or(|told| told == is_over),
                "{reply:?} cut at {cut}"
            );
        }
    }
}

#[test]
fn a_fence_is_answered_by_its_own_number_alone() {
    let fence = Fence::new(0x1234);
    let answer = b"$16\r\n0000000000001234\r\n";
    for cut in 1..=answer.len() {
        let expected = match cut == answer.len() {
            true => FenceVerdict::Answer(cut),
            false => FenceVerdict::Start,
        };
        assert_eq!(fence.judge(&answer[..cut], Before::Text), expected);
    }
    for bytes in [
        &b"$16\r\n0000000000001235\r\n"[..],
        b"$8\r\nINJECTED\r\n",
        b"$1",
        b"$100\r\n",
        b"+",
        b"-NOPERM no\r\n",
        b":1\r\n",
    ] {
        let is_start = b"$1".starts_with(bytes);
        let expected = if is_start {
            FenceVerdict::Start
        } else {
            FenceVerdict::Doubt
        };
        assert_eq!(fence.judge(bytes, Before::Text), expected, "{bytes:?}");
    }
    assert_eq!(
        fence.judge(answer, Before::Text),
        FenceVerdict::Answer(answer.len())
    );
    // Behind a reply that cannot have written it a line of the server's is what it seems.
    let refusal = b"-NOPERM no\r\n";
    assert_eq!(
        fence.judge(refusal, Before::Plain),
        FenceVerdict::Refusal(refusal.len())
    );
    assert_eq!(fence.judge(b"-NO", Before::Plain), FenceVerdict::Start);
    assert_eq!(fence.judge(refusal, Before::Text), FenceVerdict::Doubt);
    assert_eq!(fence.judge(b"+OK\r\n", Before::Plain), FenceVerdict::Doubt);
}

/// What a search comes to that is given `bytes` in pieces of `piece`, and how many of them it leaves.
fn search(bytes: &[u8], piece: usize, due: usize) -> (SearchOutcome, usize) {
    let mut search = FenceSearch::new(Fence::new(1), Fence::new(2), 0);
    let mut at = 0;
    for piece in bytes.chunks(piece) {
        let searched = search.take(piece, due);
        match searched {
            SearchOutcome::Goes => at += piece.len(),
            SearchOutcome::Answered { used } | SearchOutcome::Refused { used, .. } => {
                return (searched, bytes.len() - at - used);
            }
            SearchOutcome::Lost { .. } => return (searched, 0),
        }
    }
    (SearchOutcome::Goes, 0)
}

const ANSWER: &[u8] = b"$16\r\n0000000000000001\r\n";
const LAST: &[u8] = b"-ERR Syntax error in HELLO option '0000000000000002'\r\n";
const BUSY: &[u8] = b"-BUSY Redis is busy running a script.\r\n";

#[test]
fn replies_are_told_from_a_refusal_of_the_fence_where_nothing_else_was_written() {
    let two = [BUSY, BUSY].concat();
    for (bytes, due, is_refused) in [
        ([BUSY, &two, LAST].concat(), 2, true),
        ([BUSY, LAST].concat(), 0, true),
        ([BUSY, b"+OK\r\n:1\r\n", LAST].concat(), 2, true),
        ([BUSY, b"$1\r\nx\r\n*1\r\n:1\r\n", LAST].concat(), 2, true),
        // More than is due, less, what has swallowed the refusal and a reply, and nothing.
        ([BUSY, &two, LAST].concat(), 1, false),
        ([BUSY, &two, LAST].concat(), 3, false),
        (
            [BUSY, b"$20\r\n script\r\n-BUSY x\r\n:1\r\n", LAST].concat(),
            1,
            false,
        ),
        (
            [BUSY, b"*3\r\n+ script\r\n-BUSY x\r\n:1\r\n", LAST].concat(),
            1,
            false,
        ),
        ([BUSY, b"$400\r\n", LAST].concat(), 1, false),
        ([&b"+OK\r\n"[..], LAST].concat(), 0, false),
        (LAST.to_vec(), 0, false),
    ] {
        for piece in [1, 7, bytes.len()] {
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            let (searched, left) = search(&[&bytes, &b"+next\r\n"[..]].concat(), piece, due);
            let is_known = matches!(searched, SearchOutcome::Refused { .. });
            assert_eq!(is_known, is_refused, "{shown} {due}");
            if let SearchOutcome::Refused {
                refusal, replies, ..
            } = searched
            {
                assert_eq!(refusal, BUSY);
                assert_eq!(replies, bytes[BUSY.len()..]);
                assert_eq!(left, b"+next\r\n".len());
            }
        }
    }
    let forbidden = [&b"-NOPERM no\r\n"[..], BUSY, BUSY, LAST].concat();
    assert_eq!(
        search(&forbidden, 9, 1).0,
        SearchOutcome::Lost { may_not: true }
    );
}

#[test]
fn a_search_keeps_little_of_what_goes_on_for_long() {
    let mut search = FenceSearch::new(Fence::new(1), Fence::new(2), 0);
    let piece = vec![b'x'; 10_000];
    for _ in 0..1000 {
        assert_eq!(search.take(&piece, 0), SearchOutcome::Goes);
        assert!(search.held_bytes() <= 200_000);
    }
    assert_eq!(
        search.take(ANSWER, 0),
        SearchOutcome::Answered { used: ANSWER.len() }
    );
}

#[test]
fn a_search_keeps_the_refusals_of_everything_that_is_due() {
    for count in [1, 1000, 20_000] {
        let bytes = [&BUSY.repeat(1 + count), LAST].concat();
        let (searched, _) = search(&bytes, 16 * 1024, count);
        let is_known = matches!(searched, SearchOutcome::Refused { .. });
        assert!(is_known, "{count} replies are due");
    }
}

proptest! {
    #[test]
    fn no_text_that_was_written_before_the_number_was_drawn_passes(
        number: u64,
        text in prop::collection::vec(any::<u8>(), 1..64),
    ) {
        let expected = format!("$16\r\n{number:016x}\r\n");
        match Fence::new(number).judge(&text, Before::Text) {
            FenceVerdict::Answer(length) => prop_assert_eq!(&text[..length], expected.as_bytes()),
            FenceVerdict::Start => prop_assert!(expected.as_bytes().starts_with(&text)),
            FenceVerdict::Doubt => prop_assert!(!expected.as_bytes().starts_with(&text)),
            FenceVerdict::Refusal(_) => prop_assert!(false, "behind an error nothing is taken for one"),
        }
    }

    #[test]
    fn whatever_a_script_writes_ends_at_the_answer_to_its_fence(
        text in prop::collection::vec(any::<u8>(), 1..300),
        piece in 1usize..40,
        due in 0usize..3,
    ) {
        // Redis ends it so.
        let text = [&text, &b" script: f, on @user_script:1.\r\n"[..]].concat();
        let answered = [&text, ANSWER, LAST].concat();
        let (searched, left) = search(&answered, piece, due);
        let is_answered = matches!(searched, SearchOutcome::Answered { .. });
        prop_assert!(is_answered, "{searched:?}");
        prop_assert_eq!(left, LAST.len());
        // Nothing is given out where it was refused.
        let refused = [&text, BUSY, &BUSY.repeat(due), LAST].concat();
        let lost = SearchOutcome::Lost { may_not: text.starts_with(b"-NOPERM ") };
        prop_assert_eq!(search(&refused, piece, due).0, lost);
    }
}

/// What of `bytes`, which come in pieces of these sizes, stands before the answer to `fence`, and what is left of them; as a connection
/// reads them, with what may be the answer read again.
fn before_unknown(fence: Fence, bytes: &[u8], pieces: &[usize]) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut pieces = pieces.iter().cycle();
    let (mut passed, mut carry, mut rest) = (Vec::new(), Vec::new(), bytes);
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at((*pieces.next().unwrap()).min(rest.len()));
        rest = behind;
        carry.extend_from_slice(piece);
        let used = match fence.before_unknown(&carry) {
            FencePosition::All => carry.len(),
            FencePosition::MayBegin(used) => used,
            FencePosition::Found(used) => {
                passed.extend_from_slice(&carry[..used]);
                return (passed, Some([&carry[used..], rest].concat()));
            }
        };
        passed.extend(carry.drain(..used));
        assert!(carry.len() <= 520, "no more is held back than a line");
    }
    (passed, None)
}

proptest! {
    #[test]
    fn the_answer_to_an_unknown_command_is_found_behind_any_text(
        text in prop::collection::vec(prop_oneof![
            Just("\r\n".to_owned()),
            Just("\r\n-ERR unknown command 'respool:0000000000001235'\r\n".to_owned()),
            Just("$5000\r\n".to_owned()),
            Just("-".to_owned()),
            "[-a-z\r\n:*$0-9]{0,40}",
            "-[a-z]{500,600}",
        ], 0..8),
        behind in "[-a-z\r\n$0-9]{0,40}",
        wording in 0usize..3,
        pieces in prop::collection::vec(1usize..60, 1..40),
    ) {
        let fence = Fence::new(0x1234);
        let mut text = text.concat().into_bytes();
        if !text.is_empty() {
            // What the server has written ends with a line.
            text.extend_from_slice(b"\r\n");
        }
        let line = [
            "-ERR unknown command 'respool:0000000000001234', with args beginning with: \r\n",
            "-ERR unknown command `respool:0000000000001234`, with args beginning with: \r\n",
            "-ERR Can't execute 'respool:0000000000001234': only QUIT / RESET are allowed in this context\r\n",
        ][wording];
        let bytes = [&text, line.as_bytes(), behind.as_bytes()].concat();
        let (passed, left) = before_unknown(fence, &bytes, &pieces);
        prop_assert_eq!(&passed, &text);
        prop_assert_eq!(left, Some([line, &behind].concat().into_bytes()));
        let without = [text.as_slice(), b"+OK\r\n"].concat();
        prop_assert_eq!(before_unknown(fence, &without, &pieces), (without, None));
    }
}
