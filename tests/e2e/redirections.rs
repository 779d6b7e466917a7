//! CLIENT TRACKING REDIRECT that is moved, or ends, while invalidations are under way: each comes to whom it would come to directly.

use super::harness::{Client, Redis, Respool, Value, encode, eventually};
use crate::harness::encode_line;

/// Holds who redirects, and two to whom it does.
struct RedirectedClients {
    owner: Client,
    listeners: [Client; 2],
    ids: [String; 2],
}

impl RedirectedClients {
    fn new(connect: &dyn Fn() -> Client) -> Self {
        let mut listeners = [connect(), connect()];
        let ids = listeners.each_mut().map(|listener| {
            assert!(!listener.cmd(&["HELLO", "3"]).is_error());
            listener.id()
        });
        Self {
            owner: connect(),
            listeners,
            ids,
        }
    }

    fn line(&self, line: &str) -> Vec<u8> {
        let line = line
            .replace("ONE", &self.ids[0])
            .replace("TWO", &self.ids[1]);
        encode_line(&line)
    }

    fn ok(&mut self, line: &str) {
        let request = self.line(line);
        self.owner.send(request);
        let reply = self.owner.reply();
        assert!(!reply.is_error(), "{line}: {reply:?}");
    }

    /// Checks that the next thing that listener hears is that `k` is invalid, and the other hears nothing.
    fn only_hears(&mut self, which: usize, how: &str) {
        let heard = self.listeners[which].reply();
        assert!(
            format!("{heard:?}").contains("invalidate"),
            "{how}: {heard:?}"
        );
        self.listeners[1 - which].ping();
    }
}

#[test]
fn a_transaction_moves_a_redirection_before_what_it_changes() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    let everywhere: [&dyn Fn() -> Client; 2] = [&|| redis.client(), &|| respool.client()];
    for connect in everywhere {
        for first in ["acknowledged", "queued"] {
            let mut clients = RedirectedClients::new(connect);
            if first == "acknowledged" {
                clients.ok("CLIENT TRACKING ON REDIRECT ONE");
            }
            clients.ok("MULTI");
            if first == "queued" {
                clients.ok("CLIENT TRACKING ON REDIRECT ONE");
            }
            for line in [
                "CLIENT TRACKING ON REDIRECT TWO",
                "CLIENT GETREDIR",
                "GET k",
                "SET k 1",
                "EXEC",
            ] {
                clients.ok(line);
            }
            clients.only_hears(1, first);
            let told = clients.owner.cmd(&["CLIENT", "GETREDIR"]).int();
            assert_eq!(told.to_string(), clients.ids[1]);
        }
    }
}

/// Ends what an owner redirects to the first listener right behind what invalidates, while the server is held up.
fn ended_amid(connect: &dyn Fn() -> Client, redis: &Redis, respool: Option<&Respool>, how: &str) {
    let mut clients = RedirectedClients::new(connect);
    clients.ok("CLIENT TRACKING ON REDIRECT ONE");
    clients.ok("GET k");
    if how == "EXEC" {
        clients.ok("MULTI");
        clients.ok("CLIENT TRACKING OFF");
    }
    let mut writer = redis.client();
    writer.ping();
    let all = respool.map(|respool| respool.clients_of("default"));
    redis.pause();
    writer.send(encode(&["SET", "k", "1"]));
    match how {
        "closed" => clients.owner.finish_sending(),
        _ => {
            let request = clients.line(how);
            clients.owner.send(request);
        }
    }
    if let (Some(respool), Some(all)) = (respool, all) {
        // These are answered, and done with, before the server knows of them.
        match how {
            "RESET" => assert_eq!(clients.owner.reply(), Value::simple("RESET")),
            "QUIT" => clients.owner.read_to_end().truncate(0),
            "closed" => eventually(|| respool.clients_of("default") < all, "it has left"),
            _ => {}
        }
    }
    redis.resume();
    assert_eq!(writer.reply(), Value::ok());
    clients.only_hears(0, how);
    redis.flush();
}

#[test]
fn what_invalidates_before_a_redirection_ends_is_told() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    for how in [
        "CLIENT TRACKING ON REDIRECT TWO",
        "CLIENT TRACKING OFF",
        "CLIENT TRACKING ON",
        "EXEC",
        "RESET",
        "QUIT",
        "closed",
    ] {
        ended_amid(&|| redis.client(), &redis, None, how);
        for _ in 0..3 {
            ended_amid(&|| respool.client(), &redis, Some(&respool), how);
        }
    }
}

#[test]
fn one_request_may_invalidate_and_the_next_end_it() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    for how in [
        "CLIENT TRACKING ON REDIRECT TWO",
        "CLIENT TRACKING OFF",
        "RESET",
        "QUIT",
    ] {
        for _ in 0..4 {
            let mut clients = RedirectedClients::new(&|| respool.client());
            clients.ok("CLIENT TRACKING ON REDIRECT ONE");
            clients.ok("GET k");
            let both = [clients.line("SET k 1"), clients.line(how)].concat();
            clients.owner.send(both);
            assert_eq!(clients.owner.reply(), Value::ok());
            clients.only_hears(0, how);
        }
    }
}

#[test]
fn a_transaction_redirects_to_nobody_whom_it_has_killed() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).top("workers = 2").start();
    let told = |connect: &dyn Fn() -> Client| {
        let mut clients = RedirectedClients::new(connect);
        for line in [
            "MULTI",
            "CLIENT KILL ID ONE",
            "CLIENT TRACKING ON REDIRECT ONE",
            "CLIENT TRACKING ON REDIRECT TWO",
            "CLIENT KILL ID TWO",
            "SET k 1",
            "CLIENT TRACKING ON REDIRECT TWO",
        ] {
            clients.ok(line);
        }
        let executed = clients.owner.cmd(&["EXEC"]);
        let info = clients.owner.cmd(&["CLIENT", "TRACKINGINFO"]);
        let (executed, info) = (format!("{executed:?}"), format!("{info:?}"));
        clients.listeners.iter_mut().for_each(Client::expect_end);
        (executed, info.replace(&clients.ids[1], "two"))
    };
    let direct = told(&|| redis.client());
    assert!(direct.0.contains("does not exist"), "{direct:?}");
    assert_eq!(told(&|| respool.client()), direct);
}

#[test]
fn one_transaction_redirects_to_so_many_clients_only() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut listeners: Vec<Client> = (0..5).map(|_| respool.client()).collect();
    let ids: Vec<String> = listeners.iter_mut().map(Client::id).collect();
    let mut client = respool.client();
    let redirect =
        |client: &mut Client, id: &str| client.cmd(&["CLIENT", "TRACKING", "ON", "REDIRECT", id]);
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    for id in ids[..4].iter().chain(&ids[..4]) {
        assert_eq!(redirect(&mut client, id), Value::simple("QUEUED"));
    }
    let refused = redirect(&mut client, &ids[4]);
    assert!(refused.text().contains("too many"), "{refused:?}");
    assert!(client.cmd(&["EXEC"]).text().starts_with("EXECABORT"));
    // Outside of a transaction the one before is given up each time.
    for id in &ids {
        assert_eq!(redirect(&mut client, id), Value::ok());
    }
}
