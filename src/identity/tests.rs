//! Lines and error texts below marked "seen" were taken from redis-server 7.0.15.

use super::*;
use crate::texts::ServerVersion;

const REDIS: ServerVersion = ServerVersion::redis(7, 0, 15);
const VALKEY: ServerVersion = ServerVersion::valkey(9, 1, 2);

fn tcp(port: u16) -> PeerAddress {
    PeerAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn arrival(port: u16) -> ClientArrival {
    ClientArrival {
        identity: Identity::new(tcp(port), Arc::from("127.0.0.1:7791")),
        laddr: tcp(7791),
        fd: 9,
        worker: 0,
        group: 3,
        now_ms: 1_000_000,
    }
}

fn on_unix_socket() -> ClientArrival {
    let path: Arc<str> = Arc::from("/run/r.sock");
    ClientArrival {
        identity: Identity::new(
            PeerAddress::Unix(Arc::clone(&path)),
            Arc::from("unix:/run/r.sock"),
        ),
        laddr: PeerAddress::Unix(path),
        ..arrival(0)
    }
}

fn name_of(index: u32) -> &'static str {
    ["get", "client|list", "select", "subscribe"][index as usize]
}

fn line_of(
    record: &ClientRecord,
    now_ms: u64,
    server: ServerVersion,
    name: impl Fn(u32) -> &'static str,
) -> String {
    String::from_utf8(client_line(record, now_ms, server, name)).expect("it is text")
}

fn as_text(error: Vec<u8>) -> String {
    String::from_utf8(error).expect("it is text")
}

/// The line without the fields that hold a server's own memory figures.
fn comparable(line: &str) -> String {
    const OWN: [&str; 8] = [
        "qbuf=",
        "qbuf-free=",
        "argv-mem=",
        "multi-mem=",
        "rbs=",
        "rbp=",
        "tot-mem=",
        "omem=",
    ];
    let kept: Vec<_> = line
        .split(' ')
        .filter(|field| !OWN.iter().any(|own| field.starts_with(own)))
        .collect();
    kept.join(" ")
}

fn fields(line: &str) -> Vec<&str> {
    line.split(' ')
        .map(|field| field.split_once('=').expect("a field is name=value").0)
        .collect()
}

// Seen.
const FRESH: &str = "id=1 addr=127.0.0.1:53046 laddr=127.0.0.1:7791 fd=9 name= age=0 idle=0 flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf=0 qbuf-free=20474 argv-mem=0 multi-mem=0 rbs=16384 rbp=0 obl=0 oll=0 omem=0 tot-mem=37632 events=r cmd=NULL user=default redir=-1 resp=2";
const TRACKING: &str = "id=1 addr=127.0.0.1:53006 laddr=127.0.0.1:7791 fd=9 name= age=2 idle=1 flags=t db=3 sub=0 psub=0 ssub=0 multi=-1 qbuf=0 qbuf-free=20474 argv-mem=0 multi-mem=0 rbs=1024 rbp=5 obl=0 oll=0 omem=0 tot-mem=22272 events=r cmd=select user=default redir=0 resp=3";
const IN_MULTI: &str = "id=1 addr=127.0.0.1:52984 laddr=127.0.0.1:7791 fd=9 name=multi age=1 idle=1 flags=x db=0 sub=0 psub=0 ssub=0 multi=1 qbuf=0 qbuf-free=20474 argv-mem=0 multi-mem=20 rbs=1024 rbp=9 obl=0 oll=0 omem=0 tot-mem=22340 events=r cmd=get user=default redir=-1 resp=2";
const SUBSCRIBED: &str = "id=1 addr=127.0.0.1:52996 laddr=127.0.0.1:7791 fd=9 name= age=1 idle=0 flags=P db=0 sub=2 psub=1 ssub=1 multi=-1 qbuf=0 qbuf-free=20474 argv-mem=0 multi-mem=0 rbs=1024 rbp=60 obl=0 oll=0 omem=0 tot-mem=22432 events=r cmd=subscribe user=default redir=-1 resp=2";
const UNIX: &str = "id=1 addr=/run/r.sock:0 laddr=/run/r.sock:0 fd=9 name= age=1 idle=1 flags=U db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf=26 qbuf-free=20448 argv-mem=10 multi-mem=0 rbs=16384 rbp=16384 obl=0 oll=0 omem=0 tot-mem=37658 events=r cmd=client|list user=default redir=-1 resp=2";

#[test]
fn a_fresh_client_is_listed_as_redis_lists_it() {
    let record = ClientRegistry::new().register(arrival(53046));
    let line = line_of(&record, 1_000_999, REDIS, name_of);
    assert_eq!(comparable(&line), comparable(FRESH));
    assert_eq!(fields(&line), fields(FRESH));
}

// Seen.
const ON_6_2: &str = "id=9 addr=127.0.0.1:37404 laddr=127.0.0.1:7791 fd=8 name= age=0 idle=0 flags=N db=0 sub=0 psub=0 multi=-1 qbuf=26 qbuf-free=40928 argv-mem=10 obl=0 oll=0 omem=0 tot-mem=61466 events=r cmd=client user=default redir=-1";
const ON_8_2: &str = "id=9 addr=127.0.0.1:37404 laddr=127.0.0.1:7791 fd=9 name= age=0 idle=0 flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 watch=0 qbuf=26 qbuf-free=16864 argv-mem=10 multi-mem=0 rbs=16384 rbp=16384 obl=0 oll=0 omem=0 tot-mem=34714 events=r cmd=client|list user=default redir=-1 resp=2 lib-name= lib-ver= io-thread=0 tot-net-in=26 tot-net-out=0 tot-cmds=0";
const ON_VALKEY: &str = "id=7 addr=127.0.0.1:37404 laddr=127.0.0.1:7791 fd=9 name= age=0 idle=0 flags=N capa= db=0 sub=0 psub=0 ssub=0 multi=-1 watch=0 qbuf=0 qbuf-free=0 argv-mem=11 multi-mem=0 rbs=16384 rbp=16384 obl=0 oll=0 omem=0 tot-mem=17819 events=r cmd=client|list user=default redir=-1 resp=2 lib-name= lib-ver= tot-net-in=26 tot-net-out=0 tot-cmds=0";

#[test]
fn every_server_has_fields_of_its_own() {
    let record = ClientRegistry::new().register(arrival(37404));
    record.last_command.set(1);
    record.bytes_in.set(26);
    for (server, seen) in [
        (ServerVersion::redis(6, 2, 5), ON_6_2),
        (ServerVersion::redis(8, 2, 3), ON_8_2),
        (ServerVersion::valkey(8, 1, 8), ON_VALKEY),
        (VALKEY, ON_VALKEY),
    ] {
        let line = line_of(&record, 1_000_000, server, name_of);
        assert_eq!(fields(&line), fields(seen), "{server:?}");
        let tail = |line: &str| line[line.find(" cmd=").expect("it has one")..].to_owned();
        assert_eq!(tail(&line), tail(seen), "{server:?}");
    }
    let of_7_2 = line_of(&record, 1_000_000, ServerVersion::valkey(7, 2, 4), name_of);
    assert!(of_7_2.ends_with(" resp=2 lib-name= lib-ver="), "{of_7_2}");
    record.raise(ClientFlag::Redirects);
    record.raise(ClientFlag::ReadsReplica);
    record.raise(ClientFlag::Watching);
    let line = line_of(&record, 1_000_000, VALKEY, name_of);
    assert!(line.contains(" flags=r capa=r db=0 "), "{line}");
    assert!(line.contains(" multi=-1 watch=1 "), "{line}");
}

#[test]
fn conditions_are_listed_as_redis_lists_them() {
    let record = ClientRegistry::new().register(arrival(53006));
    record.raise(ClientFlag::Tracking);
    record.raise(ClientFlag::InFlight);
    record.db.set(3);
    record.resp.set(3);
    record.last_command.set(2);
    record.last_active_ms.set(1_001_000);
    assert_eq!(
        comparable(&line_of(&record, 1_002_000, REDIS, name_of)),
        comparable(TRACKING)
    );

    let record = ClientRegistry::new().register(arrival(52984));
    record.raise(ClientFlag::Multi);
    record.raise(ClientFlag::Pinned);
    record.multi.set(1);
    record.last_command.set(0);
    record.names().name = Box::from(&b"multi"[..]);
    assert_eq!(
        comparable(&line_of(&record, 1_001_000, REDIS, name_of)),
        comparable(IN_MULTI)
    );

    let record = ClientRegistry::new().register(arrival(52996));
    record.raise(ClientFlag::Pubsub);
    record.channels.set(2);
    record.patterns.set(1);
    record.shard_channels.set(1);
    record.last_command.set(3);
    record.last_active_ms.set(1_001_000);
    assert_eq!(
        comparable(&line_of(&record, 1_001_500, REDIS, name_of)),
        comparable(SUBSCRIBED)
    );

    let record = ClientRegistry::new().register(on_unix_socket());
    record.last_command.set(1);
    assert_eq!(
        comparable(&line_of(&record, 1_001_500, REDIS, name_of)),
        comparable(UNIX)
    );
}

#[test]
fn flag_letters_keep_redis_order() {
    let registry = ClientRegistry::new();
    let record = registry.register(on_unix_socket());
    let all = [
        ClientFlag::NoEvict,
        ClientFlag::Killed,
        ClientFlag::Rejected,
        ClientFlag::Tracking,
        ClientFlag::Blocked,
        ClientFlag::Multi,
        ClientFlag::Pubsub,
        ClientFlag::Monitor,
        ClientFlag::Watching,
        ClientFlag::InFlight,
        ClientFlag::Pinned,
        ClientFlag::ReadsReplica,
    ];
    for flag in all {
        assert!(!record.has(flag));
        record.raise(flag);
        assert!(record.has(flag));
    }
    assert!(line_of(&record, 0, REDIS, name_of).contains(" flags=OPxbtcAUre db="));
    for flag in all {
        record.lower(flag);
    }
    let line = line_of(&record, 0, REDIS, name_of);
    assert!(line.contains(" flags=U db="), "{line}");
}

#[test]
fn unread_replies_and_names_are_shown_and_cannot_forge_fields() {
    let record = ClientRegistry::new().register(arrival(1));
    record.query_bytes.set(7);
    record.output_bytes.set(100);
    {
        let mut names = record.names();
        names.user = Box::from(&b"ann\nid=7 \0\x01\xff"[..]);
        names.lib_name = Box::from(&b"redis-py"[..]);
        names.lib_ver = Box::from(&b"5.2"[..]);
    }
    let line = client_line(&record, 1_000_000, ServerVersion::redis(7, 2, 4), name_of);
    let tail = b" user=ann?id=7??\x01\xff redir=-1 resp=2 lib-name=redis-py lib-ver=5.2";
    assert!(line.ends_with(tail), "{}", line.escape_ascii());
    let line = String::from_utf8_lossy(&line);
    let total = 107 + size_of::<ClientRecord>();
    assert!(line.contains(&format!(" qbuf=7 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=1 omem=100 tot-mem={total} events=rw ")), "{line}");
}

#[test]
fn peers_are_shown_as_redis_shows_them() {
    assert_eq!(tcp(5000).to_string(), "127.0.0.1:5000");
    assert_eq!(
        PeerAddress::Tcp("[::1]:5000".parse().expect("an address")).to_string(),
        "[::1]:5000"
    );
    assert_eq!(
        PeerAddress::Unix(Arc::from("/run/r.sock")).to_string(),
        "/run/r.sock:0"
    );
}

#[test]
fn ten_thousand_idle_records_stay_small() {
    assert!(
        size_of::<ClientRecord>() <= 300,
        "{}",
        size_of::<ClientRecord>()
    );
    assert!(size_of::<RegisteredClient>() <= 16);
}

#[test]
fn numbers_are_unique_and_the_list_is_in_their_order() {
    let registry = ClientRegistry::new();
    let guards: Vec<_> = (0..5)
        .map(|port| registry.register(arrival(port)))
        .collect();
    assert_eq!(
        guards.iter().map(|g| g.id()).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5]
    );
    let kept = Arc::clone(guards[1].record());
    let mut guards = guards.into_iter();
    drop(guards.next());
    drop(guards.next());
    assert_eq!(
        registry.list().iter().map(|c| c.id()).collect::<Vec<_>>(),
        [3, 4, 5]
    );
    assert!(registry.find(2).is_none());
    assert_eq!(kept.id(), 2);
    assert_eq!(registry.find(4).expect("number 4 is here").peer(), &tcp(3));
    drop(guards);
    assert_eq!(registry.len(), 0);
    assert_eq!(registry.register(arrival(9)).id(), 6);
}

#[test]
fn threads_register_and_leave_without_losing_or_doubling_a_number() {
    let registry = ClientRegistry::new();
    let mut ids: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..500)
                        .map(|port| {
                            let guard = registry.register(arrival(port));
                            assert!(registry.find(guard.id()).is_some());
                            guard.id()
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().expect("no thread panics"))
            .collect()
    });
    ids.sort_unstable();
    assert_eq!(ids, (1..=2000).collect::<Vec<_>>());
    assert_eq!(registry.len(), 0);
}

#[test]
fn figures_add_up_and_the_identity_is_current() {
    let record = ClientRegistry::new().register(arrival(1));
    record.commands.add(2);
    record.commands.add(3);
    assert_eq!(
        (record.commands.get(), record.group.get(), record.resp.get()),
        (5, 3, 2)
    );
    assert_eq!(record.idle_ms(1_000_250), 250);
    assert_eq!(
        record.idle_ms(1),
        0,
        "a clock read earlier is no negative time"
    );
    assert_eq!(record.identity().shown_user(), b"default");
    record.names().user = Box::from(&b"ci"[..]);
    assert_eq!(record.identity().shown_user(), b"ci");
}

fn kill(args: &[&str]) -> Result<KillFilter, String> {
    kill_at(ServerVersion::redis(7, 4, 0), args)
}

fn kill_at(server: ServerVersion, args: &[&str]) -> Result<KillFilter, String> {
    let words: Vec<_> = args.iter().map(|a| a.as_bytes()).collect();
    KillFilter::parse(server, &words).map_err(as_text)
}

fn list(args: &[&str]) -> Result<ListFilter, String> {
    list_at(REDIS, args)
}

fn list_at(server: ServerVersion, args: &[&str]) -> Result<ListFilter, String> {
    let words: Vec<_> = args.iter().map(|a| a.as_bytes()).collect();
    ListFilter::parse(server, &words).map_err(as_text)
}

/// The words of a question to the server.
fn asked(
    question: impl FnOnce(ServerVersion, &[&[u8]]) -> Option<Vec<u8>>,
    args: &[&str],
) -> String {
    let words: Vec<_> = args.iter().map(|a| a.as_bytes()).collect();
    let bytes = question(VALKEY, &words).unwrap_or_default();
    let text = String::from_utf8(bytes).expect("it is text");
    let words: Vec<_> = text
        .split("\r\n")
        .filter(|word| !word.starts_with(['*', '$']))
        .collect();
    words.join(" ").trim().to_owned()
}

#[test]
fn errors_of_kill_are_those_of_the_server_at_hand() {
    let older = ServerVersion::redis(6, 2, 5);
    let valkey_8 = ServerVersion::valkey(8, 1, 8);
    let syntax = "ERR syntax error";
    let id = "ERR client-id should be greater than 0";
    // Seen.
    let of_kill: [(ServerVersion, &[&str], &str); 16] = [
        (older, &[], syntax),
        (
            older,
            &["ID", "abc"],
            "ERR value is not an integer or out of range",
        ),
        (older, &["MAXAGE", "1"], syntax),
        (REDIS, &["MAXAGE", "1"], syntax),
        (REDIS, &["ID", "7", "8"], syntax),
        (
            REDIS,
            &["TYPE", "primary"],
            "ERR Unknown client type 'primary'",
        ),
        (valkey_8, &["ID", "abc"], syntax),
        (valkey_8, &["ID", "0"], id),
        (valkey_8, &["ID", "7", "-1"], id),
        (valkey_8, &["ID", "7", "TYPE"], syntax),
        (valkey_8, &["IDLE", "1"], syntax),
        (valkey_8, &["NOT-ID", "1"], syntax),
        (VALKEY, &["IDLE", "0"], "ERR idle should be greater than 0"),
        (
            VALKEY,
            &["FLAGS", "Nz"],
            "ERR Unknown flags found in the provided filter: Nz",
        ),
        (
            VALKEY,
            &["NOT-CAPA", "z"],
            "ERR Unknown capa found in the NOT-CAPA filter: z",
        ),
        (VALKEY, &["NOT-SKIPME", "yes"], syntax),
    ];
    for (server, args, text) in of_kill {
        assert_eq!(
            kill_at(server, args),
            Err(text.to_owned()),
            "{server:?} {args:?}"
        );
    }
}

#[test]
fn errors_of_list_are_those_of_the_server_at_hand() {
    let older = ServerVersion::redis(6, 2, 5);
    let valkey_8 = ServerVersion::valkey(8, 1, 8);
    let syntax = "ERR syntax error";
    let id = "ERR client-id should be greater than 0";
    // Seen.
    let of_list: [(ServerVersion, &[&str], &str); 12] = [
        (older, &["ID", "abc"], "ERR Invalid client ID"),
        (REDIS, &["USER", "x"], syntax),
        (REDIS, &["TYPE", "pubsub", "TYPE", "normal"], syntax),
        (valkey_8, &["ID"], syntax),
        (valkey_8, &["ID", "abc"], syntax),
        (valkey_8, &["ID", "1", "0"], id),
        (valkey_8, &["DB", "1"], syntax),
        (
            valkey_8,
            &["MAXAGE", "0"],
            "ERR maxage should be greater than 0",
        ),
        (
            VALKEY,
            &["NOT-TYPE", "foo"],
            "ERR Unknown client type 'foo'",
        ),
        (
            VALKEY,
            &["NOT-DB", "abc"],
            "ERR NOT-DB is not an integer or out of range",
        ),
        (
            VALKEY,
            &["DB", "abc"],
            "ERR DB is not an integer or out of range",
        ),
        (VALKEY, &["NOT-ID"], syntax),
    ];
    for (server, args, text) in of_list {
        assert_eq!(
            list_at(server, args),
            Err(text.to_owned()),
            "{server:?} {args:?}"
        );
    }
}

#[test]
fn kill_errors_are_those_of_redis() {
    let id = "ERR client-id should be greater than 0";
    let seen: [(&[&str], &str); 17] = [
        (
            &[],
            "ERR wrong number of arguments for 'client|kill' command",
        ),
        (&["ID", "0"], id),
        (&["ID", "abc"], id),
        (&["ID", "-3"], id),
        (&["ID", "01"], id),
        (&["ID", " 1"], id),
        (&["ID", "9223372036854775808"], id),
        (&["TYPE", "foo"], "ERR Unknown client type 'foo'"),
        (&["TYPE", "a\r\nb"], "ERR Unknown client type 'a\r\nb'"),
        (&["TYPE", "a\0b"], "ERR Unknown client type 'a'"),
        (&["TYPE", ""], "ERR Unknown client type ''"),
        (&["SKIPME", "maybe"], "ERR syntax error"),
        (&["FOO", "bar", "TYPE", "bogus"], "ERR syntax error"),
        (
            &["TYPE", "bogus", "FOO", "bar"],
            "ERR Unknown client type 'bogus'",
        ),
        (&["ID", "1", "TYPE"], "ERR syntax error"),
        // Texts of Redis 7.4.
        (
            &["MAXAGE", "x"],
            "ERR maxage is not an integer or out of range",
        ),
        (&["MAXAGE", "0"], "ERR maxage should be greater than 0"),
    ];
    for (args, text) in seen {
        assert_eq!(kill(args), Err(text.to_owned()), "{args:?}");
    }
}

#[test]
fn list_errors_are_those_of_redis() {
    let seen: [(&[&str], &str); 9] = [
        (&["TYPE"], "ERR syntax error"),
        (&["TYPE", "foo"], "ERR Unknown client type 'foo'"),
        (&["TYPE", "NORMAL", "x"], "ERR syntax error"),
        (&["ID"], "ERR syntax error"),
        (&["ID", "abc"], "ERR Invalid client ID"),
        (&["ID", "1", "abc"], "ERR Invalid client ID"),
        (&["ID", "01"], "ERR Invalid client ID"),
        (&["ID", "9223372036854775808"], "ERR Invalid client ID"),
        (&["foo", "bar"], "ERR syntax error"),
    ];
    for (args, text) in seen {
        assert_eq!(list(args), Err(text.to_owned()), "{args:?}");
    }
}

#[test]
fn kill_selects_by_every_filter() {
    let registry = ClientRegistry::new();
    let records: Vec<_> = (5001..=5003)
        .map(|port| registry.register(arrival(port)))
        .collect();
    records[1].raise(ClientFlag::Pubsub);
    records[2].names().user = Box::from(&b"ci"[..]);
    let now_ms = 1_010_000;
    let selected = |args: &[&str]| {
        let filter = kill(args).expect("the filter is well formed");
        records
            .iter()
            .filter(|c| filter.selects(c, 1, now_ms))
            .map(|c| c.id())
            .collect::<Vec<_>>()
    };
    // The old form kills oneself too; the new one only when told to.
    assert_eq!(selected(&["127.0.0.1:5001"]), [1]);
    assert!(
        kill(&["ID"])
            .expect("an address as good as any")
            .is_old_form()
    );
    assert_eq!(selected(&["addr", "127.0.0.1:5001"]), [0; 0]);
    assert_eq!(selected(&["ADDR", "127.0.0.1:5001", "SKIPME", "no"]), [1]);
    assert_eq!(selected(&["ADDR", "127.0.0.1:5002"]), [2]);
    assert_eq!(selected(&["LADDR", "127.0.0.1:7791"]), [2, 3]);
    assert_eq!(selected(&["LADDR", "127.0.0.1:1"]), [0; 0]);
    assert_eq!(selected(&["ID", "3"]), [3]);
    assert_eq!(selected(&["TYPE", "Normal"]), [3]);
    assert_eq!(
        selected(&["TYPE", "normal", "TYPE", "pubsub"]),
        [2],
        "the last one holds"
    );
    assert_eq!(selected(&["TYPE", "master", "SKIPME", "no"]), [0; 0]);
    assert_eq!(selected(&["TYPE", "slave", "SKIPME", "no"]), [0; 0]);
    assert_eq!(selected(&["USER", "ci"]), [3]);
    assert_eq!(selected(&["USER", "default", "SKIPME", "NO"]), [1, 2]);
    assert_eq!(selected(&["MAXAGE", "10"]), [2, 3]);
    assert_eq!(selected(&["MAXAGE", "11"]), [0; 0]);
    assert_eq!(
        selected(&["USER", "ci", "TYPE", "pubsub"]),
        [0; 0],
        "all filters must apply"
    );
    assert_eq!(selected(&["SKIPME", "yes"]), [2, 3]);
    let question = |args: &[&str]| asked(KillFilter::question, args);
    assert_eq!(question(&["TYPE", "normal"]), "");
    assert_eq!(question(&["FOO", "bar", "USER", "ci"]), "");
    for args in [
        &["TYPE", "normal", "user", "ci"][..],
        &["user", "ci", "FOO", "bar"],
        &["user", "ci", "ID", "abc", "USER", "other"],
    ] {
        let asked = question(args);
        assert_eq!(asked, "CLIENT KILL user ci ID 9223372036854775807");
    }
}

#[test]
fn list_chooses_by_type_and_in_the_order_of_the_ids() {
    let registry = ClientRegistry::new();
    let records: Vec<_> = (1..=3)
        .map(|port| registry.register(arrival(port)))
        .collect();
    records[1].raise(ClientFlag::Pubsub);
    let chosen = |args: &[&str]| {
        let filter = list(args).expect("the filter is well formed");
        filter
            .choose(&registry, 1, 0)
            .iter()
            .map(|c| c.id())
            .collect::<Vec<_>>()
    };
    assert_eq!(chosen(&[]), [1, 2, 3]);
    assert_eq!(chosen(&["type", "pubsub"]), [2]);
    assert_eq!(chosen(&["TYPE", "replica"]), [0; 0]);
    assert_eq!(chosen(&["ID", "3", "999", "-1", "0", "1", "3"]), [3, 1, 3]);
}

#[test]
fn before_7_0_the_id_0_is_everybodys() {
    let older = ServerVersion::redis(6, 2, 5);
    let registry = ClientRegistry::new();
    let records = [1, 2].map(|port| registry.register(arrival(port)));
    let killed = |args: &[&str]| {
        let filter = kill_at(older, args).expect("the filter is well formed");
        let meant = records.iter().filter(|record| filter.selects(record, 1, 0));
        meant.map(|record| record.id()).collect::<Vec<_>>()
    };
    assert_eq!(killed(&["ID", "0"]), [2]);
    assert_eq!(killed(&["ID", "0", "SKIPME", "no"]), [1, 2]);
    assert_eq!(killed(&["ID", "-5", "SKIPME", "no"]), [0; 0]);
    assert_eq!(killed(&["ID", "2"]), [2]);
}

#[test]
fn valkey_lists_by_many_filters_and_by_what_a_client_is_not() {
    let registry = ClientRegistry::new();
    let records: Vec<_> = (1..=4)
        .map(|port| registry.register(arrival(port)))
        .collect();
    records[0].names().name = Box::from(&b"a"[..]);
    records[0].names().lib_name = Box::from(&b"l"[..]);
    records[1].raise(ClientFlag::Pubsub);
    records[2].db.set(5);
    records[2].raise(ClientFlag::Redirects);
    records[3].last_active_ms.set(1_009_000);
    let chosen = |args: &[&str]| {
        let filter = list_at(VALKEY, args).expect("the filter is well formed");
        let chosen = filter.choose(&registry, 4, 1_010_000);
        chosen.iter().map(|record| record.id()).collect::<Vec<_>>()
    };
    // Seen, with clients like these.
    for (args, ids) in [
        (&[][..], &[1, 2, 3, 4][..]),
        (&["ID", "3", "1", "3"], &[1, 3]),
        (&["ID", "3", "ID", "1"], &[1, 3]),
        (&["TYPE", "normal", "ID"], &[]),
        (&["TYPE", "normal", "NOT-ID"], &[1, 3, 4]),
        (&["TYPE", "replica", "TYPE", "normal"], &[1, 3, 4]),
        (&["TYPE", "primary"], &[]),
        (&["NOT-TYPE", "pubsub"], &[1, 3, 4]),
        (&["SKIPME", "yes"], &[1, 2, 3]),
        (&["IP", "127.0.0.1"], &[1, 2, 3, 4]),
        (&["NOT-IP", "127.0.0.1"], &[]),
        (&["NAME", "a"], &[1]),
        (&["NAME", ""], &[]),
        (&["NOT-NAME", "a"], &[2, 3, 4]),
        (&["NOT-NAME", ""], &[1, 2, 3, 4]),
        (&["NOT-LIB-NAME", "l"], &[2, 3, 4]),
        (&["FLAGS", "NN"], &[1, 3, 4]),
        (&["FLAGS", "NP"], &[]),
        (&["FLAGS", ""], &[1, 2, 3, 4]),
        (&["NOT-FLAGS", "P"], &[1, 3, 4]),
        (&["NOT-FLAGS", "NP"], &[1, 2, 3, 4]),
        (&["NOT-FLAGS", ""], &[]),
        (&["CAPA", "r"], &[3]),
        (&["NOT-CAPA", "r"], &[1, 2, 4]),
        (&["DB", "5"], &[3]),
        (&["not-db", "5"], &[1, 2, 4]),
        (&["NOT-USER", "default"], &[]),
        (&["IDLE", "2"], &[1, 2, 3]),
        (&["MAXAGE", "10", "NOT-ID", "2", "4"], &[1, 3]),
    ] {
        assert_eq!(chosen(args), ids, "{args:?}");
    }
    let question = |args: &[&str]| asked(ListFilter::question, args);
    assert_eq!(question(&["NAME", "x"]), "");
    assert_eq!(
        question(&["NOT-USER", "u", "NAME", "x", "db", "9"]),
        "CLIENT LIST NOT-USER u db 9 ID 9223372036854775807"
    );
}

#[test]
fn whoever_is_meant_is_found_however_many_there_are() {
    let registry = ClientRegistry::new();
    let records: Vec<_> = (0..1000)
        .map(|port| registry.register(arrival(port)))
        .collect();
    let numbers =
        |found: Vec<Arc<ClientRecord>>| found.iter().map(|record| record.id()).collect::<Vec<_>>();
    for (modulus, count) in [(1, 1000), (3, 333), (256, 3), (1001, 0)] {
        let expected: Vec<_> = (1..=1000).filter(|id| id % modulus == 0).collect();
        assert_eq!(expected.len(), count);
        let found = registry.select(|record| record.id() % modulus == 0);
        assert_eq!(numbers(found), expected);
    }
    let chosen = |args: &[&str]| {
        let filter = kill_at(VALKEY, args).expect("the filter is well formed");
        (
            filter.price(&registry),
            numbers(filter.choose(&registry, 7, 0)),
        )
    };
    assert_eq!(
        chosen(&["ID", "900", "7", "4000", "3", "900"]),
        (4, vec![3, 900])
    );
    assert_eq!(chosen(&["ADDR", "127.0.0.1:512"]), (1000, vec![513]));
    // Neither more nor less than the address.
    assert_eq!(chosen(&["ADDR", "127.0.0.1:51"]), (1000, vec![52]));
    assert_eq!(chosen(&["ADDR", "127.0.0.1:5120"]), (1000, vec![]));
    assert_eq!(
        chosen(&["ADDR", "127.0.0.1:512", "NOT-ID", "9", "513", "9"]),
        (1000, vec![])
    );
    drop(records);
    assert_eq!(chosen(&["SKIPME", "no", "SKIPME", "yes"]), (0, vec![]));
}

#[test]
fn the_clients_of_each_unix_socket_are_one_source() {
    let number = |path: &str| PeerAddress::Unix(Arc::from(path)).number();
    assert_eq!(number("/run/a.sock"), number("/run/a.sock"));
    assert_ne!(number("/run/a.sock"), number("/run/b.sock"));
}
