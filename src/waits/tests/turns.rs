//! Which keys are asked about, when, and whose turn ends: each rule by itself.

use super::single::{NULL, Script};
use crate::waits::SeatId;

/// So many clients that each wait for 60 keys.
fn crowd(script: &mut Script, clients: usize) -> SeatId {
    let call = |client: usize| {
        let keys = (0..60).map(|key| format!("k{:04}", client * 60 + key));
        format!("BLPOP {} 0", keys.collect::<Vec<_>>().join(" "))
    };
    for client in 0..clients {
        script.joins(&call(client));
    }
    script.wants();
    let seat = script.borrows.remove(0);
    script.waits.seated(seat, script.now);
    seat
}

#[test]
fn more_keys_than_one_call_takes_are_asked_for_in_turn() {
    let mut script = Script::default();
    let seat = crowd(&mut script, 25);
    let count = |wants: &[String]| wants[0].split(' ').count() - 3;
    assert_eq!(count(&script.wants()), 1024);
    script.pass(super::super::MAX_SLICE_MICROS);
    assert_eq!(script.wants(), [""; 0], "the server ends it by itself");
    script.pass(super::super::GRACE_MICROS);
    assert_eq!(script.wants(), ["unblock"]);
    script.waits.answered(seat, NULL, script.now);
    let wants = script.wants();
    assert!(wants[0].contains(" k1024 "), "{}", wants[0]);
    assert_eq!(count(&wants), 1024);
}

#[test]
fn every_key_is_asked_about_several_times_a_second() {
    let mut script = Script::default();
    let seat = crowd(&mut script, 160);
    let mut asked = std::collections::BTreeSet::new();
    while script.now <= super::super::POLL_MICROS {
        for call in script.wants() {
            asked.extend(call.split(' ').skip(2).map(str::to_owned));
        }
        // The server ends it at the end of the slice.
        script.pass(super::super::POLL_MICROS / 10);
        script.waits.answered(seat, NULL, script.now);
    }
    assert!(asked.len() >= 9_600, "{} of 9600", asked.len());
}

#[test]
fn who_comes_and_goes_ends_no_call_more_often_than_it_can_be_asked() {
    let mut script = Script::default();
    let seat = crowd(&mut script, 16);
    script.wants();
    let mut unblocked = 0;
    for number in 0..1_000 {
        let passing = script.joins(&format!("BLPOP new{number} 0"));
        script.waits.leave(passing, script.now);
        script.pass(100);
        if script.wants().contains(&"unblock".to_owned()) {
            unblocked += 1;
            script.waits.answered(seat, NULL, script.now);
            script.wants();
        }
    }
    assert!(unblocked <= 105, "{unblocked} calls ended in 0.1 s");
}

#[test]
fn the_next_in_line_for_another_key_of_the_first_has_lost_nothing() {
    let mut script = Script::default();
    let (_, seat) = script.blocked("BLPOP a b 0");
    script.joins("BLPOP b 0");
    script.wants();
    script.waits.lost(seat, true, script.now);
    assert_eq!(script.wants(), ["tell Lost", "borrow"]);
    assert_eq!(script.waits.waiting(), 1);
}

#[test]
fn keys_are_asked_for_in_the_order_of_the_first_in_line() {
    let mut script = Script::default();
    let (_, seat) = script.blocked("BRPOP z-high a-low 0");
    assert_eq!(script.wants(), ["issue BRPOP z-high a-low 0"]);
    script.joins("BRPOP c a-low b 0");
    script.waits.answered(seat, NULL, script.now);
    assert_eq!(script.wants(), ["issue BRPOP z-high a-low c b 0"]);
}

#[test]
fn one_class_without_a_seat_ends_one_call() {
    let mut script = Script::default();
    for name in ["a", "b", "c"] {
        script.joins(&format!("BLMOVE {name} x LEFT LEFT 0"));
        script.wants();
        let seat = script.borrows.remove(0);
        script.waits.seated(seat, script.now);
        script.wants();
    }
    script.pass(1_000_000);
    script.wants();
    script.joins("BLMOVE d x LEFT LEFT 0");
    script.wants();
    script.pass(super::super::MAX_SLICE_MICROS);
    assert_eq!(script.wants(), ["unblock"]);
    let due = script.waits.next_due();
    assert!(due > Some(script.now), "time stands still: {due:?}");
}

#[test]
fn what_was_refused_once_is_asked_for_together_again() {
    let mut script = Script::default();
    let (_, mut seat) = script.blocked("BLPOP a 0");
    script.joins("BLPOP b 0");
    script.waits.answered(seat, NULL, script.now);
    script.wants();
    for _ in 0..2 {
        script
            .waits
            .answered(seat, b"-CROSSSLOT no\r\n", script.now);
        script.wants();
        script.tried(&[NULL]);
        script.tried(&[NULL]);
        script.wants();
        seat = script.borrows.remove(0);
        script.waits.seated(seat, script.now);
    }
    let mut issued = script.wants();
    let mut answers = 0;
    while !issued[0].starts_with("issue BLPOP a b") {
        answers += 1;
        assert!(answers < 100, "{issued:?}");
        script.waits.answered(seat, NULL, script.now);
        issued = script.wants();
    }
    assert!(answers > 8, "not at once");
}
