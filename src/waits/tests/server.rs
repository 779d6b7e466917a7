//! A server for the model: lists, sorted sets, streams and texts, MULTI, blocking calls, CLIENT UNBLOCK.

use std::collections::{BTreeMap, VecDeque};

use crate::resp::speak::{encode_request, push_bulk, push_header};
use crate::resp::{Bounds, Request, RequestScanner, Scan};

type Words = Vec<Vec<u8>>;

const NULL: &[u8] = b"*-1\r\n";
const WRONGTYPE: &[u8] = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";

#[derive(Debug)]
pub(super) enum ModelValue {
    List(VecDeque<Vec<u8>>),
    Sorted(Vec<Vec<u8>>),
    Stream(Vec<u64>),
    Text,
}

#[derive(Debug)]
struct WaitingClients {
    call: Words,
    until: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct ModelConnection {
    db: u8,
    queued: Option<Vec<Words>>,
    blocked: Option<WaitingClients>,
    /// These requests have arrived and not run.
    inbox: VecDeque<Words>,
    /// These replies are on their way back.
    pub(super) replies: VecDeque<Vec<u8>>,
}

#[derive(Debug, Default)]
pub(super) struct WaitServer {
    pub(super) now: u64,
    pub(super) keys: BTreeMap<(u8, Vec<u8>), ModelValue>,
    pub(super) connections: BTreeMap<u64, ModelConnection>,
    /// They stand here in order of blocking.
    blocked: Vec<u64>,
    last_entry: u64,
    /// Calls that arrive are refused with this.
    pub(super) refuses: Option<&'static [u8]>,
}

pub(super) fn requests(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let found = RequestScanner::default().scan(bytes, &Bounds::new(usize::MAX));
        let Scan::Request { length } = found else {
            panic!("not a request: {}", String::from_utf8_lossy(bytes));
        };
        all.push(bytes[..length].to_vec());
        bytes = &bytes[length..];
    }
    all
}

fn array(items: &[&[u8]]) -> Vec<u8> {
    encode_request(items)
}

impl WaitServer {
    pub(super) fn connect(&mut self, id: u64, db: u8) {
        let connection = ModelConnection {
            db,
            ..ModelConnection::default()
        };
        self.connections.insert(id, connection);
    }

    /// Closes a connection. Returns the replies that never arrived.
    pub(super) fn disconnect(&mut self, id: u64) -> Vec<Vec<u8>> {
        self.blocked.retain(|blocked| *blocked != id);
        let connection = self.connections.remove(&id);
        connection.map_or_else(Vec::new, |connection| connection.replies.into())
    }

    pub(super) fn blocked_calls(&self) -> Vec<(u64, u8, Words)> {
        let of = |id: &u64| {
            let connection = &self.connections[id];
            let blocked = connection.blocked.as_ref().expect("it is blocked");
            (*id, connection.db, blocked.call.clone())
        };
        self.blocked.iter().map(of).collect()
    }

    pub(super) fn receive(&mut self, id: u64, request: &[u8]) {
        let words = Request::new(request).arguments().map(<[u8]>::to_vec);
        let words = words.collect();
        let connection = self.connections.get_mut(&id).expect("it is open");
        connection.inbox.push_back(words);
        self.run();
    }

    /// Runs a command of somebody else.
    pub(super) fn apply(&mut self, db: u8, words: &[&[u8]]) -> Vec<u8> {
        let words: Words = words.iter().map(|word| word.to_vec()).collect();
        let reply = self.execute(db, &words, false).unwrap_or_default();
        self.run();
        reply
    }

    pub(super) fn unblock(&mut self, id: u64) -> bool {
        if !self.blocked.contains(&id) {
            return false;
        }
        self.answer_blocked(id, NULL.to_vec());
        self.run();
        true
    }

    pub(super) fn advance(&mut self, now: u64) {
        self.now = now;
        let late = |id: &u64| {
            let blocked = self.connections[id].blocked.as_ref();
            blocked.is_some_and(|blocked| blocked.until.is_some_and(|until| until <= now))
        };
        let late: Vec<u64> = self.blocked.iter().copied().filter(late).collect();
        for id in late {
            self.answer_blocked(id, NULL.to_vec());
        }
        self.run();
    }

    fn answer_blocked(&mut self, id: u64, reply: Vec<u8>) {
        self.blocked.retain(|blocked| *blocked != id);
        let connection = self.connections.get_mut(&id).expect("it is open");
        connection.blocked = None;
        connection.replies.push_back(reply);
    }

    /// Runs what can run: requests that have arrived, and blocked calls that find something.
    fn run(&mut self) {
        loop {
            let served = self.blocked_calls().into_iter().find_map(|(id, db, call)| {
                let reply = self.execute(db, &call, true)?;
                Some((id, reply)).filter(|(_, reply)| reply != WRONGTYPE && reply != NULL)
            });
            if let Some((id, reply)) = served {
                self.answer_blocked(id, reply);
                continue;
            }
            let ready = |connection: &&mut ModelConnection| connection.blocked.is_none();
            let next = self.connections.iter_mut().find_map(|(id, connection)| {
                let words = Some(connection).filter(ready)?.inbox.pop_front()?;
                Some((*id, words))
            });
            match next {
                Some((id, words)) => self.request(id, words),
                None => return,
            }
        }
    }

    fn request(&mut self, id: u64, words: Words) {
        let connection = self.connections.get_mut(&id).expect("it is open");
        let db = connection.db;
        let reply = match (words[0].as_slice(), &mut connection.queued) {
            (b"MULTI", None) => {
                connection.queued = Some(Vec::new());
                b"+OK\r\n".to_vec()
            }
            (b"EXEC", Some(queued)) => {
                let queued = std::mem::take(queued);
                connection.queued = None;
                let mut all = Vec::new();
                push_header(&mut all, b'*', queued.len() as i64);
                for words in queued {
                    all.extend(self.execute(db, &words, false).unwrap_or(NULL.to_vec()));
                }
                all
            }
            (_, Some(queued)) => {
                queued.push(words);
                b"+QUEUED\r\n".to_vec()
            }
            (_, None) => match self.execute(db, &words, false) {
                Some(reply) => reply,
                None => return self.block(id, words),
            },
        };
        let connection = self.connections.get_mut(&id).expect("it is open");
        connection.replies.push_back(reply);
    }

    fn block(&mut self, id: u64, call: Words) {
        let timeout = if call[0] == b"XREAD" {
            let text = std::str::from_utf8(&call[2]).expect("a number");
            text.parse::<u64>().expect("a number") * 1000
        } else {
            let text = std::str::from_utf8(call.last().expect("words")).expect("a number");
            (text.parse::<f64>().expect("a number") * 1e6) as u64
        };
        let until = (timeout > 0).then_some(self.now + timeout);
        let connection = self.connections.get_mut(&id).expect("it is open");
        connection.blocked = Some(WaitingClients { call, until });
        self.blocked.push(id);
    }

    /// Runs a command. Returns `None` where there is nothing and it would wait. A blocked call passes over keys of another
    /// kind.
    fn execute(&mut self, db: u8, words: &Words, is_blocked: bool) -> Option<Vec<u8>> {
        let of = |key: &Vec<u8>| (db, key.clone());
        if let Some(error) = self.refuses.filter(|_| !is_blocked && words[0][0] == b'B') {
            return Some(error.to_vec());
        }
        match words[0].as_slice() {
            b"BLPOP" | b"BRPOP" | b"BZPOPMIN" | b"BZPOPMAX" => {
                for key in &words[1..words.len() - 1] {
                    match self.pop(&words[0], of(key)) {
                        Ok(Some(reply)) => return Some(reply),
                        Err(()) if !is_blocked => return Some(WRONGTYPE.to_vec()),
                        _ => {}
                    }
                }
                None
            }
            b"BLMOVE" => match self.pop(b"BLPOP", of(&words[1])) {
                Ok(Some(reply)) => {
                    let element = Request::new(&reply).argument(1).expect("it has").to_vec();
                    self.list(of(&words[2])).push_back(element.clone());
                    let mut reply = Vec::new();
                    push_bulk(&mut reply, &element);
                    Some(reply)
                }
                Ok(None) => None,
                Err(()) => Some(WRONGTYPE.to_vec()),
            },
            b"XREAD" => self.xread(db, words),
            b"XINFO" => Some(match self.keys.get(&of(&words[2])) {
                None => b"-ERR no such key\r\n".to_vec(),
                Some(ModelValue::Stream(ids)) => {
                    let last = format!("{}-0", ids.last().copied().unwrap_or_default());
                    array(&[b"length", b"0", b"last-generated-id", last.as_bytes()])
                }
                Some(_) => WRONGTYPE.to_vec(),
            }),
            b"LLEN" | b"ZCARD" => Some(match (words[0][0], self.keys.get(&of(&words[1]))) {
                (_, None) => b":0\r\n".to_vec(),
                (b'L', Some(ModelValue::List(_))) | (b'Z', Some(ModelValue::Sorted(_))) => {
                    b":1\r\n".to_vec()
                }
                _ => WRONGTYPE.to_vec(),
            }),
            b"TYPE" => Some(match self.keys.get(&of(&words[1])) {
                None => b"+none\r\n".to_vec(),
                Some(ModelValue::List(_)) => b"+list\r\n".to_vec(),
                Some(ModelValue::Sorted(_)) => b"+zset\r\n".to_vec(),
                Some(ModelValue::Stream(_)) => b"+stream\r\n".to_vec(),
                Some(ModelValue::Text) => b"+string\r\n".to_vec(),
            }),
            _ => Some(self.write(db, words)),
        }
    }

    fn xread(&mut self, db: u8, words: &Words) -> Option<Vec<u8>> {
        // XREAD BLOCK ms STREAMS key id
        let after: u64 = match words[5].as_slice() {
            b"$" => u64::MAX,
            text => {
                let text = String::from_utf8_lossy(text);
                let first = text.split('-').next().expect("an id");
                first.parse().expect("an id")
            }
        };
        match self.keys.get(&(db, words[4].clone())) {
            Some(ModelValue::Stream(ids)) if ids.iter().any(|id| *id > after) => {
                let newer = ids.iter().filter(|id| **id > after).map(u64::to_string);
                let mut all = vec![words[4].clone()];
                all.extend(newer.map(String::into_bytes));
                Some(encode_request(&all))
            }
            None | Some(ModelValue::Stream(_)) => None,
            Some(_) => Some(WRONGTYPE.to_vec()),
        }
    }

    fn write(&mut self, db: u8, words: &Words) -> Vec<u8> {
        let key = (db, words[1].clone());
        match words[0].as_slice() {
            b"DEL" => drop(self.keys.remove(&key)),
            b"SET" => drop(self.keys.insert(key, ModelValue::Text)),
            b"LPUSH" | b"RPUSH" => {
                let is_other = |value: &ModelValue| !matches!(value, ModelValue::List(_));
                if self.keys.get(&key).is_some_and(is_other) {
                    return WRONGTYPE.to_vec();
                }
                let list = self.list(key);
                for element in &words[2..] {
                    if words[0] == b"LPUSH" {
                        list.push_front(element.clone());
                    } else {
                        list.push_back(element.clone());
                    }
                }
            }
            b"ZADD" => match self
                .keys
                .entry(key)
                .or_insert(ModelValue::Sorted(Vec::new()))
            {
                ModelValue::Sorted(members) => {
                    // `ZADD key [NX] score member ...`.
                    let pairs = if words[2] == b"NX" { 3 } else { 2 };
                    members.extend(words[pairs..].chunks(2).map(|pair| pair[1].clone()));
                }
                _ => return WRONGTYPE.to_vec(),
            },
            b"XADD" => {
                self.last_entry += 1;
                match self
                    .keys
                    .entry(key)
                    .or_insert(ModelValue::Stream(Vec::new()))
                {
                    ModelValue::Stream(ids) => ids.push(self.last_entry),
                    _ => return WRONGTYPE.to_vec(),
                }
            }
            other => panic!("{} is no command", String::from_utf8_lossy(other)),
        }
        b":1\r\n".to_vec()
    }

    fn list(&mut self, key: (u8, Vec<u8>)) -> &mut VecDeque<Vec<u8>> {
        let value = self
            .keys
            .entry(key)
            .or_insert(ModelValue::List(VecDeque::new()));
        match value {
            ModelValue::List(list) => list,
            other => panic!("{other:?} is no list"),
        }
    }

    fn pop(&mut self, name: &[u8], key: (u8, Vec<u8>)) -> Result<Option<Vec<u8>>, ()> {
        let (is_empty, reply) = match (name, self.keys.get_mut(&key)) {
            (_, None) => return Ok(None),
            (b"BLPOP" | b"BRPOP", Some(ModelValue::List(list))) => {
                let element = if name == b"BLPOP" {
                    list.pop_front()
                } else {
                    list.pop_back()
                };
                let element = element.expect("no empty lists");
                (list.is_empty(), array(&[&key.1, &element]))
            }
            (b"BZPOPMIN" | b"BZPOPMAX", Some(ModelValue::Sorted(members))) => {
                let at = if name == b"BZPOPMIN" {
                    0
                } else {
                    members.len() - 1
                };
                let member = members.remove(at);
                (members.is_empty(), array(&[&key.1, &member, b"1"]))
            }
            _ => return Err(()),
        };
        if is_empty {
            self.keys.remove(&key);
        }
        Ok(Some(reply))
    }
}
