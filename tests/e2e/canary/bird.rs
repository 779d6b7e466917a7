//! One canary: a client that knows what every reply to it must be, and what each of its values is made of.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::ears::{Ears, Sound};
use super::expect::{Expect, Kept, Mismatch, Session};
use super::flock::Flock;
use super::neighbours::{KindOfWait, NOT_SENT};
use super::subscriptions::Voice;
use super::wire::{Gone, Leave, Wire};
use crate::harness::{Value, encode, show};

/// A canary remembers so many of its own values.
const REMEMBERED: usize = 16;

/// Values of the server's own memory live for so many seconds; long past anything a test reads again.
const EXPIRY_SECONDS: &str = "100";

const BIG_BYTES: usize = 100 * 1024;

/// Counts clients that were killed, or may have been, in the notes of the flock.
pub(super) const KILLED: &str = "clients killed";

/// Counts connections that ended while a canary greeted, and second connections that ended, in the notes of the flock.
pub(super) const CUT_BESIDE: &str = "cut while greeting, or beside";

/// Holds requests that are sent together, with what each must be answered.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) expected: VecDeque<Expect>,
}

impl Batch {
    pub(super) fn add<A: AsRef<[u8]>>(&mut self, args: &[A], expected: Expect) {
        self.bytes.extend(encode(args));
        self.expected.push_back(expected);
    }

    /// Adds a GET of a value that is there, or will be when the GET runs.
    pub(super) fn add_get(&mut self, kept: Kept) {
        self.bytes.extend(encode(&["GET", &kept.key]));
        self.expected.push_back(Expect::Kept(kept));
    }
}

pub(super) struct Bird<'a> {
    pub(super) flock: &'a Flock,
    pub(super) number: usize,
    pub(super) rng: SmallRng,
    pub(super) wire: Wire,
    pub(super) session: Session,
    /// Holds what it listens to beside the replies to its requests.
    pub(super) ears: Ears,
    /// The first connection as a publisher.
    pub(super) voice: Voice,
    /// Its second connection, in the database of the first.
    other: Option<Wire>,
    /// The second connection as a publisher.
    pub(super) other_voice: Voice,
    pub(super) kept: VecDeque<Kept>,
    sequence: u64,
    /// Says what kind of wait its next exchanges are.
    pub(super) kind_of_wait: KindOfWait,
}

impl<'a> Bird<'a> {
    pub(super) fn new(flock: &'a Flock, number: usize) -> Self {
        let rng = SmallRng::seed_from_u64(flock.seed.wrapping_add(number as u64));
        let wire = Wire::connect(&flock.address, flock.user_of(number));
        let mut bird = Self {
            flock,
            number,
            rng,
            session: Session::new(number, wire.user.clone()),
            wire,
            ears: Ears::Closed,
            voice: flock.voice(number),
            other: None,
            other_voice: flock.voice(number),
            kept: VecDeque::new(),
            sequence: 0,
            kind_of_wait: KindOfWait::Quick,
        };
        bird.greet_or_note();
        bird
    }

    /// Leaves, and comes back as a new client of which the server remembers nothing.
    pub(super) fn reconnect(&mut self) {
        let how = if self.rng.random() {
            Leave::Orderly
        } else {
            Leave::Abrupt
        };
        let user = self.flock.user_of(self.number);
        let wire = Wire::connect(&self.flock.address, user);
        std::mem::replace(&mut self.wire, wire).leave(how);
        self.session = Session::new(self.number, self.wire.user.clone());
        self.ears = Ears::Closed;
        // What the old connection sent may still run, after what the new one sends.
        self.voice = self.flock.voice(self.number);
        self.greet_or_note();
    }

    /// Greets; if the server's end cuts this short, the next round finds out.
    fn greet_or_note(&mut self) {
        if self.greet().is_err() {
            self.flock.note(CUT_BESIDE, 1);
        }
    }

    /// Sends what libraries send when they connect, in one write or several.
    fn greet(&mut self) -> Result<(), Gone> {
        let mut batch = Batch::default();
        let database = (self.number as u32 + self.rng.random_range(0..3)) % super::DATABASES;
        if !self.number.is_multiple_of(2) {
            batch.add(
                &["HELLO", "3"],
                Expect::Hello {
                    resp3: true,
                    name: None,
                },
            );
        }
        batch.add(&["CLIENT", "ID"], Expect::Id);
        batch.add(&["SELECT", &database.to_string()], Expect::Select(database));
        batch.add(&["GET", "whoami"], Expect::Mark);
        self.exchange(batch)
    }

    /// Makes a token that nobody else has and this client never had before.
    pub(super) fn token(&mut self) -> String {
        self.sequence += 1;
        format!("c{}.{};", self.number, self.sequence)
    }

    /// Makes a value made of one token, mostly short, sometimes of 100 KiB.
    pub(super) fn value(&mut self) -> String {
        let token = self.token();
        match self.rng.random_range(0..12) {
            0 => token.repeat(BIG_BYTES / token.len() + 1),
            _ => token,
        }
    }

    /// Adds a SET of a new key, which is remembered once it is acknowledged.
    pub(super) fn add_set(&mut self, batch: &mut Batch) -> Kept {
        let (key, value) = (self.token(), self.value());
        let kept = Kept {
            key,
            value,
            database: self.session.database,
            phase: self.flock.phase(),
            at: Instant::now(),
        };
        batch.add(
            &["SET", &kept.key, &kept.value, "EX", EXPIRY_SECONDS],
            Expect::Stored(kept.clone()),
        );
        kept
    }

    /// Sends a batch in pieces cut at random bytes and checks every reply.
    pub(super) fn exchange(&mut self, batch: Batch) -> Result<(), Gone> {
        self.session.begin(self.flock.phase());
        let kind = self.kind_of_wait.of(batch.bytes.len());
        let rest = self.send_all_but_the_last_piece(&batch.bytes)?;
        let wait = self.flock.begin_wait(kind);
        self.wire.send(rest)?;
        for expected in batch.expected {
            self.answer(expected)?;
        }
        self.flock.end_wait(wait);
        self.hear_what_came();
        Ok(())
    }

    /// Reads the next reply; what comes unasked before it is heard.
    pub(super) fn reply(&mut self) -> Result<Value, Gone> {
        loop {
            let frame = self.wire.reply()?;
            if self.hear(&frame) == Sound::Reply {
                if is_refusal(&frame) && !is_busy(&frame) {
                    self.flock.note(NOT_SENT, 1);
                }
                return Ok(frame);
            }
        }
    }

    /// Hears what has come after the last reply that was due: nothing, or what comes unasked.
    pub(super) fn hear_what_came(&mut self) {
        if self.ears.are_closed() {
            return self.wire.assert_nothing_left();
        }
        while let Some(frame) = self.wire.buffered() {
            if self.hear(&frame) == Sound::Reply {
                self.wrong("nobody asked for it", &frame);
            }
        }
    }

    /// Waits a little for what comes unasked.
    pub(super) fn listen(&mut self) -> Result<(), Gone> {
        self.wire.read_within(Duration::from_millis(20))?;
        self.hear_what_came();
        Ok(())
    }

    fn hear(&mut self, frame: &Value) -> Sound {
        match self.ears.hear(frame, self.session.resp3) {
            Ok(sound) => sound,
            Err(Mismatch(why)) => self.wrong(&why, frame),
        }
    }

    /// Waits for the end of the connection, which comes now; until then only what comes unasked may come.
    pub(super) fn await_the_end(&mut self) {
        if let Ok(reply) = self.reply() {
            self.wrong("a reply of a connection that was to end", &reply);
        }
        self.reconnect();
    }

    /// Has itself killed by respool, asked over the second connection.
    pub(super) fn be_killed(&mut self) {
        let Some(id) = self.session.id() else {
            return self.reconnect();
        };
        let killed = self.beside(&["CLIENT", "KILL", "ID", &id.to_string()]);
        let is_known = killed.is_some();
        self.note_kill(killed);
        if is_known {
            self.await_the_end();
        } else {
            self.reconnect();
        }
    }

    /// Notes what CLIENT KILL of its own id was answered, if that is known.
    pub(super) fn note_kill(&self, killed: Option<Value>) {
        match killed {
            // None was left with this id: the connection has ended before.
            Some(Value::Int(0)) => {}
            Some(Value::Int(1)) | None => self.flock.note(KILLED, 1),
            Some(reply) => self.wrong("to CLIENT KILL", &reply),
        }
    }

    pub(super) fn send_in_pieces(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let rest = self.send_all_but_the_last_piece(bytes)?;
        self.wire.send(rest)
    }

    fn send_all_but_the_last_piece<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Gone> {
        let mut rest = bytes;
        for _ in 0..self.rng.random_range(0..4) {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at(self.rng.random_range(0..rest.len()));
            self.wire.send(piece)?;
            if self.rng.random_range(0..4) == 0 {
                self.pause(3);
            }
            rest = behind;
        }
        Ok(rest)
    }

    /// Sends one request and reads its reply.
    pub(super) fn one<A: AsRef<[u8]>>(&mut self, args: &[A], expected: Expect) -> Result<(), Gone> {
        let mut batch = Batch::default();
        batch.add(args, expected);
        self.exchange(batch)
    }

    /// Reads one reply, which must be as expected or the one refusal that is allowed.
    pub(super) fn answer(&mut self, expected: Expect) -> Result<(), Gone> {
        let reply = self.reply()?;
        let shown = format!("{expected:.300?}");
        match self.session.check(expected, &reply, self.flock.phase()) {
            Ok(Some(kept)) => {
                self.kept.push_back(kept);
                if self.kept.len() > REMEMBERED {
                    self.kept.pop_front();
                }
            }
            Ok(None) => {}
            Err(Mismatch(why)) => self.wrong(&format!("{why}: expected {shown}"), &reply),
        }
        Ok(())
    }

    pub(super) fn wrong(&self, why: &str, reply: &Value) -> ! {
        panic!(
            "seed {}, client {} at {:?}: {why}\n got {}\n {:?}, {:.1000?}, phase {}",
            self.flock.seed,
            self.number,
            self.wire.local_address(),
            show(format!("{reply:?}").as_bytes()),
            self.session,
            format!("{:?}", self.ears),
            self.flock.phase()
        )
    }

    /// Sends one request on the second connection, in the database of the first. `None`: unknown whether it ran.
    pub(super) fn beside<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Option<Value> {
        let address = &self.flock.address;
        let user = self.flock.user_of(self.number);
        let wire = self
            .other
            .get_or_insert_with(|| Wire::connect(address, user));
        let database = self.session.database.to_string();
        let bytes = [encode(&["SELECT", &database]), encode(args)].concat();
        let mut ask = || {
            wire.send(&bytes)?;
            Ok::<_, Gone>([wire.reply()?, wire.reply()?])
        };
        let Ok([selected, reply]) = ask() else {
            self.flock.note(CUT_BESIDE, 1);
            self.other = None;
            self.other_voice = self.flock.voice(self.number);
            return None;
        };
        if [&selected, &reply].iter().any(|r| is_refusal(r)) {
            return None;
        }
        if selected != Value::ok() {
            self.wrong("SELECT on the second connection", &selected);
        }
        Some(reply)
    }

    /// Lets others run, at most so many milliseconds.
    pub(super) fn pause(&mut self, most_ms: u64) {
        let pause = Duration::from_micros(self.rng.random_range(0..most_ms * 1000));
        std::thread::park_timeout(pause);
    }
}

/// Tells whether respool may always answer this to a command that it did not send, and a server in which a script does not end.
pub(super) fn is_refusal(reply: &Value) -> bool {
    matches!(reply, Value::Error(text) if text.starts_with(b"LOADING respool:")) || is_busy(reply)
}

/// Tells whether a server answers this while a script does not end.
pub(super) fn is_busy(reply: &Value) -> bool {
    const BUSY: [&[u8]; 2] = [
        b"BUSY ",
        b"EXECABORT Transaction discarded because of: BUSY ",
    ];
    matches!(reply, Value::Error(text) if BUSY.iter().any(|busy| text.starts_with(busy)))
}
