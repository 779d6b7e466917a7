//! Waiters among the canaries: they push elements for each other and wait for them, each on keys of its own and of all.

use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::bird::{Bird, is_refusal};
use super::expect::{Expect, Mismatch};
use super::ledger::{Holds, Place, Way};
use super::operations::commands;
use super::species::Operation;
use super::wait::{Call, Handed};
use super::wire::Gone;
use crate::harness::{TESTED_SERVER, Value, encode};

/// The longest a canary waits: long enough for many to wait at once, on few connections to the server.
const LONGEST_WAIT_MS: u64 = 1500;

/// A client that is to be unblocked waits this long.
const UNBLOCKED_WITHIN: Duration = Duration::from_secs(2);

/// A server's clock may tell the end of a wait too early: it counts in whole milliseconds.
const CLOCK: Duration = Duration::from_millis(5);

/// Counts waits that ended with nothing, in the notes of the flock.
pub(super) const NOTHING: &str = "waits that ended with nothing";

/// This number of databases have elements.
pub(super) const DATABASES: u32 = 2;

/// Is where moved elements go, in each of them.
pub(super) const MOVED: &str = "common.moved";

pub(super) const GROUP: &str = "flock";

pub(super) const OPERATIONS: [(&str, u32, Operation); 11] = [
    ("push", 11, push),
    ("wait for a list", 7, pop),
    ("wait for a sorted set", 5, pop_sorted),
    ("wait to move", 3, move_one),
    ("wait for several", 3, pop_several),
    ("wait for several of a sorted set", 3, pop_several_sorted),
    ("wait for a stream", 3, read),
    ("wait in a group", 4, read_in_group),
    ("be unblocked", 3, be_unblocked),
    ("end while waiting", 3, end_while_waiting),
    ("commands of a waiter", 3, commands),
];

/// Names the stream of a database whose elements are shared out in a group.
pub(super) fn group_stream(database: u32) -> Place {
    place(Holds::Group, database, "common.g")
}

fn place(holds: Holds, database: u32, key: &str) -> Place {
    Place {
        holds,
        database,
        key: key.to_owned(),
    }
}

/// Draws a key that holds such elements: a common one, or, of those that are popped, one of its own.
fn draw_place(bird: &mut Bird<'_>, holds: Holds) -> Place {
    let own = bird.rng.random_range(0..3) == 0;
    let common = bird.rng.random_range(0..3);
    let key = match holds {
        Holds::List if own => format!("c{}.list", bird.number),
        Holds::Sorted if own => format!("c{}.sorted", bird.number),
        Holds::List => format!("common.list.{common}"),
        Holds::Sorted => format!("common.sorted.{common}"),
        Holds::Stream => "common.stream".to_owned(),
        Holds::Group => return group_stream(bird.session.database),
    };
    place(holds, bird.session.database, &key)
}

fn draw_places(bird: &mut Bird<'_>, holds: Holds) -> Vec<Place> {
    let count = bird.rng.random_range(1..4);
    let mut places: Vec<Place> = (0..count).map(|_| draw_place(bird, holds)).collect();
    // In the order in which they were drawn; keys shared with others come in another order there.
    let mut known = std::collections::HashSet::new();
    places.retain(|place| known.insert(place.clone()));
    places
}

/// Goes to one of the databases with elements; false when that was refused.
fn settle_down(bird: &mut Bird<'_>) -> Result<bool, Gone> {
    if bird.session.database >= DATABASES {
        let database = bird.rng.random_range(0..DATABASES);
        bird.one(&["SELECT", &database.to_string()], Expect::Select(database))?;
    }
    Ok(!bird.session.refused)
}

/// Makes one command that pushes some new elements, and these.
fn pushing(bird: &mut Bird<'_>, place: &Place, phase: usize) -> (Vec<String>, Vec<String>) {
    let count = match place.holds {
        Holds::List | Holds::Sorted => bird.rng.random_range(1..4),
        Holds::Stream | Holds::Group => 1,
    };
    let elements: Vec<String> = (0..count)
        .map(|_| bird.flock.ledger.register(place, phase))
        .collect();
    let mut args: Vec<String> = match place.holds {
        Holds::List => [["LPUSH", "RPUSH"][bird.rng.random_range(0..2)], &place.key]
            .map(str::to_owned)
            .to_vec(),
        Holds::Sorted => ["ZADD", &place.key].map(str::to_owned).to_vec(),
        Holds::Stream | Holds::Group => ["XADD", &place.key, "*", "f"].map(str::to_owned).to_vec(),
    };
    for element in &elements {
        if place.holds == Holds::Sorted {
            args.push(score(element));
        }
        args.push(element.clone());
    }
    (args, elements)
}

/// Tells the score of an element, which is its number.
fn score(element: &str) -> String {
    element
        .chars()
        .skip(1)
        .take_while(char::is_ascii_digit)
        .collect()
}

fn is_same_phase(bird: &Bird<'_>, phase: usize) -> bool {
    phase.is_multiple_of(2) && phase == bird.flock.phase()
}

fn push(bird: &mut Bird<'_>) -> Result<(), Gone> {
    if !settle_down(bird)? {
        return Ok(());
    }
    for _ in 0..bird.rng.random_range(1..4) {
        let kinds = [
            Holds::List,
            Holds::List,
            Holds::Sorted,
            Holds::Sorted,
            Holds::Stream,
            Holds::Group,
        ];
        let holds = *kinds.choose(&mut bird.rng).expect("there are kinds");
        let place = draw_place(bird, holds);
        let phase = bird.flock.phase();
        let (args, elements) = pushing(bird, &place, phase);
        bird.send_in_pieces(&encode(&args))?;
        let reply = bird.reply()?;
        let fits = match place.holds {
            Holds::List | Holds::Sorted => matches!(reply, Value::Int(_)),
            Holds::Stream | Holds::Group => matches!(reply, Value::Bulk(_)),
        };
        if is_refusal(&reply) {
            elements
                .iter()
                .for_each(|element| bird.flock.ledger.refused(element));
            bird.session.refused = true;
        } else if !fits {
            bird.wrong(&format!("to {args:?}"), &reply);
        } else if is_same_phase(bird, phase) {
            elements
                .iter()
                .for_each(|element| bird.flock.ledger.pushed(element));
        }
        bird.hear_what_came();
    }
    Ok(())
}

/// Pushes something over the second connection into one of the places that are waited for.
fn feed(bird: &mut Bird<'_>, call: &Call) {
    let place = call.places[0].clone();
    let phase = bird.flock.phase();
    let (args, elements) = pushing(bird, &place, phase);
    if let Some(reply) = bird.beside(&args) {
        if reply.is_error() {
            bird.wrong(&format!("to {args:?}"), &reply);
        }
        if is_same_phase(bird, phase) {
            elements
                .iter()
                .for_each(|element| bird.flock.ledger.pushed(element));
        }
    }
}

fn draw_wait(bird: &mut Bird<'_>) -> Duration {
    Duration::from_millis(bird.rng.random_range(1..LONGEST_WAIT_MS))
}

fn pop(bird: &mut Bird<'_>) -> Result<(), Gone> {
    wait(bird, |bird, limit| {
        let verb = ["BLPOP", "BRPOP"][bird.rng.random_range(0..2)];
        Call::pop(verb, draw_places(bird, Holds::List), limit)
    })
}

fn pop_sorted(bird: &mut Bird<'_>) -> Result<(), Gone> {
    wait(bird, |bird, limit| {
        let verb = ["BZPOPMIN", "BZPOPMAX"][bird.rng.random_range(0..2)];
        Call::pop(verb, draw_places(bird, Holds::Sorted), limit)
    })
}

fn move_one(bird: &mut Bird<'_>) -> Result<(), Gone> {
    wait(bird, |bird, limit| {
        let ends = ["LEFT", "RIGHT"];
        let [from, to] = [0; 2].map(|_| ends[bird.rng.random_range(0..2)]);
        let rotates = bird.rng.random_range(0..3) == 0;
        let place = draw_place(bird, Holds::List);
        if rotates {
            Call::rotate(place, MOVED, limit)
        } else {
            Call::relocate(place, MOVED, [from, to], limit)
        }
    })
}

fn pop_several(bird: &mut Bird<'_>) -> Result<(), Gone> {
    if !TESTED_SERVER.is_7_or_later() {
        return pop(bird);
    }
    wait(bird, |bird, limit| {
        let end = ["LEFT", "RIGHT"][bird.rng.random_range(0..2)];
        let most = bird.rng.random_range(1..4);
        Call::pop_several("BLMPOP", draw_places(bird, Holds::List), end, most, limit)
    })
}

fn pop_several_sorted(bird: &mut Bird<'_>) -> Result<(), Gone> {
    if !TESTED_SERVER.is_7_or_later() {
        return pop_sorted(bird);
    }
    wait(bird, |bird, limit| {
        let end = ["MIN", "MAX"][bird.rng.random_range(0..2)];
        let most = bird.rng.random_range(1..4);
        Call::pop_several("BZMPOP", draw_places(bird, Holds::Sorted), end, most, limit)
    })
}

fn read_in_group(bird: &mut Bird<'_>) -> Result<(), Gone> {
    wait(bird, |bird, limit| {
        let most = bird.rng.random_range(1..4);
        let consumer = format!("c{}", bird.number);
        Call::read_in_group(
            group_stream(bird.session.database),
            GROUP,
            &consumer,
            most,
            limit,
        )
    })
}

/// Waits until it ends with what is handed to this client and to nobody else, or at its time.
fn wait(bird: &mut Bird<'_>, draw: fn(&mut Bird<'_>, Duration) -> Call) -> Result<(), Gone> {
    if !settle_down(bird)? {
        return Ok(());
    }
    let limit = draw_wait(bird);
    let call = draw(bird, limit);
    let phase = bird.flock.phase();
    let waited = wait_for(bird, &call, phase);
    if waited.is_err() {
        // What it was handed went down with its connection.
        taken(bird, &call, phase);
    }
    waited
}

fn taken(bird: &Bird<'_>, call: &Call, phase: usize) {
    for place in &call.places {
        bird.flock.ledger.taken(place, phase, call.most);
    }
}

fn wait_for(bird: &mut Bird<'_>, call: &Call, phase: usize) -> Result<(), Gone> {
    let start = Instant::now();
    bird.send_in_pieces(&encode(&call.args))?;
    if bird.rng.random_range(0..4) == 0 {
        bird.pause(5);
        feed(bird, call);
    }
    let reply = bird.reply()?;
    if reply.is_null() {
        ended_with_nothing(bird, call, start, &reply);
    } else if let Some(handed) = handed(bird, call, phase, &reply) {
        receive(bird, call, &handed, &reply);
        if call.places[0].holds == Holds::Group {
            acknowledge(bird, call, &handed)?;
        }
    }
    let refused = bird.session.refused;
    bird.hear_what_came();
    bird.one(&["GET", "whoami"], Expect::Mark)?;
    bird.session.refused |= refused;
    Ok(())
}

/// Tells what the reply hands out; `None` for an error that may be.
fn handed(bird: &mut Bird<'_>, call: &Call, phase: usize, reply: &Value) -> Option<Vec<Handed>> {
    if is_refusal(reply) {
        bird.session.refused = true;
        return None;
    }
    if reply.text().starts_with("NOGROUP") && !is_same_phase(bird, phase) {
        // The new server has no group yet.
        return None;
    }
    match call.handed(reply, bird.session.resp3) {
        Ok(handed) => Some(handed),
        Err(Mismatch(why)) => bird.wrong(&format!("{why}: to {:?}", call.args), reply),
    }
}

fn receive(bird: &Bird<'_>, call: &Call, handed: &[Handed], reply: &Value) {
    let way = if call.moves { Way::Moved } else { Way::Popped };
    for one in handed {
        let checked = if let Some(found) = &one.score
            && *found != score(&one.element)
        {
            Err(Mismatch("another's score".into()))
        } else if one.place.holds == Holds::Stream {
            bird.flock.ledger.seen(&one.element, &one.place)
        } else {
            bird.flock
                .ledger
                .received(&one.element, &one.place, way, bird.number)
        };
        if let Err(Mismatch(why)) = checked {
            bird.wrong(&format!("{why}: to {:?}", call.args), reply);
        }
    }
}

/// Checks for the null of its protocol, and not before its time.
fn ended_with_nothing(bird: &Bird<'_>, call: &Call, start: Instant, reply: &Value) {
    is_exact_null(bird, call, reply);
    if start.elapsed() + CLOCK < call.limit {
        bird.wrong(
            &format!("nothing after {:?}: to {:?}", start.elapsed(), call.args),
            reply,
        );
    }
    bird.flock.note(NOTHING, 1);
}

fn is_exact_null(bird: &Bird<'_>, call: &Call, reply: &Value) {
    let null = if bird.session.resp3 {
        Value::Null
    } else {
        Value::NullArray
    };
    if *reply != null {
        bird.wrong(&format!("not the null of {:?}", call.args), reply);
    }
}

fn acknowledge(bird: &mut Bird<'_>, call: &Call, handed: &[Handed]) -> Result<(), Gone> {
    let mut args: Vec<&str> = vec!["XACK", &call.places[0].key, GROUP];
    args.extend(handed.iter().filter_map(|one| one.id.as_deref()));
    bird.one(&args, Expect::Number)
}

/// Reads a stream that all read: everything behind what was asked for, as far as it read.
fn read(bird: &mut Bird<'_>) -> Result<(), Gone> {
    if !settle_down(bird)? {
        return Ok(());
    }
    let limit = draw_wait(bird);
    let place = draw_place(bird, Holds::Stream);
    let mut after = "$".to_owned();
    for _ in 0..bird.rng.random_range(1..4) {
        let phase = bird.flock.phase();
        let call = Call::read(place.clone(), &after, 20, limit);
        let start = Instant::now();
        bird.send_in_pieces(&encode(&call.args))?;
        if bird.rng.random_range(0..3) == 0 {
            feed(bird, &call);
        }
        let reply = bird.reply()?;
        if reply.is_null() {
            ended_with_nothing(bird, &call, start, &reply);
            continue;
        }
        let Some(handed) = handed(bird, &call, phase, &reply) else {
            break;
        };
        receive(bird, &call, &handed, &reply);
        let last = handed.last().and_then(|one| one.id.clone());
        let Some(last) = last.filter(|_| handed.len() <= 20) else {
            bird.wrong("not as many entries as asked for", &reply);
        };
        if after != "$" {
            nothing_left_out(bird, &after, &handed, phase)?;
        }
        if !is_same_phase(bird, phase) {
            break;
        }
        after = last;
    }
    Ok(())
}

/// Checks that between what was asked for and the last that was read, the stream holds what was read and nothing else.
fn nothing_left_out(
    bird: &mut Bird<'_>,
    after: &str,
    handed: &[Handed],
    phase: usize,
) -> Result<(), Gone> {
    let last = handed
        .last()
        .and_then(|one| one.id.as_deref())
        .unwrap_or("+");
    let key = &handed[0].place.key;
    bird.wire
        .send(&encode(&["XRANGE", key, &format!("({after}"), last]))?;
    let reply = bird.reply()?;
    if is_refusal(&reply) || !is_same_phase(bird, phase) {
        return Ok(());
    }
    let found: Vec<String> = reply
        .items()
        .iter()
        .map(|entry| entry.items()[0].text())
        .collect();
    let read: Vec<String> = handed.iter().filter_map(|one| one.id.clone()).collect();
    if found != read {
        bird.wrong(&format!("read {read:?}, while there were"), &reply);
    }
    Ok(())
}

/// Waits for what nobody pushes, and is told by another connection to stop.
fn be_unblocked(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let Some(id) = bird.session.id() else {
        return Ok(());
    };
    let nowhere = place(Holds::List, bird.session.database, &bird.token());
    let call = Call::pop("BLPOP", vec![nowhere], UNBLOCKED_WITHIN);
    let mode = ["", "TIMEOUT", "ERROR"][bird.rng.random_range(0..3)];
    let mut args = ["CLIENT", "UNBLOCK"].map(str::to_owned).to_vec();
    args.push(id.to_string());
    args.extend((!mode.is_empty()).then(|| mode.to_owned()));
    let start = Instant::now();
    bird.wire.send(&encode(&call.args))?;
    let told = loop {
        match bird.beside(&args) {
            Some(Value::Int(1)) => break Some(true),
            Some(Value::Int(0)) if start.elapsed() < UNBLOCKED_WITHIN => bird.pause(2),
            Some(Value::Int(0)) => break Some(false),
            Some(reply) => bird.wrong(&format!("to {args:?}"), &reply),
            None => break None,
        }
    };
    let reply = bird.reply()?;
    let unblocked = Value::error("UNBLOCKED client unblocked via CLIENT UNBLOCK");
    if is_refusal(&reply) {
        bird.session.refused = true;
    } else if mode == "ERROR" && told != Some(false) && (told.is_some() || reply.is_error()) {
        if reply != unblocked {
            bird.wrong("not the error of CLIENT UNBLOCK", &reply);
        }
    } else if told == Some(false) {
        ended_with_nothing(bird, &call, start, &reply);
    } else {
        is_exact_null(bird, &call, &reply);
    }
    let refused = bird.session.refused;
    bird.one(&["GET", "whoami"], Expect::Mark)?;
    bird.session.refused |= refused;
    Ok(())
}

/// Waits for what others want too, and leaves or is killed meanwhile.
fn end_while_waiting(bird: &mut Bird<'_>) -> Result<(), Gone> {
    if !settle_down(bird)? {
        return Ok(());
    }
    let call = match bird.rng.random_range(0..3) {
        0 => Call::pop(
            "BZPOPMIN",
            draw_places(bird, Holds::Sorted),
            UNBLOCKED_WITHIN,
        ),
        1 => Call::relocate(
            draw_place(bird, Holds::List),
            MOVED,
            ["LEFT", "LEFT"],
            UNBLOCKED_WITHIN,
        ),
        _ => Call::pop("BLPOP", draw_places(bird, Holds::List), UNBLOCKED_WITHIN),
    };
    let phase = bird.flock.phase();
    bird.wire.send(&encode(&call.args))?;
    let waited = Duration::from_millis(bird.rng.random_range(1..20));
    let mut end = bird.wire.read_within(waited);
    if end.is_ok()
        && bird.rng.random()
        && let Some(id) = bird.session.id()
    {
        let killed = bird.beside(&["CLIENT", "KILL", "ID", &id.to_string()]);
        let is_known = killed.is_some();
        bird.note_kill(killed);
        // What came before the end is the client's.
        while is_known && end.is_ok() {
            end = bird.wire.read();
        }
    }
    match bird.wire.buffered() {
        Some(reply) if !reply.is_null() => {
            if let Some(handed) = handed(bird, &call, phase, &reply) {
                receive(bird, &call, &handed, &reply);
            }
        }
        Some(_) => {}
        None => taken(bird, &call, phase),
    }
    bird.leave();
    Ok(())
}
