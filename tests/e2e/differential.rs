//! The differential test: what a client gets through respool is, byte for byte, what it gets directly.
//!
//! The corpus under `corpus/` is text, a command a line, in sequences that start with `== name`. Every sequence runs
//! on a new connection before an empty server, directly and through respool, in RESP2 and RESP3, step by step, as one
//! write and as one write for each byte; sequences with `split` at the end of their name also as two writes, cut at
//! every byte, those with `slow` not byte by byte. Arguments are quoted as in redis-cli. A line may begin with
//!
//! | mark | meaning |
//! | --- | --- |
//! | `~` | has no reply |
//! | `?` | only the kind of the reply is compared: it holds a time, an address or a random value |
//! | `&` | a line of `name=value` pairs of which respool must have the same names |
//! | `\|` | an inline command, sent as it stands |
//! | `b>`, `?b>` | sent by a second connection |
//! | `>` | sent without reading the reply; the next step waits until the server holds a blocked client, or has answered |
//! | `<` | reads that reply, or one more frame: a message, an invalidation, another confirmation |
//!
//! A sequence that would wait for what a server cannot send begins with a line `needs COMMAND`, as tests do: it is left out,
//! and counted, where the server answers that command with an error; with a line `needs not COMMAND` where it does not. One
//! with a line `except Redis 6.2: REASON` is left out on that server: docs/servers.md has the reasons.
//!
//! `RESPOOL_CORPUS=text` runs only sequences whose names contain the text.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::harness::{
    Client, Pki, Redis, Respool, TESTED_SERVER, Value, encode, eventually, is_left_out, leave_out,
    needs, show,
};

const CORPUS: [&str; 12] = [
    include_str!("corpus/strings.txt"),
    include_str!("corpus/collections.txt"),
    include_str!("corpus/streams.txt"),
    include_str!("corpus/keys.txt"),
    include_str!("corpus/scripts.txt"),
    include_str!("corpus/transactions.txt"),
    include_str!("corpus/blocking.txt"),
    include_str!("corpus/server.txt"),
    include_str!("corpus/connection.txt"),
    include_str!("corpus/tracking.txt"),
    include_str!("corpus/pubsub.txt"),
    include_str!("corpus/newer.txt"),
];

/// Lists the commands of the servers that no sequence can hold, and why.
const LEFT_OUT: [(&str, &str); 9] = [
    ("sync", "refused: respool is no replica"),
    ("psync", "refused: respool is no replica"),
    ("replconf", "refused: respool is no replica"),
    ("cluster|syncslots", "refused: respool is no node"),
    ("host:", "closes the connection, see protocol"),
    ("post", "closes the connection, see protocol"),
    (
        "client|capa",
        "not taken: what it promises holds for a connection, not for a client",
    ),
    ("client|import-source", "not taken: it marks a connection"),
    (
        "client|no-touch",
        "taken by respool itself on every server, see clients",
    ),
];

/// After so many sequences that hang or break off, a run ends: each of them costs the harness's whole patience.
const MOST_BROKEN: usize = 3;

pub(super) struct Sequence {
    pub(super) name: String,
    needs: Option<String>,
    /// Names a server that it is left out on, and why.
    except: Option<(String, String)>,
    pub(super) steps: Vec<Step>,
    cuts: Cuts,
}

/// Says how finely a sequence is cut besides being sent as one.
#[derive(Clone, Copy, PartialEq)]
enum Cuts {
    None,
    Bytes,
    Everywhere,
}

pub(super) struct Step {
    pub(super) line: String,
    pub(super) action: Action,
    compare: Compare,
}

pub(super) enum Action {
    /// It is sent, and one reply is read.
    Ask(Vec<u8>),
    /// It is sent, and nothing comes.
    Tell(Vec<u8>),
    /// It is sent on the second connection, and one reply is read there.
    AskOther(Vec<u8>),
    /// It is sent, and the reply is read by a later [`Action::Read`].
    Block(Vec<u8>),
    Read,
}

#[derive(Clone, Copy, PartialEq)]
enum Compare {
    Bytes,
    Kind,
    FieldNames,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    Resp2,
    Resp3,
}

/// Says in what pieces a sequence is written.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pieces {
    Steps,
    One,
    Bytes,
    SplitAt(usize),
}

/// Holds what came for one step.
struct Got {
    line: String,
    compare: Compare,
    bytes: Vec<u8>,
}

#[test]
fn resp2_replies_are_the_servers_own() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    compare_all(&redis, &|| respool.client(), Protocol::Resp2, &corpus());
    respool.assert_alive();
}

#[test]
fn resp3_replies_are_the_servers_own() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    compare_all(&redis, &|| respool.client(), Protocol::Resp3, &corpus());
    respool.assert_alive();
}

#[test]
fn replies_through_tls_on_both_sides_are_the_servers_own() {
    needs!(tls);
    let pki = Pki::new();
    let own = pki.issue("server", &["127.0.0.1", "localhost"]);
    let redis = Redis::start_tls(&pki, &own, &[]);
    let ca = pki.ca_file();
    let respool = Respool::before(&redis.tls_addr())
        .upstream(&format!(
            "tls = {{ enabled = true, ca_file = \"{}\" }}",
            ca.display()
        ))
        .listener(&format!("tls = {{ {} }}", own.toml()))
        .start();
    let config = pki.client(None);
    let through = || respool.tls_client(&config);
    compare_all(&redis, &through, Protocol::Resp2, &corpus());
    respool.assert_alive();
}

#[test]
fn two_direct_runs_do_not_differ() {
    let redis = Redis::start(&[]);
    let mut sequences = corpus();
    // In one write such a server differs from itself.
    sequences.retain(|sequence| TESTED_SERVER.answers_every_login() || !sequence.logs_in());
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        compare_all(&redis, &|| redis.client(), protocol, &sequences);
    }
}

#[test]
fn a_different_server_is_noticed() {
    let (redis, other) = (Redis::start(&[]), Redis::start(&["--databases", "8"]));
    let sequences = parse("== databases\nSELECT 9\nGET k\n? DBSIZE\n");
    let mut differences = Vec::new();
    let through = || other.client();
    compare(
        &redis,
        &through,
        Protocol::Resp2,
        &sequences[0],
        Pieces::Steps,
        &mut differences,
    );
    assert_eq!(differences.len(), 1, "{differences:?}");
}

#[test]
fn the_corpus_holds_every_command_of_the_server() {
    let redis = Redis::start(&[]);
    let used: BTreeSet<String> = whole_corpus()
        .iter()
        .flat_map(|s| &s.steps)
        .flat_map(command_names)
        .collect();
    let list = redis.cmd(&["COMMAND"]);
    let missing: Vec<_> = (list.items().iter().flat_map(names_of))
        .filter(|name| !used.contains(name) && !LEFT_OUT.iter().any(|(n, _)| n == name))
        .collect();
    assert!(list.items().len() > 200, "COMMAND lists what there is");
    assert!(
        missing.is_empty(),
        "not in the corpus and not left out: {missing:?}"
    );
}

/// Tells the name of an entry of `COMMAND` and, from Redis 7.0 on, those of its subcommands.
fn names_of(entry: &Value) -> Vec<String> {
    let entry = entry.items();
    let subcommands = entry.get(9).map(Value::items).unwrap_or_default();
    let names = std::iter::once(&entry[0]).chain(subcommands.iter().map(|sub| &sub.items()[0]));
    names.map(|name| name.text().to_lowercase()).collect()
}

fn compare_all(
    redis: &Redis,
    through: &dyn Fn() -> Client,
    protocol: Protocol,
    sequences: &[Sequence],
) {
    let mut differences = Vec::new();
    let mut broken = 0;
    for sequence in sequences {
        if sequence.is_left_out() {
            continue;
        }
        let mut pieces = vec![Pieces::Steps];
        if sequence.goes_as_one() {
            pieces.push(Pieces::One);
            if sequence.cuts != Cuts::None {
                pieces.push(Pieces::Bytes);
            }
            if sequence.cuts == Cuts::Everywhere {
                pieces.extend((1..sequence.bytes().len()).map(Pieces::SplitAt));
            }
        }
        for pieces in pieces {
            let run = || compare(redis, through, protocol, sequence, pieces, &mut differences);
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                differences.push(format!(
                    "== {} ({protocol:?}, {pieces:?}): hangs or breaks off",
                    sequence.name
                ));
                broken += 1;
                assert!(
                    broken < MOST_BROKEN,
                    "{broken} sequences broke; {}",
                    report(&differences)
                );
                break;
            }
        }
    }
    assert!(differences.is_empty(), "{}", report(&differences));
}

fn report(differences: &[String]) -> String {
    let shown = &differences[..differences.len().min(60)];
    format!(
        "{} replies differ:\n{}",
        differences.len(),
        shown.join("\n")
    )
}

/// Runs one sequence directly and through respool and notes what differs.
fn compare(
    redis: &Redis,
    through: &dyn Fn() -> Client,
    protocol: Protocol,
    sequence: &Sequence,
    pieces: Pieces,
    differences: &mut Vec<String>,
) {
    // However it is cut, the answer is that to the whole.
    let direct_pieces = match pieces {
        _ if sequence.logs_in() && !TESTED_SERVER.answers_every_login() => Pieces::Steps,
        Pieces::SplitAt(_) => Pieces::One,
        pieces => pieces,
    };
    sequence.prepare(redis);
    let direct = run(redis, &|| redis.client(), protocol, sequence, direct_pieces);
    sequence.prepare(redis);
    let proxied = run(redis, through, protocol, sequence, pieces);
    let place = format!("== {} ({protocol:?}, {pieces:?})", sequence.name);
    for (ours, theirs) in proxied.iter().zip(&direct) {
        if !theirs.same_as(ours) {
            let (line, direct, ours) = (&theirs.line, show(&theirs.bytes), show(&ours.bytes));
            differences.push(format!(
                "{place}: {line}\n    direct:  {direct}\n    respool: {ours}"
            ));
        }
    }
    if proxied.len() != direct.len() {
        let (got, due) = (proxied.len(), direct.len());
        differences.push(format!("{place}: {got} replies where Redis gives {due}"));
    }
}

fn run(
    redis: &Redis,
    connect: &dyn Fn() -> Client,
    protocol: Protocol,
    sequence: &Sequence,
    pieces: Pieces,
) -> Vec<Got> {
    let mut client = connect();
    let mut got = Vec::new();
    if protocol == Protocol::Resp3 {
        client.send(encode(&["HELLO", "3"]));
        got.push(Got {
            line: "HELLO 3".to_owned(),
            compare: Compare::Bytes,
            bytes: client.reply_bytes(),
        });
    }
    match pieces {
        Pieces::Steps => run_steps(redis, connect, client, sequence, &mut got),
        Pieces::One => run_stream(client, sequence, &[], &mut got),
        Pieces::Bytes => {
            let cuts: Vec<_> = (1..sequence.bytes().len()).collect();
            run_stream(client, sequence, &cuts, &mut got);
        }
        Pieces::SplitAt(cut) => run_stream(client, sequence, &[cut], &mut got),
    }
    got
}

fn run_steps(
    redis: &Redis,
    connect: &dyn Fn() -> Client,
    mut client: Client,
    sequence: &Sequence,
    got: &mut Vec<Got>,
) {
    let mut other: Option<Client> = None;
    let mut ended = false;
    for step in &sequence.steps {
        let mut from = &mut client;
        match &step.action {
            Action::Tell(bytes) => {
                ended |= from.try_send(bytes).is_err();
                continue;
            }
            Action::Block(bytes) => {
                from.send(bytes);
                eventually(
                    || redis.info("blocked_clients") == "1" || from.has_reply(),
                    &format!("blocked at the server: {}", step.line),
                );
                continue;
            }
            Action::Ask(bytes) => ended |= from.try_send(bytes).is_err(),
            Action::AskOther(bytes) => {
                from = other.get_or_insert_with(connect);
                from.send(bytes);
            }
            Action::Read => {}
        }
        let reply = if ended { None } else { from.try_reply_bytes() };
        ended = reply.is_none();
        let bytes = reply.unwrap_or_else(|| b"(the connection ended)".to_vec());
        got.push(Got {
            line: step.line.clone(),
            compare: step.compare,
            bytes,
        });
    }
    // Nothing may be left over.
    let _ = client.try_send(encode(&["QUIT"]));
    let rest = client.read_to_end();
    got.push(Got {
        line: "QUIT after all".to_owned(),
        compare: Compare::Bytes,
        bytes: rest,
    });
}

/// Sends everything, cut at `cuts`, reads to the end and cuts the replies.
fn run_stream(mut client: Client, sequence: &Sequence, cuts: &[usize], got: &mut Vec<Got>) {
    let bytes = sequence.bytes();
    let mut start = 0;
    for &end in cuts.iter().chain([&bytes.len()]) {
        if client.try_send(&bytes[start..end]).is_err() {
            break;
        }
        start = end;
    }
    let replies = client.read_to_end();
    let mut at = 0;
    let mut due = sequence
        .steps
        .iter()
        .filter(|s| matches!(s.action, Action::Ask(_) | Action::Read));
    while at < replies.len() {
        let length = Value::parse(&replies[at..]).map_or(replies.len() - at, |(_, length)| length);
        let bytes = replies[at..at + length].to_vec();
        at += length;
        let (line, compare) = due
            .next()
            .map_or(("QUIT after all", Compare::Bytes), |s| (&s.line, s.compare));
        got.push(Got {
            line: line.to_owned(),
            compare,
            bytes,
        });
    }
}

impl Got {
    fn same_as(&self, other: &Self) -> bool {
        match self.compare {
            Compare::Bytes => masked(&self.bytes) == masked(&other.bytes),
            Compare::Kind => self.bytes.first() == other.bytes.first(),
            Compare::FieldNames => {
                let ours: BTreeSet<_> = field_names(&other.bytes);
                field_names(&self.bytes).is_subset(&ours)
            }
        }
    }
}

/// Masks the id that HELLO tells of the connection, which is respool's own.
fn masked(bytes: &[u8]) -> Vec<u8> {
    const ID: &[u8] = b"$2\r\nid\r\n:";
    let Some(start) = bytes
        .windows(ID.len())
        .position(|w| w == ID)
        .map(|p| p + ID.len())
    else {
        return bytes.to_vec();
    };
    let digits = bytes[start..]
        .iter()
        .take_while(|b| b.is_ascii_digit())
        .count();
    [&bytes[..start], b"<id>", &bytes[start + digits..]].concat()
}

fn field_names(bytes: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(bytes);
    text.split_whitespace()
        // RESP3 puts the kind of the text before its first field.
        .map(|pair| pair.strip_prefix("txt:").unwrap_or(pair))
        .filter_map(|pair| Some(pair.split_once('=')?.0.to_owned()))
        .collect()
}

impl Sequence {
    pub(super) fn is_left_out(&self) -> bool {
        let here = format!("e2e::differential == {}", self.name);
        let except = self.except.as_ref();
        let needs = self.needs.as_ref();
        except.is_some_and(|(server, reason)| {
            *server == TESTED_SERVER.name() && leave_out(&here, reason)
        }) || needs.is_some_and(|command| is_left_out(&here, command))
    }

    /// Empties the server. A new script engine costs it milliseconds, so only for those that need it.
    fn prepare(&self, redis: &Redis) {
        const ENGINES: [&str; 4] = ["EVAL", "SCRIPT", "FUNCTION", "FCALL"];
        if self
            .steps
            .iter()
            .any(|s| ENGINES.iter().any(|e| s.line.contains(e)))
        {
            redis.flush();
        } else {
            assert_eq!(redis.cmd(&["FLUSHALL"]), Value::ok());
        }
    }

    /// Tells whether it holds an AUTH, of HELLO's too.
    fn logs_in(&self) -> bool {
        self.steps.iter().any(|step| step.line.contains("AUTH"))
    }

    fn goes_as_one(&self) -> bool {
        self.steps
            .iter()
            .all(|s| matches!(s.action, Action::Ask(_) | Action::Tell(_) | Action::Read))
    }

    /// Encodes all of it with a QUIT at the end, so that the end of the replies is seen.
    fn bytes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for step in &self.steps {
            if let Action::Ask(bytes) | Action::Tell(bytes) = &step.action {
                all.extend_from_slice(bytes);
            }
        }
        // What is written after a QUIT may reset the connection and take replies with it.
        let quits = |step: &Step| step.line.trim_start_matches("| ").starts_with("QUIT");
        if !self.steps.last().is_some_and(quits) {
            all.extend_from_slice(&encode(&["QUIT"]));
        }
        all
    }
}

pub(super) fn corpus() -> Vec<Sequence> {
    let wanted = std::env::var("RESPOOL_CORPUS").unwrap_or_default();
    let mut sequences = whole_corpus();
    sequences.retain(|s| s.name.contains(&wanted));
    assert!(
        !sequences.is_empty(),
        "no sequence has {wanted:?} in its name"
    );
    sequences
}

fn whole_corpus() -> Vec<Sequence> {
    CORPUS.iter().flat_map(|text| parse(text)).collect()
}

fn parse(text: &str) -> Vec<Sequence> {
    let mut sequences: Vec<Sequence> = Vec::new();
    for line in text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with("# "))
    {
        if let Some(head) = line.strip_prefix("== ") {
            let (name, cuts) = if let Some(name) = head.strip_suffix(" split") {
                (name, Cuts::Everywhere)
            } else if let Some(name) = head.strip_suffix(" slow") {
                (name, Cuts::None)
            } else {
                (head, Cuts::Bytes)
            };
            sequences.push(Sequence {
                name: name.to_owned(),
                needs: None,
                except: None,
                steps: Vec::new(),
                cuts,
            });
        } else {
            let sequence = sequences
                .last_mut()
                .expect("a sequence starts with == name");
            if let Some(command) = line.strip_prefix("needs ") {
                sequence.needs = Some(command.to_owned());
            } else if let Some(except) = line.strip_prefix("except ") {
                let (server, reason) = except.split_once(": ").expect("except SERVER: REASON");
                sequence.except = Some((server.to_owned(), reason.to_owned()));
            } else {
                sequence.steps.push(parse_step(line));
            }
        }
    }
    sequences
}

fn parse_step(line: &str) -> Step {
    let step = |action, compare| Step {
        line: line.to_owned(),
        action,
        compare,
    };
    let command = |text: &str| encode(&split_arguments(text.trim_start()));
    let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
    match mark {
        "?" => step(Action::Ask(command(rest)), Compare::Kind),
        "&" => step(Action::Ask(command(rest)), Compare::FieldNames),
        "|" => step(
            Action::Ask(format!("{rest}\r\n").into_bytes()),
            Compare::Bytes,
        ),
        "b>" => step(Action::AskOther(command(rest)), Compare::Bytes),
        "?b>" => step(Action::AskOther(command(rest)), Compare::Kind),
        ">" => step(Action::Block(command(rest)), Compare::Bytes),
        "<" => step(Action::Read, Compare::Bytes),
        _ => match line.strip_prefix('~') {
            Some(silent) => step(Action::Tell(command(silent)), Compare::Bytes),
            None => step(Action::Ask(command(line)), Compare::Bytes),
        },
    }
}

/// Reads arguments as redis-cli does: blanks between, `"..."` with escapes.
fn split_arguments(line: &str) -> Vec<Vec<u8>> {
    let mut bytes = line.bytes().peekable();
    let mut arguments = Vec::new();
    while bytes.peek().is_some() {
        let mut argument = Vec::new();
        if bytes.next_if_eq(&b'"').is_some() {
            while let Some(byte) = bytes.next().filter(|&b| b != b'"') {
                argument.push(if byte == b'\\' {
                    unescape(&mut bytes)
                } else {
                    byte
                });
            }
        } else {
            while let Some(byte) = bytes.next_if(|&b| b != b' ') {
                argument.push(byte);
            }
        }
        arguments.push(argument);
        assert!(
            bytes.next().is_none_or(|b| b == b' '),
            "no blank between arguments: {line}"
        );
    }
    arguments
}

fn unescape(bytes: &mut impl Iterator<Item = u8>) -> u8 {
    let mut next = || bytes.next().expect("something follows a backslash");
    match next() {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'x' => {
            let digits = [next(), next()];
            let text = std::str::from_utf8(&digits).expect("hex digits are ASCII");
            u8::from_str_radix(text, 16).expect("two hex digits follow \\x")
        }
        other => other,
    }
}

/// Tells the names of a step's command: `config` and `config|get` of `CONFIG GET x`.
fn command_names(step: &Step) -> Vec<String> {
    let (Action::Ask(bytes) | Action::Tell(bytes) | Action::AskOther(bytes) | Action::Block(bytes)) =
        &step.action
    else {
        return Vec::new();
    };
    let Ok((request, _)) = Value::parse(bytes) else {
        return Vec::new();
    };
    let words: Vec<_> = request
        .items()
        .iter()
        .map(|v| v.text().to_lowercase())
        .collect();
    match words.as_slice() {
        [name, sub, ..] => vec![name.clone(), format!("{name}|{sub}")],
        names => names.to_vec(),
    }
}
