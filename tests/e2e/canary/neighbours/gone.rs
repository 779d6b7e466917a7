//! Neighbours that reset their connections: while one is dialled for them, and in every wait.

use super::neighbour::Neighbour;
use crate::harness::encode;

pub(super) fn reset_while_dialling(neighbour: &mut Neighbour<'_>) {
    let request = encode(&["MULTI"]);
    while neighbour.await_turn() {
        let Some(mut rough) = neighbour.connect() else {
            continue;
        };
        rough.send_all(&request);
        if neighbour.draw(2) == 0 {
            neighbour.rest(1);
        }
        rough.reset();
        neighbour.done();
        neighbour.rest(5);
    }
}

/// Encodes what a client waits for, in whole and in part.
fn waits(number: u64) -> Vec<u8> {
    let large = "v".repeat(100_000);
    let typed = |commands: &[&[&str]]| -> Vec<u8> {
        commands
            .iter()
            .flat_map(|command| encode(command))
            .collect()
    };
    match number {
        0 => typed(&[&["BLPOP", "nowhere", "0"]]),
        1 => typed(&[&["BLMOVE", "nowhere", "nowhere either", "LEFT", "LEFT", "0"]]),
        2 => typed(&[&["XREAD", "BLOCK", "0", "STREAMS", "nowhere", "$"]]),
        3 => typed(&[&["SUBSCRIBE", "gone"]]),
        4 => typed(&[&["WATCH", "nowhere"], &["GET", "nowhere"]]),
        5 => typed(&[&["MULTI"], &["SET", "nowhere else", "1"]]),
        6 => typed(&[&["SET", "gone", &large, "EX", "1"]]),
        7 => typed(&[&["SET", "gone", &large, "EX", "1"]])[..90_000].to_vec(),
        8 => typed(&[&["WAIT", "1", "0"]]),
        9 => typed(&[&["SELECT", "9"], &["GET", "whoami"]]),
        10 => typed(&[
            &["HELLO", "3"],
            &["CLIENT", "TRACKING", "ON"],
            &["GET", "whoami"],
        ]),
        11 => typed(&[&["EVAL", "return redis.call('GET', 'whoami')", "0"]]).repeat(50),
        12 => typed(&[&["MULTI"], &["GET", "whoami"], &["EXEC"]]),
        13 => typed(&[&["BLMPOP", "0", "1", "nowhere", "LEFT"]]),
        14 => typed(&[&["MONITOR"]]),
        _ => typed(&[&["GET", "whoami"]]).repeat(200),
    }
}

pub(super) fn reset_in_every_wait(neighbour: &mut Neighbour<'_>) {
    let mut next = 0;
    while neighbour.await_turn() {
        let Some(mut rough) = neighbour.connect() else {
            continue;
        };
        rough.send_all(&waits(next % 16));
        next += 1;
        let patience = neighbour.draw(20);
        neighbour.rest(patience);
        rough.reset();
        neighbour.done();
    }
}
