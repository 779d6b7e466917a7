//! CPU time of respool for each command, beside Redis directly, in one interleaved run (`make bench`).
//!
//! Fifty clients in a closed loop send GET and SET of 64 bytes in turn, one at a time and sixteen at a time. Each round
//! visits every cell and, in a cell, Redis directly and respool after each other; the table shows medians. Only
//! figures of one run compare. CPU time is the kernel's count for all threads of a process (Linux: `schedstat`), so
//! that it holds also where the machine is busy; throughput only ranks.

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
    reason = "the tests need more of it than the benchmark does"
)]
mod harness;

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Redis, Respool};

const ROUNDS: usize = 5;
const CLIENTS: usize = 50;
/// A client sends so many requests at once.
const PIPELINES: [usize; 2] = [1, 16];
const WARM_UP: Duration = Duration::from_millis(400);
const MEASURED: Duration = Duration::from_millis(1600);
const VALUE: usize = 64;

fn main() -> ExitCode {
    // `cargo test --benches` calls a bench without this argument: there is nothing to test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    match measure() {
        Ok(cells) => {
            print_table(&cells);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the benchmark could not be run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Holds all rounds of one pipeline depth.
struct Cell {
    pipeline: usize,
    direct: Vec<Sample>,
    through: Vec<Sample>,
}

/// Holds the figures of one measured window.
struct Sample {
    commands_per_second: f64,
    proxy_us_per_command: f64,
    redis_us_per_command: f64,
}

fn measure() -> io::Result<Vec<Cell>> {
    let redis = Redis::start_plain(&[]);
    let respool = Respool::start(&redis);
    let pids = (respool.pid(), redis.pid());
    let mut cells: Vec<Cell> = PIPELINES
        .map(|pipeline| Cell {
            pipeline,
            direct: Vec::new(),
            through: Vec::new(),
        })
        .into();
    for round in 1..=ROUNDS {
        println!("round {round} of {ROUNDS}");
        for cell in &mut cells {
            cell.direct
                .push(window(&redis.addr(), cell.pipeline, pids)?);
            cell.through
                .push(window(&respool.addr(), cell.pipeline, pids)?);
        }
    }
    Ok(cells)
}

/// Runs all clients against `address` and measures after the warm-up; `pids` are respool's and the server's.
fn window(address: &str, pipeline: usize, pids: (u32, u32)) -> io::Result<Sample> {
    let clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| connect(address))
        .collect::<io::Result<_>>()?;
    let (commands, stop, start) = (
        AtomicU64::new(0),
        AtomicBool::new(false),
        Barrier::new(CLIENTS + 1),
    );
    thread::scope(|scope| {
        let clients: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(number, stream)| {
                let (commands, stop, start) = (&commands, &stop, &start);
                scope.spawn(move || {
                    start.wait();
                    closed_loop(stream, &Turn::of(number, pipeline), commands, stop)
                })
            })
            .collect();
        start.wait();
        let edge = || {
            io::Result::Ok((
                Instant::now(),
                commands.load(Ordering::Relaxed),
                cpu(pids.0)?,
                cpu(pids.1)?,
            ))
        };
        pass(WARM_UP);
        let before = edge();
        pass(MEASURED);
        let after = edge();
        // Before any error is told: the scope waits for the clients.
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("a client does not panic")?;
        }
        let (before, after) = (before?, after?);
        let count = (after.1 - before.1) as f64;
        if count == 0.0 {
            return Err(io::Error::other("no command was answered"));
        }
        Ok(Sample {
            commands_per_second: count / (after.0 - before.0).as_secs_f64(),
            proxy_us_per_command: (after.2 - before.2).as_secs_f64() * 1e6 / count,
            redis_us_per_command: (after.3 - before.3).as_secs_f64() * 1e6 / count,
        })
    })
}

/// Holds what one client sends at once, and the replies to it.
struct Turn {
    requests: Vec<u8>,
    replies: Vec<u8>,
    commands: u64,
}

impl Turn {
    /// Makes SET and GET of the client's own key in turn, the first turn beginning with SET, so that GET always finds it.
    fn of(number: usize, pipeline: usize) -> [Self; 2] {
        let (key, value) = (format!("key:{number:08}"), "x".repeat(VALUE));
        let set = format!(
            "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${VALUE}\r\n{value}\r\n",
            key.len()
        );
        let get = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
        let steps = [
            (set, "+OK\r\n".to_owned()),
            (get, format!("${VALUE}\r\n{value}\r\n")),
        ];
        [0, 1].map(|first| {
            let turn = (0..pipeline).map(|position| &steps[(first + position) % 2]);
            Self {
                requests: turn
                    .clone()
                    .flat_map(|(request, _)| request.bytes())
                    .collect(),
                replies: turn.flat_map(|(_, reply)| reply.bytes()).collect(),
                commands: pipeline as u64,
            }
        })
    }
}

/// Sends the two turns alternately, each when the one before is answered, and checks every byte of the replies.
fn closed_loop(
    mut stream: TcpStream,
    turns: &[Turn; 2],
    commands: &AtomicU64,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut replies = vec![
        0;
        turns
            .iter()
            .map(|turn| turn.replies.len())
            .max()
            .unwrap_or(0)
    ];
    for turn in turns.iter().cycle() {
        stream.write_all(&turn.requests)?;
        let replies = &mut replies[..turn.replies.len()];
        stream.read_exact(replies)?;
        if *replies != turn.replies {
            let text = String::from_utf8_lossy(replies).into_owned();
            return Err(io::Error::other(format!(
                "a reply is not the one expected: {text:?}"
            )));
        }
        commands.fetch_add(turn.commands, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
    Ok(())
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

fn print_table(cells: &[Cell]) {
    println!(
        "\n{CLIENTS} clients, GET and SET 1:1, {VALUE} bytes; medians of {ROUNDS} interleaved rounds; direct = 1\n"
    );
    println!(
        "{:<12}{:>14}{:>14}{:>12}{:>16}{:>16}{:>14}",
        "pipeline",
        "direct, op/s",
        "respool, op/s",
        "throughput",
        "respool, µs/op",
        "redis, µs/op",
        "redis' CPU"
    );
    for cell in cells {
        let direct = |figure: fn(&Sample) -> f64| median(&cell.direct, figure);
        let through = |figure: fn(&Sample) -> f64| median(&cell.through, figure);
        let (direct_rate, rate) = (
            direct(|s| s.commands_per_second),
            through(|s| s.commands_per_second),
        );
        let (direct_redis, redis) = (
            direct(|s| s.redis_us_per_command),
            through(|s| s.redis_us_per_command),
        );
        println!(
            "{:<12}{direct_rate:>14.0}{rate:>14.0}{:>12.2}{:>16.2}{redis:>16.2}{:>14.2}",
            cell.pipeline,
            rate / direct_rate,
            through(|s| s.proxy_us_per_command),
            redis / direct_redis,
        );
    }
}

fn median(samples: &[Sample], figure: fn(&Sample) -> f64) -> f64 {
    let mut figures: Vec<f64> = samples.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[expect(
    clippy::disallowed_methods,
    reason = "a measured window is a length of time"
)]
fn pass(time: Duration) {
    thread::sleep(time);
}

/// Tells the CPU time of all threads of a process so far. A thread that ended takes its time along; neither process ends any.
fn cpu(pid: u32) -> io::Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let schedstat = fs::read_to_string(thread?.path().join("schedstat"))?;
        let on_cpu = schedstat
            .split_whitespace()
            .next()
            .and_then(|field| field.parse::<u64>().ok());
        nanoseconds += on_cpu.ok_or_else(|| io::Error::other("schedstat has another form here"))?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}
