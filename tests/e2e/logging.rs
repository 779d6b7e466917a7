//! Whoever reads the log stops reading, or goes away: nothing but the log suffers.

use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::harness::{
    PATIENCE, Redis, Respool, RespoolSettings, Value, eventually, respool_program, run_respool,
};

/// Sets a small buffer, so that it is soon full.
const SMALL: &str = "[log]\nbuffer = \"4KiB\"\n";

/// Begins settings with more than one worker: the first of them accepts.
fn settings(redis: &Redis) -> RespoolSettings {
    Respool::with(redis).top("workers = 2\ndrain_timeout = \"5s\"")
}

fn pipe() -> (PipeReader, PipeWriter) {
    std::io::pipe().expect("a pipe")
}

fn lost(respool: &Respool, reason: &str) -> f64 {
    respool.metric(&format!(
        "respool_log_lines_lost_total{{reason=\"{reason}\"}}"
    ))
}

/// Writes lines until `enough`: each configuration that is refused says so once for each of its problems.
fn log_until(respool: &Respool, broken: &RespoolSettings, enough: impl Fn() -> bool) {
    respool.rewrite(broken);
    eventually(
        || {
            assert_eq!(respool.post_reload().0, 409, "it is broken");
            enough()
        },
        "enough lines are logged",
    );
}

fn broken(redis: &Redis) -> RespoolSettings {
    let problems: String = (0..100).map(|at| format!("nonsense_{at} = 1\n")).collect();
    settings(redis).section(&format!("[log]\n{problems}"))
}

/// Checks everything that does not concern the log.
fn serves(respool: &Respool, redis: &Redis) {
    for _ in 0..20 {
        let mut client = respool.client();
        assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    }
    assert_eq!(respool.http("/livez").0, 200);
    respool.reload(&settings(redis).section(SMALL));
}

#[test]
fn a_reader_of_the_log_that_goes_away_is_not_missed() {
    let redis = Redis::start(&[]);
    let (reader, writer) = pipe();
    let respool = settings(&redis).section(SMALL).stderr(writer).start();
    drop(reader);
    log_until(&respool, &broken(&redis), || {
        lost(&respool, "failed") > 300.0
    });
    serves(&respool, &redis);
    assert_eq!(respool.metric("respool_panics_total"), 0.0);
    respool.terminate();
    assert_eq!(respool.wait().code(), Some(0));
}

#[test]
fn a_full_pipe_holds_up_nobody_and_is_told_of_later() {
    let redis = Redis::start(&[]);
    let (reader, writer) = pipe();
    let respool = settings(&redis).section(SMALL).stderr(writer).start();
    log_until(&respool, &broken(&redis), || lost(&respool, "full") > 300.0);
    serves(&respool, &redis);
    // Somebody reads again.
    let mut lines = BufReader::new(reader)
        .lines()
        .map(|line| line.expect("text"));
    let told = lines.find(|line| line.contains("lines of the log were lost"));
    assert!(told.is_some_and(|line| line.contains("lines=")));
    respool.reload(&settings(&redis).section(SMALL));
    let reloaded = lines.find(|line| line.contains("the configuration is reloaded"));
    assert!(reloaded.is_some());
}

#[test]
fn a_process_ends_whose_log_nobody_reads() {
    let redis = Redis::start(&[]);
    let (_reader, writer) = pipe();
    let respool = settings(&redis).section(SMALL).stderr(writer).start();
    log_until(&respool, &broken(&redis), || lost(&respool, "full") > 0.0);
    let mut client = respool.client();
    client.ping();
    respool.terminate();
    client.expect_end();
    assert_eq!(respool.wait().code(), Some(0));
}

/// Runs respool on a configuration with these lines; returns its exit code.
fn exit_code(
    mode: &str,
    lines: &str,
    stdout: impl Into<Stdio>,
    stderr: impl Into<Stdio>,
) -> Option<i32> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), lines).expect("a file can be written");
    let begun = Instant::now();
    let status = Command::new(respool_program())
        .args([mode, "--config"])
        .arg(file.path())
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .status()
        .expect("it runs");
    assert!(begun.elapsed() < PATIENCE, "it ends by itself");
    status.code()
}

#[test]
fn an_exit_code_does_not_depend_on_who_reads_the_words() {
    let good = "[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream]\naddress = \"127.0.0.1:1\"\n";
    let bad: String = (0..2000).map(|at| format!("nonsense_{at} = 1\n")).collect();
    for mode in ["check", "run"] {
        let (_, gone) = pipe();
        assert_eq!(
            exit_code(mode, &bad, Stdio::null(), gone),
            Some(1),
            "{mode}: nobody"
        );
        // Its problems are more than a pipe holds.
        let (_stalled, full) = pipe();
        assert_eq!(
            exit_code(mode, &bad, Stdio::null(), full),
            Some(1),
            "{mode}: stalled"
        );
    }
    let (_, gone) = pipe();
    assert_eq!(exit_code("check", good, gone, Stdio::null()), Some(0));
}

#[test]
fn what_keeps_respool_from_starting_is_seen_by_whoever_reads() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "wrokers = 2\n").expect("a file can be written");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("bound");
    let told = |lines: &str| {
        std::fs::write(file.path(), lines).expect("a file can be written");
        let (code, text) = run_respool(&["run", "--config", &file.path().display().to_string()]);
        assert_eq!(code, Some(1));
        text
    };
    assert!(told("wrokers = 2\n").contains("did you mean \"workers\"?"));
    let text = told(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream]\naddress = \"127.0.0.1:1\"\n[admin]\naddress = \"{taken}\"\n"
    ));
    assert!(text.contains("admin.address: cannot listen on"), "{text}");
}

#[test]
fn the_start_is_told_one_event_a_line() {
    let redis = Redis::start(&[]);
    let respool = settings(&redis).start();
    // The start's last line.
    respool.eventually_logs("file descriptors  ");
    let text = respool.log_text();
    for line in text.lines() {
        let level = ["INFO", "WARN", "ERROR"]
            .iter()
            .any(|level| line.contains(level));
        assert!(level, "a line of its own: {line:?}");
    }
    assert!(text.contains("listens on"));
}
