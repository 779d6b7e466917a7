//! The leak story in under a minute, on a real Redis that takes 64 clients (`make demo`).
//!
//! A script opens 60 connections and never closes them; then a healthy service comes with 12. Once directly, once
//! through respool with a pool of 10 and a cap of 20 for the script's group. Prints both runs as a table and fails if
//! the second is not as told. Starts everything itself, on free ports, and ends it.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it prints a table"
)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const MAX_CLIENTS: usize = 64;
const LEAKS: usize = 60;
const CAP: usize = 20;
const POOL: usize = 10;
const WORKERS: usize = 12;
/// Pairs of SET and GET of each worker of the service.
const ROUNDS: usize = 200;
/// What Redis tells a client too many, and respool a client over its cap.
const REJECTION: &str = "ERR max number of clients reached";

fn main() -> ExitCode {
    match tell() {
        Ok(problems) if problems.is_empty() => {
            println!("\nAs told: the leak stays in its own group, the service notices nothing.");
            ExitCode::SUCCESS
        }
        Ok(problems) => {
            eprintln!("\nNot as told:\n  {}", problems.join("\n  "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("\nThe demo could not be run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Both runs, the table, and what was not as told.
fn tell() -> io::Result<Vec<String>> {
    let folder = tempfile::tempdir()?;
    println!(
        "A script leaks {LEAKS} connections; a service comes with {WORKERS}; Redis takes {MAX_CLIENTS}."
    );
    let direct = run_directly(folder.path())?;
    let (through, counts) = run_through(folder.path())?;
    print_table(&direct, &through);
    let mut problems = judge(&direct, &through, counts);
    match culprit(&folder.path().join("respool.log")) {
        Some(line) => println!("\nrespool logged: {line}"),
        None => problems.push("respool's log should say who was rejected".to_owned()),
    }
    Ok(problems)
}

/// What one run showed.
struct Run {
    leaks_served: usize,
    leaks_told: usize,
    server_peak: usize,
    workers_served: usize,
    answers: usize,
    slowest: Duration,
}

fn run_directly(folder: &Path) -> io::Result<Run> {
    let (_redis, port) = start_redis(folder)?;
    let watch = Watch::start(port)?;
    serve(Leak::open(port), port, watch)
}

fn run_through(folder: &Path) -> io::Result<(Run, Counts)> {
    let (_redis, server_port) = start_redis(folder)?;
    let watch = Watch::start(server_port)?;
    let respool = Respool::start(folder, server_port)?;
    let leak = Leak::open(respool.port);
    let counts = respool.counts()?;
    Ok((serve(leak, respool.port, watch)?, counts))
}

/// The service's turn, while the leaked connections stay open.
fn serve(mut leak: Leak, port: u16, watch: Watch) -> io::Result<Run> {
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| thread::spawn(move || worker(port, number)))
        .collect();
    let work: Vec<Work> = workers
        .into_iter()
        .map(|worker| worker.join().expect("a worker does not panic"))
        .collect();
    Ok(Run {
        leaks_served: leak.still_served(),
        leaks_told: leak.told,
        server_peak: watch.peak()?,
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
    })
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

/// The line of the log that says who was rejected, and by which cap. The log is written a moment later.
fn culprit(log: &Path) -> Option<String> {
    let give_up = Instant::now() + Duration::from_secs(5);
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let mut lines = text.lines();
        let is_proof = |line: &&str| line.contains("rejected: ") && line.contains("test-scripts");
        if let Some(line) = lines.find(is_proof) {
            return Some(line.to_owned());
        }
        if Instant::now() > give_up {
            return None;
        }
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// The connections of the leaky script: opened, named, used once, never closed.
struct Leak {
    open: Vec<Connection>,
    told: usize,
}

impl Leak {
    fn open(port: u16) -> Self {
        let mut leak = Self {
            open: Vec::new(),
            told: 0,
        };
        for number in 0..LEAKS {
            let Ok(mut connection) = Connection::open(port) else {
                continue;
            };
            let name = format!("test-leak-{number}");
            // Who says who it is is arriving still; what it asks for is what its group's cap decides on.
            let greetings: [&[&str]; 2] = [&["CLIENT", "SETNAME", &name], &["PING"]];
            let greeted = greetings.map(|command| connection.call(command));
            let requests: [&[&str]; 2] = [&["GET", "leak"], &["PING"]];
            let replies = requests.map(|command| connection.call(command));
            if (greeted.iter()).all(|reply| reply.as_ref().is_ok_and(Reply::is_value))
                && (replies.iter())
                    .all(|reply| matches!(reply, Ok(Reply::Error(text)) if text == REJECTION))
            {
                leak.told += 1;
            }
            leak.open.push(connection);
        }
        leak
    }

    fn still_served(&mut self) -> usize {
        self.open
            .iter_mut()
            .filter_map(|connection| connection.call(&["PING"]).ok())
            .filter(Reply::is_value)
            .count()
    }
}

/// What one worker of the service got done.
#[derive(Default)]
struct Work {
    answers: usize,
    slowest: Duration,
}

/// One connection of the service, until its work is done or the connection fails.
fn worker(port: u16, number: usize) -> Work {
    let mut work = Work::default();
    let Ok(mut connection) = Connection::open(port) else {
        return work;
    };
    let name = format!("orders-{number}");
    if !connection
        .call(&["CLIENT", "SETNAME", &name])
        .is_ok_and(|reply| reply.is_value())
    {
        return work;
    }
    for round in 0..ROUNDS {
        let value = format!("{name}:{round}");
        let steps: [(&[&str], &str); 2] =
            [(&["SET", &name, &value], "OK"), (&["GET", &name], &value)];
        for (command, expected) in steps {
            let start = Instant::now();
            match connection.call(command) {
                Ok(Reply::Value(text)) if text == expected => work.answers += 1,
                Ok(_) => {}
                Err(_) => return work,
            }
            work.slowest = work.slowest.max(start.elapsed());
        }
    }
    work
}

/// Asks the server for its clients all the time and keeps the highest number, itself not counted.
struct Watch {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<io::Result<usize>>,
}

impl Watch {
    fn start(port: u16) -> io::Result<Self> {
        let mut connection = Connection::open(port)?;
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut peak = 0;
            loop {
                if let Reply::Value(info) = connection.call(&["INFO", "clients"])? {
                    let clients = info
                        .lines()
                        .find_map(|line| line.strip_prefix("connected_clients:"));
                    let clients: usize = clients
                        .and_then(|count| count.trim().parse().ok())
                        .unwrap_or(0);
                    peak = peak.max(clients.saturating_sub(1));
                }
                if stopped.recv_timeout(Duration::from_millis(2)) != Err(RecvTimeoutError::Timeout)
                {
                    return Ok(peak);
                }
            }
        });
        Ok(Self { stop, thread })
    }

    fn peak(self) -> io::Result<usize> {
        drop(self.stop);
        self.thread.join().expect("the watch does not panic")
    }
}

fn start_redis(folder: &Path) -> io::Result<(Process, u16)> {
    let port = free_port()?;
    let mut command = Command::new("redis-server");
    command.args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--maxclients",
        &MAX_CLIENTS.to_string(),
    ]);
    command
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(folder)
        .stdout(Stdio::null());
    let process = Process::start(command, port)?;
    Ok((process, port))
}

/// respool in front of the Redis on a port.
struct Respool {
    _process: Process,
    port: u16,
    admin: u16,
}

/// What respool's metrics say of the leaky group.
struct Counts {
    open: usize,
    rejected: usize,
}

impl Respool {
    fn start(folder: &Path, server_port: u16) -> io::Result<Self> {
        let (port, admin) = (free_port()?, free_port()?);
        let config = folder.join("respool.toml");
        std::fs::write(&config, Self::config(port, admin, server_port))?;
        let log = std::fs::File::create(folder.join("respool.log"))?;
        let mut command = Command::new(Self::binary()?);
        command
            .args(["run", "--config"])
            .arg(&config)
            .stdout(log.try_clone()?)
            .stderr(log);
        match Process::start(command, port) {
            Ok(process) => Ok(Self {
                _process: process,
                port,
                admin,
            }),
            Err(error) => {
                let log = std::fs::read_to_string(folder.join("respool.log")).unwrap_or_default();
                Err(io::Error::other(format!("{error}; its log:\n{log}")))
            }
        }
    }

    fn config(port: u16, admin: u16, server_port: u16) -> String {
        format!(
            r#"
[[listener]]
address = "127.0.0.1:{port}"

[upstream]
address = "127.0.0.1:{server_port}"
max_connections = {POOL}
shared_connections = 4

[[group]]
name = "test-scripts"
match = {{ client_name = "test-*" }}
max_connections = {CAP}

[admin]
address = "127.0.0.1:{admin}"
"#
        )
    }

    /// `$RESPOOL_BIN`, or the binary built beside this example.
    fn binary() -> io::Result<PathBuf> {
        if let Some(path) = std::env::var_os("RESPOOL_BIN") {
            return Ok(path.into());
        }
        let example = std::env::current_exe()?;
        let profile = example.parent().and_then(Path::parent);
        let binary = profile
            .map(|folder| folder.join("respool"))
            .filter(|path| path.exists());
        binary.ok_or_else(|| {
            io::Error::other("respool is not built; build it or say where it is by RESPOOL_BIN")
        })
    }

    fn counts(&self) -> io::Result<Counts> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let sum = |metric: &str| {
            let lines = text
                .lines()
                .filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{'));
            let leaky = lines.filter(|line| line.contains(r#"group="test-scripts""#));
            leaky
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum::<f64>() as usize
        };
        Ok(Counts {
            open: sum("respool_client_connections"),
            rejected: sum("respool_client_connections_rejected_total"),
        })
    }
}

/// A child that ends with its owner.
struct Process(Child);

impl Process {
    /// Starts the command and waits until it listens on `port`.
    #[expect(
        clippy::disallowed_methods,
        reason = "asks again until a child listens, with a deadline"
    )]
    fn start(mut command: Command, port: u16) -> io::Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).spawn();
        let mut process =
            Self(child.map_err(|error| io::Error::other(format!("{program}: {error}")))?);
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = process.0.try_wait()? {
                return Err(io::Error::other(format!(
                    "{program} ended at once with {status}"
                )));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!(
                    "{program} does not listen on 127.0.0.1:{port}"
                )));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Neither keeps anything on disk that a hard end could harm.
        let _ended_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A free port of 127.0.0.1, as far as one can know.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A Redis client: one request, one reply.
struct Connection(BufReader<TcpStream>);

enum Reply {
    Value(String),
    Error(String),
}

impl Reply {
    fn is_value(&self) -> bool {
        matches!(self, Self::Value(_))
    }
}

impl Connection {
    fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn call(&mut self, arguments: &[&str]) -> io::Result<Reply> {
        let mut request = format!("*{}\r\n", arguments.len());
        for argument in arguments {
            request.push_str(&format!("${}\r\n{argument}\r\n", argument.len()));
        }
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        match line.split_at_checked(1) {
            Some(("-", text)) => Ok(Reply::Error(text.to_owned())),
            Some(("$", "-1")) => Ok(Reply::Value(String::new())),
            Some(("$", length)) => {
                let length: usize = length.parse().map_err(io::Error::other)?;
                let mut body = vec![0; length + 2];
                self.0.read_exact(&mut body)?;
                body.truncate(length);
                Ok(Reply::Value(String::from_utf8_lossy(&body).into_owned()))
            }
            Some((_, text)) => Ok(Reply::Value(text.to_owned())),
            None => Err(io::Error::other("an empty reply")),
        }
    }
}
