//! The leak story in under a minute, on a real Redis that takes 64 clients (`make demo`).
//!
//! A script opens 60 connections and never closes them; then a healthy service comes with 12. Once directly, once
//! through respool with a pool of 10 and a cap of 20 for the script's group. Prints both runs as a table and fails if
//! the second is not as told. Starts everything itself, on free ports, and ends it, with the tests' own harness.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it prints a table"
)]

#[path = "../tests/harness/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the tests need more of it than the demo does"
)]
mod harness;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use harness::{Client, PeakWatch, Redis, Respool, Value, eventually_some};

const MAX_CLIENTS: usize = 64;
const LEAKS: usize = 60;
const CAP: usize = 20;
const POOL: usize = 10;
const WORKERS: usize = 12;
/// Each worker of the service sends so many pairs of SET and GET.
const ROUNDS: usize = 200;
/// Redis tells a client too many this, and respool a client over its cap.
const REJECTION: &str = "ERR max number of clients reached";

fn main() -> ExitCode {
    println!(
        "A script leaks {LEAKS} connections; a service comes with {WORKERS}; Redis takes {MAX_CLIENTS}."
    );
    let direct = run_directly();
    let (through, counts, culprit) = run_through();
    print_table(&direct, &through);
    println!("\nrespool logged: {culprit}");
    let problems = judge(&direct, &through, counts);
    if problems.is_empty() {
        println!("\nAs told: the leak stays in its own group, the service notices nothing.");
        ExitCode::SUCCESS
    } else {
        eprintln!("\nNot as told:\n  {}", problems.join("\n  "));
        ExitCode::FAILURE
    }
}

/// Holds what one run showed.
struct Run {
    leaks_served: usize,
    leaks_told: usize,
    server_peak: usize,
    workers_served: usize,
    answers: usize,
    slowest: Duration,
}

/// Holds what respool's metrics say of the leaky group.
struct Counts {
    open: usize,
    rejected: usize,
}

fn start_redis() -> Redis {
    Redis::start(&["--maxclients", &MAX_CLIENTS.to_string()])
}

fn run_directly() -> Run {
    let redis = start_redis();
    let watch = redis.watch_connections();
    serve(Leak::open(&redis.addr()), &redis.addr(), watch)
}

/// Tells, beside the run, what respool has counted, and the line of its log that says who was rejected, and by which cap.
fn run_through() -> (Run, Counts, String) {
    let redis = start_redis();
    let watch = redis.watch_connections();
    let group = format!(
        "[[group]]\nname = \"test-scripts\"\nmatch = {{ client_name = \"test-*\" }}\nmax_connections = {CAP}"
    );
    let respool = Respool::with(&redis)
        .upstream(&format!("max_connections = {POOL}\nshared_connections = 4"))
        .section(&group)
        .plain_clients()
        .start();
    let leak = Leak::open(&respool.addr());
    let rejected = r#"respool_client_connections_rejected_total{group="test-scripts"}"#;
    let counts = Counts {
        open: respool.clients_of("test-scripts"),
        rejected: respool.metric_or_zero(rejected) as usize,
    };
    let run = serve(leak, &respool.addr(), watch);
    let culprit = || {
        let text = respool.log_text();
        let mut lines = text.lines();
        let is_proof = |line: &&str| line.contains("rejected: ") && line.contains("test-scripts");
        lines.find(is_proof).map(str::to_owned)
    };
    let culprit = eventually_some(culprit, "respool's log says who was rejected");
    (run, counts, culprit)
}

/// Gives the service its turn, while the leaked connections stay open.
fn serve(mut leak: Leak, address: &str, watch: PeakWatch) -> Run {
    let work: Vec<Work> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| scope.spawn(move || work(address, number)))
            .collect();
        let done = workers.into_iter().map(thread::ScopedJoinHandle::join);
        done.map(|work| work.expect("a worker does not panic"))
            .collect()
    });
    Run {
        leaks_served: leak.still_served(),
        leaks_told: leak.told,
        server_peak: watch.most(),
        workers_served: work
            .iter()
            .filter(|work| work.answers == 2 * ROUNDS)
            .count(),
        answers: work.iter().map(|work| work.answers).sum(),
        slowest: work
            .iter()
            .map(|work| work.slowest)
            .max()
            .unwrap_or_default(),
    }
}

fn judge(direct: &Run, through: &Run, counts: Counts) -> Vec<String> {
    let told = [
        (
            direct.workers_served < WORKERS,
            "direct, the service should have been starved",
        ),
        (
            direct.leaks_served == LEAKS,
            "direct, every leaking connection should have been served",
        ),
        (
            through.leaks_served == CAP,
            "the leaky group should be held at its cap",
        ),
        (
            through.leaks_told == LEAKS - CAP,
            "everyone over the cap should be told the exact error from its first request on",
        ),
        (
            through.server_peak <= POOL,
            "the server should never hold more connections than the pool",
        ),
        (
            through.workers_served == WORKERS,
            "every worker of the service should be served",
        ),
        (
            through.answers == 2 * WORKERS * ROUNDS,
            "every command of the service should be answered rightly",
        ),
        (
            counts.open == CAP,
            "respool_client_connections of the leaky group should be its cap",
        ),
        (
            counts.rejected >= LEAKS - CAP,
            "respool_client_connections_rejected_total should count them",
        ),
    ];
    told.into_iter()
        .filter(|(held, _)| !held)
        .map(|(_, text)| text.to_owned())
        .collect()
}

fn print_table(direct: &Run, through: &Run) {
    let commands = 2 * WORKERS * ROUNDS;
    let milliseconds = |run: &Run| format!("{:.1} ms", run.slowest.as_secs_f64() * 1e3);
    let rows = [
        (
            "the script: connections opened",
            LEAKS.to_string(),
            LEAKS.to_string(),
        ),
        (
            "  served",
            direct.leaks_served.to_string(),
            through.leaks_served.to_string(),
        ),
        (
            "  told \"max number of clients reached\"",
            direct.leaks_told.to_string(),
            through.leaks_told.to_string(),
        ),
        (
            "the server: most connections",
            direct.server_peak.to_string(),
            through.server_peak.to_string(),
        ),
        (
            "the service: workers served",
            format!("{} of {WORKERS}", direct.workers_served),
            format!("{} of {WORKERS}", through.workers_served),
        ),
        (
            "  commands answered",
            format!("{} of {commands}", direct.answers),
            format!("{} of {commands}", through.answers),
        ),
        (
            "  slowest answer",
            milliseconds(direct),
            milliseconds(through),
        ),
    ];
    println!("\n{:<42}{:>16}{:>18}", "", "direct", "through respool");
    for (what, direct, through) in rows {
        println!("{what:<42}{direct:>16}{through:>18}");
    }
}

/// Holds the connections of the leaky script: opened, named, used once, never closed.
struct Leak {
    open: Vec<Client>,
    told: usize,
}

impl Leak {
    fn open(address: &str) -> Self {
        let mut leak = Self {
            open: Vec::new(),
            told: 0,
        };
        for number in 0..LEAKS {
            let Ok(mut client) = Client::try_connect(address) else {
                continue;
            };
            let name = format!("test-leak-{number}");
            // Who says who it is is arriving still; what it asks for is what its group's cap decides on.
            let greetings: [&[&str]; 2] = [&["CLIENT", "SETNAME", &name], &["PING"]];
            let greeted = greetings.map(|command| client.try_cmd(command));
            let requests: [&[&str]; 2] = [&["GET", "leak"], &["PING"]];
            let replies = requests.map(|command| client.try_cmd(command));
            let rejection = Some(Value::error(REJECTION));
            if greeted.iter().all(is_served) && replies.iter().all(|reply| *reply == rejection) {
                leak.told += 1;
            }
            leak.open.push(client);
        }
        leak
    }

    fn still_served(&mut self) -> usize {
        let clients = self.open.iter_mut();
        clients
            .map(|client| client.try_cmd(&["PING"]))
            .filter(is_served)
            .count()
    }
}

/// Tells whether there was a reply, and no error.
fn is_served(reply: &Option<Value>) -> bool {
    reply.as_ref().is_some_and(|reply| !reply.is_error())
}

/// Holds what one worker of the service got done.
#[derive(Default)]
struct Work {
    answers: usize,
    slowest: Duration,
}

/// Uses one connection of the service until its work is done or the connection ends.
fn work(address: &str, number: usize) -> Work {
    let mut work = Work::default();
    let Ok(mut client) = Client::try_connect(address) else {
        return work;
    };
    let name = format!("orders-{number}");
    if !is_served(&client.try_cmd(&["CLIENT", "SETNAME", &name])) {
        return work;
    }
    for round in 0..ROUNDS {
        let value = format!("{name}:{round}");
        let steps: [(&[&str], Value); 2] = [
            (&["SET", &name, &value], Value::ok()),
            (&["GET", &name], Value::bulk(&value)),
        ];
        for (command, expected) in steps {
            let start = Instant::now();
            match client.try_cmd(command) {
                Some(reply) if reply == expected => work.answers += 1,
                Some(_) => {}
                None => return work,
            }
            work.slowest = work.slowest.max(start.elapsed());
        }
    }
    work
}
