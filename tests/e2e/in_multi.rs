//! Commands that respool answers itself, between MULTI and EXEC: they run when EXEC does, in their place among its replies, as at
//! the server.

use crate::harness::{
    Client, Redis, Respool, Value, encode, encode_line, encode_lines, eventually, needs, show,
    words,
};

/// Sends each of `writes` in one piece and tells every byte that comes, up to the end that QUIT makes.
fn bytes_of(mut client: Client, writes: &[&[&str]]) -> Vec<u8> {
    for write in writes {
        client.send(encode_lines(write));
    }
    client.send(encode(&["QUIT"]));
    client.read_to_end()
}

/// Does the same, one line after the other; those that begin with `~` have no reply.
fn typed_bytes_of(mut client: Client, lines: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let (line, is_answered) = match line.strip_prefix('~') {
            Some(line) => (line, false),
            None => (*line, true),
        };
        client.send(encode_line(line));
        if is_answered {
            bytes.extend(client.reply_bytes());
        }
    }
    client.send(encode(&["QUIT"]));
    bytes.extend(client.read_to_end());
    bytes
}

#[track_caller]
fn same(direct: &[u8], through: &[u8], what: &dyn std::fmt::Debug) {
    assert!(
        direct == through,
        "{what:?}\n  directly {}\n  through  {}",
        show(direct),
        show(through)
    );
}

/// Lists what is sent where the answers hold nothing that only one of the two knows.
const SEQUENCES: [&[&str]; 26] = [
    &[
        "MULTI",
        "CLIENT GETNAME",
        "CLIENT SETNAME x",
        "CLIENT GETNAME",
        "EXEC",
        "CLIENT GETNAME",
    ],
    &[
        "MULTI",
        "CLIENT SETNAME x",
        "SET k v",
        "CLIENT GETNAME",
        "GET k",
        "EXEC",
        "PING",
    ],
    &[
        "MULTI",
        "SET k v",
        "CLIENT REPLY OFF",
        "EXEC",
        "CLIENT REPLY ON",
        "PING",
    ],
    &[
        "MULTI",
        "SET k v",
        "CLIENT REPLY OFF",
        "SET k w",
        "CLIENT REPLY ON",
        "GET k",
        "EXEC",
        "PING",
    ],
    &[
        "MULTI",
        "SET k v",
        "CLIENT REPLY SKIP",
        "GET k",
        "EXEC",
        "PING",
        "GET k",
    ],
    &[
        "MULTI",
        "CLIENT REPLY SKIP",
        "CLIENT REPLY ON",
        "GET k",
        "EXEC",
        "PING",
        "GET k",
    ],
    &[
        "MULTI",
        "CLIENT REPLY OFF",
        "CLIENT REPLY SKIP",
        "CLIENT REPLY ON",
        "EXEC",
        "PING",
        "GET k",
    ],
    &["MULTI", "CLIENT REPLY ON", "GET k", "EXEC", "PING"],
    &[
        "MULTI",
        "CLIENT REPLY MAYBE",
        "CLIENT REPLY",
        "EXEC",
        "PING",
    ],
    &["MULTI", "CLIENT REPLY MAYBE", "GET k", "EXEC", "PING"],
    &[
        "CLIENT REPLY OFF",
        "MULTI",
        "SET k v",
        "CLIENT REPLY ON",
        "GET k",
        "EXEC",
        "CLIENT REPLY ON",
        "PING",
    ],
    &[
        "CLIENT REPLY OFF",
        "MULTI",
        "SET k v",
        "CLIENT GETNAME",
        "EXEC",
        "CLIENT REPLY ON",
        "GET k",
    ],
    &["MULTI", "CLIENT SETNAME x", "DISCARD", "CLIENT GETNAME"],
    &[
        "MULTI",
        "CLIENT SETNAME x",
        "CLIENT REPLY OFF",
        "DISCARD",
        "CLIENT GETNAME",
    ],
    &["MULTI", "CLIENT SETNAME x", "GET", "EXEC", "CLIENT GETNAME"],
    &[
        "MULTI",
        "CLIENT REPLY OFF",
        "NOSUCH",
        "EXEC",
        "CLIENT GETNAME",
    ],
    &[
        "MULTI",
        "CLIENT SETNAME",
        "EXEC",
        "MULTI",
        "CLIENT GETNAME x",
        "EXEC",
        "CLIENT GETNAME",
    ],
    &[
        "MULTI",
        "CLIENT SETNAME x",
        "EXEC now",
        "EXEC",
        "CLIENT GETNAME",
    ],
    &[
        "MULTI",
        "CLIENT KILL 1.2.3.4:5",
        "CLIENT KILL ID 987654321",
        "CLIENT LIST ID 987654321",
        "EXEC",
    ],
    &[
        "MULTI",
        "CLIENT KILL ID",
        "CLIENT LIST TYPE foo",
        "CLIENT UNBLOCK 987654321",
        "CLIENT UNBLOCK x",
        "EXEC",
    ],
    &[
        "MULTI",
        "CLIENT KILL USER nobody",
        "CLIENT KILL USER nobody FOO bar",
        "CLIENT KILL USER default FOO bar",
        "CLIENT KILL USER default TYPE pubsub",
        "CLIENT LIST USER nobody",
        "CLIENT LIST USER default TYPE pubsub",
        "SET k v",
        "EXEC",
        "GET k",
    ],
    &[
        "MULTI",
        "CLIENT LIST DB 16",
        "CLIENT LIST DB 15",
        "CLIENT KILL DB -1",
        "CLIENT KILL NOT-DB 99 ID 5",
        "EXEC",
    ],
    &[
        "MULTI",
        "CLIENT NO-EVICT on",
        "CLIENT NO-EVICT maybe",
        "CLIENT TRACKINGINFO",
        "CLIENT GETREDIR",
        "EXEC",
    ],
    &[
        "MULTI",
        "HSET h a 1 b 2",
        "CLIENT GETNAME",
        "HGETALL h",
        "LRANGE l 0 -1",
        "CLIENT SETNAME a\tb",
        "EXEC",
    ],
    &[
        "MULTI",
        "CLIENT PAUSE 0",
        "CLIENT GETNAME",
        "CLIENT UNPAUSE",
        "EXEC",
        "PUBSUB NUMSUB c",
    ],
    &[
        "MULTI",
        "CLIENT GETNAME",
        "EXEC",
        "MULTI",
        "CLIENT GETNAME",
        "SET k 1",
        "EXEC",
        "MULTI",
        "GET k",
        "EXEC",
    ],
];

#[test]
fn they_run_with_exec_and_answer_as_at_the_server() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    for hello in ["HELLO 2", "HELLO 3"] {
        let connect = |mut client: Client| {
            client.cmd(&words(hello));
            client
        };
        for lines in SEQUENCES {
            for writes in [
                vec![lines],
                lines.chunks(1).collect(),
                lines.chunks(3).collect(),
            ] {
                redis.flush();
                let direct = bytes_of(connect(redis.client()), &writes);
                redis.flush();
                let through = bytes_of(connect(respool.client()), &writes);
                same(&direct, &through, &(hello, &writes));
            }
        }
    }
    respool.assert_alive();
}

/// Lists lines that are sent one by one, each when the one before it has been answered.
const TYPED: [&[&str]; 6] = [
    &[
        "MULTI",
        "SET k v",
        "CLIENT SETNAME x",
        "CLIENT GETNAME",
        "EXEC",
        "CLIENT GETNAME",
        "GET k",
    ],
    &[
        "MULTI",
        "SET k v",
        "CLIENT SETNAME x",
        "DISCARD",
        "CLIENT GETNAME",
        "GET k",
    ],
    &[
        "MULTI",
        "CLIENT SETNAME x",
        "CLIENT NOSUCH",
        "EXEC",
        "CLIENT GETNAME",
    ],
    &[
        "MULTI",
        "CLIENT SETNAME x",
        "CLIENT REPLY ON x",
        "EXEC",
        "CLIENT GETNAME",
    ],
    &[
        "CLIENT REPLY ON",
        "~CLIENT REPLY OFF",
        "~MULTI",
        "~SET k v",
        "~CLIENT GETNAME",
        "~EXEC",
        "CLIENT REPLY ON",
        "GET k",
    ],
    &[
        "WATCH k",
        "MULTI",
        "CLIENT SETNAME x",
        "CLIENT NO-EVICT on",
        "EXEC",
        "CLIENT GETNAME",
    ],
];

#[test]
fn they_run_line_by_line_as_well() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    for hello in ["HELLO 2", "HELLO 3"] {
        for lines in TYPED {
            redis.flush();
            let mut direct = redis.client();
            direct.cmd(&words(hello));
            let direct = typed_bytes_of(direct, lines);
            redis.flush();
            let mut through = respool.client();
            through.cmd(&words(hello));
            let through = typed_bytes_of(through, lines);
            same(&direct, &through, &(hello, lines));
        }
    }
}

/// Redisson sends this for an atomic batch whose results nobody wants.
#[test]
fn an_atomic_batch_without_results_is_answered_as_at_the_server() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let batch = |mut client: Client| {
        client.send(encode_lines(&["MULTI", "SET a 1", "SET b 2"]));
        let mut bytes = Vec::new();
        for _ in 0..3 {
            bytes.extend(client.reply_bytes());
        }
        client.send(encode_lines(&[
            "CLIENT REPLY OFF",
            "EXEC",
            "CLIENT REPLY ON",
        ]));
        client.send(encode_lines(&["GET a", "QUIT"]));
        bytes.extend(client.read_to_end());
        bytes
    };
    let direct = batch(redis.client());
    redis.flush();
    let through = batch(respool.client());
    same(&direct, &through, &"the batch");
}

#[test]
fn what_a_failed_watch_holds_back_does_not_happen() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let run = |mut client: Client| {
        client.cmd(&["SET", "k", "1"]);
        client.cmd(&["WATCH", "k"]);
        redis.cmd(&["SET", "k", "2"]);
        client.send(encode_lines(&[
            "MULTI",
            "CLIENT SETNAME x",
            "CLIENT REPLY OFF",
            "EXEC",
        ]));
        client.send(encode_lines(&["CLIENT REPLY ON", "CLIENT GETNAME", "QUIT"]));
        client.read_to_end()
    };
    same(&run(redis.client()), &run(respool.client()), &"the watch");
}

/// Tells the fields that are a client's own, wherever it is connected.
fn shown(line: &str) -> Vec<&str> {
    let wanted = ["name", "flags", "db", "multi", "cmd", "user", "sub", "resp"];
    line.trim_end()
        .split(' ')
        .filter(|field| wanted.contains(&field.split('=').next().unwrap_or_default()))
        .collect()
}

#[test]
fn the_clients_are_respools_own_and_their_lines_are_of_that_moment() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let lines = [
        "MULTI",
        "SELECT 3",
        "CLIENT SETNAME x",
        "CLIENT ID",
        "CLIENT INFO",
        "CLIENT LIST",
        "EXEC",
    ];
    let run = |client: &mut Client| {
        client.send(encode_lines(&lines));
        let replies: Vec<Value> = lines.iter().map(|_| client.reply()).collect();
        replies[lines.len() - 1].items().to_vec()
    };
    let mut direct = redis.client();
    let expected = run(&mut direct);
    let mut client = respool.client();
    let id = client.cmd(&["CLIENT", "ID"]).int();
    let got = run(&mut client);
    assert_eq!(got[2].int(), id, "its own number");
    let (expected_info, info) = (expected[3].clone().text(), got[3].clone().text());
    assert_eq!(shown(&info), shown(&expected_info));
    assert!(info.contains(&format!("id={id} ")), "{info}");
    let list = got[4].clone().text();
    assert_eq!(list.lines().count(), 1, "no connection of the pool: {list}");
    assert_eq!(shown(&list), shown(&info));
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), Value::bulk("x"));
    // A job queue that asks who its workers are.
    let mut worker = respool.client_named("worker");
    worker.ping();
    client.send(encode_lines(&["MULTI", "CLIENT list", "EXEC"]));
    let replies: Vec<Value> = (0..3).map(|_| client.reply()).collect();
    let list = replies[2].items()[0].text();
    assert!(list.contains("name=worker "), "{list}");
}

#[test]
fn one_client_ends_others_or_itself_in_its_place() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut killer = respool.client();
    let mut victim = respool.client();
    let id = victim.id();
    let kill = format!("CLIENT KILL ID {id}");
    killer.send(encode_lines(&["MULTI", "SET a 1", &kill, "DISCARD"]));
    for _ in 0..4 {
        killer.reply();
    }
    victim.ping();
    killer.send(encode_lines(&["MULTI", "SET a 1", &kill, "GET a", "EXEC"]));
    let replies: Vec<Value> = (0..5).map(|_| killer.reply()).collect();
    let expected = vec![Value::ok(), Value::Int(1), Value::bulk("1")];
    assert_eq!(replies[4].items(), expected);
    victim.expect_end();
    killer.ping();
    // Behind its own end there is nothing, at the server too.
    let suicide = |mut client: Client| {
        let id = client.cmd(&["CLIENT", "ID"]).int();
        let kill = format!("CLIENT KILL ID {id} SKIPME no");
        client.send(encode_lines(&[
            "MULTI", "SET a 1", &kill, "SET a 2", "EXEC", "PING",
        ]));
        client.read_to_end()
    };
    let direct = suicide(redis.client());
    let through = suicide(respool.client());
    same(&direct, &through, &"its own end");
    assert_eq!(redis.cmd(&["GET", "a"]), Value::bulk("2"));
}

#[test]
fn what_the_server_permits_its_user_decides() {
    needs!("ACL SETUSER u -client|list");
    let redis = Redis::start(&[]);
    let set = [
        "ACL",
        "SETUSER",
        "u",
        "on",
        ">p",
        "~*",
        "&*",
        "+@all",
        "-client|list",
        "-client|kill",
    ];
    assert_eq!(redis.cmd(&set), Value::ok());
    let respool = Respool::start(&redis);
    let lines = [
        "AUTH u p",
        "MULTI",
        "CLIENT GETNAME",
        "CLIENT LIST",
        "EXEC",
        "MULTI",
        "CLIENT KILL ID 7",
        "EXEC",
    ];
    let direct = bytes_of(redis.client(), &[&lines]);
    let through = bytes_of(respool.client(), &[&lines]);
    same(&direct, &through, &lines);
    // What is taken from it before EXEC it has not in EXEC.
    let late = |mut client: Client| {
        redis.cmd(&["ACL", "SETUSER", "u", "+client|list"]);
        client.send(encode_lines(&[
            "AUTH u p",
            "MULTI",
            "CLIENT LIST",
            "SET k v",
        ]));
        let mut bytes = Vec::new();
        for _ in 0..4 {
            bytes.extend(client.reply_bytes());
        }
        redis.cmd(&["ACL", "SETUSER", "u", "-client|list"]);
        client.send(encode_lines(&["EXEC", "QUIT"]));
        bytes.extend(client.read_to_end());
        bytes
    };
    same(&late(redis.client()), &late(respool.client()), &"late");
}

#[test]
fn they_are_found_in_a_reply_of_any_size() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let long = "v".repeat(3_000_000);
    redis.cmd(&["SET", "long", &long]);
    for number in 0..500 {
        redis.cmd(&[
            "HSET",
            "h",
            &format!("field{number}"),
            "value\r\n*3\r\n:1\r\n",
        ]);
    }
    let mut lines = vec!["MULTI".to_owned()];
    for number in 0..40 {
        lines.push(["GET long", "HGETALL h", "LPOP none", "INCR h"][number % 4].to_owned());
        lines.push(format!("CLIENT SETNAME n{number}"));
        lines.push("CLIENT GETNAME".to_owned());
    }
    lines.push("EXEC".to_owned());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    for hello in ["HELLO 2", "HELLO 3"] {
        let run = |mut client: Client| {
            client.cmd(&words(hello));
            bytes_of(client, &[&lines])
        };
        let (direct, through) = (run(redis.client()), run(respool.client()));
        assert!(
            direct == through,
            "{} and {} bytes",
            direct.len(),
            through.len()
        );
    }
}

#[test]
fn a_client_that_leaves_behind_exec_leaves_nothing_behind() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 2\nshared_connections = 1")
        .start();
    for _ in 0..20 {
        let mut client = respool.client();
        client.send(encode_lines(&[
            "MULTI",
            "CLIENT GETNAME",
            "CLIENT REPLY OFF",
            "INCR n",
            "EXEC",
        ]));
        client.abort();
    }
    eventually(|| respool.clients_of("default") == 0, "everybody has left");
    let mut client = respool.client();
    client.send(encode_lines(&[
        "WATCH n",
        "MULTI",
        "CLIENT GETNAME",
        "EXEC",
    ]));
    for _ in 0..3 {
        client.reply();
    }
    assert!(client.reply().items()[0].is_null());
}

#[test]
fn more_of_them_than_a_client_may_have_under_way_are_refused() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("max_client_in_flight = 20")
        .start();
    let mut client = respool.client();
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    for _ in 0..20 {
        assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), Value::simple("QUEUED"));
    }
    assert!(client.cmd(&["CLIENT", "GETNAME"]).is_error());
    let aborted = client.cmd(&["EXEC"]);
    assert!(aborted.is_error(), "{aborted:?}");
    client.ping();
}

#[test]
fn whom_they_have_ended_or_woken_they_do_not_find_again() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let run = |connect: &dyn Fn() -> Client| {
        let (mut client, mut victim, mut blocked) = (connect(), connect(), connect());
        let id = victim.id();
        let waiter = blocked.id();
        blocked.send(encode(&["BLPOP", "none", "0"]));
        let is_blocked = |client: &mut Client| {
            let line = client.cmd(&["CLIENT", "LIST", "ID", &waiter]).text();
            line.contains(" flags=b ")
        };
        eventually(|| is_blocked(&mut client), "it is blocked");
        client.send(encode_lines(&[
            "MULTI",
            &format!("CLIENT KILL ID {id}"),
            &format!("CLIENT KILL ID {id}"),
            &format!("CLIENT LIST ID {id}"),
            &format!("CLIENT UNBLOCK {id}"),
            &format!("CLIENT UNBLOCK {waiter}"),
            &format!("CLIENT UNBLOCK {waiter}"),
            "EXEC",
            "QUIT",
        ]));
        victim.expect_end();
        assert!(blocked.reply().is_null());
        client.read_to_end()
    };
    let direct = run(&|| redis.client());
    let through = run(&|| respool.client());
    same(&direct, &through, &"killed and woken");
}

#[test]
fn one_transaction_looks_at_all_clients_so_often_and_no_more() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut client = respool.client();
    for (asks, is_refused) in [("CLIENT LIST", true), ("CLIENT GETNAME", false)] {
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
        for asked in 0..17 {
            let told = client.cmd(&words(asks));
            let is_past = is_refused && asked == 16;
            assert_eq!(told.is_error(), is_past, "{asks} {asked}: {told:?}");
        }
        assert_eq!(client.cmd(&["EXEC"]).is_error(), is_refused);
    }
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    for _ in 0..16 {
        client.cmd(&["CLIENT", "LIST"]);
    }
    assert_eq!(client.cmd(&["EXEC"]).items().len(), 16);
}
