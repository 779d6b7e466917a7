//! Neighbours that go on, slowly.

use super::neighbour::Neighbour;
use super::rough::Attempt;
use super::{LARGE_KEY, LARGE_VALUE_BYTES, large_value_byte};
use crate::harness::encode;

/// Counts slow readers that were cut off though they went on reading.
pub(super) const CUT: &str = "slow readers cut off";

/// Uploads a value of 200 KB by 100 bytes at a time.
pub(super) fn dribble(neighbour: &mut Neighbour<'_>) {
    let key = format!("dribble {}", neighbour.number);
    let request = encode(&["SET", &key, &"d".repeat(200_000), "EX", "100"]);
    while neighbour.await_turn() {
        let Some(mut rough) = neighbour.connect() else {
            continue;
        };
        let (first, rest) = request.split_at(100_000);
        let mut goes_on = rough.send_all(first);
        for piece in rest.chunks(100) {
            if !goes_on {
                break;
            }
            goes_on = rough.send_all(piece) && neighbour.rest_in_any_turn(10);
            neighbour.await_turn();
            neighbour.done();
        }
    }
}

/// Reads a value of many megabytes by a few kilobytes at a time. What it reads must be that value, to its end.
pub(super) fn read_slowly(neighbour: &mut Neighbour<'_>) {
    let head = format!("${LARGE_VALUE_BYTES}\r\n");
    let length = head.len() + LARGE_VALUE_BYTES + 2;
    let mut buffer = vec![0; 128 * 1024];
    while neighbour.await_turn() {
        let Some(mut rough) = neighbour.connect() else {
            continue;
        };
        rough.read_little();
        if !rough.send_all(&encode(&["GET", LARGE_KEY])) {
            continue;
        }
        let mut have = 0;
        while have < length {
            match rough.read(&mut buffer) {
                Attempt::Some(count) => {
                    if have == 0 && buffer[0] == b'-' {
                        // Refused while a script does not end.
                        break;
                    }
                    check(&head, &buffer[..count], have);
                    have += count;
                }
                Attempt::Nothing if neighbour.stage.has_ended() => return,
                Attempt::Nothing => {}
                Attempt::Ended => {
                    neighbour.note(CUT);
                    break;
                }
            }
            if !neighbour.rest_in_any_turn(5) {
                return;
            }
        }
        if have >= length {
            neighbour.done();
        }
    }
}

fn check(head: &str, bytes: &[u8], from: usize) {
    let end = head.len() + LARGE_VALUE_BYTES;
    for (at, byte) in (from..).zip(bytes) {
        let expected = match at {
            _ if at < head.len() => head.as_bytes()[at],
            _ if at < end => large_value_byte(at - head.len()),
            _ => b"\r\n"[at - end],
        };
        assert!(
            *byte == expected,
            "byte {at} of a large reply is {byte}, not {expected}"
        );
    }
}
