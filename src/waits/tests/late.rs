//! Who is not told by an answer that there is nothing when its time has passed, because the server was slow or away.

use super::single::{NULL, WaitScript};
use crate::resp::speak::encode_request;
use crate::waits::{TryFailure, UnblockMode};

const MEMORY: &[u8] = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n";

fn entry() -> Vec<u8> {
    encode_request(&["s", "1-1"])
}

/// Returns how many tries are wanted; nothing else is.
fn tries(wants: &[String]) -> usize {
    assert!(
        wants.iter().all(|want| want.starts_with("try ")),
        "{wants:?}"
    );
    wants.len()
}

/// Has one wait whose time passes while its first try is under way.
fn late(line: &str) -> WaitScript {
    let mut script = WaitScript::default();
    script.arrive(line);
    assert_eq!(script.wants().len(), 1, "{line}");
    script.pass(20_000);
    assert_eq!(script.wants(), [""; 0], "{line}: nothing is known");
    script
}

#[test]
fn what_comes_late_is_told_and_not_null() {
    for line in [
        "XREAD BLOCK 10 STREAMS s 0",
        "XREADGROUP GROUP g c BLOCK 10 STREAMS s 0",
        "XREADGROUP GROUP g c BLOCK 10 STREAMS s >",
        "BLPOP s 0.01",
        "BRPOP s 0.01",
        "BZPOPMIN s 0.01",
        "BZPOPMAX s 0.01",
        "BLMPOP 0.01 1 s LEFT",
        "BZMPOP 0.01 1 s MIN",
        "BLMOVE s t LEFT LEFT 0.01",
        "BRPOPLPUSH s t 0.01",
    ] {
        let mut script = late(line);
        script.tried(&[&entry()]);
        assert_eq!(script.wants(), ["tell s 1-1"], "{line}");
        assert!(script.waits.is_empty());
    }
}

#[test]
fn the_first_empty_answer_ends_who_is_late_at_once() {
    for line in ["XREAD BLOCK 10 STREAMS s 0", "BLPOP s 0.01"] {
        let mut script = late(line);
        script.tried(&[NULL]);
        assert_eq!(script.wants(), ["tell Null"], "{line}");
        assert!(script.waits.is_empty());
    }
}

#[test]
fn an_answer_that_comes_late_and_before_the_clock_is_looked_at_ends_it_too() {
    let mut script = WaitScript::default();
    script.arrive("BLPOP s 0.01");
    script.wants();
    script.now += 20_000;
    script.tried(&[NULL]);
    assert_eq!(script.wants(), ["tell Null"]);
    script.pass(0);
    assert!(script.waits.is_empty());
}

#[test]
fn who_asks_for_what_is_new_is_late_only_once_its_call_was_tried() {
    let mut script = late("XREAD BLOCK 10 STREAMS s $");
    let (attempt, _) = script.tries.remove(0);
    let reply = encode_request(&["last-generated-id", "7-3"]);
    script.waits.tried(attempt, &reply, script.now);
    assert_eq!(script.wants(), ["try XREAD BLOCK 1 STREAMS s 7-3"]);
    script.pass(20_000);
    assert_eq!(script.wants(), [""; 0]);
    script.tried(&[NULL]);
    assert_eq!(script.wants(), ["tell Null"]);
}

#[test]
fn a_late_try_that_was_lost_is_sent_again() {
    let mut script = late("XREAD BLOCK 10 STREAMS s 0");
    for sent in [true, false] {
        let (attempt, _) = script.tries.remove(0);
        let failure = TryFailure::Lost { sent };
        script.waits.failed(attempt, failure, script.now);
        assert_eq!(script.wants(), ["try XREAD BLOCK 1 STREAMS s 0"]);
        script.pass(20_000);
    }
    script.tried(&[&entry()]);
    assert_eq!(script.wants(), ["tell s 1-1"]);
}

#[test]
fn who_is_late_at_a_server_that_stays_away_is_told_so() {
    let mut script = late("BLPOP s 0.01");
    let (attempt, _) = script.tries.remove(0);
    script
        .waits
        .failed(attempt, TryFailure::Unreachable, script.now);
    assert_eq!(script.wants(), ["tell Unreachable"]);
}

#[test]
fn a_late_try_that_the_server_refuses_for_want_of_memory_stands_alone() {
    let mut script = late("BLPOP s 0.01");
    let (attempt, _) = script.tries.remove(0);
    let replies = [b"+OK\r\n", MEMORY, b"-EXECABORT Transaction discarded\r\n"];
    script.waits.tried(attempt, &replies.concat(), script.now);
    assert_eq!(tries(&script.wants()), 1);
    let (attempt, _) = script.tries.remove(0);
    script.pass(20_000);
    assert_eq!(script.wants(), [""; 0]);
    script.waits.tried(attempt, &entry(), script.now);
    assert_eq!(script.wants(), ["tell s 1-1"]);
}

#[test]
fn who_is_held_back_for_the_pops_of_others_is_tried_all_the_same() {
    let mut script = WaitScript::default();
    let first = script.arrive("BLPOP s 0");
    script.wants();
    script.waits.leave(first, script.now);
    script.arrive("BLPOP s 0.01");
    assert_eq!(script.wants(), [""; 0], "one element could come for nobody");
    script.pass(20_000);
    assert_eq!(script.wants(), [""; 0]);
    script.tried(&[NULL]);
    assert_eq!(tries(&script.wants()), 1);
    script.tried(&[&entry()]);
    assert_eq!(script.wants(), ["tell s 1-1"]);
}

#[test]
fn whose_element_went_to_another_asks_again_however_late() {
    let mut script = WaitScript::default();
    script.arrive("BLPOP s 0");
    script.wants();
    script.arrive("BLPOP s 0.01");
    script.wants();
    script.pass(20_000);
    assert_eq!(script.wants(), [""; 0]);
    let first = script.tries.remove(0);
    script.tried(&[&entry()]);
    script.tries.push(first);
    assert_eq!(script.wants(), ["tell s 1-1"]);
    script.find_nothing();
    assert_eq!(tries(&script.wants()), 1);
    script.find_nothing();
    assert_eq!(script.wants(), ["tell Null"]);
}

#[test]
fn who_has_waited_ends_in_time_though_it_asks_again() {
    let mut script = WaitScript::default();
    let waiter = script.joins("BLPOP s 0.01");
    script.wants();
    script.pass(20_000);
    assert!(script.wants().contains(&"tell Null".to_owned()));
    assert!(
        !script
            .waits
            .unblock(waiter, UnblockMode::Timeout, script.now)
    );
}

#[test]
fn whom_somebody_unblocks_is_ended_before_any_answer() {
    let mut script = WaitScript::default();
    let waiter = script.arrive("XREAD BLOCK 10 STREAMS s 0");
    script.wants();
    assert!(
        script
            .waits
            .unblock(waiter, UnblockMode::Timeout, script.now)
    );
    assert_eq!(script.wants(), ["tell Null"]);
}
