//! Timers: what they close, and what they do not; and that every such end is counted and in the log.

use std::time::Duration;

use crate::harness::{Client, Pki, Redis, Respool, Value, encode, eventually};
use crate::tls::listener_tls;

/// Lasts many times as long as the timers of these tests.
const WHILE: Duration = Duration::from_secs(1);

#[track_caller]
fn is_in_the_log(respool: &Respool, what: &str) {
    eventually(
        || respool.log_text().contains(what),
        &format!("the log tells of {what}"),
    );
}

#[test]
fn a_pool_that_connects_ahead_and_is_silent_stays_connected() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("handshake_timeout = \"100ms\"")
        .start();
    let mut pool: Vec<Client> = (0..5).map(|_| respool.client()).collect();
    for client in &mut pool {
        assert_eq!(client.reply_within(WHILE / 5), None);
    }
    pool.iter_mut().for_each(Client::ping);
    assert_eq!(respool.disconnects("handshake_timeout"), 0.0);
}

/// Its machine slept, or somebody stopped it: what has come meanwhile counts before the time that has passed.
#[test]
fn who_has_sent_while_respool_was_stopped_is_not_closed_for_silence() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("handshake_timeout = \"3s\"\nidle_timeout = \"3s\"")
        .start();
    let mut idle: Vec<Client> = (0..5).map(|_| respool.client()).collect();
    idle.iter_mut().for_each(Client::ping);
    let mut begun: Vec<Client> = (0..5).map(|_| respool.client()).collect();
    for client in &mut begun {
        client.send(b"*1\r\n$4\r\nPI");
    }
    let has_begun = || {
        let list = idle[0].cmd(&["CLIENT", "LIST"]).text();
        list.matches(" qbuf=10 ").count() == begun.len()
    };
    eventually(has_begun, "each has begun a request");
    idle.iter_mut().for_each(Client::ping);
    respool.pause();
    for client in &mut idle {
        client.send(encode(&["PING"]));
    }
    for client in &mut begun {
        client.send(b"NG\r\n");
    }
    // Longer than either may be silent.
    assert_eq!(idle[0].reply_within(4 * WHILE), None);
    respool.resume();
    for client in idle.iter_mut().chain(&mut begun) {
        assert_eq!(client.reply(), Value::simple("PONG"));
    }
}

/// The replies lie in respool's sockets when it goes on, and its limits for the server have passed.
#[test]
fn who_waits_for_a_reply_while_respool_is_stopped_is_answered() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("reply_timeout = \"2s\"\nbusy_timeout = \"2s\"\nborrow_timeout = \"2s\"\nconnect_timeout = \"2s\"")
        .start();
    let mut clients: Vec<Client> = (0..20).map(|_| respool.client()).collect();
    clients.iter_mut().for_each(Client::ping);
    // The server is held, so that nothing is answered before respool stands still.
    redis.cmd(&["CLIENT", "PAUSE", "1000", "WRITE"]);
    for client in &mut clients {
        client.send(encode(&["EVAL", "return redis.call('incr', 'n')", "0"]));
    }
    assert_eq!(clients[0].reply_within(WHILE / 4), None);
    respool.pause();
    assert_eq!(clients[0].reply_within(5 * WHILE), None);
    respool.resume();
    let mut told: Vec<i64> = clients
        .iter_mut()
        .map(|client| client.reply().int())
        .collect();
    told.sort_unstable();
    assert_eq!(told, (1..=20).collect::<Vec<_>>());
    assert_eq!(respool.metric("respool_upstream_losses_total"), 0.0);
}

/// What a borrower has waited for was given back meanwhile, and respool has yet to read that.
#[test]
fn who_waits_for_a_connection_while_respool_is_stopped_gets_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("borrow_timeout = \"2s\"\nmax_connections = 2\nshared_connections = 1")
        .start();
    let mut held = respool.client();
    assert_eq!(held.cmd(&["WATCH", "key"]), Value::ok());
    let mut lent = respool.client();
    lent.send(encode(&["WATCH", "key"]));
    assert_eq!(lent.reply_within(WHILE / 4), None);
    respool.pause();
    held.send(encode(&["UNWATCH"]));
    assert_eq!(lent.reply_within(4 * WHILE), None);
    respool.resume();
    assert_eq!(lent.reply(), Value::ok());
    assert_eq!(held.reply(), Value::ok());
}

#[test]
fn a_first_command_that_is_whole_may_wait_for_the_server() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("queue = { timeout = \"60s\" }\nborrow_timeout = \"60s\"\nmax_connections = 2\nshared_connections = 1")
        .limits("handshake_timeout = \"100ms\"")
        .start();
    let mut held = respool.client();
    assert_eq!(held.cmd(&["WATCH", "key"]), Value::ok());
    let mut lent = respool.client();
    lent.send(encode(&["WATCH", "key"]));
    assert_eq!(lent.reply_within(WHILE), None);
    drop(held);
    assert_eq!(lent.reply(), Value::ok());
    drop(lent);

    redis.kill_hard();
    let mut client = respool.client();
    client.send(encode(&["INCR", "n"]));
    // The next has begun behind it, and the first is still the one that is waited for.
    client.send(b"*1\r\n$4\r\nPI");
    assert_eq!(client.reply_within(WHILE), None);
    redis.restart();
    assert_eq!(client.reply().int(), 1);
    client.send(b"NG\r\n");
    assert_eq!(client.reply(), Value::simple("PONG"));
}

#[test]
fn a_first_request_that_does_not_end_is_closed_counted_and_in_the_log() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("handshake_timeout = \"200ms\"")
        .start();
    for start in [
        &b"*1\r\n$4\r\nPI"[..],
        b"PIN",
        b"*",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9000\r\nxyz",
    ] {
        let mut client = respool.client();
        client.send(start);
        client.expect_end();
    }
    assert_eq!(respool.disconnects("handshake_timeout"), 4.0);
    is_in_the_log(&respool, "limits.handshake_timeout");
}

#[test]
fn who_has_to_authenticate_and_does_not_gives_its_place_back() {
    let redis = Redis::start(&[]);
    let demand = ["CONFIG", "SET", "requirepass", "secret"];
    assert_eq!(redis.cmd(&demand), Value::ok());
    let proxy = "[auth]\nmode = \"proxy\"\n[[auth.user]]\nname = \"app\"\npassword = \"word\"";
    let respool = Respool::with(&redis)
        .upstream("password = \"secret\"")
        .limits("handshake_timeout = \"500ms\"\nmax_clients = 20")
        .section(proxy)
        .start();
    let mut known = respool.client();
    assert_eq!(known.cmd(&["AUTH", "app", "word"]), Value::ok());
    let mut strangers: Vec<Client> = (0..19).map(|_| respool.client()).collect();
    for (index, client) in strangers.iter_mut().enumerate() {
        let told = match index % 3 {
            0 => client.try_cmd(&["PING"]),
            1 => client.try_cmd(&["AUTH", "app", "wrong"]),
            _ => None,
        };
        // Its time may be over by now.
        assert!(told.is_none_or(|told| told.is_error()));
    }
    strangers.iter_mut().for_each(Client::expect_end);
    known.ping();
    // Its time begins anew when it is nobody again.
    assert_eq!(known.cmd(&["RESET"]), Value::simple("RESET"));
    assert_eq!(known.cmd(&["AUTH", "app", "word"]), Value::ok());
    assert_eq!(known.reply_within(WHILE), None);
    known.ping();
    assert_eq!(respool.disconnects("handshake_timeout"), 19.0);
    is_in_the_log(&respool, "limits.handshake_timeout");
}

#[test]
fn a_stranger_to_a_server_that_demands_a_password_gives_its_place_back() {
    let redis = Redis::start(&[]);
    let demand = ["CONFIG", "SET", "requirepass", "secret"];
    assert_eq!(redis.cmd(&demand), Value::ok());
    let respool = Respool::with(&redis)
        .upstream("password = \"secret\"")
        .limits("handshake_timeout = \"500ms\"")
        .section("[auth]\nmode = \"passthrough\"")
        .start();
    let mut known = respool.client();
    assert_eq!(known.cmd(&["AUTH", "secret"]), Value::ok());
    let mut stranger = respool.client();
    let told = stranger.try_cmd(&["PING"]);
    assert!(told.is_none_or(|told| told.is_error()));
    stranger.expect_end();
    respool.client().expect_end();
    assert_eq!(known.reply_within(WHILE), None);
    known.ping();
}

#[test]
fn silence_does_not_close_who_is_answered_and_every_close_of_it_is_in_the_log() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("idle_timeout = \"400ms\"\nhandshake_timeout = \"300ms\"")
        .start();
    let mut served = respool.client();
    served.send(encode(&["DEBUG", "SLEEP", "1"]));
    assert_eq!(served.reply(), Value::ok());
    // A transaction is the client's own to leave open, no longer than anything else.
    let mut open = respool.client();
    assert_eq!(open.cmd(&["MULTI"]), Value::ok());
    open.expect_end();
    respool.client().expect_end();
    eventually(
        || respool.disconnects("idle_timeout") >= 2.0,
        "both are counted",
    );
    is_in_the_log(&respool, "idle_timeout");
    is_in_the_log(&respool, "reason=\"idle_timeout\"");
}

/// Its first commands lie in respool's socket when it goes on, and the time in which it may say who it is has passed.
#[test]
fn who_says_who_it_is_while_respool_is_stopped_is_placed_by_that() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("arriving_timeout = \"1s\"")
        .section("[[group]]\nname = \"named\"\nmatch = { client_name = \"named-*\" }")
        .section("[[group]]\nname = \"default\"\nmax_connections = 2")
        .start();
    // Who is placed before it is read is refused: there is no place for those without a name.
    let mut nameless = [respool.client(), respool.client()];
    for client in &mut nameless {
        assert_eq!(client.cmd(&["GET", "k"]), Value::NullBulk);
    }
    let mut arriving: Vec<Client> = (0..20).map(|_| respool.client()).collect();
    arriving.iter_mut().for_each(Client::ping);
    respool.pause();
    for client in &mut arriving {
        client.send(
            [
                encode(&["CLIENT", "SETNAME", "named-1"]),
                encode(&["GET", "k"]),
            ]
            .concat(),
        );
    }
    assert_eq!(arriving[0].reply_within(3 * WHILE), None);
    respool.resume();
    for client in &mut arriving {
        assert_eq!(client.reply(), Value::ok());
        assert_eq!(client.reply(), Value::NullBulk);
    }
    assert_eq!(respool.clients_of("named"), arriving.len());
}

/// What a client has sent of its handshake lies in respool's socket when it goes on.
#[test]
fn who_begins_tls_while_respool_is_stopped_is_served() {
    let pki = Pki::new();
    let own = pki.issue("server", &["127.0.0.1", "localhost"]);
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("handshake_timeout = \"1s\"")
        .listener(&listener_tls(&own, ""))
        .start();
    let config = pki.client(None);
    let begun: Vec<Client> = (0..20).map(|_| Client::connect(respool.addr())).collect();
    // It has come behind them, and so they were accepted.
    respool.tls_client(&config).ping();
    respool.pause();
    let shaking: Vec<_> = begun
        .into_iter()
        .map(|client| {
            let config = config.clone();
            std::thread::spawn(move || client.with_tls(&config).map(|mut client| client.ping()))
        })
        .collect();
    let mut other = Client::connect(respool.addr());
    assert_eq!(other.reply_within(3 * WHILE), None);
    respool.resume();
    for shaking in shaking {
        let served = shaking.join().expect("it does not panic");
        served.expect("a handshake");
    }
    assert_eq!(respool.disconnects("handshake_timeout"), 0.0);
}
