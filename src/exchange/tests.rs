//! What is told by bytes of the server, cut anywhere.

use proptest::prelude::*;

use super::fence::{Before, Found};
use super::{Distrust, Fence, MAX_USERS, Offence, ends_transaction};

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
        assert_eq!(fence.judge(&answer[..cut], Before::Error), Found::Answer);
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
            Found::Answer
        } else {
            Found::Surplus
        };
        assert_eq!(fence.judge(bytes, Before::Error), expected, "{bytes:?}");
    }
    assert_eq!(
        fence.judge(b"-NOPERM no\r\n", Before::Answer),
        Found::Refusal
    );
    assert_eq!(fence.judge(b"-NO", Before::Answer), Found::Refusal);
    assert_eq!(fence.judge(b"-ERR no\r\n", Before::Answer), Found::Surplus);
    // A script runs past its time, or another has written so: a proof tells.
    for before in [Before::Error, Before::Answer] {
        assert_eq!(fence.judge(b"-BUSY Redis\r\n", before), Found::Busy);
    }
}

#[test]
fn users_are_remembered_up_to_a_bound_and_then_all_are() {
    let mut distrust = Distrust::default();
    assert!(distrust.note(Some(b"u"), Offence::OpenTransaction));
    assert!(!distrust.note(Some(b"u"), Offence::OpenTransaction));
    assert!(distrust.covers(Some(b"u"), Offence::OpenTransaction));
    assert!(!distrust.covers(Some(b"u"), Offence::Surplus));
    assert!(!distrust.covers(None, Offence::OpenTransaction));
    for number in 0..2 * MAX_USERS {
        distrust.note(Some(number.to_string().as_bytes()), Offence::Surplus);
    }
    assert!(distrust.covers(None, Offence::OpenTransaction));
}

proptest! {
    #[test]
    fn no_text_that_was_written_before_the_number_was_drawn_passes(
        number: u64,
        text in prop::collection::vec(any::<u8>(), 1..64),
    ) {
        let is_answer = Fence::new(number).judge(&text, Before::Error) == Found::Answer;
        let expected = format!("$16\r\n{:016x}\r\n", number);
        prop_assert_eq!(is_answer, expected.as_bytes().starts_with(&text));
    }
}
