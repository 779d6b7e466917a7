//! Neighbours that ask for more than their share, and leave before they have it.

use super::MIDDLING_KEY;
use super::neighbour::Neighbour;
use super::rough::{Attempt, Rough};
use super::stage::Scene;
use crate::harness::encode;

/// One pipeline carries this number of requests.
const SCRIPTS: usize = 10_000;

/// The neighbour asks for this number of values of 200 KB; the server itself holds all of them for a client that does not read.
const LARGE_REPLIES: usize = 2_000;

/// A loop whose turns take the server about a third of a millisecond.
const LOOP: &str = "for i = 1, 30000 do end";

/// Sends as much of a pipeline as is taken while its turn lasts, reads nothing, waits a moment and is gone.
fn pipe(neighbour: &mut Neighbour<'_>, scene: Scene, request: &[u8], count: usize) {
    let pipeline = request.repeat(count);
    while neighbour.await_turn_in(scene) {
        let Some(mut rough) = neighbour.connect() else {
            continue;
        };
        send_what_is_taken(neighbour, &mut rough, &pipeline);
        neighbour.done();
        neighbour.rest(400);
        rough.reset();
        neighbour.rest(100);
    }
}

/// Sends until all is taken, nothing has been taken for a second, or the turn is over.
fn send_what_is_taken(neighbour: &Neighbour<'_>, rough: &mut Rough, mut bytes: &[u8]) {
    let mut refused = 0;
    while !bytes.is_empty() && refused < 50 && neighbour.is_its_turn() {
        match rough.send(bytes) {
            Attempt::Some(length) => (bytes, refused) = (&bytes[length..], 0),
            Attempt::Nothing => refused += 1,
            Attempt::Ended => return,
        }
    }
}

pub(super) fn pipe_scripts(neighbour: &mut Neighbour<'_>) {
    pipe(
        neighbour,
        Scene::Pipelines,
        &encode(&["EVAL", LOOP, "0"]),
        SCRIPTS,
    );
}

pub(super) fn pipe_large_replies(neighbour: &mut Neighbour<'_>) {
    pipe(
        neighbour,
        Scene::Pipelines,
        &encode(&["GET", MIDDLING_KEY]),
        LARGE_REPLIES,
    );
}

/// Sends commands that respool answers itself, many more than it reads replies.
pub(super) fn flood(neighbour: &mut Neighbour<'_>) {
    let name = "f".repeat(1_000);
    let mut bytes = encode(&["CLIENT", "SETNAME", &name]);
    for number in 0..10_000 {
        let command = ["GETNAME", "ID", "INFO"][number % 3];
        bytes.extend(encode(&["CLIENT", command]));
    }
    bytes.extend(encode(&["CLIENT", "LIST"]).repeat(10));
    while neighbour.await_turn() {
        let Some(mut rough) = neighbour.connect() else {
            continue;
        };
        rough.read_little();
        send_what_is_taken(neighbour, &mut rough, &bytes);
        neighbour.done();
        neighbour.rest(1_000);
    }
}

/// Publishes messages for those that do not read them.
pub(super) fn publish(neighbour: &mut Neighbour<'_>) {
    let message = "m".repeat(50_000);
    let request = encode(&["PUBLISH", "flood", &message]);
    let mut buffer = [0; 4096];
    while neighbour.await_turn() {
        let Some(mut rough) = neighbour.connect() else {
            continue;
        };
        while rough.send_all(&request) && neighbour.rest(20) {
            if rough.read(&mut buffer) == Attempt::Ended {
                break;
            }
            neighbour.done();
        }
    }
}
