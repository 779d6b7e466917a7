//! One of several addresses of the server swallows connects: others are used, and not every connect waits for it.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::harness::{Redis, Respool, Value, eventually};

/// A socket that listens and whose queue is full: connects to it are swallowed.
struct BlackHole {
    _socket: Socket,
    _held: Vec<TcpStream>,
}

impl BlackHole {
    fn at(address: &str) -> Self {
        let address: SocketAddr = address.parse().expect("an address");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&address.into()).expect("a free port");
        socket.listen(0).expect("it listens");
        let mut held = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            held.push(stream);
            assert!(held.len() < 100, "its queue is full in the end");
        }
        Self {
            _socket: socket,
            _held: held,
        }
    }
}

#[test]
fn a_silent_address_does_not_cost_every_connect_its_time() {
    let redis = Redis::start(&[]);
    let addr = redis.addr();
    let (_, port) = addr.rsplit_once(':').expect("a port");
    let _hole = BlackHole::at(&format!("127.0.0.9:{port}"));
    let dir = tempfile::tempdir().expect("a folder");
    let hosts = dir.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.9 redis.test\n127.0.0.1 redis.test\n").expect("a file");
    let respool = Respool::before(&format!("redis.test:{port}"))
        .upstream(&format!(
            "hosts_file = \"{}\"\nconnect_timeout = \"40s\"\nqueue = {{ timeout = \"120s\", max_commands = 100 }}",
            hosts.display()
        ))
        .start();
    let mut client = respool.client();
    assert_eq!(client.cmd(&["SET", "k", "0"]), Value::ok());
    let begun = Instant::now();
    for round in 1..=5 {
        redis.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        eventually(
            || respool.metric("respool_upstream_losses_total") >= f64::from(round),
            "it is lost",
        );
        assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    }
    // Half of connect_timeout for each of them, otherwise.
    assert!(
        begun.elapsed() < Duration::from_secs(50),
        "{:?}",
        begun.elapsed()
    );
    respool.eventually_logs("swallows connects");
    assert_eq!(respool.log_text().matches("swallows connects").count(), 1);
}
