//! Lent connections stay where they are used: no worker dials what another has just closed.

use crate::harness::{Client, Pki, Redis, Respool, Value, encode, needs};

/// Says what a client does over and over, each time with a connection of its own for a while.
#[derive(Debug, Clone, Copy)]
enum Use {
    /// It is a transaction, typed.
    Multi,
    /// It is WATCH, and UNWATCH later.
    Watch,
    /// It is a request too large to be sent with those of others.
    LargeSet,
    /// It is a transaction in RESP3.
    Resp3,
}

impl Use {
    /// Does it once, in the client's own database, and counts there.
    #[track_caller]
    fn once(self, client: &mut Client) {
        match self {
            Self::Multi | Self::Resp3 => {
                assert_eq!(client.cmd(&["MULTI"]), Value::ok());
                assert_eq!(client.cmd(&["INCR", "uses"]), Value::simple("QUEUED"));
                assert_eq!(client.cmd(&["EXEC"]).items().len(), 1);
            }
            Self::Watch => {
                assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
                assert!(client.cmd(&["INCR", "uses"]).int() > 0);
                assert_eq!(client.cmd(&["UNWATCH"]), Value::ok());
            }
            Self::LargeSet => {
                let large = encode(&["SET", "large", &"x".repeat(100_000)]);
                client.send([large, encode(&["INCR", "uses"])].concat());
                assert_eq!(client.reply(), Value::ok());
                assert!(client.reply().int() > 0);
            }
        }
    }
}

/// Lets so many clients do it at once, each in one of so many databases.
#[track_caller]
fn crowd(respool: &Respool, uses: &[Use], databases: usize, clients: usize, rounds: usize) {
    std::thread::scope(|scope| {
        for number in 0..clients {
            scope.spawn(move || {
                let mut client = respool.client();
                let what = uses[number % uses.len()];
                if matches!(what, Use::Resp3) {
                    client.send(encode(&["HELLO", "3"]));
                    client.reply();
                }
                let database = (number % databases).to_string();
                assert_eq!(client.cmd(&["SELECT", &database]), Value::ok());
                for _ in 0..rounds {
                    what.once(&mut client);
                }
            });
        }
    });
}

/// Tells how often each database was counted in.
fn counted(redis: &Redis, databases: usize) -> Vec<i64> {
    let mut direct = redis.client();
    let count = |database: usize| {
        assert_eq!(direct.cmd(&["SELECT", &database.to_string()]), Value::ok());
        let text = direct.cmd(&["GET", "uses"]).text();
        text.parse().expect("it was counted")
    };
    (0..databases).map(count).collect()
}

/// Counts the connections that the server has ever taken.
fn connects(redis: &Redis) -> u64 {
    redis.info_number("total_connections_received")
}

#[test]
fn two_workers_open_each_lent_connection_once() {
    for uses in [
        &[Use::Multi][..],
        &[Use::Watch],
        &[Use::LargeSet],
        &[Use::Multi, Use::Watch, Use::LargeSet, Use::Resp3],
    ] {
        let redis = Redis::start(&[]);
        let before = connects(&redis);
        let respool = Respool::with(&redis).top("workers = 2").start();
        crowd(&respool, uses, 2, 50, 40);
        let opened = connects(&redis) - before;
        assert!(opened <= 10, "{uses:?}: {opened} connects for a pool of 10");
        assert_eq!(counted(&redis, 2), [1_000, 1_000], "{uses:?}");
    }
}

#[test]
fn one_lent_connection_serves_all_workers() {
    let redis = Redis::start(&[]);
    let before = connects(&redis);
    let respool = Respool::with(&redis)
        .top("workers = 3")
        .upstream("max_connections = 4\nshared_connections = 3\nborrow_timeout = \"60s\"")
        .start();
    let uses = [Use::Multi, Use::Resp3, Use::Watch, Use::LargeSet];
    crowd(&respool, &uses, 4, 16, 50);
    let opened = connects(&redis) - before;
    assert!(opened <= 4, "{opened} connects for a pool of 4");
    assert_eq!(counted(&redis, 4), [200; 4]);
}

#[test]
fn a_connection_with_tls_goes_from_worker_to_worker_as_it_is() {
    needs!(tls);
    let pki = Pki::new();
    let redis = Redis::start_tls(&pki, &pki.issue("redis", &["127.0.0.1"]), &[]);
    let before = connects(&redis);
    let ca = pki.ca_file().display().to_string();
    let respool = Respool::before(&redis.tls_addr())
        .top("workers = 2")
        .upstream(&format!(
            "max_connections = 3\nshared_connections = 2\nborrow_timeout = \"60s\"\n\
             tls = {{ enabled = true, ca_file = \"{ca}\" }}"
        ))
        .start();
    let uses = [Use::Multi, Use::LargeSet, Use::Watch];
    crowd(&respool, &uses, 3, 12, 50);
    let opened = connects(&redis) - before;
    assert!(opened <= 3, "{opened} connects for a pool of 3");
    assert_eq!(counted(&redis, 3), [200; 3]);
}

#[test]
fn blocked_clients_that_take_turns_change_no_connection() {
    let redis = Redis::start(&[]);
    let before = connects(&redis);
    let respool = Respool::with(&redis)
        .top("workers = 2")
        .upstream("max_connections = 4\nshared_connections = 2\nborrow_timeout = \"60s\"")
        .start();
    let mut blocked: Vec<Client> = (0..12)
        .map(|number| {
            let mut client = respool.client();
            let (from, to) = (format!("from:{number}"), format!("to:{number}"));
            client.send(encode(&["BLMOVE", &from, &to, "LEFT", "LEFT", "0"]));
            client
        })
        .collect();
    crowd(&respool, &[Use::Multi], 1, 10, 20);
    for (number, client) in blocked.iter_mut().enumerate() {
        assert_eq!(
            redis.cmd(&["RPUSH", &format!("from:{number}"), "x"]).int(),
            1
        );
        assert_eq!(client.reply(), Value::bulk("x"));
    }
    let opened = connects(&redis) - before;
    assert!(opened <= 4, "{opened} connects for a pool of 4");
}
