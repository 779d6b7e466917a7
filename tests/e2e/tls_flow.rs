//! Bytes that flow through TLS: cut, in large amounts, late, and to the last of them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::harness::{PATIENCE, Pki, Redis, Respool, Value, encode, eventually, uninterrupted};
use crate::tls::{both_sides, listener_tls, upstream_tls};

/// Decrypts what has been read.
fn decrypted(session: &mut ClientConnection) -> Vec<u8> {
    let state = session.process_new_packets().expect("proper TLS");
    let mut plain = vec![0; state.plaintext_bytes_to_read()];
    session
        .reader()
        .read_exact(&mut plain)
        .expect("it is there");
    plain
}

#[test]
fn records_may_come_byte_by_byte() {
    let pki = Pki::new();
    let (_redis, respool) = both_sides(&pki);
    let mut socket = TcpStream::connect(respool.addr()).expect("respool listens");
    socket.set_nodelay(true).expect("it can be set");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("it can be set");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut session = ClientConnection::new(pki.client(None), name).expect("a session");
    session
        .writer()
        .write_all(&[encode(&["SET", "k", "v"]), encode(&["GET", "k"])].concat())
        .expect("a small buffer");
    let mut replies = Vec::new();
    while replies.len() < b"+OK\r\n$1\r\nv\r\n".len() {
        let mut out = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut out).expect("a Vec takes everything");
        }
        for byte in out {
            socket.write_all(&[byte]).expect("respool reads");
        }
        let mut byte = [0];
        assert_eq!(
            uninterrupted(|| socket.read(&mut byte)).expect("an answer"),
            1,
            "the connection ended"
        );
        session.read_tls(&mut &byte[..]).expect("room for a byte");
        replies.extend(decrypted(&mut session));
    }
    assert_eq!(replies, b"+OK\r\n$1\r\nv\r\n");
}

#[test]
fn replies_that_come_together_on_a_lent_connection_leave_together() {
    const ROUNDS: usize = 500;
    let pki = Pki::new();
    let (_redis, respool) = both_sides(&pki);
    let mut socket = TcpStream::connect(respool.addr()).expect("respool listens");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("it can be set");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut session = ClientConnection::new(pki.client(None), name).expect("a session");
    while session.is_handshaking() {
        session.complete_io(&mut socket).expect("a handshake");
    }
    let round = [encode(&["WATCH", "k"]), encode(&["UNWATCH"])].concat();
    session
        .writer()
        .write_all(&round.repeat(ROUNDS))
        .expect("a small buffer");
    while session.wants_write() {
        session.write_tls(&mut socket).expect("respool reads");
    }
    let due = b"+OK\r\n".repeat(2 * ROUNDS);
    let mut replies = Vec::new();
    let mut encrypted = 0;
    while replies.len() < due.len() {
        let read = session.read_tls(&mut socket).expect("an answer");
        assert!(read > 0, "the connection ended");
        encrypted += read;
        replies.extend(decrypted(&mut session));
    }
    assert_eq!(replies, due);
    // A record for each takes 22 bytes beside the five of a reply.
    assert!(
        encrypted < 2 * due.len(),
        "{encrypted} bytes for {} of replies: they were not written together",
        due.len()
    );
}

#[test]
fn sixteen_mebibytes_pass_both_sides_while_nobody_reads() {
    const REQUESTS: usize = 4096;
    let pki = Pki::new();
    let (_redis, respool) = both_sides(&pki);
    let mut client = respool.tls_client(&pki.client(None));
    client.shrink_receive_buffer(64 * 1024);
    let value = |n: usize| format!("{n:08}").repeat(512);
    for n in 0..REQUESTS {
        client.send(encode(&["ECHO", &value(n)]));
    }
    for n in 0..REQUESTS {
        assert_eq!(client.reply(), Value::bulk(value(n)), "reply {n}");
    }
    client.ping();
    respool.assert_alive();
}

#[test]
fn a_value_of_sixteen_mebibytes_comes_back() {
    let pki = Pki::new();
    let (_redis, respool) = both_sides(&pki);
    let mut client = respool.tls_client(&pki.client(None));
    let value: String = (0..2 << 20).map(|n| format!("{n:08x}")).collect();
    assert_eq!(client.cmd(&["SET", "large", &value]), Value::ok());
    assert_eq!(client.cmd(&["STRLEN", "large"]), Value::Int(16 << 20));
    for _ in 0..2 {
        assert!(
            client.cmd(&["GET", "large"]) == Value::bulk(&value),
            "the value differs"
        );
    }
}

#[test]
fn messages_reach_a_subscriber_that_reads_late() {
    let pki = Pki::new();
    let (_redis, respool) = both_sides(&pki);
    let mut subscriber = respool.tls_client(&pki.client(None));
    subscriber.shrink_receive_buffer(16 * 1024);
    subscriber.cmd(&["SUBSCRIBE", "news"]);
    let mut publisher = respool.tls_client(&pki.client(None));
    let message = "m".repeat(200_000);
    for n in 0..20 {
        let text = format!("{n}:{message}");
        assert_eq!(publisher.cmd(&["PUBLISH", "news", &text]), Value::Int(1));
    }
    for n in 0..20 {
        let got = subscriber.reply();
        assert_eq!(
            got.items()[2],
            Value::bulk(format!("{n}:{message}")),
            "message {n}"
        );
    }
}

#[test]
fn who_says_goodbye_gets_its_replies_and_a_goodbye() {
    let pki = Pki::new();
    let (_redis, respool) = both_sides(&pki);
    let name = ServerName::try_from("localhost").expect("a name");
    let mut session = ClientConnection::new(pki.client(None), name).expect("a session");
    let mut socket = TcpStream::connect(respool.addr()).expect("respool listens");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("it can be set");
    while session.is_handshaking() {
        session.complete_io(&mut socket).expect("a handshake");
    }
    let mut tls = rustls::Stream::new(&mut session, &mut socket);
    tls.write_all(&encode(&["INCR", "n"]).repeat(1000))
        .expect("respool reads");
    tls.conn.send_close_notify();
    tls.flush().expect("respool reads");
    let mut replies = String::new();
    // An end without a goodbye would be an error here.
    tls.read_to_string(&mut replies)
        .expect("replies and a goodbye");
    assert_eq!(replies.lines().count(), 1000);
    assert!(replies.ends_with(":1000\r\n"), "{replies}");
}

#[test]
fn a_drain_says_goodbye_through_tls() {
    let pki = Pki::new();
    let (_redis, respool) = both_sides(&pki);
    let name = ServerName::try_from("localhost").expect("a name");
    let mut session = ClientConnection::new(pki.client(None), name).expect("a session");
    let mut socket = TcpStream::connect(respool.addr()).expect("respool listens");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("it can be set");
    let mut tls = rustls::Stream::new(&mut session, &mut socket);
    tls.write_all(&encode(&["PING"])).expect("respool reads");
    tls.read_exact(&mut [0; 7]).expect("+PONG");
    let mut shaking = respool.client();
    respool.terminate();
    // An end without a goodbye would be an error here.
    assert_eq!(
        uninterrupted(|| tls.read(&mut [0; 1])).expect("a goodbye"),
        0
    );
    shaking.expect_end();
    assert!(respool.wait().success());
}

/// Tells sizes around what a unix socket holds, closer to each other than what respool encrypts at once: with one of them the end
/// of the bytes is encrypted and not sent when all of them have been taken.
fn sizes() -> impl Iterator<Item = usize> {
    (1..=16).map(|n| n * 24 * 1024)
}

#[test]
fn the_end_of_a_reply_does_not_wait_for_another() {
    let pki = Pki::new();
    let own = pki.issue("server", &["localhost"]);
    let redis = Redis::start(&[]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("tls.sock");
    let respool = Respool::with(&redis)
        .section(&format!(
            "[[listener]]\naddress = \"unix:{}\"\n{}",
            path.display(),
            listener_tls(&own, "")
        ))
        .start();
    for size in sizes() {
        redis.cmd(&["SET", "k", &"v".repeat(size)]);
        let name = ServerName::try_from("localhost").expect("a name");
        let mut session = ClientConnection::new(pki.client(None), name).expect("a session");
        let mut socket = UnixStream::connect(&path).expect("respool listens");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("it can be set");
        let answered = || respool.metric("respool_request_duration_seconds_count");
        let before = answered();
        let mut tls = rustls::Stream::new(&mut session, &mut socket);
        tls.write_all(&encode(&["GET", "k"]))
            .expect("respool reads");
        eventually(|| answered() > before, "the whole reply is on its way");
        let due = format!("${size}\r\n").len() + size + 2;
        let mut reply = vec![0; due];
        tls.read_exact(&mut reply)
            .unwrap_or_else(|e| panic!("a reply of {size} bytes: {e}"));
    }
}

/// Says whether what respool sends is read.
#[derive(Default)]
struct ReadGate {
    is_open: Mutex<bool>,
    changed: Condvar,
}

impl ReadGate {
    fn set(&self, open: bool) {
        *self.is_open.lock().expect("no panic with it") = open;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let open = self.is_open.lock().expect("no panic with it");
        drop(self.changed.wait_while(open, |open| !*open));
    }
}

/// Makes a unix socket that leads to `address`; respool's bytes pass while the gate is open.
fn bridge(path: &Path, address: String, gate: &Arc<ReadGate>) {
    let listener = UnixListener::bind(path).expect("a path of its own");
    let gate = Arc::clone(gate);
    std::thread::spawn(move || {
        for from in listener.incoming().flatten() {
            let Ok(to) = TcpStream::connect(&address) else {
                return;
            };
            let (mut back, mut forth) = (
                (
                    to.try_clone().expect("a clone"),
                    from.try_clone().expect("a clone"),
                ),
                (from, to),
            );
            std::thread::spawn(move || std::io::copy(&mut back.0, &mut back.1));
            let gate = Arc::clone(&gate);
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                loop {
                    gate.pass();
                    let Ok(read @ 1..) = uninterrupted(|| forth.0.read(&mut piece)) else {
                        return;
                    };
                    if forth.1.write_all(&piece[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

#[test]
fn the_end_of_a_request_does_not_wait_for_another() {
    let pki = Pki::new();
    let own = pki.issue("server", &["localhost"]);
    let redis = Redis::start_tls(&pki, &own, &[]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("bridge.sock");
    let gate = Arc::new(ReadGate::default());
    gate.set(true);
    bridge(&path, redis.tls_addr(), &gate);
    let respool = Respool::before(&format!("unix:{}", path.display()))
        .upstream(&upstream_tls(&pki, ", server_name = \"localhost\""))
        .upstream("reply_timeout = \"60s\"")
        .start();
    let mut client = respool.client();
    let arrived = || respool.metric("respool_client_bytes_total{direction=\"in\"}") as usize;
    for size in sizes().filter(|size| *size > 64 * 1024) {
        // The connection to lend is there, and nothing else is under way on it.
        assert_eq!(client.cmd(&["SET", "k", &"v".repeat(70_000)]), Value::ok());
        let before = arrived();
        gate.set(false);
        client.send(encode(&["SET", "k", &"v".repeat(size)]));
        eventually(|| arrived() - before > size, "the request is on its way");
        gate.set(true);
        assert_eq!(client.reply(), Value::ok(), "a request of {size} bytes");
    }
}
