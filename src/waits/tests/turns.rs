//! Which keys are asked about, when, and whose turn ends: each rule by itself.

use super::single::{NULL, SECOND, WaitScript};
use crate::waits::{CallConnectionId, WaitOrigin};

/// Has so many clients wait, each for 60 keys.
fn crowd(script: &mut WaitScript, clients: usize) -> CallConnectionId {
    let call = |client: usize| {
        let keys = (0..60).map(|key| format!("k{:04}", client * 60 + key));
        format!("BLPOP {} 0", keys.collect::<Vec<_>>().join(" "))
    };
    for client in 0..clients {
        script.joins(&call(client));
    }
    script.wants();
    let connection = script.borrows.remove(0);
    script.waits.lent(connection, script.now);
    connection
}

#[test]
fn more_keys_than_one_call_takes_are_asked_for_in_turn() {
    let mut script = WaitScript::default();
    let connection = crowd(&mut script, 25);
    let count = |wants: &[String]| wants[0].split(' ').count() - 3;
    assert_eq!(count(&script.wants()), 1024);
    script.pass(super::super::MAX_SLICE_MICROS);
    assert_eq!(script.wants(), [""; 0], "the server ends it by itself");
    script.pass(super::super::GRACE_MICROS);
    assert_eq!(script.wants(), ["unblock"]);
    script.waits.answered(connection, NULL, script.now);
    let wants = script.wants();
    assert!(wants[0].contains(" k1024 "), "{}", wants[0]);
    assert_eq!(count(&wants), 1024);
}

#[test]
fn every_key_is_asked_about_twice_a_second_and_no_more_often_than_they_may_be() {
    let mut script = WaitScript::default();
    let connection = crowd(&mut script, 160);
    let mut asked = std::collections::BTreeSet::new();
    let mut spent = 0;
    while script.now <= SECOND / 2 {
        for call in script.until_wanted() {
            let keys: Vec<_> = call.split(' ').skip(2).map(str::to_owned).collect();
            spent += keys.len();
            asked.extend(keys);
        }
        assert_eq!(script.until_wanted(), ["unblock"]);
        script.waits.answered(connection, NULL, script.now);
    }
    assert!(asked.len() >= 9_600, "{} of 9600", asked.len());
    // A microsecond each.
    assert!(spent <= 20_000, "{spent} keys in half a second");
}

#[test]
fn who_comes_and_goes_ends_no_call_more_often_than_it_can_be_asked() {
    let mut script = WaitScript::default();
    let connection = crowd(&mut script, 16);
    script.wants();
    let mut unblocked = 0;
    for number in 0..1_000 {
        let passing = script.joins(&format!("BLPOP new{number} 0"));
        script.waits.leave(passing, script.now);
        script.pass(100);
        if script.wants().contains(&"unblock".to_owned()) {
            unblocked += 1;
            script.waits.answered(connection, NULL, script.now);
            script.wants();
        }
    }
    assert!(unblocked <= 105, "{unblocked} calls ended in 0.1 s");
}

#[test]
fn the_next_in_line_for_another_key_of_the_first_has_lost_nothing() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BLPOP a b 0");
    script.joins("BLPOP b 0");
    script.wants();
    script.waits.lost(connection, true, script.now);
    assert_eq!(script.wants(), ["tell Lost", "borrow"]);
    assert_eq!(script.waits.waiting(), 1);
}

#[test]
fn keys_are_asked_for_in_the_order_of_the_first_in_line() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BRPOP z-high a-low 0");
    assert_eq!(script.wants(), ["issue BRPOP z-high a-low 0"]);
    script.joins("BRPOP c a-low b 0");
    script.waits.answered(connection, NULL, script.now);
    assert_eq!(script.wants(), ["issue BRPOP z-high a-low c b 0"]);
}

#[test]
fn one_class_without_a_seat_ends_one_call() {
    let mut script = WaitScript::default();
    for name in ["a", "b", "c"] {
        script.joins(&format!("BLMOVE {name} x LEFT LEFT 0"));
        script.wants();
        let connection = script.borrows.remove(0);
        script.waits.lent(connection, script.now);
        script.wants();
    }
    script.pass(1_000_000);
    script.wants();
    script.joins("BLMOVE d x LEFT LEFT 0");
    script.wants();
    assert_eq!(script.until_wanted(), ["unblock"]);
    let due = script.waits.next_due();
    assert!(due > Some(script.now), "time stands still: {due:?}");
}

#[test]
fn what_was_refused_once_is_asked_for_together_again() {
    let mut script = WaitScript::default();
    let (_, mut connection) = script.blocked("BLPOP a 0");
    script.joins("BLPOP b 0");
    script.waits.answered(connection, NULL, script.now);
    script.wants();
    for _ in 0..2 {
        script
            .waits
            .answered(connection, b"-CROSSSLOT no\r\n", script.now);
        script.wants();
        script.tried(&[NULL]);
        script.tried(&[NULL]);
        script.wants();
        connection = script.borrows.remove(0);
        script.waits.lent(connection, script.now);
    }
    let mut issued = script.wants();
    let mut answers = 0;
    while !issued[0].starts_with("issue BLPOP a b") {
        answers += 1;
        assert!(answers < 100, "{issued:?}");
        script.waits.answered(connection, NULL, script.now);
        issued = script.wants();
    }
    assert!(answers > 8, "not at once");
}

/// Lends connections to as many classes as want one, up to `most`. Returns them.
fn lend(script: &mut WaitScript, most: usize) -> Vec<CallConnectionId> {
    let mut connections = Vec::new();
    script.wants();
    while connections.len() < most && !script.borrows.is_empty() {
        let connection = script.borrows.remove(0);
        script.waits.lent(connection, script.now);
        connections.push(connection);
        script.wants();
    }
    connections
}

/// Lets `micros` pass while every call that is to end does, and every try finds nothing. Returns how many keys were asked
/// about by calls issued and by tries.
fn idle(script: &mut WaitScript, micros: u64) -> (usize, usize) {
    let (mut issued, mut tried) = (0, 0);
    let until = script.now + micros;
    loop {
        for want in script.wants() {
            let words = want.split(' ').count();
            match want.split(' ').next() {
                Some("try") => tried += words,
                Some("issue") => issued += words,
                _ => {}
            }
        }
        script.find_nothing();
        for connection in script.waits.unblocking() {
            script.waits.answered(connection, NULL, script.now);
        }
        match script.waits.next_due() {
            Some(due) if due <= until => script.pass(due.saturating_sub(script.now)),
            _ => break script.now = until,
        }
    }
    (issued, tried)
}

#[test]
fn idle_waits_for_very_many_keys_take_a_small_share_of_the_servers_time() {
    const SECONDS: usize = 60;
    let mut script = WaitScript::default();
    for client in 0..12 {
        let keys: Vec<_> = (0..50_000).map(|key| format!("{client}:{key}")).collect();
        script.joins(&format!("BLPOP {} 0", keys.join(" ")));
    }
    assert_eq!(lend(&mut script, 6).len(), 6);
    let (issued, tried) = idle(&mut script, SECONDS as u64 * SECOND);
    assert!(issued > 0 && tried > 0, "each is looked for");
    // A microsecond each, and an eighth of one.
    let spent = issued + tried / 8;
    assert!(
        spent <= SECONDS * 1_000_000 / 20,
        "{spent} µs in {SECONDS} s"
    );
}

#[test]
fn who_has_just_come_is_served_at_once_however_many_have_waited_longer() {
    let mut script = WaitScript::default();
    for other in 0..2_000 {
        script.joins(&format!("BLMOVE k{other} x LEFT LEFT 0"));
    }
    let connections = lend(&mut script, 6);
    idle(&mut script, 10 * SECOND);
    script.joins("BLMOVE mine x LEFT LEFT 0");
    let arrived = script.now;
    let mut waited = 0;
    while !connections
        .iter()
        .any(|connection| script.waits.asks_for(*connection, "mine"))
    {
        waited = script.now - arrived;
        idle(&mut script, 1_000);
    }
    assert!(waited <= 20_000, "{waited} µs");
}

#[test]
fn another_address_is_looked_for_as_if_the_greedy_one_had_one_wait() {
    let mut worst = Vec::new();
    for greedy in [1, 2_000] {
        let mut script = WaitScript::default();
        for other in 0..greedy {
            let whose = WaitOrigin {
                group: 0,
                address: 9,
            };
            script.arrive_from(whose, &format!("BLMOVE k{other} x LEFT LEFT 0"));
            script.wants();
            script.tried(&[NULL]);
        }
        script.joins("BLMOVE mine x LEFT LEFT 0");
        idle(&mut script, 10 * SECOND);
        let (mut last, mut longest) = (script.now, 0);
        for _ in 0..2_000 {
            script.pass(1_000);
            if script.wants().iter().any(|want| want.contains("mine")) {
                longest = longest.max(script.now - last);
                last = script.now;
            }
            script.find_nothing();
        }
        worst.push(longest);
    }
    assert!(worst[1] <= worst[0] + 2_000, "{worst:?}");
}

#[test]
fn one_call_for_many_is_not_behind_the_others() {
    let mut script = WaitScript::default();
    for other in 0..300 {
        script.joins(&format!("BLMOVE k{other} x LEFT LEFT 0"));
    }
    let connections = lend(&mut script, 2);
    idle(&mut script, 10 * SECOND);
    script.joins("BLPOP mine 0");
    idle(&mut script, SECOND / 10);
    let is_asked = |script: &WaitScript| {
        let mut connections = connections.iter();
        connections.any(|connection| script.waits.asks_for(*connection, "mine"))
    };
    for _ in 0..100 {
        assert!(is_asked(&script), "it keeps its connection");
        idle(&mut script, 10_000);
    }
}

#[test]
fn the_keys_of_who_has_just_come_are_in_every_call() {
    let mut script = WaitScript::default();
    let connection = crowd(&mut script, 100);
    idle(&mut script, SECOND);
    script.joins("BLPOP mine 0");
    idle(&mut script, SECOND / 10);
    for _ in 0..100 {
        assert!(script.waits.asks_for(connection, "mine"));
        idle(&mut script, 10_000);
    }
}

#[test]
fn ends_of_waits_do_not_have_a_call_over_many_keys_issued_again_and_again() {
    let mut script = WaitScript::default();
    for key in 0..1_000 {
        script.joins(&format!("BLPOP k{key} 1.{key:03}"));
    }
    assert_eq!(lend(&mut script, 1).len(), 1);
    let (issued, _) = idle(&mut script, 2 * SECOND);
    // A microsecond each.
    assert!(
        issued <= 250_000,
        "{issued} keys asked about in two seconds"
    );
    assert_eq!(script.waits.waiting(), 0, "all are told in time");
}
