//! Requests that do not go on: a connection to the server is borrowed for bytes that are here or keep coming, and for no others.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{Client, RaiseOnDrop, Redis, Respool, Value, encode, eventually};

/// Starts a respool in which who needs a connection waits, and a request that stalls may stay, for longer than any test: who is
/// served is served beside it.
fn patient(redis: &Redis) -> Respool {
    Respool::with(redis)
        .upstream("borrow_timeout = \"10m\"")
        .limits("request_stall_timeout = \"10m\"")
        .start()
}

/// Encodes the start of `SET key` with a value of `announced` bytes, of which `here` are here.
fn begun(key: &str, announced: usize, here: usize) -> Vec<u8> {
    let mut request = format!(
        "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${announced}\r\n",
        key.len()
    )
    .into_bytes();
    request.resize(request.len() + here, b'v');
    request
}

#[track_caller]
fn stalled(respool: &Respool, count: usize, here: usize) -> Vec<Client> {
    let start = |index: usize| {
        let mut client = respool.client();
        client.send(begun(&format!("stalled-{index}"), 10_000_000, here));
        client
    };
    (0..count).map(start).collect()
}

/// Does everything that needs a connection of its own, or used to. Panics unless it succeeds.
#[track_caller]
fn others_are_served(respool: &Respool, redis: &Redis) {
    let large = "l".repeat(70_000);
    for round in 0..3 {
        let mut client = respool.client();
        assert_eq!(client.cmd(&["WATCH", "mine"]), Value::ok(), "{round}");
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
        assert_eq!(client.cmd(&["INCR", "mine"]), Value::simple("QUEUED"));
        assert!(!client.cmd(&["EXEC"]).is_error());
        assert_eq!(respool.client().cmd(&["SET", "large", &large]), Value::ok());
        let mut subscriber = respool.client();
        assert!(!subscriber.cmd(&["SUBSCRIBE", "news"]).is_error());
        // The subscriber of the round before may not have left yet.
        assert!(redis.cmd(&["PUBLISH", "news", "all"]).int() >= 1);
        assert_eq!(subscriber.reply().items().len(), 3);
    }
}

#[test]
fn an_upload_that_stalls_at_its_start_holds_no_connection() {
    let redis = Redis::start(&[]);
    let respool = patient(&redis);
    let mut clients = stalled(&respool, 30, 80_000);
    others_are_served(&respool, &redis);
    // Nobody paid, so neither do they: the rest may still come.
    for client in &mut clients {
        client.send(vec![b'v'; 10_000_000 - 80_000]);
        client.send(b"\r\n");
        assert_eq!(client.reply(), Value::ok());
    }
    assert_eq!(redis.cmd(&["STRLEN", "stalled-29"]).int(), 10_000_000);
}

#[test]
fn an_upload_that_stalls_half_way_gives_its_connection_to_who_waits() {
    let redis = Redis::start(&[]);
    let respool = patient(&redis);
    let mut clients = stalled(&respool, 30, 3_000_000);
    others_are_served(&respool, &redis);
    let ended = "respool_client_disconnects_total{reason=\"upload_stalled\"}";
    eventually(
        || respool.metric_or_zero(ended) > 0.0,
        "those that were in the way are counted",
    );
    respool.eventually_logs("limits.upload_patience");
    // A request sent in part never runs.
    clients.clear();
    eventually(|| respool.clients_of("default") == 0, "all have left");
    assert_eq!(redis.cmd(&["EXISTS", "stalled-0", "stalled-29"]).int(), 0);
}

#[test]
fn uploads_that_dribble_or_come_again_and_again_do_not_keep_others_waiting() {
    let redis = Redis::start(&[]);
    let respool = patient(&redis);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for index in 0..12 {
            let (respool, is_over) = (&respool, &is_over);
            scope.spawn(move || {
                let mut client = None;
                while !is_over.load(Ordering::Relaxed) {
                    let dribbling: &mut Client = client.get_or_insert_with(|| {
                        let mut client = respool.client();
                        let here = if index % 2 == 0 { 80_000 } else { 2_000_000 };
                        let _ = client.try_send(begun("dribbled", 10_000_000, here));
                        client
                    });
                    let goes_on = dribbling.try_send(b"v").is_ok()
                        && dribbling.is_open_after(Duration::from_millis(100));
                    if !goes_on {
                        client = None;
                    }
                }
            });
        }
        let _over = RaiseOnDrop(&is_over);
        (0..5).for_each(|_| others_are_served(&respool, &redis));
    });
    assert_eq!(redis.cmd(&["EXISTS", "dribbled"]).int(), 0);
}

#[test]
fn uploads_that_stall_on_connections_that_their_clients_hold_give_them_up_too() {
    let redis = Redis::start(&[]);
    let respool = patient(&redis);
    let mut clients: Vec<Client> = (0..6).map(|_| respool.client()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["WATCH", "watched"]), Value::ok());
        client.send(begun("watched", 10_000_000, 3_000_000));
    }
    others_are_served(&respool, &redis);
    let ended = "respool_client_disconnects_total{reason=\"upload_stalled\"}";
    assert!(respool.metric_or_zero(ended) > 0.0);
    assert_eq!(redis.cmd(&["EXISTS", "watched"]).int(), 0);
}

/// Uploads 400 MB by 150 KB at a time, until it is over or somebody ends it: faster than a connection must be used for.
fn keep_uploading(respool: &Respool, is_over: &AtomicBool, sent: &AtomicUsize) {
    const PIECE: usize = 150_000;
    let mut client = respool.client();
    let mut piece = begun("going", 400_000_000, 10 * PIECE);
    while !is_over.load(Ordering::Relaxed)
        && client.try_send(&piece).is_ok()
        && client.is_open_after(Duration::from_millis(20))
    {
        sent.fetch_add(1, Ordering::Relaxed);
        piece = vec![b'v'; PIECE];
    }
}

#[test]
fn uploads_that_go_on_for_minutes_leave_connections_for_others() {
    let redis = Redis::start(&[]);
    let respool = patient(&redis);
    let (is_over, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| keep_uploading(&respool, &is_over, &sent));
        }
        let _over = RaiseOnDrop(&is_over);
        eventually(
            || sent.load(Ordering::Relaxed) > 100,
            "the uploads are under way",
        );
        others_are_served(&respool, &redis);
    });
    assert_eq!(redis.cmd(&["EXISTS", "going"]).int(), 0);
}

#[test]
fn an_upload_for_which_there_is_no_place_is_told_so_in_time() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("max_connections = 6\nshared_connections = 4\nborrow_timeout = \"1s\"")
        // Not even where the machine stands still.
        .limits("upload_patience = \"30s\"")
        .start();
    let (is_over, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        // It has the only place, and is never behind.
        scope.spawn(|| keep_uploading(&respool, &is_over, &sent));
        let _over = RaiseOnDrop(&is_over);
        eventually(
            || sent.load(Ordering::Relaxed) > 20,
            "the upload is under way",
        );
        let mut client = respool.client();
        client.send(begun("refused", 8_000_000, 8_000_000));
        client.send("\r\n");
        let reply = client.reply();
        assert!(
            reply.text().contains("no server connection free"),
            "{reply:?}"
        );
        assert_eq!(client.cmd(&["GET", "going"]), Value::NullBulk);
    });
    assert_eq!(redis.cmd(&["EXISTS", "refused"]).int(), 0);
}

#[test]
fn a_slow_upload_that_goes_on_succeeds_although_others_wait() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // More clients than connections, all the time.
        for _ in 0..8 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let mut client = respool.client();
                    assert_eq!(client.cmd(&["WATCH", "contended"]), Value::ok());
                    assert_eq!(client.reply_within(Duration::from_millis(20)), None);
                }
            });
        }
        let slow = scope.spawn(|| {
            let mut client = respool.client();
            client.send(begun("slow", 400_000, 0));
            for _ in 0..40 {
                client.send([b'v'; 10_000]);
                assert_eq!(client.reply_within(Duration::from_millis(100)), None);
            }
            client.send("\r\n");
            client.reply()
        });
        let steady = scope.spawn(|| {
            let mut client = respool.client();
            client.send(begun("steady", 40_000_000, 0));
            for _ in 0..40 {
                client.send(vec![b'v'; 1_000_000]);
                assert_eq!(client.reply_within(Duration::from_millis(50)), None);
            }
            client.send("\r\n");
            client.reply()
        });
        let _over = RaiseOnDrop(&is_over);
        for reply in [slow.join(), steady.join()] {
            assert_eq!(reply.expect("no panic"), Value::ok());
        }
    });
    assert_eq!(redis.cmd(&["STRLEN", "slow"]).int(), 400_000);
    assert_eq!(redis.cmd(&["STRLEN", "steady"]).int(), 40_000_000);
}

#[test]
fn a_stall_has_a_bound_which_is_counted_and_in_the_log() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .limits("request_stall_timeout = \"300ms\"")
        .start();
    // Gathered, passed on, and in the middle of a transaction.
    let mut clients = stalled(&respool, 1, 80_000);
    clients.append(&mut stalled(&respool, 1, 3_000_000));
    let mut open = respool.client();
    assert_eq!(open.cmd(&["MULTI"]), Value::ok());
    open.send(begun("queued", 10_000_000, 2_000_000));
    clients.push(open);
    for client in &mut clients {
        client.expect_end();
    }
    let stalls = "respool_client_disconnects_total{reason=\"request_stalled\"}";
    eventually(|| respool.metric_or_zero(stalls) == 3.0, "all are counted");
    respool.eventually_logs("limits.request_stall_timeout");
    assert_eq!(redis.cmd(&["DBSIZE"]).int(), 0);
}

#[test]
fn large_requests_of_every_size_and_kind_arrive_as_they_were_sent() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut client = respool.client();
    for size in [
        65_500, 65_536, 70_000, 262_144, 1_048_500, 1_048_576, 1_100_000, 5_000_000,
    ] {
        let value: Vec<u8> = (0..size)
            .map(|at: usize| (at * 31 + at / 251) as u8)
            .collect();
        let mut pipeline = encode(&[&b"SET"[..], b"value", &value]);
        pipeline.extend(encode(&["STRLEN", "value"]));
        pipeline.extend(encode(&["GET", "value"]));
        pipeline.extend(encode(&[&b"APPEND"[..], b"value", &value]));
        pipeline.extend(encode(&["MULTI"]));
        pipeline.extend(encode(&[&b"SET"[..], b"queued", &value]));
        pipeline.extend(encode(&["EXEC"]));
        client.send(&pipeline);
        assert_eq!(client.reply(), Value::ok(), "{size}");
        assert_eq!(client.reply().int(), size as i64);
        assert!(client.reply() == Value::bulk(&value), "{size}");
        assert_eq!(client.reply().int(), 2 * size as i64);
        assert_eq!(client.reply(), Value::ok());
        assert_eq!(client.reply(), Value::simple("QUEUED"));
        assert_eq!(client.reply().items(), [Value::ok()]);
    }
}
