//! Clients that leave while their commands wait: what was not sent never runs, and their places are given back; who has only
//! finished sending still gets every reply.

use std::time::Duration;

use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

/// The wait takes longer than any test: places that are given back are given back for the clients' leaving.
const LONG: &str = "10m";

#[track_caller]
fn all_places_are_back(respool: &Respool, but: usize) {
    eventually(
        || respool.clients_of("default") == but,
        "the places of those who left are given back",
    );
}

#[track_caller]
fn server_is_away(redis: &Redis, respool: &Respool) {
    redis.kill_hard();
    eventually(
        || respool.metric("respool_server_up") == 0.0,
        "the server is seen to be away",
    );
}

/// Connects a client that has sent `requests` and waits.
#[track_caller]
fn waiting(respool: &Respool, requests: &[u8]) -> Client {
    let mut client = respool.client();
    client.send(requests);
    let reply = client.reply_within(Duration::from_millis(100));
    assert_eq!(reply, None, "it has to wait");
    client
}

/// Takes all connections that can be lent.
#[track_caller]
fn fill_the_pool(respool: &Respool, count: usize) -> Vec<Client> {
    let watch = |_| {
        let mut client = respool.client();
        assert_eq!(client.cmd(&["WATCH", "held"]), Value::ok());
        client
    };
    (0..count).map(watch).collect()
}

#[test]
fn a_command_whose_client_left_while_the_server_was_away_never_runs() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream(&format!("queue = {{ timeout = \"{LONG}\" }}"))
        .start();
    respool.client().ping();
    server_is_away(&redis, &respool);
    for end in [Client::abort as fn(Client), drop] {
        for request in [
            encode(&["INCR", "counted"]),
            encode(&["WATCH", "counted"]),
            [encode(&["SELECT", "3"]), encode(&["INCR", "counted"])].concat(),
            [encode(&["MULTI"]), encode(&["INCR", "counted"])].concat(),
            encode(&["BLPOP", "list", "0"]),
            encode(&["SUBSCRIBE", "channel"]),
            // More than is read ahead of a client that waits: its end lies behind what is not read.
            encode(&["INCR", "counted"]).repeat(5_000),
        ] {
            end(waiting(&respool, &request));
        }
    }
    all_places_are_back(&respool, 0);
    redis.restart();
    let mut client = respool.client();
    assert!(client.cmd(&["GET", "counted"]).is_null());
    client.send(encode(&["SELECT", "3"]));
    assert_eq!(client.reply(), Value::ok());
    assert!(client.cmd(&["GET", "counted"]).is_null());
}

#[test]
fn clients_that_give_up_and_come_again_do_not_fill_their_group_while_the_server_is_away() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream(&format!("queue = {{ timeout = \"{LONG}\" }}"))
        .limits("max_clients = 20")
        .start();
    respool.client().ping();
    server_is_away(&redis, &respool);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..15 {
                    drop(waiting(&respool, &encode(&["INCR", "counted"])));
                }
            });
        }
    });
    let rejected = respool.metric_or_zero("respool_client_connections_rejected_total");
    assert_eq!(rejected, 0.0, "of 60 connects by four clients");
}

#[test]
fn a_command_whose_client_left_while_all_connections_were_lent_never_runs() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream(&format!("borrow_timeout = \"{LONG}\""))
        .start();
    let held = fill_the_pool(&respool, 6);
    let large = "x".repeat(70_000);
    for end in [Client::abort as fn(Client), drop] {
        for request in [
            [encode(&["WATCH", "key"]), encode(&["INCR", "counted"])].concat(),
            [encode(&["MULTI"]), encode(&["INCR", "counted"])].concat(),
            encode(&["APPEND", "counted", &large]),
            // Its end lies behind what is not read.
            [
                encode(&["WATCH", "key"]),
                encode(&["INCR", "counted"]).repeat(5_000),
            ]
            .concat(),
        ] {
            end(waiting(&respool, &request));
        }
    }
    all_places_are_back(&respool, 6);
    drop(held);
    let mut client = respool.client();
    assert_eq!(client.cmd(&["WATCH", "key"]), Value::ok());
    assert!(client.cmd(&["GET", "counted"]).is_null());
}

#[test]
fn a_reset_is_noticed_although_nothing_is_read_of_its_client() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream(&format!(
            "reply_timeout = \"{LONG}\"\nmax_write_buffer = \"64KiB\""
        ))
        .limits("max_client_in_flight = 10")
        .start();
    respool.client().ping();
    redis.pause();
    let many = encode(&["INCR", "counted"]).repeat(50_000);
    for requests in [
        many.clone(),
        [encode(&["GET", "key"]), encode(&["SELECT", "5"]), many].concat(),
        [encode(&["GET", "key"]), encode(&["QUIT"])].concat(),
    ] {
        waiting(&respool, &requests).abort();
    }
    all_places_are_back(&respool, 0);
    redis.resume();
    let counted = respool.client().cmd(&["INCR", "counted"]).int() - 1;
    assert!(
        counted <= 20,
        "only what was in flight may have run: {counted}"
    );
}

#[test]
fn who_has_left_gives_up_its_place_when_it_is_needed() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream(&format!("reply_timeout = \"{LONG}\""))
        .limits("max_clients = 4")
        .start();
    respool.client().ping();
    redis.pause();
    for _ in 0..4 {
        // A reset would be noticed anyway; these look like clients that have only finished sending.
        drop(waiting(&respool, &encode(&["GET", "key"])));
    }
    eventually(
        || {
            respool
                .client()
                .try_cmd(&["CLIENT", "ID"])
                .is_some_and(|id| !id.is_error())
        },
        "a newcomer is served",
    );
    redis.resume();
}

/// Sends `requests`, says that nothing more will come, and reads everything.
fn half_closed(mut client: Client, requests: &[u8]) -> Vec<u8> {
    client.send(requests);
    client.finish_sending();
    client.read_to_end()
}

fn scripts() -> Vec<Vec<u8>> {
    let large = "v".repeat(300_000);
    let words = |words: &[&[&str]]| words.iter().flat_map(|words| encode(words)).collect();
    vec![
        b"SET a 1\r\nGET a\r\nINCR a\r\n".to_vec(),
        words(&[
            &["SELECT", "4"],
            &["SET", "b", "1"],
            &["GET", "b"],
            &["SELECT", "0"],
            &["GET", "b"],
        ]),
        words(&[
            &["WATCH", "c"],
            &["MULTI"],
            &["SET", "c", "1"],
            &["GET", "c"],
            &["EXEC"],
            &["GET", "c"],
        ]),
        words(&[&["MULTI"], &["INCR", "d"], &["DISCARD"], &["GET", "d"]]),
        words(&[&["SET", "e", &large], &["GET", "e"], &["STRLEN", "e"]]),
        words(&[
            &["AUTH", "default", "any"],
            &["CONFIG", "GET", "maxmemory"],
            &["PUBSUB", "NUMSUB", "f"],
        ]),
        words(&[
            &[
                "EVAL",
                "local t = 0 for i = 1, 3e7 do t = t + i end return 'done'",
                "0",
            ],
            &["SELECT", "6"],
            &["PING"],
        ]),
        encode(&["INCR", "g"]).repeat(30_000),
        // Half a request behind whole ones is nobody's.
        [
            encode(&["SET", "h", "1"]),
            b"*2\r\n$3\r\nGET\r\n$1".to_vec(),
        ]
        .concat(),
        encode(&["PING"]),
    ]
}

#[test]
fn who_has_only_finished_sending_gets_the_replies_it_gets_directly() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    for requests in scripts() {
        redis.flush();
        let directly = half_closed(redis.client(), &requests);
        redis.flush();
        let through = half_closed(respool.client(), &requests);
        assert!(
            through == directly,
            "{} bytes instead of {} behind {:?}",
            through.len(),
            directly.len(),
            String::from_utf8_lossy(&requests[..requests.len().min(60)])
        );
    }
}

#[test]
fn who_has_only_finished_sending_is_served_when_a_busy_server_has_time() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("shared_connections = 1")
        .start();
    respool.client().ping();
    let mut busy = respool.client();
    busy.send(encode(&["DEBUG", "SLEEP", "1.5"]));
    let requests = [
        encode(&["SET", "a", "1"]),
        encode(&["SELECT", "7"]),
        encode(&["SET", "a", "2"]),
        encode(&["GET", "a"]),
    ]
    .concat();
    let replies = half_closed(respool.client(), &requests);
    assert_eq!(replies, b"+OK\r\n+OK\r\n+OK\r\n$1\r\n2\r\n");
    assert_eq!(busy.reply(), Value::ok());
}

#[test]
fn an_upload_whose_client_left_while_others_had_all_places_for_uploads_never_runs() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream(&format!(
            "borrow_timeout = \"{LONG}\"\nmax_connections = 4\nshared_connections = 1\nmax_shared_request = \"1KiB\""
        ))
        .limits("upload_patience = \"1h\"\nrequest_stall_timeout = \"0s\"\nmax_client_read_ahead = \"1MiB\"")
        .start();
    // There is one place for an upload: this one takes it and goes no further. More than is gathered even where it comes slowly.
    let large = "x".repeat(400_000);
    let upload = encode(&["APPEND", "counted", &large]);
    let mut holder = respool.client();
    holder.send(&upload[..300_000]);
    eventually(
        || respool.metric_or_zero("respool_pins_total{reason=\"large_request\"}") >= 1.0,
        "the upload has begun",
    );
    for end in [Client::abort as fn(Client), drop] {
        end(waiting(&respool, &upload));
    }
    all_places_are_back(&respool, 1);
    holder.send(&upload[300_000..]);
    assert_eq!(holder.reply(), Value::Int(400_000), "nobody else's has run");
}
