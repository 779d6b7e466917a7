//! Subscribers among the canaries: they come and go among channels, publish to each other, and go on with commands where they may.

use std::time::Instant;

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::bird::{Batch, Bird, is_refusal};
use super::ears::Ears;
use super::expect::{Expect, Mismatch};
use super::operations::{self, quit};
use super::species::Operation;
use super::subscriptions::{
    COMMON_CHANNELS, Delivery, Kind, OWN_CHANNELS, Subscriptions, Voice, kinds, names,
};
use super::wire::Gone;
use crate::harness::{PATIENCE, TESTED_SERVER, Value, encode};

/// Counts messages heard, and messages that had to be heard and were, in the notes of the flock.
pub(super) const HEARD: &str = "messages heard";
pub(super) const OWED: &str = "messages owed and heard";

const LONG_MESSAGE: usize = 20 * 1024;

const LARGE_REPLY: usize = 200 * 1024;

pub(super) const OPERATIONS: [(&str, u32, Operation); 7] = [
    ("subscriptions, then none", 8, unsubscribe_from_all),
    ("subscriptions, then RESET", 3, reset),
    ("subscriptions, then QUIT", 2, quit_subscribed),
    ("subscriptions, then gone", 2, leave_subscribed),
    ("subscriptions, then CLIENT KILL", 2, be_killed),
    ("commands of a former subscriber", 5, operations::commands),
    ("QUIT of a former subscriber", 1, quit),
];

/// Lives a subscriber's life up to its end: subscriptions that change, and everything a subscriber may do.
fn live(bird: &mut Bird<'_>) -> Result<(), Gone> {
    bird.ears = Ears::Subscribed(Subscriptions::new(bird.number));
    let mut refused = false;
    for _ in 0..bird.rng.random_range(4..20) {
        let phase = bird.flock.phase();
        bird.session.begin(phase);
        match bird.rng.random_range(0..14) {
            0..4 => subscribe(bird)?,
            4..6 => unsubscribe(bird)?,
            6..8 => publish(bird)?,
            8 => ping(bird)?,
            9 => commands(bird)?,
            // Reads nothing, while others publish.
            10 => bird.pause(40),
            11 => switch_protocol(bird)?,
            _ => hear_all(bird)?,
        }
        refused |= bird.session.refused;
    }
    bird.session.refused = refused;
    let heard = std::mem::take(&mut bird.ears.subscriptions().heard);
    bird.flock.note(HEARD, heard);
    Ok(())
}

/// Tells whether it may do little but subscribe.
fn is_listening(bird: &mut Bird<'_>) -> bool {
    !bird.session.resp3 && bird.ears.subscriptions().any()
}

fn kind(bird: &mut Bird<'_>) -> Kind {
    kinds()[bird.rng.random_range(0..kinds().len())]
}

fn some_of(bird: &mut Bird<'_>, from: &[String]) -> Vec<String> {
    let count = bird.rng.random_range(1..4);
    from.choose_multiple(&mut bird.rng, count)
        .cloned()
        .collect()
}

fn check(bird: &Bird<'_>, checked: Result<(), Mismatch>, reply: &Value) {
    if let Err(Mismatch(why)) = checked {
        bird.wrong(&why, reply);
    }
}

fn subscribe(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let kind = kind(bird);
    let topics = some_of(bird, &names(kind, bird.number));
    let mut args = vec![kind.subscribe().to_owned()];
    args.extend_from_slice(&topics);
    bird.send_in_pieces(&encode(&args))?;
    for topic in &topics {
        let reply = bird.reply()?;
        if is_refusal(&reply) {
            // The whole command, and none of it was done.
            bird.session.refused = true;
            break;
        }
        let checked = bird.ears.subscriptions().subscribed(kind, topic, &reply);
        check(bird, checked, &reply);
    }
    bird.hear_what_came();
    Ok(())
}

fn unsubscribe(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let kind = kind(bird);
    if bird.rng.random_range(0..4) == 0 {
        return unsubscribe_from(bird, kind);
    }
    // Some of them it may not be subscribed to; that is confirmed too.
    let topics = some_of(bird, &names(kind, bird.number));
    let mut args = vec![kind.unsubscribe().to_owned()];
    args.extend_from_slice(&topics);
    bird.send_in_pieces(&encode(&args))?;
    for topic in &topics {
        let reply = bird.reply()?;
        let checked = bird.ears.subscriptions().unsubscribed(kind, topic, &reply);
        check(bird, checked, &reply);
    }
    bird.hear_what_came();
    Ok(())
}

/// Unsubscribes from everything of a kind.
fn unsubscribe_from(bird: &mut Bird<'_>, kind: Kind) -> Result<(), Gone> {
    let confirmations = bird.ears.subscriptions().topics(kind).len().max(1);
    bird.send_in_pieces(&encode(&[kind.unsubscribe()]))?;
    for _ in 0..confirmations {
        let reply = bird.reply()?;
        let checked = bird.ears.subscriptions().unsubscribed_any(kind, &reply);
        check(bird, checked, &reply);
    }
    bird.hear_what_came();
    Ok(())
}

/// Encodes a new message of this voice, and tells its number.
fn message(voice: &mut Voice, kind: Kind, channel: &str, length: usize) -> ([String; 3], u64) {
    let (said, sequence) = voice.say(kind, channel, length);
    (
        [kind.publish().to_owned(), channel.to_owned(), said],
        sequence,
    )
}

fn draw_length(bird: &mut Bird<'_>) -> usize {
    match bird.rng.random_range(0..8) {
        0 => LONG_MESSAGE,
        _ => 1,
    }
}

/// Publishes on channels of its own and of all, subscribed to or not.
fn publish(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let is_beside = is_listening(bird) || bird.rng.random_range(0..3) == 0;
    let mut batch = Batch::default();
    for _ in 0..bird.rng.random_range(1..6) {
        let kind = kind(bird);
        let channel = match bird.rng.random_range(0..3) {
            0 => format!(
                "c{}.{}",
                bird.number,
                bird.rng.random_range(0..OWN_CHANNELS)
            ),
            _ => format!("common.{}", bird.rng.random_range(0..COMMON_CHANNELS)),
        };
        let length = draw_length(bird);
        if is_beside {
            let (args, _) = message(&mut bird.other_voice, kind, &channel, length);
            bird.beside(&args);
        } else {
            let (args, _) = message(&mut bird.voice, kind, &channel, length);
            batch.add(&args, Expect::Number);
        }
    }
    bird.exchange(batch)
}

fn ping(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let token = bird.token();
    if is_listening(bird) {
        let pong = |text: &str| Value::Array(vec![Value::bulk("pong"), Value::bulk(text)]);
        bird.one(&["PING"], Expect::Local(pong("")))?;
        return bird.one(&["PING", &token], Expect::Local(pong(&token)));
    }
    bird.one(&["PING", &token], Expect::Is(Value::bulk(&token)))
}

/// Sends ordinary commands with large replies, or their refusal.
fn commands(bird: &mut Bird<'_>) -> Result<(), Gone> {
    if is_listening(bird) {
        let of = if TESTED_SERVER.is_7_or_later() {
            "P|S"
        } else {
            "P"
        };
        let text = format!(
            "ERR Can't execute 'get': only ({of})SUBSCRIBE / ({of})UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
        );
        return bird.one(&["GET", "whoami"], Expect::Local(Value::error(&text)));
    }
    let mut batch = bird.random_batch();
    let token = bird.token();
    let large = token.repeat(LARGE_REPLY / token.len());
    batch.add(&["ECHO", &large], Expect::Is(Value::bulk(&large)));
    batch.add(&["GET", "whoami"], Expect::Mark);
    bird.exchange(batch)
}

/// Changes to the other protocol, if the one it is in lets it.
fn switch_protocol(bird: &mut Bird<'_>) -> Result<(), Gone> {
    if is_listening(bird) {
        return Ok(());
    }
    let resp3 = !bird.session.resp3;
    let version = if resp3 { "3" } else { "2" };
    bird.one(&["HELLO", version], Expect::Hello { resp3, name: None })
}

/// Publishes on a channel of its own. If the server had every subscription to it and no subscription connection is killed until
/// then, each message comes through each of them.
fn hear_all(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let kind = kind(bird);
    let channel = format!(
        "c{}.{}",
        bird.number,
        bird.rng.random_range(0..OWN_CHANNELS)
    );
    let ways = bird.ears.subscriptions().ways(kind, &channel);
    let Some(moment) = bird.flock.quiet_moment() else {
        return Ok(());
    };
    let mut owed: Vec<Delivery> = Vec::new();
    for _ in 0..bird.rng.random_range(2..12) {
        let publisher = bird.other_voice.name.clone();
        let length = draw_length(bird);
        let (args, sequence) = message(&mut bird.other_voice, kind, &channel, length);
        // How many subscriptions the server had for it; each of them has the message on its way now.
        match bird.beside(&args) {
            Some(Value::Int(receivers)) if receivers >= ways.len() as i64 => {
                owed.extend(
                    ways.iter()
                        .map(|(kind, topic)| (*kind, topic.clone(), publisher.clone(), sequence)),
                );
            }
            _ => break,
        }
    }
    let count = owed.len();
    bird.ears.subscriptions().owed = owed.into_iter().collect();
    let start = Instant::now();
    while !bird.ears.subscriptions().owed.is_empty() {
        bird.listen()?;
        let is_missing = bird.ears.subscriptions().has_left_out() || start.elapsed() > PATIENCE;
        if bird.flock.quiet_moment() != Some(moment) {
            bird.ears.subscriptions().owed.clear();
            return Ok(());
        }
        if is_missing {
            bird.wrong(
                "a message that the server has sent did not come",
                &Value::Null,
            );
        }
    }
    bird.flock.note(OWED, count);
    Ok(())
}

fn unsubscribe_from_all(bird: &mut Bird<'_>) -> Result<(), Gone> {
    live(bird)?;
    let refused = bird.session.refused;
    for &kind in kinds() {
        unsubscribe_from(bird, kind)?;
    }
    // From here on nothing may come unasked.
    bird.ears = Ears::Closed;
    let mut batch = bird.random_batch();
    batch.add(&["GET", "whoami"], Expect::Mark);
    bird.exchange(batch)?;
    bird.session.refused |= refused;
    Ok(())
}

fn reset(bird: &mut Bird<'_>) -> Result<(), Gone> {
    live(bird)?;
    let refused = bird.session.refused;
    bird.wire.send(&encode(&["RESET"]))?;
    bird.answer(Expect::Reset)?;
    bird.ears = Ears::Closed;
    bird.hear_what_came();
    let mut batch = bird.random_batch();
    batch.add(&["GET", "whoami"], Expect::Mark);
    bird.exchange(batch)?;
    bird.session.refused |= refused;
    Ok(())
}

fn quit_subscribed(bird: &mut Bird<'_>) -> Result<(), Gone> {
    live(bird)?;
    bird.wire.send(&encode(&["QUIT"]))?;
    bird.answer(Expect::Local(Value::ok()))?;
    bird.await_the_end();
    Ok(())
}

fn leave_subscribed(bird: &mut Bird<'_>) -> Result<(), Gone> {
    live(bird)?;
    if bird.rng.random() {
        // Amid a command that changes its subscriptions.
        let request = encode(&["PSUBSCRIBE", "common.*", &format!("c{}.*", bird.number)]);
        let cut = bird.rng.random_range(1..=request.len());
        bird.wire.send(&request[..cut])?;
    }
    bird.leave();
    Ok(())
}

fn be_killed(bird: &mut Bird<'_>) -> Result<(), Gone> {
    live(bird)?;
    bird.be_killed();
    Ok(())
}
