//! Reloads of the pool, the server's address and certificates while clients are busy: not one of them sees an error.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::harness::{
    CertificatePair, Client, Pki, RaiseOnDrop, Redis, Respool, Value, encode, eventually,
};

/// This number of clients work while something is reloaded.
const BUSY: usize = 12;

/// Runs `work` in `BUSY` threads, again and again, while `meanwhile` runs; each is called at least once after it too.
fn while_busy(work: impl Fn(usize) + Sync, meanwhile: impl FnOnce(&AtomicUsize)) {
    let (is_over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for which in 0..BUSY {
            let (work, is_over, rounds) = (&work, &is_over, &rounds);
            scope.spawn(move || {
                loop {
                    let is_last = is_over.load(Ordering::Relaxed);
                    work(which);
                    rounds.fetch_add(1, Ordering::Relaxed);
                    if is_last {
                        break;
                    }
                }
            });
        }
        let over = RaiseOnDrop(&is_over);
        meanwhile(&rounds);
        drop(over);
    });
}

/// Waits until some work has been done.
#[track_caller]
fn some_rounds(rounds: &AtomicUsize) {
    let before = rounds.load(Ordering::Relaxed);
    eventually(
        || rounds.load(Ordering::Relaxed) > before + 2 * BUSY,
        "clients are served",
    );
}

#[test]
fn the_pool_grows_and_shrinks_under_load() {
    let redis = Redis::start(&[]);
    let sized = |total: usize, shared: usize| {
        Respool::with(&redis).top("workers = 2").upstream(&format!(
            "max_connections = {total}\nshared_connections = {shared}"
        ))
    };
    let respool = sized(8, 2).start();
    let clients: Vec<_> = (0..BUSY)
        .map(|_| std::sync::Mutex::new((respool.client(), 0)))
        .collect();
    let work = |which: usize| {
        let mut client = clients[which].lock().expect("one thread each");
        let (client, count) = &mut *client;
        let key = format!("count-{which}");
        // Plain, in another database, interactive and blocking: each kind of connection is used.
        *count += 1;
        assert_eq!(client.cmd(&["INCR", &key]), Value::Int(*count));
        assert_eq!(
            client.cmd(&["SELECT", &(which % 3).to_string()]),
            Value::ok()
        );
        assert_eq!(client.cmd(&["WATCH", "w"]), Value::ok());
        assert_eq!(client.cmd(&["MULTI"]), Value::ok());
        assert_eq!(client.cmd(&["PING"]), Value::simple("QUEUED"));
        assert_eq!(client.cmd(&["EXEC"]).items(), [Value::simple("PONG")]);
        let list = format!("list-{which}");
        assert_eq!(client.cmd(&["RPUSH", &list, "x"]), Value::Int(1));
        assert_eq!(
            client.cmd(&["BLPOP", &list, "5"]).items()[1],
            Value::bulk("x")
        );
        assert_eq!(client.cmd(&["SELECT", "0"]), Value::ok());
    };
    while_busy(work, |rounds| {
        for (total, shared) in [(12, 5), (5, 2), (10, 4), (5, 2), (20, 8), (6, 3)] {
            respool.reload(&sized(total, shared));
            assert_eq!(
                respool.metric("respool_upstream_connections_limit"),
                total as f64
            );
            some_rounds(rounds);
            eventually(
                || respool.metric("respool_upstream_connections") <= total as f64,
                "what is too much is closed",
            );
            let shared_now = || respool.metric("respool_upstream_connections{kind=\"shared\"}");
            eventually(
                || shared_now() <= shared as f64,
                "so is what is shared too much",
            );
        }
    });
    assert!(redis.connected_clients() <= 6);
}

/// The pool becomes smaller while what was lent of the larger one is still held: plain traffic goes on, in other states too.
#[test]
fn a_smaller_pool_whose_connections_are_held_still_serves_everybody() {
    let redis = Redis::start(&[]);
    let sized = |total: usize| {
        Respool::with(&redis).top("workers = 1").upstream(&format!(
            "max_connections = {total}\nshared_connections = 4\nqueue = {{ timeout = \"15s\", max_commands = 100 }}"
        ))
    };
    let respool = sized(10).start();
    let mut holders: Vec<_> = (0..6).map(|_| respool.client()).collect();
    for holder in &mut holders {
        assert_eq!(holder.cmd(&["WATCH", "w"]), Value::ok());
    }
    let watch = redis.watch_connections();
    respool.reload(&sized(7));
    let mut clients: Vec<_> = (0..5).map(|_| respool.client()).collect();
    for round in 0..3 {
        for (database, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.cmd(&["SELECT", &database.to_string()]), Value::ok());
            assert_eq!(client.cmd(&["INCR", "n"]), Value::Int(round + 1));
        }
    }
    assert!(watch.most() <= 7, "not one more than there are to be");
    for holder in &mut holders {
        assert_eq!(holder.cmd(&["UNWATCH"]), Value::ok());
    }
    eventually(
        || respool.metric_or_zero("respool_upstream_connections{kind=\"pinned\"}") <= 3.0,
        "what is given back is closed",
    );
    assert_eq!(holders[0].cmd(&["WATCH", "w"]), Value::ok());
}

#[test]
fn the_server_is_another_from_one_command_to_the_next() {
    let (a, b) = (Redis::start(&[]), Redis::start(&[]));
    a.cmd(&["SET", "who", "a"]);
    b.cmd(&["SET", "who", "b"]);
    let before = |redis: &Redis| Respool::with(redis).plain_clients();
    let respool = before(&a).start();
    let clients: Vec<_> = (0..BUSY)
        .map(|_| std::sync::Mutex::new(respool.client()))
        .collect();
    let who = |client: &mut Client| client.cmd(&["GET", "who"]).text();
    let mut blocked = respool.client();
    blocked.send(encode(&["BLPOP", "list", "0"]));
    let mut subscriber = respool.client();
    subscriber.send(encode(&["SUBSCRIBE", "news"]));
    assert_eq!(subscriber.reply().items().len(), 3);
    let mut transaction = respool.client();
    assert_eq!(transaction.cmd(&["MULTI"]), Value::ok());
    assert_eq!(transaction.cmd(&["GET", "who"]), Value::simple("QUEUED"));
    eventually(|| a.info_number("blocked_clients") == 1, "one is blocked");
    let work = |which: usize| {
        let mut client = clients[which].lock().expect("one thread each");
        let answer = who(&mut client);
        assert!(answer == "a" || answer == "b", "{answer}");
    };
    while_busy(work, |rounds| {
        respool.reload(&before(&b));
        some_rounds(rounds);
        assert_eq!(
            transaction.cmd(&["EXEC"]).items(),
            [Value::bulk("a")],
            "it ends where it began"
        );
        eventually(
            || {
                clients
                    .iter()
                    .all(|client| who(&mut client.lock().expect("no panic")) == "b")
            },
            "everybody is at the other server",
        );
        eventually(
            || a.connected_clients() == 0,
            "nothing is left at the first",
        );
    });
    assert_eq!(b.cmd(&["RPUSH", "list", "x"]), Value::Int(1));
    assert_eq!(blocked.reply().items()[1], Value::bulk("x"));
    eventually(
        || b.cmd(&["PUBLISH", "news", "n"]).int() >= 1,
        "the subscription has moved",
    );
    assert_eq!(subscriber.reply().items()[2], Value::bulk("n"));
    assert_eq!(transaction.cmd(&["GET", "who"]), Value::bulk("b"));
}

#[test]
fn certificates_are_replaced_under_load() {
    let (first, second) = (Pki::new(), Pki::new());
    let own = first.issue("redis", &["127.0.0.1"]);
    let redis = Redis::start_tls(&first, &own, &[]);
    let showing = |pair: &CertificatePair| {
        Respool::before(&redis.tls_addr())
            .upstream(&format!(
                "tls = {{ enabled = true, ca_file = \"{}\" }}",
                first.ca_file().display()
            ))
            .listener(&format!("tls = {{ {} }}", pair.toml()))
    };
    let respool = showing(&first.issue("respool", &["127.0.0.1", "localhost"])).start();
    let (of_first, of_second) = (first.client(None), second.client(None));
    let stays: Vec<_> = (0..BUSY)
        .map(|_| std::sync::Mutex::new(respool.tls_client(&of_first)))
        .collect();
    let trust = std::sync::RwLock::new(&of_first);
    let work = |which: usize| {
        stays[which].lock().expect("one thread each").ping();
        // Newcomers, who trust the authority of the moment.
        let trust = trust.read().expect("no panic");
        respool.tls_client(&trust).ping();
    };
    let next = second.issue("respool", &["127.0.0.1", "localhost"]);
    while_busy(work, |rounds| {
        some_rounds(rounds);
        {
            let mut trust = trust.write().expect("no panic");
            respool.reload(&showing(&next));
            *trust = &of_second;
        }
        some_rounds(rounds);
        let old = Client::try_connect_tls(&respool.addr(), &of_first);
        assert!(old.is_err(), "the old one is not shown any more");
        // A key that is not the certificate's is refused, and nothing changes.
        let torn = CertificatePair {
            key: own.key.clone(),
            ..next.clone()
        };
        respool.rewrite(&showing(&torn));
        let (code, text) = respool.post_reload();
        assert!(code == 409 && text.contains("key_file"), "{code} {text}");
        some_rounds(rounds);
    });
}
