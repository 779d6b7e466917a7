//! Neighbours that begin something and do not go on: they hold what they were given for as long as they may.

use super::neighbour::Neighbour;
use super::rough::Rough;
use super::{LARGE_KEY, NAME_BYTES};
use crate::harness::encode;

/// Sends these bytes and then nothing, until the other side ends the connection or the run is over; then does so again.
fn hold(neighbour: &mut Neighbour<'_>, bytes: &[u8], prepare: fn(&Rough)) {
    while neighbour.await_turn() {
        let Some(mut rough) = neighbour.connect() else {
            continue;
        };
        prepare(&rough);
        if !rough.send_all(bytes) {
            continue;
        }
        neighbour.done();
        while neighbour.rest_in_any_turn(100) && !rough.has_ended() {}
        // It does not come again faster than a client that was turned away would.
        neighbour.rest_in_any_turn(200);
    }
}

/// Sends the head of a SET of 10 MB and 80 KB of it.
pub(super) fn stall_in_an_upload(neighbour: &mut Neighbour<'_>) {
    let key = format!("upload {}", neighbour.number);
    let mut bytes = format!(
        "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n$10000000\r\n",
        key.len()
    );
    bytes.push_str(&"u".repeat(80 * 1024));
    hold(neighbour, bytes.as_bytes(), |_| {});
}

pub(super) fn stall_in_a_handshake(neighbour: &mut Neighbour<'_>) {
    let beginnings = [
        "*",
        "*3\r\n$5\r\nHEL",
        "*2\r\n$4\r\nAUTH\r\n$100\r\nabc",
        "PIN",
    ];
    let bytes = beginnings[neighbour.number % beginnings.len()];
    hold(neighbour, bytes.as_bytes(), |_| {});
}

pub(super) fn say_nothing(neighbour: &mut Neighbour<'_>) {
    hold(neighbour, b"", |_| {});
}

pub(super) fn stay_in_a_transaction(neighbour: &mut Neighbour<'_>) {
    let bytes = [encode(&["MULTI"]), encode(&["GET", "whoami"])].concat();
    hold(neighbour, &bytes, |_| {});
}

pub(super) fn stay_watching(neighbour: &mut Neighbour<'_>) {
    hold(neighbour, &encode(&["WATCH", "whoami"]), |_| {});
}

/// Sends a name as long as a book's chapter, and a flood of requests for it.
pub(super) fn bear_a_large_name(neighbour: &mut Neighbour<'_>) {
    let name = "n".repeat(NAME_BYTES);
    let mut bytes = encode(&["CLIENT", "SETNAME", &name]);
    for _ in 0..100 {
        bytes.extend(encode(&["CLIENT", "GETNAME"]));
    }
    hold(neighbour, &bytes, Rough::read_little);
}

pub(super) fn leave_messages_unread(neighbour: &mut Neighbour<'_>) {
    let bytes = [
        encode(&["SUBSCRIBE", "flood"]),
        encode(&["PSUBSCRIBE", "flo*"]),
    ]
    .concat();
    hold(neighbour, &bytes, Rough::read_little);
}

pub(super) fn leave_a_large_reply_unread(neighbour: &mut Neighbour<'_>) {
    hold(neighbour, &encode(&["GET", LARGE_KEY]), Rough::read_little);
}
