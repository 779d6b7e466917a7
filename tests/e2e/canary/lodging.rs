//! Canaries that keep a connection to the server for themselves: CLIENT TRACKING and MONITOR.

use std::time::Instant;

use rand::Rng as _;

use super::bird::Bird;
use super::ears::{Ears, Monitoring, Tracking};
use super::expect::Expect;
use super::operations::commands;
use super::species::Operation;
use super::wire::Gone;
use crate::harness::{PATIENCE, Value, encode};

/// This number of them track keys.
pub(super) const TRACKERS: usize = 4;

/// This number of them send MONITOR.
pub(super) const MONITORS: usize = 2;

pub(super) const TRACKING: [(&str, u32, Operation); 2] = [
    ("tracking", 4, lodge_to_track),
    ("commands of a former tracker", 3, commands),
];

pub(super) const MONITORING: [(&str, u32, Operation); 2] = [
    ("MONITOR", 4, lodge_to_monitor),
    ("commands of a former monitor", 2, commands),
];

fn lodge_to_track(bird: &mut Bird<'_>) -> Result<(), Gone> {
    // Most give the connection back in order: that is where something of theirs could be left on it.
    let ends: [Operation; 6] = [
        stop_tracking,
        stop_tracking,
        stop_tracking,
        reset,
        leave,
        be_killed,
    ];
    let end = ends[bird.rng.random_range(0..ends.len())];
    lodge(bird, track, end)
}

fn lodge_to_monitor(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let ends: [Operation; 5] = [reset, reset, quit, leave, be_killed];
    let end = ends[bird.rng.random_range(0..ends.len())];
    lodge(bird, monitor, end)
}

/// Lives with a connection of its own and ends that. One lodges at a time.
fn lodge(bird: &mut Bird<'_>, live: Operation, end: Operation) -> Result<(), Gone> {
    let _place = bird.flock.lodge();
    if bird.flock.has_ended() {
        bird.session.refused = true;
        return Ok(());
    }
    live(bird)?;
    let refused = bird.session.refused;
    end(bird)?;
    bird.session.refused |= refused;
    Ok(())
}

/// Waits until what was awaited has been heard; the connection must end if it cannot come any more.
fn hear_awaited(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let start = Instant::now();
    while !bird.ears.has_heard_awaited() {
        if start.elapsed() > PATIENCE {
            bird.wrong("what it awaited did not come", &Value::Null);
        }
        bird.listen()?;
    }
    Ok(())
}

/// Tracks keys, by reading them or by a prefix of its own, and hears of every change of them.
fn track(bird: &mut Bird<'_>) -> Result<(), Gone> {
    bird.one(
        &["HELLO", "3"],
        Expect::Hello {
            resp3: true,
            name: None,
        },
    )?;
    let by_prefix = bird.rng.random();
    let prefix = format!("c{}.", bird.number);
    let on: &[&str] = if by_prefix {
        &["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", &prefix]
    } else {
        &["CLIENT", "TRACKING", "ON"]
    };
    bird.ears = Ears::Tracking(Tracking::new(bird.number));
    bird.one(on, Expect::Is(Value::ok()))?;
    if bird.session.refused {
        return Ok(());
    }
    for _ in 0..bird.rng.random_range(1..4) {
        let key = bird.token();
        if !by_prefix {
            bird.one(&["GET", &key], Expect::Is(Value::Null))?;
        }
        bird.ears.await_text(&key);
        // Unknown whether it ran: nothing is awaited.
        if bird.session.refused
            || bird.beside(&["SET", &key, "changed", "EX", "100"]) != Some(Value::ok())
        {
            bird.session.refused = true;
            return Ok(());
        }
        hear_awaited(bird)?;
        let batch = bird.random_batch();
        bird.exchange(batch)?;
    }
    Ok(())
}

/// Sends CLIENT TRACKING OFF, after which a change of what was tracked is not told any more.
fn stop_tracking(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let key = bird.token();
    bird.wire.send(&encode(&["GET", &key]))?;
    bird.answer(Expect::Is(Value::Null))?;
    bird.wire.send(&encode(&["CLIENT", "TRACKING", "OFF"]))?;
    bird.answer(Expect::Is(Value::ok()))?;
    bird.hear_what_came();
    bird.ears = Ears::Closed;
    bird.beside(&["SET", &key, "changed", "EX", "100"]);
    for _ in 0..3 {
        bird.one(&["GET", "whoami"], Expect::Mark)?;
    }
    Ok(())
}

/// Sees what others ask the server, and its own replies between.
fn monitor(bird: &mut Bird<'_>) -> Result<(), Gone> {
    bird.wire.send(&encode(&["MONITOR"]))?;
    bird.answer(Expect::Is(Value::ok()))?;
    if bird.session.refused {
        return Ok(());
    }
    bird.ears = Ears::Monitoring(Monitoring::default());
    for _ in 0..bird.rng.random_range(1..3) {
        let (seen, own) = (bird.token(), bird.token());
        bird.ears.await_text(&seen);
        if bird.beside(&["ECHO", &seen]) != Some(Value::bulk(&seen)) {
            bird.session.refused = true;
            return Ok(());
        }
        bird.one(&["ECHO", &own], Expect::Is(Value::bulk(&own)))?;
        hear_awaited(bird)?;
    }
    Ok(())
}

fn quit(bird: &mut Bird<'_>) -> Result<(), Gone> {
    bird.wire.send(&encode(&["QUIT"]))?;
    bird.answer(Expect::Local(Value::ok()))?;
    bird.await_the_end();
    Ok(())
}

fn leave(bird: &mut Bird<'_>) -> Result<(), Gone> {
    bird.leave();
    Ok(())
}

fn be_killed(bird: &mut Bird<'_>) -> Result<(), Gone> {
    bird.be_killed();
    Ok(())
}

/// Sends RESET, after which nothing comes unasked.
fn reset(bird: &mut Bird<'_>) -> Result<(), Gone> {
    bird.wire.send(&encode(&["RESET"]))?;
    bird.answer(Expect::Reset)?;
    bird.ears = Ears::Closed;
    bird.hear_what_came();
    let mut batch = bird.random_batch();
    batch.add(&["GET", "whoami"], Expect::Mark);
    bird.exchange(batch)
}
