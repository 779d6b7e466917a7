//! A server whose memory is full refuses, up to Redis 7.0, whatever stands inside MULTI, and nothing else that takes something away.

use super::single::{NULL, WaitScript};
use crate::waits::{POLL_MICROS, TryId, WaitAction};

const OOM: &[u8] = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n";

/// Sends the try that is wanted, and tells whether it stands outside MULTI.
fn sent(script: &mut WaitScript) -> (TryId, bool) {
    let Some(WaitAction::Try {
        attempt, is_bare, ..
    }) = script.waits.next_action()
    else {
        panic!("it is tried");
    };
    let sending = script.waits.begin(attempt, script.now);
    let sending = sending.expect("it is wanted");
    assert_eq!(sending.is_transaction(), !is_bare);
    assert_eq!(sending.replies, if is_bare { 1 } else { 3 });
    (attempt, is_bare)
}

/// Refuses a try inside MULTI. Returns the one that is sent outside.
fn refused(script: &mut WaitScript) -> TryId {
    let (attempt, is_bare) = sent(script);
    assert!(!is_bare);
    let replies = [b"+OK\r\n", OOM, b"-EXECABORT Transaction discarded\r\n"].concat();
    script.waits.tried(attempt, &replies, script.now);
    let (attempt, is_bare) = sent(script);
    assert!(is_bare);
    attempt
}

#[test]
fn what_is_there_is_answered() {
    let mut script = WaitScript::default();
    script.arrive("BLPOP a 0");
    let bare = refused(&mut script);
    let element = crate::resp::speak::encode_request(&["a", "1"]);
    script.waits.tried(bare, &element, script.now);
    assert_eq!(script.wants(), ["tell a 1"]);
    assert_eq!(script.waits.waiting(), 0);
}

#[test]
fn who_finds_nothing_waits_and_is_tried_for() {
    let mut script = WaitScript::default();
    script.arrive("BLPOP a 0");
    let bare = refused(&mut script);
    script.waits.tried(bare, NULL, script.now);
    assert_eq!(script.waits.waiting(), 1);
    assert!(matches!(
        script.waits.next_action(),
        Some(WaitAction::Borrow { .. })
    ));
    script.pass(POLL_MICROS);
    let bare = refused(&mut script);
    let element = crate::resp::speak::encode_request(&["a", "1"]);
    script.waits.tried(bare, &element, script.now);
    assert_eq!(script.wants(), ["tell a 1"]);
}

#[test]
fn what_is_wrong_with_its_keys_is_told() {
    let mut script = WaitScript::default();
    script.arrive("BLPOP a 0");
    let bare = refused(&mut script);
    script.waits.tried(bare, b"-WRONGTYPE x\r\n", script.now);
    assert_eq!(script.wants(), ["tell error"]);
}

#[test]
fn a_call_that_takes_memory_is_told_of_it_at_once() {
    for line in ["BLMOVE a b LEFT LEFT 0", "BRPOPLPUSH a b 0"] {
        let mut script = WaitScript::default();
        script.arrive(line);
        let (attempt, _) = sent(&mut script);
        let replies = [b"+OK\r\n", OOM, b"-EXECABORT Transaction discarded\r\n"].concat();
        script.waits.tried(attempt, &replies, script.now);
        assert_eq!(script.wants(), ["tell error"]);
    }
}
