//! Single rules of blocked clients, each shown by itself.

use crate::resp::Request;
use crate::resp::speak::encode_request;
use crate::waits::{
    BlockingCall, BlockingCalls, CallConnectionId, NotLent, TryFailure, TryId, UnblockMode,
    WaitAction, WaitOrigin, WaitOutcome, WaiterId,
};

pub(super) const NULL: &[u8] = b"*-1\r\n";
const NOPERM: &[u8] = b"-NOPERM no\r\n";
pub(super) const SECOND: u64 = 1_000_000;

/// Tells the machine what happens and shows what it wants as text.
#[derive(Default)]
pub(super) struct WaitScript {
    pub(super) waits: BlockingCalls<u8>,
    pub(super) now: u64,
    pub(super) tries: Vec<(TryId, usize)>,
    pub(super) borrows: Vec<CallConnectionId>,
}

fn words(request: &[u8]) -> String {
    let words: Vec<_> = Request::new(request)
        .arguments()
        .map(String::from_utf8_lossy)
        .collect();
    words.join(" ")
}

fn pair(key: &str, element: &str) -> Vec<u8> {
    encode_request(&[key, element])
}

impl WaitScript {
    /// Returns what the machine wants, in order; tries are sent at once.
    pub(super) fn wants(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(action) = self.waits.next_action() {
            match action {
                WaitAction::Try { attempt, .. } => {
                    if let Some(sending) = self.waits.begin(attempt, self.now) {
                        self.tries
                            .push((attempt, sending.replies.saturating_sub(2)));
                        let calls = super::server::requests(&sending.bytes);
                        let all_calls: Vec<_> = calls.iter().map(|call| words(call)).collect();
                        all.push(match all_calls[0].split(' ').next() {
                            Some("LLEN" | "ZCARD") => all_calls.join(", "),
                            _ => format!("try {}", all_calls.get(1).unwrap_or(&all_calls[0])),
                        });
                    }
                }
                WaitAction::Borrow { connection, .. } => {
                    self.borrows.push(connection);
                    all.push("borrow".to_owned());
                }
                WaitAction::Issue { ahead, call, .. } => {
                    if let Some((attempt, sending)) = ahead {
                        self.tries.push((attempt, sending.takes));
                        all.push(format!("ahead {}", sending.takes));
                    }
                    all.push(format!("issue {}", words(&call.bytes)));
                }
                WaitAction::Unblock { .. } => all.push("unblock".to_owned()),
                WaitAction::Release { .. } => all.push("release".to_owned()),
                WaitAction::Return { request, .. } => {
                    all.push(format!("return {}", words(&request)))
                }
                WaitAction::Orphaned(count) => all.push(format!("orphaned {count}")),
                WaitAction::Tell { outcome, .. } => all.push(match outcome {
                    WaitOutcome::Reply(reply) if reply.starts_with(b"-") => "tell error".to_owned(),
                    WaitOutcome::Reply(reply) => format!("tell {}", words(&reply)),
                    other => format!("tell {other:?}"),
                }),
            }
        }
        all
    }

    pub(super) fn arrive(&mut self, line: &str) -> WaiterId {
        self.arrive_of(0, line)
    }

    fn arrive_of(&mut self, group: usize, line: &str) -> WaiterId {
        let address = 1;
        self.arrive_from(WaitOrigin { group, address }, line)
    }

    pub(super) fn arrive_from(&mut self, whose: WaitOrigin, line: &str) -> WaiterId {
        self.arrive_in(0, whose, line)
    }

    pub(super) fn arrive_in(&mut self, state: u8, whose: WaitOrigin, line: &str) -> WaiterId {
        let words: Vec<&str> = line.split(' ').collect();
        let request = encode_request(&words);
        let call = BlockingCall::parse(&Request::new(&request)).expect("it is understood");
        self.waits.arrive(state, whose, call, self.now)
    }

    /// Answers the oldest try.
    pub(super) fn tried(&mut self, answers: &[&[u8]]) {
        let (attempt, calls) = self.tries.remove(0);
        assert_eq!(calls, answers.len());
        let mut replies = b"+OK\r\n".to_vec();
        replies.extend(b"+QUEUED\r\n".repeat(calls));
        replies.extend(format!("*{calls}\r\n").into_bytes());
        replies.extend(answers.concat());
        self.waits.tried(attempt, &replies, self.now);
    }

    /// Has one wait who has tried and found nothing, and for whose class a call is issued on the connection returned.
    pub(super) fn blocked(&mut self, line: &str) -> (WaiterId, CallConnectionId) {
        let waiter = self.arrive(line);
        self.wants();
        self.tried(&[NULL]);
        assert_eq!(self.wants(), ["borrow"]);
        let connection = self.borrows.remove(0);
        self.waits.lent(connection, self.now);
        (waiter, connection)
    }

    /// Has another one join the line.
    pub(super) fn joins(&mut self, line: &str) -> WaiterId {
        let waiter = self.arrive(line);
        self.wants();
        self.tried(&[NULL]);
        waiter
    }

    /// Has every try find nothing.
    pub(super) fn find_nothing(&mut self) {
        while let Some((_, calls)) = self.tries.first() {
            self.tried(&vec![NULL; *calls]);
        }
    }

    /// Lets time pass until the machine wants something else than tries, which find nothing. Returns what.
    pub(super) fn until_wanted(&mut self) -> Vec<String> {
        loop {
            let mut wants = self.wants();
            wants.retain(|want| !want.starts_with("try "));
            if !wants.is_empty() {
                return wants;
            }
            self.find_nothing();
            let due = self.waits.next_due().expect("something is due");
            self.pass(due.saturating_sub(self.now));
        }
    }

    pub(super) fn pass(&mut self, micros: u64) {
        self.now += micros;
        self.waits.tick(self.now);
    }
}

#[test]
fn a_call_covers_who_joins_and_lets_go_of_who_leaves() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BLPOP a 0");
    assert_eq!(script.wants(), ["issue BLPOP a 0"]);
    let second = script.joins("BLPOP b a 0");
    assert_eq!(script.wants(), [""; 0], "more may come");
    script.pass(super::super::SETTLING_MICROS);
    assert_eq!(script.wants(), ["unblock"]);
    script.joins("BLPOP c 0");
    assert_eq!(script.wants(), [""; 0], "one unblock is enough");
    script.waits.answered(connection, NULL, script.now);
    assert_eq!(script.wants(), ["issue BLPOP a b c 0"]);
    script.joins("BLPOP a c 0");
    assert_eq!(script.wants(), [""; 0], "it is covered already");
    script.waits.leave(second, script.now);
    script.pass(super::super::SETTLING_MICROS);
    assert_eq!(script.wants(), ["unblock"]);
    script.waits.answered(connection, NULL, script.now);
    assert_eq!(script.wants(), ["issue BLPOP a c 0"]);
}

#[test]
fn the_first_in_line_for_the_key_is_served() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BLPOP a 0");
    script.joins("BLPOP b 0");
    script.joins("BLPOP a b 0");
    script.waits.answered(connection, NULL, script.now);
    script.wants();
    script
        .waits
        .answered(connection, &pair("b", "1"), script.now);
    // The third stands in line for it too, and the call itself is all it can use.
    assert_eq!(script.wants(), ["tell b 1", "issue BLPOP a b 0"]);
    script
        .waits
        .answered(connection, &pair("b", "2"), script.now);
    assert_eq!(script.wants(), ["tell b 2", "issue BLPOP a 0"]);
}

#[test]
fn tries_ahead_double_while_all_succeed() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BLPOP a 0");
    for _ in 0..200 {
        script.joins("BLPOP a 0");
    }
    script.wants();
    let mut counts = Vec::new();
    for _ in 0..4 {
        script
            .waits
            .answered(connection, &pair("a", "x"), script.now);
        script.wants();
        let count = script.tries[0].1;
        counts.push(count);
        let element = pair("a", "y");
        script.tried(&vec![&element[..]; count]);
    }
    assert_eq!(counts, [1, 2, 4, 8]);
    script
        .waits
        .answered(connection, &pair("a", "x"), script.now);
    script.wants();
    let mut answers = vec![NULL; script.tries[0].1];
    let element = pair("a", "y");
    answers[0] = &element;
    script.tried(&answers);
    script
        .waits
        .answered(connection, &pair("a", "x"), script.now);
    script.wants();
    assert_eq!(script.tries[0].1, 1, "one of them found nothing");
}

#[test]
fn large_elements_are_not_gathered_by_the_dozen() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BLPOP a 0");
    for _ in 0..200 {
        script.joins("BLPOP a 0");
    }
    let large = "x".repeat(400 * 1024);
    for _ in 0..4 {
        script
            .waits
            .answered(connection, &pair("a", &large), script.now);
        script.wants();
        assert!(script.tries[0].1 <= 2);
        let element = pair("a", &large);
        let count = script.tries[0].1;
        script.tried(&vec![&element[..]; count]);
    }
}

#[test]
fn null_is_told_when_no_element_can_come_any_more() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BLPOP a 1");
    script.joins("BLPOP a 1");
    script.wants();
    script.pass(SECOND - 1);
    assert_eq!(script.wants(), [""; 0]);
    script.pass(1);
    // The first is told, for the second could take an element; the second is the last who could.
    assert_eq!(script.wants(), ["tell Null", "unblock"]);
    script
        .waits
        .answered(connection, &pair("a", "late"), script.now);
    assert_eq!(script.wants(), ["tell a late", "release"]);
}

#[test]
fn unblocked_is_told_with_its_error() {
    let mut script = WaitScript::default();
    let (first, connection) = script.blocked("BZPOPMIN z 0");
    script.wants();
    assert!(script.waits.unblock(first, UnblockMode::Error, script.now));
    assert!(
        !script
            .waits
            .unblock(first, UnblockMode::Timeout, script.now)
    );
    assert_eq!(script.wants(), ["unblock"]);
    script
        .waits
        .answered(connection, crate::texts::UNBLOCKED, script.now);
    assert_eq!(script.wants(), ["tell Unblocked", "release"]);
}

#[test]
fn only_whose_own_try_is_refused_learns_of_it() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BLPOP a 0");
    script.joins("BLPOP b 0");
    script.waits.answered(connection, NULL, script.now);
    script.wants();
    script.waits.answered(connection, NOPERM, script.now);
    assert_eq!(
        script.wants(),
        ["try BLPOP a 0.002", "try BLPOP b 0.002", "release"]
    );
    script.tried(&[NOPERM]);
    assert_eq!(script.wants(), ["tell error"]);
    script.tried(&[NULL]);
    assert_eq!(script.wants(), ["borrow"]);
}

#[test]
fn a_refusal_that_repeats_the_call_is_told_with_the_callers_own_words() {
    let mut script = WaitScript::default();
    script.arrive("BLMPOP 5 1 a LEFT");
    assert_eq!(script.wants(), ["try BLMPOP 0.002 1 a LEFT"]);
    script.tried(&[b"-ERR unknown command `BLMPOP`, with args beginning with: `0.002`, `1`, \r\n"]);
    assert_eq!(script.wants(), ["tell OwnConnection"]);
}

#[test]
fn what_is_refused_only_together_is_asked_for_apart() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BLPOP a 0");
    script.joins("BLPOP b 0");
    script.waits.answered(connection, NULL, script.now);
    script.wants();
    for _ in 0..2 {
        let connection = script.waits.connections().next().expect("one is lent");
        script
            .waits
            .answered(connection, b"-CROSSSLOT no\r\n", script.now);
        script.wants();
        script.tried(&[NULL]);
        script.tried(&[NULL]);
        script.wants();
        let connection = script.borrows.remove(0);
        script.waits.lent(connection, script.now);
    }
    assert_eq!(script.wants(), ["issue BLPOP a 0.100"]);
    let connection = script.waits.connections().next().expect("one is lent");
    script.waits.answered(connection, NULL, script.now);
    assert_eq!(script.wants(), ["issue BLPOP b 0.100"]);
}

#[test]
fn who_might_have_got_what_was_lost_is_told_and_nobody_else() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BLPOP a 0");
    script.joins("BLPOP a 0");
    script.wants();
    script.waits.lost(connection, false, script.now);
    assert_eq!(script.wants(), ["borrow"], "it was never sent");
    let connection = script.borrows.remove(0);
    script.waits.lent(connection, script.now);
    script.wants();
    script.waits.lost(connection, true, script.now);
    assert_eq!(script.wants(), ["tell Lost", "borrow"], "the other stays");
    script.arrive("BLPOP c 0");
    script.wants();
    let (attempt, _) = script.tries.remove(0);
    script
        .waits
        .failed(attempt, TryFailure::Lost { sent: false }, script.now);
    assert_eq!(script.wants(), ["try BLPOP c 0.002"]);
    let (attempt, _) = script.tries.remove(0);
    script
        .waits
        .failed(attempt, TryFailure::Lost { sent: true }, script.now);
    assert_eq!(script.wants(), ["tell Lost"]);
}

#[test]
fn a_reading_call_answers_all_and_is_asked_again_when_lost() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("XREAD BLOCK 0 STREAMS s 5-1");
    script.joins("XREAD BLOCK 900 STREAMS s 5-1");
    script.wants();
    script.waits.lost(connection, true, script.now);
    assert_eq!(script.wants(), ["borrow"]);
    let connection = script.borrows.remove(0);
    script.waits.lent(connection, script.now);
    assert_eq!(script.wants(), ["issue XREAD BLOCK 0 STREAMS s 5-1"]);
    script
        .waits
        .answered(connection, &pair("s", "5-2"), script.now);
    assert_eq!(script.wants(), ["tell s 5-2", "tell s 5-2", "release"]);
}

#[test]
fn the_last_entry_is_resolved_before_the_first_try() {
    let mut script = WaitScript::default();
    script.arrive("XREAD BLOCK 0 STREAMS s $");
    assert_eq!(script.wants(), ["try XINFO STREAM s"]);
    let (attempt, _) = script.tries.remove(0);
    let reply = encode_request(&["last-generated-id", "7-3"]);
    script.waits.tried(attempt, &reply, script.now);
    assert_eq!(script.wants(), ["try XREAD BLOCK 1 STREAMS s 7-3"]);
    script.arrive("XREAD BLOCK 0 STREAMS s $");
    script.wants();
    let (attempt, _) = script.tries.remove(1);
    script.waits.tried(attempt, NOPERM, script.now);
    assert_eq!(script.wants(), ["tell OwnConnection"]);
}

#[test]
fn what_is_too_large_to_gather_is_read_on_an_own_connection() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("XREAD BLOCK 0 STREAMS s 5-1");
    script.arrive("XREAD BLOCK 0 STREAMS s 5-1");
    script.wants();
    let (attempt, _) = script.tries.remove(0);
    script
        .waits
        .failed(attempt, TryFailure::TooLarge, script.now);
    let both = ["tell OwnConnection", "tell OwnConnection", "unblock"];
    assert_eq!(script.wants(), both);
    script.waits.too_large(connection, script.now);
    assert_eq!(script.wants(), ["release"]);
    script.blocked("BLPOP a 0");
    script.arrive("BLPOP a 0");
    script.wants();
    let (attempt, _) = script.tries.remove(0);
    script
        .waits
        .failed(attempt, TryFailure::TooLarge, script.now);
    assert_eq!(script.wants(), ["orphaned 1", "tell Lost"]);
}

#[test]
fn a_user_who_may_not_run_transactions_needs_a_connection() {
    let mut script = WaitScript::default();
    script.arrive("BLPOP a 0");
    script.wants();
    let (attempt, _) = script.tries.remove(0);
    let replies = b"+OK\r\n+QUEUED\r\n-EXECABORT Transaction discarded because of: no\r\n";
    script.waits.tried(attempt, replies, script.now);
    assert_eq!(script.wants(), ["tell OwnConnection"]);
}

#[test]
fn classes_share_a_seat_by_turns() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BLMOVE a x LEFT LEFT 0");
    assert_eq!(script.wants(), ["issue BLMOVE a x LEFT LEFT 0"]);
    script.joins("BLMOVE b x LEFT LEFT 0");
    assert_eq!(script.wants(), ["borrow"]);
    // Nothing is lent, so the first gives way after its turn.
    assert_eq!(script.until_wanted(), ["unblock"]);
    script.waits.answered(connection, NULL, script.now);
    assert_eq!(script.wants(), ["issue BLMOVE b x LEFT LEFT 0.100"]);
    let issued = script.now;
    assert_eq!(script.until_wanted(), ["unblock"]);
    let own_end = super::super::MAX_SLICE_MICROS + super::super::GRACE_MICROS;
    assert_eq!(script.now, issued + own_end, "the server ends it by itself");
    script.waits.answered(connection, NULL, script.now);
    assert_eq!(script.wants(), ["issue BLMOVE a x LEFT LEFT 0.100"]);
}

#[test]
fn without_any_seat_classes_are_tried_from_time_to_time() {
    let mut script = WaitScript::default();
    script.joins("BLPOP a 0");
    script.joins("BLPOP a 0");
    script.joins("BLPOP b 0");
    assert_eq!(script.borrows.len(), 1);
    script.pass(super::super::POLL_MICROS);
    assert_eq!(script.wants(), ["try BLPOP a b 0.002"]);
    script.tried(&[&pair("a", "1")]);
    assert_eq!(
        script.wants(),
        ["tell a 1", "try BLPOP a 0.002"],
        "there may be more"
    );
    script.tried(&[&pair("a", "2")]);
    assert_eq!(script.wants(), ["tell a 2", "try BLPOP b 0.002"]);
    script.tried(&[NULL]);
    assert_eq!(script.wants(), [""; 0]);
    // The longer nobody has come, the less often.
    let later = script.now + super::super::POLL_MICROS / 4;
    assert_eq!(script.waits.next_due(), Some(later));
}

#[test]
fn a_key_that_is_empty_again_leaves_the_others_to_be_tried() {
    let mut script = WaitScript::default();
    for line in ["BLPOP a 0", "BLPOP a 0", "BLPOP b 0"] {
        script.joins(line);
    }
    script.wants();
    script.pass(super::super::POLL_MICROS);
    script.wants();
    script.tried(&[&pair("a", "1")]);
    script.wants();
    script.tried(&[NULL]);
    assert_eq!(script.wants(), ["try BLPOP a b 0.002"]);
    script.tried(&[&pair("b", "2")]);
    assert_eq!(script.wants(), ["tell b 2", "try BLPOP a 0.002"]);
    script.tried(&[NULL]);
    assert_eq!(script.wants(), [""; 0], "nothing was found");
}

#[test]
fn a_newcomer_whose_element_went_to_another_tries_again() {
    let mut script = WaitScript::default();
    script.joins("BLPOP a 0");
    script.arrive("BLPOP a b 0");
    script.wants();
    script.tried(&[&pair("a", "1")]);
    assert_eq!(script.wants(), ["tell a 1", "try BLPOP a b 0.002"]);
}

#[test]
fn a_newcomer_waits_for_the_pops_of_who_has_left() {
    let mut script = WaitScript::default();
    let first = script.arrive("BLPOP a 0");
    script.wants();
    script.waits.leave(first, script.now);
    script.arrive("BLPOP a 0");
    assert_eq!(script.wants(), [""; 0], "one element could come for nobody");
    script.tried(&[&pair("a", "1")]);
    assert_eq!(script.wants(), ["tell a 1"]);
}

#[test]
fn what_was_popped_for_nobody_goes_back() {
    let mut script = WaitScript::default();
    let first = script.arrive("BRPOP a 0");
    script.wants();
    script.waits.leave(first, script.now);
    script.tried(&[&pair("a", "1")]);
    assert_eq!(script.wants(), ["return RPUSH a 1"]);
    let first = script.arrive("BLMOVE a b LEFT LEFT 0");
    script.wants();
    script.waits.leave(first, script.now);
    script.tried(&[b"$1\r\n1\r\n"]);
    assert_eq!(script.wants(), ["orphaned 1"]);
}

#[test]
fn a_seat_is_given_back_when_others_want_a_connection() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BLPOP a 0");
    script.wants();
    script.waits.yield_to(1, script.now);
    assert_eq!(script.wants(), [""; 0], "it has just been lent");
    script.now += super::super::MAX_SLICE_MICROS;
    script.waits.yield_to(1, script.now);
    script.waits.yield_to(1, script.now);
    assert_eq!(script.wants(), ["unblock"]);
    script.waits.answered(connection, NULL, script.now);
    assert_eq!(script.wants(), ["release", "borrow"]);
}

#[test]
fn who_waits_for_very_many_keys_slows_nobody() {
    let mut script = WaitScript::default();
    script.blocked("BLPOP a 0");
    assert_eq!(script.wants(), ["issue BLPOP a 0"]);
    let keys: Vec<String> = (0..5000).map(|key| key.to_string()).collect();
    script.joins(&format!("BLPOP {} 0", keys.join(" ")));
    assert_eq!(script.wants(), ["borrow"], "it gets a call of its own");
}

#[test]
fn who_has_waited_does_not_learn_what_passes() {
    let loading = b"-LOADING the dataset\r\n";
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BLPOP a 0");
    script.joins("BLPOP a 0");
    script.wants();
    script.waits.answered(connection, loading, script.now);
    assert_eq!(script.wants(), ["release"], "it is not asked again at once");
    script.arrive("BLPOP a 0");
    script.wants();
    script.tried(&[loading]);
    assert_eq!(script.wants(), ["tell error"], "a newcomer learns of it");
    for _ in 0..3 {
        script.pass(super::super::POLL_MICROS);
        assert_eq!(script.wants(), ["try BLPOP a 0.002"]);
        script.tried(&[loading]);
        assert_eq!(script.wants(), [""; 0]);
    }
    script.pass(super::super::POLL_MICROS);
    script.wants();
    script.tried(&[&pair("a", "1")]);
    assert_eq!(script.wants(), ["tell a 1", "borrow"]);
    let connection = script.borrows.remove(0);
    script.waits.lent(connection, script.now);
    script.wants();
    // Each asks for itself: the server is as busy as before.
    script.waits.answered(connection, NOPERM, script.now);
    script.wants();
    let (attempt, _) = script.tries.pop().expect("a try for itself");
    let busy = b"+OK\r\n+QUEUED\r\n-EXECABORT Transaction discarded because of: BUSY no\r\n";
    script.waits.tried(attempt, busy, script.now);
    assert_eq!(script.wants(), ["borrow"], "it waits on");
}

#[test]
fn a_state_refused_for_a_while_is_no_end_of_a_wait() {
    let loading = b"-LOADING the dataset\r\n".to_vec();
    let mut script = WaitScript::default();
    script.joins("BLPOP a 0");
    script.wants();
    let connection = script.borrows.remove(0);
    let why = NotLent::Refused(loading.clone());
    script.waits.not_lent(connection, why, script.now);
    assert_eq!(script.wants(), [""; 0]);
    script.pass(super::super::POLL_MICROS);
    script.wants();
    let (attempt, _) = script.tries.remove(0);
    let failure = TryFailure::Refused(loading);
    script.waits.failed(attempt, failure, script.now);
    assert_eq!(script.wants(), [""; 0]);
    assert_eq!(script.waits.waiting(), 1);
}

#[test]
fn a_try_that_fails_is_no_matter_to_a_class_with_a_seat() {
    let mut script = WaitScript::default();
    script.joins("BLPOP a 0");
    script.wants();
    script.pass(super::super::POLL_MICROS);
    let Some(WaitAction::Try { attempt, .. }) = script.waits.next_action() else {
        panic!("it is tried");
    };
    let connection = script.borrows.remove(0);
    script.waits.lent(connection, script.now);
    assert_eq!(script.wants(), ["issue BLPOP a 0"]);
    let failure = TryFailure::Unreachable;
    script.waits.failed(attempt, failure, script.now);
    assert_eq!(script.wants(), [""; 0]);
}

#[test]
fn a_class_borrows_for_any_group_of_its_clients() {
    let mut script = WaitScript::default();
    script.joins("BLPOP a 0");
    script.wants();
    script.arrive_of(1, "BLPOP b 0");
    script.wants();
    script.tried(&[NULL]);
    assert_eq!(script.wants(), [""; 0], "one group has just asked");
    assert_eq!(script.until_wanted(), ["borrow"]);
    assert!(script.now >= super::super::ASKING_MICROS);
    script.find_nothing();
    script.wants();
    // The first group has nothing to lend, the second has.
    let connection = script.borrows.remove(1);
    script.waits.lent(connection, script.now);
    assert_eq!(script.wants(), ["issue BLPOP a b 0"]);
}

#[test]
fn many_classes_are_tried_less_often() {
    let mut script = WaitScript::default();
    for class in 0..5_000 {
        script.joins(&format!("BLMOVE k{class} x LEFT LEFT 0"));
        script.wants();
    }
    let mut tried = std::collections::BTreeMap::new();
    while script.now < 20_000_000 {
        let due = script.waits.next_due().expect("a try");
        script.pass(due.saturating_sub(script.now));
        for call in script.wants() {
            *tried.entry(call).or_insert(0) += 1;
        }
        while !script.tries.is_empty() {
            script.tried(&[NULL]);
        }
    }
    let all: usize = tried.values().sum();
    // A try costs the server 8 µs and takes a fiftieth of its time; those who have just come have as much again.
    assert!(all <= 100_000, "{all} tries in 20 seconds");
    let least = tried.values().min().copied();
    assert!(tried.len() == 5_000 && least >= Some(2), "{least:?}");
}

#[test]
fn what_was_popped_for_nobody_keeps_its_order() {
    let mut script = WaitScript::default();
    let (first, connection) = script.blocked("BLPOP a 0");
    let others: Vec<WaiterId> = (0..7).map(|_| script.joins("BLPOP a 0")).collect();
    script.wants();
    script
        .waits
        .answered(connection, &pair("a", "1"), script.now);
    script.wants();
    script.tried(&[&pair("a", "2")]);
    script
        .waits
        .answered(connection, &pair("a", "3"), script.now);
    assert_eq!(script.wants()[2..], ["ahead 2", "issue BLPOP a 0"]);
    assert!(first < others[0]);
    for other in others {
        script.waits.leave(other, script.now);
    }
    script.wants();
    script.tried(&[&pair("a", "4"), &pair("a", "5")]);
    assert_eq!(script.wants(), [""; 0], "another may have been popped");
    script
        .waits
        .answered(connection, &pair("a", "6"), script.now);
    assert_eq!(script.wants(), ["return LPUSH a 6 5 4", "release"]);
}
