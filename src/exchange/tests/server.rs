//! A server of a few lines: it reads requests, and answers the oldest whenever it is told to.

use std::collections::VecDeque;

use super::dice::Dice;
use crate::exchange::tests::ledger::Number;

/// What the server was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// `GET`, `EVAL`, `BLPOP`, `AUTH` ... with a number of its own.
    Numbered(String, Number),
    Multi,
    Exec(Number),
    /// A fence.
    Fence(String),
    /// What is asked where a fence is refused.
    Last(String),
    /// A question for a place.
    Place(String),
}

/// One reply on its way.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) asked: Asked,
    /// What its asker is to get.
    pub(super) frame: Vec<u8>,
    /// Where it ends among all bytes ever written, with what stands behind it.
    pub(super) end: u64,
}

/// How the server answers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manners {
    /// It refuses fences.
    pub(super) refuses_fences: bool,
    /// Scripts write into their errors.
    pub(super) scripts_write: bool,
    /// EXEC is not what it is called.
    pub(super) leaves_open: bool,
}

#[derive(Default)]
pub(super) struct Server {
    pub(super) manners: Manners,
    /// The start of a request that has not come whole.
    pub(super) begun: Vec<u8>,
    pub(super) asked: VecDeque<Asked>,
    /// Requests that came whole, but for fences and the like.
    pub(super) received: Vec<Number>,
    /// All requests that came, and were answered.
    pub(super) requests: usize,
    pub(super) wire: VecDeque<u8>,
    pub(super) written_total: u64,
    pub(super) written: Vec<Written>,
    /// Commands queued in the transaction under way, and whether one was refused.
    queued: Vec<Number>,
    in_multi: bool,
    is_spoilt: bool,
    /// A script has written more than one frame and its fence is, or will be, refused.
    pub(super) is_offending: bool,
    /// A transaction was left open.
    pub(super) has_left_open: bool,
    wrote_before_fence: bool,
}

/// What a script writes to be taken for replies.
const WRITTEN: [&str; 8] = [
    "$8\r\nINJECTED\r\n",
    "+OK\r\n",
    ":1\r\n",
    "$300\r\n",
    "*2\r\n",
    "$16\r\n0000000000000000\r\n",
    "-ERR x\r\n",
    ">2\r\n",
];

fn words(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let text = std::str::from_utf8(bytes).expect("requests of the model are text");
    let mut at = 0;
    let mut line = || {
        let end = at + text[at..].find("\r\n")?;
        let line = &text[at..end];
        at = end + 2;
        Some(line)
    };
    let count: usize = line()?
        .strip_prefix('*')
        .expect("an array")
        .parse()
        .unwrap();
    let mut words = Vec::new();
    for _ in 0..count {
        let _length = line()?;
        words.push(line()?.to_owned());
    }
    Some((words, at))
}

impl Server {
    pub(super) fn with(manners: Manners) -> Self {
        Self {
            manners,
            ..Self::default()
        }
    }

    /// Bytes come. Returns the requests that ended in them.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Vec<Asked> {
        self.begun.extend_from_slice(bytes);
        let mut ended = Vec::new();
        while let Some((words, used)) = words(&self.begun) {
            self.begun.drain(..used);
            let number = || words.last().expect("a word").parse().expect("a number");
            let asked = match words[0].as_str() {
                "MULTI" => Asked::Multi,
                "EXEC" => Asked::Exec(number()),
                "PING" => Asked::Fence(words[1].clone()),
                "HELLO" => Asked::Last(words[2].clone()),
                place if place.starts_with("respool:") => Asked::Place(place.to_owned()),
                name => Asked::Numbered(name.to_owned(), number()),
            };
            if let Asked::Numbered(_, number) | Asked::Exec(number) = &asked {
                assert!(!self.received.contains(number), "{number} is sent twice");
                self.received.push(*number);
            }
            self.requests += 1;
            self.asked.push_back(asked.clone());
            ended.push(asked);
        }
        ended
    }

    /// Answers the oldest request.
    pub(super) fn answer(&mut self, dice: &mut Dice) -> Option<&Written> {
        let asked = self.asked.pop_front()?;
        let (frame, behind) = match &asked {
            Asked::Multi => {
                (self.in_multi, self.is_spoilt) = (true, false);
                self.queued.clear();
                ("+OK\r\n".to_owned(), String::new())
            }
            Asked::Exec(number) => (self.exec(*number, dice), String::new()),
            Asked::Fence(digits) if self.manners.refuses_fences => {
                self.is_offending |= std::mem::take(&mut self.wrote_before_fence);
                let _ = digits;
                let refusal = ["-NOPERM no\r\n", "-BUSY a script runs\r\n"][dice.roll(2) as usize];
                (refusal.to_owned(), String::new())
            }
            Asked::Fence(digits) => {
                self.wrote_before_fence = false;
                (format!("$16\r\n{digits}\r\n"), String::new())
            }
            Asked::Last(digits) => (
                format!("-ERR Syntax error in HELLO option '{digits}'\r\n"),
                String::new(),
            ),
            Asked::Place(place) => (
                format!("-ERR unknown command '{place}', with args\r\n"),
                String::new(),
            ),
            Asked::Numbered(name, number) => self.numbered(name, *number, dice),
        };
        let frame = frame.into_bytes();
        self.write(&frame);
        self.write(behind.as_bytes());
        let end = self.written_total;
        self.written.push(Written { asked, frame, end });
        self.written.last()
    }

    /// Writes what answers no request.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.wire.extend(bytes);
        self.written_total += bytes.len() as u64;
    }

    fn exec(&mut self, number: Number, dice: &mut Dice) -> String {
        self.in_multi = false;
        if self.manners.leaves_open {
            self.has_left_open = true;
            return format!("-ERR unknown command 'EXEC' {number}\r\n");
        }
        if self.is_spoilt {
            return format!("-EXECABORT {number}\r\n");
        }
        if dice.one_of(5) {
            return "*-1\r\n".to_owned();
        }
        let elements = self
            .queued
            .iter()
            .map(|number| reply(*number, dice.roll(7)));
        let elements = elements.collect::<String>();
        format!("*{}\r\n{elements}", self.queued.len())
    }

    fn numbered(&mut self, name: &str, number: Number, dice: &mut Dice) -> (String, String) {
        let none = String::new();
        match name {
            "GET" if self.in_multi && dice.one_of(6) => {
                self.is_spoilt = true;
                (format!("-ERR {number} is not queued\r\n"), none)
            }
            "GET" if self.in_multi => {
                self.queued.push(number);
                ("+QUEUED\r\n".to_owned(), none)
            }
            "AUTH" | "NAME" | "SELECT" if dice.one_of(4) => {
                (format!("-ERR {number} is refused\r\n"), none)
            }
            "AUTH" | "NAME" | "SELECT" => ("+OK\r\n".to_owned(), none),
            "BLPOP" if dice.one_of(3) => ("*-1\r\n".to_owned(), none),
            "BLPOP" => {
                let text = number.to_string();
                let element = format!("${}\r\n{text}\r\n", text.len());
                (format!("*2\r\n$1\r\nk\r\n{element}"), none)
            }
            "EVAL" | "LOAD" if self.manners.scripts_write && dice.one_of(2) => {
                self.wrote_before_fence = name == "EVAL";
                // A push may be what it seems where its client alone gets it.
                let some = if name == "EVAL" { 8 } else { 7 };
                let fragments = (0..dice.roll(4)).map(|_| WRITTEN[dice.roll(some) as usize]);
                let behind = fragments.collect::<String>() + " script: f\r\n";
                (format!("-ERR {number} x\r\n"), behind)
            }
            _ => (reply(number, dice.roll(7)), none),
        }
    }
}

/// A reply that tells what it answers.
fn reply(number: Number, shape: u32) -> String {
    let bulk = |text: String| format!("${}\r\n{text}\r\n", text.len());
    match shape {
        0 => bulk(number.to_string()),
        1 => format!(":{number}\r\n"),
        2 => format!("*2\r\n{}*1\r\n:{number}\r\n", bulk(number.to_string())),
        3 => format!("-ERR {number} no\r\n"),
        4 => format!("+{number}\r\n"),
        5 => format!("%1\r\n+k\r\n:{number}\r\n"),
        _ => bulk(format!("\r\n+OK\r\n:1\r\n-ERR {number}\r\n>2\r\n")),
    }
}
