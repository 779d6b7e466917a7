//! The table against expectations written out here, and against the `COMMAND` of a real server.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame as Frame;

use super::*;
use crate::resp::{ReplyScanner, speak::encode_request};

fn all() -> impl Iterator<Item = (CommandId, &'static CommandSpec)> {
    (0..COUNT as CommandId).map(|id| (id, spec(id)))
}

fn way(name: &str) -> Way {
    spec(lookup_full(name.as_bytes()).unwrap_or_else(|| panic!("{name} is not in the table"))).way
}

/// Names all commands whose way is this.
fn travelling(wanted: impl Fn(Way) -> bool) -> Vec<&'static str> {
    all()
        .filter(|(_, spec)| wanted(spec.way))
        .map(|(_, spec)| spec.name)
        .collect()
}

#[test]
fn names_are_sorted_unique_and_lower_case() {
    let names: Vec<_> = all().map(|(_, spec)| spec.name).collect();
    assert!(names.is_sorted_by(|a, b| a.as_bytes() < b.as_bytes()));
    for name in names {
        assert!(
            name.bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'|')),
            "{name}"
        );
    }
}

#[test]
fn containers_are_exactly_what_has_subcommands() {
    let parents: BTreeSet<_> = all()
        .filter_map(|(_, spec)| Some(spec.name.split_once('|')?.0))
        .collect();
    let containers: BTreeSet<_> = all()
        .filter(|&(id, _)| is_container(id))
        .map(|(_, spec)| spec.name)
        .collect();
    assert_eq!(parents, containers);
}

#[test]
fn subcommands_are_found_by_their_container_only() {
    for (id, spec) in all() {
        match spec.name.split_once('|') {
            Some((parent, name)) => {
                assert_eq!(lookup(spec.name.as_bytes()), None);
                assert_eq!(lookup_full(spec.name.as_bytes()), Some(id));
                let parent = lookup(parent.as_bytes()).unwrap();
                assert_eq!(sub(parent, name.to_uppercase().as_bytes()), Some(id));
            }
            None => assert_eq!(lookup(spec.name.to_uppercase().as_bytes()), Some(id)),
        }
    }
    let client = lookup(b"client").unwrap();
    assert_eq!(sub(client, b"no-such"), None);
    assert_eq!(sub(client, b""), None);
    assert_eq!(sub(client, &[b'x'; 4096]), None);
    assert_eq!(sub(lookup(b"get").unwrap(), b"list"), None);
}

#[test]
fn requests_are_identified() {
    let known = |name: &str| NamedCommand::Known(lookup_full(name.as_bytes()).unwrap());
    assert_eq!(identify(b"GET", Some(b"key")), known("get"));
    assert_eq!(identify(b"Client", Some(b"List")), known("client|list"));
    assert_eq!(identify(b"client", None), known("client"));
    assert_eq!(identify(b"client", Some(b"future")), known("client"));
    assert_eq!(identify(b"client|list", None), NamedCommand::Unknown);
    assert_eq!(identify(b"ft.search", Some(b"\0")), NamedCommand::Unknown);
    assert_eq!(identify(b"get", Some(b"ke\0y")), known("get"));
    assert_eq!(identify(b"multi\0", None), NamedCommand::Torn);
    assert_eq!(identify(b"client", Some(b"reply\0x")), NamedCommand::Torn);
    assert_eq!(identify(&[0; 100], None), NamedCommand::Torn);
}

#[test]
fn transactions_are_told() {
    let told: Vec<_> = all()
        .filter_map(|(id, spec)| Some((spec.name, transaction(id)?)))
        .collect();
    assert_eq!(
        told,
        [
            ("discard", TransactionCommand::Discard),
            ("exec", TransactionCommand::Exec),
            ("multi", TransactionCommand::Multi),
            ("unwatch", TransactionCommand::Unwatch),
            ("watch", TransactionCommand::Watch),
        ]
    );
}

#[test]
fn block_is_found_as_redis_finds_it() {
    let asks = |line: &str| asks_to_block(line.split(' ').map(str::as_bytes));
    assert!(asks("XREAD COUNT 1 BLOCK 0 STREAMS s $"));
    assert!(asks("xreadgroup group g c noack block 5 streams s >"));
    assert!(asks("XREAD Block\0x 0 STREAMS s $"));
    assert!(!asks("XREAD COUNT 1 STREAMS s 0"));
    assert!(!asks("XREAD BLOCKS STREAMS BLOC 0"));
}

#[test]
fn what_respool_answers_itself() {
    let local = travelling(|way| matches!(way, Way::Local(_)));
    assert_eq!(
        local,
        [
            "asking",
            "auth",
            "client",
            "client|capa",
            "client|getname",
            "client|id",
            "client|import-source",
            "client|info",
            "client|kill",
            "client|list",
            "client|maint_notifications",
            "client|no-evict",
            "client|no-touch",
            "client|reply",
            "client|setinfo",
            "client|setname",
            "client|unblock",
            "hello",
            "pubsub|numsub",
            "pubsub|shardnumsub",
            "quit",
            "readonly",
            "readwrite",
            "reset",
            "select",
        ]
    );
    assert_eq!(
        way("client|reply"),
        Way::Local(Local::Client(ClientSub::Reply))
    );
    assert_eq!(
        way("client"),
        Way::Local(Local::Client(ClientSub::Unsupported))
    );
    assert_eq!(way("hello"), Way::Local(Local::Hello));
}

#[test]
fn what_needs_a_lent_connection() {
    let mut pinned = BTreeMap::<_, Vec<_>>::new();
    for (_, spec) in all() {
        if let Way::Pinned(reason) = spec.way {
            pinned.entry(reason.label()).or_default().push(spec.name);
        }
    }
    let expected = BTreeMap::from([
        (
            "admin",
            vec![
                "cluster",
                "debug",
                "failover",
                "function",
                "module",
                "module|load",
                "module|loadex",
                "module|unload",
                "pfdebug",
                "pfselftest",
                "script",
                "shutdown",
            ],
        ),
        (
            "blocking",
            vec![
                "blmove",
                "blmpop",
                "blpop",
                "brpop",
                "brpoplpush",
                "bzmpop",
                "bzpopmax",
                "bzpopmin",
            ],
        ),
        ("blocking_option", vec!["xread", "xreadgroup"]),
        ("monitor", vec!["monitor"]),
        ("multi", vec!["multi"]),
        ("pause", vec!["client|pause", "client|unpause"]),
        (
            "raw_error",
            vec![
                "function|delete",
                "function|flush",
                "function|list",
                "function|load",
                "function|restore",
            ],
        ),
        (
            "script",
            vec!["function|kill", "function|stats", "script|kill"],
        ),
        ("script_debug", vec!["script|debug"]),
        (
            "tracking",
            vec![
                "client|caching",
                "client|getredir",
                "client|tracking",
                "client|trackinginfo",
            ],
        ),
        ("wait", vec!["wait", "waitaof"]),
        ("watch", vec!["watch"]),
    ]);
    assert_eq!(pinned, expected);
}

#[test]
fn what_has_a_fence_behind_it() {
    assert_eq!(
        travelling(|way| way == Way::Fenced),
        [
            "eval",
            "eval_ro",
            "evalsha",
            "evalsha_ro",
            "fcall",
            "fcall_ro",
            "script|load",
        ]
    );
}

#[test]
fn what_is_subscribed_and_what_is_refused() {
    assert_eq!(
        travelling(|way| way == Way::Subscribed),
        [
            "psubscribe",
            "punsubscribe",
            "ssubscribe",
            "subscribe",
            "sunsubscribe",
            "unsubscribe",
        ]
    );
    assert_eq!(
        travelling(|way| way == Way::Refused),
        ["cluster|syncslots", "psync", "replconf", "sync"]
    );
}

#[test]
fn nothing_that_waits_or_leaves_state_is_shared() {
    // Of those that belong to the connection, to pub/sub or to transactions, these alone leave nothing behind.
    let harmless = [
        "client|help",
        "command",
        "command|count",
        "command|docs",
        "command|getkeys",
        "command|getkeysandflags",
        "command|help",
        "command|info",
        "command|list",
        "discard",
        "echo",
        "exec",
        "ping",
        "publish",
        "pubsub|channels",
        "pubsub|numpat",
        "pubsub|shardchannels",
        "spublish",
        "unwatch",
    ];
    let suspect = AclCategories(
        AclCategories::CONNECTION.0 | AclCategories::PUBSUB.0 | AclCategories::TRANSACTION.0,
    );
    let shared: Vec<_> = all()
        .filter(|(_, spec)| spec.way == Way::Shared)
        .filter(|(_, spec)| {
            spec.categories.intersects(suspect) || spec.flags.contains(CommandFlags::PUBSUB)
        })
        .map(|(_, spec)| spec.name)
        .collect();
    assert_eq!(shared, harmless);
    for (_, spec) in all().filter(|(_, spec)| spec.way == Way::Shared) {
        let waits = spec.flags.contains(CommandFlags::BLOCKING)
            || spec.categories.intersects(AclCategories::BLOCKING);
        assert!(!waits, "{}", spec.name);
        assert!(!spec.flags.contains(CommandFlags::NO_AUTH), "{}", spec.name);
    }
}

#[test]
fn an_unknown_subcommand_is_trusted_no_more_than_its_known_siblings() {
    // These two are answered by the server; respool corrects the counts.
    let corrected = [Way::Local(Local::NumSub), Way::Local(Local::ShardNumSub)];
    for (id, _) in
        all().filter(|(_, spec)| spec.way != Way::Shared && !corrected.contains(&spec.way))
    {
        if let Some((parent, _)) = spec(id).name.split_once('|') {
            assert_ne!(way(parent), Way::Shared, "{parent}");
        }
    }
}

#[test]
fn reasons_have_labels_of_their_own() {
    let labels: BTreeSet<_> = PinReason::ALL.iter().map(|reason| reason.label()).collect();
    assert_eq!(labels.len(), PinReason::ALL.len());
}

/// A real server on a unix socket of its own, killed when dropped.
struct Server {
    process: Child,
    socket: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let program = env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let socket = tempfile::tempdir().unwrap();
        let process = Command::new(&program)
            .current_dir(socket.path())
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--daemonize",
                "no",
                "--unixsocket",
            ])
            .arg(socket.path().join("redis.sock"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        let mut server = Self { process, socket };
        let log = server.process.stdout.take().unwrap();
        let mut said = Vec::new();
        for line in BufReader::new(log).lines() {
            let line = line.unwrap();
            if line
                .to_ascii_lowercase()
                .contains("ready to accept connections")
            {
                return server;
            }
            said.push(line);
        }
        panic!("{program} ended: {}", said.join("\n"));
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket.path().join("redis.sock")).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the reply to one request.
fn ask(connection: &mut UnixStream, request: &[&[u8]]) -> Vec<u8> {
    connection.write_all(&encode_request(request)).unwrap();
    let mut scanner = ReplyScanner::default();
    let mut reply = Vec::new();
    let mut used = 0;
    let mut piece = vec![0; 65536];
    loop {
        let length = connection.read(&mut piece).unwrap();
        assert_ne!(length, 0, "the server closed the connection");
        reply.extend_from_slice(&piece[..length]);
        let end = scanner.advance(&reply[used..]).unwrap();
        used += end.used;
        if end.complete {
            assert_eq!(used, reply.len());
            return reply;
        }
    }
}

fn text(frame: &Frame) -> &str {
    match frame {
        Frame::BulkString(bytes) | Frame::SimpleString(bytes) => {
            std::str::from_utf8(bytes).unwrap()
        }
        other => panic!("no text: {other:?}"),
    }
}

fn array(frame: &Frame) -> &[Frame] {
    match frame {
        Frame::Array(elements) => elements,
        other => panic!("no array: {other:?}"),
    }
}

fn small(frame: &Frame) -> i8 {
    match frame {
        Frame::Integer(value) => i8::try_from(*value).unwrap(),
        other => panic!("no integer: {other:?}"),
    }
}

/// Compares one entry of `COMMAND`, and those of its subcommands, with the table; answers how many it saw.
fn compare(entry: &Frame) -> usize {
    let entry = array(entry);
    let name = text(&entry[0]);
    let id = lookup_full(name.as_bytes()).unwrap_or_else(|| panic!("{name} is not in the table"));
    let ours = spec(id);
    assert_eq!(ours.arity, small(&entry[1]), "{name}");
    let flags: BTreeSet<_> = array(&entry[2]).iter().map(text).collect();
    for (theirs, flag) in [
        ("write", CommandFlags::WRITE),
        ("readonly", CommandFlags::READONLY),
        ("blocking", CommandFlags::BLOCKING),
        ("pubsub", CommandFlags::PUBSUB),
        ("admin", CommandFlags::ADMIN),
        ("no_multi", CommandFlags::NO_MULTI),
        ("no_auth", CommandFlags::NO_AUTH),
        ("noscript", CommandFlags::NOSCRIPT),
        ("movablekeys", CommandFlags::MOVABLE_KEYS),
    ] {
        // WAIT has been flagged blocking only since 7.2.
        let newer = flag == CommandFlags::BLOCKING && name == "wait";
        assert_eq!(
            flags.contains(theirs) || newer,
            ours.flags.contains(flag),
            "{name} {theirs}"
        );
    }
    let categories = array(&entry[6])
        .iter()
        .map(|category| AclCategories::named(text(category).trim_start_matches('@')).unwrap())
        .fold(0, |set, category| set | category.0);
    assert_eq!(ours.categories, AclCategories(categories), "{name}");
    let subcommands = array(&entry[9]);
    assert_eq!(is_container(id), !subcommands.is_empty(), "{name}");
    1 + subcommands.iter().map(compare).sum::<usize>()
}

#[test]
fn the_table_says_what_a_real_server_says() {
    let server = Server::start();
    let reply = ask(&mut server.connect(), &[b"COMMAND"]);
    let (frame, _) = decode(&reply).unwrap().unwrap();
    let seen: usize = array(&frame).iter().map(compare).sum();
    assert!(seen >= 366, "only {seen} commands");
}

#[test]
fn a_real_server_teaches_nothing_new_in_either_protocol() {
    let server = Server::start();
    let mut connection = server.connect();
    for version in [b"2", b"3"] {
        ask(&mut connection, &[b"HELLO", version]);
        let reply = ask(&mut connection, &[b"COMMAND"]);
        assert_eq!(Learned::from_command_reply(&reply), Ok(Learned::default()));
    }
}

#[test]
fn a_torn_name_can_be_any_command_to_a_real_server() {
    let server = Server::start();
    let mut connection = server.connect();
    let taken = (0..100_000)
        .map(|salt| format!("MULTI\0{salt}"))
        .find(|name| {
            assert_eq!(identify(name.as_bytes(), None), NamedCommand::Torn);
            ask(&mut connection, &[name.as_bytes()]) == b"+OK\r\n"
        });
    // This is why a torn name is never forwarded. A server that takes none for MULTI does no harm either.
    if let Some(name) = taken {
        assert_eq!(
            ask(&mut connection, &[b"GET", b"x"]),
            b"+QUEUED\r\n",
            "{name:?}"
        );
    }
}
