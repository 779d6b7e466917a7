//! The hard total of sockets at the server, counted in the kernel's table.

use std::net::TcpListener;
use std::time::Duration;

use crate::harness::{
    Client, Redis, Respool, Value, encode, eventually, sockets_at, watch_sockets,
    watch_sockets_beyond,
};

/// Is the default of `upstream.max_connections`.
const TOTAL: usize = 10;

/// Lists whatever a client may be in the middle of when it resets.
fn unfinished() -> Vec<(&'static str, Vec<u8>)> {
    let mut partial = b"*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$300000\r\n".to_vec();
    partial.resize(150_000, b'x');
    let large = encode(&["SET", "large", &"x".repeat(200_000)]);
    let in_database = [encode(&["SELECT", "3"]), encode(&["WATCH", "k"])].concat();
    let speaking_3 = [encode(&["HELLO", "3"]), encode(&["MULTI"])].concat();
    vec![
        ("MULTI", encode(&["MULTI"])),
        ("WATCH", encode(&["WATCH", "k"])),
        ("SUBSCRIBE", encode(&["SUBSCRIBE", "c"])),
        ("BLPOP", encode(&["BLPOP", "list", "0"])),
        (
            "XREAD",
            encode(&["XREAD", "BLOCK", "0", "STREAMS", "s", "$"]),
        ),
        ("MONITOR", encode(&["MONITOR"])),
        ("a large SET", large),
        ("half a large SET", partial),
        ("SELECT and WATCH", in_database),
        ("HELLO 3 and MULTI", speaking_3),
        ("GET", encode(&["GET", "k"])),
    ]
}

fn port_of(address: &str) -> u16 {
    let (_, port) = address.rsplit_once(':').expect("an address has a port");
    port.parse().expect("a port is a number")
}

/// Lets eight clients at a time send this and reset while it is under way.
#[track_caller]
fn reset_in_the_middle(respool: &Respool, bytes: &[u8], rounds: usize) {
    for _ in 0..rounds {
        let mut clients: Vec<Client> = (0..8).map(|_| respool.client()).collect();
        for client in &mut clients {
            // One that is closed meanwhile has nothing to reset.
            let _ = client.try_send(bytes);
        }
        // Gives respool the time to begin what was asked for.
        let _ = clients[0].reply_within(Duration::from_millis(5));
        clients.into_iter().for_each(Client::abort);
    }
}

/// Checks that plain and lent connections serve again.
#[track_caller]
fn assert_serves(respool: &Respool) {
    eventually(
        || {
            let mut client = respool.client();
            let begun = client.cmd(&["MULTI"]) == Value::ok();
            begun
                && client.cmd(&["PING"]) == Value::simple("QUEUED")
                && matches!(client.cmd(&["EXEC"]), Value::Array(_))
                && client.cmd(&["SET", "served", "1"]) == Value::ok()
        },
        "respool serves",
    );
}

#[test]
fn a_client_that_resets_while_its_connection_is_dialled_gives_no_place_back() {
    for (what, bytes) in unfinished() {
        let redis = Redis::start(&[]);
        let respool = Respool::start(&redis);
        respool.client().ping();
        let port = port_of(&redis.server_addr());
        let watch = watch_sockets_beyond(0, port);
        let own = usize::from(redis.cmd(&["PING"]) == Value::simple("PONG"));
        redis.pause();
        reset_in_the_middle(&respool, &bytes, 20);
        let most = watch.most();
        redis.resume();
        assert!(most <= TOTAL + own, "{what}: {most} sockets at the server");
        assert_serves(&respool);
        assert!(watch.most() <= TOTAL + own, "{what}: {}", watch.most());
    }
}

#[test]
fn a_server_that_hung_for_a_while_refuses_nobody() {
    let redis = Redis::start(&["--maxclients", "60"]);
    let respool = Respool::start(&redis);
    respool.client().ping();
    redis.pause();
    reset_in_the_middle(&respool, &encode(&["MULTI"]), 40);
    redis.resume();
    assert_serves(&respool);
    assert_eq!(redis.info("rejected_connections"), "0");
}

#[test]
fn what_times_out_at_a_hung_server_still_counts() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream(
            "connect_timeout = \"100ms\"\nborrow_timeout = \"100ms\"\nreply_timeout = \"300ms\"\n\
             queue = { timeout = \"100ms\" }\nreconnect = { initial = \"1ms\", max = \"20ms\" }",
        )
        .start();
    respool.client().ping();
    let watch = watch_sockets_beyond(0, port_of(&redis.server_addr()));
    redis.pause();
    let not_sent = |args: &[&str]| {
        let mut client = respool.client();
        let reply = client.try_cmd(args);
        // One whose command may have been sent is closed.
        reply.is_none_or(|reply| reply.text().starts_with("LOADING"))
    };
    for _ in 0..40 {
        assert!(not_sent(&["MULTI"]) && not_sent(&["GET", "k"]));
        assert!(not_sent(&["WATCH", "k"]));
    }
    let most = watch.most();
    redis.resume();
    assert!(most <= TOTAL, "{most} sockets at the server");
    assert_serves(&respool);
    assert!(
        watch.most() <= TOTAL,
        "{} sockets at the server",
        watch.most()
    );
}

#[test]
fn a_tls_handshake_that_hangs_holds_its_place() {
    // The kernel takes the connections; nobody ever does anything with them.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("it is bound").to_string();
    let watch = watch_sockets(port_of(&address));
    let respool = Respool::before(&address)
        .upstream(
            "tls = { enabled = true, insecure_skip_verify = true, handshake_timeout = \"50ms\" }\n\
             queue = { timeout = \"100ms\" }\nreconnect = { initial = \"1ms\", max = \"10ms\" }",
        )
        .start();
    for _ in 0..50 {
        let reply = respool.client().cmd(&["GET", "k"]);
        assert!(reply.text().starts_with("LOADING"), "{reply:?}");
    }
    let most = watch.most();
    assert!((1..=TOTAL).contains(&most), "{most} sockets at the server");
}

#[test]
fn reloads_while_connections_are_dialled_give_no_place_back() {
    let redis = Redis::start(&[]);
    let with = |lines: &str| Respool::with(&redis).upstream(lines);
    let respool = with("").start();
    respool.client().ping();
    let watch = watch_sockets_beyond(0, port_of(&redis.server_addr()));
    redis.pause();
    for round in 0..6 {
        reset_in_the_middle(&respool, &encode(&["MULTI"]), 3);
        let timeout = 50 + round;
        respool.reload(&with(&format!(
            "connect_timeout = \"{timeout}ms\"\nkeepalive = \"{timeout}s\""
        )));
    }
    let most = watch.most();
    redis.resume();
    assert!(most <= TOTAL, "{most} sockets at the server");
    respool.reload(&with(""));
    assert_serves(&respool);
    assert!(
        watch.most() <= TOTAL,
        "{} sockets at the server",
        watch.most()
    );
}

#[test]
fn a_server_that_hangs_is_left_for_another_and_counts_when_it_is_the_server_again() {
    let (one, two) = (Redis::start(&[]), Redis::start(&[]));
    let respool = Respool::with(&one).start();
    respool.client().ping();
    let watch = watch_sockets_beyond(0, port_of(&one.server_addr()));
    one.pause();
    for _ in 0..3 {
        reset_in_the_middle(&respool, &encode(&["MULTI"]), 5);
        // What the one that hangs still holds keeps nobody from the other.
        respool.reload(&Respool::with(&two));
        assert_serves(&respool);
        respool.reload(&Respool::with(&one));
    }
    let most = watch.most();
    one.resume();
    assert!(most <= TOTAL, "{most} sockets at the server");
    assert_serves(&respool);
    assert!(
        watch.most() <= TOTAL,
        "{} sockets at the server",
        watch.most()
    );
}

#[test]
fn a_server_that_is_killed_while_it_hangs_is_connected_to_again() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    respool.client().ping();
    let port = port_of(&redis.server_addr());
    let watch = watch_sockets_beyond(0, port);
    redis.pause();
    reset_in_the_middle(&respool, &encode(&["MULTI"]), 20);
    redis.kill_hard();
    redis.restart();
    assert_serves(&respool);
    // Restarting asks the server once whether it is there.
    assert!(watch.most() <= TOTAL + 1, "{} sockets", watch.most());
}

#[test]
fn a_drain_ends_although_the_server_hangs() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    respool.client().ping();
    let port = port_of(&redis.server_addr());
    redis.pause();
    reset_in_the_middle(&respool, &encode(&["MULTI"]), 10);
    respool.terminate();
    assert!(respool.wait().success());
    assert!(sockets_at(port) <= TOTAL, "{} sockets", sockets_at(port));
    redis.resume();
    eventually(
        || sockets_at(port) == 0,
        "the server has seen all of them close",
    );
}
