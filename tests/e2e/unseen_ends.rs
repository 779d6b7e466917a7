//! Connections that the server has closed, and another process holds open: the session of a debugger is a child of the server, which
//! has every connection that was there when it was forked.

use std::io::Write;

use crate::harness::{Client, Redis, Respool, Value, encode, eventually, needs};

/// A client at the prompt of the debugger; `None`: no connection was lent to it.
fn debugging(mut client: Client) -> Option<Client> {
    if client.cmd(&["SCRIPT", "DEBUG", "YES"]) != Value::ok() {
        return None;
    }
    client.send(encode(&[
        "EVAL",
        "return redis.call('INCR', KEYS[1])",
        "1",
        "k",
    ]));
    assert!(client.reply_bytes().starts_with(b"*"));
    Some(client)
}

fn with_two_pins(redis: &Redis, more: &str) -> Respool {
    Respool::with(redis)
        .top("workers = 1")
        .upstream(&format!(
            "max_connections = 3\nshared_connections = 1\n{more}"
        ))
        .start()
}

/// Has both connections opened that may be lent: what is opened after the fork is not the child's.
fn open_both(respool: &Respool) {
    for client in &mut [respool.client(), respool.client()] {
        assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
    }
}

/// What the server has of respool's connections.
fn connections(redis: &Redis) -> usize {
    let list = redis.cmd(&["CLIENT", "LIST"]).text();
    list.matches(" name=respool:").count()
}

#[test]
fn a_debugger_that_idles_keeps_nobody_from_being_lent_a_connection() {
    let redis = Redis::start(&[]);
    let respool = with_two_pins(&redis, "borrow_timeout = \"20s\"");
    for idle in [redis.client(), respool.client()] {
        open_both(&respool);
        let idle = debugging(idle).expect("nobody else has a connection");
        for _ in 0..3 {
            // Its connection is closed as it leaves, while the other debugger's process has it.
            let left = debugging(respool.client());
            assert!(left.is_some(), "no connection is lent any more");
            assert!(connections(&redis) <= 3);
        }
        let mut client = respool.client();
        assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
        client.ping();
        drop(idle);
    }
    assert_eq!(redis.cmd(&["EXISTS", "k"]), Value::Int(0));
}

#[test]
fn whoever_may_not_list_clients_waits_for_the_debugger_to_leave() {
    needs!("ACL SETUSER somebody -client|list");
    let redis = Redis::start(&[]);
    let user = "ACL SETUSER own on >secret ~* &* +@all -client|list";
    let user: Vec<&str> = user.split(' ').collect();
    assert_eq!(redis.cmd(&user), Value::ok());
    let mut password = tempfile::NamedTempFile::new().expect("a file");
    password.write_all(b"secret").expect("it is written");
    let respool = with_two_pins(
        &redis,
        &format!(
            "borrow_timeout = \"4s\"\nusername = \"own\"\npassword_file = {:?}",
            password.path()
        ),
    );
    open_both(&respool);
    let idle = debugging(redis.client()).expect("directly");
    for _ in 0..2 {
        assert!(debugging(respool.client()).is_some());
    }
    let mut client = respool.client();
    assert!(client.cmd(&["WATCH", "k"]).is_error());
    assert!(connections(&redis) <= 3);
    drop(idle);
    eventually(
        || client.cmd(&["WATCH", "k"]) == Value::ok(),
        "their connections are closed, and others lent",
    );
}
