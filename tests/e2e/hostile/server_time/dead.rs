//! A server that answers nobody: noticed soon, whoever goes on sending; a host that is gone by bytes it never acknowledges.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Client, Redis, Respool, encode, eventually};

/// Sends a command each tenth of a second, on a new connection each time, until `done`.
fn keep_sending(respool: &Respool, done: impl Fn() -> bool) {
    let mut senders = Vec::new();
    let mut last = Instant::now();
    eventually(
        || {
            if last.elapsed() > Duration::from_millis(100) {
                last = Instant::now();
                let mut sender = respool.client();
                sender.send(encode(&["GET", "k"]));
                senders.push(sender);
            }
            done()
        },
        "the silent server is noticed while others send",
    );
}

#[test]
fn a_stopped_server_is_noticed_while_others_send() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .upstream("reply_timeout = \"2s\"")
        .start();
    let mut client = respool.client();
    client.ping();
    redis.pause();
    client.send(encode(&["GET", "k"]));
    let lost = "respool_upstream_losses_total{cause=\"timeout\"}";
    keep_sending(&respool, || respool.metric_or_zero(lost) > 0.0);
    client.expect_end();
    assert_eq!(respool.metric("respool_server_up"), 0.0);
    redis.resume();
    eventually(
        || respool.metric("respool_server_up") == 1.0,
        "the server is seen again",
    );
    respool.client().ping();
}

/// A network namespace with a server in it, reached by a pair of virtual interfaces; all gone with the value.
struct FarHost {
    name: String,
    server: Option<Child>,
    address: String,
}

fn run(words: &[&str]) -> bool {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl FarHost {
    /// Makes one, if this user may.
    fn start() -> Option<Self> {
        let number = std::process::id() % 50_000;
        let name = format!("rsp{number}");
        if !run(&["ip", "netns", "add", &name]) {
            return None;
        }
        let (third, fourth) = (number / 250, number % 250 + 1);
        let mut far = Self {
            address: format!("10.213.{third}.{fourth}:7999"),
            server: None,
            name,
        };
        let (near, behind) = (format!("{}a", far.name), format!("{}b", far.name));
        let host = far.host().to_owned();
        let gateway = format!("10.214.{third}.{fourth}");
        let inside = ["ip", "-n", far.name.as_str()];
        let made = run(&[
            "ip", "link", "add", &near, "type", "veth", "peer", "name", &behind,
        ]) && run(&["ip", "link", "set", &behind, "netns", &far.name])
            && run(&["ip", "addr", "add", &format!("{gateway}/32"), "dev", &near])
            && run(&["ip", "link", "set", &near, "up"])
            && run(&["ip", "route", "add", &host, "dev", &near, "src", &gateway])
            && run(&[
                &inside[..],
                &["addr", "add", &format!("{host}/32"), "dev", &behind],
            ]
            .concat())
            && run(&[&inside[..], &["link", "set", &behind, "up"]].concat())
            && run(&[&inside[..], &["route", "add", &gateway, "dev", &behind]].concat());
        if !made {
            return None;
        }
        let program = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
        let server = Command::new("ip")
            .args(["netns", "exec", &far.name, &program])
            .args(["--port", "7999", "--bind", &host, "--save", ""])
            .args(["--protected-mode", "no"])
            .stdout(Stdio::null())
            .spawn();
        far.server = server.ok();
        eventually(
            || {
                Client::try_connect(&far.address)
                    .is_ok_and(|mut client| client.try_cmd(&["PING"]).is_some())
            },
            "the far server answers",
        );
        Some(far)
    }

    fn host(&self) -> &str {
        self.address.split(':').next().unwrap_or_default()
    }

    /// Lets nothing leave the far host any more from here on: neither replies nor acknowledgements.
    fn die(&self) {
        let inside = ["ip", "-n", self.name.as_str()];
        let behind = format!("{}b", self.name);
        assert!(run(
            &[&inside[..], &["route", "flush", "dev", &behind]].concat()
        ));
    }
}

impl Drop for FarHost {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            // It ends with its namespace otherwise only when nobody is in it.
            let _ = server.kill();
            let _ = server.wait();
        }
        run(&["ip", "link", "del", &format!("{}a", self.name)]);
        run(&["ip", "netns", "del", &self.name]);
    }
}

#[test]
fn a_dead_host_is_noticed_by_bytes_that_nobody_acknowledges() {
    let Some(far) = FarHost::start() else {
        // This user may not make a network namespace; that the kernel is told is tested where it is.
        return;
    };
    // What is silent is given all the time in the world: the kernel alone tells.
    let respool = Respool::before(&far.address)
        .upstream("reply_timeout = \"10m\"\nhealth_interval = \"0s\"\nping_interval = \"0s\"")
        .start();
    let mut client = respool.client();
    client.ping();
    let mut lent = respool.client();
    lent.cmd(&["WATCH", "k"]);
    far.die();
    client.send(encode(&["GET", "k"]));
    lent.send(encode(&["GET", "k"]));
    let lost = "respool_upstream_losses_total{cause=\"half_open\"}";
    keep_sending(&respool, || respool.metric_or_zero(lost) >= 2.0);
    client.expect_end();
    lent.expect_end();
}
