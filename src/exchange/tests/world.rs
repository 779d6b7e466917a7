//! Clients, a server, and the connection between them, step by step.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::client::ModelClient;
use super::dice::Dice;
use super::heard::Heard;
use super::ledger::{Entry, Ledger, Number, Shown, Who};
use super::server::{Asked, Manners, Server};
use crate::command::Delays;
use crate::exchange::{
    Answer, AnswerPace, Ending, Exchange, OwnCall, OwnReply, RequestKind, Show, Violation,
};
use crate::resp::speak::encode_request;
use crate::session::{Effect, PinnedCommand};
use crate::waits::PoppedElements;

/// What a client is shown instead of a reply.
const TEXT: &[u8] = b"+something else\r\n";

/// What one of respool's own requests is about, and what it was told.
struct Own {
    /// What it is told where nothing is lost.
    replies: Vec<u8>,
    frames_left: usize,
    limit_bytes: usize,
    is_call: bool,
    told: Rc<RefCell<Vec<Told>>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Replies(Vec<u8>),
    TooLarge,
    Lost { sent: bool },
}

impl From<Answer> for Told {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Replies(replies) => Self::Replies(replies),
            Answer::TooLarge => Self::TooLarge,
            Answer::Lost { sent } => Self::Lost { sent },
        }
    }
}

/// What is seen of a client beside what it got.
#[derive(Default)]
struct Side {
    /// All that it is to get of what the server has written.
    expected: Vec<u8>,
    has_left: bool,
}

pub(super) struct World {
    dice: Dice,
    exchange: Exchange<ModelClient>,
    heard: Heard,
    server: Server,
    ledger: Ledger,
    clients: Vec<(ModelClient, Side)>,
    own: Vec<Own>,
    /// Changes of state: how many have begun, and what each came to.
    changes: Vec<Rc<Cell<Option<bool>>>>,
    pushed: Vec<u8>,
    orphans: Vec<Vec<u8>>,
    expected_orphans: Vec<Vec<u8>>,
    now: u64,
    heard_micros: u64,
    read_total: u64,
    sent: Vec<u8>,
    next_number: Number,
    /// It is one client's.
    is_lent: bool,
    /// Nothing more may be asked on it: what comes is nobody's.
    is_spent: bool,
    searched: bool,
    /// The server has sent more than it was asked for.
    has_surplus: bool,
    began_clean: bool,
    /// It has ended, and why.
    pub(super) broken: Option<Violation>,
}

impl World {
    pub(super) fn new(mut dice: Dice) -> Self {
        let is_lent = dice.one_of(3);
        let manners = Manners {
            refuses_fences: dice.one_of(4),
            scripts_write: dice.one_of(2),
            leaves_open: dice.one_of(6),
        };
        let clients = if is_lent { 1 } else { 4 };
        let clients = (0..clients).map(|_| {
            let client = ModelClient::default();
            client.0.is_plain.set(!dice.one_of(3));
            client.0.is_measured.set(dice.one_of(2));
            (client, Side::default())
        });
        Self {
            clients: clients.collect(),
            exchange: Exchange::begun(1, 1, rand::random),
            heard: Heard {
                takes_pushes: is_lent,
                ..Heard::default()
            },
            server: Server::with(manners),
            ledger: Ledger::default(),
            own: Vec::new(),
            changes: Vec::new(),
            pushed: Vec::new(),
            orphans: Vec::new(),
            expected_orphans: Vec::new(),
            now: 1,
            heard_micros: 1,
            read_total: 0,
            sent: Vec::new(),
            next_number: 100,
            is_lent,
            is_spent: false,
            searched: false,
            has_surplus: false,
            began_clean: true,
            broken: None,
            dice,
        }
    }

    pub(super) fn step(&mut self) {
        match self.dice.roll(24) {
            0..=4 => self.ask(),
            5 => self.ask_own(),
            6 => self.change_state(),
            7..=10 => self.send(),
            11..=14 => self.answer(),
            15..=19 => self.read(),
            20 => self.now += u64::from(self.dice.roll(200)) * 100,
            21 => self.client_changes(),
            22 => self.push(),
            _ => self.exchange.forget_written(),
        }
        self.check();
    }

    /// Whether all is answered before the connection ends.
    pub(super) fn is_calm_at_end(&mut self) -> bool {
        self.dice.one_of(2)
    }

    fn number(&mut self) -> Number {
        self.next_number += 1;
        self.next_number
    }

    fn enter(&mut self, entry: Entry) {
        self.ledger.0.push(entry);
    }

    fn numbered(&mut self, name: &str, who: Who) -> Entry {
        let number = self.number();
        Entry {
            who,
            asked: Asked::Numbered(name.to_owned(), number),
            bytes: encode_request(&[name, &number.to_string()]),
            shown: Shown::Reply,
            is_again: true,
            blocks: false,
            delays: Delays::NONE,
            at_micros: self.now,
            is_plain: false,
            group: 0,
            is_received: false,
            answered_at: None,
        }
    }

    /// A client sends something.
    fn ask(&mut self) {
        let index = self.dice.roll(self.clients.len() as u32) as usize;
        if self.clients[index].1.has_left || self.is_spent {
            return;
        }
        let who = Who::Client(index);
        let shown = [Shown::Reply, Shown::Reply, Shown::Reply, Shown::Nothing];
        let shown = shown[self.dice.roll(4) as usize];
        let delays = [Delays::NONE, Delays::NONE, Delays::WORK, Delays::PAUSE];
        let delays = delays[self.dice.roll(4) as usize];
        let mut entries = Vec::new();
        let kind = match self.dice.roll(if self.is_lent { 9 } else { 6 }) {
            0..=2 => {
                entries.extend((0..=self.dice.roll(4)).map(|_| self.numbered("GET", who)));
                RequestKind::Plain
            }
            3 | 4 if !self.is_lent => {
                entries.push(self.numbered("EVAL", who));
                RequestKind::Fenced
            }
            5 if !self.is_lent => {
                entries.extend(self.block(who));
                RequestKind::Block
            }
            6 => {
                entries.push(Entry {
                    blocks: true,
                    ..self.numbered("BLPOP", who)
                });
                RequestKind::Blocking(PoppedElements::Left)
            }
            7 => {
                entries.push(self.numbered("LOAD", who));
                self.is_spent = true;
                RequestKind::RawError
            }
            _ => {
                entries.push(self.numbered("GET", who));
                RequestKind::Pinned(PinnedCommand::Queue)
            }
        };
        let (shown, show) = match shown {
            _ if matches!(kind, RequestKind::Blocking(_)) => (Shown::Reply, Show::Pass),
            _ if self.is_lent && self.dice.one_of(5) => (Shown::Text, Show::Replace(TEXT.into())),
            Shown::Nothing => (shown, Show::Hide),
            _ => (shown, Show::Pass),
        };
        let is_again = shown != Shown::Text
            && matches!(
                kind,
                RequestKind::Plain | RequestKind::Block | RequestKind::Fenced
            );
        let is_fenced = matches!(kind, RequestKind::Fenced);
        let is_plain = matches!(kind, RequestKind::Plain);
        for entry in &mut entries {
            (entry.shown, entry.is_again) = (shown, is_again);
            (entry.delays, entry.is_plain) = (delays, is_plain);
        }
        let bytes = entries.iter().map(|entry| &entry.bytes[..]);
        let bytes = bytes.collect::<Vec<_>>().concat();
        let count = entries.len() as u32;
        let client = self.clients[index].0.clone();
        if self.exchange.is_clear() && count == 1 && self.dice.one_of(4) {
            let taken = self.dice.roll(bytes.len() as u32 + 1) as usize;
            self.note_entries(entries, is_fenced);
            self.note_sent(&bytes[..taken]);
            let kind = (kind, delays);
            self.exchange
                .request_through(&client, (&bytes, taken), kind, show, self.now);
        } else {
            self.note_entries(entries, is_fenced);
            let kind = (kind, delays);
            self.exchange
                .request(&client, &bytes, count, kind, show, self.now);
        }
    }

    /// Enters the requests of one call, which are sent together.
    fn note_entries(&mut self, entries: Vec<Entry>, is_fenced: bool) {
        let next = self.ledger.0.len();
        let begun = self.begun_entry();
        let is_joined = |last: &Entry, first: &Entry| {
            let head = &self.ledger.0[last.group];
            let is_unsent = !head.is_received && begun != Some(last.group);
            let is_alike = last.who == first.who && last.shown == first.shown;
            let is_plain = last.is_plain && first.is_plain;
            is_unsent && is_alike && is_plain && last.at_micros == first.at_micros
        };
        let group = match (self.ledger.0.last(), entries.first()) {
            (Some(last), Some(first)) if is_joined(last, first) => last.group,
            _ => next,
        };
        for entry in entries {
            self.enter(Entry { group, ..entry });
        }
        if is_fenced {
            let entry = self.numbered("PING", Who::Fence);
            let group = self.ledger.0.len();
            self.enter(Entry {
                asked: Asked::Fence(String::new()),
                bytes: Vec::new(),
                group,
                ..entry
            });
        }
    }

    /// A transaction that has arrived whole.
    fn block(&mut self, who: Who) -> Vec<Entry> {
        let entry = self.numbered("MULTI", who);
        let mut entries = vec![Entry {
            asked: Asked::Multi,
            bytes: encode_request(&["MULTI"]),
            ..entry
        }];
        entries.extend((0..self.dice.roll(3)).map(|_| self.numbered("GET", who)));
        let exec = self.numbered("EXEC", who);
        let Asked::Numbered(_, number) = exec.asked else {
            unreachable!("it was just made so");
        };
        entries.push(Entry {
            asked: Asked::Exec(number),
            ..exec
        });
        entries
    }

    /// Respool asks something itself.
    fn ask_own(&mut self) {
        if self.is_spent {
            return;
        }
        let who = Who::Own(self.own.len());
        let told = Rc::new(RefCell::new(Vec::new()));
        let teller = Rc::clone(&told);
        let limit_bytes = [1 << 20, 30][self.dice.roll(2) as usize];
        let mut is_call = true;
        let (entries, pace) = match self.dice.roll(6) {
            0 if !self.is_lent => (self.block(who), AnswerPace::Transaction { writes: true }),
            1 => (vec![self.numbered("GET", who)], AnswerPace::Blocking),
            2 | 3 => {
                let entries = (0..=self.dice.roll(3)).map(|_| self.numbered("GET", who));
                (entries.collect(), AnswerPace::Writing)
            }
            _ => {
                is_call = false;
                (vec![self.numbered("GET", who)], AnswerPace::Prompt)
            }
        };
        let is_writing = matches!(pace, AnswerPace::Writing | AnswerPace::Transaction { .. });
        let bytes = entries.iter().map(|entry| &entry.bytes[..]);
        let bytes = bytes.collect::<Vec<_>>().concat();
        let frames_left = entries.len();
        let reply = if is_call {
            OwnReply::Call(OwnCall::new(
                entries.len(),
                limit_bytes,
                pace,
                move |answer| {
                    teller.borrow_mut().push(answer.into());
                },
            ))
        } else {
            OwnReply::Asked(Box::new(move |reply| {
                teller.borrow_mut().push(Told::Replies(reply));
            }))
        };
        let group = self.ledger.0.len();
        for entry in entries {
            self.enter(Entry {
                blocks: pace == AnswerPace::Blocking,
                delays: [Delays::NONE, Delays::PAUSE][usize::from(is_writing)],
                group,
                ..entry
            });
        }
        self.own.push(Own {
            replies: Vec::new(),
            frames_left,
            limit_bytes,
            is_call,
            told,
        });
        self.exchange.own_request(&bytes, reply, self.now);
    }

    /// The state of the connection changes, by a login among others.
    fn change_state(&mut self) {
        if self.is_spent || self.is_lent {
            return;
        }
        let names = ["NAME", "AUTH", "SELECT"];
        let effects = [Effect::Named, Effect::User(None), Effect::Database(1)];
        let steps = 1 + self.dice.roll(3) as usize;
        let result = Rc::new(Cell::new(None));
        let teller = Rc::clone(&result);
        self.changes.push(result);
        let done = Box::new(move |result: Result<(), Vec<u8>>| teller.set(Some(result.is_ok())));
        self.exchange.begin_change(steps, done);
        for _ in 0..steps {
            let which = self.dice.roll(3) as usize;
            let who = Who::Own(self.own.len());
            let entry = self.numbered(names[which], who);
            let bytes = entry.bytes.clone();
            let group = self.ledger.0.len();
            self.enter(Entry { group, ..entry });
            self.own.push(Own {
                replies: Vec::new(),
                frames_left: 1,
                limit_bytes: usize::MAX,
                is_call: false,
                told: Rc::default(),
            });
            let reply = OwnReply::Step(effects[which].clone());
            self.exchange.own_request(&bytes, reply, self.now);
        }
    }

    /// The kernel takes something.
    fn send(&mut self) {
        let sendable = self.exchange.sendable();
        if sendable.is_empty() {
            return;
        }
        let most = [3, 20, 250, u32::MAX][self.dice.roll(4) as usize];
        let bytes = sendable[..sendable.len().min(most as usize)].to_vec();
        self.exchange.wrote(bytes.len(), self.now);
        self.note_sent(&bytes);
    }

    fn note_sent(&mut self, bytes: &[u8]) {
        // One at a time, so that each request is looked at when its first byte leaves.
        for byte in bytes {
            if self.server.begun.is_empty() {
                self.began_clean = self
                    .ledger
                    .unanswered(self.read_total)
                    .all(|entry| !entry.is_received);
                let login = self.ledger.0.iter().rev().find(|entry| entry.is_received);
                let login = login.filter(|entry| is_login(&entry.asked));
                let is_read = login.is_none_or(|login| {
                    login.answered_at.is_some_and(|end| end <= self.read_total)
                });
                assert!(
                    is_read,
                    "something is sent behind a login that is not answered"
                );
            }
            for asked in self.server.receive(std::slice::from_ref(byte)) {
                assert!(
                    !is_login(&asked) || self.began_clean,
                    "a login is sent while replies are due"
                );
                self.searched |= matches!(asked, Asked::Last(_));
                self.ledger.received(&asked);
            }
        }
        self.sent.extend_from_slice(bytes);
    }

    /// The server answers something.
    fn answer(&mut self) {
        let Some(written) = self.server.answer(&mut self.dice).cloned() else {
            return;
        };
        let Some(entry) = self.ledger.answered(&written.asked, written.end).cloned() else {
            return;
        };
        match (entry.who, entry.shown) {
            (Who::Client(index), shown) => {
                let (client, side) = &mut self.clients[index];
                if entry.blocks && client.0.is_gone.get() {
                    self.expected_orphans.push(written.frame);
                    return;
                }
                match shown {
                    Shown::Reply => side.expected.extend(written.frame),
                    Shown::Text => side.expected.extend_from_slice(TEXT),
                    Shown::Nothing => {}
                }
            }
            (Who::Own(index), _) => {
                self.own[index].replies.extend(written.frame);
                self.own[index].frames_left -= 1;
            }
            (Who::Fence, _) => {}
        }
    }

    /// Bytes of the server arrive, cut anywhere.
    fn read(&mut self) {
        if self.broken.is_some() || self.server.wire.is_empty() {
            return;
        }
        let most = [1, 7, 60, u32::MAX][self.dice.roll(4) as usize] as usize;
        let count = self.server.wire.len().min(most);
        let mut arrived = self.exchange.carry().to_vec();
        arrived.extend(self.server.wire.drain(..count));
        self.read_total += count as u64;
        let received = self.exchange.received(&arrived, self.now, &self.heard);
        self.heard_micros = self.now;
        self.react();
        if let Err(violation) = received {
            self.broken = Some(violation);
        }
    }

    fn react(&mut self) {
        for (reply, bytes) in self.exchange.take_answered() {
            match reply {
                OwnReply::Step(effect) => {
                    if let Some((done, result)) = self.exchange.stepped(&effect, bytes) {
                        done(result);
                    }
                }
                OwnReply::Asked(tell) => tell(bytes),
                OwnReply::Call(call) => call.tell(bytes),
                OwnReply::Fence(_) | OwnReply::Last(_) | OwnReply::Refused => {}
                other => panic!("nobody asked for {other:?}"),
            }
        }
        let orphans = self.exchange.take_orphans();
        for (popped, bytes) in orphans {
            assert_eq!(popped, PoppedElements::Left);
            self.orphans.push(bytes);
        }
    }

    fn client_changes(&mut self) {
        let index = self.dice.roll(self.clients.len() as u32) as usize;
        // Whether a call was answered for one that has gone is decided by the first byte of the answer.
        let may_leave =
            !self.is_lent || (self.server.wire.is_empty() && !self.exchange.has_begun());
        let (client, side) = &mut self.clients[index];
        if may_leave && self.dice.one_of(3) {
            side.has_left = true;
            client.0.is_gone.set(true);
        } else {
            client.0.is_plain.set(self.dice.one_of(2));
        }
    }

    /// The server sends what nobody asked for, where that is allowed.
    fn push(&mut self) {
        if self.is_lent && !self.is_spent {
            let frame = format!(">2\r\n+{}\r\n:1\r\n", self.number()).into_bytes();
            self.server.write(&frame);
            self.pushed.extend(frame);
        }
    }
}

fn is_login(asked: &Asked) -> bool {
    matches!(asked, Asked::Numbered(name, _) if name == "AUTH")
}

mod check;
