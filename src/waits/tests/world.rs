//! The model's world: clients, connections with latencies of their own, and what carries out the actions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::dice::ModelDice;
use super::server::{ModelValue, WaitServer, requests};
use crate::resp::Request;
use crate::resp::speak::encode_request;
use crate::waits::{
    BlockingCall, BlockingCalls, CallConnectionId, NotLent, TryFailure, TryId, UnblockMode,
    WaitAction, WaitOrigin, WaitOutcome, WaiterId,
};

/// Describes a reply that is due on a connection.
pub(super) enum DueReply {
    Try {
        attempt: TryId,
        requests: usize,
        replies: Vec<u8>,
        left: usize,
    },
    Call(CallConnectionId),
}

impl DueReply {
    fn requests(&self) -> usize {
        match self {
            Self::Try { requests, .. } => *requests,
            Self::Call(_) => 1,
        }
    }
}

#[derive(Default)]
pub(super) struct ModelWire {
    pub(super) to_server: VecDeque<Vec<u8>>,
    pub(super) due: VecDeque<(DueReply, usize)>,
    pub(super) db: u8,
    pub(super) connection: Option<CallConnectionId>,
}

pub(super) struct ModelClient {
    pub(super) db: u8,
    pub(super) name: Vec<u8>,
    /// Who stands in line with it has the same.
    line: Vec<Vec<u8>>,
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) deadline: Option<u64>,
    unblocked: Option<UnblockMode>,
    /// It has tried and found nothing.
    pub(super) has_waited: bool,
    /// The server has answered a try of its own.
    was_tried: bool,
}

pub(super) struct WaitWorld {
    dice: ModelDice,
    pub(super) waits: BlockingCalls<u8>,
    pub(super) server: WaitServer,
    pub(super) wires: BTreeMap<u64, ModelWire>,
    pub(super) next_wire: u64,
    pub(super) clients: BTreeMap<WaiterId, ModelClient>,
    /// These actions take their time.
    pub(super) tries: Vec<(TryId, u8)>,
    pub(super) borrows: Vec<(CallConnectionId, u8)>,
    pub(super) returns: Vec<(u8, Vec<u8>)>,
    pub(super) unblocking: BTreeSet<CallConnectionId>,
    pub(super) connections: BTreeMap<CallConnectionId, u64>,
    pub(super) leases: usize,
    /// One call asks for no more keys than this.
    pub(super) most_keys: u32,
    /// There is one connection, elements are pushed on the right and popped on the left, and put back at once: every list
    /// stays in order.
    pub(super) in_order: bool,
    pub(super) now: u64,
    pub(super) next_element: u64,
    /// Each element was produced here, and went there.
    pub(super) produced: BTreeMap<Vec<u8>, (u8, Vec<u8>)>,
    pub(super) delivered: BTreeSet<Vec<u8>>,
    pub(super) deleted: BTreeSet<Vec<u8>>,
    pub(super) lost: BTreeSet<Vec<u8>>,
    pub(super) returned: u64,
    pub(super) orphaned: u64,
    /// A connection is being lost, or the server is away.
    pub(super) losing: bool,
    pub(super) away: bool,
    pub(super) told: BTreeMap<&'static str, u64>,
}

pub(super) const LISTS: &[&[u8]] = &[b"l0", b"l1", b"l2"];
const SORTED: &[&[u8]] = &[b"z0", b"z1"];
const STREAMS: &[&[u8]] = &[b"s0", b"s1"];

/// Returns the elements in `bytes`: they are the only lines of an `e` and digits.
fn elements(bytes: &[u8]) -> Vec<Vec<u8>> {
    let lines = bytes.split(|&byte| byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let is_element = |line: &&[u8]| matches!(line, [b'e', rest @ ..] if !rest.is_empty() && rest.iter().all(u8::is_ascii_digit));
    lines.filter(is_element).map(<[u8]>::to_vec).collect()
}

impl WaitWorld {
    #[cfg(test)]
    pub(super) fn new(seed: u64) -> Self {
        Self::with(ModelDice::by_chance(seed))
    }

    pub(super) fn with(mut dice: ModelDice) -> Self {
        let leases = dice.roll(12) as usize;
        let mut world = Self {
            dice,
            waits: BlockingCalls::default(),
            server: WaitServer::default(),
            wires: BTreeMap::new(),
            next_wire: 1,
            clients: BTreeMap::new(),
            tries: Vec::new(),
            borrows: Vec::new(),
            returns: Vec::new(),
            unblocking: BTreeSet::new(),
            connections: BTreeMap::new(),
            leases,
            most_keys: 4,
            in_order: false,
            now: 1,
            next_element: 0,
            produced: BTreeMap::new(),
            delivered: BTreeSet::new(),
            deleted: BTreeSet::new(),
            lost: BTreeSet::new(),
            returned: 0,
            orphaned: 0,
            losing: false,
            away: false,
            told: BTreeMap::new(),
        };
        for db in [0, 0, 1] {
            world.open(db);
        }
        world
    }

    fn open(&mut self, db: u8) -> u64 {
        let id = self.next_wire;
        self.next_wire += 1;
        self.server.connect(id, db);
        let wire = ModelWire {
            db,
            ..ModelWire::default()
        };
        self.wires.insert(id, wire);
        id
    }

    pub(super) fn roll(&mut self, sides: u32) -> u32 {
        self.dice.roll(sides)
    }

    // What clients and producers do.

    pub(super) fn arrive(&mut self) {
        let timeout = match self.roll(3) {
            0 => "0".to_owned(),
            _ => format!("0.{:03}", self.roll(400) + 1),
        };
        let kind = self.roll(12);
        let name = match kind {
            0 => return self.arrive_reading(),
            1 | 2 => {
                let from = self.key(LISTS);
                let words = [
                    b"BLMOVE",
                    &from[..],
                    b"moved",
                    b"LEFT",
                    b"RIGHT",
                    timeout.as_bytes(),
                ];
                let words = words.map(<[u8]>::to_vec);
                return self.arrive_with(&words, vec![from]);
            }
            3..=6 => "BLPOP",
            7 | 8 => "BRPOP",
            9 | 10 => "BZPOPMIN",
            _ => "BZPOPMAX",
        };
        let of = if kind < 9 { LISTS } else { SORTED };
        let most = self.most_keys;
        let mut keys: Vec<Vec<u8>> = (0..=self.roll(most)).map(|_| self.key(of)).collect();
        if self.roll(16) == 0 {
            // More words than are made one with others.
            keys = keys.iter().cycle().take(70).cloned().collect();
        }
        let mut words = vec![name.as_bytes().to_vec()];
        words.extend(keys.iter().cloned());
        words.push(timeout.into_bytes());
        self.arrive_with(&words, keys);
    }

    fn arrive_reading(&mut self) {
        let millis = (self.roll(3) * self.roll(300)).to_string();
        let stream = self.key(STREAMS);
        let id = if self.roll(2) == 0 { "$" } else { "0" };
        let words = [
            b"XREAD",
            &b"BLOCK"[..],
            millis.as_bytes(),
            b"STREAMS",
            &stream,
            id.as_bytes(),
        ];
        self.arrive_with(&words.map(<[u8]>::to_vec), vec![stream]);
    }

    pub(super) fn key(&mut self, of: &[&[u8]]) -> Vec<u8> {
        let of = match self.roll(32) {
            0 => [LISTS, SORTED, STREAMS][self.roll(3) as usize],
            _ => of,
        };
        of[self.roll(of.len() as u32) as usize].to_vec()
    }

    pub(super) fn arrive_with(&mut self, words: &[Vec<u8>], keys: Vec<Vec<u8>>) {
        let db = u8::from(!self.in_order && self.roll(4) == 0);
        let request = encode_request(words);
        let call = BlockingCall::parse(&Request::new(&request)).expect("it is understood");
        let deadline = call.timeout_micros().map(|timeout| self.now + timeout);
        let group = usize::from(self.roll(3) == 0);
        let address = u64::from(self.roll(3));
        let whose = WaitOrigin { group, address };
        let id = self.waits.arrive(db, whose, call, self.now);
        let client = ModelClient {
            db,
            name: words[0].clone(),
            line: match words.len() {
                0..70 => vec![words[0].clone()],
                _ => words[..words.len() - 1].to_vec(),
            },
            keys,
            deadline,
            unblocked: None,
            has_waited: false,
            was_tried: false,
        };
        self.clients.insert(id, client);
        self.act();
    }

    pub(super) fn produce(&mut self) {
        let db = u8::from(self.roll(4) == 0);
        for _ in 0..=self.roll(4) {
            match self.roll(8) {
                0 => {
                    let key = self.key(STREAMS);
                    self.server.apply(db, &[b"XADD", &key]);
                }
                1 | 2 => {
                    let key = self.key(SORTED);
                    self.push(db, b"ZADD", &key);
                }
                3 | 4 => {
                    let key = self.key(LISTS);
                    self.push(db, b"RPUSH", &key);
                }
                _ => {
                    let key = self.key(LISTS);
                    self.push(db, b"LPUSH", &key);
                }
            }
        }
    }

    pub(super) fn push(&mut self, db: u8, name: &[u8], key: &[u8]) {
        let element = format!("e{}", self.next_element).into_bytes();
        self.next_element += 1;
        let words: Vec<&[u8]> = match name {
            b"ZADD" => vec![name, key, b"1", &element],
            _ => vec![name, key, &element],
        };
        if !self.server.apply(db, &words).starts_with(b"-") {
            self.produced.insert(element, (db, key.to_vec()));
        }
    }

    pub(super) fn clear(&mut self) {
        let db = u8::from(self.roll(4) == 0);
        let of = [LISTS, SORTED, STREAMS][self.roll(3) as usize];
        let key = of[self.roll(of.len() as u32) as usize];
        match self.server.keys.get(&(db, key.to_vec())) {
            Some(ModelValue::List(list)) => self.deleted.extend(list.iter().cloned()),
            Some(ModelValue::Sorted(members)) => self.deleted.extend(members.iter().cloned()),
            _ => {}
        }
        match self.roll(3) {
            0 => self.server.apply(db, &[b"SET", key, b"x"]),
            _ => self.server.apply(db, &[b"DEL", key]),
        };
    }

    fn some_client(&mut self) -> Option<WaiterId> {
        let most = self.clients.len();
        let at = match (most, self.roll(3)) {
            (0, _) => return None,
            (_, 0) => 0,
            (_, 1) => most - 1,
            _ => self.roll(most as u32) as usize,
        };
        self.clients.keys().nth(at).copied()
    }

    pub(super) fn leave(&mut self) {
        if let Some(id) = self.some_client() {
            self.leave_as(id);
        }
    }

    pub(super) fn leave_as(&mut self, id: WaiterId) {
        self.clients.remove(&id);
        self.waits.leave(id, self.now);
        self.act();
    }

    pub(super) fn unblock(&mut self) {
        let Some(id) = self.some_client() else { return };
        let mode = match self.roll(2) {
            0 => UnblockMode::Timeout,
            _ => UnblockMode::Error,
        };
        let client = self.clients.get_mut(&id).expect("it waits");
        let was = client.unblocked.replace(mode);
        if !self.waits.unblock(id, mode, self.now)
            && let Some(client) = self.clients.get_mut(&id)
        {
            client.unblocked = was;
        }
        self.act();
    }

    // What the network does.

    /// Has one thing that is under way go on. False: nothing is.
    pub(super) fn go_on(&mut self) -> bool {
        let mut wires: Vec<(u64, bool)> = Vec::new();
        for (id, wire) in &self.wires {
            if !wire.to_server.is_empty() {
                wires.push((*id, true));
            }
            if !self.server.connections[id].replies.is_empty() {
                wires.push((*id, false));
            }
        }
        let parts = [
            wires.len(),
            self.tries.len(),
            self.borrows.len(),
            self.returns.len(),
            self.unblocking.len(),
        ];
        let all: usize = parts.iter().sum();
        if all == 0 {
            return false;
        }
        let mut at = self.roll(all as u32) as usize;
        let part = parts
            .iter()
            .position(|part| {
                let is_here = at < *part;
                at -= if is_here { 0 } else { *part };
                is_here
            })
            .expect("one of them");
        match part {
            0 if wires[at].1 => self.up(wires[at].0),
            0 => self.down(wires[at].0),
            1 => self.begin(at),
            2 => self.lend(at),
            3 => self.put_back(at),
            _ => self.end_call(at),
        }
        self.act();
        true
    }

    fn up(&mut self, id: u64) {
        let wire = self.wires.get_mut(&id).expect("it is open");
        let request = wire.to_server.pop_front().expect("there is one");
        let mut due = wire.due.iter_mut();
        let of = due.find(|(due, arrived)| *arrived < due.requests());
        of.expect("a reply is due to it").1 += 1;
        self.server.receive(id, &request);
    }

    fn down(&mut self, id: u64) {
        let connection = self.server.connections.get_mut(&id).expect("it is open");
        let reply = connection.replies.pop_front().expect("there is one");
        let wire = self.wires.get_mut(&id).expect("it is open");
        match &mut wire.due.front_mut().expect("it is due").0 {
            DueReply::Try { replies, left, .. } => {
                replies.extend_from_slice(&reply);
                *left -= 1;
                if *left > 0 {
                    return;
                }
            }
            DueReply::Call(_) => {}
        }
        match wire.due.pop_front().expect("it is due").0 {
            DueReply::Try {
                attempt, replies, ..
            } => {
                let newcomer = self.waits.newcomer(attempt);
                if let Some(client) = newcomer.and_then(|id| self.clients.get_mut(&id)) {
                    client.was_tried = true;
                }
                self.waits.tried(attempt, &replies, self.now);
            }
            DueReply::Call(connection) => {
                self.unblocking.remove(&connection);
                self.waits.answered(connection, &reply, self.now);
            }
        }
    }

    fn begin(&mut self, at: usize) {
        let (attempt, db) = self.tries.swap_remove(at);
        let shared = self.wires.iter();
        let shared = shared.filter(|(_, wire)| wire.connection.is_none() && wire.db == db);
        let shared: Vec<u64> = shared.map(|(id, _)| *id).collect();
        if shared.is_empty() || self.away {
            self.waits
                .failed(attempt, TryFailure::Unreachable, self.now);
            return;
        }
        let wire = shared[self.roll(shared.len() as u32) as usize];
        if let Some(sending) = self.waits.begin(attempt, self.now) {
            self.waits.check_room(attempt);
            self.send_try(wire, attempt, &sending.bytes, sending.replies);
        }
    }

    fn send_try(&mut self, wire: u64, attempt: TryId, bytes: &[u8], replies: usize) {
        let all = requests(bytes);
        assert_eq!(all.len(), replies);
        let due = DueReply::Try {
            attempt,
            requests: all.len(),
            replies: Vec::new(),
            left: replies,
        };
        let wire = self.wires.get_mut(&wire).expect("it is open");
        wire.to_server.extend(all);
        wire.due.push_back((due, 0));
    }

    fn lend(&mut self, at: usize) {
        let (wanted, db) = self.borrows.swap_remove(at);
        if self.away {
            return self.waits.not_lent(wanted, NotLent::Unreachable, self.now);
        }
        if !self.waits.wants(wanted) || self.connections.len() >= self.leases || self.roll(8) == 0 {
            if self.waits.wants(wanted) && self.roll(8) > 0 {
                // It waits on.
                return self.borrows.push((wanted, db));
            }
            return self.waits.not_lent(wanted, NotLent::Timeout, self.now);
        }
        let wire = self.open(db);
        self.wires.get_mut(&wire).expect("it is open").connection = Some(wanted);
        self.connections.insert(wanted, wire);
        self.waits.lent(wanted, self.now);
    }

    fn put_back(&mut self, at: usize) {
        let (db, request) = self.returns.swap_remove(at);
        let request = Request::new(&request);
        let words: Vec<&[u8]> = request.arguments().collect();
        let gone = elements(request.bytes());
        if self.server.apply(db, &words).starts_with(b"-") {
            self.deleted.extend(gone);
        }
    }

    fn end_call(&mut self, at: usize) {
        let connection = *self.unblocking.iter().nth(at).expect("there is one");
        self.server.unblock(self.connections[&connection]);
    }

    pub(super) fn lose(&mut self) {
        let ids: Vec<u64> = self.wires.keys().copied().collect();
        if !ids.is_empty() {
            let id = ids[self.roll(ids.len() as u32) as usize];
            self.lose_wire(id);
        }
    }

    fn lose_wire(&mut self, id: u64) {
        for reply in self.server.disconnect(id) {
            self.lost.extend(elements(&reply));
        }
        let wire = self.wires.remove(&id).expect("it was open");
        self.losing = true;
        let mut sent = true;
        for (due, arrived) in wire.due {
            sent = sent && (arrived > 0 || self.roll(2) == 0);
            match due {
                DueReply::Try { attempt, .. } => {
                    self.waits
                        .failed(attempt, TryFailure::Lost { sent }, self.now);
                }
                DueReply::Call(connection) => {
                    self.connections.remove(&connection);
                    self.unblocking.remove(&connection);
                    self.waits.lost(connection, sent, self.now);
                }
            }
            self.act();
        }
        // A connection without a call learns of its loss at the next one.
        if let Some(connection) = wire.connection
            && self.connections.remove(&connection).is_some()
        {
            self.waits.lost(connection, false, self.now);
            self.act();
        }
        self.losing = false;
        if wire.connection.is_none() {
            self.open(wire.db);
        }
    }

    pub(super) fn yield_to(&mut self) {
        self.waits.yield_to(1, self.now);
        self.act();
    }

    /// Has the server take no calls for a while.
    pub(super) fn refuse(&mut self) {
        self.calm(0);
        for client in self.clients.values_mut() {
            client.has_waited = true;
        }
        self.server.refuses = Some(b"-OOM no\r\n");
        for _ in 0..self.roll(60) {
            match self.roll(8) {
                0 => self.arrive(),
                1 => self.stray_unblock(),
                2 => self.pass(100_000),
                _ => drop(self.go_on()),
            }
        }
        self.server.refuses = None;
    }

    /// Has the server be away for as long as it takes everybody to notice.
    pub(super) fn outage(&mut self) {
        let ids: Vec<u64> = self.wires.keys().copied().collect();
        for id in ids {
            // It may have been given back because of the loss of another.
            if self.wires.contains_key(&id) {
                self.lose_wire(id);
            }
        }
        self.away = true;
        for _ in 0..self.roll(20) {
            self.go_on();
        }
        self.away = false;
    }

    pub(super) fn pass(&mut self, micros: u64) {
        self.now += micros;
        self.server.advance(self.now);
        if self.waits.next_due().is_some_and(|due| due <= self.now) {
            self.waits.tick(self.now);
        }
        self.act();
    }

    // What the caller of the machine does.

    fn act(&mut self) {
        while let Some(action) = self.waits.next_action() {
            match action {
                WaitAction::Try { attempt, state, .. } => self.tries.push((attempt, state)),
                WaitAction::Borrow {
                    connection, state, ..
                } => self.borrows.push((connection, state)),
                WaitAction::Issue {
                    connection,
                    ahead,
                    call,
                } => {
                    let wire = self.connections[&connection];
                    self.waits.check_issued(connection);
                    if call.takes > 0 && self.roll(16) == 0 {
                        self.put_off(connection, ahead.map(|(attempt, _)| attempt));
                        continue;
                    }
                    if let Some((attempt, sending)) = ahead {
                        self.send_try(wire, attempt, &sending.bytes, sending.replies);
                    }
                    let wire = self.wires.get_mut(&wire).expect("it is open");
                    wire.to_server.push_back(call.bytes);
                    wire.due.push_back((DueReply::Call(connection), 0));
                }
                WaitAction::Unblock { connection } => assert!(self.unblocking.insert(connection)),
                WaitAction::Release { connection } => {
                    let id = self.connections.remove(&connection).expect("it was lent");
                    let wire = self.wires.remove(&id).expect("it is open");
                    assert!(
                        wire.due.is_empty() && wire.to_server.is_empty(),
                        "a call is out"
                    );
                    assert!(self.server.disconnect(id).is_empty());
                }
                WaitAction::Return {
                    state,
                    request,
                    elements,
                } => {
                    self.returned += elements;
                    self.returns.push((state, request));
                    if self.in_order {
                        self.put_back(0);
                    }
                }
                WaitAction::Orphaned(count) => self.orphaned += count,
                WaitAction::Tell {
                    waiter,
                    outcome,
                    has_waited,
                } => {
                    if let WaitOutcome::Reply(reply) = &outcome
                        && reply.starts_with(b"-WRONGTYPE")
                    {
                        assert!(!has_waited, "told that a key is of another kind");
                    }
                    self.tell(waiter, &outcome);
                }
            }
        }
        self.waits.check();
    }

    fn tell(&mut self, waiter: WaiterId, outcome: &WaitOutcome) {
        let client = self
            .clients
            .get(&waiter)
            .expect("told once, and nobody who has left");
        let what = match outcome {
            WaitOutcome::Reply(reply) if reply.starts_with(b"-OOM") => {
                assert!(!client.has_waited, "told what passes");
                "refused"
            }
            WaitOutcome::Reply(reply) if reply.starts_with(b"-") => "error",
            WaitOutcome::Reply(reply) => {
                let found = elements(reply);
                if client.name != b"XREAD" {
                    let element = found.first().expect("an element");
                    let (db, key) = &self.produced[element];
                    assert_eq!(*db, client.db, "popped in a database of another");
                    assert!(client.keys.contains(key), "popped from a key of another");
                    assert!(self.delivered.insert(element.clone()), "delivered twice");
                    let is_before = |(id, other): (&WaiterId, &ModelClient)| {
                        let is_alike = other.line == client.line && other.db == client.db;
                        *id < waiter && is_alike && other.keys.contains(key)
                    };
                    assert!(
                        !self.clients.iter().any(is_before),
                        "somebody was first in line"
                    );
                }
                "element"
            }
            WaitOutcome::Null => {
                let is_late = client.deadline.is_some_and(|deadline| deadline <= self.now);
                let is_unblocked = client.unblocked == Some(UnblockMode::Timeout);
                assert!(is_late || is_unblocked, "null before the time");
                assert!(client.was_tried || is_unblocked, "null before an answer");
                "null"
            }
            WaitOutcome::Unblocked => {
                assert_eq!(client.unblocked, Some(UnblockMode::Error));
                "unblocked"
            }
            WaitOutcome::Lost => {
                assert!(self.losing, "nothing was lost");
                "lost"
            }
            WaitOutcome::Unreachable => {
                assert!(self.away, "the server was there");
                "unreachable"
            }
            WaitOutcome::OwnConnection => panic!("nothing here needs one"),
        };
        *self.told.entry(what).or_default() += 1;
        self.clients.remove(&waiter);
    }
}
