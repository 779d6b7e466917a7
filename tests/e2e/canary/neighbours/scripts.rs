//! Scripts without end, and the operator who kills them.

use std::time::{Duration, Instant};

use super::neighbour::Neighbour;
use super::rough::Rough;
use super::stage::Scene;
use crate::harness::{Client, PATIENCE, Value, encode};

/// A script lasts so long until the operator kills it. The server refuses what others ask of it only from half that time on
/// (`lua-time-limit`): until then they wait.
const LASTS: Duration = Duration::from_secs(2);

pub(super) const BUSY_FROM_MS: &str = "1000";

/// Counts scripts whose operator was not heard: they were killed over a direct connection.
pub(super) const UNHEARD: &str = "SCRIPT KILL not heard";

/// The operator tries for so long: less than others bear, however long that takes on a busy machine.
const TRIES: Duration = Duration::from_secs(PATIENCE.as_secs() / 2);

pub(super) fn begin_and_kill(neighbour: &mut Neighbour<'_>) {
    let mut standing: Option<Client> = None;
    while neighbour.await_turn_in(Scene::EndlessScript) {
        let mut operator = standing
            .take()
            .unwrap_or_else(|| Client::connect(neighbour.address));
        operator.ping();
        let Some(mut rough) = neighbour.connect() else {
            continue;
        };
        rough.send_all(&encode(&["EVAL", "while true do end", "0"]));
        neighbour.rest(LASTS.as_millis() as u64);
        if kill(&mut operator) {
            standing = Some(operator);
        } else {
            // What it is still owed would come where another reply is awaited.
            neighbour.note(UNHEARD);
        }
        neighbour.done();
        end(neighbour, rough);
    }
}

/// Ends a turn in which one script has run.
fn end(neighbour: &Neighbour<'_>, rough: Rough) {
    while neighbour.rest(1_000) {}
    drop(rough);
}

/// Asks until the server says that it has killed the script.
fn kill(operator: &mut Client) -> bool {
    let start = Instant::now();
    while start.elapsed() < TRIES {
        operator.send(encode(&["SCRIPT", "KILL"]));
        match operator.reply_within(TRIES) {
            Some(reply) if reply == Value::ok() => return true,
            Some(reply) if reply.is_error() => {}
            Some(reply) => panic!("SCRIPT KILL: {reply:?}"),
            None => return false,
        }
    }
    false
}
