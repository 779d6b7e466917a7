//! Keys of another kind are left out of the one call for many, and who waits for them is told nothing of it.

use super::single::{NULL, SECOND, WaitScript};
use crate::waits::{CallConnectionId, TryFailure, WaitOrigin};

const WRONGTYPE: &[u8] = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
const NOPERM: &[u8] = b"-NOPERM this user has no permissions to run the 'llen' command\r\n";

/// Answers the oldest look.
fn looked(script: &mut WaitScript, answers: &[&[u8]]) {
    let (attempt, _) = script.tries.remove(0);
    script.waits.tried(attempt, &answers.concat(), script.now);
}

/// Has one wait for each of `lines`; the call for all, issued again, is refused.
fn refused(lines: &[&str]) -> (WaitScript, CallConnectionId) {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked(lines[0]);
    for line in &lines[1..] {
        script.joins(line);
    }
    script.waits.answered(connection, NULL, script.now);
    script.wants();
    script.waits.answered(connection, WRONGTYPE, script.now);
    (script, connection)
}

#[test]
fn a_key_of_another_kind_is_left_out_until_it_is_none() {
    let (mut script, connection) = refused(&["BLPOP k 0", "BLPOP j k 0"]);
    assert_eq!(script.wants(), ["LLEN j, LLEN k"]);
    looked(&mut script, &[b":0\r\n", WRONGTYPE]);
    assert_eq!(script.wants(), ["issue BLPOP j 0"]);
    for _ in 0..3 {
        script.pass(super::super::POLL_MICROS);
        assert_eq!(script.wants(), ["LLEN k"]);
        looked(&mut script, &[WRONGTYPE]);
        assert_eq!(script.wants(), [""; 0], "they wait on");
    }
    script.arrive("BLPOP k 0");
    script.wants();
    script.tried(&[WRONGTYPE]);
    assert_eq!(script.wants(), ["tell error"], "a newcomer learns of it");
    script.pass(super::super::POLL_MICROS);
    assert_eq!(script.wants(), ["LLEN k"]);
    looked(&mut script, &[b":1\r\n"]);
    assert_eq!(script.wants(), ["unblock"]);
    script.waits.answered(connection, NULL, script.now);
    assert_eq!(script.wants(), ["issue BLPOP k j 0"]);
    let popped = crate::resp::speak::encode_request(&["k", "v"]);
    script.waits.answered(connection, &popped, script.now);
    assert_eq!(script.wants()[0], "tell k v");
    assert_eq!(script.waits.waiting(), 1, "the first in line has it");
}

#[test]
fn who_waits_for_such_keys_alone_has_no_connection() {
    for (line, look) in [("BRPOP k 0", "LLEN k"), ("BZPOPMIN k 0", "ZCARD k")] {
        let (mut script, _) = refused(&[line]);
        assert_eq!(script.wants(), [look]);
        looked(&mut script, &[WRONGTYPE]);
        assert_eq!(script.wants(), ["release"]);
        for _ in 0..20 {
            script.pass(super::super::POLL_MICROS);
            assert_eq!(script.wants(), [look]);
            looked(&mut script, &[WRONGTYPE]);
        }
        script.pass(super::super::POLL_MICROS);
        script.wants();
        looked(&mut script, &[b":0\r\n"]);
        assert_eq!(script.wants(), ["borrow"]);
    }
}

#[test]
fn who_comes_is_not_held_up_by_such_keys() {
    let (mut script, _) = refused(&["BLPOP k 0"]);
    script.wants();
    looked(&mut script, &[WRONGTYPE]);
    assert_eq!(script.wants(), ["release"]);
    script.joins("BLPOP other 0");
    assert_eq!(script.wants(), ["borrow"], "at once");
    let connection = script.borrows.remove(0);
    script.waits.lent(connection, script.now);
    assert_eq!(script.wants(), ["issue BLPOP other 0"]);
    // One that has found nothing has found that it is not in the way.
    script.joins("BLPOP k 0");
    script.pass(super::super::SETTLING_MICROS);
    assert_eq!(script.wants(), ["unblock"]);
    script.waits.answered(connection, NULL, script.now);
    assert_eq!(script.wants(), ["issue BLPOP k other 0"]);
}

#[test]
fn a_try_that_is_refused_leaves_keys_out_as_well() {
    let mut script = WaitScript::default();
    script.joins("BLPOP a 0");
    script.joins("BLPOP b 0");
    script.wants();
    script.pass(super::super::FIRST_POLL_MICROS);
    assert_eq!(script.wants(), ["try BLPOP a b 0.002"]);
    script.tried(&[WRONGTYPE]);
    assert_eq!(script.wants(), ["LLEN a, LLEN b"]);
    looked(&mut script, &[b":0\r\n", WRONGTYPE]);
    script.wants();
    let connection = script.borrows.pop().expect("it is wanted again");
    script.waits.lent(connection, script.now);
    assert_eq!(script.wants(), ["issue BLPOP a 0"]);
}

#[test]
fn whose_time_passes_is_told_null_though_its_key_is_left_out() {
    let (mut script, _) = refused(&["BLPOP k 1"]);
    script.wants();
    looked(&mut script, &[WRONGTYPE]);
    assert_eq!(script.wants(), ["release"]);
    script.pass(SECOND);
    assert_eq!(script.wants()[0], "tell Null");
    assert_eq!(script.waits.waiting(), 0);
    while !script.tries.is_empty() {
        looked(&mut script, &[b":0\r\n"]);
    }
    assert_eq!(script.waits.next_due(), None, "nothing is left");
}

#[test]
fn who_may_not_look_is_told_what_one_that_arrives_is() {
    let (mut script, _) = refused(&["BLPOP k 0", "BLPOP j 0"]);
    assert_eq!(script.wants(), ["LLEN j, LLEN k"]);
    looked(&mut script, &[NOPERM, NOPERM]);
    let mut wants = script.wants();
    wants.retain(|want| want.starts_with("try"));
    assert_eq!(wants, ["try BLPOP k 0.002", "try BLPOP j 0.002"]);
    script.tried(&[WRONGTYPE]);
    script.tried(&[NULL]);
    assert!(script.wants().contains(&"tell error".to_owned()));
    assert_eq!(script.waits.waiting(), 1);
}

#[test]
fn a_look_that_is_lost_is_made_again_and_a_server_that_is_away_is_told_of() {
    let (mut script, _) = refused(&["BLPOP k 0"]);
    script.wants();
    let (look, _) = script.tries.remove(0);
    let lost = TryFailure::Lost { sent: true };
    script.waits.failed(look, lost, script.now);
    assert_eq!(script.wants(), ["release"]);
    script.pass(super::super::POLL_MICROS);
    assert_eq!(script.wants(), ["LLEN k"]);
    let (look, _) = script.tries.remove(0);
    script
        .waits
        .failed(look, TryFailure::Unreachable, script.now);
    assert_eq!(script.wants(), ["tell Unreachable"]);
}

#[test]
fn looks_take_a_small_share_of_the_servers_time() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BLPOP first 0");
    for client in 0..40 {
        let keys: Vec<_> = (0..50).map(|key| format!("{client}:{key}")).collect();
        script.joins(&format!("BLPOP {} 0", keys.join(" ")));
    }
    script.waits.answered(connection, NULL, script.now);
    script.wants();
    let (mut looks, mut issued, mut refusals) = (0, 0, 0);
    while script.now < 20 * SECOND {
        // Every key but the first is of another kind.
        for want in script.wants() {
            issued += usize::from(want.starts_with("issue"));
        }
        while let Some((attempt, calls)) = script.tries.first().copied() {
            script.tries.remove(0);
            looks += calls + 2;
            let answers = WRONGTYPE.repeat(calls + 2);
            script.waits.tried(attempt, &answers, script.now);
        }
        if script.waits.unblocking().contains(&connection) {
            script.waits.answered(connection, NULL, script.now);
        } else if refusals < 3 {
            refusals += 1;
            script.waits.answered(connection, WRONGTYPE, script.now);
        }
        script.pass(1_000);
    }
    // Two microseconds each.
    assert!((2_000..=200_000).contains(&looks), "{looks} in 20 s");
    assert!(issued < 50, "{issued}");
}

/// Has one wait for 60 keys, from `address`, in `state`.
fn waits_for_many(script: &mut WaitScript, client: usize, address: u64, state: u8) {
    let keys: Vec<_> = (0..60).map(|key| format!("{client}:{key}")).collect();
    waits_from(
        script,
        address,
        state,
        &format!("BLPOP {} 0", keys.join(" ")),
    );
}

fn waits_from(script: &mut WaitScript, address: u64, state: u8, line: &str) {
    let whose = WaitOrigin { group: 0, address };
    script.arrive_in(state, whose, line);
    script.wants();
    script.tried(&[NULL]);
}

/// Returns how long the key `mine` is not looked at, at most, while it and every other key is of another kind.
fn longest_unseen(script: &mut WaitScript) -> u64 {
    script.wants();
    script.borrows.clear();
    let (mut longest, mut seen) = (0, None);
    while script.now < 8 * SECOND {
        let due = script.waits.next_due().expect("something is due");
        script.pass(due.saturating_sub(script.now).max(1));
        loop {
            let mut wants = script.wants();
            wants.retain(|want| want.starts_with("LLEN") || want.starts_with("try"));
            if wants.is_empty() {
                break;
            }
            for want in wants {
                if want.starts_with("try") {
                    script.tried(&[WRONGTYPE]);
                    continue;
                }
                let keys = want.split(", ").count();
                looked(script, &vec![WRONGTYPE; keys]);
                if want.split(", ").any(|look| look == "LLEN mine") {
                    longest = longest.max(script.now - seen.unwrap_or(script.now));
                    seen = Some(script.now);
                }
            }
        }
    }
    longest.max(script.now - seen.expect("it is looked at"))
}

#[test]
fn a_key_is_looked_at_soon_however_many_of_others_are_of_another_kind() {
    let bound = 2 * super::super::POLL_MICROS;
    for others in [0, 1, 20, 100] {
        for (address, classes) in [(1, 1), (2, 1), (2, 50)] {
            let mut script = WaitScript::default();
            for client in 0..others {
                let state = (client % classes) as u8;
                waits_for_many(&mut script, client, 1, state);
            }
            waits_from(&mut script, address, 0, "BLPOP mine 0");
            let longest = longest_unseen(&mut script);
            let of = format!("{others} clients, {classes} classes, from {address}");
            assert!(longest <= bound, "{of}: {longest} µs");
        }
    }
}
