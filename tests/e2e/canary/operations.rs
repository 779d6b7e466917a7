//! Operations of canaries: each ends with the connection as it was found, or gone.

use rand::Rng as _;

use super::bird::{Batch, Bird, is_refusal};
use super::expect::{Expect, is_bulk, mark, strings};
use super::species::Operation;
use super::wire::Gone;
use crate::harness::{Value, encode};

/// Lists what a client of no special kind does.
pub(super) const OPERATIONS: [(&str, u32, Operation); 20] = [
    ("pipeline", 20, pipeline),
    ("hash", 4, hash),
    ("select", 8, select),
    ("hello", 4, hello),
    ("name", 4, name),
    ("reset", 1, reset),
    ("skip", 2, skip),
    ("script", 6, script),
    ("whole transaction", 8, whole_transaction),
    ("interactive transaction", 4, interactive_transaction),
    ("watch", 2, watch),
    ("watch with conflict", 2, watch_with_conflict),
    ("blpop", 3, blpop),
    ("blmove", 2, blmove),
    ("xread", 2, xread),
    ("leave amid a request", 2, leave_amid_a_request),
    ("leave amid a reply", 2, leave_amid_a_reply),
    ("leave blocked", 1, leave_blocked),
    ("leave in a transaction", 1, leave_in_a_transaction),
    ("quit", 1, quit),
];

/// Lists what such a client does while the server may refuse anything but to begin and to end a transaction.
pub(super) const REFUSABLE: [(&str, u32, Operation); 5] = [
    ("server's commands", 12, servers_commands),
    ("script", 2, script),
    ("whole transaction", 4, whole_transaction),
    ("interactive transaction", 4, interactive_transaction),
    ("watch", 2, watch),
];

impl Bird<'_> {
    fn add_get_of_kept(&mut self, batch: &mut Batch) {
        let here = self.session.database;
        let found: Vec<_> = self
            .kept
            .iter()
            .filter(|k| k.database == here)
            .cloned()
            .collect();
        if !found.is_empty() {
            let kept = found[self.rng.random_range(0..found.len())].clone();
            batch.add_get(kept);
        }
    }

    pub(super) fn random_batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        let counter = self.token();
        for _ in 0..self.rng.random_range(1..12) {
            match self.rng.random_range(0..7) {
                0 => {
                    let kept = self.add_set(&mut batch);
                    batch.add_get(kept);
                }
                1 => self.add_get_of_kept(&mut batch),
                2 => batch.add(&["INCR", &counter], Expect::Count),
                3 => {
                    let token = self.token();
                    batch.add(&["ECHO", &token], Expect::Is(Value::bulk(&token)));
                }
                4 => batch.add(&["CLIENT", "ID"], Expect::Id),
                5 => batch.add(&["ACL", "WHOAMI"], Expect::User),
                _ => batch.add(&["GET", "whoami"], Expect::Mark),
            }
        }
        batch.add(&["DEL", &counter], Expect::Number);
        batch
    }

    /// Adds what a transaction holds, with the replies of its EXEC.
    fn add_queued(&mut self, batch: &mut Batch) -> Vec<Expect> {
        let mut inner = Batch::default();
        let counter = self.token();
        for _ in 0..self.rng.random_range(0..3) {
            let kept = self.add_set(&mut inner);
            inner.add_get(kept);
            inner.add(&["INCR", &counter], Expect::Count);
        }
        inner.add(&["GET", "whoami"], Expect::Mark);
        inner.add(&["DEL", &counter], Expect::Number);
        batch.bytes.extend(inner.bytes);
        batch
            .expected
            .extend(inner.expected.iter().map(|_| Expect::Queued));
        inner.expected.into()
    }

    /// Checks that nothing is left of a transaction of which a part was refused.
    fn settle(&mut self) -> Result<(), Gone> {
        if self.session.refused {
            self.one(&["DISCARD"], Expect::Discarded)?;
            self.one(&["GET", "whoami"], Expect::Mark)?;
            self.session.refused = true;
        }
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.reconnect();
    }
}

/// Does what clients of other kinds do between.
pub(super) fn commands(bird: &mut Bird<'_>) -> Result<(), Gone> {
    if bird.rng.random_range(0..3) == 0 {
        hello(bird)
    } else {
        pipeline(bird)
    }
}

fn pipeline(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let batch = bird.random_batch();
    bird.exchange(batch)
}

/// Sends only commands that respool leaves to the server.
fn servers_commands(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let mut batch = Batch::default();
    let counter = bird.token();
    for _ in 0..bird.rng.random_range(1..8) {
        let kept = bird.add_set(&mut batch);
        batch.add_get(kept);
        bird.add_get_of_kept(&mut batch);
        batch.add(&["INCR", &counter], Expect::Count);
    }
    batch.add(&["DEL", &counter], Expect::Number);
    batch.add(&["GET", "whoami"], Expect::Mark);
    bird.exchange(batch)
}

fn hash(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let (key, value) = (bird.token(), bird.token());
    let mut batch = Batch::default();
    batch.add(&["HSET", &key, "f", &value], Expect::Is(Value::Int(1)));
    batch.add(&["HGETALL", &key], Expect::Hash(value));
    batch.add(&["DEL", &key], Expect::Number);
    bird.exchange(batch)
}

fn select(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let mut batch = Batch::default();
    for _ in 0..bird.rng.random_range(1..4) {
        let database = bird.rng.random_range(0..super::DATABASES);
        batch.add(&["GET", "whoami"], Expect::Mark);
        batch.add(&["SELECT", &database.to_string()], Expect::Select(database));
        batch.add(&["GET", "whoami"], Expect::Mark);
    }
    batch.add(
        &["SELECT", "16"],
        Expect::Is(Value::error("ERR DB index is out of range")),
    );
    batch.add(&["GET", "whoami"], Expect::Mark);
    bird.exchange(batch)
}

fn hello(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let mut batch = Batch::default();
    for _ in 0..bird.rng.random_range(1..3) {
        let resp3 = bird.rng.random();
        let version = if resp3 { "3" } else { "2" };
        if bird.rng.random() {
            let name = bird.token();
            let expected = Expect::Hello {
                resp3,
                name: Some(name.clone()),
            };
            batch.add(&["HELLO", version, "SETNAME", &name], expected);
        } else {
            batch.add(&["HELLO", version], Expect::Hello { resp3, name: None });
        }
        let nothing = bird.token();
        let null = if resp3 { Value::Null } else { Value::NullBulk };
        batch.add(&["GET", &nothing], Expect::Is(null));
        batch.add(&["CLIENT", "GETNAME"], Expect::Name);
        batch.add(&["GET", "whoami"], Expect::Mark);
    }
    bird.exchange(batch)
}

fn name(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let mut batch = Batch::default();
    let name = bird.token();
    batch.add(&["CLIENT", "GETNAME"], Expect::Name);
    batch.add(&["GET", "whoami"], Expect::Mark);
    batch.add(&["CLIENT", "SETNAME", &name], Expect::SetName(name.clone()));
    batch.add(&["CLIENT", "GETNAME"], Expect::Name);
    batch.add(&["CLIENT", "ID"], Expect::Id);
    bird.exchange(batch)
}

fn reset(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let mut batch = Batch::default();
    batch.add(&["GET", "whoami"], Expect::Mark);
    batch.add(&["RESET"], Expect::Reset);
    batch.add(&["CLIENT", "GETNAME"], Expect::Name);
    batch.add(&["GET", "whoami"], Expect::Mark);
    bird.exchange(batch)
}

fn skip(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let mut batch = Batch::default();
    let (unheard, heard) = (bird.token(), bird.token());
    batch.bytes.extend(encode(&["CLIENT", "REPLY", "SKIP"]));
    batch.bytes.extend(encode(&["ECHO", &unheard]));
    batch.add(&["ECHO", &heard], Expect::Is(Value::bulk(&heard)));
    batch.bytes.extend(encode(&["CLIENT", "REPLY", "OFF"]));
    batch.bytes.extend(encode(&["GET", "whoami"]));
    batch.add(&["CLIENT", "REPLY", "ON"], Expect::Local(Value::ok()));
    batch.add(&["GET", "whoami"], Expect::Mark);
    bird.exchange(batch)
}

fn script(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let mut batch = Batch::default();
    for _ in 0..bird.rng.random_range(1..4) {
        let token = bird.token();
        batch.add(
            &["EVAL", "return ARGV[1]", "0", &token],
            Expect::Is(Value::bulk(&token)),
        );
        batch.add(
            &["EVAL", "return redis.call('GET', KEYS[1])", "1", "whoami"],
            Expect::Mark,
        );
    }
    bird.exchange(batch)
}

fn whole_transaction(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let mut batch = Batch::default();
    batch.add(&["GET", "whoami"], Expect::Mark);
    batch.add(&["MULTI"], Expect::Is(Value::ok()));
    let inner = bird.add_queued(&mut batch);
    if bird.rng.random_range(0..5) == 0 {
        batch.add(&["DISCARD"], Expect::Discarded);
    } else {
        batch.add(&["EXEC"], Expect::Exec(inner));
    }
    batch.add(&["GET", "whoami"], Expect::Mark);
    bird.exchange(batch)?;
    bird.settle()
}

fn interactive_transaction(bird: &mut Bird<'_>) -> Result<(), Gone> {
    bird.one(&["MULTI"], Expect::Is(Value::ok()))?;
    if bird.session.refused {
        return bird.settle();
    }
    let mut batch = Batch::default();
    let inner = bird.add_queued(&mut batch);
    bird.exchange(batch)?;
    bird.pause(3);
    finish_transaction(bird, Expect::Exec(inner))
}

/// Sends EXEC of an open transaction, then a look at the database.
fn finish_transaction(bird: &mut Bird<'_>, executed: Expect) -> Result<(), Gone> {
    let refused = bird.session.refused;
    let phase = bird.flock.phase();
    bird.session.begin(phase);
    bird.session.refused = refused;
    bird.wire.send(&encode(&["EXEC"]))?;
    bird.answer(executed)?;
    bird.settle()?;
    let refused = bird.session.refused;
    bird.one(&["GET", "whoami"], Expect::Mark)?;
    bird.session.refused |= refused;
    Ok(())
}

fn watch(bird: &mut Bird<'_>) -> Result<(), Gone> {
    watched(bird, false)
}

fn watch_with_conflict(bird: &mut Bird<'_>) -> Result<(), Gone> {
    watched(bird, true)
}

fn watched(bird: &mut Bird<'_>, conflict: bool) -> Result<(), Gone> {
    let key = bird.token();
    bird.one(&["WATCH", &key], Expect::Is(Value::ok()))?;
    if bird.session.refused {
        return Ok(());
    }
    // With a watched key no other command may disturb the watch.
    bird.one(&["GET", "whoami"], Expect::Mark)?;
    if conflict {
        let token = bird.token();
        if bird.beside(&["SET", &key, &token, "EX", "100"]) != Some(Value::ok()) {
            // Whether there is a conflict is not known.
            return bird.one(&["UNWATCH"], Expect::Is(Value::ok()));
        }
    }
    bird.one(&["MULTI"], Expect::Is(Value::ok()))?;
    if bird.session.refused {
        return bird.settle();
    }
    let mut batch = Batch::default();
    let inner = bird.add_queued(&mut batch);
    bird.exchange(batch)?;
    let executed = if conflict {
        Expect::Aborted
    } else {
        Expect::Exec(inner)
    };
    finish_transaction(bird, executed)
}

/// Holds a blocking call with what feeds it and what it then answers.
struct Blocking {
    is_fed: bool,
    call: Vec<String>,
    feed: Vec<String>,
    /// Holds the strings of its reply; an empty one stands for anything.
    answer: Vec<String>,
    length: [String; 2],
    keys: [String; 2],
}

fn words(line: &[&str]) -> Vec<String> {
    line.iter().map(|&word| word.to_owned()).collect()
}

/// Draws whether a blocking call is to be fed, and how long it waits, in seconds: what nobody feeds holds its connection.
fn draw_fed(bird: &mut Bird<'_>) -> (bool, &'static str) {
    if bird.rng.random_range(0..6) > 0 {
        (true, "1")
    } else {
        (false, "0.05")
    }
}

fn blpop(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let (is_fed, timeout) = draw_fed(bird);
    let (key, value) = (bird.token(), bird.value());
    blocked(
        bird,
        Blocking {
            is_fed,
            call: words(&["BLPOP", &key, timeout]),
            feed: words(&["RPUSH", &key, &value]),
            answer: words(&[&key, &value]),
            length: ["LLEN".into(), key.clone()],
            keys: [key.clone(), key],
        },
    )
}

fn blmove(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let (is_fed, timeout) = draw_fed(bird);
    let (from, to, value) = (bird.token(), bird.token(), bird.value());
    blocked(
        bird,
        Blocking {
            is_fed,
            call: words(&["BLMOVE", &from, &to, "LEFT", "RIGHT", timeout]),
            feed: words(&["RPUSH", &from, &value]),
            answer: words(&[&value]),
            length: ["LLEN".into(), from.clone()],
            keys: [from, to],
        },
    )
}

fn xread(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let (is_fed, _) = draw_fed(bird);
    let milliseconds = if is_fed { "1000" } else { "50" };
    let (key, value) = (bird.token(), bird.value());
    blocked(
        bird,
        Blocking {
            is_fed,
            call: words(&["XREAD", "BLOCK", milliseconds, "STREAMS", &key, "0"]),
            feed: words(&["XADD", &key, "*", "f", &value]),
            answer: words(&[&key, "", "f", &value]),
            length: ["XLEN".into(), key.clone()],
            keys: [key.clone(), key],
        },
    )
}

fn blocked(bird: &mut Bird<'_>, blocking: Blocking) -> Result<(), Gone> {
    let is_fed_first = bird.rng.random_range(0..3) == 0;
    let phase = bird.flock.phase();
    let mut fed = None;
    if blocking.is_fed && is_fed_first {
        fed = bird.beside(&blocking.feed);
    }
    bird.wire.send(&encode(&blocking.call))?;
    if blocking.is_fed && !is_fed_first {
        bird.pause(3);
        fed = bird.beside(&blocking.feed);
    }
    let reply = bird.reply()?;
    let same_phase = phase == bird.flock.phase() && phase.is_multiple_of(2);
    if is_refusal(&reply) {
        bird.session.refused = true;
    } else if reply.is_null() {
        if matches!(reply, Value::Null) != bird.session.resp3 {
            bird.wrong("a null of the other protocol", &reply);
        }
        // Nothing came in time. What was pushed after that is still there.
        if fed.is_some() && same_phase {
            still_there(bird, &blocking, phase)?;
        }
    } else {
        let found = strings(&reply);
        let fits = found.len() == blocking.answer.len()
            && found
                .iter()
                .zip(&blocking.answer)
                .all(|(a, b)| b.is_empty() || a == b);
        if !blocking.is_fed || !fits {
            bird.wrong(&format!("to {:?}", blocking.call), &reply);
        }
    }
    let refused = bird.session.refused;
    bird.one(
        &["DEL", &blocking.keys[0], &blocking.keys[1]],
        Expect::Number,
    )?;
    bird.session.refused |= refused;
    bird.one(&["GET", "whoami"], Expect::Mark)
}

fn still_there(bird: &mut Bird<'_>, blocking: &Blocking, phase: usize) -> Result<(), Gone> {
    bird.wire.send(&encode(&blocking.length))?;
    let reply = bird.reply()?;
    let restarted = phase != bird.flock.phase();
    if !(reply == Value::Int(1) || is_refusal(&reply) || restarted) {
        bird.wrong("an element is lost", &reply);
    }
    Ok(())
}

fn leave_amid_a_request(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let batch = bird.random_batch();
    let cut = bird.rng.random_range(0..batch.bytes.len());
    bird.send_in_pieces(&batch.bytes[..cut])?;
    bird.pause(2);
    bird.leave();
    Ok(())
}

fn leave_amid_a_reply(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let mut batch = bird.random_batch();
    for _ in 0..4 {
        bird.add_get_of_kept(&mut batch);
    }
    bird.send_in_pieces(&batch.bytes)?;
    bird.wire.read()?;
    bird.leave();
    Ok(())
}

fn leave_blocked(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let key = bird.token();
    let kept = bird.token();
    let behind = encode(&["SET", &kept, "ran", "EX", "100"]);
    bird.wire
        .send(&[encode(&["BLPOP", &key, "0"]), behind].concat())?;
    bird.pause(20);
    let database = bird.session.database;
    bird.leave();
    // What stood behind the blocking call never runs.
    let mut batch = Batch::default();
    batch.add(&["SELECT", &database.to_string()], Expect::Select(database));
    batch.add(&["EXISTS", &kept], Expect::Is(Value::Int(0)));
    bird.exchange(batch)
}

fn leave_in_a_transaction(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let key = bird.token();
    bird.one(&["MULTI"], Expect::Is(Value::ok()))?;
    if bird.session.refused {
        return bird.settle();
    }
    bird.one(&["SET", &key, "x"], Expect::Is(Value::simple("QUEUED")))?;
    let database = bird.session.database;
    if bird.rng.random() {
        let _ = bird.wire.send(&encode(&["EXEC"])[..5]);
    }
    bird.leave();
    let mut batch = Batch::default();
    batch.add(&["SELECT", &database.to_string()], Expect::Select(database));
    batch.add(&["EXISTS", &key], Expect::Is(Value::Int(0)));
    batch.add(&["GET", "whoami"], Expect::Mark);
    bird.exchange(batch)
}

pub(super) fn quit(bird: &mut Bird<'_>) -> Result<(), Gone> {
    let mut batch = Batch::default();
    batch.add(&["GET", "whoami"], Expect::Mark);
    batch.add(&["QUIT"], Expect::Local(Value::ok()));
    bird.exchange(batch)?;
    bird.await_the_end();
    Ok(())
}

/// Checks that a fresh client finds every database in order, in both protocols.
pub(super) fn inspect(client: &mut crate::harness::Client) {
    for protocol in ["2", "3"] {
        assert!(!client.cmd(&["HELLO", protocol]).is_error());
        for database in 0..super::DATABASES {
            assert_eq!(client.cmd(&["SELECT", &database.to_string()]), Value::ok());
            let found = client.cmd(&["GET", "whoami"]);
            assert!(is_bulk(&found, &mark(database)), "in {database}: {found:?}");
        }
    }
}
